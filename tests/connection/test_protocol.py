"""One connection: opening, matching of answers, fences, silence, flow control. No socket, no real time."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone, ConnectionLost, TimeoutError
from twisted.internet.interfaces import ISSLTransport, ITCPTransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import directlyProvides

from txgearman.connection.factory import GearmanFactory
from txgearman.connection.options import CONNECT_TIMEOUT
from txgearman.connection.protocol import GearmanProtocol
from txgearman.errors import ClientStopped, ProtocolError, ServerError, TLSError
from txgearman.packets import (
    ECHO_REQ,
    ECHO_RES,
    ERROR,
    GET_STATUS,
    JOB_ASSIGN,
    JOB_CREATED,
    NOOP,
    OPTION_REQ,
    OPTION_RES,
    REQ,
    STATUS_RES,
    Decoder,
    Packet,
    PacketType,
)

from ..garbage import is_freed
from ..wire import WireTransport, answer, outcome
from .harness import (
    FENCE,
    QUESTIONS,
    Connection,
    Net,
    Served,
    abort,
    bad_streams,
    close,
    closed_by,
    connected,
    let_pass,
    unready,
)

# Opening.


def test_opening_sends_each_option_with_a_fence_behind_it() -> None:
    net = unready(option_requests=(b"exceptions", b"other"))
    options = [(OPTION_REQ, [b"exceptions"]), FENCE, (OPTION_REQ, [b"other"]), FENCE]
    assert net.server.received() == options


def test_call_after_read_is_made_once_all_packets_were_handled() -> None:
    net = connected()
    order: list[str] = []

    def answered(_: object, name: str) -> None:
        net.connection.call_after_read(lambda: order.append("after the read"))
        order.append(name)

    for name in ("first", "second"):
        net.ask(ECHO_REQ, b"")[0].addCallback(answered, name)
    net.server.send(*(answer(packet) for packet in net.server.received()))
    assert order == ["first", "second", "after the read"]


def test_opening_without_options_is_one_fence() -> None:
    assert unready().server.received() == [FENCE]


def test_options_are_sent_at_each_connect() -> None:
    net = Served(option_requests=(b"exceptions",)).connect()
    net.server.drop_connections()
    net.server.advance(net.delay)
    assert [(each.number, each.requests) for each in net.server.connections] == [(2, [OPTION_REQ, GET_STATUS])]


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize(
    "said",
    [OPTION_RES.response(b"exceptions"), ERROR.response(b"UNKNOWN_OPTION", b"no such option"), b""],
    ids=["option accepted", "option refused", "option left unanswered"],
)
def test_connection_is_ready_at_answer_to_first_fence(said: bytes) -> None:
    """Whatever the server makes of an option, it is a job server once it answers a GET_STATUS, and not before."""
    net = unready(option_requests=(b"exceptions",))
    net.server.send(said)
    assert not net.connection.ready
    assert net.listener.ready == []
    net.server.send(answer(FENCE))
    assert net.connection.ready
    assert net.listener.ready == [net.connection]


def test_connection_becomes_ready_once() -> None:
    net = connected()
    net.echo(b"1")
    net.server.send_opening()
    assert net.listener.ready == [net.connection]


def test_tcp_connection_sets_no_delay_and_keep_alive() -> None:
    """Small packets must not wait for the server's delayed ACK; a dead peer must be found eventually."""
    net = Net()
    connection = net.factory.buildProtocol(None)
    transport = TCPTransport(net.clock, connection)
    connection.makeConnection(transport)
    assert transport.options == [("no delay", True), ("keep alive", True)]


@pytest.mark.parametrize("error", [ConnectionDone(), ConnectionLost()])
def test_error_of_tcp_connection_lost_before_any_answer_suggests_tls(error: Exception) -> None:
    net = unready()
    directlyProvides(net.server.transport, ITCPTransport)
    net.server.lose(error)
    (reported,) = net.listener.errors
    assert type(reported) is type(error)
    assert str(reported).endswith(": before any answer; the server may require TLS, which takes an address with tls:.")


# TLS, as far as the connection is concerned; `test_tls` has real handshakes.


class TCPTransport(WireTransport):
    """A transport with the options of TCP, which it records."""

    def __init__(self, clock: Clock, protocol: GearmanProtocol) -> None:
        super().__init__(clock, protocol)
        self.options: list[tuple[str, bool]] = []
        directlyProvides(self, ITCPTransport)

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: N802  # Twisted's name
        self.options.append(("no delay", enabled))

    def setTcpKeepAlive(self, enabled: bool) -> None:  # noqa: N802  # Twisted's name
        self.options.append(("keep alive", enabled))


