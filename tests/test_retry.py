"""`Retry`: how long a task waits before it is resubmitted, and after which failures it is."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from twisted.application.internet import backoffPolicy
from twisted.internet.defer import CancelledError

from txgearman import ClientStopped, JobFailed, NoServersAvailable, Retry, Task, TaskFailed, TaskRejected, TaskTimedOut
from txgearman.retry import may_retry, retry_delay

from .conftest import Failures

TASK = Task("work")

LONGEST = [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize(("attempt", "longest"), [*enumerate(LONGEST, 1), (1000, 30)])
def test_delay_is_random_and_grows_to_half_a_minute(attempt: int, longest: float) -> None:
    source = random.Random(1)
    delays = [retry_delay(Retry(3), attempt, source) for _ in range(1000)]
    assert longest / 2 <= min(delays) < longest * 0.51
    assert longest * 0.99 < max(delays) <= longest


def test_delay_is_drawn_from_the_source_alone() -> None:
    assert [retry_delay(Retry(3), 1, random.Random(5)) for _ in range(3)] == [random.Random(5).uniform(0.25, 0.5)] * 3


@pytest.mark.parametrize(("seconds", "expected"), [(0, 0.0), (7, 7.0), (0.25, 0.25), (3600.0, 3600.0)])
def test_wait_of_caller_says_how_long(seconds: float, expected: float) -> None:
    asked: list[int] = []

    def wait(attempt: int) -> float:
        asked.append(attempt)
        return seconds

    assert retry_delay(Retry(3, wait=wait), 2, random.Random(1)) == expected
    assert asked == [2]


def test_policy_of_twisted_says_how_long() -> None:
    retry = Retry(3, wait=backoffPolicy(1.0, 60.0, 2.0, jitter=lambda: 0.0))
    assert [retry_delay(retry, attempt, random.Random(1)) for attempt in (1, 2, 3)] == [2.0, 4.0, 8.0]


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize(
    ("returned", "error"), [(-1.0, ValueError), (math.nan, ValueError), (math.inf, ValueError), ("1", TypeError)]
)
def test_invalid_wait_is_logged_and_the_default_holds(
    returned: Any, error: type[Exception], logged_failures: Failures
) -> None:
    assert 0.25 <= retry_delay(Retry(3, wait=lambda attempt: returned), 1, random.Random(1)) <= 0.5
    assert len(logged_failures.flush(error)) == 1


@pytest.mark.guarantee(number=13)
def test_wait_and_when_may_raise(logged_failures: Failures) -> None:
    def fail(_: object) -> Any:
        raise ZeroDivisionError

    retry = Retry(3, wait=fail, when=fail)
    assert retry_delay(retry, 1, random.Random(1)) <= 0.5
    assert may_retry(retry, TaskFailed(TASK))
    assert not may_retry(retry, TaskRejected(TASK, "OTHER", ""))
    assert len(logged_failures.flush(ZeroDivisionError)) == 3


@pytest.mark.parametrize(
    ("error", "retriable"),
    [
        (TaskFailed(TASK), True),
        (NoServersAvailable({}), True),
        (TaskRejected(TASK, "QUEUE_ERROR", ""), True),
        (TaskRejected(TASK, "OTHER", ""), False),
        (JobFailed(), False),
    ],
)
def test_when_replaces_what_is_retriable(error: Exception, retriable: bool) -> None:
    assert may_retry(Retry(3), error) is retriable
    assert may_retry(Retry(3, when=lambda reason: reason is error), error)
    assert not may_retry(Retry(3, when=lambda reason: False), error)


@pytest.mark.parametrize("error", [TaskTimedOut(TASK), ClientStopped(), CancelledError()])
def test_end_that_the_client_itself_made_is_final(error: Exception) -> None:
    assert not may_retry(Retry(3, when=lambda reason: True), error)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"retries": -1}, ValueError, "retries must be at least 0, not -1"),
        ({"retries": True}, TypeError, "retries must be int, not bool"),
        ({"retries": 1, "wait": 5.0}, TypeError, "wait must be callable, not float"),
        ({"retries": 1, "when": TaskFailed(TASK)}, TypeError, "when must be callable, not TaskFailed"),
    ],
)
def test_invalid_argument_is_refused(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Retry(**arguments)
