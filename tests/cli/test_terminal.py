"""Reading and writing, with blocking and non-blocking pipes; cells as text."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import deferLater

from txgearman.cli.tables import Table, format_cell, format_json
from txgearman.cli.terminal import Terminal, run_in_thread

from ..examples import ANY_TEXT
from .harness import reactor

LARGE = os.urandom(1_000_000)


class Pipe:
    """A `Terminal` on two pipes: `sink` feeds its input, `source` has its output."""

    def __init__(self, *, blocking: bool) -> None:
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
    """A parent process may have made input and output non-blocking."""
    pipe = Pipe(blocking=request.param)
    yield pipe
    pipe.close()


async def test_write_waits_for_slow_reader_without_blocking(pipe: Pipe) -> None:
    writing = ensureDeferred(pipe.terminal.write(LARGE))
    turns: list[str] = []
    reactor.callLater(0, turns.append, "the reactor runs")
    await deferLater(reactor, 0.02)
    assert turns
    assert not writing.called
    read = b""
    while len(read) < len(LARGE):
        read += await run_in_thread(reactor, os.read, pipe.source, 65536)
    await writing
    assert read == LARGE
    os.close(pipe.sink)


async def test_write_error_writes_everything(pipe: Pipe) -> None:
    text = "x" * 200_000
    writing = run_in_thread(reactor, pipe.terminal.write_error, text)
    read = b""
    while len(read) <= len(text):
        read += await run_in_thread(reactor, os.read, pipe.source, 65536)
    await writing
    assert read.decode() == text + "\n"
    os.close(pipe.sink)


async def test_read_all_waits_for_end_of_input(pipe: Pipe) -> None:
    reading = ensureDeferred(pipe.terminal.read_all())
    await deferLater(reactor, 0.02)
    assert not reading.called
    os.write(pipe.sink, b"one ")
    await deferLater(reactor, 0.02)
    os.write(pipe.sink, b"two")
    os.close(pipe.sink)
    assert await reading == b"one two"


async def test_read_lines_joins_chunks(pipe: Pipe) -> None:
    lines = pipe.terminal.read_lines()
    for piece in (b"a", b"b\nc", b"\n\nd"):
        os.write(pipe.sink, piece)
        if piece == b"a":
            await deferLater(reactor, 0.02)
    os.close(pipe.sink)
    assert [line async for line in lines] == [b"ab", b"c", b"", b"d"]


@given(st.binary())
def test_cell_of_name_is_printable(name: bytes) -> None:
    """It has no control character, TAB or end of line."""
    assert format_cell(name).isprintable()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"pre\tf\n", "pre\\tf\\n"),
        (b"\xff\x1b[2J", "\\xff\\x1b[2J"),
        (b"\\xff", "\\\\xff"),
        ("ünï".encode(), "ünï"),
        ((b"a", b"b c"), "a b c"),
        (True, "yes"),
        (False, "no"),
        (None, "-"),
        (3, "3"),
    ],
)
def test_format_cell(value: object, text: str) -> None:
    assert format_cell(value) == text


@given(ANY_TEXT)
def test_json_of_text_is_printable_and_exact(text: str) -> None:
    """Whatever JSON itself leaves: DEL, C1 controls, changes of direction."""
    formatted = format_json(Table(("address",), [(text,)])).decode()
    assert formatted.removesuffix("\n").isprintable()
    assert json.loads(formatted) == [{"address": text}]


@pytest.mark.parametrize(
    ("name", "text"), [(b"\xff", "\\xff"), (b"\\xff", "\\\\xff"), (b"pre\tf", "pre\tf"), ("\x9b".encode(), "\x9b")]
)
def test_json_of_name_has_all_its_bytes(name: bytes, text: str) -> None:
    assert json.loads(format_json(Table(("function",), [(name,)]))) == [{"function": text}]
