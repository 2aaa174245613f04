"""The wire in memory does what a transport of Twisted's does."""

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


class Listener(Factory):
    """A factory that knows what it has built."""

    noisy = False

    def __init__(self, make: Callable[[], Any] = Recorder) -> None:
        self._make = make
        self.built: list[Any] = []

    def buildProtocol(self, addr: Any) -> Any:
        self.built.append(self._make())
        return self.built[-1]


class Wire:
    """A clock, an endpoint, and what is at both ends of it."""

    def __init__(self, make_client: Callable[[], Any] = Recorder, make_server: Callable[[], Any] = Recorder) -> None:
        self.clock = Clock()
        self.faults = Faults(self.clock, [])
        self.clients = Listener(make_client)
        self.serve(make_server)

    def serve(self, make_server: Callable[[], Any]) -> None:
        self.servers = Listener(make_server)
        self.endpoint = MemoryEndpoint(self.clock, self.servers, self.faults)

    def attempt(self) -> Deferred[Any]:
        return self.endpoint.connect(self.clients)

    def ends(self) -> tuple[Recorder, Recorder]:
        """Connect; the client's end and the server's."""
        told = outcome(self.attempt())
        self.settle()
        assert told == self.clients.built
        return self.clients.built[-1], self.servers.built[-1]

    def settle(self) -> None:
        self.clock.advance(0)

    def is_still(self) -> bool:
        """Nothing is left to happen."""
        return not self.clock.getDelayedCalls()


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture(params=["client", "server"])
def ends(request: pytest.FixtureRequest, wire: Wire) -> tuple[Recorder, Recorder]:
    """Both ends of a wire; the tests act on the first, which is the client's, and then the server's."""
    client, server = wire.ends()
    return (client, server) if request.param == "client" else (server, client)


@implementer(IPushProducer, IPullProducer)
class Producer:
    """Writes what it is given when it is told to go on; unregisters when it has no more."""

    def __init__(self, end: Recorder, *pieces: bytes) -> None:
        self._transport = end.transport
        self._pieces = list(pieces)
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def stopProducing(self) -> None:
        self.told.append("stop")

    def resumeProducing(self) -> None:
        self.told.append("resume")
        if self._pieces:
            self._transport.write(self._pieces.pop(0))
        else:
            self._transport.unregisterProducer()


# What is written arrives.


@pytest.mark.guarantee(number=15)
def test_one_turns_writes_arrive_in_order_in_one_piece(wire: Wire, ends: tuple[Recorder, Recorder]) -> None:
    here, there = ends
    here.transport.write(b"a")
    here.transport.writeSequence([b"b", b"", b"c"])
    assert there.pieces == []
    wire.settle()
    assert there.pieces == [b"abc"]
    here.transport.write(b"d")
    wire.settle()
    assert there.pieces == [b"abc", b"d"]
    assert wire.is_still()


def test_the_directions_are_independent(wire: Wire, ends: tuple[Recorder, Recorder]) -> None:
    here, there = ends
    here.transport.write(b"there")
    there.transport.write(b"here")
    wire.settle()
    assert (here.pieces, there.pieces) == ([b"here"], [b"there"])


def test_an_answer_written_while_receiving_comes_in_a_turn_of_its_own() -> None:
    """Nobody's dataReceived is run within another's."""
    depth: list[bytes] = []

    class Ball(Recorder):
        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            assert not depth
            depth.append(data)
            if len(data) < 5:
                self.transport.write(data + b"x")
            depth.pop()

    wire = Wire(Ball, Ball)
    client, server = wire.ends()
    client.transport.write(b"x")
    wire.settle()
    assert server.pieces == [b"x", b"xxx", b"xxxxx"]
    assert client.pieces == [b"xx", b"xxxx"]


