"""What fails a test at its end: each complaint, with its text, and what is not complained of."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock, LoopingCall
from twisted.logger import Logger, globalLogPublisher
from twisted.python.failure import Failure

from txgearman import (
    BatchFailed,
    ClientStopped,
    GearmanAdmin,
    GearmanClient,
    GearmanClientFactory,
    GearmanWorker,
    Job,
    Task,
    TaskException,
    TaskFailed,
    TaskTimedOut,
)
from txgearman.packets import SUBMIT_JOB
from txgearman.testing import MemoryJobServer, group, logged_errors
from txgearman.testing.logged_errors import LoggedErrors

from ..conftest import Failures

reactor: Any = global_reactor


def divide(*_: object) -> float:
    return 1 / 0


def submit_and_wait(server: MemoryJobServer) -> Deferred[None]:
    """Submit a task in a coroutine that nobody looks at."""

    async def wait(client: GearmanClient) -> None:
        await client.add_task("reverse")

    return ensureDeferred(wait(server.client()))


# Each of these would pass if nobody looked.


def nobody_takes(server: MemoryJobServer) -> None:
    server.client().add_task("reverse")


def nobody_takes_in_coroutine(server: MemoryJobServer) -> None:
    submit_and_wait(server)


def taken_and_not_ended(server: MemoryJobServer) -> None:
    server.client().add_task("reverse")
    server.take("reverse")


def taken_in_background_and_not_ended(server: MemoryJobServer) -> None:
    server.client().add_task_bg("mail")
    server.take("mail")


def failure_that_is_kept(server: MemoryJobServer) -> Deferred[bytes]:
    deferred = server.client().add_task("reverse")
    server.take("reverse").fail()
    return deferred


def failure_that_is_dropped(server: MemoryJobServer) -> None:
    server.client().add_task("reverse")
    server.take("reverse").fail()


def failure_in_coroutine(server: MemoryJobServer) -> None:
    submit_and_wait(server)
    server.take("reverse").fail()


def callback_raises(server: MemoryJobServer) -> None:
    deferred = server.client().add_task("reverse", on_data=divide)
    job = server.take("reverse")
    job.send_data(b"x")
    job.complete()
    server.result_of(deferred)


def function_raises_in_background(server: MemoryJobServer) -> None:
    server.worker().register_function("mail", divide)
    server.result_of(server.client().add_task_bg("mail"))


def timer_is_left(server: MemoryJobServer) -> None:
    server.clock.callLater(10, divide)


def loop_is_left(server: MemoryJobServer) -> None:
    loop = LoopingCall(list)
    loop.clock = server.clock
    loop.start(5)


def client_is_left(server: MemoryJobServer) -> GearmanClient:
    client = GearmanClient([server.endpoint()], reactor=server.clock)
    client.startService()
    return client


def worker_is_left(server: MemoryJobServer) -> GearmanWorker:
    worker = GearmanWorker([server.endpoint()], reactor=server.clock)
    worker.startService()
    return worker


def admin_is_left(server: MemoryJobServer) -> GearmanAdmin:
    admin = GearmanAdmin([server.endpoint()], reactor=server.clock)
    server.result_of(admin.version())
    return admin


def nobody_notices_that_it_was_down(server: MemoryJobServer) -> None:
    server.go_down().end()


def left_in_queue(server: MemoryJobServer) -> None:
    server.client().add_task_bg("mail")


def left_in_queue_with_a_time(server: MemoryJobServer) -> None:
    server.client().add_task_bg("mail", at=60)


def left_running(server: MemoryJobServer) -> None:
    server.worker().register_function("mail", lambda job: Deferred())
    server.client().add_task_bg("mail")


def never_rejected(server: MemoryJobServer) -> None:
    server.client()
    server.reject("QUEUE_ERROR")


def never_sent(server: MemoryJobServer) -> None:
    server.black_hole_connections()
    server.client().add_task("reverse")


def waits_for_retry(server: MemoryJobServer) -> None:
    server.client().add_task("reverse", retries=1)
    server.take("reverse").fail()


def logs_a_failure(server: MemoryJobServer) -> None:
    try:
        divide()
    except ZeroDivisionError:
        Logger().failure("the order was not sent")


# The same of batches.


def nobody_takes_of_batch(server: MemoryJobServer) -> None:
    server.client().add_tasks("reverse", [b"a", b"b", b"c"])


def ended_in_part(server: MemoryJobServer) -> None:
    """The first has its result, the second a data packet, which makes it a task of its own; nobody takes the others."""
    server.client().add_tasks("reverse", [b"a", b"b", b"c", b"d"])
    server.take("reverse").complete()
    server.take("reverse").send_data(b"x")


def map_that_fails(server: MemoryJobServer) -> None:
    """Before its batch ends, which is cancelled then."""

    async def collect(client: GearmanClient) -> list[bytes]:
        return [result async for result in client.map("reverse", [b"a", b"b"], concurrency=8)]

    ensureDeferred(collect(server.client()))
    server.take("reverse").fail()


def map_that_is_left(server: MemoryJobServer) -> None:
    async def collect(client: GearmanClient) -> list[bytes]:
        return [result async for result in client.map("reverse", [b"a", b"b"], concurrency=8)]

    ensureDeferred(collect(server.client()))
    server.take("reverse").complete()


def failure_of_batch_that_is_kept(server: MemoryJobServer) -> Deferred[Any]:
    deferred = server.client().add_tasks("reverse", [b"a", b"b"])
    server.take("reverse").complete()
    server.take("reverse").fail()
    return deferred


def failure_of_batch_that_is_dropped(server: MemoryJobServer) -> None:
    failure_of_batch_that_is_kept(server)


def refused_in_background(server: MemoryJobServer) -> Deferred[Any]:
    server.reject("QUEUE_ERROR")
    deferred = server.client().add_tasks_bg("mail", [b"a", b"b"])
    assert server.queued("mail") == [b"b"]
    return deferred


def batch_left_in_queue(server: MemoryJobServer) -> None:
    server.client().add_tasks_bg("mail", [b"a", b"b", b"c"])


def job_of_batch_is_taken_and_not_ended(server: MemoryJobServer) -> None:
    server.client().add_tasks_bg("mail", [b"a"])
    server.take("mail")


def function_raises_for_batch_in_background(server: MemoryJobServer) -> None:
    server.worker().register_function("mail", divide)
    server.result_of(server.client().add_tasks_bg("mail", [b"a"]))


def batch_never_sent(server: MemoryJobServer) -> None:
    server.black_hole_connections()
    server.client().add_tasks("reverse", [b"a", b"b"])


HERE = r"tests/testing/test_verification\.py:\d+"
TASK = rf"task 'reverse' \(job H:memory:1 on memory:1, submitted at {HERE}\)"
MAIL = rf"background job H:memory:1 of 'mail' on memory:1, submitted at {HERE}"

COMPLAINTS: dict[Callable[[MemoryJobServer], object], str] = {
    nobody_takes: rf"{TASK} has no outcome: its job is queued, and nobody has taken it",
    nobody_takes_in_coroutine: rf"{TASK} has no outcome: its job is queued, and nobody has taken it",
    taken_and_not_ended: rf"{TASK} has no outcome: its job was taken at {HERE}, and has not ended",
    taken_in_background_and_not_ended: rf"{MAIL} was taken at {HERE}, and has not ended",
    failure_that_is_kept: rf"{TASK} has failed, and nobody has handled it: TaskFailed: reverse .*: failed",
    failure_that_is_dropped: r"nobody has handled the error of a Deferred "
    rf"\(task 'reverse', submitted at {HERE}\): TaskFailed: reverse .*: failed",
    failure_in_coroutine: r"nobody has handled the error of a Deferred "
    rf"\(task 'reverse', submitted at {HERE}\): TaskFailed: reverse .*: failed, raised at {HERE} in wait\(\)",
    callback_raises: rf"a callback of reverse memory:1//H:memory:1 raised \(submitted at {HERE}\): "
    rf"ZeroDivisionError: division by zero, raised at {HERE} in divide\(\)",
    function_raises_in_background: rf"mail memory:1//H:memory:1 failed \(submitted at {HERE}\): "
    rf"ZeroDivisionError: division by zero, raised at {HERE} in divide\(\)",
    timer_is_left: rf"a timer is left on the clock: {__name__}.divide, due at 10 s, set at {HERE}",
    loop_is_left: rf"a timer is left on the clock: LoopingCall<5>\(list, .*\), due at 5 s, set at {HERE}",
    client_is_left: rf"GearmanClient made at {HERE} was not stopped",
    worker_is_left: rf"GearmanWorker made at {HERE} was not stopped",
    admin_is_left: rf"GearmanAdmin made at {HERE} was not stopped",
    nobody_notices_that_it_was_down: r"go_down\(\) has not happened: nothing was connected, and no connection was "
    "attempted",
    left_in_queue: rf"{MAIL} is queued, and nobody has looked at it",
    left_in_queue_with_a_time: rf"{MAIL} is queued, and due in 60 s \(at=60; the clock is at 0\), and nobody has "
    "looked at it",
    left_running: rf"{MAIL} is running in worker for 'mail' \(connection 1\), and nobody has looked at it",
    never_rejected: r"reject\('QUEUE_ERROR'\) has not happened: no such packet was received, only OPTION_REQ, "
    "GET_STATUS",
    never_sent: rf"task 'reverse' \(submitted at {HERE}\) has no outcome: it has no job; its client: memory:1 is "
    "connecting",
    waits_for_retry: rf"task 'reverse' \(submitted at {HERE}\) has no outcome: after attempt 1 it has no job; its "
    "client: memory:1 is connected, with 0 in flight",
    nobody_takes_of_batch: rf"batch of 3 jobs of 'reverse' \(submitted at {HERE}\) has no outcome for 3 of its "
    r"jobs: job H:memory:1 on memory:1 is queued, and nobody has taken it \(and 2 more like it\)",
    ended_in_part: rf"batch of 4 jobs of 'reverse' \(submitted at {HERE}\) has no outcome for 3 of its jobs: job "
    rf"H:memory:2 on memory:1 was taken at {HERE}, and has not ended; job H:memory:3 on memory:1 is queued, and nobody "
    r"has taken it \(and 1 more like it\)",
    map_that_fails: r"nobody has handled the error of a Deferred "
    rf"\(batch of 2 jobs of 'reverse', submitted at {HERE}\): TaskFailed: reverse memory:1//H:memory:1: failed, .*",
    map_that_is_left: rf"batch of 2 jobs of 'reverse' \(submitted at {HERE}\) has no outcome for 1 of its jobs: "
    r"job H:memory:2 on memory:1 is queued, and nobody has taken it",
    failure_of_batch_that_is_kept: rf"batch of 2 jobs of 'reverse' \(submitted at {HERE}\) has failed, and nobody has "
    "handled it: BatchFailed: 1 of 2 jobs failed, the first with: reverse memory:1//H:memory:2: failed",
    failure_of_batch_that_is_dropped: r"nobody has handled the error of a Deferred "
    rf"\(batch of 2 jobs of 'reverse', submitted at {HERE}\): BatchFailed: 1 of 2 jobs failed, .*",
    refused_in_background: rf"batch of 2 background jobs of 'mail' \(submitted at {HERE}\) has failed, and nobody has "
    "handled it: BatchFailed: 1 of 2 jobs failed, the first with: mail: rejected: QUEUE_ERROR",
    batch_left_in_queue: rf"{MAIL} in a batch of 3 is queued, and nobody has looked at it \(and 2 more like it\)",
    job_of_batch_is_taken_and_not_ended: rf"{MAIL} in a batch of 1 was taken at {HERE}, and has not ended",
    function_raises_for_batch_in_background: r"mail memory:1//H:memory:1 failed "
    rf"\(submitted at {HERE} in a batch of 1\): ZeroDivisionError: division by zero, raised at {HERE} in divide\(\)",
    batch_never_sent: rf"batch of 2 jobs of 'reverse' \(submitted at {HERE}\) has no outcome for 2 of its jobs: "
    "submits without an answer: 2; its client: memory:1 is connecting",
    logs_a_failure: rf"the order was not sent: ZeroDivisionError: division by zero, raised at {HERE} in divide\(\)",
}


@pytest.mark.parametrize("mistake", COMPLAINTS, ids=lambda mistake: mistake.__name__)
def test_mistake_fails_the_test_and_is_named(mistake: Any, logged_failures: Failures) -> None:
    """Whether the test ends with close(), or with a block; nothing of it is left to other tests."""
    server = MemoryJobServer()
    kept = mistake(server)
    with pytest.raises(AssertionError, match=rf"^{COMPLAINTS[mistake]}($|\n\nthe last packets of memory:1:\n)"):
        server.close()
    del kept
    logged_failures.flush(ZeroDivisionError, TaskFailed, BatchFailed, ClientStopped)
    gc.collect()
    assert logged_failures.texts() == []
    assert [call for call in server.clock.getDelayedCalls() if mistake not in (timer_is_left, loop_is_left)] == []


@pytest.mark.parametrize("mistake", COMPLAINTS, ids=lambda mistake: mistake.__name__)
def test_mistake_passes_where_nothing_is_verified(mistake: Any, logged_failures: Failures) -> None:
    server = MemoryJobServer()
    kept = mistake(server)
    server.close(verify=False)
    if isinstance(kept, (GearmanClient, GearmanWorker, GearmanAdmin)):
        kept.stopService()
        server.clock.advance(0)
    del kept
    gc.collect()
    logged_failures.flush(ZeroDivisionError, TaskFailed, BatchFailed, ClientStopped)


def test_several_mistakes_are_listed() -> None:
    server = MemoryJobServer()
    nobody_takes(server)
    never_rejected(server)
    with pytest.raises(AssertionError) as caught:
        server.close()
    first, second, third = str(caught.value).splitlines()[:3]
    assert first == "2 problems at the end of the test:"
    assert second.startswith("  - reject('QUEUE_ERROR') has not happened: ")
    assert third.startswith("  - task 'reverse' (job H:memory:1 on memory:1, ")
    assert "    1 -> SUBMIT_JOB 'reverse' '' ''" in str(caught.value)


# What is right.


def handled(server: MemoryJobServer) -> None:
    with pytest.raises(TaskFailed):
        server.result_of(failure_that_is_kept(server))


def timed_out(server: MemoryJobServer) -> None:
    deferred = server.client().add_task("reverse", timeout=5)
    server.take("reverse")
    server.advance(5)
    with pytest.raises(TaskTimedOut):
        server.result_of(deferred)


def cancelled(server: MemoryJobServer) -> None:
    deferred = server.client().add_task("reverse").addErrback(lambda _: None)
    server.take("reverse")
    deferred.cancel()


def cancelled_in_queue(server: MemoryJobServer) -> None:
    deferred = server.client().add_task("reverse").addErrback(lambda _: None)
    server.advance()
    deferred.cancel()


def looked_at_by_queued(server: MemoryJobServer) -> None:
    left_in_queue(server)
    assert server.queued("mail") == [b""]


def looked_at_by_submitted(server: MemoryJobServer) -> None:
    left_in_queue(server)
    assert [job.function for job in server.submitted] == [b"mail"]


def looked_at_by_command(server: MemoryJobServer) -> None:
    left_in_queue(server)
    assert server.command("status").startswith("mail\t1\t0\t0")


def looked_at_by_admin(server: MemoryJobServer) -> None:
    left_running(server)
    admin = admin_is_left(server)
    server.result_of(admin.status())
    server.result_of(admin.stopService())


def batch_looked_at_by_submitted(server: MemoryJobServer) -> None:
    batch_left_in_queue(server)
    assert [job.workload for job in server.submitted] == [b"a", b"b", b"c"]


def batch_handled(server: MemoryJobServer) -> None:
    with pytest.raises(BatchFailed):
        server.result_of(failure_of_batch_that_is_kept(server))


def batch_timed_out(server: MemoryJobServer) -> None:
    deferred = server.client().add_tasks("reverse", [b"a", b"b"], timeout=5)
    server.take("reverse")
    server.advance(5)
    with pytest.raises(BatchFailed):
        server.result_of(deferred)


def batch_cancelled(server: MemoryJobServer) -> None:
    deferred = server.client().add_tasks("reverse", [b"a", b"b"]).addErrback(lambda _: None)
    server.take("reverse")
    deferred.cancel()


def batch_without_jobs(server: MemoryJobServer) -> None:
    assert server.result_of(server.client().add_tasks("reverse", [])) == []


def map_that_was_left_early(server: MemoryJobServer) -> None:
    """Its jobs are cancelled."""

    async def first(client: GearmanClient) -> bytes:
        async with aclosing(client.map("reverse", [b"a", b"b", b"c"], concurrency=8)) as results:
            return await anext(results)

    outcome = ensureDeferred(first(server.client()))
    server.take("reverse").complete(b"A")
    assert server.result_of(outcome) == b"A"


def given_back(server: MemoryJobServer) -> None:
    left_in_queue(server)
    server.take("mail").abandon()


def dropped(server: MemoryJobServer) -> None:
    task = server.client().add_task("reverse")
    server.advance()
    server.command("cancel job H:memory:1")
    with pytest.raises(TaskFailed):
        server.result_of(task)


def coalesced(server: MemoryJobServer) -> None:
    """A background task that joined a foreground one is not in the queue by itself."""
    client = server.client()
    both: list[Any] = [client.add_task("reverse", unique="u"), client.add_task_bg("reverse", unique="u")]
    both[0].addErrback(lambda _: None)
    server.advance()
    both[0].cancel()


def due_at_the_end(server: MemoryJobServer) -> None:
    """What is due is done first."""
    client = server.client()
    client.add_task("reverse").addErrback(lambda _: None)
    job = server.take("reverse")
    server.clock.callLater(0, job.complete)


def stopped(server: MemoryJobServer) -> None:
    client = client_is_left(server)
    client.stopService()


def handled_by_caller(server: MemoryJobServer) -> None:
    async def order(client: GearmanClient) -> None:
        with pytest.raises(TaskFailed):
            await client.add_task("reverse")

    done = ensureDeferred(order(server.client()))
    server.take("reverse").fail()
    server.result_of(done)


def awaited_after_it_failed(server: MemoryJobServer) -> None:
    """The result of the Deferred stays a failure."""
    kept = failure_that_is_kept(server)

    async def order() -> None:
        with pytest.raises(TaskFailed):
            await kept

    server.result_of(order())
    server.client()._kept = kept  # type: ignore[attr-defined]  # as long as the client


RIGHT = [
    awaited_after_it_failed,
    handled,
    timed_out,
    cancelled,
    cancelled_in_queue,
    looked_at_by_queued,
    looked_at_by_submitted,
    looked_at_by_command,
    looked_at_by_admin,
    batch_looked_at_by_submitted,
    batch_handled,
    batch_timed_out,
    batch_cancelled,
    batch_without_jobs,
    map_that_was_left_early,
    given_back,
    dropped,
    coalesced,
    due_at_the_end,
    stopped,
    handled_by_caller,
]


@pytest.mark.parametrize("test", RIGHT, ids=lambda test: test.__name__)
def test_what_is_right_passes(test: Callable[[MemoryJobServer], None]) -> None:
    server = MemoryJobServer()
    test(server)
    server.close()
    assert server.clock.getDelayedCalls() == []


def test_background_job_that_came_after_the_look_is_complained_of() -> None:
    server = MemoryJobServer()
    left_in_queue(server)
    server.command("status")
    left_in_queue(server)
    with pytest.raises(AssertionError, match=r"^background job H:memory:2 of 'mail'"):
        server.close()


def test_logged_errors_can_be_forgiven(logged_failures: Failures) -> None:
    server = MemoryJobServer()
    function_raises_in_background(server)
    logs_a_failure(server)
    (failure, other) = server.flush_logged_errors(ZeroDivisionError, KeyError)
    assert (failure.type, other.type) == (ZeroDivisionError, ZeroDivisionError)
    assert server.flush_logged_errors() == []
    server.close()
    logged_failures.flush(ZeroDivisionError)


def test_what_was_logged_is_reported_or_forgiven_once(logged_failures: Failures) -> None:
    """Though each of several servers on clocks of their own has recorded it."""
    first, second = MemoryJobServer(), MemoryJobServer()
    logs_a_failure(first)
    assert len(first.flush_logged_errors(ZeroDivisionError)) == 1
    assert second.flush_logged_errors() == []
    logs_a_failure(first)
    with pytest.raises(AssertionError, match=r"^the order was not sent: ZeroDivisionError"):
        first.close()
    second.close()
    logged_failures.flush(ZeroDivisionError)


def test_failure_that_is_collected_later_is_not_another_tests(logged_failures: Failures) -> None:
    """As that of a test which has failed: its traceback keeps it until another one fails."""
    first = MemoryJobServer()
    kept = submit_and_wait(first)
    first.take("reverse").fail()
    first.close(verify=False)
    second = MemoryJobServer()
    del kept
    gc.collect()
    second.close()
    logged_failures.flush(TaskFailed)


def test_failure_of_job_is_complained_of_once_though_its_function_is_logged(logged_failures: Failures) -> None:
    """The worker logs what its function raised, and the client has it as the outcome of the task."""
    server = MemoryJobServer()
    server.worker().register_function("reverse", divide)
    with pytest.raises(TaskException):
        server.result_of(server.client().add_task("reverse"))
    assert len(server.flush_logged_errors(ZeroDivisionError)) == 1
    server.close()
    logged_failures.flush(ZeroDivisionError)


def test_block_closes_and_verifies() -> None:
    with pytest.raises(AssertionError, match=rf"^{TASK} has no outcome"), MemoryJobServer() as server:
        nobody_takes(server)
    assert server.connections == []


def fail_in_block(server: MemoryJobServer) -> None:
    with server:
        nobody_takes(server)
        divide()


def test_block_that_fails_is_not_verified() -> None:
    server = MemoryJobServer()
    with pytest.raises(ZeroDivisionError):
        fail_in_block(server)
    assert server.connections == []


# Several servers.


def test_closing_the_first_server_closes_and_verifies_those_made_later() -> None:
    """Whether by client(), or reached by endpoint() alone."""
    first = MemoryJobServer()
    second = MemoryJobServer(first.clock)
    client = GearmanClient([first.endpoint(), second.endpoint()], reactor=first.clock)
    first.result_of(client.add_task_bg("mail", unique="u"))
    first.result_of(client.stopService())
    full = next(server for server in (first, second) if "mail" in server.command("show jobs") or server.submitted)
    second.reject("QUEUE_ERROR")
    with pytest.raises(AssertionError, match="QUEUE_ERROR"):
        first.close()
    assert repr(full).startswith(f"<MemoryJobServer {full.name} (closed): ")
    second.close()


def test_closing_a_later_server_leaves_the_first() -> None:
    first = MemoryJobServer()
    second = MemoryJobServer(first.clock)
    nobody_takes(first)
    first.clock.callLater(5, divide)
    left = client_is_left(first)
    outcome = second.client().add_task("other")
    second.take("other").complete(b"done")
    assert second.result_of(outcome) == b"done"
    second.close()
    with pytest.raises(AssertionError, match="3 problems"):
        first.close()
    assert not left.running


# What timers raise.


def test_everything_is_closed_before_what_a_timer_raised() -> None:
    server = MemoryJobServer()
    client = server.client()
    server.clock.callLater(0, divide)
    server.clock.callLater(0, client.add_task_bg, "mail")
    with pytest.raises(ZeroDivisionError):
        server.close()
    assert (server.connections, client.running) == ([], 0)
    assert server.clock.getDelayedCalls() == []


def test_endless_loop_ends_close() -> None:
    server = MemoryJobServer()
    server.clock.max_turns = 1000

    def again() -> None:
        server.clock.callLater(0, again)

    again()
    with pytest.raises(RuntimeError, match=r"^1000 calls were run while the clock stood at 0.0 s: something calls"):
        server.close()


# On a reactor.


async def test_server_on_reactor_verifies_faults_only() -> None:
    server = MemoryJobServer(reactor)
    client = server.client()
    await client.add_task_bg("mail")
    await client.add_tasks_bg("mail", [b"a", b"b"])
    client.add_task("reverse").addErrback(lambda failure: failure.trap(ClientStopped))
    server.drop_before(SUBMIT_JOB, times=2)
    with pytest.raises(AssertionError, match=r"^drop_before\(SUBMIT_JOB\) has not happened"):
        await server.close()


async def test_hanging_worker_does_not_delay_close_on_reactor() -> None:
    server = MemoryJobServer(reactor)
    started: Deferred[Job] = Deferred()

    def hang(job: Job) -> Deferred[None]:
        started.callback(job)
        return Deferred()

    worker = server.worker(drain_timeout=3600)
    worker.register_function("hang", hang)
    await server.client().add_task_bg("hang")
    job = await started
    await server.close().addTimeout(10, reactor)
    assert job.ended


async def test_client_on_wrong_reactor_is_named() -> None:
    """It is connected, but its timers never run."""
    server = MemoryJobServer()
    client = GearmanClient([server.endpoint()], reactor=reactor)
    client.startService()
    server.advance()
    with pytest.raises(AssertionError, match=r"^a client or worker on another reactor was not stopped: it needs react"):
        server.close()
    client.stopService()


def test_tasks_are_forgotten_once_they_have_ended() -> None:
    """Nothing is kept of those that have."""
    server = MemoryJobServer()
    client = server.client()
    task = Task("reverse")
    outcome = client.submit(task)
    assert list(server._group.tasks) == [task]
    server.take("reverse").complete()
    server.result_of(outcome)
    del task, outcome
    gc.collect()
    assert list(server._group.tasks) == []
    server.close()


def test_batches_are_forgotten_once_they_have_ended() -> None:
    """Nothing is kept of those whose Deferred is not."""
    server = MemoryJobServer()
    outcome = server.client().add_tasks("reverse", [b"a"])
    assert list(server._group.batches) == [outcome]
    server.take("reverse").complete()
    server.result_of(outcome)
    del outcome
    gc.collect()
    assert list(server._group.batches) == []
    server.close()


def test_plain_clock_is_verified_as_well() -> None:
    server = MemoryJobServer(Clock())
    nobody_takes(server)
    server.clock.callLater(5, divide)
    with pytest.raises(AssertionError, match=r"- a timer is left on the clock: .*\.divide, due at 5 s\n"):
        server.close()


# What the kit itself keeps.


def test_places_of_jobs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "_MAX_PLACES", 2)
    server = MemoryJobServer()
    client = server.client()
    for _ in range(4):
        client.add_task_bg("mail")
    server.advance()
    assert [handle.handle for handle in server._group.places] == [b"H:memory:3", b"H:memory:4"]
    assert len(server.queued("mail")) == 4
    server.close()


def test_errors_of_tasks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were collected are forgotten; those that are still there are kept."""
    monkeypatch.setattr(group, "_MANY_FAILURES", 4)
    server = MemoryJobServer()
    kept = [failed_task(server) for _ in range(3)]
    for _ in range(20):
        failed_task(server)
    gc.collect()
    last = failed_task(server)
    assert len(server._group._failures) <= 9
    assert {id(error) for error in (*kept, last)} <= {number for _, number, _ in server._group._failures}
    server.close()


