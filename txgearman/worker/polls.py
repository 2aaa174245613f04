"""Polls: when connections that sleep are asked for a job though nobody has woken them."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

from twisted.internet.interfaces import IDelayedCall

from ..connection.reactor import Reactor
from .groups import GrabState

__all__ = ["PollSchedule"]

TICKS: Final = 100
"""Parts of an interval. Connections whose polls are due in the same part are polled at once."""

_STRIDE: Final = 61  # ticks from one connection to the next: about the golden section, which spreads any number evenly


class PollSchedule:
    """Connections, each of which is due once in an interval. They are spread over it.

    There is one timer while there are connections, and none otherwise. It fires as often as there are parts of the
    interval that have any.

    :param interval: in seconds.
    :param due: called with the connections that are due.
    """

    def __init__(self, reactor: Reactor, interval: float, due: Callable[[list[GrabState]], object]) -> None:
        self._reactor = reactor
        self._interval = interval
        self._due = due
        self._ticks: dict[GrabState, int] = {}
        self._states: dict[int, dict[GrabState, None]] = {}  # by the tick at which they are due
        self._heap: list[int] = []  # those ticks
        self._timer: IDelayedCall | None = None
        self._begin = 0.0  # the time of tick 0
        self._next_phase = 0

    def add(self, state: GrabState) -> None:
        """Add a connection, which is due within the next interval for the first time."""
        now = self._reactor.seconds()
        if not self._ticks:
            self._begin = now
        phase, self._next_phase = self._next_phase, (self._next_phase + _STRIDE) % TICKS
        self._put(state, int((now - self._begin) * TICKS / self._interval) + TICKS - phase)
        self._set_timer()

    def discard(self, state: GrabState) -> None:
        """Remove a connection, if it is there."""
        tick = self._ticks.pop(state, None)
        if tick is not None:
            del self._states[tick][state]
            if not self._ticks:
                self._states.clear()
                self._heap.clear()
                self._next_phase = 0
                self._set_timer()

    def _put(self, state: GrabState, tick: int) -> None:
        self._ticks[state] = tick
        if tick not in self._states:
            self._states[tick] = {}
            heappush(self._heap, tick)
        self._states[tick][state] = None

    def _set_timer(self) -> None:
        """Have the timer fire at the first tick that has connections."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            time = self._begin + self._heap[0] * self._interval / TICKS
            self._timer = self._reactor.callLater(max(0.0, time - self._reactor.seconds()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        tick = heappop(self._heap)
        states = list(self._states.pop(tick))
        for state in states:
            self._put(state, tick + TICKS)
        self._set_timer()
        if states:
            self._due(states)
