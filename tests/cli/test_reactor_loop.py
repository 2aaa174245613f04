"""The command as a process of its own: signals, closed pipes, start-up, what is imported."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.selectreactor import SelectReactor

from txgearman.cli import reactor_loop as running
from txgearman.cli import terminal
from txgearman.cli.exit_codes import Exit, exit_of
from txgearman.cli.reactor_loop import LogLines, Run, run
from txgearman.cli.terminal import Terminal, in_thread
from txgearman.packets import CAN_DO, GRAB_JOB, NO_JOB

from ..contract.harness import SocketPeer
from ..daemons import Gearmand, free_port
from . import harness
from .harness import ROOT, interrupted, lives, parsed, process, reactor


@pytest.fixture(scope="module")
def server() -> Iterator[Gearmand]:
    with Gearmand() as server:
        yield server


@pytest.fixture(scope="module")
def there(server: Gearmand) -> Iterator[list[str]]:
    """The option for a server with a worker of the command's."""
    option = ["-s", server.address]
    endless = ["sh", "-c", "while echo line; do sleep 0.01; done"]
    with (
        process("work", "-q", *option, "cat", "cat"),
        process("work", "-q", *option, "echo=tests.cli.jobs:echo"),
        process("work", "-q", *option, "--lines", "drip", *endless),
    ):
        yield option


def has_no_job(server: Gearmand, function: str) -> bool:
    """Whether a worker of the function gets none: gearmand has dropped those that nobody waits for."""
    worker = SocketPeer(server.port)
    worker.send(CAN_DO.request(function.encode()))
    answer = worker.ask(GRAB_JOB.request())
    worker.close()
    return answer == (NO_JOB, [])


# Exit codes, of real processes.


def test_0_done(there: list[str]) -> None:
    assert harness.run("submit", *there, "cat", "abc") == (0, b"abc", "")


def test_2_usage() -> None:
    ran = harness.run("submit")
    assert (ran.code, ran.out) == (Exit.USAGE, b"")
    assert "Usage: txgearman submit" in ran.err


def test_4_timed_out(server: Gearmand) -> None:
    ran = harness.run("submit", "-s", server.address, "-t", "0.1", "nobody_does_this")
    assert (ran.code, ran.out) == (Exit.TIMED_OUT, b"")


def test_6_no_server_by_the_environment() -> None:
    ran = harness.run("ping", environment={"GEARMAN_SERVERS": f"127.0.0.1:{free_port()}"})
    assert (ran.code, ran.out) == (Exit.NO_SERVER, b"")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_130_a_signal_ends_it(server: Gearmand, number: int) -> None:
    """The client leaves, and gearmand drops its job."""
    name = f"waits_{number}"
    with process("submit", "-s", server.address, name) as started:
        while not any(line.startswith(name) for line in server.admin("status")):
            time.sleep(0.01)
        ran = interrupted(started, number)
    assert ran == (128 + number, b"", "")
    assert has_no_job(server, name)


def test_a_second_signal_ends_it_at_once(server: Gearmand, tmp_path: Path) -> None:
    """A worker whose job does not end; its program is ended with it."""
    script = f"echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 1000"
    with process("work", "-s", server.address, "sleepy", "sh", "-c", script) as worker:
        handle = harness.run("submit", "-s", server.address, "-b", "sleepy")
        assert handle.code == 0
        end = time.monotonic() + harness.PATIENCE
        while not (tmp_path / "pid").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        worker.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(0.5)
        assert interrupted(worker).code == 130
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + harness.PATIENCE
    while lives(pid):
        assert time.monotonic() < end


@pytest.mark.parametrize("function", ["drip", "echo"])
def test_141_an_output_that_is_closed_early(there: list[str], function: str) -> None:
    """As by ``head -1``: no traceback."""
    lines = ["--lines"] if function == "echo" else []
    with process("submit", *there, *lines, function, stdin=subprocess.PIPE, bufsize=0) as started:
        started.stdin.write(b"line\n" * 100)
        if function == "drip":
            started.stdin.close()
            started.stdin = None
        assert started.stdout.readline() == b"line\n"
        started.stdout.close()
        if function == "echo":
            for _ in range(50):
                try:
                    started.stdin.write(b"line\n" * 1000)
                except BrokenPipeError:
                    break
        assert started.wait(harness.PATIENCE) == 141
        assert started.stderr.read() == b""
        if started.stdin is not None:
            started.stdin.close()
        started.stdin = started.stdout = None


def most_memory(pid: int) -> int:
    """The KiB that a process has had at most. (What `wait4` tells of it counts its parent's before the exec, too.)"""
    match = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


@pytest.mark.slow
def test_lines_in_constant_memory(there: list[str], tmp_path: Path) -> None:
    """32 MiB in, 32 MiB out: the process does not grow with it."""
    result = tmp_path / "out"
    line = os.urandom(8192).replace(b"\n", b"x")
    whole = b"".join(b"%08d%b\n" % (number, line) for number in range(4096))
    with (
        result.open("wb") as stdout,
        process("submit", *there, "-n", "-c", "20", "echo", stdin=subprocess.PIPE, stdout=stdout) as started,
    ):
        started.stdin.write(whole)
        started.stdin.flush()
        end = time.monotonic() + harness.PATIENCE
        while result.stat().st_size < len(whole):
            assert time.monotonic() < end
            time.sleep(0.01)
        memory = most_memory(started.pid)
        started.stdin.close()
        assert started.wait(harness.PATIENCE) == 0
        started.stdin = None
    assert result.read_bytes() == whole
    assert memory < 100 * 1024


