"""The codec: every packet type, any bytes, any fragmentation, and what is not Gearman."""

from __future__ import annotations

import struct
import sys
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txgearman import packets
from txgearman.errors import ProtocolError
from txgearman.packets import (
    ECHO_REQ,
    ECHO_RES,
    ERROR,
    GRAB_JOB,
    HEADER_SIZE,
    JOB_ASSIGN,
    JOB_ASSIGN_ALL,
    JOB_ASSIGN_UNIQ,
    JOB_CREATED,
    JOBS_COMPLETED,
    JOBS_CREATED,
    MAX_PACKET_SIZE,
    NO_JOB,
    NOOP,
    PACKET_TYPES,
    REQ,
    RES,
    STATUS_RES,
    STATUS_RES_UNIQUE,
    SUBMIT_JOB,
    SUBMIT_REDUCE_JOB,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    Decoder,
    Packet,
    PacketType,
)
from txgearman.validation import quoted

from .garbage import COUNTS_REFERENCES

PROTOCOL = [
    # Number, name, and how many arguments; the reduce jobs as in docs/gearman.md §9.
    (1, "CAN_DO", 1),
    (2, "CANT_DO", 1),
    (3, "RESET_ABILITIES", 0),
    (4, "PRE_SLEEP", 0),
    (5, "UNUSED", 0),
    (6, "NOOP", 0),
    (7, "SUBMIT_JOB", 3),
    (8, "JOB_CREATED", 1),
    (9, "GRAB_JOB", 0),
    (10, "NO_JOB", 0),
    (11, "JOB_ASSIGN", 3),
    (12, "WORK_STATUS", 3),
    (13, "WORK_COMPLETE", 2),
    (14, "WORK_FAIL", 1),
    (15, "GET_STATUS", 1),
    (16, "ECHO_REQ", 1),
    (17, "ECHO_RES", 1),
    (18, "SUBMIT_JOB_BG", 3),
    (19, "ERROR", 2),
    (20, "STATUS_RES", 5),
    (21, "SUBMIT_JOB_HIGH", 3),
    (22, "SET_CLIENT_ID", 1),
    (23, "CAN_DO_TIMEOUT", 2),
    (24, "ALL_YOURS", 0),
    (25, "WORK_EXCEPTION", 2),
    (26, "OPTION_REQ", 1),
    (27, "OPTION_RES", 1),
    (28, "WORK_DATA", 2),
    (29, "WORK_WARNING", 2),
    (30, "GRAB_JOB_UNIQ", 0),
    (31, "JOB_ASSIGN_UNIQ", 4),
    (32, "SUBMIT_JOB_HIGH_BG", 3),
    (33, "SUBMIT_JOB_LOW", 3),
    (34, "SUBMIT_JOB_LOW_BG", 3),
    (35, "SUBMIT_JOB_SCHED", 8),
    (36, "SUBMIT_JOB_EPOCH", 4),
    (37, "SUBMIT_REDUCE_JOB", 5),
    (38, "SUBMIT_REDUCE_JOB_BACKGROUND", 5),
    (39, "GRAB_JOB_ALL", 0),
    (40, "JOB_ASSIGN_ALL", 5),
    (41, "GET_STATUS_UNIQUE", 1),
    (42, "STATUS_RES_UNIQUE", 6),
]

ALL_TYPES = list(PACKET_TYPES.values())
WITH_ARGUMENTS = [row for row in ALL_TYPES if row.arguments]
WITHOUT_ARGUMENTS = [row for row in ALL_TYPES if not row.arguments]
NEEDING_NULS = [row for row in ALL_TYPES if len(row.arguments) > 1]

EVERY_BYTE = bytes(range(256))

KIB = 1024
MIB = 1024 * KIB

SIZES = [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB]
"""Of a body: those around 64 KiB, where the way of splitting changes, among them."""


def raw(magic: bytes, number: int, body: bytes = b"", size: int | None = None) -> bytes:
    """A packet made by hand; its header may lie about the size."""
    return magic + struct.pack(">II", number, len(body) if size is None else size) + body


