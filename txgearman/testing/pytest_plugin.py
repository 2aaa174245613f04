"""The test kit for pytest. One line in ``conftest.py`` enables it::

    pytest_plugins = ["txgearman.testing.pytest_plugin"]

It defines two fixtures, each of which is closed and verified after the test: ``job_server``, a `MemoryJobServer` on a
`Clock`, and ``job_server_on_port``, one on the reactor, which listens on a free port, for tests that await. A marker
has their options: ``@pytest.mark.job_server(job_retries=2)``. With ``verify=False`` among them, or
``job_server_verify = false`` in pytest's configuration for all tests, nothing is verified.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Final

import pytest

from .server import MemoryJobServer
from .waiting import StandstillWatch, wait_for

SHOWN_PACKETS: Final = 30
"""Lines of the server's log in the report of a failing test."""

_FAILED: Final = pytest.StashKey[bool]()
"""Whether the test has failed before its fixtures end."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of pytest's configuration."""
    parser.addini("job_server_verify", "whether the fixture job_server verifies the end of tests", "bool", default=True)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "job_server(**options): options of the fixture job_server, such as verify=False")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note whether the test has failed, and add the last packets to its report."""
    report = yield
    if call.excinfo is not None and call.when != "teardown":
        item.stash[_FAILED] = True
        for server in getattr(item, "funcargs", {}).values():
            if report.failed and isinstance(server, MemoryJobServer):
                report.sections.append((f"the last packets of {server.name}", server.log(SHOWN_PACKETS)))
    return report


@pytest.fixture
def job_server(request: pytest.FixtureRequest) -> Iterator[MemoryJobServer]:
    """An in-memory job server on a `Clock`, which is closed and verified after the test, unless the test has failed."""
    options, verify = _options(request)
    server = MemoryJobServer(**options)
    watch = StandstillWatch(server, server._group)
    watch.start()
    yield server
    watch.stop()
    server.close(verify=verify and not _has_failed(request))


@pytest.fixture
def job_server_on_port(request: pytest.FixtureRequest) -> Iterator[MemoryJobServer]:
    """An in-memory job server on the reactor and on a free port: its ``address``. It is verified as `job_server` is."""
    from twisted.internet import reactor

    options, verify = _options(request)
    server = MemoryJobServer(reactor, **options)
    server._watch()
    server.listen()
    yield server
    wait_for(server.close(verify=verify and not _has_failed(request)), reactor)


def _has_failed(request: pytest.FixtureRequest) -> bool:
    failed: bool = request.node.stash.get(_FAILED, False)
    return failed


def _options(request: pytest.FixtureRequest) -> tuple[dict[str, Any], bool]:
    """Return the options of the markers, of which the closest to the test wins, and whether to verify."""
    options: dict[str, Any] = {}
    for marker in request.node.iter_markers("job_server"):
        options = {**marker.kwargs, **options}
    verify = options.pop("verify", request.config.getini("job_server_verify"))
    return options, verify
