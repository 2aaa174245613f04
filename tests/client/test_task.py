"""Tasks, queues of tasks, handles and states: validation, events and their order, and what is kept."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogEvent, capturedLogs, formatEvent

from txgearman.client.task import Task
from txgearman.client.task_queue import TaskQueue
from txgearman.errors import ClientStopped, TaskException, TaskFailed
from txgearman.models import JobHandle, JobStatus, Priority

from ..conftest import Failures
from ..examples import ANY_TEXT
from ..garbage import is_freed
from ..wire import outcome
from .task_harness import (
    ALL_CALLBACKS,
    ENDS,
    HANDLE,
    JOB,
    REACHES,
    SERVER,
    RecordedTask,
    begin,
    cancel,
    complete,
    complete_task,
    create_job,
    fail,
    fail_task,
    holder_of,
    options_of,
    progress,
    raise_exception,
    return_unsent,
    send_exception,
    set_options,
    stop,
)

# Guarantee 2: order.

PROGRESS = [("on_created",), ("on_data", b"d1"), ("on_status", 1, 2), ("on_warning", b"w1"), ("on_data", b"d2")]


@pytest.mark.guarantee(number=2)
def test_events_of_completed_task_come_in_order() -> None:
    recorded = RecordedTask()
    recorded.run(complete)
    assert recorded.events == [*PROGRESS, ("on_complete", b"thumbnail"), ("fired", b"thumbnail"), ("ended",)]


@pytest.mark.guarantee(number=2)
@pytest.mark.parametrize("end", [fail, stop])
def test_events_of_failed_task_come_in_order(end: Callable[[RecordedTask], None]) -> None:
    recorded = RecordedTask()
    recorded.run(end)
    (reason,) = recorded.fired
    assert recorded.events == [*PROGRESS, ("on_fail", reason), ("fired", reason), ("ended",)]
    assert isinstance(reason, (TaskFailed, ClientStopped))


@pytest.mark.guarantee(number=2)
def test_events_of_task_with_exception_come_in_order() -> None:
    recorded = RecordedTask()
    recorded.run(raise_exception)
    (reason,) = recorded.fired
    assert recorded.events == [
        *PROGRESS,
        ("on_exception", b"boom"),
        ("on_fail", reason),
        ("fired", reason),
        ("ended",),
    ]
    assert type(reason) is TaskException
    assert (reason.task, reason.data) == (recorded.task, b"boom")


@pytest.mark.guarantee(number=2)
def test_events_of_background_task_come_in_order() -> None:
    recorded = RecordedTask(background=True)
    recorded.create()
    assert recorded.events == [("on_created",), ("fired", JOB), ("ended",)]
    assert recorded.task.handle == JOB


@pytest.mark.guarantee(number=2)
def test_failed_background_task_has_no_handle() -> None:
    recorded = RecordedTask(background=True)
    fail(recorded)
    assert recorded.names == ["on_fail", "fired", "ended"]
    assert recorded.task.handle is None


@pytest.mark.guarantee(number=9)
def test_cancelled_task_leaves_holder_before_callbacks() -> None:
    """State first: no table has the task when the caller's code runs."""
    recorded = RecordedTask()
    cancel(recorded)
    (reason,) = recorded.fired
    assert recorded.events == [("discard",), ("on_fail", reason), ("fired", reason), ("ended",)]
    assert isinstance(reason, CancelledError)


@pytest.mark.guarantee(number=9)
def test_task_without_holder_can_be_cancelled() -> None:
    recorded = RecordedTask()
    recorded.task._holder = None
    cancel(recorded)
    assert recorded.names == ["on_fail", "fired", "ended"]


@pytest.mark.guarantee(number=2)
def test_handle_is_set_before_on_created() -> None:
    handles: list[JobHandle | None] = []
    recorded = RecordedTask({"on_created": lambda recorded: handles.append(recorded.task.handle)})
    assert recorded.task.handle is None
    recorded.create()
    assert handles == [JOB]


def test_task_without_callbacks_accepts_all_events() -> None:
    task = Task("resize")
    outcomes = outcome(begin(task))
    create_job(task)
    for event in progress(task):
        event()
    assert outcomes == []
    send_exception(task)
    assert [type(error) for error in outcomes] == [TaskException]


