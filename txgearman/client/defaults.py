"""What the tasks of a client have unless they say otherwise: `timeout`, `retries` and `retry`."""

from __future__ import annotations

from ..retry import Retry
from ..validation import check_count, positive_seconds
from .task import Options, Task

__all__ = ["TaskDefaults"]


class TaskDefaults:
    """Options that a client's single tasks have unless they say otherwise. They apply at the submit.

    :raises TypeError, ValueError: an argument is invalid.
    """

    def __init__(self, timeout: float | None, retries: int, retry: Retry | None) -> None:
        self._timeout = None if timeout is None else positive_seconds("timeout", timeout)
        check_count("retries", retries, 0)
        if not isinstance(retry, (Retry, type(None))):
            raise TypeError(f"retry must be a Retry, not {type(retry).__name__}")
        if retries and retry is not None:
            raise ValueError("retries must be left out if retry is given, which says how often")
        self._retry = Retry(retries) if retry is None and retries else retry
        # Most tasks share one object of options, and so do they with those of the client.
        self._last: Options | None = None
        self._last_completed: Options | None = None

    def __bool__(self) -> bool:
        """Whether there are any."""
        return self._timeout is not None or self._retry is not None

    def apply(self, task: Task) -> None:
        """Set what the task leaves to the client. A stream leaves nothing."""
        options = task._options
        if options.streamed:
            return
        if task._timeout is None and not options.unlimited:
            task._timeout = self._timeout
        if not task._background and self._retry is not None:
            if options is not self._last or self._last_completed is None:
                self._last, self._last_completed = options, self._complete(options, self._retry)
            task._options = self._last_completed

    @staticmethod
    def _complete(options: Options, retry: Retry) -> Options:
        retries = retry.retries if options.leaves_retries else options.retries
        return options.with_retries(retries, options.retry or retry)
