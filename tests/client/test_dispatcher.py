"""The policy, seen from a client with job servers in memory: time-outs, retries, patience, and the gate."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock

from txgearman import (
    ClientStopped,
    JobHandle,
    NoServersAvailable,
    Task,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
    TaskTimedOut,
)
from txgearman.client.dispatcher import Dispatcher, retry_delay
from txgearman.client.protocol import GearmanClientProtocol
from txgearman.packets import SUBMIT_JOB, SUBMIT_JOB_BG
from txgearman.testing import Fault, MemoryJobServer, TakenJob

from ..client_harness import NOTHING, ClientHarness, loads, noting, outcome, outcomes
from ..conftest import Failures

Seen = list[tuple[Any, ...]]
LONGEST_BACK_OFF = 60.0  # half a minute, and what chance may add to it
MORE_THAN_A_TRANSPORT_TAKES = b"x" * 70_000


class CountingClock(Clock):
    """Knows how often it was asked for a timer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def callLater(self, *args: Any, **kwargs: Any) -> Any:
        self.asked += 1
        return super().callLater(*args, **kwargs)


def quietly(deferred: Deferred[Any]) -> None:
    """Nobody is interested in what becomes of it."""
    deferred.addErrback(lambda _: None)


def stop(harness: ClientHarness) -> None:
    """Stop the client of a server that may be silent."""
    harness.client.stopService()
    harness.advance(3)
    harness.stop()


@contextmanager
def writes() -> Iterator[list[Task]]:
    """Each task at each time that it is written to a server."""
    written: list[Task] = []
    _send_task = GearmanClientProtocol._send_task

    def send_and_note(connection: GearmanClientProtocol, task: Task) -> None:
        if not connection.writing_paused:
            written.append(task)
        _send_task(connection, task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GearmanClientProtocol, "_send_task", send_and_note)
        yield written


def names(seen: Seen) -> list[str]:
    return [event[0] for event in seen]


# Guarantee 10: the time of a task passes wherever it is.

TIMEOUT = 0.4


def submit(harness: ClientHarness, seen: Seen, **options: Any) -> Deferred[bytes]:
    return harness.client.add_task("work", b"late", timeout=TIMEOUT, **noting(seen), **options)


def at_the_gate(seen: Seen) -> tuple[ClientHarness, Deferred[bytes]]:
    harness = ClientHarness(max_in_flight=1).start()
    quietly(harness.client.add_task("work", b"first"))
    return harness, submit(harness, seen)


def waiting_for_a_connecting_server(seen: Seen) -> tuple[ClientHarness, Deferred[bytes]]:
    harness = ClientHarness()
    harness.server.black_hole_connections()
    return harness, submit(harness, seen)


def patient(seen: Seen) -> tuple[ClientHarness, Deferred[bytes]]:
    harness = ClientHarness(server_wait=100.0)
    harness.server.refuse_connections()
    harness.start()
    return harness, submit(harness, seen)


def resting(seen: Seen) -> tuple[ClientHarness, Deferred[bytes]]:
    harness = ClientHarness()
    task = submit(harness, seen, retries=1)
    harness.server.take("work").fail()
    return harness, task


def in_the_backlog(seen: Seen) -> tuple[ClientHarness, Deferred[bytes]]:
    harness = ClientHarness().start()
    harness.server.fall_silent()
    quietly(harness.client.add_task("work", MORE_THAN_A_TRANSPORT_TAKES))
    task = submit(harness, seen)
    assert harness.client.servers[0].in_flight == 1
    return harness, task


def written(seen: Seen) -> tuple[ClientHarness, Deferred[bytes]]:
    harness = ClientHarness().start()
    harness.server.fall_silent()
    task = submit(harness, seen)
    assert harness.client.servers[0].in_flight == 1
    return harness, task


def acknowledged(seen: Seen) -> tuple[ClientHarness, Deferred[bytes]]:
    harness = ClientHarness()
    task = submit(harness, seen)
    harness.advance()
    return harness, task


def under_way(seen: Seen) -> tuple[ClientHarness, Deferred[bytes]]:
    harness, task = acknowledged(seen)
    harness.server.take("work").send_status(1, 2)
    return harness, task


