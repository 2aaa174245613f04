"""The connection to one job server: fences, back-off, time-outs, stopping. No socket, no real time."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import (
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    NotConnectingError,
    TimeoutError,
)
from twisted.internet.interfaces import IConnector, ISSLTransport, IStreamClientEndpoint, ITCPTransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer

from txgearman.connection.connector import EndpointConnector
from txgearman.connection.factory import GearmanFactory
from txgearman.connection.options import CONNECT_TIMEOUT
from txgearman.connection.protocol import CLOSE_TIMEOUT, GearmanProtocol
from txgearman.errors import ClientStopped, ProtocolError, ServerError, TLSError
from txgearman.packets import (
    ECHO_REQ,
    ECHO_RES,
    ERROR,
    GET_STATUS,
    GET_STATUS_UNIQUE,
    JOB_ASSIGN,
    JOB_CREATED,
    NOOP,
    OPTION_REQ,
    OPTION_RES,
    REQ,
    STATUS_RES,
    STATUS_RES_UNIQUE,
    Decoder,
    Packet,
    PacketType,
)
from txgearman.testing import Fault, MemoryJobServer

from ..wire import MemoryEndpoint, ServerSide, WireTransport, answer, outcome, with_limits

FENCE: Packet = (GET_STATUS, [b"txgearman:fence"])

QUESTIONS = {ECHO_REQ: ECHO_RES, OPTION_REQ: OPTION_RES, GET_STATUS: STATUS_RES, GET_STATUS_UNIQUE: STATUS_RES_UNIQUE}
"""What can be asked, and what answers it."""


class Listener:
    """Keeps what the factory tells: the connections that became ready, and what ended attempts and connections."""

    def __init__(self) -> None:
        self.ready: list[GearmanProtocol] = []
        self.errors: list[Exception] = []

    def connection_ready(self, connection: GearmanProtocol) -> None:
        self.ready.append(connection)

    def connection_down(self, factory: GearmanFactory[GearmanProtocol], error: Exception) -> None:
        self.errors.append(error)


class OddServer(MemoryEndpoint):
    """Does the same odd thing on each connection, instead of shaking hands."""

    def __init__(self, clock: Clock, behave: Callable[[ServerSide], object]) -> None:
        super().__init__(clock)
        self.polite = False
        self._behave = behave

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        connected = super().connect(protocolFactory)
        self._behave(self.server)
        return connected


class ServerConnection:
    """A factory and its connector."""

    def __init__(self, clock: Clock, endpoint: Any, option_requests: tuple[bytes, ...] = (), **arguments: Any) -> None:
        self.clock = clock
        self.listener = Listener()
        self.factory: GearmanFactory[GearmanProtocol] = GearmanFactory(
            clock, option_requests=option_requests, listener=self.listener, **with_limits(arguments)
        )
        self.connector = EndpointConnector(endpoint, self.factory)

    @property
    def connection(self) -> GearmanProtocol:
        assert self.factory.connection is not None
        return self.factory.connection

    @property
    def delay(self) -> float:
        """Seconds to the next attempt."""
        assert self.factory.next_attempt is not None
        return self.factory.next_attempt - self.clock.seconds()

    def ask(self, packet_type: PacketType, argument: bytes) -> tuple[Deferred[list[bytes]], list[Any]]:
        """Ask the server something; return the Deferred and what becomes of it."""
        subject = None if packet_type is ECHO_REQ else argument
        deferred = self.connection.request(packet_type, argument, answer=QUESTIONS[packet_type], subject=subject)
        return deferred, outcome(deferred)

    def echo(self, argument: bytes) -> list[Any]:
        return self.ask(ECHO_REQ, argument)[1]


class Net(ServerConnection):
    """A connection to a server that the test plays."""

    def __init__(self, *, endpoint: MemoryEndpoint | None = None, **arguments: Any) -> None:
        self.endpoint = endpoint or MemoryEndpoint(Clock())
        super().__init__(self.endpoint.clock, self.endpoint, **arguments)

    @property
    def server(self) -> ServerSide:
        return self.endpoint.server


class Served(ServerConnection):
    """A connection to a job server in memory, with its faults. There is no jitter in the delays."""

    def __init__(self, **arguments: Any) -> None:
        self.server = MemoryJobServer()
        super().__init__(self.server.clock, self.server.endpoint(), **arguments)
        self.factory.jitter = 0.0

    def connect(self) -> Served:
        self.connector.connect()
        self.server.advance()
        return self

    def errors(self) -> list[type[Exception]]:
        """The types of what was observed."""
        return [type(error) for error in self.listener.errors]


def connected(**arguments: Any) -> Net:
    """A connection that is ready, with nothing outstanding."""
    net = Net(**arguments)
    net.connector.connect()
    assert net.connection.ready
    return net


def unready(**arguments: Any) -> Net:
    """A connection to a server that has not said anything yet."""
    net = Net(**arguments)
    net.endpoint.polite = False
    net.connector.connect()
    return net


def closed_by(net: Net, kind: type[Exception]) -> bool:
    """Whether the connection was aborted because of such an error, and will be tried anew."""
    net.clock.advance(0)
    return (
        net.server.transport.aborted
        and isinstance(net.server.protocol.error, kind)
        and net.factory.next_attempt is not None
    )


# The handshake.


def test_the_handshake_asks_for_the_options_with_a_fence_behind_each() -> None:
    net = unready(option_requests=(b"exceptions", b"other"))
    options = [(OPTION_REQ, [b"exceptions"]), FENCE, (OPTION_REQ, [b"other"]), FENCE]
    assert net.server.received() == options


def test_the_handshake_without_options_is_one_fence() -> None:
    assert unready().server.received() == [FENCE]


def test_the_options_are_sent_again_at_each_connect() -> None:
    net = Served(option_requests=(b"exceptions",)).connect()
    net.server.drop_connections()
    net.server.advance(net.delay)
    assert [(each.number, each.requests) for each in net.server.connections] == [(2, [OPTION_REQ, GET_STATUS])]


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize(
    "said",
    [OPTION_RES.response(b"exceptions"), ERROR.response(b"UNKNOWN_OPTION", b"no such option"), b""],
    ids=["option taken", "option refused", "option left unanswered"],
)
def test_a_connection_is_ready_at_the_answer_of_the_first_fence(said: bytes) -> None:
    """Whatever the server makes of an option, it is a job server once it answers a GET_STATUS, and not before."""
    net = unready(option_requests=(b"exceptions",))
    net.server.send(said)
    assert not net.connection.ready
    assert net.listener.ready == []
    net.server.send(answer(FENCE))
    assert net.connection.ready
    assert net.listener.ready == [net.connection]


def test_a_connection_becomes_ready_once() -> None:
    net = connected()
    net.echo(b"1")
    net.server.send_opening()
    assert net.listener.ready == [net.connection]


def test_a_tcp_connection_is_told_not_to_wait_for_more_to_send() -> None:
    """Small packets must not wait for the server's delayed ACK; a dead peer must be found in the end."""
    calls = []

    class TCPTransport(WireTransport):
        def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: N802  # Twisted's name
            calls.append(("no delay", enabled))

        def setTcpKeepAlive(self, enabled: bool) -> None:  # noqa: N802  # Twisted's name
            calls.append(("keep alive", enabled))

    net = Net()
    connection = net.factory.buildProtocol(None)
    transport = TCPTransport(net.clock, connection)
    directlyProvides(transport, ITCPTransport)
    connection.makeConnection(transport)
    assert calls == [("no delay", True), ("keep alive", True)]


@pytest.mark.parametrize("error", [ConnectionDone(), ConnectionLost()])
def test_a_tcp_connection_that_is_lost_before_any_answer_may_want_tls(error: Exception) -> None:
    net = unready()
    directlyProvides(net.server.transport, ITCPTransport)
    net.server.lose(error)
    (told,) = net.listener.errors
    assert type(told) is type(error)
    assert str(told).endswith(": before any answer; the server may require TLS, which takes an address with tls:.")


