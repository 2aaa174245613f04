"""The policy of a client with job servers in memory: time-outs, retries, waiting for servers, and admission."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock

from txgearman import (
    ClientStopped,
    JobHandle,
    NoServersAvailable,
    Task,
    TaskLost,
    TaskTimedOut,
)
from txgearman.client.dispatcher import Dispatcher
from txgearman.connection.timers import READING_TURNS
from txgearman.packets import SUBMIT_JOB
from txgearman.testing import MemoryJobServer, TakenJob

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
    take_all,
)

MORE_THAN_TRANSPORT_BUFFERS = b"x" * 70_000


class CountingClock(Clock):
    """Clock that counts the timers that were requested."""

    def __init__(self) -> None:
        super().__init__()
        self.requested = 0

    def callLater(self, *args: Any, **kwargs: Any) -> Any:
        self.requested += 1
        return super().callLater(*args, **kwargs)


def stop(harness: ClientHarness) -> None:
    """Stop a client whose servers may be silent."""
    harness.client.stopService()
    harness.advance(3)
    harness.stop()


# Guarantee 10: the time-out of a task runs in any state.

TIMEOUT = 0.4


def submit(harness: ClientHarness, events: Events, **options: Any) -> Deferred[bytes]:
    return harness.client.add_task("work", b"late", timeout=TIMEOUT, **recording(events), **options)


def in_admission_queue(events: Events) -> tuple[ClientHarness, Deferred[bytes]]:
    harness = ClientHarness(max_in_flight=1).start()
    ignore_errors(harness.client.add_task("work", b"first"))
    return harness, submit(harness, events)


def awaiting_connection(events: Events) -> tuple[ClientHarness, Deferred[bytes]]:
    harness = ClientHarness()
    harness.server.black_hole_connections()
    return harness, submit(harness, events)


def awaiting_server(events: Events) -> tuple[ClientHarness, Deferred[bytes]]:
    harness = ClientHarness(server_wait=100.0)
    harness.server.refuse_connections()
    harness.start()
    return harness, submit(harness, events)


def backing_off(events: Events) -> tuple[ClientHarness, Deferred[bytes]]:
    harness = ClientHarness()
    task = submit(harness, events, retries=1)
    harness.server.take("work").fail()
    return harness, task


def in_backlog(events: Events) -> tuple[ClientHarness, Deferred[bytes]]:
    harness = ClientHarness().start()
    harness.server.fall_silent()
    ignore_errors(harness.client.add_task("work", MORE_THAN_TRANSPORT_BUFFERS))
    task = submit(harness, events)
    assert harness.client.servers[0].in_flight == 1
    return harness, task


def written(events: Events) -> tuple[ClientHarness, Deferred[bytes]]:
    harness = ClientHarness().start()
    harness.server.fall_silent()
    task = submit(harness, events)
    assert harness.client.servers[0].in_flight == 1
    return harness, task


def acknowledged(events: Events) -> tuple[ClientHarness, Deferred[bytes]]:
    harness = ClientHarness()
    task = submit(harness, events)
    harness.advance()
    return harness, task


def running(events: Events) -> tuple[ClientHarness, Deferred[bytes]]:
    harness, task = acknowledged(events)
    harness.server.take("work").send_status(1, 2)
    return harness, task


def sharing_job(events: Events) -> tuple[ClientHarness, Deferred[bytes]]:
    harness = ClientHarness()
    ignore_errors(harness.client.add_task("work", unique="u"))
    task = submit(harness, events, unique="u")
    ignore_errors(harness.client.add_task("work", unique="u"))
    harness.advance()
    return harness, task


STATES: list[Callable[[Events], tuple[ClientHarness, Deferred[bytes]]]] = [
    in_admission_queue,
    awaiting_connection,
    awaiting_server,
    backing_off,
    in_backlog,
    written,
    acknowledged,
    running,
    sharing_job,
]


@pytest.mark.guarantee(number=10)
@pytest.mark.parametrize("state", STATES)
def test_timeout_fails_task_in_any_state(
    state: Callable[[Events], tuple[ClientHarness, Deferred[bytes]]],
) -> None:
    events: Events = []
    harness, task = state(events)
    harness.advance(TIMEOUT - 0.01)
    assert outcome(task) is NOTHING
    harness.advance(0.02)
    error = outcome(task)
    assert (type(error), str(error).rpartition(": ")[2]) == (TaskTimedOut, "timed out")
    assert events[-1] == ("fail", error)
    harness.advance(5)
    assert names(events).count("fail") == 1
    assert events[-1] == ("fail", error)
    stop(harness)


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("state", [in_admission_queue, awaiting_connection, awaiting_server, in_backlog])
def test_unsent_task_that_timed_out_is_never_sent(
    state: Callable[[Events], tuple[ClientHarness, Deferred[bytes]]],
) -> None:
    harness, task = state([])
    harness.advance(TIMEOUT + 0.01)
    assert type(outcome(task)) is TaskTimedOut
    for fault in list(harness.server._faults.active):
        fault.end()
    harness.advance(12)
    ignore_errors(harness.client.add_task("work", b"next"))
    sent = take_all(harness.server)
    if state is in_admission_queue:
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
    events: Events = []
    late = submit(harness, events, unique=unique)
    other = harness.client.add_task("work", unique=unique)
    job = harness.server.take("work")
    harness.advance(TIMEOUT)
    assert type(outcome(late)) is TaskTimedOut
    before = list(events)
    job.send_data(b"d")
    end(job)
    if unique:
        assert outcome(other) is not NOTHING
    else:
        assert outcome(other) is NOTHING
        harness.server.take("work").complete(b"its own")
        assert outcome(other) == b"its own"
    assert events == before
    harness.check_that_it_works()
    harness.stop()


@pytest.mark.guarantee(number=10)
def test_background_task_times_out_if_not_acknowledged() -> None:
    harness = ClientHarness().start()
    silence = harness.server.fall_silent()
    failures: list[Any] = []
    late = harness.client.add_task_bg("work", timeout=TIMEOUT, on_fail=lambda *arguments: failures.append(arguments))
    harness.advance(TIMEOUT)
    error = outcome(late)
    assert type(error) is TaskTimedOut
    assert failures == [(error.task, error)]
    silence.end()
    assert len(take_all(harness.server)) == 1
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
def test_result_that_arrives_while_reactor_is_blocked_comes_before_timeout() -> None:
    """The time-out fires late, and what has arrived is read before it is believed."""
    harness = ClientHarness()
    task = harness.client.add_task("work", timeout=30)
    harness.clock.callLater(40, harness.server.take("work").complete, b"result")
    harness.clock.advance(60)
    assert outcome(task) == b"result"
    late = harness.client.add_task("work", timeout=30)
    harness.clock.advance(60)
    assert type(outcome(late)) is TaskTimedOut


@pytest.mark.guarantee(number=10)
@pytest.mark.parametrize("number", [2_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_thousands_of_timeouts_share_one_timer(number: int) -> None:
    """Adding or removing one sets no timer, except for one that is due before all others."""
    clock = CountingClock()
    harness = ClientHarness(clock=clock)
    harness.server.black_hole_connections()
    harness.start()
    before, timers = clock.requested, len(clock.getDelayedCalls())
    chosen = random.Random(5)
    tasks = [harness.client.add_task("work", timeout=chosen.uniform(1.0, 9.0)) for _ in range(number)]
    assert clock.requested - before < 50
    assert len(clock.getDelayedCalls()) == timers + 1
    for task in tasks:
        ignore_errors(task)
    for task in tasks[::2]:
        task.cancel()
    assert len(clock.getDelayedCalls()) == timers + 1
    before = clock.requested
    clock.advance(9)
    assert all(task.called for task in tasks)
    assert clock.requested - before == READING_TURNS  # of the one timer, which is late
    assert len(clock.getDelayedCalls()) == timers
    harness.stop()


# Guarantee 7: retries.


# Waiting for a server.


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
    complete_all(harness)
    assert outcomes(tasks) == [b"done"] * 3
    harness.stop()


def test_tasks_fail_at_once_with_reasons_without_server_wait() -> None:
    harness = ClientHarness(2).start()
    for server in harness.servers:
        server.go_down()
    harness.advance(3)  # each server was tried again, which takes Twisted 22.4 a second or more
    error = outcome(harness.client.add_task("work"))
    assert type(error) is NoServersAvailable
    assert {address: type(reason) for address, reason in error.reasons.items()} == {
        "memory:1": ConnectionRefusedError,
        "memory:2": ConnectionRefusedError,
    }
    harness.stop()


def test_tasks_fail_with_reasons_after_server_wait() -> None:
    harness = ClientHarness(2, server_wait=5.0).start()
    for server in harness.servers:
        server.go_down()
    events: Events = []
    task = harness.client.add_task("work", **recording(events))
    harness.advance(4.9)
    assert outcome(task) is NOTHING
    harness.advance(0.2)
    error = outcome(task)
    assert (type(error), set(error.reasons)) == (NoServersAvailable, {"memory:1", "memory:2"})
    assert events == [("fail", error)]
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
    assert take_all(harness.server) == [b"0", b"2"]
    harness.stop()
    assert [type(error) for error in outcomes(tasks[::2])] == [ClientStopped] * 2


def test_failed_connection_attempt_routes_no_task_awaiting_server(monkeypatch: pytest.MonkeyPatch) -> None:
    routed = 0
    route = Dispatcher._route

    def counting(dispatcher: Dispatcher, task: Task) -> None:
        nonlocal routed
        routed += 1
        route(dispatcher, task)

    monkeypatch.setattr(Dispatcher, "_route", counting)
    harness = ClientHarness(server_wait=10_000.0).start()
    down = harness.server.go_down()
    tasks = [harness.client.add_task("work", b"%d" % number) for number in range(2_000)]
    routed = 0
    harness.advance(600)
    assert (down.happened > 15, routed) == (True, 0)
    down.end()
    harness.advance(LONGEST_BACK_OFF)
    assert routed <= 2_000
    assert harness.server.queued("work") == [b"%d" % number for number in range(2_000)]
    harness.stop()
    outcomes(tasks)


@pytest.mark.guarantee(number=11)
def test_stop_fails_task_in_any_state() -> None:
    events: Events = []
    for state in STATES:
        harness, task = state(events)
        harness.advance()
        stopped = harness.client.stopService()
        again = harness.client.stopService()
        assert type(outcome(task)) is ClientStopped
        harness.advance(3)
        assert NOTHING not in outcomes([stopped, again])
        harness.stop()
    assert names(events).count("fail") == len(STATES)


@pytest.mark.guarantee(number=1)
def test_drain_awaits_task_in_any_state() -> None:
    for state in STATES:
        harness, task = state([])
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


# Admission: max_in_flight.


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


@pytest.mark.guarantee(number=9)
def test_task_cancelled_in_admission_queue_is_never_sent() -> None:
    harness = ClientHarness(max_in_flight=1)
    tasks = [harness.client.add_task("work", b"%d" % number) for number in range(4)]
    tasks[1].cancel()
    assert type(outcome(tasks[1])) is CancelledError
    assert complete_all(harness) == [b"0"]
    assert complete_all(harness) == [b"2"]
    assert complete_all(harness) == [b"3"]
    assert outcome(harness.client.drain()) is None
    harness.stop()


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("wanted", [False, True])
def test_cancel_drops_job_only_with_drop_on_cancel(wanted: bool) -> None:
    server = MemoryJobServer()
    client = server.client()
    task = client.add_task("work", drop_on_cancel=wanted)
    server.advance()
    ignore_errors(task)
    task.cancel()
    server.advance()
    assert len(server.queued("work")) == (0 if wanted else 1)
    server.close()


def test_background_task_is_in_flight_until_acknowledged() -> None:
    harness = ClientHarness(max_in_flight=3)
    tasks = [harness.client.add_task_bg("work", b"%d" % number) for number in range(10)]
    assert take_all(harness.server) == [b"%d" % number for number in range(10)]
    assert NOTHING not in outcomes(tasks)
    harness.stop()


def test_task_submitted_by_callback_waits_behind_admission_queue() -> None:
    harness = ClientHarness(max_in_flight=1)
    more: list[Deferred[bytes]] = []
    first = harness.client.add_task(
        "work", b"1", on_complete=lambda *_: more.append(harness.client.add_task("work", b"3"))
    )
    second = harness.client.add_task("work", b"2")
    assert [complete_all(harness) for _ in range(4)] == [[b"1"], [b"2"], [b"3"], []]
    assert outcomes([first, second, *more]) == [b"done"] * 3
    harness.stop()


def test_task_submitted_during_admission_waits_behind_admission_queue() -> None:
    """Even if fewer than the maximum are in flight at that moment."""
    harness = ClientHarness(max_in_flight=2).start()
    ended: list[str] = []

    def ending(name: str) -> dict[str, Any]:
        return {"on_fail": lambda task, reason: ended.append(name)}

    def cancel_second(task: Task, reason: Exception) -> None:
        ended.append("first in queue")
        tasks[1].cancel()
        tasks.append(harness.client.add_task("work", **ending("submitted last")))

    tasks = [harness.client.add_task("work", **ending(name)) for name in ("first", "second")]
    tasks.append(harness.client.add_task("work", on_fail=cancel_second))
    tasks.append(harness.client.add_task("work", **ending("last in queue")))
    harness.advance()
    harness.server.go_down()
    assert NOTHING not in outcomes(tasks)
    assert ended == ["first", "first in queue", "second", "last in queue", "submitted last"]
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


def test_many_tasks_in_admission_queue_fail_without_recursion() -> None:
    harness = ClientHarness(max_in_flight=1)
    harness.server.drop_before(SUBMIT_JOB)
    tasks = [harness.client.add_task("work") for _ in range(2_000)]
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


@given(STEPS, st.integers(1, 3))
def test_tasks_in_flight_never_exceed_maximum(steps: list[tuple[str, int]], most: int) -> None:
    """Tasks that are backing off or awaiting a server count, too."""
    harness = ClientHarness(max_in_flight=most, server_wait=100.0).start()
    tasks: list[Deferred[Any]] = []
    workloads: list[bytes] = []
    admitted: list[bytes] = []

    def created(task: Task) -> None:
        if not task.attempt:
            admitted.append(task.workload)

    for step, pick in steps:
        if step == "add":
            workloads.append(b"%d" % len(workloads))
            task = harness.client.add_task("work", workloads[-1], retries=pick % 3, on_created=created)
            ignore_errors(task)
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
    assert admitted == sorted(admitted, key=int)
    while harness.server.queued("work"):
        harness.server.take("work").complete()
        harness.advance(40)
    assert all(task.called for task in tasks)
    stopped = harness.client.stopService()
    harness.advance()
    assert outcome(stopped) is not NOTHING
    assert harness.clock.getDelayedCalls() == []
