"""Runs the command: in the reactor of the tests, or in a process of its own."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, ClassVar, Final, NamedTuple

import click
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher

from txgearman.cli.main import cli
from txgearman.cli.reactor_loop import CommandRun, Main, StderrLogObserver
from txgearman.cli.terminal import Terminal

from ..processes import ROOT, run_python
from ..programs import open_terminal, require_program

reactor: Any = global_reactor

PROCESS_TIMEOUT: Final = 20.0
"""Seconds that a process may take."""


class Result(NamedTuple):
    """The exit code and the output of a finished command."""

    code: int
    out: bytes
    err: str

    @property
    def rows(self) -> list[list[str]]:
        """The cells of each line of the output."""
        return [line.split("\t") for line in self.out.decode().splitlines()]


def parse_command(*arguments: str | bytes) -> tuple[Main, int]:
    """Return the coroutine function and the verbosity that a command line selects. Raises click's errors."""
    parsed: list[tuple[Main, int]] = []

    def run(main: Main, verbosity: int) -> int:
        parsed.append((main, verbosity))
        return 0

    words = [os.fsdecode(argument) for argument in arguments]
    cli.main(words, obj={"run": run}, standalone_mode=False)
    return parsed[0]


class RunningCommand:
    """A command that runs in this process.

    :ivar finished: fires with its exit code.
    """

    unfinished: ClassVar[list[RunningCommand]] = []
    """Those that `finish` was not called for to its end."""

    def __init__(
        self, *arguments: str | bytes, stdin: bytes = b"", terminal: bool = False, pipe: int = -1, output: int = -1
    ) -> None:
        """
        :param terminal: whether standard output and standard error are a terminal, and standard input too unless there
            is another one.
        :param pipe: a file descriptor to read from, instead of `stdin`.
        :param output: a file descriptor to write to.
        """
        main, verbosity = parse_command(*arguments)
        self._files = ExitStack()
        self._input, self._out, self._err = map(self._files.enter_context, [tempfile.TemporaryFile() for _ in range(3)])  # noqa: SIM115  # they are entered
        self._input.write(stdin)
        self._input.seek(0)
        self._master, self._slave = open_terminal() if terminal else (-1, -1)
        if terminal:
            tty.setraw(self._slave)
        descriptors = (
            pipe if pipe >= 0 else self._slave if terminal and not stdin else self._input.fileno(),
            output if output >= 0 else self._slave if terminal else self._out.fileno(),
            self._slave if terminal else self._err.fileno(),
        )
        self.terminal = Terminal(reactor, *descriptors)
        self._log = StderrLogObserver(self.terminal, verbosity)
        globalLogPublisher.addObserver(self._log)
        self.run = CommandRun(self.terminal)
        self.finished: Deferred[int] = self.run.start(main)
        self.unfinished.append(self)

    def stderr(self) -> str:
        """Return what it has written to standard error so far."""
        return _content(self._err).decode()

    def stdout(self) -> bytes:
        """Return what it has written to standard output so far."""
        return _content(self._out)

    def type_keys(self, keys: bytes) -> None:
        """Type on the terminal."""
        os.write(self._master, keys)

    def read_screen(self) -> bytes:
        """Return what it has written to the terminal since the last call."""
        return _read(self._master) if select.select([self._master], [], [], 0)[0] else b""

    async def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until it has written the text, to either output, this number of times."""
        while (self.stdout().decode("utf-8", "replace") + self.stderr()).count(text) < times:
            assert not self.finished.called, f"finished without {text!r}: {self.stdout()!r} {self.stderr()}"
            await deferLater(reactor, 0.01)

    async def finish(self, number: int = 0) -> Result:
        """Wait until it has finished. Send it the signal of this number first, if there is one."""
        if number:
            self.run.signal_received(number)
        code = await self.finished
        screen = self._close_screen()
        result = Result(code, screen or self.stdout(), self.stderr())
        self._release()
        return result

    async def abandon(self) -> None:
        """Cancel it, because its test has failed, and leave nothing of it behind."""
        self.finished.cancel()
        try:
            await self.finished.addTimeout(PROCESS_TIMEOUT, reactor)
        finally:
            self._release()
        for descriptor in (self._master, self._slave):
            with suppress(OSError):  # it is closed, or there is none
                os.close(descriptor)

    def _release(self) -> None:
        # An observer that stays would write into files that are closed, whatever any later test logs.
        globalLogPublisher.removeObserver(self._log)
        self._files.close()
        self.unfinished.remove(self)

    def _close_screen(self) -> bytes:
        """Close the terminal; return its unread output."""
        if self._master < 0:
            return b""
        os.close(self._slave)
        screen = b""
        while chunk := _read(self._master):
            screen += chunk
        os.close(self._master)
        return screen


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the end of a terminal whose other side is closed
        return b""


def _content(file: IO[bytes]) -> bytes:
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)


async def run_command(*arguments: str | bytes, stdin: bytes = b"", terminal: bool = False) -> Result:
    """Run a command in this process until it has finished."""
    return await RunningCommand(*arguments, stdin=stdin, terminal=terminal).finish()


async def run_command_for_geard(*arguments: str) -> Result:
    """Run a command, again if need be: geard on a busy machine may close a connection that it has just accepted."""
    while "closed cleanly" in (result := await run_command(*arguments)).err:
        pass
    return result


def usage_error(*arguments: str | bytes) -> str:
    """Return the message of the usage error that a command line is refused with."""
    try:
        parse_command(*arguments)
    except click.UsageError as error:
        return error.format_message()
    raise AssertionError(f"{arguments} is valid")


# In a process of its own.


@contextmanager
def start_process(*arguments: str | bytes, environment: dict[str, str] | None = None, **options: Any) -> Iterator[Any]:
    """Start the command as a user does; kill it at the end."""
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


def run_process(*arguments: str | bytes, stdin: bytes = b"", environment: dict[str, str] | None = None) -> Result:
    """Run the command in a process until it has finished. This blocks, so servers must be in other processes."""
    ran = run_python("-m", "txgearman", *arguments, stdin=stdin, **(environment or {}))
    return Result(ran.returncode, ran.stdout, ran.stderr.decode())


def interrupt(started: Any, number: int = signal.SIGINT) -> Result:
    """Send a signal to a process, and wait until it has finished."""
    started.send_signal(number)
    out, err = started.communicate(timeout=PROCESS_TIMEOUT)
    return Result(started.returncode, out, err.decode())


def run_tool(name: str, port: int, *arguments: str, stdin: bytes = b"") -> Result:
    """Run gearman or gearadmin."""
    completed = subprocess.run(
        [require_program(name), "-h", "127.0.0.1", "-p", str(port), *arguments],
        input=stdin,
        capture_output=True,
        timeout=PROCESS_TIMEOUT,
        check=False,
    )
    return Result(completed.returncode, completed.stdout, completed.stderr.decode())


def is_alive(pid: int) -> bool:
    """Return whether the process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"