# TLS, as far as the connection can see; `test_tls` has the real one.


def test_what_ends_a_connection_over_tls_is_told_in_words() -> None:
    net = unready()
    directlyProvides(net.server.transport, ISSLTransport)
    error = ConnectionLost()
    net.server.lose(error)
    (told,) = net.listener.errors
    assert isinstance(told, TLSError)
    assert told.__cause__ is error


@pytest.mark.guarantee(number=10)
@pytest.mark.parametrize("tls_established", [False, True])
def test_the_time_out_of_an_attempt_over_tls_tells_of_the_handshake(tls_established: bool) -> None:
    net = unready()
    directlyProvides(net.server.transport, ISSLTransport)
    if tls_established:
        net.connection.handshakeCompleted()
    net.clock.advance(CONNECT_TIMEOUT)
    (told,) = net.listener.errors
    assert type(told) is (TimeoutError if tls_established else TLSError)
    assert f"no good answer within {CONNECT_TIMEOUT} seconds" in str(told)


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("tls_established", [False, True])
def test_a_handshake_is_not_waited_for_at_a_stop(tls_established: bool) -> None:
    """Nothing can go out before it is done."""
    net = unready()
    directlyProvides(net.server.transport, ISSLTransport)
    if tls_established:
        net.connection.handshakeCompleted()
    stopped = outcome(net.factory.stop(ClientStopped()))
    assert net.server.transport.aborted is not tls_established
    net.clock.advance(0)
    assert stopped == [None]
    assert net.clock.getDelayedCalls() == []


def test_the_global_reactor_is_the_default() -> None:
    from twisted.internet import reactor

    assert GearmanFactory(None).reactor is reactor


# Requests and their answers.


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_request_has_a_fence_behind_it(question: PacketType) -> None:
    net = connected()
    _, told = net.ask(question, b"x")
    packets = net.server.received()
    assert packets == [(question, [b"x"]), FENCE]
    net.server.send(answer(packets[0]))
    assert told[0][0] == b"x"


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize("question", QUESTIONS)
def test_an_unanswered_request_fails_and_later_answers_go_to_their_own(question: PacketType) -> None:
    """geard and gearmand say nothing to some requests (H6)."""
    net = connected()
    silent = [net.ask(question, b"silent")[1] for _ in range(2)]
    answered = [net.ask(asked, b"%d" % place)[1] for place, asked in enumerate(QUESTIONS)]
    net.server.send(*(answer(packet) for packet in net.server.received() if packet[1] != [b"silent"]))
    assert [told[0].code for told in silent] == ["", ""]
    assert [told[0][0] for told in answered] == [b"0", b"1", b"2", b"3"]
    assert net.connection.error is None


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((b"QUEUE_ERROR", b"Job queue is full"), "QUEUE_ERROR: Job queue is full"),
        ((b"0", b"Permission denied by ACL\0"), "0: Permission denied by ACL"),
        ((b"server_error", b""), "server_error"),
        ((b"E\xff", b"\xc3\xbc"), "E\\xff: ü"),
    ],
    ids=["gearmand", "geard's NUL", "perl's empty text", "no UTF-8"],
)
def test_an_error_is_the_oldest_requests(arguments: tuple[bytes, bytes], text: str) -> None:
    net = connected()
    refused, answered = net.echo(b"1"), net.echo(b"2")
    _, fence, second, _ = net.server.received()
    net.server.send(ERROR.response(*arguments), answer(fence), answer(second))
    assert isinstance(refused[0], ServerError)
    assert str(refused[0]) == text
    assert answered == [[b"2"]]


class Asked:
    """One request of the test below, how the server treats it, and what was told of it."""

    def __init__(self, net: Net, number: int, question: PacketType, treated: str, cancelled: bool) -> None:
        self.name = b"%d" % number
        self.treated = treated
        self.cancelled = cancelled
        deferred, self.told = net.ask(question, self.name)
        if cancelled:
            deferred.cancel()

    def answers(self, question: Packet, fence: Packet) -> list[bytes]:
        own = {"answered": [answer(question)], "refused": [ERROR.response(self.name, b"")], "silent": []}
        return [*own[self.treated], answer(fence)]

    def told_right(self) -> bool:
        (told,) = self.told
        if self.cancelled:
            return isinstance(told, CancelledError)
        if self.treated == "answered":
            return bool(told[0] == self.name)
        expected = self.name.decode() if self.treated == "refused" else ""
        return bool(told.code == expected)


TREATMENTS = st.sampled_from(["answered", "refused", "silent"])
FRAGMENTS = st.integers(1, 40)


@pytest.mark.guarantee(number=17)
@given(st.lists(st.tuples(st.sampled_from(list(QUESTIONS)), TREATMENTS, st.booleans()), max_size=12), FRAGMENTS)
def test_each_request_has_its_own_outcome(plan: list[tuple[PacketType, str, bool]], size: int) -> None:
    """Any mix of answers, errors, silence and cancelled requests, in pieces of any size: never off by one."""
    net = connected()
    asked = [Asked(net, number, *row) for number, row in enumerate(plan)]
    packets = iter(net.server.received())
    stream = b"".join(piece for one in asked for piece in one.answers(next(packets), next(packets)))
    for start in range(0, len(stream), size):
        net.server.send(stream[start : start + size])
    assert all(one.told_right() for one in asked)
    assert net.connection.error is None


def wrong_type(net: Net) -> bytes:
    net.echo(b"1")
    return OPTION_RES.response(b"1")


def another_jobs_status(net: Net) -> bytes:
    net.ask(GET_STATUS, b"H:1")
    return STATUS_RES.response(b"H:2", b"1", b"1", b"0", b"0")


def status_in_place_of_a_fence(net: Net) -> bytes:
    net.echo(b"1")
    return ECHO_RES.response(b"1") + STATUS_RES.response(b"H:2", b"1", b"1", b"0", b"0")


def error_in_place_of_a_fence(net: Net) -> bytes:
    net.echo(b"1")
    return ECHO_RES.response(b"1") + ERROR.response(b"no", b"fences")


def nothing_in_place_of_a_fence(net: Net) -> bytes:
    net.echo(b"1")
    return ECHO_RES.response(b"1")


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize(
    "fault",
    [
        wrong_type,
        another_jobs_status,
        status_in_place_of_a_fence,
        error_in_place_of_a_fence,
        nothing_in_place_of_a_fence,
    ],
)
def test_a_wrong_answer_to_the_oldest_request_ends_the_connection(fault: Callable[[Net], bytes]) -> None:
    """It is never taken for somebody else's."""
    net = connected()
    said = fault(net)
    bystander = net.echo(b"bystander")
    net.server.send(said, ECHO_RES.response(b"bystander"))
    assert [type(error) for error in bystander] == [ProtocolError]
    assert net.listener.errors == bystander
    assert closed_by(net, ProtocolError)


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize(
    "said",
    [
        ECHO_RES.response(b"1"),
        answer(FENCE),
        JOB_CREATED.response(b"H:1"),
        ERROR.response(b"code", b"text"),
        JOB_ASSIGN.response(b"H:1", b"f", b"x"),
        NOOP.response(),
    ],
    ids=["an answer", "a fence's answer", "JOB_CREATED", "ERROR", "a worker's packet", "no arguments"],
)
def test_what_nobody_asked_for_ends_the_connection(said: bytes) -> None:
    net = connected()
    told = net.echo(b"1")
    net.server.send_opening()
    net.server.send(said)
    assert told == [[b"1"]]
    assert closed_by(net, ProtocolError)


