"""The commands about servers; beside gearadmin, on the same gearmand."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from txgearman import GearmanAdmin, GearmanClient, Priority
from txgearman.cli.exit_codes import Exit

from ..daemons import Geard, Gearmand, free_port
from ..raw_worker import connect_worker
from .harness import Started, command, command_of_geard, tool

NAMES = ["plain", "pre\tfixed", "a b", "ünïcödé"]


@pytest.fixture(scope="module")
def busy() -> Iterator[Gearmand]:
    """A gearmand with functions, jobs, a limit."""
    with Gearmand() as server:
        yield server


@pytest.fixture(scope="module")
def filled(busy: Gearmand) -> Gearmand:
    for name in NAMES:
        for unique in ("one", "two"):
            assert tool("gearman", busy.port, "-b", "-f", name, "-u", unique, "-s", "workload").code == 0
    return busy


def lines(text: bytes) -> list[str]:
    """The lines of a list of gearadmin's, without its end, and as we escape what would not be seen."""
    *rows, end = text.decode().splitlines()
    assert end == "."
    return sorted(rows)


def ours(out: bytes) -> list[str]:
    """Our lines, with a TAB of a name as it is."""
    return sorted(out.decode().replace("\\t", "\t").splitlines())


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ("--status", ["status"]),
        ("--priority-status", ["status", "--priority"]),
        ("--show-unique-jobs", ["jobs", "--unique"]),
    ],
)
async def test_a_list_is_that_of_gearadmin(filled: Gearmand, theirs: str, words: list[str]) -> None:
    ran = await command(*words, "-s", filled.address)
    assert (ran.code, ran.err) == (0, "")
    assert ours(ran.out) == lines(tool("gearadmin", filled.port, theirs).out) != []


async def test_jobs_are_those_of_gearadmin(filled: Gearmand) -> None:
    """It prints the flags as numbers."""
    ran = await command("jobs", "-s", filled.address)
    numbers = {"yes": "1", "no": "0"}
    told = sorted("\t".join(numbers.get(cell, cell) for cell in row) for row in ran.rows)
    assert told == lines(tool("gearadmin", filled.port, "--show-jobs").out)
    assert len(told) == 2 * len(NAMES)


async def test_workers_are_those_of_gearadmin(gearmand: Gearmand) -> None:
    worker = await connect_worker(gearmand.port, b"f", b"pre\tg")
    assert await worker.settled
    ran = await command("workers", "--all", "-s", gearmand.address)
    theirs = lines(tool("gearadmin", gearmand.port, "--workers").out)
    assert len(ran.rows) == len(theirs) == 2
    number, address, name, functions = next(row for row in ran.rows if row[3])
    assert f"{number} {address} {name} : {functions}".replace("\\t", "\t") in theirs
    only = await command("workers", "-s", gearmand.address)
    assert [row[3] for row in only.rows] == [functions]
    await worker.close()


@pytest.mark.parametrize(
    ("theirs", "word"), [("--server-version", "version"), ("--server-verbose", "verbosity"), ("--getpid", "pid")]
)
async def test_what_a_server_tells_of_itself_is_what_gearadmin_prints(busy: Gearmand, theirs: str, word: str) -> None:
    ran = await command(word, "-s", busy.address)
    said = tool("gearadmin", busy.port, theirs).out.decode()
    assert ran.code == 0
    assert ran.out.decode() == said.removeprefix("OK ")


async def test_functions_come_and_go_as_with_gearadmin(gearmand: Gearmand) -> None:
    assert (await command("create", "newf", "-s", gearmand.address)) == (0, b"", "")
    assert tool("gearadmin", gearmand.port, "--status").out == b"newf\t0\t0\t0\n.\n"
    assert tool("gearadmin", gearmand.port, "--create-function", "theirs").code == 0
    assert ours((await command("status", "-s", gearmand.address)).out) == ["newf\t0\t0\t0", "theirs\t0\t0\t0"]
    assert (await command("drop", "theirs", "-s", gearmand.address)).code == 0
    assert tool("gearadmin", gearmand.port, "--drop-function", "newf").code == 0
    assert (await command("status", "-s", gearmand.address)).out == b""


async def test_a_refusal_exits_with_3(gearmand: Gearmand) -> None:
    ran = await command("drop", "nope", "-s", gearmand.address)
    assert ran == (Exit.REFUSED, b"", f"txgearman: {gearmand.address}: ERR: function not found\n")
    assert (await command("shutdown", "-s", gearmand.address)).code == Exit.REFUSED
    assert (await command("shutdown", "--graceful", "-s", gearmand.address)).code == Exit.REFUSED


async def test_maxqueue(gearmand: Gearmand) -> None:
    """What gearadmin can't."""
    unknown = await command("maxqueue", "f", "1", "-s", gearmand.address)
    assert (unknown.code, unknown.out) == (Exit.REFUSED, b"")
    assert "this server has no function" in unknown.err
    await command("create", "f", "-s", gearmand.address)
    assert (await command("maxqueue", "f", "1", "--low", "0", "-s", gearmand.address)) == (0, b"", "")
    submits = [
        await command("submit", "-b", *more, "f", "-s", gearmand.address) for more in ([], [], ["--low"], ["--low"])
    ]
    assert [ran.code for ran in submits] == [0, Exit.REFUSED, 0, 0]


# Cancelling.