@pytest.mark.parametrize("seconds", [0, 1])
def test_dataReceived_is_never_entered_twice(wire: Wire, seconds: int) -> None:  # noqa: N802
    """Even where it lets the clock go on, as a callback does that plays the worker."""
    steps: list[tuple[str, bytes]] = []

    class Impatient(Recorder):
        def dataReceived(self, data: bytes) -> None:
            steps.append(("in", data))
            if data == b"first":
                wire.servers.built[0].transport.write(b"second")
                wire.clock.advance(seconds)
            steps.append(("out", data))

    wire.clients = Listener(Impatient)
    _, server = wire.ends()
    server.transport.write(b"first")
    wire.settle()
    assert steps == [("in", b"first"), ("out", b"first"), ("in", b"second"), ("out", b"second")]


def test_only_bytes_can_be_written(ends: tuple[Recorder, Recorder]) -> None:
    text: Any = "text"
    with pytest.raises(TypeError, match="data must be bytes, not str"):
        ends[0].transport.write(text)


def test_nothing_written_is_nothing_received(wire: Wire, ends: tuple[Recorder, Recorder]) -> None:
    ends[0].transport.write(b"")
    assert wire.is_still()


def test_addresses_name_the_ends(wire: Wire) -> None:
    client, server = wire.ends()
    assert repr(client.transport.getHost()) == repr(server.transport.getPeer()) == "MemoryAddress('client')"
    assert repr(client.transport.getPeer()) == repr(server.transport.getHost()) == "MemoryAddress('server')"
    verifyObject(IAddress, MemoryAddress("anywhere"))


def test_a_transport_is_what_producers_want(wire: Wire) -> None:
    """Code that asks whether it is a consumer, as Twisted's own transports say that they are, finds that it is."""
    client, _ = wire.ends()
    assert IConsumer.providedBy(StringTransport())
    assert IConsumer.providedBy(client.transport)


# Closing.


def test_loseConnection_first_sends_what_was_written(  # noqa: N802
    wire: Wire, ends: tuple[Recorder, Recorder]
) -> None:
    here, there = ends
    here.transport.write(b"last words")
    here.transport.loseConnection()
    here.transport.loseConnection()
    assert here.transport.disconnecting
    assert not here.lost
    wire.settle()
    assert there.pieces == [b"last words"]
    assert here.lost_with() == there.lost_with() == [ConnectionDone]
    assert wire.is_still()


def test_abortConnection_loses_what_is_under_way(wire: Wire, ends: tuple[Recorder, Recorder]) -> None:  # noqa: N802
    here, there = ends
    here.transport.write(b"lost")
    there.transport.write(b"lost, too")
    here.transport.abortConnection()
    assert not here.lost, "not before it returns"
    wire.settle()
    assert here.pieces == there.pieces == []
    assert here.lost_with() == [ConnectionAborted]
    assert there.lost_with() == [ConnectionLost]
    assert wire.is_still()


CLOSES: list[Act] = [
    lambda end: end.transport.loseConnection(),
    lambda end: end.transport.abortConnection(),
    lambda end: end.transport.stopProducing(),
]


@pytest.mark.parametrize("first", CLOSES)
@pytest.mark.parametrize("second", CLOSES)
@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("same", [False, True])
def test_connectionLost_comes_once(wire: Wire, first: Act, second: Act, turns: bool, same: bool) -> None:  # noqa: N802
    """Whichever end closes, however often, and in whatever way."""
    client, server = wire.ends()
    first(client)
    if turns:
        wire.settle()
    second(client if same else server)
    wire.settle()
    assert (len(client.lost), len(server.lost)) == (1, 1)
    assert wire.is_still()


@pytest.mark.parametrize("close", CLOSES)
def test_nothing_can_be_written_after_the_end(wire: Wire, ends: tuple[Recorder, Recorder], close: Act) -> None:
    here, there = ends
    close(here)
    wire.settle()
    for end in ends:
        end.transport.write(b"too late")
        end.transport.pauseProducing()
        end.transport.resumeProducing()
        end.transport.unregisterProducer()
    wire.settle()
    assert here.pieces == there.pieces == []
    assert wire.is_still()


