"""How the command exits: each outcome has a code of its own."""

from __future__ import annotations

import enum
from typing import Final

from ..errors import NoServersAvailable, ServerError, TaskFailed, TaskLost, TaskRejected, TaskTimedOut

__all__ = ["BROKEN_PIPE", "BUG", "Exit", "exit_of"]


class Exit(enum.IntEnum):
    """The exit codes that have a meaning here. A signal's is 128 and its number, so 130 for Ctrl-C."""

    DONE = 0
    FAILED = 1
    """The worker gave up, with an exception or without."""
    USAGE = 2
    """What was asked for makes no sense; nothing was sent."""
    REFUSED = 3
    """A server refused: its queue is full, it does not know the command ..."""
    TIMED_OUT = 4
    LOST = 5
    """The connection went, or the server forgot the job: it may have been done, or not."""
    NO_SERVER = 6
    """No server could be reached, or one of those that were asked."""


BROKEN_PIPE: Final = 141
"""Nobody reads what is written any more: what a shell says of a program that SIGPIPE has ended."""

BUG: Final = 70

_EXITS: Final = {
    TaskFailed: Exit.FAILED,
    TaskRejected: Exit.REFUSED,
    ServerError: Exit.REFUSED,
    TaskTimedOut: Exit.TIMED_OUT,
    TaskLost: Exit.LOST,
    NoServersAvailable: Exit.NO_SERVER,
}


def exit_of(error: BaseException) -> Exit | None:
    """The code of an error, or None if it is none that is expected."""
    return next((code for kind, code in _EXITS.items() if isinstance(error, kind)), None)