# Guarantee 1: one outcome.


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("first", ENDS)
def test_only_first_end_counts(first: Callable[[RecordedTask], None]) -> None:
    """Nothing is called or fired for any later one."""
    recorded = RecordedTask()
    recorded.run(first)
    before = [*recorded.events]
    for end in ENDS:
        end(recorded)
        assert recorded.events == before
    assert len(recorded.fired) == 1
    assert holder_of(recorded.task) is None


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("end", ENDS)
def test_background_task_ends_with_its_handle(end: Callable[[RecordedTask], None]) -> None:
    recorded = RecordedTask(background=True)
    recorded.create()
    before = [*recorded.events]
    end(recorded)
    assert recorded.events == before


# Guarantee 13: callbacks are isolated.


class CallerError(BaseException):
    """An error in the caller's code that `except Exception` does not catch."""


def misbehave(recorded: RecordedTask) -> None:
    raise CallerError("in a callback")


@contextmanager
def logged(failures: Failures) -> Iterator[list[LogEvent]]:
    """Collect the errors of the caller that are logged meanwhile, which are expected."""
    with capturedLogs() as events:
        errors: list[LogEvent] = []
        yield errors
    errors += [event for event in events if "log_failure" in event]
    assert len(failures.flush(CallerError)) == len(errors)


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("name", ALL_CALLBACKS)
def test_exception_of_callback_is_logged_with_task(name: str, logged_failures: Failures) -> None:
    """All other events are as if it had not raised."""
    good, bad = RecordedTask(), RecordedTask({name: misbehave})
    good.run(REACHES[name])
    with logged(logged_failures) as errors:
        bad.run(REACHES[name])
    assert bad.names == good.names
    assert len(errors) == good.names.count(name)
    for event in errors:
        assert event["task"] == "resize 10.0.0.1:4730//H:host:12"
        assert "resize 10.0.0.1:4730//H:host:12" in formatEvent(event)


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("name", ["on_created", "on_fail"])
def test_exception_of_background_callback_is_logged(name: str, logged_failures: Failures) -> None:
    recorded = RecordedTask({name: misbehave}, background=True)
    with logged(logged_failures) as errors:
        (recorded.create if name == "on_created" else recorded.deferred.cancel)()
    assert len(errors) == len(recorded.fired) == 1
    assert recorded.names[-2:] == ["fired", "ended"]


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("name", ["on_created", "on_data", "on_warning", "on_status", "on_exception"])
def test_callback_may_cancel_task_before_its_end(name: str) -> None:
    """Nothing that would have followed is reported."""
    recorded = RecordedTask({name: cancel})
    recorded.run(REACHES[name])
    (reason,) = recorded.fired
    assert isinstance(reason, CancelledError)
    after = recorded.events[recorded.names.index(name) + 1 :]
    assert after == [("discard",), ("on_fail", reason), ("fired", reason), ("ended",)]


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("name", ["on_complete", "on_fail"])
def test_last_callback_may_cancel_task(name: str) -> None:
    """No other callback is called, but the Deferred is cancelled."""
    recorded = RecordedTask({name: cancel})
    recorded.run(REACHES[name])
    assert recorded.names == [*(event[0] for event in PROGRESS), name, "fired", "ended"]
    assert isinstance(recorded.fired[0], CancelledError)


@pytest.mark.guarantee(number=13)
def test_on_created_may_cancel_background_task() -> None:
    recorded = RecordedTask({"on_created": cancel}, background=True)
    recorded.create()
    assert recorded.names == ["on_created", "discard", "on_fail", "fired", "ended"]
    assert isinstance(recorded.fired[0], CancelledError)


@pytest.mark.guarantee(number=13)
def test_callback_of_deferred_may_end_task_again() -> None:
    """By cancelling it, or by stopping the client; the owner is notified afterwards, once."""
    recorded = RecordedTask()

    def end_again(_: object) -> None:
        for end in ENDS:
            end(recorded)

    recorded.deferred.addCallback(end_again)
    recorded.run(complete)
    assert recorded.names == [*(event[0] for event in PROGRESS), "on_complete", "fired", "ended"]
    assert recorded.fired == [b"thumbnail"]


