"""The connector by which a factory reconnects over any Twisted endpoint."""

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
from .names import NameEndpoint

__all__ = [
    "EndpointConnector",
]


class _Dial(Factory, Generic[ConnectionT]):
    """Factory for one attempt of an endpoint. It builds no connection once the attempt was given up."""

    noisy = False

    def __init__(self, connector: EndpointConnector[ConnectionT]) -> None:
        self._connector = connector

    def buildProtocol(  # type: ignore[override]  # as with GearmanFactory
        self, addr: IAddress | None
    ) -> ConnectionT | None:
        return self._connector.build_protocol(self, addr)


@implementer(IConnector)
class EndpointConnector(Generic[ConnectionT]):
    """Connector between an endpoint and a `GearmanFactory`, for any number of attempts.

    An endpoint alone connects once, and does not report to the factory what happens to the connection.

    :ivar state: ``"disconnected"``, ``"connecting"`` or ``"connected"``, as with Twisted's own connectors.
    """

    def __init__(self, endpoint: IStreamClientEndpoint, factory: GearmanFactory[ConnectionT]) -> None:
        self._endpoint = endpoint
        self._factory = factory
        self._dial: _Dial[ConnectionT] | None = None
        self._attempt: Deferred[IProtocol] | None = None
        self._address: IAddress | None = None  # which the attempt has connected to
        self.state = "disconnected"

    def connect(self) -> None:
        """Start an attempt. Its outcome is reported to the factory."""
        if self.state != "disconnected":
            raise RuntimeError(f"already {self.state}")
        self.state = "connecting"
        dial = self._dial = _Dial(self)
        self._factory.doStart()
        self._factory.startedConnecting(self)
        attempt = maybeDeferred(self._endpoint.connect, dial)
        if self._dial is dial:
            self._attempt = attempt
        else:  # it has ended already
            attempt.cancel()
        attempt.addCallback(self._made, dial).addErrback(self._failed, dial)

    def stopConnecting(self) -> None:
        """Give up the current attempt.

        :raises twisted.internet.error.NotConnectingError: there is none.
        """
        if self.state != "connecting":
            raise NotConnectingError("no attempt is in progress")
        if self._attempt is not None:
            self._attempt.cancel()
        else:  # connect() of the endpoint has not returned yet
            self._failed(Failure(UserError()), self._dial)

    def disconnect(self) -> None:
        """Close the connection, or give up the current attempt."""
        if self.state == "connecting":
            self.stopConnecting()
        elif self._factory.connection is not None:
            self._factory.connection.transport.loseConnection()

    def getDestination(self) -> IStreamClientEndpoint:  # type: ignore[override]  # an endpoint's address is its own
        """Return the endpoint, which alone knows its address."""
        return self._endpoint

    def build_protocol(self, dial: _Dial[ConnectionT], address: IAddress | None) -> ConnectionT | None:
        """Build the connection of an attempt.

        :return: None if the attempt was given up, so that the endpoint closes the transport.
        """
        if dial is not self._dial:
            return None
        self.state = "connected"
        self._address = address
        connection = self._factory.buildProtocol(address)
        connection._on_connection_lost = partial(self._lost, dial)
        return connection

    def _made(self, _: object, dial: _Dial[ConnectionT]) -> None:
        if dial is self._dial and self.state == "connecting":
            raise ConnectError(string="the endpoint connected without building a protocol")

    def _failed(self, reason: Failure, dial: _Dial[ConnectionT] | None) -> None:
        if dial is self._dial:
            connection = self._factory.connection
            self._ended()
            self._factory.clientConnectionFailed(self, reason)
            if connection is not None and connection.connected:  # an endpoint may fail after its connect
                assert isinstance(reason.value, Exception)
                connection.abort(reason.value)

    def _lost(self, dial: _Dial[ConnectionT], reason: Failure) -> None:
        if dial is self._dial:
            self._ended()
            self._factory.clientConnectionLost(self, reason)

    def _put_silent_address_last(self) -> None:
        """Have another address of the name tried next if this one did not answer as a job server."""
        silent = self._address is not None and not self._factory._answered and self._factory.continueTrying
        if silent and isinstance(self._endpoint, NameEndpoint):
            self._endpoint.put_last(self._address)

    def _ended(self) -> None:
        self._put_silent_address_last()
        self._address = None
        self.state = "disconnected"
        self._dial = None
        self._attempt = None
        self._factory.doStop()
