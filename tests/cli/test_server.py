"""``txgearman server`` and ``txgearman metrics``."""

from __future__ import annotations

import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import CancelledError, ensureDeferred
from twisted.internet.task import Clock, deferLater

from txgearman import GearmanClient, Priority, __version__
from txgearman.admin.admin import GearmanAdmin
from txgearman.cli.exit_codes import ExitCode
from txgearman.cli.main import cli
from txgearman.cli.metrics import _collect
from txgearman.cli.server import _Page
from txgearman.cli.terminal import run_in_thread
from txgearman.packets import ECHO_REQ

from ..daemons import Geard, Gearmand, free_port
from ..wire import MemoryEndpoint, outcome
from .harness import RunningCommand, reactor, run_command, run_command_for_geard, run_tool, usage_error


async def address(started: RunningCommand) -> str:
    """Wait until it has printed its address; return that."""
    await started.wait_for("\n")
    return started.stdout().decode().split()[-1]


async def get(url: str) -> tuple[int, str, str]:
    """Return the status, the content type and the content of a page."""
    return await run_in_thread(reactor, _get, url)


def _get(url: str) -> tuple[int, str, str]:
    """Block until the page has been read."""
    _, _, host, path = url.split("/", 3)
    connection = HTTPConnection(host, timeout=10)
    connection.request("GET", f"/{path}")
    with closing(connection), connection.getresponse() as response:
        return response.status, response.headers.get_content_type(), response.read().decode()


# A job server.


@pytest.mark.daemon("gearadmin")
async def test_server_serves_jobs() -> None:
    started = RunningCommand("server", "-p", "0", "--job-handle-prefix", "H:mine", "--job-retries", "3", "--exceptions")
    where = await address(started)
    port = int(where.rpartition(":")[2])
    async with GearmanClient([where]) as client:
        handle = await client.add_task_bg("f")
        assert handle.handle.startswith(b"H:mine")
        listed = await run_in_thread(reactor, lambda: run_tool("gearadmin", port, "--status"))
        assert listed.out == b"f\t1\t0\t0\n.\n"
    assert (await started.finish(signal.SIGTERM)).code == 128 + signal.SIGTERM