# Guarantee 8: invalid arguments raise at the call.


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("end", [None, *ENDS])
def test_second_submit_of_task_raises(end: Callable[[RecordedTask], None] | None) -> None:
    """Whether it is in flight or has ended. The first submit is not affected."""
    recorded = RecordedTask()
    if end is not None:
        end(recorded)
    before = [*recorded.events]
    with pytest.raises(ValueError, match=r"<Task resize> was submitted before; make a new Task"):
        begin(recorded.task)
    assert recorded.events == before
    complete(recorded)
    assert len(recorded.fired) == 1


# Guarantee 12: finished tasks are not retained.


def watched(background: bool = False) -> tuple[Task, Deferred[Any], weakref.ref[Task]]:
    """Return a begun task whose callbacks do not refer to it, its Deferred, and a weak reference."""

    def nothing(*arguments: object) -> None:
        pass

    task = Task("resize", background=background, on_created=nothing, on_fail=nothing)
    deferred = begin(task)
    deferred.addErrback(lambda failure: None)
    return task, deferred, weakref.ref(task)


OUTCOMES: dict[str, Callable[[Task, Deferred[Any]], object]] = {
    "completed": lambda task, deferred: complete_task(task),
    "failed": lambda task, deferred: fail_task(task),
    "exception": lambda task, deferred: send_exception(task),
    "cancelled": lambda task, deferred: deferred.cancel(),
}


@pytest.mark.guarantee(number=12)
@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("end", OUTCOMES.values(), ids=OUTCOMES.keys())
def test_ended_task_is_freed_with_last_reference(end: Callable[[Task, Deferred[Any]], object]) -> None:
    """At once, without the garbage collector; the Deferred may be kept for its result."""
    task, deferred, reference = watched()
    create_job(task)
    end(task, deferred)
    assert reference() is task
    del task
    assert is_freed(reference)
    assert deferred.called


@pytest.mark.guarantee(number=12)
@pytest.mark.usefixtures("no_garbage_collection")
def test_acknowledged_background_task_is_freed_with_last_reference() -> None:
    task, deferred, reference = watched(background=True)
    create_job(task)
    assert reference() is task
    del task
    assert is_freed(reference)
    assert outcome(deferred) == [JOB]


@pytest.mark.guarantee(number=12)
@pytest.mark.usefixtures("no_garbage_collection")
def test_ended_task_keeps_no_reference_to_holder_and_owner() -> None:
    """A caller that keeps the task keeps no connection and no client alive."""
    recorded = RecordedTask()
    task, reference = recorded.task, weakref.ref(recorded)
    complete(recorded)
    set_options(task, **options_of(Task("resize")))  # the callbacks refer to the RecordedTask
    del recorded
    assert is_freed(reference)
    assert holder_of(task) is None


# Handles.

SERVERS = ANY_TEXT.filter(bool)

HANDLES = st.binary(min_size=1)


@pytest.mark.guarantee(number=15)
@given(SERVERS, HANDLES)
def test_handle_round_trips_through_string(server: str, handle: bytes) -> None:
    job = JobHandle(server, handle)
    assert JobHandle.from_string(str(job)) == job


@given(HANDLES)
def test_string_of_handle_is_printable(handle: bytes) -> None:
    """So that it can be stored in a database, a log or a URL."""
    text = str(JobHandle(SERVER, handle))
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text


@pytest.mark.parametrize(
    ("handle", "text"),
    [
        (b"H:host:12", "H:host:12"),
        (b"H:::ffff:127.0.0.1:1", "H:::ffff:127.0.0.1:1"),
        (b"/a//b/", "%2Fa%2F%2Fb%2F"),
        (b"50%2F", "50%252F"),
        (b"a\nb\0 ", "a%0Ab%00%20"),
        (b"\xc3\xbc\xff", "%C3%BC%FF"),
    ],
)
def test_string_of_handle(handle: bytes, text: str) -> None:
    job = JobHandle(SERVER, handle)
    assert str(job) == f"{SERVER}//{text}"
    assert JobHandle.from_string(f"{SERVER}//{text}") == job


@pytest.mark.parametrize("server", ["unix:/run/gearmand.sock", "unix:/run//gearmand/", "[::1]:4730", "tls:a:1"])
def test_handle_may_have_any_server(server: str) -> None:
    assert JobHandle.from_string(f"{server}//H:host:12") == JobHandle(server, HANDLE)


NOT_HANDLES = ["", "//", "H:host:12", "10.0.0.1:4730", "10.0.0.1:4730/H:host:12", "//H:host:12", "10.0.0.1:4730//"]


