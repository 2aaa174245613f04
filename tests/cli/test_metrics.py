"""``txgearman metrics``: what a scraper gets, and when."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from http.client import HTTPConnection

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater

from txgearman import GearmanClient, Priority
from txgearman.admin.admin import GearmanAdmin
from txgearman.admin.reports import ServerReport, query_reports
from txgearman.cli.exit_codes import ExitCode
from txgearman.cli.terminal import run_in_thread
from txgearman.dashboard import scrape
from txgearman.testing import MemoryJobServer

from ..daemons import Geard, Gearmand, free_port
from ..samples import Samples, samples
from .harness import RunningCommand, parse_command, reactor, run_command, run_command_for_geard, usage_error


async def address(started: RunningCommand) -> str:
    """Wait until it has printed its address; return that."""
    await started.wait_for("\n")
    return started.stdout().decode().split()[-1]


async def get(url: str, **headers: str) -> tuple[int, str, str]:
    """Return the status, the content type and the content of a page."""
    return await run_in_thread(reactor, _get, url, headers)


def _get(url: str, headers: dict[str, str]) -> tuple[int, str, str]:
    """Block until the page has been read."""
    _, _, host, path = url.split("/", 3)
    connection = HTTPConnection(host, timeout=10)
    connection.request("GET", f"/{path}", headers={name.replace("_", "-"): value for name, value in headers.items()})
    with closing(connection), connection.getresponse() as response:
        return response.status, response.headers.get_content_type(), response.read().decode()


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it has no annotations
async def busy(gearmand: Gearmand) -> AsyncIterator[Gearmand]:
    async with GearmanClient([gearmand.address]) as client:
        for priority in (Priority.HIGH, Priority.LOW, Priority.LOW):
            await client.add_task_bg("pre\tf", priority=priority)
    yield gearmand


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it has no annotations
async def server() -> AsyncIterator[MemoryJobServer]:
    """A job server on a port."""
    server = MemoryJobServer(reactor)
    server.listen()
    yield server
    await server.close(verify=False)


def expected(server: str, version: str) -> Samples:
    name = "pre\\tf"
    return {
        ("gearman_up", server): 1,
        ("gearman_version_info", server, version): 1,
        ("gearman_jobs", server, name): 3,
        ("gearman_jobs_running", server, name): 0,
        ("gearman_jobs_waiting", server, name): 3,
        ("gearman_workers", server, name): 0,
        ("gearman_jobs_waiting_by_priority", server, name, "high"): 1,
        ("gearman_jobs_waiting_by_priority", server, name, "normal"): 0,
        ("gearman_jobs_waiting_by_priority", server, name, "low"): 2,
    }


def expected_of(server: Gearmand) -> Samples:
    return expected(server.address, server.admin("version")[0].split()[1])


# Once.


async def test_metrics_are_printed_once(busy: Gearmand) -> None:
    result = await run_command("metrics", "-s", busy.address)
    assert (result.code, result.err) == (0, "")
    assert samples(result.out.decode()) == expected_of(busy)


async def test_metrics_cover_several_servers(busy: Gearmand, geard: Geard) -> None:
    """geard has neither a version nor queues by priority. A server that is down has ``gearman_up`` only."""
    unreachable = f"127.0.0.1:{free_port()}"
    result = await run_command_for_geard("metrics", "-s", busy.address, "-s", geard.address, "-s", unreachable)
    assert result.code == ExitCode.NO_SERVER
    assert result.err.startswith(f"txgearman: {unreachable}: ")
    printed = samples(result.out.decode())
    assert printed == expected_of(busy) | {("gearman_up", geard.address): 1, ("gearman_up", unreachable): 0}


NEEDS_EXTRA = (
    "prometheus_client",
    "txgearman.cli.metrics",
    "txgearman.cli.health",
    "txgearman.metrics",
    "txgearman.dashboard.scrape",
)


async def test_missing_extra_reports_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith((*NEEDS_EXTRA, "txgearman.admin.exporter"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert "needs the extra 'metrics'" in usage_error("metrics")
    result = await run_command("work", "--http", "0", "f", "cat", "-s", f"127.0.0.1:{free_port()}")
    assert (result.code, "needs the extra 'metrics'" in result.err) == (ExitCode.USAGE, True)


# Over HTTP.


async def test_page_of_metrics_is_current(busy: Gearmand) -> None:
    started = RunningCommand("metrics", "--listen", "0", "-s", busy.address)
    url = await address(started)
    code, content_type, text = await get(url)
    assert (code, content_type) == (200, "text/plain")
    assert samples(text) == expected_of(busy)
    async with GearmanAdmin([busy.address]) as admin:
        (await admin.create_function("g")).all()
    assert ("gearman_workers", busy.address, "g") in samples((await get(url))[2])
    await started.finish(signal.SIGINT)


async def test_scraper_chooses_the_format(server: MemoryJobServer) -> None:
    started = RunningCommand("metrics", "--listen", "0", "-s", server.address)
    code, content_type, text = await get(await address(started), Accept="application/openmetrics-text; version=1.0.0")
    assert (code, content_type, text[-6:]) == (200, "application/openmetrics-text", "# EOF\n")
    await started.finish(signal.SIGINT)


async def test_other_pages(server: MemoryJobServer) -> None:
    """The health page queries no server."""
    started = RunningCommand("metrics", "--listen", "0", "-s", server.address)
    url = (await address(started)).removesuffix("/metrics")
    with server.fall_silent():
        assert await get(f"{url}/healthz") == (200, "text/plain", "ok\n")
    assert await get(f"{url}/") == (200, "text/plain", "/metrics\n/healthz\n")
    assert (await get(f"{url}/metrics/x"))[0] == 404
    assert (await get(f"{url}/favicon.ico"))[0] == 404
    await started.finish(signal.SIGINT)


Queries = list[tuple[float, Deferred[list[ServerReport]]]]
"""The queries of all servers, with the seconds that they may take."""


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> Queries:
    """The queries that the command has made."""
    made: Queries = []

    def query(admin: GearmanAdmin, timeout: float) -> Deferred[list[ServerReport]]:
        made.append((timeout, query_reports(admin, timeout)))
        return made[-1][1]

    monkeypatch.setattr(scrape, "query_reports", query)
    return made


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await deferLater(reactor, 0.001)


async def test_servers_have_less_time_than_the_scraper(server: MemoryJobServer, queries: Queries) -> None:
    """Else one that hangs would cost the scrape of all."""
    started = RunningCommand("metrics", "--listen", "0", "-s", server.address)
    url = await address(started)
    for headers in ({}, {"X_Prometheus_Scrape_Timeout_Seconds": "3"}):
        assert (await get(url, **headers))[0] == 200
    assert [timeout for timeout, _ in queries] == [10, 2.5]
    await started.finish(signal.SIGINT)


async def test_scraper_that_leaves_early_is_not_logged(server: MemoryJobServer, queries: Queries) -> None:
    """Its query is cancelled, and others are answered."""
    started = RunningCommand("metrics", "--listen", "[::1]:0", "-s", server.address)
    url = await address(started)
    await get(url)
    with server.fall_silent():
        with socket.create_connection(("::1", int(url.split("/")[2].rpartition(":")[2]))) as leaving:
            leaving.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            await until(lambda: len(queries) == 2)
            assert not queries[1][1].called
        await until(lambda: queries[1][1].called)
    assert (await get(url))[0] == 200
    result = await started.finish(signal.SIGINT)
    assert [line for line in result.err.splitlines() if "connected" not in line] == []


async def test_stop_ends_pending_scrapes(server: MemoryJobServer, queries: Queries) -> None:
    started = RunningCommand("metrics", "--listen", "0", "-s", server.address)
    url = await address(started)
    await get(url)
    with server.fall_silent():
        scrape = ensureDeferred(get(url))
        await until(lambda: len(queries) == 2)
        await started.finish(signal.SIGINT)
        assert (await scrape)[0] == 500


def test_port_is_that_of_gearman_exporter() -> None:
    """Unless another one is given."""
    for arguments, listen in ((["--listen"], "9418"), (["--listen", "[::]:1"], "[::]:1"), ([], None)):
        main, _ = parse_command("metrics", *arguments)
        (found,) = [cell.cell_contents for cell in main.__closure__ or () if type(cell.cell_contents) is tuple]
        assert found[2] == listen
