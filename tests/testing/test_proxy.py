"""`FaultProxy` injects the faults that are requested, where and when, and otherwise passes everything."""

from __future__ import annotations

import gc
import random
import socket
import sys
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import DeferredList, ensureDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, ServerFactory, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from txgearman import GearmanClient, GearmanWorker, TaskLost
from txgearman.testing import Direction, Fault, FaultProxy, relay
from txgearman.testing.relay import BUFFER

from ..daemons import Gearmand, free_port

reactor: Any = global_reactor

TO_SERVER, TO_CLIENT = Direction.TO_SERVER, Direction.TO_CLIENT
SHORT = 0.05
"""Seconds of a delay."""
SMALL_BUFFER = 4096
"""Bytes that are requested for a small receive buffer. Linux allocates twice as many."""


async def turns(number: int = 20) -> None:
    """Wait for some turns, in which what is in transit would arrive."""
    for _ in range(number):
        await deferLater(reactor, 0)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await deferLater(reactor, 0.001)


class Peer(Protocol):
    """Protocol at one end of a connection, which records what it receives."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size = 0
        self.lost: list[BaseException] = []
        self.tcp: Any = None

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)

    def connectionMade(self) -> None:
        self.tcp = self.transport

    def dataReceived(self, data: bytes) -> None:
        self.pieces.append(data)
        self.size += len(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert reason.value is not None
        self.lost.append(reason.value)

    async def gets(self, size: int) -> bytes:
        """Wait for this many bytes in all."""
        await until(lambda: self.size >= size)
        return self.data

    async def loses(self) -> type[BaseException]:
        await until(lambda: self.lost)
        return type(self.lost[0])


@implementer(IHalfCloseableProtocol)
class HalfPeer(Peer):
    """Peer that stays connected when the other side closes its sending half."""

    ended = False

    def readConnectionLost(self) -> None:
        self.ended = True

    def writeConnectionLost(self) -> None:
        """Do nothing: the test closes it itself."""


class Server(ServerFactory):
    """The server behind the proxy, which the test controls."""

    noisy = False
    kind: type[Peer] = Peer

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.port = reactor.listenTCP(0, self, interface="127.0.0.1")
        self.address = f"127.0.0.1:{self.port.getHost().port}"

    def buildProtocol(self, addr: object) -> Peer:
        self.peers.append(self.kind())
        return self.peers[-1]

    def use_small_buffers(self) -> None:
        """Give new connections a small receive buffer."""
        self.port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)

    async def peer(self, place: int = 0) -> Peer:
        await until(lambda: len(self.peers) > place and self.peers[place].tcp)
        return self.peers[place]

    async def close(self) -> None:
        await self.port.stopListening()
        for peer in self.peers:
            peer.tcp.abortConnection()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    pytest_twisted.blockon(ensureDeferred(server.close()))


class Clients:
    """Opens connections, and closes them at the end of the test."""

    def __init__(self) -> None:
        self._peers: list[Peer] = []

    async def connect(self, proxy: FaultProxy, kind: type[Peer] = Peer) -> Peer:
        host, _, port = proxy.address.rpartition(":")
        endpoint = TCP4ClientEndpoint(reactor, host, int(port))
        self._peers.append(await connectProtocol(endpoint, kind()))
        return self._peers[-1]

    def connect_with_small_buffer(self, proxy: FaultProxy, kind: type[Peer] = Peer) -> Peer:
        """Return a new connection with a small receive buffer."""
        host, _, port = proxy.address.rpartition(":")
        peer = kind()
        with socket.socket() as connected:
            # Before it connects, as the size is announced to the other side then.
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
            connected.connect((host, int(port)))
            connected.setblocking(False)
            factory = Factory.forProtocol(lambda: peer)
            factory.noisy = False
            reactor.adoptStreamConnection(connected.fileno(), socket.AF_INET, factory)
        self._peers.append(peer)
        return peer

    async def attempt(self, proxy: FaultProxy) -> type[BaseException] | None:
        try:
            (await self.connect(proxy)).tcp.abortConnection()
        except Exception as error:
            return type(error)
        return None

    def close(self) -> None:
        for peer in self._peers:
            peer.tcp.abortConnection()


@pytest.fixture
def clients() -> Iterator[Clients]:
    clients = Clients()
    yield clients
    clients.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultProxy]:
    proxy = FaultProxy(server.address, reactor)
    yield proxy
    pytest_twisted.blockon(proxy.close(verify=False))


async def pair(clients: Clients, proxy: FaultProxy, server: Server) -> tuple[Peer, Peer]:
    """Return the two ends of a connection through the proxy."""
    place = len(server.peers)
    client = await clients.connect(proxy)
    return client, await server.peer(place)


def ends(client: Peer, server: Peer, direction: Direction) -> tuple[Peer, Peer]:
    """Return the sender and the receiver of a direction."""
    return (client, server) if direction is TO_SERVER else (server, client)


async def pair_with_small_buffer(
    clients: Clients, proxy: FaultProxy, server: Server, direction: Direction, kind: type[Peer] = Peer
) -> tuple[Peer, Peer]:
    """Return the sender and the receiver of a direction; the receiver has a small receive buffer."""
    server.kind = kind
    if direction is TO_SERVER:
        server.use_small_buffers()
        client = await clients.connect(proxy, kind)
    else:
        client = clients.connect_with_small_buffer(proxy, kind)
    return ends(client, await server.peer(), direction)


async def passes(proxy: FaultProxy, size: int) -> None:
    """Wait until the proxy has written this many bytes to its only connection."""
    (only,) = proxy._relays
    await until(lambda: sum(pipe.passed for pipe in only.pipes) >= size)


both_directions = pytest.mark.parametrize("direction", Direction)
ways_to_drop = pytest.mark.parametrize(("reset", "error"), [(False, ConnectionDone), (True, ConnectionLost)])


# Without a fault.


async def test_data_passes_unchanged(clients: Clients, proxy: FaultProxy, server: Server) -> None:
    client, peer = await pair(clients, proxy, server)
    there, back = random.Random(1).randbytes(3 * BUFFER), random.Random(2).randbytes(3 * BUFFER)
    client.tcp.write(there)
    peer.tcp.write(back)
    assert await peer.gets(len(there)) == there
    assert await client.gets(len(back)) == back


async def test_client_and_worker_use_proxy(gearmand: Gearmand) -> None:
    async with FaultProxy(gearmand.address) as there, FaultProxy(gearmand.address) as here:
        assert there.address != here.address
        worker = GearmanWorker([there.address])
        worker.register_function("reverse", lambda job: job.workload[::-1])
        async with worker, GearmanClient([here.address]) as client:
            assert await client.add_task("reverse", b"abc") == b"cba"
            assert (here.connections, there.connections) == (1, 1)
            here.drop_after(10, TO_CLIENT)
            with pytest.raises(TaskLost) as lost:
                await client.add_task("reverse", b"abc")
            assert not lost.value.acknowledged


async def test_proxy_listens_on_port_and_interface(server: Server, clients: Clients) -> None:
    port = free_port()
    async with FaultProxy(server.address, reactor, port=port) as proxy:
        assert proxy.address == f"127.0.0.1:{port}"
    async with FaultProxy(server.address, reactor, interface="::1") as proxy:
        assert proxy.address.startswith("[::1]:")
        with proxy.go_down():
            pass
        async with FaultProxy(proxy.address, reactor) as outer:
            client, peer = await pair(clients, outer, server)
            client.tcp.write(b"through two")
            assert await peer.gets(11) == b"through two"


async def test_server_may_be_named(server: Server, clients: Clients) -> None:
    """By its host's name: other than an IP address, it is looked up at each connect."""
    _, _, port = server.address.rpartition(":")
    async with FaultProxy(f"localhost:{port}", reactor) as proxy:
        client, peer = await pair(clients, proxy, server)
        client.tcp.write(b"by name")
        assert await peer.gets(7) == b"by name"


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda address: FaultProxy(address, Clock()), ValueError, "must provide IReactorTCP"),
        (lambda address: FaultProxy(address, reactor, port=65536), ValueError, "port must be from 0 to 65535"),
        (lambda address: FaultProxy("unix:/tmp/socket", reactor), ValueError, "'unix:/tmp/socket'"),
        (lambda address: FaultProxy("tls:localhost", reactor), ValueError, "'tls:localhost'"),
        (lambda address: FaultProxy("a b", reactor), ValueError, "an address must be"),
    ],
)
def test_invalid_arguments_make_no_proxy(make: Callable[[str], FaultProxy], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make("127.0.0.1:4730")


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda proxy: proxy.drop_after(0, TO_CLIENT), ValueError),
        (lambda proxy: proxy.drop_after(1, "there"), TypeError),
        (lambda proxy: proxy.drop_after(1, TO_CLIENT, times=0), ValueError),
        (lambda proxy: proxy.fall_silent("there"), TypeError),
        (lambda proxy: proxy.delay(0), ValueError),
        (lambda proxy: proxy.split(0), ValueError),
        (lambda proxy: proxy.corrupt_byte(-1, TO_CLIENT), ValueError),
        (lambda proxy: proxy.corrupt_byte(1.5, TO_CLIENT), ValueError),
        (lambda proxy: proxy.corrupt(0), ValueError),
        (lambda proxy: proxy.corrupt(1.5), ValueError),
    ],
)
async def test_invalid_arguments_inject_no_fault_into_proxy(
    make: Callable[[FaultProxy], object], error: type[Exception], proxy: FaultProxy
) -> None:
    with pytest.raises(error):
        make(proxy)
    proxy.verify()