@pytest.mark.parametrize("text", NOT_HANDLES)
def test_from_string_raises_for_invalid_text(text: str) -> None:
    with pytest.raises(ValueError, match="text must be a job handle such as") as caught:
        JobHandle.from_string(text)
    assert repr(text) in str(caught.value)


ALMOST_HANDLES = ["10.0.0.1:4730//H:host:12\n", "10.0.0.1:4730//H:host:12 ", "10.0.0.1:4730//H%zz", "10.0.0.1:4730//ü"]


@pytest.mark.parametrize("text", ALMOST_HANDLES)
def test_from_string_raises_for_text_that_str_does_not_return(text: str) -> None:
    """Such as a line with its end, which would otherwise be the handle of a job that no server knows."""
    with pytest.raises(ValueError, match="text must be a job handle such as"):
        JobHandle.from_string(text)


# States.


@pytest.mark.parametrize(
    ("numerator", "denominator", "progress"),
    [(0, 0, None), (4294967293, 0, None), (0, 8, 0.0), (3, 8, 0.375), (8, 8, 1.0), (9, 8, 1.125)],
)
def test_progress_is_fraction_of_job(numerator: int, denominator: int, progress: float | None) -> None:
    """gearmand converts what a worker sends to a number, or to 0 (docs/gearman.md §5)."""
    status = JobStatus(True, True, numerator, denominator)
    assert status.progress == progress
    assert status.waiting_clients is None


def test_priorities_sort_in_order_of_execution() -> None:
    assert sorted(Priority) == [Priority.HIGH, Priority.NORMAL, Priority.LOW]


# Guarantee 7: retries.


def with_retries(count: int, **react: Callable[[RecordedTask], None]) -> RecordedTask:
    """Return a task whose owner retries it after each failure."""
    recorded = RecordedTask(
        {"on_retry": lambda recorded: recorded.events.append(("attempt", recorded.task.attempt)), **react}
    )
    set_options(recorded.task, retries=count)
    recorded.retries = True
    return recorded


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize("end", [fail, raise_exception])
def test_task_fails_only_when_no_retry_is_left(end: Callable[[RecordedTask], None]) -> None:
    recorded = with_retries(2)
    for attempt in (1, 2):
        recorded.create()
        end(recorded)
        assert (recorded.fired, recorded.task.attempt, recorded.task.handle) == ([], attempt, None)
        assert not recorded.task.ended
    end(recorded)
    assert len(recorded.fired) == 1
    retries = [event for event in recorded.events if event[0] in ("on_retry", "attempt")]
    assert retries == [("on_retry", 1), ("attempt", 1), ("on_retry", 2), ("attempt", 2)]
    assert recorded.names.count("on_fail") == 1
    assert recorded.names.count("on_created") == 2
    assert recorded.task.ended


@pytest.mark.guarantee(number=7)
def test_retried_task_fires_with_result() -> None:
    recorded = with_retries(1)
    fail(recorded)
    recorded.run(complete)
    assert recorded.fired == [b"thumbnail"]
    assert [event for event in recorded.events if event[0] != "attempt"] == [
        ("on_retry", 1),
        *PROGRESS,
        ("on_complete", b"thumbnail"),
        ("fired", b"thumbnail"),
        ("ended",),
    ]


@pytest.mark.guarantee(number=7)
def test_task_is_retried_without_on_retry() -> None:
    recorded = with_retries(1)
    set_options(recorded.task, on_retry=None)
    fail(recorded)
    assert (recorded.fired, recorded.task.attempt) == ([], 1)


@pytest.mark.guarantee(number=7)
def test_owner_retries_nothing_by_default() -> None:
    task = Task("resize", retries=3)
    outcomes = outcome(begin(task))
    fail_task(task)
    assert [type(error) for error in outcomes] == [TaskFailed]


@pytest.mark.guarantee(number=1)
def test_ended_task_is_not_retried() -> None:
    recorded = with_retries(5)
    complete(recorded)
    fail(recorded)
    assert (recorded.fired, recorded.names.count("on_retry")) == ([b"thumbnail"], 0)


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("name", ["on_complete", "on_fail"])
def test_task_is_not_retried_during_its_last_callback(name: str) -> None:
    """Its owner would submit it a second time, whatever the callback does."""
    recorded = with_retries(5, **{name: fail})
    set_options(recorded.task, retries=5 if name == "on_complete" else 0)
    REACHES[name](recorded)
    assert (len(recorded.fired), recorded.names.count("on_retry"), recorded.task.attempt) == (1, 0, 0)


