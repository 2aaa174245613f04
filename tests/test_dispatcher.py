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
from txgearman.client_protocol import GearmanClientProtocol
from txgearman.dispatcher import Dispatcher, is_retried, rest_before
from txgearman.packets import SUBMIT_JOB, SUBMIT_JOB_BG
from txgearman.testing import Fault, MemoryJobServer, TakenJob

from .conftest import Failures
from .house import NOTHING, House, loads, noting, outcome, outcomes

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


def stop(house: House) -> None:
    """Stop the client of a server that may be silent."""
    house.client.stopService()
    house.advance(3)
    house.stop()


@contextmanager
def writes() -> Iterator[list[Task]]:
    """Each task at each time that it is written to a server."""
    written: list[Task] = []
    send_task = GearmanClientProtocol.send_task

    def send_and_note(link: GearmanClientProtocol, task: Task) -> None:
        if not link.paused:
            written.append(task)
        send_task(link, task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GearmanClientProtocol, "send_task", send_and_note)
        yield written


def names(seen: Seen) -> list[str]:
    return [event[0] for event in seen]


# Guarantee 10: the time of a task passes wherever it is.

TIMEOUT = 0.4


def submit(house: House, seen: Seen, **options: Any) -> Deferred[bytes]:
    return house.client.add_task("work", b"late", timeout=TIMEOUT, **noting(seen), **options)


def at_the_gate(seen: Seen) -> tuple[House, Deferred[bytes]]:
    house = House(max_in_flight=1).start()
    quietly(house.client.add_task("work", b"first"))
    return house, submit(house, seen)


def waiting_for_a_connecting_server(seen: Seen) -> tuple[House, Deferred[bytes]]:
    house = House()
    house.server.black_hole_connections()
    return house, submit(house, seen)


def patient(seen: Seen) -> tuple[House, Deferred[bytes]]:
    house = House(server_wait=100.0)
    house.server.refuse_connections()
    house.start()
    return house, submit(house, seen)


def resting(seen: Seen) -> tuple[House, Deferred[bytes]]:
    house = House()
    task = submit(house, seen, retries=1)
    house.server.take("work").fail()
    return house, task


def in_the_backlog(seen: Seen) -> tuple[House, Deferred[bytes]]:
    house = House().start()
    house.server.fall_silent()
    quietly(house.client.add_task("work", MORE_THAN_A_TRANSPORT_TAKES))
    task = submit(house, seen)
    assert house.client.servers[0].in_flight == 1
    return house, task


def written(seen: Seen) -> tuple[House, Deferred[bytes]]:
    house = House().start()
    house.server.fall_silent()
    task = submit(house, seen)
    assert house.client.servers[0].in_flight == 1
    return house, task


def acknowledged(seen: Seen) -> tuple[House, Deferred[bytes]]:
    house = House()
    task = submit(house, seen)
    house.advance()
    return house, task


def under_way(seen: Seen) -> tuple[House, Deferred[bytes]]:
    house, task = acknowledged(seen)
    house.server.take("work").send_status(1, 2)
    return house, task


def sharing_a_job(seen: Seen) -> tuple[House, Deferred[bytes]]:
    house = House()
    quietly(house.client.add_task("work", unique="u"))
    task = submit(house, seen, unique="u")
    quietly(house.client.add_task("work", unique="u"))
    house.advance()
    return house, task


