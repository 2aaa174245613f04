"""Protocols that record what they receive, and raw connections to a `MemoryJobServer` on a `Clock`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from txgearman.packets import ECHO_REQ, ECHO_RES, JOB_CREATED, RES, SUBMIT_JOB, Decoder, Packet
from txgearman.testing import MemoryJobServer, TakenJob

from ..wire import outcome

ECHO = ECHO_REQ.request(b"anyone?")
ECHOED = ECHO_RES.response(b"anyone?")
SUBMIT = SUBMIT_JOB.request(b"reverse", b"", b"abc")
CREATED = JOB_CREATED.response(b"H:memory:1")


class Recorder(Protocol):
    """Protocol that records what it receives.

    :ivar pieces: the data of each call of dataReceived.
    :ivar lost: the reason of each call of connectionLost.
    """

    transport: Any

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.lost: list[Any] = []

    def dataReceived(self, data: bytes) -> None:
        self.pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.append(reason.value)

    def received(self) -> bytes:
        """Return everything that was received since the last call."""
        data = b"".join(self.pieces)
        self.pieces.clear()
        return data

    def packets(self) -> list[Packet]:
        """Return the same, as packets from a server."""
        decoder = Decoder(RES)
        packets = decoder.feed(self.received())
        assert decoder.error is None
        return packets

    def lost_with(self) -> list[type[BaseException]]:
        return [type(reason) for reason in self.lost]


def attempt(server: MemoryJobServer) -> list[Any]:
    """Connect, and return the outcome: nothing yet, a `Recorder`, or an exception."""
    attempted = outcome(server.endpoint().connect(Factory.forProtocol(Recorder)))
    server.advance()
    return attempted


def connect(server: MemoryJobServer) -> Recorder:
    """Return a raw connection."""
    (peer,) = attempt(server)
    assert isinstance(peer, Recorder)
    return peer


def ask(server: MemoryJobServer, peer: Recorder, *packets: bytes) -> bytes:
    """Send these in one piece, and return what was received when nothing is in transit any more."""
    peer.transport.write(b"".join(packets))
    server.advance()
    return peer.received()


def in_turns(server: MemoryJobServer, turns: int, act: Callable[[], object]) -> None:
    """Call `act` in a later turn of the reactor."""
    if turns:
        server.clock.callLater(0, in_turns, server, turns - 1, act)
    else:
        act()


def taken(server: MemoryJobServer, **callbacks: Any) -> tuple[TakenJob, list[Any]]:
    """Return a taken job, and the outcome of its task."""
    fired = outcome(server.client().add_task("reverse", b"abc", unique=b"u", **callbacks))
    return server.take("reverse"), fired
