"""The log of retries: one line for all tasks that failed for one cause at about the same time."""

from __future__ import annotations

from typing import Final, NamedTuple

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from ..connection.reactor import Reactor
from ..errors import GearmanError
from ..validation import MAX_REASON, short_text
from .task import Task

__all__ = ["RetryLog"]

_log = Logger()

DELAY: Final = 0.1
"""Seconds from the first retry of a cause to its line."""


class _Cause(NamedTuple):
    """What tasks have in common that are logged in one line.

    :ivar error: the error of the connection, if that is why they failed.
    """

    delay: float
    kind: type[GearmanError]
    error: BaseException | None


class RetryLog:
    """Logs retries. A lost connection may have thousands, and a line for each would block the reactor."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._counts: dict[_Cause, int] = {}
        self._examples: dict[_Cause, tuple[str, str]] = {}  # the first task of each, and why it failed
        self._call: IDelayedCall | None = None

    def add(self, task: Task, delay: float, reason: GearmanError) -> None:
        """Note that a task will be retried after some seconds."""
        cause = _Cause(delay, type(reason), reason.__cause__)
        count = self._counts[cause] = self._counts.get(cause, 0) + 1
        if count == 1:
            self._examples[cause] = str(task), short_text(str(reason), MAX_REASON)
        if self._call is None:
            self._call = self._reactor.callLater(DELAY, self._fire)

    def flush(self) -> None:
        """Write the lines that are due, and leave no timer."""
        if self._call is not None:
            self._call.cancel()
            self._fire()

    def _fire(self) -> None:
        self._call = None
        counts, self._counts = self._counts, {}
        examples, self._examples = self._examples, {}
        for cause, count in counts.items():
            task, reason = examples[cause]
            text = "retrying {task} in {delay} seconds: {reason}"
            if count > 1:
                text = "retrying {count} tasks in {delay} seconds, {task} for one: {reason}"
            _log.info(text, count=count, task=task, delay=cause.delay, reason=reason)
