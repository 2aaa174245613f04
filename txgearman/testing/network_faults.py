"""The faults that a test injects into a `FaultProxy`, and what they make of the bytes that pass."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection
from typing import TypeVar
from weakref import WeakKeyDictionary

from twisted.internet.interfaces import IReactorTime

from ..validation import check_count, positive_seconds
from .faults import Fault, FaultRegistry
from .relay import Direction, Pipe, Relay


class _Refusal(Fault):
    """Connections are refused."""


class _BlackHole(Fault):
    """Connections are accepted, and never read from."""


class _Directed(Fault):
    """A fault of the bytes that pass in one or both directions."""

    directions: tuple[Direction, ...] = ()


class _Silence(_Directed):
    """Nothing passes."""


class _Delay(_Directed):
    """Everything passes late."""

    seconds = 0.0


class _Splitting(_Directed):
    """Everything passes in pieces."""

    size = 0


class _Corruption(_Directed):
    """Other bytes arrive than were sent."""

    def alter(self, pipe: Pipe, data: bytearray) -> None:
        """Alter what is about to pass."""


class _AtOffset(_Directed):
    """A fault at an offset in the stream of bytes of each connection.

    It counts from the bytes that had passed when the fault was injected, and on a new connection from its first byte.
    """

    offset = 0

    def start_at(self, pipes: list[Pipe]) -> None:
        """Note how much has passed on the connections that are open already."""
        self._starts = WeakKeyDictionary({pipe: pipe.passed for pipe in pipes})

    def due_in(self, pipe: Pipe) -> int:
        """Return how many more bytes pass before the offset; negative behind it."""
        return self._starts.get(pipe, 0) + self.offset - pipe.passed


class _Drop(_AtOffset):
    """The connection is lost."""

    reset = False

    def dropped(self) -> None:
        """Count a connection that was lost."""
        self._occurred()


class _ByteCorruption(_AtOffset, _Corruption):
    """One byte is altered."""

    def alter(self, pipe: Pipe, data: bytearray) -> None:
        offset = self.due_in(pipe)
        if 0 <= offset < len(data):
            data[offset] ^= 0xFF
            self._occurred()


class _RandomCorruption(_Corruption):
    """Bytes are altered at random."""

    def begin(self, rate: float, seed: int) -> None:
        """Choose the first byte."""
        self._random = random.Random(seed)  # noqa: S311  it must be the same each time
        self._rate = rate
        self._distance = self._next_distance()

    def alter(self, pipe: Pipe, data: bytearray) -> None:
        while self._distance < len(data):
            data[self._distance] ^= self._random.randrange(1, 256)
            self._distance += 1 + self._next_distance()
            self._occurred()
        self._distance -= len(data)

    def _next_distance(self) -> int:
        """Return how many bytes pass unaltered: one random number for each altered byte, not one for each byte."""
        if self._rate == 1:
            return 0
        return int(math.log(1.0 - self._random.random()) / math.log1p(-self._rate))


AnyDirected = TypeVar("AnyDirected", bound=_Directed)
AnyAtOffset = TypeVar("AnyAtOffset", bound=_AtOffset)


class NetworkFaults(FaultRegistry):
    """The faults of one proxy: the calls of tests that inject them, and what its relays ask (`relay.Traffic`).

    What the calls do is documented at `FaultProxy`, which has them all.

    :param relays: those of the open connections.
    :param accept_again: called when connections are no longer refused.
    """

    def __init__(self, reactor: IReactorTime, relays: Collection[Relay], accept_again: Callable[[], object]) -> None:
        super().__init__(reactor)
        self._relays = relays
        self._accept_again = accept_again

    # For tests.

    def refuse_connections(self) -> Fault:
        """Note that connections are refused. How often that happens is not known: the kernel does it."""
        fault = self._add(_Refusal(self, "refuse_connections()", ""))
        fault._occurred()
        return fault

    def black_hole_connections(self) -> Fault:
        """Connect new connections to nothing."""
        return self._add(_BlackHole(self, "black_hole_connections()", "no connection was attempted"))

    def drop_after(self, size: int, direction: Direction, *, reset: bool, times: int | None) -> Fault:
        """Drop a connection at an offset."""
        check_count("size", size)
        fault = self._at_offset(_Drop, "drop_after", size, direction, times)
        fault.reset = reset
        return fault

    def fall_silent(self, *directions: Direction) -> Fault:
        """Let nothing pass."""
        fault = self._directed(_Silence, "fall_silent", directions, "there was no connection")
        for _ in self._relays:
            fault._occurred()
        self._move_all()
        return fault

    def delay(self, seconds: float, *directions: Direction) -> Fault:
        """Let everything pass late."""
        positive_seconds("seconds", seconds)
        fault = self._directed(_Delay, "delay", directions, "nothing has passed", str(seconds))
        fault.seconds = seconds
        return fault

    def split(self, size: int, *directions: Direction) -> Fault:
        """Let everything pass in pieces."""
        check_count("size", size)
        fault = self._directed(_Splitting, "split", directions, "nothing has passed", str(size))
        fault.size = size
        return fault

    def corrupt_byte(self, offset: int, direction: Direction, *, times: int | None) -> Fault:
        """Alter a byte at an offset."""
        if type(offset) is not int or offset < 0:
            raise ValueError(f"offset must be an int of at least 0, not {offset!r}")
        return self._at_offset(_ByteCorruption, "corrupt_byte", offset, direction, times)

    def corrupt(self, rate: float, *directions: Direction, seed: int) -> Fault:
        """Alter bytes at random."""
        if not 0 < rate <= 1:
            raise ValueError(f"rate must be more than 0 and at most 1, not {rate!r}")
        fault = self._directed(_RandomCorruption, "corrupt", directions, "no byte was chosen", str(rate))
        fault.begin(rate, seed)
        return fault

    # For the proxy.

    @property
    def refusing(self) -> bool:
        """Whether connections are refused."""
        return self.first(_Refusal) is not None

    def connection_made(self) -> bool:
        """Count a new connection; return whether it is to be connected to nothing."""
        for silence in self.active_of(_Silence):
            silence._occurred()
        black_holes = self.active_of(_BlackHole)
        for black_hole in black_holes:
            black_hole._occurred()
        return bool(black_holes)

    # For the relays.

    def silent(self, direction: Direction) -> bool:
        return bool(self._in_direction(_Silence, direction))

    def lateness(self, direction: Direction) -> float:
        return sum(delay.seconds for delay in self._in_direction(_Delay, direction))

    def piece_size(self, direction: Direction) -> int | None:
        return min((splitting.size for splitting in self._in_direction(_Splitting, direction)), default=None)

    def altered(self, pipe: Pipe, data: bytes) -> bytes:
        for fault in (*self._in_direction(_Delay, pipe.direction), *self._in_direction(_Splitting, pipe.direction)):
            fault._occurred()
        altered = bytearray(data)
        for corruption in self._in_direction(_Corruption, pipe.direction):
            corruption.alter(pipe, altered)
        return bytes(altered)

    def next_drop(self, pipe: Pipe, size: int) -> _Drop | None:
        due = [drop for drop in self._in_direction(_Drop, pipe.direction) if 0 < drop.due_in(pipe) <= size]
        return min(due, key=lambda drop: drop.due_in(pipe), default=None)

    # How faults are made and ended.

    def _directed(
        self,
        kind: type[AnyDirected],
        name: str,
        directions: tuple[Direction, ...],
        expected: str,
        argument: str = "",
        times: int | None = None,
    ) -> AnyDirected:
        for direction in directions:
            if not isinstance(direction, Direction):
                raise TypeError(f"the directions of {name}() must be Direction, not {direction!r}")
        arguments = ", ".join(filter(None, [argument, *map(str, directions)]))
        fault = kind(self, f"{name}({arguments})", expected, times)
        fault.directions = directions or tuple(Direction)
        return self._add(fault)

    def _at_offset(
        self, kind: type[AnyAtOffset], name: str, offset: int, direction: Direction, times: int | None
    ) -> AnyAtOffset:
        if times is not None:
            check_count("times", times)
        fault = self._directed(kind, name, (direction,), "fewer bytes have passed", str(offset), times)
        fault.offset = offset
        fault.start_at([pipe for relay in self._relays for pipe in relay.pipes])
        return fault

    def _in_direction(self, kind: type[AnyDirected], direction: Direction) -> list[AnyDirected]:
        return [fault for fault in self.active_of(kind) if direction in fault.directions]

    def _resume(self, fault: Fault) -> None:
        if isinstance(fault, _Refusal):
            self._accept_again()
        elif isinstance(fault, (_Silence, _Delay, _Splitting)):
            self._move_all()

    def _move_all(self) -> None:
        for relay in list(self._relays):
            relay.move()
