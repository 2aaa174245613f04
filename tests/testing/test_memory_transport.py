"""In-memory connections behave as Twisted's transports do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost, ConnectionRefusedError, NoProtocol
from twisted.internet.interfaces import IAddress, IConsumer, IPullProducer, IPushProducer, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from zope.interface import implementer
from zope.interface.verify import verifyObject

from txgearman.testing import MemoryAddress, MemoryEndpoint
from txgearman.testing.faults import Faults
from txgearman.testing.memory_transport import BUFFER

from ..conftest import Failures
from ..wire import outcome
from .peer import Recorder

Act = Callable[[Recorder], object]


class RecordingFactory(Factory):
    """Factory that records the protocols that it builds."""

    noisy = False

    def __init__(self, make: Callable[[], Any] = Recorder) -> None:
        self._make = make
        self.built: list[Any] = []

    def buildProtocol(self, addr: Any) -> Any:
        self.built.append(self._make())
        return self.built[-1]


class Network:
    """A clock, an endpoint, and the factories of both its ends."""

    def __init__(self, make_client: Callable[[], Any] = Recorder, make_server: Callable[[], Any] = Recorder) -> None:
        self.clock = Clock()
        self.faults = Faults(self.clock, [], "memory")
        self.clients = RecordingFactory(make_client)
        self.serve(make_server)

    def serve(self, make_server: Callable[[], Any]) -> None:
        self.servers = RecordingFactory(make_server)
        self.endpoint = MemoryEndpoint(self.clock, self.servers, self.faults)

    def attempt(self) -> Deferred[Any]:
        return self.endpoint.connect(self.clients)

    def ends(self) -> tuple[Recorder, Recorder]:
        """Connect, and return the protocols of the client and the server."""
        fired = outcome(self.attempt())
        self.settle()
        assert fired == self.clients.built
        return self.clients.built[-1], self.servers.built[-1]

    def settle(self) -> None:
        self.clock.advance(0)

    def is_still(self) -> bool:
        """Return whether nothing is scheduled."""
        return not self.clock.getDelayedCalls()


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture(params=["client", "server"])
def ends(request: pytest.FixtureRequest, network: Network) -> tuple[Recorder, Recorder]:
    """Both ends of a connection. The tests act on the first: once the client, once the server."""
    client, server = network.ends()
    return (client, server) if request.param == "client" else (server, client)


@implementer(IPushProducer, IPullProducer)
class Producer:
    """Producer that writes one piece at each resume, and unregisters when it has no more.

    :ivar calls: the calls of the transport.
    """

    def __init__(self, end: Recorder, *pieces: bytes) -> None:
        self._transport = end.transport
        self._pieces = list(pieces)
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def stopProducing(self) -> None:
        self.calls.append("stop")

    def resumeProducing(self) -> None:
        self.calls.append("resume")
        if self._pieces:
            self._transport.write(self._pieces.pop(0))
        else:
            self._transport.unregisterProducer()


# Data that is written arrives.


@pytest.mark.guarantee(number=15)
def test_writes_of_one_turn_arrive_in_order_in_one_piece(network: Network, ends: tuple[Recorder, Recorder]) -> None:
    here, there = ends
    here.transport.write(b"a")
    here.transport.writeSequence([b"b", b"", b"c"])
    assert there.pieces == []
    network.settle()
    assert there.pieces == [b"abc"]
    here.transport.write(b"d")
    network.settle()
    assert there.pieces == [b"abc", b"d"]
    assert network.is_still()


def test_directions_are_independent(network: Network, ends: tuple[Recorder, Recorder]) -> None:
    here, there = ends
    here.transport.write(b"there")
    there.transport.write(b"here")
    network.settle()
    assert (here.pieces, there.pieces) == ([b"here"], [b"there"])


def test_answer_written_while_receiving_arrives_in_later_turn() -> None:
    """dataReceived of one end is never called within that of the other."""
    depth: list[bytes] = []

    class Ball(Recorder):
        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            assert not depth
            depth.append(data)
            if len(data) < 5:
                self.transport.write(data + b"x")
            depth.pop()

    network = Network(Ball, Ball)
    client, server = network.ends()
    client.transport.write(b"x")
    network.settle()
    assert server.pieces == [b"x", b"xxx", b"xxxxx"]
    assert client.pieces == [b"xx", b"xxxx"]


@pytest.mark.parametrize("seconds", [0, 1])
def test_dataReceived_is_never_reentered(network: Network, seconds: int) -> None:  # noqa: N802
    """Even if it advances the clock, as a callback does that plays the worker."""
    steps: list[tuple[str, bytes]] = []

    class Advancing(Recorder):
        def dataReceived(self, data: bytes) -> None:
            steps.append(("in", data))
            if data == b"first":
                network.servers.built[0].transport.write(b"second")
                network.clock.advance(seconds)
            steps.append(("out", data))

    network.clients = RecordingFactory(Advancing)
    _, server = network.ends()
    server.transport.write(b"first")
    network.settle()
    assert steps == [("in", b"first"), ("out", b"first"), ("in", b"second"), ("out", b"second")]


def test_write_takes_only_bytes(ends: tuple[Recorder, Recorder]) -> None:
    text: Any = "text"
    with pytest.raises(TypeError, match="data must be bytes, not str"):
        ends[0].transport.write(text)


def test_empty_write_is_not_received(network: Network, ends: tuple[Recorder, Recorder]) -> None:
    ends[0].transport.write(b"")
    assert network.is_still()


def test_addresses_name_both_ends(network: Network) -> None:
    client, server = network.ends()
    assert repr(client.transport.getHost()) == repr(server.transport.getPeer()) == "MemoryAddress('client')"
    assert repr(client.transport.getPeer()) == repr(server.transport.getHost()) == "MemoryAddress('server')"
    verifyObject(IAddress, MemoryAddress("anywhere"))


def test_transport_provides_interfaces_of_producers(network: Network) -> None:
    """Code that checks for a consumer, such as Twisted's own transports are, accepts it."""
    client, _ = network.ends()
    assert IConsumer.providedBy(StringTransport())
    assert IConsumer.providedBy(client.transport)


