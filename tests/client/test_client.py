"""`GearmanClient` with job servers in memory: routing, starting and stopping, failures, queries, and validation."""

from __future__ import annotations

import datetime
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from twisted.application.service import IService, MultiService
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.error import ConnectionLost, TimeoutError

from txgearman import (
    ClientStopped,
    GearmanClient,
    JobHandle,
    JobStatus,
    NoServersAvailable,
    Priority,
    ProtocolError,
    ServerError,
    ServerState,
    Task,
    TaskException,
    TaskFailed,
    TaskLost,
)
from txgearman.packets import (
    ECHO_REQ,
    ERROR,
    GET_STATUS,
    GET_STATUS_UNIQUE,
    JOB_CREATED,
    OPTION_REQ,
    SUBMIT_JOB,
)
from txgearman.testing import MemoryJobServer, TakenJob

from ..client_harness import NOTHING, ClientHarness, outcome, outcomes, recording, take_all
from ..conftest import Failures
from ..garbage import is_freed
from ..wire import present

# Connecting.


def test_client_is_service() -> None:
    harness = ClientHarness()
    assert IService.providedBy(harness.client)
    parent = MultiService()
    harness.client.setServiceParent(parent)
    harness.advance()
    assert harness.connected() == [0]
    parent.startService()
    harness.advance()
    assert harness.client.running
    assert harness.client.servers[0].state is ServerState.READY
    stopped = parent.stopService()
    harness.advance()
    assert outcome(stopped) is not NOTHING
    assert not harness.client.running


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


def test_client_uses_global_reactor_by_default() -> None:
    client = GearmanClient(["127.0.0.1:1"])
    assert client._reactor is global_reactor


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
def test_sent_tasks_are_lost_with_connection_and_not_resent() -> None:
    harness = ClientHarness()
    harness.server.drop_after(SUBMIT_JOB)
    tasks: list[Deferred[Any]] = [harness.client.add_task("work"), harness.client.add_task_bg("work")]
    harness.advance()
    assert [(type(error), error.acknowledged) for error in outcomes(tasks)] == [(TaskLost, False)] * 2
    harness.advance(2)
    assert harness.server.connections[0].requests == [OPTION_REQ, GET_STATUS]
    harness.stop()


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize("half", [[], [("data", b"half")]], ids=["after JOB_CREATED", "after data"])
def test_acknowledged_task_is_lost_with_connection(half: list[tuple[str, bytes]]) -> None:
    harness = ClientHarness()
    seen: list[tuple[Any, ...]] = []
    task = harness.client.add_task("work", **recording(seen))
    job = harness.server.take("work")
    for _, data in half:
        job.send_data(data)
    harness.server.drop_connections()
    error = outcome(task)
    assert (type(error), error.acknowledged, type(error.__cause__)) == (TaskLost, True, ConnectionLost)
    assert seen == [("created",), *half, ("fail", error)]
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


# Guarantee 8: invalid arguments.


