"""Client, worker and admin client at the job server in Perl (docs/gearman.md, column perl)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, gatherResults

from txgearman import (
    ClientStopped,
    GearmanAdmin,
    GearmanClient,
    GearmanWorker,
    Job,
    Priority,
    ServerError,
    ServerState,
    Task,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
    TaskTimedOut,
)
from txgearman.packets import CAN_DO, ERROR, GRAB_JOB, SUBMIT_JOB, WORK_COMPLETE, WORK_DATA, WORK_EXCEPTION

from .conftest import Failures
from .contract.harness import SocketPeer
from .daemons import PerlServer
from .test_gearmand import Events, outcome, state, until

pytestmark = pytest.mark.daemon("gearman-server")

reactor: Any = global_reactor


@pytest.fixture(scope="module")
def shared() -> Iterator[PerlServer]:
    """For tests that leave no job behind."""
    with PerlServer() as server:
        yield server


@pytest.fixture
def own() -> Iterator[PerlServer]:
    """A server of the test's own."""
    with PerlServer() as server:
        yield server


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it says nothing of its types
async def client(shared: PerlServer) -> AsyncIterator[GearmanClient]:
    async with GearmanClient([shared.address], job_check_interval=0.2) as client:
        yield client


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # as above
async def worker(shared: PerlServer) -> AsyncIterator[GearmanWorker]:
    async with GearmanWorker([shared.address], max_jobs=100, drain_timeout=0) as worker:
        yield worker


def reverse(job: Job) -> bytes:
    return job.workload[::-1]


# Jobs.


async def test_foreground_and_background_jobs_are_done(client: GearmanClient, worker: GearmanWorker) -> None:
    done: list[bytes] = []
    worker.register_function("reverse", reverse)
    worker.register_function("note", lambda job: done.append(job.workload))
    assert await client.add_task("reverse", b"a\0bc") == b"cb\0a"
    handle = await client.add_task_bg("note", b"noted")
    await until(lambda: done)
    assert done == [b"noted"]
    assert not (await client.get_status(handle)).known


async def test_status_is_relayed_and_asked_for(client: GearmanClient, worker: GearmanWorker) -> None:
    taken: list[Job] = []
    end: Deferred[bytes] = Deferred()

    def work(job: Job) -> Deferred[bytes]:
        taken.append(job)
        return end

    events = Events()
    task = Task("work", **events.options)
    result = client.submit(task)
    await client.echo()
    assert task.handle
    waiting = await client.get_status(task.handle)
    assert (waiting.known, waiting.running, waiting.progress) == (True, False, None)
    worker.register_function("work", work)
    await until(lambda: taken)
    reported = events.next("status")
    taken[0].send_status(1, 4)
    await reported
    running = await client.get_status(task.handle)
    assert (running.known, running.running, running.progress) == (True, True, 0.25)
    end.callback(b"done")
    assert await result == b"done"
    assert events.seen == [("created",), ("status", 1, 4), ("complete", b"done")]


@pytest.mark.guarantee(number=3)
async def test_failure_and_exception_reach_the_client(
    client: GearmanClient, worker: GearmanWorker, logged_failures: Failures
) -> None:
    """H13: our worker sends a failure behind the exception, which is all that ends the job there."""

    def raises(job: Job) -> None:
        raise ValueError("why")

    worker.register_function("raise", raises)
    worker.register_function("fail", lambda job: job.fail())
    worker.register_function("reverse", reverse)
    failed, raised = Task("fail"), Task("raise")
    errors = [await outcome(client.submit(task)) for task in (failed, raised)]
    assert [type(error) for error in errors] == [TaskFailed, TaskException]
    assert errors[1].data == b"ValueError: why"
    assert await client.add_task("reverse", b"abc") == b"cba"
    assert raised.handle
    assert not (await client.get_status(raised.handle)).known
    assert len(logged_failures.flush(ValueError)) == 1


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


@pytest.mark.guarantee(number=4)
async def test_tasks_of_one_unique_share_a_job(client: GearmanClient, worker: GearmanWorker) -> None:
    runs: list[bytes] = []

    def work(job: Job) -> bytes:
        runs.append(job.workload)
        job.send_status(1, 2)
        return b"done"

    seen = [Events() for _ in range(3)]
    tasks = [client.add_task("shared", b"%d" % n, unique="u", **events.options) for n, events in enumerate(seen)]
    handle = await client.add_task_bg("shared", b"bg", unique="u")
    worker.register_function("shared", work)
    assert await gatherResults(tasks) == [b"done"] * 3
    assert runs == [b"0"]
    assert [events.seen for events in seen] == [[("created",), ("status", 1, 2), ("complete", b"done")]] * 3
    assert not (await client.get_status(handle)).known


