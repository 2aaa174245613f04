"""The methods of a `MemoryJobServer` for results and for time on its clock."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, Final, TypeVar, cast

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from .clock import EndlessLoop, MemoryClock
from .faults import Faults
from .group import ServerGroup

T = TypeVar("T")

TOLERANCE: Final = 1e-6
"""Seconds by which sums of fractions may be off."""


class ClockMethods(ABC):
    """The part of `MemoryJobServer` that returns results and advances the clock."""

    clock: Any
    name: str
    _faults: Faults
    _group: ServerGroup

    @abstractmethod
    def _state(self) -> str:
        """Return the state of everything that the test uses, as lines to follow a message."""

    def result_of(self, outcome: Deferred[T] | Coroutine[Any, Any, T]) -> T:
        """Return the result of a Deferred or a coroutine, once everything that is due now has happened.

        :raises AssertionError: it has no result yet. The message has the state of the test.
        :raises Exception: what it has failed with; at each call.
        """
        deferred = ensureDeferred(outcome)
        self._faults.settle()
        known = self._group.raised_before(deferred)
        if known is not None:
            known.raiseException()
        # No callback is added to one that is pending, so that its result is still there for the next call.
        if not deferred.called or isinstance(deferred.result, Deferred):
            raise AssertionError(self._no_result(outcome) + self._state())
        failed: list[Failure] = []
        deferred.addErrback(failed.append)
        for failure in failed:
            self._group.note_raised(deferred, failure)
            failure.raiseException()
        return cast("T", deferred.result)

    def _no_result(self, outcome: object) -> str:
        if isinstance(self.clock, MemoryClock) and self.clock.running:
            return "there is no result yet: this call is within a callback, and what follows it has not happened"
        if inspect.iscoroutine(outcome):
            return (
                "there is no result yet: the coroutine waits. Call ensureDeferred() of it, let the test go on, and "
                "pass the Deferred to result_of() at the end"
            )
        return "there is no result yet"

    def run(self, coroutine: Coroutine[Any, Any, T], *, within: float = 600.0) -> T:
        """Run a coroutine, and advance the `Clock` from one event to the next until it has ended.

        So a test that awaits tasks, `next_job` and times can run on a `Clock`, too.

        :param within: seconds of the clock that it may take.
        :return: its result.
        :raises TypeError: the server runs on a reactor: await it there.
        :raises AssertionError: it waits, and nothing is due until then. The message has the state of the test.
        :raises Exception: what it has failed with.
        """
        outcome = ensureDeferred(coroutine)
        self.advance()
        end = self.clock.seconds() + within
        while not outcome.called and (times := [call.getTime() for call in self.clock.getDelayedCalls()]):
            if min(times) > end:
                break
            self._advance_to_next(min(times))
        return self.result_of(outcome)

    def flush_logged_errors(self, *types: type[BaseException]) -> list[Failure]:
        """Forgive failures that were logged, such as what a callback or a worker's function has raised.

        It is trial's ``flushLoggedErrors``, for other tests.

        :param types: the types of the errors to forgive; none for all.
        :return: them.
        """
        self._faults.settle()
        return self._group.logged.flush(*types)

    def advance(self, seconds: float = 0.0) -> None:
        """Advance the `Clock` from one event to the next, so that each happens at its time.

        :raises TypeError: the server runs on a reactor, or `seconds` is not a number.
        :raises ValueError: `seconds` is negative, infinite or not a number.
        :raises RuntimeError: calls without a delay are scheduled for ever.
        """
        if not isinstance(self.clock, Clock):
            raise TypeError("advance() needs a Clock, not a reactor: MemoryJobServer()")
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise TypeError(f"seconds must be a number, not {seconds!r}")
        if not 0 <= seconds < math.inf:
            raise ValueError(f"seconds must be a finite number of at least 0, not {seconds!r}")
        end = self.clock.seconds() + seconds
        while self._advance_to_next(end):
            pass

    def _advance_to_next(self, end: float) -> bool:
        """Advance to the next event until `end`, or else to `end`.

        :return: whether there was an event.
        """
        clock = self.clock
        if isinstance(clock, MemoryClock):
            calls: list[Any] = clock.calls
            next_time = calls[0].time if calls else math.inf  # a call that was delayed since gets its place there
        else:
            next_time = min([call.getTime() for call in clock.getDelayedCalls()], default=math.inf)
        due = next_time <= end + TOLERANCE
        clock.advance(max(0.0, (next_time if due else end) - clock.seconds()))
        return due

    def _advance(self, seconds: float) -> list[BaseException]:
        """Advance as `advance` does, and return what was raised."""
        end = self.clock.seconds() + seconds
        raised: list[BaseException] = []
        going_on = True
        while going_on:
            try:
                going_on = self._advance_to_next(end)
            except EndlessLoop as error:
                return [*raised, error]
            except BaseException as error:  # whatever it is, it is raised once everything is closed
                raised.append(error)
        return raised

    def reconnect(self) -> None:
        """Advance the `Clock` until every client and worker on it that lost this server is connected to it again.

        The first attempt follows within two seconds after the loss, and the next ones after up to half a minute.

        :raises TypeError: the server runs on a reactor.
        :raises AssertionError: the server is down, or refuses connections.
        """
        self.advance()
        while waits := self._waits():
            if self._faults.refusing:
                raise AssertionError("reconnect() needs a server that accepts connections" + self._state())
            self.advance(min(waits))

    def _waits(self) -> list[float]:
        """Return the seconds until each next attempt to connect to this server."""
        infos = [info for service in self._group.services for info in getattr(service, "servers", ())]
        return [info.next_attempt for info in infos if info.address == self.name and info.next_attempt is not None]
