"""`GearmanClient` with job servers in memory: routing, starting and stopping, failures, queries, and validation."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.error import TimeoutError
from twisted.python import threadable

from txgearman import (
    ClientStopped,
    GearmanClient,
    NoServersAvailable,
    Priority,
    ProtocolError,
    ServerState,
    Task,
    TaskException,
    TaskFailed,
    TaskLost,
)
from txgearman.packets import ERROR, GET_STATUS, JOB_CREATED, OPTION_REQ

from ..client_harness import NOTHING, ClientHarness, outcome, outcomes, take_all
from ..conftest import Failures
from ..garbage import is_freed

# Connecting.


@pytest.mark.parametrize("use", ["add_task", "add_task_bg", "get_status_unique"])
def test_client_connects_to_every_server_on_first_use(use: str) -> None:
    harness = ClientHarness(3)
    harness.advance()
    assert harness.connected() == [0, 0, 0]
    getattr(harness.client, use)("name").addErrback(lambda _: None)
    getattr(harness.client, use)("name").addErrback(lambda _: None)
    harness.start()
    assert harness.connected() == [1, 1, 1]
    harness.stop()


@pytest.mark.parametrize("stopped", [True, False])
def test_async_with_starts_and_stops_client(stopped: bool) -> None:
    harness = ClientHarness()

    async def use() -> bytes:
        async with harness.client as client:
            task = client.add_task("work")
            harness.server.take("work").complete(b"done")
            if stopped:
                await client.stopService()
            return await task

    used = ensureDeferred(use())
    harness.advance()
    assert outcome(used) == b"done"
    assert harness.client.servers[0].state is ServerState.STOPPED


@pytest.mark.parametrize(("exceptions", "kind"), [(True, TaskException), (False, TaskFailed)])
def test_client_asks_for_exceptions_if_enabled(exceptions: bool, kind: type[Exception]) -> None:
    harness = ClientHarness(exceptions=exceptions)
    task = harness.client.add_task("work")
    harness.server.take("work").send_exception(b"bo\0om")
    assert type(outcome(task)) is kind
    assert harness.server.connections[0].requests.count(OPTION_REQ) == exceptions
    harness.stop()


@pytest.mark.guarantee(number=10)
def test_connect_timeout_fails_waiting_task() -> None:
    harness = ClientHarness(connect_timeout=5.0)
    harness.server.black_hole_connections()
    task = harness.client.add_task("work")
    harness.advance(4.9)
    assert outcome(task) is NOTHING
    harness.advance(0.2)
    error = outcome(task)
    assert type(error) is NoServersAvailable
    assert [type(reason) for reason in error.reasons.values()] == [TimeoutError]
    harness.stop()


# Guarantee 7: unsent tasks fail over, sent ones are lost.


@pytest.mark.guarantee(number=7)
def test_tasks_wait_for_first_attempt_and_are_sent_in_order() -> None:
    harness = ClientHarness()
    silence = harness.server.fall_silent()
    tasks = [harness.client.add_task("work", b"%d" % number) for number in range(3)]
    harness.advance()
    assert harness.client.servers[0].in_flight == 0
    silence.end()
    assert take_all(harness.server) == [b"0", b"1", b"2"]
    assert outcomes(tasks) == [NOTHING] * 3
    assert harness.client.servers[0].in_flight == 3
    harness.stop()
    assert [type(error) for error in outcomes(tasks)] == [ClientStopped] * 3


@pytest.mark.guarantee(number=7)
def test_unsent_tasks_fail_over_until_every_server_has_failed() -> None:
    harness = ClientHarness(3)
    for server in harness.servers:
        server.fall_silent()
    tasks: list[Deferred[Any]] = [harness.client.add_task("work"), harness.client.add_task_bg("work", unique="u")]
    for server in harness.servers:
        assert outcomes(tasks) == [NOTHING] * 2
        server.drop_connections()
    for error in outcomes(tasks):
        assert type(error) is NoServersAvailable
        assert set(error.reasons) == {"memory:1", "memory:2", "memory:3"}
    assert type(outcome(harness.client.add_task("work"))) is NoServersAvailable
    harness.stop()


@pytest.mark.guarantee(number=7)
def test_unsent_tasks_fail_over_to_reachable_server() -> None:
    harness = ClientHarness(2)
    silences = [server.fall_silent() for server in harness.servers]
    tasks = [harness.client.add_task("work", b"%d" % number, unique=b"%d" % number) for number in range(10)]
    harness.advance()
    harness.server.drop_connections()
    silences[1].end()
    assert sorted(take_all(harness.servers[1])) == sorted(b"%d" % number for number in range(10))
    assert outcomes(tasks) == [NOTHING] * 10
    harness.stop()
    outcomes(tasks)


@pytest.mark.guarantee(number=7)
def test_server_that_never_answers_gets_no_task() -> None:
    """As gearmand at its limit of file descriptors (H12)."""
    harness = ClientHarness(2)
    with harness.server.hold_answers():
        for number in range(10):
            harness.client.add_task("work", b"%d" % number, unique=b"%d" % number).addErrback(lambda _: None)
        early = len(take_all(harness.servers[1]))
        assert harness.server.connections[0].requests == [OPTION_REQ, GET_STATUS]
        harness.advance(10.1)
        assert early + len(take_all(harness.servers[1])) == 10
    harness.stop()


@pytest.mark.guarantee(number=7)
def test_task_submitted_by_lost_task_goes_to_another_server() -> None:
    """State first: the lost connection is not chosen while its tasks fail."""
    harness = ClientHarness(2).start()
    again: list[Deferred[Any]] = []
    for _ in range(2):
        task = harness.client.add_task("work", b"first")
        task.addErrback(lambda _: again.append(harness.client.add_task("work", b"second")))
    harness.advance()
    harness.server.drop_connections()
    assert take_all(harness.servers[1]) == [b"first", b"second"]
    assert outcomes(again) == [NOTHING]
    harness.stop()
    assert {type(error) for error in outcomes(again)} == {ClientStopped}


@pytest.mark.guarantee(number=7)
def test_unique_dash_is_routed_by_workload() -> None:
    """Since jobs then coalesce by workload."""
    for workload in (b"a", b"b", b"c", b"d"):
        indices = []
        for unique in (b"-", workload):
            harness = ClientHarness(3)
            harness.client.add_task("work", workload, unique=unique).addErrback(lambda _: None)
            indices.append(harness.take_anywhere())
            harness.stop()
        assert indices[0] == indices[1]


NONSENSE = {
    "wrong magic": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "truncated packet": b"\0RES\0\0\0\x11\0\0\0\0\0RES\0\0\0\x14\0\0\0\x01x",
    "4 GiB header": b"\0RES\0\0\0\x08\xff\xff\xff\xff",
    "unexpected answer": JOB_CREATED.response(b"H:1"),
    "flood of ERROR": ERROR.response(b"NO", b"never") * 10_000,
}


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize("nonsense", NONSENSE)
def test_client_recovers_from_invalid_data_with_backoff(nonsense: str) -> None:
    """The connection is aborted, and retried after a delay."""
    harness = ClientHarness().start()
    task = harness.client.add_task("work")
    harness.server.send_raw(NONSENSE[nonsense])
    assert type(outcome(task)) is TaskLost
    others = outcomes([harness.client.add_task("work") for _ in range(50)])
    assert {type(error) for error in others} == {NoServersAvailable}
    assert type(harness.client.servers[0].last_error) is ProtocolError
    assert (harness.connected(), (harness.client.servers[0].next_attempt or 0) > 0.2) == ([0], True)
    harness.advance(2)
    harness.check_that_it_works()
    harness.stop()


# Threads: see test_service.


def test_task_on_clock_is_submitted_in_any_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = ClientHarness().start()
    monkeypatch.setattr(threadable, "ioThread", -1)
    harness.check_that_it_works()
    harness.stop()


# Guarantee 8: invalid arguments.


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"function": ""}, ValueError, "function must not be empty"),
        ({"function": "f" * 8050}, ValueError, "prefix and function must have 8050 bytes at most, not 8053"),
        ({"workload": "text"}, TypeError, "workload must be bytes, not str"),
        ({"workload": b"x" * 1001}, ValueError, "workload must have max_packet_size=1000 bytes at most, not 1001"),
        ({"on_complet": print}, TypeError, "a task has no option 'on_complet'"),
        ({"background": True}, TypeError, r"background must be left out: .* add_task_bg\(\) a background one"),
    ],
)
@pytest.mark.parametrize("call", ["add_task", "add_task_bg", "stream"])
def test_invalid_task_arguments_raise_and_send_nothing(
    call: str, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    """Of the task's arguments, see test_task_options."""
    harness = ClientHarness(prefix="pp", max_packet_size=1000)
    good = harness.client.add_task("work", b"good")
    with pytest.raises(kind, match=message):
        getattr(harness.client, call)(**{"function": "work", **options})
    job = harness.server.take("pp\twork")
    assert (job.workload, harness.client.servers[0].in_flight) == (b"good", 1)
    job.complete(b"done")
    assert outcome(good) == b"done"
    assert outcome(harness.client.drain()) is None
    harness.stop()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"prefix": "a\0b"}, ValueError, "prefix must not have a NUL"),
        ({"max_packet_size": 0}, ValueError, "max_packet_size must be from 1 to 4294901760 bytes"),
        ({"connect_timeout": 0}, ValueError, "connect_timeout must be a positive number of seconds"),
        ({"max_in_flight": 0}, ValueError, "max_in_flight must be at least 1, not 0"),
        ({"max_in_flight": 1.5}, TypeError, "max_in_flight must be int, not float"),
        ({"server_wait": -1}, ValueError, "server_wait must be a positive number of seconds, not -1"),
        ({"server_wait": "1"}, TypeError, "server_wait must be a number of seconds, not str"),
        ({"server_timeout": 0}, ValueError, "server_timeout must be a positive number of seconds"),
        ({"heartbeat": 0}, ValueError, "heartbeat must be a positive number of seconds"),
        ({"job_check_interval": None}, TypeError, "job_check_interval must be a number of seconds, not NoneType"),
        ({"job_servers": []}, ValueError, "job_servers must have at least one address"),
        ({"job_servers": ["a:b:c"]}, ValueError, "job_servers: an endpoint description must be valid, not 'a:b:c'"),
    ],
)
def test_invalid_client_arguments_raise(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        GearmanClient(**{"job_servers": ["127.0.0.1"], **options})


def test_jobs_run_in_order_of_priority() -> None:
    harness = ClientHarness()
    for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH):
        harness.client.add_task("work", priority.name.encode(), priority=priority).addErrback(lambda _: None)
        harness.client.add_task_bg("work", b"BG " + priority.name.encode(), priority=priority)
    assert take_all(harness.server) == [b"HIGH", b"BG HIGH", b"NORMAL", b"BG NORMAL", b"LOW", b"BG LOW"]
    harness.stop()


