"""The clock of a `MemoryJobServer`, and where in the user's code something was called."""

from __future__ import annotations

import math
import os
import sys
import time
from bisect import insort_right
from collections.abc import Callable
from functools import lru_cache, partial
from operator import attrgetter
from typing import Any, Final

import twisted
from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock

MAX_TURNS: Final = 1_000_000
"""Calls that may run while the clock stands. 100,000 jobs that are all run in one moment need 400,000."""

_FIRST_POSIX_TIME: Final = 1_000_000_000
"""Seconds. What a `MemoryClock` shows is below it, and what `time.time` returns is above it."""

_time_of: Final = attrgetter("time")

_LIBRARIES: Final = ("txgearman", "twisted")

_DIRECTORIES: Final = tuple(
    os.path.dirname(path) + os.sep for path in (os.path.dirname(__file__), twisted.__file__ or "")
)


class EndlessLoop(RuntimeError):
    """More calls than `MAX_TURNS` have run while the clock stood."""


def calling_place() -> str:
    """Return the file and line of the innermost caller that is neither of this library nor of Twisted."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _LIBRARIES:
        frame = frame.f_back
    return place_of(frame.f_code.co_filename, frame.f_lineno)


def is_of_library(path: str) -> bool:
    """Return whether a file is of this library or of Twisted."""
    return path.startswith(_DIRECTORIES)


@lru_cache(maxsize=1000)
def place_of(path: str, line: int) -> str:
    """Return a place in a file for messages, with a short path for what is in the current directory."""
    return f"{path.removeprefix(os.getcwd() + os.sep)}:{line}"


def name_of_call(function: object) -> str:
    """Return the name of what a timer calls, for messages."""
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__qualname__", None)
    return f"{function.__module__}.{name}" if name else repr(function)


def quoted(name: str | bytes) -> str:
    """Return a name in quotes; what is not UTF-8 is escaped."""
    return repr(name if isinstance(name, str) else name.decode("utf-8", "backslashreplace"))


class MemoryClock(Clock):
    """A `Clock` on which sums of fractions are exact enough, as it starts at 0, and endless loops end.

    :ivar running: how many calls of `advance` are in progress, one within the other.
    :ivar advances: how many there were.
    :ivar looped: whether `EndlessLoop` was raised in this test.
    """

    max_turns = MAX_TURNS
    running = 0
    advances = 0
    looped = False

    def callLater(
        self,
        delay: float,
        callable: Callable[..., object],  # noqa: A002  # Twisted's name of it
        *args: object,
        **kw: object,
    ) -> IDelayedCall:
        due = self.rightNow + delay
        calls: list[Any] = self.calls
        call = DelayedCall(due, callable, args, kw, calls.remove, self._reset, self.seconds)
        if calls and calls[-1].time > due:
            self._insert(call)
        else:
            calls.append(call)
        if sys._getframe(1).f_globals.get("__name__", "")[:10] != "txgearman.":
            call.creator = [calling_place()]
        return call

    def _insert(self, call: DelayedCall) -> None:
        # By the time without a later delay, as Twisted's reactors do; those of the same time in the order of the calls.
        calls: list[Any] = self.calls
        if calls and calls[-1].time > call.time:
            insort_right(calls, call, key=_time_of)
        else:
            calls.append(call)

    def _reset(self, call: DelayedCall) -> None:
        """Put a call in its new place, which is due sooner than before."""
        self.calls.remove(call)
        self._insert(call)

    def advance(self, amount: float) -> None:
        """Advance the time, and run what is due then, as `Clock` does.

        :raises EndlessLoop: what runs schedules calls without a delay for ever.
        """
        self.rightNow += amount
        self.running += 1
        self.advances += 1
        try:
            self._run_due()
        finally:
            self.running -= 1

    def _run_due(self) -> None:
        calls: list[Any] = self.calls
        for _ in range(self.max_turns):
            if not calls or calls[0].time > self.rightNow:
                return
            call = calls.pop(0)
            if call.delayed_time:
                call.activate_delay()
                self._insert(call)
            else:
                call.called = 1
                call.func(*call.args, **call.kw)
        self.looped = True
        raise EndlessLoop(
            f"{self.max_turns} calls were run while the clock stood at {self.rightNow} s: something calls "
            f"callLater(0, ...) for ever; the last call was {name_of_call(call.func)}"
        )


def due_time(clock: Any, at: int) -> float:
    """Return when a scheduled job is due, by the clock.

    On a `Clock` that shows less than POSIX time, POSIX seconds mean: so long after now, in whole seconds.

    :param at: the time for which it was scheduled, by the clock or in POSIX seconds.
    """
    now: float = clock.seconds()
    if isinstance(clock, Clock) and now < _FIRST_POSIX_TIME <= at:
        return now + max(0, at - math.ceil(time.time()))
    return at
