"""`GearmanClient.cancel_job`, and tasks with ``drop_on_cancel``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, gatherResults
from twisted.internet.task import Clock

from txgearman import (
    ClientStopped,
    GearmanAdmin,
    GearmanClient,
    JobHandle,
    NoServersAvailable,
    Priority,
    ServerError,
    Task,
    TaskFailed,
    TaskTimedOut,
)
from txgearman.client.canceller import JobCanceller
from txgearman.connection.options import DEFAULT_CONNECTION_OPTIONS
from txgearman.connection.pool import JobServer
from txgearman.connection.reactor import random_source
from txgearman.packets import JOB_CREATED, WORK_FAIL
from txgearman.testing import MemoryJobServer

from ..admin.test_protocol import ANSWERED
from ..daemons import Geard, Gearmand
from ..raw_worker import connect_worker
from ..wire import MemoryEndpoint, outcome


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # pytest-twisted has no types
async def client(gearmand: Gearmand) -> AsyncIterator[GearmanClient]:
    async with GearmanClient([gearmand.address]) as client:
        yield client


async def total(gearmand: Gearmand) -> int:
    """Return the number of jobs that would still be run."""
    async with GearmanAdmin([gearmand.address]) as admin:
        return sum(not job.ignored for job in (await admin.jobs()).one())


async def created(client: GearmanClient, **options: Any) -> tuple[Deferred[bytes], JobHandle]:
    """Submit a task, and wait until the server has created its job."""
    handle: Deferred[Any] = Deferred()
    task = client.add_task("f", on_created=lambda task: handle.callback(task.handle), **options)
    return task, await handle


# On real servers.


async def test_cancel_job_drops_job_and_fails_its_task(gearmand: Gearmand, client: GearmanClient) -> None:
    task, handle = await created(client)
    await client.cancel_job(handle)
    with pytest.raises(TaskFailed):
        await task
    assert await total(gearmand) == 0
    worker = await connect_worker(gearmand.port, b"f")
    background = await client.add_task_bg("f", b"the next", priority=Priority.HIGH)
    job = await worker.job()
    assert (job.handle, job.workload) == (background.handle, b"the next")
    await worker.close()


async def test_cancel_job_drops_hundreds_of_jobs_at_once(gearmand: Gearmand, client: GearmanClient) -> None:
    handles = await gatherResults([client.add_task_bg("f") for _ in range(500)])
    assert await total(gearmand) == 500
    await gatherResults([client.cancel_job(handle) for handle in handles])
    assert await total(gearmand) == 0


async def test_cancel_job_fails_for_unknown_job(gearmand: Gearmand, client: GearmanClient) -> None:
    with pytest.raises(ServerError) as error:
        await client.cancel_job(JobHandle(gearmand.address, b"H:nobody:1"))
    assert error.value.code == "UNKNOWN_JOB"


async def test_cancel_job_drops_queued_job_at_geard(geard: Geard) -> None:
    async with GearmanClient([geard.address]) as client:
        handle = await client.add_task_bg("f")
        await client.cancel_job(handle)
        assert not (await client.get_status(handle)).known


@pytest.mark.guarantee(number=9)
async def test_cancel_drops_job_with_drop_on_cancel(gearmand: Gearmand, client: GearmanClient) -> None:
    task, _ = await created(client, drop_on_cancel=True)
    task.cancel()
    with pytest.raises(CancelledError):
        await task
    while await total(gearmand):
        pass
    await client.drain()


@pytest.mark.guarantee(number=9)
async def test_cancel_leaves_job_queued_without_drop_on_cancel(gearmand: Gearmand, client: GearmanClient) -> None:
    task, _ = await created(client)
    task.addErrback(lambda _: None)
    task.cancel()
    await client.echo()
    assert await total(gearmand) == 1


async def test_timeout_drops_job_with_drop_on_cancel(gearmand: Gearmand, client: GearmanClient) -> None:
    task, _ = await created(client, drop_on_cancel=True, timeout=1.0)  # the server has acknowledged it by then
    with pytest.raises(TaskTimedOut):
        await task
    while await total(gearmand):
        pass


async def test_leaving_map_drops_jobs_with_drop_on_cancel(gearmand: Gearmand, client: GearmanClient) -> None:
    results = client.map("f", [b"a", b"b", b"c"], concurrency=3, drop_on_cancel=True)
    waiting = ensureDeferred(first(results))
    while await total(gearmand) < 3:
        pass
    waiting.addErrback(lambda _: None)
    waiting.cancel()
    while await total(gearmand):
        pass


async def first(results: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(results)


# In memory.


def make_none(**_: object) -> Any:
    raise AssertionError("only the canceller connects to this server")


@pytest.fixture
def server() -> MemoryJobServer:
    return MemoryJobServer()


@pytest.mark.guarantee(number=9)
def test_cancel_before_job_created_drops_job_once_created() -> None:
    """There is neither a handle nor a job yet when the task is cancelled."""
    clock = Clock()
    endpoint = MemoryEndpoint(clock)
    client = GearmanClient([endpoint], reactor=clock)
    client.startService()
    connection = endpoint.server
    for background in (False, True):
        task = client.submit(Task("f", background=background, drop_on_cancel=True))
        results = outcome(task)
        task.cancel()
        assert isinstance(results[0], CancelledError)
    assert len(endpoint.connections) == 1
    connection.send(JOB_CREATED.response(b"H:late:1"), JOB_CREATED.response(b"H:late:2"))
    assert len(endpoint.connections) == 2
    written = endpoint.server.transport.value()
    assert b"cancel job H:late:1\r\n" in written
    assert b"cancel job H:late:2\r\n" in written
    endpoint.server.send(b"OK\r\n", ANSWERED, b"OK\r\n", ANSWERED)
    connection.send(WORK_FAIL.response(b"H:late:1"))
    client.stopService()
    clock.advance(0)
    assert clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("background", [False, True])
def test_cancel_in_on_created_drops_job(server: MemoryJobServer, background: bool) -> None:
    client = server.client()
    cancelled: list[Task] = []

    def cancel(task: Task) -> None:
        cancelled.append(task)
        deferred.cancel()

    deferred = client.submit(Task("f", background=background, drop_on_cancel=True, on_created=cancel))
    server.advance()
    assert [task.ended for task in cancelled] == [True]
    assert isinstance(outcome(deferred)[0], CancelledError)
    assert server.queued("f") == []


def test_connection_is_closed_after_last_command(server: MemoryJobServer) -> None:
    client = server.client()
    handles = [server.result_of(client.add_task_bg("f")) for _ in range(3)]
    before = len(server.connections)
    dropped = [client.cancel_job(handle) for handle in handles]
    for each in dropped:
        assert server.result_of(each) is None
    assert len(server.connections) == before
    server.close()


def test_cancel_job_fails_while_server_is_down(server: MemoryJobServer) -> None:
    client = server.client()
    handle = server.result_of(client.add_task_bg("f"))
    with server.go_down(), pytest.raises(NoServersAvailable):
        server.result_of(client.cancel_job(handle))
    assert server.queued("f") == [b""]
    server.close()


@pytest.mark.guarantee(number=1)
def test_stop_fails_outstanding_commands() -> None:
    clock = Clock()
    endpoint = MemoryEndpoint(clock)
    canceller = JobCanceller(clock, DEFAULT_CONNECTION_OPTIONS, random_source(clock))
    job_server = JobServer("there", endpoint, make_none, lambda *_: None)
    results = [outcome(canceller.cancel(job_server, b"H:x:%d" % number)) for number in (1, 2)]
    stopped = outcome(canceller.stop())
    assert [type(each[0]) for each in results] == [ClientStopped, ClientStopped]
    assert stopped == []
    clock.advance(0)
    assert stopped == [None]
    assert clock.getDelayedCalls() == []
    assert outcome(canceller.stop()) == [None]


def test_stop_waits_for_two_closing_connections() -> None:
    clock = Clock()
    canceller = JobCanceller(clock, DEFAULT_CONNECTION_OPTIONS, random_source(clock))
    endpoints = [MemoryEndpoint(clock) for _ in range(2)]
    for endpoint in endpoints:
        canceller.cancel(JobServer("there", endpoint, make_none, lambda *_: None), b"H:x:1")
        endpoint.server.send(b"OK\r\n", ANSWERED)
    stopped = outcome(canceller.stop())
    assert stopped == []
    clock.advance(0)
    assert stopped == [None]


def test_cancel_job_raises_for_invalid_handle(server: MemoryJobServer) -> None:
    client = server.client()
    with pytest.raises(TypeError):
        client.cancel_job("H:x:1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="server must be one of"):
        client.cancel_job(JobHandle("elsewhere:4730", b"H:x:1"))
    with pytest.raises(ValueError, match="space"):
        client.cancel_job(JobHandle(client.servers[0].address, b"H:x 1"))
    server.result_of(client.stopService())
    with pytest.raises(ClientStopped):
        server.result_of(client.cancel_job(JobHandle(client.servers[0].address, b"H:x:1")))
    server.close()


def test_cancel_abandons_task_of_removed_server(server: MemoryJobServer) -> None:
    other = MemoryJobServer(server.clock)
    client = server.client()
    task = client.add_task("f", drop_on_cancel=True)
    server.advance()
    client.job_servers = [other.endpoint()]
    server.advance()
    results = outcome(task)
    task.cancel()
    assert isinstance(results[0], CancelledError)
    server.close()
    other.close()
