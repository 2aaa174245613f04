"""The pool: liveness, the choice of a server, and changes of the list, with job servers in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher
from zope.interface import implementer

from txgearman.client.protocol import GearmanClientFactory, GearmanClientProtocol
from txgearman.client.task import Task
from txgearman.connection.factory import ConnectionListener, GearmanFactory
from txgearman.connection.pool import JobServer, ServerInfo, ServerPool, ServerState
from txgearman.connection.protocol import CLOSE_TIMEOUT, GearmanProtocol
from txgearman.connection.tls import TLSOptions
from txgearman.errors import ClientStopped, NoServersAvailable, ProtocolError, ServerError
from txgearman.packets import ERROR, GET_STATUS, NOOP, OPTION_REQ, STATUS_RES
from txgearman.testing import MemoryJobServer

from ..wire import outcome as outcome_of
from ..wire import present

reactor: Any = global_reactor

# Several servers.


class Pool:
    """Job servers in memory, a pool of connections to them, and the number of changes that it reported."""

    def __init__(self, size: int = 3) -> None:
        self.clock = Clock()
        self.there = [MemoryJobServer(self.clock) for _ in range(size)]
        self.changes = 0
        self.react: list[Callable[[], object]] = []  # what is done at the next changes, the last first
        endpoints = [server.endpoint() for server in self.there]
        self.servers = ServerPool(endpoints, self.clock, self.make_factory, self.changed)

    def make_factory(self, *, name: str, listener: ConnectionListener[GearmanClientProtocol]) -> GearmanClientFactory:
        return GearmanClientFactory(self.clock, name=name, listener=listener)

    def changed(self, server: JobServer[GearmanClientProtocol] | None) -> None:
        self.changes += 1
        if self.react:
            self.react.pop()()

    def start(self) -> Pool:
        self.servers.start()
        self.advance()
        return self

    def advance(self, seconds: float = 0.0) -> None:
        self.there[0].advance(seconds)

    def infos(self) -> list[ServerInfo]:
        return [server.info() for server in self.servers]

    def states(self) -> list[ServerState]:
        return [info.state for info in self.infos()]

    def chosen(self, unique: bytes = b"") -> str | None:
        """The address of the server that is chosen; None for waiting."""
        server = self.servers.choose(unique)
        if not self.servers.any_reachable():
            raise self.servers.none_available()
        return None if server is None or server.connection is None else server.address

    def stop(self) -> None:
        """Nothing may be left, and every fault must have happened."""
        self.servers.stop(ClientStopped())
        self.advance()
        assert self.clock.getDelayedCalls() == []
        for server in self.there:
            assert server.connections == []
            server.verify()


ALL = ["memory:1", "memory:2", "memory:3"]


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("job_servers", "kind", "complaint"),
    [
        ([], ValueError, "job_servers must have at least one address"),
        ("host", TypeError, "job_servers must be a list of addresses"),
        (b"host", TypeError, "job_servers must be a list of addresses"),
        (["host", "tcp:HOST:4730"], ValueError, "job_servers: each address must be different, not 'host:4730' twice"),
    ],
)
def test_invalid_job_servers_are_refused(job_servers: Any, kind: type[Exception], complaint: str) -> None:
    pool = Pool()
    with pytest.raises(kind, match=complaint):
        ServerPool(job_servers, reactor, pool.make_factory, pool.changed)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    "job_servers", [["jobs"], ["tls:jobs:4730:timeout=3"], [TCP4ClientEndpoint(reactor, "jobs", 1)]]
)
def test_tls_options_without_effect_are_refused(job_servers: Any) -> None:
    """Who forgets the ``tls:`` does not mean plain text."""
    pool = Pool()
    with pytest.raises(ValueError, match="tls must be None if job_servers has no address such as 'tls:host:port'"):
        ServerPool(job_servers, reactor, pool.make_factory, pool.changed, tls=TLSOptions())
    assert len(ServerPool([*job_servers, "tls:j"], reactor, pool.make_factory, pool.changed, tls=TLSOptions())) == 2


def warnings_of(addresses: list[Any], later: list[Any] | None = None) -> list[str]:
    """Return what a pool logs when its servers are set, or when they are changed later."""
    pool = Pool()
    texts: list[str] = []

    @implementer(ILogObserver)
    def observe(event: Any) -> None:
        texts.append(f"{event['log_level'].name}: {formatEvent(event)}")

    globalLogPublisher.addObserver(observe)
    try:
        servers = ServerPool(addresses, reactor, pool.make_factory, pool.changed, tls=None)
        if later is not None:
            texts.clear()
            servers.change(later)
    finally:
        globalLogPublisher.removeObserver(observe)
    return [text for text in texts if "TLS" in text]


MIXED = ["tls:a", "b", "tcp:c:1", "[::1]", "tcp:d:1:timeout=3", "tls:e:1:timeout=3", "unix:/run/f", "tls:4730"]


def test_addresses_without_tls_beside_others_with_it_are_logged_by_name() -> None:
    endpoint = TCP4ClientEndpoint(reactor, "jobs", 1)
    (text,) = warnings_of([*MIXED, endpoint])
    assert text.startswith("warn: job_servers has addresses without TLS beside others with TLS: ")
    assert ": b, tcp:c:1, [::1], tcp:d:1:timeout=3, tls:4730; write 'tls:'" in text


@pytest.mark.parametrize(
    "addresses",
    [["a", "b"], ["tls:a", "tls:b"], ["tls:a", "unix:/run/b"], ["tls:a", TCP4ClientEndpoint(reactor, "b", 1)]],
)
def test_addresses_all_plain_or_none_are_not_logged(addresses: list[Any]) -> None:
    assert warnings_of(addresses) == []


def test_change_of_servers_logs_new_plain_address_once() -> None:
    assert warnings_of(["tls:a", "b"], ["tls:a", "b"]) == []
    (text,) = warnings_of(["tls:a", "b"], ["tls:a", "b", "c"])
    assert "with TLS: c; " in text
    (text,) = warnings_of(["tls:a"], ["b", "tls:a"])
    assert "with TLS: b; " in text


@pytest.mark.guarantee(number=8)
def test_servers_without_tls_do_not_replace_those_with_tls() -> None:
    pool = Pool()
    servers = ServerPool(["tls:jobs"], reactor, pool.make_factory, pool.changed, tls=TLSOptions())
    with pytest.raises(ValueError, match="tls must be None"):
        servers.change(["jobs"])
    assert [server.address for server in servers] == ["tls:jobs:4730"]
    servers.change(["tls:other"])
    assert [server.address for server in servers] == ["tls:other:4730"]


@pytest.mark.guarantee(number=8)
def test_tls_options_of_a_wrong_type() -> None:
    pool = Pool()
    options: Any = {"trust_roots": None}
    with pytest.raises(TypeError, match="tls must be TLSOptions, not dict"):
        ServerPool(["tls:jobs"], reactor, pool.make_factory, pool.changed, tls=options)


@pytest.mark.guarantee(number=10)
def test_tcp_endpoints_have_no_timeout_before_that_of_factory() -> None:
    """It would end an attempt, after code that blocked the reactor, before what has arrived was read."""
    memory_reactor = MemoryReactorClock()

    def make_factory(*, name: str, listener: ConnectionListener[GearmanClientProtocol]) -> GearmanClientFactory:
        return GearmanClientFactory(memory_reactor, name=name, listener=listener)

    servers = ServerPool(["10.0.0.1"], memory_reactor, make_factory, lambda _: None)
    servers.start()
    servers.change(["10.0.0.1", "[::1]:4731"])
    clients: list[Any] = memory_reactor.tcpClients
    assert [client[:2] for client in clients] == [("10.0.0.1", 4730), ("::1", 4731)]
    assert [timeout for _, _, _, timeout, _ in clients] == [None, None]


def test_only_server_is_set_if_there_is_one_server() -> None:
    pool = Pool(2)
    first, second = pool.servers.addresses
    assert pool.servers.only_server is None
    for addresses in ([first], [second]):
        pool.servers.change(addresses)
        assert [pool.servers.only_server] == list(pool.servers)
    pool.servers.change([first, second])
    assert pool.servers.only_server is None


def test_server_is_found_by_its_address() -> None:
    pool = Pool()
    assert pool.servers.by_address("memory:2").address == "memory:2"
    assert len(pool.servers) == 3
    with pytest.raises(ValueError, match=r"server must be one of memory:1, memory:2, memory:3, not 'host:1'"):
        pool.servers.by_address("host:1")


def test_clone_of_server_has_its_own_connection() -> None:
    """It has the same name, and is never chosen."""
    pool = Pool().start()
    changes = pool.changes
    clone_for = pool.servers.by_address("memory:2").clone_for(pool.make_factory)
    clone_for.start()
    pool.advance()
    assert (clone_for.info().state, clone_for.address) == (ServerState.READY, "memory:2")
    assert len(pool.there[1].connections) == 2
    answered = outcome_of(clone_for.use(lambda connection: connection.request(GET_STATUS, b"H:x:1", answer=STATUS_RES)))
    pool.advance()
    assert answered[0][0] == b"H:x:1"
    factory = clone_for.release_factory()
    assert factory is not None
    factory.stop(ClientStopped())
    pool.advance()
    assert len(pool.there[1].connections) == 1
    assert pool.changes == changes
    pool.stop()


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("closed", [False, True])
def test_stop_waits_for_connections_beside_those_of_servers(closed: bool) -> None:
    """They are closed before, or passed to the stop."""
    pool = Pool().start()
    changed: list[bool] = []
    other = list(pool.servers)[1].clone_for(pool.make_factory, lambda *_: changed.append(True))
    other.start()
    pool.advance()
    factory = other.release_factory()
    assert (changed, factory is not None) == ([True], True)
    if closed:
        pool.servers.close(present(factory), ConnectionDone())
    stopped = outcome_of(pool.servers.stop(ClientStopped(), others=[] if closed else [present(factory)]))
    assert stopped == []
    pool.advance()
    assert (stopped, pool.there[1].connections, changed) == ([None], [], [True])


def test_candidates_are_all_servers() -> None:
    """By rank for a unique, else beginning at a random one."""
    pool = Pool().start()
    assert pool.servers.candidates(b"u") == pool.servers.ranked(b"u")
    orders = {tuple(server.address for server in pool.servers.candidates(b"")) for _ in range(100)}
    assert len(orders) == 3
    assert {frozenset(order) for order in orders} == {frozenset(ALL)}
    pool.stop()


def test_streams_count_for_choice_of_less_busy_server() -> None:
    pool = Pool(2).start()
    first, second = pool.servers
    for server in pool.servers:
        server.streams = int(server is first)
    for background in (False, True):
        assert pool.servers.choose(b"", background=background) is second
    pool.stop()


def test_states_from_start_to_stop() -> None:
    pool = Pool()
    assert pool.states() == [ServerState.STOPPED] * 3
    pool.there[1].refuse_connections()
    pool.there[2].leave_unanswered(OPTION_REQ, GET_STATUS, times=None)
    pool.start()
    assert pool.states() == [ServerState.READY, ServerState.WAITING, ServerState.CONNECTING]
    refused = pool.infos()[1]
    assert isinstance(refused.last_error, ConnectionRefusedError)
    assert refused.next_attempt is not None
    assert 0.0 < refused.next_attempt < 2.0
    assert pool.changes == 2
    pool.stop()
    assert pool.states() == [ServerState.STOPPED] * 3
    assert pool.changes == 2


@pytest.mark.guarantee(number=14)
def test_server_that_sends_garbage_is_down_until_a_good_answer() -> None:
    pool = Pool(1).start()
    pool.there[0].send_raw(NOOP.response())
    (info,) = pool.infos()
    assert (info.state, type(info.last_error)) == (ServerState.WAITING, ProtocolError)
    assert (info.next_attempt or 0) > 0
    with pytest.raises(NoServersAvailable, match="memory:1: received NOOP when nothing was due"):
        pool.chosen()
    pool.advance(2)
    assert pool.chosen() == pool.chosen(b"u") == "memory:1"
    assert pool.infos()[0].last_error is None
    pool.stop()


def test_server_can_be_restarted_while_old_connection_closes() -> None:
    """Events of the old connection are not attributed to the new one."""
    pool = Pool(1).start()
    pool.there[0].fall_silent()
    pool.servers.stop(ClientStopped())
    pool.there[0].refuse_connections()
    pool.start()
    changes = pool.changes
    pool.there[0].drop_connections()
    assert (pool.states(), pool.changes) == ([ServerState.WAITING], changes)
    pool.stop()


def test_connection_of_stopped_start_is_ignored() -> None:
    pool = Pool(1)
    silence = pool.there[0].fall_silent()
    pool.start()
    server = next(iter(pool.servers))
    factory = server.release_factory()
    assert factory is not None
    old = factory.connection
    assert old is not None
    factory.stop(ClientStopped())
    server.start()
    pool.advance()
    server.connection_ready(old)
    assert pool.states() == [ServerState.CONNECTING]
    silence.end()
    assert pool.states() == [ServerState.READY]
    pool.stop()


# The choice.


def test_load_of_server_is_what_its_connection_has_in_flight() -> None:
    """A client's connection also counts the tasks that wait for it."""
    clock = Clock()

    def make_factory(*, name: str, listener: ConnectionListener[GearmanProtocol]) -> GearmanFactory[GearmanProtocol]:
        return GearmanFactory(clock, listener=listener)

    job_server = MemoryJobServer(clock)
    pool = ServerPool([job_server.endpoint()], clock, make_factory, lambda _: None)
    pool.start()
    job_server.advance()
    (server,) = pool
    present(server.connection).in_flight = 3
    assert server.load("", False) == (False, False, 3)
    pool.stop(ClientStopped())
    job_server.advance()
    assert clock.getDelayedCalls() == []