# The ends of connections.


@both_directions
async def test_half_close_is_passed_on(
    direction: Direction, clients: Clients, proxy: FaultProxy, server: Server
) -> None:
    server.kind = HalfPeer
    client = await clients.connect(proxy, HalfPeer)
    sender, getter = ends(client, await server.peer(), direction)
    sender.tcp.write(b"the last")
    sender.tcp.loseWriteConnection()
    await until(lambda: getter.ended)  # type: ignore[attr-defined]  # both are HalfPeers here
    assert (getter.data, sender.lost, getter.lost) == (b"the last", [], [])
    getter.tcp.write(b"answer")
    assert await sender.gets(6) == b"answer"
    getter.tcp.loseConnection()
    assert await getter.loses() is ConnectionDone
    await until(lambda: not proxy.connections)


@both_directions
@pytest.mark.parametrize("reset", [False, True])
async def test_close_is_passed_on(
    direction: Direction, reset: bool, clients: Clients, proxy: FaultProxy, server: Server
) -> None:
    sender, getter = ends(*await pair(clients, proxy, server), direction)
    sender.tcp.write(b"the last")
    await getter.gets(8)
    if reset:
        sender.tcp.abortConnection()
    else:
        sender.tcp.loseConnection()
    assert await getter.loses() is (ConnectionLost if reset else ConnectionDone)
    await until(lambda: not proxy.connections)