NAIVE = datetime.datetime(2030, 1, 1)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"function": ""}, ValueError, "function must not be empty"),
        ({"function": b"a\0b"}, ValueError, "function must not have a NUL"),
        ({"function": 5}, TypeError, "function must be str or bytes, not int"),
        ({"function": "f" * 8051}, ValueError, "function must have 8050 bytes at most, not 8051"),
        ({"function": "f" * 8050}, ValueError, "prefix and function must have 8050 bytes at most, not 8053"),
        ({"workload": "text"}, TypeError, "workload must be bytes, not str"),
        ({"workload": b"x" * 1001}, ValueError, "workload must have max_packet_size=1000 bytes at most, not 1001"),
        ({"unique": "a\0b"}, ValueError, "unique must not have a NUL"),
        ({"unique": b"u" * 64}, ValueError, "unique must have 63 bytes at most, not 64"),
        ({"unique": None}, TypeError, "unique must be str or bytes, not NoneType"),
        ({"priority": 1}, TypeError, "priority must be a Priority"),
        ({"on_created": "print"}, TypeError, "on_created must be callable, not str"),
        ({"on_complet": print}, TypeError, "a task has no option 'on_complet'"),
        ({"background": True}, TypeError, "multiple values for argument 'background'"),
    ],
)
@pytest.mark.parametrize("call", ["add_task", "add_task_bg", "stream"])
def test_invalid_task_arguments_raise_and_send_nothing(
    call: str, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
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
def test_naive_datetime_raises() -> None:
    harness = ClientHarness()
    with pytest.raises(ValueError, match="at must be an aware datetime"):
        harness.client.add_task_bg("work", at=NAIVE)
    harness.check_that_nothing_was_done()


@pytest.mark.guarantee(number=8)
def test_second_submit_of_task_raises() -> None:
    harness = ClientHarness()
    task = Task("work", b"x")
    harness.client.submit(task).addErrback(lambda _: None)
    with pytest.raises(ValueError, match="was submitted before"):
        harness.client.submit(task)
    assert take_all(harness.server) == [b"x"]
    harness.stop()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"prefix": "a\0b"}, ValueError, "prefix must not have a NUL"),
        ({"prefix": 7}, TypeError, "prefix must be str or bytes"),
        ({"max_packet_size": 0}, ValueError, "max_packet_size must be from 1 to 4294901760 bytes"),
        ({"max_packet_size": 1.5}, ValueError, "max_packet_size must be from 1 to 4294901760 bytes"),
        ({"max_packet_size": 2**32}, ValueError, "max_packet_size must be from 1 to 4294901760 bytes"),
        ({"max_packet_size": True}, ValueError, "max_packet_size must be from 1 to 4294901760 bytes"),
        ({"connect_timeout": 0}, ValueError, "connect_timeout must be a positive number of seconds"),
        ({"connect_timeout": float("nan")}, ValueError, "connect_timeout must be a positive number of seconds"),
        ({"job_servers": []}, ValueError, "job_servers must have at least one address"),
        ({"job_servers": ["a:b:c"]}, ValueError, "job_servers: an endpoint description must be valid, not 'a:b:c'"),
    ],
)
def test_invalid_client_arguments_raise(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        GearmanClient(**{"job_servers": ["127.0.0.1"], **options})


@pytest.mark.parametrize("prefix", ["pre", b"pre"])
def test_prefix_is_joined_to_function_by_tab(prefix: str | bytes) -> None:
    harness = ClientHarness(prefix=prefix)
    task = harness.client.add_task("work", b"x")
    harness.server.take("pre\twork").complete(b"y")
    assert outcome(task) == b"y"
    harness.stop()


def test_jobs_run_in_order_of_priority() -> None:
    harness = ClientHarness()
    for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH):
        harness.client.add_task("work", priority.name.encode(), priority=priority).addErrback(lambda _: None)
        harness.client.add_task_bg("work", b"BG " + priority.name.encode(), priority=priority)
    assert take_all(harness.server) == [b"HIGH", b"BG HIGH", b"NORMAL", b"BG NORMAL", b"LOW", b"BG LOW"]
    harness.stop()


# Guarantees 3 and 4: packets reach the tasks that they are for.


@pytest.mark.guarantee(number=3)
def test_refused_unique_fails_its_own_task() -> None:
    """The client refuses to send such a unique; the test makes it."""
    harness = ClientHarness()
    refused = Task("work", b"2")
    refused._leading_arguments = b"work\0" + b"u" * 65 + b"\0"
    tasks: list[Deferred[Any]] = [
        harness.client.add_task("work", b"1"),
        harness.client.submit(refused),
        harness.client.add_task("work", b"3"),
    ]
    for _ in range(2):
        job = harness.server.take("work")
        job.complete(job.workload)
    one, error, three = outcomes(tasks)
    assert (one, three) == (b"1", b"3")
    assert (error.code, error.text) == ("ARGUMENT_TOO_LARGE", "Unique value too large")
    harness.stop()


@pytest.mark.guarantee(number=4)
@pytest.mark.parametrize(
    ("end", "kind"), [(TakenJob.fail, TaskFailed), (lambda job: job.send_exception(b"x"), TaskException)]
)
def test_failure_of_shared_job_reaches_each_task_once(end: Callable[[TakenJob], None], kind: type[Exception]) -> None:
    harness = ClientHarness()
    tasks = [harness.client.add_task("work", unique="u") for _ in range(3)]
    end(harness.server.take("work"))
    errors = outcomes(tasks)
    assert [type(error) for error in errors] == [kind] * 3
    assert len({id(error) for error in errors}) == 3
    assert harness.client.servers[0].in_flight == 0
    harness.stop()


