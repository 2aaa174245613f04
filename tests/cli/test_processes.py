"""Programs in process groups of their own: what they read and write, their end, and what is left of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.process import reapProcessHandlers
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from txgearman.cli import terminal
from txgearman.cli.processes import InputPipe, OutputPipe, RunningProcess

from .harness import is_alive, reactor

ENVIRONMENT = {b"PATH": os.environb[b"PATH"]}


class Program:
    """A program and what it has written.

    :ivar ended: fires with its exit code.
    """

    def __init__(self, *arguments: str, stdin: bytes = b"") -> None:
        self.output: list[bytes] = []
        self.errors = b""
        self.ended: Deferred[int] = Deferred()
        self.process = RunningProcess(reactor, arguments, ENVIRONMENT, stdin, self)

    def output_received(self, data: bytes) -> None:
        self.output.append(data)

    def errors_received(self, data: bytes) -> None:
        self.errors += data

    def process_ended(self, code: int) -> None:
        self.ended.callback(code)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await deferLater(reactor, 0.001)


async def until_none_is_left() -> None:
    """Wait until all programs have been reaped."""
    await until(lambda: not (terminal.child_groups or reapProcessHandlers))


async def read_pid(path: Path) -> int:
    """Wait for a program to write its ID, as a line."""
    await until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


async def test_program_gets_input_and_its_outputs_are_read() -> None:
    program = Program("sh", "-c", "cat; echo careful >&2; exit 3", stdin=b"abc")
    assert await program.ended == 3
    assert (b"".join(program.output), program.errors) == (b"abc", b"careful\n")
    await until_none_is_left()


@pytest.mark.guarantee(number=15)
async def test_large_input_is_written_as_program_reads_it() -> None:
    data = os.urandom(1_000_000)
    program = Program("cat", stdin=data)
    assert await program.ended == 0
    assert b"".join(program.output) == data


async def test_program_may_leave_its_input_unread() -> None:
    """It closes the pipe while data is written to it, and before any is."""
    program = Program("sh", "-c", "exec <&-; echo hello", stdin=b"x" * 1_000_000)
    assert await program.ended == 0
    assert b"".join(program.output) == b"hello\n"


async def test_signal_is_negative_exit_code() -> None:
    assert await Program("sh", "-c", "kill -TERM $$").ended == -signal.SIGTERM


async def test_missing_program_raises_error_of_system() -> None:
    with pytest.raises(FileNotFoundError):
        Program("no-such-program")
    assert not terminal.child_groups


async def test_program_leads_session_of_its_own() -> None:
    program = Program("cat")
    pid = program.process.pid
    assert (os.getpgid(pid), os.getsid(pid)) == (pid, pid)
    await program.ended


async def test_output_is_not_read_while_it_is_paused(tmp_path: Path) -> None:
    script = f"echo one; touch {tmp_path}/written; cat; echo two"
    program = Program("sh", "-c", script, stdin=b"x" * 1_000_000)
    program.process.pause_output()
    await until((tmp_path / "written").exists)
    await deferLater(reactor, 0)
    assert program.output == []
    program.process.resume_output()
    assert await program.ended == 0
    assert sum(map(len, program.output)) == 1_000_008
    program.process.resume_output()  # without effect


async def test_process_ends_when_its_last_child_closes_output(tmp_path: Path) -> None:
    """The program has exited, and is not reaped before: another could get its ID, by which its group is killed."""
    program = Program("sh", "-c", f"(until test -e {tmp_path}/go; do sleep 0.01; done; echo late) & exit 3")
    pid = program.process.pid
    await until(lambda: not is_alive(pid))
    assert Path(f"/proc/{pid}").exists()
    assert not program.ended.called
    (tmp_path / "go").touch()
    assert await program.ended == 3
    assert program.output == [b"late\n"]
    assert not Path(f"/proc/{pid}").exists()


async def test_children_are_killed_after_end_of_program(tmp_path: Path) -> None:
    """A child in the background that holds no pipe."""
    program = Program("sh", "-c", f"sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >{tmp_path}/pid")
    assert await program.ended == 0
    pid = await read_pid(tmp_path / "pid")
    await until(lambda: not is_alive(pid))


@pytest.mark.parametrize("leader", ["wait", "exit"])
async def test_kill_ends_whole_group(tmp_path: Path, leader: str) -> None:
    """Also if the leader has exited, and a child holds the pipes."""
    program = Program("sh", "-c", f"sleep 1000 & echo $! >{tmp_path}/pid; {leader}")
    child = await read_pid(tmp_path / "pid")
    if leader == "exit":
        await until(lambda: not is_alive(program.process.pid))
    program.process.kill()
    program.process.kill()
    await until(lambda: not is_alive(child))
    await until_none_is_left()
    assert not program.ended.called


async def test_program_that_others_have_reaped_ends() -> None:
    program = Program("cat")
    os.waitpid(program.process.pid, 0)
    assert await program.ended == 0


async def test_program_ends_on_system_without_waitid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "waitid")
    assert await Program("sh", "-c", "exit 4").ended == 4


# Pipes.


async def test_input_is_closed_if_nobody_reads_it() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert InputPipe(reactor, os.fdopen(writing, "wb", 0), b"x").closed


async def test_pipes_survive_events_without_data() -> None:
    received: list[bytes] = []
    reading, writing = os.pipe()
    output = OutputPipe(reactor, os.fdopen(reading, "rb", 0), received.append, lambda: received.append(b""))
    output.doRead()
    sink = InputPipe(reactor, os.fdopen(writing, "wb", 0), b"x" * 1_000_000)
    sink.doWrite()
    await until(lambda: output.closed)
    assert (b"".join(received), received[-1]) == (b"x" * 1_000_000, b"")


async def test_output_ends_when_nothing_is_left_to_read() -> None:
    """Other reactors than that on epoll report the end as something to read."""
    ends: list[str] = []
    reading, writing = os.pipe()
    output = OutputPipe(reactor, os.fdopen(reading, "rb", 0), lambda _: None, lambda: ends.append("end"))
    os.close(writing)
    output.doRead()
    assert (output.closed, ends) == (True, ["end"])


async def test_pipes_close_when_reactor_reports_end() -> None:
    """Reactors may call `connectionLost` instead of `doRead` or `doWrite`."""
    ends: list[str] = []
    reading, writing = os.pipe()
    output = OutputPipe(reactor, os.fdopen(reading, "rb", 0), lambda _: None, lambda: ends.append("end"))
    sink = InputPipe(reactor, os.fdopen(writing, "wb", 0), b"x" * 1_000_000)
    for pipe in (sink, output):
        assert pipe.logPrefix() == type(pipe).__name__
        pipe.connectionLost(Failure(EOFError()))
        assert pipe.fileno() == -1
    assert ends == ["end"]
