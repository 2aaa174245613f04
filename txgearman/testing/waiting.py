"""Tests that wait on the real reactor: for the end of their fixtures, or, on a clock that stands, for ever."""

from __future__ import annotations

import sys
from typing import Any, Final, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from .description import describe_all
from .group import GroupedServer, ServerGroup

T = TypeVar("T")

PATIENCE: Final = 1.0
"""Seconds that the real reactor runs while nobody advances the clock, after which a test that waits fails."""

TURN: Final = 0.01
"""Seconds of one turn of a reactor that a fixture runs."""


def wait_for(deferred: Deferred[T], reactor: Any) -> T:
    """Return the result of a Deferred; run the reactor until it has one.

    With pytest-twisted, its reactor runs already, in a greenlet of its own.
    """
    pytest_twisted = sys.modules.get("pytest_twisted")
    if pytest_twisted is not None and pytest_twisted._instances.gr_twisted is not None:
        return cast("T", pytest_twisted.blockon(deferred))
    outcome: list[T | Failure] = []
    deferred.addBoth(outcome.append)
    while not outcome:
        reactor.iterate(TURN)
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    return outcome[0]


class StandstillWatch:
    """Fails the tasks of a test that awaits them on the real reactor, while the clock of its server stands."""

    def __init__(self, server: GroupedServer, group: ServerGroup) -> None:
        self._server = server
        self._group = group
        self._call: IDelayedCall | None = None
        self._advances = -1

    def start(self) -> None:
        """Watch, if there is a reactor: none is imported for it."""
        if "twisted.internet.reactor" in sys.modules:
            from twisted.internet import reactor

            self._call = reactor.callLater(PATIENCE, self._look)

    def stop(self) -> None:
        """Watch no longer."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look(self) -> None:
        before, self._advances = self._advances, self._server.clock.advances
        self.start()
        if before == self._advances:
            self._group.fail_waits(
                "the test waits, and nobody advances the clock, without which nothing happens: run the coroutine by "
                "server.run(), or use the fixture job_server_on_port, or JobServerOnPortMixin"
                + describe_all(self._server, self._group)
            )