def sharing_a_job(seen: Seen) -> tuple[ClientHarness, Deferred[bytes]]:
    harness = ClientHarness()
    quietly(harness.client.add_task("work", unique="u"))
    task = submit(harness, seen, unique="u")
    quietly(harness.client.add_task("work", unique="u"))
    harness.advance()
    return harness, task


PLACES: list[Callable[[Seen], tuple[ClientHarness, Deferred[bytes]]]] = [
    at_the_gate,
    waiting_for_a_connecting_server,
    patient,
    resting,
    in_the_backlog,
    written,
    acknowledged,
    under_way,
    sharing_a_job,
]


@pytest.mark.guarantee(number=10)
@pytest.mark.parametrize("place", PLACES)
def test_timeout_fails_task_in_any_state(
    place: Callable[[Seen], tuple[ClientHarness, Deferred[bytes]]],
) -> None:
    seen: Seen = []
    harness, task = place(seen)
    harness.advance(TIMEOUT - 0.01)
    assert outcome(task) is NOTHING
    harness.advance(0.02)
    error = outcome(task)
    assert (type(error), str(error).rpartition(": ")[2]) == (TaskTimedOut, "timed out")
    assert seen[-1] == ("fail", error)
    harness.advance(5)
    assert names(seen).count("fail") == 1
    assert seen[-1] == ("fail", error)
    stop(harness)


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("place", [at_the_gate, waiting_for_a_connecting_server, patient, in_the_backlog])
def test_unsent_task_that_timed_out_is_never_sent(place: Callable[[Seen], tuple[ClientHarness, Deferred[bytes]]]) -> None:
    harness, task = place([])
    harness.advance(TIMEOUT + 0.01)
    assert type(outcome(task)) is TaskTimedOut
    for fault in list(harness.server._faults.active):
        fault.end()
    harness.advance(12)
    quietly(harness.client.add_task("work", b"next"))
    sent = loads(harness.server)
    if place is at_the_gate:
        assert sent == [b"first"]
    else:
        assert sent[-1:] == [b"next"]
        assert b"late" not in sent
    stop(harness)


@pytest.mark.guarantee(number=6)
@pytest.mark.parametrize("unique", ["", "u"], ids=["alone", "shared"])
@pytest.mark.parametrize(
    "end",
    [TakenJob.complete, TakenJob.fail, lambda job: job.send_exception(b"x")],
    ids=["complete", "fail", "exception"],
)
def test_packets_for_timed_out_task_are_ignored(end: Callable[[TakenJob], None], unique: str) -> None:
    harness = ClientHarness()
    seen: Seen = []
    late = submit(harness, seen, unique=unique)
    other = harness.client.add_task("work", unique=unique)
    job = harness.server.take("work")
    harness.advance(TIMEOUT)
    assert type(outcome(late)) is TaskTimedOut
    told = list(seen)
    job.send_data(b"d")
    end(job)
    if unique:
        assert outcome(other) is not NOTHING
    else:
        assert outcome(other) is NOTHING
        harness.server.take("work").complete(b"its own")
        assert outcome(other) == b"its own"
    assert seen == told
    harness.check_that_it_works()
    harness.stop()


@pytest.mark.guarantee(number=10)
def test_background_task_times_out_if_not_acknowledged() -> None:
    harness = ClientHarness().start()
    silence = harness.server.fall_silent()
    told: Seen = []
    late = harness.client.add_task_bg("work", timeout=TIMEOUT, on_fail=lambda task, reason: told.append((task, reason)))
    harness.advance(TIMEOUT)
    error = outcome(late)
    assert type(error) is TaskTimedOut
    assert told == [(error.task, error)]
    silence.end()
    assert len(loads(harness.server)) == 1
    harness.check_that_it_works()
    harness.stop()


@pytest.mark.guarantee(number=10)
@pytest.mark.parametrize("background", [False, True])
def test_task_that_ends_in_time_leaves_no_timer(background: bool) -> None:
    harness = ClientHarness()
    if background:
        done: Deferred[Any] = harness.client.add_task_bg("work", timeout=10_000)
    else:
        done = harness.client.add_task("work", timeout=10_000)
    harness.server.take("work").complete(b"done")
    assert isinstance(outcome(done), JobHandle if background else bytes)
    harness.advance(200)
    assert harness.clock.getDelayedCalls() == []
    harness.stop()


