"""``txgearman top``."""

from __future__ import annotations

import re
import signal
import time

import pytest
from twisted.internet.task import deferLater

from txgearman import FunctionStatus, GearmanClient, NoServersAvailable
from txgearman.admin.reports import ServerReport
from txgearman.cli.exit_codes import ExitCode
from txgearman.cli.top import History, ServerLog
from txgearman.testing import MemoryJobServer

from ..daemons import Gearmand, free_port
from .harness import RunningCommand, reactor, run_command

DOWN = NoServersAvailable({"b": OSError()})


def up(address: str, *functions: FunctionStatus, version: str | None = None) -> ServerReport:
    return ServerReport(address, {each.function: each for each in functions}, version=version)


def down(address: str) -> ServerReport:
    return ServerReport(address, error=DOWN)


def test_functions_are_added_up_and_sorted_by_jobs() -> None:
    a = [FunctionStatus(b"idle", 0, 0, 3), FunctionStatus(b"busy", 5, 2, 2)]
    b = [FunctionStatus(b"busy", 10, 1, 1), FunctionStatus(b"also idle", 0, 0, 0)]
    table = History().update([up("a", *a), up("b", *b)], now=0.0)
    assert table.columns == ("function", "queued", "running", "workers", "change/s")
    assert table.rows == [(b"busy", 12, 3, 3, None), (b"also idle", 0, 0, 0, None), (b"idle", 0, 0, 3, None)]
    assert list(table.wrong) == []


def test_function_with_jobs_and_no_worker_is_wrong_and_first() -> None:
    functions = [FunctionStatus(b"busy", 50, 2, 2), FunctionStatus(b"abandoned", 1, 0, 0)]
    table = History().update([up("a", *functions)], now=0.0)
    assert [row[0] for row in table.rows] == [b"abandoned", b"busy"]
    assert list(table.wrong) == [0]


def test_function_whose_worker_is_on_another_server_is_not_wrong() -> None:
    table = History().update([up("a", FunctionStatus(b"f", 1, 0, 0)), up("b", FunctionStatus(b"f", 0, 0, 1))], now=0.0)
    assert list(table.wrong) == []


def test_rate_is_change_per_second_since_last_update() -> None:
    history = History()
    history.update([up("a", FunctionStatus(b"f", 100, 0, 1)), up("b", FunctionStatus(b"f", 7, 0, 0))], now=10.0)
    table = history.update([up("a", FunctionStatus(b"f", 60, 0, 1)), up("b", FunctionStatus(b"f", 17, 0, 0))], now=12.0)
    assert table.rows == [(b"f", 77, 0, 1, -15.0)]


def test_missing_answer_does_not_affect_rate() -> None:
    history = History()
    both = [up("a", FunctionStatus(b"f", 100, 0, 0)), up("b", FunctionStatus(b"f", 7, 0, 0))]
    history.update(both, now=0.0)
    history.update([up("a", FunctionStatus(b"f", 100, 0, 0)), down("b")], now=1.0)
    assert history.update(both, now=2.0).rows == [(b"f", 107, 0, 0, 0.0)]


def test_server_table_has_servers_that_are_down_first() -> None:
    log = ServerLog()
    functions = FunctionStatus(b"f", 5, 2, 2), FunctionStatus(b"g", 1, 0, 2)
    noon = time.mktime((2030, 1, 31, 12, 0, 0, 0, 0, -1))
    both = log.update([up("a", *functions, version="1.1"), up("b", version="2.0")], noon)
    assert both.columns == ("server", "state", "queued", "running", "answered", "version")
    assert both.rows == [("a", "up", 4, 2, "12:00:00", "1.1"), ("b", "up", 0, 0, "12:00:00", "2.0")]
    assert list(both.wrong) == []
    one = log.update([up("a", version="1.1"), down("b"), down("c")], noon + 2)
    assert one.rows == [
        ("b", "DOWN", None, None, "12:00:00", "2.0"),
        ("c", "DOWN", None, None, "never", None),
        ("a", "up", 0, 0, "12:00:02", "1.1"),
    ]
    assert list(one.wrong) == [0, 1]