# Guarantees 6 and 9: cancel.


@pytest.mark.guarantee(number=9)
def test_task_cancelled_while_awaiting_connection_is_never_sent() -> None:
    harness = ClientHarness()
    silence = harness.server.fall_silent()
    tasks = [harness.client.add_task("work", b"%d" % number) for number in range(3)]
    harness.advance()
    tasks[1].cancel()
    assert type(outcome(tasks[1])) is CancelledError
    silence.end()
    assert take_all(harness.server) == [b"0", b"2"]
    harness.stop()
    assert [type(error) for error in outcomes(tasks[::2])] == [ClientStopped] * 2


# Guarantees 1 and 11: stopping.


def test_drain_awaits_tasks_submitted_meanwhile() -> None:
    harness = ClientHarness()
    assert outcome(harness.client.drain()) is None
    first = harness.client.add_task("work")
    drained, cancelled = harness.client.drain(), harness.client.drain()
    second: list[Deferred[bytes]] = []
    first.addCallback(lambda _: second.append(harness.client.add_task("work")))
    cancelled.cancel()
    assert type(outcome(cancelled)) is CancelledError
    harness.server.take("work").complete(b"")
    assert outcome(drained) is NOTHING
    harness.server.take("work").complete(b"done")
    assert outcome(drained) is None
    assert outcome(second[0]) == b"done"
    harness.stop()


