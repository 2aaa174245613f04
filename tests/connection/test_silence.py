"""A server that is silent: requests that it leaves unanswered, and heartbeats (guarantees 10 and 17)."""

from __future__ import annotations

import pytest
from twisted.internet.error import TimeoutError

from txgearman.errors import ClientStopped
from txgearman.packets import ECHO_REQ, Packet

from ..wire import answer
from .harness import FENCE, closed_by, connected, let_pass, unready

# Servers that do not answer.


@pytest.mark.guarantee(number=10)
@pytest.mark.guarantee(number=17)
def test_server_that_does_not_answer_is_dropped() -> None:
    net = connected(server_timeout=8.0)
    let_pass(net, 60)
    reported = net.echo(b"1")
    let_pass(net, 7.75)
    assert (reported, net.connection.error) == ([], None)
    let_pass(net, 0.25)
    assert closed_by(net, TimeoutError)
    assert "no answer within 8.0 seconds" in str(reported[0])
    assert [type(error) for error in net.listener.errors] == [TimeoutError]


@pytest.mark.guarantee(number=10)
def test_default_server_timeout_is_half_a_minute() -> None:
    net = connected()
    net.clock.advance(60)
    reported = net.echo(b"1")
    let_pass(net, 29.75)
    assert reported == []
    let_pass(net, 0.25)
    assert len(reported) == 1


@pytest.mark.guarantee(number=17)
def test_slow_server_that_makes_progress_is_not_dropped() -> None:
    """One answer in each while, however much is owed."""
    net = connected(server_timeout=8.0)
    reported = [net.echo(b"%d" % number) for number in range(10)]
    for packet in net.server.received():
        let_pass(net, 7.5)
        net.server.send(answer(packet))
    assert reported == [[[b"%d" % number]] for number in range(10)]
    assert net.connection.error is None


@pytest.mark.guarantee(number=17)
def test_server_that_stops_answering_is_dropped_within_half_as_long_again() -> None:
    net = connected(server_timeout=8.0)
    net.echo(b"1")
    question, fence = net.server.received()
    let_pass(net, 3.75)
    net.server.send(answer(question), answer(fence))
    net.echo(b"2")
    let_pass(net, 7.75)
    assert net.connection.error is None
    let_pass(net, 0.5)
    assert closed_by(net, TimeoutError)


@pytest.mark.guarantee(number=17)
def test_parts_of_large_answer_count_as_progress() -> None:
    """What it owes is behind that."""
    net = connected(server_timeout=8.0)
    connection, large, reported = net.connection, net.echo(b"x" * 40), net.echo(b"1")
    question, fence, *others = net.server.received()
    packet = answer(question)
    for place in range(len(packet)):
        let_pass(net, 7.5)
        net.server.send(packet[place : place + 1])
    assert (large, connection.error) == ([[b"x" * 40]], None)
    net.server.send(answer(fence), answer(others[0])[:-1])
    let_pass(net, 7.75)
    assert (reported, connection.error) == ([], None)
    let_pass(net, 4.25)
    assert isinstance(connection.error, TimeoutError)  # it said no more


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize("late", [3.75, 4.25, 7.75])
def test_server_has_whole_timeout_for_each_answer(late: float) -> None:
    """However late the one before was."""
    net = connected(server_timeout=8.0)
    connection = net.connection
    net.echo(b"1")
    let_pass(net, late)
    net.server.send_opening()
    let_pass(net, 12)
    assert net.clock.getDelayedCalls() == []
    net.echo(b"2")
    let_pass(net, 7.75)
    assert connection.error is None
    let_pass(net, 0.25)
    assert isinstance(connection.error, TimeoutError)


@pytest.mark.guarantee(number=10)
@pytest.mark.guarantee(number=17)
def test_blocked_reactor_does_not_count_as_silence_of_server() -> None:
    """The timer comes before what has been there to be read for long."""
    net = connected(server_timeout=8.0)
    for number in range(5):
        reported = net.echo(b"%d" % number)
        packets = net.server.received()
        net.clock.advance(100)
        net.server.send(*map(answer, packets))
        assert reported == [[b"%d" % number]]
    assert net.connection.error is None


@pytest.mark.guarantee(number=10)
def test_idle_connection_has_no_timer() -> None:
    net = connected(server_timeout=8.0)
    net.echo(b"1")
    net.server.send_opening()
    let_pass(net, 12)
    assert net.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=10)
