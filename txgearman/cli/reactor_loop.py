"""Runs a command in the reactor, and converts its outcome to an exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final

import click
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogBeginner
from twisted.python.failure import Failure
from zope.interface import implementer

from .exit_codes import BROKEN_PIPE, INTERNAL_ERROR, ExitCode, exit_code_for
from .options import as_option
from .terminal import StreamError, Terminal, child_start, kill_child_groups

__all__ = ["CommandRun", "Main", "StderrLogObserver", "first_failure", "run", "usage_errors", "wait_for_signal"]

Main = Callable[[Terminal], Coroutine[Any, Any, int]]
"""A command, as a coroutine function that returns its exit code."""

STOP_SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals that cancel the command. (Windows lacks SIGHUP.)"""

REPEAT_TIME: Final = 0.3
"""Seconds after the first signal within which the same one is no second one: timeout(1) sends each twice, and a program
that passes Ctrl-C on sends what the terminal has sent already."""

DEADLY_SIGNALS: Final = ("SIGQUIT", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGUSR1", "SIGUSR2", "SIGXCPU")
"""Other signals that end a program by default. They end it at once, but not before its children."""

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
    """One run of a command.

    SIGINT, SIGTERM or SIGHUP cancels it, so that it can clean up; SIGHUP only where it was not ignored at the start, as
    nohup has it. After that, SIGINT or SIGTERM exits at once, unless it is the same one within `REPEAT_TIME`.
    SIGHUP does not: a terminal that is closed sends several.

    A service, such as a worker, catches the `CancelledError` and returns an exit code once it has ended in good order:
    0 after SIGTERM and SIGHUP. After Ctrl-C, and for all other commands, the exit code is 128 plus the number of the
    signal.
    """

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._signal = 0
        self._signalled_at = 0.0
        self._cancelled_by = 0
        self._main: Deferred[int] | None = None
        self._code: int = INTERNAL_ERROR
        self._limit: threading.Timer | None = None

    def run(self, main: Main) -> int:
        """Run the reactor until the command has finished; return its exit code."""
        reactor = self._terminal.reactor
        reactor.callWhenRunning(self._start_with_signals, main)
        reactor.run()
        return self._code

    def _start_with_signals(self, main: Main) -> None:
        # After the reactor has installed its own handlers, which do not report which signal it was.
        for number in _signals_of(STOP_SIGNALS):
            if number != getattr(signal, "SIGHUP", 0) or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self.signal_received)
        for number in _signals_of(DEADLY_SIGNALS):
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, self._deadly_signal_received)
        self.start(main).addCallback(self._finished)

    def start(self, main: Main) -> Deferred[int]:
        """Start the command in the running reactor.

        :return: fires with the exit code; it does not fail.
        """
        self._main = ensureDeferred(main(self._terminal))
        return self._main.addCallbacks(self._returned, self._failed).addBoth(self._ended)

    def signal_received(self, number: int, _: object = None) -> None:
        """Cancel the command, or exit at once if it has been cancelled before. A handler for `signal.signal`."""
        if not self._signal:
            self._signal = number
            self._signalled_at = time.monotonic()
            self._limit_stop()
            self._terminal.reactor.callFromThread(self._cancel)
        elif number in _signals_of(("SIGINT", "SIGTERM")) and not self._is_repeated(number):
            child_start.postpone(partial(self._terminal.exit, 128 + number))

    def _is_repeated(self, number: int) -> bool:
        """Return whether a signal is the first one once more."""
        return number == self._signal and time.monotonic() - self._signalled_at < REPEAT_TIME

    def _limit_stop(self) -> None:
        """Exit after the limit that the command has set. In a thread: the code of a job may block the reactor."""
        if self._terminal.stop_limit is not None:
            self._limit = threading.Timer(self._terminal.stop_limit, self._terminal.exit, [ExitCode.FAILED])
            self._limit.daemon = True
            self._limit.start()

    def _deadly_signal_received(self, number: int, _: object) -> None:
        child_start.postpone(partial(self._end_by_signal, number))

    def _end_by_signal(self, number: int) -> None:
        self._terminal.clean_up()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _cancel(self) -> None:
        assert self._main is not None
        if not self._main.called:
            self._cancelled_by = self._signal
            self._main.cancel()

    def _returned(self, code: int) -> int:
        return 128 + signal.SIGINT if self._cancelled_by == signal.SIGINT and code == ExitCode.DONE else code

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
        code = ExitCode.INPUT_OUTPUT if isinstance(error, StreamError) else exit_code_for(error)
        if code is None:
            self._terminal.write_error_lines(failure.getTraceback())
        else:
            self._terminal.write_error(f"txgearman: {error}")
        return INTERNAL_ERROR if code is None else code

    def _ended(self, code: int) -> int:
        if self._limit is not None:
            self._limit.cancel()
        kill_child_groups()  # there are some if the command did not end in good order
        return code

    def _finished(self, code: int) -> None:
        self._code = code
        if self._terminal.reactor.getThreadPool().working:  # the end of the reactor would wait for them
            for stream in filter(None, (sys.stdout, sys.stderr)):
                with suppress(OSError):
                    stream.flush()
            self._terminal.exit(code)
        self._terminal.reactor.stop()


def _signals_of(names: Iterable[str]) -> list[int]:
    """Return the numbers of those signals that this system has."""
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


def wait_for_signal() -> Deferred[ExitCode]:
    """Wait until a signal cancels the command.

    :return: fires with the exit code of a service that was stopped in good order.
    """

    def stopped(failure: Failure) -> ExitCode:
        failure.trap(CancelledError)
        return ExitCode.DONE

    return Deferred[ExitCode]().addErrback(stopped)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Convert TypeError and ValueError, which the library raises for invalid arguments, to usage errors."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise click.UsageError(as_option(str(error))) from error


@implementer(ILogObserver)
class StderrLogObserver:
    """Writes log events of txgearman, and warnings of everything else, to standard error.

    What was raised is shown by its type and text; from info on, the traceback follows.

    :param verbosity: -1 for critical events, 0 for warnings, 1 for info, 2 for debug.
    """

    def __init__(self, terminal: Terminal, verbosity: int) -> None:
        self._terminal = terminal
        self._level = LOG_LEVELS[max(-1, min(2, verbosity))]

    def __call__(self, event: LogEvent) -> None:
        is_ours = event["log_namespace"].startswith("txgearman.")
        if event["log_level"] >= (self._level if is_ours else max(self._level, LogLevel.warn)):
            text = formatEvent(event)
            failure: Failure | None = event.get("log_failure")
            if failure is not None:
                text = f"{text}: {type(failure.value).__name__}: {failure.getErrorMessage()}"
            self._terminal.write_error(f"txgearman: {text}")
            if failure is not None and self._level <= LogLevel.info:
                self._terminal.write_error_lines(failure.getTraceback())


def first_failure(codes: Iterable[ExitCode]) -> ExitCode:
    """Return the first exit code that is not `ExitCode.DONE`, or else `ExitCode.DONE`."""
    return next((code for code in codes if code is not ExitCode.DONE), ExitCode.DONE)
