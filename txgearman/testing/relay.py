"""One connection that a `FaultProxy` stands in: both of its directions, and what the faults make of what passes."""

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
from twisted.python.failure import Failure
from zope.interface import implementer

BUFFER: Final = 1024 * 1024
"""Bytes that may wait in one direction. Whoever sends more must wait as well."""

POLL: Final = 0.002
"""Seconds from one look at what the peer's kernel has taken to the next. No event tells of it."""


class Direction(enum.Enum):
    """Which way bytes go."""

    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"


class _End(enum.Enum):
    """How a sender has ended; it has its place behind what was sent before."""

    CLEAN = enum.auto()
    RESET = enum.auto()


class Drop(Interface):
    """That a connection is to be lost, and how: `FaultProxy.drop_after`."""

    reset: bool

    def due_in(self, pipe: Pipe) -> int:
        """After how many more bytes."""

    def happens(self) -> None:
        """It was lost."""


class Traffic(Interface):
    """What the faults say of the bytes of all connections."""

    def silent(self, direction: Direction) -> bool:
        """Whether nothing passes."""

    def lateness(self, direction: Direction) -> float:
        """How many seconds after it came a byte passes."""

    def piece_size(self, direction: Direction) -> int | None:
        """How many bytes pass in one turn; None for as many as there are."""

    def altered(self, pipe: Pipe, data: bytes) -> bytes:
        """What passes in the place of `data`, which is as long."""

    def next_drop(self, pipe: Pipe, size: int) -> Drop | None:
        """What is to happen by the time that so many more bytes have passed."""


_Part: TypeAlias = "memoryview | _End"


@implementer(IPushProducer)
class Pipe:
    """One direction of a connection: takes from one transport, and gives to another.

    :ivar passed: how many bytes it has given.
    """

    def __init__(self, relay: Relay, direction: Direction) -> None:
        self._relay = relay
        self._reactor = relay.reactor
        self._traffic = relay.traffic
        self._waiting: deque[tuple[float, _Part]] = deque()
        self._size = 0
        self._timer: IDelayedCall | None = None
        self._apart = False  # whether the timer is there to keep pieces apart
        self._full = False
        self._paused = False
        self._ended = False
        self._stopped = False
        self.source: Any = None
        self.sink: Any = None
        self.direction = direction
        self.passed = 0

    def open(self, source: Any, sink: Any) -> None:
        """Both ends are there. Until now, nothing was read."""
        self.source, self.sink = source, sink
        sink.registerProducer(self, True)
        self._paused = True
        self._pace()

    def receive(self, data: bytes) -> None:
        """The source has sent something."""
        if not self._stopped:
            self._size += len(data)
            self._put(memoryview(data))

    def end(self, how: _End) -> None:
        """The source sends nothing more."""
        self._ended = True
        if not self._stopped:
            self._put(how)

    def stop(self) -> None:
        """Nothing passes from now on."""
        self._stopped = True
        self._cancel_timer()
        self._waiting.clear()

    # What the sink says.

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False
        self.move()

    def stopProducing(self) -> None:
        """Its protocol says so, too."""

    # What passes.

    def move(self) -> None:
        """Pass on what may pass now, and see to it that the rest does later."""
        if self.sink is None or self._stopped or self._apart:
            return
        self._cancel_timer()
        wait = self._seconds_to_wait()
        while wait == 0 and not self._splits():
            self._pass(BUFFER)
            wait = self._seconds_to_wait()
        if wait is not None:
            self._apart = wait == 0
            then = self._let_piece_arrive if self._apart else self._time_has_come
            self._timer = self._reactor.callLater(wait, then)
        self._pace()

    def _put(self, part: _Part) -> None:
        self._waiting.append((self._reactor.seconds(), part))
        self.move()

    def _let_piece_arrive(self) -> None:
        """In the turn after the one in which it was sent, whoever gets it in this process reads it."""
        self._timer = self._reactor.callLater(0, self._time_has_come)

    def _time_has_come(self) -> None:
        self._timer = None
        self._apart = False
        if self._seconds_to_wait() == 0:
            self._pass(self._traffic.piece_size(self.direction) or BUFFER)
        self.move()

    def _seconds_to_wait(self) -> float | None:
        """For the oldest part; None if no time is known."""
        if not self._waiting or self._full or self._traffic.silent(self.direction):
            return None
        now: float = self._reactor.seconds()
        return max(0.0, self._waiting[0][0] + self._traffic.lateness(self.direction) - now)

    def _splits(self) -> bool:
        return self._traffic.piece_size(self.direction) is not None

    def _pass(self, size: int) -> None:
        came, part = self._waiting.popleft()
        if isinstance(part, _End):
            self._pass_end(part)
            return
        piece, rest = part[:size], part[size:]
        if rest:
            self._waiting.appendleft((came, rest))
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
            drop.happens()

    def _pass_end(self, how: _End) -> None:
        self.sink.unregisterProducer()
        if how is _End.CLEAN:
            self.sink.loseWriteConnection()
        else:
            self._relay.drop_behind(self, reset=True)

    # How it is held up.

    def _pace(self) -> None:
        """Read no more than what can wait here."""
        held = self._full or self._size >= BUFFER or self._traffic.silent(self.direction)
        if held != self._paused and not (self._ended or self._stopped):
            self._paused = held
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
    """What sits on one of the two transports.

    :ivar out: takes what is received here.
    :ivar into: what it gives is sent here.
    :ivar writes: whether that half of the connection is open.
    :ivar lost: whether the transport is gone, or never was.
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
        """Close it; cleanly, once everything was sent."""
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
        """Close it, once the peer's kernel has everything that was written."""
        self._closing = _CloseBehind(self, self._relay.reactor, reset)

    def _stop_waiting(self) -> None:
        closing, self._closing = self._closing, None
        if closing is not None:
            closing.stop()