def test_error_of_server_gives_empty_table() -> None:
    assert History().update([down("b")], now=0.0).rows == []


async def test_top_prints_rows_and_errors_at_each_update_without_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    unreachable = f"127.0.0.1:{free_port()}"
    server = MemoryJobServer(reactor)
    address = server.listen()
    async with GearmanClient([address]) as client:
        await client.add_task_bg("f")
        for terminal in (False, True):
            result = await run_command(
                "top", "-c", "2", "-i", "10ms", "-s", address, "-s", unreachable, terminal=terminal
            )
            rows = [line for line in result.out.decode().splitlines() if line.startswith("f")]
            assert rows == ["f\t1\t0\t0\t-", "f\t1\t0\t0\t+0.0"]
            assert (result.err + result.out.decode()).count(f"txgearman: {unreachable}: Connection was refused") == 2
            assert result.code == ExitCode.NO_SERVER
    await server.close()


async def test_top_without_any_server_has_exit_code_of_status() -> None:
    unreachable = f"127.0.0.1:{free_port()}"
    status = await run_command("status", "-s", unreachable)
    assert (await run_command("top", "-c", "1", "-s", unreachable)) == status
    on_screen = RunningCommand("top", "-s", unreachable, terminal=True)
    await wait_for(on_screen, b"DOWN")
    on_screen.type_keys(b"q")
    ended = await on_screen.finish()
    assert ended.code == status.code == ExitCode.NO_SERVER
    assert status.err.encode() in ended.out[ended.out.rindex(b"\x1b[?1049l") :]


async def wait_for(running: RunningCommand, text: bytes) -> bytes:
    """Return what has been shown once the text is among it."""
    shown = b""
    while text not in shown:
        assert not running.finished.called, shown
        shown += running.read_screen()
        await deferLater(reactor, 0.01)
    return shown


def plain(shown: bytes) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


@pytest.mark.daemon
async def test_top_shows_server_that_goes_down_first(gearmand: Gearmand, second_gearmand: Gearmand) -> None:
    async with GearmanClient([gearmand.address]) as client:
        await client.add_task_bg("f")
    top = RunningCommand("top", "-i", "50ms", "-s", gearmand.address, "-s", second_gearmand.address, terminal=True)
    shown = plain(await wait_for(top, b"+0.0"))
    assert re.search(rf"{gearmand.address} +up +1 +0 +\d\d:\d\d:\d\d +\d\.", shown)
    assert re.search(rf"{second_gearmand.address} +up +0 +0 ", shown)
    second_gearmand.stop()
    shown = plain(await wait_for(top, b"DOWN"))
    last = shown[shown.rindex("top  ") :]
    assert last.index(f"{second_gearmand.address}: ") < last.index("server ") < last.index("DOWN") < last.index(" up ")
    top.type_keys(b"q")
    assert (await top.finish()).code == ExitCode.NO_SERVER


@pytest.mark.daemon
async def test_top_restores_terminal(gearmand: Gearmand) -> None:
    top = RunningCommand("top", "-i", "50ms", "-s", gearmand.address, terminal=True)
    shown = await wait_for(top, b"version")
    result = await top.finish(signal.SIGINT)
    shown += result.out
    assert result.code == 130
    assert shown.index(b"\x1b[?1049h") < shown.index(b"\x1b[?1049l")
    assert shown.index(b"\x1b[?25l") < shown.rindex(b"\x1b[?25h")


@pytest.mark.daemon
async def test_server_that_hangs_does_not_delay_the_others(gearmand: Gearmand, second_gearmand: Gearmand) -> None:
    second_gearmand.stall()
    top = RunningCommand("top", "-i", "50ms", "-s", gearmand.address, "-s", second_gearmand.address, terminal=True)
    shown = plain(await wait_for(top, b"DOWN"))
    last = shown[shown.rindex("top  ") :]
    assert f"{second_gearmand.address}: no answer within 1 s" in last
    assert re.search(rf"{gearmand.address} +up +0 +0 ", last)
    top.type_keys(b"q")
    assert (await top.finish()).code == ExitCode.NO_SERVER
