"""Many deadlines on one timer (guarantee 10: none leaves a timer behind; guarantee 12: no memory of the past)."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable
from heapq import heapify
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock

from txgearman.connection import timers as deadlines
from txgearman.connection.timers import PROBES_PER_PERIOD, READING_TURNS, DeadlineQueue, PeriodicProbe, Timeout

from ..garbage import is_freed


class Item:
    """An object to which weak references are possible."""


class CountingClock(Clock):
    """Refuses what has been, as a reactor does.

    :ivar made: how many timers there have been.
    """

    made = 0

    def callLater(
        self,
        delay: float,
        callable: Callable[..., object],  # noqa: A002  # Twisted's name
        *args: object,
        **kw: object,
    ) -> IDelayedCall:
        assert delay >= 0
        self.made += 1
        return super().callLater(delay, callable, *args, **kw)


class Kept:
    """A queue, and the items that it has passed on, with the time.

    :ivar react: called when an item is passed on.
    """

    def __init__(self) -> None:
        self.clock = CountingClock()
        self.passed: list[tuple[float, Any]] = []
        self.react: Callable[[Any], object] = lambda item: None
        self.deadlines: DeadlineQueue[Any] = DeadlineQueue(self.clock, self._passed)

    def _passed(self, item: Any) -> None:
        self.passed.append((self.clock.seconds(), item))
        self.react(item)

    @property
    def timers(self) -> list[float]:
        return [call.getTime() for call in self.clock.getDelayedCalls()]


@pytest.mark.guarantee(number=10)
def test_items_are_passed_on_at_their_deadlines_in_order() -> None:
    kept = Kept()
    for item, seconds in (("c", 3.0), ("a", 1.0), ("b", 2.0), ("also b", 2.0)):
        kept.deadlines.add(item, seconds)
    kept.clock.advance(0.999)
    assert kept.passed == []
    kept.clock.pump([0.001, 1.0, 1.0])
    assert kept.passed == [(1.0, "a"), (2.0, "b"), (2.0, "also b"), (3.0, "c")]
    assert (len(kept.deadlines), kept.timers) == (0, [])


@pytest.mark.guarantee(number=10)
def test_there_is_one_timer_while_there_are_items() -> None:
    kept = Kept()
    assert kept.timers == []
    for seconds in (5.0, 4.0, 6.0):
        kept.deadlines.add(seconds, seconds)
    assert kept.timers == [4.0]
    kept.deadlines.discard(5.0)
    kept.deadlines.discard(6.0)
    assert kept.timers == [4.0]
    kept.deadlines.discard(4.0)
    assert kept.timers == []


@pytest.mark.guarantee(number=10)
def test_late_items_are_passed_on() -> None:
    """After a reactor was blocked, one timer serves many; what has arrived is read first."""
    kept = Kept()
    for number in range(5):
        kept.deadlines.add(number, number + 1.0)
    kept.clock.advance(100)
    assert [item for _, item in kept.passed] == [0, 1, 2, 3, 4]
    assert (kept.timers, kept.clock.made) == ([], 1 + READING_TURNS)


def test_item_that_is_added_meanwhile_waits_for_next_turn_however_short_its_time_is() -> None:
    kept = Kept()
    order: list[str] = []

    def react(item: str) -> None:
        order.append(item)
        if item == "first":
            kept.clock.callLater(0, order.append, "other code")
            kept.deadlines.add("second", 5e-324)

    kept.react = react
    kept.deadlines.add("first", 1.0)
    kept.clock.advance(1)
    assert order == ["first", "other code", "second"]


@pytest.mark.guarantee(number=10)
def test_time_can_pass_while_items_are_passed_on() -> None:
    """What has become due by the end comes right after it."""
    kept = Kept()
    for number in range(3):
        kept.deadlines.add(number, number + 1.0)

    def take_long(item: Any) -> None:
        kept.clock.rightNow += 1.5

    kept.react = take_long
    kept.clock.advance(1)
    assert kept.passed == [(1.0, 0), (2.5, 1), (4.0, 2)]
    assert kept.timers == []


def test_many_items_need_few_timers() -> None:
    """One that is due after another needs none of its own before that."""
    kept = Kept()
    for number in range(100):
        kept.deadlines.add(number, 30.0 + number)
    assert (kept.timers, kept.clock.made) == ([30.0], 1)


def test_discarded_item_is_never_passed_on() -> None:
    kept = Kept()
    for item in "abc":
        kept.deadlines.add(item, 1.0)
    kept.deadlines.discard("b")
    kept.deadlines.discard("b")  # it is not here any more
    kept.clock.advance(1)
    assert [item for _, item in kept.passed] == ["a", "c"]


def test_timer_without_due_item_waits_for_next() -> None:
    kept = Kept()
    kept.deadlines.add("first", 1.0)
    kept.deadlines.add("second", 2.0)
    kept.deadlines.discard("first")
    kept.clock.advance(1.5)
    assert (kept.passed, kept.timers) == ([], [2.0])
    kept.clock.advance(0.5)
    assert kept.passed == [(2.0, "second")]


def test_callback_can_add_its_item_again() -> None:
    kept = Kept()
    kept.deadlines.add("again", 1.0)
    kept.react = lambda item: kept.deadlines.add(item, 1.0) if len(kept.passed) < 3 else None
    kept.clock.pump([1.0] * 5)
    assert kept.passed == [(1.0, "again"), (2.0, "again"), (3.0, "again")]
    assert kept.timers == []


def test_callback_can_discard_another_item() -> None:
    kept = Kept()
    for item in "abc":
        kept.deadlines.add(item, 1.0)
    kept.react = lambda item: kept.deadlines.discard("b")
    kept.clock.advance(1)
    assert [item for _, item in kept.passed] == ["a", "c"]


@pytest.mark.parametrize("later", [1.0, 2.0])
def test_callback_can_pop_all_items(later: float) -> None:
    kept = Kept()
    kept.deadlines.add("a", 1.0)
    kept.deadlines.add("b", later)
    cleared: list[Any] = []
    kept.react = lambda item: cleared.extend(kept.deadlines.pop_all())
    kept.clock.pump([1.0, 1.0])
    assert ([item for _, item in kept.passed], cleared, kept.timers) == (["a"], ["b"], [])


def test_pop_all_returns_items_in_order_of_addition() -> None:
    kept = Kept()
    for item, seconds in (("a", 3.0), ("b", 1.0), ("c", 2.0)):
        kept.deadlines.add(item, seconds)
    assert kept.deadlines.pop_all() == ["a", "b", "c"]
    assert (len(kept.deadlines), kept.timers, kept.deadlines.pop_all()) == (0, [], [])
    kept.clock.advance(5)
    assert kept.passed == []


def test_deadline_rounded_down_sets_no_second_timer() -> None:
    """3.6 + (7.7 - 3.6) is a little less than 7.7; that is not too early for what is due at 7.7."""
    kept = Kept()
    kept.clock.advance(3.5)
    kept.deadlines.add("first", 0.1)
    kept.deadlines.add("second", 4.2)
    kept.clock.advance(0.1)
    (time,) = kept.timers
    assert time < 3.5 + 4.2
    kept.clock.rightNow = time
    kept.clock.advance(0)
    assert [item for _, item in kept.passed] == ["first", "second"]
    assert kept.timers == []


def test_discarded_item_sets_no_timer() -> None:
    """Whether it was discarded or popped; and it can be discarded or added again."""
    kept = Kept()
    kept.deadlines.add("first", 1.0)
    kept.deadlines.add("discarded", 2.0)
    kept.deadlines.discard("discarded")
    kept.clock.advance(1)
    assert kept.timers == []
    kept.deadlines.add("later", 5.0)
    assert kept.timers == [6.0]
    kept.deadlines.pop_all()
    kept.deadlines.discard("later")
    kept.deadlines.add("last", 9.0)
    assert kept.timers == [10.0]
    kept.deadlines.add("later", 3.0)
    kept.clock.advance(3)
    assert kept.passed == [(1.0, "first"), (4.0, "later")]


def test_remaining_items_are_passed_on_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heap is rebuilt from time to time: seldom enough for discarding in constant time."""
    heaps: list[int] = []

    def heapify_and_count(heap: list[Any]) -> None:
        heaps.append(len(heap))
        heapify(heap)

    monkeypatch.setattr(deadlines, "heapify", heapify_and_count)
    kept = Kept()
    for number in random.Random(5).sample(range(1, 5001), 5000):
        kept.deadlines.add(number, float(number))
    for number in random.Random(6).sample(range(1, 5001), 5000):
        if number % 50:
            kept.deadlines.discard(number)
    assert 1 < len(heaps) < 10
    kept.clock.pump([1.0] * 5000)
    assert kept.passed == [(float(number), number) for number in range(50, 5001, 50)]


