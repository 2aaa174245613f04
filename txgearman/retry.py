"""When failed tasks are submitted again: `Retry`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from twisted.logger import Logger
from twisted.python.failure import Failure

from .errors import ClientStopped, GearmanError, TaskTimedOut
from .failures import for_log
from .validation import check_callback, check_count, not_negative_seconds

__all__ = ["NO_RETRY", "Retry", "may_retry", "retry_delay"]

_log = Logger()

MIN_DELAY: Final = 0.5
MAX_DELAY: Final = 30.0


@dataclass(frozen=True)
class Retry:
    """How often a foreground task is resubmitted, after which failures, and after how many seconds.

    ::

        client = GearmanClient(["10.0.0.1"], retry=Retry(3, when=lambda error: isinstance(error, TaskLost)))

    ``retries=3`` of a task is short for ``retry=Retry(3)``. It may be used by any number of tasks and clients.

    :ivar retries: how often the task is resubmitted at most.
    :ivar wait: called with the number of the retry, of which 1 is the first; returns the seconds from the failure to
        the submit. ``twisted.application.internet.backoffPolicy()`` makes such a callable. None, the default, for a
        random time of up to 0.5 s before the first retry, 1 s before the second, and so on, doubled each time up to
        half a minute, but not less than half of that: so the tasks of a server that is gone do not all return at once.
    :ivar when: called with the error; returns whether to resubmit the task. None, the default, for `retriable` of the
        error. It is not asked about `TaskTimedOut`, `ClientStopped` and a cancel, which always end the task.
    :raises TypeError, ValueError: an argument is invalid.

    What `wait` or `when` raises is logged, and the default takes its place. So does it for a `wait` that does not
    return a number of seconds from 0.
    """

    retries: int
    wait: Callable[[int], float] | None = None
    when: Callable[[Exception], bool] | None = None

    def __post_init__(self) -> None:
        check_count("retries", self.retries, 0)
        check_callback("wait", self.wait)
        check_callback("when", self.when)


NO_RETRY: Final = Retry(0)


def retry_delay(retry: Retry, attempt: int, source: random.Random) -> float:
    """Return the seconds before retry number `attempt`, of which 1 is the first.

    :param source: of the random numbers.
    """
    if retry.wait is not None:
        try:
            return not_negative_seconds("seconds returned by wait", retry.wait(attempt))
        except BaseException:  # it is the caller's code, and the task must go on
            _log.failure("wait of a Retry failed", for_log(Failure()))
    longest: float = min(MIN_DELAY * 2.0 ** (attempt - 1), MAX_DELAY)
    return source.uniform(longest / 2, longest)


def may_retry(retry: Retry, reason: Exception) -> bool:
    """Check whether a task that failed with `reason` may be resubmitted."""
    if not isinstance(reason, GearmanError) or isinstance(reason, (ClientStopped, TaskTimedOut)):
        return False
    if retry.when is not None:
        try:
            return bool(retry.when(reason))
        except BaseException:  # it is the caller's code, and the task must have its outcome
            _log.failure("when of a Retry failed", for_log(Failure()))
    return reason.retriable