# Closing.


def test_loseConnection_sends_written_data_first(  # noqa: N802
    network: Network, ends: tuple[Recorder, Recorder]
) -> None:
    here, there = ends
    here.transport.write(b"last")
    here.transport.loseConnection()
    here.transport.loseConnection()
    assert here.transport.disconnecting
    assert not here.lost
    network.settle()
    assert there.pieces == [b"last"]
    assert here.lost_with() == there.lost_with() == [ConnectionDone]
    assert network.is_still()


def test_abortConnection_loses_data_in_transit(network: Network, ends: tuple[Recorder, Recorder]) -> None:  # noqa: N802
    here, there = ends
    here.transport.write(b"lost")
    there.transport.write(b"lost, too")
    here.transport.abortConnection()
    assert not here.lost, "before it returns"
    network.settle()
    assert here.pieces == there.pieces == []
    assert here.lost_with() == [ConnectionAborted]
    assert there.lost_with() == [ConnectionLost]
    assert network.is_still()


CLOSES: list[Act] = [
    lambda end: end.transport.loseConnection(),
    lambda end: end.transport.abortConnection(),
    lambda end: end.transport.stopProducing(),
]


@pytest.mark.parametrize("first", CLOSES)
@pytest.mark.parametrize("second", CLOSES)
@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("same", [False, True])
def test_connectionLost_is_called_once(network: Network, first: Act, second: Act, turns: bool, same: bool) -> None:  # noqa: N802
    """Whichever end closes, however often, and in whatever way."""
    client, server = network.ends()
    first(client)
    if turns:
        network.settle()
    second(client if same else server)
    network.settle()
    assert (len(client.lost), len(server.lost)) == (1, 1)
    assert network.is_still()


