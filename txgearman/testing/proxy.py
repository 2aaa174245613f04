"""`FaultProxy`: stands between a client or a worker and a real job server, and has the network go wrong."""

from __future__ import annotations

import math
import random
import socket
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IReactorTCP
from twisted.internet.protocol import ServerFactory
from twisted.python.failure import Failure

from ..connection.addresses import parse_address
from ..connection.waiters import Waiters
from ..validation import check_count, positive_seconds
from .faults import Fault, FaultMaker
from .relay import Direction, Pipe, Relay, RelayEnd
from .server import MAX_PORT

if TYPE_CHECKING:
    from typing_extensions import Self


class _Refusal(Fault):
    """Of connections."""


class _BlackHole(Fault):
    """For connections."""


class _Directed(Fault):
    """Something that happens to bytes on their way."""

    directions: tuple[Direction, ...] = ()


class _Silence(_Directed):
    """Nothing passes."""


class _Delay(_Directed):
    seconds = 0.0


class _Splitting(_Directed):
    size = 0


class _Corruption(_Directed):
    """Other bytes arrive than were sent."""

    def alter(self, pipe: Pipe, data: bytearray) -> None:
        """Do it to what is about to pass."""


class _Counted(_Directed):
    """Something that happens at a place, which is counted on each connection from when the fault was made, or from the
    connection's first byte if that came later."""

    place = 0

    def count_from_here(self, pipes: list[Pipe]) -> None:
        """Note where the connections are that are there already."""
        self._starts = WeakKeyDictionary({pipe: pipe.passed for pipe in pipes})

    def due_in(self, pipe: Pipe) -> int:
        """How many more bytes come before that place; less than 0 behind it."""
        return self._starts.get(pipe, 0) + self.place - pipe.passed


class _Drop(_Counted):
    reset = False


class _CorruptionAt(_Counted, _Corruption):
    def alter(self, pipe: Pipe, data: bytearray) -> None:
        place = self.due_in(pipe)
        if 0 <= place < len(data):
            data[place] ^= 0xFF
            self.happens()


class _RandomCorruption(_Corruption):
    def begin(self, rate: float, seed: int) -> None:
        """Choose the first byte."""
        self._random = random.Random(seed)  # noqa: S311  it is to be the same each time
        self._rate = rate
        self._distance = self._next_distance()

    def alter(self, pipe: Pipe, data: bytearray) -> None:
        while self._distance < len(data):
            data[self._distance] ^= self._random.randrange(1, 256)
            self._distance += 1 + self._next_distance()
            self.happens()
        self._distance -= len(data)

    def _next_distance(self) -> int:
        """How many bytes are left alone: one number for each that is not, instead of one for each byte."""
        if self._rate == 1:
            return 0
        return int(math.log(1.0 - self._random.random()) / math.log1p(-self._rate))


AnyFault = TypeVar("AnyFault", bound=Fault)
AnyDirected = TypeVar("AnyDirected", bound=_Directed)
AnyCounted = TypeVar("AnyCounted", bound=_Counted)


