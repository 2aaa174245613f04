"""Runs a command in the reactor, and makes an exit code of what became of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogBeginner
from twisted.python.failure import Failure
from zope.interface import implementer

from .exit_codes import BROKEN_PIPE, BUG, Exit, exit_of
from .terminal import Terminal

__all__ = ["Main", "Run", "LogLines", "first_failure", "run", "usage"]

Main = Callable[[Terminal], Coroutine[Any, Any, int]]
"""What a command does, as a coroutine that comes to its exit code."""

LOUDNESS = {-1: LogLevel.critical, 0: LogLevel.warn, 1: LogLevel.info, 2: LogLevel.debug}


def run(main: Main, loudness: int = 0) -> int:
    """Run a command to its end; return its exit code.

    :param loudness: see `LogLines`.
    """
    from twisted.internet import reactor

    terminal = Terminal(reactor)
    globalLogBeginner.beginLoggingTo([LogLines(terminal, loudness)], redirectStandardIO=False, discardBuffer=True)
    return Run(terminal).to_its_end(main)


class Run:
    """One run of a command. SIGINT and SIGTERM cancel it, and it has its time to let go; a second one ends it."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._signal = 0
        self._main: Deferred[int] | None = None
        self._code: int = BUG

    def to_its_end(self, main: Main) -> int:
        """Run the reactor for as long as it takes."""
        reactor = self._terminal.reactor
        reactor.callWhenRunning(self._start, main)
        reactor.run()
        return self._code

    def _start(self, main: Main) -> None:
        # Behind Twisted's own handlers, which don't tell which signal it was.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.signalled)
        self.begin(main).addCallback(self._ended)

    def begin(self, main: Main) -> Deferred[int]:
        """Begin; the reactor runs.

        :return: fires with the exit code.
        """
        self._main = ensureDeferred(main(self._terminal))
        return self._main.addErrback(self._failed)

    def signalled(self, number: int, _: object = None) -> None:
        """For the system: there was a signal."""
        if self._signal:
            self._terminal.leave()
            os._exit(128 + number)
        self._signal = number
        assert self._main is not None
        self._terminal.reactor.callFromThread(self._main.cancel)

    def _failed(self, failure: Failure) -> int:
        error = failure.value
        assert error is not None
        if isinstance(error, CancelledError) and self._signal:
            return 128 + self._signal
        if isinstance(error, BrokenPipeError):
            return BROKEN_PIPE
        if isinstance(error, click.ClickException):
            self._terminal.say(f"txgearman: {error.format_message()}")
            return error.exit_code
        code = exit_of(error)
        self._terminal.say(failure.getTraceback() if code is None else f"txgearman: {error}")
        return BUG if code is None else code

    def _ended(self, code: int) -> None:
        self._code = code
        self._terminal.reactor.stop()


@contextmanager
def usage() -> Iterator[None]:
    """What the library calls a mistake of its caller is one on the command line."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error


@implementer(ILogObserver)
class LogLines:
    """What the library logs, and warnings of all others, as lines on the standard error output."""

    def __init__(self, terminal: Terminal, loudness: int) -> None:
        """
        :param loudness: -1 for what is critical, 0 for warnings, 1 for what happens, 2 for everything.
        """
        self._terminal = terminal
        self._level = LOUDNESS[max(-1, min(2, loudness))]

    def __call__(self, event: LogEvent) -> None:
        ours = event["log_namespace"].startswith("txgearman.")
        if event["log_level"] >= (self._level if ours else max(self._level, LogLevel.warn)):
            text = formatEvent(event)
            if "log_failure" in event:
                text = f"{text}: {event['log_failure'].getErrorMessage()}"
            self._terminal.say(f"txgearman: {text}")


def first_failure(codes: Iterable[Exit]) -> Exit:
    """Of several outcomes, the first that is no success."""
    return next((code for code in codes if code is not Exit.DONE), Exit.DONE)