class TLSTransport(TCPTransport):
    """A transport that says that it is TLS, whose handshake the test completes."""

    def __init__(self, clock: Clock, protocol: GearmanProtocol) -> None:
        super().__init__(clock, protocol)
        directlyProvides(self, ISSLTransport)


@pytest.fixture
def tls_net(monkeypatch: pytest.MonkeyPatch) -> Net:
    """A connection over TLS, whose handshake is in progress."""
    monkeypatch.setattr("tests.wire.WireTransport", TLSTransport)
    return unready()


def test_loss_of_tls_connection_is_explained(tls_net: Net) -> None:
    error = ConnectionLost()
    tls_net.server.lose(error)
    (reported,) = tls_net.listener.errors
    assert isinstance(reported, TLSError)
    assert reported.__cause__ is error


@pytest.mark.guarantee(number=10)
@pytest.mark.parametrize("tls_established", [False, True])
def test_connect_timeout_over_tls_names_incomplete_handshake(tls_net: Net, tls_established: bool) -> None:
    if tls_established:
        tls_net.connection.handshakeCompleted()
    tls_net.clock.advance(CONNECT_TIMEOUT)
    (reported,) = tls_net.listener.errors
    assert type(reported) is (TimeoutError if tls_established else TLSError)
    assert f"no good answer within {CONNECT_TIMEOUT} seconds" in str(reported)


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("tls_established", [False, True])
def test_stop_does_not_wait_for_tls_handshake(tls_net: Net, tls_established: bool) -> None:
    """Nothing can go out before it is done."""
    if tls_established:
        tls_net.connection.handshakeCompleted()
    stopped = outcome(tls_net.factory.stop(ClientStopped()))
    assert tls_net.server.transport.aborted is not tls_established
    tls_net.clock.advance(0)
    assert stopped == [None]
    assert tls_net.clock.getDelayedCalls() == []


# Requests and their answers.


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize("question", QUESTIONS)
def test_request_has_a_fence_behind_it(question: PacketType) -> None:
    net = connected()
    _, reported = net.ask(question, b"x")
    packets = net.server.received()
    assert packets == [(question, [b"x"]), FENCE]
    net.server.send(answer(packets[0]))
    assert reported[0][0] == b"x"


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize("question", QUESTIONS)
def test_unanswered_request_fails_and_later_answers_are_matched(question: PacketType) -> None:
    """geard and gearmand say nothing to some requests (H6)."""
    net = connected()
    silent = [net.ask(question, b"silent")[1] for _ in range(2)]
    answered = [net.ask(asked, b"%d" % place)[1] for place, asked in enumerate(QUESTIONS)]
    net.server.send(*(answer(packet) for packet in net.server.received() if packet[1] != [b"silent"]))
    assert [reported[0].code for reported in silent] == ["", ""]
    assert [reported[0][0] for reported in answered] == [b"0", b"1", b"2", b"3"]
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
def test_error_answers_oldest_request(arguments: tuple[bytes, bytes], text: str) -> None:
    net = connected()
    refused, answered = net.echo(b"1"), net.echo(b"2")
    _, fence, second, _ = net.server.received()
    net.server.send(ERROR.response(*arguments), answer(fence), answer(second))
    assert isinstance(refused[0], ServerError)
    assert str(refused[0]) == text
    assert answered == [[b"2"]]


class Asked:
    """One request of the test below, how the server treats it, and its outcome."""

    def __init__(self, net: Net, number: int, question: PacketType, treated: str, cancelled: bool) -> None:
        self.name = b"%d" % number
        self.treated = treated
        self.cancelled = cancelled
        deferred, self.reported = net.ask(question, self.name)
        if cancelled:
            deferred.cancel()

    def answers(self, question: Packet, fence: Packet) -> list[bytes]:
        own = {"answered": [answer(question)], "refused": [ERROR.response(self.name, b"")], "silent": []}
        return [*own[self.treated], answer(fence)]

    def has_right_outcome(self) -> bool:
        (reported,) = self.reported
        if self.cancelled:
            return isinstance(reported, CancelledError)
        if self.treated == "answered":
            return bool(reported[0] == self.name)
        expected = self.name.decode() if self.treated == "refused" else ""
        return bool(reported.code == expected)


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
    assert all(one.has_right_outcome() for one in asked)
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
def test_wrong_answer_to_oldest_request_ends_connection(fault: Callable[[Net], bytes]) -> None:
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
def test_unrequested_packet_ends_connection(said: bytes) -> None:
    net = connected()
    reported = net.echo(b"1")
    net.server.send_opening()
    net.server.send(said)
    assert reported == [[b"1"]]
    assert closed_by(net, ProtocolError)


