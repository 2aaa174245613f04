"""Names with several addresses: each gets its turn, until one answers as a job server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionRefusedError, DNSLookupError
from twisted.internet.interfaces import IHostnameResolver, IReactorPluggableNameResolver
from twisted.internet.protocol import Factory, Protocol, ServerFactory
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from txgearman import ClientStopped, GearmanClient, ServerState
from txgearman.connection.connector import EndpointConnector
from txgearman.connection.factory import GearmanFactory
from txgearman.connection.names import NEXT_ADDRESS_DELAY, NameEndpoint
from txgearman.connection.protocol import GearmanProtocol
from txgearman.testing import MemoryJobServer

from ..wire import outcome

reactor: Any = global_reactor

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"


@implementer(IHostnameResolver)
class Resolver:
    """Finds the same addresses for each name, now or once the test says so."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts
        self.receivers: list[Any] = []
        self.at_once = True

    def resolveHostName(self, resolutionReceiver: Any, hostName: str, portNumber: int = 0, *_: Any, **__: Any) -> Any:
        self.receivers.append(resolutionReceiver)
        resolutionReceiver.resolutionBegan(None)
        if self.at_once:
            self.answer(portNumber)

    def answer(self, port: int) -> None:
        receiver = self.receivers.pop()
        for host in self.hosts:
            receiver.addressResolved((IPv6Address if ":" in host else IPv4Address)("TCP", host, port))
        receiver.resolutionComplete()


@implementer(IReactorPluggableNameResolver)
class Network(MemoryReactorClock):
    """A reactor in memory, and an endpoint of a name with several addresses."""

    def __init__(self, *hosts: str) -> None:
        super().__init__()
        self.resolver = self.nameResolver = Resolver(*hosts)
        self.endpoint = NameEndpoint(self, "jobs", 4730, lambda endpoint: endpoint)

    def installNameResolver(self, resolver: Any) -> Any:  # noqa: N802  # Twisted's name of it
        raise NotImplementedError

    def connect(self) -> Deferred[Any]:
        self.tcpClients.clear()
        return self.endpoint.connect(Factory.forProtocol(Protocol))

    def tried(self) -> list[str]:
        """The addresses of the last connect that were tried so far."""
        return [client[0] for client in self.tcpClients]

    def accept(self, index: int) -> Any:
        """Connect one of them; return its protocol."""
        host, port, factory, *_ = self.tcpClients[index]
        protocol = factory.buildProtocol(IPv4Address("TCP", host, port))
        assert protocol is not None
        protocol.makeConnection(StringTransport())
        return protocol

    def refuse(self, index: int) -> None:
        factory: Any = self.tcpClients[index][2]
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError(string=self.tried()[index])))

    def order(self) -> list[str]:
        """The addresses in the order in which a connect tries them."""
        self.connect().addErrback(lambda _: None)
        for index in range(len(self.resolver.hosts)):
            self.refuse(index)
        return self.tried()


def test_next_address_is_tried_at_once_after_refusal() -> None:
    network = Network(A, "::1", B)
    connected = outcome(network.connect())
    network.refuse(0)
    network.refuse(1)
    assert network.tried() == [A, "::1", B]
    network.accept(2)
    assert [type(protocol) for protocol in connected] == [Protocol]
    assert network.getDelayedCalls() == []


def test_next_address_is_tried_after_a_moment_of_silence_and_first_to_accept_is_taken() -> None:
    network = Network(A, B, C)
    connected = outcome(network.connect())
    network.advance(NEXT_ADDRESS_DELAY - 0.01)
    assert network.tried() == [A]
    network.advance(0.01)
    assert network.tried() == [A, B]
    network.accept(0)
    assert len(connected) == 1
    network.advance(NEXT_ADDRESS_DELAY)
    assert network.tried() == [A, B]
    assert [connector.stoppedConnecting for connector in network.connectors] == [False, True]
    assert network.getDelayedCalls() == []


def test_connect_fails_with_last_error_once_all_addresses_failed() -> None:
    network = Network(A, B)
    failed = outcome(network.connect())
    network.advance(NEXT_ADDRESS_DELAY)
    network.refuse(1)
    assert failed == []
    network.refuse(0)
    assert str(failed[0]) == str(ConnectionRefusedError(string=A))
    assert network.getDelayedCalls() == []


def test_connect_to_name_without_address_fails() -> None:
    (error,) = outcome(Network().connect())
    assert isinstance(error, DNSLookupError)


