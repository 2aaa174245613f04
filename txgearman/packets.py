"""The binary codec: encodes and decodes Gearman's packets. Does no I/O.

A packet has a header of 12 bytes (magic, type, size of the body; big-endian) and a body: the arguments, separated by
NUL. Only the last argument may contain a NUL, since it extends to the end of the packet.

The table below has one row for each packet type, which drives encoding, decoding and the tests::

    >>> SUBMIT_JOB.request(b"reverse", b"", b"abc")
    b'\\x00REQ\\x00\\x00\\x00\\x07\\x00\\x00\\x00\\x0creverse\\x00\\x00abc'
    >>> Decoder(RES).feed(JOB_CREATED.response(b"H:host:1"))
    [(JOB_CREATED, [b'H:host:1'])]

The same codec serves clients, workers and servers. Numbers such as H6 or M2 refer to docs/what-servers-do.md, which
lists the measured behaviour of servers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain, compress, count, repeat
from operator import contains, itemgetter, ne
from typing import Final, TypeAlias

from .errors import ProtocolError
from .validation import quoted

# Public, as the test kit's calls take packet types. The rest of this module is internal to the library.
__all__ = [
    "PacketType",
    "CAN_DO",
    "CANT_DO",
    "RESET_ABILITIES",
    "PRE_SLEEP",
    "UNUSED",
    "NOOP",
    "SUBMIT_JOB",
    "JOB_CREATED",
    "GRAB_JOB",
    "NO_JOB",
    "JOB_ASSIGN",
    "WORK_STATUS",
    "WORK_COMPLETE",
    "WORK_FAIL",
    "GET_STATUS",
    "ECHO_REQ",
    "ECHO_RES",
    "SUBMIT_JOB_BG",
    "ERROR",
    "STATUS_RES",
    "SUBMIT_JOB_HIGH",
    "SET_CLIENT_ID",
    "CAN_DO_TIMEOUT",
    "ALL_YOURS",
    "WORK_EXCEPTION",
    "OPTION_REQ",
    "OPTION_RES",
    "WORK_DATA",
    "WORK_WARNING",
    "GRAB_JOB_UNIQ",
    "JOB_ASSIGN_UNIQ",
    "SUBMIT_JOB_HIGH_BG",
    "SUBMIT_JOB_LOW",
    "SUBMIT_JOB_LOW_BG",
    "SUBMIT_JOB_SCHED",
    "SUBMIT_JOB_EPOCH",
    "SUBMIT_REDUCE_JOB",
    "SUBMIT_REDUCE_JOB_BACKGROUND",
    "GRAB_JOB_ALL",
    "JOB_ASSIGN_ALL",
    "GET_STATUS_UNIQUE",
    "STATUS_RES_UNIQUE",
]

REQ: Final = b"\0REQ"
"""The magic of packets to the server."""

RES: Final = b"\0RES"
"""The magic of packets from the server."""

HEADER_SIZE: Final = 12

MAX_PACKET_SIZE: Final = 512 * 1024 * 1024
"""Default limit of the body of a packet in bytes: twice the largest payload that was measured to pass through job
servers and back (docs/gearman.md §10). A header that announces more is corrupt, or an attempt to exhaust memory."""

MAX_HANDLE_SIZE: Final = 1024
"""Maximum size of a job handle from a server in bytes. The longest that was measured has 69 (docs/gearman.md §10b)."""

MAX_NAME_SIZE: Final = 8191
"""Maximum size of the name of a function, or of a unique, from a server in bytes: the longest name that gearmand
accepts (docs/gearman.md §3)."""

_ARGUMENT_LIMITS: Final = {
    "handle": MAX_HANDLE_SIZE,
    "function": MAX_NAME_SIZE,
    "unique": MAX_NAME_SIZE,
    "reducer": MAX_NAME_SIZE,
}
"""Maximum sizes of the arguments that a client or a worker keeps, logs or looks up."""

_UNLIMITED: Final = {"WORK_FAIL"}  # its handle, which is only looked up, may have a NUL and more behind it (M1)

_NEVER_TOO_LONG: Final = min(_ARGUMENT_LIMITS.values())  # no argument of a smaller packet can exceed its limit

_WIRE_LIMIT: Final = 0xFFFFFFFF  # the size is a 32-bit number

_SPLIT_IN_PLACE: Final = 64 * 1024  # a larger body is not copied before it is split

# Bytes of small packets to decode at once: few switches between codec and protocol, and few objects alive at a time.
_BATCH: Final = 4096

_RUN: Final = 16 * 1024  # bytes of packets of one type to decode at once
_ALIKE: Final = 8  # if the packet this many places on has the same size as the first, all of the run probably have
# Headers of such packets with less than 256 bytes, but for the last byte.
_CREATED: Final = b"\0RES\0\0\0\x08\0\0\0"
_COMPLETED: Final = b"\0RES\0\0\0\x0d\0\0\0"

# Magic and type are read as one number, so that one look-up of it checks both.
_HEADER: Final = struct.Struct(">QI")


_KEPT_HEADERS: Final = 256  # sizes whose headers are kept


def _word(magic: bytes, number: int) -> int:
    return int.from_bytes(magic, "big") << 32 | number


class _RequestHeaders(dict[int, bytes]):
    """Headers of one type, by the size of the body. Those of small bodies are kept: to pack one takes twice as long."""

    def __init__(self, word: int) -> None:
        self._word = word

    def __missing__(self, size: int) -> bytes:
        header = _HEADER.pack(self._word, size)
        if size < _KEPT_HEADERS:
            self[size] = header
        return header


class PacketType:
    """A type of packets: one row of the table. There is one object for each type.

    :ivar number: the number of the type on the wire.
    :ivar name: the name in the protocol.
    :ivar arguments: the names of the arguments, in order.
    :ivar count: the number of arguments.
    :ivar cuts: the number of NULs between them.
    :ivar limits: the maximum sizes of arguments in packets from a server, each with the position of the argument.
    :ivar max_size: the maximum size of the body of a packet from a server, as far as the limits give one.
    :ivar request_header: encodes the header of a packet to the server from the size of its body, for callers that
        assemble the body themselves.
    """

    __slots__ = (
        "_request_word",
        "_response_word",
        "arguments",
        "count",
        "cuts",
        "limits",
        "max_size",
        "name",
        "number",
        "request_header",
    )

    def __init__(self, number: int, name: str, arguments: tuple[str, ...]) -> None:
        self.number = number
        self.name = name
        self.arguments = arguments
        self.count = len(arguments)
        self.cuts = max(0, self.count - 1)
        self.limits = {
            position: _ARGUMENT_LIMITS[argument]
            for position, argument in enumerate(arguments)
            if argument in _ARGUMENT_LIMITS and name not in _UNLIMITED
        }
        all_limited = len(self.limits) == self.count
        self.max_size = sum(self.limits.values()) + self.cuts if all_limited else _WIRE_LIMIT
        self._request_word = _word(REQ, number)
        self._response_word = _word(RES, number)
        self.request_header: Callable[[int], bytes] = _RequestHeaders(self._request_word).__getitem__

    def __repr__(self) -> str:
        return self.name

    def request(self, *arguments: bytes) -> bytes:
        """Encode a packet of this type to the server.

        :raises ValueError: the number of arguments is wrong, an argument other than the last has a NUL, or the body is
            larger than the header can express.
        """
        return self._encode(self._request_word, arguments)

    def response(self, *arguments: bytes) -> bytes:
        """Encode a packet of this type from the server. Raises as `request`."""
        return self._encode(self._response_word, arguments)

    def _encode(self, word: int, arguments: tuple[bytes, ...]) -> bytes:
        if len(arguments) != self.count:
            raise ValueError(f"{self.name} takes {self.count} arguments, not {len(arguments)}")
        if not arguments:
            return _HEADER.pack(word, 0)
        for argument in arguments[:-1]:
            if b"\0" in argument:
                name = self.arguments[arguments.index(argument)]
                raise ValueError(f"{name} of {self.name} must not have a NUL: {argument!r}")
        size = sum(map(len, arguments)) + len(arguments) - 1
        if size > _WIRE_LIMIT:
            raise ValueError(f"{self.name} is {size} bytes; a header can express {_WIRE_LIMIT} at most")
        # Joined at once, so that a large payload is copied once.
        return b"\0".join((_HEADER.pack(word, size) + arguments[0], *arguments[1:]))


# Of a piece of data between the headers of a run: the last byte of the header before it, and the body.
_size = itemgetter(slice(1))
_after_size = itemgetter(slice(1, None))

PACKET_TYPES: dict[int, PacketType] = {}
"""All packet types, by number."""


def _row(number: int, name: str, *arguments: str) -> PacketType:
    packet_type = PACKET_TYPES[number] = PacketType(number, name, arguments)
    return packet_type


_STATUS: Final = ("known", "running", "numerator", "denominator")
_SUBMIT: Final = ("function", "unique", "workload")
# Five arguments, though the published text lists four: with four, gearmand takes the next request for the rest of this
# one. It ignores the fourth; libgearman leaves it empty (docs/gearman.md §9).
_REDUCE: Final = ("function", "unique", "reducer", "ignored", "workload")

# fmt: off
CAN_DO                       = _row(1, "CAN_DO", "function")
CANT_DO                      = _row(2, "CANT_DO", "function")
RESET_ABILITIES              = _row(3, "RESET_ABILITIES")
PRE_SLEEP                    = _row(4, "PRE_SLEEP")
UNUSED                       = _row(5, "UNUSED")
NOOP                         = _row(6, "NOOP")
SUBMIT_JOB                   = _row(7, "SUBMIT_JOB", *_SUBMIT)
JOB_CREATED                  = _row(8, "JOB_CREATED", "handle")
GRAB_JOB                     = _row(9, "GRAB_JOB")
NO_JOB                       = _row(10, "NO_JOB")
JOB_ASSIGN                   = _row(11, "JOB_ASSIGN", "handle", "function", "workload")
WORK_STATUS                  = _row(12, "WORK_STATUS", "handle", "numerator", "denominator")
WORK_COMPLETE                = _row(13, "WORK_COMPLETE", "handle", "data")
WORK_FAIL                    = _row(14, "WORK_FAIL", "handle")
GET_STATUS                   = _row(15, "GET_STATUS", "handle")
ECHO_REQ                     = _row(16, "ECHO_REQ", "data")
ECHO_RES                     = _row(17, "ECHO_RES", "data")
SUBMIT_JOB_BG                = _row(18, "SUBMIT_JOB_BG", *_SUBMIT)
ERROR                        = _row(19, "ERROR", "code", "text")
STATUS_RES                   = _row(20, "STATUS_RES", "handle", *_STATUS)
SUBMIT_JOB_HIGH              = _row(21, "SUBMIT_JOB_HIGH", *_SUBMIT)
SET_CLIENT_ID                = _row(22, "SET_CLIENT_ID", "client_id")
CAN_DO_TIMEOUT               = _row(23, "CAN_DO_TIMEOUT", "function", "milliseconds")
ALL_YOURS                    = _row(24, "ALL_YOURS")
WORK_EXCEPTION               = _row(25, "WORK_EXCEPTION", "handle", "data")
OPTION_REQ                   = _row(26, "OPTION_REQ", "option")
OPTION_RES                   = _row(27, "OPTION_RES", "option")
WORK_DATA                    = _row(28, "WORK_DATA", "handle", "data")
WORK_WARNING                 = _row(29, "WORK_WARNING", "handle", "data")
GRAB_JOB_UNIQ                = _row(30, "GRAB_JOB_UNIQ")
JOB_ASSIGN_UNIQ              = _row(31, "JOB_ASSIGN_UNIQ", "handle", "function", "unique", "workload")
SUBMIT_JOB_HIGH_BG           = _row(32, "SUBMIT_JOB_HIGH_BG", *_SUBMIT)
SUBMIT_JOB_LOW               = _row(33, "SUBMIT_JOB_LOW", *_SUBMIT)
SUBMIT_JOB_LOW_BG            = _row(34, "SUBMIT_JOB_LOW_BG", *_SUBMIT)
SUBMIT_JOB_SCHED             = _row(35, "SUBMIT_JOB_SCHED", "function", "unique", "minute", "hour", "day_of_month",
                                    "month", "day_of_week", "workload")
SUBMIT_JOB_EPOCH             = _row(36, "SUBMIT_JOB_EPOCH", "function", "unique", "epoch", "workload")
SUBMIT_REDUCE_JOB            = _row(37, "SUBMIT_REDUCE_JOB", *_REDUCE)
SUBMIT_REDUCE_JOB_BACKGROUND = _row(38, "SUBMIT_REDUCE_JOB_BACKGROUND", *_REDUCE)
GRAB_JOB_ALL                 = _row(39, "GRAB_JOB_ALL")
JOB_ASSIGN_ALL               = _row(40, "JOB_ASSIGN_ALL", "handle", "function", "unique", "reducer", "workload")
GET_STATUS_UNIQUE            = _row(41, "GET_STATUS_UNIQUE", "unique")
STATUS_RES_UNIQUE            = _row(42, "STATUS_RES_UNIQUE", "unique", *_STATUS, "waiting_clients")
# fmt: on

JOBS_CREATED: Final = PacketType(JOB_CREATED.number, "JOB_CREATED", ("handle",))
"""Several JOB_CREATED in a row, whose arguments are all their handles: see `Decoder`. Not a row of the table."""

JOBS_COMPLETED: Final = PacketType(WORK_COMPLETE.number, "WORK_COMPLETE", ("handles and results",))
"""Several WORK_COMPLETE in a row, whose arguments are the handle and the result of each, one after the other."""

Packet: TypeAlias = tuple[PacketType, list[bytes]]
"""A packet's type and its arguments, as many as the type has."""