@pytest.mark.guarantee(number=17)
def test_a_handle_that_reads_like_the_fences_does_no_harm() -> None:
    """A handle may come from anywhere, through `JobHandle.from_string`."""
    net = connected()
    _, told = net.ask(GET_STATUS, FENCE[1][0])
    bystander = net.echo(b"1")
    net.server.send_opening()
    assert net.connection.error is None
    assert bystander == [[b"1"]]
    assert len(told) == 1


@pytest.mark.guarantee(number=6)
@pytest.mark.parametrize("late", [ECHO_RES.response(b"1"), ERROR.response(b"code", b"text"), b""])
def test_a_late_answer_to_a_cancelled_request_is_quiet(late: bytes) -> None:
    net = connected()
    deferred, told = net.ask(ECHO_REQ, b"1")
    deferred.cancel()
    assert [type(error) for error in told] == [CancelledError]
    next_one = net.echo(b"2")
    net.server.send(late, answer(FENCE), ECHO_RES.response(b"2"), answer(FENCE))
    assert len(told) == 1
    assert next_one == [[b"2"]]
    assert net.connection.error is None


@pytest.mark.guarantee(number=1)
def test_every_request_fails_once_when_the_connection_goes() -> None:
    """A cancelled one too, and one that is cancelled by the failure of another."""
    net = connected()
    first = net.connection.request(ECHO_REQ, b"1", answer=ECHO_RES)
    cancelled_before, before = net.ask(ECHO_REQ, b"2")
    cancelled_after, after = net.ask(ECHO_REQ, b"3")
    cancelled_before.cancel()
    first.addErrback(lambda failure: cancelled_after.cancel())
    last = net.echo(b"4")
    net.server.lose(ConnectionLost("cable"))
    assert [type(told[0]) for told in (before, after, last)] == [CancelledError, CancelledError, ConnectionLost]
    assert [len(told) for told in (before, after, last)] == [1, 1, 1]


@pytest.mark.guarantee(number=1)
def test_a_request_on_a_dead_connection_fails_at_once() -> None:
    net = connected()
    connection = net.connection
    net.server.lose(ConnectionLost("cable"))
    told = outcome(connection.request(ECHO_REQ, b"1", answer=ECHO_RES))
    assert told == [connection.error]
    assert isinstance(connection.error, ConnectionLost)
    assert net.server.received() == []


@pytest.mark.guarantee(number=1)
def test_a_request_made_by_a_failing_one_fails_at_once() -> None:
    """The connection is known to be down before anybody is told."""
    net = connected()
    connection = net.connection
    again: list[Any] = []

    def ask_again(failure: Failure) -> None:
        again.extend(outcome(connection.request(ECHO_REQ, b"again", answer=ECHO_RES)))

    connection.request(ECHO_REQ, b"1", answer=ECHO_RES).addErrback(ask_again)
    net.server.lose(ConnectionLost("cable"))
    assert again == [connection.error]


def close(connection: GearmanProtocol) -> None:
    connection.close(ClientStopped())


def abort(connection: GearmanProtocol) -> None:
    connection.abort(ClientStopped())


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("end", [close, abort])
def test_a_callback_may_end_the_connection(end: Callable[[GearmanProtocol], None]) -> None:
    """What comes behind it in the same read is dropped, garbage too, and what waits fails once, for that reason."""
    net = connected()
    net.connection.request(ECHO_REQ, b"1", answer=ECHO_RES).addCallback(lambda _: end(net.connection))
    second = net.echo(b"2")
    net.server.send(ECHO_RES.response(b"1"), answer(FENCE), ECHO_RES.response(b"2"), b"garbage" * 3)
    net.server.send(answer(FENCE))
    assert [type(error) for error in second] == [ClientStopped]
    assert isinstance(net.connection.error, ClientStopped)
    assert len(net.listener.errors) == 1
    assert net.server.transport.aborted == (end is abort)


@pytest.mark.guarantee(number=1)
def test_a_connection_ended_before_the_answer_of_its_first_fence_is_told_never_becomes_ready() -> None:
    """The failure of the option is told first, and may run anybody's code."""

    class Hasty(GearmanProtocol):
        def request_refused(self, request: Any, error: ServerError) -> None:
            self.abort(ClientStopped())

    net = Net(option_requests=(b"exceptions",))
    net.factory.protocol = Hasty
    net.endpoint.polite = False
    waiting = outcome(net.factory.when_ready())
    net.connector.connect()
    net.server.send(answer(FENCE))
    assert net.listener.ready == []
    assert [type(error) for error in waiting] == [ClientStopped]


@pytest.mark.guarantee(number=7)
def test_the_observer_is_told_before_those_who_wait() -> None:
    """So that what they ask in answer to the failure goes to another server."""
    net = connected()
    told_before: list[bool] = []
    net.connection.request(ECHO_REQ, b"1", answer=ECHO_RES).addErrback(
        lambda _: told_before.append(len(net.listener.errors) == 1)
    )
    net.server.lose()
    assert told_before == [True]


def is_answered(net: Net) -> None:
    net.server.send_opening()


def is_lost(net: Net) -> None:
    net.server.lose()