async def test_a_job_is_cancelled_by_any_of_its_names(gearmand: Gearmand, second_gearmand: Gearmand) -> None:
    there = ["-s", second_gearmand.address]
    handles = [(await command("submit", "-b", "f", *there)).out.decode().strip() for _ in range(2)]
    assert (await command("cancel", handles[0])).code == 0  # it names its server
    bare = handles[1].partition("//")[2]
    both = await command("cancel", bare, "-s", gearmand.address, *there)
    assert both == (0, b"", "")
    unknown = await command("cancel", "H:nobody:7", "-s", gearmand.address, *there)
    assert unknown.code == Exit.REFUSED
    assert unknown.err.splitlines() == [
        "txgearman: H:nobody:7 was not cancelled",
        f"txgearman: {gearmand.address}: UNKNOWN_JOB",
        f"txgearman: {second_gearmand.address}: UNKNOWN_JOB",
    ]
    ours = (await command("submit", "-b", "f", *there)).out.decode().strip().partition("//")[2]
    assert tool("gearadmin", second_gearmand.port, "--cancel-job", ours).code == 0


async def test_a_handle_that_is_none_is_a_usage_error() -> None:
    assert (await command("cancel", "//")).code == Exit.USAGE
    assert (await command("cancel", "H:a b:1")).code == Exit.USAGE


# Several servers.


async def test_several_servers_have_a_column_and_an_error_of_their_own(gearmand: Gearmand, geard: Geard) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    ran = await command_of_geard("version", "-s", gearmand.address, "-s", nobody, "-s", geard.address)
    assert ran.rows[0][0] == gearmand.address
    assert len(ran.rows) == 1
    assert ran.code == Exit.NO_SERVER
    refused, silent = ran.err.splitlines()
    assert refused.startswith(f"txgearman: {nobody}: Connection was refused")
    assert silent == f"txgearman: {geard.address}: this server leaves 'version' unanswered"


async def test_an_address_that_makes_no_sense_is_a_usage_error() -> None:
    ran = await command("status", "-s", "not an address")
    assert ran.code == Exit.USAGE
    assert "can't read the address" in ran.err


# Forms.


async def test_json(filled: Gearmand) -> None:
    rows = json.loads((await command("status", "--json", "-s", filled.address)).out)
    assert sorted(row["function"] for row in rows) == sorted(NAMES)
    assert all(row["total"] == 2 for row in rows)
    connections: list[dict[str, Any]] = json.loads(
        (await command("workers", "--all", "--json", "-s", filled.address)).out
    )
    assert connections[0]["functions"] == []


async def test_on_a_terminal_it_is_a_table(filled: Gearmand) -> None:
    shown = (await command("status", "-s", filled.address, terminal=True)).out.decode()
    assert "function" in shown
    assert "pre\\tfixed" in shown
    assert "total" in shown


async def test_watch_prints_again_until_ctrl_c(filled: Gearmand) -> None:
    watching = Started("version", "--watch", "0.01", "-s", filled.address, "-s", f"127.0.0.1:{free_port()}")
    await watching.until("refused", times=3)
    ran = await watching.end(signal.SIGINT)
    assert ran.code == 130
    assert len({tuple(row) for row in ran.rows}) == 1


async def test_watch_on_a_terminal_has_the_screen_and_gives_it_back(filled: Gearmand) -> None:
    async with GearmanAdmin([filled.address]) as admin:
        watching = Started("status", "-w", "-s", filled.address, "-s", f"127.0.0.1:{free_port()}", terminal=True)
        shown = b""
        while b"refused" not in shown:
            shown += watching.shown_so_far()
            await admin.version()
        ran = await watching.end(signal.SIGINT)
    shown += ran.out
    assert ran.code == 130
    assert shown.index(b"\x1b[?1049h") < shown.index(b"\x1b[?1049l")
    assert shown.index(b"\x1b[?25l") < shown.rindex(b"\x1b[?25h")


# Round trips.


async def test_ping(gearmand: Gearmand, geard: Geard) -> None:
    ran = await command_of_geard("ping", "-c", "2", "-i", "0.01", "-s", gearmand.address, "-s", geard.address)
    assert ran.code == 0
    assert [row[0] for row in ran.rows] == [gearmand.address, geard.address] * 2
    assert all(float(row[1].removesuffix(" ms")) > 0 for row in ran.rows)


async def test_ping_tells_who_is_not_there(gearmand: Gearmand) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    ran = await command("ping", "-s", gearmand.address, "-s", nobody)
    assert (ran.code, len(ran.rows)) == (Exit.NO_SERVER, 1)
    assert ran.err.startswith(f"txgearman: {nobody}: Connection was refused")
    alone = await command("ping", "-s", nobody)
    assert (alone.code, alone.out) == (Exit.NO_SERVER, b"")
    assert alone.err.startswith(f"txgearman: {nobody}: Connection was refused")
    assert (await command("ping", "-s", "a:b:c")).code == Exit.USAGE


async def test_priorities_have_columns(gearmand: Gearmand) -> None:
    async with GearmanClient([gearmand.address]) as client:
        for priority in (Priority.HIGH, Priority.LOW, Priority.LOW):
            await client.add_task_bg("f", priority=priority)
        assert (await command("status", "--priority", "-s", gearmand.address)).out == b"f\t1\t0\t2\t0\n"
