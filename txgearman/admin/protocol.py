"""An admin client's connection to one job server: sends lines, and matches the answers to them.

The text protocol does not mark the end of an answer: it depends on the command, a job's unique may look like the end of
a list (M7), and geard does not answer most commands. But servers accept binary packets on the same connection, and
answer everything in order. So each line is followed by a *fence* as in `connection.protocol`: the text received before
the answer to the fence is the answer to the line. If there is none, the server does not know the command.
"""

from __future__ import annotations

import random
from typing import Final

from twisted.internet.defer import Deferred, fail

from ..connection.factory import ConnectionListener, GearmanFactory
from ..connection.options import DEFAULT_CONNECTION_OPTIONS, ConnectionOptions
from ..connection.protocol import FENCE_HANDLE, GearmanProtocol, Request
from ..connection.reactor import Reactor
from ..errors import ProtocolError, RequestUnsupported
from ..packets import GET_STATUS, HEADER_SIZE, STATUS_RES
from ..validation import quoted

__all__ = ["AdminFactory", "AdminProtocol"]

_MAX_PACKET: Final = 1024  # bytes; only answers to fences are expected, and perhaps an ERROR


class TextRequest(Request["AdminProtocol"]):
    """A line, with its fence. The only argument of its answer is the text.

    :param is_last: whether the server may close the connection after its answer.
    """

    __slots__ = ("_is_last", "_line")

    def __init__(self, line: bytes, *, is_last: bool) -> None:
        super().__init__(STATUS_RES, FENCE_HANDLE)
        self._line = line
        self._is_last = is_last

    def _answered(self, connection: AdminProtocol, arguments: list[bytes]) -> None:
        text = connection._take_text()
        if text:
            super()._answered(connection, [text])
        else:
            self._fail(RequestUnsupported(f"this server does not answer the command {quoted(self._line)}"))

    def _lost(self, connection: AdminProtocol, error: Exception) -> None:
        text = connection._take_text()
        if text and self._is_last:
            super()._answered(connection, [text])
        else:
            self._fail(error)


class AdminProtocol(GearmanProtocol):
    """An admin client's connection to one job server, made by an `AdminFactory`."""

    factory: AdminFactory

    def __init__(self, reactor: Reactor, connection_options: ConnectionOptions = DEFAULT_CONNECTION_OPTIONS) -> None:
        super().__init__(reactor, connection_options)
        self._text: list[bytes] = []
        self._size = 0  # of the text so far
        self._packet = b""  # the beginning of an incomplete packet
        self._received = 0

    def ask(self, line: bytes, *, is_last: bool = False) -> Deferred[bytes]:
        """Send a command.

        :param line: the command, without the end of the line.
        :param is_last: whether the server may close the connection after its answer.
        :return: fires with the text of the answer. Fails with `RequestUnsupported` if the server does not answer, or
            with the error that ended the connection. Cancelling it only ignores the answer.
        """
        if self.error is not None:
            return fail(self.error)
        request = TextRequest(line, is_last=is_last)
        # CRLF: with LF alone, gearmand cuts off the last byte of the name in "create function".
        self._send(request, line + b"\r\n" + GET_STATUS.request(FENCE_HANDLE))
        text: Deferred[bytes] = request.deferred.addCallback(lambda arguments: arguments[0])
        return text

    @property
    def _progress(self) -> int:
        """Number that changes with each byte, since a long list may take long."""
        return self._received

    # Received data.

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
            self.abort(ProtocolError(f"received text that answers no command: {quoted(text)}"))
        elif self._size > self._connection_options.max_packet_size:
            limit = self._connection_options.max_packet_size
            self.abort(
                ProtocolError(f"received an answer of more than max_packet_size={limit} bytes: {self._size} so far")
            )

    def _packet_received(self, data: bytes) -> bytes:
        """Receive a packet, or a part of it.

        :return: the data after the packet.
        """
        held = self._packet + data
        size = HEADER_SIZE + int.from_bytes(held[8:HEADER_SIZE], "big")
        if len(held) < HEADER_SIZE or len(held) < size <= _MAX_PACKET:
            self._packet = held
            return b""
        self._packet = b""
        if size > _MAX_PACKET:
            self.abort(
                ProtocolError(f"received a packet of {size} bytes when text was due: {quoted(held[:HEADER_SIZE])}")
            )
        super().dataReceived(held[:size])
        return held[size:]

    def _take_text(self) -> bytes:
        text = b"".join(self._text)
        self._text.clear()
        self._size = 0
        return text


class AdminFactory(GearmanFactory[AdminProtocol]):
    """Factory that keeps an admin client's connection to one job server.

    :param name: the server's address.
    """

    protocol = AdminProtocol

    def __init__(
        self,
        reactor: Reactor | None = None,
        *,
        name: str = "",
        listener: ConnectionListener[AdminProtocol] | None = None,
        connection_options: ConnectionOptions = DEFAULT_CONNECTION_OPTIONS,
        source: random.Random | None = None,
    ) -> None:
        super().__init__(reactor, listener=listener, connection_options=connection_options, source=source)
        self.name = name
