"""The failures that are logged while servers are in use."""

from __future__ import annotations

import sys
from typing import Any, Final
from weakref import WeakSet

from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from .clock import is_of_library, place_of

_PAST: Final = "_of_ended_test"
"""Attribute of errors. A weak reference would not do: it is cleared before a Deferred that is collected is logged."""


class LoggedErrors:
    """The failures that were logged since `start`: each with the text of its event."""

    def __init__(self) -> None:
        self._errors: list[tuple[str, Failure]] = []

    def start(self) -> None:
        """Record what is logged from now on, as long as this object is there, or until `stop`."""
        _OBSERVER.add(self)

    def stop(self) -> None:
        """Record nothing more."""
        _OBSERVER.discard(self)

    def add(self, text: str, failure: Failure) -> None:
        """Record a failure."""
        self._errors.append((text, failure))

    def flush(self, *types: type[BaseException]) -> list[Failure]:
        """Remove the failures of these types, or of any, and return them."""
        flushed = [failure for _, failure in self._errors if not types or failure.check(*types)]
        _OBSERVER.discard_failures(flushed)
        return flushed

    def discard(self, failures: list[Failure]) -> None:
        """Remove these failures."""
        discarded = set(map(id, failures))
        self._errors = [entry for entry in self._errors if id(entry[1]) not in discarded]

    def pop_all(self) -> list[tuple[str, Failure]]:
        """Remove and return the failures, each with the text of its event."""
        errors, self._errors = self._errors, []
        _OBSERVER.discard_failures([failure for _, failure in errors])
        return errors


@implementer(ILogObserver)
class _Observer:
    """The one observer of the log, for all `LoggedErrors`. It is removed when the last of them is stopped."""

    def __init__(self) -> None:
        self._records: WeakSet[LoggedErrors] = WeakSet()
        self._observing = False

    def __call__(self, event: LogEvent) -> None:
        failure = event.get("log_failure")
        if isinstance(failure, Failure) and not getattr(failure.value, _PAST, False):
            for errors in list(self._records):
                errors.add(formatEvent(event), failure)
        # Not removed here if no record is left: the publisher would then skip the observer behind it.

    def add(self, errors: LoggedErrors) -> None:
        self._records.add(errors)
        if not self._observing:
            self._observing = True
            globalLogPublisher.addObserver(self)

    def discard(self, errors: LoggedErrors) -> None:
        self._records.discard(errors)
        if not self._records:
            self._stop()

    def _stop(self) -> None:
        self._observing = False
        globalLogPublisher.removeObserver(self)

    def flush(self, *types: type[BaseException]) -> None:
        for errors in list(self._records):
            errors.flush(*types)

    def discard_failures(self, failures: list[Failure]) -> None:
        """Remove failures that were forgiven or reported from all records: several servers may have recorded them."""
        if failures:
            for errors in list(self._records):
                errors.discard(failures)


_OBSERVER: Final = _Observer()

flush_everywhere = _OBSERVER.flush
"""Removes the failures of these types from all `LoggedErrors`: for a test that expects them by other means."""


def mark_as_past(error: BaseException | None) -> None:
    """Mark the error of a test that has ended: it is not recorded when a Deferred with it is collected later."""
    if error is not None:
        setattr(error, _PAST, True)


def describe_failure(failure: Failure) -> str:
    """Return the type, the text and the place of what was raised."""
    name = failure.type.__name__ if failure.type else "Failure"
    text = f"{name}: {failure.getErrorMessage()}"
    frames = [frame for frame in failure.frames if not is_of_library(frame[1])] or failure.frames
    if not frames:
        return text
    function, path, line, *_ = frames[-1]
    return f"{text}, raised at {place_of(path, line)} in {function}()"


def trial_observer() -> Any:
    """Return trial's own record of logged errors, while a test of trial is run; else None.

    trial fails its test for them, and forgives those that ``flushLoggedErrors`` takes.
    """
    module = sys.modules.get("twisted.trial._synctest")
    observer = getattr(module, "_logObserver", None)
    return observer if observer is not None and observer._added else None
