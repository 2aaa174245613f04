"""The job server for development, as ``txgearman server`` and ``python -m txgearman.testing`` run it.

It logs what its clients and workers send, and what it refuses. Programs in any language can be tested against it, so
the log is for people who can't look into them.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, TextIO

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent, formatTime, globalLogPublisher
from zope.interface import implementer

from .packet_log import REFUSED, SENT, Entry, is_refusal
from .server import MemoryJobServer

_log = Logger()

LEVELS: Final = (LogLevel.warn, LogLevel.info, LogLevel.debug)
"""The lowest level of what is logged, by how often ``-v`` was given.

Requests that are refused without an answer are warnings. The other requests, what is refused with an answer, and
connections are info. All other answers are for debugging.
"""


def log_traffic(server: MemoryJobServer) -> None:
    """Log what a server receives, sends and refuses from now on."""
    server._core.log.listener = _log_entry


def _log_entry(connection: int, direction: str, entry: Entry, content: str) -> None:
    level = LogLevel.warn if direction is REFUSED else LogLevel.info
    if direction is SENT and not is_refusal(entry):
        level = LogLevel.debug
    _log.emit(
        level,
        "Connection {connection} {direction} {content}",
        connection=connection,
        direction=direction,
        content=content,
    )


@implementer(ILogObserver)
class DevelopmentLog:
    """Writes log events of txgearman, and warnings of everything else, a line for each.

    :param verbosity: how often ``-v`` was given.
    :param prefix: makes what each line begins with.
    """

    def __init__(self, stream: TextIO, verbosity: int, prefix: Callable[[LogEvent], str]) -> None:
        self._stream = stream
        self._level = LEVELS[min(verbosity, 2)]
        self._prefix = prefix

    def __call__(self, event: LogEvent) -> None:
        is_ours = event["log_namespace"].startswith("txgearman.")
        if event["log_level"] >= (self._level if is_ours else LogLevel.warn):
            text = formatEvent(event)
            if "log_failure" in event:
                text = f"{text}: {event['log_failure'].getErrorMessage()}"
            print(f"{self._prefix(event)}{text}", file=self._stream, flush=True)


def _time_and_level(event: LogEvent) -> str:
    return f"{formatTime(event['log_time'])} {event['log_level'].name}: "


class LogFile:
    """A log file that is reopened on SIGHUP, as gearmand's is, so that it can be rotated by renaming.

    Within a ``with`` statement, log events are written to it; then it is closed.
    """

    def __init__(self, path: str, verbosity: int) -> None:
        """Open it, to append to it.

        :raises OSError: it can't be opened.
        """
        self._path = path
        self._verbosity = verbosity
        self._stream, self._observer = self._open()

    def __enter__(self) -> None:
        """Write log events from now on."""
        globalLogPublisher.addObserver(self._observer)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Write no more, and close it."""
        globalLogPublisher.removeObserver(self._observer)
        self._stream.close()

    def reopen(self) -> None:
        """Write further events to a new file of the name, if the file was renamed. The old one is closed."""
        try:
            stream, observer = self._open()
        except OSError as error:
            _log.error("The log file was not reopened: {reason}", reason=error)
            return
        globalLogPublisher.removeObserver(self._observer)
        self._stream.close()
        self._stream, self._observer = stream, observer
        globalLogPublisher.addObserver(observer)

    def _open(self) -> tuple[TextIO, DevelopmentLog]:
        stream = open(self._path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115  # __exit__ closes it
        return stream, DevelopmentLog(stream, self._verbosity, _time_and_level)


@contextmanager
def hangups_handled(reactor: IReactorFromThreads, log_file: LogFile | None) -> Iterator[None]:
    """Handle SIGHUP within the block as gearmand does: reopen the log file, and go on.

    :param log_file: None if there is none.
    """

    def handle() -> None:
        _log.info("SIGHUP received" if log_file is None else "SIGHUP received: reopening the log file")
        if log_file is not None:
            log_file.reopen()

    number = getattr(signal, "SIGHUP", None)
    if number is None:  # Windows
        yield
        return
    before = signal.signal(number, lambda *_: reactor.callFromThread(handle))
    try:
        yield
    finally:
        signal.signal(number, before)