@pytest.mark.guarantee(number=10)
@pytest.mark.slow
def test_hundred_thousand_timeouts_share_one_timer() -> None:
    """And to add one, or to take one away, asks for no other, but for those that are due before all others."""
    clock = CountingClock()
    harness = ClientHarness(clock=clock)
    harness.server.black_hole_connections()
    harness.start()
    before, timers = clock.asked, len(clock.getDelayedCalls())
    chosen = random.Random(5)
    tasks = [harness.client.add_task("work", timeout=chosen.uniform(1.0, 9.0)) for _ in range(100_000)]
    assert clock.asked - before < 50
    assert len(clock.getDelayedCalls()) == timers + 1
    for task in tasks:
        quietly(task)
    for task in tasks[::2]:
        task.cancel()
    assert len(clock.getDelayedCalls()) == timers + 1
    before = clock.asked
    clock.advance(9)
    assert all(task.called for task in tasks)
    assert clock.asked == before
    assert len(clock.getDelayedCalls()) == timers
    harness.stop()


@pytest.mark.guarantee(number=10)
def test_timeout_covers_all_attempts() -> None:
    harness = ClientHarness()
    seen: Seen = []
    task = harness.client.add_task("work", timeout=2.5, retries=100, **noting(seen))
    for rest in (0.5, 1.0):
        harness.server.take("work").fail()
        harness.advance(rest)
    harness.advance(1)
    assert type(outcome(task)) is TaskTimedOut
    assert names(seen) == ["created", "retry", "created", "retry", "created", "fail"]
    harness.stop()


# Guarantee 7: retries.