class Decoder:
    """Bytes in, in pieces of any size; packets out.

    :ivar error: None, or why the stream can't be read on. Packets that came whole before the fault have been handed
        out; what comes after it is dropped.
    :ivar unfinished: how many times bytes came that completed no packet.
    :ivar joins_created: whether several JOB_CREATED in a row are handed out as one JOBS_CREATED. May change any time.
    :ivar joins_completed: the same of WORK_COMPLETE and JOBS_COMPLETED.
    :param magics: those that may begin a packet: `RES` for what a server sends, `REQ` for what is sent to one.
        Clients accept both, since geard sends a WORK_FAIL with the wrong one (M2).
    :param max_packet_size: the largest body accepted, in bytes; checked as soon as the header has come.
    :param limited: whether handles, functions and uniques have maximum sizes. Set for what a server sends: a client
        keeps handles, and a worker looks functions up and logs them.
    """

    __slots__ = (
        "_by_word",
        "_held",
        "_limited",
        "_max_size",
        "_pieces",
        "_plain_size",
        "_short_sizes",
        "_wanted",
        "error",
        "joins_completed",
        "joins_created",
        "unfinished",
    )

    def __init__(self, *magics: bytes, max_packet_size: int = MAX_PACKET_SIZE, limited: bool = False) -> None:
        self._by_word = _rows_by_word(magics)
        self._max_size = max_packet_size
        self._limited = limited
        # Larger bodies take a slower path, with more checks.
        self._plain_size = min(max_packet_size, _NEVER_TOO_LONG if limited else _SPLIT_IN_PLACE)
        self._short_sizes = _short_sizes(max_packet_size)
        self._pieces: list[bytes] = []  # of a packet that has not come whole
        self._held = 0  # bytes in them
        self._wanted = 0  # bytes needed before looking again is of use
        self.error: ProtocolError | None = None
        self.unfinished = 0
        self.joins_created = False
        self.joins_completed = False

    def feed(self, data: bytes) -> list[Packet]:
        """Take the next bytes of the stream; return the packets that they complete, in order."""
        return list(chain.from_iterable(self.packets(data)))

    def packets(self, data: bytes) -> Iterator[list[Packet]]:
        """As `feed`, some packets at a time, which are made only when they are asked for. Iterate over all of them."""
        if self.error is not None:
            return
        if self._pieces:
            self._pieces.append(data)
            self._held += len(data)
            if self._held < self._wanted:
                self.unfinished += 1
                return
            data = b"".join(self._pieces)
            self._pieces.clear()
        self._wanted = 0
        offset, end = 0, len(data)
        while offset + HEADER_SIZE <= end and not (self._wanted or self.error):
            if self.joins_created and data.startswith(_CREATED, offset):
                arguments, offset = self._next_run(data, offset, _CREATED)
                joined = JOBS_CREATED
            elif self.joins_completed and data.startswith(_COMPLETED, offset):
                arguments, offset = self._next_run(data, offset, _COMPLETED, separated=True)
                joined = JOBS_COMPLETED
            else:
                arguments = []
            if arguments:
                yield [(joined, arguments)]
            else:
                packets, offset = self._next_packets(data, offset)
                yield packets
        if offset < end and not self.error:
            self._keep(data, offset)

    def _next_run(self, data: bytes, offset: int, header: bytes, separated: bool = False) -> tuple[list[bytes], int]:
        """Decode packets that begin alike, and follow one another from `offset` on, unless there is only one.

        Each is checked by the size in its own header, so that nothing that a body may contain is misread.

        :param separated: whether each body must have a NUL.
        :return: their arguments, and where the next packet begins.
        """
        size = data[offset + HEADER_SIZE - 1]
        if size not in self._short_sizes or not data.startswith(header, offset + HEADER_SIZE + size):
            return [], offset
        run, whole_header = data[offset : offset + _RUN], data[offset : offset + HEADER_SIZE]
        if run.startswith(whole_header, _ALIKE * (HEADER_SIZE + size)):  # probably all have this size
            bodies = _bodies_of_size(run.split(whole_header)[1:], size)
            total = size * len(bodies)
        else:
            bodies = self._short_bodies(run.split(header)[1:])
            total = sum(map(len, bodies))
        stop = offset + HEADER_SIZE * len(bodies) + total
        if not separated:
            return bodies, stop
        if not all(map(contains, bodies, repeat(0))):  # not b"\0": CPython takes 20 times as long for it
            return [], offset
        arguments = b"\0".join(bodies).split(b"\0")
        if len(arguments) > 2 * len(bodies):  # some have more than one
            arguments = list(chain.from_iterable(body.split(b"\0", 1) for body in bodies))
        return arguments, stop

    def _short_bodies(self, pieces: list[bytes]) -> list[bytes]:
        """Return the bodies of packets of a run.

        :param pieces: each is the last byte of a header, and the body. The last ones may be of other packets.
        """
        bodies = list(map(_after_size, pieces))
        differs = map(ne, map(self._short_sizes.get, map(len, bodies)), map(_size, pieces))
        end = next(compress(count(), differs), len(bodies))
        last = pieces[end : end + 1]
        del bodies[end:]
        if last and last[0] and last[0][0] in self._short_sizes and len(last[0]) > 1 + last[0][0]:
            bodies.append(last[0][1 : 1 + last[0][0]])  # other packets follow it
        return bodies

    def _next_packets(self, data: bytes, offset: int) -> tuple[list[Packet], int]:
        """Decode those that begin soon at or after `offset`; return them, and where the next one begins."""
        packets: list[Packet] = []
        by_word, plain_size, unpack = self._by_word, self._plain_size, _HEADER.unpack_from
        end = len(data)
        last = min(end - HEADER_SIZE, offset + _BATCH)  # where the header of one may still begin
        while offset <= last:
            word, size = unpack(data, offset)
            start = offset + HEADER_SIZE
            stop = start + size
            try:
                packet_type = by_word[word]
            except KeyError:
                self.error = ProtocolError(f"not the header of a Gearman packet: {quoted(data[offset:start])}")
                break
            if size <= plain_size and stop <= end:
                arguments = data[start:stop].split(b"\0", packet_type.cuts)
            else:
                split = self._split_large(packet_type, data, start, stop)
                if split is None:
                    break
                arguments = split
            if len(arguments) != packet_type.count:
                if size or packet_type.count:
                    self.error = _wrong_count(packet_type, arguments)
                    break
                arguments = []
            offset = stop
            packets.append((packet_type, arguments))
        return packets, offset

    def _split_large(self, packet_type: PacketType, data: bytes, start: int, stop: int) -> list[bytes] | None:
        """Check and split the body of a packet that is large or incomplete; None if it is too large or incomplete."""
        size = stop - start
        if size > self._max_size:
            self.error = ProtocolError(f"{packet_type} of {size} bytes; max_packet_size is {self._max_size}")
        elif self._limited and size > packet_type.max_size:
            self.error = ProtocolError(f"{packet_type} of {size} bytes; {packet_type.max_size} are the most")
        elif stop > len(data):
            self._wanted = HEADER_SIZE + size
        else:
            arguments = _split_in_place(data, start, stop, packet_type.cuts)
            if self._limited:
                self.error = _too_long(packet_type, arguments)
            if self.error is None:
                return arguments
        return None

    def _keep(self, data: bytes, offset: int) -> None:
        """Wait for the rest of a packet."""
        self._pieces.append(data[offset:] if offset else data)
        self._held = len(data) - offset
        if not offset:
            self.unfinished += 1