def test_nothing_is_received_after_ones_own_loseConnection(  # noqa: N802
    wire: Wire, ends: tuple[Recorder, Recorder]
) -> None:
    """Twisted's transports stop reading then."""
    here, there = ends
    there.transport.pauseProducing()
    here.transport.write(b"still under way")
    here.transport.loseConnection()
    there.transport.write(b"not read any more")
    wire.settle()
    assert here.pieces == []
    there.transport.resumeProducing()
    wire.settle()
    assert there.pieces == [b"still under way"]
    assert here.pieces == []


def test_what_is_written_in_connectionLost_is_lost(wire: Wire) -> None:  # noqa: N802
    class Talkative(Recorder):
        def connectionLost(self, reason: Any = None) -> None:
            super().connectionLost(reason)
            self.transport.write(b"but")
            self.transport.loseConnection()
            self.transport.abortConnection()

    wire.clients = Listener(Talkative)
    client, server = wire.ends()
    server.transport.loseConnection()
    wire.settle()
    assert (len(client.lost), len(server.lost), server.pieces) == (1, 1, [])
    assert wire.is_still()


def test_an_exception_in_dataReceived_is_logged_and_closes(wire: Wire, logged_failures: Failures) -> None:  # noqa: N802
    class Broken(Recorder):
        def dataReceived(self, data: bytes) -> None:
            raise ZeroDivisionError

    wire.serve(Broken)
    client, server = wire.ends()
    client.transport.write(b"1/0")
    server.transport.write(b"never")
    wire.settle()
    assert [type(error) for error in logged_failures.flush(ZeroDivisionError)] == [ZeroDivisionError]
    assert server.lost_with() == [ZeroDivisionError]
    assert client.lost_with() == [ConnectionLost]


def test_an_exception_in_connectionLost_is_logged(wire: Wire, logged_failures: Failures) -> None:  # noqa: N802
    """The other end is told all the same, and so is whoever else has something to do in this turn."""

    class Broken(Recorder):
        def connectionLost(self, reason: Any = None) -> None:
            raise ZeroDivisionError

    wire.clients = Listener(Broken)
    _, server = wire.ends()
    server.transport.abortConnection()
    wire.settle()
    assert len(logged_failures.flush(ZeroDivisionError)) == 1
    assert server.lost_with() == [ConnectionAborted]


# Who reads nothing, and who has much to write.


def test_a_paused_end_receives_later(wire: Wire, ends: tuple[Recorder, Recorder]) -> None:
    here, there = ends
    there.transport.pauseProducing()
    here.transport.write(b"a")
    wire.settle()
    here.transport.write(b"b")
    here.transport.loseConnection()
    wire.settle()
    assert there.pieces == []
    assert not here.lost
    there.transport.resumeProducing()
    wire.settle()
    assert there.pieces == [b"ab"]
    assert here.lost_with() == there.lost_with() == [ConnectionDone]


def test_a_paused_end_can_be_left(wire: Wire, ends: tuple[Recorder, Recorder]) -> None:
    here, there = ends
    there.transport.pauseProducing()
    here.transport.write(b"never")
    here.transport.loseConnection()
    wire.settle()
    here.transport.abortConnection()
    wire.settle()
    assert there.pieces == []
    assert here.lost_with() == [ConnectionAborted]
    assert there.lost_with() == [ConnectionLost]


def test_pausing_from_within_dataReceived_holds_the_next_piece(wire: Wire) -> None:  # noqa: N802
    class OneAtATime(Recorder):
        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            self.transport.pauseProducing()
            wire.clients.built[0].transport.write(b"2")

    wire.serve(OneAtATime)
    client, server = wire.ends()
    client.transport.write(b"1")
    wire.settle()
    assert server.pieces == [b"1"]