def test_least_busy_server_is_chosen_without_unique() -> None:
    pool = Pool().start()
    for _ in range(30):
        task = Task("work")
        present(present(pool.servers.choose(b"")).connection).submit(task).addErrback(lambda _: None)
    assert [server.info().in_flight for server in pool.servers] == [10, 10, 10]
    present(list(pool.servers)[1].connection).close(ClientStopped())
    assert {pool.chosen() for _ in range(10)} == {"memory:1", "memory:3"}
    pool.stop()


def test_equal_servers_take_turns() -> None:
    pool = Pool().start()
    assert Counter(pool.chosen() for _ in range(9)) == dict.fromkeys(ALL, 3)
    pool.stop()


def test_ready_server_is_preferred_to_connecting_one() -> None:
    pool = Pool()
    pool.there[0].black_hole_connections()
    pool.there[1].refuse_connections()
    pool.start()
    assert {pool.chosen() for _ in range(5)} == {"memory:3"}
    pool.stop()


def test_choice_waits_while_a_server_is_connecting() -> None:
    pool = Pool()
    pool.there[0].fall_silent()
    for server in pool.there[1:]:
        server.refuse_connections()
    pool.start()
    assert pool.chosen() is None
    pool.there[0].drop_connections()
    with pytest.raises(NoServersAvailable) as caught:
        pool.chosen()
    assert list(caught.value.reasons) == ALL
    assert [type(reason) for reason in caught.value.reasons.values()] == [ConnectionLost, *[ConnectionRefusedError] * 2]
    pool.stop()


