"""Time in a test: exact, the same in every run, and never endless."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from txgearman import NoServersAvailable, TaskLost, TaskTimedOut
from txgearman.testing import MemoryJobServer
from txgearman.testing.clock import EndlessLoop, MemoryClock, name_of_call, place_of

from ..wire import outcome

reactor: Any = global_reactor


# Exact.


def test_clock_starts_at_0() -> None:
    server = MemoryJobServer()
    assert (server.clock.seconds(), type(server.clock)) == (0.0, MemoryClock)


@pytest.mark.guarantee(number=10)
@pytest.mark.parametrize("step", [0.1, 0.3, 1 / 3, 1e-3])
def test_fractions_add_up(step: float) -> None:
    server = MemoryJobServer()
    deferred = server.client().add_task("reverse", timeout=10)
    for _ in range(round(10 / step)):
        server.advance(step)
    server.advance(10 - round(10 / step) * step if round(10 / step) * step < 10 else 0)
    with pytest.raises(TaskTimedOut):
        server.result_of(deferred)
    server.close()


@pytest.mark.parametrize(
    ("seconds", "error"),
    [(-5, ValueError), (math.nan, ValueError), (math.inf, ValueError), ("5", TypeError), (True, TypeError)],
)
@pytest.mark.guarantee(number=8)
def test_invalid_seconds_are_refused(seconds: Any, error: type[Exception]) -> None:
    server = MemoryJobServer()
    with pytest.raises(error, match=r"^seconds must be a .*, not "):
        server.advance(seconds)
    assert server.clock.seconds() == 0


# Scheduled jobs.


def test_at_is_the_time_of_the_clock() -> None:
    server = MemoryJobServer()
    client = server.client()
    server.advance(0.5)
    client.add_task_bg("mail", at=server.clock.seconds() + 60)  # rounded up to 61
    server.advance(60)
    with pytest.raises(AssertionError, match=r"is queued, and due in 0.5 s \(at=61; the clock is at 60.5\)"):
        server.take("mail")
    server.advance(0.5)
    assert server.take("mail").at == 61


@pytest.mark.parametrize("late", [0.0, 0.9, 30.0])
def test_posix_time_means_so_long_after_now(late: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded down, so that it is enough to advance by as much, however long the test takes in the world."""
    server = MemoryJobServer()
    client = server.client()
    server.advance(7)
    now = time.time()
    client.add_task_bg("mail", at=now + 60)
    monkeypatch.setattr(time, "time", lambda: now + late)
    server.queued("mail")
    server.advance(29)
    if late < 30:
        with pytest.raises(AssertionError, match="no job for 'mail' is due"):
            server.take("mail")
    server.advance(31)
    assert 7 <= server.take("mail").at <= 67


def test_time_that_has_passed_is_now() -> None:
    server = MemoryJobServer()
    server.advance(5)
    server.client().add_task_bg("mail", at=time.time() - 1000)
    assert server.take("mail").at == 5


def test_clock_that_shows_posix_time_is_taken_as_it_is() -> None:
    clock = Clock()
    clock.advance(1_800_000_000)
    server = MemoryJobServer(clock)
    server.client().add_task_bg("mail", at=1_800_000_060)
    server.advance(60)
    assert server.take("mail").at == 1_800_000_060


# The same in every run.

RUNS = 50


def reconnects_after_drop() -> object:
    server = MemoryJobServer()
    client = server.client()
    server.drop_connections()
    server.advance(0.5)
    fired = outcome(client.add_task("reverse"))
    server.advance()
    return [type(error) for error in fired], [info.next_attempt for info in client.servers]


def reconnects_after_ten_seconds() -> object:
    server = MemoryJobServer()
    client = server.client()
    with server.go_down():
        server.advance(10)
    server.advance(5)
    return [(info.state, info.next_attempt) for info in client.servers]


def retries_while_server_is_down() -> object:
    """The plainest failure of an application: the server is down for a second, and the task has two retries."""
    server = MemoryJobServer()
    client = server.client()
    fired = outcome(client.add_task("reverse", retries=2))
    server.advance()
    with server.go_down():
        server.advance(1)
    server.advance(5)
    return [str(error) for error in fired], server.queued("reverse")


@pytest.mark.parametrize(
    "run",
    [reconnects_after_drop, reconnects_after_ten_seconds, retries_while_server_is_down],
    ids=lambda run: run.__name__,
)
def test_each_run_is_the_same(run: Callable[[], object]) -> None:
    first = run()
    assert [run() for _ in range(RUNS - 1)] == [first] * (RUNS - 1)


def test_two_seconds_suffice_for_the_first_attempt() -> None:
    """As the guide has it."""
    server = MemoryJobServer()
    clients = [server.client() for _ in range(20)]
    server.drop_connections()
    server.advance(2)
    assert len(server.connections) == len(clients)
    server.close()


def test_reconnect() -> None:
    server = MemoryJobServer()
    other = MemoryJobServer(server.clock)
    client, worker = server.client(other), server.worker()
    with server.go_down(), other.go_down():
        server.advance(100)
    server.reconnect()
    assert [len(each.connections) for each in (server, other)] == [2, 0]
    assert (worker.servers[0].next_attempt, client.servers[0].next_attempt) == (None, None)
    other.reconnect()
    assert len(other.connections) == 1
    server.reconnect()
    server.close()


