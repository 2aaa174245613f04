"""The client against a real gearmand."""

from __future__ import annotations

from txgearman import GearmanClient

from .daemons import Gearmand
from .worker import connect_worker


async def test_a_job_is_done(gearmand: Gearmand) -> None:
    worker = await connect_worker(gearmand.port, b"reverse", do=lambda job: job.complete(job.workload[::-1]))
    async with GearmanClient([gearmand.address]) as client:
        assert await client.add_task("reverse", b"abc") == b"cba"
    await worker.close()
