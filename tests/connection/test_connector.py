"""Connectors: endpoints, well-behaved or not, and Twisted's own. No socket, no real time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import (
    ConnectionDone,
    ConnectionLost,
    NotConnectingError,
    TimeoutError,
)
from twisted.internet.interfaces import IConnector, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from txgearman.connection.connector import EndpointConnector
from txgearman.connection.factory import GearmanFactory
from txgearman.connection.options import CONNECT_TIMEOUT
from txgearman.connection.protocol import GearmanProtocol
from txgearman.errors import ClientStopped

from ..wire import MemoryEndpoint, ServerSide, outcome
from .harness import (
    Net,
    OddEndpoint,
    backing_off,
    connected,
    connecting,
    never_connected,
)

# Endpoint connectors.


def test_endpoint_that_raises_is_a_failed_attempt() -> None:
    @implementer(IStreamClientEndpoint)
    class Raising:
        def connect(self, protocolFactory: Any) -> Deferred[Any]:
            raise OSError("no more files")

    net = Net()
    EndpointConnector(Raising(), net.factory).connect()
    assert [str(error) for error in net.listener.errors] == ["no more files"]
    assert net.delay < 2


def test_endpoint_connector_makes_one_connection_at_a_time() -> None:
    for net in (connecting(), connected()):
        with pytest.raises(RuntimeError, match="already connect"):
            net.connector.connect()
        assert net.endpoint.attempts == 1


@pytest.mark.parametrize("state", [never_connected, connected, backing_off])
def test_stop_connecting_raises_unless_connecting(state: Callable[[], Net]) -> None:
    with pytest.raises(NotConnectingError):
        state().connector.stopConnecting()


@pytest.mark.parametrize(
    ("state", "error"), [(connecting, CancelledError), (connected, ConnectionDone), (backing_off, ConnectionDone)]
)
def test_disconnect_ends_attempt_or_connection(state: Callable[[], Net], error: type[Exception]) -> None:
    net = state()
    net.connector.disconnect()
    net.clock.advance(0)
    assert net.connector.state == "disconnected"
    assert [type(error) for error in net.listener.errors] == [error]


def test_states_of_endpoint_connector() -> None:
    net = Net()
    assert IConnector.providedBy(net.connector)
    assert net.connector.getDestination() is net.endpoint
    seen = [net.connector.state]
    net.endpoint.black_hole = True
    net.connector.connect()
    seen.append(net.connector.state)
    net.endpoint.factories[0].buildProtocol(None)
    seen.append(net.connector.state)
    assert seen == ["disconnected", "connecting", "connected"]


@pytest.mark.parametrize("state", [never_connected, connecting, connected, backing_off])
def test_factory_is_started_and_stopped_equally_often(state: Callable[[], Net]) -> None:
    """Twisted counts, and calls `startFactory` and `stopFactory` by it."""
    net = state()
    assert net.factory.numPorts == (net.connector.state != "disconnected")
    net.factory.stop(ClientStopped())
    net.clock.advance(0)
    assert net.factory.numPorts == 0


# Connections and failures that come late.


@pytest.mark.guarantee(number=10)
def test_late_connection_is_refused() -> None:
    """Before the next attempt, and while it is under way."""
    net = Net()
    net.endpoint.black_hole = True
    net.connector.connect()
    net.clock.advance(CONNECT_TIMEOUT)
    late = net.endpoint.factories[0]
    assert late.buildProtocol(None) is None
    net.clock.advance(net.delay)
    assert len(net.endpoint.factories) == 2
    assert late.buildProtocol(None) is None
    assert net.endpoint.factories[1].buildProtocol(None) is net.connection


def test_attempt_that_fails_after_loss_of_its_connection_is_reported_once() -> None:
    """An endpoint may have something to do between the two."""
    net = connecting()
    connection = net.endpoint.factories[0].buildProtocol(None)
    server = ServerSide(net.clock, connection)
    connection.makeConnection(server.transport)
    server.lose()
    net.endpoint.pending[0].errback(ConnectionLost("later"))
    assert [type(error) for error in net.listener.errors] == [ConnectionDone]
    assert len(net.clock.getDelayedCalls()) == 1


@implementer(IStreamClientEndpoint)
class LookUpFirst:
    """Looks something up before it connects, and here has the answer at hand."""

    def __init__(self, endpoint: MemoryEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        return succeed(None).addCallback(lambda _: self._endpoint.connect(protocolFactory))


def looking_up_first() -> tuple[Net, EndpointConnector[GearmanProtocol]]:
    """An attempt whose Deferred has fired, but with another one that has not."""
    net = Net()
    net.endpoint.black_hole = True
    connector = EndpointConnector(LookUpFirst(net.endpoint), net.factory)
    connector.connect()
    return net, connector


@pytest.mark.guarantee(number=10)
def test_attempt_with_chained_deferred_times_out() -> None:
    net, _ = looking_up_first()
    net.clock.advance(CONNECT_TIMEOUT)
    assert [type(error) for error in net.listener.errors] == [TimeoutError]
    assert net.delay < 2


@pytest.mark.guarantee(number=11)
def test_attempt_with_chained_deferred_is_stopped() -> None:
    net, _ = looking_up_first()
    assert outcome(net.factory.stop(ClientStopped())) == [None]
    assert net.clock.getDelayedCalls() == []


# Endpoints that misbehave.


def failed() -> Deferred[Any]:
    return fail(ConnectionLost("a handshake after the connect"))


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize(
    ("outcome_of", "connects"), [(failed, True), (lambda: succeed(None), False)], ids=["fails after all", "no protocol"]
)
def test_endpoint_with_contradictory_outcome_is_a_failed_attempt(
    outcome_of: Callable[[], Deferred[Any]], connects: bool
) -> None:
    """One retry at a time follows, and nothing remains at the end."""
    clock = Clock()
    factory: GearmanFactory[GearmanProtocol] = GearmanFactory(clock)
    endpoint = OddEndpoint(clock, outcome_of, connects)
    EndpointConnector(endpoint, factory).connect()
    for attempts in range(1, 5):
        clock.advance(0)
        assert endpoint.attempts == attempts
        assert len(clock.getDelayedCalls()) == 1
        clock.advance((factory.next_attempt or 0) - clock.seconds())
    stopped = outcome(factory.stop(ClientStopped()))
    clock.advance(0)
    assert stopped == [None]
    assert clock.getDelayedCalls() == []
    assert all(server.transport.lost for server in endpoint.connections)


@pytest.mark.guarantee(number=11)
def test_factory_can_be_stopped_in_connect_of_endpoint() -> None:
    """A look-up may run the user's code."""
    clock = Clock()
    factory: GearmanFactory[GearmanProtocol] = GearmanFactory(clock)
    reported: list[Any] = []

    def stop() -> Deferred[Any]:
        reported.append(factory.stop(ClientStopped()))
        return Deferred()

    endpoint = OddEndpoint(clock, stop, connects=False)
    EndpointConnector(endpoint, factory).connect()
    assert outcome(reported[0]) == [None]
    assert clock.getDelayedCalls() == []
    assert endpoint.attempts == 1


