"""The choice of a server: the less busy of two, the order of connects, and the names of endpoints."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from zope.interface import implementer

from txgearman.client.protocol import GearmanClientFactory, GearmanClientProtocol
from txgearman.connection.addresses import parse_address
from txgearman.connection.factory import ConnectionListener
from txgearman.connection.pool import MAX_WRITABLE_TRIES, JobServer, ServerPool
from txgearman.connection.ring import Ring
from txgearman.errors import ClientStopped
from txgearman.testing import MemoryJobServer

from ..wire import present


class Pool:
    """A pool of connections to job servers in memory."""

    def __init__(self, size: int, source: random.Random | None = None) -> None:
        self.clock = Clock()
        self.there = [MemoryJobServer(self.clock) for _ in range(size)]
        self.attempts: list[str] = []
        endpoints = [(f"s{index}", server.endpoint()) for index, server in enumerate(self.there)]
        self.servers = ServerPool(endpoints, self.clock, self.make_factory, lambda _: None, source=source)

    def make_factory(self, *, name: str, listener: ConnectionListener[GearmanClientProtocol]) -> GearmanClientFactory:
        self.attempts.append(name)
        return GearmanClientFactory(self.clock, name=name, listener=listener)

    def start(self) -> Pool:
        self.servers.start()
        self.there[0].advance()
        return self

    def connection(self, index: int) -> GearmanClientProtocol:
        return present(list(self.servers)[index].connection)

    def chosen(self, count: int, **arguments: Any) -> Counter[str]:
        """Choose a server for each of some tasks without a unique."""
        return Counter(present(self.servers.choose(b"", **arguments)).address for _ in range(count))

    def stop(self) -> None:
        self.servers.stop(ClientStopped())
        self.there[0].advance()
        assert self.clock.getDelayedCalls() == []


def test_background_tasks_are_spread_though_one_server_is_busier() -> None:
    """They count, though they are in flight for a moment only."""
    pool = Pool(2).start()
    pool.connection(0).in_flight = 1
    assert sorted(pool.chosen(1000, background=True).values()) == [500, 500]
    assert pool.chosen(1000) == {"s1": 1000}
    pool.connection(0).in_flight = 0
    pool.stop()


def test_background_tasks_do_not_all_go_to_server_that_is_new() -> None:
    pool = Pool(3)
    late = pool.there[2].fall_silent()
    pool.start()
    assert sorted(pool.chosen(100, background=True).values()) == [50, 50]
    late.end()
    assert sorted(pool.chosen(99, background=True).values()) == [33] * 3
    pool.stop()


@pytest.mark.parametrize("background", [False, True])
def test_busiest_server_has_little_more_than_the_mean(background: bool) -> None:
    """With any loads at the start: nobody gets a task while the busiest is not caught up with."""
    pool = Pool(10).start()
    for index in range(10):
        pool.connection(index).in_flight = 10 * index
    for _ in range(1000):
        server = present(pool.servers.choose(b"", background=background))
        present(server.connection).in_flight += not background
    loads = [present(server.connection).in_flight + server.background for server in pool.servers]
    assert sum(loads) == 1450
    assert max(loads) < 1.1 * 145
    for index in range(10):
        pool.connection(index).in_flight = 0
    pool.stop()


def test_writable_server_is_found_among_many_that_are_not() -> None:
    size = MAX_WRITABLE_TRIES + 1
    pool = Pool(size).start()
    for index in range(1, size):
        pool.connection(index).pauseProducing()
    assert pool.chosen(100) == {"s0": 100}
    # Another attempt does not go to the same server, even if it is the only writable one.
    assert "s0" not in pool.chosen(100, last="s0")
    pool.stop()


def test_choice_takes_no_longer_with_many_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for a task with a unique nor for one without: no more than some of them are looked at."""
    pool = Pool(50).start()
    for index in range(50):
        pool.connection(index).pauseProducing()
    pool.servers.choose(b"builds the ring")
    looks = 0

    def looking(server: JobServer[GearmanClientProtocol], name: str) -> Any:
        nonlocal looks
        looks += name == "connection"
        return object.__getattribute__(server, name)

    monkeypatch.setattr(JobServer, "__getattribute__", looking, raising=False)
    for number in range(100):
        pool.servers.choose(b"")
        pool.servers.choose(b"%d" % number)
    monkeypatch.undo()
    assert looks / 200 < 2 * MAX_WRITABLE_TRIES
    pool.stop()