class _ServerFactory(Factory):
    """Hands out the server's end."""

    noisy = False

    def __init__(self, end: RelayEnd) -> None:
        self._end = end

    def buildProtocol(self, addr: IAddress | None) -> RelayEnd:
        return self._end


class Relay:
    """A client's connection, and the one to the server that was made for it.

    :ivar client, server: its ends.
    """

    def __init__(
        self,
        reactor: Any,
        traffic: Traffic,
        endpoint: IStreamClientEndpoint | None,
        gone: Callable[[Relay], object],
    ) -> None:
        """
        :param endpoint: of the server; None for a connection that leads nowhere.
        :param gone: called when both ends are.
        """
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
        """The faults have changed."""
        for pipe in self.pipes:
            pipe.move()

    def drop(self, reset: bool) -> None:
        """Close both ends. What waits here is lost."""
        self._stop()
        for end in (self.client, self.server):
            end.close(reset)

    def drop_behind(self, pipe: Pipe, reset: bool) -> None:
        """Close both ends, but that which the pipe gives to only behind what it has given."""
        self._stop()
        for end in (self.client, self.server):
            if end.into is pipe:
                end.close_behind(reset)
            else:
                end.close(reset)

    # What the ends say.

    def end_made(self, end: RelayEnd) -> None:
        """An end is connected."""
        client, server = self.client.transport, self.server.transport
        if end is self.server:
            self.pipes[0].open(client, server)
            self.pipes[1].open(server, client)
        elif self._endpoint is not None:
            self._connecting = self._endpoint.connect(_ServerFactory(self.server))
            self._connecting.addBoth(self._connected)

    def end_lost(self) -> None:
        """An end is gone."""
        if self.client.lost and self.server.lost and self._connecting is None:
            self._gone(self)

    def _connected(self, outcome: Any) -> None:
        self._connecting = None
        if isinstance(outcome, Failure):
            if not self._dropped:
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
    """The end of a connection whose peer is first to get everything that was written.

    A reset throws away what waits in the transport, and what waits in this side's kernel because the peer had no room
    for it. A clean close throws away the latter as well when the peer goes on sending: nobody reads that any more, and
    the kernel answers it by a reset. What the peer's kernel has, it keeps: Linux gives it to whoever reads, and only
    then tells of the reset.

    So, what waits in the transport is sent; then comes the FIN, if it is a clean close; and then the peer's kernel must
    have acknowledged everything. Meanwhile, what the peer sends is read and lost, for it may not read before it has
    sent.
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
            transport.startWriting()  # if nothing waits, it would not ask otherwise
            self._begun = True
        else:
            self._look_later()

    def stop(self) -> None:
        """Wait no longer: the connection is gone, or is closed in another way."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    # What the transport says.

    def resumeProducing(self) -> None:
        """Go on, as nothing waits in the transport any more."""
        # It asks when this is registered, too, whatever waits.
        if self._begun:
            self._transport.unregisterProducer()
            if not self._reset:
                self._transport.loseWriteConnection()
            self._look_later()

    def stopProducing(self) -> None:
        """The connection went before."""

    # What its kernel says.

    def _look_later(self) -> None:
        self._timer = self._reactor.callLater(POLL, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._is_over():
            self._end.close(self._reset)
        else:
            self._look_later()

    def _is_over(self) -> bool:
        """Tell whether the peer's kernel has everything, or the peer is gone."""
        handle: socket.socket = self._transport.getHandle()
        # Where nothing is read or written, nothing else tells of a peer that is gone; and it takes nothing more.
        if handle.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return True
        # The FIN counts as well, once it was sent.
        return (self._reset or not self._end.writes) and not _unacknowledged(handle)


def _unacknowledged(handle: socket.socket) -> int:
    """Tell how many bytes the peer's kernel has not acknowledged; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    import fcntl
    import termios

    size = fcntl.ioctl(handle, termios.TIOCOUTQ, bytes(4))  # of a TCP socket, this is SIOCOUTQ
    return int.from_bytes(size, sys.byteorder)
