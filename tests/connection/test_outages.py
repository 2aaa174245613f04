"""Outages: when the next attempt comes, what brings it forward, and what the errors meanwhile say."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from txgearman.connection.pool import ServerPool
from txgearman.connection.protocol import GearmanProtocol
from txgearman.errors import ClientStopped, NoServersAvailable
from txgearman.packets import ECHO_REQ, ECHO_RES
from txgearman.testing import MemoryJobServer

from .harness import Factory, Served, connected


class LongOutage(Served):
    """A connection whose server refuses connections, and that was tried so often that its delays are the longest."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(source=random.Random(seed))
        self.refusal = self.server.refuse_connections()
        self.connect()
        for _ in range(7):
            self.server.advance(self.delay)
        assert self.delay >= 15


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize("seed", range(20))
def test_attempt_brought_forward_starts_within_a_second(seed: int) -> None:
    net = LongOutage(seed)
    net.server.advance(1)
    failures = len(net.listener.errors)
    net.factory.bring_forward()
    assert net.delay <= 1
    net.server.advance(1)
    assert len(net.listener.errors) == failures + 1


@pytest.mark.guarantee(number=14)
def test_attempts_start_at_least_a_second_apart_however_often_they_are_brought_forward() -> None:
    net = LongOutage()
    starts: list[float] = []
    while len(starts) < 30:
        failures = len(net.listener.errors)
        net.factory.bring_forward()
        net.server.advance(1 / 64)
        if len(net.listener.errors) > failures:
            starts.append(net.clock.seconds())
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert min(gaps) >= 1 - 1 / 64
    assert max(gaps) <= 2 + 1 / 64
    assert max(gaps) - min(gaps) > 0.5


@pytest.mark.guarantee(number=14)
def test_attempts_of_many_connections_that_are_brought_forward_are_spread_over_a_second() -> None:
    fifths = [0] * 5
    for seed in range(100):
        net = connected(source=random.Random(seed))
        net.clock.advance(60)
        net.factory.bring_forward()
        net.server.lose()
        fifths[int(net.delay * 5)] += 1
    assert min(fifths) >= 5
    assert max(fifths) <= 40


def test_attempt_that_comes_sooner_anyway_is_not_put_off() -> None:
    net = LongOutage()
    net.server.advance(net.delay - 1e-3)
    before = net.delay
    net.factory.bring_forward()
    assert net.delay == before


def test_attempt_after_current_one_is_brought_forward() -> None:
    net = LongOutage()
    net.refusal.end()
    net.server.black_hole_connections()
    net.server.advance(net.delay)
    net.factory.bring_forward()
    net.server.advance(10)
    assert net.delay <= 1


def delay_after_loss(wish: bool) -> float:
    net = Served(source=random.Random(0))  # whose first number is high
    silence = net.server.fall_silent()
    net.connect()
    if wish:
        net.factory.bring_forward()
    silence.end()
    assert net.connection.ready
    net.server.advance(60)
    net.server.drop_connections()
    return net.delay


def test_wish_for_attempt_ends_with_good_answer() -> None:
    assert delay_after_loss(wish=True) == delay_after_loss(wish=False) > 1


def test_attempt_is_not_put_off_by_clock_that_is_stepped_back() -> None:
    net = LongOutage()
    net.clock.rightNow -= 600
    net.factory.bring_forward()
    assert net.delay <= 2


@pytest.mark.guarantee(number=11)
def test_nothing_is_scheduled_for_stopped_factory() -> None:
    net = LongOutage()
    net.factory.stop(ClientStopped())
    net.factory.bring_forward()
    assert net.clock.getDelayedCalls() == []


# The pool.