@pytest.mark.guarantee(number=17)
def test_request_about_handle_of_fence_is_answered() -> None:
    """A handle may come from anywhere, through `JobHandle.from_string`."""
    net = connected()
    _, reported = net.ask(GET_STATUS, FENCE[1][0])
    bystander = net.echo(b"1")
    net.server.send_opening()
    assert net.connection.error is None
    assert bystander == [[b"1"]]
    assert len(reported) == 1


@pytest.mark.guarantee(number=6)
@pytest.mark.parametrize("late", [ECHO_RES.response(b"1"), ERROR.response(b"code", b"text"), b""])
def test_late_answer_to_cancelled_request_is_ignored(late: bytes) -> None:
    net = connected()
    deferred, reported = net.ask(ECHO_REQ, b"1")
    deferred.cancel()
    assert [type(error) for error in reported] == [CancelledError]
    next_one = net.echo(b"2")
    net.server.send(late, answer(FENCE), ECHO_RES.response(b"2"), answer(FENCE))
    assert len(reported) == 1
    assert next_one == [[b"2"]]
    assert net.connection.error is None


@pytest.mark.guarantee(number=1)
def test_every_request_fails_once_when_connection_is_lost() -> None:
    """A cancelled one too, and one that is cancelled by the failure of another."""
    net = connected()
    first = net.connection.request(ECHO_REQ, b"1", answer=ECHO_RES)
    cancelled_before, before = net.ask(ECHO_REQ, b"2")
    cancelled_after, after = net.ask(ECHO_REQ, b"3")
    cancelled_before.cancel()
    first.addErrback(lambda failure: cancelled_after.cancel())
    last = net.echo(b"4")
    net.server.lose(ConnectionLost("cable"))
    assert [type(reported[0]) for reported in (before, after, last)] == [CancelledError, CancelledError, ConnectionLost]
    assert [len(reported) for reported in (before, after, last)] == [1, 1, 1]


@pytest.mark.guarantee(number=1)
def test_request_on_lost_connection_fails_at_once() -> None:
    net = connected()
    connection = net.connection
    net.server.lose(ConnectionLost("cable"))
    reported = outcome(connection.request(ECHO_REQ, b"1", answer=ECHO_RES))
    assert reported == [connection.error]
    assert isinstance(connection.error, ConnectionLost)
    assert net.server.received() == []


@pytest.mark.guarantee(number=1)
def test_request_made_by_errback_of_lost_one_fails_at_once() -> None:
    """The connection is known to be down before anybody is reported."""
    net = connected()
    connection = net.connection
    again: list[Any] = []

    def ask_again(failure: Failure) -> None:
        again.extend(outcome(connection.request(ECHO_REQ, b"again", answer=ECHO_RES)))

    connection.request(ECHO_REQ, b"1", answer=ECHO_RES).addErrback(ask_again)
    net.server.lose(ConnectionLost("cable"))
    assert again == [connection.error]


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("end", [close, abort])
def test_callback_can_end_connection(end: Callable[[GearmanProtocol], None]) -> None:
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
def test_connection_ended_by_refusal_of_option_never_becomes_ready() -> None:
    """The refusal of the option is handled first, and may run the user's code."""

    class Hasty(Connection):
        def _send_opening(self) -> None:
            option = self.request(OPTION_REQ, b"exceptions", answer=OPTION_RES)
            option.addErrback(lambda _: self.abort(ClientStopped()))

    net = Net()
    net.factory.protocol = Hasty
    net.endpoint.answers_opening = False
    waiting = outcome(net.factory.when_ready())
    net.connector.connect()
    connection = net.connection
    net.server.send(answer(FENCE))
    assert (connection.ready, net.listener.ready) == (False, [])
    assert [type(error) for error in waiting] == [ClientStopped]


@pytest.mark.guarantee(number=7)
def test_listener_is_called_before_requests_fail() -> None:
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


