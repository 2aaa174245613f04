"""A connection in memory whose other end is the test: the library's own code, a server played by the test, a `Clock`.

For what no job server does, and for tests of single packets. `txgearman.testing` has everything that job servers and
networks do.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from txgearman.connection.options import ConnectionOptions
from txgearman.packets import (
    ECHO_REQ,
    ECHO_RES,
    GET_STATUS,
    GET_STATUS_UNIQUE,
    OPTION_REQ,
    OPTION_RES,
    REQ,
    STATUS_RES,
    STATUS_RES_UNIQUE,
    Decoder,
    Packet,
)

T = TypeVar("T")


class WireTransport(StringTransport):
    """Transport that closes one reactor turn after it was asked to, as a socket does."""

    def __init__(self, clock: Clock, protocol: Protocol) -> None:
        super().__init__()
        self.clock = clock
        self.peer_protocol = protocol
        self.lost = False
        self.aborted = False

    def loseConnection(self) -> None:
        super().loseConnection()
        self.clock.callLater(0, self.lose, ConnectionDone())

    def abortConnection(self) -> None:
        self.aborted = True
        self.clock.callLater(0, self.lose, ConnectionLost("aborted"))

    def lose(self, error: Exception) -> None:
        if not self.lost:
            self.lost = True
            self.peer_protocol.connectionLost(Failure(error))


class ServerSide:
    """The server's end of one connection."""

    def __init__(self, clock: Clock, protocol: Any) -> None:
        self.protocol = protocol
        self.transport = WireTransport(clock, protocol)
        self._decoder = Decoder(REQ)

    def received(self) -> list[Packet]:
        """Return what the client wrote since the last call."""
        packets = self._decoder.feed(self.transport.value())
        self.transport.clear()
        assert self._decoder.error is None
        return packets

    def send(self, *packets: bytes) -> None:
        """Send these packets, which the client receives in one read."""
        self.protocol.dataReceived(b"".join(packets))

    def send_opening(self) -> None:
        """Answer the first requests of a client as gearmand does."""
        self.send(*(answer(packet) for packet in self.received()))

    def lose(self, error: Exception | None = None) -> None:
        """Lose the connection at once."""
        self.transport.lose(error or ConnectionDone())


def present(value: T | None) -> T:
    """Return a value that must not be None."""
    assert value is not None
    return value


def outcome(deferred: Deferred[Any]) -> list[Any]:
    """Return a list that gets the result or the exception of a Deferred, which has no result from then on."""
    outcomes: list[Any] = []
    deferred.addCallbacks(outcomes.append, lambda failure: outcomes.append(failure.value))
    return outcomes


def answer(packet: Packet) -> bytes:
    """Return gearmand's answer to a query, for a server that has every option and no job."""
    packet_type, (argument,) = packet
    if packet_type is OPTION_REQ:
        return OPTION_RES.response(argument)
    if packet_type is ECHO_REQ:
        return ECHO_RES.response(argument)
    if packet_type is GET_STATUS_UNIQUE:
        return STATUS_RES_UNIQUE.response(argument, b"0", b"0", b"0", b"0", b"0")
    assert packet_type is GET_STATUS, packet
    return STATUS_RES.response(argument, b"0", b"0", b"0", b"0")


def with_connection_options(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a factory, with those of `ConnectionOptions` combined into ``connection_options``."""
    connection_options = {
        field.name: arguments[field.name] for field in fields(ConnectionOptions) if field.name in arguments
    }
    others = {name: value for name, value in arguments.items() if name not in connection_options}
    return {**others, "connection_options": ConnectionOptions(**connection_options)}


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """Endpoint whose other end is the test.

    :ivar black_hole: whether attempts to connect get no answer; they are in `pending`.
    :ivar answers_opening: whether the first requests of each connection are answered at once.
    :ivar connections: the server's end of each connection, oldest first.
    :ivar factories: the protocol factory of each attempt, oldest first.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.black_hole = False
        self.answers_opening = True
        self.attempts = 0
        self.pending: list[Deferred[Any]] = []
        self.connections: list[ServerSide] = []
        self.factories: list[Any] = []

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        self.attempts += 1
        self.factories.append(protocolFactory)
        if self.black_hole:
            waiting: Deferred[Any] = Deferred()
            self.pending.append(waiting)
            return waiting
        protocol = protocolFactory.buildProtocol(None)
        server = ServerSide(self.clock, protocol)
        self.connections.append(server)
        protocol.makeConnection(server.transport)
        if self.answers_opening:
            server.send_opening()
        return succeed(protocol)

    @property
    def server(self) -> ServerSide:
        """The server's end of the newest connection."""
        return self.connections[-1]
