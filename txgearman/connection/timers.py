"""Timers: deadlines of many items on one timer of the reactor, and a probe that repeats."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall

from .reactor import Reactor

__all__ = [
    "DeadlineQueue",
    "PROBES_PER_PERIOD",
    "PeriodicProbe",
]

T = TypeVar("T")

_SPARE: Final = 64  # entries of the heap that may be stale, whatever there is besides


class DeadlineQueue(Generic[T]):
    """Items, each with a time at which it is handed over unless it was let go before.

    There is one timer while there is an item, and none otherwise. To add or to let go of an item takes the same time
    however many there are, and nothing of an item is kept once it is gone.
    """

    __slots__ = ("_call", "_due", "_heap", "_items", "_number", "_numbers", "_passed", "_reactor")

    def __init__(self, reactor: Reactor, passed: Callable[[T], object]) -> None:
        """
        :param passed: is called with each item whose time has come. It may raise nothing.
        """
        self._reactor = reactor
        self._passed = passed
        self._heap: list[tuple[float, int]] = []  # with stale numbers in it: taking one out would take a search
        self._items: dict[int, T] = {}
        self._numbers: dict[T, int] = {}
        self._number = 0
        self._call: IDelayedCall | None = None
        self._due = 0.0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T, seconds: float) -> None:
        """Hand `item` over in so many seconds. It must not be here already."""
        deadline = self._reactor.seconds() + seconds
        number = self._number = self._number + 1
        self._items[number] = item
        self._numbers[item] = number
        heappush(self._heap, (deadline, number))
        if self._call is None or deadline < self._due:
            self._set_timer()

    def discard(self, item: T) -> None:
        """Forget `item`, if it is here."""
        number = self._numbers.pop(item, None)
        if number is not None:
            del self._items[number]
            if not self._items:
                self.pop_all()
            elif len(self._heap) > 2 * len(self._items) + _SPARE:
                self._heap = [entry for entry in self._heap if entry[1] in self._items]
                heapify(self._heap)

    def pop_all(self) -> list[T]:
        """Forget all items, and return them in the order in which they came."""
        items = list(self._items.values())
        self._items.clear()
        self._numbers.clear()
        self._heap.clear()
        self._stop_timer()
        return items

    def _set_timer(self) -> None:
        self._stop_timer()
        self._due = self._heap[0][0]
        self._call = self._reactor.callLater(max(0.0, self._due - self._reactor.seconds()), self._time_has_come)

    def _stop_timer(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _time_has_come(self) -> None:
        self._call = None
        # Not the heap's first itself: what is handed over may add, let go, and clear.
        now = max(self._reactor.seconds(), self._due)  # what rounding makes of a sum must not bring it here twice
        while self._heap and self._heap[0][0] <= now:
            item = self._items.pop(heappop(self._heap)[1], None)
            if item is not None:
                del self._numbers[item]
                self._passed(item)
        if self._items:
            self._set_timer()
        else:
            self.pop_all()


PROBES_PER_PERIOD: Final = 2
"""Looks in vain, one after the other, that make a silence. One is not enough: where somebody's code has blocked the
reactor, a timer comes late, and just before the bytes that have long been there are read."""


class PeriodicProbe:
    """Looks at something several times in each of its periods, for as long as there is something to look at."""

    __slots__ = ("_call", "_interval", "_look", "_reactor", "on")

    def __init__(self, reactor: Reactor, seconds: float, look: Callable[[], bool]) -> None:
        """
        :param seconds: the period, in which it looks `PROBES_PER_PERIOD` times.
        :param look: returns whether it is to look again.
        """
        self._reactor = reactor
        self._interval = seconds / PROBES_PER_PERIOD
        self._look = look
        self._call: IDelayedCall | None = None
        self.on = False
        """Whether it will look."""

    def start(self) -> None:
        """Look from now on, if it does not already."""
        if self._call is None:
            self.on = True
            self._call = self._reactor.callLater(self._interval, self._time_has_come)

    def stop(self) -> None:
        """Look no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
            self.on = False

    def _time_has_come(self) -> None:
        self._call = None
        self.on = False
        if self._look():
            self.start()
