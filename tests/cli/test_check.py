"""``txgearman check``: states, ranges and performance data as Nagios has them, and the probe of a worker."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator

import click
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from txgearman import GearmanClient
from txgearman.admin.admin import GearmanAdmin
from txgearman.cli.nagios import State, parse_range, performance
from txgearman.packets import CAN_DO, SET_CLIENT_ID
from txgearman.testing import MemoryJobServer

from ..daemons import Gearmand, free_port
from .harness import Result, parse_command, reactor, run_command


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it has no annotations
async def server() -> AsyncIterator[MemoryJobServer]:
    """A server with three waiting jobs of the function f, and a worker of it, which takes none."""
    server = await with_jobs()
    with worker(server):
        yield server
    await server.close(verify=False)


async def with_jobs() -> MemoryJobServer:
    """Return a server on a port with three waiting jobs of the function f."""
    server = MemoryJobServer(reactor)
    server.listen()
    client = server.client()
    for _ in range(3):
        await client.add_task_bg("f")
    return server


def worker(server: MemoryJobServer, client_id: str = "w", *functions: str) -> socket.socket:
    """Connect a worker that offers functions (f), and takes no job."""
    host, _, port = server.address.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    offered = [CAN_DO.request(name.encode()) for name in functions or ("f",)]
    connection.sendall(b"".join([SET_CLIENT_ID.request(client_id.encode()), *offered]))
    return connection


async def until_connected(server: MemoryJobServer, workers: int = 1) -> None:
    """Wait until this number of workers offer something."""
    async with GearmanAdmin([server.address]) as admin:
        while sum(bool(worker.functions) for worker in (await admin.workers()).one()) < workers:
            pass


async def check(*arguments: str) -> tuple[State, str]:
    """Run a check; return its state, and its line behind the state."""
    result = await run_command("check", *arguments)
    return parse(result)


def parse(result: Result) -> tuple[State, str]:
    assert result.err == ""
    start, _, text = result.out.decode().partition(" - ")
    assert start == f"GEARMAN {State(result.code).name}"
    assert text.count("\n") == 1
    return State(result.code), text.rstrip("\n")


DATA = "'f waiting'=3;{};0 'f running'=0;;;0 'f workers'=1;;;0"


@pytest.mark.parametrize(
    ("limits", "state", "text"),
    [
        ([], State.OK, "1 of 1 servers, 3 waiting jobs | " + DATA.format(";")),
        (["-w", "3", "-c", "4"], State.OK, "1 of 1 servers, 3 waiting jobs | " + DATA.format("3;4")),
        (["-w", "2"], State.WARNING, "f: 3 waiting jobs | " + DATA.format("2;")),
        (["-w", "1", "-c", "@3:4"], State.CRITICAL, "f: 3 waiting jobs | " + DATA.format("1;@3:4")),
        (["--workers", "1"], State.OK, "1 of 1 servers, 3 waiting jobs | " + DATA.format(";")),
        (["--workers", "2"], State.CRITICAL, "f: 1 workers | " + DATA.format(";")),
        (["f", "-c", "4:"], State.CRITICAL, "f: 3 waiting jobs | " + DATA.format(";4:")),
    ],
)
async def test_limits_decide(server: MemoryJobServer, limits: list[str], state: State, text: str) -> None:
    await until_connected(server)
    assert await check("-s", server.address, *limits) == (state, text)


async def test_jobs_without_worker_are_critical() -> None:
    """Unless the fewest workers are none."""
    server = await with_jobs()
    state, text = await check("-s", server.address)
    assert (state, text.partition(" | ")[0]) == (State.CRITICAL, "f: 3 waiting jobs and no worker")
    assert (await check("-s", server.address, "--workers", "0"))[0] is State.OK
    await server.close(verify=False)


async def test_function_that_no_server_has_is_unknown(server: MemoryJobServer) -> None:
    """With fewest workers it is critical, since it has none."""
    await until_connected(server)
    state, text = await check("-s", server.address, "f", "g|\n")
    assert state is State.UNKNOWN
    assert text.startswith("there is no function g\\x7c\\n | 'f waiting'=3;")
    assert (await check("-s", server.address, "g", "--workers", "1"))[0] is State.CRITICAL


async def test_server_that_is_down_is_critical(server: MemoryJobServer) -> None:
    """What the others say is in the line, too; the worst comes first."""
    await until_connected(server)
    unreachable = f"127.0.0.1:{free_port()}"
    state, text = await check("-s", server.address, "-s", unreachable, "-w", "2", "g")
    assert state is State.CRITICAL
    words, _, data = text.partition(" | ")
    assert words.startswith(f"{unreachable}: Connection was refused")
    assert words.endswith(", there is no function g")
    assert data.startswith(f"'{server.address} g waiting'=0;2;;0 ")


async def test_server_that_is_the_only_one_and_down_is_critical() -> None:
    """It is not known which functions it has."""
    unreachable = f"127.0.0.1:{free_port()}"
    state, text = await check("-s", unreachable, "f")
    assert state is State.CRITICAL
    assert re.fullmatch(rf"{unreachable}: Connection was refused[^|,]*", text)


async def test_line_is_short_whatever_is_wrong() -> None:
    server = MemoryJobServer(reactor)
    server.listen()
    client = server.client()
    for number in range(12):
        await client.add_task_bg(f"f{number}")
    _, text = await check("-s", server.address)
    assert text.partition(" | ")[0].endswith("f9: 1 waiting jobs and no worker, and 2 more")
    await server.close(verify=False)


async def test_prefix_is_that_of_functions(server: MemoryJobServer) -> None:
    _, text = await check("-s", server.address, "--prefix", "pre", "f")
    assert text.startswith("there is no function pre\\tf")


# A worker.


async def test_worker_that_offers_the_functions_is_ok(server: MemoryJobServer) -> None:
    at = ("-s", server.address)
    with worker(server, "v", "f", "g"):
        await until_connected(server, 2)
        assert (await check(*at, "--client-id", "v", "f", "g"))[0] is State.OK
    assert await check(*at, "--client-id", "w") == (State.OK, f"worker w is connected to {server.address}")
    assert await check(*at, "--client-id", "w", "f", "g") == (State.CRITICAL, "worker w does not offer g")
    assert await check(*at, "--client-id", "x|") == (State.CRITICAL, "there is no worker x\\x7c")


async def test_worker_is_ok_where_it_is_connected(server: MemoryJobServer) -> None:
    """Else a probe would end all workers for a server that is down."""
    await until_connected(server)
    unreachable = f"127.0.0.1:{free_port()}"
    assert (await check("-s", server.address, "-s", unreachable, "--client-id", "w"))[0] is State.OK
    state, text = await check("-s", unreachable, "--client-id", "w")
    assert state is State.UNKNOWN
    assert text.startswith(f"{unreachable}: Connection was refused")


async def test_functions_offered_at_different_servers_are_named(server: MemoryJobServer) -> None:
    """At no server the worker offers both."""
    other = MemoryJobServer(reactor)
    other.listen()
    await until_connected(server)
    with worker(other, "w", "g"):
        await until_connected(other)
        state, text = await check("-s", server.address, "-s", other.address, "--client-id", "w", "f", "g")
    assert state is State.CRITICAL
    assert text in ("worker w does not offer f, g", "worker w does not offer g, f")
    await other.close(verify=False)


async def test_check_of_worker_ends_in_any_case(server: MemoryJobServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GearmanAdmin, "workers", lambda _: Deferred())
    at = ("-s", server.address)
    assert await check(*at, "--client-id", "w", "-t", "10ms") == (State.UNKNOWN, "no answer within 0.02 s")


# Usage.


async def test_invalid_address_is_unknown() -> None:
    state, text = await check("-s", "http://x/")
    assert (state, "not 'http://x/'" in text) == (State.UNKNOWN, True)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["-w", "20:10"], "must be a range such as 10, 10:, ~:10, 10:20 or @10:20, not '20:10'"),
        (["--client-id", "w", "-w", "1"], "--client-id can't be used with --warning, --critical or --workers"),
        (["--surprise"], "No such option"),
    ],
)
def test_usage_error_is_unknown(arguments: list[str], error: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        parse_command("check", *arguments)
    assert error in caught.value.format_message()
    assert caught.value.exit_code == State.UNKNOWN


# Ranges, and performance data.


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ("10", [0, 10], [-1, 11]),
        ("10:", [10, 99], [9]),
        ("~:10", [-99, 10], [11]),
        (":10", [0, 10], [-1, 11]),
        ("10:20", [10, 20], [9, 21]),
        ("@10:20", [9, 21], [10, 20]),
        ("@5", [6], [0, 5]),
        ("-5:0.5", [-5, 0], [1]),
    ],
)
def test_range_is_that_of_nagios(text: str, good: list[int], bad: list[int]) -> None:
    found = parse_range(text)
    assert found is not None
    assert [found.alerts(value) for value in good + bad] == [False] * len(good) + [True] * len(bad)


@pytest.mark.parametrize("text", ["", ":", "@", "x", "1:x", "2:1", "~", "1~:2", "1:2:3", "0x1", " 1", "1e3", "@:"])
def test_invalid_range_is_none(text: str) -> None:
    assert parse_range(text) is None


def test_label_of_performance_data_is_quoted() -> None:
    assert performance("it's a=b", 1, parse_range("2"), parse_range("~:3")) == r"'it''s a\x3db'=1;2;~:3;0"


# gearmand.


@pytest.mark.daemon("gearmand")
async def test_check_of_gearmand(gearmand: Gearmand) -> None:
    async with GearmanClient([gearmand.address]) as client:
        await client.add_task_bg("resize")
    state, text = await check("-s", gearmand.address, "resize", "-c", "5")
    data = "'resize waiting'=1;;5;0 'resize running'=0;;;0 'resize workers'=0;;;0"
    assert (state, text) == (State.CRITICAL, f"resize: 1 waiting jobs and no worker | {data}")