@pytest.mark.guarantee(number=12)
def test_discarded_items_are_not_retained() -> None:
    """One that waits long must not keep those that came after it, nor the numbers of millions."""
    kept = Kept()
    kept.deadlines.add("long", 1e6)
    item: Item | None = Item()
    gone = weakref.ref(item)
    kept.deadlines.add(item, 30.0)
    kept.deadlines.discard(item)
    item = None
    assert is_freed(gone)
    for number in range(100_000):
        kept.deadlines.add(number, 30.0)
        kept.deadlines.discard(number)
    assert len(kept.deadlines._heap) < 200
    assert len(kept.timers) == 1


@pytest.mark.guarantee(number=12)
def test_popped_items_are_not_retained() -> None:
    kept = Kept()
    item: Item | None = Item()
    gone = weakref.ref(item)
    kept.deadlines.add(item, 1.0)
    kept.deadlines.pop_all()
    item = None
    assert is_freed(gone)


@pytest.mark.guarantee(number=12)
def test_passed_items_are_not_retained() -> None:
    kept = Kept()
    item: Item | None = Item()
    gone = weakref.ref(item)
    kept.deadlines.add(item, 1.0)
    kept.deadlines.add("another", 2.0)
    kept.clock.advance(1)
    item = None
    kept.passed.clear()
    assert is_freed(gone)


