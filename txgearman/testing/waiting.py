"""Tests that wait on the real reactor: for the end of their fixtures, or, on a clock that stands, for ever."""

from __future__ import annotations

import sys
from collections.abc import Callable
from inspect import iscoroutine
from typing import Any, Final, TypeVar, cast

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from .calls import describe_timers
from .description import describe_all
from .group import GroupedServer, ServerGroup

T = TypeVar("T")

PATIENCE: Final = 1.0
"""Seconds that the real reactor runs while nobody advances the clock, after which a test that waits fails."""

TURN: Final = 0.01
"""Seconds of one turn of a reactor that a fixture runs."""


def has_pytest_twisted() -> bool:
    """Return whether pytest-twisted runs the tests."""
    pytest_twisted = sys.modules.get("pytest_twisted")
    return pytest_twisted is not None and pytest_twisted._instances.gr_twisted is not None


def wait_for(deferred: Deferred[T], reactor: Any) -> T:
    """Return the result of a Deferred; run the reactor until it has one.

    With pytest-twisted, its reactor runs already, in a greenlet of its own.
    """
    if has_pytest_twisted():
        return cast("T", sys.modules["pytest_twisted"].blockon(deferred))
    outcome: list[T | Failure] = []
    deferred.addBoth(outcome.append)
    while not outcome:
        reactor.iterate(TURN)
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    return outcome[0]


class RunningTest:
    """A test that runs, whether it is a coroutine or returns a Deferred."""

    def __init__(self) -> None:
        self._deferred: Deferred[object] | None = None
        self._text = ""

    def run(self, function: Callable[[], object]) -> object:
        """Call the test.

        :return: what it returns; a Deferred instead of a coroutine.
        """
        returned = function()
        if iscoroutine(returned):
            returned = ensureDeferred(returned)
        if isinstance(returned, Deferred):
            self._deferred = returned.addErrback(self._failed)
        return returned

    def fail(self, text: str) -> None:
        """Fail it with an `AssertionError`, if it still waits for anything."""
        if self._deferred is not None and not self._deferred.called:
            self._text = text
            self._deferred.cancel()

    def _failed(self, failure: Failure) -> Failure:
        if self._text and failure.check(CancelledError):
            raise AssertionError(self._text) from failure.value
        return failure


class StandstillWatch:
    """Fails a test that waits on the real reactor for what is on the clock of its server, while that stands.

    :param test: the test, if it is known; else what it awaits is failed, as far as the kit knows of it.
    """

    def __init__(self, server: GroupedServer, group: ServerGroup, test: RunningTest | None = None) -> None:
        self._server = server
        self._group = group
        self._test = test
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
        clock = self._server.clock
        before, self._advances = self._advances, clock.advances
        self.start()
        if before != self._advances:
            return
        text = (
            f"the test waits, and nobody advances the clock, which stands at {clock.seconds():g} s: call advance() "
            "before the await, run the coroutine by server.run(), or use the fixture job_server_on_port, or "
            "JobServerOnPortMixin"
        )
        text += describe_all(self._server, self._group)
        text += "".join(f"\n  {line}" for line in describe_timers(clock))
        if not self._group.fail_waits(text) and self._test is not None and clock.getDelayedCalls():
            self._test.fail(text)
