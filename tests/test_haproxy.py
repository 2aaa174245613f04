"""A proxy that drops idle connections, between client, worker and job server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from txgearman import GearmanClient, GearmanWorker, Job, TaskLost

from .daemons import Gearmand, Haproxy
from .test_gearmand import until

pytestmark = pytest.mark.daemon("gearmand", "haproxy")

reactor: Any = global_reactor

IDLE_TIMEOUT = 0.6


@pytest.fixture
def proxy(gearmand: Gearmand, tmp_path: Path) -> Iterator[Haproxy]:
    with Haproxy(gearmand.address, tmp_path, IDLE_TIMEOUT) as proxy:
        yield proxy


class Runs:
    """A function that takes as long as its test says, and how often it was started."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 3 * IDLE_TIMEOUT

    def __call__(self, job: Job) -> Deferred[bytes]:
        self.count += 1
        return deferLater(reactor, self.seconds, lambda: b"done")


@pytest.mark.guarantee(number=10)
async def test_long_job_ends_at_its_first_run_with_heartbeat(proxy: Haproxy) -> None:
    """Neither the worker, which is busy, nor the client, which waits, has anything else to say meanwhile."""
    runs = Runs()
    worker = GearmanWorker([proxy.address], heartbeat=IDLE_TIMEOUT / 3)
    worker.register_function("work", runs)
    async with worker, GearmanClient([proxy.address], heartbeat=IDLE_TIMEOUT / 3) as client:
        assert await client.add_task("work") == b"done"
        assert runs.count == 1


@pytest.mark.guarantee(number=7)
async def test_proxy_drops_long_job_without_heartbeat(proxy: Haproxy, gearmand: Gearmand) -> None:
    """The job is started anew each time, and its client is told that it is lost."""
    runs = Runs()
    worker = GearmanWorker([proxy.address], heartbeat=None, drain_timeout=0)
    worker.register_function("work", runs)
    async with worker, GearmanClient([gearmand.address], heartbeat=None) as direct:
        running = direct.add_task("work")
        async with GearmanClient([proxy.address], heartbeat=None) as client:
            with pytest.raises(TaskLost):
                await client.add_task("work", unique=b"-")
        await until(lambda: runs.count >= 3)
        running.cancel()
        running.addErrback(lambda _: None)
