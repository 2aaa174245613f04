"""Deferreds that wait for the same event."""

from __future__ import annotations

from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from .awaitable import AwaitableDeferred

__all__ = ["Waiters"]

T = TypeVar("T")


class Waiters(Generic[T]):
    """Deferreds that wait for the same event. Each can be cancelled."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[Deferred[T], None] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def wait(self) -> Deferred[T]:
        """Return a new Deferred that waits for the event."""
        deferred: Deferred[T] = AwaitableDeferred(self._forget)
        self._waiting[deferred] = None
        return deferred

    def fire(self, outcome: T | Failure) -> None:
        """Fire all Deferreds: with the outcome, or with a `Failure` as errbacks."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, {}
        for deferred in waiting:
            if not deferred.called:  # a callback of another one may have cancelled it
                deferred.callback(outcome)

    def _forget(self, deferred: Deferred[T]) -> None:
        self._waiting.pop(deferred, None)