def test_ring_is_built_once_for_a_list_of_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []

    def building(servers: Any) -> Any:
        built.append(len(servers))
        return Ring(servers)

    monkeypatch.setattr("txgearman.connection.pool.Ring", building)
    pool = Pool(3).start()
    assert built == []
    with pool.there[1].go_down():
        for number in range(10):
            pool.servers.choose(b"%d" % number)
            pool.servers.ranked(b"%d" % number)
    pool.servers.change(pool.servers.addresses[:2])
    for number in range(10):
        pool.servers.choose(b"%d" % number)
    assert built == [3, 2]
    pool.servers.change(pool.servers.addresses[:1])
    assert [server.address for server in pool.servers.ranked(b"1")] == ["s0"]
    assert present(pool.servers.choose(b"1")).address == "s0"
    assert built == [3, 2]
    pool.stop()


def test_no_server_is_chosen_for_unique_if_none_is_reachable() -> None:
    pool = Pool(2)
    for server in pool.there:
        server.refuse_connections()
    pool.start()
    assert [pool.servers.choose(unique) for unique in (b"", b"u")] == [None, None]
    assert not pool.servers.any_reachable()
    pool.stop()


def test_connections_are_begun_in_random_order_and_turns_at_random_place() -> None:
    pools = [Pool(4, random.Random(seed)).start() for seed in range(24)]  # for the choice
    firsts = Counter(pool.attempts[0] for pool in pools)
    turns = Counter(present(pool.servers.choose(b"")).address for pool in pools)
    for counts in (firsts, turns):
        assert len(counts) == 4
        assert max(counts.values()) <= 2 * 24 / 4
    for pool in pools:
        assert sorted(pool.attempts) == [f"s{index}" for index in range(4)]
        pool.stop()


@implementer(IStreamClientEndpoint)
class Unusable:
    """An endpoint that fails at once."""

    def connect(self, protocolFactory: object) -> Deferred[Any]:
        raise ConnectionRefusedError()


@pytest.mark.guarantee(number=13)
def test_failure_of_first_connection_may_stop_pool_that_starts() -> None:
    """The others are then not begun."""
    pool = Pool(1)
    failed: list[object] = []

    def stop(server: object) -> None:
        failed.append(server)
        pool.servers.stop(ClientStopped())

    endpoints = [(f"s{index}", Unusable()) for index in range(3)]
    pool.servers = ServerPool(endpoints, pool.clock, pool.make_factory, stop)
    pool.servers.start()
    assert (len(failed), len(pool.attempts)) == (1, 1)
    assert not any(server.started for server in pool.servers)
    pool.stop()


@pytest.mark.guarantee(number=13)
def test_failure_of_first_connection_may_hurry_servers_that_are_not_started() -> None:
    pool = Pool(1)
    started: list[list[bool]] = []

    def hurry(server: object) -> None:
        started.append([server.started for server in pool.servers])
        pool.servers.bring_forward()

    endpoints = [(f"s{index}", Unusable()) for index in range(2)]
    pool.servers = ServerPool(endpoints, pool.clock, pool.make_factory, hurry)
    pool.servers.start()
    assert sorted(started[0]) == [False, True]
    assert all(server.started for server in pool.servers)
    pool.stop()


def test_source_of_random_numbers_fixes_choice() -> None:
    def history() -> tuple[list[str], list[str]]:
        pool = Pool(5, random.Random(7)).start()  # for the choice
        pool.connection(1).in_flight = pool.connection(2).in_flight = 3
        chosen = [present(pool.servers.choose(b"")).address for _ in range(20)]
        pool.connection(1).in_flight = pool.connection(2).in_flight = 0
        pool.stop()
        return pool.attempts, chosen

    assert history() == history()


def test_processes_that_were_forked_before_start_draw_other_numbers() -> None:
    sources = [random.Random(7), random.Random(7)]  # for the choice
    for source in sources:
        pool = Pool(1)
        pool.servers = ServerPool([Unusable()], reactor, pool.make_factory, lambda _: None, source=source)
        pool.servers.start()
        pool.servers.stop(ClientStopped())
    assert sources[0].random() != sources[1].random()