@pytest.mark.guarantee(number=4)
def test_cancelled_task_of_shared_job_takes_nothing_from_others() -> None:
    harness = ClientHarness()
    seen: list[list[tuple[Any, ...]]] = [[], [], []]
    tasks = [harness.client.add_task("work", unique="u", **recording(events)) for events in seen]
    job = harness.server.take("work")
    tasks[1].cancel()
    job.send_data(b"d")
    job.complete(b"done")
    assert outcomes(tasks[::2]) == [b"done"] * 2
    assert seen[0] == seen[2] == [("created",), ("data", b"d"), ("complete", b"done")]
    assert seen[1] == [("created",), ("fail", outcome(tasks[1]))]
    harness.stop()


@pytest.mark.guarantee(number=4)
def test_unique_dash_coalesces_by_workload() -> None:
    harness = ClientHarness().start()
    handles = [harness.client.add_task_bg("work", each, unique="-") for each in (b"a", b"a", b"b", b"", b"")]
    harness.advance()
    first, second, *others = outcomes(handles)
    assert first == second
    assert len({first, *others}) == 4
    harness.stop()


# Guarantees 6 and 9: cancel.


@pytest.mark.guarantee(number=6)
@pytest.mark.parametrize("early", [True, False], ids=["before JOB_CREATED", "after JOB_CREATED"])
def test_packets_for_cancelled_task_are_ignored(early: bool) -> None:
    harness = ClientHarness().start()
    seen: list[tuple[Any, ...]] = []
    task = harness.client.add_task("work", **recording(seen))
    if early:
        task.cancel()
    job = harness.server.take("work")
    task.cancel()
    job.send_data(b"late")
    job.complete(b"late")
    harness.check_that_it_works()
    assert seen == [*[("created",)] * (not early), ("fail", outcome(task))]
    harness.stop()


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


@pytest.mark.guarantee(number=9)
def test_failing_task_may_cancel_waiting_task() -> None:
    harness = ClientHarness()
    harness.server.refuse_connections()
    first, second = harness.client.add_task("work"), harness.client.add_task("work")
    first.addErrback(lambda _: second.cancel())
    harness.advance()
    assert type(outcome(second)) is CancelledError
    harness.stop()


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


@pytest.mark.guarantee(number=11)
def test_stop_takes_three_seconds_if_server_does_not_read() -> None:
    harness = ClientHarness().start()
    harness.server.fall_silent()
    stopped = harness.client.stopService()
    harness.advance(2.9)
    assert outcome(stopped) is NOTHING
    harness.advance(0.2)
    assert outcome(stopped) is not NOTHING
    harness.stop()


def test_stopped_client_can_be_started_again() -> None:
    harness = ClientHarness().start()
    harness.stop()
    harness.start()
    harness.check_that_it_works()
    harness.stop()


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


# Guarantee 13: callbacks are isolated.

EVENTS = ["on_created", "on_data", "on_warning", "on_status", "on_complete", "on_exception", "on_fail"]


def work(job: TakenJob, event: str) -> None:
    """Do a job so that this callback of its task is called."""
    job.send_data(b"d")
    job.send_warning(b"w")
    job.send_status(1, 2)
    if event == "on_exception":
        job.send_exception(b"x")
    elif event == "on_fail":
        job.fail()
    else:
        job.complete(b"done")


