"""The last packets that a `MemoryJobServer` has received and sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from ..packets import HEADER_SIZE, PACKET_TYPES, PacketType

MAX_ENTRIES: Final = 1000
"""Packets that are kept."""

_MAX_KEPT: Final = 256
"""Bytes that are kept of an argument, or of what was sent."""

_MAX_SHOWN: Final = 60
"""Characters that are shown of an argument."""


class PacketLog:
    """The last packets of all connections of one server, and when connections were made and lost."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._entries: deque[tuple[float, int, str, str | bytes | PacketType, list[bytes]]] = deque(maxlen=MAX_ENTRIES)

    def received(self, connection: int, packet_type: PacketType, arguments: list[bytes]) -> None:
        """Record a packet from a connection."""
        kept = [each if len(each) <= _MAX_KEPT else each[:_MAX_KEPT] for each in arguments]
        self._entries.append((self._seconds(), connection, "->", packet_type, kept))

    def line_received(self, connection: int, line: bytes) -> None:
        """Record a line of the text protocol from a connection."""
        self._entries.append((self._seconds(), connection, "->", line[:_MAX_KEPT], []))

    def sent(self, connection: int, data: bytes) -> None:
        """Record a packet or a text to a connection."""
        kept = data if len(data) <= _MAX_KEPT else data[:_MAX_KEPT]
        self._entries.append((self._seconds(), connection, "<-", kept, []))

    def note(self, connection: int, text: str) -> None:
        """Record what happened to a connection."""
        self._entries.append((self._seconds(), connection, "--", text, []))

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def lines(self, count: int = MAX_ENTRIES) -> list[str]:
        """Return a line for each of the newest entries, the oldest first."""
        newest = list(self._entries)[-count:] if count else []
        return [
            f"{seconds:10.3f}  {connection:3} {direction} {_content(entry, arguments)}"
            for seconds, connection, direction, entry, arguments in newest
        ]


def _content(entry: str | bytes | PacketType, arguments: list[bytes]) -> str:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, PacketType):
        return " ".join([entry.name, *map(_shown, arguments)])
    if not entry.startswith(b"\0") or len(entry) < HEADER_SIZE:
        return _shown(entry)
    packet_type = PACKET_TYPES[int.from_bytes(entry[4:8], "big")]
    body = entry[HEADER_SIZE:]
    parts = body.split(b"\0", len(packet_type.arguments) - 1) if packet_type.arguments else []
    return " ".join([packet_type.name, *map(_shown, parts)])


def _shown(data: bytes) -> str:
    text = repr(data)[1:]
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