# The end of an outage.


def test_expected_servers_are_tried_at_once_and_waited_for_until_they_are_no_longer_expected() -> None:
    pool = Pool(3)
    downs = [server.go_down() for server in pool.there]
    pool.start()
    pool.there[0].advance(30)
    downs[0].end()
    silence = pool.there[1].fall_silent()
    downs[1].end()
    assert not pool.servers.any_reachable()
    pool.servers.expect_all()
    assert (pool.servers.connecting, len(pool.servers.ready)) == (3, 0)
    pool.servers.expect_all()  # their attempts are in progress
    pool.there[0].advance()
    assert [server.reachable for server in pool.servers] == [True, True, False]
    assert (pool.servers.connecting, len(pool.servers.ready)) == (1, 1)
    for _ in range(2):
        pool.servers.expect_no_longer()
        assert [server.reachable for server in pool.servers] == [True, False, False]
    pool.servers.expect_all()  # an attempt to reach the second one is still in progress
    assert pool.servers.connecting == 2
    pool.servers.expect_no_longer()
    assert pool.servers.connecting == 0
    silence.end()
    assert [server.reachable for server in pool.servers] == [True, True, False]
    downs[2].end()
    pool.stop()


def test_stopped_servers_are_not_expected() -> None:
    pool = Pool(1)
    with pool.there[0].go_down():
        pool.start()
        pool.stop()
        pool.servers.expect_all()
    assert pool.clock.getDelayedCalls() == []


# The names of endpoints.


def test_clients_with_named_endpoints_agree_whatever_their_order() -> None:
    pool = Pool(5)
    there, back = (
        ServerPool(some, pool.clock, pool.make_factory, lambda _: None)
        for some in (pool.servers.addresses, pool.servers.addresses[::-1])
    )
    for number in range(100):
        unique = b"%d" % number
        assert [each.address for each in there.ranked(unique)] == [each.address for each in back.ranked(unique)]
    assert {there.ranked(b"%d" % number)[0].address for number in range(100)} == {f"s{index}" for index in range(5)}


def test_named_server_keeps_its_connection_if_list_has_another_endpoint_for_it() -> None:
    pool = Pool(2).start()
    first, second = pool.servers
    pool.servers.change([("s1", pool.there[1].endpoint()), ("s0", pool.there[0].endpoint())])
    assert list(pool.servers) == [second, first]
    assert sorted(pool.attempts) == ["s0", "s1"]
    pool.stop()


def test_name_of_endpoint_may_be_its_own() -> None:
    clock = Clock()
    endpoint = MemoryJobServer(clock).endpoint()
    endpoint.server_name = "alice"
    assert parse_address(endpoint, clock) == ("alice", endpoint)
    assert parse_address(("bob", endpoint), clock) == ("bob", endpoint)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("name", "kind", "complaint"),
    [
        (5, TypeError, "job_servers: the name of an endpoint must be str, not int"),
        ("", ValueError, "job_servers: the name of an endpoint must be printable ASCII without spaces, not ''"),
        ("a b", ValueError, "must be printable ASCII without spaces, not 'a b'"),
        ("a\n", ValueError, r"must be printable ASCII without spaces, not 'a\\n'"),
    ],
)
def test_invalid_name_of_endpoint_is_refused(name: Any, kind: type[Exception], complaint: str) -> None:
    clock = Clock()
    with pytest.raises(kind, match=complaint):
        parse_address((name, MemoryJobServer(clock).endpoint()), clock)


@pytest.mark.guarantee(number=8)
def test_two_endpoints_of_one_name_are_refused() -> None:
    pool = Pool(1)
    endpoint = pool.there[0].endpoint()
    with pytest.raises(ValueError, match="each address must be different, not 'a' twice"):
        ServerPool([("a", endpoint), ("a", endpoint)], pool.clock, pool.make_factory, lambda _: None)
    for wrong in (("a", endpoint, 1), ("a", "host"), [("a", endpoint)]):
        with pytest.raises(TypeError, match="must be str or an IStreamClientEndpoint, or a pair"):
            parse_address(wrong, pool.clock)  # type: ignore[arg-type]  # on purpose
