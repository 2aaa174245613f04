"""The log of retries: one line for all tasks that failed for one cause at about the same time."""

from __future__ import annotations

from typing import Final, NamedTuple

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from ..connection.reactor import Reactor
from ..log_fields import task_fields
from ..validation import MAX_REASON, short_text
from .task import Task

__all__ = ["RetryLog"]

_log = Logger()

DELAY: Final = 0.1
"""Seconds from the first retry of a cause to its line."""


class _Cause(NamedTuple):
    """What tasks have in common that are logged in one line.

    :ivar attempt: the number of the retry.
    :ivar error: the error of the connection, if that is why they failed.
    """

    attempt: int
    kind: type[Exception]
    error: BaseException | None


class _Line:
    """What is logged of the tasks of one cause.

    :param task: the first of them.
    """

    def __init__(self, task: Task, delay: float, reason: Exception) -> None:
        self._task = str(task)
        self._reason = short_text(str(reason), MAX_REASON)
        self._fields = task_fields(task) | {"attempt": task.attempt + 1, "error": type(reason).__name__}
        self._delays = [delay]

    def add(self, delay: float) -> None:
        """Note another task."""
        self._delays.append(delay)

    def write(self) -> None:
        """Log the line."""
        count = len(self._delays)
        text = "retrying {task} in {delay:.2f} seconds: {reason}"
        if count > 1:
            text = "retrying {count} tasks in {delay:.2f} to {longest:.2f} seconds, {task} for one: {reason}"
        delay, longest = min(self._delays), max(self._delays)
        _log.info(text, count=count, task=self._task, delay=delay, longest=longest, reason=self._reason, **self._fields)


class RetryLog:
    """Logs retries. A lost connection may have thousands, and a line for each would block the reactor."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._lines: dict[_Cause, _Line] = {}
        self._call: IDelayedCall | None = None

    def add(self, task: Task, delay: float, reason: Exception) -> None:
        """Note that a task will be retried after some seconds."""
        cause = _Cause(task.attempt + 1, type(reason), reason.__cause__)
        line = self._lines.get(cause)
        if line is None:
            self._lines[cause] = _Line(task, delay, reason)
        else:
            line.add(delay)
        if self._call is None:
            self._call = self._reactor.callLater(DELAY, self._fire)

    def flush(self) -> None:
        """Write the lines that are due, and leave no timer."""
        if self._call is not None:
            self._call.cancel()
            self._fire()

    def _fire(self) -> None:
        self._call = None
        lines, self._lines = self._lines, {}
        for line in lines.values():
            line.write()