@pytest.mark.parametrize("fault", ["go_down", "refuse_connections", "black_hole_connections"])
def test_reconnect_needs_a_server_that_accepts(fault: str) -> None:
    server = MemoryJobServer()
    client = server.client()
    server.drop_connections()
    getattr(server, fault)()
    with pytest.raises(AssertionError, match=rf"^reconnect\(\) needs a server .*\n.*faults that last: {fault}\(\)"):
        server.reconnect()
    with pytest.raises(NoServersAvailable):
        server.result_of(client.add_task("reverse"))
    server.advance(30)
    server.close()


def test_reconnect_needs_a_clock() -> None:
    server = MemoryJobServer(reactor)
    with pytest.raises(TypeError, match=r"^advance\(\) needs a Clock"):
        server.reconnect()


def test_lost_task_is_lost_at_once() -> None:
    server = MemoryJobServer()
    deferred = server.client().add_task("reverse")
    server.take("reverse")
    server.drop_connections()
    with pytest.raises(TaskLost):
        server.result_of(deferred)
    server.close(verify=False)


# Never endless.


def test_endless_loop_of_zero_delays_ends() -> None:
    server = MemoryJobServer()
    server.clock.max_turns = 500
    runs: list[int] = []

    def again() -> None:
        runs.append(1)
        server.clock.callLater(0, again)

    server.clock.callLater(3, again)
    server.advance(2)
    with pytest.raises(EndlessLoop, match=rf"^500 calls were run while the clock stood at 3.0 s: .*{__name__}.*again$"):
        server.advance(1)
    assert len(runs) == 500
    with pytest.raises(AssertionError, match=rf"a timer is left on the clock: {__name__}.*again, due at 3 s"):
        server.close()


def test_endless_loop_that_starts_at_close_ends() -> None:
    server = MemoryJobServer()
    server.clock.max_turns = 500

    def again() -> None:
        server.clock.callLater(0, again)

    again()
    with pytest.raises(EndlessLoop):
        server.close()
    server.close()
    server.clock.callLater(-1, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        server.close()


def test_as_many_calls_as_allowed_may_run_at_a_time() -> None:
    clock = MemoryClock()
    clock.max_turns = 500
    runs: list[int] = []
    for _ in range(499):
        clock.callLater(0, runs.append, 1)
    clock.advance(0)
    clock.advance(0)
    assert len(runs) == 499


class Mirror:
    """The same calls on a `Clock` of Twisted and on a `MemoryClock`."""

    def __init__(self) -> None:
        self.clocks: list[Clock] = [Clock(), MemoryClock()]
        self.ran: list[list[tuple[int, float]]] = [[], []]
        self.calls: list[list[Any]] = [[], []]

    def add(self, delay: float) -> None:
        for clock, ran, calls in zip(self.clocks, self.ran, self.calls, strict=True):
            calls.append(clock.callLater(delay, self._run, clock, ran, len(calls)))

    def _run(self, clock: Clock, ran: list[tuple[int, float]], number: int) -> None:
        ran.append((number, clock.seconds()))

    def change(self, name: str, number: int, *seconds: float) -> None:
        for calls in self.calls:
            if number < len(calls) and calls[number].active():
                getattr(calls[number], name)(*seconds)

    def advance(self, seconds: float) -> None:
        for clock in self.clocks:
            clock.advance(seconds)


whole = st.integers(0, 5)
STEPS = st.one_of(
    st.tuples(st.just("add"), whole),
    st.tuples(st.just("advance"), whole),
    st.tuples(st.just("reset"), st.integers(0, 9), whole),
    st.tuples(st.just("delay"), st.integers(0, 9), whole),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
)


@given(st.lists(STEPS, max_size=30))
def test_calls_run_as_on_the_clock_of_twisted(steps: list[tuple[Any, ...]]) -> None:
    """At the same times, whatever is reset, delayed or cancelled."""
    mirror = Mirror()
    for name, *arguments in [*steps, ("advance", 1000)]:
        if name in ("add", "advance"):
            getattr(mirror, name)(*arguments)
        else:
            mirror.change(name, *arguments)
        left = [sorted(call.getTime() for call in clock.getDelayedCalls()) for clock in mirror.clocks]
        assert left[0] == left[1]
        assert sorted(mirror.ran[0]) == sorted(mirror.ran[1])
        assert [time for _, time in mirror.ran[0]] == [time for _, time in mirror.ran[1]]


def test_delayed_call_runs_later() -> None:
    clock = MemoryClock()
    ran: list[float] = []
    call = clock.callLater(1, lambda: ran.append(clock.seconds()))
    call.delay(2)
    for _ in range(4):
        clock.advance(1)
    assert ran == [3]


# Names and places.


class Called:
    def __call__(self) -> None: ...

    def __repr__(self) -> str:
        return "<Called>"


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (place_of, "txgearman.testing.clock.place_of"),
        (partial(partial(outcome), None), "tests.wire.outcome"),
        (Called(), "<Called>"),
    ],
)
def test_name_of_call(function: object, name: str) -> None:
    assert name_of_call(function) == name


def test_place_outside_of_the_directory_is_named_in_full() -> None:
    assert place_of("/somewhere/else.py", 3) == "/somewhere/else.py:3"


def test_timer_knows_where_it_was_set() -> None:
    server = MemoryJobServer()
    call: Any = server.clock.callLater(1, outcome, Deferred())
    assert call.creator[0].startswith("tests/testing/test_clock.py:")
    call.cancel()
    server.client()
    assert all(getattr(each, "creator", None) is None for each in server.clock.getDelayedCalls())
    server.close()
