"""Standard input, output and error of the command, without blocking the reactor."""

from __future__ import annotations

import io
import os
import select
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

__all__ = ["Terminal", "child_groups", "run_in_thread"]

T = TypeVar("T")

READ_SIZE: Final = 256 * 1024
"""Bytes to read at a time. (A pipe returns 64 KiB at most.)"""

child_groups: Final[set[int]] = set()
"""Process groups to kill if this program exits without its normal clean-up."""

SHOW_CURSOR: Final = b"\x1b[?25h"


class Terminal:
    """Standard input, output and error of a command, as file descriptors.

    :ivar reactor: the reactor that the command runs in.
    """

    def __init__(self, reactor: Any, stdin: int = 0, stdout: int = 1, stderr: int = 2) -> None:
        self.reactor = reactor
        self._stdin = stdin
        self._stdout = stdout
        self._stderr = stderr

    @property
    def is_stdin_tty(self) -> bool:
        """Whether standard input is a terminal."""
        return os.isatty(self._stdin)

    @property
    def is_stdout_tty(self) -> bool:
        """Whether standard output is a terminal."""
        return os.isatty(self._stdout)

    @property
    def is_stderr_tty(self) -> bool:
        """Whether standard error is a terminal."""
        return os.isatty(self._stderr)

    # Output.

    async def write(self, data: bytes) -> None:
        """Write to standard output. It returns once all is written, so that a slow reader slows the caller.

        :raises BrokenPipeError: standard output was closed by its reader.
        """
        rest = memoryview(data)
        while rest:
            if _is_writable(self._stdout):
                written = os.write(self._stdout, rest[: select.PIPE_BUF])
            else:
                written = await run_in_thread(self.reactor, _write_some, self._stdout, rest)
            rest = rest[written:]

    def write_error(self, text: str) -> None:
        """Write a line of text to standard error."""
        self.write_error_bytes(text.encode("utf-8", "backslashreplace"))

    def write_error_bytes(self, data: bytes) -> None:
        """Write a line of bytes to standard error. This may block, so it is for short messages."""
        _write_all(self._stderr, data if data.endswith(b"\n") else data + b"\n")

    def rich_console(self, *, errors: bool = False) -> Any:
        """Return a `rich.console.Console` for standard output, or for standard error if `errors` is true."""
        from rich.console import Console  # imported late: it is slow

        file: Any = _TextStream(self._stderr if errors else self._stdout)
        return Console(file=file, highlight=False, emoji=False, markup=False)

    def clean_up(self) -> None:
        """Prepare for an immediate exit: kill the child processes, and show the cursor that a display has hidden."""
        for group in child_groups:
            with suppress(ProcessLookupError):  # it may have exited in the meantime
                os.killpg(group, signal.SIGKILL)
        if self.is_stderr_tty:
            _write_all(self._stderr, SHOW_CURSOR)

    # Input.

    async def read_chunks(self) -> AsyncIterator[bytes]:
        """Iterate over standard input in chunks. Each is read when it is asked for."""
        while chunk := await run_in_thread(self.reactor, _read_some, self._stdin):
            yield chunk

    async def read_all(self) -> bytes:
        """Read standard input to its end."""
        return b"".join([chunk async for chunk in self.read_chunks()])

    async def read_lines(self, line_end: bytes = b"\n") -> AsyncIterator[bytes]:
        """Iterate over the lines of standard input, without their ends. The last line may lack its end."""
        parts: list[bytes] = []  # of the current line; joined once, so that a long line costs linear time
        async for chunk in self.read_chunks():
            first, *others = chunk.split(line_end)
            parts.append(first)
            for part in others:
                yield b"".join(parts)
                parts = [part]
        if last := b"".join(parts):
            yield last


class _TextStream(io.TextIOBase):
    """A file descriptor as the text stream that rich writes to."""

    encoding = "utf-8"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        _write_all(self._descriptor, text.encode("utf-8", "backslashreplace"))
        return len(text)

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)


def _is_writable(descriptor: int) -> bool:
    """Return whether ``PIPE_BUF`` bytes can be written without blocking."""
    return bool(select.select([], [descriptor], [], 0)[1])


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[_write_some(descriptor, rest) :]


# The parent process shares these descriptors and may have made them non-blocking. Their mode can't be changed, as that
# would change the parent's as well.


def _write_some(descriptor: int, data: memoryview) -> int:
    """Block until some of the data can be written; return the number of bytes written."""
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:
            select.select([], [descriptor], [])


def _read_some(descriptor: int) -> bytes:
    """Block until there is data, and return it; at the end of the input, return nothing."""
    while True:
        try:
            return os.read(descriptor, READ_SIZE)
        except BlockingIOError:
            select.select([descriptor], [], [])


def run_in_thread(reactor: Any, call: Callable[..., T], *arguments: Any) -> Deferred[T]:
    """Run a blocking call in a daemon thread of its own, which does not delay the exit of the program.

    :return: fires with the result of the call, or fails with its exception. Cancelling fails it at once; the thread
        runs on, and its result is dropped.
    """
    deferred: Deferred[T] = Deferred(lambda _: None)

    def fire(outcome: T | Failure) -> None:
        if not deferred.called:
            deferred.callback(outcome)

    def work() -> None:
        outcome: T | Failure
        try:
            outcome = call(*arguments)
        except BaseException:  # every exception is reported by the Deferred
            outcome = Failure()
        reactor.callFromThread(fire, outcome)

    threading.Thread(target=work, daemon=True).start()
    return deferred