@pytest.mark.guarantee(number=7)
def test_retry_delay_grows_to_half_a_minute() -> None:
    assert [retry_delay(attempt) for attempt in range(1, 10)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert retry_delay(1000) == 30


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
    seen: Seen = []
    with writes() as written:
        task = harness.client.add_task("work", b"x", retries=retries, **noting(seen))
        for attempt in range(retries):
            go_wrong(harness)
            assert outcome(task) is NOTHING
            assert seen[-1] == ("retry", attempt + 1)
            harness.advance(60)
        go_wrong(harness)
        error = outcome(task)
        assert type(error) is kind
        assert seen[-1] == ("fail", error)
        assert [told for event, *told in seen if event == "retry"] == [[number + 1] for number in range(retries)]
        harness.advance(120)
    assert (len(written), names(seen).count("fail")) == (retries + 1, 1)
    harness.stop()


def losing(harness: ClientHarness, times: int) -> None:
    harness.server.drop_after(SUBMIT_JOB, times=times)


def with_a_full_queue(harness: ClientHarness, times: int) -> None:
    harness.server.reject("QUEUE_ERROR", "Job queue is full", times=times)


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize(("server", "kind"), [(losing, TaskLost), (with_a_full_queue, TaskRejected)])
@pytest.mark.parametrize("retries", [0, 2])
def test_unacknowledged_task_is_resubmitted_up_to_retries(
    server: Callable[[ClientHarness, int], None], kind: type[Exception], retries: int
) -> None:
    harness = ClientHarness(server_wait=100.0).start()
    server(harness, retries + 1)
    seen: Seen = []
    with writes() as written:
        task = harness.client.add_task("work", retries=retries, **noting(seen))
        harness.advance(120)
    error = outcome(task)
    assert type(error) is kind
    assert seen == [*(("retry", number + 1) for number in range(retries)), ("fail", error)]
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
def test_task_without_server_is_retried_up_to_retries() -> None:
    harness = ClientHarness(2)
    for server in harness.servers:
        server.refuse_connections()
    harness.start()
    seen: Seen = []
    task = harness.client.add_task("work", retries=2, **noting(seen))
    harness.advance(0.49)
    assert names(seen) == ["retry"]
    harness.advance(0.02)
    assert names(seen) == ["retry", "retry"]
    harness.advance(0.98)
    assert outcome(task) is NOTHING
    harness.advance(0.02)
    error = outcome(task)
    assert (type(error), set(error.reasons)) == (NoServersAvailable, {"endpoint:0", "endpoint:1"})
    assert seen == [("retry", 1), ("retry", 2), ("fail", error)]
    harness.stop()


@pytest.mark.guarantee(number=7)
def test_task_of_forgotten_job_is_resubmitted() -> None:
    harness = ClientHarness(job_check_interval=10.0)
    seen: Seen = []
    task = harness.client.add_task("work", retries=1, **noting(seen))
    harness.advance()
    harness.server._core.jobs = type(harness.server._core.jobs)(harness.clock.seconds, 0, b"H:new")
    harness.advance(16)
    assert seen == [("created",), ("retry", 1), ("created",)]
    harness.server.take("work").complete(b"done")
    assert outcome(task) == b"done"
    harness.stop()


@pytest.mark.guarantee(number=2)
def test_events_of_retried_task_come_in_order() -> None:
    harness = ClientHarness()
    seen: Seen = []
    handles: list[Any] = []
    options = noting(seen)

    def on_retry(task: Task, attempt: int) -> None:
        handles.append(task.handle)
        seen.append(("retry", attempt))

    task = harness.client.add_task("work", retries=1, **{**options, "on_retry": on_retry})
    task.addCallback(lambda _: seen.append(("fired",)))
    job = harness.server.take("work")
    job.send_data(b"half")
    job.send_exception(b"x")
    assert handles == [None]
    harness.advance(0.5)
    harness.server.take("work").complete(b"done")
    assert seen == [
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
    quietly(harness.client.add_task("work", retries=8))
    for rest in (0.5, 1, 2, 4, 8, 16, 30, 30):
        harness.server.take("work").fail()
        harness.advance(rest - 0.01)
        assert harness.server.queued("work") == []
        harness.advance(0.02)
        assert len(harness.server.queued("work")) == 1
    harness.stop()


@pytest.mark.guarantee(number=7)
def test_task_with_unique_is_retried_on_next_server_in_rank() -> None:
    harness = ClientHarness(3).start()
    task = harness.client.add_task("work", unique="u", retries=5)
    places = []
    for attempt in range(5):
        harness.advance()
        place = next(number for number, server in enumerate(harness.servers) if server.queued("work"))
        places.append(place)
        harness.servers[place].take("work").fail()
        harness.advance(retry_delay(attempt + 1))
    ranked = [int(server.address[-1]) for server in harness.client._servers.ranked(b"u")]
    assert places == [*ranked, *ranked[:2]]
    assert outcome(task) is NOTHING
    harness.stop()
    outcome(task)


@pytest.mark.guarantee(number=7)
def test_task_without_unique_is_retried_on_another_server() -> None:
    """Even if that is the busier one."""
    harness = ClientHarness(2).start()
    task = harness.client.add_task("work", b"again", retries=4)
    numbers = count()
    for attempt in range(4):
        harness.advance()
        here = next(number for number, server in enumerate(harness.servers) if b"again" in server.queued("work"))
        harness.servers[here].take("work").fail()
        others: list[Deferred[bytes]] = []
        while len(others) < 3:
            unique = b"%d" % next(numbers)
            if harness.client._servers.ranked(unique)[0].address != f"endpoint:{here}":
                others.append(harness.client.add_task("other", unique=unique))
        harness.advance(retry_delay(attempt + 1))
        assert b"again" in harness.servers[1 - here].queued("work")
        for other in others:
            quietly(other)
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


@pytest.mark.guarantee(number=7)
@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(["drop", "hold", "silence", "down", "well again", "wait"]), max_size=12),
    st.integers(0, 12),
)
def test_background_task_is_sent_at_most_once(steps: list[str], when: int) -> None:
    harness = ClientHarness(2, server_wait=20.0, server_timeout=5.0).start()
    tasks: list[Deferred[Any]] = []
    with writes() as written:
        for number, step in enumerate([*steps, "wait"]):
            if number == min(when, len(steps)):
                tasks.append(harness.client.add_task_bg("work", MORE_THAN_A_TRANSPORT_TAKES))
                tasks.append(harness.client.add_task_bg("work", b"1", unique="u"))
                tasks.append(harness.client.add_task_bg("work", b"2"))
            go_on(harness, step)
        go_on(harness, "well again")
        harness.advance(120)
    told = outcomes(tasks)
    assert {type(each) for each in told} <= {JobHandle, TaskLost, NoServersAvailable}
    assert len(set(written)) == len(written)
    assert len(written) == sum(not isinstance(each, NoServersAvailable) for each in told)
    stopped = harness.client.stopService()
    harness.advance()
    assert outcome(stopped) is not NOTHING
    assert harness.clock.getDelayedCalls() == []