def is_answered_wrongly(net: Net) -> None:
    """The observer keeps the error."""
    net.server.send(JOB_CREATED.response(b"H:1"))


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """What goes must go by its count of references."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.guarantee(number=12)
@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("end", [is_answered, is_lost, is_answered_wrongly])
def test_a_request_that_has_ended_leaves_nothing(end: Callable[[Net], None]) -> None:
    net = connected()
    connection = net.connection
    deferred, told = net.ask(ECHO_REQ, b"1")
    end(net)
    assert len(told) == 1
    assert connection.on_connection_lost is not None  # the connection is still held
    gone = weakref.ref(deferred)
    del deferred
    assert gone() is None


class Worker(GearmanProtocol):
    """A subclass that is interested in something of its own."""

    noops = 0

    def noop(self, arguments: list[bytes]) -> None:
        self.noops += 1

    handlers: ClassVar[Any] = {NOOP: noop}


def test_a_subclass_handles_packets_that_answer_nothing() -> None:
    net = Net()
    net.factory.protocol = Worker
    net.connector.connect()
    told = net.echo(b"1")
    net.server.send(NOOP.response(), ECHO_RES.response(b"1"), NOOP.response())
    assert isinstance(net.connection, Worker)
    assert net.connection.noops == 2
    assert told == [[b"1"]]


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("size", [1, 2, 11, 12, 13, 10**6])
def test_answers_come_out_as_they_went_in_however_they_are_cut(size: int) -> None:
    net = connected()
    payloads = [b"", b"\0", bytes(range(256)) * 3, b"\0RES" * 5]
    told = [net.echo(payload) for payload in payloads]
    stream = b"".join(answer(packet) for packet in net.server.received())
    for start in range(0, len(stream), size):
        net.server.send(stream[start : start + size])
    assert told == [[[payload]] for payload in payloads]


# A bad server.

BAD_STREAMS = {
    "garbage": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "no such type": b"\0RES\0\0\0\x63\0\0\0\0",
    "truncated arguments": b"\0RES\0\0\0\x14\0\0\0\x03H:1",
    "4 GiB": b"\0RES\0\0\0\x11\xff\xff\xff\xff",
    "flood of ERROR": ERROR.response(b"code", b"text") * 1000,
    "flood of answers": JOB_CREATED.response(b"H:1") * 1000,
}

bad_streams = pytest.mark.parametrize("said", BAD_STREAMS.values(), ids=BAD_STREAMS.keys())


@pytest.mark.guarantee(number=14)
@bad_streams
def test_a_bad_stream_ends_the_connection(said: bytes) -> None:
    """What came whole before it still counts; what waits fails with `ProtocolError`; back-off applies."""
    net = connected()
    first, second, third = net.echo(b"1"), net.echo(b"2"), net.echo(b"3")
    net.server.send(ECHO_RES.response(b"1"), answer(FENCE), ECHO_RES.response(b"2"), answer(FENCE), said)
    assert first + second == [[b"1"], [b"2"]]
    assert len(third) == 1
    assert isinstance(third[0], (ProtocolError, ServerError))  # the first ERROR of a flood is an answer
    assert closed_by(net, ProtocolError)


@pytest.mark.guarantee(number=14)
@bad_streams
def test_a_bad_stream_in_place_of_the_handshake_ends_the_connection(said: bytes) -> None:
    net = unready(option_requests=(b"exceptions",))
    net.server.send(said)
    assert net.listener.ready == []
    assert closed_by(net, ProtocolError)


@pytest.mark.guarantee(number=14)
def test_a_packet_over_the_limit_ends_the_connection_at_its_header() -> None:
    net = connected(max_packet_size=64)
    told = net.echo(b"1")
    net.server.send(ECHO_RES.response(b"x" * 64))
    assert told == [[b"x" * 64]]
    net.server.send(answer(FENCE), ECHO_RES.response(b"x" * 65)[:12])
    assert closed_by(net, ProtocolError)


def says(said: bytes) -> Callable[[ServerSide], object]:
    return lambda server: server.send(said)


def tried_ever_less_often(net: Net | Served, attempts: Callable[[], int]) -> bool:
    """Watch for ten minutes. The delay is jittered by some 12 % (standard deviation), and an attempt may take
    `CONNECT_TIMEOUT`."""
    net.connector.connect()
    times: list[float] = []
    for tenth in range(6000):
        net.clock.advance(0.1 if tenth else 0)
        if attempts() > len(times):
            times.append(tenth / 10)
    assert net.listener.ready == []
    gaps = [after - before for before, after in itertools.pairwise(times)]
    return 12 <= len(times) <= 40 and gaps[0] < CONNECT_TIMEOUT + 2 and max(gaps) < CONNECT_TIMEOUT + 30 * 1.8


@pytest.mark.guarantee(number=14)
@bad_streams
def test_a_bad_server_is_tried_ever_less_often(said: bytes) -> None:
    """The connect alone does not reset the back-off: no hot loop, and no hour without an attempt either."""
    endpoint = OddServer(Clock(), says(said))
    net = Net(endpoint=endpoint, option_requests=(b"exceptions",))
    assert tried_ever_less_often(net, lambda: endpoint.attempts)


def closes(server: MemoryJobServer) -> Fault:
    return server.drop_before(OPTION_REQ, times=100)


FAULTS = [
    MemoryJobServer.refuse_connections,
    MemoryJobServer.black_hole_connections,
    MemoryJobServer.fall_silent,
    closes,
]


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize("break_it", FAULTS)
def test_a_server_that_fails_is_tried_ever_less_often(break_it: Callable[[MemoryJobServer], Fault]) -> None:
    net = Served(option_requests=(b"exceptions",))
    net.factory.jitter = GearmanFactory.jitter
    fault = break_it(net.server)
    assert tried_ever_less_often(net, lambda: fault.happened)


def delays(net: Served, count: int) -> list[float]:
    """Those after a loss and the next failures, the server being away."""
    net.server.drop_connections()
    with net.server.refuse_connections():
        seen = [net.delay]
        for _ in range(count - 1):
            net.server.advance(net.delay)
            seen.append(net.delay)
    return seen


@pytest.mark.guarantee(number=14)
def test_the_delays_grow_from_a_second_at_most_to_half_a_minute() -> None:
    seen = delays(Served().connect(), 10)
    assert 0 < seen[0] <= 1
    assert seen == sorted(seen)
    assert all(after <= 2 * before for before, after in itertools.pairwise(seen))
    assert seen[-2:] == [30, 30]


@pytest.mark.guarantee(number=14)
def test_the_first_delay_is_the_same_before_the_first_connection() -> None:
    never, lost = Served(), Served().connect()
    never.server.refuse_connections()
    lost.server.drop_connections()
    assert never.connect().delay == lost.delay


@pytest.mark.guarantee(number=14)
def test_the_delays_are_jittered() -> None:
    """The clients of a server that restarts must not all come back at once."""
    nets = [connected() for _ in range(5)]
    for net in nets:
        net.server.lose()
    assert len({net.delay for net in nets}) == 5


@pytest.mark.guarantee(number=14)
def test_only_a_good_answer_resets_the_delay() -> None:
    net = Served().connect()
    first, *_, last = delays(net, 4)  # before the cap
    net.server.drop_before(GET_STATUS)
    net.server.advance(last)
    assert net.delay > last
    net.server.advance(net.delay)
    net.server.drop_connections()
    assert net.delay == first


@pytest.mark.guarantee(number=14)
def test_the_time_of_the_next_attempt_is_known_while_there_is_one() -> None:
    net = Served().connect()
    assert net.factory.next_attempt is None
    net.server.drop_connections()
    assert net.factory.next_attempt is not None
    assert not net.factory.connecting
    net.server.black_hole_connections()
    net.server.advance(net.delay)
    assert net.factory.next_attempt is None
    assert net.factory.connecting


def test_a_factory_is_connecting_from_the_attempt_to_the_end_of_the_connection() -> None:
    """Even where the socket lives a little longer."""
    states = [never_connected, connecting, unready, connected, just_aborted, just_closed, backing_off]
    assert [state().factory.connecting for state in states] == [False, True, True, True, False, False, False]


# The connect time-out.


@pytest.mark.guarantee(number=10)
def test_an_attempt_that_leads_nowhere_times_out() -> None:
    net = Served()
    net.server.black_hole_connections()
    waiting = outcome(net.factory.when_ready())
    net.connect().server.advance(CONNECT_TIMEOUT - 0.1)
    assert net.listener.errors == []
    net.server.advance(0.1)
    check_timed_out(net, waiting)


@pytest.mark.guarantee(number=10)
@pytest.mark.parametrize("said", [b"", OPTION_RES.response(b"exceptions"), b"\0RES\0"])
def test_a_connection_without_a_good_answer_times_out(said: bytes) -> None:
    net = unready(option_requests=(b"exceptions",))
    waiting = outcome(net.factory.when_ready())
    net.clock.advance(CONNECT_TIMEOUT - 0.1)
    net.server.send(said)
    assert net.listener.errors == []
    net.clock.advance(0.1)
    assert closed_by(net, TimeoutError)
    check_timed_out(net, waiting)


def check_timed_out(net: Net | Served, waiting: list[Any]) -> None:
    assert [type(error) for error in net.listener.errors] == [TimeoutError]
    assert waiting == net.listener.errors
    assert "10.0 seconds" in str(waiting[0])
    assert 0 < net.delay < 2


@pytest.mark.guarantee(number=10)
def test_the_time_out_is_the_callers_to_choose_and_ends_with_the_first_good_answer() -> None:
    net = Served(connect_timeout=2)
    silence = net.server.fall_silent()
    net.connect().server.advance(1.9)
    silence.end()
    net.server.advance(60)
    assert net.connection.error is None
    assert net.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=10)
def test_each_attempt_has_its_own_time_out() -> None:
    net = Served(connect_timeout=2)
    net.server.black_hole_connections()
    net.connect()
    for count in range(1, 4):
        net.server.advance(2)
        assert net.errors() == [TimeoutError] * count
        net.server.advance(net.delay)


@pytest.mark.guarantee(number=10)
def test_a_refusal_after_a_time_out_is_told_as_such() -> None:
    net = Served()
    net.server.black_hole_connections()
    net.connect().server.advance(CONNECT_TIMEOUT)
    net.server.refuse_connections()
    net.server.advance(net.delay)
    assert net.errors() == [TimeoutError, ConnectionRefusedError]


@pytest.mark.guarantee(number=10)
def test_a_connection_that_comes_too_late_is_refused() -> None:
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


def test_an_attempt_that_fails_after_its_connection_went_is_not_told_twice() -> None:
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
def test_an_attempt_that_waits_for_another_deferred_times_out() -> None:
    net, _ = looking_up_first()
    net.clock.advance(CONNECT_TIMEOUT)
    assert [type(error) for error in net.listener.errors] == [TimeoutError]
    assert net.delay < 2


@pytest.mark.guarantee(number=11)
def test_an_attempt_that_waits_for_another_deferred_is_stopped() -> None:
    net, _ = looking_up_first()
    assert outcome(net.factory.stop(ClientStopped())) == [None]
    assert net.clock.getDelayedCalls() == []


# Stopping.


def never_connected() -> Net:
    return Net()


def connecting() -> Net:
    net = Net()
    net.endpoint.black_hole = True
    net.connector.connect()
    return net


def ready_and_busy() -> Net:
    net = connected()
    net.ask(ECHO_REQ, b"1")[0].addErrback(lambda _: None)
    return net


def backing_off() -> Net:
    net = connected()
    net.server.lose()
    assert net.factory.next_attempt is not None
    return net


def just_aborted() -> Net:
    """The socket is not gone yet."""
    net = connected()
    net.server.send(b"garbage" * 3)
    assert net.factory.connection is not None
    return net


def just_closed() -> Net:
    net = connected()
    close(net.connection)
    return net


def being_stopped() -> Net:
    net = connected()
    outcome(net.factory.stop(ClientStopped()))
    return net


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize(
    "state",
    [
        never_connected,
        connecting,
        unready,
        connected,
        ready_and_busy,
        backing_off,
        just_aborted,
        just_closed,
        being_stopped,
    ],
)
def test_a_stop_leaves_nothing(state: Callable[[], Net]) -> None:
    """In whatever state: its Deferred fires, no timer is left, and no attempt is made again."""
    net = state()
    attempts = net.endpoint.attempts
    stopped = outcome(net.factory.stop(ClientStopped()))
    net.clock.advance(0)
    assert stopped == [None]
    assert net.clock.getDelayedCalls() == []
    assert net.factory.next_attempt is None
    assert not net.factory.connecting
    assert net.connector.state == "disconnected"
    net.clock.advance(3600)
    assert net.endpoint.attempts == attempts


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("state", [never_connected, connecting, unready, connected, backing_off])
def test_a_second_stop_waits_for_the_first(state: Callable[[], Net]) -> None:
    net = state()
    told = [outcome(net.factory.stop(ClientStopped())) for _ in range(2)]
    net.clock.advance(0)
    assert told == [[None], [None]]
    assert outcome(net.factory.stop(ClientStopped())) == [None]


@pytest.mark.guarantee(number=11)
def test_a_peer_that_reads_nothing_holds_up_a_stop_for_a_time_only() -> None:
    net = Served().connect()
    net.server.fall_silent()
    told = net.echo(b"1")
    first, second = outcome(net.factory.stop(ClientStopped())), outcome(net.factory.stop(ClientStopped()))
    assert [type(error) for error in told] == [ClientStopped]  # nobody waits for the socket
    net.server.advance(CLOSE_TIMEOUT - 0.1)
    assert first == second == []
    assert len(net.server.connections) == 1
    net.server.advance(0.1)
    assert net.server.connections == []
    assert first == second == [None]
    assert net.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=11)
def test_what_was_written_goes_out_before_the_close() -> None:
    net = connected()
    net.ask(ECHO_REQ, b"1")
    net.factory.stop(ClientStopped())
    assert net.server.transport.disconnecting
    assert not net.server.transport.aborted
    assert net.server.received() == [(ECHO_REQ, [b"1"]), FENCE]


class Stopper(Listener):
    """Stops the factory as soon as something happens to its connection."""

    stopped: list[Any] | None = None

    def __init__(self, net: Net) -> None:
        super().__init__()
        self._net = net

    def connection_ready(self, connection: GearmanProtocol) -> None:
        super().connection_ready(connection)
        self.stopped = outcome(self._net.factory.stop(ClientStopped()))

    def connection_down(self, factory: GearmanFactory[GearmanProtocol], error: Exception) -> None:
        super().connection_down(factory, error)
        if self.stopped is None:
            self.stopped = outcome(factory.stop(ClientStopped()))


def no_failure(net: Net) -> None:
    """The observer stops it when it is ready."""


def refused(net: Net) -> None:
    net.endpoint = OddEndpoint(net.clock, lambda: fail(ConnectionRefusedError()), connects=False)


def answered_badly(net: Net) -> None:
    net.endpoint = OddServer(net.clock, says(b"garbage" * 3))


def lost_at_once(net: Net) -> None:
    net.endpoint = OddServer(net.clock, ServerSide.lose)


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("prepare", [no_failure, refused, answered_badly, lost_at_once])
def test_the_observer_may_stop_the_factory(prepare: Callable[[Net], None]) -> None:
    net = Net()
    prepare(net)
    listener = Stopper(net)
    net.factory = GearmanFactory(net.clock, listener=listener)
    waiting = outcome(net.factory.when_ready())
    EndpointConnector(net.endpoint, net.factory).connect()
    net.clock.advance(0)
    assert listener.stopped == [None]
    assert len(waiting) == 1
    assert isinstance(waiting[0], Exception)
    assert net.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=11)
def test_a_request_may_stop_the_factory() -> None:
    net = connected()
    stopped: list[Any] = []
    deferred = net.connection.request(ECHO_REQ, b"1", answer=ECHO_RES)
    deferred.addCallback(lambda _: net.factory.stop(ClientStopped()).addCallback(stopped.append))
    net.server.send_opening()
    net.clock.advance(0)
    assert stopped == [None]
    assert net.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=11)
def test_a_retry_after_the_stop_is_refused() -> None:
    """It is public, since `ReconnectingClientFactory` has it."""
    net = backing_off()
    net.factory.stop(ClientStopped())
    net.factory.retry()
    assert net.factory.next_attempt is None
    assert net.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=11)
def test_a_connection_closed_twice_leaves_no_timer() -> None:
    net = connected()
    close(net.connection)
    close(net.connection)
    net.clock.advance(0)
    net.factory.stop(ClientStopped())
    assert net.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=11)
def test_a_connection_closed_after_its_loss_leaves_no_timer() -> None:
    net = connected()
    connection = net.connection
    net.server.lose()
    net.factory.stop(ClientStopped())
    close(connection)
    assert net.clock.getDelayedCalls() == []


def test_a_closed_connection_is_replaced() -> None:
    """`close()` is of the connection; only `stop()` is of the factory."""
    net = connected()
    first = net.connection
    close(first)
    net.clock.advance(0)
    net.clock.advance(net.delay)
    assert net.connection is not first
    assert net.listener.ready == [first, net.connection]


# Waiting for a connection.


def test_when_ready_fires_at_once_with_a_ready_connection() -> None:
    net = connected()
    assert outcome(net.factory.when_ready()) == [net.connection]


def test_when_ready_waits_for_the_first_good_answer() -> None:
    net = unready()
    waiting = [outcome(net.factory.when_ready()) for _ in range(2)]
    assert waiting == [[], []]
    net.server.send_opening()
    assert waiting == [[net.connection], [net.connection]]


def test_when_ready_waits_for_the_next_attempt_during_back_off() -> None:
    net = backing_off()
    waiting = outcome(net.factory.when_ready())
    assert waiting == []
    net.clock.advance(net.delay)
    assert waiting == [net.connection]


def test_when_ready_waits_for_the_next_attempt_while_a_connection_goes_down() -> None:
    net = just_aborted()
    waiting = outcome(net.factory.when_ready())
    net.clock.advance(0)
    assert waiting == []
    net.clock.advance(net.delay)
    assert waiting == [net.connection]


def test_when_ready_fails_with_the_attempt() -> None:
    net = Served()
    net.server.refuse_connections()
    waiting = outcome(net.factory.when_ready())
    net.connect()
    assert waiting == net.listener.errors
    assert len(waiting) == 1


def test_when_ready_can_be_cancelled() -> None:
    net = unready()
    deferred = net.factory.when_ready()
    cancelled, other = outcome(deferred), outcome(net.factory.when_ready())
    deferred.cancel()
    net.server.send_opening()
    assert [type(error) for error in cancelled] == [CancelledError]
    assert other == [net.connection]


@pytest.mark.guarantee(number=12)
@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("cancelled", [True, False])
def test_nothing_is_kept_of_one_that_waited(cancelled: bool) -> None:
    net = unready()
    deferred = net.factory.when_ready()
    told = outcome(deferred)
    if cancelled:
        deferred.cancel()
    else:
        net.server.send_opening()
    assert len(told) == 1
    gone = weakref.ref(deferred)
    del deferred
    assert gone() is None


def test_one_that_waits_may_cancel_another() -> None:
    net = unready()
    first, second = net.factory.when_ready(), net.factory.when_ready()
    first.addCallback(lambda _: second.cancel())
    told = outcome(second)
    net.server.send_opening()
    assert [type(error) for error in told] == [CancelledError]


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("state", [never_connected, connecting, unready, backing_off, just_aborted])
def test_when_ready_fails_with_what_the_stop_was_for(state: Callable[[], Net]) -> None:
    net = state()
    waiting = outcome(net.factory.when_ready())
    error = ClientStopped()
    net.factory.stop(error)
    net.clock.advance(0)
    assert waiting == [error]


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("state", [never_connected, connecting, connected, backing_off, just_aborted])
def test_when_ready_after_the_stop_fails(state: Callable[[], Net]) -> None:
    """There will be no next attempt to wait for."""
    net = state()
    net.factory.stop(ClientStopped())
    waiting = outcome(net.factory.when_ready())
    net.clock.advance(0)
    assert [type(error) for error in waiting] == [ClientStopped]


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("state", [connecting, unready])
def test_when_ready_fails_after_twisteds_own_stop(state: Callable[[], Net]) -> None:
    """Whoever knows `ReconnectingClientFactory` calls `stopTrying()`, and then closes the connection."""
    net = state()
    waiting = outcome(net.factory.when_ready())
    net.factory.stopTrying()
    if net.factory.connection is not None:
        net.connector.disconnect()
    net.clock.advance(0)
    assert len(waiting) == 1
    assert isinstance(waiting[0], Exception)


# Connectors.


def test_an_endpoint_that_raises_is_a_failed_attempt() -> None:
    @implementer(IStreamClientEndpoint)
    class Raising:
        def connect(self, protocolFactory: Any) -> Deferred[Any]:
            raise OSError("no more files")

    net = Net()
    EndpointConnector(Raising(), net.factory).connect()
    assert [str(error) for error in net.listener.errors] == ["no more files"]
    assert net.delay < 2


def test_an_endpoint_connector_makes_one_connection_at_a_time() -> None:
    for net in (connecting(), connected()):
        with pytest.raises(RuntimeError, match="already connect"):
            net.connector.connect()
        assert net.endpoint.attempts == 1


@pytest.mark.parametrize("state", [never_connected, connected, backing_off])
def test_an_endpoint_connector_has_nothing_to_give_up_unless_it_is_connecting(state: Callable[[], Net]) -> None:
    with pytest.raises(NotConnectingError):
        state().connector.stopConnecting()


@pytest.mark.parametrize(
    ("state", "error"), [(connecting, CancelledError), (connected, ConnectionDone), (backing_off, ConnectionDone)]
)
def test_disconnect_ends_whatever_there_is(state: Callable[[], Net], error: type[Exception]) -> None:
    net = state()
    net.connector.disconnect()
    net.clock.advance(0)
    assert net.connector.state == "disconnected"
    assert [type(error) for error in net.listener.errors] == [error]


def test_the_states_of_an_endpoint_connector() -> None:
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
def test_the_factory_is_started_and_stopped_as_often(state: Callable[[], Net]) -> None:
    """Twisted counts, and calls `startFactory` and `stopFactory` by it."""
    net = state()
    assert net.factory.numPorts == (net.connector.state != "disconnected")
    net.factory.stop(ClientStopped())
    net.clock.advance(0)
    assert net.factory.numPorts == 0


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


def test_a_plain_connector_connects_and_connects_again() -> None:
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
def test_a_plain_connector_is_told_to_give_up() -> None:
    net = PlainNet()
    waiting = outcome(net.factory.when_ready())
    net.clock.advance(CONNECT_TIMEOUT)
    assert net.connector.calls == ["stopConnecting"]
    net.factory.clientConnectionFailed(net.connector, Failure(ConnectionLost("given up")))
    assert [type(error) for error in waiting] == [TimeoutError]


@pytest.mark.guarantee(number=11)
def test_a_plain_connector_is_told_to_stop() -> None:
    net = PlainNet()
    server = net.accept()
    server.send_opening()
    stopped = outcome(net.factory.stop(ClientStopped()))
    assert server.transport.disconnecting
    net.lose(server)
    assert stopped == [None]
    net.clock.advance(3600)
    assert "connect" not in net.connector.calls


# Endpoints and transports of other people's.


class OddEndpoint(MemoryEndpoint):
    """Connects, and then says something else than that it did."""

    def __init__(self, clock: Clock, outcome: Callable[[], Deferred[Any]], connects: bool) -> None:
        super().__init__(clock)
        self._outcome = outcome
        self._connects = connects

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        if self._connects:
            super().connect(protocolFactory)
        else:
            self.attempts += 1
        return self._outcome()


def failed() -> Deferred[Any]:
    return fail(ConnectionLost("the handshake that comes after"))


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize(
    ("outcome_of", "connects"), [(failed, True), (lambda: succeed(None), False)], ids=["fails after all", "no protocol"]
)
def test_an_endpoint_that_says_one_thing_and_does_another(
    outcome_of: Callable[[], Deferred[Any]], connects: bool
) -> None:
    """It is a failed attempt: one retry at a time, and nothing left in the end."""
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


class Pipe:
    """A transport that can do no more than `ITransport` and `IConsumer` ask for, as that of a process.

    It disconnects at once, and would not with a producer."""

    def __init__(self, protocol: GearmanProtocol) -> None:
        self._protocol = protocol
        self.lost = 0
        self.producer: Any = None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def write(self, data: bytes) -> None:
        pass

    def loseConnection(self) -> None:
        assert self.producer is None
        self.lost += 1
        self._protocol.connectionLost(Failure(ConnectionDone()))


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("end", ["abort", "close"])
def test_a_transport_that_knows_no_abort_and_disconnects_at_once(end: str) -> None:
    clock = Clock()
    factory: GearmanFactory[GearmanProtocol] = GearmanFactory(clock)
    connection = factory.buildProtocol(None)
    pipe: Any = Pipe(connection)
    connection.makeConnection(pipe)
    getattr(connection, end)(ClientStopped())
    assert pipe.lost == 1
    assert clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=11)
def test_an_endpoint_in_whose_connect_the_factory_is_stopped() -> None:
    """Looking something up may run anybody's code."""
    clock = Clock()
    factory: GearmanFactory[GearmanProtocol] = GearmanFactory(clock)
    told: list[Any] = []

    def stop() -> Deferred[Any]:
        told.append(factory.stop(ClientStopped()))
        return Deferred()

    endpoint = OddEndpoint(clock, stop, connects=False)
    EndpointConnector(endpoint, factory).connect()
    assert outcome(told[0]) == [None]
    assert clock.getDelayedCalls() == []
    assert endpoint.attempts == 1