class CallbackScenario:
    """A client with two tasks; a callback of the first one performs an action."""

    def __init__(self, event: str, action: Callable[[CallbackScenario], object]) -> None:
        self.harness = ClientHarness().start()
        self.calls = 0
        self.more: list[Deferred[Any]] = []

        def act(*_: object) -> None:
            self.calls += 1
            action(self)

        options: dict[str, Any] = {event: act}
        with self.harness.server.hold_answers():  # so that all packets arrive in one read
            self.first = self.harness.client.add_task("work", b"1", **options)
            self.second = self.harness.client.add_task("work", b"2")
            work(self.harness.server.take("work"), event)
            self.harness.server.take("work").complete(b"done too")

    def finish(self) -> None:
        assert self.calls == 1
        assert outcome(self.first) is not NOTHING
        self.harness.stop()
        assert all(outcome(deferred) is not NOTHING for deferred in self.more)


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("event", EVENTS)
def test_callback_may_raise(event: str, logged_failures: Failures) -> None:
    def action(scenario: CallbackScenario) -> None:
        raise ZeroDivisionError("of the caller's own")

    scenario = CallbackScenario(event, action)
    assert len(logged_failures.flush(ZeroDivisionError)) == 1
    assert outcome(scenario.second) == b"done too"
    scenario.finish()


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("event", EVENTS)
def test_callback_may_cancel_its_own_task(event: str) -> None:
    scenario = CallbackScenario(event, lambda scenario: scenario.first.cancel())
    assert type(outcome(scenario.first)) is CancelledError
    assert outcome(scenario.second) == b"done too"
    scenario.finish()


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("event", EVENTS)
def test_callback_may_cancel_another_task(event: str) -> None:
    scenario = CallbackScenario(event, lambda scenario: scenario.second.cancel())
    assert type(outcome(scenario.second)) is CancelledError
    scenario.finish()


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("event", EVENTS)
def test_callback_may_add_task(event: str) -> None:
    scenario = CallbackScenario(
        event, lambda scenario: scenario.more.append(scenario.harness.client.add_task("work", b"3"))
    )
    assert outcome(scenario.second) == b"done too"
    scenario.harness.server.take("work").complete(b"third")
    assert outcome(scenario.more[0]) == b"third"
    scenario.finish()


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("event", EVENTS)
def test_callback_may_stop_service(event: str) -> None:
    scenario = CallbackScenario(event, lambda scenario: scenario.more.append(scenario.harness.client.stopService()))
    assert type(outcome(scenario.second)) is ClientStopped
    scenario.finish()


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("event", EVENTS)
def test_callback_may_stop_and_start_service(event: str) -> None:
    def action(scenario: CallbackScenario) -> None:
        scenario.more.append(scenario.harness.client.stopService())
        scenario.harness.client.startService()

    scenario = CallbackScenario(event, action)
    assert type(outcome(scenario.second)) is ClientStopped
    assert scenario.harness.client.servers[0].state is ServerState.READY
    scenario.finish()


@pytest.mark.guarantee(number=13)
def test_task_submitted_during_stop_fails_with_client_stopped() -> None:
    harness = ClientHarness()
    harness.server.black_hole_connections()
    again: list[Any] = []
    harness.client.add_task("work").addErrback(lambda _: again.append(outcome(harness.client.add_task("work"))))
    harness.advance()
    harness.stop()
    assert [type(error) for error in again] == [ClientStopped]


# Queries.


def test_get_status_asks_server_of_handle() -> None:
    harness = ClientHarness(2).start()
    submitted = harness.client.add_task_bg("work")
    harness.advance()
    handle: JobHandle = outcome(submitted)
    other = "memory:2" if handle.server == "memory:1" else "memory:1"
    answered = [harness.client.get_status(JobHandle(server, handle.handle)) for server in (handle.server, other)]
    harness.advance()
    assert outcomes(answered) == [JobStatus(True, False, 0, 0, None), JobStatus(False, False, 0, 0, None)]
    harness.stop()


def test_get_status_unique_returns_status() -> None:
    harness = ClientHarness()
    harness.client.add_task("work", unique="u").addErrback(lambda _: None)
    harness.server.take("work").send_status(3, 8)
    answered = harness.client.get_status_unique("u")
    harness.advance()
    assert outcome(answered) == JobStatus(True, True, 3, 8, 1)
    harness.stop()


def test_get_status_unique_asks_server_that_tasks_go_to() -> None:
    """If the first in rank is down, the next; if that one is lost before it answers, the one after it."""
    harness = ClientHarness(3)
    harness.client.add_task("work", unique="u").addErrback(lambda _: None)
    first = harness.take_anywhere()
    harness.servers[first].drop_connections()
    harness.client.add_task("work", unique="u").addErrback(lambda _: None)
    second = harness.take_anywhere()
    harness.servers[second].drop_before(GET_STATUS_UNIQUE)
    answered = harness.client.get_status_unique("u")
    harness.advance()
    third = harness.servers[3 - first - second].connections[0]
    assert (third.requests.count(GET_STATUS_UNIQUE), outcome(answered).known) == (1, False)
    harness.stop()


