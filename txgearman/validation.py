"""Argument validation: invalid arguments raise TypeError or ValueError at the call, with uniform messages.

This is guarantee 8.
"""

from __future__ import annotations

import math
import re
from typing import Final, TypeVar

__all__ = [
    "MAX_FUNCTION",
    "MAX_HANDLE",
    "MAX_UNIQUE",
    "MAX_PAYLOAD",
    "check_callback",
    "check_count",
    "check_flag",
    "function_bytes",
    "name_bytes",
    "payload_bytes",
    "positive_seconds",
    "whole_number",
]

CallbackT = TypeVar("CallbackT")


def positive_seconds(name: str, value: float) -> float:
    """Check a number of seconds, and return it.

    :raises TypeError: it is no number.
    :raises ValueError: it is not more than 0, or not finite.
    """
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number of seconds, not {value!r}")
    return value


def check_count(name: str, value: int, least: int = 1) -> int:
    """Check a whole number, and return it.

    :raises TypeError: it is no `int`.
    :raises ValueError: it is less than `least`.
    """
    if type(value) is not int:
        raise TypeError(f"{name} must be int, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return value


def check_flag(name: str, value: bool) -> bool:
    """Check a yes or no, and return it.

    :raises TypeError: it is no `bool`.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be bool, not {type(value).__name__}")
    return value


def check_callback(name: str, value: CallbackT) -> CallbackT:
    """Check what is to be called, and return it.

    :raises TypeError: it can't be called, and is not None either.
    """
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")
    return value


MAX_FUNCTION: Final = 8050
"""Bytes of a function's name, prefix included. gearmand takes 8191 in a submit. But when it assigns the job, header,
handle, function, unique and their NULs must fit into 8192 bytes; if they do not, it closes the connection of each
worker that asks for the job. This is what the longest handle and unique leave."""


MAX_UNIQUE: Final = 63
"""Bytes of a unique. gearmand takes 64, but then the worker's workload begins with a NUL that nobody sent
(M6); from 65 on it refuses."""


MAX_HANDLE: Final = 63
"""Bytes of a job handle. gearmand makes none longer, and leaves a question about a longer one unanswered (H6)."""


def name_bytes(what: str, value: str | bytes, limit: int) -> bytes:
    """Check a name that goes over the wire, and return it as bytes.

    :param what: the argument's name, for the error.
    :param value: a `str` is encoded as UTF-8.
    :raises TypeError: it is neither `str` nor `bytes`.
    :raises ValueError: it has a NUL, which would shift every argument after it (M6), or more than `limit`
        bytes.
    """
    if type(value) is bytes and len(value) <= limit and b"\0" not in value:
        return value
    if isinstance(value, str):
        try:
            value = value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{what} can't be encoded as UTF-8: {value!r:.80}") from error
    elif not isinstance(value, bytes):
        raise TypeError(f"{what} must be str or bytes, not {type(value).__name__}")
    if b"\0" in value:
        raise ValueError(f"{what} must not have a NUL: {value[:80]!r}")
    if len(value) > limit:
        raise ValueError(f"{what} must have {limit} bytes at most, not {len(value)}")
    return value


def function_bytes(function: str | bytes) -> bytes:
    """Check a function's name, and return it as bytes. Raises as `name_bytes` does."""
    name = name_bytes("function", function, MAX_FUNCTION)
    if not name:
        raise ValueError("function must not be empty")
    return name


def payload_bytes(what: str, value: object) -> bytes:
    """Check a payload, and return it as bytes.

    :param what: the argument's name, for the error.
    :raises TypeError: it is neither `bytes` nor `bytearray` nor `memoryview`.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"{what} must be bytes, not {type(value).__name__}")


# 20 significant digits: more than any server keeps, and what int() reads in no time.
_LEADING_NUMBER: Final = re.compile(rb"\s*([+-]?)0*(\d{1,20})")


def whole_number(text: bytes) -> int:
    """Read a number as far as it goes, as C's ``atoi`` does, since workers send all sorts (C2)."""
    match = _LEADING_NUMBER.match(text)
    return int(match[1] + match[2]) if match else 0


MAX_PAYLOAD: Final = 2**32 - 2**16
"""Of a payload: what a header can tell, less space for the names beside it."""
