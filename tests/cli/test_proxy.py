"""``txgearman proxy``."""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_twisted

from txgearman.cli.exit_codes import ExitCode
from txgearman.cli.fault_options import FAULTS, FaultSettings
from txgearman.cli.proxy import CALLS, COUNTED
from txgearman.cli.terminal import run_in_thread
from txgearman.testing import FaultProxy, MemoryJobServer

from ..daemons import free_port
from .harness import Result, RunningCommand, parse_command, reactor, run_command, run_tool, usage_error


def settings(name: str, text: str) -> FaultSettings:
    """Return what the command line makes of a fault."""
    main, _ = parse_command("proxy", "127.0.0.1", f"--{name}", text)
    (found,) = [cell.cell_contents for cell in main.__closure__ or () if type(cell.cell_contents) is tuple]
    (fault,) = found[2]
    assert isinstance(fault, FaultSettings)
    return replace(fault, name="", text="")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("go-down", "5,for=10s,reset", {"value": 5, "start": 5, "duration": 10, "reset": True}),
        ("refuse", "500ms", {"value": 0.5, "start": 0.5}),
        ("black-hole", "0,for=1m", {"value": 0, "duration": 60}),
        ("silent", "1,to-client", {"value": 1, "start": 1, "directions": ("TO_CLIENT",)}),
        ("drop", "2,reset", {"value": 2, "start": 2, "reset": True}),
        ("drop-after", "1,to-server,times=3,at=7", {"value": 1, "directions": ("TO_SERVER",), "times": 3, "start": 7}),
        ("drop-after", "1,times=all,to-client", {"value": 1, "directions": ("TO_CLIENT",), "times": None}),
        ("delay", "0.2", {"value": 0.2}),
        ("split", "1", {"value": 1}),
        ("corrupt", "1e-3,seed=4", {"value": 0.001, "seed": 4}),
        ("corrupt-byte", "0,to-client,for=1", {"value": 0, "directions": ("TO_CLIENT",), "duration": 1}),
    ],
)
def test_option_of_fault_is_parsed(name: str, text: str, expected: dict[str, Any]) -> None:
    assert settings(name, text) == FaultSettings("", "", **expected)


@pytest.mark.parametrize(
    ("option", "text", "error"),
    [
        ("--go-down", "soon", "must begin with a time from the start of the proxy, such as 0, 10 or 500ms, not 'soon'"),
        ("--go-down", "9" * 400, "must begin with a time"),
        ("--delay", "0", "must begin with a duration above 0, such as 10, 10s or 500ms, not '0'"),
        ("--split", "0", "must begin with a number of bytes above 0, not '0'"),
        ("--drop-after", "", "must begin with a number of bytes above 0, not ''"),
        ("--corrupt-byte", "-1", "must begin with a number of bytes, not '-1'"),
        ("--corrupt", "1.1", "must begin with a rate above 0 and up to 1, not '1.1'"),
        ("--corrupt", "half", "must begin with a rate above 0 and up to 1, not 'half'"),
        ("--drop-after", "5", "must have a direction, to-server or to-client, such as 5,to-client"),
        ("--delay", "1,to-client,to-server", "'to-server' is invalid"),
        ("--refuse", "1,to-client", "must be AT[,for=DURATION], not '1,to-client': 'to-client' is invalid"),
        ("--refuse", "1,for=0", "'for=0' is invalid"),
        ("--split", "1,reset", "'reset' is invalid"),
        ("--drop", "1,reset=yes", "'reset=yes' is invalid"),
        ("--delay", "1,at", "'at' is invalid"),
        ("--drop-after", "1,to-client,times=0", "'times=0' is invalid"),
        ("--corrupt", "1,seed=x", "'seed=x' is invalid"),
    ],
)
def test_invalid_fault_is_usage_error(option: str, text: str, error: str) -> None:
    assert error in usage_error("proxy", "127.0.0.1", option, text)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["http://x/"], "HOST:PORT must be 'host', 'host:port' or '[v6]:port', not 'http://x/'"),
        (["h:99999"], "HOST:PORT must be 'host', 'host:port' or '[v6]:port', not 'h:99999'"),
        (["tls:h"], "HOST:PORT must be 'host', 'host:port' or '[v6]:port', not 'tls:h'"),
        (["h", "--listen", "x"], "--listen must be PORT or HOST:PORT, with a port from 0 to 65535, not 'x'"),
        (
            ["h", "--listen", "h:70000"],
            "--listen must be PORT or HOST:PORT, with a port from 0 to 65535, not 'h:70000'",
        ),
    ],
)
async def test_invalid_address_is_usage_error(arguments: list[str], error: str) -> None:
    result = await run_command("proxy", *arguments)
    assert (result.code, result.out) == (ExitCode.USAGE, b"")
    assert error in result.err


def test_each_fault_of_proxy_has_an_option() -> None:
    """`FaultProxy` has no other calls."""
    others = {"address", "connections", "verify", "close"}
    names = {name for name in vars(FaultProxy) if not name.startswith("_")} - others
    spelled = {"refuse": "refuse_connections", "black-hole": "black_hole_connections", "silent": "fall_silent"}
    spelled["drop"] = "drop_connections"
    assert {spelled.get(name, name.replace("-", "_")) for name in FAULTS} == names
    assert {*CALLS, "drop"} == set(FAULTS)


# A proxy that runs.


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it has no annotations
async def served() -> AsyncIterator[str]:
    """The address of a job server."""
    server = MemoryJobServer(reactor)
    yield server.listen()
    await server.close()