def test_get_status_fails_without_server() -> None:
    harness = ClientHarness(2)
    for server in harness.servers:
        server.refuse_connections()
    answered = [harness.client.get_status_unique("u"), harness.client.get_status(JobHandle("memory:2", b"H:1"))]
    harness.advance()
    errors = outcomes(answered)
    assert [type(error) for error in errors] == [NoServersAvailable] * 2
    assert [set(error.reasons) for error in errors] == [{"memory:1", "memory:2"}, {"memory:2"}]
    harness.stop()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("handle", "kind", "message"),
    [
        ("memory:1//H:1", TypeError, "handle must be a JobHandle, not str; see JobHandle.from_string"),
        (JobHandle("elsewhere:4730", b"H:1"), ValueError, "server must be one of .*, not 'elsewhere:4730'"),
        (JobHandle("memory:1", b""), ValueError, "handle must not be empty"),
        (JobHandle("memory:1", b"H" * 64), ValueError, "handle must have 63 bytes at most, not 64"),
        (JobHandle("memory:1", b"H\0"), ValueError, "handle must not have a NUL"),
    ],
)
def test_get_status_raises_for_invalid_handle(handle: Any, kind: type[Exception], message: str) -> None:
    harness = ClientHarness()
    with pytest.raises(kind, match=message):
        harness.client.get_status(handle)
    harness.check_that_nothing_was_done()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("unique", ["", b"", "-", b"-"])
def test_get_status_unique_raises_for_unique_without_job(unique: str | bytes) -> None:
    with pytest.raises(ValueError, match="unique must identify a job"):
        ClientHarness().client.get_status_unique(unique)


def test_echo_measures_round_trip_to_each_reachable_server() -> None:
    """The time that a server takes to connect does not count."""
    harness = ClientHarness(3)
    harness.server.refuse_connections()
    silence = harness.servers[1].fall_silent()
    harness.start()
    held = harness.servers[2].hold_answers()
    echoed = harness.client.echo(b"abc")
    harness.advance(1)
    held.release()
    harness.advance(0.25)
    assert outcome(echoed) is NOTHING
    silence.end()
    assert outcome(echoed) == {"memory:2": 0.0, "memory:3": 1.0}
    harness.stop()


def test_echo_measures_server_that_leaves_it_unanswered() -> None:
    """As geard does (H6): the answer to the fence counts."""
    harness = ClientHarness().start()
    harness.server.leave_unanswered(ECHO_REQ)
    with harness.server.hold_answers():
        echoed = harness.client.echo()
        harness.advance(0.5)
    assert outcome(echoed) == {"memory:1": 0.5}
    harness.stop()


def test_echo_fails_with_server_error_if_refused() -> None:
    harness = ClientHarness().start()
    harness.server.leave_unanswered(ECHO_REQ, GET_STATUS, times=2)
    echoed = harness.client.echo()
    harness.server.send_raw(ERROR.response(b"NO", b"never"))
    error = outcome(echoed)
    assert (type(error), str(error)) == (ServerError, "NO: never")
    harness.stop()


def test_echo_fails_without_server() -> None:
    harness = ClientHarness(2)
    for server in harness.servers:
        server.refuse_connections()
    echoed = harness.client.echo()
    harness.advance()
    error = outcome(echoed)
    assert (type(error), set(error.reasons)) == (NoServersAvailable, {"memory:1", "memory:2"})
    harness.stop()


@pytest.mark.parametrize("query", ["get_status", "get_status_unique"])
def test_cancelled_query_leaves_next_answer_alone(query: str) -> None:
    harness = ClientHarness().start()
    submitted = harness.client.add_task_bg("work", unique=b"u")
    harness.advance()
    subject = outcome(submitted) if query == "get_status" else b"u"
    answered = getattr(harness.client, query)(subject)
    again = getattr(harness.client, query)(subject)
    answered.cancel()
    harness.advance()
    assert type(outcome(answered)) is CancelledError
    assert outcome(again) == JobStatus(True, False, 0, 0, 0 if query == "get_status_unique" else None)
    harness.stop()


@pytest.mark.guarantee(number=11)
def test_cancelling_stop_does_not_undo_it() -> None:
    harness = ClientHarness().start()
    stopped = harness.client.stopService()
    stopped.cancel()
    assert type(outcome(stopped)) is CancelledError
    harness.stop()