def failed_task(server: MemoryJobServer) -> BaseException:
    failures: list[Failure] = []
    server.client().add_task("reverse", b"abc").addErrback(failures.append)
    server.take("reverse").fail()
    assert isinstance(failures[0].value, TaskFailed)
    return failures[0].value


def test_log_is_observed_only_while_servers_are_there(logged_failures: Failures) -> None:
    """Also after one that was not closed."""
    logged = LoggedErrors()
    observer = logged_errors._OBSERVER
    others = set(observer._records)
    for other in others:
        other.stop()
    logged.start()
    assert observer in globalLogPublisher._observers
    del logged
    gc.collect()
    behind = Failures()
    globalLogPublisher.addObserver(behind)
    logs_a_failure(MemoryJobServer(reactor))
    globalLogPublisher.removeObserver(behind)
    assert len(behind.flush(ZeroDivisionError)) == 1  # no observer is passed over
    again = LoggedErrors()
    again.start()
    again.stop()
    assert observer not in globalLogPublisher._observers
    for other in others:
        other.start()
    logged_failures.flush(ZeroDivisionError)


@pytest.mark.parametrize("version", [(3, 13), (3, 14)])
@pytest.mark.parametrize("old", [False, True])
def test_error_in_coroutine_is_found_wherever_the_collector_has_it(
    version: tuple[int, int], old: bool, monkeypatch: pytest.MonkeyPatch, logged_failures: Failures
) -> None:
    """Python 3.14 has other generations, of which nothing is known."""
    monkeypatch.setattr(sys, "version_info", version)
    server = MemoryJobServer()
    deferred = submit_and_wait(server)
    server.take("reverse").fail()
    if old:
        gc.collect()
    del deferred
    with pytest.raises(AssertionError, match=r"^nobody has handled the error of a Deferred"):
        server.close()
    logged_failures.flush(TaskFailed)


def test_timer_of_a_bare_connection_is_left() -> None:
    """It belongs to no service."""
    server = MemoryJobServer()
    factory = GearmanClientFactory(server.clock)
    server.endpoint().connect(factory)
    server.clock.advance(0)
    with pytest.raises(AssertionError, match=r"a client or worker on another reactor was not stopped"):
        server.close()
