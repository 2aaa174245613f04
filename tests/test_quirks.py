"""What job servers do that nobody expects (docs/what-servers-do.md), and what becomes of a client there.

On real ones: a gearmand, and a geard where it has quirks of its own. `MemoryJobServer` imitates gearmand's, so that
the tests of our users meet them, too. The numbers are those of ``docs/what-servers-do.md``, which names further tests.
"""

from __future__ import annotations

import socket
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import TimeoutError
from twisted.internet.task import Clock

from txgearman import (
    ClientStopped,
    GearmanClient,
    GearmanWorker,
    Job,
    NoServersAvailable,
    Priority,
    ProtocolError,
    ServerState,
    Task,
    TaskFailed,
    TaskLost,
    TaskTimedOut,
)
from txgearman.packets import (
    CAN_DO,
    ECHO_REQ,
    ECHO_RES,
    GET_STATUS,
    GRAB_JOB,
    JOB_CREATED,
    NOOP,
    PRE_SLEEP,
    STATUS_RES,
    SUBMIT_JOB,
    WORK_COMPLETE,
    WORK_DATA,
)
from txgearman.testing import MemoryJobServer
from txgearman.validation import MAX_HANDLE

from .contract.harness import SocketPeer
from .daemons import Geard, Gearmand
from .raw_worker import Job as TakenJob
from .raw_worker import connect_worker
from .test_geard import settled_worker
from .test_gearmand import Events, outcome, state, until
from .wire import MemoryEndpoint
from .wire import outcome as told
from .worker.harness import group_of

reactor: Any = global_reactor

QUICK: Final = 0.2
"""A ``job_check_interval`` for tests."""


class OnPort:
    """`MemoryJobServer` on a port, as one of `daemons`."""

    def __init__(self) -> None:
        self.server = MemoryJobServer(reactor)
        self.address = self.server.listen()
        self.port = int(self.address.rpartition(":")[2])

    def admin(self, line: str) -> list[str]:
        return self.server.command(line).splitlines()


@pytest_twisted.async_yield_fixture(  # type: ignore[untyped-decorator]  # says no types
    params=[pytest.param("gearmand", marks=pytest.mark.daemon("gearmand")), "memory"]
)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Gearmand | OnPort]:
    """A job server of the test's own."""
    if request.param == "gearmand":
        with Gearmand() as gearmand:
            yield gearmand
    else:
        memory = OnPort()
        yield memory
        await memory.server.close()


def repeat(job: TakenJob) -> None:
    job.complete(job.workload)


async def abandon(
    server: Gearmand | OnPort, function: str = "work", unique: str = "u", priority: Priority = Priority.NORMAL
) -> None:
    """Leave a queued job behind; when this returns, the server has noticed."""
    async with GearmanClient([server.address]) as client:
        task = client.add_task(function, b"abandoned", unique=unique, priority=priority)
        await client.echo()
    assert type(await outcome(task)) is ClientStopped
    await until(lambda: any(line.split("\t")[2:3] == ["1"] for line in server.admin("show jobs")))


def is_forgotten(error: Any) -> bool:
    return (type(error), error.forgotten, error.acknowledged) == (TaskLost, True, True)


# Jobs that the server forgets: guarantee 16.


@pytest.mark.guarantee(number=5)
async def test_h1_who_joins_an_abandoned_job_learns_that_it_is_lost(server: Gearmand | OnPort) -> None:
    await abandon(server)
    async with GearmanClient([server.address], job_check_interval=QUICK) as client:
        events = Events()
        task = client.add_task("work", b"abc", unique="u", **events.options)
        await client.echo()
        worker = await connect_worker(server.port, b"work")
        assert await worker.settled  # it got none
        error = await outcome(task)
        assert is_forgotten(error)
        assert events.seen == [("created",), ("fail", error)]
        assert (client.servers[0].in_flight, state(client)) == (0, ServerState.READY)
    await worker.close()


@pytest.mark.daemon
@pytest.mark.guarantee(number=5)
async def test_h1_a_retry_comes_through(server: Gearmand | OnPort) -> None:
    await abandon(server)
    async with GearmanClient([server.address], job_check_interval=QUICK) as client:
        task = Task("work", b"abc", unique="u", retries=1)
        result = client.submit(task)
        await client.echo()
        worker = await connect_worker(server.port, b"work", do=repeat)
        assert await result == b"abc"
        assert task.attempt == 1
    await worker.close()