# Guarantee 12: finished tasks are not retained.


@pytest.mark.guarantee(number=12)
@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("end", ["cancelled unsent", "cancelled unacknowledged", "cancelled", "done"])
def test_client_keeps_no_reference_to_ended_task(end: str) -> None:
    harness = ClientHarness() if end == "cancelled unsent" else ClientHarness().start()
    task = Task("work")
    watched = weakref.ref(task)
    deferred = harness.client.submit(task)
    del task
    deferred.addErrback(lambda _: None)
    if end in ("cancelled", "done"):
        job = harness.server.take("work")
    job.complete(b"") if end == "done" else deferred.cancel()
    assert is_freed(watched)
    harness.stop()


# Overlapping starts and stops.


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("task", ["work", None, b"work"])
def test_submit_raises_for_anything_but_task(task: Any) -> None:
    harness = ClientHarness()
    with pytest.raises(TypeError, match="task must be a Task, not "):
        harness.client.submit(task)
    harness.check_that_nothing_was_done()


# map and stream (see test_iteration) and cancel_job (see test_canceller).


def test_map_and_stream_yield_results() -> None:
    harness = ClientHarness().start()

    async def use() -> list[bytes]:
        results = [result async for result in harness.client.map("work", [b"1", b"2"])]
        return results + [chunk async for chunk in harness.client.stream("work", b"3")]

    used = ensureDeferred(use())
    for _ in range(3):
        job = harness.server.take("work")
        job.send_data(b"half of " + job.workload)
        job.complete(job.workload)
    assert outcome(used) == [b"1", b"2", b"half of 3", b"3"]
    harness.stop()


