"""Requests are parsed alike, however their bytes are cut into pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txgearman.packets import CAN_DO, ECHO_REQ, PACKET_TYPES, REQ, RES, SUBMIT_JOB, PacketType
from txgearman.testing.request_parser import (
    MAX_ARGUMENT,
    MAX_LINE,
    MAX_NAME,
    InvalidRequest,
    Request,
    RequestParser,
    WrongMagic,
)

Outcome = Request | type[Exception]


def drain(parser: RequestParser) -> list[Outcome]:
    """Return all requests, and the exceptions that are raised in between."""
    taken: list[Outcome] = []
    while True:
        try:
            request = parser.take()
        except WrongMagic:
            taken.append(WrongMagic)
            continue
        except InvalidRequest:
            return [*taken, InvalidRequest]
        if request is None:
            return taken
        taken.append(request)


def parse(*pieces: bytes) -> list[Outcome]:
    """Parse these pieces, up to the first invalid request."""
    parser = RequestParser()
    taken: list[Outcome] = []
    for piece in pieces:
        parser.feed(piece)
        taken += drain(parser)
        if InvalidRequest in taken:
            break
    return taken


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@st.composite
def packets(draw: st.DrawFn, magic: bytes) -> tuple[bytes, Outcome]:
    """A packet's bytes, and the expected outcome."""
    packet_type: PacketType = draw(st.sampled_from(list(PACKET_TYPES.values())))
    count = len(packet_type.arguments)
    arguments = [draw(st.binary(max_size=20)).replace(b"\0", b"\n" if n < count - 1 else b"\0") for n in range(count)]
    if magic == RES:
        return packet_type.response(*arguments), WrongMagic
    return packet_type.request(*arguments), (packet_type, arguments)


@st.composite
def lines(draw: st.DrawFn) -> tuple[bytes, Outcome]:
    """A line starts with anything but a NUL, and has one line end."""
    line = draw(st.binary(max_size=30)).replace(b"\n", b"").lstrip(b"\0") + draw(st.sampled_from([b"\n", b"\r\n"]))
    return line, line


streams = st.lists(st.one_of(packets(REQ), packets(RES), lines()), max_size=12)


@pytest.mark.guarantee(number=15)
@given(streams, st.lists(st.integers(0, 1000), max_size=30))
def test_any_requests_are_parsed_in_any_fragmentation(stream: list[tuple[bytes, Outcome]], places: list[int]) -> None:
    """Packets, packets with the wrong magic, and lines."""
    data = b"".join(piece for piece, _ in stream)
    assert parse(*cut(data, places)) == [outcome for _, outcome in stream]


@pytest.mark.guarantee(number=15)
@given(streams)
def test_any_requests_are_parsed_byte_by_byte(stream: list[tuple[bytes, Outcome]]) -> None:
    data = b"".join(piece for piece, _ in stream)
    assert parse(*(data[n : n + 1] for n in range(len(data)))) == [outcome for _, outcome in stream]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=10))
def test_invalid_bytes_give_same_result_in_any_fragmentation(noise: bytes, places: list[int]) -> None:
    """The first invalid request is found at the same place."""
    assert parse(*cut(noise, places)) == parse(noise)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0XXXhead",
        b"version",
        ECHO_REQ.request(b"abc")[:-1],
        REQ + b"\0\0\0\x10\xff\xff\xff\xff" + b"much",
        b"a" * (MAX_LINE - 1),
    ],
    ids=["nothing", "a NUL", "half a header", "no end of line", "half a packet", "a huge packet", "a long line"],
)
def test_incomplete_request_is_not_returned(data: bytes) -> None:
    assert parse(data) == []


LONGEST_LINE = b"a" * (MAX_LINE - 1) + b"\n"
LONGEST = SUBMIT_JOB.request(b"f" * MAX_ARGUMENT, b"u" * MAX_ARGUMENT, b"w" * (MAX_ARGUMENT + 1))


def test_longest_requests_are_accepted() -> None:
    """The last argument has no limit."""
    name = b"f" * MAX_ARGUMENT
    arguments = [name, b"u" * MAX_ARGUMENT, b"w" * (MAX_ARGUMENT + 1)]
    assert parse(LONGEST_LINE + LONGEST) == [LONGEST_LINE, (SUBMIT_JOB, arguments)]
    assert parse(CAN_DO.request(b"f" * MAX_NAME)) == [(CAN_DO, [b"f" * MAX_NAME])]
    big = bytes(range(256)) * 4096
    assert parse(ECHO_REQ.request(big)) == [(ECHO_REQ, [big])]


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize(
    "data",
    [
        b"a" * MAX_LINE,
        b"a" * MAX_LINE + b"\n",
        SUBMIT_JOB.request(b"f" * (MAX_ARGUMENT + 1), b"", b""),
        SUBMIT_JOB.request(b"f", b"u" * (MAX_ARGUMENT + 1), b""),
        CAN_DO.request(b"f" * (MAX_NAME + 1)),
        REQ + b"\0\0\0\x07\0\0\0\x05" + b"f\0abc",
        REQ + b"\0\0\0\x2b\0\0\0\0",
        REQ + b"\0\0\0\0\0\0\0\0",
        REQ + b"\x80\0\0\0\0\0\0\0",
        b"\0XXX\0\0\0\x10\0\0\0\0",
        b"\0" * 12,
    ],
    ids=[
        "endless line",
        "long line",
        "long function",
        "long unique",
        "long name",
        "too few arguments",
        "type 43",
        "type 0",
        "type 2**31",
        "other magic",
        "NULs",
    ],
)
def test_invalid_request_is_reported(data: bytes) -> None:
    """Valid requests before it are returned; it ends the stream."""
    before = ECHO_REQ.request(b"before")
    expected = [(ECHO_REQ, [b"before"]), b"version\n", InvalidRequest]
    assert parse(before + b"version\n" + data) == expected
    assert parse(before, b"version\n", *cut(data, [len(data) // 2])) == expected


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize(
    "data",
    [REQ + b"\0\0\0\x2b\0\0\0\0", SUBMIT_JOB.request(b"f" * (MAX_ARGUMENT + 1), b"", b""), b"a" * MAX_LINE],
    ids=["type 43", "long function", "endless line"],
)
def test_invalid_request_is_reported_at_each_further_call(data: bytes) -> None:
    """Whatever follows it."""
    parser = RequestParser()
    parser.feed(data + ECHO_REQ.request(b"behind") + b"\nversion\n")
    for _ in range(3):
        with pytest.raises(InvalidRequest):
            parser.take()


def test_packet_with_wrong_magic_is_awaited_completely() -> None:
    assert parse(RES + b"\0\0\0\x10\0\0\0\x05abcd", b"eversion\n") == [WrongMagic, b"version\n"]
