"""What a test can have go wrong, on purpose and at its word.

Each method of `Faults` makes one fault. It lasts until it has happened as often as was asked for, or until its `end()`;
in a ``with`` statement, until the end of that. Faults go together as the test likes.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

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
"""Every packet type that asks for a job."""

MAX_TEXT: Final = 1000
"""Bytes of an ERROR's code and text."""


class Fault:
    """Something that goes wrong.

    :ivar happened: how often it has.
    """

    def __init__(self, faults: FaultMaker, name: str, expected: str, times: int | None = None) -> None:
        """
        :param name: the call that made it, for people.
        :param expected: what must come for it to happen, for people.
        :param times: how often it happens; None for as long as it lasts.
        """
        self._faults = faults
        self._times = times
        self.name = name
        self.expected = expected
        self.happened = 0

    def end(self) -> None:
        """From now on, all is well again. With a `Clock`, what was held up has arrived when this returns."""
        self._faults.end(self)

    def happens(self) -> None:
        """It happens once."""
        self.happened += 1
        if self.happened == self._times:
            self._faults.ended(self)

    def complaint(self) -> str | None:
        """What is wrong with it at the end of a test; None if nothing is."""
        if not self.happened:
            return f"{self.name} has not happened: {self.expected}"
        if self._times is not None and self.happened < self._times:
            return f"{self.name} has happened {self.happened} of {self._times} times"
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()


AnyFault = TypeVar("AnyFault", bound=Fault)


