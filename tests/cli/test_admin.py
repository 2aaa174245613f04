"""Administration commands, compared with gearadmin on the same gearmand."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.task import deferLater

from txgearman import GearmanAdmin, GearmanClient, Priority
from txgearman.cli.exit_codes import ExitCode
from txgearman.testing import MemoryJobServer

from ..daemons import Geard, Gearmand, free_port
from ..raw_worker import connect_worker
from .harness import RunningCommand, reactor, run_command, run_command_for_geard, run_tool

NAMES = ["plain", "pre\tfixed", "a b", "ünïcödé"]


@pytest.fixture(scope="module")
def busy() -> Iterator[Gearmand]:
    """Run a gearmand for all tests of this module."""
    with Gearmand() as server:
        yield server


@pytest.fixture(scope="module")
def filled(busy: Gearmand) -> Gearmand:
    """Submit background jobs to it."""
    for name in NAMES:
        for unique in ("one", "two"):
            assert run_tool("gearman", busy.port, "-b", "-f", name, "-u", unique, "-s", "workload").code == 0
    return busy


def gearadmin_lines(text: bytes) -> list[str]:
    """Return the sorted lines of a list that gearadmin printed, without the final dot."""
    *rows, end = text.decode().splitlines()
    assert end == "."
    return sorted(rows)


def unescaped_lines(out: bytes) -> list[str]:
    """Return the sorted lines of a list that txgearman printed, with TABs in names unescaped."""
    return sorted(out.decode().replace("\\t", "\t").splitlines())


@pytest.mark.parametrize(
    ("gearadmin_option", "words"),
    [
        ("--status", ["status"]),
        ("--priority-status", ["status", "--priority"]),
        ("--show-unique-jobs", ["jobs", "--unique"]),
    ],
)
async def test_list_matches_gearadmin(filled: Gearmand, gearadmin_option: str, words: list[str]) -> None:
    result = await run_command(*words, "-s", filled.address)
    assert (result.code, result.err) == (0, "")
    assert (
        unescaped_lines(result.out) == gearadmin_lines(run_tool("gearadmin", filled.port, gearadmin_option).out) != []
    )


async def test_jobs_match_gearadmin(filled: Gearmand) -> None:
    """gearadmin prints the flags as numbers."""
    result = await run_command("jobs", "-s", filled.address)
    numbers = {"yes": "1", "no": "0"}
    rows = sorted("\t".join(numbers.get(cell, cell) for cell in row) for row in result.rows)
    assert rows == gearadmin_lines(run_tool("gearadmin", filled.port, "--show-jobs").out)
    assert len(rows) == 2 * len(NAMES)


async def test_workers_match_gearadmin(gearmand: Gearmand) -> None:
    worker = await connect_worker(gearmand.port, b"f", b"pre\tg")
    assert await worker.settled
    result = await run_command("workers", "--all", "-s", gearmand.address)
    expected = gearadmin_lines(run_tool("gearadmin", gearmand.port, "--workers").out)
    assert len(result.rows) == len(expected) == 2
    number, address, name, functions = next(row for row in result.rows if row[3])
    assert f"{number} {address} {name} : {functions}".replace("\\t", "\t") in expected
    only = await run_command("workers", "-s", gearmand.address)
    assert [row[3] for row in only.rows] == [functions]
    await worker.close()


@pytest.mark.parametrize(
    ("gearadmin_option", "word"),
    [("--server-version", "version"), ("--server-verbose", "verbosity"), ("--getpid", "pid")],
)
async def test_server_information_matches_gearadmin(busy: Gearmand, gearadmin_option: str, word: str) -> None:
    result = await run_command(word, "-s", busy.address)
    printed = run_tool("gearadmin", busy.port, gearadmin_option).out.decode()
    assert result.code == 0
    assert result.out.decode() == printed.removeprefix("OK ")


async def test_create_and_drop_match_gearadmin(gearmand: Gearmand) -> None:
    assert (await run_command("create", "newf", "-s", gearmand.address)) == (0, b"", "")
    assert run_tool("gearadmin", gearmand.port, "--status").out == b"newf\t0\t0\t0\n.\n"
    assert run_tool("gearadmin", gearmand.port, "--create-function", "other").code == 0
    assert unescaped_lines((await run_command("status", "-s", gearmand.address)).out) == [
        "newf\t0\t0\t0",
        "other\t0\t0\t0",
    ]
    assert await run_command("drop", "other", "-s", gearmand.address) == (0, b"other\t0\n", "")
    assert run_tool("gearadmin", gearmand.port, "--drop-function", "newf").code == 0
    assert (await run_command("status", "-s", gearmand.address)).out == b""


async def test_drop_leaves_jobs_unless_they_are_to_be_lost() -> None:
    """Also where one of several servers does not say whether it has any."""
    down = f"127.0.0.1:{free_port()}"
    server = MemoryJobServer(reactor)
    address = server.listen()
    drop = ("--prefix", "p", "drop", "f")
    async with server.client(prefix="p") as client:
        for number in range(3):
            await client.add_task_bg("f", b"%d" % number)
    hint = "p\\tf was not dropped from any server; --with-jobs would drop it and its jobs"
    refused = await run_command(*drop, "-s", address)
    text = f"txgearman: {address}: p\\tf has jobs: 3\ntxgearman: {hint}\n"
    assert refused == (ExitCode.REFUSED, b"", text)
    dropped = await run_command(*drop, "--with-jobs", "-s", address, "-s", down)
    assert (dropped.code, dropped.rows) == (ExitCode.NO_SERVER, [[address, "p\\tf", "3"]])
    async with server.client(prefix="p") as client:
        await client.add_task_bg("f")
    refused = await run_command("drop", "nothing", "-s", address, "-s", down)
    assert (refused.code, refused.out) == (ExitCode.NO_SERVER, b"")
    assert refused.err.startswith(f"txgearman: {down}: Connection was refused")
    assert refused.err.endswith("txgearman: nothing was not dropped from any server; " + hint.partition("; ")[2] + "\n")
    assert (await run_command("drop", "a b", "-s", address)).code == ExitCode.USAGE
    await server.close()


async def test_refusal_exits_with_3(gearmand: Gearmand) -> None:
    result = await run_command("drop", "nope", "-s", gearmand.address)
    assert result == (ExitCode.REFUSED, b"", f"txgearman: {gearmand.address}: ERR: function not found\n")
    assert (await run_command("shutdown", "-s", gearmand.address)).code == ExitCode.REFUSED
    assert (await run_command("shutdown", "--graceful", "-s", gearmand.address)).code == ExitCode.REFUSED


async def test_maxqueue_limits_each_priority(gearmand: Gearmand) -> None:
    """gearadmin has no such option."""
    unknown = await run_command("maxqueue", "f", "1", "-s", gearmand.address)
    assert (unknown.code, unknown.out) == (ExitCode.REFUSED, b"")
    assert "this server has no function" in unknown.err
    await run_command("create", "f", "-s", gearmand.address)
    assert (await run_command("maxqueue", "f", "1", "--low", "0", "-s", gearmand.address)) == (0, b"", "")
    submits = [
        await run_command("submit", "-b", *more, "f", "-s", gearmand.address) for more in ([], [], ["--low"], ["--low"])
    ]
    assert [result.code for result in submits] == [0, ExitCode.REFUSED, 0, 0]


# Cancelling.


async def test_cancel_accepts_handle_with_and_without_server(gearmand: Gearmand, second_gearmand: Gearmand) -> None:
    server_option = ["-s", second_gearmand.address]
    handles = [(await run_command("submit", "-b", "f", *server_option)).out.decode().strip() for _ in range(2)]
    assert (await run_command("cancel", handles[0])).code == 0  # a handle with its server
    bare = handles[1].partition("//")[2]
    both = await run_command("cancel", bare, "-s", gearmand.address, *server_option)
    assert both == (0, b"", "")
    unknown = await run_command("cancel", "H:unknown:7", "-s", gearmand.address, *server_option)
    assert unknown.code == ExitCode.REFUSED
    assert unknown.err.splitlines() == [
        "txgearman: H:unknown:7 was not cancelled",
        f"txgearman: {gearmand.address}: UNKNOWN_JOB",
        f"txgearman: {second_gearmand.address}: UNKNOWN_JOB",
    ]
    handle = (await run_command("submit", "-b", "f", *server_option)).out.decode().strip().partition("//")[2]
    assert run_tool("gearadmin", second_gearmand.port, "--cancel-job", handle).code == 0


async def test_invalid_handle_is_usage_error() -> None:
    assert (await run_command("cancel", "//")).code == ExitCode.USAGE
    assert (await run_command("cancel", "H:a b:1")).code == ExitCode.USAGE


# Several servers.


async def test_several_servers_have_a_column_and_their_own_errors(gearmand: Gearmand, geard: Geard) -> None:
    unreachable = f"127.0.0.1:{free_port()}"
    result = await run_command_for_geard("version", "-s", gearmand.address, "-s", unreachable, "-s", geard.address)
    assert result.rows[0][0] == gearmand.address
    assert len(result.rows) == 1
    assert result.code == ExitCode.NO_SERVER
    refused, silent = result.err.splitlines()
    assert refused.startswith(f"txgearman: {unreachable}: Connection was refused")
    assert silent == f"txgearman: {geard.address}: this server does not answer the command 'version'"


async def test_invalid_address_is_usage_error() -> None:
    result = await run_command("status", "-s", "not an address")
    assert result.code == ExitCode.USAGE
    assert "an address must be" in result.err


# Output formats.


async def test_json_prints_objects(filled: Gearmand) -> None:
    rows = json.loads((await run_command("status", "--json", "-s", filled.address)).out)
    assert sorted(row["function"] for row in rows) == sorted(NAMES)
    assert all(row["total"] == 2 for row in rows)
    connections: list[dict[str, Any]] = json.loads(
        (await run_command("workers", "--all", "--json", "-s", filled.address)).out
    )
    assert connections[0]["functions"] == []


async def test_status_prints_table_on_terminal(filled: Gearmand) -> None:
    shown = (await run_command("status", "-s", filled.address, terminal=True)).out.decode()
    assert "function" in shown
    assert "pre\\tfixed" in shown
    assert "total" in shown


async def test_watch_repeats_until_ctrl_c(filled: Gearmand) -> None:
    watching = RunningCommand("version", "--watch", "0.01", "-s", filled.address, "-s", f"127.0.0.1:{free_port()}")
    await watching.wait_for("refused", times=3)
    result = await watching.finish(signal.SIGINT)
    assert result.code == 130
    assert len({tuple(row) for row in result.rows}) == 1


async def test_watch_restores_screen_of_terminal(filled: Gearmand) -> None:
    async with GearmanAdmin([filled.address]) as admin:
        watching = RunningCommand("status", "-w", "-s", filled.address, "-s", f"127.0.0.1:{free_port()}", terminal=True)
        shown = b""
        while b"refused" not in shown:
            shown += watching.read_screen()
            await admin.version()
        result = await watching.finish(signal.SIGINT)
    shown += result.out
    assert result.code == 130
    assert shown.index(b"\x1b[?1049h") < shown.index(b"\x1b[?1049l")
    assert shown.index(b"\x1b[?25l") < shown.rindex(b"\x1b[?25h")


async def test_watch_on_screen_shows_answers_beside_server_that_hangs(
    filled: Gearmand, second_gearmand: Gearmand
) -> None:
    second_gearmand.stall()
    watching = RunningCommand("status", "-w", "1s", "-s", filled.address, "-s", second_gearmand.address, terminal=True)
    shown = b""
    while b"no answer within 1 s" not in shown:
        shown += watching.read_screen()
        await deferLater(reactor, 0.01)
    assert b"plain" in shown + watching.read_screen()
    watching.type_keys(b"q")
    assert (await watching.finish()).code == ExitCode.NO_SERVER


# Round trips.


async def test_ping_prints_round_trip_times(gearmand: Gearmand, geard: Geard) -> None:
    result = await run_command_for_geard("ping", "-c", "2", "-i", "0.01", "-s", gearmand.address, "-s", geard.address)
    assert result.code == 0
    assert [row[0] for row in result.rows] == [gearmand.address, geard.address] * 2
    assert all(float(row[1].removesuffix(" ms")) > 0 for row in result.rows)


async def test_ping_reports_unreachable_servers(gearmand: Gearmand) -> None:
    unreachable = f"127.0.0.1:{free_port()}"
    result = await run_command("ping", "-s", gearmand.address, "-s", unreachable)
    assert (result.code, len(result.rows)) == (ExitCode.NO_SERVER, 1)
    assert result.err.startswith(f"txgearman: {unreachable}: Connection was refused")
    alone = await run_command("ping", "-s", unreachable)
    assert (alone.code, alone.out) == (ExitCode.NO_SERVER, b"")
    assert alone.err.startswith(f"txgearman: {unreachable}: Connection was refused")
    assert (await run_command("ping", "-s", "a:b:c")).code == ExitCode.USAGE


async def test_status_shows_priorities(gearmand: Gearmand) -> None:
    async with GearmanClient([gearmand.address]) as client:
        for priority in (Priority.HIGH, Priority.LOW, Priority.LOW):
            await client.add_task_bg("f", priority=priority)
        assert (await run_command("status", "--priority", "-s", gearmand.address)).out == b"f\t1\t0\t2\t0\n"
