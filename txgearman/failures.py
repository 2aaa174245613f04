"""Failures for the log: what it keeps of an exception must not keep workloads alive."""

from __future__ import annotations

from typing import Final

from twisted.python.failure import Failure
from twisted.python.reflect import safe_str

__all__ = ["for_log"]

MAX_FIELD: Final = 1024
"""Characters or bytes that a field of an exception may have in the log."""


def for_log(failure: Failure) -> Failure:
    """Return a copy of a failure that has the traceback as text, and refers to no frame and no object of the program.

    Twisted keeps the last events of a program that has not begun to log, and observers may keep them for longer. A
    frame holds all that its function had: tasks, jobs and their workloads.

    :return: its type is that of the failure, and its value an exception of the same class, if another one can be made.
    """
    copied: Failure = Failure.__new__(Failure)  # copy() would call Failure(), which Twisted 22.4 refuses
    copied.__setstate__(failure.__getstate__())
    copied.value = _without_objects(failure.value)
    return copied


def _without_objects(error: BaseException | None) -> BaseException:
    """Return an exception of the same class and text without traceback, cause and objects."""
    text = safe_str(error)
    if error is not None and all(map(_is_plain, error.args)):
        kind = type(error)
        try:
            bare = kind.__new__(kind, *error.args)
            bare.__dict__.update((name, value) for name, value in vars(error).items() if _is_plain(value))
        except Exception:  # its class is the program's, and may refuse it
            return Exception(text[:MAX_FIELD])
        if safe_str(bare) == text:
            return bare
    return Exception(text[:MAX_FIELD])


def _is_plain(value: object) -> bool:
    """Check whether a field of an exception is a number or a short text."""
    if isinstance(value, (str, bytes)):
        return len(value) <= MAX_FIELD
    return value is None or isinstance(value, (int, float))
