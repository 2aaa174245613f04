"""Timers: a time-out, deadlines of many items on one timer of the reactor, and a periodic probe.

**Blocked reactors.** After code that has blocked the reactor, its timers fire before it reads what has arrived
meanwhile. So no time-out is believed before that was read: one that fires late lets the reactor read first.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeVar

from .reactor import Reactor

__all__ = [
    "DeadlineQueue",
    "PROBES_PER_PERIOD",
    "PeriodicProbe",
    "READING_TURNS",
    "Timeout",
]

T = TypeVar("T")

_MAX_LATENESS: Final = 0.1  # seconds; a timer that fires later than that was held up by code that blocked the reactor

READING_TURNS: Final = 100
"""Turns of the reactor that read what has arrived. In each, a connection reads 64 KiB, and Linux keeps 6 MiB for it at
most, by default. If nothing is to be read, all of them take some milliseconds."""

_MIN_STALE: Final = 64  # stale entries that the heap may always have


class Timeout:
    """Call of a function after some seconds. If it is late, the reactor first reads what has arrived until then.

    On a `Clock` it is called within the same ``advance()`` in any case.

    :param passed: called after `seconds`, unless the time-out was cancelled.
    """

    __slots__ = ("_call", "_due", "_passed", "_reactor", "_turns")

    def __init__(self, reactor: Reactor, seconds: float, passed: Callable[[], object]) -> None:
        self._reactor = reactor
        self._passed = passed
        self._turns = 0
        self._due = reactor.seconds() + seconds
        self._call = reactor.callLater(seconds, self._fire)

    def cancel(self) -> None:
        """Do not call the function, which was not called yet."""
        self._call.cancel()

    def _fire(self) -> None:
        late = self._turns > 0 or self._reactor.seconds() - self._due > _MAX_LATENESS
        if late and self._turns < READING_TURNS:
            self._turns += 1
            self._call = self._reactor.callLater(0, self._fire)
        else:
            self._passed()


class DeadlineQueue(Generic[T]):
    """Items, each with a deadline at which it is passed to a callback unless it was discarded before.

    There is one timer while there are items, and none otherwise. Adding and discarding take constant time, and no
    reference to an item is kept after its removal.

    :param passed: called with each item whose deadline has passed. It must not raise.
    """

    __slots__ = ("_call", "_due", "_heap", "_items", "_number", "_numbers", "_passed", "_reactor")

    def __init__(self, reactor: Reactor, passed: Callable[[T], object]) -> None:
        self._reactor = reactor
        self._passed = passed
        self._heap: list[tuple[float, int]] = []  # keeps discarded numbers, since removing one would take a search
        self._items: dict[int, T] = {}
        self._numbers: dict[T, int] = {}
        self._number = 0
        self._call: Timeout | None = None
        self._due = 0.0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T, seconds: float) -> None:
        """Add an item, which must not be in the queue, with its deadline in `seconds`."""
        deadline = self._reactor.seconds() + seconds
        number = self._number = self._number + 1
        self._items[number] = item
        self._numbers[item] = number
        heappush(self._heap, (deadline, number))
        if self._call is None or deadline < self._due:
            self._set_timer()

    def discard(self, item: T) -> None:
        """Remove an item, if it is in the queue."""
        number = self._numbers.pop(item, None)
        if number is not None:
            del self._items[number]
            if not self._items:
                self.pop_all()
            elif len(self._heap) > 2 * len(self._items) + _MIN_STALE:
                self._heap = [entry for entry in self._heap if entry[1] in self._items]
                heapify(self._heap)

    def pop_all(self) -> list[T]:
        """Remove all items, and return them in the order in which they were added."""
        if not self._heap:
            return []  # and there is no timer
        items = list(self._items.values())
        self._items.clear()
        self._numbers.clear()
        self._heap.clear()
        self._stop_timer()
        return items

    def _set_timer(self) -> None:
        self._stop_timer()
        self._due = self._heap[0][0]
        self._call = Timeout(self._reactor, max(0.0, self._due - self._reactor.seconds()), self._fire)

    def _stop_timer(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _fire(self) -> None:
        self._call = None
        # The callback may add and discard items, so the heap is looked at again each time.
        now = max(self._reactor.seconds(), self._due)  # rounding may let it fire slightly before the deadline
        last = self._number  # what is added from here on waits for the next turn, however short its time is
        while self._heap and self._heap[0] <= (now, last):
            item = self._items.pop(heappop(self._heap)[1], None)
            if item is not None:
                del self._numbers[item]
                self._passed(item)
        if self._items:
            self._set_timer()
        else:
            self.pop_all()


PROBES_PER_PERIOD: Final = 2
"""Consecutive checks without progress that count as silence of the period."""


class PeriodicProbe:
    """Check that is repeated several times in each period, until it reports that it is no longer needed.

    :param seconds: the period, in which `probe` is called `PROBES_PER_PERIOD` times.
    :param probe: returns whether to go on.
    """

    __slots__ = ("_call", "_interval", "_probe", "_reactor", "on")

    def __init__(self, reactor: Reactor, seconds: float, probe: Callable[[], bool]) -> None:
        self._reactor = reactor
        self._interval = seconds / PROBES_PER_PERIOD
        self._probe = probe
        self._call: Timeout | None = None
        self.on = False
        """Whether a check is scheduled."""

    def start(self) -> None:
        """Start checking, unless it has started already."""
        if self._call is None:
            self.on = True
            self._call = Timeout(self._reactor, self._interval, self._fire)

    def stop(self) -> None:
        """Stop checking."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
            self.on = False

    def _fire(self) -> None:
        self._call = None
        self.on = False
        if self._probe():
            self.start()
