"""One connection to a job server: framing, and the matching of answers to requests.

A job server answers strictly in order, and sends an ERROR instead of the answer
(docs/gearman.md §2 and §3).

**Fences.** Some servers leave some requests unanswered (H6; geard every OPTION_REQ and ECHO_REQ), and the next answer
would then be taken for theirs. So each such request is followed at once by a *fence*: a GET_STATUS about a job that
does not exist, which every server answers. If the answer to the fence arrives first, the request before it was left
unanswered, and later answers are still matched correctly (guarantee 17). A fence also ends the opening of each new
connection: its answer is the first evidence that the peer is a job server.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Final, Generic, TypeVar
from typing import Protocol as Interface

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import (
    ConnectionDone,
    ConnectionLost,
    TimeoutError,
)
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IHandshakeListener,
    IPushProducer,
    ISSLTransport,
    ITCPTransport,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ..errors import ProtocolError, RequestUnsupported, ServerError
from ..models import decode_text
from ..packets import (
    ECHO_REQ,
    ECHO_RES,
    ERROR,
    GET_STATUS,
    OPTION_REQ,
    OPTION_RES,
    REQ,
    RES,
    STATUS_RES,
    Decoder,
    PacketType,
)
from ..validation import short_text
from .options import DEFAULT_CONNECTION_OPTIONS, ConnectionOptions
from .reactor import Reactor
from .states import TRANSITIONS, ConnectionState
from .timers import PROBES_PER_PERIOD, PeriodicProbe
from .tls import explain_error
from .waiters import Waiters

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "CLOSE_TIMEOUT",
    "FENCE_HANDLE",
    "MAX_CORKED",
    "GearmanProtocol",
    "Outstanding",
    "ProtocolFactory",
    "Request",
    "code_and_text",
]

# Silent probes of the heartbeat after which the server is asked: before the first of them it may have been silent for
# almost as long as between two, and the question goes out after one period of silence at most.
_ASKED_AFTER: Final = PROBES_PER_PERIOD - 1

_MAX_SHOWN: Final = 200  # characters of an unexpected packet's arguments in the text of the error

MAX_CORKED: Final = 64 * 1024
"""Bytes of packets to collect: from there on a transport asks its producer to pause."""

_BEFORE_READY: Final = (ConnectionState.HANDSHAKE, ConnectionState.OPENING)

CLOSE_TIMEOUT: Final = 3.0
"""Seconds until a close is turned into an abort because the peer does not read."""

FENCE_HANDLE: Final = b"txgearman:fence"
"""Handle of a job that does not exist."""


class IStreamTransport(ITransport, IConsumer, IPushProducer):
    """A stream transport. Those of Twisted provide the three interfaces one by one, so this is for annotations only."""


def tcp_transport(transport: ITransport) -> ITCPTransport | None:
    """Return the transport if it has the options of TCP, else None.

    It does not suffice that it provides `ITCPTransport`: in Twisted 22.4 a unix socket does.
    """
    if ITCPTransport.providedBy(transport) and not isinstance(transport.getPeer(), UNIXAddress):
        return transport
    return None


ConnectionT = TypeVar("ConnectionT")
ConnectionT_contra = TypeVar("ConnectionT_contra", contravariant=True)


class ProtocolFactory(Interface[ConnectionT_contra]):
    """The factory of a `GearmanProtocol`, as the protocol uses it.

    :ivar reactor: the clock of the timers.
    :ivar _option_requests: options to send as OPTION_REQ on each new connection.
    """

    reactor: Reactor
    _option_requests: tuple[bytes, ...]

    def _connection_ready(self, connection: ConnectionT_contra) -> None:
        """Handle the first good answer on this connection."""

    def _connection_down(self, connection: ConnectionT_contra, error: Exception) -> None:
        """Handle a connection that can't be used any longer, because of `error`."""


class Outstanding(Interface[ConnectionT_contra]):
    """A request without an answer so far: an entry of a connection's table.

    Whatever is reported to it, the connection has removed it from the table before.
    """

    @property
    def _answer_type(self) -> PacketType:
        """Packet type of the answer, unless it is an ERROR."""

    def _is_answered_by(self, arguments: list[bytes]) -> bool:
        """Check whether an answer of the right type can be that of this request."""

    def _answered(self, connection: ConnectionT_contra, arguments: list[bytes]) -> None:
        """Handle the answer."""

    def _refused(self, connection: ConnectionT_contra, error: ServerError) -> None:
        """Handle an ERROR in place of the answer, or that the server left the request unanswered."""

    def _lost(self, connection: ConnectionT_contra, error: Exception) -> None:
        """Handle that the connection was lost before the answer, because of `error`."""


