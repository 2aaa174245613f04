"""Server-sent events: each document is sent to all viewers, as fast as each of them reads.

Documents are compressed to a tenth, once for all viewers: a gzip stream may consist of blocks of deflate that refer to
nothing before them, so that any of them may be left out.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from functools import cached_property
from typing import Final

from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request
from zope.interface import implementer

from ..connection.reactor import Reactor

__all__ = ["EventStreams"]

_log = Logger()

MAX_STREAMS: Final = 100
"""Simultaneous streams. Each takes a socket, and up to twice the size of a document."""

KEEP_ALIVE: Final = 15.0
"""Seconds between comments that keep proxies from closing a stream: nginx does after 60 s without a byte."""

MAX_PAUSE: Final = 60.0
"""Seconds after which a stream that its viewer does not read is closed."""

_GZIP_HEADER: Final = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"

_ACCEPTS_GZIP: Final = re.compile(rb"(?:^|,)\s*gzip\s*(?:;\s*q=(?:1|0?\.0*[1-9])[0-9.]*\s*)?(?:,|$)", re.IGNORECASE)


class _Event:
    """What is sent to all viewers at a time."""

    def __init__(self, plain: bytes) -> None:
        self.plain = plain

    @cached_property
    def compressed(self) -> bytes:
        """Blocks of deflate, which end on a whole byte."""
        compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return compressor.compress(self.plain) + compressor.flush(zlib.Z_FULL_FLUSH)


_COMMENT: Final = _Event(b":\n\n")


@implementer(IPushProducer)
class _Stream:
    """The stream of one viewer. While the viewer does not read, only the newest event is kept for it."""

    def __init__(self, request: Request, seconds: Callable[[], float]) -> None:
        self._request = request
        self._seconds = seconds
        self._newest: _Event | None = None
        self._paused_at: float | None = None
        self._compressed = _ACCEPTS_GZIP.search(request.getHeader(b"accept-encoding") or b"") is not None
        request.registerProducer(self, True)
        if self._compressed:
            request.setHeader("Content-Encoding", "gzip")
            request.write(_GZIP_HEADER)

    def send(self, event: _Event) -> None:
        """Send an event, or keep it in place of the last one if that has not been read."""
        if self._paused_at is None:
            self._request.write(event.compressed if self._compressed else event.plain)
        else:
            self._newest = event

    def keep_alive(self) -> None:
        """Send a comment. Close the stream if nothing has been read for too long."""
        if self._paused_at is None:
            self.send(_COMMENT)
        elif self._seconds() - self._paused_at >= MAX_PAUSE:
            self.close()

    def close(self) -> None:
        """Abort the connection: to close it in good order takes a viewer that reads."""
        transport = self._request.transport
        assert transport is not None
        transport.abortConnection()  # type: ignore[attr-defined]  # every transport of a connection has it

    def pauseProducing(self) -> None:
        if self._paused_at is None:
            self._paused_at = self._seconds()

    def resumeProducing(self) -> None:
        self._paused_at = None
        event, self._newest = self._newest, None
        if event is not None:
            self.send(event)

    def stopProducing(self) -> None:
        """Do nothing: the request reports the end of the connection."""


class EventStreams:
    """The streams of all viewers.

    :param viewer_came, viewer_gone: called at the begin and the end of each stream.
    """

    def __init__(
        self, reactor: Reactor, *, viewer_came: Callable[[], object], viewer_gone: Callable[[], object]
    ) -> None:
        self._reactor = reactor
        self._viewer_came = viewer_came
        self._viewer_gone = viewer_gone
        self._streams: dict[_Stream, None] = {}
        self._keep_alive = LoopingCall(self._keep_all_alive)
        self._keep_alive.clock = reactor  # type: ignore[assignment]  # every reactor provides it

    @property
    def is_full(self) -> bool:
        """Whether no further stream may be opened."""
        return len(self._streams) >= MAX_STREAMS

    def open(self, request: Request, newest: bytes | None) -> None:
        """Stream events as the answer to a request, until its connection ends.

        :param newest: the data of the first event, if there is one.
        """
        request.setHeader("Content-Type", "text/event-stream")
        request.setHeader("X-Accel-Buffering", "no")  # nginx would keep events until it has some kilobytes
        stream = _Stream(request, self._reactor.seconds)
        self._streams[stream] = None
        request.notifyFinish().addBoth(self._closed, stream)
        stream.send(_COMMENT if newest is None else _event(newest))
        if not self._keep_alive.running:
            self._keep_alive.start(KEEP_ALIVE, now=False)
        self._viewer_came()

    def publish(self, data: bytes) -> None:
        """Send an event to all viewers.

        :param data: a text of one line.
        """
        event = _event(data)
        for stream in list(self._streams):
            stream.send(event)

    def close(self) -> None:
        """Close all streams."""
        for stream in list(self._streams):
            self._remove(stream)
            stream.close()

    def _keep_all_alive(self) -> None:
        for stream in list(self._streams):
            stream.keep_alive()

    def _closed(self, _: Failure | None, stream: _Stream) -> None:
        if stream in self._streams:
            self._remove(stream)

    def _remove(self, stream: _Stream) -> None:
        del self._streams[stream]
        if not self._streams:
            self._keep_alive.stop()
        self._viewer_gone()


def _event(data: bytes) -> _Event:
    return _Event(b"data: %b\n\n" % data)
