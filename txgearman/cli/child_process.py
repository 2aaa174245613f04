"""Starts the child processes of ``txgearman work --processes``, and reads what they log and report."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final
from typing import Protocol as Interface

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.process import reapProcessHandlers

from .child import Child
from .child_status import CHILD_VARIABLE, ChildOptions, ChildStatus
from .processes import OutputPipe

__all__ = ["LineReader", "ProcessListener", "WorkerProcess", "child_command"]

MAX_LINE: Final = 16 * 1024
"""Bytes of a line of log that are kept."""

PIPES_TIMEOUT: Final = 1.0
"""Seconds after the end of a child at which its pipes are closed that another process, which it started, holds open."""


class ProcessListener(Interface):
    """Learns what a child process logs and reports, and its end."""

    def line_received(self, line: bytes) -> None:
        """Handle a line, which is not empty, of its standard output or error, without the line's end."""

    def status_received(self, status: ChildStatus) -> None:
        """Handle a status that it has reported."""

    def process_ended(self, code: int) -> None:
        """Handle its end, after which nothing more comes from it.

        :param code: its exit code, or the negative number of the signal that has ended it.
        """


def child_command(arguments: Sequence[str]) -> list[str]:
    """Return the command that runs the command line with these arguments in another process."""
    own_directory = {"", os.getcwd()} & set(sys.path)
    # As little as this program itself, a child is to import what lies in the current directory.
    flags = ["-P"] if sys.version_info >= (3, 11) and not own_directory else []
    return [sys.executable, *flags, "-m", "txgearman", *arguments]


class WorkerProcess:
    """A child process. It has a session of its own, so that the terminal's Ctrl-C reaches only the parent.

    :ivar pid: its process ID.
    :param job_limit, metrics: see `ChildOptions`.
    :raises OSError: it can't be started.
    """

    def __init__(
        self,
        reactor: Any,
        command: Sequence[str],
        listener: ProcessListener,
        child: Child,
        *,
        job_limit: int | None = None,
        metrics: str = "",
    ) -> None:
        self._reactor = reactor
        self._listener = listener
        self._exited = False
        self._timer: IDelayedCall | None = None
        control, self._control = os.pipe()
        status, written = os.pipe()
        options = ChildOptions(child.place, child.name, os.getpid(), control, written, child.count, job_limit, metrics)
        try:
            self._process = _start(command, options)
        except BaseException:
            os.close(self._control)
            os.close(status)
            raise
        finally:
            os.close(control)
            os.close(written)
        self.pid = self._process.pid
        reapProcessHandlers[self.pid] = self  # type: ignore[assignment]  # it has what Twisted calls
        calls = listener.line_received, listener.line_received, self._receive_status
        self._readers = [LineReader(call) for call in calls]
        files = [self._process.stdout, self._process.stderr, os.fdopen(status, "rb", buffering=0)]
        self._pipes = [
            OutputPipe(reactor, file, reader.add, self._end_if_done)  # type: ignore[arg-type]  # none of them is None
            for file, reader in zip(files, self._readers, strict=True)
        ]

    # What it sends.

    def _receive_status(self, line: bytes) -> None:
        status = ChildStatus.parse(line)
        if status is not None:
            self._listener.status_received(status)

    def read_rest(self) -> None:
        """Read what is left in its pipes, when the reactor does so no longer."""
        for pipe in self._pipes:
            while not pipe.closed and _is_readable(pipe.fileno()):
                pipe.doRead()

    # What is done to it.

    def drain(self) -> None:
        """Have it take no more jobs, and exit after those that run."""
        if self._control >= 0:
            os.close(self._control)
            self._control = -1

    def dump_stacks(self) -> None:
        """Have it log the stacks of its threads."""
        self._send_signal(signal.SIGUSR1)

    def terminate(self) -> None:
        """Have it exit: at once if it drains, or if its program has not started yet."""
        self._send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, with the programs that it has started, as far as they are in its process group."""
        if not self._exited:
            with suppress(ProcessLookupError, PermissionError):  # it is a zombie; the latter is macOS's error
                os.killpg(self.pid, signal.SIGKILL)

    def _send_signal(self, number: int) -> None:
        if not self._exited:
            os.kill(self.pid, number)

    # Its end.

    @property
    def has_exited(self) -> bool:
        """Whether it has exited. Its output may not have been read."""
        self.reapProcess()
        return self._exited

    def reapProcess(self) -> None:  # noqa: N802  # Twisted's name
        """Look whether it has exited. Twisted calls this for each process, after each SIGCHLD."""
        if not self._exited and self._process.poll() is not None:
            self._exited = True
            reapProcessHandlers.pop(self.pid, None)
            self._timer = self._reactor.callLater(PIPES_TIMEOUT, self._end)
            self._end_if_done()

    def _end_if_done(self) -> None:
        if self._exited and all(pipe.closed for pipe in self._pipes):
            self._end()

    def _end(self) -> None:
        assert self._timer is not None
        if self._timer.active():
            self._timer.cancel()
        for pipe, reader in zip(self._pipes, self._readers, strict=True):
            pipe.close()
            reader.end()
        self.drain()
        self._listener.process_ended(self._process.returncode)


class LineReader:
    """Splits output into lines. Of a line that is too long, it keeps the beginning, and how many bytes follow.

    :param received: called with each line that is not empty, without its end.
    """

    def __init__(self, received: Callable[[bytes], None]) -> None:
        self._received = received
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        """Split data into lines."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._keep(line)
            self._flush()
        self._keep(rest)

    def end(self) -> None:
        """Pass on the last line, if it has no end."""
        if self._size:
            self._flush()

    def _keep(self, data: bytes) -> None:
        if self._size < MAX_LINE:
            self._parts.append(data[: MAX_LINE - self._size])
        self._size += len(data)

    def _flush(self) -> None:
        left_out = self._size - MAX_LINE
        note = b" (%d bytes more were left out)" % left_out if left_out > 0 else b""
        line = b"".join(self._parts) + note
        self._parts.clear()
        self._size = 0
        if line:
            self._received(line)


def _start(command: Sequence[str], options: ChildOptions) -> subprocess.Popen[bytes]:
    """Start a child with its options, in a session of its own. Raises OSError."""
    with _ignored_at_start():
        return subprocess.Popen(  # noqa: S603  # it is this program
            command,
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(options.control, options.status),
            start_new_session=True,
            env=os.environ | {CHILD_VARIABLE: options.encode()},
        )


@contextmanager
def _ignored_at_start() -> Iterator[None]:
    """Have a program that is started ignore SIGUSR1 and SIGUSR2, which would end it before it has handlers for them."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
