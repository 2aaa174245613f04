"""In-memory connections: transports, and an endpoint that connects to a `Factory` of the same process without a socket.

What is written at one end arrives at the other in a later turn of the reactor, in one piece with what was written
after it in the same turn. With a `Clock`, ``clock.advance(0)`` runs all such turns until nothing is in transit.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost, ConnectionRefusedError, NoProtocol
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from .faults import Faults

BUFFER: Final = 64 * 1024
"""Bytes that may be in transit before a producer is paused, as with Twisted's sockets."""


@implementer(IAddress)
class MemoryAddress:
    """The address of one end of an in-memory connection.

    :ivar name: which end it is, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"MemoryAddress({self.name!r})"


@implementer(ITransport, IConsumer, IPushProducer)
class MemoryTransport:
    """One end of an in-memory connection.

    :ivar disconnecting: whether `loseConnection` was called.
    :ivar disconnected: whether `connectionLost` of its protocol was called, or is scheduled.
    :ivar protocol: the protocol at this end.
    :ivar other: the other end.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorTime, name: str) -> None:
        self._reactor = reactor
        self._address = MemoryAddress(name)
        self._outgoing: list[bytes] = []
        self._size = 0
        self._delivery_scheduled = False
        self._reading_paused = False
        self._receiving = False
        self._producer: Any = None
        self._streaming = True
        self._producer_paused = False
        self.disconnecting = False
        self.disconnected = False
        self.protocol: Any = None
        self.other: MemoryTransport = self

    # For the protocol at this end.

    def write(self, data: bytes) -> None:
        if not isinstance(data, bytes):
            raise TypeError(f"data must be bytes, not {type(data).__name__}")
        if data and not self.disconnected:
            self._outgoing.append(data)
            self._size += len(data)
            if self._size > BUFFER or not self._streaming:
                self._pace_producer()
            if not self._delivery_scheduled:
                self._delivery_scheduled = True
                self._reactor.callLater(0, self._deliver)

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close it once everything was sent and the producer is unregistered. Nothing more is received."""
        if not (self.disconnecting or self.disconnected):
            self.disconnecting = True
            self._schedule_delivery()

    def abortConnection(self) -> None:
        """Close it now; what is in transit in either direction is lost."""
        self._disconnect(ConnectionAborted(), ConnectionLost())

    def getPeer(self) -> MemoryAddress:
        return self.other._address

    def getHost(self) -> MemoryAddress:
        return self._address

    def pauseProducing(self) -> None:
        self._reading_paused = True

    def resumeProducing(self) -> None:
        self._reading_paused = False
        self.other._schedule_delivery()

    def stopProducing(self) -> None:
        self.loseConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self._producer is not None:
            raise RuntimeError("unregister the producer before another one is registered")
        if self.disconnected:
            producer.stopProducing()
            return
        self._producer, self._streaming, self._producer_paused = producer, streaming, False
        self._pace_producer()

    def unregisterProducer(self) -> None:
        self._producer = None
        self._schedule_delivery()

    # In later turns of the reactor.

    def _schedule_delivery(self) -> None:
        if not (self._delivery_scheduled or self.disconnected):
            self._delivery_scheduled = True
            self._reactor.callLater(0, self._deliver)

    def _deliver(self) -> None:
        self._delivery_scheduled = False
        if self.disconnected or self.other._reading_paused or self.other._receiving:
            return
        data = self._outgoing[0] if len(self._outgoing) == 1 else b"".join(self._outgoing)
        self._outgoing.clear()
        self._size = 0
        if data and not self.other.disconnecting:
            self.other._receive(data)
        if self._producer_paused or not self._streaming:
            self._pace_producer()
        if self.disconnecting and not self._outgoing and self._producer is None:
            self._disconnect(ConnectionDone(), ConnectionDone())

    def _receive(self, data: bytes) -> None:
        # A protocol that advances the clock must not be re-entered.
        self._receiving = True
        try:
            self.protocol.dataReceived(data)
        except Exception as error:  # as the reactor does, which logs what a protocol raises, and closes its connection
            self._log.failure("connection closed: dataReceived raised an exception")
            self._disconnect(error, ConnectionLost())
        finally:
            self._receiving = False
            if self.other._outgoing or self.other.disconnecting:
                self.other._schedule_delivery()

    def _pace_producer(self) -> None:
        if self._producer is None or self.disconnected:
            return
        full = self._size > BUFFER
        if not self._streaming:
            if not self._outgoing:
                self._producer.resumeProducing()
        elif full and not self._producer_paused:
            self._producer_paused = True
            self._producer.pauseProducing()
        elif not full and self._producer_paused:
            self._producer_paused = False
            self._producer.resumeProducing()

    def _disconnect(self, own_reason: BaseException, other_reason: BaseException) -> None:
        for end, reason in ((self, own_reason), (self.other, other_reason)):
            if not end.disconnected:
                end.disconnected = True
                end._outgoing.clear()
                self._reactor.callLater(0, end._notify_lost, Failure(reason))

    def _notify_lost(self, reason: Failure) -> None:
        producer, self._producer = self._producer, None
        protocol, self.protocol = self.protocol, None
        try:
            if producer is not None:
                producer.stopProducing()
            protocol.connectionLost(reason)
        except Exception:  # as above
            self._log.failure("connectionLost raised an exception")


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """An endpoint that connects to a `MemoryJobServer` without a socket: `MemoryJobServer.endpoint`.

    :ivar server_name: the server's name, by which clients know it.
    """

    def __init__(self, reactor: IReactorTime, server_factory: Factory, faults: Faults, name: str = "memory") -> None:
        self.server_name = name
        self._reactor = reactor
        self._server_factory = server_factory
        self._faults = faults

    def __repr__(self) -> str:
        return f"<MemoryEndpoint to {self.server_name}>"

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """Connect, in a later turn of the reactor.

        :return: fires with the client's protocol; fails with `ConnectionRefusedError` while the server refuses
            connections, or with what the factory raises. Cancelling it abandons the attempt.
        """
        client = MemoryTransport(self._reactor, "client")

        def cancel(_: object) -> None:
            if call.active():
                call.cancel()
            if client.protocol is None:
                client.disconnected = True
            else:
                client.abortConnection()

        attempt: Deferred[Any] = Deferred(cancel)
        call = self._reactor.callLater(0, self._establish, client, protocolFactory, attempt)
        return attempt

    def _establish(self, client: MemoryTransport, client_factory: Factory, attempt: Deferred[Any]) -> None:
        if self._faults.refuses_connection():
            attempt.errback(ConnectionRefusedError())
        elif not self._faults.black_holes_connection():
            try:
                protocol = self._connect(client, client_factory)
            except Exception:  # whatever the factory raises is the outcome of the attempt
                attempt.errback()
            else:
                if not attempt.called:
                    attempt.callback(protocol)

    def _connect(self, client: MemoryTransport, client_factory: Factory) -> Any:
        server = MemoryTransport(self._reactor, "server")
        protocol = client_factory.buildProtocol(server.getHost())
        if protocol is None:
            raise NoProtocol
        if client.disconnected:  # the factory has cancelled the attempt
            return None
        server.protocol = self._server_factory.buildProtocol(client.getHost())
        client.protocol, client.other, server.other = protocol, server, client
        if server.protocol is None:
            server.protocol = Protocol()
            server.loseConnection()
        server.protocol.makeConnection(server)
        protocol.makeConnection(client)
        return protocol