@pytest.mark.guarantee(number=13)
def test_on_retry_may_raise_or_cancel(logged_failures: Failures) -> None:
    recorded = with_retries(2, on_retry=misbehave)
    with logged(logged_failures) as errors:
        fail(recorded)
    assert (len(errors), recorded.fired) == (1, [])

    def cancel_retry(recorded: RecordedTask) -> None:
        recorded.retries = False
        cancel(recorded)

    recorded = with_retries(2, on_retry=cancel_retry)
    fail(recorded)
    assert [type(reason) for reason in recorded.fired] == [CancelledError]


def test_unsent_task_is_returned_to_owner() -> None:
    recorded = RecordedTask()
    return_unsent(recorded.task)
    assert recorded.names == ["reroute"]
    complete(recorded)
    before = [*recorded.events]
    return_unsent(recorded.task)
    assert recorded.events == before


def test_unsent_task_fails_if_owner_cannot_reroute_it() -> None:
    task = Task("resize")
    assert not task.ended
    outcomes = outcome(begin(task))
    return_unsent(task)
    assert task.ended
    assert [type(error) for error in outcomes] == [ClientStopped]


# Queues of tasks.


def queue_of(*tasks: Task) -> TaskQueue:
    queue = TaskQueue()
    for task in tasks:
        queue.append(task)
    return queue


def test_queue_pops_tasks_in_order() -> None:
    tasks = [Task("resize", b"%d" % number) for number in range(3)]
    queue = queue_of(*tasks)
    assert [holder_of(task) for task in tasks] == [queue] * 3
    assert (queue.pop(), len(queue)) == (tasks[0], 2)
    assert queue.pop_all() == tasks[1:]
    assert ([holder_of(task) for task in tasks], len(queue)) == ([None] * 3, 0)


@pytest.mark.guarantee(number=9)
def test_discarded_task_leaves_queue_at_once() -> None:
    tasks = [Task("resize") for _ in range(3)]
    for task in tasks:
        begin(task).addErrback(lambda _: None)
    queue = queue_of(*tasks)
    assert holder_of(tasks[1]) is queue
    queue.discard(tasks[1])
    assert len(queue) == 2
    assert queue.pop_all() == [tasks[0], tasks[2]]


@pytest.mark.guarantee(number=12)
def test_queue_keeps_no_reference_to_discarded_task() -> None:
    first, second = queued = [Task("resize"), Task("resize")]
    queue = queue_of(*queued)
    reference = weakref.ref(first)
    queue.discard(first)
    del first, queued
    assert is_freed(reference)
    assert (queue.pop(), queue.pop(), len(queue)) == (second, None, 0)


@pytest.mark.guarantee(number=12)
def test_number_of_spare_entries_in_queue_is_limited() -> None:
    """However many tasks were added and removed while one of them waited."""
    queue, waiting = TaskQueue(), [Task("resize") for _ in range(3)]
    positions = set()
    for round_ in range(1000):
        task = Task("resize")
        queue.append(task)
        positions.add(task._position)
        if round_ % 100 == 0 and round_ < 300:
            queue.append(waiting[round_ // 100])
        queue.discard(task)
    assert max(positions) < 100
    queue.discard(waiting[1])
    assert queue.pop_all() == [waiting[0], waiting[2]]


@pytest.mark.guarantee(number=9)
@given(
    st.lists(st.sampled_from(["append", "pop", "discard", "pop all"]), max_size=300), st.randoms(use_true_random=False)
)
def test_queue_matches_model_list(steps: list[str], random: Random) -> None:
    queue, waiting = TaskQueue(), list[Task]()
    for step in steps:
        if step == "append":
            waiting.append(Task("resize"))
            queue.append(waiting[-1])
        elif step == "pop":
            assert queue.pop() is (waiting.pop(0) if waiting else None)
        elif step == "pop all":
            assert queue.pop_all() == waiting
            waiting = []
        elif waiting:
            queue.discard(waiting.pop(random.randrange(len(waiting))))
        assert len(queue) == len(waiting)
    assert queue.pop_all() == waiting