def test_first_in_rank_is_chosen_and_waited_for_with_unique() -> None:
    pool = Pool()
    names = ranked(pool.servers, b"u")
    first, second = (pool.there[ALL.index(name)] for name in names[:2])
    silence = first.fall_silent()
    pool.start()
    assert pool.chosen(b"u") is None
    first.drop_connections()
    assert pool.chosen(b"u") == names[1]
    second.drop_connections()
    assert pool.chosen(b"u") == names[2]
    silence.end()
    pool.advance(2)
    assert pool.chosen(b"u") == names[0]
    pool.stop()


@given(st.lists(st.binary(min_size=1, max_size=63), min_size=1, max_size=50, unique=True))
def test_rank_does_not_depend_on_order_of_list(uniques: list[bytes]) -> None:
    names = ["10.0.0.1", "10.0.0.2", "10.0.0.3:4731", "jobs.example.com"]

    there, back = (ServerPool(order, reactor, _unused, _unused) for order in (names, names[::-1]))
    for unique in uniques:
        assert ranked(there, unique) == ranked(back, unique)


def test_uniques_spread_evenly_and_move_little_when_server_is_removed() -> None:
    """Each of five servers gets its fifth, and only the uniques of the one that leaves move."""
    names = [f"10.0.0.{number}" for number in range(5)]

    five, four = (ServerPool(some, reactor, _unused, _unused) for some in (names, names[:-1]))
    uniques = [b"%d" % number for number in range(5000)]
    counts = Counter(ranked(five, unique)[0] for unique in uniques)
    assert all(850 < count < 1150 for count in counts.values())
    assert len(counts) == 5
    for unique in uniques:
        assert [name for name in ranked(five, unique) if name != "10.0.0.4:4730"] == ranked(four, unique)


