"""Standard input, output and error of the command, without blocking the reactor."""

from __future__ import annotations

import io
import os
import select
import signal
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from ..validation import printable_text

__all__ = ["StreamError", "Terminal", "child_groups", "child_start", "kill_child_groups", "run_in_thread"]

T = TypeVar("T")

READ_SIZE: Final = 256 * 1024
"""Bytes to read at a time. (A pipe returns 64 KiB at most.)"""

child_groups: Final[set[int]] = set()
"""Process groups to kill if this program exits without its normal clean-up."""


class ChildStart:
    """The start of a child by the reactor's thread, up to its group being in `child_groups`.

    An exit in between would leave the child behind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._postponed: list[Callable[[], object]] = []

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        while self._postponed:
            self._postponed.pop(0)()

    def postpone(self, call: Callable[[], object]) -> None:
        """Make a call, after the start if one is in progress. For signal handlers, which may interrupt it."""
        if self._lock.locked():
            self._postponed.append(call)
        else:
            call()

    def await_end(self) -> None:
        """Wait until no start is in progress, for `START_LIMIT` at most. For other threads than the reactor's."""
        if self._lock.acquire(timeout=START_LIMIT):
            self._lock.release()


START_LIMIT: Final = 1.0
"""Seconds that the start of a child may delay the end of this program."""

child_start: Final = ChildStart()

SHOW_CURSOR: Final = b"\x1b[?25h"
HIDE_CURSOR: Final = b"\x1b[?25l"
ENTER_SCREEN: Final = b"\x1b[?1049h\x1b[H"
LEAVE_SCREEN: Final = b"\x1b[?1049l"

MAX_HELD: Final = 100
"""Lines for standard error that are held while another screen is shown."""

KEYS_SIZE: Final = 1024
"""Bytes of keys to read at a time."""


class _Mode(NamedTuple):
    """A mode of the terminal, which is left while this process is suspended."""

    enter: Callable[[], object]
    leave: Callable[[], object]


class StreamError(Exception):
    """Standard input can't be read, or standard output can't be written and was not closed by its reader."""


