"""History of functions and servers: ring buffers of their numbers, in memory."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = ["History", "Numbers", "Series"]

MAX_POINTS: Final = 1800
"""Points of a ring buffer: of one hour at a poll every two seconds."""

MAX_FUNCTIONS: Final = 1000
"""Functions that have a history: everyone who reaches a server can create functions. Each takes up to 38 kB."""

MINUTES: Final = 60
"""Minutes whose maxima are kept, for sparklines."""

_MAX_NUMBER: Final = 2**32 - 1  # gearmand counts in 32 bits, too; other servers may report anything


class Numbers(NamedTuple):
    """Numbers of a function or a server at one time."""

    waiting: int
    running: int
    workers: int


class Series:
    """Points of one function or server, the oldest of which are overwritten; and the maximum of each minute."""

    def __init__(self, size: int = MAX_POINTS) -> None:
        self._size = size
        self._times = array("d")
        self._numbers = array("I")
        self._oldest = 0
        self._maxima: deque[int | None] = deque(maxlen=MINUTES)
        self._minute = 0

    def add(self, now: float, numbers: Numbers) -> None:
        """Add a point.

        :param now: its time, in POSIX seconds.
        """
        values = array("I", (min(max(number, 0), _MAX_NUMBER) for number in numbers))
        position = self._oldest
        if len(self._times) < self._size:
            self._times.append(now)
            self._numbers.extend(values)
        else:
            self._times[position] = now
            self._numbers[position * len(values) : (position + 1) * len(values)] = values
            self._oldest = (position + 1) % self._size
        self._go_to_minute(now)
        self._maxima[-1] = max(self._maxima[-1] or 0, values[0])

    def _go_to_minute(self, now: float) -> None:
        """Note that nothing is known yet of the minutes up to this one. A clock that is set back starts none."""
        minute = int(now // 60)
        passed = minute - self._minute if self._maxima else 1
        self._maxima.extend([None] * min(passed, MINUTES))
        self._minute = max(minute, self._minute) if passed < 1 else minute

    def maxima(self, now: float) -> list[int | None]:
        """Return the largest number of waiting jobs in each minute of the last hour, oldest first.

        None is for a minute without a point. The list is empty if there was no waiting job.
        """
        self._go_to_minute(now)
        return list(self._maxima) if any(self._maxima) else []

    def points(self) -> list[tuple[float, int, int, int]]:
        """Return the time and the numbers of all points, oldest first."""
        order = [*range(self._oldest, len(self._times)), *range(self._oldest)]
        waiting, running, workers = (self._numbers[offset::3] for offset in range(3))
        return [(self._times[each], waiting[each], running[each], workers[each]) for each in order]


class History:
    """Series of functions, over all servers, and of servers, over all functions.

    :ivar functions: those of functions, by name. The number is limited: those that were not reported for longest are
        removed first.
    :ivar servers: those of servers, by address.
    :ivar since: time of the first point, in POSIX seconds; None if there is none.
    """

    def __init__(self, max_functions: int = MAX_FUNCTIONS) -> None:
        self._max_functions = max_functions
        self.functions: dict[bytes, Series] = {}
        self.servers: dict[str, Series] = {}
        self.since: float | None = None

    def add(self, now: float, functions: Mapping[bytes, Numbers], servers: Mapping[str, Numbers]) -> None:
        """Add a point to the series of each function and server that was reported."""
        if self.since is None:
            self.since = now
        for name, numbers in functions.items():
            series = self.functions.pop(name, None) or Series()
            series.add(now, numbers)
            self.functions[name] = series  # the last of all
        while len(self.functions) > self._max_functions:
            del self.functions[next(iter(self.functions))]
        for address, numbers in servers.items():
            self.servers.setdefault(address, Series()).add(now, numbers)
