"""One connection through a `FaultProxy`: its two directions, and the faults that apply to what passes."""

from __future__ import annotations

import enum
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias
from typing import Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IPullProducer,
    IPushProducer,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

_log = Logger()

BUFFER: Final = 1024 * 1024
"""Bytes that may be queued in one direction. A sender that sends more is paused."""

POLL_INTERVAL: Final = 0.002
"""Seconds between checks of what the peer's kernel has acknowledged. There is no event for it."""


class Direction(enum.Enum):
    """The direction in which bytes pass through a `FaultProxy`."""

    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"


class _End(enum.Enum):
    """How a sender has closed its connection; it is queued behind what was sent before."""

    CLEAN = enum.auto()
    RESET = enum.auto()


class Drop(Interface):
    """A connection that is to be dropped at an offset: `FaultProxy.drop_after`.

    :ivar reset: whether by a reset.
    """

    reset: bool

    def due_in(self, pipe: Pipe) -> int:
        """Return after how many more bytes it is dropped."""

    def dropped(self) -> None:
        """Note that it was dropped."""


class Traffic(Interface):
    """What the active faults make of the bytes of all connections."""

    def silent(self, direction: Direction) -> bool:
        """Return whether nothing passes."""

    def lateness(self, direction: Direction) -> float:
        """Return how many seconds a byte passes after it was received."""

    def piece_size(self, direction: Direction) -> int | None:
        """Return how many bytes pass in one reactor turn; None for no limit."""

    def altered(self, pipe: Pipe, data: bytes) -> bytes:
        """Return what passes instead of `data`, of the same length."""

    def next_drop(self, pipe: Pipe, size: int) -> Drop | None:
        """Return the first drop that is due within so many more bytes; None if there is none."""


_Part: TypeAlias = "memoryview | _End"


@implementer(IPushProducer)
class Pipe:
    """One direction of a connection: reads from one transport, the source, and writes to another, the sink.

    :ivar passed: how many bytes it has written.
    """

    def __init__(self, relay: Relay, direction: Direction) -> None:
        self._relay = relay
        self._reactor = relay.reactor
        self._traffic = relay.traffic
        self._waiting: deque[tuple[float, _Part]] = deque()
        self._size = 0
        self._timer: IDelayedCall | None = None
        self._separating = False  # whether the timer separates two pieces
        self._sink_full = False
        self._reading_paused = False
        self._ended = False
        self._stopped = False
        self.source: Any = None
        self.sink: Any = None
        self.direction = direction
        self.passed = 0

    def open(self, source: Any, sink: Any) -> None:
        """Start, as both ends are connected. Until now, nothing was read."""
        self.source, self.sink = source, sink
        sink.registerProducer(self, True)
        self._reading_paused = True
        self._pace()

    def receive(self, data: bytes) -> None:
        """Queue what the source has sent."""
        if not self._stopped:
            self._size += len(data)
            self._put(memoryview(data))

    def end(self, how: _End) -> None:
        """Queue the end, as the source sends nothing more."""
        self._ended = True
        if not self._stopped:
            self._put(how)

    def stop(self) -> None:
        """Discard what is queued, and let nothing pass from now on."""
        self._stopped = True
        self._cancel_timer()
        self._waiting.clear()

    # Called by the sink.

    def pauseProducing(self) -> None:
        self._sink_full = True

    def resumeProducing(self) -> None:
        self._sink_full = False
        self.move()

    def stopProducing(self) -> None:
        """Do nothing: the protocol of the sink stops this pipe, too."""

    # What passes.

    def move(self) -> None:
        """Pass on what may pass now, and schedule the rest."""
        if self.sink is None or self._stopped or self._separating:
            return
        self._cancel_timer()
        wait = self._seconds_to_wait()
        while wait == 0 and not self._splits():
            self._pass(BUFFER)
            wait = self._seconds_to_wait()
        if wait is not None:
            self._separating = wait == 0
            then = self._wait_for_receiver if self._separating else self._pass_due
            self._timer = self._reactor.callLater(wait, then)
        self._pace()

    def _put(self, part: _Part) -> None:
        self._waiting.append((self._reactor.seconds(), part))
        self.move()

    def _wait_for_receiver(self) -> None:
        # A receiver in this process reads a piece in the turn after the one in which it was sent.
        self._timer = self._reactor.callLater(0, self._pass_due)

    def _pass_due(self) -> None:
        self._timer = None
        self._separating = False
        if self._seconds_to_wait() == 0:
            self._pass(self._traffic.piece_size(self.direction) or BUFFER)
        self.move()

    def _seconds_to_wait(self) -> float | None:
        """Return how long the oldest part still has to wait; None if that is not known."""
        if not self._waiting or self._sink_full or self._traffic.silent(self.direction):
            return None
        now: float = self._reactor.seconds()
        return max(0.0, self._waiting[0][0] + self._traffic.lateness(self.direction) - now)

    def _splits(self) -> bool:
        return self._traffic.piece_size(self.direction) is not None

    def _pass(self, size: int) -> None:
        received, part = self._waiting.popleft()
        if isinstance(part, _End):
            self._pass_end(part)
            return
        piece, rest = part[:size], part[size:]
        if rest:
            self._waiting.appendleft((received, rest))
        self._size -= len(piece)
        self._write(self._traffic.altered(self, bytes(piece)))

    def _write(self, data: bytes) -> None:
        drop = self._traffic.next_drop(self, len(data))
        if drop is not None:
            data = data[: drop.due_in(self)]
        self.passed += len(data)
        self.sink.write(data)
        if drop is not None:
            self._relay.drop_behind(self, drop.reset)
            drop.dropped()

    def _pass_end(self, how: _End) -> None:
        self.sink.unregisterProducer()
        if how is _End.CLEAN:
            self.sink.loseWriteConnection()
        else:
            self._relay.drop_behind(self, reset=True)

    # Flow control.

    def _pace(self) -> None:
        """Pause the source while nothing more may be queued."""
        held = self._sink_full or self._size >= BUFFER or self._traffic.silent(self.direction)
        if held != self._reading_paused and not (self._ended or self._stopped):
            self._reading_paused = held
            if held:
                self.source.pauseProducing()
            else:
                self.source.resumeProducing()

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


