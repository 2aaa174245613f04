"""One connection to a job server: framing, and the matching of answers to requests.

A job server answers strictly in order, and an ERROR stands where the answer it replaces would (docs/gearman.md §2 and
§3).

**Fences.** Some servers leave some requests unanswered (H6; geard every OPTION_REQ and ECHO_REQ), and the
next answer would then be taken for theirs. So each such request is followed at once by a *fence*, a GET_STATUS about a
job that nobody has, which every server answers: when the fence's answer comes first, the request before it is known to
be unanswered, and nothing is ever off by one (guarantee 17). The same fence ends the handshake of each new connection;
its answer is the first sign that there is a job server at the other end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar
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
from ..models import display_text
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
from .options import DEFAULT_CONNECTION_OPTIONS, ConnectionOptions
from .reactor import Reactor
from .timers import PROBES_PER_PERIOD, PeriodicProbe
from .tls import explain_error
from .waiters import Waiters

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "GearmanProtocol",
]

_CORKED: Final = 64 * 1024  # bytes that are worth a write of their own; a transport wants to hold no more

CLOSE_TIMEOUT: Final = 3.0
"""Seconds that a peer which reads nothing may hold up a close before the connection is aborted."""

_FENCE_HANDLE: Final = b"txgearman:fence"


class IStreamTransport(ITransport, IConsumer, IPushProducer):
    """A transport as a connection needs it. Every transport of Twisted for streams is one, under these three names."""


def tcp_transport(transport: ITransport) -> ITCPTransport | None:
    """Return `transport` if it has the options of TCP. (Twisted 22.4 claims them for a unix socket.)"""
    if ITCPTransport.providedBy(transport) and not isinstance(transport.getPeer(), UNIXAddress):
        return transport
    return None


ConnectionT_contra = TypeVar("ConnectionT_contra", contravariant=True)


class ProtocolFactory(Interface[ConnectionT_contra]):
    """What a protocol needs of the factory that made it.

    :ivar reactor: its clock times what is due.
    :ivar option_requests: sent as OPTION_REQ on each new connection.
    """

    reactor: Reactor
    option_requests: tuple[bytes, ...]

    def connection_ready(self, connection: ConnectionT_contra) -> None:
        """The server gave the first good answer on this connection."""

    def connection_down(self, connection: ConnectionT_contra, error: Exception) -> None:
        """The connection is of no more use."""


class Outstanding:
    """Base of the requests that handle their answers themselves.

    A subclass of `GearmanProtocol` may send requests of another kind: it overrides the methods of the protocol that
    handle their answers.

    :ivar answer: the type of the answer, unless it is an ERROR.
    :ivar subject: what the answer's first argument must be, where the server repeats it; else None.
    """

    __slots__ = ()

    answer: PacketType
    subject: bytes | None

    def succeed(self, arguments: list[bytes]) -> None:
        """The answer has come."""

    def fail(self, error: Exception) -> None:
        """There will be no answer, because of `error`."""


class Request(Outstanding):
    """A question that is answered by one packet.

    :ivar deferred: fires with the answer's arguments. Cancelled, it has failed by the time that they come.
    """

    __slots__ = ("answer", "deferred", "subject")

    def __init__(self, answer: PacketType, subject: bytes | None = None) -> None:
        """
        :param subject: what the answer's first argument must be, where the server repeats it.
        """
        self.answer = answer
        self.subject = subject
        # With a canceller, even one that does nothing, cancel() fails it at once.
        self.deferred: Deferred[list[bytes]] = Deferred(lambda _: None)

    def succeed(self, arguments: list[bytes]) -> None:
        if not self.deferred.called:
            self.deferred.callback(arguments)

    def fail(self, error: Exception) -> None:
        if not self.deferred.called:
            self.deferred.errback(error)


class Fence(Outstanding):
    """The GET_STATUS that tells whether the request before it was left unanswered. Nobody else waits for its answer."""

    __slots__ = ()

    answer = STATUS_RES
    subject = _FENCE_HANDLE


@implementer(IHandshakeListener, IPushProducer)
class GearmanProtocol(Protocol):
    """One connection to a job server.

    :ivar shaken: over TLS, whether its handshake is done.
    :ivar certificate_fault: over TLS, what is wrong with the server's certificate; empty for nothing.
    :ivar ready: whether the server has answered well at least once on this connection.
    :ivar error: None while the connection is of use; then what ended it.
    :ivar paused: whether more is written than the server takes just now, so that what can wait should.
    :ivar deaf: whether nothing is read, by our own will.
    :ivar on_idle: is called once when nothing is out any more, if it is set.
    """

    factory: ProtocolFactory[Self]
    transport: IStreamTransport
    handlers: ClassVar[Mapping[PacketType, Callable[[Self, list[bytes]], None]]] = {}
    """What to do with packets that are no answer to a request. A subclass fills this in."""
    in_flight = 0
    """What this connection is busy with, counted by a subclass."""

    def __init__(self, reactor: Reactor, connection_options: ConnectionOptions = DEFAULT_CONNECTION_OPTIONS) -> None:
        self.connection_options = connection_options
        # Both magics: M2.
        self._decoder = Decoder(RES, REQ, max_packet_size=connection_options.max_packet_size)
        self._outstanding: deque[object] = deque()  # the requests that wait for an answer, the oldest first
        self._answered = 0
        self.corks = False
        """Whether what is written while data is received is kept to its end. A wire in memory may turn meanwhile."""
        self._corked: list[bytes] | None = None
        self._corked_size = 0
        self.answer_probe = PeriodicProbe(reactor, connection_options.server_timeout, self._probe_answers)
        self._progress = 0
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
        self.on_connection_lost: Callable[[Failure], None] | None = None
        self.tls_established = False
        self.certificate_fault = ""
        self.on_idle: Callable[[], object] | None = None
        self.ready = False
        self.writing_paused = False
        self.reading_paused = False
        self.error: Exception | None = None

    # The life of the connection.

    def connectionMade(self) -> None:
        tcp = tcp_transport(self.transport)
        if tcp is not None:
            self.corks = True
            tcp.setTcpNoDelay(True)
            tcp.setTcpKeepAlive(True)
        self.transport.registerProducer(self, True)
        self.send_opening()

    def send_opening(self) -> None:
        """Send what comes first, with a fence as the last."""
        for option in self.factory.option_requests:
            # A server that refuses or ignores an option works without it.
            self.request(OPTION_REQ, option, answer=OPTION_RES, subject=option).addErrback(lambda _: None)
        if not self.factory.option_requests:
            self.send_fence()

    def handshakeCompleted(self) -> None:
        self.tls_established = True

    def abort(self, error: Exception) -> None:
        """Drop the connection now, unsent data and all, because of `error`."""
        self._teardown(error)
        self._abort_transport()

    def close(self, error: Exception, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close the connection once what was written has gone out, or `timeout` seconds have passed.

        What waits for an answer fails at once, because of `error`.
        """
        if self.error is not None:
            return
        self.uncork()
        self._teardown(error)
        if ISSLTransport.providedBy(self.transport) and not self.tls_established:
            self._abort_transport()  # nothing can go out before the peer shakes hands, which it may never do
            return
        self._abort_call = self.factory.reactor.callLater(timeout, self._abort_late)
        self.transport.unregisterProducer()  # else it would wait for one that has no more to say
        self.transport.loseConnection()

    @property
    def busy(self) -> bool:
        """Whether anything is out."""
        return self.has_outstanding

    @property
    def load(self) -> int:
        """How busy it is, where one of several connections is chosen."""
        return self.in_flight

    @property
    def retiring(self) -> bool:
        """Whether it is to finish what is out, and get nothing more."""
        return self.on_idle is not None

    def retire(self, on_idle: Callable[[], object]) -> None:
        """Finish what is out; then call `on_idle`, unless the connection is of no more use by then."""
        self.on_idle = on_idle
        self.check_idle()

    def check_idle(self) -> None:
        """Tell the end of what was out, if that is so."""
        if self.on_idle is not None and not self.busy and self.error is None:
            on_idle, self.on_idle = self.on_idle, None
            on_idle()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._abort_call is not None:
            self._abort_call.cancel()
            self._abort_call = None
        assert isinstance(reason.value, Exception)
        self._teardown(self.explain_error(reason.value))
        if self.on_connection_lost is not None:
            self.on_connection_lost(reason)

    def explain_error(self, error: Exception) -> Exception:
        """Tell what ended the connection so that it can be read."""
        if ISSLTransport.providedBy(self.transport):
            return explain_error(error, self)
        if not self.ready and isinstance(error, (ConnectionDone, ConnectionLost)) and tcp_transport(self.transport):
            return type(error)("before any answer; the server may want TLS, and an address with tls:")
        return error

    def _abort_late(self) -> None:
        self._abort_call = None
        self._abort_transport()

    def _abort_transport(self) -> None:
        self._corked = None
        abort = getattr(self.transport, "abortConnection", None)
        if abort is not None:
            abort()
        else:  # not every endpoint's transport can: that of a process can't
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def _teardown(self: Self, error: Exception) -> None:
        if self.error is not None:
            return
        self.error = error
        self.answer_probe.stop()
        if self._heartbeat is not None:
            self._heartbeat.stop()
        self.resume_reading()  # TLS is not closed without hearing the other end
        # First those who choose a connection, so that what is submitted in answer to a failure below goes elsewhere.
        self.factory.connection_down(self, error)
        self.lose_outstanding(error)

    def lose_outstanding(self, error: Exception) -> None:
        """Fail everything that waits for this connection. The table is empty before the first one is told."""
        outstanding, self._outstanding = self._outstanding, deque()
        for request in outstanding:
            self.request_lost(request, error)
        self._drained.fire(None)

    # How fast the server takes what is written.

    def pauseProducing(self) -> None:
        """For the transport."""
        self.writing_paused = True

    def resumeProducing(self) -> None:
        """For the transport."""
        self.writing_paused = False
        self._drained.fire(None)

    def stopProducing(self) -> None:
        """For the transport: the connection is gone, which `connectionLost` will tell as well."""

    def when_drained(self) -> Deferred[None]:
        """
        :return: fires when what was written is out, or the connection is of no more use; at once if it is so.
        """
        return self._drained.wait() if self.writing_paused and self.error is None else succeed(None)

    # Whether the server is there.

    @property
    def has_outstanding(self) -> bool:
        """Whether the server owes an answer."""
        return bool(self._outstanding)

    @property
    def progress(self) -> int:
        """A number that changes with each answer, and with each piece of something large that comes before the next."""
        return self._answered + self._decoder.unfinished

    def expect_answer(self) -> None:
        """The server has just been asked something; it has the limits' ``server_timeout`` to say anything."""
        self._progress = self.progress
        self._unanswered_probes = 0
        self.answer_probe.start()

    def _probe_answers(self) -> bool:
        if not self.has_outstanding:
            return False
        if self.progress != self._progress:
            self._progress = self.progress
            self._unanswered_probes = 0
            return True
        self._unanswered_probes += 1
        if self._unanswered_probes < PROBES_PER_PERIOD:
            return True
        self.abort(TimeoutError(string=f"no answer within {self.connection_options.server_timeout} seconds"))
        return False

    def pause_reading(self) -> None:
        """Read nothing more, so that the server has to wait."""
        if not self.reading_paused:
            self.reading_paused = True
            self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Read on."""
        if self.reading_paused:
            self.reading_paused = False
            self.transport.resumeProducing()

    def _probe_connection(self) -> bool:
        # While something large goes out, the question would wait behind it.
        self._silent_probes = (
            0 if self._heard or self.reading_paused or self.writing_paused else self._silent_probes + 1
        )
        self._heard = False
        if self._silent_probes == PROBES_PER_PERIOD:
            self.request(ECHO_REQ, b"", answer=ECHO_RES).addErrback(lambda _: None)  # any byte is good enough
        if self._silent_probes < 2 * PROBES_PER_PERIOD:
            return True
        self.abort(
            TimeoutError(
                string=f"silence, and no answer to ECHO_REQ within {self.connection_options.heartbeat} seconds"
            )
        )
        return False

    # Requests.

    def request(
        self, packet_type: PacketType, *arguments: bytes, answer: PacketType, subject: bytes | None = None
    ) -> Deferred[list[bytes]]:
        """Ask the server something, with a fence behind it.

        :param answer: the type of packet that answers it.
        :param subject: what the answer's first argument will be, if the server repeats it.
        :return: fires with the answer's arguments. Fails with `ServerError` for an ERROR or no answer, or with what
            ended the connection. Cancelled, it is forgotten; the server has been asked.
        """
        if self.error is not None:
            return fail(self.error)
        request = Request(answer, subject)
        deferred = request.deferred
        self.send(request, packet_type.request(*arguments))
        self.send_fence()
        return deferred

    def send_fence(self) -> None:
        """Find out whether the request sent just before is one that this server leaves unanswered."""
        self.send(Fence(), GET_STATUS.request(_FENCE_HANDLE))

    def send(self, request: object, packet: bytes) -> None:
        """Write `packet` and await its answer.

        :param request: an `Outstanding`, or what this class handles the answers of.
        """
        self._outstanding.append(request)
        self.write(packet)
        if not self.answer_probe.on:
            self.expect_answer()
        if self.reading_paused:
            self.resume_reading()

    def write(self, packet: bytes) -> None:
        """Send a packet, now or when the connection is uncorked."""
        corked = self._corked
        if corked is None:
            self.transport.write(packet)
        else:
            corked.append(packet)
            self._corked_size += len(packet)
            if self._corked_size > _CORKED:
                self.uncork()
                self.cork()

    def cork(self) -> None:
        """From now on packets are kept, to go out in one piece: one call of the transport costs as much as it takes to
        make several small ones."""
        self._corked = []
        self._corked_size = 0

    def uncork(self) -> None:
        """Write what was kept."""
        corked, self._corked = self._corked, None
        if corked:
            self.transport.writeSequence(corked)

    # What becomes of a request. A subclass that sends others than an `Outstanding` overrides all of these.

    def answer_type(self, request: object) -> PacketType:
        """Return the type of packet that answers `request`, unless an ERROR does."""
        assert isinstance(request, Outstanding)
        return request.answer

    def fits(self, request: object, arguments: list[bytes]) -> bool:
        """Whether an answer of the right type can be that of `request`."""
        assert isinstance(request, Outstanding)
        return request.subject is None or request.subject == arguments[0]

    def request_succeeded(self, request: object, arguments: list[bytes]) -> None:
        """`request` got its answer."""
        assert isinstance(request, Outstanding)
        if isinstance(request, Fence):
            self._fence_answered()
        else:
            request.succeed(arguments)

    def _fence_answered(self: Self) -> None:
        if not self.ready:
            self.ready = True
            if self._heartbeat is not None:
                self._heartbeat.start()
            self.factory.connection_ready(self)

    def request_refused(self, request: object, error: ServerError) -> None:
        """`request` got an ERROR, or was left unanswered."""
        assert isinstance(request, Outstanding)
        request.fail(error)

    def request_lost(self, request: object, error: Exception) -> None:
        """The connection went before `request` was answered."""
        assert isinstance(request, Outstanding)
        request.fail(error)

    # What the server says.

    def dataReceived(self, data: bytes) -> None:
        if self.error is not None:
            return
        self._heard = True
        if self.corks:
            self.cork()
        try:
            self._receive(data)
        except ProtocolError as error:
            self.abort(error.with_traceback(None))  # it is kept, and its frames would keep what they were about
        self.uncork()
        if self.on_idle is not None:
            self.check_idle()

    def _receive(self: Self, data: bytes) -> None:
        handlers = self.handlers
        decoder = self._decoder
        for packets in decoder.packets(data):
            for packet_type, arguments in packets:
                handler = handlers.get(packet_type)
                if handler is not None:
                    handler(self, arguments)
                else:
                    self._answer_received(packet_type, arguments)
                if self.error is not None:  # somebody's callback closed it
                    return
        if decoder.error is not None:
            raise decoder.error

    def _answer_received(self, packet_type: PacketType, arguments: list[bytes]) -> None:
        if packet_type is ERROR:
            self.error_received(*_code_and_text(arguments))
        else:
            self.request_succeeded(self._take_answered(packet_type, arguments), arguments)

    def _take_answered(self, packet_type: PacketType, arguments: list[bytes]) -> object:
        """Take the oldest request off the table, for the answer to it that has come."""
        outstanding = self._outstanding
        oldest = outstanding[0] if outstanding else None
        next_oldest = outstanding[1] if len(outstanding) > 1 else None
        if self._answers(oldest, packet_type, arguments):
            self._take_oldest()
            return oldest
        if isinstance(next_oldest, Fence) and self._answers(next_oldest, packet_type, arguments):
            self._take_oldest()
            self._take_oldest()
            # Told only now that the table is right: it may run anybody's code.
            unanswered = self.answer_type(oldest)
            self.request_refused(
                oldest, RequestUnsupported(f"this server leaves a request for {unanswered} unanswered")
            )
            return next_oldest
        due = "nothing" if oldest is None else self.answer_type(oldest)
        raise ProtocolError(f"{packet_type} came where {due} was due: {arguments!r:.200}")

    def _take_oldest(self) -> None:
        self._outstanding.popleft()
        self._answered += 1

    def _answers(self, request: object, packet_type: PacketType, arguments: list[bytes]) -> bool:
        return request is not None and self.answer_type(request) is packet_type and self.fits(request, arguments)

    def error_received(self, code: str, text: str) -> None:
        """An ERROR came: it stands in the place of the oldest request's answer."""
        request = self._outstanding[0] if self._outstanding else None
        if request is None or isinstance(request, Fence):
            raise ProtocolError(f"ERROR that answers nothing: {code}: {text}")
        self._take_oldest()
        self.request_refused(request, ServerError(code, text))


def _code_and_text(arguments: list[bytes]) -> list[str]:
    # geard ends the text with a NUL, gearmand does not (C3).
    return [display_text(argument.rstrip(b"\0")) for argument in arguments]