# A server that owes answers and gives none.


def let_pass(net: Net, seconds: float) -> None:
    """Let time pass as a reactor that is not blocked does."""
    for _ in range(round(seconds * 4)):
        net.clock.advance(0.25)


@pytest.mark.guarantee(number=10)
@pytest.mark.guarantee(number=17)
def test_a_server_that_owes_answers_and_gives_none_is_dropped() -> None:
    net = connected(server_timeout=8.0)
    let_pass(net, 60)
    told = net.echo(b"1")
    let_pass(net, 7.75)
    assert (told, net.connection.error) == ([], None)
    let_pass(net, 0.25)
    assert closed_by(net, TimeoutError)
    assert "no answer within 8.0 seconds" in str(told[0])
    assert [type(error) for error in net.listener.errors] == [TimeoutError]


@pytest.mark.guarantee(number=10)
def test_the_default_is_half_a_minute() -> None:
    net = connected()
    net.clock.advance(60)
    told = net.echo(b"1")
    let_pass(net, 29.75)
    assert told == []
    let_pass(net, 0.25)
    assert len(told) == 1


@pytest.mark.guarantee(number=17)
def test_a_server_that_is_slow_and_goes_on_is_waited_for() -> None:
    """One answer in each while, however much is owed."""
    net = connected(server_timeout=8.0)
    told = [net.echo(b"%d" % number) for number in range(10)]
    for packet in net.server.received():
        let_pass(net, 7.5)
        net.server.send(answer(packet))
    assert told == [[[b"%d" % number]] for number in range(10)]
    assert net.connection.error is None


