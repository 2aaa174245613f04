"""The link to one job server, for clients and workers alike.

`GearmanProtocol` frames packets and matches answers to requests: a job server answers strictly in order, and an ERROR
stands where the answer it replaces would (docs/gearman.md §2 and §3). `GearmanFactory` reconnects, and
`EndpointConnector` lets it do so over any Twisted endpoint.

**Fences.** Some servers leave some requests unanswered (H6; geard every OPTION_REQ and ECHO_REQ), and the
next answer would then be taken for theirs. So each such request is followed at once by a *fence*, a GET_STATUS about a
job that nobody has, which every server answers: when the fence's answer comes first, the request before it is known to
be unanswered, and nothing is ever off by one (guarantee 17). The same fence ends the handshake of each new connection;
its answer is the first sign that there is a job server at the other end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Final
from typing import Protocol as Interface

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.error import (
    ConnectError,
    ConnectionDone,
    ConnectionLost,
    NotConnectingError,
    TimeoutError,
    UserError,
)
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IDelayedCall,
    IHandshakeListener,
    IPushProducer,
    ISSLTransport,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, ReconnectingClientFactory, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ..errors import UNANSWERED, ProtocolError, ServerError
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
from .options import DEFAULT_LIMITS, Limits
from .timers import LOOKS, Watch
from .tls import in_words
from .waiters import Waiters

__all__ = [
    "EndpointConnector",
    "GearmanFactory",
    "GearmanProtocol",
    "LinkObserver",
]

_CORKED: Final = 64 * 1024  # bytes that are worth a write of their own; a transport wants to hold no more

CLOSE_TIMEOUT: Final = 3.0
"""Seconds that a peer which reads nothing may hold up a close before the connection is aborted."""

_FENCE_HANDLE: Final = b"txgearman:fence"


def is_tcp(transport: Any) -> bool:
    """Whether this transport has the options of TCP. (Twisted 22.4 says of a unix socket that it has.)"""
    return ITCPTransport.providedBy(transport) and not isinstance(transport.getPeer(), UNIXAddress)


class Outstanding(Interface):
    """What waits for its answer from a server."""

    @property
    def answer(self) -> PacketType:
        """The type of the answer, unless it is an ERROR."""


class Request:
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


class Fence:
    """The GET_STATUS that tells whether the request before it was left unanswered. Nobody else waits for its answer."""

    __slots__ = ()
    answer: ClassVar[PacketType] = STATUS_RES
    subject: ClassVar[bytes] = _FENCE_HANDLE


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

    factory: GearmanFactory
    transport: Any  # an ITransport, IConsumer and IPushProducer; mostly an ITCPTransport
    handlers: ClassVar[Mapping[PacketType, Callable[[Any, list[bytes]], None]]] = {}
    """What to do with packets that are no answer to a request. A subclass fills this in."""
    in_flight = 0
    """What this link is busy with, counted by a subclass."""

    def __init__(self, reactor: Any, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        # Both magics: M2.
        self._decoder = Decoder(RES, REQ, max_packet_size=limits.max_packet_size)
        self._outstanding: deque[Any] = deque()  # what waits for an answer, the oldest first
        self._answered = 0
        self.corks = False
        """Whether what is written while data is received is kept to its end. A wire in memory may turn meanwhile."""
        self._corked: list[bytes] | None = None
        self._corked_size = 0
        self.answer_watch = Watch(reactor, limits.ack_timeout, self._look_for_answers)
        self._progress = 0
        self._unanswered_looks = 0
        self._heartbeat = None if limits.heartbeat is None else Watch(reactor, limits.heartbeat, self._look_for_life)
        self._heard = False
        self._silent_looks = 0
        self._abort_call: IDelayedCall | None = None
        self._drained = Waiters()
        self.on_connection_lost: Callable[[Failure], None] | None = None
        self.shaken = False
        self.certificate_fault = ""
        self.on_idle: Callable[[], object] | None = None
        self.ready = False
        self.paused = False
        self.deaf = False
        self.error: Exception | None = None

    # The life of the connection.

    def connectionMade(self) -> None:
        if is_tcp(self.transport):
            self.corks = True
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
        self.transport.registerProducer(self, True)
        self.shake_hands()

    def shake_hands(self) -> None:
        """Send what comes first, with a fence as the last."""
        for option in self.factory.options:
            # A server that refuses or ignores an option works without it.
            self.request(OPTION_REQ, option, answer=OPTION_RES, subject=option).addErrback(lambda _: None)
        if not self.factory.options:
            self.send_fence()

    def handshakeCompleted(self) -> None:
        self.shaken = True

    def abort(self, error: Exception) -> None:
        """Drop the connection now, unsent data and all, because of `error`."""
        self._come_down(error)
        self._abort_transport()

    def close(self, error: Exception, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close the connection once what was written has gone out, or `timeout` seconds have passed.

        What waits for an answer fails at once, because of `error`.
        """
        if self.error is not None:
            return
        self.uncork()
        self._come_down(error)
        if ISSLTransport.providedBy(self.transport) and not self.shaken:
            self._abort_transport()  # nothing can go out before the peer shakes hands, which it may never do
            return
        self._abort_call = self.factory.reactor.callLater(timeout, self._abort_late)
        self.transport.unregisterProducer()  # else it would wait for one that has no more to say
        self.transport.loseConnection()

    @property
    def busy(self) -> bool:
        """Whether anything is out."""
        return self.owed

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
        self._come_down(self.in_words(reason.value))
        if self.on_connection_lost is not None:
            self.on_connection_lost(reason)

    def in_words(self, error: Exception) -> Exception:
        """Tell what ended the connection so that it can be read."""
        if ISSLTransport.providedBy(self.transport):
            return in_words(error, self)
        if not self.ready and isinstance(error, (ConnectionDone, ConnectionLost)) and is_tcp(self.transport):
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

    def _come_down(self, error: Exception) -> None:
        if self.error is not None:
            return
        self.error = error
        self.answer_watch.stop()
        if self._heartbeat is not None:
            self._heartbeat.stop()
        self.listen(True)  # TLS is not closed without hearing the other end
        # First those who choose a link, so that what is submitted in answer to a failure below goes elsewhere.
        self.factory.link_down(self, error)
        self.all_lost(error)

    def all_lost(self, error: Exception) -> None:
        """Fail everything that waits for this connection. The table is empty before the first one is told."""
        outstanding, self._outstanding = self._outstanding, deque()
        for request in outstanding:
            self.request_lost(request, error)
        self._drained.fire(None)

    # How fast the server takes what is written.

    def pauseProducing(self) -> None:
        """For the transport."""
        self.paused = True

    def resumeProducing(self) -> None:
        """For the transport."""
        self.paused = False
        self._drained.fire(None)

    def stopProducing(self) -> None:
        """For the transport: the connection is gone, which `connectionLost` will tell as well."""

    def when_drained(self) -> Deferred[None]:
        """
        :return: fires when what was written is out, or the connection is of no more use; at once if it is so.
        """
        return self._drained.wait() if self.paused and self.error is None else succeed(None)

    # Whether the server is there.

    @property
    def owed(self) -> bool:
        """Whether the server owes an answer."""
        return bool(self._outstanding)

    @property
    def progress(self) -> int:
        """A number that changes with each answer, and with each piece of something large that comes before the next."""
        return self._answered + self._decoder.unfinished

    def expect_answer(self) -> None:
        """The server has just been asked something; it has the limits' ``ack_timeout`` to say anything."""
        self._progress = self.progress
        self._unanswered_looks = 0
        self.answer_watch.start()

    def _look_for_answers(self) -> bool:
        if not self.owed:
            return False
        if self.progress != self._progress:
            self._progress = self.progress
            self._unanswered_looks = 0
            return True
        self._unanswered_looks += 1
        if self._unanswered_looks < LOOKS:
            return True
        self.abort(TimeoutError(string=f"no answer within {self.limits.ack_timeout} seconds"))
        return False

    def listen(self, on: bool) -> None:
        """Read on, or read nothing more."""
        if self.deaf is on:
            self.deaf = not on
            if on:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    def _look_for_life(self) -> bool:
        # While something large goes out, the question would wait behind it.
        self._silent_looks = 0 if self._heard or self.deaf or self.paused else self._silent_looks + 1
        self._heard = False
        if self._silent_looks == LOOKS:
            self.request(ECHO_REQ, b"", answer=ECHO_RES).addErrback(lambda _: None)  # any byte is good enough
        if self._silent_looks < 2 * LOOKS:
            return True
        self.abort(TimeoutError(string=f"silence, and no answer to ECHO_REQ within {self.limits.heartbeat} seconds"))
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

    def send(self, request: Outstanding, packet: bytes) -> None:
        """Write `packet` and await its answer."""
        self._outstanding.append(request)
        self.write(packet)
        if not self.answer_watch.on:
            self.expect_answer()
        if self.deaf:
            self.listen(True)

    def write(self, packet: bytes) -> None:
        """Send a packet, now or when the link is uncorked."""
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

    def fits(self, request: Any, arguments: list[bytes]) -> bool:
        """Whether an answer of the right type can be that of `request`."""
        return request.subject is None or request.subject == arguments[0]

    def request_succeeded(self, request: Any, arguments: list[bytes]) -> None:
        """`request` got its answer."""
        if not isinstance(request, Fence):
            request.succeed(arguments)
        elif not self.ready:
            self.ready = True
            if self._heartbeat is not None:
                self._heartbeat.start()
            self.factory.link_ready(self)

    def request_refused(self, request: Any, code: str, text: str) -> None:
        """`request` got an ERROR, or was left unanswered."""
        request.fail(ServerError(code, text))

    def request_lost(self, request: Any, error: Exception) -> None:
        """The connection went before `request` was answered."""
        if not isinstance(request, Fence):
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

    def _receive(self, data: bytes) -> None:
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

    def _take_answered(self, packet_type: PacketType, arguments: list[bytes]) -> Any:
        """Take the oldest request off the table, for the answer to it that has come."""
        outstanding = self._outstanding
        oldest: Any = outstanding[0] if outstanding else None
        next_oldest = outstanding[1] if len(outstanding) > 1 else None
        if self._answers(oldest, packet_type, arguments):
            self._take_oldest()
            return oldest
        if isinstance(next_oldest, Fence) and self._answers(next_oldest, packet_type, arguments):
            self._take_oldest()
            self._take_oldest()
            # Told only now that the table is right: it may run anybody's code.
            self.request_refused(oldest, UNANSWERED, f"this server leaves a request for {oldest.answer} unanswered")
            return next_oldest
        due = "nothing" if oldest is None else oldest.answer
        raise ProtocolError(f"{packet_type} came where {due} was due: {arguments!r:.200}")

    def _take_oldest(self) -> None:
        self._outstanding.popleft()
        self._answered += 1

    def _answers(self, request: Any, packet_type: PacketType, arguments: list[bytes]) -> bool:
        return request is not None and request.answer is packet_type and self.fits(request, arguments)

    def error_received(self, code: str, text: str) -> None:
        """An ERROR came: it stands in the place of the oldest request's answer."""
        request = self._outstanding[0] if self._outstanding else None
        if request is None or isinstance(request, Fence):
            raise ProtocolError(f"ERROR that answers nothing: {code}: {text}")
        self._take_oldest()
        self.request_refused(request, code, text)


