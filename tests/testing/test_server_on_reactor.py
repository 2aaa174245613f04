"""`MemoryJobServer` on a reactor, with ports and sockets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.error import CannotListenError, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory
from twisted.internet.ssl import PrivateCertificate

from txgearman import GearmanClient, TLSOptions
from txgearman.packets import ECHO_REQ, SUBMIT_JOB_BG
from txgearman.testing import MemoryJobServer

from ..certificates import Authority
from .peer import CREATED, ECHO, ECHOED, Recorder

reactor: Any = global_reactor


def test_listen_needs_a_reactor(server: MemoryJobServer) -> None:
    with pytest.raises(ValueError, match=r"listen\(\) needs the reactor, not a Clock: MemoryJobServer\(reactor\)"):
        server.listen()


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize(("interface", "start"), [("127.0.0.1", "127.0.0.1:"), ("::1", "[::1]:")])
async def test_listen(interface: str, start: str) -> None:
    """A client accepts the address that it returns."""
    server = MemoryJobServer(reactor)
    address = server.listen(interface=interface)
    assert address.startswith(start)
    client = GearmanClient([address])
    assert list(await client.echo()) == [address]
    created: Deferred[Any] = Deferred()
    deferred = client.add_task("reverse", b"abc", on_created=created.callback)
    await created
    server.take("reverse").complete(b"cba")
    assert await deferred == b"cba"
    assert server.connections[0].host == interface.encode()
    await client.stopService()
    await server.close()


@pytest.mark.guarantee(number=11)
async def test_server_on_reactor_has_in_memory_clients() -> None:
    server = MemoryJobServer(reactor)
    client = server.client()
    assert (await client.add_task_bg("reverse")).handle == b"H:memory:1"
    assert server.take("reverse").function == b"reverse"
    await server.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Twisted 22.4 leaves the socket open
async def test_listen_on_occupied_port_raises() -> None:
    """The server keeps working."""
    first, second = MemoryJobServer(reactor), MemoryJobServer(reactor)
    port = int(first.listen().rpartition(":")[2])
    with pytest.raises(CannotListenError):
        second.listen(port)
    assert second.listen() != first.listen()
    await first.close()
    await second.close()


async def on_port(server: MemoryJobServer) -> Any:
    """A raw connection over TCP."""
    host, _, port = server.listen().rpartition(":")
    return await TCP4ClientEndpoint(reactor, host, int(port)).connect(Factory.forProtocol(Awaiting))


class Awaiting(Recorder):
    """Recorder with Deferreds that fire when data was received, and when the connection is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.came: Deferred[None] = Deferred()
        self.gone: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if not self.came.called:
            self.came.callback(None)

    def connectionLost(self, reason: Any = None) -> None:
        super().connectionLost(reason)
        self.gone.callback(None)


@pytest.mark.guarantee(number=11)
async def test_close_closes_the_port() -> None:
    server = MemoryJobServer(reactor)
    peer = await on_port(server)
    peer.transport.write(ECHO)
    await peer.came
    assert peer.received() == ECHOED
    await server.close()
    await peer.gone
    assert server.connections == []
    await server.close()


@pytest.mark.guarantee(number=11)
async def test_close_has_closed_when_it_fires() -> None:
    """No connection is left, and no timer that would close it: trial would fail the test for either."""
    server = MemoryJobServer(reactor)
    peer = await on_port(server)
    peer.transport.write(ECHO)
    await peer.came
    before = set(reactor.getDelayedCalls())
    await server.close()
    left = list(server.connections), set(reactor.getDelayedCalls()) - before
    await peer.gone
    assert left == ([], set())


async def test_refuse_connections_on_a_port() -> None:
    """A connection is accepted and closed at once."""
    server = MemoryJobServer(reactor)
    refusing = server.refuse_connections()
    peer = await on_port(server)
    peer.gone.addTimeout(2, reactor)
    try:
        await peer.gone
        assert refusing.happened == 1
    finally:
        peer.transport.abortConnection()
        refusing.end()
        refusing.happened = 1
        await server.close()


