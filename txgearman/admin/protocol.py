"""An administrator's connection to one job server: lines out, their answers back.

The text protocol does not say where an answer ends: that depends on the command, a job's unique may look like the end
of a list (M7), and geard answers most commands with silence. But a server takes binary packets on the same
connection, and answers all in order. So each line is followed by a *fence* as in `connection`, and the text that comes
before the fence's answer is the answer to the line; where there is none, the server does not know the command.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred, fail

from ..connection.factory import ConnectionListener, GearmanFactory
from ..connection.options import DEFAULT_CONNECTION_OPTIONS, ConnectionOptions
from ..connection.protocol import Fence, GearmanProtocol, Request
from ..connection.reactor import Reactor
from ..errors import ProtocolError, RequestUnsupported
from ..packets import GET_STATUS, HEADER_SIZE, STATUS_RES

__all__ = ["AdminFactory", "AdminProtocol"]

_LARGEST_PACKET: Final = 1024  # only answers to fences are due, and perhaps an ERROR


class TextRequest(Request):
    """A line, with its fence. Its ``deferred`` fires with a list of one: the text."""

    __slots__ = ("is_last", "line")

    def __init__(self, line: bytes, *, is_last: bool) -> None:
        super().__init__(STATUS_RES, Fence.subject)
        self.line = line
        self.is_last = is_last


class AdminProtocol(GearmanProtocol):
    """An administrator's connection to one job server. `AdminFactory` makes them."""

    factory: AdminFactory

    def __init__(self, reactor: Reactor, connection_options: ConnectionOptions = DEFAULT_CONNECTION_OPTIONS) -> None:
        super().__init__(reactor, connection_options)
        self._text: list[bytes] = []
        self._size = 0  # of the text so far
        self._packet = b""  # what has come of one
        self._received = 0

    def ask(self, line: bytes, *, is_last: bool = False) -> Deferred[bytes]:
        """Send a command.

        :param line: without its end.
        :param is_last: the server may close the connection after its answer.
        :return: fires with the text of the answer. Fails with `RequestUnsupported` if the
            server leaves it without one, or with what ended the connection. Cancelled, it is forgotten.
        """
        if self.error is not None:
            return fail(self.error)
        request = TextRequest(line, is_last=is_last)
        # CRLF: after an LF alone, gearmand creates a function whose name is too short.
        self.send(request, line + b"\r\n" + GET_STATUS.request(Fence.subject))
        text: Deferred[bytes] = request.deferred.addCallback(lambda arguments: arguments[0])
        return text

    @property
    def progress(self) -> int:
        """A number that changes with each byte: a long list may take its time."""
        return self._received

    # What the server says.

    def dataReceived(self, data: bytes) -> None:
        self._received += len(data)
        while data and self.error is None:
            if not self._packet:
                text, nul, rest = data.partition(b"\0")  # no text has a NUL, and each packet begins with one
                self._text_received(text)
                data = nul + rest
            data = self._packet_received(data)

    def _text_received(self, text: bytes) -> None:
        if not text:
            return
        self._text.append(text)
        self._size += len(text)
        if not (self._outstanding and isinstance(self._outstanding[0], TextRequest)):
            self.abort(ProtocolError(f"text that answers nothing: {text[:200]!r}"))
        elif self._size > self.connection_options.max_packet_size:
            limit = self.connection_options.max_packet_size
            self.abort(ProtocolError(f"an answer of {self._size} bytes and more; max_packet_size is {limit}"))

    def _packet_received(self, data: bytes) -> bytes:
        """Go on with a packet; return what is behind it."""
        held = self._packet + data
        size = HEADER_SIZE + int.from_bytes(held[8:HEADER_SIZE], "big")
        if len(held) < HEADER_SIZE or len(held) < size <= _LARGEST_PACKET:
            self._packet = held
            return b""
        self._packet = b""
        if size > _LARGEST_PACKET:
            self.abort(ProtocolError(f"a packet of {size} bytes where text was due: {held[:HEADER_SIZE]!r}"))
        super().dataReceived(held[:size])
        return held[size:]

    def request_succeeded(self, request: object, arguments: list[bytes]) -> None:
        if not isinstance(request, TextRequest):
            super().request_succeeded(request, arguments)
            return
        text = self._take_text()
        if text:
            request.succeed([text])
        else:
            request.fail(RequestUnsupported(f"this server leaves '{request.line.decode(errors='replace')}' unanswered"))

    def request_lost(self, request: object, error: Exception) -> None:
        text = self._take_text()
        if text and isinstance(request, TextRequest) and request.is_last:
            request.succeed([text])
        else:
            super().request_lost(request, error)

    def _take_text(self) -> bytes:
        text = b"".join(self._text)
        self._text.clear()
        self._size = 0
        return text


class AdminFactory(GearmanFactory[AdminProtocol]):
    """Keeps an administrator's connection to one job server."""

    protocol = AdminProtocol

    def __init__(
        self,
        reactor: Reactor | None = None,
        *,
        name: str = "",
        listener: ConnectionListener[AdminProtocol] | None = None,
        connection_options: ConnectionOptions = DEFAULT_CONNECTION_OPTIONS,
    ) -> None:
        """
        :param name: the server's address.
        """
        super().__init__(reactor, listener=listener, connection_options=connection_options)
        self.name = name
