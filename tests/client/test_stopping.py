"""A client is stopped, in any state of its connections and tasks, and started again (guarantees 1 and 11)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from txgearman import (
    ClientStopped,
    NoServersAvailable,
    ProtocolError,
    ServerState,
    TaskLost,
)
from txgearman.packets import (
    GET_STATUS,
    OPTION_REQ,
)
from txgearman.testing import MemoryJobServer

from ..client_harness import NOTHING, ClientHarness, outcome, outcomes
from ..wire import present

# Guarantees 1 and 11: stopping.


def never_started(harness: ClientHarness) -> None:
    """The first task starts it."""


def connecting(harness: ClientHarness) -> None:
    harness.server.black_hole_connections()
    harness.start()


def not_answered(harness: ClientHarness) -> None:
    harness.server.leave_unanswered(OPTION_REQ, GET_STATUS, times=None)
    harness.start()


def ready(harness: ClientHarness) -> None:
    harness.start()


def refused(harness: ClientHarness) -> None:
    harness.server.refuse_connections()
    harness.start()


def lost(harness: ClientHarness) -> None:
    harness.start()
    harness.server.drop_connections()


def being_lost(harness: ClientHarness) -> None:
    """The client has not noticed yet."""
    harness.start()
    harness.server.connections[0].drop()


def aborting(harness: ClientHarness) -> None:
    """The client has aborted the connection, whose socket is not closed yet."""
    harness.start()
    present(next(iter(harness.client._servers)).connection).abort(ProtocolError("nonsense"))


def stopped(harness: ClientHarness) -> None:
    harness.start()
    harness.client.stopService()


@pytest.mark.guarantee(number=1)
@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize(
    "state", [never_started, connecting, not_answered, ready, refused, lost, being_lost, aborting, stopped]
)
def test_stop_leaves_nothing_in_any_connection_state(state: Callable[[ClientHarness], None]) -> None:
    harness = ClientHarness()
    state(harness)
    tasks: list[Deferred[Any]] = [harness.client.add_task("work"), harness.client.add_task_bg("work")]
    queries: list[Deferred[Any]] = [harness.client.echo(), harness.client.get_status_unique("u")]
    drained = harness.client.drain()
    harness.stop()
    assert outcome(drained) is None
    errors = {ClientStopped, NoServersAvailable}
    assert {type(outcome(task)) for task in tasks} <= errors | ({TaskLost} if state is being_lost else set())
    assert {type(outcome(query)) for query in queries} <= errors
    harness.stop()
    assert type(outcome(harness.client.add_task("work"))) is ClientStopped
    assert type(outcome(harness.client.echo())) is ClientStopped
    assert type(outcome(harness.client.get_status_unique("u"))) is ClientStopped


def test_stopped_client_can_be_started_again() -> None:
    harness = ClientHarness().start()
    harness.stop()
    harness.start()
    harness.check_that_it_works()
    harness.stop()


# Queries.


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("servers", [1, 3])
def test_cancelling_stop_does_not_undo_it(servers: int) -> None:
    harness = ClientHarness(servers).start()
    stopped = harness.client.stopService()
    stopped.cancel()
    assert type(outcome(stopped)) is CancelledError
    harness.stop()


# Overlapping starts and stops.


@pytest.mark.guarantee(number=11)
def test_callback_may_start_client_during_stop() -> None:
    """The client then has new connections to all servers, and none of the old ones."""
    harness = ClientHarness(3).start()

    def start(_: object) -> None:
        if not harness.client.running:
            harness.client.startService()

    for _ in range(3):
        harness.client.add_task("work").addErrback(start)
    harness.client.stopService()
    harness.advance()
    assert [info.state for info in harness.client.servers] == [ServerState.READY] * 3
    assert [[each.number for each in server.connections] for server in harness.servers] == [[2]] * 3
    harness.stop()


@pytest.mark.guarantee(number=11)
def test_every_stop_fires_once_nothing_is_left() -> None:
    """Also a second stop, and a stop after a start, while a server does not read."""
    harness = ClientHarness().start()
    harness.server.fall_silent()
    stops = [harness.client.stopService(), harness.client.stopService()]
    harness.client.startService()
    stops.append(harness.client.stopService())
    harness.advance(2.9)
    assert outcomes(stops) == [NOTHING] * 3
    harness.advance(0.2)
    assert NOTHING not in outcomes(stops)
    harness.stop()


# Stops with tasks in flight.


def with_admission_queue(harness: ClientHarness) -> None:
    harness.start()


def with_backlog(harness: ClientHarness) -> None:
    harness.start()
    harness.server.fall_silent()
    harness.client.add_task_bg("work", b"x" * 70_000).addErrback(lambda _: None)


def half_open(harness: ClientHarness) -> None:
    """The server neither reads nor answers."""
    harness.start()
    harness.server.fall_silent()


def with_removed_server(harness: ClientHarness) -> None:
    harness.start()
    harness.client.add_task("work").addErrback(lambda _: None)
    harness.advance()
    harness.client.job_servers = [MemoryJobServer(harness.clock).endpoint()]


@pytest.mark.guarantee(number=1)
@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("state", [with_admission_queue, with_backlog, half_open, with_removed_server])
def test_stop_with_tasks_in_flight_leaves_nothing_after_three_seconds(state: Callable[[ClientHarness], None]) -> None:
    harness = ClientHarness(max_in_flight=2, heartbeat=60.0)
    state(harness)
    tasks: list[Deferred[Any]] = [harness.client.add_task("work", timeout=99, retries=2) for _ in range(5)]
    tasks.append(harness.client.add_task_bg("work"))
    drained = harness.client.drain()
    stops = [harness.client.stopService(), harness.client.stopService()]
    assert {type(error) for error in outcomes(tasks)} == {ClientStopped}
    assert outcome(drained) is None
    harness.advance(3)
    assert NOTHING not in outcomes(stops)
    harness.stop()