async def test_newest_high_is_first_and_low_is_rejected(client: GearmanClient, worker: GearmanWorker) -> None:
    order: list[bytes] = []
    tasks = [client.add_task("ordered", load) for load in (b"normal", b"normal 2")]
    tasks += [client.add_task("ordered", load, priority=Priority.HIGH) for load in (b"high", b"high 2")]
    low = await outcome(client.add_task("ordered", b"low", priority=Priority.LOW))
    assert (type(low), low.code) == (TaskRejected, "server_error")
    worker.register_function("ordered", lambda job: order.append(job.workload))
    await gatherResults(tasks)
    assert order == [b"high 2", b"high", b"normal", b"normal 2"]


async def test_time_for_a_job_is_rejected(client: GearmanClient) -> None:
    error = await outcome(client.add_task_bg("work", at=time.time() + 1000))
    assert (type(error), error.code) == (TaskRejected, "server_error")
    assert state(client) is ServerState.READY


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("size", [0, 1, 65_536, 8_000_000])
async def test_payload_comes_back_intact(client: GearmanClient, worker: GearmanWorker, size: int) -> None:
    worker.register_function("echo", lambda job: job.workload)
    load = bytes(range(256)) * (size // 256) or b"\0" * size
    assert await client.add_task("echo", load) == load


async def test_thousand_jobs_of_all_kinds_are_in_flight(
    client: GearmanClient, worker: GearmanWorker, logged_failures: Failures
) -> None:
    """Each has its own outcome, however they are mixed."""

    def work(job: Job) -> bytes:
        if job.workload.endswith(b"3"):
            raise ValueError(job.workload)
        if job.workload.endswith(b"7"):
            job.fail()
        return job.workload

    loads = [b"%d" % number for number in range(1000)]
    tasks = []
    for number, load in enumerate(loads):
        if number % 10 == 5:
            tasks.append(client.add_task_bg("mixed", load))
        else:
            priority = Priority.HIGH if number % 2 else Priority.NORMAL
            tasks.append(client.add_task("mixed", load, priority=priority))  # type: ignore[arg-type]
    worker.register_function("mixed", work)
    outcomes = [await outcome(task) for task in tasks]
    assert [type(outcomes[number]).__name__ for number in (3, 7, 5)] == ["TaskException", "TaskFailed", "JobHandle"]
    for end in (3, 7, 5):
        assert len({type(each) for each in outcomes[end::10]}) == 1
    kept = [number for number in range(1000) if number % 10 not in (3, 5, 7)]
    assert [outcomes[number] for number in kept] == [loads[number] for number in kept]
    logged_failures.flush(ValueError)


@pytest.mark.guarantee(number=10)
async def test_time_out_of_a_task_and_of_a_function(
    client: GearmanClient, worker: GearmanWorker, logged_failures: Failures
) -> None:
    """The server gets a function's limit, in seconds; its worker ends the job before."""
    assert type(await outcome(client.add_task("nobody", timeout=0.1))) is TaskTimedOut
    worker.register_function("slow", lambda job: Deferred(), timeout=0.2)
    error = await outcome(client.add_task("slow"))
    assert (type(error), b"TimeoutError" in error.data) == (TaskException, True)
    logged_failures.flush(Exception)


async def test_chunks_and_warnings_are_not_passed_on(client: GearmanClient, worker: GearmanWorker) -> None:
    def work(job: Job) -> bytes:
        assert job.unique == b""  # nor is the unique
        job.send_data(b"chunk")
        job.send_warning(b"warning")
        return b"done"

    worker.register_function("chunks", work)
    events = Events()
    assert await client.add_task("chunks", unique="u", **events.options) == b"done"
    assert events.seen == [("created",), ("complete", b"done")]
    assert [info.state for info in worker.servers] == [ServerState.READY]


# Requests that are not about one job.


@pytest.mark.guarantee(number=17)
async def test_what_it_does_not_know_is_refused_and_shifts_no_answer(client: GearmanClient) -> None:
    handle = await client.add_task_bg("queued")
    asked: list[Any] = []
    for _ in range(50):
        asked += [client.get_status(handle), client.get_status_unique("u"), client.echo(b"e")]
    answers = [await outcome(deferred) for deferred in asked]
    assert {status.known for status in answers[0::3]} == {True}
    assert {type(error) for error in answers[1::3]} == {ServerError}
    assert all(list(seconds) == [client.servers[0].address] for seconds in answers[2::3])


async def test_worker_with_a_prefix_gets_the_jobs_of_that_prefix(shared: PerlServer, client: GearmanClient) -> None:
    async with (
        GearmanWorker([shared.address], prefix="sandbox") as worker,
        GearmanClient([shared.address], prefix="sandbox") as inside,
    ):
        worker.register_function("reverse", reverse)
        assert await inside.add_task("reverse", b"abc") == b"cba"
        assert type(await outcome(client.add_task("reverse", timeout=0.1))) is TaskTimedOut


@pytest.mark.guarantee(number=3)
async def test_full_queue_fails_what_was_queued_before(own: PerlServer) -> None:
    """And takes the new one: the other way round than gearmand."""
    async with GearmanClient([own.address]) as client, GearmanAdmin([own.address]) as admin:
        first = client.add_task("full")
        await client.echo()
        await admin.set_max_queue("full", 1)
        second = Task("full")
        result = client.submit(second)
        assert type(await outcome(first)) is TaskFailed
        await until(lambda: second.handle)
    assert type(await outcome(result)) is ClientStopped


async def test_admin_commands(own: PerlServer) -> None:
    async with GearmanAdmin([own.address]) as admin, GearmanWorker([own.address], client_id="a b") as worker:
        worker.register_function("reverse", reverse)
        await worker.when_ready()
        await until(lambda: own.admin("status") != ["."])
        (row,) = (await admin.status()).one()
        assert (row.function, row.total, row.running, row.workers) == (b"reverse", 0, 0, 1)
        ids = {info.client_id: info.functions for info in (await admin.workers()).one()}
        assert ids[b"ab"] == (b"reverse",)
        assert (await admin.version()).one().startswith("v1.")
        for request in (admin.priority_status, admin.jobs, admin.unique_jobs, admin.pid, admin.verbosity):
            with pytest.raises(ServerError, match="unknown_command"):
                (await request()).one()


async def test_admin_shuts_it_down(own: PerlServer) -> None:
    async with GearmanAdmin([own.address]) as admin:
        (await admin.shutdown()).one()
        await until(lambda: own.exit_code() is not None)
    assert own.exit_code() == 0


# What ends.


@pytest.mark.guarantee(number=3)
async def test_death_of_a_worker_fails_its_job(own: PerlServer) -> None:
    async with GearmanClient([own.address]) as client:
        result, queued = client.add_task("work"), client.add_task("work", b"abc")
        await client.echo()
        raw = SocketPeer(own.port)
        raw.send(CAN_DO.request(b"work"))
        raw.ask(GRAB_JOB.request())
        raw.close()
        assert type(await outcome(result)) is TaskFailed
        async with GearmanWorker([own.address]) as worker:
            worker.register_function("work", reverse)
            assert await queued == b"cba"


@pytest.mark.guarantee(number=7)
async def test_restart_of_the_server(own: PerlServer) -> None:
    """A task is lost, one with retries is done, and the worker is back."""
    options: dict[str, Any] = {"reconnect_delay": lambda attempt: 0.05}
    async with GearmanClient([own.address], **options) as client, GearmanWorker([own.address], **options) as worker:
        lost, retried = client.add_task("work", b"abc"), client.add_task("work", b"abc", retries=1)
        await client.echo()
        own.stop()
        assert type(await outcome(lost)) is TaskLost
        own.start()
        worker.register_function("work", reverse)
        assert await retried == b"cba"


async def test_drained_client_has_left_its_background_jobs(own: PerlServer) -> None:
    async with GearmanClient([own.address]) as client:
        handles = [client.add_task_bg("later", b"%d" % number) for number in range(200)]
        await client.drain()
    assert len({handle.handle for handle in await gatherResults(handles)}) == 200
    assert own.admin("status") == ["later\t200\t0\t0", "."]


async def test_worker_that_drains_ends_its_jobs(own: PerlServer) -> None:
    end: Deferred[bytes] = Deferred()
    worker = GearmanWorker([own.address], drain_timeout=10.0)
    worker.register_function("work", lambda job: end)
    async with GearmanClient([own.address]) as client:
        async with worker:
            running, waiting = client.add_task("work"), client.add_task("work")
            await until(lambda: worker.servers[0].in_flight)
            stopped = worker.stopService()
            end.callback(b"done")
            await stopped
        assert await running == b"done"
        assert not waiting.called
    assert type(await outcome(waiting)) is ClientStopped


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