def _code_and_text(arguments: list[bytes]) -> list[str]:
    # geard ends the text with a NUL, gearmand does not (C3).
    return [argument.rstrip(b"\0").decode("utf-8", "backslashreplace") for argument in arguments]


class LinkObserver(Interface):
    """Who wants to know how the link to a server is."""

    def link_ready(self, link: GearmanProtocol) -> None:
        """The server has given a first good answer on this connection."""

    def link_down(self, factory: GearmanFactory, error: Exception) -> None:
        """An attempt to connect failed, or the connection is of no more use, because of `error`."""


class GearmanFactory(ReconnectingClientFactory):
    """Keeps one connection to one job server, with back-off.

    It may be given to an `EndpointConnector`, or to ``reactor.connectTCP``. The delays grow from `initialDelay` to
    `maxDelay` seconds, and start anew at the first good answer, not at the connect: a server that accepts and then
    closes, or whose TLS handshake fails, is not tried again in a hot loop.

    :ivar options: sent as OPTION_REQ on each new connection.
    :ivar link: the live connection, ready or not; or None.
    :ivar next_attempt: the reactor's time of the next attempt; None unless it waits for one.
    """

    protocol: type[GearmanProtocol] = GearmanProtocol  # type: ignore[assignment]  # it names this factory's own type
    noisy = False
    initialDelay = delay = 0.5
    factor = 2.0
    maxDelay = 30

    def __init__(
        self,
        reactor: Any,
        *,
        options: tuple[bytes, ...] = (),
        observer: LinkObserver | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """
        :param reactor: its clock times the attempts; None for the global one.
        :param observer: is told how the link is.
        """
        if reactor is None:
            from twisted.internet import reactor
        self.reactor = self.clock = reactor
        self.options = options
        self.link: GearmanProtocol | None = None
        self.next_attempt: float | None = None
        self._observer = observer
        self._limits = limits
        self._deadline: IDelayedCall | None = None
        self._timed_out = False
        self._active = False
        self._stopped_by: Exception | None = None
        self._awaiting = Waiters()
        self._stopping = Waiters()

    @property
    def connecting(self) -> bool:
        """Whether an attempt is under way or a connection is up."""
        return self._active and (self.link is None or self.link.error is None)

    def when_ready(self) -> Deferred[Any]:
        """Await the outcome of the attempt under way, or else of the next one.

        :return: fires with the link, once it is ready; at once if it is. Fails with what the attempt failed with, or
            with the error that `stop()` was given.
        """
        if self.link is not None and self.link.ready and self.link.error is None:
            return succeed(self.link)
        if self._stopped_by is not None:
            return fail(self._stopped_by)
        return self._awaiting.wait()

    def stop(self, error: Exception, timeout: float = CLOSE_TIMEOUT) -> Deferred[None]:
        """Close the connection and try no more. What waits for an answer fails with `error`, or because of it.

        :param timeout: seconds that what was written may take to go out.
        :return: fires when no socket and no timer is left; soon, whatever the peer does.
        """
        self._stopped_by = error
        self.stopTrying()
        self.next_attempt = None
        if self.link is not None and self.link.error is None:
            self.link.close(error, timeout)
        self._awaiting.fire(Failure(error))
        return self._stopping.wait() if self._active else succeed(None)

    def retire(self, link: GearmanProtocol | None, timeout: float = CLOSE_TIMEOUT) -> Deferred[None]:
        """Connect no more; finish what is out, if there is a `link` that is ready, and close it then.

        :return: as `stop`. A `stop` may be called all the same, to hurry it.
        """
        over = ConnectionDone("this job server is used no more")
        if link is None:
            return self.stop(over)
        self.stopTrying()
        stopped = self._stopping.wait()
        link.retire(partial(self.stop, over, timeout))
        return stopped

    # What the connector tells.

    def startedConnecting(self, connector: IConnector) -> None:
        self.connector = connector
        self.next_attempt = None
        self._active = True
        self._timed_out = False
        self._deadline = self.reactor.callLater(self._limits.connect_timeout, self._give_up)

    def buildProtocol(  # type: ignore[override]  # as with `protocol`
        self, addr: IAddress | None
    ) -> GearmanProtocol:
        link = self.link = self.protocol(self.reactor, self._limits)
        link.factory = self
        return link

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self._attempt_over()
        super().clientConnectionFailed(connector, reason)
        assert isinstance(reason.value, Exception)
        self._tell_down(self._timeout_error() if self._timed_out else reason.value)
        self._tell_stopped()

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        self._attempt_over()
        super().clientConnectionLost(connector, reason)
        self._tell_stopped()

    def retry(self, connector: IConnector | None = None) -> None:
        super().retry(connector)
        # Twisted keeps the delay with its jitter nowhere else.
        if self._callID is not None:
            self.next_attempt = self._callID.getTime()

    # What the link tells.

    def link_ready(self, link: GearmanProtocol) -> None:
        """The server gave the first good answer on this connection."""
        if link.error is None:
            self._clear_deadline()
            self.resetDelay()
            if self._observer is not None:
                self._observer.link_ready(link)
            self._awaiting.fire(link)

    def link_down(self, link: GearmanProtocol, error: Exception) -> None:
        """The connection is of no more use."""
        if link is self.link:
            self._clear_deadline()
            self._tell_down(error)

    def _tell_down(self, error: Exception) -> None:
        if self._observer is not None:
            self._observer.link_down(self, error)
        self._awaiting.fire(Failure(self._stopped_by or error))

    def _tell_stopped(self) -> None:
        if not self.continueTrying:
            self._stopping.fire(None)

    def _give_up(self) -> None:
        self._deadline = None
        self._timed_out = True
        if self.link is not None:
            self.link.abort(self.link.in_words(self._timeout_error()))
        else:
            assert self.connector is not None  # there is a deadline only where there is an attempt
            self.connector.stopConnecting()

    def _timeout_error(self) -> TimeoutError:
        return TimeoutError(string=f"no good answer within {self._limits.connect_timeout} seconds")

    def _attempt_over(self) -> None:
        self._active = False
        self.link = None
        self._clear_deadline()

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Dial(Factory):
    """What an endpoint gets for one attempt: builds the link, unless the attempt was given up meanwhile."""

    noisy = False

    def __init__(self, connector: EndpointConnector) -> None:
        self._connector = connector

    def buildProtocol(  # type: ignore[override]  # as with GearmanFactory
        self, addr: IAddress | None
    ) -> GearmanProtocol | None:
        return self._connector.build_link(self, addr)


@implementer(IConnector)
class EndpointConnector:
    """Connects a `GearmanFactory` through an endpoint, as often as the factory wants.

    Endpoints of their own accord connect once, and keep what happens to the connection from the factory.
    """

    def __init__(self, endpoint: IStreamClientEndpoint, factory: GearmanFactory) -> None:
        self._endpoint = endpoint
        self._factory = factory
        self._dial: _Dial | None = None
        self._attempt: Deferred[Any] | None = None
        self.state = "disconnected"
        """``"disconnected"``, ``"connecting"`` or ``"connected"``, as with Twisted's own connectors."""

    def connect(self) -> None:
        """Make an attempt; the factory is told what comes of it."""
        if self.state != "disconnected":
            raise RuntimeError(f"already {self.state}")
        self.state = "connecting"
        dial = self._dial = _Dial(self)
        self._factory.doStart()
        self._factory.startedConnecting(self)
        attempt = maybeDeferred(self._endpoint.connect, dial)
        if self._dial is dial:
            self._attempt = attempt
        else:  # it is over by now
            attempt.cancel()
        attempt.addCallback(self._made, dial).addErrback(self._failed, dial)

    def stopConnecting(self) -> None:
        """Give up the attempt under way.

        :raises twisted.internet.error.NotConnectingError: there is none.
        """
        if self.state != "connecting":
            raise NotConnectingError("no attempt is under way")
        if self._attempt is not None:
            self._attempt.cancel()
        else:  # the endpoint has not even returned
            self._failed(Failure(UserError()), self._dial)

    def disconnect(self) -> None:
        """Close the connection, or give up the attempt to make one."""
        if self.state == "connecting":
            self.stopConnecting()
        elif self._factory.link is not None:
            self._factory.link.transport.loseConnection()

    def getDestination(self) -> Any:
        """The endpoint: only it knows where it leads."""
        return self._endpoint

    def build_link(self, dial: _Dial, address: IAddress | None) -> GearmanProtocol | None:
        """For the endpoint: None closes a connection that came too late."""
        if dial is not self._dial:
            return None
        self.state = "connected"
        link = self._factory.buildProtocol(address)
        link.on_connection_lost = partial(self._lost, dial)
        return link

    def _made(self, _: object, dial: _Dial) -> None:
        if dial is self._dial and self.state == "connecting":
            raise ConnectError(string="the endpoint says it connected, and built no protocol")

    def _failed(self, reason: Failure, dial: _Dial | None) -> None:
        if dial is self._dial:
            link = self._factory.link
            self._over()
            self._factory.clientConnectionFailed(self, reason)
            if link is not None and link.connected:  # the endpoint wanted more than a connection
                assert isinstance(reason.value, Exception)
                link.abort(reason.value)

    def _lost(self, dial: _Dial, reason: Failure) -> None:
        if dial is self._dial:
            self._over()
            self._factory.clientConnectionLost(self, reason)

    def _over(self) -> None:
        self.state = "disconnected"
        self._dial = None
        self._attempt = None
        self._factory.doStop()
