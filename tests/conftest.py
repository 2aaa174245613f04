"""What every test is held to: a deadline, and nothing left behind; and which tests are run (tests/tiers.py).

pytest-twisted has no time limit, and lets leaked timers, open sockets, logged failures and unhandled errors in
Deferreds pass. Here each of them fails the test.
"""

from __future__ import annotations

import faulthandler
import functools
import gc
import inspect
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
import pytest_twisted
from _pytest.doctest import DoctestModule
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from txgearman.testing.commands import VERSION
from txgearman.testing.logged_errors import flush_everywhere

from . import examples, guarantees, tiers
from .daemons import Geard, Gearmand
from .garbage import COUNTS_REFERENCES
from .programs import is_version, missing_programs, require, require_version

DEADLINE = float(os.environ.get("TEST_DEADLINE", "60"))
"""Seconds for a test that returns a Deferred or is `async`."""

LIMIT = float(os.environ.get("TEST_LIMIT", "120"))
"""Seconds that each test has at least. One that never comes back to the reactor ends the run, with the stacks of all
threads, after twice as long at the latest."""

SOAK_LIMIT = 3600.0
"""The same for the tests of the tier soak."""

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


class Watchdog:
    """Ends the process if no test starts for too long.

    A timer for each test would be exact, and a thread for each test: waiting until it has ended took as long as the
    test where the machine is busy.
    """

    def __init__(self) -> None:
        self._end = 0.0
        self._stderr = os.dup(2)  # what pytest does not capture

    def test_starts(self, limit: float) -> None:
        """Give a test at least `limit` seconds, and at most twice as many."""
        now = time.monotonic()
        if not limit <= self._end - now <= 2 * limit:
            self._end = now + 2 * limit
            faulthandler.dump_traceback_later(2 * limit, exit=True, file=self._stderr)

    def test_ends(self) -> None:
        """Give the next test all the time until it starts, where processes of pytest-xdist wait for each other."""
        if "PYTEST_XDIST_WORKER" in os.environ:
            self._end = 0.0
            faulthandler.cancel_dump_traceback_later()

    def stop(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        os.close(self._stderr)


WATCHDOG = pytest.StashKey[Watchdog]()

examples.register_profiles()

GUARD = tiers.Guard()
LEFT_OUT = pytest.StashKey[Counter[str]]()
"""How many tests of each tier were not run."""

MEMORY_VERSION = VERSION.decode()
"""The gearmand that `MemoryJobServer` imitates."""

TIER = pytest.StashKey[str]()
"""The tier of a test."""

LAST_OF_FILE = pytest.StashKey[bool]()
"""Whether the next test, if any, is in another file."""


def pytest_addoption(parser: pytest.Parser) -> None:
    names = ", ".join(tiers.TIERS)
    parser.addoption("--guarantees", action="store_true", help="print which tests hold which guarantee, and run none")
    parser.addoption(
        "--tier",
        action="append",
        metavar="NAMES",
        help=f"run the tests of these tiers, separated by commas: {names}; or all (default: memory)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """With ``-n``, keep the tests of a module or class in one process: they share servers."""
    if config.getoption("numprocesses", None) and config.option.dist == "no":
        config.option.dist = "loadscope"


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = Counter()
    if config.getoption("tier"):
        tiers.chosen_tiers(config)  # a name that is none ends the run here
    sys.addaudithook(GUARD)
    config.stash[WATCHDOG] = Watchdog()
    config.add_cleanup(config.stash[WATCHDOG].stop)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Collect no doctests here: the tests have none, and pytest takes long to look for them."""
    return [collector for collector in (yield) if not isinstance(collector, DoctestModule)]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of other tiers."""
    if config.getoption("guarantees"):
        return
    chosen = tiers.chosen_tiers(config)
    for item in items:
        item.stash[TIER] = tiers.tier_of(item)
    others = [item for item in items if item.stash[TIER] not in chosen]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item.stash[TIER] in chosen]
        config.stash[LEFT_OUT].update(item.stash[TIER] for item in others)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Print the table that ``--guarantees`` asks for."""
    if session.config.getoption("guarantees"):
        print("\n" + guarantees.table(guarantees.holders(session.items)))
        session.items.clear()  # none is run
    look_up_twisted_once()


def look_up_twisted_once() -> None:
    """Spare pytest reading Twisted's metadata at each test, which took a fifth of the default tier."""
    import _pytest.unittest
    import twisted.trial.unittest  # noqa: F401  # what pytest looks for in sys.modules

    look_up = getattr(_pytest.unittest, "_get_twisted_version", None)
    if look_up is not None:  # pytest 8.3 has none
        _pytest.unittest._get_twisted_version = functools.cache(look_up)  # type: ignore[attr-defined, unused-ignore]  # as above


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose marker names a program that is not installed, before anything is set up for it."""
    for mark in item.iter_markers():
        if mark.name in tiers.TIERS:
            for name in mark.args:
                require(name)
    for mark in item.iter_markers("gearmand"):
        require_version_of(item, *mark.args)


def require_version_of(item: pytest.Item, *prefixes: str) -> None:
    """Skip a test that is about other versions of gearmand than the server it runs on."""
    parameters = getattr(item, "callspec", None)
    on_memory = parameters is not None and not {"memory", "memory-tcp"}.isdisjoint(parameters.params.values())
    if not on_memory:
        require_version(*prefixes)
    elif not is_version(MEMORY_VERSION, *prefixes):
        pytest.skip(f"is about gearmand {' or '.join(prefixes)}; MemoryJobServer behaves as {MEMORY_VERSION}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Have the guard know what is run."""
    item.stash[LAST_OF_FILE] = nextitem is None or nextitem.path != item.path
    GUARD.tier = item.stash[TIER]
    item.config.stash[WATCHDOG].test_starts(SOAK_LIMIT if GUARD.tier == "soak" else LIMIT)
    yield
    item.config.stash[WATCHDOG].test_ends()
    GUARD.tier = None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a process of pytest-xdist, report what was left out."""
    output = getattr(session.config, "workeroutput", None)
    counts = session.config.stash[LEFT_OUT]
    if output is not None:
        output["left_out"] = dict(counts)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Note what a process of pytest-xdist has left out. Each of them has collected all tests."""
    node.config.stash[LEFT_OUT] |= Counter(getattr(node, "workeroutput", {}).get("left_out"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """End with what was not run, and how to run it."""
    reasons = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    counts = config.stash[LEFT_OUT]
    for line in (missing_programs(reasons), tiers.left_out(counts)):
        if line:
            terminalreporter.write_line(line, yellow=True)


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
        # The failure of a Deferred that was collected follows in an event of its own.
        heading = event.get("log_format") == "Unhandled error in Deferred:"
        if "log_failure" in event or (event.get("isError") and not heading):
            self._events.append(event)

    def flush(self, *types: type[BaseException]) -> list[BaseException]:
        """Take those of `types` off the list: the test expects them."""
        flush_everywhere(*types)  # else a server in memory complains of them
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
def logged_failures(twisted_greenlet: object, request: pytest.FixtureRequest) -> Iterator[Failures]:
    """Fail the test for what it leaves behind. A test that expects a logged failure flushes it.

    PyPy finds an unhandled error in a Deferred by a whole collection alone, which takes longer than most tests: one for
    each file, in whose last test such an error shows at the latest.
    """
    from twisted.internet import reactor

    failures = Failures()
    globalLogPublisher.addObserver(failures)
    pytest_twisted.blockon(deferLater(reactor, 0))  # it has its own readers from then on
    before = _selectables_and_timers()
    if hasattr(gc, "freeze"):  # PyPy has none
        gc.freeze()  # the collector need look at nothing but what the test makes
    yield failures
    sys.last_value = sys.last_traceback = None  # they keep the last failed test's frames
    left = _selectables_and_timers() - before
    end = reactor.seconds() + GRACE
    while left and reactor.seconds() < end:
        pytest_twisted.blockon(deferLater(reactor, 0.01))
        left = _selectables_and_timers() - before
    if COUNTS_REFERENCES or request.node.stash[LAST_OF_FILE]:
        gc.collect()
    globalLogPublisher.removeObserver(failures)
    assert not left, f"left in the reactor: {left}"
    assert not failures.texts(), "logged failures:\n" + "\n".join(failures.texts())


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Objects are freed only by their reference counts; where these are not counted, by `garbage.is_freed`."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


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
