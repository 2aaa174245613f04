"""Batches: many jobs with one Deferred, each with the outcome that a task of its own would have."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import provider

from txgearman import (
    BatchFailed,
    ClientStopped,
    JobHandle,
    NoServersAvailable,
    Priority,
    ProtocolError,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
    TaskTimedOut,
)
from txgearman.client import batches
from txgearman.packets import ERROR, JOB_CREATED, STATUS_RES, SUBMIT_JOB, SUBMIT_JOB_HIGH, SUBMIT_JOB_LOW_BG

from ..client_harness import ClientHarness, take_all
from ..client_harness import outcome as outcome_of
from ..garbage import is_freed
from ..wire import outcome
from .batch_harness import NOTHING, BatchHarness, RecordingClock
from .connection_harness import complete, created, exception, late, work_fail


def handles(count: int, first: int = 1) -> list[bytes]:
    return [b"H:%d" % number for number in range(first, first + count)]


def all_created(count: int, first: int = 1) -> list[bytes]:
    return [created(handle) for handle in handles(count, first)]


def refused(code: bytes = b"QUEUE_ERROR") -> bytes:
    return ERROR.response(code, b"full")


# Outcomes.


def test_batch_is_recorded_with_the_jobs_that_it_waits_for() -> None:
    """For the messages of `txgearman.testing`."""
    clock = RecordingClock()
    harness = BatchHarness(clock=clock)
    harness.add(b"a", b"b", b"c", b"d", uniques=["u", "v", "u", "w"])
    (batch,) = clock.txgearman_services.batches
    assert (batch.function, len(batch), batch.handles()) == ("f", 4, [])
    harness.server.send(created(b"H:1"), created(b"H:2"), created(b"H:1"))
    assert [handle.handle for handle in batch.handles()] == [b"H:2", b"H:1", b"H:1"]
    assert batch.handles()[0].server == "s0"


def test_results_come_in_order_of_workloads() -> None:
    harness = BatchHarness()
    batch = harness.add(b"a", b"b", b"c")
    assert harness.received() == [b"a", b"b", b"c"]
    harness.server.send(*all_created(3), complete(b"C", b"H:3"), complete(b"A", b"H:1"))
    assert (batch.outcomes, harness.in_flight) == (NOTHING, [1])
    harness.server.send(complete(b"B", b"H:2"))
    assert (batch.outcomes, harness.in_flight) == ([b"A", b"B", b"C"], [0])


def test_handles_of_background_jobs_come_in_order_of_workloads() -> None:
    harness = BatchHarness()
    batch = harness.add(b"a", b"b", b"c", background=True)
    harness.server.send(*all_created(2))
    assert (batch.outcomes, harness.in_flight) == (NOTHING, [1])
    harness.server.send(created(b"H:3"))
    assert (batch.outcomes, harness.in_flight, harness.drained) == ([b"H:1", b"H:2", b"H:3"], [0], True)
    (fired,) = batch.fired
    assert fired[1] == JobHandle("s0", b"H:2")
    assert list(fired[1:]) == [JobHandle("s0", b"H:2"), JobHandle("s0", b"H:3")]
    assert (len(fired), repr(fired)) == (3, "<JobHandles of 3 jobs>")


@pytest.mark.parametrize("background", [False, True])
def test_empty_batch_fires_at_once(background: bool) -> None:
    harness = BatchHarness()
    batch = harness.add(background=background, timeout=1.0)
    assert (batch.outcomes, harness.drained, harness.received()) == ([], True, [])


def test_submits_are_those_of_single_tasks() -> None:
    harness = BatchHarness(prefix="p")
    expected = []
    for options in ({}, {"uniques": "-"}, {"uniques": [b"u", "v"]}):
        for priority, packet_type in ((Priority.NORMAL, SUBMIT_JOB), (Priority.HIGH, SUBMIT_JOB_HIGH)):
            harness.client.add_tasks("f", iter([b"1", bytearray(b"\0\0")]), priority=priority, **options)  # type: ignore[arg-type]  # each test passes what it has
            uniques = {"-": [b"-", b"-"]}.get(str(options.get("uniques")), [b"u", b"v"] if options else [b"", b""])
            expected += [
                (packet_type, [b"p\tf", unique, data]) for unique, data in zip(uniques, (b"1", b"\0\0"), strict=True)
            ]
    assert harness.server.received() == expected
    harness.client.add_tasks_bg(b"f", [b"1"], priority=Priority.LOW)
    assert harness.server.received() == [(SUBMIT_JOB_LOW_BG, [b"p\tf", b"", b"1"])]


INVALID: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"workloads": "abc"}, TypeError, "workloads must be an iterable of bytes, not str"),
    ({"workloads": b"abc"}, TypeError, "workloads must be an iterable of bytes, not bytes"),
    ({"workloads": 5}, TypeError, "workloads must be an iterable of bytes, not int"),
    ({"workloads": [b"a", None]}, TypeError, r"workloads\[1\] must be bytes, not NoneType"),
    ({"workloads": [b"a", b"b" * 101]}, ValueError, r"workloads\[1\] must have max_packet_size=100 bytes at most"),
    ({"function": ""}, ValueError, "function must not be empty"),
    ({"function": "f" * 8050}, ValueError, "prefix and function must have 8050 bytes at most"),
    ({"uniques": "u"}, TypeError, "uniques must be None, '-' or an iterable of str or bytes, not 'u'"),
    ({"uniques": 5}, TypeError, "uniques must be None, '-' or an iterable of str or bytes, not 5"),
    ({"uniques": [b"a"]}, ValueError, "uniques must be as many as workloads, 2, not 1"),
    ({"uniques": [b"a", b"x" * 64]}, ValueError, r"uniques\[1\] must have 63 bytes at most, not 64"),
    ({"priority": 1}, TypeError, "priority must be a Priority, not 1"),
    ({"timeout": 0}, ValueError, "timeout must be a positive number of seconds, not 0"),
]


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize(("changed", "error", "text"), INVALID)
def test_invalid_argument_raises_at_call(
    changed: dict[str, Any], error: type[Exception], text: str, background: bool
) -> None:
    harness = BatchHarness(max_packet_size=100, prefix="p")
    add = harness.client.add_tasks_bg if background else harness.client.add_tasks
    arguments: dict[str, Any] = {"function": "f", "workloads": [b"a", b"b"], **changed}
    with pytest.raises(error, match=text):
        add(**arguments)
    assert (harness.server.received(), harness.drained) == ([], True)


@pytest.mark.guarantee(number=8)
def test_invalid_drop_on_cancel_raises_at_call() -> None:
    with pytest.raises(TypeError, match="drop_on_cancel must be bool, not int"):
        BatchHarness().add(b"a", drop_on_cancel=1)


# Failures, each in its own place.


@pytest.mark.guarantee(number=3)
@pytest.mark.parametrize("background", [False, True])
def test_refusal_fails_job_in_its_place(background: bool) -> None:
    harness = BatchHarness()
    before = outcome(harness.client.add_task("f", b"x"))
    batch = harness.add(b"a", b"b", b"c", b"d", background=background)
    after = outcome(harness.client.add_task_bg("f", b"y"))
    harness.server.send(
        created(b"H:x"), refused(), created(b"H:b"), refused(b"OTHER"), created(b"H:d"), created(b"H:y")
    )
    harness.server.send(*(complete(handle, handle) for handle in (b"H:x", b"H:b", b"H:d")))
    assert batch.outcomes == [TaskRejected, b"H:b", TaskRejected, b"H:d"]
    assert [(error.code, error.task.workload) for error in batch.errors] == [("QUEUE_ERROR", b"a"), ("OTHER", b"c")]
    assert (before, after) == ([b"H:x"], [JobHandle("s0", b"H:y")])
    assert (harness.in_flight, harness.drained) == ([0], True)
    assert str(batch.fired[0]) == "2 of 4 jobs failed, the first with: f: rejected: QUEUE_ERROR: full"


def test_batch_goes_on_past_failures() -> None:
    harness = BatchHarness()
    batch = harness.add(b"a", b"b", b"c", b"d")
    harness.server.send(*all_created(4), exception(b"no", b"H:1"), work_fail(b"H:2"), complete(b"r", b"H:3"))
    assert (batch.outcomes, harness.in_flight) == (NOTHING, [1])
    harness.server.send(work_fail(b"H:4"))
    assert batch.outcomes == [TaskException, TaskFailed, b"r", TaskFailed]
    error = batch.errors[0]
    assert (error.data, error.task.handle, error.task.server) == (b"no", JobHandle("s0", b"H:1"), "s0")
    assert (harness.in_flight, harness.drained) == ([0], True)


def test_progress_of_job_is_ignored() -> None:
    harness = BatchHarness()
    batch = harness.add(b"a")
    harness.server.send(created(b"H:1"), *late(b"H:1")[:3], complete(b"r", b"H:1"))
    assert batch.outcomes == [b"r"]


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize("background", [False, True])
def test_lost_connection_fails_jobs_that_were_sent(background: bool) -> None:
    harness = BatchHarness()
    batch = harness.add(b"a", b"b", b"c", background=background)
    harness.server.send(created(b"H:1"))
    harness.server.lose()
    assert batch.outcomes == [b"H:1" if background else TaskLost, TaskLost, TaskLost]
    assert [error.acknowledged for error in batch.errors] == ([] if background else [True]) + [False, False]
    assert all(error.__cause__ is not None for error in batch.errors)
    assert (harness.in_flight, harness.drained) == ([0], True)


@pytest.mark.guarantee(number=7)
def test_lost_connection_fails_jobs_that_were_all_acknowledged() -> None:
    harness = BatchHarness()
    batch = harness.add(b"a", b"b", b"c")
    harness.server.send(*all_created(3), complete(b"r", b"H:2"))
    harness.server.lose()
    assert batch.outcomes == [TaskLost, b"r", TaskLost]
    assert harness.drained


@pytest.mark.guarantee(number=16)
def test_forgotten_job_is_lost() -> None:
    harness = BatchHarness(job_check_interval=8.0)
    batch = harness.add(b"a", b"b")
    harness.server.send(*all_created(2))
    harness.received()
    harness.clock.pump([4.0] * 3)
    assert harness.queried() == [b"H:1", b"H:2"]
    harness.server.send(
        *(STATUS_RES.response(handle, known, b"0", b"0", b"0") for handle, known in ((b"H:1", b"0"), (b"H:2", b"1")))
    )
    assert (batch.outcomes, harness.in_flight) == (NOTHING, [1])
    harness.server.send(complete(b"r", b"H:2"))
    assert batch.outcomes == [TaskLost, b"r"]
    assert [(error.forgotten, error.acknowledged) for error in batch.errors] == [(True, True)]


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize("answer", [JOB_CREATED.response(b""), complete(b"r"), created() + created()])
def test_wrong_answer_closes_connection(answer: bytes) -> None:
    harness = BatchHarness()
    batch = harness.add(b"a", b"b")
    harness.server.send(answer)
    if answer == complete(b"r"):  # of no job of this client: it is ignored
        assert batch.outcomes == NOTHING
        return
    harness.clock.advance(0)
    assert batch.outcomes == [TaskLost, TaskLost]
    assert isinstance(batch.errors[0].__cause__, ProtocolError)
    assert harness.drained


def test_server_that_answers_slowly_is_not_silent() -> None:
    """Each answer to a part counts as progress, not the last one alone."""
    harness = BatchHarness(server_timeout=4.0)
    batch = harness.add(*handles(6))
    for answer in (*all_created(5), refused()):
        harness.clock.advance(2.0)
        harness.server.send(answer)
    assert harness.in_flight == [5]
    harness.server.send(*(complete(b"r", handle) for handle in handles(5)))
    assert batch.outcomes == [b"r"] * 5 + [TaskRejected]


def test_server_that_does_not_answer_is_silent() -> None:
    harness = BatchHarness(server_timeout=4.0)
    batch = harness.add(*handles(3))
    harness.server.send(created(b"H:1"))
    harness.clock.pump([2.0] * 4)
    assert batch.outcomes == [TaskLost] * 3


def test_results_that_come_together_go_to_their_jobs() -> None:
    """Those of tasks, other batches, and jobs that nobody waits for come in between."""
    harness = BatchHarness()
    first, second = harness.add(b"a", b"b", b"c"), harness.add(b"d", b"e")
    result = outcome(harness.client.add_task("f", b"x"))
    cancelled = harness.add(b"y", b"z")
    harness.server.send(*all_created(8))
    cancelled.deferred.cancel()
    harness.server.send(*(complete(b"r%d" % number, b"H:%d" % number) for number in (1, 3, 4, 7, 9, 2, 6, 8, 5)))
    assert (first.outcomes, second.outcomes) == ([b"r1", b"r2", b"r3"], [b"r4", b"r5"])
    assert (result, cancelled.outcomes) == ([b"r6"], CancelledError)
    assert (harness.in_flight, harness.drained) == ([0], True)


# Coalescing.


@pytest.mark.guarantee(number=4)
def test_jobs_of_batch_share_job() -> None:
    harness = BatchHarness()
    batch = harness.add(b"a", b"b", b"c", b"d", uniques=["u", "v", "u", "u"])
    harness.server.send(created(b"H:u"), created(b"H:v"), created(b"H:u"), created(b"H:u"))
    assert harness.in_flight == [4]
    harness.server.send(*late(b"H:u")[:3] * 3, complete(b"r", b"H:v"), *[complete(b"R", b"H:u")] * 3)
    assert (batch.outcomes, harness.in_flight, harness.drained) == ([b"R", b"r", b"R", b"R"], [0], True)


@pytest.mark.guarantee(number=4)
@pytest.mark.parametrize("end", [complete(b"R", b"H:u"), work_fail(b"H:u"), exception(b"e", b"H:u")])
def test_jobs_of_batch_share_job_with_tasks(end: bytes) -> None:
    harness = BatchHarness()
    before = outcome(harness.client.add_task("f", b"x", unique=b"u"))
    batch = harness.add(b"a", b"b", uniques=[b"u", b"v"])
    after = [outcome(harness.client.add_task("f", b"y", unique=unique)) for unique in (b"u", b"v")]
    harness.server.send(*map(created, (b"H:u", b"H:u", b"H:v", b"H:u", b"H:v")))
    harness.server.send(*[end] * 3, *[complete(b"r", b"H:v")] * 2)
    kind = b"R" if b"R" in end[4:] else (TaskException if end == exception(b"e", b"H:u") else TaskFailed)
    assert batch.outcomes == [kind, b"r"]
    shown = [
        [type(value) if isinstance(value, Exception) else value for value in values] for values in (before, *after)
    ]
    assert shown == [[kind], [kind], [b"r"]]
    assert (harness.in_flight, harness.drained) == ([0], True)


@pytest.mark.guarantee(number=4)
def test_background_jobs_share_handle() -> None:
    harness = BatchHarness()
    batch = harness.add(b"a", b"b", uniques="-", background=True)
    harness.server.send(created(b"H:1"), created(b"H:1"))
    assert batch.outcomes == [b"H:1", b"H:1"]


@pytest.mark.guarantee(number=4)
def test_job_joins_job_of_failed_task() -> None:
    """An administrator has cancelled the job, which runs on: copies for both arrive (D2)."""
    harness = BatchHarness()
    failed = harness.add(b"a", uniques=[b"u"])
    harness.server.send(created(b"H:1"), work_fail(b"H:1"))
    batch = harness.add(b"b", b"c", uniques=[b"u", b"v"])
    harness.server.send(
        created(b"H:1"), created(b"H:2"), complete(b"r", b"H:2"), complete(b"R", b"H:1"), complete(b"R", b"H:1")
    )
    assert (failed.outcomes, batch.outcomes) == ([TaskFailed], [b"R", b"r"])


@pytest.mark.guarantee(number=4)
@pytest.mark.parametrize("cancelled", ["batch", "task"])
def test_copies_for_cancelled_are_not_those_of_others(cancelled: str) -> None:
    harness = BatchHarness()
    batch = harness.add(b"a", b"b", uniques=[b"u", b"w"])
    task = harness.client.add_task("f", b"x", unique=b"u")
    result = outcome(task)
    harness.server.send(*map(created, (b"H:u", b"H:w", b"H:u")))
    (batch.deferred if cancelled == "batch" else task).cancel()
    harness.server.send(*late(b"H:u")[:3], *late(b"H:u")[:3], *[complete(b"R", b"H:u")] * 2, complete(b"r", b"H:w"))
    if cancelled == "batch":
        assert (batch.outcomes, result) == (CancelledError, [b"R"])
    else:
        assert (batch.outcomes, type(result[0])) == ([b"R", b"r"], CancelledError)
    assert (harness.in_flight, harness.drained) == ([0], True)


@pytest.mark.guarantee(number=4)
def test_lost_connection_fails_shared_jobs() -> None:
    harness = BatchHarness()
    batch = harness.add(b"a", b"b", b"c", uniques=[b"u", b"u", b"v"])
    harness.server.send(*map(created, (b"H:u", b"H:u", b"H:v")))
    harness.server.lose()
    assert batch.outcomes == [TaskLost] * 3
    assert harness.drained


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("single", [False, True])
def test_one_handle_for_two_jobs_closes_connection(single: bool) -> None:
    """A server with a very long host name truncates handles (H10)."""
    harness = BatchHarness()
    batch = harness.add(b"a", b"b")
    if single:
        task = outcome(harness.client.add_task("f", b"x"))
        harness.server.send(created(b"H:1"), created(b"H:2"), created(b"H:2"))
        assert type(task[0]) is TaskLost
    else:
        harness.server.send(created(b"H:1"), created(b"H:1"))
    assert batch.outcomes == [TaskLost, TaskLost]
    assert isinstance(batch.errors[0].__cause__, ProtocolError)
    assert harness.drained


# Cancelling and time-outs.


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("background", [False, True])
def test_cancelled_before_server_has_answered(background: bool) -> None:
    harness = BatchHarness()
    batch = harness.add(b"a", b"b", b"c", background=background)
    harness.server.send(created(b"H:1"))
    batch.deferred.cancel()
    assert (batch.outcomes, harness.in_flight, harness.drained) == (CancelledError, [0], True)
    after = harness.add(b"d")
    harness.server.send(created(b"H:2"), refused(), created(b"H:4"))
    harness.server.send(*late(b"H:1"), *late(b"H:2"), complete(b"r", b"H:4"))
    assert after.outcomes == [b"r"]


@pytest.mark.guarantee(number=9)
def test_cancelled_while_run_of_answers_spans_it() -> None:
    harness = BatchHarness()
    first, second, third = harness.add(b"a", b"b"), harness.add(b"c", b"d"), harness.add(b"e", b"f")
    second.deferred.cancel()
    task = outcome(harness.client.add_task("f", b"x"))
    harness.server.send(*all_created(7))
    harness.server.send(*(complete(handle, handle) for handle in handles(7)))
    assert (first.outcomes, third.outcomes, task) == ([b"H:1", b"H:2"], [b"H:5", b"H:6"], [b"H:7"])


@pytest.mark.guarantee(number=9)
def test_lost_connection_after_cancel() -> None:
    harness = BatchHarness()
    batch = harness.add(b"a", b"b")
    harness.server.send(created(b"H:1"))
    batch.deferred.cancel()
    harness.server.lose()
    assert (batch.outcomes, harness.drained) == (CancelledError, True)


@pytest.mark.guarantee(number=10)
def test_timeout_fails_jobs_without_outcome() -> None:
    harness = BatchHarness()
    batch = harness.add(*handles(5), uniques=["u", "u", "v", "w", "x"], timeout=3.0)
    harness.server.send(*map(created, (b"H:u", b"H:u", b"H:v", b"H:w")), complete(b"r", b"H:v"))
    counts = []
    batch.deferred.addCallback(lambda _: counts.append(harness.in_flight))
    harness.clock.advance(3.0)
    assert batch.outcomes == [TaskTimedOut, TaskTimedOut, b"r", TaskTimedOut, TaskTimedOut]
    assert [error.task.handle and error.task.handle.handle for error in batch.errors] == [b"H:u", b"H:u", b"H:w", None]
    assert {error.task.timeout for error in batch.errors} == {3.0}
    assert (counts, harness.in_flight, harness.drained) == ([[0]], [0], True)


@pytest.mark.guarantee(number=10)
def test_batch_that_ends_leaves_no_timer() -> None:
    harness = BatchHarness()
    batch = harness.add(b"a", timeout=1000.0)
    harness.server.send(created(b"H:1"), complete(b"r", b"H:1"))
    assert batch.outcomes == [b"r"]
    assert max(call.getTime() for call in harness.clock.getDelayedCalls()) < 900


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("end", ["cancel", "time out"])
def test_drop_on_cancel_has_servers_drop_jobs(end: str) -> None:
    harness = ClientHarness().start()
    deferred = harness.client.add_tasks("work", [b"a", b"b"], drop_on_cancel=True, timeout=1.0)
    later = (
        harness.client.add_tasks("work", [b"c", b"d"], drop_on_cancel=True, timeout=1.0) if end == "cancel" else None
    )
    if later is None:
        harness.advance()
        harness.advance(1.0)
    else:
        later.cancel()  # before the server has answered
        harness.advance()
        deferred.cancel()
    harness.advance()
    assert harness.server.queued("work") == []
    assert type(outcome_of(deferred)) is (CancelledError if end == "cancel" else BatchFailed)
    if later is not None:
        assert type(outcome_of(later)) is CancelledError


@pytest.mark.guarantee(number=9)
def test_drop_on_cancel_has_server_drop_shared_job() -> None:
    harness = ClientHarness().start()
    deferred = harness.client.add_tasks("work", [b"a", b"b", b"c"], uniques=["u", "u", "v"], drop_on_cancel=True)
    harness.advance()
    assert len(harness.server.queued("work")) == 2
    deferred.cancel()
    harness.advance()
    assert harness.server.queued("work") == []
    assert type(outcome_of(deferred)) is CancelledError


def test_client_is_drained_once_cancelled_batch_has_its_outcome() -> None:
    harness = BatchHarness()
    batch = harness.add(b"a", b"b")
    order: list[Any] = []
    batch.deferred.addCallback(lambda _: order.append("outcome"))
    harness.client.drain().addCallback(lambda _: order.append("drained"))
    batch.deferred.cancel()
    assert (order, batch.outcomes) == (["outcome", "drained"], CancelledError)


# Which server.


@pytest.mark.parametrize("background", [False, True])
def test_jobs_are_spread_over_servers(background: bool) -> None:
    harness = BatchHarness(4)
    batch = harness.add(*handles(400), background=background)
    counts = [len(harness.received(index)) for index in range(4)]
    assert sum(counts) == 400
    assert min(counts) >= 75
    for index, count in enumerate(counts):
        harness.endpoints[index].server.send(*(created(b"H:%d" % number) for number in range(count)))
        harness.endpoints[index].server.send(*(complete(b"r", b"H:%d" % number) for number in range(count)))
    if background:
        assert {handle.server for handle in batch.fired[0]} == {"s0", "s1", "s2", "s3"}
    else:
        assert batch.outcomes == [b"r"] * 400


def test_background_jobs_count_for_choice_of_server() -> None:
    harness = BatchHarness(2)
    harness.add(*handles(800), background=True)
    counts = [len(harness.received(index)) for index in range(2)]
    for number in range(200):
        harness.client.add_task_bg("f", b"%d" % number)
    counts = [count + len(harness.received(index)) for index, count in enumerate(counts)]
    assert abs(counts[0] - counts[1]) <= 100


@pytest.mark.parametrize("uniques", ["-", [b"%d" % (number % 40) for number in range(160)]])
def test_jobs_go_to_servers_of_their_uniques(uniques: Any) -> None:
    """As single tasks do, so that both coalesce."""
    harness = BatchHarness(3)
    harness.add(*(b"%d" % (number % 40) for number in range(160)), uniques=uniques, background=True)
    received = [harness.received(index) for index in range(3)]
    assert sum(map(len, received)) == 160
    for number in range(40):
        harness.client.add_task("f", b"%d" % number, unique=b"%d" % number)
    for index in range(3):
        assert set(harness.received(index)) == set(received[index])


def test_handles_of_background_jobs_with_uniques_are_in_their_places() -> None:
    harness = BatchHarness(3)
    workloads = [b"%d" % number for number in range(40)]
    batch = harness.add(
        *workloads, uniques=[b"" if number % 4 else b"u%d" % number for number in range(40)], background=True
    )
    for index in range(3):
        harness.endpoints[index].server.send(*(created(b"H:" + workload) for workload in harness.received(index)))
    assert batch.outcomes == [b"H:" + workload for workload in workloads]


def test_jobs_wait_for_servers_that_connect() -> None:
    """Each server that becomes ready gets its share of one batch."""
    harness = ClientHarness(3)
    deferred = harness.client.add_tasks("work", handles(300))
    harness.advance()
    taken = [take_all(server) for server in harness.servers]
    assert sorted(workload for workloads in taken for workload in workloads) == sorted(handles(300))
    assert [len(jobs) for jobs in taken] == [100, 100, 100]
    assert not deferred.called
    outcome_of(deferred)


def test_jobs_with_uniques_wait_for_their_servers() -> None:
    harness = ClientHarness(3)
    workloads = [b"%d" % number for number in range(60)]
    deferred = harness.client.add_tasks("work", workloads, uniques=workloads)
    harness.advance()
    for workload in workloads:
        outcome_of(harness.client.add_task("work", workload, unique=workload))
    harness.advance()
    assert sum(len(take_all(server)) for server in harness.servers) == 60
    outcome_of(deferred)


@pytest.mark.parametrize("uniques", [None, "-"])
def test_batch_waits_for_server_up_to_server_wait(uniques: str | None) -> None:
    harness = ClientHarness(2, server_wait=5.0)
    outages = [server.go_down() for server in harness.servers]
    harness.start()
    first = harness.client.add_tasks("work", [b"a", b"b"], uniques=uniques)
    harness.advance(5.0)
    assert [type(error) for error in outcome_of(first).outcomes] == [NoServersAvailable] * 2
    second = harness.client.add_tasks("work", [b"c", b"d"], uniques=uniques)
    for outage in outages:
        outage.end()
    harness.advance(2.0)
    harness.advance(2.0)
    for server in harness.servers:
        while server.queued("work"):
            server.take("work").complete(b"r")
    harness.advance()
    assert outcome_of(second) == [b"r", b"r"]


def test_batch_fails_at_once_if_no_server_can_be_reached() -> None:
    harness = ClientHarness(1)
    harness.server.go_down()
    harness.start()
    error = outcome_of(harness.client.add_tasks("work", [b"a", b"b"]))
    assert [type(outcome) for outcome in error.outcomes] == [NoServersAvailable] * 2


# Back-pressure.


def test_rest_of_batch_waits_while_writing_is_paused() -> None:
    harness = BatchHarness()
    connection = harness.server.protocol
    connection.pauseProducing()
    batch = harness.add(b"a", b"b", b"c")
    task = outcome(harness.client.add_task("f", b"x"))
    assert (harness.received(), harness.in_flight, connection._load) == ([], [0], 4)
    connection.resumeProducing()
    assert (harness.received(), harness.in_flight) == ([b"a", b"b", b"c", b"x"], [4])
    harness.server.send(*all_created(4), *(complete(handle, handle) for handle in handles(4)))
    assert (batch.outcomes, task) == ([b"H:1", b"H:2", b"H:3"], [b"H:4"])


def pause_after_each_write(harness: BatchHarness, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the transport pause its producer after each write; return a list of the sizes of writes."""
    sizes: list[int] = []
    transport = harness.server.transport
    write = transport.write

    def write_and_pause(data: bytes) -> None:
        sizes.append(len(data))
        write(data)
        harness.server.protocol.pauseProducing()

    monkeypatch.setattr(transport, "write", write_and_pause)
    monkeypatch.setattr(transport, "writeSequence", lambda data: write_and_pause(b"".join(data)))
    return sizes