class Request(Generic[ConnectionT_contra]):
    """A request that is answered by one packet.

    :ivar deferred: fires with the arguments of the answer. If it was cancelled, the answer is ignored.
    :param answer: packet type of the answer.
    :param subject: the first argument that the answer must have; None if the server does not repeat any.
    """

    __slots__ = ("_answer_type", "_subject", "deferred")

    def __init__(self, answer: PacketType, subject: bytes | None = None) -> None:
        self._answer_type = answer
        self._subject = subject
        self.deferred: Deferred[list[bytes]] = Deferred()

    def _is_answered_by(self, arguments: list[bytes]) -> bool:
        return self._subject is None or self._subject == arguments[0]

    def _answered(self, connection: ConnectionT_contra, arguments: list[bytes]) -> None:
        if not self.deferred.called:
            self.deferred.callback(arguments)

    def _refused(self, connection: ConnectionT_contra, error: ServerError) -> None:
        self._fail(error)

    def _lost(self, connection: ConnectionT_contra, error: Exception) -> None:
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self.deferred.called:
            self.deferred.errback(error)


class Fence:
    """The GET_STATUS whose answer shows that the request before it was left unanswered, if that is so."""

    __slots__ = ()

    _answer_type: Final = STATUS_RES

    def _is_answered_by(self, arguments: list[bytes]) -> bool:
        return arguments[0] == FENCE_HANDLE

    def _answered(self, connection: GearmanProtocol, arguments: list[bytes]) -> None:
        connection._fence_answered()

    def _refused(self, connection: object, error: ServerError) -> None:
        raise ProtocolError(f"received an ERROR that answers no request: {error}")

    def _lost(self, connection: object, error: Exception) -> None:
        """Do nothing: nobody waits for it."""


_FENCE: Final = Fence()  # it has no state, so that one suffices


