"""A Deferred for each job and nothing else: no connection, no packet, no server. No client with Deferreds is faster."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed

__all__ = ["DeferredsAlone"]


class DeferredsAlone:
    """Gives each workload back in the next turn of the reactor."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._waiting: list[tuple[Deferred[bytes], bytes]] = []

    def add_task(self, function: str, workload: bytes) -> Deferred[bytes]:
        if not self._waiting:
            self._reactor.callLater(0, self._fire)
        deferred: Deferred[bytes] = Deferred()
        self._waiting.append((deferred, workload))
        return deferred

    add_task_bg = add_task

    def echo(self) -> Deferred[None]:
        return succeed(None)

    def stopService(self) -> None:
        """Nothing is there to be closed."""

    def _fire(self) -> None:
        waiting, self._waiting = self._waiting, []
        for deferred, workload in waiting:
            deferred.callback(workload)