@pytest.mark.guarantee(number=5)
async def test_h1_every_task_that_joined_is_lost_and_no_other(server: Gearmand | OnPort) -> None:
    await abandon(server)
    async with GearmanClient([server.address], job_check_interval=QUICK) as client:
        joined = [client.add_task("work", unique="u") for _ in range(3)]
        others = [client.add_task("work", b"%d" % number) for number in range(3)]
        await client.echo()
        worker = await connect_worker(server.port, b"work")
        jobs = [await worker.job() for _ in others]
        errors = [await outcome(task) for task in joined]
        assert all(is_forgotten(error) for error in errors)
        for job in jobs:
            job.complete(job.workload)
        assert await gatherResults(others) == [b"0", b"1", b"2"]
    await worker.close()


@pytest.mark.guarantee(number=5)
async def test_l2_a_background_task_that_joins_an_abandoned_job_can_not_know(server: Gearmand | OnPort) -> None:
    await abandon(server)
    async with GearmanClient([server.address]) as client:
        handle = await client.add_task_bg("work", unique="u")
        assert (await client.get_status(handle)).known
        worker = await connect_worker(server.port, b"work")
        assert await worker.settled
        assert not (await client.get_status(handle)).known
    await worker.close()


@pytest.mark.guarantee(number=5)
async def test_l1_a_background_job_is_lost_with_a_client_that_joined_it(server: Gearmand | OnPort) -> None:
    async with GearmanClient([server.address]) as client:
        handle = await client.add_task_bg("work", unique="u")
        await abandon(server)
        worker = await connect_worker(server.port, b"work")
        assert await worker.settled
        assert not (await client.get_status(handle)).known
    await worker.close()


def job_of(task: Task) -> str:
    """Return the handle of a task's job, for the text protocol."""
    assert task.handle is not None
    return task.handle.handle.decode()


@pytest.mark.daemon
@pytest.mark.guarantee(number=5)
async def test_h2_a_job_that_an_administrator_cancelled_is_lost_once_more_and_then_done(
    server: Gearmand | OnPort,
) -> None:
    """The first retry joins what is left of the cancelled job."""
    async with GearmanClient([server.address], job_check_interval=QUICK) as client:
        retried: list[int] = []
        task = Task("work", b"abc", unique="u", retries=2, on_retry=lambda _, attempt: retried.append(attempt))
        result = client.submit(task)
        await client.echo()
        handle = task.handle
        assert server.admin(f"cancel job {job_of(task)}") == ["OK"]
        await until(lambda: task.attempt == 1 and task.handle)
        assert task.handle == handle
        worker = await connect_worker(server.port, b"work", do=repeat)
        assert await result == b"abc"
        assert (retried, task.handle != handle) == ([1, 2], True)
    await worker.close()


@pytest.mark.guarantee(number=5)
async def test_h2_without_retries_each_failure_is_told(server: Gearmand | OnPort) -> None:
    async with GearmanClient([server.address], job_check_interval=QUICK) as client:
        task = Task("work", unique="u")
        cancelled = client.submit(task)
        await client.echo()
        server.admin(f"cancel job {job_of(task)}")
        assert type(await outcome(cancelled)) is TaskFailed
        again = client.add_task("work", unique="u")
        await client.echo()
        worker = await connect_worker(server.port, b"work")
        assert is_forgotten(await outcome(again))
    await worker.close()


@pytest.mark.guarantee(number=5)
async def test_h3_who_joined_a_running_job_whose_client_left_and_whose_worker_died(server: Gearmand | OnPort) -> None:
    dying = await connect_worker(server.port, b"work")
    async with GearmanClient([server.address]) as first:
        gone = first.add_task("work", unique="u")
        await dying.job()
    assert type(await outcome(gone)) is ClientStopped
    await until(lambda: not await_clients(server))
    async with GearmanClient([server.address], job_check_interval=QUICK) as client:
        task = client.add_task("work", unique="u")
        await client.echo()
        await dying.close()
        worker = await connect_worker(server.port, b"work")
        assert await worker.settled
        assert is_forgotten(await outcome(task))
    await worker.close()


def await_clients(server: Gearmand | OnPort) -> bool:
    """Whether the only job has a client."""
    return "0" in [line.split("\t")[2] for line in server.admin("show jobs") if line != "."]