async def test_connection_is_reset_if_server_is_unreachable(clients: Clients) -> None:
    proxy = FaultProxy(f"127.0.0.1:{free_port()}", reactor)
    client = await clients.connect(proxy)
    assert await client.loses() is ConnectionLost
    assert proxy.connections == 0
    await proxy.close()


@ways_to_drop
async def test_connection_can_be_dropped_before_server_is_reached(
    reset: bool, error: type[Exception], clients: Clients, proxy: FaultProxy, server: Server
) -> None:
    client = await clients.connect(proxy)
    await until(lambda: proxy.connections)
    proxy.drop_connections(reset=reset)
    assert await client.loses() is error
    await until(lambda: not proxy.connections)


# Connections.


async def test_refuse_connections_lasts_until_last_fault_ends(
    clients: Clients, proxy: FaultProxy, server: Server
) -> None:
    """From the call on; open connections stay open."""
    client, peer = await pair(clients, proxy, server)
    address = proxy.address
    with proxy.refuse_connections():
        attempt = clients.attempt(proxy)
        with proxy.refuse_connections():
            assert await attempt is ConnectionRefusedError
        assert await clients.attempt(proxy) is ConnectionRefusedError
        client.tcp.write(b"still there")
        assert await peer.gets(11) == b"still there"
    assert proxy.address == address
    assert await clients.attempt(proxy) is None
    proxy.verify()


async def test_port_is_reserved_while_connections_are_refused(proxy: FaultProxy) -> None:
    """Another process that asks for any free port must not get it."""
    with proxy.refuse_connections(), socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", int(proxy.address.rpartition(":")[2])))


@ways_to_drop
async def test_go_down_drops_and_refuses_connections(
    reset: bool, error: type[Exception], clients: Clients, proxy: FaultProxy, server: Server
) -> None:
    client, peer = await pair(clients, proxy, server)
    with proxy.go_down(reset=reset):
        assert await clients.attempt(proxy) is ConnectionRefusedError
        assert (await client.loses(), await peer.loses()) == (error, error)
    assert await clients.attempt(proxy) is None


