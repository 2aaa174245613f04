"""Requests out of what a job server receives: binary packets and lines of text, mixed on one connection."""

from __future__ import annotations

from typing import Final, TypeAlias

from ..packets import HEADER_SIZE, REQ, RES, Decoder, Packet

MAX_LINE: Final = 8192
"""With its end."""

MAX_ARGUMENT: Final = 8191
"""Of every argument but the last."""

Request: TypeAlias = Packet | bytes
"""A packet, or a line with its end."""


class NotGearman(Exception):
    """What gearmand closes a connection for."""


class WrongMagic(Exception):
    """A packet with the magic of responses. Those after it are good."""


class Splitter:
    """Takes bytes in pieces of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._decoder = Decoder(REQ)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._buffer += data

    def take(self) -> Request | None:
        """The next request that has come whole.

        :raises WrongMagic: for one packet; ask again.
        :raises NotGearman: for good.
        """
        if not self._buffer:
            return None
        return self._take_packet() if self._buffer[0] == 0 else self._take_line()

    def _take_line(self) -> bytes | None:
        end = self._buffer.find(b"\n", 0, MAX_LINE) + 1
        if not end and len(self._buffer) >= MAX_LINE:
            raise NotGearman
        return self._cut(end) if end else None

    def _take_packet(self) -> Packet | None:
        if len(self._buffer) < HEADER_SIZE:
            return None
        magic = bytes(self._buffer[:4])
        if magic not in (REQ, RES):
            raise NotGearman
        end = HEADER_SIZE + int.from_bytes(self._buffer[8:HEADER_SIZE], "big")
        if len(self._buffer) < end:
            return None
        packet = self._cut(end)
        if magic == RES:
            raise WrongMagic
        packets = self._decoder.feed(packet)
        if not packets or any(len(argument) > MAX_ARGUMENT for argument in packets[0][1][:-1]):
            raise NotGearman
        return packets[0]

    def _cut(self, end: int) -> bytes:
        part = bytes(self._buffer[:end])
        del self._buffer[:end]
        return part
