"""The states of a connection: which follow each other, and that the documentation draws those and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.task import Clock
from zope.interface import directlyProvides

from txgearman.connection.options import DEFAULT_CONNECTION_OPTIONS, ConnectionOptions
from txgearman.connection.reactor import Reactor
from txgearman.connection.states import TRANSITIONS, ConnectionState
from txgearman.errors import ClientStopped
from txgearman.packets import ECHO_REQ, ECHO_RES, ERROR

from ..diagrams import arrows
from ..examples import of_histories
from ..wire import WireTransport, answer, outcome
from .harness import FENCE, Connection, Net

NEW, HANDSHAKE, OPENING = ConnectionState.NEW, ConnectionState.HANDSHAKE, ConnectionState.OPENING
READY, RETIRING, DOWN = ConnectionState.READY, ConnectionState.RETIRING, ConnectionState.DOWN


class Recorded(Connection):
    """A connection that records its states."""

    def __init__(self, reactor: Reactor, connection_options: ConnectionOptions = DEFAULT_CONNECTION_OPTIONS) -> None:
        super().__init__(reactor, connection_options)
        self.states = [self._state]

    def _enter(self, state: ConnectionState) -> None:
        super()._enter(state)
        self.states.append(state)


class AnyTransport(WireTransport):
    """A transport with the options of TCP."""

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: N802  # Twisted's name
        """Nothing to do."""

    def setTcpKeepAlive(self, enabled: bool) -> None:  # noqa: N802  # Twisted's name
        """Nothing to do."""


class TLSTransport(AnyTransport):
    """A transport that says that it is TLS, whose handshake the test completes."""

    def __init__(self, clock: Clock, protocol: Recorded) -> None:
        super().__init__(clock, protocol)
        directlyProvides(self, ISSLTransport)


@contextmanager
def transports(kind: type[WireTransport]) -> Iterator[None]:
    """Have the endpoints of tests make transports of this kind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.wire.WireTransport", kind)
        yield


class Walk:
    """A connection, what is done to it, and its outcomes.

    :ivar idle: how often it reported that nothing is in flight.
    """

    def __init__(self, *, tls: bool = False) -> None:
        self.net = Net(heartbeat=5.0)
        self.net.factory.protocol = Recorded
        self.net.endpoint.answers_opening = False
        with transports(TLSTransport if tls else WireTransport):
            self.net.connector.connect()
        assert isinstance(self.net.connection, Recorded)
        self.connection = self.net.connection
        self.server = self.net.server
        self.idle = 0
        self.requests: list[list[Any]] = []

    @property
    def states(self) -> list[ConnectionState]:
        return self.connection.states

    def complete_handshake(self) -> Walk:
        self.connection.handshakeCompleted()
        return self

    def answer_all(self) -> Walk:
        self.server.send_opening()
        return self

    def ask(self) -> Walk:
        self.requests.append(outcome(self.connection.request(ECHO_REQ, b"1", answer=ECHO_RES)))
        return self

    def retire(self) -> Walk:
        self.connection.retire_it(self._count_idle)
        return self

    def _count_idle(self) -> None:
        self.idle += 1

    def lose(self) -> Walk:
        self.server.lose()
        return self

    def abort(self) -> Walk:
        self.connection.abort(ClientStopped())
        return self

    def close(self) -> Walk:
        self.connection.close(ClientStopped())
        return self


WALKS: dict[Callable[[], Walk], list[ConnectionState]] = {
    lambda: Walk().lose(): [NEW, OPENING, DOWN],
    lambda: Walk(tls=True).abort(): [NEW, HANDSHAKE, DOWN],
    lambda: Walk().answer_all().close().lose(): [NEW, OPENING, READY, DOWN],
    lambda: Walk(tls=True).complete_handshake().answer_all(): [NEW, HANDSHAKE, OPENING, READY],
    # As where a wrapper of the endpoint does not pass on that the handshake is complete.
    lambda: Walk(tls=True).answer_all(): [NEW, HANDSHAKE, READY],
    lambda: Walk().answer_all().ask().retire().answer_all(): [NEW, OPENING, READY, RETIRING],
    lambda: Walk().answer_all().ask().retire().abort().retire(): [NEW, OPENING, READY, RETIRING, DOWN],
}


