"""Function groups: what their connections register, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from txgearman import (
    GearmanWorker,
    ServerState,
)
from txgearman.connection.protocol import CLOSE_TIMEOUT
from txgearman.packets import (
    CAN_DO,
    CAN_DO_TIMEOUT,
    CANT_DO,
    GRAB_JOB_ALL,
    PRE_SLEEP,
)
from txgearman.testing import MemoryJobServer
from txgearman.worker.groups import cancel_timer
from txgearman.worker.worker import POLL_INTERVAL

from ..wire import outcome
from .harness import (
    MINUTE,
    Slow,
    do_nothing,
    function_status,
    group_of,
    never_end,
    offers,
    packets_received,
    packets_since,
    results,
    running_jobs,
    slots_held,
    submit,
    submit_bg,
)

# Registration.


def test_registration_sends_can_do_on_open_connections(server: MemoryJobServer) -> None:
    worker = server.worker()
    start = len(packets_received(server))
    worker.register_function("f", do_nothing)
    assert packets_since(server, start) == [CAN_DO, GRAB_JOB_ALL, PRE_SLEEP]


def test_worker_without_functions_requests_no_job(server: MemoryJobServer) -> None:
    server.worker()
    server.advance(60)
    assert GRAB_JOB_ALL not in packets_received(server)[1:]  # the first is the handshake's


def test_unregistration_sends_cant_do_if_no_job_runs(server: MemoryJobServer) -> None:
    worker = server.worker()
    for name in ("f", "g"):
        worker.register_function(name, do_nothing)
    start = len(packets_since(server, 0))
    worker.unregister_function("f")
    assert packets_since(server, start) == [CANT_DO]


@pytest.mark.parametrize("name", ["f", "g"])
def test_unregistration_replaces_group_only_if_job_of_function_runs(server: MemoryJobServer, name: str) -> None:
    worker = server.worker()
    for each in ("f", "g"):
        worker.register_function(each, never_end)
    submit_bg(server, "f")
    group = group_of(worker)
    worker.unregister_function(name)
    assert (group_of(worker) is group) is (name == "g")


def test_unregistration_replaces_group_if_request_is_unanswered(server: MemoryJobServer) -> None:
    worker = server.worker()
    worker.register_function("f", do_nothing)
    server.advance()
    hold = server.hold_answers()
    server.advance(POLL_INTERVAL)
    group = group_of(worker)
    worker.unregister_function("f")
    assert group_of(worker) is not group
    hold.release()


# Stopping.


def test_group_can_be_stopped_twice(server: MemoryJobServer) -> None:
    worker = server.worker()
    worker.register_function("f", never_end)
    submit_bg(server, "f")
    group = group_of(worker)
    stopped = outcome(worker.stopService())
    server.advance()
    assert (stopped, slots_held(worker)) == ([], 1)
    group.stop()
    group.stop()
    server.advance()
    assert (stopped, slots_held(worker), group.states) == ([None], 0, {})


@pytest.mark.guarantee(number=11)
def test_group_without_connections_stops_at_once() -> None:
    worker = GearmanWorker([MemoryJobServer().endpoint()], reactor=Clock())
    group = group_of(worker)
    stopped = outcome(group.when_stopped())
    group.retire()
    group.stop()
    assert stopped == [None]


@pytest.mark.parametrize("make", [lambda clock: None, lambda clock: clock.callLater(1, lambda: None)])
def test_cancel_timer_leaves_no_timer(make: Callable[[Clock], Any]) -> None:
    clock = Clock()
    cancel_timer(make(clock))
    assert clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=11)
def test_unresponsive_peer_delays_stop_of_idle_worker_by_close_timeout_only(
    server: MemoryJobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drain time-out is for large results, which must not be cut off."""
    worker = server.worker(drain_timeout=60.0)
    worker.register_function("f", do_nothing)
    server.advance()
    (connection,) = group_of(worker).states
    monkeypatch.setattr(connection.transport, "loseConnection", lambda: None)  # as with TLS, it waits for the other end
    stopped = outcome(worker.stopService())
    server.advance(CLOSE_TIMEOUT - 0.1)
    assert stopped == []
    server.advance(0.2)
    assert len(stopped) == 1


# Registration at run time.


def test_functions_registered_before_start_are_offered(server: MemoryJobServer) -> None:
    worker = GearmanWorker([server.endpoint()], reactor=server.clock)
    worker.register_function("a", lambda job: b"a")
    worker.register_function("b", lambda job: b"b", max_jobs=1)
    worker.register_function("c", lambda job: b"c")
    worker.unregister_function("c")
    worker.startService()
    client = server.client()
    assert server.result_of(client.add_task("a")) + server.result_of(client.add_task("b")) == b"ab"
    assert set(function_status(server)) == {"a", "b"}
    server.result_of(worker.stopService())


@pytest.mark.parametrize("max_jobs", [None, 1])
def test_function_may_be_registered_and_unregistered_during_sleep(
    server: MemoryJobServer, max_jobs: int | None
) -> None:
    """A server wakes nobody for jobs that were queued before a CAN_DO: the worker must ask."""
    worker, client = server.worker(), server.client()
    worker.register_function("other", lambda job: None)
    for _ in range(3):
        done = outcome(client.add_task("f"))
        server.advance()
        worker.register_function("f", lambda job: b"done", max_jobs=max_jobs)
        server.advance()
        assert done == [b"done"]
        worker.unregister_function("f")
        server.advance()
        assert function_status(server)["f"] == (0, 0, 0)


