"""The faults that a test injects into a `MemoryJobServer`, and what faults have in common.

Each method of `Faults` that returns a `Fault` injects one. It is active until it has happened as often as was
requested, or until its `Fault.end`; in a ``with`` statement, until the end of the block. Several may be active at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Clock

from ..packets import (
    ERROR,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_EPOCH,
    SUBMIT_JOB_HIGH,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW,
    SUBMIT_JOB_LOW_BG,
    SUBMIT_REDUCE_JOB,
    SUBMIT_REDUCE_JOB_BACKGROUND,
    PacketType,
)
from ..validation import MAX_FUNCTION, check_count, name_bytes
from .core import Connection

if TYPE_CHECKING:
    from typing_extensions import Self

SUBMITS: Final = (
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_HIGH,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW,
    SUBMIT_JOB_LOW_BG,
    SUBMIT_JOB_EPOCH,
    SUBMIT_REDUCE_JOB,
    SUBMIT_REDUCE_JOB_BACKGROUND,
)
"""Every packet type that submits a job."""

_MAX_SUBJECTS: Final = 20
"""First arguments of each packet type that are remembered for messages."""

MAX_TEXT: Final = 1000
"""Bytes of an ERROR's code and text."""


class Fault:
    """A fault that a test injected into a `MemoryJobServer` or a `FaultProxy`.

    It is also a context manager, which ends the fault.

    :ivar happened: how often it has happened.
    """

    def __init__(self, registry: FaultRegistry, name: str, expected: str, times: int | None = None) -> None:
        # For messages, `name` is the call that injected it, and `expected` what did not occur if it never happens.
        # It ends after having happened `times` times; None for no limit.
        self._registry = registry
        self._times = times
        self._name = name
        self._expected = expected
        self.happened = 0

    def __repr__(self) -> str:
        state = "ended" if self.ended else "active"
        return f"<Fault {self._name}: {state}, happened {self.happened} times>"

    @property
    def ended(self) -> bool:
        """Whether it is no longer active: it was ended, or has happened as often as was requested."""
        return self not in self._registry.active

    def end(self) -> None:
        """End the fault. With a `Clock`, what it held up has arrived when this returns."""
        self._registry.end(self)

    def _occurred(self) -> None:
        """Count one occurrence; the last one that was requested ends the fault."""
        self.happened += 1
        if self.happened == self._times:
            self._registry.deactivate(self)

    def _problem(self) -> str | None:
        """Return what makes the test fail that injected it; None if nothing does."""
        if not self.happened:
            return f"{self._name} has not happened: {self._expected}"
        if self._times is not None and self.happened < self._times:
            return f"{self._name} has happened {self.happened} of {self._times} times"
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()


AnyFault = TypeVar("AnyFault", bound=Fault)


class FaultRegistry:
    """The faults of one server or proxy.

    :ivar active: those that have not ended, oldest first.
    :ivar injected: all of them, for `verify`.
    """

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._clock = reactor if isinstance(reactor, Clock) else None
        self.active: list[Fault] = []
        self.injected: list[Fault] = []

    def verify(self) -> None:
        """Check that every fault has happened, and that no answer is still held.

        :raises AssertionError: with the problem of each fault that has one.
        """
        problems = self.problems()
        if problems:
            raise AssertionError("; ".join(problems))

    def problems(self) -> list[str]:
        """Return what makes the test fail that injected the faults."""
        return list(filter(None, (fault._problem() for fault in self.injected)))

    def end(self, fault: Fault) -> None:
        """End a fault at the request of a test."""
        self.deactivate(fault)
        self.settle()

    def deactivate(self, fault: Fault) -> None:
        """Make a fault inactive, and resume what it held up."""
        if not fault.ended:
            self.active.remove(fault)
            self._resume(fault)

    def settle(self) -> None:
        """Run everything that is due now, if the reactor is a `Clock`."""
        if self._clock is not None:
            self._clock.advance(0)

    def first(self, kind: type[AnyFault]) -> AnyFault | None:
        """Return the oldest active fault of a kind."""
        for fault in self.active:
            if isinstance(fault, kind):
                return fault
        return None

    def active_of(self, kind: type[AnyFault]) -> list[AnyFault]:
        """Return the active faults of a kind."""
        return [fault for fault in self.active if isinstance(fault, kind)]

    def _resume(self, fault: Fault) -> None:
        """Resume what a fault held up, which is no longer active."""

    def _add(self, fault: AnyFault) -> AnyFault:
        self.injected.append(fault)
        self.active.append(fault)
        return fault