def test_a_push_producer_is_paused_while_too_much_is_under_way(wire: Wire, ends: tuple[Recorder, Recorder]) -> None:
    here, there = ends
    producer = Producer(here)
    here.transport.registerProducer(producer, True)
    there.transport.pauseProducing()
    here.transport.write(b"x" * BUFFER)
    assert producer.told == []
    here.transport.write(b"y")
    here.transport.write(b"z")
    assert producer.told == ["pause"]
    wire.settle()
    assert producer.told == ["pause"]
    there.transport.resumeProducing()
    wire.settle()
    assert producer.told == ["pause", "resume"]
    assert b"".join(there.pieces) == b"x" * BUFFER + b"yz"


def test_a_producer_that_comes_late_is_paused_at_once(wire: Wire, ends: tuple[Recorder, Recorder]) -> None:
    here, _ = ends
    here.transport.write(b"x" * (BUFFER + 1))
    producer = Producer(here)
    here.transport.registerProducer(producer, True)
    assert producer.told == ["pause"]


def test_a_pull_producer_is_asked_for_one_piece_a_turn(wire: Wire, ends: tuple[Recorder, Recorder]) -> None:
    here, there = ends
    producer = Producer(here, b"a", b"b", b"c")
    here.transport.registerProducer(producer, False)
    assert producer.told == ["resume"]
    wire.settle()
    assert there.pieces == [b"a", b"b", b"c"]
    assert producer.told == ["resume"] * 4
    assert wire.is_still()


@pytest.mark.guarantee(number=15)
def test_loseConnection_waits_for_a_pull_producer(  # noqa: N802
    wire: Wire, ends: tuple[Recorder, Recorder]
) -> None:
    """ITransport: it is not closed until the producer has been unregistered; what that one still writes arrives."""
    here, there = ends
    here.transport.registerProducer(Producer(here, b"a", b"b", b"c"), False)
    here.transport.loseConnection()
    wire.settle()
    assert there.pieces == [b"a", b"b", b"c"]
    assert here.lost_with() == there.lost_with() == [ConnectionDone]


@pytest.mark.guarantee(number=15)
def test_loseConnection_waits_for_a_push_producer(  # noqa: N802
    wire: Wire, ends: tuple[Recorder, Recorder]
) -> None:
    here, there = ends
    here.transport.registerProducer(Producer(here), True)
    here.transport.loseConnection()
    wire.settle()
    assert not here.lost
    here.transport.write(b"the rest")
    here.transport.unregisterProducer()
    wire.settle()
    assert there.pieces == [b"the rest"]
    assert here.lost_with() == [ConnectionDone]