async def test_black_holed_connection_is_never_answered(clients: Clients, proxy: FaultProxy, server: Server) -> None:
    with proxy.black_hole_connections() as fault:
        client = await clients.connect(proxy)
        client.tcp.write(b"anyone?")
        await until(lambda: fault.happened)
    proxy.fall_silent().end()
    later, peer = await pair(clients, proxy, server)
    later.tcp.write(b"yes")
    assert await peer.gets(3) == b"yes"
    assert (len(server.peers), client.data, client.lost, fault.happened) == (1, b"", [], 1)


@ways_to_drop
async def test_drop_connections_closes_both_sides(
    reset: bool, error: type[Exception], clients: Clients, proxy: FaultProxy, server: Server
) -> None:
    client, peer = await pair(clients, proxy, server)
    proxy.drop_connections(reset=reset)
    proxy.drop_connections(reset=reset)
    assert (await client.loses(), await peer.loses()) == (error, error)
    await until(lambda: not proxy.connections)
    with pytest.raises(AssertionError, match="no client or worker is connected"):
        proxy.drop_connections()


@both_directions
@ways_to_drop
async def test_drop_after_passes_exact_number_of_bytes(
    direction: Direction, reset: bool, error: type[Exception], clients: Clients, proxy: FaultProxy, server: Server
) -> None:
    """They are counted from the call on, and they arrive."""
    client, peer = await pair(clients, proxy, server)
    sender, getter = ends(client, peer, direction)
    sender.tcp.write(b"12345")
    await getter.gets(5)
    fault = proxy.drop_after(BUFFER, direction, reset=reset)
    data = random.Random(3).randbytes(2 * BUFFER)
    getter.tcp.write(b"the other direction does not count")
    sender.tcp.write(data)
    assert await getter.loses() is error
    assert getter.data == b"12345" + data[:BUFFER]
    await sender.loses()
    await until(lambda: not proxy.connections)
    assert fault.happened == 1


async def test_drop_after_counts_on_each_connection(clients: Clients, proxy: FaultProxy, server: Server) -> None:
    """New connections are counted from their first byte; the nearest offset applies."""
    with proxy.drop_after(4, TO_SERVER, times=None) as fault, proxy.drop_after(6, TO_SERVER):
        for place in range(2):
            client, peer = await pair(clients, proxy, server)
            client.tcp.write(b"1234567")
            await peer.loses()
            assert (peer.data, fault.happened) == (b"1234", place + 1)
    client, peer = await pair(clients, proxy, server)
    client.tcp.write(b"1234567")
    assert await peer.gets(7) == b"1234567"


async def test_reset_waits_for_data_that_is_not_read(clients: Clients, proxy: FaultProxy, server: Server) -> None:
    """It waits for nothing else."""
    client, peer = await pair(clients, proxy, server)
    peer.tcp.pauseProducing()
    client.tcp.write(bytes(16 * BUFFER))
    await turns(200)
    fault = proxy.drop_after(1, TO_SERVER, reset=True)
    assert (fault.happened, peer.lost) == (0, [])
    peer.tcp.resumeProducing()
    assert await client.loses() is ConnectionLost
    assert await peer.loses() is ConnectionLost
    assert fault.happened == 1


# Nothing that was sent before is lost with the connection, even if it is not read at once.

MORE_THAN_BUFFER = 16384
"""Bytes, most of which stay in the proxy's kernel while a receiver with a small receive buffer does not read."""

only_on_linux = pytest.mark.skipif(sys.platform != "linux", reason="what the peer's kernel has is not known")