@pytest.mark.guarantee(number=17)
def test_a_server_that_stops_answering_is_found_in_half_as_long_again() -> None:
    net = connected(server_timeout=8.0)
    net.echo(b"1")
    question, fence = net.server.received()
    let_pass(net, 3.75)
    net.server.send(answer(question), answer(fence))
    net.echo(b"2")
    let_pass(net, 7.75)
    assert net.connection.error is None
    let_pass(net, 0.5)
    assert closed_by(net, TimeoutError)


@pytest.mark.guarantee(number=17)
def test_a_server_that_is_slow_with_something_large_is_waited_for() -> None:
    """What it owes is behind that."""
    net = connected(server_timeout=8.0)
    connection, large, told = net.connection, net.echo(b"x" * 40), net.echo(b"1")
    question, fence, *others = net.server.received()
    packet = answer(question)
    for place in range(len(packet)):
        let_pass(net, 7.5)
        net.server.send(packet[place : place + 1])
    assert (large, connection.error) == ([[b"x" * 40]], None)
    net.server.send(answer(fence), answer(others[0])[:-1])
    let_pass(net, 7.75)
    assert (told, connection.error) == ([], None)
    let_pass(net, 4.25)
    assert isinstance(connection.error, TimeoutError)  # it said no more


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize("late", [3.75, 4.25, 7.75])
def test_a_server_has_its_whole_time_for_each_answer(late: float) -> None:
    """However late the one before was."""
    net = connected(server_timeout=8.0)
    connection = net.connection
    net.echo(b"1")
    let_pass(net, late)
    net.server.send_opening()
    let_pass(net, 12)
    assert net.clock.getDelayedCalls() == []
    net.echo(b"2")
    let_pass(net, 7.75)
    assert connection.error is None
    let_pass(net, 0.25)
    assert isinstance(connection.error, TimeoutError)