def test_there_is_one_producer_at_a_time(ends: tuple[Recorder, Recorder]) -> None:
    here, _ = ends
    here.transport.registerProducer(Producer(here), True)
    with pytest.raises(RuntimeError, match="there is a producer already"):
        here.transport.registerProducer(Producer(here), True)
    here.transport.unregisterProducer()
    here.transport.registerProducer(Producer(here), True)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_producer_is_stopped_once_when_the_connection_goes(
    wire: Wire, ends: tuple[Recorder, Recorder], streaming: bool
) -> None:
    here, there = ends
    producer = Producer(here, b"a")
    here.transport.registerProducer(producer, streaming)
    there.transport.abortConnection()
    wire.settle()
    assert producer.told[-1] == "stop"
    assert producer.told.count("stop") == 1
    late = Producer(here)
    here.transport.registerProducer(late, streaming)
    assert late.told == ["stop"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_producer_is_not_resumed_once_its_connection_is_lost(wire: Wire, streaming: bool) -> None:
    """The other end drops the connection while it receives."""

    class Dropper(Recorder):
        def dataReceived(self, data: bytes) -> None:
            self.transport.abortConnection()

    wire.serve(Dropper)
    client, _ = wire.ends()
    producer = Producer(client, b"a", b"b")
    client.transport.registerProducer(producer, streaming)
    if streaming:
        client.transport.write(b"x" * (BUFFER + 1))
    before = list(producer.told)
    wire.settle()
    assert producer.told == [*before, "stop"]


# Connecting.


def test_an_endpoint_says_where_it_leads(wire: Wire) -> None:
    assert verifyObject(IStreamClientEndpoint, wire.endpoint)
    assert repr(wire.endpoint) == f"<MemoryEndpoint to {wire.servers!r}>"


def test_both_ends_are_connected_before_the_deferred_fires(wire: Wire) -> None:
    told = outcome(wire.attempt())
    assert (told, wire.clients.built) == ([], []), "not before connect() returns"
    wire.settle()
    assert told == wire.clients.built
    assert [end.connected for end in (told[0], wire.servers.built[0])] == [1, 1]


def test_what_a_server_says_first_arrives(wire: Wire) -> None:
    class Polite(Recorder):
        def connectionMade(self) -> None:
            self.transport.write(b"welcome")

    wire.serve(Polite)
    client, _ = wire.ends()
    wire.settle()
    assert client.pieces == [b"welcome"]


@pytest.mark.guarantee(number=9)
def test_an_attempt_cancelled_before_its_turn_is_never_made(wire: Wire) -> None:
    attempt = wire.attempt()
    told = outcome(attempt)
    attempt.cancel()
    assert wire.is_still()
    assert [type(error) for error in told] == [CancelledError]
    assert wire.clients.built == wire.servers.built == []


def test_cancelling_after_the_connect_does_nothing(wire: Wire) -> None:
    attempt = wire.attempt()
    told = outcome(attempt)
    wire.settle()
    attempt.cancel()
    wire.settle()
    assert told == wire.clients.built
    assert not told[0].lost


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("hook", ["buildProtocol", "connectionMade"])
def test_an_attempt_can_be_cancelled_while_it_succeeds(wire: Wire, hook: str) -> None:
    """It fails with CancelledError, once; and what was half made is taken down."""

    def client() -> Recorder:
        recorder = Recorder()
        if hook == "buildProtocol":
            attempt.cancel()
        else:
            recorder.connectionMade = attempt.cancel  # type: ignore[method-assign]
        return recorder

    wire.clients = Listener(client)
    attempt = wire.attempt()
    told = outcome(attempt)
    wire.settle()
    assert [type(error) for error in told] == [CancelledError]
    assert all(len(server.lost) == 1 for server in wire.servers.built)


def test_a_client_factory_that_builds_nothing_has_no_connection(wire: Wire) -> None:
    wire.clients = Listener(lambda: None)
    told = outcome(wire.attempt())
    wire.settle()
    assert [type(error) for error in told] == [NoProtocol]
    assert wire.servers.built == []


def test_a_server_factory_that_builds_nothing_closes_the_connection(wire: Wire) -> None:
    """The reactor does so: that is how a factory turns somebody away."""
    wire.serve(lambda: None)
    client: Any = Recorder()
    wire.clients = Listener(lambda: client)
    told = outcome(wire.attempt())
    wire.settle()
    assert told == [client] or isinstance(told[0], ConnectionRefusedError)
    assert len(client.lost) == (told == [client])


def test_a_client_factory_that_raises_fails_the_attempt(wire: Wire) -> None:
    """Twisted's endpoints tell the one who asked, not the reactor."""
    wire.clients = Listener(lambda: 1 / 0)
    told = outcome(wire.attempt())
    wire.settle()
    assert [type(error) for error in told] == [ZeroDivisionError]


def test_a_refused_attempt_builds_nothing(wire: Wire) -> None:
    fault = wire.faults.refuse_connections()
    told = outcome(wire.attempt())
    wire.settle()
    assert [type(error) for error in told] == [ConnectionRefusedError]
    assert wire.clients.built == wire.servers.built == []
    assert fault.happened == 1


def test_a_black_hole_swallows_the_attempt(wire: Wire) -> None:
    """It can only be cancelled, even when new ones get through again."""
    fault = wire.faults.black_hole_connections()
    attempt = wire.attempt()
    told = outcome(attempt)
    wire.clock.advance(10000)
    fault.end()
    wire.ends()
    assert (told, fault.happened) == ([], 1)
    attempt.cancel()
    assert [type(error) for error in told] == [CancelledError]
    assert wire.is_still()