def ranked(servers: ServerPool[GearmanClientProtocol], unique: bytes) -> list[str]:
    return [server.address for server in servers.ranked(unique)]


def _unused(*_: object, **__: object) -> Any:
    raise AssertionError("nothing is started")


# Questions to one server.


def ask(pool: Pool) -> Deferred[list[bytes]]:
    server = next(iter(pool.servers))
    return server.ask(GET_STATUS, b"H:1", answer=STATUS_RES, subject=b"H:1")


def outcome(deferred: Deferred[Any]) -> Any:
    results: list[Any] = []
    deferred.addBoth(results.append)
    (result,) = results or ["nothing yet"]
    return getattr(result, "value", result)


def test_request_waits_for_current_attempt() -> None:
    pool = Pool(1)
    silence = pool.there[0].fall_silent()
    asked = ask(pool.start())
    silence.end()
    assert outcome(asked) == [b"H:1", b"0", b"0", b"0", b"0"]
    pool.stop()


def test_request_to_unreachable_server_fails_with_reason() -> None:
    pool = Pool(1)
    pool.there[0].refuse_connections()
    error = outcome(ask(pool.start()))
    assert type(error) is NoServersAvailable
    assert [type(reason) for reason in error.reasons.values()] == [ConnectionRefusedError]
    pool.stop()


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("ready", [True, False], ids=["ready", "connecting"])
def test_request_fails_when_connection_is_lost(ready: bool) -> None:
    pool = Pool(1)
    silence = pool.there[0].fall_silent()
    pool.start()
    if ready:
        silence.end()
        pool.there[0].fall_silent()
    asked = ask(pool)
    pool.there[0].drop_connections()
    error = outcome(asked)
    assert (type(error), list(error.reasons)) == (NoServersAvailable, ["memory:1"])
    pool.stop()


