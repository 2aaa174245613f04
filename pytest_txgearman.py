"""The test kit of txgearman for pytest, which finds this plugin by itself once txgearman is installed.

It defines three fixtures, each of which is closed after the test:

- ``job_server``: a `MemoryJobServer` on a `Clock`;
- ``job_server_on_port``: a `MemoryJobServer` on the reactor, which listens on a free port, for tests that await;
- ``job_server_on_gearmand``: a `Gearmand`, a real one in a process of its own. Where gearmand is not installed, the
  test is skipped; with ``gearmand_required = true`` in pytest's configuration, it fails.

A marker has their options: ``@pytest.mark.job_server(job_retries=2)``. The servers in memory are verified after the
test. With ``verify=False`` among the options, or ``job_server_verify = false`` in pytest's configuration for all tests,
nothing is verified.

This module is in no package, and imports no other one before a fixture is used: importing txgearman takes longer than
pytest itself, and a reactor that it would import could not be chosen by others.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from txgearman.testing import Gearmand, MemoryJobServer
    from txgearman.testing.waiting import RunningTest

_SHOWN_LINES: Final = 30
"""Lines of the server's log in the report of a failing test."""

_FAILED: Final = pytest.StashKey[bool]()
"""Whether the test has failed before its fixtures end."""

_LOGS: Final = pytest.StashKey["dict[str, MemoryJobServer | Gearmand]"]()
"""The servers of the test, by what their logs are called."""

_items: Final[list[pytest.Item]] = []
"""The tests that are in progress, each one within the test before it. The last one is that of a fixture that starts.

A fixture that asks for ``request`` would have the signature of its class inspected three times a test by pytest 9.
"""

_RUNNING: Final[pytest.StashKey[RunningTest | None]] = pytest.StashKey()
"""The test, if pytest-twisted runs it and it has a server on a clock, or else None."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of pytest's configuration."""
    parser.addini("job_server_verify", "whether the fixture job_server verifies the end of tests", "bool", default=True)
    parser.addini(
        "gearmand_required",
        "whether tests that need gearmand fail, and are not skipped, where it is not installed",
        "bool",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", "job_server(**options): options of the fixtures of txgearman, such as job_retries=2 or verify=False"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Note the test for its fixtures."""
    _items.append(item)
    try:
        return (yield)
    finally:
        _items.pop()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start again: another plugin may run a test again that has failed, and the second run is verified."""
    item.stash[_FAILED] = False
    item.stash[_LOGS] = {}


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Have a test return a Deferred, which can be failed while it waits."""
    running = pyfuncitem.stash.get(_RUNNING, None)
    function = pyfuncitem.obj
    if running is None or hasattr(function, "hypothesis"):
        return (yield)

    @wraps(function)
    def run(**arguments: object) -> object:
        return running.run(partial(function, **arguments))

    pyfuncitem.obj = run
    try:
        return (yield)
    finally:
        pyfuncitem.obj = function


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note whether the test has failed, and add the end of its servers' logs to its report."""
    report = yield
    if call.excinfo is not None and call.when != "teardown":
        item.stash[_FAILED] = True
        for name, server in item.stash.get(_LOGS, {}).items():
            if report.failed and (log := server.log(_SHOWN_LINES)):
                report.sections.append((name, log))
    if call.when == "teardown" and item.stash.get(_LOGS, None):
        # pytest keeps its items until the end. What a test has used would stay there with them.
        item.stash[_LOGS] = {}
        item.stash[_RUNNING] = None
    return report


@pytest.fixture
def job_server() -> Iterator[MemoryJobServer]:
    """Provide an in-memory job server on a `Clock`. It is verified after the test, unless the test has failed."""
    from txgearman.testing import MemoryJobServer
    from txgearman.testing.waiting import RunningTest, StandstillWatch, has_pytest_twisted

    item = _items[-1]
    options, verify = _options(item)
    server = MemoryJobServer(**options)
    _note(item, f"the last packets of {server.name}", server)
    running = RunningTest()
    item.stash[_RUNNING] = running if has_pytest_twisted() else None
    watch = StandstillWatch(server, server._group, running)
    watch.start()
    yield server
    watch.stop()
    server.close(verify=verify and not _has_failed(item))


@pytest.fixture
def job_server_on_port() -> Iterator[MemoryJobServer]:
    """Provide an in-memory job server on the reactor and a free port. It is verified as `job_server` is."""
    from twisted.internet import reactor

    from txgearman.testing import MemoryJobServer
    from txgearman.testing.waiting import wait_for

    item = _items[-1]
    options, verify = _options(item)
    server = MemoryJobServer(reactor, **options)
    _note(item, f"the last packets of {server.name}", server)
    server._watch()
    server.listen()
    yield server
    wait_for(server.close(verify=verify and not _has_failed(item)), reactor)


@pytest.fixture
def job_server_on_gearmand() -> Iterator[Gearmand]:
    """Provide a real gearmand on a free port, which is killed after the test. Nothing is verified."""
    from twisted.internet import reactor

    from txgearman.testing import Gearmand, GearmandMissing
    from txgearman.testing.gearmand import gearmand_options
    from txgearman.testing.waiting import wait_for

    item = _items[-1]
    options, _ = _options(item)
    try:
        server = Gearmand(reactor, **gearmand_options(options))
    except GearmandMissing as error:
        if item.config.getini("gearmand_required"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    _note(item, "the last lines of the log of gearmand", server)
    yield server
    wait_for(server.close(), reactor)


def _note(item: pytest.Item, name: str, server: MemoryJobServer | Gearmand) -> None:
    item.stash.setdefault(_LOGS, {})[name] = server


def _has_failed(item: pytest.Item) -> bool:
    return item.stash.get(_FAILED, False)


def _options(item: pytest.Item) -> tuple[dict[str, Any], bool]:
    """Return the options of the markers, of which the closest to the test wins, and whether to verify."""
    options: dict[str, Any] = {}
    for marker in item.iter_markers("job_server"):
        options = {**marker.kwargs, **options}
    verify = options.pop("verify", item.config.getini("job_server_verify"))
    return options, verify