def test_cancelled_echo_leaves_connections_alone() -> None:
    harness = ClientHarness(2).start()
    echoed = harness.client.echo()
    echoed.cancel()
    harness.advance()
    assert type(outcome(echoed)) is CancelledError
    assert harness.client.servers[0].state is ServerState.READY
    harness.stop()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        ("text", TypeError, "data must be bytes, not str"),
        (b"x" * 11, ValueError, "data must have max_packet_size=10 bytes at most, not 11"),
    ],
)
def test_echo_raises_for_invalid_data(data: Any, kind: type[Exception], message: str) -> None:
    harness = ClientHarness(max_packet_size=10)
    with pytest.raises(kind, match=message):
        harness.client.echo(data)
    harness.check_that_nothing_was_done()


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


def test_cancelling_stop_of_several_servers_does_not_undo_it() -> None:
    harness = ClientHarness(3).start()
    stopped = harness.client.stopService()
    stopped.cancel()
    assert type(outcome(stopped)) is CancelledError
    harness.stop()


@pytest.mark.guarantee(number=1)
def test_query_of_stopped_client_tries_no_other_server() -> None:
    harness = ClientHarness(2).start()
    harness.client.add_task("work", b"x", unique="u").addErrback(lambda _: harness.client.stopService())
    harness.servers[harness.take_anywhere()].drop_before(GET_STATUS_UNIQUE)
    answered = harness.client.get_status_unique("u")
    harness.advance()
    assert type(outcome(answered)) is ClientStopped
    harness.stop()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("task", ["work", None, b"work"])
def test_submit_raises_for_anything_but_task(task: Any) -> None:
    harness = ClientHarness()
    with pytest.raises(TypeError, match="task must be a Task, not "):
        harness.client.submit(task)
    harness.check_that_nothing_was_done()


# Changes of job_servers.


def test_added_server_is_connected_and_gets_tasks() -> None:
    harness = ClientHarness(2)
    both = harness.client.job_servers
    harness.client.job_servers = both[:1]
    harness.start()
    assert harness.connected() == [1, 0]
    harness.client.job_servers = both
    harness.advance()
    assert harness.connected() == [1, 1]
    for number in range(4):
        harness.client.add_task("work", b"%d" % number).addErrback(lambda _: None)
    assert [len(take_all(server)) for server in harness.servers] == [2, 2]
    harness.stop()


def test_removed_server_finishes_its_tasks() -> None:
    """It gets no more tasks, and is disconnected after the last outcome."""
    harness = ClientHarness(2).start()
    tasks = [harness.client.add_task("work", b"%d" % number) for number in range(4)]
    harness.advance()
    harness.client.job_servers = harness.client.job_servers[1:]
    assert [server.address for server in harness.client.servers] == ["memory:2"]
    later = [harness.client.add_task("work", b"later") for _ in range(3)]
    harness.advance(100)
    assert harness.connected() == [1, 1]
    assert len(harness.server.queued("work")) == 2
    for left in (1, 0):
        harness.server.take("work").complete(b"done")
        assert harness.connected() == [left, 1]
    while harness.servers[1].queued("work"):
        harness.servers[1].take("work").complete(b"done")
    assert outcomes([*tasks, *later]) == [b"done"] * 7
    harness.stop()


def test_removed_server_without_tasks_is_disconnected_at_once() -> None:
    harness = ClientHarness(2).start()
    harness.client.job_servers = harness.client.job_servers[1:]
    harness.advance()
    assert harness.connected() == [0, 1]
    harness.stop()


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("state", ["connecting", "in back-off"])
def test_removed_server_without_connection_leaves_nothing(state: str) -> None:
    harness = ClientHarness(2)
    both = harness.client.job_servers
    harness.client.job_servers = both[1:]
    harness.start().advance(20)
    assert harness.clock.getDelayedCalls() == []
    if state == "connecting":
        harness.server.black_hole_connections()
    else:
        harness.server.refuse_connections()
    harness.client.job_servers = both
    harness.advance()
    assert len(harness.clock.getDelayedCalls()) == 1
    harness.client.job_servers = both[1:]
    harness.advance()
    assert harness.clock.getDelayedCalls() == []
    harness.check_that_it_works(1)
    harness.stop()


@pytest.mark.guarantee(number=7)
def test_lost_connection_to_removed_server_is_not_retried() -> None:
    harness = ClientHarness(2).start()
    task = harness.client.add_task("work", unique="u")
    index = 0 if harness.advance() or harness.server.queued("work") else 1
    harness.client.job_servers = [harness.client.job_servers[1 - index]]
    harness.servers[index].drop_connections()
    assert type(outcome(task)) is TaskLost
    harness.advance(100)
    assert harness.connected()[index] == 0
    harness.stop()