@pytest.mark.daemon
@pytest.mark.guarantee(number=5)
async def test_h4_a_job_whose_function_was_dropped_needs_a_timeout(server: Gearmand | OnPort) -> None:
    """The server says for ever that it has it. Only the caller can know when that is long enough."""
    async with GearmanClient([server.address], job_check_interval=QUICK) as client:
        task = Task("work", timeout=5 * QUICK)
        result = client.submit(task)
        await client.echo()
        assert server.admin("drop function work") == ["OK"]
        worker = await connect_worker(server.port, b"work")
        assert await worker.settled
        assert type(await outcome(result)) is TaskTimedOut
        assert task.handle is not None
        assert (await client.get_status(task.handle)).known
    await worker.close()


@pytest.mark.guarantee(number=5)
async def test_h5_a_queued_job_that_an_administrator_cancelled_at_geard(geard: Geard) -> None:
    async with GearmanClient([geard.address], job_check_interval=QUICK) as client:
        task, other = Task("work"), Task("work", b"abc")
        cancelled, kept = client.submit(task), client.submit(other)
        await until(lambda: task.handle and other.handle)
        assert geard.admin(f"cancel job {job_of(task)}") == ["OK"]
        assert is_forgotten(await outcome(cancelled))
        worker = await settled_worker(geard, b"work", do=repeat)
        assert await kept == b"abc"
    await worker.close()


@pytest.mark.guarantee(number=5)
def test_h9_a_job_that_was_freed_in_silence_is_lost() -> None:
    """The server is played by the test, which needs no job for a time."""
    clock = Clock()
    endpoint = MemoryEndpoint(clock)
    client = GearmanClient([endpoint], reactor=clock, heartbeat=None)
    outcomes = told(client.add_task("work"))
    endpoint.server.received()
    endpoint.server.send(JOB_CREATED.response(b"H:1"))
    clock.pump([15.0] * 4)
    assert endpoint.server.received() == [(GET_STATUS, [b"H:1"])]
    assert outcomes == []
    endpoint.server.send(STATUS_RES.response(b"H:1", b"0", b"0", b"0", b"0"))
    (error,) = outcomes
    assert is_forgotten(error)
    client.stopService()
    clock.advance(0)
    assert clock.getDelayedCalls() == []


@pytest.mark.daemon("gearmand")
@pytest.mark.guarantee(number=5)
async def test_h9_a_job_that_gearmand_frees_in_silence_is_lost(gearmand: Gearmand) -> None:
    """By a worker that goes to sleep, for which an abandoned job waits behind one for a time; 2.0 needs less for it."""
    async with GearmanClient([gearmand.address], job_check_interval=QUICK) as client:
        await client.add_task_bg("other", at=time.time() + 1000)
        await abandon(gearmand, function="other", priority=Priority.LOW)
        task = client.add_task("work")
        await client.echo()
        worker = SocketPeer(gearmand.port)
        worker.send(CAN_DO.request(b"work"), CAN_DO.request(b"other"), PRE_SLEEP.request())
        assert worker.so_far() == [(NOOP, [])]
        assert is_forgotten(await outcome(task))
        worker.close()


# What a server leaves unanswered.


@pytest.mark.daemon("gearmand")
@pytest.mark.guarantee(number=5)
async def test_h6_the_longest_handle_is_asked_about_and_found() -> None:
    prefix = "P" * (MAX_HANDLE - 2)
    with Gearmand(f"--job-handle-prefix={prefix}") as server:
        async with GearmanClient([server.address], job_check_interval=QUICK, server_timeout=4 * QUICK) as client:
            task = client.add_task("work", b"abc")
            handle = await client.add_task_bg("other")
            assert len(handle.handle) == MAX_HANDLE
            end = time.monotonic() + 6 * QUICK
            await until(lambda: time.monotonic() > end)  # the sweep asks, too
            assert (await client.get_status(handle)).known
            worker = await connect_worker(server.port, b"work", do=repeat)
            assert await task == b"abc"
        await worker.close()


def test_h6_status_of_a_longer_handle_is_not_answered(gearmand: Gearmand) -> None:
    """The next answer comes in its place, or the connection is closed."""
    longest = b"x" * MAX_HANDLE
    peer = SocketPeer(gearmand.port)
    assert peer.ask(GET_STATUS.request(longest)) == (STATUS_RES, [longest, b"0", b"0", b"0", b"0"])
    peer.close()
    with socket.create_connection(("127.0.0.1", gearmand.port), 10.0) as plain:
        plain.sendall(GET_STATUS.request(longest + b"x") + ECHO_REQ.request(b"next"))
        try:
            answer = plain.recv(4096)
        except ConnectionResetError:
            answer = b""
    assert answer in {b"", ECHO_RES.response(b"next")}


