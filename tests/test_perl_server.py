"""What only the job server in Perl does (docs/gearman.md, column perl).

`test_each_server` has the probes of all servers.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from txgearman import GearmanAdmin, GearmanClient, GearmanWorker, Task, TaskException
from txgearman.packets import (
    CAN_DO,
    CAN_DO_TIMEOUT,
    ERROR,
    GRAB_JOB,
    SUBMIT_JOB,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
)

from .contract.harness import SocketPeer
from .daemons import PerlServer
from .test_gearmand import outcome, until

pytestmark = pytest.mark.daemon("gearman-server")


@pytest.fixture
def own() -> Iterator[PerlServer]:
    """A server of the test's own."""
    with PerlServer() as server:
        yield server


@pytest.mark.guarantee(number=5)
async def test_exception_alone_leaves_the_job_running(own: PerlServer) -> None:
    """H13: of a worker that sends nothing behind it. The client has its outcome at once."""
    async with GearmanClient([own.address]) as client:
        task = Task("work")
        result = client.submit(task)
        await client.echo()
        raw = SocketPeer(own.port)
        raw.send(CAN_DO.request(b"work"))
        _, (handle, *_) = raw.ask(GRAB_JOB.request())
        raw.send(WORK_EXCEPTION.request(handle, b"why"))
        error = await outcome(result)
        assert (type(error), error.data) == (TaskException, b"why")
        assert task.handle
        status = await client.get_status(task.handle)
        assert (status.known, status.running) == (True, True)
        raw.close()


async def test_admin_reads_version_and_id_without_its_blanks(own: PerlServer) -> None:
    async with GearmanAdmin([own.address]) as admin, GearmanWorker([own.address], client_id="a b") as worker:
        worker.register_function("reverse", lambda job: job.workload[::-1])
        await until(lambda: own.admin("status") != ["."])
        assert {info.client_id: info.functions for info in (await admin.workers()).one()}[b"ab"] == (b"reverse",)
        assert (await admin.version()).one().startswith("v1.")


# On the wire.


def test_worker_is_refused_what_is_not_known(own: PerlServer) -> None:
    """docs/gearman.md §1: no chunks; §8: a result after the end."""
    client, worker = SocketPeer(own.port), SocketPeer(own.port)
    handle = client.submit(SUBMIT_JOB.request(b"f", b"", b"w"))
    worker.send(CAN_DO.request(b"f"))
    assert worker.ask(GRAB_JOB.request())[1][0] == handle
    assert worker.ask(WORK_DATA.request(handle, b"d"))[0] is ERROR
    worker.send(WORK_COMPLETE.request(handle, b"r"))
    assert worker.ask(WORK_COMPLETE.request(handle, b"r")) == (ERROR, [b"not_worker", b""])
    assert client.receive() == (WORK_COMPLETE, [handle, b"r"])
    worker.close()
    client.close()


def test_time_limit_is_in_seconds_and_fails_the_job(own: PerlServer) -> None:
    """docs/gearman.md §8."""
    client, worker = SocketPeer(own.port), SocketPeer(own.port)
    handle = client.submit(SUBMIT_JOB.request(b"f", b"", b"w"))
    worker.send(CAN_DO_TIMEOUT.request(b"f", b"0.1"))
    assert worker.ask(GRAB_JOB.request())[1][0] == handle
    assert client.receive() == (WORK_FAIL, [handle])
    worker.close()
    client.close()