class SendingPeer(Peer):
    """Peer that keeps sending, so that some of it is unread at any time."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.tcp.write(bytes(1000))


@only_on_linux
@both_directions
@ways_to_drop
@pytest.mark.parametrize("kind", [Peer, SendingPeer])
async def test_drop_after_passes_exact_number_of_bytes_into_small_buffer(
    direction: Direction,
    reset: bool,
    error: type[Exception],
    kind: type[Peer],
    clients: Clients,
    proxy: FaultProxy,
    server: Server,
) -> None:
    sender, getter = await pair_with_small_buffer(clients, proxy, server, direction, kind)
    proxy.drop_after(BUFFER, direction, reset=reset)
    data = random.Random(8).randbytes(2 * BUFFER)
    sender.tcp.write(data)
    assert await getter.loses() is error
    assert getter.data == data[:BUFFER]
    await until(lambda: not proxy.connections)


@only_on_linux
@both_directions
async def test_reset_is_passed_on_after_sent_data(
    direction: Direction, clients: Clients, proxy: FaultProxy, server: Server
) -> None:
    sender, getter = await pair_with_small_buffer(clients, proxy, server, direction)
    getter.tcp.pauseProducing()
    data = random.Random(9).randbytes(MORE_THAN_BUFFER)
    sender.tcp.write(data)
    await passes(proxy, len(data))
    sender.tcp.abortConnection()
    await deferLater(reactor, SHORT)
    getter.tcp.resumeProducing()
    assert await getter.loses() is ConnectionLost
    assert getter.data == data
    await until(lambda: not proxy.connections)


@only_on_linux
@both_directions
async def test_reset_is_passed_on_after_half_close(
    direction: Direction, clients: Clients, proxy: FaultProxy, server: Server
) -> None:
    sender, getter = await pair_with_small_buffer(clients, proxy, server, direction, HalfPeer)
    getter.tcp.pauseProducing()
    data = random.Random(10).randbytes(MORE_THAN_BUFFER)
    sender.tcp.write(data)
    sender.tcp.loseWriteConnection()
    await passes(proxy, len(data))
    await turns()
    sender.tcp.abortConnection()
    getter.tcp.write(b"a reset is noticed only by a write")
    await deferLater(reactor, SHORT)
    assert proxy.connections == 1
    getter.tcp.resumeProducing()
    await until(lambda: getter.ended)  # type: ignore[attr-defined]  # it is a HalfPeer
    assert getter.data == data
    await until(lambda: not proxy.connections)


async def pair_with_full_buffer(
    clients: Clients, proxy: FaultProxy, server: Server, reset: bool, kind: type[Peer] = Peer
) -> Peer:
    """Return a peer whose receive buffer is full, and whose connection is to be dropped once it has read."""
    sender, getter = await pair_with_small_buffer(clients, proxy, server, TO_SERVER, kind)
    getter.tcp.pauseProducing()
    if kind is HalfPeer:
        getter.tcp.loseWriteConnection()
        await until(lambda: sender.ended)  # type: ignore[attr-defined]  # it is a HalfPeer, too
    fault = proxy.drop_after(MORE_THAN_BUFFER, TO_SERVER, reset=reset)
    sender.tcp.write(bytes(MORE_THAN_BUFFER))
    await until(lambda: fault.happened)
    await deferLater(reactor, SHORT)
    assert (proxy.connections, getter.lost) == (1, [])
    return getter


both_ways_to_drop = pytest.mark.parametrize("reset", [False, True])


@only_on_linux
@pytest.mark.parametrize(("reset", "kind"), [(False, Peer), (True, Peer), (True, HalfPeer)])
async def test_drop_does_not_wait_for_receiver_that_is_gone(
    reset: bool, kind: type[Peer], clients: Clients, proxy: FaultProxy, server: Server
) -> None:
    """Even if nothing is read from it and nothing is written to it any more."""
    getter = await pair_with_full_buffer(clients, proxy, server, reset, kind)
    getter.tcp.abortConnection()
    await until(lambda: not proxy.connections)


@only_on_linux
@both_ways_to_drop
async def test_drop_connections_does_not_wait_for_full_buffer(
    reset: bool, clients: Clients, proxy: FaultProxy, server: Server
) -> None:
    getter = await pair_with_full_buffer(clients, proxy, server, reset)
    proxy.drop_connections(reset=True)
    await until(lambda: not proxy.connections)
    getter.tcp.resumeProducing()
    assert await getter.loses() is ConnectionLost
    assert getter.size < MORE_THAN_BUFFER


@only_on_linux
@both_ways_to_drop
async def test_close_does_not_wait_for_full_buffer(
    reset: bool, clients: Clients, proxy: FaultProxy, server: Server
) -> None:
    getter = await pair_with_full_buffer(clients, proxy, server, reset)
    await proxy.close()
    assert getter.lost == []
    getter.tcp.resumeProducing()
    assert await getter.loses() is ConnectionLost


@pytest.mark.daemon
@only_on_linux
@both_ways_to_drop
async def test_drop_reads_from_receiver_that_sends_before_it_reads(
    reset: bool, clients: Clients, proxy: FaultProxy, server: Server
) -> None:
    """Otherwise it would never read."""
    sender, getter = await pair_with_small_buffer(clients, proxy, server, TO_SERVER)
    sender.tcp.pauseProducing()
    getter.tcp.pauseProducing()
    taken = Taking(getter, bytes(48 * BUFFER))
    await taken.stalls()
    assert taken.size < 48 * BUFFER
    proxy.drop_after(MORE_THAN_BUFFER, TO_SERVER, reset=reset)
    sender.tcp.write(bytes(MORE_THAN_BUFFER))
    await until(lambda: taken.size == 48 * BUFFER)
    getter.tcp.resumeProducing()
    await getter.loses()
    assert getter.size == MORE_THAN_BUFFER


@ways_to_drop
async def test_drop_after_on_systems_that_do_not_report_acknowledgements(
    reset: bool,
    error: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    clients: Clients,
    proxy: FaultProxy,
    server: Server,
) -> None:
    """On other systems than Linux, what the proxy's kernel has is sent all the same, even without a delay."""
    monkeypatch.setattr(relay, "sys", SimpleNamespace(platform="other"))
    monkeypatch.setattr(relay, "POLL_INTERVAL", 0)
    client, peer = await pair(clients, proxy, server)
    proxy.drop_after(5, TO_SERVER, reset=reset)
    client.tcp.write(b"123456")
    assert await peer.loses() is error
    assert peer.data == b"12345"
    await until(lambda: not proxy.connections)


