"""Child processes, here shells, as their parent has them: what they log and report, their signals and their end."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from txgearman.cli import child_process
from txgearman.cli.child import Child
from txgearman.cli.child_process import MAX_LINE, LineReader, WorkerProcess, child_command
from txgearman.cli.child_status import ChildStatus

from .harness import reactor
from .test_processes import until

START = """
control=${TXGEARMAN_CHILD#*\\"control\\": } status=${TXGEARMAN_CHILD#*\\"status\\": }
control=/dev/fd/${control%%[,\\}]*} status=/dev/fd/${status%%[,\\}]*}
"""
"""Of the script of a child: has the names of the pipes in ``control`` and ``status``."""


class Listener:
    """Records what a child does.

    :ivar code: the exit code that was reported.
    """

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.statuses: list[ChildStatus] = []
        self.codes: list[int] = []

    def line_received(self, line: bytes) -> None:
        self.lines.append(line)

    def status_received(self, status: ChildStatus) -> None:
        self.statuses.append(status)

    def process_ended(self, code: int) -> None:
        self.codes.append(code)


class Shell(Listener):
    """A child that is a shell."""

    def __init__(self, script: str, **options: Any) -> None:
        super().__init__()
        command = ["sh", "-c", START + script]
        self.process = WorkerProcess(reactor, command, self, Child(Clock(), 3, 1, 0, None), **options)

    async def end(self) -> int:
        """Wait for its end; return its exit code."""
        await until(lambda: self.codes)
        assert len(self.codes) == 1
        return self.codes[0]


async def test_lines_and_reports_of_child_are_received() -> None:
    child = Shell("echo one; echo two >&2; echo '1 2 3 4 5 0' >$status; echo nonsense >$status; printf rest; exit 3")
    assert await child.end() == 3
    assert sorted(child.lines) == [b"one", b"rest", b"two"]
    assert child.statuses == [ChildStatus(True, 2, 3, 4, 5, False)]
    assert child.process.has_exited


async def test_child_gets_its_options_and_a_session_of_its_own() -> None:
    child = Shell('echo "$TXGEARMAN_CHILD"; read -r line <$control', job_limit=7, metrics="/a")
    await until(lambda: child.lines)
    assert os.getsid(child.process.pid) == child.process.pid
    child.process.drain()
    await child.end()
    assert child.lines[0].startswith(b'{"place": 3, "name": 1, "parent": %d, ' % os.getpid())
    assert child.lines[0].endswith(b'"count": null, "job_limit": 7, "metrics": "/a"}')


async def test_drain_ends_the_pipe_of_the_parent() -> None:
    child = Shell("echo ready; read -r line <$control; echo drained")
    await until(lambda: child.lines)
    child.process.drain()
    child.process.drain()
    assert await child.end() == 0
    assert child.lines == [b"ready", b"drained"]


async def test_signals_reach_child_and_are_harmless_at_its_start_and_after_its_end() -> None:
    """Until it has handlers, it ignores those that would end it."""
    child = Shell("echo ready; read -r line <$control")
    await until(lambda: child.lines)
    child.process.dump_stacks()
    os.kill(child.process.pid, signal.SIGUSR2)
    child.process.terminate()
    assert await child.end() == -signal.SIGTERM
    for call in (child.process.dump_stacks, child.process.terminate, child.process.kill, child.process.drain):
        call()
    assert child.codes == [-signal.SIGTERM]


async def test_kill_ends_the_whole_process_group(tmp_path: Path) -> None:
    child = Shell(f"(trap '' HUP; echo ready; exec sleep 1000) & echo $! >{tmp_path}/pid; wait")
    await until(lambda: child.lines)
    child.process.kill()
    child.process.kill()
    assert await child.end() == -signal.SIGKILL


async def test_program_that_holds_the_pipes_of_a_dead_child_does_not_delay_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child_process, "PIPES_TIMEOUT", 0.02)
    child = Shell("sleep 1000 & echo $!; exit 5")
    assert await child.end() == 5
    os.kill(int(child.lines[0]), signal.SIGKILL)


async def test_rest_of_the_output_can_be_read_without_the_reactor() -> None:
    child = Shell("echo last")
    while not child.process.has_exited:
        pass
    child.process.read_rest()
    assert child.lines == [b"last"]
    assert await child.end() == 0


async def test_child_that_cannot_be_started_leaves_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        WorkerProcess(reactor, ["/nowhere/at/all"], Listener(), Child(Clock(), 1, 0, 0, None))
    assert os.listdir("/proc/self/fd") == before
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_line_that_is_too_long_is_cut_and_says_so() -> None:
    lines: list[bytes] = []
    reader = LineReader(lines.append)
    for data in (b"a" * MAX_LINE, b"b" * 5, b"b" * 7 + b"\nnext\n\n", b"x" * MAX_LINE + b"\n"):
        reader.add(data)
    assert lines == [b"a" * MAX_LINE + b" (12 bytes more were left out)", b"next", b"x" * MAX_LINE]
    reader.end()
    assert len(lines) == 3


@pytest.mark.parametrize("own", [True, False])
def test_child_looks_for_modules_where_its_parent_does(monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    paths = [path for path in sys.path if path not in ("", os.getcwd())]
    monkeypatch.setattr(sys, "path", ["", *paths] if own else paths)
    flags = ["-P"] if sys.version_info >= (3, 11) and not own else []
    assert child_command(["-v", "work"]) == [sys.executable, *flags, "-m", "txgearman", "-v", "work"]