@pytest.mark.parametrize("close", CLOSES)
def test_data_written_to_lost_connection_is_ignored(
    network: Network, ends: tuple[Recorder, Recorder], close: Act
) -> None:
    here, there = ends
    close(here)
    network.settle()
    for end in ends:
        end.transport.write(b"too late")
        end.transport.pauseProducing()
        end.transport.resumeProducing()
        end.transport.unregisterProducer()
    network.settle()
    assert here.pieces == there.pieces == []
    assert network.is_still()


def test_nothing_is_received_after_own_loseConnection(  # noqa: N802
    network: Network, ends: tuple[Recorder, Recorder]
) -> None:
    """Twisted's transports stop reading then, too."""
    here, there = ends
    there.transport.pauseProducing()
    here.transport.write(b"in transit")
    here.transport.loseConnection()
    there.transport.write(b"not read any more")
    network.settle()
    assert here.pieces == []
    there.transport.resumeProducing()
    network.settle()
    assert there.pieces == [b"in transit"]
    assert here.pieces == []


def test_data_written_in_connectionLost_is_lost(network: Network) -> None:  # noqa: N802
    class Writing(Recorder):
        def connectionLost(self, reason: Any = None) -> None:
            super().connectionLost(reason)
            self.transport.write(b"but")
            self.transport.loseConnection()
            self.transport.abortConnection()

    network.clients = RecordingFactory(Writing)
    client, server = network.ends()
    server.transport.loseConnection()
    network.settle()
    assert (len(client.lost), len(server.lost), server.pieces) == (1, 1, [])
    assert network.is_still()


def test_exception_in_dataReceived_is_logged_and_closes_connection(  # noqa: N802
    network: Network, logged_failures: Failures
) -> None:
    class Broken(Recorder):
        def dataReceived(self, data: bytes) -> None:
            raise ZeroDivisionError

    network.serve(Broken)
    client, server = network.ends()
    client.transport.write(b"1/0")
    server.transport.write(b"never")
    network.settle()
    assert [type(error) for error in logged_failures.flush(ZeroDivisionError)] == [ZeroDivisionError]
    assert server.lost_with() == [ZeroDivisionError]
    assert client.lost_with() == [ConnectionLost]


def test_exception_in_connectionLost_is_logged(network: Network, logged_failures: Failures) -> None:  # noqa: N802
    """The other end is notified all the same, and other calls of this turn are made."""

    class Broken(Recorder):
        def connectionLost(self, reason: Any = None) -> None:
            raise ZeroDivisionError

    network.clients = RecordingFactory(Broken)
    _, server = network.ends()
    server.transport.abortConnection()
    network.settle()
    assert len(logged_failures.flush(ZeroDivisionError)) == 1
    assert server.lost_with() == [ConnectionAborted]


# Flow control.


def test_paused_transport_receives_after_resume(network: Network, ends: tuple[Recorder, Recorder]) -> None:
    here, there = ends
    there.transport.pauseProducing()
    here.transport.write(b"a")
    network.settle()
    here.transport.write(b"b")
    here.transport.loseConnection()
    network.settle()
    assert there.pieces == []
    assert not here.lost
    there.transport.resumeProducing()
    network.settle()
    assert there.pieces == [b"ab"]
    assert here.lost_with() == there.lost_with() == [ConnectionDone]


def test_paused_transport_is_notified_of_lost_connection(network: Network, ends: tuple[Recorder, Recorder]) -> None:
    here, there = ends
    there.transport.pauseProducing()
    here.transport.write(b"never")
    here.transport.loseConnection()
    network.settle()
    here.transport.abortConnection()
    network.settle()
    assert there.pieces == []
    assert here.lost_with() == [ConnectionAborted]
    assert there.lost_with() == [ConnectionLost]


def test_pause_within_dataReceived_delays_next_piece(network: Network) -> None:  # noqa: N802
    class OneAtATime(Recorder):
        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            self.transport.pauseProducing()
            network.clients.built[0].transport.write(b"2")

    network.serve(OneAtATime)
    client, server = network.ends()
    client.transport.write(b"1")
    network.settle()
    assert server.pieces == [b"1"]