@pytest.mark.guarantee(number=1)
def test_request_fails_when_pool_is_stopped() -> None:
    pool = Pool(1)
    pool.there[0].leave_unanswered(OPTION_REQ, GET_STATUS, times=None)
    asked = ask(pool.start())
    pool.stop()
    assert type(outcome(asked)) is ClientStopped


@pytest.mark.guarantee(number=1)
def test_request_to_stopped_server_fails() -> None:
    assert type(outcome(ask(Pool(1)))) is ClientStopped


def test_cancelled_request_is_not_sent() -> None:
    """It is then not sent."""
    pool = Pool(1)
    silence = pool.there[0].fall_silent()
    asked = ask(pool.start())
    asked.cancel()
    assert type(outcome(asked)) is CancelledError
    silence.end()
    assert pool.there[0].connections[0].requests == [OPTION_REQ, GET_STATUS]
    pool.stop()


def test_refused_request_fails_with_error_of_server() -> None:
    pool = Pool(1).start()
    pool.there[0].leave_unanswered(GET_STATUS, times=2)
    asked = ask(pool)
    pool.there[0].send_raw(ERROR.response(b"NO", b"never\0"))
    error = outcome(asked)
    assert (type(error), error.code, error.text) == (ServerError, "NO", "never")
    pool.stop()


@implementer(IStreamClientEndpoint)
class Unusable:
    """An endpoint that raises, as some do for a bad argument."""

    def connect(self, protocolFactory: object) -> Deferred[Any]:
        raise RuntimeError("no such luck")


def test_server_with_endpoint_that_raises_is_down() -> None:
    pool = Pool(1)
    pool.servers = ServerPool([Unusable()], pool.clock, pool.make_factory, pool.changed)
    pool.start()
    with pytest.raises(NoServersAvailable, match="endpoint:0: no such luck"):
        pool.chosen()
    pool.stop()


# Another attempt goes elsewhere.


@pytest.mark.guarantee(number=7)
def test_each_attempt_with_unique_goes_to_next_in_rank() -> None:
    pool = Pool().start()
    for unique in (b"a", b"b", b"c"):
        ranked = [server.address for server in pool.servers.ranked(unique)]
        chosen = [present(pool.servers.choose(unique, attempt, "")).address for attempt in range(6)]
        assert chosen == ranked * 2
    pool.stop()


@pytest.mark.guarantee(number=7)
def test_next_attempt_without_unique_goes_to_another_server() -> None:
    pool = Pool().start()
    for last in ALL:
        others = {present(pool.servers.choose(b"", 1, last)).address for _ in range(6)}
        assert others == {*ALL} - {last}
    with pool.there[1].go_down(), pool.there[2].go_down():
        pool.advance()
        assert present(pool.servers.choose(b"", 1, "memory:1")).address == "memory:1"  # there is no other
    pool.stop()


