"""Runs the command: in this process, in the reactor of the tests, or in a process of its own."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import click
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher

from txgearman.cli.main import cli
from txgearman.cli.reactor_loop import LogLines, Main, Run
from txgearman.cli.terminal import Terminal

reactor: Any = global_reactor

PATIENCE: Final = 20.0
"""Seconds that a process may take."""

ROOT: Final = Path(__file__).parents[2]


class Ran(NamedTuple):
    """A command that has ended: how, and what it wrote."""

    code: int
    out: bytes
    err: str

    @property
    def rows(self) -> list[list[str]]:
        """The cells of each line."""
        return [line.split("\t") for line in self.out.decode().splitlines()]


def parsed(*arguments: str | bytes) -> tuple[Main, int]:
    """What the command line comes to, and how loud it is. Raises click's errors."""
    told: list[tuple[Main, int]] = []

    def run(main: Main, loudness: int) -> int:
        told.append((main, loudness))
        return 0

    words = [os.fsdecode(argument) for argument in arguments]
    cli.main(words, obj={"run": run}, standalone_mode=False)
    return told[0]


class Started:
    """A command that runs in this process.

    :ivar ended: fires with its exit code.
    """

    def __init__(
        self, *arguments: str | bytes, stdin: bytes = b"", terminal: bool = False, pipe: int = -1, output: int = -1
    ) -> None:
        """
        :param terminal: what it writes is shown on a terminal.
        :param pipe: a file descriptor that it reads from, rather than `stdin`.
        :param output: a file descriptor that it writes to.
        """
        main, loudness = parsed(*arguments)
        self._files = ExitStack()
        self._input, self._out, self._err = map(self._files.enter_context, [tempfile.TemporaryFile() for _ in range(3)])  # noqa: SIM115  # they are entered
        self._input.write(stdin)
        self._input.seek(0)
        self._master, self._slave = pty.openpty() if terminal else (-1, -1)
        if terminal:
            tty.setraw(self._slave)
        descriptors = (
            self._input.fileno() if pipe < 0 else pipe,
            output if output >= 0 else self._slave if terminal else self._out.fileno(),
            self._slave if terminal else self._err.fileno(),
        )
        terminal_of_it = Terminal(reactor, *descriptors)
        self._log = LogLines(terminal_of_it, loudness)
        globalLogPublisher.addObserver(self._log)
        self.run = Run(terminal_of_it)
        self.ended: Deferred[int] = self.run.begin(main)

    def said(self) -> str:
        """What it has written to its error output so far."""
        return _content(self._err).decode()

    def written(self) -> bytes:
        """What it has written to its output so far."""
        return _content(self._out)

    def shown_so_far(self) -> bytes:
        """What the terminal has been sent since the last call."""
        return _read(self._master) if select.select([self._master], [], [], 0)[0] else b""

    async def until(self, text: str, times: int = 1) -> None:
        """Wait until it has written this, to either output, so many times."""
        while (self.written().decode("utf-8", "replace") + self.said()).count(text) < times:
            assert not self.ended.called, f"it has ended, and not said {text!r}: {self.written()!r} {self.said()}"
            await deferLater(reactor, 0.01)

    async def end(self, number: int = 0) -> Ran:
        """Wait until it ends; with a number, because of this signal."""
        if number:
            self.run.signalled(number)
        code = await self.ended
        globalLogPublisher.removeObserver(self._log)
        shown = self._shown()
        ran = Ran(code, shown or self.written(), self.said())
        self._files.close()
        return ran

    def _shown(self) -> bytes:
        """What the terminal has been sent."""
        if self._master < 0:
            return b""
        os.close(self._slave)
        shown = b""
        while chunk := _read(self._master):
            shown += chunk
        os.close(self._master)
        return shown


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # so ends a terminal that nobody has open any more
        return b""


def _content(file: IO[bytes]) -> bytes:
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)


async def command(*arguments: str | bytes, stdin: bytes = b"", terminal: bool = False) -> Ran:
    """Run a command to its end."""
    return await Started(*arguments, stdin=stdin, terminal=terminal).end()


async def command_of_geard(*arguments: str) -> Ran:
    """Run a command to its end. A busy machine's geard may close a connection that it has just accepted: then again."""
    while "closed cleanly" in (ran := await command(*arguments)).err:
        pass
    return ran


def misused(*arguments: str | bytes) -> str:
    """What is said of a command line that makes no sense."""
    try:
        parsed(*arguments)
    except click.UsageError as error:
        return error.format_message()
    raise AssertionError(f"{arguments} makes sense")


# In a process of its own.


@contextmanager
def process(*arguments: str | bytes, environment: dict[str, str] | None = None, **options: Any) -> Iterator[Any]:
    """The command as a user starts it."""
    started = subprocess.Popen(
        [sys.executable, "-m", "txgearman", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {}),
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
    )
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate()


def run(*arguments: str | bytes, stdin: bytes = b"", environment: dict[str, str] | None = None) -> Ran:
    """Run the command to its end, in a process of its own. (It blocks; servers must be in other processes.)"""
    with process(*arguments, environment=environment, stdin=subprocess.PIPE) as started:
        out, err = started.communicate(stdin, timeout=PATIENCE)
        return Ran(started.returncode, out, err.decode())


def interrupted(started: Any, number: int = signal.SIGINT) -> Ran:
    """Send a signal, and wait for the end."""
    started.send_signal(number)
    out, err = started.communicate(timeout=PATIENCE)
    return Ran(started.returncode, out, err.decode())


def tool(name: str, port: int, *arguments: str, stdin: bytes = b"") -> Ran:
    """Run gearman or gearadmin."""
    ran = subprocess.run(
        [name, "-h", "127.0.0.1", "-p", str(port), *arguments],
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr.decode())


def lives(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"
