"""Names of functions, workers and jobs as text. On the wire they are bytes, of any encoding."""

from __future__ import annotations

__all__ = ["decode_name", "display_name"]


def decode_name(name: bytes) -> str:
    """Decode a name as UTF-8, and escape what is not UTF-8, as Python does."""
    return name.decode("utf-8", "backslashreplace")


def display_name(name: str | bytes) -> str:
    """Return a name as it may be printed: decoded, with unprintable characters escaped.

    The text has no TAB, no end of line and no control character, so it is safe in a table and on a terminal.
    """
    text = name if isinstance(name, str) else decode_name(name)
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
