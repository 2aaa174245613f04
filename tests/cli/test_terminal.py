"""What the command reads and writes, whatever its input and output are."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import deferLater

from txgearman.cli.tables import cell
from txgearman.cli.terminal import Terminal, in_thread, printable

from .harness import reactor

MUCH = os.urandom(1_000_000)


class Pipe:
    """Two pipes: what is written to the terminal's input, and what it writes."""

    def __init__(self, blocking: bool) -> None:
        self.stdin, self.sink = os.pipe()
        self.source, self.stdout = os.pipe()
        for descriptor in (self.stdin, self.stdout):
            os.set_blocking(descriptor, blocking)
        self.terminal = Terminal(reactor, self.stdin, self.stdout, self.stdout)

    def close(self) -> None:
        for descriptor in (self.stdin, self.source, self.stdout):
            os.close(descriptor)


@pytest.fixture(params=[True, False], ids=["blocking", "non-blocking"])
def pipe(request: pytest.FixtureRequest) -> Iterator[Pipe]:
    """Whoever starts a program may make its input and output non-blocking."""
    pipe = Pipe(request.param)
    yield pipe
    pipe.close()


async def test_much_is_written_at_the_pace_of_its_reader(pipe: Pipe) -> None:
    writing = ensureDeferred(pipe.terminal.write(MUCH))
    turns: list[str] = []
    reactor.callLater(0, turns.append, "the reactor goes on")
    await deferLater(reactor, 0.02)
    assert turns
    assert not writing.called
    read = b""
    while len(read) < len(MUCH):
        read += await in_thread(reactor, os.read, pipe.source, 65536)
    await writing
    assert read == MUCH
    os.close(pipe.sink)


async def test_errors_are_written_whole(pipe: Pipe) -> None:
    text = "x" * 200_000
    said = in_thread(reactor, pipe.terminal.say, text)
    read = b""
    while len(read) <= len(text):
        read += await in_thread(reactor, os.read, pipe.source, 65536)
    await said
    assert read.decode() == text + "\n"
    os.close(pipe.sink)


async def test_input_is_awaited(pipe: Pipe) -> None:
    reading = ensureDeferred(pipe.terminal.read())
    await deferLater(reactor, 0.02)
    assert not reading.called
    os.write(pipe.sink, b"one ")
    await deferLater(reactor, 0.02)
    os.write(pipe.sink, b"two")
    os.close(pipe.sink)
    assert await reading == b"one two"


async def test_a_line_may_come_in_pieces(pipe: Pipe) -> None:
    lines = pipe.terminal.lines()
    for piece in (b"a", b"b\nc", b"\n\nd"):
        os.write(pipe.sink, piece)
        if piece == b"a":
            await deferLater(reactor, 0.02)
    os.close(pipe.sink)
    assert [line async for line in lines] == [b"ab", b"c", b"", b"d"]


@given(st.binary())
def test_a_name_is_one_word_of_one_line(name: bytes) -> None:
    """Nothing in it moves a cursor, ends a line or a cell."""
    assert printable(name).isprintable()
    assert "\t" not in cell(name)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"pre\tf\n", "pre\\tf\\n"),
        (b"\xff\x1b[2J", "\\xff\\x1b[2J"),
        ("ünï".encode(), "ünï"),
        ((b"a", b"b c"), "a b c"),
        (True, "yes"),
        (False, "no"),
        (None, "-"),
        (3, "3"),
    ],
)
def test_a_value_in_a_table(value: object, text: str) -> None:
    assert cell(value) == text
