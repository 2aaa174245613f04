"""The last packets that a `MemoryJobServer` has received and sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from ..packets import ERROR, HEADER_SIZE, PACKET_TYPES, PacketType

MAX_ENTRIES: Final = 1000
"""Packets that are kept."""

_MAX_KEPT: Final = 256
"""Bytes that are kept of an argument, or of what was sent."""

_MAX_SHOWN: Final = 60
"""Characters that are shown of an argument."""


RECEIVED: Final = "->"
SENT: Final = "<-"
HAPPENED: Final = "--"
REFUSED: Final = "!!"
"""What the server has refused without an answer."""

Entry: TypeAlias = "str | bytes | PacketType"
"""A text of the server's own, bytes of the wire, or the type of a packet whose arguments are known."""


class PacketLog:
    """The last packets of all connections of one server, and when connections were made and lost.

    :ivar listener: called with each entry: the number of the connection, the direction, the entry, and its text. None
        for nobody.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._entries: deque[tuple[float, int, str, Entry, Sequence[bytes]]] = deque(maxlen=MAX_ENTRIES)
        self.listener: Callable[[int, str, Entry, str], None] | None = None

    def received(self, connection: int, packet_type: PacketType, arguments: list[bytes]) -> None:
        """Record a packet from a connection."""
        if arguments and max(map(len, arguments)) > _MAX_KEPT:
            arguments = [each[:_MAX_KEPT] for each in arguments]
        self._add(connection, RECEIVED, packet_type, arguments)

    def line_received(self, connection: int, line: bytes) -> None:
        """Record a line of the text protocol from a connection."""
        self._add(connection, RECEIVED, line[:_MAX_KEPT], ())

    def sent(self, connection: int, data: bytes) -> None:
        """Record a packet or a text to a connection."""
        kept = data if len(data) <= _MAX_KEPT else data[:_MAX_KEPT]
        self._add(connection, SENT, kept, ())

    def note(self, connection: int, text: str) -> None:
        """Record what happened to a connection."""
        self._add(connection, HAPPENED, text, ())

    def refused(self, connection: int, text: str) -> None:
        """Record what was refused without an answer, and why."""
        self._add(connection, REFUSED, text, ())

    def _add(self, connection: int, direction: str, entry: Entry, arguments: Sequence[bytes]) -> None:
        self._entries.append((self._seconds(), connection, direction, entry, arguments))
        if self.listener is not None:
            self.listener(connection, direction, entry, _content(entry, arguments))

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


def is_refusal(entry: Entry) -> bool:
    """Return whether what was sent refuses a request: an ERROR, or ERR in the text protocol."""
    return isinstance(entry, bytes) and (
        entry.startswith(b"ERR ") or (entry.startswith(b"\0") and entry[4:8] == ERROR.number.to_bytes(4, "big"))
    )


def _content(entry: Entry, arguments: Sequence[bytes]) -> str:
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
