"""Parses what a job server receives: binary packets and lines of text, mixed on one connection."""

from __future__ import annotations

from typing import Final, TypeAlias

from ..packets import CAN_DO, CANT_DO, HEADER_SIZE, PACKET_TYPES, REQ, RES, SET_CLIENT_ID, Decoder, Packet, PacketType

MAX_LINE: Final = 8192
"""Bytes of a line, with its end."""

MAX_ARGUMENT: Final = 8191
"""Bytes of each argument but the last."""

MAX_NAME: Final = 8192
"""Bytes of the only argument of a packet that has no more than a name."""

Request: TypeAlias = Packet | bytes
"""A packet, or a line of text with its end."""


class InvalidRequest(Exception):
    """A request for which gearmand closes the connection. Its text is the reason."""


class WrongMagic(Exception):
    """A packet with the magic of responses. The requests after it are valid."""


class RequestParser:
    """Parser of a stream of requests. It takes bytes in pieces of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._decoder = Decoder(REQ)
        self._broken: InvalidRequest | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._buffer += data

    @property
    def unfinished(self) -> int:
        """Bytes of a request that was not received completely."""
        return len(self._buffer)

    def take(self) -> Request | None:
        """Return the next request that was received completely; None if there is none.

        :raises WrongMagic: for this packet only: call it again.
        :raises InvalidRequest: for this request, and at each further call.
        """
        if self._broken is not None:
            raise self._broken
        if not self._buffer:
            return None
        try:
            return self._take_packet() if self._buffer[0] == 0 else self._take_line()
        except InvalidRequest as error:
            self._broken = error
            raise

    def _take_line(self) -> bytes | None:
        end = self._buffer.find(b"\n", 0, MAX_LINE) + 1
        if not end and len(self._buffer) >= MAX_LINE:
            raise InvalidRequest(f"a line has more than {MAX_LINE - 1:,} bytes")
        return self._cut(end) if end else None

    def _take_packet(self) -> Packet | None:
        if len(self._buffer) < HEADER_SIZE:
            return None
        magic = bytes(self._buffer[:4])
        number = int.from_bytes(self._buffer[4:8], "big")
        packet_type = PACKET_TYPES.get(number)
        if magic not in (REQ, RES):
            raise InvalidRequest(f"a packet begins with {str(magic)[1:]}, not with {str(REQ)[1:]}")
        if packet_type is None:
            raise InvalidRequest(f"there is no packet type {number}")
        end = HEADER_SIZE + int.from_bytes(self._buffer[8:HEADER_SIZE], "big")
        if len(self._buffer) < end:
            return None
        packet = self._cut(end)
        if magic == RES:
            raise WrongMagic
        packets = self._decoder.feed(packet)
        if not packets:
            raise InvalidRequest(f"{packet_type.name} must have {len(packet_type.arguments)} arguments")
        if _too_long(*packets[0]):
            raise InvalidRequest(f"an argument of {packet_type.name} is too long")
        return packets[0]

    def _cut(self, end: int) -> bytes:
        part = bytes(self._buffer[:end])
        del self._buffer[:end]
        return part


def _too_long(packet_type: PacketType, arguments: list[bytes]) -> bool:
    if packet_type in (CAN_DO, CANT_DO, SET_CLIENT_ID):
        return len(arguments[0]) > MAX_NAME
    return any(len(argument) > MAX_ARGUMENT for argument in arguments[:-1])