@pytest.mark.parametrize("end", ["stop", "lose"])
def test_probes_end_with_connection(end: str) -> None:
    net = connected(heartbeat=5.0)
    net.echo(b"1")
    if end == "stop":
        net.factory.stop(ClientStopped())
    else:
        net.factory.stopTrying()
        net.server.lose()
    net.clock.advance(0)
    assert net.clock.getDelayedCalls() == []


# The heartbeat.


@pytest.mark.guarantee(number=10)
@pytest.mark.parametrize("blocked", [4.5, 100.0])
@pytest.mark.parametrize(
    "options", [{"server_timeout": 8.0}, {"heartbeat": 8.0}], ids=lambda options: next(iter(options))
)
def test_answer_that_arrives_while_reactor_is_blocked_counts(options: dict[str, float], blocked: float) -> None:
    """Whichever probe is late: what has arrived is read before it looks."""
    net = connected(**options)
    reported = net.echo(b"1")
    let_pass(net, 7.75)
    packets = net.server.received()
    net.clock.callLater(blocked, lambda: net.server.send(*map(answer, packets)))
    net.clock.advance(blocked)
    assert (reported, net.connection.error) == ([[b"1"]], None)


@pytest.mark.guarantee(number=10)
@pytest.mark.parametrize("last_byte", [0.25, 2.0, 3.75, 4.0, 6.25])
def test_heartbeat_asks_after_one_period_of_silence_at_most(last_byte: float) -> None:
    net = connected(heartbeat=8.0)
    let_pass(net, last_byte)
    net.echo(b"1")
    net.server.send_opening()
    let_pass(net, 3.75)
    assert net.server.received() == []
    let_pass(net, 4.25)
    assert net.server.received() == ASKED


ASKED: list[Packet] = [(ECHO_REQ, [b""]), FENCE]


def test_no_echo_request_without_heartbeat() -> None:
    net = connected()
    let_pass(net, 3600)
    assert net.server.received() == []
    assert net.connection.error is None


@pytest.mark.guarantee(number=10)
def test_heartbeat_drops_silent_connection() -> None:
    net = connected(heartbeat=8.0)
    let_pass(net, 7.75)
    assert net.server.received() == []
    let_pass(net, 0.25)
    assert net.server.received() == ASKED
    let_pass(net, 7.75)
    assert net.connection.error is None
    let_pass(net, 0.25)
    assert closed_by(net, TimeoutError)
    assert "no data, and no answer to ECHO_REQ within 8.0 seconds" in str(net.listener.errors[0])


def test_heartbeat_repeats_after_each_silence() -> None:
    net = connected(heartbeat=8.0)
    asked = 0
    for _ in range(100 * 4):
        net.clock.advance(0.25)
        packets = net.server.received()
        if packets:
            asked += 1
            assert packets == ASKED
            net.server.send(*map(answer, packets))
    assert 7 <= asked <= 12
    assert net.connection.error is None


@pytest.mark.guarantee(number=17)
def test_answer_to_fence_alone_satisfies_heartbeat() -> None:
    """geard does so with an ECHO_REQ (H6)."""
    net = connected(heartbeat=8.0)
    for _ in range(100 * 4):
        net.clock.advance(0.25)
        if net.server.received() == ASKED:
            net.server.send(answer(FENCE))
    assert net.connection.error is None


def test_any_byte_resets_heartbeat() -> None:
    net = connected(heartbeat=8.0, server_timeout=1e6)
    connection, server = net.connection, net.server
    reported = net.echo(b"1")
    packet = b"".join(map(answer, server.received()))
    for place in range(len(packet)):
        let_pass(net, 3)
        server.send(packet[place : place + 1])
    assert (server.received(), connection.error, reported) == ([], None, [[b"1"]])


@pytest.mark.guarantee(number=10)
def test_blocked_reactor_does_not_count_as_silence_for_heartbeat() -> None:
    net = connected(heartbeat=8.0)
    for _ in range(5):
        net.clock.advance(100)
        net.echo(b"1")
        net.server.send_opening()
    assert net.connection.error is None


def test_heartbeat_is_suspended_while_writing_is_paused() -> None:
    """The question would wait behind it."""
    net = connected(heartbeat=8.0)
    net.connection.pauseProducing()
    let_pass(net, 100)
    assert (net.server.received(), net.connection.error) == ([], None)
    net.connection.resumeProducing()
    let_pass(net, 8)
    assert net.server.received() == ASKED


def test_connection_that_is_not_ready_has_no_heartbeat() -> None:
    """The time to connect is what limits that."""
    net = unready(heartbeat=1.0)
    net.server.received()
    let_pass(net, 5)
    assert net.server.received() == []
