"""How tasks are spread over servers: queued ones, those of many clients, and those with uniques that wait."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from txgearman import GearmanClient
from txgearman.client.awaiting import SHARE_TIME
from txgearman.connection.pool import ServerPool
from txgearman.errors import ClientStopped, NoServersAvailable
from txgearman.testing import Fault, MemoryJobServer

from ..client_harness import NOTHING, ClientHarness, outcome, outcomes


class Spread(ClientHarness):
    """A client of several job servers that accept connections, and answer on them when they are told to."""

    def __init__(self, servers: int, **options: Any) -> None:
        super().__init__(servers, **options)
        self.tasks: list[Deferred[Any]] = []
        self.silences = [server.fall_silent() for server in self.servers]

    def queued(self) -> list[int]:
        """Return how many jobs each server has."""
        return [len(server.queued("work")) for server in self.servers]

    def answer(self, *indices: int) -> None:
        """Have some servers answer."""
        for index in indices:
            self.silences[index].end()
            self.advance()

    def add(self, count: int, background: bool = True, **options: Any) -> list[Deferred[Any]]:
        add = self.client.add_task_bg if background else self.client.add_task
        tasks: list[Deferred[Any]] = [add("work", b"%d" % number, **options) for number in range(count)]
        self.tasks += tasks
        self.advance()
        return tasks

    def stop(self) -> None:
        self.answer(*range(len(self.servers)))
        super().stop()
        outcomes(self.tasks)


def index_of(harness: ClientHarness, unique: bytes, rank: int = 0) -> int:
    """Return the index of the server that a unique chooses."""
    servers = harness.client._servers
    return list(servers).index(servers.ranked(unique)[rank])


def shares(indices: list[int], count: int, size: int) -> list[int]:
    return [count if index in indices else 0 for index in range(size)]


@pytest.mark.parametrize("background", [False, True])
def test_queued_tasks_are_shared_out_as_servers_become_ready(background: bool) -> None:
    """Nobody waits for the last of them."""
    harness = Spread(4)
    harness.add(100, background)
    assert harness.queued() == [0] * 4
    for ready in ([2], [2, 0], [2, 0, 3], [0, 1, 2, 3]):
        harness.answer(ready[-1] if len(ready) < 4 else 1)
        assert harness.queued() == shares(ready, 25, 4)
    harness.stop()


def test_share_is_rounded_up() -> None:
    harness = Spread(4)
    harness.add(10)
    for index in range(4):
        harness.answer(index)
    assert harness.queued() == [3, 3, 3, 1]
    harness.stop()


def test_task_alone_does_not_wait_for_second_server() -> None:
    harness = Spread(10)
    (task,) = harness.add(1)
    harness.answer(7)
    assert harness.queued()[7] == 1
    assert outcome(task).server == harness.client.servers[7].address
    harness.stop()


def test_rest_goes_to_ready_servers_after_a_second() -> None:
    harness = Spread(5)
    harness.add(50)
    harness.answer(0)
    harness.advance(SHARE_TIME / 2)
    harness.answer(1)
    harness.advance(SHARE_TIME / 2 - 0.01)
    assert harness.queued() == [10, 10, 0, 0, 0]
    harness.advance(0.01)
    assert sorted(harness.queued()) == [0, 0, 0, 25, 25]
    harness.add(10)
    assert sorted(harness.queued()) == [0, 0, 0, 30, 30]
    harness.stop()


def test_new_task_does_not_wait_with_those_that_are_left() -> None:
    harness = Spread(2)
    harness.add(10)
    harness.answer(0)
    (late,) = harness.add(1)
    assert (harness.queued(), outcome(late) is NOTHING) == ([6, 0], False)
    harness.answer(1)
    assert harness.queued() == [6, 5]
    harness.stop()


def test_rest_goes_to_ready_servers_once_none_is_connecting() -> None:
    harness = Spread(3)
    harness.add(30)
    harness.answer(0)
    harness.servers[1].drop_connections()
    harness.advance()
    assert harness.queued() == [10, 0, 0]
    harness.servers[2].drop_connections()
    harness.advance()
    assert harness.queued() == [30, 0, 0]
    harness.answer(1, 2)
    harness.stop()


def test_share_of_later_servers_grows_with_failures() -> None:
    """Nobody gets more than the others in the end."""
    harness = Spread(4)
    harness.add(120)
    harness.answer(0)
    harness.servers[1].drop_connections()
    harness.advance()
    assert harness.queued() == [30, 0, 0, 0]
    harness.answer(2)
    assert harness.queued() == [30, 0, 40, 0]
    harness.answer(3)
    assert harness.queued()[3] >= 40
    assert (sum(harness.queued()), max(harness.queued()) <= 50) == (120, True)
    harness.stop()


def test_rest_waits_on_if_ready_server_is_lost() -> None:
    harness = Spread(3)
    harness.add(30)
    harness.answer(0)
    with harness.servers[0].go_down():
        harness.advance(SHARE_TIME)
        assert harness.queued() == [10, 0, 0]
        harness.answer(1)
        harness.answer(2)
        assert (sum(harness.queued()), max(harness.queued())) == (30, 15)
    harness.stop()


@pytest.mark.guarantee(number=9)
@pytest.mark.guarantee(number=11)
def test_tasks_cancelled_while_they_wait_are_not_sent_and_leave_no_timer() -> None:
    harness = Spread(2)
    plain = harness.add(10)
    bound = [task for number in range(20) for task in harness.add(1, unique=b"%d" % number)]
    harness.answer(0)
    sent = sum(harness.queued())
    for task in [*plain, *bound]:
        task.cancel()
    assert sum(type(each) is CancelledError for each in outcomes([*plain, *bound])) == 30 - sent
    harness.answer(1)
    assert (sum(harness.queued()), len(harness.client._dispatcher._awaiting_connection)) == (sent, 0)
    harness.stop()


@pytest.mark.guarantee(number=1)
def test_stop_fails_tasks_that_wait_for_any_server_or_their_own() -> None:
    harness = Spread(3)
    tasks = [*harness.add(30), *(task for number in range(30) for task in harness.add(1, unique=b"%d" % number))]
    harness.answer(0)
    harness.client.stopService()
    kinds = Counter(type(each).__name__ for each in outcomes(tasks))
    assert kinds["ClientStopped"] == 60 - sum(harness.queued())
    harness.advance(3)
    harness.answer(1, 2)
    harness.stop()


# The end of an outage.


def outage(size: int) -> tuple[ClientHarness, list[Fault]]:
    """Return a client none of whose servers can be reached."""
    harness = ClientHarness(size, server_wait=1000.0).start()
    downs = [server.go_down() for server in harness.servers]
    harness.advance(30)
    return harness, downs


@pytest.mark.parametrize("unique", [False, True])
def test_tasks_that_waited_for_a_server_are_spread(unique: bool) -> None:
    """The others are tried at once, when the first can be reached again."""
    harness, downs = outage(5)
    uniques = [b"%d" % number for number in range(100)]
    tasks = [harness.client.add_task_bg("work", unique=each if unique else b"") for each in uniques]
    for down in downs:
        down.end()
    harness.advance(60)
    wanted = Counter(index_of(harness, each) for each in uniques) if unique else dict.fromkeys(range(5), 20)
    assert {index: len(server.queued("work")) for index, server in enumerate(harness.servers)} == wanted
    assert len(outcomes(tasks)) == 100
    harness.stop()


def test_tasks_that_waited_for_a_server_do_not_wait_for_others_longer_than_a_second() -> None:
    """Neither those without a unique nor those whose own server does not answer."""
    harness, downs = outage(3)
    tasks = [harness.client.add_task_bg("work") for _ in range(30)]
    tasks += [harness.client.add_task_bg("work", unique=b"%d" % number) for number in range(30)]
    downs[1].end()
    silence = harness.servers[1].fall_silent()
    downs[0].end()
    while not harness.servers[0].connections:
        harness.advance(0.25)
    assert 10 < len(harness.server.queued("work")) < 60
    harness.advance(SHARE_TIME)
    assert len(harness.server.queued("work")) == 60
    assert {handle.server for handle in outcomes(tasks)} == {harness.client.servers[0].address}
    downs[2].end()
    silence.end()
    harness.stop()


def test_outage_may_end_with_a_new_server() -> None:
    harness, downs = outage(2)
    tasks = [harness.client.add_task_bg("work") for _ in range(30)]
    joined = MemoryJobServer(harness.clock)
    harness.client.job_servers = [*harness.client.job_servers, joined.endpoint()]
    harness.advance()
    assert len(joined.queued("work")) == 30
    assert {handle.server for handle in outcomes(tasks)} == {harness.client.servers[2].address}
    for down in downs:
        down.end()
    harness.stop()


# Tasks with uniques.


def test_tasks_with_uniques_wait_for_their_own_server() -> None:
    harness = Spread(3)
    uniques = [b"%d" % number for number in range(60)]
    for unique in uniques:
        harness.add(1, unique=unique)
    wanted = Counter(index_of(harness, unique) for unique in uniques)
    for index in (1, 2, 0):
        assert harness.queued()[index] == 0
        harness.answer(index)
        harness.advance(2 * SHARE_TIME)
        assert harness.queued()[index] == wanted[index]
    harness.stop()


def test_task_with_unique_goes_to_next_in_rank_when_its_server_fails() -> None:
    harness = Spread(3)
    first, second, third = (index_of(harness, b"u", rank) for rank in range(3))
    harness.add(1, unique=b"u")
    harness.answer(third)
    harness.servers[first].drop_connections()
    harness.advance()
    assert harness.queued() == [0, 0, 0]
    harness.answer(second)
    assert harness.queued()[second] == 1
    harness.answer(first)
    harness.stop()


def test_task_with_unique_goes_to_its_server_that_recovers_before_the_next_is_ready() -> None:
    harness = Spread(2)
    first, second = (index_of(harness, b"u", rank) for rank in range(2))
    other = next(unique for number in range(100) if index_of(harness, unique := b"%d" % number) == second)
    harness.add(1, unique=b"u")
    harness.add(1, unique=other)
    harness.servers[first].drop_connections()
    harness.answer(first)
    harness.advance(5)
    assert harness.queued() == shares([first], 1, 2)
    harness.answer(second)
    assert harness.queued() == [1, 1]
    harness.stop()


def test_waiting_tasks_go_by_new_list_of_servers() -> None:
    harness = Spread(2)
    uniques = [b"%d" % number for number in range(30)]
    for unique in uniques:
        harness.add(1, unique=unique)
    joined = MemoryJobServer(harness.clock)
    harness.client.job_servers = [*harness.client.job_servers[1:], joined.endpoint()]
    harness.advance()
    assert len(joined.queued("work")) == sum(index_of(harness, unique) == 1 for unique in uniques)
    harness.answer(1)
    assert harness.queued()[1] + len(joined.queued("work")) == 30
    harness.silences[0].end()
    stopped = harness.client.stopService()
    harness.advance()
    assert outcome(stopped) is None


def test_waiting_tasks_are_ranked_once_while_no_server_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their cost does not grow with the number of servers."""
    choices = 0
    choose = ServerPool.choose

    def counting(*arguments: Any) -> Any:
        nonlocal choices
        choices += 1
        return choose(*arguments)

    monkeypatch.setattr(ServerPool, "choose", counting)
    harness = ClientHarness(20)
    tasks: list[Deferred[Any]] = [harness.client.add_task_bg("work", unique=b"%d" % number) for number in range(200)]
    harness.advance()
    assert choices == 200
    assert len({handle.server for handle in outcomes(tasks)}) == 20
    harness.stop()