PLACES: list[Callable[[Seen], tuple[House, Deferred[bytes]]]] = [
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
def test_the_time_of_a_task_passes_wherever_it_is(place: Callable[[Seen], tuple[House, Deferred[bytes]]]) -> None:
    seen: Seen = []
    house, task = place(seen)
    house.advance(TIMEOUT - 0.01)
    assert outcome(task) is NOTHING
    house.advance(0.02)
    error = outcome(task)
    assert (type(error), str(error).rpartition(": ")[2]) == (TaskTimedOut, "timed out")
    assert seen[-1] == ("fail", error)
    house.advance(5)
    assert names(seen).count("fail") == 1
    assert seen[-1] == ("fail", error)
    stop(house)


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("place", [at_the_gate, waiting_for_a_connecting_server, patient, in_the_backlog])
def test_what_timed_out_unwritten_is_never_sent(place: Callable[[Seen], tuple[House, Deferred[bytes]]]) -> None:
    house, task = place([])
    house.advance(TIMEOUT + 0.01)
    assert type(outcome(task)) is TaskTimedOut
    for fault in list(house.server._lasting):
        fault.end()
    house.advance(12)
    quietly(house.client.add_task("work", b"next"))
    sent = loads(house.server)
    if place is at_the_gate:
        assert sent == [b"first"]
    else:
        assert sent[-1:] == [b"next"]
        assert b"late" not in sent
    stop(house)


@pytest.mark.guarantee(number=6)
@pytest.mark.parametrize("unique", ["", "u"], ids=["alone", "shared"])
@pytest.mark.parametrize(
    "end",
    [TakenJob.complete, TakenJob.fail, lambda job: job.send_exception(b"x")],
    ids=["complete", "fail", "exception"],
)
def test_what_comes_after_the_time_hits_nobody(end: Callable[[TakenJob], None], unique: str) -> None:
    house = House()
    seen: Seen = []
    late = submit(house, seen, unique=unique)
    other = house.client.add_task("work", unique=unique)
    job = house.server.take("work")
    house.advance(TIMEOUT)
    assert type(outcome(late)) is TaskTimedOut
    told = list(seen)
    job.send_data(b"d")
    end(job)
    if unique:
        assert outcome(other) is not NOTHING
    else:
        assert outcome(other) is NOTHING
        house.server.take("work").complete(b"its own")
        assert outcome(other) == b"its own"
    assert seen == told
    house.check_that_it_works()
    house.stop()


@pytest.mark.guarantee(number=10)
def test_a_background_task_has_a_time_to_be_taken_by_a_server() -> None:
    house = House().start()
    silence = house.server.fall_silent()
    told: Seen = []
    late = house.client.add_task_bg("work", timeout=TIMEOUT, on_fail=lambda task, reason: told.append((task, reason)))
    house.advance(TIMEOUT)
    error = outcome(late)
    assert type(error) is TaskTimedOut
    assert told == [(error.task, error)]
    silence.end()
    assert len(loads(house.server)) == 1
    house.check_that_it_works()
    house.stop()


@pytest.mark.guarantee(number=10)
@pytest.mark.parametrize("background", [False, True])
def test_a_task_that_ends_in_time_leaves_no_timer(background: bool) -> None:
    house = House()
    if background:
        done: Deferred[Any] = house.client.add_task_bg("work", timeout=10_000)
    else:
        done = house.client.add_task("work", timeout=10_000)
    house.server.take("work").complete(b"done")
    assert isinstance(outcome(done), JobHandle if background else bytes)
    house.advance(200)
    assert house.clock.getDelayedCalls() == []
    house.stop()


@pytest.mark.guarantee(number=10)
@pytest.mark.slow
def test_a_hundred_thousand_time_outs_are_one_timer() -> None:
    """And to add one, or to take one away, asks for no other, but for those that are due before all others."""
    clock = CountingClock()
    house = House(clock=clock)
    house.server.black_hole_connections()
    house.start()
    before, timers = clock.asked, len(clock.getDelayedCalls())
    chosen = random.Random(5)
    tasks = [house.client.add_task("work", timeout=chosen.uniform(1.0, 9.0)) for _ in range(100_000)]
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
    house.stop()


@pytest.mark.guarantee(number=10)
def test_the_time_is_for_all_attempts_together() -> None:
    house = House()
    seen: Seen = []
    task = house.client.add_task("work", timeout=2.5, retries=100, **noting(seen))
    for rest in (0.5, 1.0):
        house.server.take("work").fail()
        house.advance(rest)
    house.advance(1)
    assert type(outcome(task)) is TaskTimedOut
    assert names(seen) == ["created", "retry", "created", "retry", "created", "fail"]
    house.stop()


# Guarantee 7: retries.


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize(
    ("reason", "retried"),
    [
        (TaskLost(None, acknowledged=False), True),
        (TaskLost(None, acknowledged=True), True),
        (TaskLost(None, acknowledged=True, forgotten=True), True),
        (TaskFailed(None), True),
        (TaskException(None, b"x"), True),
        (TaskRejected(None, "QUEUE_ERROR", "Job queue is full"), True),
        (TaskRejected(None, "ARGUMENT_TOO_LARGE", ""), False),
        (TaskRejected(None, "UNANSWERED", ""), False),
        (NoServersAvailable({}), True),
        (TaskTimedOut(None), False),
        (ClientStopped(), False),
        (CancelledError(), False),
        (ValueError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_retried(reason: Exception, retried: bool) -> None:
    assert is_retried(reason) is retried


@pytest.mark.guarantee(number=7)
def test_rests_grow_to_half_a_minute() -> None:
    assert [rest_before(attempt) for attempt in range(1, 10)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert rest_before(1000) == 30


def lose(house: House) -> None:
    house.advance()
    house.server.drop_connections()


def fail(house: House) -> None:
    house.server.take("work").fail()


def raise_exception(house: House) -> None:
    house.server.take("work").send_exception(b"x")


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
def test_it_is_submitted_as_often_as_was_asked_for(
    go_wrong: Callable[[House], None], kind: type[Exception], retries: int
) -> None:
    house = House(server_wait=100.0).start()
    seen: Seen = []
    with writes() as written:
        task = house.client.add_task("work", b"x", retries=retries, **noting(seen))
        for attempt in range(retries):
            go_wrong(house)
            assert outcome(task) is NOTHING
            assert seen[-1] == ("retry", attempt + 1)
            house.advance(60)
        go_wrong(house)
        error = outcome(task)
        assert type(error) is kind
        assert seen[-1] == ("fail", error)
        assert [told for event, *told in seen if event == "retry"] == [[number + 1] for number in range(retries)]
        house.advance(120)
    assert (len(written), names(seen).count("fail")) == (retries + 1, 1)
    house.stop()


def losing(house: House, times: int) -> None:
    house.server.drop_after(SUBMIT_JOB, times=times)


def with_a_full_queue(house: House, times: int) -> None:
    house.server.reject("QUEUE_ERROR", "Job queue is full", times=times)


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize(("server", "kind"), [(losing, TaskLost), (with_a_full_queue, TaskRejected)])
@pytest.mark.parametrize("retries", [0, 2])
def test_where_no_attempt_is_answered_it_is_submitted_as_often(
    server: Callable[[House, int], None], kind: type[Exception], retries: int
) -> None:
    house = House(server_wait=100.0).start()
    server(house, retries + 1)
    seen: Seen = []
    with writes() as written:
        task = house.client.add_task("work", retries=retries, **noting(seen))
        house.advance(120)
    error = outcome(task)
    assert type(error) is kind
    assert seen == [*(("retry", number + 1) for number in range(retries)), ("fail", error)]
    assert len(written) == retries + 1
    house.stop()


@pytest.mark.guarantee(number=7)
def test_what_is_refused_for_itself_is_not_submitted_again() -> None:
    house = House().start()
    house.server.reject("ARGUMENT_TOO_LARGE")
    task = house.client.add_task("work", retries=5)
    house.advance()
    assert type(outcome(task)) is TaskRejected
    house.stop()


@pytest.mark.guarantee(number=7)
def test_a_client_without_a_server_tries_as_often() -> None:
    house = House(2)
    for server in house.servers:
        server.refuse_connections()
    house.start()
    seen: Seen = []
    task = house.client.add_task("work", retries=2, **noting(seen))
    house.advance(0.49)
    assert names(seen) == ["retry"]
    house.advance(0.02)
    assert names(seen) == ["retry", "retry"]
    house.advance(0.98)
    assert outcome(task) is NOTHING
    house.advance(0.02)
    error = outcome(task)
    assert (type(error), set(error.reasons)) == (NoServersAvailable, {"endpoint:0", "endpoint:1"})
    assert seen == [("retry", 1), ("retry", 2), ("fail", error)]
    house.stop()


@pytest.mark.guarantee(number=7)
def test_a_job_that_the_server_forgot_is_submitted_again() -> None:
    house = House(check_interval=10.0)
    seen: Seen = []
    task = house.client.add_task("work", retries=1, **noting(seen))
    house.advance()
    house.server._core.jobs = type(house.server._core.jobs)(house.clock.seconds, 0, b"H:new")
    house.advance(16)
    assert seen == [("created",), ("retry", 1), ("created",)]
    house.server.take("work").complete(b"done")
    assert outcome(task) == b"done"
    house.stop()


@pytest.mark.guarantee(number=2)
def test_events_of_a_task_that_fails_and_then_completes_come_in_order() -> None:
    house = House()
    seen: Seen = []
    handles: list[Any] = []
    options = noting(seen)

    def on_retry(task: Task, attempt: int) -> None:
        handles.append(task.handle)
        seen.append(("retry", attempt))

    task = house.client.add_task("work", retries=1, **{**options, "on_retry": on_retry})
    task.addCallback(lambda _: seen.append(("fired",)))
    job = house.server.take("work")
    job.send_data(b"half")
    job.send_exception(b"x")
    assert handles == [None]
    house.advance(0.5)
    house.server.take("work").complete(b"done")
    assert seen == [
        ("created",),
        ("data", b"half"),
        ("exception", b"x"),
        ("retry", 1),
        ("created",),
        ("complete", b"done"),
        ("fired",),
    ]
    house.stop()


@pytest.mark.guarantee(number=7)
def test_it_rests_before_each_attempt() -> None:
    house = House()
    quietly(house.client.add_task("work", retries=8))
    for rest in (0.5, 1, 2, 4, 8, 16, 30, 30):
        house.server.take("work").fail()
        house.advance(rest - 0.01)
        assert house.server.queued("work") == []
        house.advance(0.02)
        assert len(house.server.queued("work")) == 1
    house.stop()


@pytest.mark.guarantee(number=7)
def test_with_a_unique_the_next_attempt_is_at_the_next_in_rank() -> None:
    house = House(3).start()
    task = house.client.add_task("work", unique="u", retries=5)
    places = []
    for attempt in range(5):
        house.advance()
        place = next(number for number, server in enumerate(house.servers) if server.queued("work"))
        places.append(place)
        house.servers[place].take("work").fail()
        house.advance(rest_before(attempt + 1))
    ranked = [int(server.address[-1]) for server in house.client._servers.ranked(b"u")]
    assert places == [*ranked, *ranked[:2]]
    assert outcome(task) is NOTHING
    house.stop()
    outcome(task)


@pytest.mark.guarantee(number=7)
def test_without_a_unique_the_next_attempt_is_at_another_server() -> None:
    """Even if that is the busier one."""
    house = House(2).start()
    task = house.client.add_task("work", b"again", retries=4)
    numbers = count()
    for attempt in range(4):
        house.advance()
        here = next(number for number, server in enumerate(house.servers) if b"again" in server.queued("work"))
        house.servers[here].take("work").fail()
        others: list[Deferred[bytes]] = []
        while len(others) < 3:
            unique = b"%d" % next(numbers)
            if house.client._servers.ranked(unique)[0].address != f"endpoint:{here}":
                others.append(house.client.add_task("other", unique=unique))
        house.advance(rest_before(attempt + 1))
        assert b"again" in house.servers[1 - here].queued("work")
        for other in others:
            quietly(other)
            other.cancel()
    house.stop()
    assert type(outcome(task)) is ClientStopped


@pytest.mark.guarantee(number=7)
def test_a_retry_stays_where_there_is_no_other_server() -> None:
    house = House(2)
    house.servers[1].refuse_connections()
    task = house.client.add_task("work", retries=1)
    house.server.take("work").fail()
    house.advance(0.5)
    house.server.take("work").complete(b"done")
    assert outcome(task) == b"done"
    house.stop()


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize("drop", [MemoryJobServer.drop_before, MemoryJobServer.drop_after])
def test_a_background_task_that_was_written_is_never_submitted_again(drop: Callable[..., Fault]) -> None:
    house = House(2, server_wait=100.0).start()
    for server in house.servers:
        drop(server, SUBMIT_JOB_BG)
    with writes() as written:
        tasks = [house.client.add_task_bg("work", b"%d" % number) for number in range(2)]
        house.advance(120)
    assert [type(error) for error in outcomes(tasks)] == [TaskLost] * 2
    assert len(written) == 2
    house.stop()


@pytest.mark.guarantee(number=7)
@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(["drop", "hold", "silence", "down", "well again", "wait"]), max_size=12),
    st.integers(0, 12),
)
def test_a_background_task_is_written_once_whatever_is_lost(steps: list[str], when: int) -> None:
    house = House(2, server_wait=20.0, ack_timeout=5.0).start()
    tasks: list[Deferred[Any]] = []
    with writes() as written:
        for number, step in enumerate([*steps, "wait"]):
            if number == min(when, len(steps)):
                tasks.append(house.client.add_task_bg("work", MORE_THAN_A_TRANSPORT_TAKES))
                tasks.append(house.client.add_task_bg("work", b"1", unique="u"))
                tasks.append(house.client.add_task_bg("work", b"2"))
            go_on(house, step)
        go_on(house, "well again")
        house.advance(120)
    told = outcomes(tasks)
    assert {type(each) for each in told} <= {JobHandle, TaskLost, NoServersAvailable}
    assert len(set(written)) == len(written)
    assert len(written) == sum(not isinstance(each, NoServersAvailable) for each in told)
    stopped = house.client.stopService()
    house.advance()
    assert outcome(stopped) is not NOTHING
    assert house.clock.getDelayedCalls() == []


def go_on(house: House, step: str) -> None:
    """Let something happen to the first server."""
    server = house.server
    if step == "drop" and server.connections:
        server.drop_connections()
    elif step == "hold":
        server.hold_answers()
    elif step == "silence":
        server.fall_silent()
    elif step == "down":
        server.go_down()
    elif step == "wait":
        house.advance(2)
    elif step == "well again":
        for fault in list(server._lasting):
            fault.end()


def cancel_it(house: House, tasks: list[Deferred[Any]]) -> None:
    tasks[0].cancel()


def stop_the_client(house: House, tasks: list[Deferred[Any]]) -> None:
    house.client.stopService()


def stop_and_start(house: House, tasks: list[Deferred[Any]]) -> None:
    house.client.stopService()
    house.client.startService()


def raise_something(house: House, tasks: list[Deferred[Any]]) -> None:
    raise ZeroDivisionError("of the caller's own")


def add_another(house: House, tasks: list[Deferred[Any]]) -> None:
    tasks.append(house.client.add_task("work", b"more"))


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
def test_on_retry_does_what_it_likes(
    action: Callable[[House, list[Deferred[Any]]], None],
    kind: type,
    go_wrong: Callable[[House], None],
    logged_failures: Failures,
) -> None:
    house = House(server_wait=100.0)
    seen: Seen = []
    tasks: list[Deferred[Any]] = []

    def on_retry(task: Task, attempt: int) -> None:
        seen.append(("retry", attempt))
        action(house, tasks)

    options = {**noting(seen), "on_retry": on_retry}
    tasks.append(house.client.add_task("work", b"first", retries=1, timeout=1000, **options))
    go_wrong(house)
    house.advance(10)
    for load in loads_of_done(house):
        assert load in (b"first", b"more")
    assert type(outcome(tasks[0])) is kind
    assert names(seen).count("complete") + names(seen).count("fail") == 1
    assert names(seen)[-1] == ("complete" if kind is bytes else "fail")
    assert NOTHING not in outcomes(tasks)
    assert len(logged_failures.flush(ZeroDivisionError)) == (action is raise_something)
    house.stop()


def loads_of_done(house: House) -> list[bytes]:
    """Complete every job for `work`; return their workloads."""
    done = house.server.queued("work")
    for _ in done:
        house.server.take("work").complete(b"done")
    return done


@pytest.mark.guarantee(number=1)
def test_the_time_may_be_over_when_the_rest_is() -> None:
    for timeout in (0.49, 0.5, 0.51):
        house = House()
        seen: Seen = []
        task = house.client.add_task("work", retries=1, timeout=timeout, **noting(seen))
        house.server.take("work").fail()
        house.advance(1)
        assert type(outcome(task)) is TaskTimedOut
        assert names(seen).count("fail") == 1
        house.stop()


@pytest.mark.guarantee(number=9)
def test_a_resting_task_that_is_cancelled_is_not_submitted_again() -> None:
    house = House()
    task = house.client.add_task("work", retries=1)
    house.server.take("work").fail()
    task.cancel()
    assert type(outcome(task)) is CancelledError
    house.advance(100)
    assert house.server.queued("work") == []
    assert house.clock.getDelayedCalls() == []
    house.stop()


# Patience.


def test_tasks_survive_a_restart_of_the_only_server() -> None:
    house = House(server_wait=100.0).start()
    down = house.server.go_down(lose_jobs=True)
    tasks = [house.client.add_task("work", b"%d" % number, unique=b"%d" % number) for number in range(3)]
    handle = house.client.add_task_bg("work", b"3")
    house.advance(20)
    assert outcomes([*tasks, handle]) == [NOTHING] * 4
    down.end()
    house.advance(LONGEST_BACK_OFF)
    assert isinstance(outcome(handle), JobHandle)
    assert house.server.queued("work") == [b"0", b"1", b"2", b"3"]
    loads_of_done(house)
    assert outcomes(tasks) == [b"done"] * 3
    house.stop()


def test_without_patience_they_fail_at_once_and_tell_why() -> None:
    house = House(2).start()
    for server in house.servers:
        server.go_down()
    house.advance(3)  # each was tried again; Twisted 22.4 takes a second or more
    error = outcome(house.client.add_task("work"))
    assert type(error) is NoServersAvailable
    assert {address: type(reason) for address, reason in error.reasons.items()} == {
        "endpoint:0": ConnectionRefusedError,
        "endpoint:1": ConnectionRefusedError,
    }
    house.stop()


def test_patience_has_an_end_and_tells_why() -> None:
    house = House(2, server_wait=5.0).start()
    for server in house.servers:
        server.go_down()
    seen: Seen = []
    task = house.client.add_task("work", **noting(seen))
    house.advance(4.9)
    assert outcome(task) is NOTHING
    house.advance(0.2)
    error = outcome(task)
    assert (type(error), set(error.reasons)) == (NoServersAvailable, {"endpoint:0", "endpoint:1"})
    assert seen == [("fail", error)]
    house.stop()


def test_patience_and_then_a_retry() -> None:
    house = House(server_wait=100.0).start()
    down = house.server.go_down()
    seen: Seen = []
    task = house.client.add_task("work", retries=1, **noting(seen))
    house.advance(100)
    assert names(seen) == ["retry"]
    down.end()
    house.advance(LONGEST_BACK_OFF)
    house.server.take("work").complete(b"done")
    assert outcome(task) == b"done"
    house.stop()


@pytest.mark.guarantee(number=9)
def test_a_patient_task_that_is_cancelled_is_never_sent() -> None:
    house = House(server_wait=100.0).start()
    down = house.server.go_down()
    tasks = [house.client.add_task("work", b"%d" % number) for number in range(3)]
    tasks[1].cancel()
    assert type(outcome(tasks[1])) is CancelledError
    down.end()
    house.advance(5)
    assert loads(house.server) == [b"0", b"2"]
    house.stop()
    assert [type(error) for error in outcomes(tasks[::2])] == [ClientStopped] * 2


@pytest.mark.guarantee(number=9)
def test_a_patient_task_that_another_ones_end_cancels() -> None:
    house = House(server_wait=5.0)
    house.server.refuse_connections()
    house.start()
    first, second = (house.client.add_task("work") for _ in range(2))
    first.addErrback(lambda _: second.cancel())
    house.advance(5)
    assert type(outcome(second)) is CancelledError
    house.stop()


def test_a_failed_attempt_to_connect_costs_nothing_for_each_patient_task(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(server_wait=10_000.0).start()
    down = house.server.go_down()
    tasks = [house.client.add_task("work", b"%d" % number) for number in range(10_000)]
    chosen = 0
    place = Dispatcher._place

    def counting(dispatcher: Dispatcher, task: Task) -> None:
        nonlocal chosen
        chosen += 1
        place(dispatcher, task)

    monkeypatch.setattr(Dispatcher, "_place", counting)
    house.advance(600)
    assert (down.happened > 15, chosen) == (True, 0)
    down.end()
    house.advance(LONGEST_BACK_OFF)
    assert chosen == 10_000
    assert house.server.queued("work") == [b"%d" % number for number in range(10_000)]
    house.stop()
    outcomes(tasks)


@pytest.mark.guarantee(number=11)
def test_a_stop_ends_those_who_wait_wherever_they_do() -> None:
    seen: Seen = []
    for place in PLACES:
        house, task = place(seen)
        house.advance()
        stopped = house.client.stopService()
        again = house.client.stopService()
        assert type(outcome(task)) is ClientStopped
        house.advance(3)
        assert NOTHING not in outcomes([stopped, again])
        house.stop()
    assert names(seen).count("fail") == len(PLACES)


@pytest.mark.guarantee(number=1)
def test_drain_awaits_those_who_wait_wherever_they_do() -> None:
    for place in PLACES:
        house, task = place([])
        drained = house.client.drain()
        house.advance(0.1)
        assert outcome(drained) is NOTHING
        stop(house)
        assert type(outcome(task)) is ClientStopped
        assert outcome(drained) is None


@pytest.mark.guarantee(number=9)
def test_a_task_that_waits_for_a_connecting_server_and_that_another_ones_end_cancels() -> None:
    house = House()
    house.server.refuse_connections()
    first, second, third = (house.client.add_task("work") for _ in range(3))
    first.addErrback(lambda _: second.cancel())
    second.addErrback(lambda _: third.cancel())
    house.advance()
    assert type(outcome(third)) is CancelledError
    house.stop()


# The gate.


def test_no_more_than_so_many_are_in_flight_and_the_others_wait_in_order() -> None:
    house = House(max_in_flight=2).start()
    tasks = [house.client.add_task("work", b"%d" % number) for number in range(6)]
    done: list[bytes] = []
    while not all(task.called for task in tasks):
        house.advance()
        assert house.client.servers[0].in_flight <= 2
        job = house.server.take("work")
        done.append(job.workload)
        job.complete(job.workload)
    assert done == outcomes(tasks) == [b"%d" % number for number in range(6)]
    house.stop()


def test_a_resting_task_keeps_its_place_behind_the_gate() -> None:
    house = House(max_in_flight=1)
    tasks = [house.client.add_task("work", b"1", retries=1), house.client.add_task("work", b"2")]
    house.server.take("work").fail()
    assert house.server.queued("work") == []
    house.advance(0.5)
    assert loads_of_done(house) == [b"1"]
    assert loads_of_done(house) == [b"2"]
    assert outcomes(tasks) == [b"done"] * 2
    house.stop()


@pytest.mark.guarantee(number=9)
def test_a_task_at_the_gate_that_is_cancelled_is_never_sent() -> None:
    house = House(max_in_flight=1)
    tasks = [house.client.add_task("work", b"%d" % number) for number in range(4)]
    tasks[1].cancel()
    assert type(outcome(tasks[1])) is CancelledError
    assert loads_of_done(house) == [b"0"]
    assert loads_of_done(house) == [b"2"]
    assert loads_of_done(house) == [b"3"]
    assert outcome(house.client.drain()) is None
    house.stop()


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("wanted", [False, True])
def test_the_job_of_a_cancelled_task_is_dropped_where_that_is_wanted(wanted: bool) -> None:
    server = MemoryJobServer()
    client = server.client()
    task = client.add_task("work", drop_on_cancel=wanted)
    server.advance()
    quietly(task)
    task.cancel()
    server.advance()
    assert len(server.queued("work")) == (0 if wanted else 1)
    server.close()


def test_a_background_task_is_in_flight_until_the_server_has_it() -> None:
    house = House(max_in_flight=3)
    tasks = [house.client.add_task_bg("work", b"%d" % number) for number in range(10)]
    assert loads(house.server) == [b"%d" % number for number in range(10)]
    assert NOTHING not in outcomes(tasks)
    house.stop()


def test_what_a_callback_submits_waits_behind_those_at_the_gate() -> None:
    house = House(max_in_flight=1)
    more: list[Deferred[bytes]] = []
    first = house.client.add_task("work", b"1", on_complete=lambda *_: more.append(house.client.add_task("work", b"3")))
    second = house.client.add_task("work", b"2")
    assert [loads_of_done(house) for _ in range(4)] == [[b"1"], [b"2"], [b"3"], []]
    assert outcomes([first, second, *more]) == [b"done"] * 3
    house.stop()


def test_what_is_submitted_while_others_are_let_in_waits_behind_those_at_the_gate() -> None:
    """Even where it finds room that one of them is about to take."""
    house = House(max_in_flight=2).start()
    ended: list[str] = []

    def ending(name: str) -> dict[str, Any]:
        return {"on_fail": lambda task, reason: ended.append(name)}

    def make_room(task: Task, reason: Exception) -> None:
        ended.append("first at the gate")
        tasks[1].cancel()
        tasks.append(house.client.add_task("work", **ending("submitted last")))

    tasks = [house.client.add_task("work", **ending(name)) for name in ("first", "second")]
    tasks.append(house.client.add_task("work", on_fail=make_room))
    tasks.append(house.client.add_task("work", **ending("last at the gate")))
    house.advance()
    house.server.go_down()
    assert NOTHING not in outcomes(tasks)
    assert ended == ["first", "first at the gate", "second", "last at the gate", "submitted last"]
    house.stop()


@pytest.mark.guarantee(number=1)
def test_a_stop_ends_those_at_the_gate_though_the_client_is_started_in_it() -> None:
    house = House(max_in_flight=1).start()
    tasks = [house.client.add_task("work", b"%d" % number) for number in range(3)]
    tasks[0].addErrback(lambda _: house.client.startService())
    house.client.stopService()
    house.advance()
    assert [type(error) for error in outcomes(tasks[1:])] == [ClientStopped] * 2
    house.check_that_it_works()
    house.stop()


def test_ten_thousand_at_the_gate_fail_at_once() -> None:
    """In no deeper a call than one."""
    house = House(max_in_flight=1)
    house.server.drop_before(SUBMIT_JOB)
    tasks = [house.client.add_task("work") for _ in range(10_000)]
    drained = house.client.drain()
    house.advance()
    lost, *others = outcomes(tasks)
    assert type(lost) is TaskLost
    assert {type(error) for error in others} == {NoServersAvailable}
    assert outcome(drained) is None
    house.stop()


@pytest.mark.guarantee(number=1)
def test_what_is_submitted_in_a_stop_is_stopped_though_the_gate_was_full() -> None:
    house = House(max_in_flight=1)
    more: list[Deferred[Any]] = []
    tasks = [house.client.add_task("work") for _ in range(3)]
    for task in tasks:
        task.addErrback(lambda _: more.append(house.client.add_task("work")))
    house.advance()
    house.stop()
    assert [type(error) for error in outcomes(more)] == [ClientStopped] * 3
    assert outcome(house.client.drain()) is None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "complete", "fail", "cancel", "lose", "wait", "refuse"]), st.integers(0, 9)
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=100)
@given(STEPS, st.integers(1, 3))
def test_there_are_never_more_in_flight_than_may_be(steps: list[tuple[str, int]], most: int) -> None:
    """Out of those that were let in and have no outcome, the resting and the waiting ones too."""
    house = House(max_in_flight=most, server_wait=100.0).start()
    tasks: list[Deferred[Any]] = []
    loads: list[bytes] = []
    let_in: list[bytes] = []

    def created(task: Task) -> None:
        if not task.attempt:
            let_in.append(task.workload)

    for step, pick in steps:
        if step == "add":
            loads.append(b"%d" % len(loads))
            task = house.client.add_task("work", loads[-1], retries=pick % 3, on_created=created)
            quietly(task)
            tasks.append(task)
        elif step in ("complete", "fail") and house.server.queued("work"):
            getattr(house.server.take("work"), step)()
        elif step == "cancel" and tasks:
            tasks[pick % len(tasks)].cancel()
        elif step == "lose" and house.server.connections:
            house.server.drop_connections()
        elif step == "refuse":
            house.server.reject("QUEUE_ERROR")
        elif step == "wait":
            house.advance(pick)
        house.advance()
        assert house.client.servers[0].in_flight <= most
        assert house.client._dispatcher._inside <= most
    house.advance(100)
    assert let_in == sorted(let_in, key=int)
    while house.server.queued("work"):
        house.server.take("work").complete()
        house.advance(40)
    assert all(task.called for task in tasks)
    stopped = house.client.stopService()
    house.advance()
    assert outcome(stopped) is not NOTHING
    assert house.clock.getDelayedCalls() == []