@pytest.mark.guarantee(number=11)
def test_cancelled_connect_leaves_nothing() -> None:
    network = Network(A, B, C)
    connected = network.connect()
    network.advance(NEXT_ADDRESS_DELAY)
    failed = outcome(connected)
    connected.cancel()
    assert isinstance(failed[0], CancelledError)
    assert [connector.stoppedConnecting for connector in network.connectors] == [True, True]
    assert network.getDelayedCalls() == []


@pytest.mark.guarantee(number=11)
def test_nothing_is_tried_after_connect_was_cancelled_during_look_up() -> None:
    network = Network(A)
    network.resolver.at_once = False
    connected = network.connect()
    outcome(connected)
    connected.cancel()
    network.resolver.answer(4730)
    assert network.tried() == []
    assert network.getDelayedCalls() == []


def test_addresses_that_did_not_answer_are_tried_last_and_the_last_of_them_at_the_end() -> None:
    network = Network(A, B, C)
    orders = [network.order()]
    for host in (A, B, C, A):
        network.endpoint.put_last(IPv4Address("TCP", host, 4730))
        orders.append(network.order())
    assert orders == [[A, B, C], [B, C, A], [C, A, B], [A, B, C], [B, C, A]]


def test_address_that_name_no_longer_has_is_forgotten() -> None:
    network = Network(A, B)
    network.endpoint.put_last(IPv4Address("TCP", A, 4730))
    network.resolver.hosts = (B, C)
    assert network.order() == [B, C]
    network.resolver.hosts = (A, B, C)
    assert network.order() == [A, B, C]


@pytest.mark.parametrize(("stopped", "order"), [(False, [B, A]), (True, [A, B])])
def test_address_is_put_last_by_loss_before_answer_unless_attempt_was_stopped(stopped: bool, order: list[str]) -> None:
    network = Network(A, B)
    factory: GearmanFactory[GearmanProtocol] = GearmanFactory(network)
    EndpointConnector(network.endpoint, factory).connect()
    protocol = network.accept(0)
    if stopped:
        factory.stop(ClientStopped())
    protocol.connectionLost(Failure(ConnectionDone()))
    factory.stop(ClientStopped())
    network.tcpClients.clear()
    assert network.order() == order


# Job servers behind a name.


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await deferLater(reactor, 0.001)


class Closer(Protocol):
    """A load balancer that has no job server: accepts and closes."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


class Silent(Protocol):
    """A load balancer that has no job server: accepts and says nothing."""


@pytest.fixture
def quick_reconnects(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("initialDelay", "delay", "maxDelay"):
        monkeypatch.setattr(GearmanFactory, name, 0.01)


@pytest.fixture
def two_addresses() -> Iterator[None]:
    """A resolver of the application that finds every name on both loopback addresses."""
    before = reactor.installNameResolver(Resolver("127.0.0.1", "::1"))
    yield
    reactor.installNameResolver(before)


class Balancer(ServerFactory):
    """A load balancer, and what it does with the connections that it has accepted."""

    def __init__(self, kind: Callable[[], Protocol]) -> None:
        self.accepted: list[Protocol] = []
        self._kind = kind

    def buildProtocol(self, addr: object) -> Protocol:
        self.accepted.append(self._kind())
        return self.accepted[-1]


@pytest.mark.guarantee(number=14)
@pytest.mark.usefixtures("quick_reconnects", "two_addresses")
@pytest.mark.parametrize(("kind", "connect_timeout"), [(Closer, 10.0), (Silent, 0.2)])
async def test_second_address_is_tried_if_first_accepts_but_is_no_job_server(
    kind: Callable[[], Protocol], connect_timeout: float
) -> None:
    """It costs one attempt; from then on the address that has answered is the first one."""
    balancer = Balancer(kind)
    listening = reactor.listenTCP(0, balancer, interface="127.0.0.1")
    port = listening.getHost().port
    server = MemoryJobServer(reactor)
    server.listen(port, "::1")
    async with GearmanClient([f"jobs:{port}"], server_wait=10.0, connect_timeout=connect_timeout) as client:
        await client.add_task_bg("work")
        server.connections[0].drop()
        await until(lambda: client.servers[0].state is not ServerState.READY)
        await client.add_task_bg("work")
    assert len(balancer.accepted) == 1
    assert server.queued("work") == [b"", b""]
    await listening.stopListening()
    await server.close()