@pytest.mark.guarantee(number=13)
def test_failure_of_waiting_task_may_stop_and_start_client() -> None:
    """In the middle of the walk over those that wait for the same server."""
    harness = Spread(1)
    tasks = [harness.add(1)[0] for _ in range(3)]
    again: list[Deferred[Any]] = []

    def restart(_: object) -> None:
        harness.client.stopService()
        harness.client.startService()
        again.append(harness.client.add_task_bg("work", b"again"))

    tasks[0].addBoth(restart)
    harness.servers[0].drop_connections()
    harness.advance()
    assert [type(outcome(task)) for task in tasks[1:]] == [ClientStopped] * 2
    harness.answer(0)
    harness.advance(5)
    assert harness.server.queued("work") == [b"again"]
    assert outcome(again[0]).server == harness.client.servers[0].address
    harness.stop()


@pytest.mark.guarantee(number=13)
def test_failure_of_task_with_unique_may_replace_servers() -> None:
    """And those that waited with it go to the new one."""
    harness = Spread(2)
    tasks = [harness.add(1, unique=b"%d" % number)[0] for number in range(20)]
    joined = MemoryJobServer(harness.clock)
    first: list[object] = []

    def replace(error: object) -> None:
        if not first:
            first.append(error)
            harness.client.job_servers = [joined.endpoint()]

    for task in tasks:
        task.addErrback(replace)
    for server in harness.servers:
        server.drop_connections()
    harness.advance()
    assert len(first) == 1
    assert len(joined.queued("work")) == 19
    harness.answer(0, 1)
    stopped = harness.client.stopService()
    harness.advance()
    assert outcome(stopped) is None