@pytest.mark.guarantee(number=12)
@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("end", [is_answered, is_lost, is_answered_wrongly])
def test_ended_request_is_not_retained(end: Callable[[Net], None]) -> None:
    net = connected()
    connection = net.connection
    deferred, reported = net.ask(ECHO_REQ, b"1")
    end(net)
    assert len(reported) == 1
    gone = weakref.ref(deferred)
    del deferred
    assert is_freed(gone)
    assert isinstance(connection, GearmanProtocol)  # it was still held, and holds nothing of the request


class Worker(Connection):
    """A subclass that is interested in something of its own."""

    noops = 0

    def noop(self, arguments: list[bytes]) -> None:
        self.noops += 1

    _handlers: ClassVar[Any] = {NOOP: noop}


def test_subclass_handles_packets_that_answer_no_request() -> None:
    net = Net()
    net.factory.protocol = Worker
    net.connector.connect()
    reported = net.echo(b"1")
    net.server.send(NOOP.response(), ECHO_RES.response(b"1"), NOOP.response())
    assert isinstance(net.connection, Worker)
    assert net.connection.noops == 2
    assert reported == [[b"1"]]


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("size", [1, 2, 11, 12, 13, 10**6])
def test_answers_are_intact_in_any_fragmentation(size: int) -> None:
    net = connected()
    payloads = [b"", b"\0", bytes(range(256)) * 3, b"\0RES" * 5]
    reported = [net.echo(payload) for payload in payloads]
    stream = b"".join(answer(packet) for packet in net.server.received())
    for start in range(0, len(stream), size):
        net.server.send(stream[start : start + size])
    assert reported == [[[payload]] for payload in payloads]


# Bad streams.


@pytest.mark.guarantee(number=14)
@bad_streams
def test_bad_stream_ends_connection(said: bytes) -> None:
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
def test_bad_stream_before_first_answer_ends_connection(said: bytes) -> None:
    net = unready(option_requests=(b"exceptions",))
    net.server.send(said)
    assert net.listener.ready == []
    assert closed_by(net, ProtocolError)


@pytest.mark.guarantee(number=14)
def test_header_of_too_large_packet_ends_connection() -> None:
    net = connected(max_packet_size=64)
    reported = net.echo(b"1")
    net.server.send(ECHO_RES.response(b"x" * 64))
    assert reported == [[b"x" * 64]]
    net.server.send(answer(FENCE), ECHO_RES.response(b"x" * 65)[:12])
    assert closed_by(net, ProtocolError)


# Closing.


@pytest.mark.guarantee(number=11)
def test_connection_closed_twice_leaves_no_timer() -> None:
    net = connected()
    close(net.connection)
    close(net.connection)
    net.clock.advance(0)
    net.factory.stop(ClientStopped())
    assert net.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=11)
def test_connection_closed_after_its_loss_leaves_no_timer() -> None:
    net = connected()
    connection = net.connection
    net.server.lose()
    net.factory.stop(ClientStopped())
    close(connection)
    assert net.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=11)
def test_close_sends_written_data_first() -> None:
    net = connected()
    net.ask(ECHO_REQ, b"1")
    net.factory.stop(ClientStopped())
    assert net.server.transport.disconnecting
    assert not net.server.transport.aborted
    assert net.server.received() == [(ECHO_REQ, [b"1"]), FENCE]


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
def test_transport_without_abort_that_disconnects_at_once(end: str) -> None:
    clock = Clock()
    factory: GearmanFactory[GearmanProtocol] = GearmanFactory(clock)
    connection = factory.buildProtocol(None)
    pipe: Any = Pipe(connection)
    connection.makeConnection(pipe)
    getattr(connection, end)(ClientStopped())
    assert pipe.lost == 1
    assert clock.getDelayedCalls() == []


# Flow control of written data.


def test_when_drained_fires_when_writing_resumes() -> None:
    net = connected()
    assert outcome(net.connection.when_drained()) == [None]
    net.connection.pauseProducing()
    waiting = [outcome(net.connection.when_drained()) for _ in range(2)]
    assert (net.connection.writing_paused, waiting) == (True, [[], []])
    net.connection.resumeProducing()
    assert (net.connection.writing_paused, waiting) == (False, [[None], [None]])


@pytest.mark.guarantee(number=1)
def test_when_drained_fires_when_connection_is_lost() -> None:
    net = connected()
    connection = net.connection
    connection.pauseProducing()
    waiting = outcome(connection.when_drained())
    net.server.lose()
    assert (waiting, outcome(connection.when_drained())) == ([None], [None])


