"""The factory: back-off, the connect timeout, stopping, retiring. No socket, no real time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import fail
from twisted.internet.error import (
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.task import Clock

from txgearman.connection.connector import EndpointConnector
from txgearman.connection.factory import GearmanFactory
from txgearman.connection.options import CONNECT_TIMEOUT
from txgearman.connection.protocol import CLOSE_TIMEOUT, GearmanProtocol
from txgearman.errors import ClientStopped
from txgearman.packets import (
    ECHO_REQ,
    ECHO_RES,
    GET_STATUS,
    OPTION_REQ,
    OPTION_RES,
)
from txgearman.testing import Fault, MemoryJobServer

from ..conftest import Failures
from ..wire import ServerSide, outcome
from .harness import (
    Factory,
    Listener,
    Net,
    OddEndpoint,
    OddServer,
    Served,
    backing_off,
    bad_streams,
    being_stopped,
    close,
    closed_by,
    connected,
    connecting,
    just_aborted,
    just_closed,
    never_connected,
    ready_and_busy,
    says,
    unready,
)


def test_global_reactor_is_the_default() -> None:
    from twisted.internet import reactor

    assert GearmanFactory(None).reactor is reactor


# Back-off.


def tried_ever_less_often(net: Net | Served, attempts: Callable[[], int]) -> bool:
    """Watch for ten minutes. An attempt may take `CONNECT_TIMEOUT`."""
    net.connector.connect()
    times: list[float] = []
    for tenth in range(6000):
        net.clock.advance(0.1 if tenth else 0)
        if attempts() > len(times):
            times.append(tenth / 10)
    assert net.listener.ready == []
    gaps = [after - before for before, after in itertools.pairwise(times)]
    return 12 <= len(times) <= 40 and gaps[0] < CONNECT_TIMEOUT + 2 and max(gaps) < CONNECT_TIMEOUT + 31


@pytest.mark.guarantee(number=14)
@bad_streams
def test_bad_server_is_retried_with_growing_delay(said: bytes) -> None:
    """The connect alone does not reset the back-off: no hot loop, and no hour without an attempt either."""
    endpoint = OddServer(Clock(), says(said))
    net = Net(endpoint=endpoint, option_requests=(b"exceptions",))
    assert tried_ever_less_often(net, lambda: endpoint.attempts)


def closes(server: MemoryJobServer) -> Fault:
    return server.drop_before(OPTION_REQ, times=100)


FAULTS = [
    MemoryJobServer.refuse_connections,
    MemoryJobServer.black_hole_connections,
    MemoryJobServer.fall_silent,
    closes,
]


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize("break_it", FAULTS)
def test_failing_server_is_retried_with_growing_delay(break_it: Callable[[MemoryJobServer], Fault]) -> None:
    net = Served(option_requests=(b"exceptions",))
    fault = break_it(net.server)
    assert tried_ever_less_often(net, lambda: fault.happened)


def delays(net: Served, count: int) -> list[float]:
    """Those after a loss and the next failures, the server being away."""
    net.server.drop_connections()
    with net.server.refuse_connections():
        seen = [net.delay]
        for _ in range(count - 1):
            net.server.advance(net.delay)
            seen.append(net.delay)
    return seen


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize("seed", range(20))
def test_delays_grow_from_a_second_to_half_a_minute_and_are_never_longer(seed: int) -> None:
    longest = [2, 1, 2, 4, 8, 16, 30, 30, 30]
    first, *seen = delays(Served(source=random.Random(seed)).connect(), len(longest))  # the same each time
    assert 0 <= first <= longest[0]
    assert all(most / 2 <= delay <= most for delay, most in zip(seen, longest[1:], strict=True))


@pytest.mark.guarantee(number=14)
def test_first_delay_is_the_same_before_and_after_first_connection_on_clock() -> None:
    """Where nothing is random: each factory has the same source."""
    never, lost = Served(), Served().connect()
    never.server.refuse_connections()
    lost.server.drop_connections()
    assert never.connect().delay == lost.delay


@pytest.mark.guarantee(number=14)
def test_first_attempts_of_many_connections_after_loss_are_spread_over_two_seconds() -> None:
    """The clients of a server that restarts must not all come back at once."""
    fifths = [0] * 10
    for seed in range(200):
        net = connected(source=random.Random(seed))  # the same each time
        net.server.lose()
        fifths[int(net.delay * 5)] += 1
    assert min(fifths) >= 10
    assert max(fifths) <= 30


@pytest.mark.guarantee(number=14)
def test_only_good_answer_resets_delay() -> None:
    net = Served().connect()
    *_, last = delays(net, 5)
    net.server.drop_before(GET_STATUS)
    net.server.advance(last)
    assert net.delay >= 4
    net.server.advance(net.delay)
    net.server.drop_connections()
    assert net.delay <= 2


@pytest.mark.guarantee(number=14)
def test_next_attempt_is_set_while_one_is_scheduled() -> None:
    net = Served().connect()
    assert net.factory.next_attempt is None
    net.server.drop_connections()
    assert net.factory.next_attempt is not None
    assert not net.factory.connecting
    net.server.black_hole_connections()
    net.server.advance(net.delay)
    assert net.factory.next_attempt is None
    assert net.factory.connecting


def test_factory_is_connecting_from_attempt_to_end_of_connection() -> None:
    """Even where the socket lives a little longer."""
    states = [never_connected, connecting, unready, connected, just_aborted, just_closed, backing_off]
    assert [state().factory.connecting for state in states] == [False, True, True, True, False, False, False]


# The connect timeout.


@pytest.mark.guarantee(number=10)
def test_attempt_without_connection_times_out() -> None:
    net = Served()
    net.server.black_hole_connections()
    waiting = outcome(net.factory.when_ready())
    net.connect().server.advance(CONNECT_TIMEOUT - 0.1)
    assert net.listener.errors == []
    net.server.advance(0.1)
    check_timed_out(net, waiting)


@pytest.mark.guarantee(number=10)
@pytest.mark.parametrize("said", [b"", OPTION_RES.response(b"exceptions"), b"\0RES\0"])
def test_connection_without_good_answer_times_out(said: bytes) -> None:
    net = unready(option_requests=(b"exceptions",))
    waiting = outcome(net.factory.when_ready())
    net.clock.advance(CONNECT_TIMEOUT - 0.1)
    net.server.send(said)
    assert net.listener.errors == []
    net.clock.advance(0.1)
    assert closed_by(net, TimeoutError)
    check_timed_out(net, waiting)


def check_timed_out(net: Net | Served, waiting: list[Any]) -> None:
    assert [type(error) for error in net.listener.errors] == [TimeoutError]
    assert waiting == net.listener.errors
    assert "10.0 seconds" in str(waiting[0])
    assert 0 < net.delay < 2


@pytest.mark.guarantee(number=10)
def test_connect_timeout_can_be_set_and_ends_at_first_good_answer() -> None:
    net = Served(connect_timeout=2)
    silence = net.server.fall_silent()
    net.connect().server.advance(1.9)
    silence.end()
    net.server.advance(60)
    assert net.connection.error is None
    assert net.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=10)
def test_answer_that_has_arrived_at_end_of_timeout_is_read_first() -> None:
    """A reactor calls its timers before it reads."""
    net = unready(connect_timeout=2)
    net.clock.callLater(2, net.server.send_opening)
    net.clock.advance(2)
    assert net.connection.ready
    assert net.listener.errors == []


@pytest.mark.guarantee(number=10)
def test_attempt_gets_its_time_once_more_if_reactor_was_blocked() -> None:
    net = unready(connect_timeout=2)
    net.clock.advance(5)
    net.clock.advance(1.9)
    assert net.listener.errors == []
    net.server.send_opening()
    assert net.connection.ready


@pytest.mark.guarantee(number=10)
def test_timeout_is_put_off_by_no_more_than_it_was_late_if_that_was_little() -> None:
    """As on a clock that is advanced in steps."""
    net = unready(connect_timeout=2)
    net.clock.advance(2.125)
    assert net.listener.errors == []
    net.clock.advance(0.125)
    assert [type(error) for error in net.listener.errors] == [TimeoutError]


@pytest.mark.guarantee(number=10)
def test_attempt_times_out_though_reactor_is_blocked_again() -> None:
    net = unready(connect_timeout=2)
    net.clock.advance(5)
    net.clock.advance(5)
    assert [type(error) for error in net.listener.errors] == [TimeoutError]
    assert net.delay <= 2


@pytest.mark.guarantee(number=11)
def test_stop_at_end_of_timeout_leaves_nothing() -> None:
    net = unready(connect_timeout=2)
    net.clock.callLater(2, net.factory.stop, ClientStopped())
    net.clock.advance(2)
    assert [type(error) for error in net.listener.errors] == [ClientStopped]
    assert net.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=10)
def test_each_attempt_has_its_own_timeout() -> None:
    net = Served(connect_timeout=2)
    net.server.black_hole_connections()
    net.connect()
    for count in range(1, 4):
        net.server.advance(2)
        assert net.errors() == [TimeoutError] * count
        net.server.advance(net.delay)


@pytest.mark.guarantee(number=10)
def test_refusal_after_timeout_is_reported_as_refusal() -> None:
    net = Served()
    net.server.black_hole_connections()
    net.connect().server.advance(CONNECT_TIMEOUT)
    net.server.refuse_connections()
    net.server.advance(net.delay)
    assert net.errors() == [TimeoutError, ConnectionRefusedError]


# Stopping.


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize(
    "state",
    [
        never_connected,
        connecting,
        unready,
        connected,
        ready_and_busy,
        backing_off,
        just_aborted,
        just_closed,
        being_stopped,
    ],
)
def test_stop_leaves_nothing(state: Callable[[], Net]) -> None:
    """In whatever state: its Deferred fires, no timer is left, and no attempt is made again."""
    net = state()
    attempts = net.endpoint.attempts
    stopped = outcome(net.factory.stop(ClientStopped()))
    net.clock.advance(0)
    assert stopped == [None]
    assert net.clock.getDelayedCalls() == []
    assert net.factory.next_attempt is None
    assert not net.factory.connecting
    assert net.connector.state == "disconnected"
    net.clock.advance(3600)
    assert net.endpoint.attempts == attempts


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("state", [never_connected, connecting, unready, connected, backing_off])
def test_second_stop_waits_for_first(state: Callable[[], Net]) -> None:
    net = state()
    reported = [outcome(net.factory.stop(ClientStopped())) for _ in range(2)]
    net.clock.advance(0)
    assert reported == [[None], [None]]
    assert outcome(net.factory.stop(ClientStopped())) == [None]


@pytest.mark.guarantee(number=11)
def test_stop_aborts_connection_of_peer_that_does_not_read() -> None:
    net = Served().connect()
    net.server.fall_silent()
    reported = net.echo(b"1")
    first, second = outcome(net.factory.stop(ClientStopped())), outcome(net.factory.stop(ClientStopped()))
    assert [type(error) for error in reported] == [ClientStopped]  # nobody waits for the socket
    net.server.advance(CLOSE_TIMEOUT - 0.1)
    assert first == second == []
    assert len(net.server.connections) == 1
    net.server.advance(0.1)
    assert net.server.connections == []
    assert first == second == [None]
    assert net.clock.getDelayedCalls() == []


class Stopper(Listener):
    """Stops the factory as soon as something happens to its connection."""

    stopped: list[Any] | None = None

    def __init__(self, net: Net) -> None:
        super().__init__()
        self._net = net

    def connection_ready(self, connection: GearmanProtocol) -> None:
        super().connection_ready(connection)
        self.stopped = outcome(self._net.factory.stop(ClientStopped()))

    def connection_down(self, factory: GearmanFactory[GearmanProtocol], error: Exception) -> None:
        super().connection_down(factory, error)
        if self.stopped is None:
            self.stopped = outcome(factory.stop(ClientStopped()))


def no_failure(net: Net) -> None:
    """The observer stops it when it is ready."""


def refused(net: Net) -> None:
    net.endpoint = OddEndpoint(net.clock, lambda: fail(ConnectionRefusedError()), connects=False)


def answered_badly(net: Net) -> None:
    net.endpoint = OddServer(net.clock, says(b"garbage" * 3))


def lost_at_once(net: Net) -> None:
    net.endpoint = OddServer(net.clock, ServerSide.lose)


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("prepare", [no_failure, refused, answered_badly, lost_at_once])
def test_listener_can_stop_factory(prepare: Callable[[Net], None]) -> None:
    net = Net()
    prepare(net)
    listener = Stopper(net)
    net.factory = Factory(net.clock, listener=listener)
    waiting = outcome(net.factory.when_ready())
    EndpointConnector(net.endpoint, net.factory).connect()
    net.clock.advance(0)
    assert listener.stopped == [None]
    assert len(waiting) == 1
    assert isinstance(waiting[0], Exception)
    assert net.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=11)
def test_callback_of_request_can_stop_factory() -> None:
    net = connected()
    stopped: list[Any] = []
    deferred = net.connection.request(ECHO_REQ, b"1", answer=ECHO_RES)
    deferred.addCallback(lambda _: net.factory.stop(ClientStopped()).addCallback(stopped.append))
    net.server.send_opening()
    net.clock.advance(0)
    assert stopped == [None]
    assert net.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=11)
def test_retry_after_stop_is_refused() -> None:
    """It is public, since `ReconnectingClientFactory` has it."""
    net = backing_off()
    net.factory.stop(ClientStopped())
    net.factory.retry()
    assert net.factory.next_attempt is None
    assert net.clock.getDelayedCalls() == []


def test_closed_connection_is_replaced() -> None:
    """`close()` is of the connection; only `stop()` is of the factory."""
    net = connected()
    first = net.connection
    close(first)
    net.clock.advance(0)
    net.clock.advance(net.delay)
    assert net.connection is not first
    assert net.listener.ready == [first, net.connection]


# Waiting for a connection.


def test_when_ready_fires_at_once_with_a_ready_connection() -> None:
    net = connected()
    assert outcome(net.factory.when_ready()) == [net.connection]


def test_when_ready_waits_for_first_good_answer() -> None:
    net = unready()
    waiting = [outcome(net.factory.when_ready()) for _ in range(2)]
    assert waiting == [[], []]
    net.server.send_opening()
    assert waiting == [[net.connection], [net.connection]]


def test_when_ready_waits_for_next_attempt_during_back_off() -> None:
    net = backing_off()
    waiting = outcome(net.factory.when_ready())
    assert waiting == []
    net.clock.advance(net.delay)
    assert waiting == [net.connection]


def test_when_ready_waits_for_next_attempt_while_connection_closes() -> None:
    net = just_aborted()
    waiting = outcome(net.factory.when_ready())
    net.clock.advance(0)
    assert waiting == []
    net.clock.advance(net.delay)
    assert waiting == [net.connection]


def test_when_ready_fails_with_error_of_attempt() -> None:
    net = Served()
    net.server.refuse_connections()
    waiting = outcome(net.factory.when_ready())
    net.connect()
    assert waiting == net.listener.errors
    assert len(waiting) == 1


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("state", [never_connected, connecting, unready, backing_off, just_aborted])
def test_when_ready_fails_with_error_of_stop(state: Callable[[], Net]) -> None:
    net = state()
    waiting = outcome(net.factory.when_ready())
    error = ClientStopped()
    net.factory.stop(error)
    net.clock.advance(0)
    assert waiting == [error]


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("state", [never_connected, connecting, connected, backing_off, just_aborted])
def test_when_ready_after_stop_fails(state: Callable[[], Net]) -> None:
    """There will be no next attempt to wait for."""
    net = state()
    net.factory.stop(ClientStopped())
    waiting = outcome(net.factory.when_ready())
    net.clock.advance(0)
    assert [type(error) for error in waiting] == [ClientStopped]


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("state", [connecting, unready])
def test_when_ready_fails_after_twisteds_own_stop(state: Callable[[], Net]) -> None:
    """Whoever knows `ReconnectingClientFactory` calls `stopTrying()`, and then closes the connection."""
    net = state()
    waiting = outcome(net.factory.when_ready())
    net.factory.stopTrying()
    if net.factory.connection is not None:
        net.connector.disconnect()
    net.clock.advance(0)
    assert len(waiting) == 1
    assert isinstance(waiting[0], Exception)


# Servers that were removed from the list.


def test_retired_connection_finishes_its_requests() -> None:
    net = connected()
    reported = net.echo(b"1")
    left = outcome(net.factory.retire_it(net.connection))
    connection = net.connection
    assert (connection.is_retiring, left) == (True, [])
    net.server.send_opening()
    assert reported == [[b"1"]]
    assert "removed from the list" in str(connection.error)
    net.clock.advance(0)
    assert (len(left), net.endpoint.attempts, net.clock.getDelayedCalls()) == (1, 1, [])


def test_idle_connection_is_closed_at_once_when_retired() -> None:
    net = connected()
    left = outcome(net.factory.retire_it(net.connection))
    net.clock.advance(0)
    assert (len(left), net.clock.getDelayedCalls()) == (1, [])


@pytest.mark.guarantee(number=7)
def test_retired_connection_is_not_replaced_after_its_loss() -> None:
    net = connected()
    net.echo(b"1")
    left = outcome(net.factory.retire_it(net.connection))
    net.server.lose()
    net.clock.advance(60)
    assert (len(left), net.endpoint.attempts) == (1, 1)


def test_retire_without_ready_connection_stops_at_once() -> None:
    net = unready()
    left = outcome(net.factory.retire_it(None))
    net.clock.advance(0)
    assert (len(left), net.clock.getDelayedCalls()) == (1, [])


@pytest.mark.guarantee(number=11)
def test_stop_closes_retired_connection_at_once() -> None:
    net = connected()
    reported = net.echo(b"1")
    left = outcome(net.factory.retire_it(net.connection))
    stopped = outcome(net.factory.stop(ClientStopped()))
    net.clock.advance(0)
    assert [type(error) for error in reported] == [ClientStopped]
    assert (len(left), len(stopped), net.clock.getDelayedCalls()) == (1, 1, [])


@pytest.mark.guarantee(number=11)
def test_retire_timeout_limits_close() -> None:
    net = Served().connect()
    net.server.fall_silent()
    left = outcome(net.factory.retire_it(net.connection, 20.0))
    net.server.advance(19.75)
    assert left == []
    net.server.advance(0.25)
    assert (left, net.server.connections, net.clock.getDelayedCalls()) == ([None], [], [])


@pytest.mark.guarantee(number=14)
def test_reconnect_delay_gets_number_of_attempt_and_says_its_seconds() -> None:
    net = Served(reconnect_delay=lambda attempt: 10.0 * attempt).connect()
    assert delays(net, 3) == [10.0, 20.0, 30.0]


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("answer", [-1.0, "soon", ZeroDivisionError("of the caller's own")])
def test_invalid_reconnect_delay_is_logged_and_replaced(answer: Any, logged_failures: Failures) -> None:
    def policy(attempt: int) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    net = Served(reconnect_delay=policy).connect()
    first, second = delays(net, 2)
    assert 0 <= first <= 2
    assert 0.5 <= second <= 1
    assert len(logged_failures.flush(ValueError, TypeError, ZeroDivisionError)) == 2
