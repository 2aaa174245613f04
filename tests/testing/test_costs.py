"""What a request costs the server in memory does not grow with what the request is not about: counted, not timed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from inspect import unwrap

import pytest
from twisted.trial import reporter
from twisted.trial.unittest import SynchronousTestCase

import pytest_txgearman
from txgearman.packets import CAN_DO, GET_STATUS_UNIQUE, GRAB_JOB, PRE_SLEEP, SUBMIT_JOB, SUBMIT_JOB_BG
from txgearman.testing import JobServerMixin, MemoryJobServer

from .peer import ask, connect


def calls_of(action: Callable[[], object]) -> int:
    """How many calls of functions an action takes, those in C included."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def grab(size: int) -> int:
    """Of a worker that has so many functions, of which one has a job."""
    server = MemoryJobServer()
    worker, client = connect(server), connect(server)
    ask(server, worker, *[CAN_DO.request(b"%d" % number) for number in range(size)])
    ask(server, client, SUBMIT_JOB_BG.request(b"0", b"", b""))
    return calls_of(lambda: ask(server, worker, GRAB_JOB.request()))


def sleep(size: int) -> int:
    """Of a worker that has so many functions, none of which has a job."""
    server = MemoryJobServer()
    worker = connect(server)
    ask(server, worker, *[CAN_DO.request(b"%d" % number) for number in range(size)])
    return calls_of(lambda: ask(server, worker, PRE_SLEEP.request()))


def submit_while_others_sleep(size: int) -> int:
    """As many workers of the function are busy, and one of another function sleeps."""
    server = MemoryJobServer()
    for _ in range(size):
        ask(server, connect(server), CAN_DO.request(b"f"))
    ask(server, connect(server), CAN_DO.request(b"other"), PRE_SLEEP.request())
    client = connect(server)
    return calls_of(lambda: ask(server, client, SUBMIT_JOB_BG.request(b"f", b"", b"")))


def submit_while_many_sleep(size: int) -> int:
    """As many workers of another function sleep, and one of the function is busy."""
    server = MemoryJobServer()
    for _ in range(size):
        ask(server, connect(server), CAN_DO.request(b"other"), PRE_SLEEP.request())
    ask(server, connect(server), CAN_DO.request(b"f"))
    client = connect(server)
    return calls_of(lambda: ask(server, client, SUBMIT_JOB_BG.request(b"f", b"", b"")))


def lose_client(size: int) -> int:
    """While as many jobs of others are queued."""
    server = MemoryJobServer()
    other, client = connect(server), connect(server)
    ask(server, other, *[SUBMIT_JOB.request(b"f", b"", b"")] * size)
    ask(server, client, SUBMIT_JOB.request(b"f", b"", b""))
    client.transport.loseConnection()
    return calls_of(server.advance)


def status_by_unique(size: int) -> int:
    """While as many jobs of other uniques are queued."""
    server = MemoryJobServer()
    client = connect(server)
    ask(server, client, *[SUBMIT_JOB.request(b"f", b"u%d" % number, b"") for number in range(size)])
    return calls_of(lambda: ask(server, client, GET_STATUS_UNIQUE.request(b"u0")))


COSTS = [grab, sleep, submit_while_others_sleep, submit_while_many_sleep, lose_client, status_by_unique]


@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: cost.__name__)
def test_cost_does_not_grow_with_what_a_request_is_not_about(cost: Callable[[int], int]) -> None:
    assert cost(300) <= cost(30) + 10


# A small test.

MAX_CALLS = 1600
"""Calls that a small test may take, so that it stays under a millisecond: 1,390 with Twisted 26.10, 1,550 with 22.4."""

MAX_RUNNER_CALLS = 150
"""Calls that the fixture, or the mixin, may add to it."""


def use(server: MemoryJobServer) -> None:
    outcome = server.client().add_task("reverse", b"abc")
    server.take("reverse").complete(b"cba")
    assert server.result_of(outcome) == b"cba"


def by_hand() -> None:
    server = MemoryJobServer()
    use(server)
    server.close()


def by_fixture() -> None:
    fixture = unwrap(pytest_txgearman.job_server)()
    use(next(fixture))
    assert next(fixture, None) is None


class ByMixin(JobServerMixin, SynchronousTestCase):
    __test__ = False

    def test(self) -> None:
        use(self.job_server)


class ByNothing(SynchronousTestCase):
    __test__ = False

    def test(self) -> None:
        """Do nothing."""


def run_case(kind: type[SynchronousTestCase]) -> Callable[[], None]:
    def run() -> None:
        result = reporter.TestResult()
        kind("test").run(result)
        assert result.wasSuccessful()

    return run


def test_small_test_takes_few_calls() -> None:
    alone, fixture, mixin, nothing = map(calls_of_second, (by_hand, by_fixture, run_case(ByMixin), run_case(ByNothing)))
    assert alone <= MAX_CALLS
    assert fixture <= alone + MAX_RUNNER_CALLS
    assert mixin - nothing <= alone + MAX_RUNNER_CALLS


def calls_of_second(action: Callable[[], object]) -> int:
    """How many calls an action takes that was done before."""
    action()
    return calls_of(action)