@implementer(IHalfCloseableProtocol)
class RelayEnd(Protocol):
    """Protocol at one end of a relay.

    :ivar out: the pipe that takes what is received here.
    :ivar into: the pipe whose bytes are sent here.
    :ivar writes: whether the sending half of the connection is open.
    :ivar lost: whether the transport is closed, or was never connected.
    """

    def __init__(self, relay: Relay, out: Pipe, into: Pipe) -> None:
        self._relay = relay
        self._closing: _CloseBehind | None = None
        self._reads = True
        self.writes = True
        self.out = out
        self.into = into
        self.lost = True

    def connectionMade(self) -> None:
        self.lost = False
        transport: Any = self.transport
        transport.setTcpNoDelay(True)
        transport.pauseProducing()
        self._relay.end_made(self)

    def dataReceived(self, data: bytes) -> None:
        self.out.receive(data)

    def readConnectionLost(self) -> None:
        self._reads = False
        self.out.end(_End.CLEAN)
        self._half_closed()

    def writeConnectionLost(self) -> None:
        self.writes = False
        self._half_closed()

    def _half_closed(self) -> None:
        if not (self._reads or self.writes):
            transport: Any = self.transport
            transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self._stop_waiting()
        self.into.stop()
        if self._reads or self.writes:
            self.out.end(_End.RESET)
        self._relay.end_lost()

    def close(self, reset: bool) -> None:
        """Close it: by a reset, or cleanly once everything was sent."""
        transport: Any = self.transport
        if self.lost:
            return
        self._stop_waiting()
        transport.unregisterProducer()
        if reset:
            transport.abortConnection()
        else:
            transport.loseConnection()

    def close_behind(self, reset: bool) -> None:
        """Close it once the peer's kernel has everything that was written."""
        self._closing = _CloseBehind(self, self._relay.reactor, reset)

    def _stop_waiting(self) -> None:
        closing, self._closing = self._closing, None
        if closing is not None:
            closing.stop()


class _ServerFactory(Factory):
    """Factory of the end that faces the server."""

    noisy = False

    def __init__(self, end: RelayEnd) -> None:
        self._end = end

    def buildProtocol(self, addr: IAddress | None) -> RelayEnd:
        return self._end


