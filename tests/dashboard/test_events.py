"""Streams of events: to readers that are fast, slow, gone, and too many."""

from __future__ import annotations

import zlib

import pytest

from txgearman.dashboard import events
from txgearman.dashboard.events import KEEP_ALIVE, MAX_PAUSE
from txgearman.testing import MemoryJobServer

from .harness import viewed


def test_stream_has_its_headers_and_the_newest_document() -> None:
    server = MemoryJobServer()
    with viewed(server) as view:
        viewer = view.connect()
        viewer.request("/events")
        answer = viewer.answer()
        assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
        assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-store", "no")
        assert answer.body == b"data: " + view.get("/document.json").body + b"\n\n"
        viewer.close()


def test_stream_before_the_first_document_begins_with_a_comment() -> None:
    server = MemoryJobServer()
    server.fall_silent()
    with viewed(server) as view:
        viewer = view.connect()
        viewer.request("/events")
        assert viewer.answer().body == b":\n\n"
        server.advance(5)
        assert viewer.events()[0]["time"] == 5
        viewer.close()


def test_slow_reader_gets_the_newest_document_alone() -> None:
    server = MemoryJobServer()
    with viewed(server) as view:
        slow, fast = view.watch(), view.watch()
        slow.events()
        slow.pause()
        slow.pause()
        server.advance(20)
        assert slow.read() == b""
        slow.resume()
        assert [each["time"] for each in slow.events()] == [20]
        slow.pause()
        slow.resume()  # nothing has come meanwhile
        assert slow.read() == b""
        server.advance(2)
        assert [each["time"] for each in slow.events()] == [22]
        assert len(fast.events()) == 12
        slow.close()
        fast.close()


def test_reader_that_reads_nothing_for_a_minute_is_disconnected() -> None:
    server = MemoryJobServer()
    with viewed(server) as view:
        stuck = view.watch()
        stuck.pause()
        server.advance(MAX_PAUSE - KEEP_ALIVE)
        assert stuck.is_open
        server.advance(KEEP_ALIVE + 1)
        assert not stuck.is_open


def test_idle_stream_gets_comments() -> None:
    server = MemoryJobServer()
    with viewed(server, interval=60) as view:
        viewer = view.watch()
        viewer.read()
        server.advance(45)
        assert viewer.read().count(b":\n\n") == 3
        viewer.close()


def test_streams_beyond_the_limit_are_refused_until_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_STREAMS", 3)
    server = MemoryJobServer()
    with viewed(server) as view:
        viewers = [view.watch() for _ in range(3)]
        assert all(each.answer().status == 200 for each in viewers)
        late = view.get("/events")
        assert (late.status, late.text, late.headers["retry-after"]) == (503, "there are too many viewers\n", "10")
        assert view.document()["format"] == 1  # all else goes on
        viewers.pop().close()
        viewers.append(view.watch())
        assert viewers[-1].answer().status == 200
        for viewer in viewers:
            viewer.close()


def test_head_opens_no_stream() -> None:
    server = MemoryJobServer()
    with viewed(server) as view:
        answer = view.get("/events", "HEAD")
        assert (answer.status, answer.body) == (200, b"")


def test_stream_is_compressed_for_those_that_accept_it() -> None:
    """In blocks of which any may be left out: a slow reader does not get all."""
    server = MemoryJobServer()
    with viewed(server) as view:
        viewer = view.connect()
        viewer.request("/events", Accept_Encoding="br;q=1, GZIP")
        answer = viewer.answer()
        assert answer.headers["content-encoding"] == "gzip"
        stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        assert stream.decompress(answer.body).startswith(b'data: {"format":1,"time":0.0,')
        viewer.pause()
        server.advance(10)
        viewer.resume()
        assert stream.decompress(viewer.body()).startswith(b'data: {"format":1,"time":10.0,')
        viewer.close()


def test_stream_is_plain_for_others() -> None:
    server = MemoryJobServer()
    encodings = {}
    with viewed(server) as view:
        for accepted in (
            "",
            "identity",
            "gzip;q=0",
            "gzip;q=0.000",
            "xgzip",
            "*",
            "gzip;q=1.0",
            "a, gzip;q=0.5, *;q=0",
        ):
            viewer = view.connect()
            viewer.request("/events", Accept_Encoding=accepted)
            encodings[accepted] = viewer.answer().headers.get("content-encoding")
            viewer.close()
    assert [accepted for accepted, encoding in encodings.items() if encoding] == ["gzip;q=1.0", "a, gzip;q=0.5, *;q=0"]