# Silence.


@both_directions
async def test_silence_in_one_direction(
    direction: Direction, clients: Clients, proxy: FaultProxy, server: Server
) -> None:
    """What was sent meanwhile passes at the end of the fault, a close included."""
    sender, getter = ends(*await pair(clients, proxy, server), direction)
    with proxy.fall_silent(direction) as fault:
        sender.tcp.write(b"one way")
        getter.tcp.write(b"and back")
        assert await sender.gets(8) == b"and back"
        sender.tcp.loseConnection()
        await turns()
        assert (getter.data, getter.lost) == (b"", [])
    assert await getter.loses() is ConnectionDone
    assert (getter.data, fault.happened) == (b"one way", 1)


async def test_silence_holds_new_connections(clients: Clients, proxy: FaultProxy, server: Server) -> None:
    with proxy.fall_silent() as fault:
        client, peer = await pair(clients, proxy, server)
        client.tcp.write(b"there")
        peer.tcp.write(b"back")
        await turns()
        assert (client.data, peer.data, fault.happened) == (b"", b"", 1)
    assert (await peer.gets(5), await client.gets(4)) == (b"there", b"back")


async def test_silence_holds_delayed_data(clients: Clients, proxy: FaultProxy, server: Server) -> None:
    client, peer = await pair(clients, proxy, server)
    proxy.delay(SHORT)
    client.tcp.write(b"late")
    await turns()
    with proxy.fall_silent():
        await deferLater(reactor, 2 * SHORT)
        assert peer.data == b""
    assert await peer.gets(4) == b"late"


@pytest.mark.daemon
@both_directions
async def test_sender_is_paused_during_silence(
    direction: Direction, clients: Clients, proxy: FaultProxy, server: Server
) -> None:
    """The proxy buffers little; the rest stays with the sender."""
    sender, getter = ends(*await pair(clients, proxy, server), direction)
    data = random.Random(4).randbytes(32 * BUFFER)
    with proxy.fall_silent(direction):
        taken = Taking(sender, data)
        await taken.stalls()
        assert taken.size <= 16 * BUFFER
    assert await getter.gets(len(data)) == data


@pytest.mark.daemon
@both_directions
@pytest.mark.parametrize("late", [False, True])
async def test_sender_is_paused_if_receiver_does_not_read(
    direction: Direction, late: bool, clients: Clients, proxy: FaultProxy, server: Server
) -> None:
    sender, getter = ends(*await pair(clients, proxy, server), direction)
    data = random.Random(5).randbytes(48 * BUFFER)
    if late:
        proxy.delay(SHORT)
    getter.tcp.pauseProducing()
    taken = Taking(sender, data)
    await taken.stalls()
    assert taken.size <= 32 * BUFFER
    getter.tcp.resumeProducing()
    assert await getter.gets(len(data)) == data


