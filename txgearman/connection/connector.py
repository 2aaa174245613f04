"""Lets a factory reconnect over any Twisted endpoint."""

from __future__ import annotations

from functools import partial
from typing import Generic

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import (
    ConnectError,
    NotConnectingError,
    UserError,
)
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IProtocol,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from .factory import ConnectionT, GearmanFactory

__all__ = [
    "EndpointConnector",
]


class _Dial(Factory, Generic[ConnectionT]):
    """What an endpoint gets for one attempt: builds the connection, unless the attempt was given up meanwhile."""

    noisy = False

    def __init__(self, connector: EndpointConnector[ConnectionT]) -> None:
        self._connector = connector

    def buildProtocol(  # type: ignore[override]  # as with GearmanFactory
        self, addr: IAddress | None
    ) -> ConnectionT | None:
        return self._connector.build_protocol(self, addr)


@implementer(IConnector)
class EndpointConnector(Generic[ConnectionT]):
    """Connects a `GearmanFactory` through an endpoint, as often as the factory wants.

    Endpoints of their own accord connect once, and keep what happens to the connection from the factory.
    """

    def __init__(self, endpoint: IStreamClientEndpoint, factory: GearmanFactory[ConnectionT]) -> None:
        self._endpoint = endpoint
        self._factory = factory
        self._dial: _Dial[ConnectionT] | None = None
        self._attempt: Deferred[IProtocol] | None = None
        self.state = "disconnected"
        """``"disconnected"``, ``"connecting"`` or ``"connected"``, as with Twisted's own connectors."""

    def connect(self) -> None:
        """Make an attempt; the factory is told what comes of it."""
        if self.state != "disconnected":
            raise RuntimeError(f"already {self.state}")
        self.state = "connecting"
        dial = self._dial = _Dial(self)
        self._factory.doStart()
        self._factory.startedConnecting(self)
        attempt = maybeDeferred(self._endpoint.connect, dial)
        if self._dial is dial:
            self._attempt = attempt
        else:  # it is over by now
            attempt.cancel()
        attempt.addCallback(self._made, dial).addErrback(self._failed, dial)

    def stopConnecting(self) -> None:
        """Give up the attempt under way.

        :raises twisted.internet.error.NotConnectingError: there is none.
        """
        if self.state != "connecting":
            raise NotConnectingError("no attempt is under way")
        if self._attempt is not None:
            self._attempt.cancel()
        else:  # the endpoint has not even returned
            self._failed(Failure(UserError()), self._dial)

    def disconnect(self) -> None:
        """Close the connection, or give up the attempt to make one."""
        if self.state == "connecting":
            self.stopConnecting()
        elif self._factory.connection is not None:
            self._factory.connection.transport.loseConnection()

    def getDestination(self) -> IStreamClientEndpoint:  # type: ignore[override]  # an endpoint's address is its own
        """The endpoint: only it knows where it leads."""
        return self._endpoint

    def build_protocol(self, dial: _Dial[ConnectionT], address: IAddress | None) -> ConnectionT | None:
        """For the endpoint: None closes a connection that came too late."""
        if dial is not self._dial:
            return None
        self.state = "connected"
        connection = self._factory.buildProtocol(address)
        connection.on_connection_lost = partial(self._lost, dial)
        return connection

    def _made(self, _: object, dial: _Dial[ConnectionT]) -> None:
        if dial is self._dial and self.state == "connecting":
            raise ConnectError(string="the endpoint says it connected, and built no protocol")

    def _failed(self, reason: Failure, dial: _Dial[ConnectionT] | None) -> None:
        if dial is self._dial:
            connection = self._factory.connection
            self._over()
            self._factory.clientConnectionFailed(self, reason)
            if connection is not None and connection.connected:  # the endpoint wanted more than a connection
                assert isinstance(reason.value, Exception)
                connection.abort(reason.value)

    def _lost(self, dial: _Dial[ConnectionT], reason: Failure) -> None:
        if dial is self._dial:
            self._over()
            self._factory.clientConnectionLost(self, reason)

    def _over(self) -> None:
        self.state = "disconnected"
        self._dial = None
        self._attempt = None
        self._factory.doStop()