@pytest.mark.guarantee(number=7)
def test_next_attempt_skips_server_that_is_down() -> None:
    """And on from the last in rank to the first."""
    pool = Pool().start()
    names = ranked(pool.servers, b"u")
    with pool.there[ALL.index(names[2])].go_down():
        pool.advance()
        chosen = [present(pool.servers.choose(b"u", attempt)).address for attempt in range(4)]
    assert chosen == [names[0], names[1], names[0], names[0]]
    pool.stop()


@pytest.mark.guarantee(number=7)
def test_next_attempt_goes_to_another_server_even_if_its_writing_is_paused() -> None:
    pool = Pool().start()
    for server in list(pool.servers)[1:]:
        present(server.connection).pauseProducing()
    assert {present(pool.servers.choose(b"", 1, "memory:1")).address for _ in range(6)} == {*ALL[1:]}
    pool.stop()


@pytest.mark.parametrize("writing_paused", [False, True])
def test_busier_server_is_not_chosen(writing_paused: bool) -> None:
    """Whether the tasks were written, or wait because writing is paused."""
    pool = Pool().start()
    for server in pool.servers:
        if writing_paused:
            present(server.connection).pauseProducing()
    for _ in range(3):
        busy(pool, 1)
    assert {pool.chosen() for _ in range(6)} == {"memory:1", "memory:3"}
    pool.stop()


def test_server_with_paused_writing_is_chosen_last() -> None:
    pool = Pool().start()
    for server in list(pool.servers)[:2]:
        present(server.connection).pauseProducing()
    assert {pool.chosen() for _ in range(6)} == {"memory:3"}
    present(list(pool.servers)[2].connection).pauseProducing()
    assert {pool.chosen() for _ in range(6)} == set(ALL)
    pool.stop()


# Other servers at run time.


def busy(pool: Pool, place: int) -> tuple[Task, list[Any]]:
    """A task in flight at a server of the pool, and its outcome."""
    task = Task("work")
    reported = outcome_of(present(list(pool.servers)[place].connection).submit(task))
    pool.advance()
    return task, reported


def test_added_server_is_connected() -> None:
    pool = Pool()
    joined = MemoryJobServer(pool.clock)
    pool.start()
    before, changes = list(pool.servers), pool.changes
    pool.servers.change([*pool.servers.addresses, joined.endpoint()])
    assert pool.changes == changes + 1  # a task may go there, or wait for it
    changes = pool.changes
    pool.advance()
    assert list(pool.servers)[:3] == before
    assert pool.states() == [ServerState.READY] * 4
    assert (pool.infos()[3].address, pool.changes) == ("memory:4", changes + 1)
    assert len(joined.connections) == 1
    pool.stop()


def test_servers_replaced_before_start_are_not_connected() -> None:
    pool = Pool()
    pool.servers.change(pool.servers.addresses[1:])
    assert (len(pool.servers), pool.changes, pool.states()) == (2, 0, [ServerState.STOPPED] * 2)
    pool.start()
    assert [len(server.connections) for server in pool.there] == [0, 1, 1]
    pool.stop()


def test_removed_idle_server_is_disconnected_at_once() -> None:
    pool = Pool().start()
    pool.servers.change(pool.servers.addresses[:2])
    pool.advance()
    assert [len(server.connections) for server in pool.there] == [1, 1, 0]
    assert [info.address for info in pool.infos()] == ALL[:2]
    assert not any(pool.chosen(b"%d" % number) == ALL[2] for number in range(50))
    pool.stop()


@pytest.mark.guarantee(number=7)
def test_removed_server_finishes_its_tasks() -> None:
    pool = Pool().start()
    _, reported = busy(pool, 2)
    pool.servers.change(pool.servers.addresses[:2])
    pool.advance(60)
    assert (reported, len(pool.there[2].connections)) == ([], 1)
    assert [connection.in_flight for connection in pool.servers.connections()] == [0, 0, 1]
    pool.there[2].take("work").complete(b"done")
    assert reported == [b"done"]
    pool.advance()
    assert pool.there[2].connections == []
    assert pool.servers._leaving == {}  # guarantee 12
    pool.stop()


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("leaves", [True, False])
def test_timeout_limits_close_of_peer_that_does_not_read(leaves: bool) -> None:
    """To leave it, and to stop."""
    pool = Pool().start()
    with pool.there[2].fall_silent():
        if leaves:
            pool.servers.change(pool.servers.addresses[:2], 20.0)
        stopped = [] if leaves else outcome_of(pool.servers.stop(ClientStopped(), 20.0))
        pool.advance(19.75)
        assert ([len(server.connections) for server in pool.there], stopped) == ([leaves, leaves, 1], [])
        pool.advance(0.25)
        assert (pool.there[2].connections, stopped) == ([], [] if leaves else [None])
    pool.stop()


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("state", ["connecting", "waiting"])
def test_server_can_be_removed_while_it_is_not_ready(state: str) -> None:
    pool = Pool()
    third = pool.there[2]
    with third.fall_silent() if state == "connecting" else third.refuse_connections():
        pool.start()
        assert pool.states()[2] is ServerState[state.upper()]
        pool.servers.change(pool.servers.addresses[:2])
        pool.advance(60)
    assert third.connections == []
    pool.stop()