def fed(data: bytes, decoder: Decoder | None = None, step: int | None = None) -> tuple[list[Packet], Decoder]:
    """What comes of the stream, fed whole or in steps, and the decoder in the state that it is left in."""
    decoder = decoder or Decoder(REQ, RES)
    found: list[Packet] = []
    for start in range(0, len(data), step or max(len(data), 1)):
        found += decoder.feed(data[start : start + step] if step else data)
    return found, decoder


def whole_stream(data: bytes) -> list[Packet]:
    """The packets of a stream without a fault."""
    found, decoder = fed(data)
    assert decoder.error is None
    return found


def fault(data: bytes, max_packet_size: int = MAX_PACKET_SIZE, limited: bool = False) -> str:
    """Why the stream, which has no good packet, can't be read."""
    found, decoder = fed(data, Decoder(REQ, RES, max_packet_size=max_packet_size, limited=limited))
    assert found == []
    assert isinstance(decoder.error, ProtocolError)
    return str(decoder.error)


def filled(packet_type: PacketType, size: int) -> list[bytes]:
    """Arguments that make a body of `size` bytes, or of its least size: as long as each can be, of every byte."""
    count = len(packet_type.arguments)
    share, rest = divmod(max(size - (count - 1), 0), count)
    ordinary = bytes(range(1, 256))
    heads = [(ordinary * (share // 255 + 1))[:share] for _ in range(count - 1)]
    return [*heads, (EVERY_BYTE * ((share + rest) // 256 + 1))[: share + rest]]


@st.composite
def packets_to_send(draw: st.DrawFn) -> tuple[bytes, Packet]:
    """Any packet with any arguments, under either magic."""
    packet_type = draw(st.sampled_from(ALL_TYPES))
    arguments = [draw(st.binary().map(lambda data: data.replace(b"\0", b"\xff"))) for _ in packet_type.arguments[:-1]]
    if packet_type.arguments:
        arguments.append(draw(st.binary()))
    encode = draw(st.sampled_from([packet_type.request, packet_type.response]))
    return encode(*arguments), (packet_type, arguments)


STREAMS = st.lists(packets_to_send(), max_size=8)


# The table.


def test_the_table_is_that_of_the_protocol() -> None:
    assert [(row.number, row.name, len(row.arguments)) for row in ALL_TYPES] == PROTOCOL
    assert list(PACKET_TYPES) == list(range(1, 43))


def test_each_type_is_found_by_its_name_in_the_module() -> None:
    for row in ALL_TYPES:
        assert getattr(packets, row.name) is row
        assert repr(row) == row.name
        assert len(set(row.arguments)) == len(row.arguments)


# Encoding.

LITERAL = [
    # From docs/gearman.md: §9 twice, §7, §1, §5 (both), §3 and §4.
    (SUBMIT_REDUCE_JOB.request(b"f", b"u", b"red", b" 0", b"data"), b"\0REQ\0\0\0%\0\0\0\x0ff\0u\0red\0 0\0data"),
    (JOB_ASSIGN_ALL.response(b"H:vm:1", b"f", b"u", b"red", b"data"), b"\0RES\0\0\0(\0\0\0\x13H:vm:1\0f\0u\0red\0data"),
    (WORK_FAIL.response(b"H:vm:3"), b"\x00RES\x00\x00\x00\x0e\x00\x00\x00\x06H:vm:3"),
    (JOB_ASSIGN_UNIQ.response(b"H:vm:3", b"f", b"u3", b"plain"), b"\0RES\0\0\0\x1f\0\0\0\x11H:vm:3\0f\0u3\0plain"),
    (STATUS_RES.response(b"H:x:99", b"0", b"0", b"0", b"0"), b"\0RES\0\0\0\x14\0\0\0\x0eH:x:99\x000\x000\x000\x000"),
    (
        STATUS_RES_UNIQUE.response(b"uu", b"1", b"0", b"0", b"0", b"2"),
        b"\0RES\0\0\0*\0\0\0\x0cuu\x001\x000\x000\x000\x002",
    ),
    (ERROR.response(b"QUEUE_ERROR", b""), b"\0RES\0\0\0\x13\0\0\0\x0cQUEUE_ERROR\0"),
    (WORK_EXCEPTION.response(b"H:vm:5", b"bo\0om"), b"\0RES\0\0\0\x19\0\0\0\x0cH:vm:5\0bo\0om"),
    (SUBMIT_JOB.request(b"reverse", b"", b"abc"), b"\0REQ\0\0\0\x07\0\0\0\x0creverse\0\0abc"),
    (GRAB_JOB.request(), b"\0REQ\0\0\0\x09\0\0\0\0"),
]


@pytest.mark.parametrize(("encoded", "wire"), LITERAL, ids=[repr(wire) for _, wire in LITERAL])
def test_the_bytes_on_the_wire(encoded: bytes, wire: bytes) -> None:
    assert encoded == wire


MISCOUNTED = [(row, len(row.arguments) + 1) for row in ALL_TYPES] + [
    (row, len(row.arguments) - 1) for row in WITH_ARGUMENTS
]


@pytest.mark.guarantee(number=8)
def test_a_wrong_number_of_arguments_is_not_encoded() -> None:
    for row, count in MISCOUNTED:
        for encode in (row.request, row.response):
            with pytest.raises(ValueError, match=f"{row} takes {len(row.arguments)} arguments, not {count}"):
                encode(*[b"x"] * count)


@pytest.mark.guarantee(number=8)
def test_a_nul_before_the_last_argument_is_not_encoded() -> None:
    """It would shift every argument after it (M6)."""
    for row in NEEDING_NULS:
        for place, name in enumerate(row.arguments[:-1]):
            arguments = [b"x"] * len(row.arguments)
            arguments[place] = b"a\0b"
            with pytest.raises(ValueError, match=f"{name} of {row} must not have a NUL: .*a.x00b"):
                row.request(*arguments)


@pytest.mark.guarantee(number=8)
def test_a_packet_longer_than_its_header_can_tell_is_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packets._WIRE_LIMIT == 2**32 - 1
    monkeypatch.setattr(packets, "_WIRE_LIMIT", 10)
    assert WORK_DATA.request(b"H:1", b"123456")[HEADER_SIZE:] == b"H:1\x00123456"
    with pytest.raises(ValueError, match="WORK_DATA is 11 bytes; a header can express 10 at most"):
        WORK_DATA.request(b"H:1", b"1234567")


# Decoding: round trips.


@pytest.mark.guarantee(number=15)
@given(STREAMS)
def test_packets_come_out_as_they_went_in(stream: list[tuple[bytes, Packet]]) -> None:
    assert whole_stream(b"".join(wire for wire, _ in stream)) == [packet for _, packet in stream]


@pytest.mark.guarantee(number=15)
@given(STREAMS)
def test_packets_come_out_byte_by_byte(stream: list[tuple[bytes, Packet]]) -> None:
    """Each comes with its last byte, and not later."""
    decoder = Decoder(REQ, RES)
    for wire, packet in stream:
        assert fed(wire[:-1], decoder, step=1)[0] == []
        assert decoder.feed(wire[-1:]) == [packet]
    assert decoder.error is None


@pytest.mark.guarantee(number=15)
@given(STREAMS, st.data())
def test_packets_come_out_of_any_fragmentation(stream: list[tuple[bytes, Packet]], data: st.DataObject) -> None:
    """Empty pieces too."""
    wire = b"".join(wire for wire, _ in stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=20)))
    decoder = Decoder(REQ, RES)
    found: list[Packet] = []
    for start, stop in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        found += decoder.feed(wire[start:stop])
    assert found == [packet for _, packet in stream]
    assert decoder.error is None


@pytest.mark.guarantee(number=15)
@given(STREAMS, packets_to_send(), st.data())
def test_trailing_bytes_wait_for_the_rest(
    stream: list[tuple[bytes, Packet]], last: tuple[bytes, Packet], data: st.DataObject
) -> None:
    wire, packet = last
    cut = data.draw(st.integers(0, len(wire) - 1))
    decoder = Decoder(REQ, RES)
    assert decoder.feed(b"".join(wire for wire, _ in stream) + wire[:cut]) == [packet for _, packet in stream]
    assert decoder.feed(wire[cut:]) == [packet]
    assert decoder.error is None


@pytest.mark.guarantee(number=15)
def test_the_last_argument_takes_every_byte() -> None:
    """NULs at its ends and in its middle are its own."""
    last = b"\0" + EVERY_BYTE + b"\0" + EVERY_BYTE[::-1] + b"\0"
    for row in WITH_ARGUMENTS:
        arguments = [EVERY_BYTE[1:]] * (len(row.arguments) - 1) + [last]
        assert whole_stream(row.request(*arguments)) == [(row, arguments)]


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("size", SIZES)
def test_bodies_of_any_size_come_out_as_they_went_in(size: int) -> None:
    """Each between two small packets, so that neither of its ends is the end of the data."""
    small = NOOP.response()
    for row in WITH_ARGUMENTS:
        arguments = filled(row, size)
        wire = row.response(*arguments)
        assert len(wire) == HEADER_SIZE + max(size, len(row.arguments) - 1)
        stream, expected = small + wire + small, [(NOOP, []), (row, arguments), (NOOP, [])]
        assert whole_stream(stream) == expected
        assert fed(stream, step=4093)[0] == expected


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("size", SIZES)
def test_a_body_of_nuls_is_split_at_the_first_ones_only(size: int) -> None:
    """The rest is payload, in both ways of splitting."""
    wire = raw(RES, STATUS_RES.number, bytes(size + 4))
    assert whole_stream(wire) == [(STATUS_RES, [b"", b"", b"", b"", bytes(size)])]


def references(pieces: list[bytes]) -> list[int]:
    """How many references each piece has: one more than before if it is kept as it is, and not copied."""
    return [sys.getrefcount(piece) for piece in pieces]


@pytest.mark.guarantee(number=15)
@pytest.mark.skipif(not COUNTS_REFERENCES, reason="looks at reference counts")
def test_a_large_packet_is_kept_in_the_pieces_it_came_in() -> None:
    """They are joined once, when all have come. Joining them as they come would be quadratic."""
    data = bytes(32 * MIB)
    wire = WORK_COMPLETE.response(b"H:vm:1", data)
    *pieces, last = [wire[start : start + 64 * KIB] for start in range(0, len(wire), 64 * KIB)]
    decoder = Decoder(RES)
    before = references(pieces)
    found = [decoder.feed(piece) for piece in pieces]
    assert found == [[]] * len(pieces)
    assert references(pieces) == [count + 1 for count in before]
    assert decoder.feed(last) == [(WORK_COMPLETE, [b"H:vm:1", data])]
    assert references(pieces) == before


def test_packets_are_made_as_they_are_asked_for() -> None:
    """Whoever goes through the many of a large read keeps few of them."""
    results = [(WORK_COMPLETE, [b"H:vm:%d" % number, b"x" * 100]) for number in range(1000)]
    wire = b"".join(packet_type.response(*arguments) for packet_type, arguments in results)
    decoder = Decoder(RES)
    lists = list(decoder.packets(wire[:-1]))
    assert list(chain(*lists)) == results[:-1]
    assert max(map(len, lists)) < 50
    assert decoder.feed(wire[-1:]) == results[-1:]


def test_pieces_that_complete_no_packet_are_counted() -> None:
    """They are how a connection tells a large answer that comes from silence."""
    wire = JOB_CREATED.response(b"H:vm:1")
    decoder = Decoder(RES)
    counts = []
    for piece in (wire + wire[:3], wire[3:5], wire[5:-1], wire[-1:] + wire, wire[:1], wire[1:]):
        decoder.feed(piece)
        counts.append(decoder.unfinished)
    assert counts == [0, 1, 2, 2, 3, 3]


# Decoding: which magic.


@pytest.mark.parametrize(("taken", "refused"), [(REQ, RES), (RES, REQ)])
def test_only_the_given_magic_is_taken(taken: bytes, refused: bytes) -> None:
    for row in ALL_TYPES:
        arguments = [b"x"] * len(row.arguments)
        body = b"\0".join(arguments)
        assert fed(raw(taken, row.number, body), Decoder(taken))[0] == [(row, arguments)]
        found, decoder = fed(raw(refused, row.number, body), Decoder(taken))
        assert found == []
        assert isinstance(decoder.error, ProtocolError)


@pytest.mark.guarantee(number=5)
def test_a_client_reads_the_work_fail_that_geard_sends_with_the_wrong_magic() -> None:
    """M2, byte for byte."""
    wire = b"\x00REQ\x00\x00\x00\x0e\x00\x00\x00\rH:127.0.0.1:3"
    assert whole_stream(wire) == [(WORK_FAIL, [b"H:127.0.0.1:3"])]


# Decoding: faults.

NOT_HEADERS = {
    "magic": b"\0REX\0\0\0\x06\0\0\0\0",
    "magic in lower case": b"\0res\0\0\0\x06\0\0\0\0",
    "no NUL": b"RES\0\0\0\x06\0\0\0\0\0",
    "text": b"ERR UNKNOWN_COMMAND\r\n",
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "zeros": bytes(12),
    "type 0": raw(RES, 0),
    "type 43": raw(RES, 43),
    "type 2**31": raw(RES, 0x80000000),
    "type 2**31 and a good one": raw(RES, 0x80000006),
    "type 2**32 - 1": raw(RES, 0xFFFFFFFF),
}


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize("data", NOT_HEADERS.values(), ids=NOT_HEADERS.keys())
def test_what_is_not_a_header_is_told_with_its_bytes(data: bytes) -> None:
    assert fault(data) == f"not the header of a Gearman packet: {quoted(data[:12])}"


LYING_SIZES = [MAX_PACKET_SIZE + 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize("size", LYING_SIZES)
def test_a_size_over_the_limit_is_told_from_the_header_alone(size: int) -> None:
    header = raw(RES, WORK_COMPLETE.number, size=size)
    reported = f"WORK_COMPLETE of {size} bytes; max_packet_size is {MAX_PACKET_SIZE}"
    assert fault(header) == reported
    assert str(fed(header, step=1)[1].error) == reported


@pytest.mark.guarantee(number=14)
def test_the_limit_is_the_largest_body_that_is_taken() -> None:
    assert fed(ECHO_RES.response(b"12345"), Decoder(RES, max_packet_size=5))[0] == [(ECHO_RES, [b"12345"])]
    assert "ECHO_RES of 6 bytes; max_packet_size is 5" in fault(ECHO_RES.response(b"123456"), max_packet_size=5)
    found, decoder = fed(raw(RES, ECHO_RES.number, size=MAX_PACKET_SIZE))
    assert found == []
    assert decoder.error is None


# Limits of names and handles, for what servers send.


LONGEST = {"handle": 1024, "function": 8191, "unique": 8191, "reducer": 8191}


LIMITED = [
    (row, place)
    for row in (JOB_CREATED, JOB_ASSIGN, JOB_ASSIGN_UNIQ, JOB_ASSIGN_ALL, WORK_DATA, STATUS_RES, STATUS_RES_UNIQUE)
    for place, name in enumerate(row.arguments)
    if name in LONGEST
]
"""Types of packets from a server, and positions of the arguments that have a limit."""


def with_argument_of(row: PacketType, place: int, size: int) -> bytes:
    return row.response(*(b"x" * size if each == place else b"1" for each in range(row.count)))


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize(("row", "place"), LIMITED)
def test_longest_name_or_handle_is_taken_and_a_longer_one_ends_the_stream(row: PacketType, place: int) -> None:
    """A client keeps handles, and a worker looks functions up and logs them."""
    longest = LONGEST[row.arguments[place]]
    (packet,), decoder = fed(with_argument_of(row, place, longest), Decoder(RES, limited=True))
    assert (len(packet[1][place]), decoder.error) == (longest, None)
    reported = fault(with_argument_of(row, place, longest + 1), limited=True)
    assert f"{row}" in reported
    assert f"{longest + 1} bytes" in reported
    assert len(reported) < 200


@pytest.mark.guarantee(number=14)
def test_names_and_handles_to_a_server_have_no_limit() -> None:
    """What a server does with them is its own affair (docs/gearman.md §10)."""
    found, decoder = fed(SUBMIT_JOB.request(b"f" * MIB, b"u" * MIB, b""), Decoder(REQ))
    assert ([len(argument) for argument in found[0][1]], decoder.error) == ([MIB, MIB, 0], None)


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize("row", [JOB_CREATED, NO_JOB])
def test_a_packet_of_names_only_is_refused_by_its_header(row: PacketType) -> None:
    assert f"{row} of 2000 bytes" in fault(raw(RES, row.number, size=2000), limited=True)


def test_what_stands_behind_the_handle_of_a_failure_has_no_limit() -> None:
    """gearmand makes such ones of exceptions (M1)."""
    found, decoder = fed(WORK_FAIL.response(b"H:1\0" + b"x" * MIB), Decoder(RES, limited=True))
    assert (len(found), decoder.error) == (1, None)


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize("limited", [False, True])
def test_too_few_arguments_of_a_large_packet_are_told(limited: bool) -> None:
    assert "STATUS_RES takes 5 arguments, but came with 1" in fault(
        raw(RES, STATUS_RES.number, b"x" * 1024 + b"x" * (0 if limited else 70_000)), limited=limited
    )


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize("size", [10, 64 * KIB])
def test_too_few_arguments_are_told(size: int) -> None:
    for row in NEEDING_NULS:
        count = len(row.arguments)
        for came in range(1, count):
            body = b"\0" * (came - 1) + b"x" * size
            reported = f"{row} takes {count} arguments, but came with {came}: {quoted(body[:80])}"
            assert fault(raw(RES, row.number, body)) == reported


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize("body", [b"x", b"\0", b"y" * 64 * KIB], ids=["x", "NUL", "64 KiB"])
def test_arguments_for_a_packet_without_are_told(body: bytes) -> None:
    for row in WITHOUT_ARGUMENTS:
        reported = fault(raw(RES, row.number, body))
        assert reported.startswith(f"{row} takes 0 arguments, but came with ")
        assert reported.endswith(f": {quoted(body[:80])}")


@pytest.mark.guarantee(number=14)
def test_no_body_is_one_empty_argument() -> None:
    """As for an ECHO_REQ of nothing: it is no fault, and not no argument."""
    assert whole_stream(raw(REQ, ECHO_REQ.number)) == [(ECHO_REQ, [b""])]


FAULTS = {
    "magic": b"\0RE_\0\0\0\x06\0\0\0\0",
    "type": raw(RES, 43),
    "size": raw(RES, WORK_COMPLETE.number, size=0xFFFFFFFF),
    "too few arguments": raw(RES, WORK_COMPLETE.number, b"H:vm:1"),
    "too few arguments of a large packet": raw(RES, WORK_COMPLETE.number, b"x" * 64 * KIB),
    "arguments for none": raw(RES, NOOP.number, b"x"),
}


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize("step", [None, 1, 7])
@pytest.mark.parametrize("bad", FAULTS.values(), ids=FAULTS.keys())
def test_what_came_before_a_fault_is_returned_and_nothing_after_it(bad: bytes, step: int | None) -> None:
    good = JOB_CREATED.response(b"H:vm:1") + NOOP.response()
    found, decoder = fed(good + bad + good, step=step)
    error = decoder.error
    assert found == [(JOB_CREATED, [b"H:vm:1"]), (NOOP, [])]
    assert isinstance(error, ProtocolError)
    assert decoder.feed(good) == []
    assert decoder.feed(bad) == []
    assert decoder.error is error


HEADERS = st.builds(
    raw,
    st.sampled_from([REQ, RES]),
    st.integers(0, 44),
    st.binary(max_size=20),
    st.none() | st.integers(0, 30) | st.integers(0, 2**32 - 1),
)


@pytest.mark.guarantee(number=14)
@given(st.lists(st.binary(max_size=40) | HEADERS | packets_to_send().map(lambda pair: pair[0])))
def test_no_bytes_make_the_decoder_raise(pieces: list[bytes]) -> None:
    """And what it returns always has as many arguments as its type, so that nobody after it has to look."""
    decoder = Decoder(REQ, RES)
    for piece in pieces:
        for packet_type, arguments in decoder.feed(piece):
            assert len(arguments) == len(packet_type.arguments)
    assert decoder.error is None or type(decoder.error) is ProtocolError


@pytest.mark.guarantee(number=14)
@given(st.lists(HEADERS), st.data())
def test_a_fault_is_the_same_in_any_fragmentation(pieces: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(pieces)
    found, decoder = fed(stream)
    again, other = fed(stream, step=data.draw(st.integers(1, 50)))
    assert again == found
    assert type(other.error) is type(decoder.error)
    assert str(other.error) == str(decoder.error)


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize("bad", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_told_with_no_bytes_but_its_own(bad: bytes) -> None:
    """What comes behind the bad packet would mislead whoever reads the message."""
    assert fault(bad + b"behind it") == fault(bad)


def test_a_header_alone_is_that_of_the_whole_packet() -> None:
    """For those who put the body together themselves."""
    for workload in (b"x", b"x", b"x" * 300):  # those of small packets are kept
        body = b"f\0u\0" + workload
        assert SUBMIT_JOB.request_header(len(body)) + body == SUBMIT_JOB.request(b"f", b"u", workload)


# Several JOB_CREATED or WORK_COMPLETE in a row, for a client that has many jobs.


def joining_decoder(max_packet_size: int = 1000) -> Decoder:
    decoder = Decoder(RES, REQ, max_packet_size=max_packet_size, limited=True)
    decoder.joins_created = decoder.joins_completed = True
    return decoder


def parted(packets: list[Packet]) -> list[Packet]:
    """Return the packets that JOBS_CREATED and JOBS_COMPLETED stand for, and all others."""
    found: list[Packet] = []
    for packet_type, arguments in packets:
        if packet_type is JOBS_CREATED:
            found += [(JOB_CREATED, [handle]) for handle in arguments]
        elif packet_type is JOBS_COMPLETED:
            found += [(WORK_COMPLETE, arguments[place : place + 2]) for place in range(0, len(arguments), 2)]
        else:
            found.append((packet_type, arguments))
    return found


def joined(stream: bytes, step: int) -> list[Packet]:
    """Decode a stream in pieces of `step` bytes."""
    decoder = joining_decoder()
    return parted(
        [packet for start in range(0, len(stream), step) for packet in decoder.feed(stream[start : start + step])]
    )


def wire_of(packets: list[Packet]) -> bytes:
    return b"".join(packet_type.response(*arguments) for packet_type, arguments in packets)


HANDLES = [b"H:%d" % number for number in range(3000)]
CREATED: list[Packet] = [(JOB_CREATED, [handle]) for handle in HANDLES]
COMPLETED: list[Packet] = [(WORK_COMPLETE, [handle, b"result of " + handle]) for handle in HANDLES]
ODD_HANDLES = [
    b"",
    b"\0RES\0\0\0\x08\0\0\0",
    b"H\0RES\0\0\0\x08\0\0\0\x01",
    b"x" * 255,
    b"x" * 256,
    b"H:\0RES\0",
    b"\0RES\0\0\0\x08\0\0",
]
ODD_RESULTS = [
    b"",
    b"\0",
    b"\0RES\0\0\0\x0d\0\0\0",
    b"\0RES\0\0\0\x0d\0\0\0\x03H\0r",
    b"x" * 251,
    b"x" * 252,
    b"\0RES\0\0\0\x0d\0\0",
    b"\0RES\0\0\0\x08\0\0\0\x01",
]


OF_ONE_SIZE_OR_TWO = pytest.mark.parametrize("chosen", [slice(100, 200), slice(0, 20, 2)], ids=["one", "two"])


@OF_ONE_SIZE_OR_TWO
def test_several_created_in_a_row_are_handed_out_as_one(chosen: slice) -> None:
    created, handles = CREATED[chosen], HANDLES[chosen]
    decoder = Decoder(RES)
    decoder.joins_created = True
    stream = wire_of(created) + NOOP.response()
    assert decoder.feed(stream) == [(JOBS_CREATED, handles), (NOOP, [])]
    decoder.joins_created = False
    assert decoder.feed(stream) == [*created, (NOOP, [])]
    assert decoder.feed(wire_of(COMPLETED[:100])) == COMPLETED[:100]


@OF_ONE_SIZE_OR_TWO
def test_several_completed_in_a_row_are_handed_out_as_one(chosen: slice) -> None:
    completed = COMPLETED[chosen]
    decoder = Decoder(RES)
    decoder.joins_completed = True
    stream = wire_of(completed) + NOOP.response()
    handles_and_results = [argument for _, arguments in completed for argument in arguments]
    assert decoder.feed(stream) == [(JOBS_COMPLETED, handles_and_results), (NOOP, [])]
    decoder.joins_completed = False
    assert decoder.feed(stream) == [*completed, (NOOP, [])]
    assert decoder.feed(wire_of(CREATED[:100])) == CREATED[:100]


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("step", [1, 7, 12, 13, 100, 10**6])
def test_packets_in_a_row_are_those_that_came_one_by_one(step: int) -> None:
    packets = CREATED[:50] + COMPLETED[:50]
    for handle in ODD_HANDLES:
        odd: Packet = (JOB_CREATED, [handle])
        packets += [odd, *CREATED[:3], odd, odd, *COMPLETED[:2]]
    for result in ODD_RESULTS:
        odd = (WORK_COMPLETE, [b"H:x", result])
        packets += [odd, *COMPLETED[:3], odd, odd, *CREATED[:2]]
    packets.append((ECHO_RES, [b"end"]))
    assert joined(wire_of(packets), step) == packets


def test_thousands_in_a_row_are_all_handed_out() -> None:
    assert joined(wire_of(CREATED + COMPLETED), 10**6) == CREATED + COMPLETED


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize(
    ("packets", "whole", "error"),
    [
        (
            wire_of([*CREATED[:2], (JOB_CREATED, [b"H:3456789AB"]), *CREATED[:1]]),
            CREATED[:2],
            "JOB_CREATED of 11 bytes",
        ),
        (
            wire_of([(WORK_COMPLETE, [b"H:1", b"r"])] * 2 + COMPLETED[:1]),
            [(WORK_COMPLETE, [b"H:1", b"r"])] * 2,
            "WORK_COMPLETE of 17 bytes",
        ),
    ],
    ids=["created", "completed"],
)
def test_packet_in_a_row_that_is_too_large_ends_the_stream(packets: bytes, whole: list[Packet], error: str) -> None:
    decoder = joining_decoder(max_packet_size=10)
    assert parted(decoder.feed(packets)) == whole
    assert str(decoder.error) == f"{error}; max_packet_size is 10"


@pytest.mark.guarantee(number=14)
def test_completed_in_a_row_without_result_ends_the_stream() -> None:
    decoder = joining_decoder()
    lacking = WORK_FAIL.response(b"H:3").replace(b"\x0e", b"\x0d")
    assert parted(decoder.feed(wire_of(COMPLETED[:2]) + lacking + wire_of(COMPLETED[:1]))) == COMPLETED[:2]
    assert str(decoder.error) == "WORK_COMPLETE takes 2 arguments, but came with 1: 'H:3'"