# Twisted's own connectors.


@implementer(IConnector)
class PlainConnector:
    """Stands for Twisted's own, such as `reactor.connectTCP` returns."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def connect(self) -> None:
        self.calls.append("connect")

    def stopConnecting(self) -> None:
        self.calls.append("stopConnecting")

    def disconnect(self) -> None:
        self.calls.append("disconnect")

    def getDestination(self) -> Any:
        """Of no interest."""


class PlainNet:
    """A factory that is used by `reactor.connectTCP`, without an observer."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.factory: GearmanFactory[GearmanProtocol] = GearmanFactory(self.clock)
        self.connector = PlainConnector()
        self.factory.startedConnecting(self.connector)

    def accept(self) -> ServerSide:
        connection = self.factory.buildProtocol(None)
        server = ServerSide(self.clock, connection)
        connection.makeConnection(server.transport)
        return server

    def lose(self, server: ServerSide) -> None:
        server.lose()
        self.factory.clientConnectionLost(self.connector, Failure(ConnectionDone()))


def test_plain_connector_reconnects() -> None:
    net = PlainNet()
    waiting = outcome(net.factory.when_ready())
    server = net.accept()
    server.send_opening()
    assert waiting == [net.factory.connection]
    net.lose(server)
    assert net.factory.connection is None
    net.clock.advance(2)
    assert net.connector.calls == ["connect"]


@pytest.mark.guarantee(number=10)
def test_plain_connector_stops_connecting_at_timeout() -> None:
    net = PlainNet()
    waiting = outcome(net.factory.when_ready())
    net.clock.advance(CONNECT_TIMEOUT)
    assert net.connector.calls == ["stopConnecting"]
    net.factory.clientConnectionFailed(net.connector, Failure(ConnectionLost("given up")))
    assert [type(error) for error in waiting] == [TimeoutError]


@pytest.mark.guarantee(number=11)
def test_plain_connector_does_not_reconnect_after_stop() -> None:
    net = PlainNet()
    server = net.accept()
    server.send_opening()
    stopped = outcome(net.factory.stop(ClientStopped()))
    assert server.transport.disconnecting
    net.lose(server)
    assert stopped == [None]
    net.clock.advance(3600)
    assert "connect" not in net.connector.calls