def test_push_producer_is_paused_while_buffer_is_full(network: Network, ends: tuple[Recorder, Recorder]) -> None:
    here, there = ends
    producer = Producer(here)
    here.transport.registerProducer(producer, True)
    there.transport.pauseProducing()
    here.transport.write(b"x" * BUFFER)
    assert producer.calls == []
    here.transport.write(b"y")
    here.transport.write(b"z")
    assert producer.calls == ["pause"]
    network.settle()
    assert producer.calls == ["pause"]
    there.transport.resumeProducing()
    network.settle()
    assert producer.calls == ["pause", "resume"]
    assert b"".join(there.pieces) == b"x" * BUFFER + b"yz"


def test_producer_registered_while_buffer_is_full_is_paused_at_once(
    network: Network, ends: tuple[Recorder, Recorder]
) -> None:
    here, _ = ends
    here.transport.write(b"x" * (BUFFER + 1))
    producer = Producer(here)
    here.transport.registerProducer(producer, True)
    assert producer.calls == ["pause"]


def test_pull_producer_is_resumed_once_a_turn(network: Network, ends: tuple[Recorder, Recorder]) -> None:
    here, there = ends
    producer = Producer(here, b"a", b"b", b"c")
    here.transport.registerProducer(producer, False)
    assert producer.calls == ["resume"]
    network.settle()
    assert there.pieces == [b"a", b"b", b"c"]
    assert producer.calls == ["resume"] * 4
    assert network.is_still()


@pytest.mark.guarantee(number=15)
def test_loseConnection_waits_for_pull_producer(  # noqa: N802
    network: Network, ends: tuple[Recorder, Recorder]
) -> None:
    """As ITransport has it: data that the producer still writes arrives."""
    here, there = ends
    here.transport.registerProducer(Producer(here, b"a", b"b", b"c"), False)
    here.transport.loseConnection()
    network.settle()
    assert there.pieces == [b"a", b"b", b"c"]
    assert here.lost_with() == there.lost_with() == [ConnectionDone]


@pytest.mark.guarantee(number=15)
def test_loseConnection_waits_for_push_producer(  # noqa: N802
    network: Network, ends: tuple[Recorder, Recorder]
) -> None:
    here, there = ends
    here.transport.registerProducer(Producer(here), True)
    here.transport.loseConnection()
    network.settle()
    assert not here.lost
    here.transport.write(b"the rest")
    here.transport.unregisterProducer()
    network.settle()
    assert there.pieces == [b"the rest"]
    assert here.lost_with() == [ConnectionDone]


def test_second_producer_is_refused(ends: tuple[Recorder, Recorder]) -> None:
    here, _ = ends
    here.transport.registerProducer(Producer(here), True)
    with pytest.raises(RuntimeError, match="unregister the producer before another one is registered"):
        here.transport.registerProducer(Producer(here), True)
    here.transport.unregisterProducer()
    here.transport.registerProducer(Producer(here), True)


@pytest.mark.parametrize("streaming", [False, True])
def test_producer_is_stopped_once_when_connection_is_lost(
    network: Network, ends: tuple[Recorder, Recorder], streaming: bool
) -> None:
    here, there = ends
    producer = Producer(here, b"a")
    here.transport.registerProducer(producer, streaming)
    there.transport.abortConnection()
    network.settle()
    assert producer.calls[-1] == "stop"
    assert producer.calls.count("stop") == 1
    late = Producer(here)
    here.transport.registerProducer(late, streaming)
    assert late.calls == ["stop"]


@pytest.mark.parametrize("streaming", [False, True])
def test_producer_is_not_resumed_after_connection_is_lost(network: Network, streaming: bool) -> None:
    """The other end drops the connection while it receives."""

    class Dropper(Recorder):
        def dataReceived(self, data: bytes) -> None:
            self.transport.abortConnection()

    network.serve(Dropper)
    client, _ = network.ends()
    producer = Producer(client, b"a", b"b")
    client.transport.registerProducer(producer, streaming)
    if streaming:
        client.transport.write(b"x" * (BUFFER + 1))
    before = list(producer.calls)
    network.settle()
    assert producer.calls == [*before, "stop"]


# Connecting.