def go_on(harness: ClientHarness, step: str) -> None:
    """Let something happen to the first server."""
    server = harness.server
    if step == "drop" and server.connections:
        server.drop_connections()
    elif step == "hold":
        server.hold_answers()
    elif step == "silence":
        server.fall_silent()
    elif step == "down":
        server.go_down()
    elif step == "wait":
        harness.advance(2)
    elif step == "well again":
        for fault in list(server._faults.active):
            fault.end()


def cancel_it(harness: ClientHarness, tasks: list[Deferred[Any]]) -> None:
    tasks[0].cancel()


def stop_the_client(harness: ClientHarness, tasks: list[Deferred[Any]]) -> None:
    harness.client.stopService()


def stop_and_start(harness: ClientHarness, tasks: list[Deferred[Any]]) -> None:
    harness.client.stopService()
    harness.client.startService()


def raise_something(harness: ClientHarness, tasks: list[Deferred[Any]]) -> None:
    raise ZeroDivisionError("of the caller's own")


def add_another(harness: ClientHarness, tasks: list[Deferred[Any]]) -> None:
    tasks.append(harness.client.add_task("work", b"more"))


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize(
    ("action", "kind"),
    [
        (cancel_it, CancelledError),
        (stop_the_client, ClientStopped),
        (stop_and_start, ClientStopped),
        (raise_something, bytes),
        (add_another, bytes),
    ],
)
@pytest.mark.parametrize("go_wrong", [fail, lose])
def test_on_retry_may_do_anything(
    action: Callable[[ClientHarness, list[Deferred[Any]]], None],
    kind: type,
    go_wrong: Callable[[ClientHarness], None],
    logged_failures: Failures,
) -> None:
    harness = ClientHarness(server_wait=100.0)
    seen: Seen = []
    tasks: list[Deferred[Any]] = []

    def on_retry(task: Task, attempt: int) -> None:
        seen.append(("retry", attempt))
        action(harness, tasks)

    options = {**noting(seen), "on_retry": on_retry}
    tasks.append(harness.client.add_task("work", b"first", retries=1, timeout=1000, **options))
    go_wrong(harness)
    harness.advance(10)
    for load in loads_of_done(harness):
        assert load in (b"first", b"more")
    assert type(outcome(tasks[0])) is kind
    assert names(seen).count("complete") + names(seen).count("fail") == 1
    assert names(seen)[-1] == ("complete" if kind is bytes else "fail")
    assert NOTHING not in outcomes(tasks)
    assert len(logged_failures.flush(ZeroDivisionError)) == (action is raise_something)
    harness.stop()


def loads_of_done(harness: ClientHarness) -> list[bytes]:
    """Complete every job for `work`; return their workloads."""
    done = harness.server.queued("work")
    for _ in done:
        harness.server.take("work").complete(b"done")
    return done


@pytest.mark.guarantee(number=1)
def test_timeout_may_coincide_with_retry() -> None:
    for timeout in (0.49, 0.5, 0.51):
        harness = ClientHarness()
        seen: Seen = []
        task = harness.client.add_task("work", retries=1, timeout=timeout, **noting(seen))
        harness.server.take("work").fail()
        harness.advance(1)
        assert type(outcome(task)) is TaskTimedOut
        assert names(seen).count("fail") == 1
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


# Patience.


