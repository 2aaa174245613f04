"""Exit codes of the command: each outcome has its own."""

from __future__ import annotations

import enum
from typing import Final

from ..errors import NoServersAvailable, ServerError, TaskFailed, TaskLost, TaskRejected, TaskTimedOut

__all__ = ["BROKEN_PIPE", "INTERNAL_ERROR", "ExitCode", "exit_code_for"]


class ExitCode(enum.IntEnum):
    """Exit codes that the command defines. After a signal, the code is 128 plus its number: 130 for Ctrl-C."""

    DONE = 0
    """Success; also of a service, such as ``work``, that SIGTERM or SIGHUP has ended in good order."""
    FAILED = 1
    """The worker reported that the job failed, with an exception or without. Or a worker was stopped, and jobs that
    still ran at the end of its drain were cut off."""
    USAGE = 2
    """Usage error; nothing was sent."""
    REFUSED = 3
    """A server refused: its queue is full, it does not know the command ..."""
    TIMED_OUT = 4
    LOST = 5
    """The connection was lost, or the server forgot the job: it may or may not have run."""
    NO_SERVER = 6
    """No server could be reached, or one of several."""
    NOT_STARTED = 7
    """A worker has stopped because its COMMAND can't be started any more."""
    NOT_LISTENING = 8
    """The address of ``--http``, ``--listen`` or ``--port`` can't be listened on, as while another program does."""
    INPUT_OUTPUT = 74
    """Standard input can't be read, or standard output can't be written, as on a full disk. ``EX_IOERR`` of
    ``sysexits.h``."""


BROKEN_PIPE: Final = 141
"""Standard output was closed. A shell reports the same code for a program that SIGPIPE (13) has ended."""

INTERNAL_ERROR: Final = 70
"""``EX_SOFTWARE`` of ``sysexits.h``."""

_EXIT_CODES: Final = {
    TaskFailed: ExitCode.FAILED,
    TaskRejected: ExitCode.REFUSED,
    ServerError: ExitCode.REFUSED,
    TaskTimedOut: ExitCode.TIMED_OUT,
    TaskLost: ExitCode.LOST,
    NoServersAvailable: ExitCode.NO_SERVER,
}


def exit_code_for(error: BaseException) -> ExitCode | None:
    """Return the exit code for an error, or None if the error is unexpected."""
    return next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), None)