# What is imported, and how long it takes.


@pytest.mark.parametrize("modules", ["txgearman", "txgearman.testing"])
def test_the_library_imports_no_extra(modules: str) -> None:
    unwanted = {"click", "rich", "prometheus_client", "txgearman.cli", "txgearman.cli.main"}
    script = f"import sys, {modules}; print({unwanted!r} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert ran.stdout == "set()\n"


def test_help_imports_no_more_than_it_needs() -> None:
    """No reactor, no rich: it is to be there at once."""
    script = (
        "import sys; from txgearman.cli.main import cli; cli.main(['submit', '--help'], standalone_mode=False);"
        "slow = {'rich', 'prometheus_client', 'twisted.internet.reactor', 'twisted.web', 'txgearman.testing'};"
        "print(slow & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert ran.stdout.endswith("set()\n")


def test_without_the_extra_it_says_what_to_install() -> None:
    script = "import sys; sys.modules['click'] = None; from txgearman.__main__ import main; main()"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "python -m pip install 'txgearman[cli]'" in ran.stderr


def test_another_error_of_an_import_is_not_hidden() -> None:
    script = "import sys; sys.modules['txgearman.cli.options'] = None; from txgearman.__main__ import main; main()"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False, capture_output=True, text=True)
    assert ran.returncode == 1
    assert "txgearman.cli.options" in ran.stderr


def test_the_version() -> None:
    assert harness.run("--version").out.startswith(b"txgearman, version ")


# Runs, in this process.


@pytest.fixture
def own_reactor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A reactor beside the one of the tests, in its place; without signals."""
    own: Any = SelectReactor()
    monkeypatch.setattr(own, "run", lambda: SelectReactor.run(own, installSignalHandlers=False))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield own
    for number, handler in handlers.items():
        signal.signal(number, handler)


async def answer(_: Terminal) -> int:
    return 42


def test_a_run_comes_to_its_exit_code(own_reactor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twisted.internet.reactor", own_reactor)
    monkeypatch.setattr(running, "globalLogBeginner", Beginner())
    assert run(answer, loudness=1) == 42


class Beginner:
    def beginLoggingTo(  # noqa: N802  # Twisted's name
        self, observers: list[Any], **_: object
    ) -> None:
        assert [type(observer) for observer in observers] == [LogLines]


def test_a_signal_cancels_a_run(own_reactor: Any) -> None:
    cancelled: list[str] = []

    async def wait(_: Terminal) -> int:
        try:
            await Deferred()
        finally:
            cancelled.append("cancelled")
        return 0

    own_reactor.callWhenRunning(lambda: own_reactor.callLater(0.01, os.kill, os.getpid(), signal.SIGTERM))
    assert Run(Terminal(own_reactor)).to_its_end(wait) == 128 + signal.SIGTERM
    assert cancelled == ["cancelled"]


async def test_a_second_signal_shows_the_cursor_and_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    master, slave = os.openpty()
    one = Run(Terminal(reactor, 0, slave, slave))
    ended = one.begin(wait)
    one.signalled(signal.SIGINT)
    one.signalled(signal.SIGINT)
    assert exits == [130]
    assert os.read(master, 100) == b"\x1b[?25h"
    assert await ended == 130
    os.close(master)
    os.close(slave)


async def wait(_: Terminal) -> int:
    await Deferred()
    return 0


def test_the_cursor_of_nobody_need_not_be_shown(tmp_path: Path) -> None:
    with (tmp_path / "err").open("wb") as file:
        Terminal(reactor, 0, 1, file.fileno()).leave()
    assert (tmp_path / "err").read_bytes() == b""


def test_children_do_not_outlive_an_end_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has ended by itself is no trouble."""
    gone, lasting = (subprocess.Popen(["sleep", "1000"], start_new_session=True) for _ in range(2))
    gone.kill()
    gone.wait()
    monkeypatch.setattr(terminal, "children", {gone.pid, lasting.pid})
    with (tmp_path / "err").open("wb") as file:
        Terminal(reactor, 0, 1, file.fileno()).leave()
    assert lasting.wait(harness.PATIENCE) == -signal.SIGKILL


def test_errors_that_are_expected_have_codes() -> None:
    assert exit_of(ValueError()) is None


@pytest.mark.parametrize(("verbose", "loudness"), [([], 0), (["-v"], 1), (["-vv"], 2)])
def test_how_loud_it_is(verbose: list[str], loudness: int) -> None:
    assert parsed(*verbose, "ping")[1] == loudness
    assert parsed(*verbose, "work", "f", "cat")[1] == loudness + 1
    assert parsed(*verbose, "work", "-q", "f", "cat")[1] == loudness - 1


# Threads.


async def test_a_thread_tells_what_its_call_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        await in_thread(reactor, lambda: 1 // 0)


async def test_what_a_thread_comes_to_after_a_cancel_is_dropped() -> None:
    go = threading.Event()
    late = in_thread(reactor, go.wait)
    late.addErrback(lambda _: None)
    late.cancel()
    go.set()
    assert await in_thread(reactor, lambda: 3) == 3