@pytest.mark.guarantee(number=10)
@pytest.mark.guarantee(number=17)
def test_a_reactor_that_was_blocked_is_no_silence_of_the_server() -> None:
    """The timer comes before what has been there to be read for long."""
    net = connected(server_timeout=8.0)
    for number in range(5):
        told = net.echo(b"%d" % number)
        packets = net.server.received()
        net.clock.advance(100)
        net.server.send(*map(answer, packets))
        assert told == [[b"%d" % number]]
    assert net.connection.error is None


@pytest.mark.guarantee(number=10)
def test_an_idle_connection_has_no_timer() -> None:
    net = connected(server_timeout=8.0)
    net.echo(b"1")
    net.server.send_opening()
    let_pass(net, 12)
    assert net.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=10)
@pytest.mark.parametrize("end", ["stop", "lose"])
def test_the_looks_end_with_the_connection(end: str) -> None:
    net = connected(heartbeat=5.0)
    net.echo(b"1")
    if end == "stop":
        net.factory.stop(ClientStopped())
    else:
        net.factory.stopTrying()
        net.server.lose()
    net.clock.advance(0)
    assert net.clock.getDelayedCalls() == []


# The heartbeat.

ASKED: list[Packet] = [(ECHO_REQ, [b""]), FENCE]


def test_without_a_heartbeat_nobody_is_asked() -> None:
    net = connected()
    let_pass(net, 3600)
    assert net.server.received() == []
    assert net.connection.error is None


@pytest.mark.guarantee(number=10)
def test_a_heartbeat_asks_in_silence_and_drops_who_is_gone() -> None:
    net = connected(heartbeat=8.0)
    let_pass(net, 11.75)
    assert net.server.received() == []
    let_pass(net, 0.25)
    assert net.server.received() == ASKED
    let_pass(net, 7.75)
    assert net.connection.error is None
    let_pass(net, 0.25)
    assert closed_by(net, TimeoutError)
    assert "no data, and no answer to ECHO_REQ within 8.0 seconds" in str(net.listener.errors[0])


def test_who_answers_the_heartbeat_is_asked_again_after_the_next_silence() -> None:
    net = connected(heartbeat=8.0)
    asked = 0
    for _ in range(100 * 4):
        net.clock.advance(0.25)
        packets = net.server.received()
        if packets:
            asked += 1
            assert packets == ASKED
            net.server.send(*map(answer, packets))
    assert 7 <= asked <= 12
    assert net.connection.error is None


@pytest.mark.guarantee(number=17)
def test_who_answers_the_fence_only_is_there_as_well() -> None:
    """geard does so with an ECHO_REQ (H6)."""
    net = connected(heartbeat=8.0)
    for _ in range(100 * 4):
        net.clock.advance(0.25)
        if net.server.received() == ASKED:
            net.server.send(answer(FENCE))
    assert net.connection.error is None


def test_any_byte_is_a_sign_of_life() -> None:
    net = connected(heartbeat=8.0, server_timeout=1e6)
    connection, server, packet = net.connection, net.server, answer(FENCE)
    connection.send_fence()
    server.received()
    for place in range(len(packet)):
        let_pass(net, 3)
        server.send(packet[place : place + 1])
    assert (server.received(), connection.error, connection.has_outstanding) == ([], None, False)


@pytest.mark.guarantee(number=10)
def test_a_reactor_that_was_blocked_is_no_silence_for_the_heartbeat() -> None:
    net = connected(heartbeat=8.0)
    for _ in range(5):
        net.clock.advance(100)
        net.connection.send_fence()
        net.server.send_opening()
    assert net.connection.error is None


def test_while_something_large_goes_out_there_is_no_silence() -> None:
    """The question would wait behind it."""
    net = connected(heartbeat=8.0)
    net.connection.pauseProducing()
    let_pass(net, 100)
    assert (net.server.received(), net.connection.error) == ([], None)
    net.connection.resumeProducing()
    let_pass(net, 12)
    assert net.server.received() == ASKED


def test_a_connection_that_is_not_ready_has_no_heartbeat() -> None:
    """The time to connect is what limits that."""
    net = unready(heartbeat=1.0)
    net.server.received()
    let_pass(net, 5)
    assert net.server.received() == []