async def test_server_logs_what_it_refuses() -> None:
    """Without -v only requests that are left without an answer, with it others, too."""
    for options, lines in (
        ([], ["!! closes the connection: there is no packet type 4096"]),
        (
            ["-v"],
            [
                "-- connected from 127.0.0.1",
                "-> ECHO_REQ 'x'",
                "!! closes the connection: there is no packet type 4096",
                "-- disconnected",
            ],
        ),
    ):
        started = RunningCommand(*options, "server", "-p", "0")
        host, _, port = (await address(started)).rpartition(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(ECHO_REQ.request(b"x") + b"\0REQ\0\0\x10\0" + bytes(4))
            await started.wait_for(lines[-1])
        result = await started.finish(signal.SIGTERM)
        assert result.err.splitlines() == [f"txgearman: Connection 1 {line}" for line in lines]


async def test_server_reopens_its_log_file_on_hangup(tmp_path: Path) -> None:
    path, renamed = tmp_path / "log", tmp_path / "log.1"
    started = RunningCommand("-v", "server", "-p", "0", "--log-file", str(path))
    async with GearmanClient([await address(started)]) as client:
        path.rename(renamed)
        signal.raise_signal(signal.SIGHUP)
        while not path.exists():
            await deferLater(reactor, 0.01)
        await client.echo(b"after")
    assert (await started.finish(signal.SIGTERM)).err == ""
    assert "ECHO_REQ 'after'" not in renamed.read_text()
    assert "ECHO_REQ 'after'" in path.read_text()


async def test_log_file_that_cannot_be_opened_is_usage_error() -> None:
    result = await run_command("server", "-p", "0", "--log-file", "/")
    assert (result.code, result.err) == (2, "txgearman: can't write the log file /: Is a directory\n")


def test_server_has_version_of_library(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["server", "--version"], standalone_mode=False)
    assert capsys.readouterr().out == f"txgearman, version {__version__}\n"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Twisted 22.4 leaves the socket open
async def test_port_in_use_is_usage_error(gearmand: Gearmand) -> None:
    for arguments in (["server", "-p", str(gearmand.port)], ["metrics", "--listen", str(gearmand.port)]):
        result = await run_command(*arguments)
        assert (result.code, result.out) == (ExitCode.USAGE, b"")
        assert "in use" in result.err
    assert "not in the range" in usage_error("server", "-p", "70000")


# Metrics.


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it has no annotations
async def busy(gearmand: Gearmand) -> AsyncIterator[Gearmand]:
    async with GearmanClient([gearmand.address]) as client:
        for priority in (Priority.HIGH, Priority.LOW, Priority.LOW):
            await client.add_task_bg("pre\tf", priority=priority)
    yield gearmand


LABELS = ("server", "function", "priority")


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Return the values, by name and labels."""
    return {
        (sample.name, *(sample.labels[label] for label in LABELS if label in sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def expected(server: str) -> dict[tuple[str, ...], float]:
    name = "pre\\tf"
    return {
        ("gearman_up", server): 1,
        ("gearman_queued_jobs", server, name): 3,
        ("gearman_running_jobs", server, name): 0,
        ("gearman_workers", server, name): 0,
        ("gearman_queued_jobs_by_priority", server, name, "high"): 1,
        ("gearman_queued_jobs_by_priority", server, name, "normal"): 0,
        ("gearman_queued_jobs_by_priority", server, name, "low"): 2,
    }


async def test_metrics_are_printed_once(busy: Gearmand) -> None:
    result = await run_command("metrics", "-s", busy.address)
    assert (result.code, result.err) == (0, "")
    assert samples(result.out.decode()) == expected(busy.address)


async def test_metrics_cover_several_servers(busy: Gearmand, geard: Geard) -> None:
    """geard has no queues by priority. A server that is down has no metrics but ``gearman_up``."""
    unreachable = f"127.0.0.1:{free_port()}"
    result = await run_command_for_geard("metrics", "-s", busy.address, "-s", geard.address, "-s", unreachable)
    assert result.code == ExitCode.NO_SERVER
    assert result.err.startswith(f"txgearman: {unreachable}: ")
    printed = samples(result.out.decode())
    assert printed == expected(busy.address) | {("gearman_up", geard.address): 1, ("gearman_up", unreachable): 0}


async def test_metrics_over_http_are_current(busy: Gearmand) -> None:
    started = RunningCommand("metrics", "--listen", "0", "-s", busy.address)
    url = await address(started)
    code, content_type, text = await get(url)
    assert (code, content_type) == (200, "text/plain")
    assert samples(text) == expected(busy.address)
    async with GearmanAdmin([busy.address]) as admin:
        (await admin.create_function("g")).all()
    assert ("gearman_workers", busy.address, "g") in samples((await get(url))[2])
    assert (await get(re.sub("metrics$", "", url)))[0] == 404
    assert (await started.finish(signal.SIGINT)).code == 130


async def test_error_while_rendering_metrics_is_a_500(busy: Gearmand, monkeypatch: pytest.MonkeyPatch) -> None:
    started = RunningCommand("metrics", "--listen", "127.0.0.1:0", "-s", busy.address)
    url = await address(started)

    def broken(_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(GearmanAdmin, "status", broken)
    assert (await get(url))[::2] == (500, "by zero\n")
    await started.finish(signal.SIGINT)


CANCELLED: list[object] = []


@pytest.mark.daemon("gearmand")
async def test_disconnect_cancels_rendering_of_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other requests are served."""
    failed = _Page._page_failed

    def record(*arguments: Any) -> None:
        CANCELLED.append(arguments)
        failed(*arguments)

    monkeypatch.setattr(_Page, "_page_failed", record)
    with Gearmand() as gearmand:
        started = RunningCommand("metrics", "--listen", "[::1]:0", "-s", gearmand.address)
        url = await address(started)
        await get(url)
        gearmand.stall()
        cancelled = len(CANCELLED)
        with socket.create_connection(("::1", int(re.findall(r"\d+", url)[1]))) as leaving:
            leaving.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            await deferLater(reactor, 0.05)
        while len(CANCELLED) == cancelled:
            await deferLater(reactor, 0.01)
        gearmand.signal(signal.SIGCONT)
        assert (await get(url))[0] == 200
        await started.finish(signal.SIGINT)


@pytest.mark.guarantee(number=9)
def test_cancelled_query_for_metrics_logs_nothing() -> None:
    """It asks twice, and a cancel cancels both calls. `logged_failures` fails this for an unhandled error."""
    clock = Clock()
    admin = GearmanAdmin([MemoryEndpoint(clock), MemoryEndpoint(clock)], reactor=clock)
    query = ensureDeferred(_collect(admin))
    told = outcome(query)
    query.cancel()
    assert isinstance(told[0], CancelledError)
    admin.stopService()
    clock.advance(5)


async def test_missing_extra_reports_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("prometheus_client", "txgearman.cli.metrics"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert "needs the extra 'metrics'" in usage_error("metrics")