def test_single_tasks_map_and_status_agree_on_server() -> None:
    harness = ClientHarness(5).start()
    uniques = [b"%d" % number for number in range(20)]
    tasks = [harness.client.add_task_bg("work", unique, unique=unique) for unique in uniques]
    known = [harness.client.get_status_unique(unique) for unique in uniques]
    results = harness.client.map("map", uniques, unique="-")
    first = Deferred.fromCoroutine(results.__anext__())
    harness.advance()
    by_server = [server.queued("work") for server in harness.servers]
    assert [server.queued("map") for server in harness.servers] == by_server
    assert [harness.servers[index_of(harness, unique)].queued("work").count(unique) for unique in uniques] == [1] * 20
    assert all(status.known for status in outcomes(known))
    assert sum(map(bool, by_server)) == 5
    harness.stop()
    outcomes([*tasks, first])


# Many clients.


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "connected"])
def test_single_tasks_of_many_clients_are_spread(waits: bool) -> None:
    """Busiest of five servers: at most twice the mean. Their random numbers are those of one clock."""
    harness = ClientHarness(5)
    for _ in range(50):
        client = GearmanClient([server.endpoint() for server in harness.servers], reactor=harness.clock)
        if waits:
            client.startService()
            harness.advance()
        client.add_task_bg("work")
        harness.advance()
        client.stopService()
        harness.advance()
    counts = [len(server.queued("work")) for server in harness.servers]
    assert (sum(counts), max(counts) <= 2 * 10) == (50, True)


def test_client_without_servers_fails_waiting_tasks_of_both_kinds() -> None:
    harness = Spread(3)
    tasks = [*harness.add(3), *(harness.add(1, unique=b"%d" % number)[0] for number in range(9))]
    for server in harness.servers:
        server.drop_connections()
    harness.advance()
    assert [type(each) for each in outcomes(tasks)] == [NoServersAvailable] * 12
    harness.answer(0, 1, 2)
    harness.stop()