def test_c5_client_that_does_not_read_does_not_slow_the_worker(gearmand: Gearmand) -> None:
    """gearmand holds all that the worker sends, more than the buffers of sockets do."""
    client, worker = SocketPeer(gearmand.port), SocketPeer(gearmand.port)
    handle = client.submit(SUBMIT_JOB.request(b"f", b"", b""))
    worker.send(CAN_DO.request(b"f"))
    assert worker.ask(GRAB_JOB.request())[1][0] == handle
    chunks = [b"%d" % number * 1_000_000 for number in range(10)] * 3
    for chunk in chunks:
        worker.send(WORK_DATA.request(handle, chunk))
    worker.send(WORK_COMPLETE.request(handle, b""))
    assert worker.so_far() == []
    assert [client.receive() for _ in chunks] == [(WORK_DATA, [handle, chunk]) for chunk in chunks]
    assert client.receive() == (WORK_COMPLETE, [handle, b""])
    client.close()
    worker.close()


@pytest.mark.gearmand("1.1")
@pytest.mark.daemon
@pytest.mark.guarantee(number=5)
async def test_h8_a_low_job_behind_one_for_a_time_is_done_in_the_end(server: Gearmand | OnPort) -> None:
    begun: list[bytes] = []

    def work(job: Job) -> bytes:
        begun.append(job.workload)
        return job.workload

    worker = GearmanWorker([server.address], poll_interval=QUICK)
    async with GearmanClient([server.address]) as client:
        await client.add_task_bg("work", b"timed", at=time.time() + 1.0)
        low = client.add_task("work", b"low", priority=Priority.LOW)
        await client.echo()
        worker.register_function("work", work)
        async with worker:
            assert await low == b"low"
            assert begun == [b"timed", b"low"]


@pytest.mark.daemon("gearmand")
@pytest.mark.guarantee(number=5)
async def test_h12_a_server_that_is_out_of_descriptors_is_given_up_and_tried_again() -> None:
    """The kernel makes the connection, and nobody takes it."""
    with ExitStack() as stack:
        server = stack.enter_context(Gearmand("--file-descriptors=64"))
        with ExitStack() as others:
            for _ in range(45):  # it takes less than thirty, and as many again wait at its door
                others.enter_context(socket.create_connection(("127.0.0.1", server.port), 5.0))
            client = GearmanClient([server.address], connect_timeout=1.0)
            error = await outcome(client.add_task("work"))
            assert (type(error), type(error.reasons[server.address])) == (NoServersAvailable, TimeoutError)
        await until(lambda: state(client) is ServerState.READY)
        assert await client.add_task_bg("work")
        await client.stopService()


@pytest.mark.daemon("gearmand")
@pytest.mark.guarantee(number=5)
async def test_h14_worker_without_free_slot_takes_the_only_wakeup() -> None:
    """It runs the job as soon as it has a slot; the other one, which sleeps, would do so at its next poll."""
    gate: Deferred[bytes] = Deferred()
    by: list[str] = []
    server = OnPort()
    with Gearmand("--worker-wakeup=1") as gearmand:
        full = GearmanWorker([gearmand.address, server.address], max_jobs=1)
        full.register_function("other", lambda job: gate)
        full.register_function("work", lambda job: by.append("full"))
        idle = GearmanWorker([gearmand.address])
        idle.register_function("work", lambda job: by.append("idle"))
        async with full, GearmanClient([gearmand.address]) as client, GearmanClient([server.address]) as busy:
            await until(lambda: asleep(full) == 2)
            async with idle:
                await until(lambda: asleep(idle) == 1)
                occupying = busy.add_task("other")
                await until(lambda: sum(info.in_flight for info in full.servers))
                done = client.add_task("work")
                await until(lambda: asleep(full) == 0)  # it was woken
                await client.echo()
                assert (asleep(idle), done.called) == (1, False)
                gate.callback(b"")
                await gatherResults([occupying, done])
    await server.server.close()
    assert by == ["full"]


def asleep(worker: GearmanWorker) -> int:
    """At how many servers a worker sleeps."""
    return sum(state.connection.asleep for state in group_of(worker).states.values())


# What comes twice.