class Outage:
    """Two servers that refuse connections, and a pool whose delays are the longest."""

    def __init__(self) -> None:
        self.first = MemoryJobServer()
        self.job_servers = [self.first, MemoryJobServer(self.first.clock)]
        self.refusals = [server.refuse_connections() for server in self.job_servers]
        self.servers: ServerPool[GearmanProtocol] = ServerPool(
            [server.endpoint() for server in self.job_servers],
            self.first.clock,
            lambda *, name, listener: Factory(self.first.clock, listener=listener),
            lambda _: None,
        )
        self.servers.start()
        self.first.advance(300)

    def next_attempts(self) -> list[float]:
        return [server.info().next_attempt or 0.0 for server in self.servers]

    def stop(self) -> None:
        self.servers.stop(ClientStopped())
        assert self.first.clock.getDelayedCalls() == []


def error_of(deferred: Deferred[Any]) -> NoServersAvailable:
    errors: list[object] = []
    deferred.addErrback(lambda failure: errors.append(failure.value))
    (error,) = errors
    assert isinstance(error, NoServersAvailable)
    return error


@pytest.mark.guarantee(number=14)
def test_pool_brings_attempts_at_all_servers_forward() -> None:
    outage = Outage()
    while min(outage.next_attempts()) < 3:
        outage.first.advance(1)
    outage.servers.bring_forward()
    sooner = outage.next_attempts()
    assert max(sooner) <= 2
    outage.servers.bring_forward()
    assert outage.next_attempts() == sooner
    outage.first.advance(max(sooner))
    outage.servers.bring_forward()
    assert max(outage.next_attempts()) <= 2
    outage.stop()


@pytest.mark.guarantee(number=14)
def test_request_to_unreachable_server_brings_its_attempt_forward() -> None:
    outage = Outage()
    while min(outage.next_attempts()) < 3:
        outage.first.advance(1)
    first, second = outage.servers
    error_of(first.ask(ECHO_REQ, b"", answer=ECHO_RES))
    there, elsewhere = outage.next_attempts()
    assert there <= 2
    assert elsewhere >= 3
    assert second.unreachable
    outage.stop()


def test_error_says_how_old_each_reason_is_and_when_next_attempt_comes() -> None:
    outage = Outage()
    while min(outage.next_attempts()) < 3:
        outage.first.advance(1)
    before = [server.unavailable().ages for server in outage.servers]
    outage.first.advance(1.5)
    error = outage.servers.none_available()
    assert list(error.ages) == list(error.next_attempts) == list(error.reasons) == ["memory:1", "memory:2"]
    for address, age in {**before[0], **before[1]}.items():
        assert error.ages[address] == pytest.approx(age + 1.5)
    assert list(error.next_attempts.values()) == outage.next_attempts()
    texts = str(error).split("; ")
    for text, (address, age) in zip(texts, error.ages.items(), strict=True):
        assert text.startswith(f"{address}: Connection was refused by other side")
        assert text.endswith(f" ({age:.1f} s ago, next attempt in {error.next_attempts[address]:.1f} s)")
    outage.stop()


def test_error_has_no_next_attempt_while_one_is_in_progress() -> None:
    outage = Outage()
    outage.refusals[0].end()
    outage.first.black_hole_connections()
    outage.first.advance(outage.next_attempts()[0])
    error = outage.servers.none_available()
    assert (list(error.ages), list(error.next_attempts)) == (["memory:1", "memory:2"], ["memory:2"])
    assert str(error).split("; ")[0].endswith("s ago)")
    outage.stop()


def test_error_of_attempt_that_just_failed_is_of_now() -> None:
    server = MemoryJobServer()
    server.refuse_connections()
    servers: ServerPool[GearmanProtocol] = ServerPool(
        [server.endpoint()],
        server.clock,
        lambda *, name, listener: Factory(server.clock, listener=listener),
        lambda _: None,
    )
    servers.start()
    asked = servers.by_address("memory:1").ask(ECHO_REQ, b"", answer=ECHO_RES)
    server.advance()
    error = error_of(asked)
    assert error.ages == {"memory:1": 0.0}
    assert 0 <= error.next_attempts["memory:1"] <= 2
    servers.stop(ClientStopped())