@pytest.mark.guarantee(number=11)
def test_stop_does_not_wait_for_tasks_of_removed_server() -> None:
    pool = Pool().start()
    _, reported = busy(pool, 2)
    pool.servers.change(pool.servers.addresses[:2])
    stopped = [outcome_of(pool.servers.stop(ClientStopped())) for _ in range(3)]
    assert stopped == [[], [], []]  # there are sockets left
    pool.advance()
    assert ([type(error) for error in reported], stopped) == ([ClientStopped], [[None]] * 3)
    pool.stop()


def test_removed_server_can_be_added_again_meanwhile() -> None:
    """It is a new one, with a connection of its own."""
    pool = Pool().start()
    addresses = pool.servers.addresses
    _, reported = busy(pool, 2)
    pool.servers.change(addresses[:2])
    pool.servers.change(addresses)
    pool.advance()
    assert len(pool.there[2].connections) == 2
    pool.there[2].take("work").complete(b"done")
    pool.advance()
    assert (reported, len(pool.there[2].connections)) == ([b"done"], 1)
    pool.stop()


def test_endpoint_keeps_its_name_at_any_position() -> None:
    first, second, third, *new = [TCP4ClientEndpoint(MemoryReactorClock(), "127.0.0.1", port) for port in range(1, 6)]
    servers = ServerPool([first, second, third], Clock(), GearmanClientFactory, lambda _: None)
    servers.change([third, new[0], first, new[1]])
    assert [server.address for server in servers] == ["endpoint:2", "endpoint:3", "endpoint:0", "endpoint:4"]


def test_server_is_kept_if_its_address_is_written_differently() -> None:
    servers = ServerPool(["10.0.0.1", "jobs.example.com"], reactor, _unused, lambda _: None)
    first, second = servers
    servers.change(["10.0.0.3", "tcp:JOBS.example.com:4730", "10.0.0.1:4730"])
    assert list(servers)[1:] == [second, first]
    assert servers.by_address("jobs.example.com:4730") is second
    servers.change(["10.0.0.3"])
    with pytest.raises(ValueError, match=r"server must be one of 10\.0\.0\.3:4730"):
        servers.by_address("10.0.0.1:4730")


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("wrong", [[], ["a b"], "host", [None], ["10.0.0.1", "10.0.0.1:4730"]])
def test_invalid_servers_change_nothing(wrong: Any) -> None:
    pool = Pool().start()
    before, addresses = list(pool.servers), pool.servers.addresses
    with pytest.raises((TypeError, ValueError), match="job_servers"):
        pool.servers.change(wrong)
    assert (list(pool.servers), pool.servers.addresses) == (before, addresses)
    assert [pool.servers.by_address(name) for name in ALL] == before
    assert pool.states() == [ServerState.READY] * 3
    pool.stop()


def test_uniques_move_only_to_added_server() -> None:
    pool = Pool().start()
    uniques = [b"%d" % number for number in range(1000)]
    before = {unique: pool.chosen(unique) for unique in uniques}
    pool.servers.change([*pool.servers.addresses, MemoryJobServer(pool.clock).endpoint()])
    pool.advance()
    after = {unique: pool.chosen(unique) for unique in uniques}
    moved = [unique for unique in uniques if before[unique] != after[unique]]
    assert {after[unique] for unique in moved} == {"memory:4"}
    assert 150 < len(moved) < 350
    pool.stop()