def test_tasks_survive_restart_of_only_server_with_server_wait() -> None:
    harness = ClientHarness(server_wait=100.0).start()
    down = harness.server.go_down(lose_jobs=True)
    tasks = [harness.client.add_task("work", b"%d" % number, unique=b"%d" % number) for number in range(3)]
    handle = harness.client.add_task_bg("work", b"3")
    harness.advance(20)
    assert outcomes([*tasks, handle]) == [NOTHING] * 4
    down.end()
    harness.advance(LONGEST_BACK_OFF)
    assert isinstance(outcome(handle), JobHandle)
    assert harness.server.queued("work") == [b"0", b"1", b"2", b"3"]
    loads_of_done(harness)
    assert outcomes(tasks) == [b"done"] * 3
    harness.stop()


def test_tasks_fail_at_once_with_reasons_without_server_wait() -> None:
    harness = ClientHarness(2).start()
    for server in harness.servers:
        server.go_down()
    harness.advance(3)  # each was tried again; Twisted 22.4 takes a second or more
    error = outcome(harness.client.add_task("work"))
    assert type(error) is NoServersAvailable
    assert {address: type(reason) for address, reason in error.reasons.items()} == {
        "endpoint:0": ConnectionRefusedError,
        "endpoint:1": ConnectionRefusedError,
    }
    harness.stop()


def test_tasks_fail_with_reasons_after_server_wait() -> None:
    harness = ClientHarness(2, server_wait=5.0).start()
    for server in harness.servers:
        server.go_down()
    seen: Seen = []
    task = harness.client.add_task("work", **noting(seen))
    harness.advance(4.9)
    assert outcome(task) is NOTHING
    harness.advance(0.2)
    error = outcome(task)
    assert (type(error), set(error.reasons)) == (NoServersAvailable, {"endpoint:0", "endpoint:1"})
    assert seen == [("fail", error)]
    harness.stop()


def test_task_is_retried_after_server_wait() -> None:
    harness = ClientHarness(server_wait=100.0).start()
    down = harness.server.go_down()
    seen: Seen = []
    task = harness.client.add_task("work", retries=1, **noting(seen))
    harness.advance(100)
    assert names(seen) == ["retry"]
    down.end()
    harness.advance(LONGEST_BACK_OFF)
    harness.server.take("work").complete(b"done")
    assert outcome(task) == b"done"
    harness.stop()


@pytest.mark.guarantee(number=9)
def test_task_cancelled_while_awaiting_server_is_never_sent() -> None:
    harness = ClientHarness(server_wait=100.0).start()
    down = harness.server.go_down()
    tasks = [harness.client.add_task("work", b"%d" % number) for number in range(3)]
    tasks[1].cancel()
    assert type(outcome(tasks[1])) is CancelledError
    down.end()
    harness.advance(5)
    assert loads(harness.server) == [b"0", b"2"]
    harness.stop()
    assert [type(error) for error in outcomes(tasks[::2])] == [ClientStopped] * 2


@pytest.mark.guarantee(number=9)
def test_failing_task_may_cancel_task_awaiting_server() -> None:
    harness = ClientHarness(server_wait=5.0)
    harness.server.refuse_connections()
    harness.start()
    first, second = (harness.client.add_task("work") for _ in range(2))
    first.addErrback(lambda _: second.cancel())
    harness.advance(5)
    assert type(outcome(second)) is CancelledError
    harness.stop()


