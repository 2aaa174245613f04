"""Parses what a job server receives: binary packets and lines of text, mixed on one connection."""

from __future__ import annotations

import struct
from typing import Final, TypeAlias

from ..packets import CAN_DO, CANT_DO, HEADER_SIZE, PACKET_TYPES, REQ, RES, SET_CLIENT_ID, Packet, PacketType

MAX_LINE: Final = 8192
"""Bytes of a line, with its end."""

MAX_ARGUMENT: Final = 8191
"""Bytes of each argument but the last."""

MAX_NAME: Final = 8192
"""Bytes of the only argument of a packet that has no more than a name."""

_HEADER: Final = struct.Struct(">8sI")  # magic and type together, so that one look-up checks both
_REQUESTS: Final = {REQ + number.to_bytes(4, "big"): packet_type for number, packet_type in PACKET_TYPES.items()}
_RESPONSES: Final = {RES + number.to_bytes(4, "big") for number in PACKET_TYPES}

Request: TypeAlias = Packet | bytes
"""A packet, or a line of text with its end."""


class InvalidRequest(Exception):
    """A request for which gearmand closes the connection. Its text is the reason."""


class WrongMagic(Exception):
    """A packet with the magic of responses. The requests after it are valid."""


class RequestParser:
    """Parser of a stream of requests. It takes bytes in pieces of any size."""

    def __init__(self) -> None:
        self._data = b""
        self._start = 0  # of the next request in it
        self._pieces: list[bytes] = []  # what has come since
        self._size = 0  # bytes that were not returned
        self._wanted = 1  # bytes needed before looking again is of use
        self._broken: InvalidRequest | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        if self._size:
            self._pieces.append(data)
        else:
            self._data, self._start = data, 0
        self._size += len(data)

    @property
    def unfinished(self) -> int:
        """Bytes of a request that was not received completely."""
        return self._size

    def take(self) -> Request | None:
        """Return the next request that was received completely; None if there is none.

        :raises WrongMagic: for this packet only: call it again.
        :raises InvalidRequest: for this request, and at each further call.
        """
        if self._broken is not None:
            raise self._broken
        if self._size < self._wanted:
            return None
        if self._pieces:
            self._data = b"".join((self._data[self._start :], *self._pieces))
            self._start = 0
            self._pieces.clear()
        try:
            return self._take_line() if self._data[self._start] else self._take_packet()
        except InvalidRequest as error:
            self._broken = error
            raise

    def _take_line(self) -> bytes | None:
        end = self._data.find(b"\n", self._start, self._start + MAX_LINE) + 1
        if end:
            return self._cut(end - self._start)
        if self._size >= MAX_LINE:
            raise InvalidRequest(f"a line has more than {MAX_LINE - 1:,} bytes")
        self._wanted = self._size + 1
        return None

    def _take_packet(self) -> Packet | None:
        if self._size < HEADER_SIZE:
            self._wanted = HEADER_SIZE
            return None
        word, size = _HEADER.unpack_from(self._data, self._start)
        packet_type = _REQUESTS.get(word)
        if packet_type is None and word not in _RESPONSES:
            raise InvalidRequest(_problem(word))
        if self._size < HEADER_SIZE + size:
            self._wanted = HEADER_SIZE + size
            return None
        body = self._cut(HEADER_SIZE + size, HEADER_SIZE)
        if packet_type is None:
            raise WrongMagic
        arguments = body.split(b"\0", packet_type.cuts) if size or packet_type.count else []
        if len(arguments) != packet_type.count:
            raise InvalidRequest(f"{packet_type.name} must have {packet_type.count} arguments")
        if size > MAX_ARGUMENT and _too_long(packet_type, arguments):
            raise InvalidRequest(f"an argument of {packet_type.name} is too long")
        return packet_type, arguments

    def _cut(self, size: int, skipped: int = 0) -> bytes:
        """Go on behind the next so many bytes, and return them, except for the first ones that are skipped."""
        start, self._start = self._start, self._start + size
        self._size -= size
        self._wanted = 1
        return self._data[start + skipped : self._start]


def _problem(word: bytes) -> str:
    """Return what is wrong with the magic or the type of a packet."""
    magic, number = word[:4], int.from_bytes(word[4:], "big")
    if magic not in (REQ, RES):
        return f"a packet begins with {str(magic)[1:]}, not with {str(REQ)[1:]}"
    return f"there is no packet type {number}"


def _too_long(packet_type: PacketType, arguments: list[bytes]) -> bool:
    if packet_type in (CAN_DO, CANT_DO, SET_CLIENT_ID):
        return len(arguments[0]) > MAX_NAME
    return any(len(argument) > MAX_ARGUMENT for argument in arguments[:-1])