@pytest.mark.parametrize("max_jobs", [None, 1])
def test_unregistration_keeps_running_jobs(
    server: MemoryJobServer, second: MemoryJobServer, max_jobs: int | None
) -> None:
    """At CANT_DO gearmand would give them to another worker."""
    slow = Slow()
    worker = server.worker(second)
    worker.register_function("slow", slow, max_jobs=max_jobs)
    worker.register_function("other", lambda job: b"other")
    outcomes = submit(server.client(), range(1)) + submit(second.client(), range(1, 2 if max_jobs is None else 1))
    server.advance()
    worker.unregister_function("slow")
    server.advance(MINUTE)
    later = submit(server.client(), range(5, 6))
    assert server.result_of(second.client().add_task("other")) == b"other"
    assert sum(map(running_jobs, (server, second))) == len(slow.running) == len(outcomes)
    slow.end_all()
    server.advance()
    assert (results(outcomes), results(later)) == ([b"0", b"1"][: len(outcomes)], [])
    assert function_status(server)["slow"] == (1, 0, 0)
    assert function_status(second).get("slow", (0, 0, 0)) == (0, 0, 0)


def test_unregistration_loses_no_job_if_requests_are_unanswered(
    server: MemoryJobServer, second: MemoryJobServer
) -> None:
    """The answer may be a job of the function."""
    slow, other = Slow(), Slow()
    worker = server.worker(second, max_jobs=4)
    worker.register_function("slow", slow)
    worker.register_function("other", other)
    clients = [each.client() for each in (server, second)]
    server.advance()
    held = [each.hold_answers() for each in (server, second)]
    outcomes = []
    for number, client in enumerate(clients):
        outcomes += submit(client, range(number * 10, number * 10 + 3))
        outcomes += submit(client, range(number * 10, number * 10 + 3), "other")
    server.advance(POLL_INTERVAL)
    assert slots_held(worker)
    worker.unregister_function("slow")
    server.advance(1)
    for each in held:
        each.release()
    for _ in range(20):
        server.advance(0.5)
        assert slots_held(worker) <= 4
        slow.end_all()
        other.end_all()
    assert len(other.jobs) == 6
    left = sum(function_status(each)["slow"][0] for each in (server, second))
    assert len(results(outcomes)) == 12 - left
    assert slots_held(worker) == 0
    assert len(slow.jobs) == 6 - left


def test_function_registered_anew_runs_beside_its_old_jobs(server: MemoryJobServer) -> None:
    old, new = Slow(), Slow()
    worker, client = server.worker(), server.client()
    worker.register_function("slow", old)
    first = submit(client, range(1))
    server.advance()
    worker.unregister_function("slow")
    worker.register_function("slow", new)
    second = submit(client, range(1, 3))
    server.advance()
    assert (old.started, new.started) == ([b"0"], [b"1", b"2"])
    assert running_jobs(server) == 3
    new.end_all()
    old.end_all()
    server.advance()
    assert results(first + second) == [b"0", b"1", b"2"]
    assert function_status(server)["slow"] == (0, 0, 1)


def test_old_connection_closes_after_its_last_job(server: MemoryJobServer) -> None:
    slow = Slow()
    worker = server.worker(client_id="w")
    worker.register_function("slow", slow)
    worker.register_function("other", lambda job: None)
    submit(server.client(), range(1))
    server.advance()
    worker.unregister_function("slow")
    server.advance()
    slow.end_all()
    server.advance()
    assert offers(server) == [("w", {"other"})]


@pytest.mark.parametrize("how", ["unregister", "stop"])
def test_retired_group_registers_nothing_at_reconnect(
    server: MemoryJobServer, second: MemoryJobServer, how: str
) -> None:
    """A job runs on one server, and the connection to the other one is lost, which is not needed any more."""
    slow = Slow()
    worker = server.worker(second, drain_timeout=100.0)
    worker.register_function("slow", slow)
    submit(server.client(), range(1))
    server.advance()
    if how == "stop":
        worker.stopService()
    else:
        worker.unregister_function("slow")
    server.advance()
    if second.connections:
        second.drop_connections()
    server.advance(40)
    assert len(slow.running) == 1
    offered = function_status(second)["slow"][2]
    slow.end_all()
    assert offered == 0


def test_unregistration_sends_cant_do_once(server: MemoryJobServer) -> None:
    """Where nothing runs."""
    worker = server.worker()
    worker.register_function("slow", lambda job: None)
    server.advance()
    worker.unregister_function("slow")
    server.advance()
    assert packets_received(server).count(CANT_DO) == 1


# Connections that are lost.


@pytest.mark.parametrize("lose_jobs", [True, False])
def test_reconnect_registers_current_functions(server: MemoryJobServer, lose_jobs: bool) -> None:
    worker = server.worker(client_id="w")
    worker.register_function("a", lambda job: b"a", timeout=30.0)
    worker.register_function("b", lambda job: b"b", max_jobs=2)
    worker.register_function("gone", lambda job: b"")
    server.advance()
    fault = server.go_down(lose_jobs=lose_jobs)
    worker.unregister_function("gone")
    worker.register_function("new", lambda job: b"n")
    server.advance(5)
    assert [info.state for info in worker.servers] == [ServerState.WAITING]
    fault.end()
    server.advance(MINUTE)
    assert offers(server) == [("w", {"a", "new"}), ("w", {"b"})]
    assert CAN_DO_TIMEOUT in packets_received(server)
    client = server.client()
    assert [server.result_of(client.add_task(name)) for name in ("a", "b", "new")] == [b"a", b"b", b"n"]
