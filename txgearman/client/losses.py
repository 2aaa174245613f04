"""Lost connections: many tasks get their outcome in slices, so that no turn of the reactor is long.

A connection may have 10,000 tasks when it is lost. All of them are removed from its tables at once; their outcomes
follow, some hundreds in each turn of the reactor. A task that still waits for its own is held here: it can be
cancelled, its time may run out, and a stop reports all that are left.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall

from ..connection.reactor import Reactor
from .batches import Work
from .task_queue import TaskQueue

__all__ = ["MAX_REPORTED", "Losses"]

MAX_REPORTED: Final = 500
"""Tasks that get their outcome in one turn of the reactor. Each takes about 10 µs and what its callbacks do."""


class Losses:
    """Tasks of lost connections which have yet to be reported, the oldest first."""

    __slots__ = ("_call", "_queues", "_reactor")

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._queues: deque[tuple[TaskQueue, Callable[[Work], object]]] = deque()
        self._call: IDelayedCall | None = None

    def add(self, tasks: TaskQueue, report: Callable[[Work], object]) -> None:
        """Add tasks, whose holder their queue is until they are reported.

        :param report: called with each of them that has not ended by then.
        """
        self._queues.append((tasks, report))

    def report_some(self, most: int = MAX_REPORTED) -> None:
        """Report so many tasks at most, and the others in the next turns of the reactor.

        Their callers' code may call this in turn, for another connection or by a stop.
        """
        while most > 0 and self._queues:
            tasks, report = self._queues[0]
            work = tasks.pop()
            if work is not None:
                most -= 1
                report(work)
            else:
                self._queues.popleft()
        if self._queues and self._call is None:
            self._call = self._reactor.callLater(0, self._go_on)

    def report_all(self) -> None:
        """Report all tasks now."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self.report_some(sys.maxsize)

    def _go_on(self) -> None:
        self._call = None
        self.report_some()