AnyAtPacket = TypeVar("AnyAtPacket", bound="_AtPacket")


class _Refusal(Fault):
    """Connections are refused."""


class _Down(_Refusal):
    """Connections were dropped, and new ones are refused."""


class _BlackHole(Fault):
    """Attempts to connect are never answered."""


class _Silence(Fault):
    """Nothing is read and nothing is sent."""


class _Splitting(Fault):
    """Everything is sent in pieces."""

    size = 0


class HeldAnswers(Fault):
    """The answers that a `MemoryJobServer` holds back: `MemoryJobServer.hold_answers`."""

    _registry: Faults

    def release(self) -> None:
        """Send what was held back, in order, and end the fault."""
        self.end()

    def _problem(self) -> str | None:
        held = self._registry.held_bytes(self)
        return f"{self._name} still holds {held} bytes: release() was expected" if held else super()._problem()


class _AtPacket(Fault):
    """A fault that happens when packets of some types are received."""

    _registry: Faults
    types: tuple[PacketType, ...] = ()
    function: bytes | None = None

    def _problem(self) -> str | None:
        problem = super()._problem()
        return problem if self.happened else f"{problem}{self._registry.received_packets(self.function)}"

    def matches(self, packet_type: PacketType, arguments: list[bytes]) -> bool:
        """Return whether it happens at this packet."""
        wanted = not self.types or packet_type in self.types
        return wanted and (self.function is None or arguments[0] == self.function)


class _Instead(_AtPacket):
    """The server does not process the packet, and does this instead: by default, nothing."""

    def act(self, connection: Connection) -> None:
        """Do what is done instead."""


class _DropBefore(_Instead):
    def act(self, connection: Connection) -> None:
        connection.drop()


class _Reject(_Instead):
    packet = b""

    def act(self, connection: Connection) -> None:
        connection.send(self.packet)


class _DropAfter(_AtPacket):
    """The server processes the packet; its answer is not sent."""