@pytest.mark.parametrize(("walk", "states"), WALKS.items(), ids=["-".join(s.value for s in w) for w in WALKS.values()])
def test_connection_passes_through_states(walk: Callable[[], Walk], states: list[ConnectionState]) -> None:
    assert walk().states == states


def test_table_of_transitions_has_those_of_these_walks_and_no_other() -> None:
    seen = {pair for states in WALKS.values() for pair in pairwise(states)}
    assert seen == {(before, after) for before, following in TRANSITIONS.items() for after in following}
    assert set(TRANSITIONS) == set(ConnectionState)


def test_diagram_has_transitions_of_table_and_no_other() -> None:
    assert arrows("connection") == {
        (before.name, after.name) for before, following in TRANSITIONS.items() for after in following
    }


@pytest.mark.guarantee(number=11)
def test_close_sends_written_data_where_tls_handshake_was_not_reported() -> None:
    """The server's answer shows that the handshake is complete."""
    walk = Walk(tls=True).answer_all().ask().close()
    assert (walk.server.transport.disconnecting, walk.server.transport.aborted) == (True, False)


class ConnectionMachine(RuleBasedStateMachine):
    """Random histories of a connection. `_enter` itself raises at a transition that is not in the table."""

    walk: Walk

    @initialize(tls=st.booleans())
    def connect(self, tls: bool) -> None:
        self.walk = Walk(tls=tls)

    @property
    def state(self) -> ConnectionState:
        return self.walk.states[-1]

    @precondition(lambda self: self.state is HANDSHAKE)
    @rule()
    def complete_handshake(self) -> None:
        self.walk.complete_handshake()

    @rule()
    def answer_all(self) -> None:
        self.walk.answer_all()

    @rule()
    def ask(self) -> None:
        self.walk.ask()

    @precondition(lambda self: self.state in (READY, DOWN))
    @rule()
    def retire(self) -> None:
        self.walk.retire()

    @rule(how=st.sampled_from([Walk.lose, Walk.abort, Walk.close]))
    def end(self, how: Callable[[Walk], Walk]) -> None:
        how(self.walk)

    @rule(said=st.sampled_from([b"garbage" * 3, ERROR.response(b"no", b"sense"), answer(FENCE)]))
    def send(self, said: bytes) -> None:
        self.walk.server.send(said)

    @rule(seconds=st.sampled_from([0.0, 2.5, 10.0]))
    def let_pass(self, seconds: float) -> None:
        self.walk.net.clock.advance(seconds)

    @rule(paused=st.booleans())
    def pause_writing(self, paused: bool) -> None:
        connection = self.walk.connection
        (connection.pauseProducing if paused else connection.resumeProducing)()

    @precondition(lambda self: self.state is READY)
    @rule()
    def pause_reading(self) -> None:
        self.walk.connection.pause()

    @invariant()
    def state_and_error_agree(self) -> None:
        connection = self.walk.connection
        assert (connection.error is not None) == (self.state is DOWN)
        assert connection.ready == (self.state in (READY, RETIRING))

    @invariant()
    def outcomes_are_exact(self) -> None:
        """Each request has at most one outcome, and one as soon as the connection is down; idle is reported once."""
        least = 1 if self.state is DOWN else 0
        assert all(least <= len(reported) <= 1 for reported in self.walk.requests)
        assert self.walk.idle <= 1

    def teardown(self) -> None:
        self.walk.net.factory.stop(ClientStopped())
        self.walk.net.clock.advance(10)
        assert self.walk.net.clock.getDelayedCalls() == []


TestConnectionMachine = ConnectionMachine.TestCase
TestConnectionMachine.settings = of_histories()
