"""Where the command reads and writes. No read and no write of it ever blocks the reactor."""

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

__all__ = ["Terminal", "children", "in_thread", "printable"]

T = TypeVar("T")

READ_SIZE: Final = 256 * 1024
"""Bytes to ask for at a time; a pipe gives 64 KiB at most."""

children: Final[set[int]] = set()
"""Process groups that are to end with this program, however it ends."""

SHOW_CURSOR: Final = b"\x1b[?25h"


class Terminal:
    """The standard input, output and error output of a command, as file descriptors.

    :ivar reactor: what the command runs in.
    """

    def __init__(self, reactor: Any, stdin: int = 0, stdout: int = 1, stderr: int = 2) -> None:
        self.reactor = reactor
        self._stdin = stdin
        self._stdout = stdout
        self._stderr = stderr

    @property
    def shows_output(self) -> bool:
        """Whether a person sees what is written to the standard output."""
        return os.isatty(self._stdout)

    @property
    def reads_keys(self) -> bool:
        """Whether a person types what is read from the standard input."""
        return os.isatty(self._stdin)

    @property
    def shows_errors(self) -> bool:
        """Whether a person sees what is written to the standard error output."""
        return os.isatty(self._stderr)

    # Output.

    async def write(self, data: bytes) -> None:
        """Write to the standard output, at the pace of its reader.

        :raises BrokenPipeError: nobody reads it any more.
        """
        rest = memoryview(data)
        while rest:
            if _takes_some(self._stdout):
                written = os.write(self._stdout, rest[: select.PIPE_BUF])
            else:
                written = await in_thread(self.reactor, _write_some, self._stdout, rest)
            rest = rest[written:]

    def say(self, text: str) -> None:
        """Write a line to the standard error output."""
        self.say_bytes(text.encode("utf-8", "backslashreplace"))

    def say_bytes(self, data: bytes) -> None:
        """Write a line of any bytes to the standard error output. (It is not for much, and may block.)"""
        _write_all(self._stderr, data if data.endswith(b"\n") else data + b"\n")

    def rich(self, *, errors: bool = False) -> Any:
        """A `rich.console.Console` on the standard output, or else on the standard error output."""
        from rich.console import Console  # it takes its time

        file: Any = _Text(self._stderr if errors else self._stdout)
        return Console(file=file, highlight=False, emoji=False, markup=False)

    def leave(self) -> None:
        """Before an end at once: show the cursor again, whatever was shown, and end the children."""
        for group in children:
            with suppress(ProcessLookupError):  # it may just have ended
                os.killpg(group, signal.SIGKILL)
        if self.shows_errors:
            _write_all(self._stderr, SHOW_CURSOR)

    # Input.

    async def chunks(self) -> AsyncIterator[bytes]:
        """The standard input, piece by piece; a piece is read when it is asked for."""
        while chunk := await in_thread(self.reactor, _read_some, self._stdin):
            yield chunk

    async def read(self) -> bytes:
        """All of the standard input."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def lines(self, end: bytes = b"\n") -> AsyncIterator[bytes]:
        """The lines of the standard input, without their ends. The last one need have none."""
        begun: list[bytes] = []  # joined once, however long the line
        async for chunk in self.chunks():
            first, *others = chunk.split(end)
            begun.append(first)
            for line in others:
                yield b"".join(begun)
                begun = [line]
        if last := b"".join(begun):
            yield last


class _Text(io.TextIOBase):
    """A file descriptor as rich wants it."""

    encoding = "utf-8"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        _write_all(self._descriptor, text.encode("utf-8", "backslashreplace"))
        return len(text)

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)


def _takes_some(descriptor: int) -> bool:
    """Whether ``PIPE_BUF`` bytes can be written to it at once."""
    return bool(select.select([], [descriptor], [], 0)[1])


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[_write_some(descriptor, rest) :]


# Whoever started this may have made its input and output non-blocking, for itself as well.


def _write_some(descriptor: int, data: memoryview) -> int:
    """Write what can be written; wait until that is something."""
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:
            select.select([], [descriptor], [])


def _read_some(descriptor: int) -> bytes:
    """Read what can be read; wait until there is something, or the end."""
    while True:
        try:
            return os.read(descriptor, READ_SIZE)
        except BlockingIOError:
            select.select([descriptor], [], [])


def in_thread(reactor: Any, call: Callable[..., T], *arguments: Any) -> Deferred[T]:
    """Call something that blocks in a thread of its own, for which no end of the program waits.

    :return: fires with what it returns, or fails with what it raises. Cancelled, it fails at once; the thread goes on.
    """
    deferred: Deferred[T] = Deferred(lambda _: None)

    def fire(outcome: T | Failure) -> None:
        if not deferred.called:
            deferred.callback(outcome)

    def work() -> None:
        outcome: T | Failure
        try:
            outcome = call(*arguments)
        except BaseException:  # as in a Deferred
            outcome = Failure()
        reactor.callFromThread(fire, outcome)

    threading.Thread(target=work, daemon=True).start()
    return deferred


def printable(name: bytes) -> str:
    """A name for people's eyes, and for one column of one line: what does not print is escaped."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
