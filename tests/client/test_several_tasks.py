"""Events that end several tasks at once: what the first of them runs may cancel the others, submit, stop or raise."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, ensureDeferred

from txgearman import ClientStopped, TaskLost
from txgearman.client.protocol import GearmanClientProtocol
from txgearman.connection.factory import GearmanFactory
from txgearman.packets import GET_STATUS, STATUS_RES
from txgearman.testing import MemoryJobServer

from ..client_harness import ClientHarness, Events, RecordedTask, outcome, recording
from ..conftest import Failures
from ..examples import some_of
from .connection_harness import H1, ConnectionHarness
from .connection_harness import RecordedTask as Recorded
from .forgetting import forget_queued_jobs

ENDS = ("complete", "fail", "retry")


class Siblings:
    """A client of one server, and tasks that end together. The first one that does runs an action, once.

    :ivar acted: the task that has run the action.
    """

    def __init__(self, action: Callable[[Siblings], object], in_deferred: bool, retries: int) -> None:
        self.tasks: list[RecordedTask] = []
        self.acted: RecordedTask | None = None
        self._action = action
        self._in_deferred = in_deferred
        self._retries = retries
        self._connections: set[GearmanClientProtocol] = set()

    def make(self, servers: int = 1, **options: Any) -> None:
        self.harness = ClientHarness(servers, job_check_interval=8.0, **options)
        self.client = self.harness.client
        self.server = self.harness.server

    def connection(self) -> GearmanClientProtocol:
        connection = next(iter(self.client._servers)).connection
        assert connection is not None
        return connection

    def add(self, *uniques: bytes, timeout: float | None = None) -> None:
        for unique in uniques:
            self._add(RecordedTask(len(self.tasks), False, unique, self._retries, timeout))

    def _add(self, recorded: RecordedTask) -> None:
        def called(name: str) -> None:
            self._reacts(recorded, name in ENDS and not self._in_deferred)

        def fired(_: object) -> None:
            self._reacts(recorded, self._in_deferred)

        recorded.stopped = not self.client.running
        recorded.react = called
        self.tasks.append(recorded)
        deferred = self.client.submit(recorded.task)
        recorded.watch(deferred)
        deferred.addBoth(fired).addErrback(lambda _: None)

    def _reacts(self, recorded: RecordedTask, acts: bool) -> None:
        self.check_counts()
        if acts and self.acted is None:
            self.acted = recorded
            try:
                self._action(self)
            finally:
                self.check_counts()

    def check_counts(self) -> None:
        for server in self.client._servers:
            if server._factory is not None and server._factory.connection is not None:
                self._connections.add(server._factory.connection)
        assert all(connection.in_flight >= 0 for connection in self._connections)

    def cancel(self, recorded: RecordedTask) -> None:
        if not recorded.outcomes:
            recorded.cancelled = True
            recorded.deferred.cancel()

    def stop(self) -> None:
        for recorded in self.tasks:
            recorded.stopped = True
        self.client.stopService()

    def finish(self) -> None:
        """Complete all jobs; check that each task has its outcome, and that a healthy one survives a server change."""
        for server in self.harness.servers:
            for fault in list(server._faults.active):
                fault.end()
        for _ in range(12):
            if not self.client.running:
                self.client.startService()
            self._complete_all()
            self.harness.advance(10.0)
        for recorded in self.tasks:
            recorded.check_outcome()
        self.check_counts()
        assert {connection.in_flight for connection in self._connections} <= {0}
        assert outcome(self.client.drain()) is None
        self._check_that_removed_server_finishes_task()
        self.harness.stop()

    def _complete_all(self) -> None:
        for server in self.harness.servers:
            with suppress(AssertionError):  # ask until there is none: only this removes jobs without clients (H1)
                while True:
                    server.take("work").complete(b"done")

    def _check_that_removed_server_finishes_task(self) -> None:
        self.client.job_servers = [self.server.endpoint()]
        self.harness.advance()
        healthy = self.client.add_task("work")
        job = self.server.take("work")
        self.client.job_servers = [MemoryJobServer(self.harness.clock).endpoint()]
        self.harness.advance()
        job.complete(b"healthy")
        self.harness.advance()
        assert outcome(healthy) == b"healthy"


# What happens to several tasks.


def shared_job_is_forgotten(siblings: Siblings) -> None:
    siblings.make()
    siblings.add(b"u", b"u", b"u", b"")
    siblings.harness.advance()
    forget_queued_jobs(siblings.server)
    for _ in range(4):
        siblings.harness.advance(4.0)


def connection_is_lost(siblings: Siblings) -> None:
    """With tasks that are acknowledged, written and unwritten."""
    siblings.make()
    siblings.client.startService()
    siblings.add(b"u", b"u", b"", b"")
    siblings.harness.advance()
    with siblings.server.hold_answers():
        siblings.add(b"u", b"")
        siblings.connection().pauseProducing()
        siblings.add(b"", b"")
        siblings.server.drop_connections()


def server_with_backlog_is_removed(siblings: Siblings) -> None:
    siblings.make(2)
    siblings.harness.servers[1].refuse_connections()
    siblings.harness.start()
    siblings.add(b"")
    siblings.connection().pauseProducing()
    siblings.add(b"", b"", b"")
    siblings.client.job_servers = siblings.client.job_servers[1:]


def shared_job_completes(siblings: Siblings) -> None:
    siblings.make()
    siblings.add(b"u", b"u", b"u")
    siblings.server.take("work").complete(b"done")


def shared_job_fails(siblings: Siblings) -> None:
    siblings.make()
    siblings.add(b"u", b"u", b"u")
    siblings.server.take("work").fail()


def shared_job_raises(siblings: Siblings) -> None:
    siblings.make()
    siblings.add(b"u", b"u", b"u")
    siblings.server.take("work").send_exception(b"x")


def tasks_time_out(siblings: Siblings) -> None:
    siblings.make()
    siblings.add(b"u", b"u", b"", b"", timeout=1.0)
    siblings.harness.advance(1.0)


def server_is_refused_while_tasks_await_connection(siblings: Siblings) -> None:
    siblings.make()
    siblings.server.refuse_connections()
    siblings.add(b"", b"u", b"u", b"")
    siblings.harness.advance()


def wait_for_server_is_over(siblings: Siblings) -> None:
    siblings.make(server_wait=5.0)
    siblings.server.refuse_connections()
    siblings.harness.start()
    siblings.add(b"", b"u", b"u", b"")
    siblings.harness.advance(5.0)


def retried_tasks_find_no_server(siblings: Siblings) -> None:
    siblings.make()
    siblings.add(b"u", b"u", b"u")
    siblings.harness.advance()
    siblings.server.go_down()
    siblings.harness.advance(0.5)


def client_stops_with_tasks_on_connection(siblings: Siblings) -> None:
    siblings.make(max_in_flight=6)
    siblings.client.startService()
    siblings.add(b"u", b"u", b"")
    siblings.harness.advance()
    siblings.add(b"")
    siblings.connection().pauseProducing()
    siblings.add(b"", b"", b"", b"")
    siblings.stop()


def client_stops_while_tasks_await_connection(siblings: Siblings) -> None:
    siblings.make(max_in_flight=2)
    siblings.add(b"", b"u", b"u", b"")
    siblings.stop()


def client_stops_while_tasks_await_server(siblings: Siblings) -> None:
    siblings.make(server_wait=100.0)
    siblings.server.refuse_connections()
    siblings.harness.start()
    siblings.add(b"", b"u", b"u", b"")
    siblings.stop()


SITUATIONS: list[Callable[[Siblings], None]] = [
    shared_job_is_forgotten,
    connection_is_lost,
    server_with_backlog_is_removed,
    shared_job_completes,
    shared_job_fails,
    shared_job_raises,
    tasks_time_out,
    server_is_refused_while_tasks_await_connection,
    wait_for_server_is_over,
    retried_tasks_find_no_server,
    client_stops_with_tasks_on_connection,
    client_stops_while_tasks_await_connection,
    client_stops_while_tasks_await_server,
]


# What the first of them does.


def cancels_others(siblings: Siblings) -> None:
    for recorded in siblings.tasks:
        if recorded is not siblings.acted:
            siblings.cancel(recorded)


def cancels_others_last_first(siblings: Siblings) -> None:
    for recorded in reversed(siblings.tasks):
        if recorded is not siblings.acted:
            siblings.cancel(recorded)


def submits(siblings: Siblings) -> None:
    siblings.add(b"u", b"u", b"")


def stops_client(siblings: Siblings) -> None:
    siblings.stop()


def stops_and_starts_client(siblings: Siblings) -> None:
    siblings.stop()
    siblings.client.startService()


def cancels_others_and_stops_client(siblings: Siblings) -> None:
    cancels_others(siblings)
    siblings.stop()


def changes_servers(siblings: Siblings) -> None:
    siblings.harness.servers.append(MemoryJobServer(siblings.harness.clock))
    siblings.client.job_servers = [server.endpoint() for server in siblings.harness.servers[::-1]]


def raises(siblings: Siblings) -> None:
    raise ZeroDivisionError("of the caller's own")


VARIANTS = [(False, 0), (False, 1), (True, 1), (True, 0)]
"""Whether the first of them acts in its Deferred, and the retries of each. Of each second one, one acts in a Deferred,
and one has retries."""

ACTIONS: list[Callable[[Siblings], None]] = [
    cancels_others,
    cancels_others_last_first,
    submits,
    stops_client,
    stops_and_starts_client,
    cancels_others_and_stops_client,
    changes_servers,
    raises,
]


@pytest.mark.guarantee(number=1)
@pytest.mark.guarantee(number=4)
@pytest.mark.guarantee(number=9)
@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_first_of_several_tasks_that_end_may_do_anything(
    situation: Callable[[Siblings], None], action: Callable[[Siblings], None], logged_failures: Failures
) -> None:
    variants = some_of(VARIANTS, SITUATIONS.index(situation) + ACTIONS.index(action), 2)
    for in_deferred, retries in variants:
        siblings = Siblings(action, in_deferred, retries)
        situation(siblings)
        siblings.finish()
        assert siblings.acted is not None
        for recorded in siblings.tasks:
            assert recorded.cancelled == (type(recorded.outcomes[0]) is CancelledError)
    logged = sum(not in_deferred for in_deferred, _ in variants)
    assert len(logged_failures.flush(ZeroDivisionError)) == (logged if action is raises else 0)


@pytest.mark.guarantee(number=9)
@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("drop_on_cancel", [False, True])
def test_lost_task_of_forgotten_job_cancels_one_that_shares_it(drop_on_cancel: bool) -> None:
    """Though the second could be retried, it is not: and its job is not dropped, which the server does not have."""
    harness = ClientHarness(job_check_interval=8.0)
    events: Events = []
    first = harness.client.add_task("work", unique="u")
    second = harness.client.add_task("work", unique="u", retries=3, drop_on_cancel=drop_on_cancel, **recording(events))
    first.addBoth(lambda _: second.cancel())
    harness.advance()
    forget_queued_jobs(harness.server)
    for _ in range(10):
        harness.advance(4.0)
    assert type(outcome(second)) is CancelledError
    assert [name for name, *_ in events] == ["created", "fail"]
    assert (harness.client.servers[0].in_flight, harness.server.queued("work")) == (0, [])
    harness.stop()


@pytest.mark.guarantee(number=13)
def test_map_ends_with_error_of_forgotten_job_that_its_workloads_share() -> None:
    harness = ClientHarness(job_check_interval=8.0)

    async def results() -> list[bytes]:
        return [result async for result in harness.client.map("work", [b"1", b"2", b"3"], unique="u")]

    done = ensureDeferred(results())
    harness.advance()
    forget_queued_jobs(harness.server)
    for _ in range(3):
        harness.advance(4.0)
    assert type(outcome(done)) is TaskLost
    assert harness.client.servers[0].in_flight == 0
    harness.stop()


class Listener:
    """Cancels tasks when their connection is lost, before they are lost with it."""

    def __init__(self) -> None:
        self.tasks: list[Recorded] = []

    def connection_ready(self, connection: GearmanClientProtocol) -> None:
        """Do nothing."""

    def connection_down(self, factory: GearmanFactory[GearmanClientProtocol], error: Exception) -> None:
        for recorded in self.tasks:
            recorded.deferred.cancel()


@pytest.mark.guarantee(number=4)
@pytest.mark.guarantee(number=9)
@pytest.mark.guarantee(number=13)
def test_listener_cancels_tasks_of_connection_that_is_lost() -> None:
    listener = Listener()
    harness = ConnectionHarness(listener=listener)
    tasks = [*harness.share(2), harness.submit()]
    harness.connection.pauseProducing()
    listener.tasks = [*tasks, harness.submit()]
    harness.server.lose()
    assert [recorded.outcomes for recorded in listener.tasks] == [[CancelledError]] * 4
    assert (harness.connection.in_flight, harness.tables()[:2]) == (0, (0, 0))


@pytest.mark.guarantee(number=4)
@pytest.mark.guarantee(number=13)
def test_request_lost_with_its_connection_cancels_tasks_that_are_lost_with_it() -> None:
    harness = ConnectionHarness()
    acknowledged = harness.share(2)
    status = harness.connection.request(GET_STATUS, H1, answer=STATUS_RES)
    tasks = [*acknowledged, harness.submit()]
    counts: list[int] = []

    def cancel_all(_: object) -> None:
        for recorded in tasks:
            recorded.deferred.cancel()
            counts.append(harness.connection.in_flight)

    status.addErrback(cancel_all)
    harness.server.lose()
    assert [recorded.outcomes for recorded in tasks] == [[CancelledError]] * 3
    assert counts == [0, 0, 0]


@pytest.mark.guarantee(number=1)
@pytest.mark.guarantee(number=13)
def test_stop_fails_unwritten_task_though_callback_starts_client() -> None:
    harness = ClientHarness().start()
    written = harness.client.add_task("work", b"written")
    connection = next(iter(harness.client._servers)).connection
    assert connection is not None
    connection.pauseProducing()
    unwritten = harness.client.add_task("work", b"unwritten")
    written.addErrback(lambda _: harness.client.startService())
    harness.client.stopService()
    assert type(outcome(unwritten)) is ClientStopped
    harness.advance()
    harness.check_that_it_works()
    harness.stop()