class Taking:
    """Pull producer that sends as fast as the transport takes it, and counts the bytes."""

    def __init__(self, sender: Peer, data: bytes) -> None:
        self._tcp = sender.tcp
        self._data = data
        self.size = 0
        self._tcp.registerProducer(self, False)

    def resumeProducing(self) -> None:
        piece = self._data[self.size : self.size + 65536]
        self.size += len(piece)
        self._tcp.write(piece)
        if self.size == len(self._data):
            self._tcp.unregisterProducer()

    def stopProducing(self) -> None:
        """Do nothing: the test closes the connection."""

    async def stalls(self) -> None:
        """Wait until nothing more is taken."""
        before = -1
        while before != self.size:
            before = self.size
            await deferLater(reactor, 4 * SHORT)


# Delays.


@both_directions
async def test_delay_keeps_order(direction: Direction, clients: Clients, proxy: FaultProxy, server: Server) -> None:
    """The other direction is not delayed."""
    sender, getter = ends(*await pair(clients, proxy, server), direction)
    with proxy.delay(SHORT, direction) as fault:
        start = reactor.seconds()
        sender.tcp.write(b"1")
        getter.tcp.write(b"back")
        await sender.gets(4)
        assert getter.data == b""
        await turns()
        sender.tcp.write(b"2")
        sender.tcp.loseConnection()
        assert await getter.gets(1)
        assert reactor.seconds() - start >= SHORT
        assert await getter.loses() is ConnectionDone
        assert getter.data == b"12"
    assert fault.happened == 2


async def test_reset_is_delayed(clients: Clients, proxy: FaultProxy, server: Server) -> None:
    """What the other side sends before it arrives is lost."""
    client, peer = await pair(clients, proxy, server)
    with proxy.delay(SHORT, TO_CLIENT):
        peer.tcp.abortConnection()
        await turns()
        client.tcp.write(b"anyone?")
        await turns()
        assert client.lost == []
        assert await client.loses() is ConnectionLost
    assert peer.data == b""


async def test_delays_add_up_and_end(clients: Clients, proxy: FaultProxy, server: Server) -> None:
    client, peer = await pair(clients, proxy, server)
    start = reactor.seconds()
    with proxy.delay(1000), proxy.delay(SHORT):
        client.tcp.write(b"late")
        await deferLater(reactor, SHORT)
        assert peer.data == b""
    assert await peer.gets(4) == b"late"
    assert reactor.seconds() - start < 1000


# Pieces.


@both_directions
async def test_split_passes_pieces_separately(
    direction: Direction, clients: Clients, proxy: FaultProxy, server: Server
) -> None:
    """The smallest size applies; the last piece may be shorter."""
    sender, getter = ends(*await pair(clients, proxy, server), direction)
    with proxy.split(3, direction), proxy.split(5), proxy.delay(SHORT / 10):
        sender.tcp.write(b"12345678")
        getter.tcp.write(b"1234567")
        assert await getter.gets(8) == b"12345678"
        assert await sender.gets(7) == b"1234567"
    assert getter.pieces == [b"123", b"456", b"78"]
    assert sender.pieces == [b"12345", b"67"]


async def test_rest_passes_at_once_when_split_ends(clients: Clients, proxy: FaultProxy, server: Server) -> None:
    client, peer = await pair(clients, proxy, server)
    data = random.Random(6).randbytes(1000)
    with proxy.split(1):
        client.tcp.write(data)
        await peer.gets(10)
        with proxy.fall_silent():
            await turns()
            assert len(peer.data) < 100
    assert await peer.gets(1000) == data
    assert len(peer.pieces) < 200
    proxy.verify()


# Corruption.


@both_directions
async def test_corrupt_byte_inverts_one_byte(
    direction: Direction, clients: Clients, proxy: FaultProxy, server: Server
) -> None:
    client, peer = await pair(clients, proxy, server)
    sender, getter = ends(client, peer, direction)
    sender.tcp.write(b"before")
    await getter.gets(6)
    fault = proxy.corrupt_byte(3, direction)
    for _ in range(5):
        sender.tcp.write(b"ab")
        await turns()
    assert await getter.gets(16) == b"beforeaba" + bytes([ord("b") ^ 0xFF]) + b"ababab"
    assert fault.happened == 1