@pytest.mark.guarantee(number=7)
def test_unsent_tasks_of_removed_server_go_to_another() -> None:
    harness = ClientHarness(2)
    both = harness.client.job_servers
    harness.client.job_servers = both[:1]
    harness.start()
    silence = harness.server.fall_silent()
    big = harness.client.add_task("work", b"x" * 70_000)
    waiting = harness.client.add_task("work", b"waiting")
    harness.client.job_servers = both[1:]
    harness.servers[1].take("work").complete(b"done")
    assert outcome(waiting) == b"done"
    assert outcome(big) is NOTHING
    silence.end()
    harness.server.take("work").complete(b"done")
    assert outcome(big) == b"done"
    assert harness.connected() == [0, 1]
    harness.stop()


@pytest.mark.guarantee(number=11)
def test_stop_disconnects_removed_servers() -> None:
    harness = ClientHarness(2).start()
    tasks = [harness.client.add_task("work") for _ in range(2)]
    harness.advance()
    harness.client.job_servers = harness.client.job_servers[1:]
    harness.advance()
    harness.stop()
    assert [type(error) for error in outcomes(tasks)] == [ClientStopped] * 2


@pytest.mark.guarantee(number=1)
def test_drain_awaits_tasks_of_removed_server() -> None:
    harness = ClientHarness(2).start()
    tasks = [harness.client.add_task("work") for _ in range(2)]
    harness.advance()
    harness.client.job_servers = harness.client.job_servers[1:]
    drained = harness.client.drain()
    harness.servers[1].take("work").complete(b"done")
    assert outcome(drained) is NOTHING
    harness.server.take("work").complete(b"done")
    assert (outcome(drained), outcomes(tasks)) == (None, [b"done"] * 2)
    harness.stop()


def test_server_may_be_added_again_before_it_is_disconnected() -> None:
    harness = ClientHarness(2).start()
    both = harness.client.job_servers
    tasks = [harness.client.add_task("work") for _ in range(2)]
    harness.advance()
    harness.client.job_servers = both[1:]
    harness.client.job_servers = both
    harness.advance()
    assert harness.connected() == [2, 1]
    for server in harness.servers:
        server.take("work").complete(b"done")
    assert outcomes(tasks) == [b"done"] * 2
    assert harness.connected() == [1, 1]
    harness.stop()


def test_get_status_raises_for_handle_of_removed_server() -> None:
    harness = ClientHarness(2).start()
    submitted = [harness.client.add_task_bg("work") for _ in range(2)]
    harness.advance()
    handles = sorted(outcomes(submitted))
    harness.client.job_servers = harness.client.job_servers[1:]
    with pytest.raises(ValueError, match="server must be one of memory:2, not 'memory:1'"):
        harness.client.get_status(handles[0])
    answered = harness.client.get_status(handles[1])
    harness.advance()
    assert outcome(answered).known
    harness.stop()


@pytest.mark.guarantee(number=1)
def test_queries_fail_if_connecting_server_is_removed() -> None:
    harness = ClientHarness(2)
    harness.server.black_hole_connections()
    both = harness.client.job_servers
    harness.client.job_servers = both[:1]
    answered: list[Deferred[Any]] = [harness.client.get_status_unique("u"), harness.client.echo()]
    harness.advance()
    harness.client.job_servers = both[1:]
    harness.advance()
    for error in outcomes(answered):
        assert (type(error), list(error.reasons)) == (NoServersAvailable, ["memory:1"])
    harness.stop()


def test_tasks_awaiting_server_go_to_added_server() -> None:
    harness = ClientHarness(2, server_wait=60.0)
    both = harness.client.job_servers
    harness.client.job_servers = both[:1]
    harness.server.refuse_connections()
    harness.start()
    tasks = [harness.client.add_task("work", b"%d" % number) for number in range(3)]
    harness.client.job_servers = both
    assert take_all(harness.servers[1]) == [b"0", b"1", b"2"]
    harness.stop()
    assert [type(error) for error in outcomes(tasks)] == [ClientStopped] * 3


