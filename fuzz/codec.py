"""The codec under a coverage-guided fuzzer: `atheris`, which is in no requirements.

    pip install atheris
    python fuzz/codec.py CORPUS -max_total_time=600

CORPUS is a directory; what the fuzzer finds worth keeping is kept there for the next time. An empty one gets one packet
of each type to begin with.

Of whatever bytes come: the decoder raises nothing, and its ``error`` is a `ProtocolError`; what it returns has as many
arguments as its type, and is encoded to the same bytes again; and the packets and the error are the same however the
bytes are cut.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import atheris

with atheris.instrument_imports(include=["txgearman.packets"]):
    from txgearman import packets
    from txgearman.errors import ProtocolError
    from txgearman.packets import HEADER_SIZE, PACKET_TYPES, REQ, RES, Decoder, Packet

# What an input's first byte says.
FRAMED: Final = 1
"""What follows is (type, size, body), again and again, and gets right headers."""
AS_LARGE: Final = 2
"""Bodies are split as if they were large."""

BYTEWISE: Final = 100
"""So much of a stream is also read byte by byte: more would take too long."""

SPLIT_IN_PLACE: Final = packets._SPLIT_IN_PLACE


def framed(data: bytes) -> bytes:
    """Packets whose headers are right, of types that there are."""
    stream = []
    while len(data) > 1:
        magic = RES if data[0] & 0x80 else REQ
        body = data[2 : 2 + data[1]]
        stream.append(magic + bytes([0, 0, 0, data[0] & 0x7F]) + len(body).to_bytes(4, "big") + body)
        data = data[2 + data[1] :]
    return b"".join(stream)


def fed(stream: bytes, sizes: bytes, limit: int) -> tuple[list[Packet], str]:
    """What comes of these bytes in pieces of such sizes, as often as it takes; in one piece if there are none."""
    decoder = Decoder(REQ, RES, max_packet_size=limit)
    found, start, turn = [], 0, 0
    while start < len(stream):
        size = sizes[turn % len(sizes)] if sizes else len(stream)
        size = size or turn % 2  # an empty piece now and then, but not for ever
        found += decoder.feed(stream[start : start + size])
        start += size
        turn += 1
    assert decoder.error is None or type(decoder.error) is ProtocolError
    assert decoder.error is None or decoder.feed(b"\0REQ") == []
    return found, str(decoder.error)


def check_encoding(stream: bytes, found: list[Packet]) -> None:
    """The packets are what the stream begins with."""
    start = 0
    for packet_type, arguments in found:
        encode = packet_type.request if stream[start : start + 4] == REQ else packet_type.response
        again = encode(*arguments)
        assert stream.startswith(again, start), (stream[start:], again)
        start += len(again)


def check(data: bytes) -> None:
    """One input: the way to read it, the sizes of its pieces, the largest body, and then the stream."""
    if len(data) < 7:
        return
    stream = framed(data[7:]) if data[0] & FRAMED else data[7:]
    limit = 1 + int.from_bytes(data[5:7], "big")
    packets._SPLIT_IN_PLACE = 0 if data[0] & AS_LARGE else SPLIT_IN_PLACE  # type: ignore[misc]  # else it never changes
    found, error = fed(stream, b"", limit)
    check_encoding(stream, found)
    assert fed(stream, data[1:5], limit) == (found, error)
    assert fed(stream[:BYTEWISE], b"\1", limit) == fed(stream[:BYTEWISE], b"", limit)


def seed(corpus: Path) -> None:
    """One packet of each type, and all of them in a row."""
    corpus.mkdir(exist_ok=True)
    if any(corpus.iterdir()):
        return
    rows = list(PACKET_TYPES.values())
    streams = [row.request(*(name.encode() for name in row.arguments)) for row in rows]
    streams += [b"".join(streams), b"".join(row.response(*[b""] * len(row.arguments)) for row in rows)]
    for number, stream in enumerate(streams):
        corpus.joinpath(f"packet-{number}").write_bytes(b"\0\5\1\x0d\0\xff\xff" + stream)
        body = stream[HEADER_SIZE:][:255]
        corpus.joinpath(f"framed-{number}").write_bytes(
            bytes([1 + number % 2 * 2]) + b"\3\2\x0f\0\xff\xff" + bytes([number + 1, len(body)]) + body
        )


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        seed(Path(sys.argv[1]))
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