async def test_corrupt_alters_same_bytes_for_same_seed(clients: Clients, proxy: FaultProxy, server: Server) -> None:
    """And about as many as requested."""
    seen = []
    for _ in range(2):
        client, peer = await pair(clients, proxy, server)
        with proxy.corrupt(0.01, TO_SERVER, seed=7) as fault:
            client.tcp.write(bytes(10000))
            seen.append(await peer.gets(10000))
        assert 50 < fault.happened == 10000 - seen[0].count(0) < 200
    assert seen[0] == seen[1]


async def test_corrupt_with_rate_of_1_alters_every_byte(clients: Clients, proxy: FaultProxy, server: Server) -> None:
    client, peer = await pair(clients, proxy, server)
    with proxy.corrupt(1):
        client.tcp.write(bytes(100))
        assert 0 not in await peer.gets(100)
    assert client.data == b""


# Strictness, and the end.

NEVER_HAPPENED: list[tuple[Callable[[FaultProxy], Fault], str]] = [
    (
        lambda proxy: proxy.black_hole_connections(),
        "black_hole_connections() has not happened: no connection was attempted",
    ),
    (
        lambda proxy: proxy.drop_after(4, TO_CLIENT),
        "drop_after(4, Direction.TO_CLIENT) has not happened: fewer bytes have passed",
    ),
    (
        lambda proxy: proxy.corrupt_byte(4, TO_SERVER, times=None),
        "corrupt_byte(4, Direction.TO_SERVER) has not happened: fewer bytes have passed",
    ),
    (lambda proxy: proxy.corrupt(0.5), "corrupt(0.5) has not happened: no byte was chosen"),
    (lambda proxy: proxy.fall_silent(), "fall_silent() has not happened: there was no connection"),
    (
        lambda proxy: proxy.delay(1.5, *Direction),
        "delay(1.5, Direction.TO_SERVER, Direction.TO_CLIENT) has not happened: nothing has passed",
    ),
    (lambda proxy: proxy.split(1), "split(1) has not happened: nothing has passed"),
]


@pytest.mark.parametrize(("make", "text"), NEVER_HAPPENED)
async def test_fault_that_has_not_happened_fails_close(
    make: Callable[[FaultProxy], Fault], text: str, server: Server
) -> None:
    proxy = FaultProxy(server.address, reactor)
    make(proxy).end()
    with pytest.raises(AssertionError) as error:
        await proxy.close()
    assert str(error.value) == text
    await proxy.close(verify=False)


async def test_exception_of_test_takes_precedence_over_verify(server: Server) -> None:
    async def test() -> None:
        async with FaultProxy(server.address, reactor) as proxy:
            proxy.split(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await test()


async def test_close_leaves_nothing_in_reactor(clients: Clients, server: Server) -> None:
    """Whatever is delayed, in transit, or connecting: conftest.py checks that."""
    proxy = FaultProxy(server.address, reactor)
    client, peer = await pair(clients, proxy, server)
    proxy.delay(1000, TO_CLIENT)
    proxy.fall_silent(TO_SERVER)
    proxy.refuse_connections()
    client.tcp.write(b"there")
    peer.tcp.write(b"back")
    await turns()
    closing = [proxy.close(verify=False), proxy.close(verify=False)]
    await DeferredList(closing)
    assert (await client.loses(), await peer.loses()) == (ConnectionLost, ConnectionLost)
    assert (client.data, peer.data, proxy.connections) == (b"", b"", 0)
    assert await clients.attempt(proxy) is ConnectionRefusedError


async def test_end_of_fault_does_not_reopen_closed_proxy(clients: Clients, server: Server) -> None:
    proxy = FaultProxy(server.address, reactor)
    with proxy.refuse_connections():
        await proxy.close()
    assert await clients.attempt(proxy) is ConnectionRefusedError


async def test_close_while_connecting(clients: Clients) -> None:
    """To a server that does not answer."""
    async with FaultProxy("192.0.2.1:4730", reactor) as proxy:
        client = await clients.connect(proxy)
        await until(lambda: proxy.connections)
    assert await client.loses() is ConnectionLost


async def test_closed_connections_are_not_retained(clients: Clients, proxy: FaultProxy, server: Server) -> None:
    """Not by faults that count their bytes either."""
    client, peer = await pair(clients, proxy, server)
    proxy.drop_after(100, TO_SERVER)
    gone = [weakref.ref(relay) for relay in proxy._relays]
    client.tcp.loseConnection()
    await peer.loses()
    await until(lambda: not proxy.connections)
    await turns()
    gc.collect()
    assert [relay() for relay in gone] == [None]