def test_repr_of_endpoint_names_its_server(network: Network) -> None:
    assert verifyObject(IStreamClientEndpoint, network.endpoint)
    assert repr(network.endpoint) == "<MemoryEndpoint to memory>"


def test_both_ends_are_connected_before_the_deferred_fires(network: Network) -> None:
    fired = outcome(network.attempt())
    assert (fired, network.clients.built) == ([], []), "before connect() returns"
    network.settle()
    assert fired == network.clients.built
    assert [end.connected for end in (fired[0], network.servers.built[0])] == [1, 1]


def test_data_sent_first_by_server_arrives(network: Network) -> None:
    class WritingFirst(Recorder):
        def connectionMade(self) -> None:
            self.transport.write(b"welcome")

    network.serve(WritingFirst)
    client, _ = network.ends()
    network.settle()
    assert client.pieces == [b"welcome"]


@pytest.mark.guarantee(number=9)
def test_attempt_cancelled_before_its_turn_is_never_made(network: Network) -> None:
    attempt = network.attempt()
    fired = outcome(attempt)
    attempt.cancel()
    assert network.is_still()
    assert [type(error) for error in fired] == [CancelledError]
    assert network.clients.built == network.servers.built == []


def test_cancel_after_connect_has_no_effect(network: Network) -> None:
    attempt = network.attempt()
    fired = outcome(attempt)
    network.settle()
    attempt.cancel()
    network.settle()
    assert fired == network.clients.built
    assert not fired[0].lost


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("hook", ["buildProtocol", "connectionMade"])
def test_attempt_can_be_cancelled_while_it_succeeds(network: Network, hook: str) -> None:
    """It fails with CancelledError, once, and a connection that was begun is closed."""

    def client() -> Recorder:
        recorder = Recorder()
        if hook == "buildProtocol":
            attempt.cancel()
        else:
            recorder.connectionMade = attempt.cancel  # type: ignore[method-assign]
        return recorder

    network.clients = RecordingFactory(client)
    attempt = network.attempt()
    fired = outcome(attempt)
    network.settle()
    assert [type(error) for error in fired] == [CancelledError]
    assert all(len(server.lost) == 1 for server in network.servers.built)


def test_attempt_fails_if_client_factory_builds_no_protocol(network: Network) -> None:
    network.clients = RecordingFactory(lambda: None)
    fired = outcome(network.attempt())
    network.settle()
    assert [type(error) for error in fired] == [NoProtocol]
    assert network.servers.built == []


def test_connection_is_closed_if_server_factory_builds_no_protocol(network: Network) -> None:
    """As with the reactor: a factory refuses a connection in this way."""
    network.serve(lambda: None)
    client: Any = Recorder()
    network.clients = RecordingFactory(lambda: client)
    fired = outcome(network.attempt())
    network.settle()
    assert fired == [client] or isinstance(fired[0], ConnectionRefusedError)
    assert len(client.lost) == (fired == [client])


def test_attempt_fails_if_client_factory_raises(network: Network) -> None:
    """Twisted's endpoints, too, report it to the caller, not to the reactor."""
    network.clients = RecordingFactory(lambda: 1 / 0)
    fired = outcome(network.attempt())
    network.settle()
    assert [type(error) for error in fired] == [ZeroDivisionError]


def test_refused_attempt_builds_no_protocol(network: Network) -> None:
    fault = network.faults.refuse_connections()
    fired = outcome(network.attempt())
    network.settle()
    assert [type(error) for error in fired] == [ConnectionRefusedError]
    assert network.clients.built == network.servers.built == []
    assert fault.happened == 1


def test_black_holed_attempt_stays_pending(network: Network) -> None:
    """It can only be cancelled, even when new attempts succeed again."""
    fault = network.faults.black_hole_connections()
    attempt = network.attempt()
    fired = outcome(attempt)
    network.clock.advance(10000)
    fault.end()
    network.ends()
    assert (fired, fault.happened) == ([], 1)
    attempt.cancel()
    assert [type(error) for error in fired] == [CancelledError]
    assert network.is_still()
