"""Runs a command in the reactor, and converts its outcome to an exit code."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogBeginner
from twisted.python.failure import Failure
from zope.interface import implementer

from .exit_codes import BROKEN_PIPE, INTERNAL_ERROR, ExitCode, exit_code_for
from .options import as_option
from .terminal import Terminal

__all__ = ["CommandRun", "Main", "StderrLogObserver", "first_failure", "run", "usage_errors"]

Main = Callable[[Terminal], Coroutine[Any, Any, int]]
"""A command, as a coroutine function that returns its exit code."""

LOG_LEVELS: Final = {-1: LogLevel.critical, 0: LogLevel.warn, 1: LogLevel.info, 2: LogLevel.debug}


def run(main: Main, verbosity: int = 0) -> int:
    """Run a command in the global reactor; return its exit code.

    :param verbosity: see `StderrLogObserver`.
    """
    from twisted.internet import reactor

    terminal = Terminal(reactor)
    observer = StderrLogObserver(terminal, verbosity)
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False, discardBuffer=True)
    return CommandRun(terminal).run(main)


class CommandRun:
    """One run of a command. SIGINT or SIGTERM cancels it, so that it can clean up; a second one exits at once."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._signal = 0
        self._main: Deferred[int] | None = None
        self._code: int = INTERNAL_ERROR

    def run(self, main: Main) -> int:
        """Run the reactor until the command has finished; return its exit code."""
        reactor = self._terminal.reactor
        reactor.callWhenRunning(self._start_with_signals, main)
        reactor.run()
        return self._code

    def _start_with_signals(self, main: Main) -> None:
        # After the reactor has installed its own handlers, which do not report which signal it was.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.signal_received)
        self.start(main).addCallback(self._finished)

    def start(self, main: Main) -> Deferred[int]:
        """Start the command in the running reactor.

        :return: fires with the exit code; it does not fail.
        """
        self._main = ensureDeferred(main(self._terminal))
        return self._main.addErrback(self._failed)

    def signal_received(self, number: int, _: object = None) -> None:
        """Cancel the command, or exit at once if it has been cancelled before. A handler for `signal.signal`."""
        if self._signal:
            self._terminal.clean_up()
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
            self._terminal.write_error(f"txgearman: {error.format_message()}")
            return error.exit_code
        code = exit_code_for(error)
        if code is None:
            self._terminal.write_error_lines(failure.getTraceback())
        else:
            self._terminal.write_error(f"txgearman: {error}")
        return INTERNAL_ERROR if code is None else code

    def _finished(self, code: int) -> None:
        self._code = code
        self._terminal.reactor.stop()


@contextmanager
def usage_errors() -> Iterator[None]:
    """Convert TypeError and ValueError, which the library raises for invalid arguments, to usage errors."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise click.UsageError(as_option(str(error))) from error


@implementer(ILogObserver)
class StderrLogObserver:
    """Writes log events of txgearman, and warnings of everything else, to standard error."""

    def __init__(self, terminal: Terminal, verbosity: int) -> None:
        """
        :param verbosity: -1 for critical events, 0 for warnings, 1 for info, 2 for debug.
        """
        self._terminal = terminal
        self._level = LOG_LEVELS[max(-1, min(2, verbosity))]

    def __call__(self, event: LogEvent) -> None:
        is_ours = event["log_namespace"].startswith("txgearman.")
        if event["log_level"] >= (self._level if is_ours else max(self._level, LogLevel.warn)):
            text = formatEvent(event)
            if "log_failure" in event:
                text = f"{text}: {event['log_failure'].getErrorMessage()}"
            self._terminal.write_error(f"txgearman: {text}")


def first_failure(codes: Iterable[ExitCode]) -> ExitCode:
    """Return the first exit code that is not `ExitCode.DONE`, or else `ExitCode.DONE`."""
    return next((code for code in codes if code is not ExitCode.DONE), ExitCode.DONE)