def test_batch_is_written_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The write buffer gets what fills it, and what comes later waits behind the rest."""
    harness = BatchHarness()
    sizes = pause_after_each_write(harness, monkeypatch)
    workloads = [b"%05d" % number * 2000 for number in range(10)] + [b"x" * 100_000, b"y"]
    harness.add(*workloads)
    outcome(harness.client.add_task("f", b"last"))
    received = [harness.received()]
    while harness.client.servers[0].in_flight < 13:
        harness.server.protocol.resumeProducing()
        received.append(harness.received())
    assert received == [workloads[:6], workloads[6:11], [b"y", b"last"]]
    assert len(sizes) == 3


def test_part_has_limited_number_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_PART_JOBS", 10)
    harness = BatchHarness()
    pause_after_each_write(harness, monkeypatch)
    batch = harness.add(*handles(25))
    assert len(harness.received()) == 10
    harness.server.send(*all_created(10))
    harness.server.protocol.resumeProducing()
    harness.server.protocol.resumeProducing()
    assert len(harness.received()) == 15
    harness.server.send(*all_created(15, 11), *(complete(handle, handle) for handle in handles(25)))
    assert batch.outcomes == handles(25)


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize("uniques", [None, "-"])
def test_jobs_that_were_not_sent_fail_over(uniques: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    harness = BatchHarness(2)
    paused = [endpoint.server for endpoint in harness.endpoints]
    for server in paused:
        server.protocol.pauseProducing()
    batch = harness.add(*handles(40), uniques=uniques)
    paused[0].lose()
    paused[1].protocol.resumeProducing()
    assert sorted(harness.received(1)) == sorted(handles(40))
    assert batch.outcomes == NOTHING
    assert harness.in_flight == [0, 40]


@pytest.mark.guarantee(number=9)
def test_cancelled_batch_in_backlog_is_never_sent() -> None:
    harness = BatchHarness()
    harness.server.protocol.pauseProducing()
    batch = harness.add(b"a", b"b")
    batch.deferred.cancel()
    harness.server.protocol.resumeProducing()
    assert (harness.received(), batch.outcomes, harness.drained) == ([], CancelledError, True)


def test_jobs_in_backlog_leave_server_that_is_removed() -> None:
    harness = BatchHarness(2)
    for endpoint in harness.endpoints:
        endpoint.server.protocol.pauseProducing()
    harness.add(*handles(40))
    harness.client.job_servers = harness.client.job_servers[1:]
    harness.endpoints[1].server.protocol.resumeProducing()
    assert sorted(harness.received(1)) == sorted(handles(40))


# max_in_flight.


class Limited(BatchHarness):
    """A client that may have few jobs in flight."""

    def __init__(self, most: int) -> None:
        super().__init__(max_in_flight=most)
        self._answered = 0

    def answer(self, count: int) -> None:
        """Acknowledge and complete the next `count` jobs."""
        names = handles(count, self._answered + 1)
        self._answered += count
        self.server.send(*map(created, names))
        self.server.send(*(complete(handle, handle) for handle in names))


def test_batch_is_admitted_piece_by_piece() -> None:
    harness = Limited(20)
    batch = harness.add(*handles(50))
    assert harness.received() == handles(20)
    harness.answer(4)
    assert (harness.received(), harness.in_flight) == ([], [16])
    harness.answer(1)
    assert (harness.received(), harness.in_flight) == (handles(5, 21), [20])
    harness.answer(2)
    harness.clock.advance(0)
    assert (harness.received(), harness.in_flight) == (handles(2, 26), [20])
    while harness.in_flight != [0]:
        harness.answer(1)
        harness.clock.advance(0)
        assert harness.in_flight[0] <= 20
    assert batch.outcomes == handles(50)


def test_task_behind_batch_waits_for_admission() -> None:
    harness = Limited(4)
    batch = harness.add(*handles(6))
    task = outcome(harness.client.add_task("f", b"x"))
    late_batch = harness.add(b"y", background=True)
    assert harness.received() == handles(4)
    harness.answer(2)
    assert harness.received() == [b"H:5", b"H:6"]
    harness.answer(2)
    assert harness.received() == [b"x", b"y"]
    harness.answer(4)
    assert (batch.outcomes, task, late_batch.outcomes) == (handles(6), [b"H:7"], [b"H:8"])


def test_batch_is_admitted_beside_tasks_that_take_long() -> None:
    """Though less than a quarter is free, and no job ends."""
    harness = Limited(20)
    for _ in range(18):
        outcome(harness.client.add_task("f", b"long"))
    harness.add(*handles(10))
    harness.clock.advance(0)
    assert harness.received() == [b"long"] * 18 + handles(2)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_few_in_flight(most: int) -> None:
    harness = Limited(most)
    batch = harness.add(*handles(7))
    while harness.in_flight != [0]:
        assert harness.in_flight == [min(most, 7 - harness._answered)]
        harness.answer(1)
    assert batch.outcomes == handles(7)


@pytest.mark.guarantee(number=9)
def test_cancelled_batch_admits_others() -> None:
    harness = Limited(4)
    batch = harness.add(*handles(100))
    task = outcome(harness.client.add_task("f", b"x"))
    assert len(harness.received()) == 4
    batch.deferred.cancel()
    assert harness.received() == [b"x"]
    harness.server.send(*all_created(5), *(complete(handle, handle) for handle in handles(5)))
    assert (task, harness.drained) == ([b"H:5"], True)


@pytest.mark.guarantee(number=11)
def test_stop_cancels_admission() -> None:
    harness = Limited(20)
    batch = harness.add(*handles(50))
    harness.answer(2)
    stopped = harness.client.stopService()
    assert batch.outcomes == handles(2) + [ClientStopped] * 48
    harness.clock.advance(0)
    assert (stopped.called, harness.clock.getDelayedCalls()) == (True, [])


# Stop and start.


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("background", [False, True])
def test_stop_fails_jobs(background: bool) -> None:
    harness = BatchHarness()
    batch = harness.add(b"a", b"b", background=background)
    harness.server.send(created(b"H:1"))
    unsent = harness.client.add_tasks("f", [b"c"]) if background else None
    harness.client.stopService()
    assert batch.outcomes == [b"H:1" if background else ClientStopped, ClientStopped]
    after = harness.add(b"d")
    assert (after.outcomes, harness.drained) == ([ClientStopped], True)
    if unsent is not None:
        outcome_of(unsent)


@pytest.mark.guarantee(number=1)
def test_batch_in_backlog_is_not_sent_by_next_run() -> None:
    """A callback restarts the client while the outcomes of the ended run are being reported."""
    harness = BatchHarness()
    first = harness.client.add_task("f", b"x")
    harness.server.protocol.pauseProducing()
    batch = harness.add(b"a", b"b")

    def restart(_: object) -> None:
        harness.client.stopService()
        harness.client.startService()

    first.addErrback(restart)
    harness.server.lose()
    harness.clock.advance(0)
    assert batch.outcomes == [ClientStopped, ClientStopped]
    assert harness.received() == []


# Others' code, which the Deferred of a batch runs.


def cancel_other(harness: BatchHarness, other: Any, task: Any) -> None:
    other.deferred.cancel()
    task.cancel()


def stop(harness: BatchHarness, other: Any, task: Any) -> None:
    harness.client.stopService()


def restart(harness: BatchHarness, other: Any, task: Any) -> None:
    harness.client.stopService()
    harness.client.startService()


def submit(harness: BatchHarness, other: Any, task: Any) -> None:
    harness.client.add_tasks("f", [b"z"] * 3).addErrback(lambda _: None)


def fail(harness: BatchHarness, other: Any, task: Any) -> None:
    raise RuntimeError("of the caller")


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("action", [cancel_other, stop, restart, submit, fail])
@pytest.mark.parametrize("end", ["complete", "lose", "time out", "refuse", "stop"])
@pytest.mark.parametrize("most", [None, 3])
def test_deferred_of_batch_may_call_client(
    action: Callable[[BatchHarness, Any, Any], None], end: str, most: int | None
) -> None:
    harness = BatchHarness(max_in_flight=most)
    first = harness.client.add_tasks("f", [b"a", b"b"], timeout=3.0)
    others: list[Any] = []
    first.addErrback(lambda _: []).addCallback(lambda _: action(harness, *others)).addErrback(lambda _: None)
    other = harness.add(b"c", b"d", b"e", timeout=3.0)
    task = harness.client.add_task("f", b"x", timeout=3.0)
    others += [other, task]
    result = outcome(task)
    if end == "complete":
        harness.server.send(*all_created(2), complete(b"r", b"H:1"), complete(b"r", b"H:2"))
    elif end == "lose":
        harness.server.lose()
    elif end == "time out":
        harness.clock.advance(3.0)
    elif end == "refuse":
        harness.server.send(refused(), refused())
    else:
        harness.client.stopService()
    harness.clock.advance(0)
    harness.clock.advance(3.0)
    harness.client.stopService()
    harness.clock.advance(4.0)
    assert first.called
    assert (len(other.fired), len(result)) == (1, 1)
    assert harness.drained
    assert harness.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize(
    ("action", "of_other", "of_task"),
    [
        (cancel_other, CancelledError, CancelledError),
        (stop, [ClientStopped] * 3, ClientStopped),
        (restart, [ClientStopped] * 3, ClientStopped),
        (fail, [b"r3", b"r4", b"r5"], b"r6"),
    ],
)
@pytest.mark.parametrize("caller", ["batch", "task"])
def test_results_read_after_the_one_whose_caller_acts(
    action: Callable[[BatchHarness, Any, Any], None], of_other: Any, of_task: Any, caller: str
) -> None:
    """Whoever gets the first result of a read decides what becomes of the others."""
    harness = BatchHarness()
    jobs = harness.client.add_tasks("f", [b"a", b"b"]) if caller == "batch" else harness.client.add_task("f", b"a")
    others: list[Any] = []
    jobs.addCallback(lambda _: action(harness, *others)).addErrback(lambda _: None)
    other, task = harness.add(b"c", b"d", b"e"), harness.client.add_task("f", b"x")
    others += [other, task]
    result = outcome(task)
    numbers = [1, 2, 3, 4, 5, 6] if caller == "batch" else [1, 3, 4, 5, 6]
    harness.server.send(*(created(b"H:%d" % number) for number in numbers))
    harness.server.send(*(complete(b"r%d" % number, b"H:%d" % number) for number in numbers))
    assert jobs.called
    assert other.outcomes == of_other
    assert [type(value) if isinstance(value, Exception) else value for value in result] == [of_task]
    assert harness.drained


# Memory.


@pytest.mark.guarantee(number=12)
@pytest.mark.parametrize("end", ["complete", "cancel", "fail"])
def test_batch_that_ended_is_not_retained(end: str) -> None:
    harness = BatchHarness()
    deferred = harness.client.add_tasks("f", [b"a", b"b"], uniques=[b"u", b"v"], timeout=5.0)
    (part,) = (request for request in harness.server.protocol._outstanding if isinstance(request, batches.Part))
    batch = weakref.ref(part.batch)
    del part
    harness.server.send(*all_created(2))
    if end == "cancel":
        deferred.cancel()
    else:
        harness.server.send(
            *(complete(b"r", handle) if end == "complete" else work_fail(handle) for handle in handles(2))
        )
    outcome_of(deferred)
    assert is_freed(batch)


@pytest.mark.guarantee(number=13)
def test_batch_may_be_cancelled_while_its_connection_is_being_lost() -> None:
    """An observer of the log is called before the batch is."""
    harness = BatchHarness()
    batch = harness.add(b"1", b"2")

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        batch.deferred.cancel()

    globalLogPublisher.addObserver(observe)
    harness.server.lose()
    globalLogPublisher.removeObserver(observe)
    assert batch.outcomes is CancelledError
    assert (harness.in_flight, harness.drained) == ([0], True)