@implementer(IHandshakeListener, IPushProducer)
class GearmanProtocol(Protocol):
    """A connection to one job server.

    :ivar _state: see `ConnectionState`.
    :ivar _certificate_fault: what is wrong with the server's certificate; empty if nothing is, or without TLS.
    :ivar error: the error that ended the connection; None while it can be used: unless its state is DOWN.
    :ivar _corks: whether packets written while data is handled are sent together at its end. Only over TCP, since a
        callback may advance an in-memory wire meanwhile.
    :ivar writing_paused: whether the write buffer is full, so that callers should hold back.
    :ivar _reading_paused: whether the connection has stopped reading.
    :ivar _answer_probe: checks that the server makes progress while an answer is due.
    :ivar _on_idle: called once as soon as nothing is in flight, if it is set.
    :ivar _after_read: called once the data that is being handled has been, if it is set.
    :ivar _on_connection_lost: called with the reason when the transport has closed, if it is set.
    """

    # There are more than 30. In a dict, CPython would read so many slower, by 3 % of the time of a task.
    __slots__ = (
        "_abort_call",
        "_after_read",
        "_answer_probe",
        "_answered",
        "_certificate_fault",
        "_connection_options",
        "_corked",
        "_corked_size",
        "_corks",
        "_decoder",
        "_drained",
        "_heard",
        "_heartbeat",
        "_last_progress",
        "_on_connection_lost",
        "_on_idle",
        "_outstanding",
        "_reading_paused",
        "_silent_probes",
        "_state",
        "_unanswered_probes",
        "error",
        "writing_paused",
    )

    factory: ProtocolFactory[Self]
    transport: IStreamTransport
    _handlers: ClassVar[Mapping[PacketType, Callable[[Self, list[bytes]], None]]] = {}
    """Handlers of the packets that are not the answer to a request. Set by a subclass."""
    in_flight = 0
    """Number of tasks or jobs on this connection. Counted by a subclass."""

    def __init__(self, reactor: Reactor, connection_options: ConnectionOptions = DEFAULT_CONNECTION_OPTIONS) -> None:
        self._connection_options = connection_options
        # Both magics: M2.
        self._decoder = Decoder(RES, REQ, max_packet_size=connection_options.max_packet_size, limited=True)
        self._outstanding: deque[Outstanding[Self]] = deque()  # requests without an answer so far, the oldest first
        self._answered = 0
        self._corks = False
        self._corked: list[bytes] | None = None
        self._corked_size = 0
        self._answer_probe = PeriodicProbe(reactor, connection_options.server_timeout, self._probe_answers)
        self._last_progress = 0
        self._unanswered_probes = 0
        self._heartbeat = (
            None
            if connection_options.heartbeat is None
            else PeriodicProbe(reactor, connection_options.heartbeat, self._probe_connection)
        )
        self._heard = False
        self._silent_probes = 0
        self._abort_call: IDelayedCall | None = None
        self._drained: Waiters[None] = Waiters()
        self._on_connection_lost: Callable[[Failure], None] | None = None
        self._certificate_fault = ""
        self._on_idle: Callable[[], object] | None = None
        self._after_read: Callable[[], object] | None = None
        self._state = ConnectionState.NEW
        self.writing_paused = False
        self._reading_paused = False
        self.error: Exception | None = None

    # Opening and closing.

    def connectionMade(self) -> None:
        tls = ISSLTransport.providedBy(self.transport)
        self._enter(ConnectionState.HANDSHAKE if tls else ConnectionState.OPENING)
        tcp = tcp_transport(self.transport)
        if tcp is not None:
            self._corks = True
            tcp.setTcpNoDelay(True)
            tcp.setTcpKeepAlive(True)
        self.transport.registerProducer(self, True)
        self._send_opening()

    def _send_opening(self) -> None:
        """Send the first requests of a connection, the last of which is a fence."""
        for option in self.factory._option_requests:
            # A server that refuses or ignores an option is usable without it.
            self.request(OPTION_REQ, option, answer=OPTION_RES, subject=option).addErrback(lambda _: None)
        if not self.factory._option_requests:
            self._send_fence()

    def handshakeCompleted(self) -> None:
        self._enter(ConnectionState.OPENING)

    def abort(self, error: Exception) -> None:
        """Close the connection at once, and discard unsent data.

        :param error: the reason, with which all outstanding requests fail.
        """
        self._teardown(error)
        self._abort_transport()

    def close(self, error: Exception, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close the connection once unsent data was sent.

        :param error: the reason, with which all outstanding requests fail at once.
        :param timeout: seconds until the connection is aborted if data is still unsent.
        """
        if self.error is not None:
            return
        self._uncork()
        tls_established = self._tls_established
        self._teardown(error)
        if not tls_established:
            self._abort_transport()  # no data can be sent before the handshake, which the peer may never complete
            return
        self._abort_call = self.factory.reactor.callLater(timeout, self._abort_late)
        self.transport.unregisterProducer()  # else it would wait for more data
        self.transport.loseConnection()

    # The state.

    def _enter(self, state: ConnectionState) -> None:
        assert state in TRANSITIONS[self._state], (self._state, state)
        self._state = state

    @property
    def ready(self) -> bool:
        """Whether the server has sent a good answer on this connection, which can still be used."""
        return self._state in (ConnectionState.READY, ConnectionState.RETIRING)

    @property
    def _tls_established(self) -> bool:
        """Whether no TLS handshake is in progress."""
        return self._state is not ConnectionState.HANDSHAKE

    @property
    def _busy(self) -> bool:
        """Whether anything is in flight."""
        return self._has_outstanding

    @property
    def _load(self) -> int:
        """Measure of how busy the connection is, for the choice of the least busy one."""
        return self.in_flight

    @property
    def _retiring(self) -> bool:
        """Whether `retire` was called, so that no new work should be sent."""
        return self._state is ConnectionState.RETIRING

    def _retire(self, on_idle: Callable[[], object]) -> None:
        """Call `on_idle` as soon as nothing is in flight, unless the connection is lost before.

        The connection must be ready, or lost.
        """
        if self.error is None:
            self._enter(ConnectionState.RETIRING)
            self._on_idle = on_idle
            self._check_idle()

    def _check_idle(self) -> None:
        """Call `on_idle` if it is set and nothing is in flight."""
        if self._on_idle is not None and not self._busy:
            on_idle, self._on_idle = self._on_idle, None
            on_idle()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._abort_call is not None:
            self._abort_call.cancel()
            self._abort_call = None
        assert isinstance(reason.value, Exception)
        self._teardown(self._explain_error(reason.value))
        if self._on_connection_lost is not None:
            self._on_connection_lost(reason)

    def _explain_error(self, error: Exception) -> Exception:
        """Return the error that ended the connection, with a helpful text."""
        if ISSLTransport.providedBy(self.transport):
            return explain_error(error, self)
        if not self.ready and isinstance(error, (ConnectionDone, ConnectionLost)) and tcp_transport(self.transport):
            return type(error)("before any answer; the server may require TLS, which takes an address with tls:")
        return error

    def _abort_late(self) -> None:
        self._abort_call = None
        self._abort_transport()

    def _abort_transport(self) -> None:
        self._corked = None
        abort = getattr(self.transport, "abortConnection", None)
        if abort is not None:
            abort()
        else:  # some endpoints have transports without it, such as those of processes
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def _teardown(self: Self, error: Exception) -> None:
        if self.error is not None:
            return
        self._enter(ConnectionState.DOWN)
        self.error = error
        self._on_idle = None
        self._answer_probe.stop()
        if self._heartbeat is not None:
            self._heartbeat.stop()
        self._resume_reading()  # a TLS connection closes only once it has read the peer's close alert
        # Before requests fail, so that what is submitted in reaction to their failure goes to another connection.
        self.factory._connection_down(self, error)
        self._lose_outstanding(error)

    def _lose_outstanding(self: Self, error: Exception) -> None:
        """Fail all outstanding requests. The table is empty before the first of them fails."""
        outstanding, self._outstanding = self._outstanding, deque()
        for request in outstanding:
            request._lost(self, error)
        self._drained.fire(None)

    # Flow control of written data.

    def pauseProducing(self) -> None:
        self.writing_paused = True

    def resumeProducing(self) -> None:
        self.writing_paused = False
        self._drained.fire(None)

    def stopProducing(self) -> None:
        """Do nothing: the transport calls `connectionLost` as well."""

    def when_drained(self) -> Deferred[None]:
        """Wait until more data can be written without filling the write buffer.

        :return: fires when the write buffer has been sent, or the connection is lost; at once if the buffer is not
            full.
        """
        return self._drained.wait() if self.writing_paused and self.error is None else succeed(None)

    # Detection of silent servers.

    @property
    def _has_outstanding(self) -> bool:
        """Whether an answer of the server is due."""
        return bool(self._outstanding)

    @property
    def _progress(self) -> int:
        """Number that changes with each answer, and with each part of a large packet."""
        return self._answered + self._decoder.unfinished

    def _expect_answer(self) -> None:
        """Start the time that the server has for its next answer: the ``server_timeout`` of the options."""
        self._last_progress = self._progress
        self._unanswered_probes = 0
        self._answer_probe.start()

    def _probe_answers(self) -> bool:
        if not self._has_outstanding:
            return False
        if self._progress != self._last_progress or self._reading_paused:
            self._last_progress = self._progress
            self._unanswered_probes = 0
            return True
        self._unanswered_probes += 1
        if self._unanswered_probes < PROBES_PER_PERIOD:
            return True
        self.abort(TimeoutError(string=f"no answer within {self._connection_options.server_timeout} seconds"))
        return False

    def _pause_reading(self) -> None:
        """Stop reading, so that the server has to wait."""
        if not self._reading_paused:
            self._reading_paused = True
            self.transport.pauseProducing()

    def _resume_reading(self) -> None:
        """Continue reading."""
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resumeProducing()

    def _probe_connection(self) -> bool:
        # While much is being sent, an ECHO_REQ would wait behind it.
        self._silent_probes = (
            0 if self._heard or self._reading_paused or self.writing_paused else self._silent_probes + 1
        )
        self._heard = False
        if self._silent_probes == _ASKED_AFTER:
            self._ask_whether_alive()
        if self._silent_probes < _ASKED_AFTER + PROBES_PER_PERIOD:
            return True
        self.abort(
            TimeoutError(
                string=f"no data, and no answer to ECHO_REQ within {self._connection_options.heartbeat} seconds"
            )
        )
        return False

    def _ask_whether_alive(self) -> None:
        answer_was_due = self._answer_probe.on
        self.request(ECHO_REQ, b"", answer=ECHO_RES).addErrback(lambda _: None)  # any byte received counts
        if not answer_was_due:
            self._answer_probe.stop()  # the heartbeat has its own limit, and a timer less is a turn of the reactor less

    # Requests.

    def request(
        self: Self, packet_type: PacketType, *arguments: bytes, answer: PacketType, subject: bytes | None = None
    ) -> Deferred[list[bytes]]:
        """Send a request, with a fence behind it.

        :param answer: packet type of the answer.
        :param subject: the first argument that the answer will have; None if the server does not repeat any.
        :return: fires with the arguments of the answer. Fails with `ServerError` if the server answers with an ERROR,
            with `RequestUnsupported` if it does not answer, or with the error that ended the connection. Cancelling it
            only ignores the answer.
        """
        if self.error is not None:
            return fail(self.error)
        request: Request[Self] = Request(answer, subject)
        deferred = request.deferred
        self._send(request, packet_type.request(*arguments))
        self._send_fence()
        return deferred

    def _send_fence(self) -> None:
        """Send the request that shows whether the server has left the one before it unanswered."""
        self._send(_FENCE, GET_STATUS.request(FENCE_HANDLE))

    def _send(self: Self, request: Outstanding[Self], packet: bytes) -> None:
        """Write the packet of a request, and add the request to the table of outstanding ones."""
        self._outstanding.append(request)
        corked, size = self._corked, len(packet)
        if corked is not None and self._corked_size + size <= MAX_CORKED:
            corked.append(packet)  # as _write() does, in the usual case, with a call less
            self._corked_size += size
        else:
            self._write(packet)
        if not self._answer_probe.on:
            self._expect_answer()

    def _write(self, packet: bytes) -> None:
        """Write a packet, now or when the connection is uncorked."""
        corked = self._corked
        if corked is None:
            self.transport.write(packet)
        else:
            corked.append(packet)
            self._corked_size += len(packet)
            if self._corked_size > MAX_CORKED:
                self._uncork()
                self._cork()

    def _cork(self) -> None:
        """Collect packets until `uncork`: one call of the transport costs as much as several small packets."""
        self._corked = []
        self._corked_size = 0

    def _uncork(self) -> None:
        """Write the packets that were collected."""
        corked, self._corked = self._corked, None
        if corked:
            self.transport.writeSequence(corked)

    def _fence_answered(self: Self) -> None:
        if self._state in _BEFORE_READY:
            self._enter(ConnectionState.READY)
            if self._heartbeat is not None:
                self._heartbeat.start()
            self.factory._connection_ready(self)

    # Received data.

    def dataReceived(self, data: bytes) -> None:
        if self.error is not None:
            return
        self._heard = True
        if self._corks:
            self._cork()
        try:
            self._receive(data)
        except ProtocolError as error:
            self.abort(error.with_traceback(None))  # the error is kept, and would keep its frames' objects alive
        self._uncork()
        if self._after_read is not None:
            after_read, self._after_read = self._after_read, None
            after_read()
        if self._on_idle is not None:
            self._check_idle()

    def _receive(self: Self, data: bytes) -> None:
        handlers = self._handlers
        decoder = self._decoder
        for packets in decoder.packets(data):
            for packet_type, arguments in packets:
                handler = handlers.get(packet_type)
                if handler is not None:
                    handler(self, arguments)
                else:
                    self._answer_received(packet_type, arguments)
                if self.error is not None:  # a callback has closed the connection
                    return
        if decoder.error is not None:
            raise decoder.error

    def _answer_received(self: Self, packet_type: PacketType, arguments: list[bytes]) -> None:
        """Handle the answer to the oldest request, or to the fence behind it."""
        outstanding = self._outstanding
        oldest = outstanding[0] if outstanding else None
        fence = outstanding[1] if len(outstanding) > 1 else None
        if oldest is None:
            raise _unexpected(packet_type, "nothing", arguments)
        if packet_type is ERROR:
            self._take_oldest()
            oldest._refused(self, ServerError(*code_and_text(arguments)))
        elif _answers(packet_type, arguments, oldest):
            self._take_oldest()
            oldest._answered(self, arguments)
        elif fence is _FENCE and _answers(packet_type, arguments, _FENCE):
            self._take_oldest()
            self._take_oldest()
            unanswered = oldest._answer_type
            oldest._refused(self, RequestUnsupported(f"this server leaves requests for {unanswered} unanswered"))
            if self.error is None:  # that may have closed the connection
                self._fence_answered()
        else:
            raise _unexpected(packet_type, oldest._answer_type, arguments)

    def _take_oldest(self) -> None:
        self._outstanding.popleft()
        self._answered += 1


def _answers(packet_type: PacketType, arguments: list[bytes], request: Outstanding[ConnectionT]) -> bool:
    return request._answer_type is packet_type and request._is_answered_by(arguments)


def _unexpected(packet_type: PacketType, due: object, arguments: list[bytes]) -> ProtocolError:
    begun = [argument[:_MAX_SHOWN] for argument in arguments]
    return ProtocolError(f"received {packet_type} when {due} was due: {begun!r:.{_MAX_SHOWN}}")


def code_and_text(arguments: list[bytes]) -> list[str]:
    """Return the arguments of an ERROR as text."""
    # geard ends the text with a NUL, gearmand does not (C3).
    return [short_text(argument.rstrip(b"\0"), form=decode_text) for argument in arguments]