@cache
def _short_sizes(max_size: int) -> dict[int, bytes]:
    """Return the last byte of a header whose other bytes of the size are 0, by the size."""
    return {size: bytes([size]) for size in range(1, min(255, max_size) + 1)}


@cache
def _rows_by_word(magics: tuple[bytes, ...]) -> dict[int, PacketType]:
    """Return the table's rows by magic and type. Once for all connections, of which each has a decoder."""
    return {_word(magic, row.number): row for magic in magics for row in PACKET_TYPES.values()}


def _bodies_of_size(bodies: list[bytes], size: int) -> list[bytes]:
    """Return the bodies of packets of a run which have this size.

    :param bodies: what follows each header. That of the last packet may be incomplete, or have other packets behind it.
    """
    sizes = list(map(len, bodies))
    if sizes.count(size) < len(sizes):
        end = next(place for place, other in enumerate(sizes) if other != size)
        last = bodies[end]
        del bodies[end:]
        if len(last) > size:
            bodies.append(last[:size])
    return bodies


def _wrong_count(packet_type: PacketType, arguments: list[bytes]) -> ProtocolError:
    body = quoted(b"\0".join(arguments)[:80])
    return ProtocolError(f"{packet_type} takes {packet_type.count} arguments, but came with {len(arguments)}: {body}")


def _too_long(packet_type: PacketType, arguments: list[bytes]) -> ProtocolError | None:
    """Return the error of a packet in which an argument exceeds its limit, else None."""
    for position, limit in packet_type.limits.items():
        if position < len(arguments) and len(arguments[position]) > limit:
            what = f"{packet_type.arguments[position]} of {len(arguments[position])} bytes"
            return ProtocolError(f"{packet_type} with a {what}; {limit} are the most: {quoted(arguments[position])}")
    return None


def _split_in_place(data: bytes, start: int, stop: int, cuts: int) -> list[bytes]:
    """Return ``data[start:stop].split(b"\\0", cuts)``."""
    arguments: list[bytes] = []
    while len(arguments) < cuts and (cut := data.find(0, start, stop)) >= 0:
        arguments.append(data[start:cut])
        start = cut + 1
    arguments.append(data[start:stop])
    return arguments
