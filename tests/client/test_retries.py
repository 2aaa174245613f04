"""Failed tasks that are submitted again: `retries`, and the delay before each (guarantee 7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from txgearman import (
    ClientStopped,
    NoServersAvailable,
    Retry,
    ServerState,
    Task,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
    TaskTimedOut,
)
from txgearman.client.protocol import GearmanClientProtocol
from txgearman.connection.pool import JobServer
from txgearman.packets import SUBMIT_JOB, SUBMIT_JOB_BG
from txgearman.retry import MAX_DELAY
from txgearman.testing import Fault, MemoryJobServer

from ..client_harness import (
    LONGEST_BACK_OFF,
    NOTHING,
    ClientHarness,
    Events,
    complete_all,
    ignore_errors,
    names,
    outcome,
    outcomes,
    recording,
)


@contextmanager
def writes() -> Iterator[list[Task]]:
    """Collect each task whenever it is written to a server."""
    written: list[Task] = []
    send_task = GearmanClientProtocol._send_task

    def send_and_note(connection: GearmanClientProtocol, task: Task) -> None:
        if not connection.writing_paused:
            written.append(task)
        send_task(connection, task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GearmanClientProtocol, "_send_task", send_and_note)
        yield written


@contextmanager
def monitored_failures(failures: list[str]) -> Iterator[None]:
    """Collect the server of each attempt to connect that fails."""
    connection_down = JobServer.connection_down

    def fail_and_note(server: JobServer[Any], factory: Any, error: Exception) -> None:
        failures.append(server.address)
        connection_down(server, factory, error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JobServer, "connection_down", fail_and_note)
        yield


# Guarantee 10: the time-out of a task runs in any state.


@pytest.mark.guarantee(number=10)
def test_timeout_covers_all_attempts() -> None:
    harness = ClientHarness()
    events: Events = []
    task = harness.client.add_task("work", timeout=2.5, retries=100, **recording(events))
    for delay in (0.5, 1.0):
        harness.server.take("work").fail()
        harness.advance(delay)
    harness.advance(1)
    assert type(outcome(task)) is TaskTimedOut
    assert names(events) == ["created", "retry", "created", "retry", "created", "fail"]
    harness.stop()


# Guarantee 7: retries.


def lose(harness: ClientHarness) -> None:
    harness.advance()
    harness.server.drop_connections()


def fail(harness: ClientHarness) -> None:
    harness.server.take("work").fail()


def raise_exception(harness: ClientHarness) -> None:
    harness.server.take("work").send_exception(b"x")


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize("retries", [1, 3])
@pytest.mark.parametrize(
    ("go_wrong", "kind"),
    [
        (lose, TaskLost),
        (fail, TaskFailed),
        (raise_exception, TaskException),
    ],
)
def test_failed_task_is_resubmitted_up_to_retries(
    go_wrong: Callable[[ClientHarness], None], kind: type[Exception], retries: int
) -> None:
    harness = ClientHarness(server_wait=100.0).start()
    events: Events = []
    with writes() as written:
        task = harness.client.add_task("work", b"x", retries=retries, **recording(events))
        for attempt in range(retries):
            go_wrong(harness)
            assert outcome(task) is NOTHING
            assert events[-1] == ("retry", attempt + 1)
            harness.advance(60)
        go_wrong(harness)
        error = outcome(task)
        assert type(error) is kind
        assert events[-1] == ("fail", error)
        assert [arguments for event, *arguments in events if event == "retry"] == [
            [number + 1] for number in range(retries)
        ]
        harness.advance(120)
    assert (len(written), names(events).count("fail")) == (retries + 1, 1)
    harness.stop()


def loses_tasks(harness: ClientHarness, times: int) -> None:
    harness.server.drop_after(SUBMIT_JOB, times=times)


def has_full_queue(harness: ClientHarness, times: int) -> None:
    harness.server.reject("QUEUE_ERROR", "Job queue is full", times=times)


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize(("server", "kind"), [(loses_tasks, TaskLost), (has_full_queue, TaskRejected)])
@pytest.mark.parametrize("retries", [0, 2])
def test_unacknowledged_task_is_resubmitted_up_to_retries(
    server: Callable[[ClientHarness, int], None], kind: type[Exception], retries: int
) -> None:
    harness = ClientHarness(server_wait=100.0).start()
    server(harness, retries + 1)
    events: Events = []
    with writes() as written:
        task = harness.client.add_task("work", retries=retries, **recording(events))
        harness.advance(120)
    error = outcome(task)
    assert type(error) is kind
    assert events == [*(("retry", number + 1) for number in range(retries)), ("fail", error)]
    assert len(written) == retries + 1
    harness.stop()


@pytest.mark.guarantee(number=7)
def test_rejected_task_is_not_resubmitted() -> None:
    harness = ClientHarness().start()
    harness.server.reject("ARGUMENT_TOO_LARGE")
    task = harness.client.add_task("work", retries=5)
    harness.advance()
    assert type(outcome(task)) is TaskRejected
    harness.stop()


@pytest.mark.guarantee(number=7)
def test_task_of_forgotten_job_is_resubmitted() -> None:
    harness = ClientHarness(job_check_interval=10.0)
    events: Events = []
    task = harness.client.add_task("work", retries=1, **recording(events))
    harness.advance()
    harness.server._core.jobs = type(harness.server._core.jobs)(harness.clock.seconds, 0, b"H:new")
    harness.advance(16)
    assert events == [("created",), ("retry", 1), ("created",)]
    harness.server.take("work").complete(b"done")
    assert outcome(task) == b"done"
    harness.stop()


@pytest.mark.guarantee(number=2)
def test_events_of_retried_task_come_in_order() -> None:
    harness = ClientHarness()
    events: Events = []
    handles: list[Any] = []
    options = recording(events)

    def on_retry(task: Task, attempt: int) -> None:
        handles.append(task.handle)
        events.append(("retry", attempt))

    task = harness.client.add_task("work", retries=1, **{**options, "on_retry": on_retry})
    task.addCallback(lambda _: events.append(("fired",)))
    job = harness.server.take("work")
    job.send_data(b"half")
    job.send_exception(b"x")
    assert handles == [None]
    harness.advance(0.5)
    harness.server.take("work").complete(b"done")
    assert events == [
        ("created",),
        ("data", b"half"),
        ("exception", b"x"),
        ("retry", 1),
        ("created",),
        ("complete", b"done"),
        ("fired",),
    ]
    harness.stop()


@pytest.mark.guarantee(number=7)
def test_task_is_resubmitted_after_retry_delay() -> None:
    harness = ClientHarness()
    ignore_errors(harness.client.add_task("work", retries=8))
    for delay in (0.5, 1, 2, 4, 8, 16, 30, 30):
        harness.server.take("work").fail()
        harness.advance(delay / 2 - 0.01)
        assert harness.server.queued("work") == []
        harness.advance(delay / 2 + 0.02)
        assert len(harness.server.queued("work")) == 1
    harness.stop()


@pytest.mark.guarantee(number=7)
def test_tasks_of_one_dead_server_return_at_different_times() -> None:
    harness = ClientHarness(2).start()
    written: list[float] = []
    for number in range(200):
        ignore_errors(harness.client.add_task("work", b"%d" % number, retries=1))
    harness.advance()
    harness.server.go_down()
    other = harness.servers[1]
    before = len(other.queued("work"))
    for _ in range(50):
        harness.advance(0.01)
        queued = len(other.queued("work"))
        written += [harness.clock.seconds()] * (queued - before)
        before = queued
    assert len(written) == 100
    assert min(written) >= 0.25
    assert max(Counter(written).values()) < 15
    harness.stop()


@pytest.mark.guarantee(number=7)
def test_retry_says_when_and_after_what() -> None:
    harness = ClientHarness()
    asked: list[Exception] = []

    def when(error: Exception) -> bool:
        asked.append(error)
        return isinstance(error, TaskException)

    events: Events = []
    retry = Retry(5, wait=lambda attempt: 10.0 * attempt, when=when)
    task = harness.client.add_task("work", retry=retry, **recording(events))
    for seconds in (10.0, 20.0):
        harness.server.take("work").send_exception(b"x")
        harness.advance(seconds - 0.01)
        assert harness.server.queued("work") == []
        harness.advance(0.02)
    harness.server.take("work").fail()
    assert type(outcome(task)) is TaskFailed
    assert [type(error) for error in asked] == [TaskException, TaskException, TaskFailed]
    assert [arguments for name, *arguments in events if name == "retry"] == [[1], [2]]
    harness.stop()


@pytest.mark.guarantee(number=7)
def test_retry_may_resubmit_what_was_rejected_but_no_timeout() -> None:
    harness = ClientHarness().start()
    harness.server.reject("ARGUMENT_TOO_LARGE")
    task = harness.client.add_task("work", retry=Retry(2, when=lambda error: True), timeout=5.0)
    harness.advance(1)
    assert harness.server.queued("work") == [b""]
    harness.advance(5)
    assert type(outcome(task)) is TaskTimedOut
    harness.stop()


@pytest.mark.guarantee(number=13)
def test_when_of_retry_may_cancel_the_task() -> None:
    harness = ClientHarness()
    tasks: list[Deferred[bytes]] = []

    def when(error: Exception) -> bool:
        tasks[0].cancel()
        return True

    events: Events = []
    tasks.append(harness.client.add_task("work", retry=Retry(2, when=when), **recording(events)))
    harness.server.take("work").fail()
    assert type(outcome(tasks[0])) is CancelledError
    assert names(events) == ["created", "fail"]
    harness.stop()


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("restart", [False, True])
def test_when_of_retry_may_stop_the_client(restart: bool) -> None:
    """And start it again: a task of the ended run is not retried in the next one."""
    harness = ClientHarness()

    def when(error: Exception) -> bool:
        harness.client.stopService()
        if restart:
            harness.client.startService()
        return True

    task = harness.client.add_task("work", retry=Retry(2, when=when))
    harness.server.take("work").fail()
    harness.advance(60)
    assert type(outcome(task)) is TaskFailed
    harness.stop()


# A retry is not spent on servers that are known to be down.


@pytest.mark.guarantee(number=7)
def test_task_with_retries_survives_outage_without_server_wait() -> None:
    harness = ClientHarness().start()
    events: Events = []
    task = harness.client.add_task("work", b"x", retries=3, **recording(events))
    harness.advance()
    outage = harness.server.go_down(lose_jobs=True)
    for _ in range(22):
        harness.advance(0.1)
        assert outcome(task) is NOTHING
    outage.end()
    harness.advance(5)
    harness.server.take("work").complete(b"done")
    assert outcome(task) == b"done"
    harness.stop()


@pytest.mark.guarantee(number=7)
def test_each_retry_without_server_takes_one_attempt_to_connect() -> None:
    harness = ClientHarness(2).start()
    outages = [server.go_down() for server in harness.servers]
    harness.advance()
    assert [info.state for info in harness.client.servers] == [ServerState.WAITING] * 2
    failures: list[str] = []
    with monitored_failures(failures):
        task = harness.client.add_task("work", retries=2)
        while not task.called:
            harness.advance(0.1)
    # Each of the three attempts of the task has lasted until both servers had failed once more.
    assert all(failures.count(name) >= 3 for name in ("memory:1", "memory:2"))
    error = outcome(task)
    assert (type(error), set(error.reasons)) == (NoServersAvailable, {"memory:1", "memory:2"})
    for outage in outages:
        outage.end()
    harness.stop()


def lost_task(harness: ClientHarness, **options: Any) -> Deferred[bytes]:
    """Submit a task that waits for an attempt to connect."""
    harness.start()
    harness.server.go_down()
    harness.advance()
    task = harness.client.add_task("work", retries=1, **options)
    harness.advance()
    assert outcome(task) is NOTHING
    return task


@pytest.mark.guarantee(number=9)
def test_task_that_waits_for_an_attempt_can_be_cancelled() -> None:
    harness = ClientHarness()
    task = lost_task(harness)
    task.cancel()
    assert type(outcome(task)) is CancelledError
    harness.stop()


@pytest.mark.guarantee(number=1)
def test_task_that_waits_for_an_attempt_fails_at_stop() -> None:
    harness = ClientHarness()
    task = lost_task(harness)
    harness.stop()
    assert type(outcome(task)) is ClientStopped


@pytest.mark.guarantee(number=13)
def test_failure_of_one_that_waits_may_stop_the_client_and_so_end_the_other() -> None:
    harness = ClientHarness()
    first = lost_task(harness, on_retry=lambda task, attempt: harness.client.stopService())
    second = harness.client.add_task("work", retries=1)
    harness.advance(3)
    assert [type(error) for error in outcomes([first, second])] == [ClientStopped] * 2
    harness.stop()


@pytest.mark.guarantee(number=7)
def test_task_with_unique_is_retried_on_next_server_in_rank() -> None:
    harness = ClientHarness(3).start()
    task = harness.client.add_task("work", unique="u", retries=5)
    indices = []
    for _ in range(5):
        harness.advance()
        index = next(number for number, server in enumerate(harness.servers) if server.queued("work"))
        indices.append(index)
        harness.servers[index].take("work").fail()
        harness.advance(MAX_DELAY)
    ranked = [int(server.address[-1]) - 1 for server in harness.client._servers.ranked(b"u")]
    assert indices == [*ranked, *ranked[:2]]
    assert outcome(task) is NOTHING
    harness.stop()
    outcome(task)


@pytest.mark.guarantee(number=7)
def test_task_without_unique_is_retried_on_another_server() -> None:
    """Even if the other server has more tasks."""
    harness = ClientHarness(2).start()
    task = harness.client.add_task("work", b"again", retries=4)
    numbers = count()
    for _ in range(4):
        harness.advance()
        here = next(number for number, server in enumerate(harness.servers) if b"again" in server.queued("work"))
        harness.servers[here].take("work").fail()
        others: list[Deferred[bytes]] = []
        while len(others) < 3:
            unique = b"%d" % next(numbers)
            if harness.client._servers.ranked(unique)[0].address != f"memory:{here + 1}":
                others.append(harness.client.add_task("other", unique=unique))
        harness.advance(MAX_DELAY)
        assert b"again" in harness.servers[1 - here].queued("work")
        for other in others:
            ignore_errors(other)
            other.cancel()
    harness.stop()
    assert type(outcome(task)) is ClientStopped


@pytest.mark.guarantee(number=7)
def test_task_is_retried_on_same_server_if_there_is_no_other() -> None:
    harness = ClientHarness(2)
    harness.servers[1].refuse_connections()
    task = harness.client.add_task("work", retries=1)
    harness.server.take("work").fail()
    harness.advance(0.5)
    harness.server.take("work").complete(b"done")
    assert outcome(task) == b"done"
    harness.stop()


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize("drop", [MemoryJobServer.drop_before, MemoryJobServer.drop_after])
def test_sent_background_task_is_never_resubmitted(drop: Callable[..., Fault]) -> None:
    harness = ClientHarness(2, server_wait=100.0).start()
    for server in harness.servers:
        drop(server, SUBMIT_JOB_BG)
    with writes() as written:
        tasks = [harness.client.add_task_bg("work", b"%d" % number) for number in range(2)]
        harness.advance(120)
    assert [type(error) for error in outcomes(tasks)] == [TaskLost] * 2
    assert len(written) == 2
    harness.stop()


@pytest.mark.guarantee(number=1)
def test_timeout_may_coincide_with_retry() -> None:
    for timeout in (0.49, 0.5, 0.51):
        harness = ClientHarness()
        events: Events = []
        task = harness.client.add_task("work", retries=1, timeout=timeout, **recording(events))
        harness.server.take("work").fail()
        harness.advance(1)
        assert type(outcome(task)) is TaskTimedOut
        assert names(events).count("fail") == 1
        harness.stop()


@pytest.mark.guarantee(number=9)
def test_task_cancelled_while_backing_off_is_not_resubmitted() -> None:
    harness = ClientHarness()
    task = harness.client.add_task("work", retries=1)
    harness.server.take("work").fail()
    task.cancel()
    assert type(outcome(task)) is CancelledError
    harness.advance(100)
    assert harness.server.queued("work") == []
    assert harness.clock.getDelayedCalls() == []
    harness.stop()


# Waiting for a server.


def test_task_is_retried_after_server_wait() -> None:
    harness = ClientHarness(server_wait=100.0).start()
    down = harness.server.go_down()
    events: Events = []
    task = harness.client.add_task("work", retries=1, **recording(events))
    harness.advance(100)
    assert names(events) == ["retry"]
    down.end()
    harness.advance(LONGEST_BACK_OFF)
    harness.server.take("work").complete(b"done")
    assert outcome(task) == b"done"
    harness.stop()


# Admission: max_in_flight.


def test_task_backing_off_stays_admitted() -> None:
    harness = ClientHarness(max_in_flight=1)
    tasks = [harness.client.add_task("work", b"1", retries=1), harness.client.add_task("work", b"2")]
    harness.server.take("work").fail()
    assert harness.server.queued("work") == []
    harness.advance(0.5)
    assert complete_all(harness) == [b"1"]
    assert complete_all(harness) == [b"2"]
    assert outcomes(tasks) == [b"done"] * 2
    harness.stop()
