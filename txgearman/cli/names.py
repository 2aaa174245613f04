"""Names of functions, workers and jobs as text. On the wire they are bytes, of any encoding."""

from __future__ import annotations

from ..models import decode_text

__all__ = ["display_name"]


def display_name(name: str | bytes) -> str:
    """Return a name as it may be printed: decoded, with unprintable characters escaped.

    The text has no TAB, no end of line and no control character, so it is safe in a table and on a terminal.
    """
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in decode_text(name))