@pytest.mark.guarantee(number=10)
def test_server_wait_ends_if_added_server_does_not_answer() -> None:
    harness = ClientHarness(2, server_wait=5.0, connect_timeout=8.0)
    both = harness.client.job_servers
    harness.client.job_servers = both[:1]
    harness.server.refuse_connections()
    harness.servers[1].black_hole_connections()
    harness.start()
    task = harness.client.add_task("work")
    harness.client.job_servers = both
    harness.advance(8 + 5)
    error = outcome(task)
    assert (type(error), set(error.reasons)) == (NoServersAvailable, {"memory:1", "memory:2"})
    harness.stop()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("job_servers", "kind"), [([], ValueError), ("127.0.0.1", TypeError), (["a:b:c"], ValueError), ([5], TypeError)]
)
def test_invalid_job_servers_change_nothing(job_servers: Any, kind: type[Exception]) -> None:
    harness = ClientHarness(2).start()
    before = harness.client.job_servers
    with pytest.raises(kind):
        harness.client.job_servers = job_servers
    assert harness.client.job_servers == before
    before.clear()  # it is a copy
    harness.advance()
    assert harness.connected() == [1, 1]
    handles = [harness.client.add_task_bg("work") for _ in range(2)]
    harness.advance()
    assert {handle.server for handle in outcomes(handles)} == {"memory:1", "memory:2"}
    harness.stop()


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("then", ["change", "stop", "stop and start"])
def test_callback_may_change_job_servers_during_change(then: str) -> None:
    harness = ClientHarness(4)
    addresses = harness.client.job_servers
    harness.client.job_servers = addresses[:2]
    harness.server.black_hole_connections()
    harness.servers[1].black_hole_connections()
    harness.start()

    def again(_: object) -> None:
        if then == "change":
            harness.client.job_servers = addresses[3:]
        else:
            harness.client.stopService()
        if then == "stop and start":
            harness.client.startService()

    harness.client.echo().addErrback(again)
    harness.client.job_servers = addresses[2:]
    harness.advance()
    assert harness.connected() == {"change": [0, 0, 0, 1], "stop": [0] * 4, "stop and start": [0, 0, 1, 1]}[then]
    if then == "stop":
        assert harness.clock.getDelayedCalls() == []
    else:
        harness.advance(20)
        assert harness.clock.getDelayedCalls() == []
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


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"max_in_flight": 0}, ValueError, "max_in_flight must be at least 1, not 0"),
        ({"max_in_flight": 1.5}, TypeError, "max_in_flight must be int, not float"),
        ({"server_wait": -1}, ValueError, "server_wait must be a positive number of seconds, not -1"),
        ({"server_wait": "1"}, TypeError, "server_wait must be a number of seconds, not str"),
        ({"server_timeout": 0}, ValueError, "server_timeout must be a positive number of seconds"),
        ({"heartbeat": 0}, ValueError, "heartbeat must be a positive number of seconds"),
        ({"job_check_interval": None}, TypeError, "job_check_interval must be a number of seconds, not NoneType"),
    ],
)
def test_invalid_policy_arguments_raise(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        GearmanClient(["127.0.0.1"], **options)


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


@pytest.mark.guarantee(number=9)
def test_cancel_drops_job_with_drop_on_cancel() -> None:
    server = MemoryJobServer()
    client = server.client()
    task = client.add_task("work", b"abc", drop_on_cancel=True)
    server.advance()
    assert take_all(server) == [b"abc"]
    handle = server.result_of(client.add_task_bg("work", b"def"))
    assert server.result_of(client.cancel_job(handle)) is None
    task.addErrback(lambda _: None)
    task.cancel()
    server.advance()
    assert not server.queued("work")
    server.close()


@pytest.mark.guarantee(number=9)
def test_cancel_abandons_task_if_job_cannot_be_dropped() -> None:
    """Because its server was removed, or the client was stopped."""
    server, other = MemoryJobServer(), MemoryJobServer()
    client = server.client()
    task = client.add_task("work", drop_on_cancel=True)
    server.advance()
    client.job_servers = [other.endpoint()]
    task.cancel()
    assert isinstance(outcome(task), CancelledError)
    handle = JobHandle(client.servers[0].address, b"H:memory:1")
    server.result_of(client.stopService())
    assert isinstance(outcome(client.cancel_job(handle)), ClientStopped)
    with pytest.raises(ValueError, match="server must be one of"):
        client.cancel_job(JobHandle("elsewhere:4730", b"H:memory:1"))
    server.close()