@pytest.mark.guarantee(number=5)
async def test_d4_a_job_whose_worker_dies_tells_its_parts_again_and_ends_once(server: Gearmand | OnPort) -> None:
    def half(job: TakenJob) -> None:
        job.status(1, 2)
        job.data(b"half")

    dying = await connect_worker(server.port, b"work", do=half)
    async with GearmanClient([server.address]) as client:
        events = Events()
        came = events.next("data")
        task = client.add_task("work", **events.options)
        await came
        await dying.close()
        worker = await connect_worker(server.port, b"work")
        job = await worker.job()
        half(job)
        job.complete(b"whole")
        assert await task == b"whole"
        parts = [("status", 1, 2), ("data", b"half")]
        assert events.seen == [("created",), *parts, *parts, ("complete", b"whole")]
    await worker.close()


# Jobs that are lost on the way.


@pytest.mark.guarantee(number=5)
async def test_l5_background_jobs_at_geard_are_there_once_the_client_was_drained(geard: Geard) -> None:
    """What was written just before the connection is closed, geard does not read."""
    async with GearmanClient([geard.address]) as client:
        handles = [client.add_task_bg("work", b"%d" % number) for number in range(1000)]
        await client.drain()
    assert len({handle.handle for handle in await gatherResults(handles)}) == 1000
    assert geard.admin("status")[0] == "work\t1000\t0\t0"


@pytest.mark.daemon("gearmand")
@pytest.mark.guarantee(number=5)
async def test_l6_gearmand_does_not_start_with_a_stored_job_without_workload(tmp_path: Path) -> None:
    """An empty workload is stored as NULL, which it does not read back. Once the row is gone, it starts."""
    path = tmp_path / "queue"
    with Gearmand("--queue-type=libsqlite3", f"--libsqlite3-db={path}") as server:
        async with GearmanClient([server.address]) as client:
            await client.add_task_bg("f", b"w", unique="kept")
            await client.add_task_bg("f", unique="empty")
        server.stop()
        with suppress(AssertionError):  # it listens before it reads the queue, or ends too soon for that
            server.start()
        await until(lambda: server.exit_code() is not None)
        assert server.exit_code() == 1
        server.stop()
        with closing(sqlite3.connect(path)) as queue, queue:
            assert queue.execute("DELETE FROM gearman_queue WHERE data IS NULL").rowcount == 1
        server.start()
        assert server.admin("status") == ["f\t1\t0\t0", "."]


# Whose is it?


@pytest.mark.guarantee(number=5)
async def test_m4_an_old_handle_may_name_another_job_after_a_restart(gearmand: Gearmand) -> None:
    """Nothing tells them apart. The tasks of before are lost, and nothing that comes later is for them."""
    async with GearmanClient([gearmand.address]) as client:
        before = Task("work", b"before")
        lost = client.submit(before)
        await client.echo()
        gearmand.stop()
        assert type(await outcome(lost)) is TaskLost
        gearmand.start()
        await until(lambda: state(client) is ServerState.READY)
        after = Task("work", b"after")
        result = client.submit(after)
        await client.echo()
        assert before.handle is not None
        assert before.handle == after.handle
        assert (await client.get_status(before.handle)).known
        worker = await connect_worker(gearmand.port, b"work", do=repeat)
        assert await result == b"after"
    await worker.close()


@pytest.mark.daemon("gearmand")
@pytest.mark.guarantee(number=5)
async def test_h10_two_jobs_with_one_handle_end_the_connection() -> None:
    """gearmand would send the result of one to the task of the other (M5)."""
    with Gearmand("--job-handle-prefix=" + "P" * 62) as server:
        worker = await connect_worker(server.port, b"work")
        async with GearmanClient([server.address]) as client:
            tasks = [client.add_task("work", b"%d" % number) for number in range(2)]
            errors = [await outcome(task) for task in tasks]
            assert {(type(error), type(error.__cause__)) for error in errors} == {(TaskLost, ProtocolError)}
            assert type(client.servers[0].last_error) is ProtocolError
        await worker.close()


@pytest.mark.daemon("gearmand")
@pytest.mark.guarantee(number=5)
async def test_h10_one_job_at_a_time_is_done_right() -> None:
    with Gearmand("--job-handle-prefix=" + "P" * 62) as server:
        worker = await connect_worker(server.port, b"work", do=repeat)
        async with GearmanClient([server.address], max_in_flight=1) as client:
            loads = [b"%d" % number for number in range(20)]
            assert await gatherResults([client.add_task("work", load) for load in loads]) == loads
        await worker.close()