class FaultProxy(ServerFactory, FaultMaker):
    """A TCP proxy that makes faults, for tests against a real job server, on real sockets.

    ::

        async with FaultProxy("127.0.0.1:4730") as proxy, GearmanClient([proxy.address]) as client:
            with proxy.go_down():
                ...                               # there is no server
            proxy.drop_after(100, Direction.TO_CLIENT)
            ...                                   # the connection is lost within an answer

    Each fault lasts until it has happened as often as was asked for, or until its `Fault.end`; in a ``with`` statement,
    until the end of that. Faults go together. Where a method takes directions, none means both.

    What is true of a network is true of the proxy. Bytes keep their order. Whoever sends more than the other side, or a
    fault, lets pass has to wait: the proxy reads no more than a mebibyte ahead. A clean close and a reset are passed
    on, behind what was sent before; while nothing passes, neither do they. While the job server can't be reached, a
    connection is made and then reset.
    """

    noisy = False

    def __init__(self, job_server: str, reactor: Any = None, *, port: int = 0, interface: str = "127.0.0.1") -> None:
        """It listens at once.

        :param job_server: where it leads to: ``"host"``, ``"host:port"`` or ``"[v6]:port"``. TLS passes, as what it is.
        :param reactor: None for the global one.
        :param port: to listen on; 0 for any that is free.
        :raises TypeError, ValueError: for an argument that can't be meant.
        :raises twisted.internet.error.CannotListenError: the port is not to be had.
        """
        if reactor is None:
            from twisted.internet import reactor
        if not IReactorTCP.providedBy(reactor):
            raise ValueError("a proxy needs the reactor, for its sockets; on a Clock, MemoryJobServer makes faults")
        if not 0 <= port <= MAX_PORT:
            raise ValueError(f"port must be from 0 to {MAX_PORT}, not {port}")
        sockets: Any = reactor
        super().__init__(sockets)
        self._listen = sockets.listenTCP
        _, self._endpoint = parse_address(job_server, reactor)
        if not isinstance(self._endpoint, (TCP4ClientEndpoint, TCP6ClientEndpoint, HostnameEndpoint)):
            raise ValueError(f"job_server must be 'host', 'host:port' or '[v6]:port', not {job_server!r}")
        self._relays: dict[Relay, None] = {}
        self._gone = Waiters()
        self._closed = False
        self._place: tuple[str, int] = (interface, port)
        self._reservation: socket.socket | None = None
        self._open()
        self._place = (self._port.getHost().host, self._port.getHost().port)

    @property
    def address(self) -> str:
        """Where it listens, as `GearmanClient` and `GearmanWorker` take it."""
        host, port = self._place
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def connections(self) -> int:
        """How many clients and workers are connected to it."""
        return len(self._relays)

    # Faults of connections.

    def refuse_connections(self) -> Fault:
        """Refuse every connection. Those that are there go on. (Nobody tells how often this happens.)"""
        fault = self._make(_Refusal(self, "refuse_connections()", ""))
        fault.happens()
        self._shut()
        return fault

    def go_down(self, reset: bool = False) -> Fault:
        """Lose every connection, and refuse new ones, until the `Fault` ends.

        :param reset: as with `drop_connections`.
        """
        fault = self.refuse_connections()
        self._drop_all(reset)
        return fault

    def black_hole_connections(self) -> Fault:
        """Accept connections, read nothing from them, and never let them through: as a gearmand that has no file
        descriptor left (H12). Those that are made meanwhile stay so."""
        return self._make(_BlackHole(self, "black_hole_connections()", "nobody has tried to connect"))

    def drop_connections(self, reset: bool = False) -> None:
        """Lose every connection now, on both sides; what is on its way in the proxy is lost.

        :param reset: by a reset (RST). Otherwise it is closed cleanly (FIN), as a process does at its end.
        :raises AssertionError: nobody is connected.
        """
        if not self._relays:
            raise AssertionError("drop_connections(): nobody is connected")
        self._drop_all(reset)

    def drop_after(self, size: int, direction: Direction, *, reset: bool = False, times: int | None = 1) -> Fault:
        """Lose the connection on which that many bytes have passed in one direction. Those still arrive.

        On Linux, the receiver's connection is closed or reset once the receiver's kernel has acknowledged them, within
        some hundredths of a second; if it has no room for them, once its program has read enough. Until then, what the
        receiver sends is read and lost. `close` and `drop_connections` do not wait for that. On other systems, nothing
        tells what the receiver has: the proxy waits until its own kernel has taken everything, and what the receiver
        has no room for, or has not read, may be lost. All of this is true of a reset that is passed on, too.

        :param size: counted on each connection, from now on or from its first byte.
        :param reset: as with `drop_connections`.
        :param times: how many connections are lost so; None for each, those that are made later too.
        """
        check_count("size", size)
        fault = self._counted(_Drop, "drop_after", size, direction, times)
        fault.reset = reset
        return fault

    # Faults of what passes.

    def fall_silent(self, *directions: Direction) -> Fault:
        """Let nothing pass, and read nothing. What was sent meanwhile passes when the `Fault` ends."""
        fault = self._directed(_Silence, "fall_silent", directions, "there was no connection")
        for _ in self._relays:
            fault.happens()
        self._move_all()
        return fault

    def delay(self, seconds: float, *directions: Direction) -> Fault:
        """Let everything pass that much later than it came."""
        positive_seconds("seconds", seconds)
        fault = self._directed(_Delay, "delay", directions, "nothing has passed", str(seconds))
        fault.seconds = seconds
        return fault

    def split(self, size: int, *directions: Direction) -> Fault:
        """Let everything pass in pieces.

        :param size: bytes in each, which is sent and received alone, where the receiver keeps up.
        """
        check_count("size", size)
        fault = self._directed(_Splitting, "split", directions, "nothing has passed", str(size))
        fault.size = size
        return fault

    def corrupt_byte(self, place: int, direction: Direction, *, times: int | None = 1) -> Fault:
        """Turn over all bits of one byte.

        :param place: of the byte: how many pass before it, on each connection from now on or from its beginning.
        :param times: on how many connections; None for each, those that are made later too.
        """
        if type(place) is not int or place < 0:
            raise ValueError(f"place must be a number from 0, not {place!r}")
        return self._counted(_CorruptionAt, "corrupt_byte", place, direction, times)

    def corrupt(self, rate: float, *directions: Direction, seed: int = 0) -> Fault:
        """Let some bytes arrive as others.

        :param rate: which part of all bytes: 0.001 for about one in a thousand.
        :param seed: of the random numbers that choose which, and as what.
        """
        if not 0 < rate <= 1:
            raise ValueError(f"rate must be more than 0, and 1 at most, not {rate!r}")
        fault = self._directed(_RandomCorruption, "corrupt", directions, "no byte was chosen", str(rate))
        fault.begin(rate, seed)
        return fault

    # The end.

    def close(self, verify: bool = True) -> Deferred[None]:
        """Lose every connection, listen no more, and `verify`.

        :param verify: False where faults need not have happened, as when they are made at random.
        :return: fires when nothing is left in the reactor. Fails with `AssertionError` for a fault that has not
            happened.
        """
        self._closed = True
        verified = maybeDeferred(self.verify) if verify else succeed(None)
        self._shut()
        self._release_place()
        for relay in list(self._relays):
            relay.drop(reset=True)
        gone = self._gone.wait() if self._relays else succeed(None)
        return gone.addCallback(lambda _: verified)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What a test has died of is worth more than the faults that it did not come to.
        await self.close(verify=error is None)

    # For the reactor, and for connections.

    def buildProtocol(self, addr: IAddress | None) -> RelayEnd:
        black_hole = self._all_lasting(_BlackHole)
        for fault in black_hole:
            fault.happens()
        relay = Relay(self._reactor, self, None if black_hole else self._endpoint, self._relay_gone)
        self._relays[relay] = None
        for silence in self._all_lasting(_Silence):
            silence.happens()
        return relay.client

    def silent(self, direction: Direction) -> bool:
        return bool(self._all_of(_Silence, direction))

    def lateness(self, direction: Direction) -> float:
        return sum(delay.seconds for delay in self._all_of(_Delay, direction))

    def piece_size(self, direction: Direction) -> int | None:
        return min((splitting.size for splitting in self._all_of(_Splitting, direction)), default=None)

    def altered(self, pipe: Pipe, data: bytes) -> bytes:
        self._passing(pipe.direction)
        altered = bytearray(data)
        for corruption in self._all_of(_Corruption, pipe.direction):
            corruption.alter(pipe, altered)
        return bytes(altered)

    def next_drop(self, pipe: Pipe, size: int) -> _Drop | None:
        due = [drop for drop in self._all_of(_Drop, pipe.direction) if 0 < drop.due_in(pipe) <= size]
        return min(due, key=lambda drop: drop.due_in(pipe), default=None)

    def _passing(self, direction: Direction) -> None:
        for fault in (*self._all_of(_Delay, direction), *self._all_of(_Splitting, direction)):
            fault.happens()

    def _relay_gone(self, relay: Relay) -> None:
        del self._relays[relay]
        if not self._relays:
            self._gone.fire(None)

    # Making faults.

    def _directed(
        self,
        kind: type[AnyDirected],
        name: str,
        directions: tuple[Direction, ...],
        expected: str,
        subject: str = "",
        times: int | None = None,
    ) -> AnyDirected:
        for direction in directions:
            if not isinstance(direction, Direction):
                raise TypeError(f"{name}() takes directions, not {direction!r}")
        words = ", ".join(filter(None, [subject, *map(str, directions)]))
        fault = kind(self, f"{name}({words})", expected, times)
        fault.directions = directions or tuple(Direction)
        return self._make(fault)

    def _counted(
        self, kind: type[AnyCounted], name: str, place: int, direction: Direction, times: int | None
    ) -> AnyCounted:
        if times is not None:
            check_count("times", times)
        fault = self._directed(kind, name, (direction,), "so many bytes have not passed", str(place), times)
        fault.place = place
        fault.count_from_here([pipe for relay in self._relays for pipe in relay.pipes])
        return fault

    def _all_lasting(self, kind: type[AnyFault]) -> list[AnyFault]:
        return [fault for fault in self._lasting if isinstance(fault, kind)]

    def _all_of(self, kind: type[AnyDirected], direction: Direction) -> list[AnyDirected]:
        return [fault for fault in self._all_lasting(kind) if direction in fault.directions]

    def _resume(self, fault: Fault) -> None:
        if isinstance(fault, _Refusal):
            self._open()
        elif isinstance(fault, (_Silence, _Delay, _Splitting)):
            self._move_all()

    def _move_all(self) -> None:
        for relay in list(self._relays):
            relay.move()

    def _drop_all(self, reset: bool) -> None:
        for relay in list(self._relays):
            relay.drop(reset)

    # The door.

    def _open(self) -> None:
        if not (self._closed or self._all_lasting(_Refusal)):
            self._release_place()
            self._port: Any = self._listen(self._place[1], self, interface=self._place[0])

    def _shut(self) -> None:
        """From now on, and not from the reactor's next turn. The port is kept from others."""
        port, self._port = self._port, None
        if port is not None:
            port.stopReading()
            port.connectionLost(Failure(ConnectionDone()))
            self._reserve_place(port.addressFamily)

    def _reserve_place(self, family: int) -> None:
        self._reservation = socket.socket(family)
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reservation.bind(self._place)

    def _release_place(self) -> None:
        reservation, self._reservation = self._reservation, None
        if reservation is not None:
            reservation.close()