async def start(*arguments: str) -> tuple[RunningCommand, str]:
    """Start a proxy; return it with its address, once it has printed that."""
    started = RunningCommand("proxy", *arguments)
    await started.wait_for("\n")
    line = started.stdout().decode()
    address = line.split()[3]
    assert line == f"a proxy on {address} for {arguments[0]}\n"
    return started, address


async def ask(address: str, *lines: bytes) -> bytes:
    """Send lines of the text protocol, each after the answer to the one before; return all that was received."""
    return await run_in_thread(reactor, _ask, address, lines)


def _ask(address: str, lines: tuple[bytes, ...]) -> bytes:
    host, _, port = address.rpartition(":")
    received = b""
    with socket.create_connection((host, int(port)), 10) as connection:
        for line in lines:
            connection.sendall(line)
            received += connection.recv(100)
        return received


ANSWER = b"OK 1.1.20-txgearman\n"


def faults_in(result: Result) -> list[str]:
    """Return what standard error has of faults, without what else was logged."""
    return [line for line in result.err.splitlines() if "--" in line]


async def test_proxy_passes_everything_without_fault(served: str) -> None:
    started, address = await start(served)
    assert await ask(address, b"version\n", b"version\n") == ANSWER * 2
    result = await started.finish(signal.SIGTERM)
    assert (faults_in(result), result.code != ExitCode.FAILED) == ([], True)


async def test_connection_is_dropped_behind_bytes_as_often_as_requested(served: str) -> None:
    fault = "--drop-after 8,to-client,times=2"
    started, address = await start(served, *fault.split())
    assert [await ask(address, b"version\n") for _ in range(3)] == [ANSWER[:8], ANSWER[:8], ANSWER]
    result = await started.finish(signal.SIGTERM)
    assert faults_in(result) == [f"txgearman: Fault begins: {fault}"]
    assert result.code != ExitCode.FAILED


async def test_fault_that_has_not_happened_is_reported(served: str) -> None:
    """So is one that has happened less often than was requested, and one that has not begun."""
    faults = ["--drop 1h", "--drop-after 1,to-client,times=2", "--delay 1ms", "--corrupt-byte 99,to-server"]
    started, address = await start(served, *" ".join(faults).split())
    await ask(address, b"version\n")
    result = await started.finish(signal.SIGTERM)
    assert result.code == ExitCode.FAILED
    assert faults_in(result)[3:] == [
        "txgearman: --drop 1h has not happened",
        "txgearman: --drop-after 1,to-client,times=2 has happened 1 of 2 times",
        "txgearman: --corrupt-byte 99,to-server has not happened",
    ]


async def test_server_is_down_for_a_time(served: str) -> None:
    fault = "--go-down 10ms,for=50ms"
    started, address = await start(served, *fault.split())
    host, _, port = address.rpartition(":")
    await started.wait_for("Fault begins")
    with pytest.raises(ConnectionRefusedError):  # by the kernel, before anything else happens in this process
        socket.create_connection((host, int(port)))
    await started.wait_for("Fault ends")
    assert await ask(address, b"version\n") == ANSWER
    result = await started.finish(signal.SIGTERM)
    assert faults_in(result) == [f"txgearman: Fault begins: {fault}", f"txgearman: Fault ends: {fault}"]


@pytest.mark.daemon("gearman")
async def test_client_in_c_meets_the_fault(served: str) -> None:
    """Its connection is lost within the answer to its submit, once."""
    started, address = await start(served, "--drop-after", "10,to-client")
    port = int(address.rpartition(":")[2])
    first, second = [
        await run_in_thread(reactor, lambda: run_tool("gearman", port, "-b", "-f", "f", "x")) for _ in range(2)
    ]
    assert "lost connection to server" in first.err
    assert (second.code, second.err) == (0, "")
    assert (await started.finish(signal.SIGTERM)).code != ExitCode.FAILED


async def test_connections_are_dropped_at_a_time(served: str) -> None:
    started, address = await start(served, "--drop", "200ms,reset")
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        await started.wait_for("Connections dropped: --drop 200ms,reset")
        with pytest.raises(ConnectionResetError):
            await run_in_thread(reactor, connection.recv, 1)
    assert (await started.finish(signal.SIGTERM)).code != ExitCode.FAILED


async def test_drop_without_connection_has_not_happened(served: str) -> None:
    started, _ = await start(served, "--drop", "10ms")
    await started.wait_for("No connection dropped: --drop 10ms: there is none")
    result = await started.finish(signal.SIGTERM)
    assert (result.code, faults_in(result)[-1]) == (ExitCode.FAILED, "txgearman: --drop 10ms has not happened")


async def test_server_that_cannot_be_reached_is_logged() -> None:
    started, address = await start(f"127.0.0.1:{free_port()}")
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))):
        await started.wait_for("Connection reset: the job server can't be reached: Connection was refused")
    assert (await started.finish(signal.SIGTERM)).code == ExitCode.DONE


class RecordingProxy:
    """Stands in for a `FaultProxy`: records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **options: self.calls.append((name, arguments, options))


@pytest.mark.parametrize("name", CALLS)
def test_each_fault_is_a_call_that_the_proxy_accepts(name: str) -> None:
    """All settings reach it."""
    proxy: Any = RecordingProxy()
    fault = FaultSettings(name, "", 1, directions=("TO_CLIENT",), reset=True, times=3, seed=5)
    CALLS[name](proxy, fault)
    ((method, arguments, options),) = proxy.calls
    allowed = set(FAULTS[name].settings)
    assert bool(arguments and arguments[-1].name == "TO_CLIENT") is ("direction" in allowed)
    assert options == {
        setting: value for setting, value in (("reset", True), ("times", 3), ("seed", 5)) if setting in allowed
    }
    assert callable(getattr(FaultProxy, method))
    assert (name in COUNTED) is ("times" in allowed)