# Waiting for a server.


def test_when_ready_fires_once_a_server_is_ready() -> None:
    harness = ClientHarness(2)
    harness.servers[1].refuse_connections()
    ready = harness.client.when_ready()
    assert outcome(ready) is NOTHING
    harness.advance()
    assert (outcome(ready), outcome(harness.client.when_ready())) == (None, None)
    harness.stop()


def test_when_ready_fails_once_each_server_has_failed() -> None:
    harness = ClientHarness(2, server_wait=60.0)
    outages = [server.refuse_connections() for server in harness.servers]
    ready = harness.client.when_ready()
    harness.advance()
    error = outcome(ready)
    assert (type(error), set(error.reasons)) == (NoServersAvailable, {"memory:1", "memory:2"})
    assert type(outcome(harness.client.when_ready())) is NoServersAvailable
    for outage in outages:
        outage.end()
    harness.advance(2)
    assert outcome(harness.client.when_ready()) is None
    harness.stop()


def test_when_ready_fails_after_connect_timeout() -> None:
    harness = ClientHarness(connect_timeout=3.0)
    harness.server.black_hole_connections()
    ready = harness.client.when_ready()
    harness.advance(2.9)
    assert outcome(ready) is NOTHING
    harness.advance(0.2)
    assert type(outcome(ready)) is NoServersAvailable
    harness.stop()


@pytest.mark.guarantee(number=1)
def test_when_ready_fails_at_stop_and_after_it() -> None:
    harness = ClientHarness()
    harness.server.black_hole_connections()
    ready = harness.client.when_ready()
    harness.client.stopService()
    assert type(outcome(ready)) is ClientStopped
    assert type(outcome(harness.client.when_ready())) is ClientStopped
    harness.advance()


@pytest.mark.guarantee(number=13)
def test_callback_of_when_ready_may_stop_the_client() -> None:
    harness = ClientHarness()
    harness.client.when_ready().addCallback(lambda _: harness.client.stopService())
    task = harness.client.add_task("work")
    harness.advance()
    assert type(outcome(task)) is ClientStopped
    harness.stop()


def test_when_ready_counts_servers_that_were_replaced() -> None:
    harness = ClientHarness(2)
    harness.server.black_hole_connections()
    client = GearmanClient([harness.server.endpoint()], reactor=harness.clock, heartbeat=None)
    ready = client.when_ready()
    harness.advance()
    client.job_servers = [harness.servers[1].endpoint()]
    harness.advance()
    assert outcome(ready) is None
    client.stopService()
    harness.advance()


# Delays of reconnects.


def test_reconnect_delay_says_when_the_next_attempt_starts() -> None:
    asked: list[int] = []

    def reconnect_delay(failures: int) -> float:
        asked.append(failures)
        return 100.0 * failures

    harness = ClientHarness(reconnect_delay=reconnect_delay).start()
    harness.server.go_down()
    harness.advance()
    for failures in (1, 2, 3):
        assert harness.client.servers[0].next_attempt == 100.0 * failures
        harness.advance(100.0 * failures)
    assert asked == [1, 2, 3, 4]
    harness.stop()


def test_task_that_waits_brings_the_next_attempt_forward_whatever_the_delay() -> None:
    harness = ClientHarness(reconnect_delay=lambda failures: 1000.0, server_wait=10.0).start()
    outage = harness.server.go_down()
    harness.advance()
    outage.end()
    task = harness.client.add_task("work")
    harness.advance(2)
    harness.server.take("work").complete(b"done")
    assert outcome(task) == b"done"
    harness.stop()


@pytest.mark.guarantee(number=13)
def test_reconnect_delay_may_raise(logged_failures: Failures) -> None:
    def reconnect_delay(failures: int) -> float:
        raise ZeroDivisionError

    harness = ClientHarness(reconnect_delay=reconnect_delay).start()
    harness.server.drop_connections()
    harness.advance(2)
    harness.check_that_it_works()
    harness.stop()
    assert len(logged_failures.flush(ZeroDivisionError)) == 1
