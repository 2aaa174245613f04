"""Argument validation: invalid arguments raise TypeError or ValueError at the call, with uniform messages.

This is guarantee 8.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Final, TypeVar

from .models import decode_text

__all__ = [
    "MAX_FUNCTION",
    "MAX_HANDLE",
    "MAX_NAME",
    "MAX_PAYLOAD",
    "MAX_REASON",
    "MAX_TEXT",
    "MAX_UNIQUE",
    "check_callback",
    "check_count",
    "check_flag",
    "escape_backslashes",
    "function_bytes",
    "name_bytes",
    "not_negative_seconds",
    "payload_bytes",
    "positive_seconds",
    "printable_name",
    "printable_text",
    "quoted",
    "short_text",
    "whole_number",
]

CallbackT = TypeVar("CallbackT")


def positive_seconds(name: str, value: float) -> float:
    """Check a number of seconds, and return it.

    :raises TypeError: it is not a number.
    :raises ValueError: it is not positive, or not finite.
    """
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number of seconds, not {value!r}")
    return value


def not_negative_seconds(name: str, value: float) -> float:
    """Check a number of seconds that may be 0, and return it. Raises as `positive_seconds`."""
    return 0.0 if value == 0 else float(positive_seconds(name, value))


def check_count(name: str, value: int, least: int = 1) -> int:
    """Check an integer, and return it.

    :raises TypeError: it is not an `int`.
    :raises ValueError: it is less than `least`.
    """
    if type(value) is not int:
        raise TypeError(f"{name} must be int, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return value


def check_flag(name: str, value: bool) -> bool:
    """Check a flag, and return it.

    :raises TypeError: it is not a `bool`.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be bool, not {type(value).__name__}")
    return value


def check_callback(name: str, value: CallbackT) -> CallbackT:
    """Check an optional callback, and return it.

    :raises TypeError: it is neither callable nor None.
    """
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")
    return value


MAX_FUNCTION: Final = 8050
"""Maximum length of a function's name in bytes, including its prefix.

gearmand accepts 8191 in a submit. But when it assigns the job, header, handle, function, unique and their NULs must fit
into 8192 bytes; otherwise it closes the connection of each worker that asks for the job. This is what the longest
handle and unique leave."""


MAX_UNIQUE: Final = 63
"""Maximum length of a unique in bytes.

gearmand accepts 64, but then inserts a NUL before the workload that the worker gets (M6); it refuses longer ones."""


MAX_HANDLE: Final = 63
"""Maximum length of a job handle in bytes. gearmand makes no longer ones, and leaves requests about them unanswered
(H6)."""


def name_bytes(what: str, value: str | bytes, limit: int) -> bytes:
    """Check a name, and return it as bytes.

    :param what: name of the argument, for the error.
    :param value: a `str` is encoded as UTF-8.
    :param limit: maximum length in bytes.
    :raises TypeError: it is neither `str` nor `bytes`.
    :raises ValueError: it has a NUL, which would shift the arguments that follow it in a packet (M6); or it is too
        long.
    """
    if type(value) is bytes and len(value) <= limit and b"\0" not in value:
        return value
    if isinstance(value, str):
        try:
            value = value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{what} must be encodable as UTF-8, not {value!r:.80}") from error
    elif not isinstance(value, bytes):
        raise TypeError(f"{what} must be str or bytes, not {type(value).__name__}")
    if b"\0" in value:
        raise ValueError(f"{what} must not have a NUL: {quoted(value)}")
    if len(value) > limit:
        raise ValueError(f"{what} must have {limit} bytes at most, not {len(value)}")
    return value


def function_bytes(function: str | bytes) -> bytes:
    """Check the name of a function, and return it as bytes. Raises as `name_bytes`."""
    name = name_bytes("function", function, MAX_FUNCTION)
    if not name:
        raise ValueError("function must not be empty")
    return name


def payload_bytes(what: str, value: object) -> bytes:
    """Check a payload, and return it as bytes.

    :param what: name of the argument, for the error.
    :raises TypeError: it is neither `bytes` nor `bytearray` nor `memoryview`.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"{what} must be bytes, not {type(value).__name__}")


# At most 20 significant digits: more than any server keeps, and few enough for a fast int().
_LEADING_NUMBER: Final = re.compile(rb"\s*([+-]?)0*(\d{1,20})")


def whole_number(text: bytes) -> int:
    """Parse the number at the start of a text as C's ``atoi`` does, since workers send any text (C2); 0 if none."""
    match = _LEADING_NUMBER.match(text)
    return int(match[1] + match[2]) if match else 0


def printable_text(text: str | bytes) -> str:
    """Return a message of others as it may be logged or printed: decoded, with escapes for what is unprintable.

    The text has no TAB, no end of line, no control character and no character that changes the direction of writing: so
    it forges no line of a log, and commands no terminal. Applied to its own result it changes nothing.
    """
    decoded = decode_text(text)
    if decoded.isprintable():
        return decoded
    return "".join(character if character.isprintable() else _escape(character) for character in decoded)


def printable_name(name: str | bytes) -> str:
    """Return a name of others, such as a function's, as it may be printed: different names stay different.

    It is printable, as what `printable_text` returns. A byte that is not UTF-8 is shown as ``\\xff``, and a backslash
    as two. So it is to be applied once, to the name as it was received.
    """
    return printable_text(escape_backslashes(name))


def escape_backslashes(name: str | bytes) -> str:
    """Return a name of others as text from which its bytes can be restored, for a format that has escapes of its own.

    A byte that is not UTF-8 is shown as ``\\xff``, and a backslash as two. Nothing else is changed.
    """
    if isinstance(name, str):
        return name.replace("\\", "\\\\")
    return decode_text(name.replace(b"\\", b"\\\\"))


def _escape(character: str) -> str:
    """Return the escape of an unprintable character, which is not that of the byte of the same number."""
    return f"\\u{ord(character):04x}" if "\x7f" < character <= "\xff" else repr(character)[1:-1]


MAX_TEXT: Final = 1024
"""Maximum length of the text of an error in characters. Of what a peer sends nothing longer is shown or logged."""

MAX_REASON: Final = 640
"""As `MAX_TEXT`, for a reason in a log event that also says what it concerns."""

MAX_NAME: Final = 160
"""As `MAX_TEXT`, for a name or a handle beside others."""

_MAX_NOTE: Final = 40  # characters of the note that says how much was cut


def short_text(text: str | bytes, limit: int = MAX_TEXT, form: Callable[[str | bytes], str] = printable_text) -> str:
    """Return a text of others, cut if it is too long: names and messages of peers may have any length.

    :param limit: maximum length of what is returned, in characters. If the text was cut, the last ones say by how much.
    :param form: makes the text that is shown.
    """
    shown = form(text[:limit])
    if len(text) <= limit and len(shown) <= limit:
        return shown
    kept = available = limit - _MAX_NOTE
    while len(shown := form(text[:kept])) > available:
        kept = kept * available // len(shown)
    return f"{shown}... ({len(text) - kept:,} more {'bytes' if isinstance(text, bytes) else 'characters'})"


def quoted(text: str | bytes, limit: int = 80) -> str:
    """Return a name or text of others in quotes, for a message: cut if it is too long, and without a ``b``."""
    return f"'{short_text(text, limit, printable_name)}'"


MAX_PAYLOAD: Final = 2**32 - 2**16
"""Maximum length of a payload in bytes: the largest size that fits into a header, less space for the names."""
