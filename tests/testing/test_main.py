"""`python -m txgearman.testing`, run as a process."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.logger import LogLevel, globalLogBeginner

from txgearman import GearmanClient, __version__
from txgearman.packets import ECHO_REQ, ECHO_RES, JOB_CREATED, SUBMIT_JOB_BG
from txgearman.testing.__main__ import begin_log, job_server_options, main, parse_arguments

from ..daemons import Gearmand
from ..processes import DEADLINE, Running, output, run

pytestmark = pytest.mark.process

reactor: Any = global_reactor


@contextlib.contextmanager
def running(*options: str) -> Iterator[tuple[Running, str]]:
    """Start the process, and yield it with the address that it has printed."""
    with Running("-m", "txgearman.testing", "-p", "0", *options) as process:
        yield process, process.await_line(r"^a job server on (\S+:\d+)\n")[1]


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), DEADLINE)


def ask(address: str, packet: bytes, size: int) -> bytes:
    with connect(address) as connection:
        connection.sendall(packet)
        with connection.makefile("rb") as answers:
            return answers.read(size)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("busy", [False, True])
def test_server_runs_until_signal_and_exits_without_output(name: str, busy: bool) -> None:
    """With and without a client connected."""
    echoed = ECHO_RES.response(b"anyone?")
    with running() as (process, address), contextlib.ExitStack() as clients:
        assert address.startswith("127.0.0.1:")
        assert ask(address, ECHO_REQ.request(b"anyone?"), len(echoed)) == echoed
        if busy:
            clients.enter_context(connect(address))
        process.send_signal(getattr(signal, name))
        assert process.end() in (0, -getattr(signal, name))
        assert process.said == f"a job server on {address}\n"


def test_refused_request_is_logged_to_standard_error() -> None:
    """Its text can neither forge a line nor control a terminal."""
    with running("-v") as (process, address):
        with connect(address) as connection:
            connection.sendall(b"\0X\x1b\n" + bytes(8))
            assert connection.recv(1) == b""
        process.terminate()
    assert process.said.splitlines()[1:3] == [
        "txgearman.testing: Connection 1 -- connected from 127.0.0.1",
        r"txgearman.testing: Connection 1 !! closes the connection: a packet begins with '\x00X\x1b\n', "
        r"not with '\x00REQ'",
    ]


@pytest.mark.parametrize("program", ["gearmand", "txgearman.testing"])
def test_hangup_reopens_log_file_and_keeps_connections(program: str, tmp_path: Path) -> None:
    """What was logged before stays in the file that was renamed."""
    path, renamed = tmp_path / "log", tmp_path / "log.1"
    closing = re.compile(r"clos(ing|es the) connection")
    with (
        started(program, path) as (number, address),
        connect(address) as connection,
        connection.makefile("rb") as lines,
    ):
        path.rename(renamed)
        os.kill(number, signal.SIGHUP)
        while not path.exists():
            time.sleep(0.01)
        connection.sendall(b"version\n")
        assert lines.readline().startswith(b"OK ")
        assert ask(address, b"\0XYZ" + bytes(8), 1) == b""
        while not closing.search(path.read_text()):
            time.sleep(0.01)
        assert "SIGHUP" in renamed.read_text()
        assert not closing.search(renamed.read_text())


@contextlib.contextmanager
def started(program: str, log_file: Path) -> Iterator[tuple[int, str]]:
    """Start a job server that logs much to a file; yield its process ID and address."""
    if program == "gearmand":
        with Gearmand(f"--log-file={log_file}", "--verbose=INFO") as gearmand:
            yield int(gearmand.admin("getpid")[0].split()[1]), gearmand.address
    else:
        with running("-v", "-l", str(log_file)) as (process, address):
            yield process.pid, address


def test_server_listens_on_ipv6_address() -> None:
    with running("-L", "::1") as (_, address):
        assert address.startswith("[::1]:")
        assert ask(address, b"version\n", 3) == b"OK "


def test_options_take_effect() -> None:
    with running("--job-handle-prefix", "H:mine") as (_, address):
        created = JOB_CREATED.response(b"H:mine:1")
        assert ask(address, SUBMIT_JOB_BG.request(b"f", b"", b""), len(created)) == created


async def test_client_accepts_printed_address() -> None:
    with running() as (_, address):
        async with GearmanClient([address]) as client:
            assert list(await client.echo()) == [address]


def refused(*options: str) -> str:
    """Run it with invalid options, and return its errors. There is no traceback, and no other output."""
    result = run("-m", "txgearman.testing", *options)
    assert result.returncode in (1, 2), result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert "Unhandled" not in result.stderr
    return result.stderr


def test_occupied_port_is_reported_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        output = refused("-p", str(port))
    assert re.fullmatch(rf"txgearman\.testing: .*127\.0\.0\.1:{port}: .*in use\.?\n", output)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["-p", "no"], "--port: invalid int value: 'no'"),
        (["-p", "70000"], "port"),
        (["-p", "-1"], "port"),
        (["-j", "-1", "-p", "0"], "job_retries must be an int of at least 0, not -1"),
        (["--job-handle-prefix", "x" * 41, "-p", "0"], "job_handle_prefix"),
        (["-L", "256.0.0.1", "-p", "0"], "256.0.0.1"),
        (["-L", "no such host", "-p", "0"], "no such host"),
        (["-l", "/", "-p", "0"], "[Errno 21] Is a directory: '/'"),
        (["surprise"], "unrecognized arguments: surprise"),
    ],
    ids=["text", "large port", "negative port", "retries", "prefix", "address", "host", "log file", "argument"],
)
def test_invalid_options_are_reported_in_last_line(options: list[str], text: str) -> None:
    output = refused(*options)
    assert text in output.splitlines()[-1]


def test_help_lists_every_option() -> None:
    help_text = output(run("-m", "txgearman.testing", "--help"))
    for option in ("--port", "--listen", "--job-retries", "--job-handle-prefix", "--exceptions", "4730", "127.0.0.1"):
        assert option in help_text
    for option in ("--log-file", "--verbose", "--version"):
        assert option in help_text


def test_version_is_that_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"txgearman {__version__}\n")


@pytest.mark.parametrize(("options", "written"), [([], "txgearman.testing: x\n"), (["-l", "file"], "")])
def test_log_goes_to_standard_error_unless_there_is_a_file(
    options: list[str], written: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []
    monkeypatch.setattr(globalLogBeginner, "beginLoggingTo", lambda observers, **_: begun.extend(observers))
    begin_log(parse_arguments(options))
    for observer in begun:
        observer({"log_namespace": "txgearman.x", "log_level": LogLevel.warn, "log_format": "x"})
    assert capsys.readouterr().err == written


def test_options_are_those_of_the_server() -> None:
    options = parse_arguments(["-j", "3", "--job-handle-prefix", "H:mine", "--exceptions"])
    assert (options.port, options.listen) == (4730, "127.0.0.1")
    assert job_server_options(options) == {"job_retries": 3, "job_handle_prefix": "H:mine", "exceptions": True}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Twisted 22.4 leaves the socket open
@pytest.mark.parametrize("logs_to_file", [False, True])
async def test_main_in_this_process(
    logs_to_file: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It prints its address, and runs until it is cancelled; an error is a SystemExit with one line."""
    ports: list[Any] = []
    listen_tcp = reactor.listenTCP

    def note(*arguments: Any, **more: Any) -> Any:
        ports.append(listen_tcp(*arguments, **more))
        return ports[-1]

    monkeypatch.setattr(reactor, "listenTCP", note)
    options = ["-l", str(tmp_path / "log")] if logs_to_file else []
    serving: Deferred[None] = ensureDeferred(main(reactor, parse_arguments(["-p", "0", *options])))
    assert not serving.called
    assert (tmp_path / "log").exists() is logs_to_file
    port = ports[0].getHost().port
    assert capsys.readouterr().out == f"a job server on 127.0.0.1:{port}\n"
    with pytest.raises(SystemExit, match=r"^txgearman\.testing: .*in use"):
        await main(reactor, parse_arguments(["-p", str(port)]))
    await ports[0].stopListening()
    serving.addErrback(lambda failure: failure.trap(CancelledError))
    serving.cancel()