def test_connection_is_producer_of_its_transport_until_closed() -> None:
    net = connected()
    connection = net.connection
    assert net.server.transport.producer is connection
    assert net.server.transport.streaming
    net.factory.stop(ClientStopped())
    assert net.server.transport.producer is None
    connection.stopProducing()  # what a transport says that is gone
    net.clock.advance(0)
    assert net.clock.getDelayedCalls() == []


def connected_over_tcp(monkeypatch: pytest.MonkeyPatch) -> Net:
    """A connection that is ready, over what it takes for TCP."""
    monkeypatch.setattr("tests.wire.WireTransport", TCPTransport)
    return connected()


def pieces_written(net: Net, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the transport gets from now on, call by call."""
    net.server.received()
    pieces: list[bytes] = []
    monkeypatch.setattr(net.server.transport, "write", pieces.append)
    monkeypatch.setattr(net.server.transport, "writeSequence", lambda data: pieces.append(b"".join(data)))
    return pieces


@pytest.mark.parametrize(("size", "count"), [(10, 1), (40_000, 6)])
def test_packets_written_by_callbacks_are_sent_in_few_pieces(
    size: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each 64 KiB, in the order of the calls."""
    net = connected_over_tcp(monkeypatch)
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
@pytest.mark.parametrize(("end", "count"), [(close, 1), (abort, 0)])
def test_corked_packets_are_written_before_close(
    end: Callable[[GearmanProtocol], None], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it, TLS would drop them; and an abort drops all unsent data."""
    net = connected_over_tcp(monkeypatch)
    first = net.connection.request(ECHO_REQ, b"1", answer=ECHO_RES)
    written_by_then: list[bytes] = []

    def write_and_end(_: object) -> None:
        net.echo(b"last")
        end(net.connection)
        written_by_then.extend(pieces)

    first.addCallback(write_and_end)
    pieces = pieces_written(net, monkeypatch)
    net.server.send(ECHO_RES.response(b"1"), answer(FENCE))
    assert written_by_then == pieces == [ECHO_REQ.request(b"last") + GET_STATUS.request(*FENCE[1])] * count
    net.factory.stop(ClientStopped())
    net.clock.advance(0)
    assert net.clock.getDelayedCalls() == []


# Flow control of received data.


def test_silence_while_reading_is_paused_is_not_that_of_server() -> None:
    net = connected(heartbeat=8.0, server_timeout=10.0)
    transport = net.server.transport
    net.echo(b"1")
    net.server.received()
    for _ in range(2):
        net.connection.pause()
    assert transport.producerState == "paused"
    let_pass(net, 100)
    assert (net.connection.error, net.server.received()) == (None, [])
    for _ in range(2):
        net.connection.resume()
    assert transport.producerState == "producing"
    connection = net.connection
    let_pass(net, 9)
    assert connection.error is None
    let_pass(net, 6)
    assert isinstance(connection.error, TimeoutError)


@pytest.mark.guarantee(number=11)
def test_close_resumes_reading() -> None:
    net = connected()
    net.connection.pause()
    net.factory.stop(ClientStopped())
    assert net.server.transport.producerState == "producing"


# Retiring.


class Leaving:
    """Records the error of a connection, if any, whenever it is reported idle; and may send another request."""

    def __init__(self, net: Net, ask_again: bool = False) -> None:
        self.net = net
        self.connection = net.connection
        self.ask_again = ask_again
        self.idle: list[Exception | None] = []

    def on_idle(self) -> None:
        self.idle.append(self.connection.error)
        if self.ask_again:
            self.net.echo(b"again")


def test_on_idle_is_called_once() -> None:
    """Whatever it is used for afterwards; it never becomes one for new work again."""
    net = connected()
    leaving = Leaving(net, ask_again=True)
    net.echo(b"1")
    net.connection.retire_it(leaving.on_idle)
    for _ in range(3):
        net.server.send_opening()
    assert (leaving.idle, net.connection.is_retiring) == ([None], True)


@pytest.mark.parametrize("said", [b"", b"garbage" * 3], ids=["lost", "garbage"])
def test_on_idle_is_not_called_after_loss(said: bytes) -> None:
    net = connected()
    leaving = Leaving(net)
    net.echo(b"1")
    net.connection.retire_it(leaving.on_idle)
    net.server.send(said)
    net.server.lose()
    assert isinstance(leaving.connection.error, Exception)
    leaving.connection.retire_it(leaving.on_idle)
    assert leaving.idle == []