def test_failed_connection_attempt_routes_no_task_awaiting_server(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = ClientHarness(server_wait=10_000.0).start()
    down = harness.server.go_down()
    tasks = [harness.client.add_task("work", b"%d" % number) for number in range(10_000)]
    chosen = 0
    place = Dispatcher._route

    def counting(dispatcher: Dispatcher, task: Task) -> None:
        nonlocal chosen
        chosen += 1
        place(dispatcher, task)

    monkeypatch.setattr(Dispatcher, "_route", counting)
    harness.advance(600)
    assert (down.happened > 15, chosen) == (True, 0)
    down.end()
    harness.advance(LONGEST_BACK_OFF)
    assert chosen == 10_000
    assert harness.server.queued("work") == [b"%d" % number for number in range(10_000)]
    harness.stop()
    outcomes(tasks)


@pytest.mark.guarantee(number=11)
def test_stop_fails_task_in_any_state() -> None:
    seen: Seen = []
    for place in PLACES:
        harness, task = place(seen)
        harness.advance()
        stopped = harness.client.stopService()
        again = harness.client.stopService()
        assert type(outcome(task)) is ClientStopped
        harness.advance(3)
        assert NOTHING not in outcomes([stopped, again])
        harness.stop()
    assert names(seen).count("fail") == len(PLACES)


@pytest.mark.guarantee(number=1)
def test_drain_awaits_task_in_any_state() -> None:
    for place in PLACES:
        harness, task = place([])
        drained = harness.client.drain()
        harness.advance(0.1)
        assert outcome(drained) is NOTHING
        stop(harness)
        assert type(outcome(task)) is ClientStopped
        assert outcome(drained) is None


@pytest.mark.guarantee(number=9)
def test_failing_task_may_cancel_tasks_awaiting_connection() -> None:
    harness = ClientHarness()
    harness.server.refuse_connections()
    first, second, third = (harness.client.add_task("work") for _ in range(3))
    first.addErrback(lambda _: second.cancel())
    second.addErrback(lambda _: third.cancel())
    harness.advance()
    assert type(outcome(third)) is CancelledError
    harness.stop()


# The gate.


def test_max_in_flight_queues_tasks_in_order() -> None:
    harness = ClientHarness(max_in_flight=2).start()
    tasks = [harness.client.add_task("work", b"%d" % number) for number in range(6)]
    done: list[bytes] = []
    while not all(task.called for task in tasks):
        harness.advance()
        assert harness.client.servers[0].in_flight <= 2
        job = harness.server.take("work")
        done.append(job.workload)
        job.complete(job.workload)
    assert done == outcomes(tasks) == [b"%d" % number for number in range(6)]
    harness.stop()


def test_task_backing_off_stays_admitted() -> None:
    harness = ClientHarness(max_in_flight=1)
    tasks = [harness.client.add_task("work", b"1", retries=1), harness.client.add_task("work", b"2")]
    harness.server.take("work").fail()
    assert harness.server.queued("work") == []
    harness.advance(0.5)
    assert loads_of_done(harness) == [b"1"]
    assert loads_of_done(harness) == [b"2"]
    assert outcomes(tasks) == [b"done"] * 2
    harness.stop()


@pytest.mark.guarantee(number=9)
def test_task_cancelled_in_admission_queue_is_never_sent() -> None:
    harness = ClientHarness(max_in_flight=1)
    tasks = [harness.client.add_task("work", b"%d" % number) for number in range(4)]
    tasks[1].cancel()
    assert type(outcome(tasks[1])) is CancelledError
    assert loads_of_done(harness) == [b"0"]
    assert loads_of_done(harness) == [b"2"]
    assert loads_of_done(harness) == [b"3"]
    assert outcome(harness.client.drain()) is None
    harness.stop()


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("wanted", [False, True])
def test_cancel_drops_job_only_with_drop_on_cancel(wanted: bool) -> None:
    server = MemoryJobServer()
    client = server.client()
    task = client.add_task("work", drop_on_cancel=wanted)
    server.advance()
    quietly(task)
    task.cancel()
    server.advance()
    assert len(server.queued("work")) == (0 if wanted else 1)
    server.close()


def test_background_task_is_in_flight_until_acknowledged() -> None:
    harness = ClientHarness(max_in_flight=3)
    tasks = [harness.client.add_task_bg("work", b"%d" % number) for number in range(10)]
    assert loads(harness.server) == [b"%d" % number for number in range(10)]
    assert NOTHING not in outcomes(tasks)
    harness.stop()


def test_task_submitted_by_callback_waits_behind_admission_queue() -> None:
    harness = ClientHarness(max_in_flight=1)
    more: list[Deferred[bytes]] = []
    first = harness.client.add_task(
        "work", b"1", on_complete=lambda *_: more.append(harness.client.add_task("work", b"3"))
    )
    second = harness.client.add_task("work", b"2")
    assert [loads_of_done(harness) for _ in range(4)] == [[b"1"], [b"2"], [b"3"], []]
    assert outcomes([first, second, *more]) == [b"done"] * 3
    harness.stop()


def test_task_submitted_during_admission_waits_behind_admission_queue() -> None:
    """Even where it finds a free place that one of them is about to take."""
    harness = ClientHarness(max_in_flight=2).start()
    ended: list[str] = []

    def ending(name: str) -> dict[str, Any]:
        return {"on_fail": lambda task, reason: ended.append(name)}

    def make_room(task: Task, reason: Exception) -> None:
        ended.append("first at the gate")
        tasks[1].cancel()
        tasks.append(harness.client.add_task("work", **ending("submitted last")))

    tasks = [harness.client.add_task("work", **ending(name)) for name in ("first", "second")]
    tasks.append(harness.client.add_task("work", on_fail=make_room))
    tasks.append(harness.client.add_task("work", **ending("last at the gate")))
    harness.advance()
    harness.server.go_down()
    assert NOTHING not in outcomes(tasks)
    assert ended == ["first", "first at the gate", "second", "last at the gate", "submitted last"]
    harness.stop()


@pytest.mark.guarantee(number=1)
def test_stop_fails_admission_queue_though_callback_starts_client() -> None:
    harness = ClientHarness(max_in_flight=1).start()
    tasks = [harness.client.add_task("work", b"%d" % number) for number in range(3)]
    tasks[0].addErrback(lambda _: harness.client.startService())
    harness.client.stopService()
    harness.advance()
    assert [type(error) for error in outcomes(tasks[1:])] == [ClientStopped] * 2
    harness.check_that_it_works()
    harness.stop()


def test_ten_thousand_tasks_in_admission_queue_fail_without_recursion() -> None:
    """In no deeper a call than one."""
    harness = ClientHarness(max_in_flight=1)
    harness.server.drop_before(SUBMIT_JOB)
    tasks = [harness.client.add_task("work") for _ in range(10_000)]
    drained = harness.client.drain()
    harness.advance()
    lost, *others = outcomes(tasks)
    assert type(lost) is TaskLost
    assert {type(error) for error in others} == {NoServersAvailable}
    assert outcome(drained) is None
    harness.stop()


@pytest.mark.guarantee(number=1)
def test_task_submitted_during_stop_fails_with_full_admission_queue() -> None:
    harness = ClientHarness(max_in_flight=1)
    more: list[Deferred[Any]] = []
    tasks = [harness.client.add_task("work") for _ in range(3)]
    for task in tasks:
        task.addErrback(lambda _: more.append(harness.client.add_task("work")))
    harness.advance()
    harness.stop()
    assert [type(error) for error in outcomes(more)] == [ClientStopped] * 3
    assert outcome(harness.client.drain()) is None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "complete", "fail", "cancel", "lose", "wait", "refuse"]), st.integers(0, 9)
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=100)
@given(STEPS, st.integers(1, 3))
def test_tasks_in_flight_never_exceed_maximum(steps: list[tuple[str, int]], most: int) -> None:
    """Out of those that were let in and have no outcome, the resting and the waiting ones too."""
    harness = ClientHarness(max_in_flight=most, server_wait=100.0).start()
    tasks: list[Deferred[Any]] = []
    loads: list[bytes] = []
    let_in: list[bytes] = []

    def created(task: Task) -> None:
        if not task.attempt:
            let_in.append(task.workload)

    for step, pick in steps:
        if step == "add":
            loads.append(b"%d" % len(loads))
            task = harness.client.add_task("work", loads[-1], retries=pick % 3, on_created=created)
            quietly(task)
            tasks.append(task)
        elif step in ("complete", "fail") and harness.server.queued("work"):
            getattr(harness.server.take("work"), step)()
        elif step == "cancel" and tasks:
            tasks[pick % len(tasks)].cancel()
        elif step == "lose" and harness.server.connections:
            harness.server.drop_connections()
        elif step == "refuse":
            harness.server.reject("QUEUE_ERROR")
        elif step == "wait":
            harness.advance(pick)
        harness.advance()
        assert harness.client.servers[0].in_flight <= most
        assert harness.client._dispatcher._admitted <= most
    harness.advance(100)
    assert let_in == sorted(let_in, key=int)
    while harness.server.queued("work"):
        harness.server.take("work").complete()
        harness.advance(40)
    assert all(task.called for task in tasks)
    stopped = harness.client.stopService()
    harness.advance()
    assert outcome(stopped) is not NOTHING
    assert harness.clock.getDelayedCalls() == []