def test_a_server_is_reachable_while_ready_or_connecting() -> None:
    pool = Pool(1)
    assert [server.address for server in pool.servers.ranked(b"u")] == ["memory:1"]
    pool.servers.start()
    assert pool.servers.any_reachable()
    pool.advance()
    assert pool.servers.any_reachable()
    with pool.there[0].go_down():
        pool.advance(20)
        assert not pool.servers.any_reachable()
        assert "memory:1" in str(pool.servers.none_available())
    pool.advance(60)
    assert pool.servers.any_reachable()
    pool.stop()


@pytest.mark.guarantee(number=13)
def test_errback_of_removed_server_can_replace_servers_again() -> None:
    """Those of the first change that were to join are then never connected."""
    pool = Pool()
    addresses = list(pool.servers.addresses)
    pool.servers.change(addresses[:1])
    pool.there[0].black_hole_connections()
    pool.start()
    (first,) = pool.servers
    first.when_ready().addErrback(lambda _: pool.servers.change(addresses[2:]))
    pool.servers.change(addresses[1:2])
    pool.advance()
    assert [len(server.connections) for server in pool.there] == [0, 0, 1]
    assert pool.states() == [ServerState.READY]
    pool.stop()


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("stops", [False, True])
def test_callback_of_change_can_replace_servers_again_or_stop(stops: bool) -> None:
    """Those that were to join after it are then never connected."""
    pool = Pool(2)
    first, second = pool.servers.addresses
    pool.servers.change([first])
    pool.start()
    unusable = Unusable()
    pool.react.append(lambda: pool.servers.stop(ClientStopped()) if stops else pool.servers.change([unusable]))
    pool.servers.change([unusable, second])
    pool.advance()
    assert (pool.there[1].connections, len(pool.servers), pool.react) == ([], 1 + stops, [])
    pool.stop()


@pytest.mark.guarantee(number=11)
def test_stop_waits_for_last_connection() -> None:
    pool = Pool().start()
    with pool.there[1].fall_silent():
        stopped = outcome_of(pool.servers.stop(ClientStopped()))
        pool.advance()
        assert ([len(server.connections) for server in pool.there], stopped) == ([0, 1, 0], [])
        pool.advance(CLOSE_TIMEOUT)
        assert stopped == [None]
    pool.stop()


def test_when_ready_fires_once_a_server_is_ready() -> None:
    pool = Pool()
    assert types_of(outcomes_of(pool.servers.when_ready())) == [ClientStopped]
    pool.servers.start()
    waiting = [outcomes_of(pool.servers.when_ready()) for _ in range(2)]
    assert waiting == [[], []]
    pool.advance()
    assert waiting == [[None], [None]]
    assert outcomes_of(pool.servers.when_ready()) == [None]
    pool.stop()


def test_when_ready_fails_once_the_latest_attempt_to_each_server_has_failed() -> None:
    pool = Pool()
    refusals = [server.refuse_connections() for server in pool.there]
    pool.servers.start()
    waiting = outcomes_of(pool.servers.when_ready())
    pool.advance()
    assert types_of(waiting) == [NoServersAvailable]
    assert types_of(outcomes_of(pool.servers.when_ready())) == [NoServersAvailable]
    for refusal in refusals:
        refusal.end()
    pool.advance(1)  # the last call has brought the next attempts forward
    assert outcomes_of(pool.servers.when_ready()) == [None]
    pool.stop()


def test_when_ready_fails_with_the_reason_of_a_stop() -> None:
    pool = Pool()
    pool.servers.start()
    waiting = outcomes_of(pool.servers.when_ready())
    pool.stop()
    assert types_of(waiting) == [ClientStopped]


def test_each_change_of_a_server_is_observed_after_it_was_reported() -> None:
    pool = Pool(1)
    seen: list[tuple[ServerState, int]] = []
    pool.servers.observe = lambda info: seen.append((info.state, pool.changes))
    pool.start()
    pool.there[0].drop_connections()
    pool.advance()
    pool.stop()
    assert [state for state, _ in seen] == [ServerState.READY, ServerState.WAITING, ServerState.STOPPED]
    assert [changes for _, changes in seen][:2] == [1, 2]


def outcomes_of(deferred: Deferred[Any]) -> list[Any]:
    """A list that gets the outcome: a result, or an error itself."""
    outcomes: list[Any] = []
    deferred.addCallbacks(outcomes.append, lambda failure: outcomes.append(failure.value))
    return outcomes


def types_of(outcomes: list[Any]) -> list[type[Any]]:
    return [type(outcome) for outcome in outcomes]
