"""``txgearman server``."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
from twisted.internet.task import deferLater

from txgearman import GearmanClient, __version__
from txgearman.cli.exit_codes import ExitCode
from txgearman.cli.main import cli
from txgearman.cli.terminal import run_in_thread
from txgearman.packets import ECHO_REQ

from .harness import RunningCommand, reactor, run_command, run_tool, usage_error


async def address(started: RunningCommand) -> str:
    """Wait until it has printed its address; return that."""
    await started.wait_for("\n")
    return started.stdout().decode().split()[-1]


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
    assert (await started.finish(signal.SIGTERM)).code == 0


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
@pytest.mark.parametrize(
    ("command", "option", "arguments"),
    [
        ("server", "--port", []),
        ("metrics", "--listen", []),
        ("dashboard", "--listen", []),
        ("proxy", "--listen", ["localhost"]),
        ("work", "--http", ["f", "cat"]),
    ],
)
async def test_port_in_use_is_named_with_the_way_out(command: str, option: str, arguments: list[str]) -> None:
    """It is no usage error, after which a service manager would not try again."""
    with socket.create_server(("127.0.0.1", 0)) as used:
        address = "127.0.0.1:{1}".format(*used.getsockname())
        result = await run_command(command, option, address.partition(":")[2], *arguments)
    assert (result.code, result.out) == (ExitCode.NOT_LISTENING, b"")
    assert result.err.startswith(f"txgearman: can't listen on {address}: Address already in use; choose another port")
    assert f" by {option}, " in result.err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above
async def test_address_of_another_machine_cannot_be_listened_on() -> None:
    for host in ("192.0.2.1", "256.0.0.1"):
        result = await run_command("server", "-p", "0", "-L", host)
        assert (result.code, result.out) == (ExitCode.NOT_LISTENING, b"")
        assert result.err.startswith(f"txgearman: can't listen on {host}:0: ")
        assert result.err.endswith("; the host must be an address of this machine\n")


def test_invalid_port_is_usage_error() -> None:
    assert "not in the range" in usage_error("server", "-p", "70000")
