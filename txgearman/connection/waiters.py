"""Deferreds that wait for one event."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

__all__ = []


class Waiters:
    """Deferreds that wait for one thing, each of which may be cancelled."""

    def __init__(self) -> None:
        self._waiting: dict[Deferred[Any], None] = {}

    def wait(self) -> Deferred[Any]:
        """Return a new one."""
        deferred: Deferred[Any] = Deferred(self._forget)
        self._waiting[deferred] = None
        return deferred

    def fire(self, outcome: object) -> None:
        """Fire all of them; with a `Failure`, as errbacks."""
        waiting, self._waiting = self._waiting, {}
        for deferred in waiting:
            if not deferred.called:  # another one's callback may have cancelled it
                deferred.callback(outcome)

    def _forget(self, deferred: Deferred[Any]) -> None:
        self._waiting.pop(deferred, None)