class Terminal:
    """Standard input, output and error of a command, as file descriptors; and how the command exits at once.

    :ivar reactor: the reactor that the command runs in.
    :ivar stop_limit: seconds after the first signal, at which the program exits whatever still runs; None for no limit.
    :ivar before_exit: called before an immediate exit, in any thread, such as to report what is cut off.
    """

    def __init__(self, reactor: Any, stdin: int = 0, stdout: int = 1, stderr: int = 2) -> None:
        self.reactor = reactor
        self.stop_limit: float | None = None
        self.before_exit: list[Callable[[], None]] = []
        self._stdin = stdin
        self._stdout = stdout
        self._stderr = stderr
        self._modes: list[_Mode] = []
        self._held: deque[bytes] | None = None  # lines for standard error, while another screen is shown

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

    @property
    def has_screen(self) -> bool:
        """Whether standard output is a terminal that can do more than print lines, which TERM=dumb can't."""
        return self.is_stdout_tty and os.environ.get("TERM", "") not in ("", "dumb", "unknown")

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines of the terminal."""
        columns, lines = os.get_terminal_size(self._stdout)
        return columns or 80, lines or 24  # a terminal without a window has 0

    # The screen.

    @contextmanager
    def live_screen(self) -> Iterator[Any]:
        """Show another screen, without a cursor, in this context, which has a `rich.live.Live` for it."""
        from rich.live import Live  # imported late: it is slow

        mode = _Mode(
            lambda: _write_all(self._stdout, ENTER_SCREEN + HIDE_CURSOR),
            lambda: _write_all(self._stdout, SHOW_CURSOR + LEAVE_SCREEN),
        )
        self._modes.append(mode)
        held: deque[bytes] = deque(maxlen=MAX_HELD)
        self._held = held
        try:
            with Live(console=self.rich_console(), auto_refresh=False, screen=True) as live:  # it enters and leaves
                yield live
        finally:
            self._modes.remove(mode)
            self._held = None
            _write_all(self._stderr, b"".join(held))

    @contextmanager
    def on_keys(self, received: Callable[[bytes], None]) -> Iterator[None]:
        """Call a function with what is typed in this context, without echo and without waiting for the end of a line.

        Nothing is read if standard input is no terminal, or one whose foreground is another program.
        """
        modules = _terminal_modules()
        if modules is None or not (self.is_stdin_tty and _is_foreground(self._stdin)):
            yield
            return
        termios, tty = modules
        attributes = termios.tcgetattr(self._stdin)
        mode = _Mode(
            lambda: tty.setcbreak(self._stdin, termios.TCSADRAIN),
            lambda: termios.tcsetattr(self._stdin, termios.TCSADRAIN, attributes),
        )
        reader = _KeyReader(self.reactor, self._stdin, received)
        mode.enter()
        self._modes.append(mode)
        self.reactor.addReader(reader)
        try:
            yield
        finally:
            self.reactor.removeReader(reader)
            self._modes.remove(mode)
            mode.leave()

    @contextmanager
    def on_signals(self, redraw: Callable[[], None]) -> Iterator[None]:
        """Draw the screen again when its size has changed, and after Ctrl-Z, in this context."""
        calls = {"SIGWINCH": redraw, "SIGTSTP": lambda: self._suspend(redraw)}
        calls_by_number = {getattr(signal, name): call for name, call in calls.items() if hasattr(signal, name)}
        before = {number: signal.getsignal(number) for number in calls_by_number}
        for number, call in calls_by_number.items():
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, lambda *_, call=call: self.reactor.callFromThread(call))
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _suspend(self, redraw: Callable[[], None]) -> None:
        """Stop this process, with the terminal as it was before, until it is continued."""
        self._leave_modes()
        os.kill(os.getpid(), signal.SIGSTOP)
        for mode in self._modes:
            mode.enter()
        redraw()

    def _leave_modes(self) -> None:
        for mode in reversed(self._modes):
            mode.leave()

    # Output.

    async def write(self, data: bytes) -> None:
        """Write to standard output. It returns once all is written, so that a slow reader slows the caller.

        :raises BrokenPipeError: standard output was closed by its reader.
        :raises StreamError: it can't be written for another reason.
        """
        rest = memoryview(data)
        with _output_errors():
            while rest:
                if _is_writable(self._stdout):
                    written = os.write(self._stdout, rest[: select.PIPE_BUF])
                else:
                    written = await run_in_thread(self.reactor, _write_some, self._stdout, rest)
                rest = rest[written:]

    def write_error(self, text: str) -> None:
        """Write one line of text to standard error. This may block, so it is for short messages.

        Whatever text of others is in it, it remains one line, and does not control the terminal. While another screen
        is shown, a line for the terminal is held until it is left; of many, the last ones. If standard error can't be
        written, such as after the loss of the terminal, nothing is left to report that to.
        """
        line = printable_text(text).encode() + b"\n"
        if self._held is not None and self.is_stderr_tty:
            self._held.append(line)
        else:
            with suppress(OSError):
                _write_all(self._stderr, line)

    def write_error_lines(self, text: str) -> None:
        """Write lines of text to standard error, each as `write_error` does."""
        for line in text.rstrip("\n").split("\n"):
            self.write_error(line)

    def rich_console(self, *, errors: bool = False) -> Any:
        """Return a `rich.console.Console` for standard output, or for standard error if `errors` is true."""
        from rich.console import Console  # imported late: it is slow

        file: Any = _TextStream(self._stderr if errors else self._stdout)
        return Console(file=file, highlight=False, emoji=False, markup=False)

    def exit(self, code: int) -> None:
        """Exit at once, without an end of the reactor and of other threads. May be called in any thread."""
        for report in self.before_exit:
            report()
        self.clean_up()
        os._exit(code)

    def clean_up(self) -> None:
        """Prepare for an immediate exit: kill the child processes, and show the cursor that a display has hidden."""
        kill_child_groups()
        if self.is_stderr_tty:
            with suppress(OSError):
                _write_all(self._stderr, SHOW_CURSOR)
        with suppress(Exception):  # whatever a lost terminal raises (termios.error is no OSError), the exit goes on
            self._leave_modes()

    # Input.

    async def read_chunks(self) -> AsyncIterator[bytes]:
        """Iterate over standard input in chunks. Each is read when it is asked for.

        :raises StreamError: it can't be read, as with a directory.
        """
        while chunk := await self._read_chunk():
            yield chunk

    async def _read_chunk(self) -> bytes:
        try:
            return await run_in_thread(self.reactor, _read_some, self._stdin)
        except OSError as error:
            raise StreamError(f"can't read standard input: {error.strerror}") from error

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
        with _output_errors():
            _write_all(self._descriptor, text.encode("utf-8", "backslashreplace"))
        return len(text)

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)


@implementer(IReadDescriptor)
class _KeyReader:
    """Reads what is typed on a terminal. Its mode, which other processes share, is left blocking."""

    def __init__(self, reactor: Any, descriptor: int, received: Callable[[bytes], None]) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._received = received

    def fileno(self) -> int:
        return self._descriptor

    def doRead(self) -> None:  # noqa: N802  # Twisted's name
        data = os.read(self._descriptor, KEYS_SIZE)
        if data:
            self._received(data)
        else:  # the terminal is gone
            self._reactor.removeReader(self)

    def connectionLost(self, reason: Failure) -> None:  # Twisted's name
        self._reactor.removeReader(self)

    def logPrefix(self) -> str:  # noqa: N802  # Twisted's name
        return "keys"


def _terminal_modules() -> tuple[Any, Any] | None:
    """Return the modules for modes of terminals; None where there are none, as on Windows."""
    try:
        import termios
        import tty
    except ImportError:
        return None
    return termios, tty


def _is_foreground(descriptor: int) -> bool:
    """Return whether this program may change the mode of the terminal: in the background it would be stopped."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:  # it is not the terminal that controls this program, and stops nobody
        return True


def kill_child_groups() -> None:
    """Kill all processes of `child_groups`. A signal handler calls it through `child_start.postpone`."""
    if threading.current_thread() is not threading.main_thread():
        child_start.await_end()
    for group in [*child_groups]:
        with suppress(ProcessLookupError):  # it may have exited in the meantime
            os.killpg(group, signal.SIGKILL)


@contextmanager
def _output_errors() -> Iterator[None]:
    """Convert a failure to write to an `StreamError`, except that of a pipe that its reader has closed."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StreamError(f"can't write the output: {error.strerror}") from error


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