ACTIONS = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 20), st.floats(0.01, 10.0)),
    st.tuples(st.just("discarded"), st.integers(0, 20), st.just(0.0)),
    st.tuples(st.just("advance"), st.just(0), st.floats(0.0, 3.0)),
)


@given(st.lists(ACTIONS, max_size=60))
def test_queue_behaves_as_one_timer_for_each_item(actions: list[tuple[str, int, float]]) -> None:
    kept = Kept()
    model: dict[int, float] = {}
    expected: list[int] = []
    for what, item, seconds in actions:
        if what == "add" and item not in model:
            kept.deadlines.add(item, seconds)
            model[item] = kept.clock.seconds() + seconds
        elif what == "discarded":
            kept.deadlines.discard(item)
            model.pop(item, None)
        elif what == "advance":
            kept.clock.advance(seconds)
            due = [item for item, deadline in model.items() if deadline <= kept.clock.seconds()]
            expected += sorted(due, key=lambda item: model.pop(item))
        assert [item for _, item in kept.passed] == expected
        assert len(kept.deadlines) == len(model)
        assert len(kept.timers) == bool(model)


# The time-out.


class Late:
    """A time-out of 10 s, when it has passed, and what was read before.

    :ivar arrived: how many pieces of data there are to be read, one in each turn of the reactor.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.arrived = 0
        self.passed: list[tuple[float, int]] = []
        self.timeout = Timeout(self.clock, 10.0, lambda: self.passed.append((self.clock.seconds(), self.arrived)))

    def arrive(self, pieces: int) -> None:
        self.arrived = pieces
        self._read()

    def _read(self) -> None:
        if self.arrived:
            self.arrived -= 1
            self.clock.callLater(0, self._read)


@pytest.mark.guarantee(number=10)
def test_timeout_calls_at_its_time() -> None:
    late = Late()
    late.clock.advance(9.75)
    assert late.passed == []
    late.clock.advance(0.25)
    assert (late.passed, late.clock.getDelayedCalls()) == ([(10.0, 0)], [])


@pytest.mark.guarantee(number=10)
@pytest.mark.parametrize(("late_by", "unread"), [(0.05, 3), (2.0, 0)])
def test_late_timeout_calls_after_reactor_has_read(late_by: float, unread: int) -> None:
    """Code that blocked the reactor made it late, and timers come before what has arrived meanwhile."""
    late = Late()
    late.clock.callLater(9.75, late.arrive, 4)
    late.clock.advance(10.0 + late_by)
    assert late.passed == [(10.0 + late_by, unread)]
    assert late.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=10)
def test_timeout_cancelled_while_reactor_reads_calls_nothing() -> None:
    late = Late()
    late.clock.callLater(11.0, late.timeout.cancel)
    late.clock.advance(20.0)
    assert (late.passed, late.clock.getDelayedCalls()) == ([], [])


# The probe.


class Probed:
    """Records the times at which a probe is called, and ends it after so many."""

    def __init__(self, most: int) -> None:
        self.clock = Clock()
        self.times: list[float] = []
        self._most = most
        self.probe = PeriodicProbe(self.clock, 10.0, self._called)

    def _called(self) -> bool:
        self.times.append(self.clock.seconds())
        return len(self.times) < self._most


def test_probe_repeats_several_times_in_a_period_until_it_returns_false() -> None:
    probed = Probed(3)
    assert not probed.probe.on
    probed.probe.start()
    probed.probe.start()  # it does already
    assert probed.probe.on
    probed.clock.pump([1.0] * 60)
    each = 10.0 / PROBES_PER_PERIOD
    assert probed.times == [each, 2 * each, 3 * each]
    assert (probed.probe.on, probed.clock.getDelayedCalls()) == (False, [])


@pytest.mark.guarantee(number=10)
def test_stopped_probe_leaves_no_timer() -> None:
    probed = Probed(3)
    probed.probe.stop()
    probed.probe.start()
    probed.probe.stop()
    assert (probed.probe.on, probed.clock.getDelayedCalls()) == (False, [])
    probed.probe.start()
    probed.clock.advance(10.0 / PROBES_PER_PERIOD)
    assert len(probed.times) == 1


def test_probe_can_stop_itself() -> None:
    clock = Clock()

    def called() -> bool:
        probe.stop()
        return False

    probe = PeriodicProbe(clock, 10.0, called)
    probe.start()
    clock.advance(10.0)
    assert clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=17)
def test_probe_after_a_late_one_leaves_time_to_read() -> None:
    """After code that blocks the reactor, answers that arrived long ago are read only after the timers."""
    probed = Probed(5)
    probed.probe.start()
    probed.clock.advance(100.0)
    assert probed.times == [100.0]
    assert probed.clock.getDelayedCalls()[0].getTime() == 100.0 + 10.0 / PROBES_PER_PERIOD
