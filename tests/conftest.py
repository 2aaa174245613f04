"""What every test is held to: a deadline, and nothing left behind.

pytest-twisted has no time limit, and lets leaked timers, open sockets, logged failures and unhandled errors in
Deferreds pass. Here each of them fails the test.
"""

from __future__ import annotations

import functools
import gc
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from . import guarantees
from .daemons import Geard, Gearmand

DEADLINE = float(os.environ.get("TEST_DEADLINE", "60"))
"""Seconds for a test that returns a Deferred or is `async`. pytest-timeout, set in setup.cfg, ends those that never
come back to the reactor."""

GRACE = 2.0
"""Seconds in which sockets that a test closed must be gone."""


def _with_deadline(test: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> Any:
        from twisted.internet import reactor

        outcome = test(*args, **kwargs)
        if inspect.iscoroutine(outcome):
            outcome = ensureDeferred(outcome)
        if isinstance(outcome, Deferred):
            outcome.addTimeout(DEADLINE, reactor)
        return outcome

    return run


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--guarantees", action="store_true", help="print which tests hold which guarantee, and run none")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Print the table that ``--guarantees`` asks for."""
    if session.config.getoption("guarantees"):
        print("\n" + guarantees.table(guarantees.holders(session.items)))
        session.items.clear()  # none is run


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Let tests be plain ``async def``, and give each a deadline."""
    if not hasattr(pyfuncitem.obj, "hypothesis"):
        pyfuncitem.obj = _with_deadline(pyfuncitem.obj)


@implementer(ILogObserver)
class Failures:
    """What was logged as a failure, unhandled errors in Deferreds among it."""

    def __init__(self) -> None:
        self._events: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        if "log_failure" in event or event.get("isError"):
            self._events.append(event)

    def flush(self, *types: type[BaseException]) -> list[BaseException]:
        """Take those of `types` off the list: the test expects them."""
        taken = [event for event in self._events if isinstance(event["log_failure"].value, types)]
        self._events = [event for event in self._events if event not in taken]
        return [event["log_failure"].value for event in taken]

    def texts(self) -> list[str]:
        return [str(event.get("log_failure", event)) for event in self._events]


def _selectables_and_timers() -> set[Any]:
    from twisted.internet import reactor as global_reactor

    reactor: Any = global_reactor
    return {*reactor.getReaders(), *reactor.getWriters(), *reactor.getDelayedCalls()}


@pytest.fixture(autouse=True)
def logged_failures(twisted_greenlet: object) -> Iterator[Failures]:
    """Fail the test for what it leaves behind. A test that expects a logged failure flushes it."""
    from twisted.internet import reactor

    failures = Failures()
    globalLogPublisher.addObserver(failures)
    pytest_twisted.blockon(deferLater(reactor, 0))  # it has its own readers from then on
    before = _selectables_and_timers()
    gc.freeze()  # the collector need look at nothing but what the test makes
    yield failures
    sys.last_value = sys.last_traceback = None  # they keep the last failed test's frames
    left = _selectables_and_timers() - before
    end = reactor.seconds() + GRACE
    while left and reactor.seconds() < end:
        pytest_twisted.blockon(deferLater(reactor, 0.01))
        left = _selectables_and_timers() - before
    gc.collect()
    globalLogPublisher.removeObserver(failures)
    assert not left, f"left in the reactor: {left}"
    assert not failures.texts(), "logged failures:\n" + "\n".join(failures.texts())


@pytest.fixture
def gearmand() -> Iterator[Gearmand]:
    """A gearmand of the test's own."""
    with Gearmand() as server:
        yield server


@pytest.fixture
def second_gearmand() -> Iterator[Gearmand]:
    """Another one."""
    with Gearmand() as server:
        yield server


@pytest.fixture
def geard() -> Iterator[Geard]:
    """A geard of the test's own: a job server in Python that is not gearmand."""
    with Geard() as server:
        yield server
