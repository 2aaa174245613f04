"""One connection that a `FaultProxy` stands in: both of its directions, and what the faults make of what passes."""

from __future__ import annotations

import enum
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
            self.sink.abortConnection()

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
    :ivar lost: whether the transport is gone, or never was.
    """

    def __init__(self, relay: Relay, out: Pipe, into: Pipe) -> None:
        self._relay = relay
        self._open_halves = 2
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
        self.out.end(_End.CLEAN)
        self._half_closed()

    def writeConnectionLost(self) -> None:
        self._half_closed()

    def _half_closed(self) -> None:
        self._open_halves -= 1
        if not self._open_halves:
            transport: Any = self.transport
            transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self.into.stop()
        if self._open_halves:
            self.out.end(_End.RESET)
        self._relay.end_lost()

    def close(self, reset: bool) -> None:
        """Close it; cleanly, once everything was sent."""
        transport: Any = self.transport
        if self.lost:
            return
        transport.unregisterProducer()
        if reset:
            transport.abortConnection()
        else:
            transport.loseConnection()


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
        """The same, once what the pipe has just given was sent."""
        self._stop()
        for end in (self.client, self.server):
            if reset and end.into is pipe:
                _ResetBehind(end)
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
class _ResetBehind:
    """Resets a connection as soon as everything was sent; `abortConnection` alone throws away what was not."""

    def __init__(self, end: RelayEnd) -> None:
        transport: Any = end.transport
        self._transport = transport
        self._begun = False
        transport.unregisterProducer()
        transport.registerProducer(self, False)
        self._begun = True

    def resumeProducing(self) -> None:
        # It is asked at once, too.
        if self._begun:
            self._transport.unregisterProducer()
            self._transport.abortConnection()

    def stopProducing(self) -> None:
        """The connection went before."""
