"""What a test waits for besides tasks: calls of clients, workers and admin clients, and timers on the clock."""

from __future__ import annotations

from functools import partial
from typing import Any, Final
from weakref import ReferenceType, WeakKeyDictionary, ref

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ..admin.admin import GearmanAdmin
from ..client.client import GearmanClient
from ..service import GearmanService
from ..worker.worker import GearmanWorker
from .clock import calling_place, name_of_call

_CALLS: Final[dict[type[GearmanService], tuple[str, ...]]] = {
    GearmanClient: ("when_ready", "get_status", "get_status_unique", "echo", "cancel_job", "drain"),
    GearmanWorker: ("when_ready",),
    GearmanAdmin: (
        "status",
        "priority_status",
        "workers",
        "jobs",
        "unique_jobs",
        "version",
        "pid",
        "verbosity",
        "set_max_queue",
        "create_function",
        "drop_function",
        "cancel_job",
        "shutdown",
    ),
}
"""Methods whose Deferreds fire by what a server sends. Tasks and batches are recorded by themselves."""

_MAX_SHOWN: Final = 10
"""Calls, or timers, that are described in one message."""


class PendingCalls:
    """The calls of services on a clock whose Deferreds have not fired."""

    def __init__(self) -> None:
        self._calls: WeakKeyDictionary[Deferred[object], str] | None = None  # few tests have any
        self._text = ""

    def service_made(self, service: GearmanService) -> None:
        """Record the calls of a service from now on."""
        reference = ref(service)
        for kind, names in _CALLS.items():
            if isinstance(service, kind):
                for name in names:
                    # An attribute of the object, as with its tasks: no other service pays for it.
                    service.__dict__[name] = partial(self._call, reference, name)

    def _call(
        self, reference: ReferenceType[GearmanService], name: str, *arguments: object, **options: object
    ) -> Deferred[Any]:
        service = reference()
        kind = type(service)
        deferred: Deferred[Any] = getattr(kind, name)(service, *arguments, **options)
        if self._calls is None:
            self._calls = WeakKeyDictionary()
        self._calls[deferred] = f"{kind.__name__}.{name}() called at {calling_place()}"
        return deferred.addErrback(self._failed)

    def _failed(self, failure: Failure) -> Failure:
        return Failure(AssertionError(self._text)) if self._text and failure.check(CancelledError) else failure

    def _pending(self) -> list[tuple[Deferred[object], str]]:
        calls = self._calls.items() if self._calls is not None else ()
        return [
            (deferred, text) for deferred, text in calls if not deferred.called or isinstance(deferred.result, Deferred)
        ]

    def describe(self) -> list[str]:
        """Return a line for each."""
        return _first_of([f"{text} has no outcome" for _, text in self._pending()], "calls")

    def fail(self, text: str) -> bool:
        """Fail them with an `AssertionError`; return whether there are any."""
        pending = self._pending()
        self._text = text
        for deferred, _ in pending:
            deferred.cancel()
        self._text = ""
        return bool(pending)


def describe_timers(clock: Clock) -> list[str]:
    """Return a line for each timer on a clock, the next one first."""
    calls = sorted(clock.getDelayedCalls(), key=lambda call: call.getTime())
    return _first_of([f"timer {describe_timer(call)}" for call in calls], "timers")


def describe_timer(call: Any) -> str:
    """Return what a timer calls, when, and where it was set."""
    creator = getattr(call, "creator", None)  # Twisted 22.4 sets none
    place = f", set at {creator[0]}" if creator else ""
    return f"{name_of_call(call.func)}, due at {call.getTime():g} s{place}"


def _first_of(lines: list[str], what: str) -> list[str]:
    more = len(lines) - _MAX_SHOWN
    return lines if more <= 0 else [*lines[:_MAX_SHOWN], f"and {more:,} more {what}"]


def fail_delays(clock: Clock, text: str) -> bool:
    """Fail what ``deferLater`` has returned for a clock with an `AssertionError`; return whether there was any."""
    delays = [(call, deferred) for call in clock.getDelayedCalls() if (deferred := _fired_by(call)) is not None]
    for call, deferred in delays:
        if call.active() and not deferred.called:
            call.cancel()
            deferred.errback(AssertionError(text))
    return bool(delays)


def _fired_by(call: IDelayedCall) -> Deferred[object] | None:
    """Return the Deferred that a timer fires by itself."""
    function: Any = getattr(call, "func", None)
    deferred = getattr(function, "__self__", None)
    return deferred if isinstance(deferred, Deferred) and function.__name__ == "callback" else None