async def asking(server: MemoryJobServer) -> Any:
    """Return a connection whose first request was sent."""
    count = len(server.connections)
    peer = await on_port(server)
    peer.transport.write(ECHO)
    while len(server.connections) == count:
        await turn()
    return peer


@pytest.mark.guarantee(number=10)
@pytest.mark.parametrize("meanwhile", ["nothing", "another silence"])
async def test_black_hole_connections_on_a_port(meanwhile: str) -> None:
    """A connection is accepted and never read from, even if new ones are, and another silence ends."""
    server = MemoryJobServer(reactor)
    with server.black_hole_connections() as hole:
        black_holed = await asking(server)
    if meanwhile != "nothing":
        server.fall_silent().end()
    good = await asking(server)
    await good.came
    await turn()
    assert hole.happened == 1
    for peer in (black_holed, good):
        peer.transport.abortConnection()
    await server.close()
    assert black_holed.pieces == []


def turn() -> Deferred[None]:
    """Wait for a turn of the reactor."""
    deferred: Deferred[None] = Deferred()
    reactor.callLater(0.01, deferred.callback, None)
    return deferred


async def test_fall_silent_on_a_port() -> None:
    server = MemoryJobServer(reactor)
    peer = await on_port(server)
    other = await asking(server)
    await other.came
    silence = server.fall_silent()
    peer.transport.write(ECHO)
    await turn()
    assert peer.pieces == []
    silence.end()
    await peer.came
    assert peer.received() == ECHOED
    await server.close()
    await peer.gone
    await other.gone


async def test_split_and_drop_on_a_port() -> None:
    """An answer arrives in pieces; another one is lost."""
    server = MemoryJobServer(reactor)
    peer = await on_port(server)
    server.split_answers(1)
    peer.transport.write(ECHO)
    while len(b"".join(peer.pieces)) < len(ECHOED):
        await turn()
    assert peer.received() == ECHOED
    server.drop_after(ECHO_REQ)
    peer.transport.write(ECHO)
    await peer.gone
    assert peer.lost_with()[0] in (ConnectionLost, ConnectionDone)
    await server.close()


async def test_server_is_factory_for_unix_sockets(tmp_path: Path) -> None:
    """Twisted 22.4 takes a unix socket for TCP."""
    server = MemoryJobServer(reactor)
    port: Any = reactor.listenUNIX(str(tmp_path / "gearman"), server)
    peer: Any = await UNIXClientEndpoint(reactor, str(tmp_path / "gearman")).connect(Factory.forProtocol(Awaiting))
    peer.came.addTimeout(5, reactor)
    peer.transport.write(SUBMIT_JOB_BG.request(b"reverse", b"", b""))
    try:
        await peer.came
        assert peer.received() == CREATED
        assert server.connections[0].host == b"memory"
    finally:
        peer.transport.abortConnection()
        await peer.gone
        await server.close()
        assert not port.connected


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")  # which Twisted does
async def test_port_of_tls_is_verified_and_closed_with_the_server(tmp_path: Path) -> None:
    """A port made by listenSSL, whose clients are complained of as others are."""
    authority = Authority(tmp_path / "ca")
    certificate = PrivateCertificate.loadPEM(authority.issue("localhost").read_bytes())
    server = MemoryJobServer(reactor)
    server._watch()
    port = reactor.listenSSL(0, server, certificate.options(), interface="127.0.0.1")
    client = GearmanClient([f"tls:localhost:{port.getHost().port}"], tls=TLSOptions(authority.roots))
    await client.add_task_bg("reverse")
    assert server.connections[0].host == b"127.0.0.1"
    with pytest.raises(AssertionError) as caught:
        await server.close()
    first, second, *_ = [line for line in str(caught.value).splitlines() if line.startswith("  - ")]
    assert "'reverse'" in first
    assert first.endswith("is queued, and nobody has looked at it")
    assert second.startswith("  - GearmanClient made at ")
    assert server.connections == []
    assert not port.connected