class Relay:
    """A connection of a client, and the one to the server that was made for it.

    :ivar client, server: its ends.
    :param endpoint: that of the server; None for a connection that is never read from.
    :param gone: called when both ends are closed.
    """

    def __init__(
        self,
        reactor: Any,
        traffic: Traffic,
        endpoint: IStreamClientEndpoint | None,
        gone: Callable[[Relay], object],
    ) -> None:
        self.reactor = reactor
        self.traffic = traffic
        self._endpoint = endpoint
        self._gone = gone
        self._connecting: Deferred[Any] | None = None
        self._dropped = False
        to_server, to_client = Pipe(self, Direction.TO_SERVER), Pipe(self, Direction.TO_CLIENT)
        self.pipes = (to_server, to_client)
        self.client = RelayEnd(self, to_server, to_client)
        self.server = RelayEnd(self, to_client, to_server)

    def move(self) -> None:
        """Pass on what may pass now, as the faults have changed."""
        for pipe in self.pipes:
            pipe.move()

    def drop(self, reset: bool) -> None:
        """Close both ends. What is queued here is lost."""
        self._stop()
        for end in (self.client, self.server):
            end.close(reset)

    def drop_behind(self, pipe: Pipe, reset: bool) -> None:
        """Close both ends: the sink of the pipe once its peer has what the pipe has written, the other at once."""
        self._stop()
        for end in (self.client, self.server):
            if end.into is pipe:
                end.close_behind(reset)
            else:
                end.close(reset)

    # Called by the ends.

    def end_made(self, end: RelayEnd) -> None:
        """Connect to the server after the client, and open the pipes after both."""
        client, server = self.client.transport, self.server.transport
        if end is self.server:
            self.pipes[0].open(client, server)
            self.pipes[1].open(server, client)
        elif self._endpoint is not None:
            self._connecting = self._endpoint.connect(_ServerFactory(self.server))
            self._connecting.addBoth(self._connected)

    def end_lost(self) -> None:
        """Report the relay gone once both ends are."""
        if self.client.lost and self.server.lost and self._connecting is None:
            self._gone(self)

    def _connected(self, outcome: Any) -> None:
        self._connecting = None
        if isinstance(outcome, Failure):
            if not self._dropped:
                _log.warn(
                    "Connection reset: the job server can't be reached: {reason}", reason=outcome.getErrorMessage()
                )
                self.client.close(reset=True)
            self.end_lost()

    def _stop(self) -> None:
        self._dropped = True
        for pipe in self.pipes:
            pipe.stop()
        if self._connecting is not None:
            self._connecting.cancel()


@implementer(IPullProducer)
class _CloseBehind:
    """Closes a connection once the peer's kernel has everything that was written.

    A reset discards what waits in the transport, and what waits in this side's kernel because the peer's receive buffer
    is full. A clean close discards the latter as well if the peer goes on sending: nobody reads that any more, and the
    kernel answers it by a reset. What the peer's kernel has is safe: Linux delivers it before it reports the reset.

    Therefore what waits in the transport is sent first, then the FIN of a clean close; and then the peer's kernel must
    acknowledge everything. Meanwhile, what the peer sends is read and discarded, as it may not read before it has sent.
    """

    def __init__(self, end: RelayEnd, reactor: Any, reset: bool) -> None:
        self._end = end
        self._reactor = reactor
        self._reset = reset
        self._timer: IDelayedCall | None = None
        self._begun = False
        transport: Any = end.transport
        self._transport = transport
        transport.unregisterProducer()
        transport.resumeProducing()
        if end.writes:
            transport.registerProducer(self, False)
            transport.startWriting()  # a transport with nothing to write would not call resumeProducing
            self._begun = True
        else:
            self._check_later()

    def stop(self) -> None:
        """Stop waiting: the connection is lost, or is closed in another way."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    # Called by the transport.

    def resumeProducing(self) -> None:
        """Send the FIN of a clean close, as nothing waits in the transport any more."""
        # The transport also calls this at the registration, whatever waits.
        if self._begun:
            self._transport.unregisterProducer()
            if not self._reset:
                self._transport.loseWriteConnection()
            self._check_later()

    def stopProducing(self) -> None:
        """Do nothing: the connection was lost before."""

    # Asking the kernel.

    def _check_later(self) -> None:
        self._timer = self._reactor.callLater(POLL_INTERVAL, self._check)

    def _check(self) -> None:
        self._timer = None
        if self._is_done():
            self._end.close(self._reset)
        else:
            self._check_later()

    def _is_done(self) -> bool:
        """Return whether the peer's kernel has everything, or the peer is gone."""
        handle: socket.socket = self._transport.getHandle()
        # While nothing is read or written, only this reports that the peer is gone.
        if handle.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return True
        # The FIN counts as a byte, once it was sent.
        return (self._reset or not self._end.writes) and not _unacknowledged(handle)


def _unacknowledged(handle: socket.socket) -> int:
    """Return how many bytes the peer's kernel has not acknowledged; 0 where the system does not report it."""
    if sys.platform != "linux":
        return 0
    import fcntl
    import termios

    size = fcntl.ioctl(handle, termios.TIOCOUTQ, bytes(4))  # for a TCP socket, this is SIOCOUTQ
    return int.from_bytes(size, sys.byteorder)