class FaultMaker:
    """Makes faults, and knows which of them last."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._lasting: list[Fault] = []
        self._made: list[Fault] = []

    def verify(self) -> None:
        """Check that every fault has happened, and that no answer is still held.

        :raises AssertionError: telling what was expected.
        """
        complaints = list(filter(None, (fault.complaint() for fault in self._made)))
        if complaints:
            raise AssertionError("; ".join(complaints))

    def lasts(self, fault: Fault) -> bool:
        """Whether it has not ended."""
        return fault in self._lasting

    def end(self, fault: Fault) -> None:
        """A test ends a fault."""
        self.ended(fault)
        self._settle()

    def ended(self, fault: Fault) -> None:
        """A fault is over."""
        if self.lasts(fault):
            self._lasting.remove(fault)
            self._resume(fault)

    def _resume(self, fault: Fault) -> None:
        """Go on with what the fault has held up."""

    def _make(self, fault: AnyFault) -> AnyFault:
        self._made.append(fault)
        self._lasting.append(fault)
        return fault

    def _settle(self) -> None:
        """Let everything happen that is to happen now, if that is for us to say."""
        if isinstance(self._reactor, Clock):
            self._reactor.advance(0)


AnyAtPacket = TypeVar("AnyAtPacket", bound="_AtPacket")


class _Refusal(Fault):
    """Of connections."""


class _BlackHole(Fault):
    """For connections."""


class _Silence(Fault):
    """Nothing is read and nothing is sent."""


class _Splitting(Fault):
    size = 0


class HeldAnswers(Fault):
    """What `Faults.hold_answers` holds."""

    _faults: Faults

    def release(self) -> None:
        """Send what was held, in order, and hold nothing more."""
        self.end()

    def complaint(self) -> str | None:
        held = self._faults.held_up(self)
        return f"{self.name} still holds {held} bytes: release() was expected" if held else super().complaint()


class _AtPacket(Fault):
    """Something that happens when packets of some types come."""

    _faults: Faults

    def complaint(self) -> str | None:
        complaint = super().complaint()
        return complaint if self.happened else f"{complaint}, only {self._faults.what_came()}"

    types: tuple[PacketType, ...] = ()
    function: bytes | None = None

    def matches(self, packet_type: PacketType, arguments: list[bytes]) -> bool:
        wanted = not self.types or packet_type in self.types
        return wanted and (self.function is None or arguments[0] == self.function)


class _Instead(_AtPacket):
    """The server does not see the packet; this is done instead. By default, nothing."""

    def act(self, connection: Any) -> None:
        """Do it."""


class _DropBefore(_Instead):
    def act(self, connection: Any) -> None:
        connection.drop()


class _Reject(_Instead):
    packet = b""

    def act(self, connection: Any) -> None:
        connection.send(self.packet)


class _DropAfter(_AtPacket):
    """The server has done what the packet asks for; its answer is not sent."""


class Faults(FaultMaker):
    """The faults of one server."""

    def __init__(self, reactor: IReactorTime, connections: list[Any]) -> None:
        super().__init__(reactor)
        self._connections = connections
        self._unsent: dict[Any, bytearray] = {}
        self._sending: dict[Any, IDelayedCall] = {}
        self._closing: set[Any] = set()
        self._black_holed: set[Any] = set()
        self._came: dict[PacketType, None] = {}

    # For tests.

    def refuse_connections(self) -> Fault:
        """Refuse every connection. Those that are there go on. (On a port, it is accepted and closed at once.)"""
        return self._make(_Refusal(self, "refuse_connections()", "nobody has tried to connect"))

    def black_hole_connections(self) -> Fault:
        """Let every attempt to connect wait for an answer that never comes. (On a port, the connection is made, and
        nothing is ever read from it, as with a gearmand that has no file descriptor left: H12.)"""
        return self._make(_BlackHole(self, "black_hole_connections()", "nobody has tried to connect"))

    def drop_connections(self) -> None:
        """Lose every connection now. (What was written before has arrived: see `drop_before` for what has not.)"""
        self._need_connection("drop_connections()")
        for connection in list(self._connections):
            connection.drop()
        self._settle()

    def drop_before(self, *types: PacketType, times: int | None = 1) -> Fault:
        """Lose the connection on which the next packet of one of these types comes; the server never sees it.

        :param types: none for any packet.
        :param times: how often; None for each time.
        """
        return self._at_packet(_DropBefore, "drop_before", types, times)

    def drop_after(self, *types: PacketType, times: int | None = 1) -> Fault:
        """The same, once the server has done what the packet asks for; its answer is lost."""
        return self._at_packet(_DropAfter, "drop_after", types, times)

    def leave_unanswered(self, *types: PacketType, times: int | None = 1) -> Fault:
        """Ignore the next packet of one of these types, as other servers do with some (H6).

        :param types: none for any packet.
        :param times: how many are ignored; None for all.
        """
        return self._at_packet(_Instead, "leave_unanswered", types, times)

    def reject(
        self,
        code: str,
        text: str = "",
        *types: PacketType,
        function: str | bytes | None = None,
        times: int | None = 1,
    ) -> Fault:
        """Answer the next packet of one of these types with an ERROR.

        :param code: such as ``"QUEUE_ERROR"``.
        :param types: none for any that submits a job.
        :param function: only those that begin with this function's name, its prefix included.
        :param times: how many are rejected; None for all.
        """
        packet = ERROR.response(name_bytes("code", code, MAX_TEXT), name_bytes("text", text, MAX_TEXT))
        wanted = None if function is None else name_bytes("function", function, MAX_FUNCTION)
        fault = self._at_packet(_Reject, "reject", types or SUBMITS, times)
        fault.name = f"reject({code!r})" if function is None else f"reject({code!r}, function={function!r})"
        fault.packet = packet
        fault.function = wanted
        return fault

    def hold_answers(self) -> HeldAnswers:
        """Send nothing, on any connection, until `HeldAnswers.release`. What comes in is done as ever."""
        return self._make(HeldAnswers(self, "hold_answers()", "there was no answer to hold"))

    def fall_silent(self) -> Fault:
        """Neither read nor send anything on any connection, like a host that has lost its power."""
        fault = self._make(_Silence(self, "fall_silent()", "there was no connection"))
        for connection in self._connections:
            fault.happens()
            connection.pause()
        return fault

    def split_answers(self, size: int) -> Fault:
        """Send everything in pieces.

        :param size: bytes in each, which comes in a turn of its own.
        """
        check_count("size", size)
        fault = self._make(_Splitting(self, f"split_answers({size})", "nothing was sent"))
        fault.size = size
        return fault

    def send_raw(self, data: bytes) -> None:
        """Send these bytes, whatever they are, to every connection."""
        self._need_connection("send_raw()")
        for connection in self._connections:
            connection.send(data)
        self._settle()

    # For the server.

    @property
    def silent(self) -> bool:
        """Whether nothing is read."""
        return self._lasting_one(_Silence) is not None

    def connection_made(self, connection: Any) -> None:
        """There is a new connection."""
        if self.black_holed():
            self._black_holed.add(connection)
            connection.pause()
        silence = self._lasting_one(_Silence)
        if silence is not None:
            silence.happens()
            connection.pause()

    def connection_lost(self, connection: Any) -> None:
        """A connection is gone."""
        self._unsent.pop(connection, None)
        self._closing.discard(connection)
        self._black_holed.discard(connection)
        call = self._sending.pop(connection, None)
        if call is not None:
            call.cancel()

    def refused(self) -> bool:
        """Whether a connection that is asked for is refused."""
        return self._connecting_meets(_Refusal)

    def black_holed(self) -> bool:
        """Whether an attempt to connect is to wait for ever."""
        return self._connecting_meets(_BlackHole)

    def before(self, connection: Any, packet_type: PacketType, arguments: list[bytes]) -> bool:
        """A packet has come; return whether the server is not to see it."""
        self._came[packet_type] = None
        for fault in self._lasting:
            if isinstance(fault, _Instead) and fault.matches(packet_type, arguments):
                fault.happens()
                fault.act(connection)
                return True
        return False

    def after(self, connection: Any, packet_type: PacketType, arguments: list[bytes]) -> None:
        """What a packet asks for has been done."""
        for fault in self._lasting:
            if isinstance(fault, _DropAfter) and fault.matches(packet_type, arguments):
                fault.happens()
                connection.drop()
                return

    def send(self, connection: Any, data: bytes) -> None:
        """Send, or do not, or not at once."""
        hold = self._lasting_one(HeldAnswers)
        if hold is not None:
            hold.happens()
        if connection in self._unsent or hold or self.silent or self._lasting_one(_Splitting):
            self._unsent.setdefault(connection, bytearray()).extend(data)
            self._send_soon(connection)
        else:
            connection.transport.write(data)

    def close_connection(self, connection: Any) -> None:
        """Close the connection once everything is sent."""
        if connection in self._unsent:
            self._closing.add(connection)
        else:
            connection.transport.loseConnection()

    def what_came(self) -> str:
        """Which types of packets the server has had."""
        return ", ".join(packet_type.name for packet_type in self._came) or "none at all"

    def held_up(self, hold: HeldAnswers) -> int:
        """How many bytes it still holds."""
        return sum(map(len, self._unsent.values())) if self.lasts(hold) else 0

    def _resume(self, fault: Fault) -> None:
        if isinstance(fault, _Silence):
            for connection in [each for each in self._connections if each not in self._black_holed]:
                connection.resume()
        for connection in list(self._unsent):
            self._send_soon(connection)

    def _send_soon(self, connection: Any) -> None:
        """Each piece has a turn of its own, so that it is received alone."""
        if connection not in self._sending:
            self._sending[connection] = self._reactor.callLater(0, self._send_piece, connection)

    def _send_piece(self, connection: Any) -> None:
        del self._sending[connection]
        if self.silent or self._lasting_one(HeldAnswers) is not None:
            return
        unsent = self._unsent[connection]
        splitting = self._lasting_one(_Splitting)
        size = len(unsent)
        if isinstance(splitting, _Splitting):
            size = splitting.size
            splitting.happens()
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
                raise TypeError(f"{name}() takes types of packets, not {packet_type!r}")
        if times is not None:
            check_count("times", times)
        names = ", ".join(packet_type.name for packet_type in types)
        fault = kind(self, f"{name}({names})", "no such packet has come", times)
        fault.types = types
        return self._make(fault)

    def _lasting_one(self, kind: type[Fault]) -> Fault | None:
        return next((fault for fault in self._lasting if isinstance(fault, kind)), None)

    def _connecting_meets(self, kind: type[Fault]) -> bool:
        fault = self._lasting_one(kind)
        if fault is not None:
            fault.happens()
        return fault is not None

    def _need_connection(self, name: str) -> None:
        self._settle()
        if not self._connections:
            raise AssertionError(f"{name}: nobody is connected")