class Faults(FaultRegistry):
    """The faults of one server: the calls of tests that inject them, and the queries of connections that obey them.

    What the calls do is documented at `MemoryJobServer`, which has them all.

    :param name: the server's, for messages.
    """

    def __init__(self, reactor: IReactorTime, connections: Sequence[Connection], name: str) -> None:
        super().__init__(reactor)
        self.name = name
        self._connections = connections
        self._unsent: dict[Connection, bytearray] = {}
        self._sending: dict[Connection, IDelayedCall] = {}
        self._closing: set[Connection] = set()
        self._black_holed: set[Connection] = set()
        self._received: dict[PacketType, dict[bytes, None]] = {}

    # For tests.

    def begin_anew(self) -> None:
        """Forget the faults that were injected, and what was received."""
        self.injected.clear()
        self._received.clear()

    def go_down(self) -> Fault:
        """Drop every connection, and refuse new ones."""
        expected = "nothing was connected, and no connection was attempted"
        fault = self._add(_Down(self, "go_down()", expected))
        self.settle()
        fault.happened += len(self._connections)
        self._drop_all()
        return fault

    def refuse_connections(self) -> Fault:
        """Refuse new connections."""
        return self._add(_Refusal(self, "refuse_connections()", "no connection was attempted"))

    def black_hole_connections(self) -> Fault:
        """Leave attempts to connect unanswered."""
        return self._add(_BlackHole(self, "black_hole_connections()", "no connection was attempted"))

    def drop_connections(self) -> None:
        """Drop every connection."""
        self._need_connection("drop_connections()")
        self._drop_all()

    def drop_before(self, *types: PacketType, times: int | None) -> Fault:
        """Drop a connection instead of processing a packet."""
        return self._at_packet(_DropBefore, "drop_before", types, times)

    def drop_after(self, *types: PacketType, times: int | None) -> Fault:
        """Drop a connection once a packet was processed."""
        return self._at_packet(_DropAfter, "drop_after", types, times)

    def leave_unanswered(self, *types: PacketType, times: int | None) -> Fault:
        """Ignore a packet."""
        return self._at_packet(_Instead, "leave_unanswered", types, times)

    def reject(
        self, code: str, text: str, *types: PacketType, function: str | bytes | None, times: int | None
    ) -> Fault:
        """Answer a packet with an ERROR."""
        packet = ERROR.response(name_bytes("code", code, MAX_TEXT), name_bytes("text", text, MAX_TEXT))
        wanted = None if function is None else name_bytes("function", function, MAX_FUNCTION)
        fault = self._at_packet(_Reject, "reject", types or SUBMITS, times)
        fault._name = f"reject({code!r})" if function is None else f"reject({code!r}, function={function!r})"
        fault.packet = packet
        fault.function = wanted
        return fault

    def hold_answers(self) -> HeldAnswers:
        """Send nothing."""
        return self._add(HeldAnswers(self, "hold_answers()", "there was no answer to hold"))

    def fall_silent(self) -> Fault:
        """Read nothing and send nothing."""
        fault = self._add(_Silence(self, "fall_silent()", "there was no connection"))
        for connection in self._connections:
            fault._occurred()
            connection.pause_reading()
        return fault

    def split_answers(self, size: int) -> Fault:
        """Send everything in pieces."""
        check_count("size", size)
        fault = self._add(_Splitting(self, f"split_answers({size})", "nothing was sent"))
        fault.size = size
        return fault

    def send_raw(self, data: bytes) -> None:
        """Send these bytes to every connection."""
        self._need_connection("send_raw()")
        for connection in self._connections:
            connection.send(data)
        self.settle()

    # For the server and its connections.

    @property
    def refusing(self) -> bool:
        """Whether no attempt to connect succeeds."""
        return self.first(_Refusal) is not None or self.first(_BlackHole) is not None

    @property
    def silent(self) -> bool:
        """Whether nothing is read."""
        return bool(self.active) and self.first(_Silence) is not None

    def connection_made(self, connection: Connection) -> None:
        """Apply the active faults to a new connection."""
        if self.black_holes_connection():
            self._black_holed.add(connection)
            connection.pause_reading()
        silence = self.first(_Silence)
        if silence is not None:
            silence._occurred()
            connection.pause_reading()

    def connection_lost(self, connection: Connection) -> None:
        """Forget a connection."""
        self._unsent.pop(connection, None)
        self._closing.discard(connection)
        self._black_holed.discard(connection)
        call = self._sending.pop(connection, None)
        if call is not None:
            call.cancel()

    def refuses_connection(self) -> bool:
        """Return whether an attempt to connect is refused."""
        return self._happens_to_attempt(_Refusal)

    def black_holes_connection(self) -> bool:
        """Return whether an attempt to connect is never answered."""
        return self._happens_to_attempt(_BlackHole)

    def intercepts(self, connection: Connection, packet_type: PacketType, arguments: list[bytes]) -> bool:
        """Return whether the server must not process a packet, which was received; do what is done instead."""
        subjects = self._received.get(packet_type)
        if subjects is None:
            subjects = self._received[packet_type] = {}
        if arguments and len(subjects) < _MAX_SUBJECTS:
            subjects[arguments[0]] = None
        for fault in self.active:
            if isinstance(fault, _Instead) and fault.matches(packet_type, arguments):
                fault._occurred()
                fault.act(connection)
                return True
        return False

    def packet_processed(self, connection: Connection, packet_type: PacketType, arguments: list[bytes]) -> None:
        """Apply the active faults to a packet that the server has processed."""
        for fault in self.active:
            if isinstance(fault, _DropAfter) and fault.matches(packet_type, arguments):
                fault._occurred()
                connection.drop()
                return

    def send(self, connection: Connection, data: bytes) -> None:
        """Send now, later or in pieces, as the active faults have it."""
        if not (self.active or self._unsent):
            connection.transport.write(data)
            return
        hold = None
        for hold in self.active_of(HeldAnswers):
            hold._occurred()
        if connection in self._unsent or hold or self.silent or self.first(_Splitting):
            self._unsent.setdefault(connection, bytearray()).extend(data)
            self._send_soon(connection)
        else:
            connection.transport.write(data)

    def close_connection(self, connection: Connection) -> None:
        """Close the connection once everything was sent."""
        if connection in self._unsent:
            self._closing.add(connection)
        else:
            connection.transport.loseConnection()

    def received_packets(self, function: bytes | None) -> str:
        """Return which packet types were received instead, for messages.

        :param function: of which packets were awaited: then only submits are named, with their functions.
        """
        if function is None:
            names = ", ".join(packet_type.name for packet_type in self._received)
            return f", only {names}" if names else ", nor any other"
        found = [
            f"{packet_type.name} of {subject.decode('utf-8', 'backslashreplace')!r}"
            for packet_type, subjects in self._received.items()
            for subject in subjects
            if packet_type in SUBMITS
        ]
        return f", only {', '.join(found) or 'other types'}"

    def held_bytes(self, hold: HeldAnswers) -> int:
        """Return how many bytes a hold still keeps."""
        return 0 if hold.ended else sum(map(len, self._unsent.values()))

    def _resume(self, fault: Fault) -> None:
        if isinstance(fault, _Silence):
            for connection in [each for each in self._connections if each not in self._black_holed]:
                connection.resume_reading()
        for connection in list(self._unsent):
            self._send_soon(connection)

    def _send_soon(self, connection: Connection) -> None:
        # Each piece is sent in a reactor turn of its own, so that it is received alone.
        if connection not in self._sending:
            self._sending[connection] = self._reactor.callLater(0, self._send_piece, connection)

    def _send_piece(self, connection: Connection) -> None:
        del self._sending[connection]
        if self.silent or self.first(HeldAnswers) is not None:
            return
        unsent = self._unsent[connection]
        splitting = self.first(_Splitting)
        size = len(unsent)
        if splitting is not None:
            size = splitting.size
            splitting._occurred()
        connection.transport.write(bytes(unsent[:size]))
        del unsent[:size]
        if unsent:
            self._send_soon(connection)
            return
        del self._unsent[connection]
        if connection in self._closing:
            connection.transport.loseConnection()

    def _at_packet(
        self, kind: type[AnyAtPacket], name: str, types: tuple[PacketType, ...], times: int | None
    ) -> AnyAtPacket:
        for packet_type in types:
            if not isinstance(packet_type, PacketType):
                raise TypeError(f"the packet types of {name}() must be PacketType, not {packet_type!r}")
        if times is not None:
            check_count("times", times)
        names = ", ".join(packet_type.name for packet_type in types)
        fault = kind(self, f"{name}({names})", "no such packet was received", times)
        fault.types = types
        return self._add(fault)

    def _happens_to_attempt(self, kind: type[Fault]) -> bool:
        fault = self.first(kind)
        if fault is not None:
            fault._occurred()
        return fault is not None

    def _need_connection(self, name: str) -> None:
        self.settle()
        if not self._connections:
            raise AssertionError(f"{name} needs a connection, but no client or worker is connected")

    def _drop_all(self) -> None:
        for connection in list(self._connections):
            connection.drop()
        self.settle()