# How fast the server takes what is written.


def test_a_connection_tells_when_what_was_written_is_out() -> None:
    net = connected()
    assert outcome(net.connection.when_drained()) == [None]
    net.connection.pauseProducing()
    waiting = [outcome(net.connection.when_drained()) for _ in range(2)]
    assert (net.connection.writing_paused, waiting) == (True, [[], []])
    net.connection.resumeProducing()
    assert (net.connection.writing_paused, waiting) == (False, [[None], [None]])


@pytest.mark.guarantee(number=1)
def test_who_waits_for_a_slow_server_is_told_when_it_is_gone() -> None:
    net = connected()
    connection = net.connection
    connection.pauseProducing()
    waiting = outcome(connection.when_drained())
    net.server.lose()
    assert (waiting, outcome(connection.when_drained())) == ([None], [None])


def test_the_connection_is_the_producer_of_its_transport_until_it_is_closed() -> None:
    net = connected()
    connection = net.connection
    assert net.server.transport.producer is connection
    assert net.server.transport.streaming
    net.factory.stop(ClientStopped())
    assert net.server.transport.producer is None
    connection.stopProducing()  # what a transport says that is gone
    net.clock.advance(0)
    assert net.clock.getDelayedCalls() == []


def pieces_written(net: Net, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the transport is given from now on, by its calls, as if it were a socket."""
    net.connection.corks = True
    net.server.received()
    pieces: list[bytes] = []
    monkeypatch.setattr(net.server.transport, "write", pieces.append)
    monkeypatch.setattr(net.server.transport, "writeSequence", lambda data: pieces.append(b"".join(data)))
    return pieces


@pytest.mark.parametrize(("size", "count"), [(10, 1), (40_000, 6)])
def test_what_answers_bring_about_goes_out_in_few_pieces(
    size: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each 64 KiB, in the order of the calls."""
    net = connected()
    first = net.connection.request(ECHO_REQ, b"1", answer=ECHO_RES)
    first.addCallback(lambda _: [net.echo(b"%d" % number + b"x" * size) for number in range(10)])
    pieces = pieces_written(net, monkeypatch)
    net.server.send(ECHO_RES.response(b"1"), answer(FENCE))
    assert len(pieces) == count
    packets = Decoder(REQ).feed(b"".join(pieces))
    asked = [arguments[0][:1] for packet_type, arguments in packets if packet_type is ECHO_REQ]
    assert asked == [b"%d" % number for number in range(10)]
    net.echo(b"alone")
    assert b"alone" in pieces[-2]


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize(("end", "written"), [(close, [b"last"]), (abort, [])])
def test_what_is_kept_goes_out_before_a_close(
    end: Callable[[GearmanProtocol], None], written: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it, TLS would drop it; and an abort drops all that is not out."""
    net = connected()
    first = net.connection.request(ECHO_REQ, b"1", answer=ECHO_RES)
    written_by_then: list[bytes] = []

    def write_and_end(_: object) -> None:
        net.connection.write(b"last")
        end(net.connection)
        written_by_then.extend(pieces)

    first.addCallback(write_and_end)
    pieces = pieces_written(net, monkeypatch)
    net.server.send(ECHO_RES.response(b"1"), answer(FENCE))
    assert written_by_then == pieces == written
    net.factory.stop(ClientStopped())
    net.clock.advance(0)
    assert net.clock.getDelayedCalls() == []


# Reading can be paused.


def test_a_deaf_connection_reads_nothing_until_it_asks_something() -> None:
    net = connected(heartbeat=8.0)
    transport = net.server.transport
    net.connection.pause_reading()
    net.connection.pause_reading()
    assert (net.connection.reading_paused, transport.producerState) == (True, "paused")
    let_pass(net, 100)
    assert (net.connection.error, net.server.received()) == (None, [])  # this silence is our own
    net.echo(b"1")
    assert (net.connection.reading_paused, transport.producerState) == (False, "producing")
    net.connection.resume_reading()
    assert transport.producerState == "producing"


@pytest.mark.guarantee(number=11)
def test_a_deaf_connection_hears_how_it_is_closed() -> None:
    net = connected()
    net.connection.pause_reading()
    net.factory.stop(ClientStopped())
    assert net.server.transport.producerState == "producing"


# A server that was removed from the list.


def test_a_connection_that_is_to_be_left_finishes_what_is_out() -> None:
    net = connected()
    told = net.echo(b"1")
    left = outcome(net.factory.retire(net.connection))
    connection = net.connection
    assert (connection.retiring, connection.busy, left) == (True, True, [])
    net.server.send_opening()
    assert told == [[b"1"]]
    assert "removed from the list" in str(connection.error)
    net.clock.advance(0)
    assert (len(left), net.endpoint.attempts, net.clock.getDelayedCalls()) == (1, 1, [])


def test_an_idle_connection_is_left_at_once() -> None:
    net = connected()
    left = outcome(net.factory.retire(net.connection))
    net.clock.advance(0)
    assert (len(left), net.clock.getDelayedCalls()) == (1, [])


@pytest.mark.guarantee(number=7)
def test_a_connection_that_is_lost_while_it_is_left_is_not_made_again() -> None:
    net = connected()
    net.echo(b"1")
    left = outcome(net.factory.retire(net.connection))
    net.server.lose()
    net.clock.advance(60)
    assert (len(left), net.endpoint.attempts) == (1, 1)


def test_a_server_that_is_not_ready_is_left_without_more_ado() -> None:
    net = unready()
    left = outcome(net.factory.retire(None))
    net.clock.advance(0)
    assert (len(left), net.clock.getDelayedCalls()) == (1, [])


@pytest.mark.guarantee(number=11)
def test_a_stop_hurries_a_connection_that_is_being_left() -> None:
    net = connected()
    told = net.echo(b"1")
    left = outcome(net.factory.retire(net.connection))
    stopped = outcome(net.factory.stop(ClientStopped()))
    net.clock.advance(0)
    assert [type(error) for error in told] == [ClientStopped]
    assert (len(left), len(stopped), net.clock.getDelayedCalls()) == (1, 1, [])


class Leaving:
    """Notes how often a connection was said to be idle, and whether it was of use then; and asks it something once
    more."""

    def __init__(self, net: Net, ask_again: bool = False) -> None:
        self.net = net
        self.connection = net.connection
        self.ask_again = ask_again
        self.idle: list[Exception | None] = []

    def on_idle(self) -> None:
        self.idle.append(self.connection.error)
        if self.ask_again:
            self.net.echo(b"again")


def test_an_idle_connection_is_told_once() -> None:
    """Whatever it is used for afterwards."""
    net = connected()
    leaving = Leaving(net, ask_again=True)
    net.echo(b"1")
    net.connection.retire(leaving.on_idle)
    for _ in range(3):
        net.server.send_opening()
    assert (leaving.idle, net.connection.retiring) == ([None], False)


@pytest.mark.parametrize("said", [b"", b"garbage" * 3], ids=["lost", "garbage"])
def test_a_connection_that_is_of_no_use_is_not_told_as_idle(said: bytes) -> None:
    net = connected()
    leaving = Leaving(net)
    net.echo(b"1")
    net.connection.retire(leaving.on_idle)
    net.server.send(said)
    net.server.lose()
    assert isinstance(leaving.connection.error, Exception)
    leaving.connection.check_idle()
    assert leaving.idle == []


@pytest.mark.guarantee(number=11)
def test_a_connection_that_is_left_has_the_time_that_it_is_given_to_go() -> None:
    net = Served().connect()
    net.server.fall_silent()
    left = outcome(net.factory.retire(net.connection, 20.0))
    net.server.advance(19.75)
    assert left == []
    net.server.advance(0.25)
    assert (left, net.server.connections, net.clock.getDelayedCalls()) == ([None], [], [])
