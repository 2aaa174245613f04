"""Tasks, handles and states by themselves: what is refused, what a caller is told, in which order, and what is kept."""

from __future__ import annotations

import array
import datetime
import decimal
import gc
import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogEvent, capturedLogs, formatEvent

from txgearman.client.task import Task, TaskOwner
from txgearman.client.task_queue import TaskQueue
from txgearman.errors import ClientStopped, TaskException, TaskFailed
from txgearman.models import JobHandle, JobStatus, Priority
from txgearman.validation import MAX_FUNCTION, MAX_HANDLE, MAX_UNIQUE, name_bytes

from ..conftest import Failures
from ..wire import outcome

SERVER = "10.0.0.1:4730"
HANDLE = b"H:host:12"
JOB = JobHandle(SERVER, HANDLE)

ALL_CALLBACKS = (
    "on_created",
    "on_data",
    "on_warning",
    "on_status",
    "on_complete",
    "on_exception",
    "on_fail",
)
FOREGROUND_CALLBACKS = ("on_data", "on_warning", "on_status", "on_complete", "on_exception")


class Story(TaskOwner):
    """A task, and all that is told about it, in order: to its callbacks, its holder, its Deferred and its owner.

    It is the task's holder and its owner at once.

    :ivar react: what the callback of a name does, once it has been recorded.
    """

    def __init__(self, react: Mapping[str, Callable[[Story], None]] | None = None, *, background: bool = False) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.react = react or {}
        self.retries = False
        names = [name for name in ALL_CALLBACKS if not (background and name in FOREGROUND_CALLBACKS)]
        callbacks: dict[str, Any] = {name: self._recorder(name) for name in names}
        if not background:
            callbacks["on_retry"] = self._recorder("on_retry")
        self.task = Task("resize", b"picture", background=background, **callbacks)
        self.deferred: Deferred[Any] = self.task._begin(self)
        self.task._holder = self
        self.task._server = SERVER
        self.deferred.addCallbacks(
            lambda result: self.events.append(("fired", result)),
            lambda failure: self.events.append(("fired", failure.value)),
        )

    def _recorder(self, name: str) -> Callable[..., None]:
        def record(task: Task, *told: object) -> None:
            assert task is self.task
            self.events.append((name, *told))
            if name in self.react:
                self.react[name](self)

        return record

    def discard(self, task: Task) -> None:
        assert task is self.task
        self.events.append(("discard",))

    def reroute(self, task: Task) -> None:
        assert task is self.task
        self.events.append(("placed again",))

    def retry(self, task: Task, reason: Exception) -> bool:
        assert task is self.task
        if self.retries:
            task._retry_scheduled()
        return self.retries

    def task_ended(self, task: Task) -> None:
        assert task is self.task
        self.events.append(("ended",))

    @property
    def names(self) -> list[str]:
        return [event[0] for event in self.events]

    @property
    def fired(self) -> list[Any]:
        """What the Deferred fired with; more than one would be a fault."""
        return [event[1] for event in self.events if event[0] == "fired"]

    def create(self) -> None:
        self.task._job_created(HANDLE)

    def run(self, end: Callable[[Story], None]) -> None:
        """The life of a job. For a task that has ended, those who carry it out drop what comes."""
        task = self.task
        for event in (
            self.create,
            lambda: task._data_received(b"d1"),
            lambda: task._status_received(1, 2),
            lambda: task._warning_received(b"w1"),
            lambda: task._data_received(b"d2"),
            lambda: end(self),
        ):
            if not self.fired:
                event()


def complete(story: Story) -> None:
    story.task._job_completed(b"thumbnail")


def raise_exception(story: Story) -> None:
    story.task._exception_received(b"boom")


def fail(story: Story) -> None:
    story.task._attempt_failed(TaskFailed(story.task))


def cancel(story: Story) -> None:
    story.deferred.cancel()


def stop(story: Story) -> None:
    """As a client that is stopped: its connections let go of all they have, and its tasks fail."""
    story.task._attempt_failed(ClientStopped())


ENDS: list[Callable[[Story], None]] = [complete, raise_exception, fail, cancel, stop]

REACHES = {
    "on_created": complete,
    "on_data": complete,
    "on_warning": complete,
    "on_status": complete,
    "on_complete": complete,
    "on_exception": raise_exception,
    "on_fail": fail,
}
"""By each callback, an end of a task that has it called."""


# Guarantee 2: order.

PROGRESS = [("on_created",), ("on_data", b"d1"), ("on_status", 1, 2), ("on_warning", b"w1"), ("on_data", b"d2")]


@pytest.mark.guarantee(number=2)
def test_events_of_completed_task_come_in_order() -> None:
    story = Story()
    story.run(complete)
    assert story.events == [*PROGRESS, ("on_complete", b"thumbnail"), ("fired", b"thumbnail"), ("ended",)]


@pytest.mark.guarantee(number=2)
@pytest.mark.parametrize("end", [fail, stop])
def test_events_of_failed_task_come_in_order(end: Callable[[Story], None]) -> None:
    story = Story()
    story.run(end)
    (reason,) = story.fired
    assert story.events == [*PROGRESS, ("on_fail", reason), ("fired", reason), ("ended",)]
    assert isinstance(reason, (TaskFailed, ClientStopped))


@pytest.mark.guarantee(number=2)
def test_events_of_task_with_exception_come_in_order() -> None:
    story = Story()
    story.run(raise_exception)
    (reason,) = story.fired
    assert story.events == [
        *PROGRESS,
        ("on_exception", b"boom"),
        ("on_fail", reason),
        ("fired", reason),
        ("ended",),
    ]
    assert type(reason) is TaskException
    assert (reason.task, reason.data) == (story.task, b"boom")


@pytest.mark.guarantee(number=2)
def test_events_of_background_task_come_in_order() -> None:
    story = Story(background=True)
    story.create()
    assert story.events == [("on_created",), ("fired", JOB), ("ended",)]
    assert story.task.handle == JOB


@pytest.mark.guarantee(number=2)
def test_failed_background_task_has_no_handle() -> None:
    story = Story(background=True)
    fail(story)
    assert story.names == ["on_fail", "fired", "ended"]
    assert story.task.handle is None


@pytest.mark.guarantee(number=9)
def test_cancelled_task_leaves_holder_before_callbacks() -> None:
    """So that nothing of it is left in a table when the caller's code runs."""
    story = Story()
    cancel(story)
    (reason,) = story.fired
    assert story.events == [("discard",), ("on_fail", reason), ("fired", reason), ("ended",)]
    assert isinstance(reason, CancelledError)


@pytest.mark.guarantee(number=9)
def test_task_without_holder_can_be_cancelled() -> None:
    story = Story()
    story.task._holder = None
    cancel(story)
    assert story.names == ["on_fail", "fired", "ended"]


@pytest.mark.guarantee(number=2)
def test_handle_is_set_before_on_created() -> None:
    handles: list[JobHandle | None] = []
    story = Story({"on_created": lambda story: handles.append(story.task.handle)})
    assert story.task.handle is None
    story.create()
    assert handles == [JOB]


def test_task_without_callbacks_accepts_all_events() -> None:
    task = Task("resize")
    told = outcome(task._begin(TaskOwner()))
    task._server = SERVER
    task._job_created(HANDLE)
    task._data_received(b"d")
    task._warning_received(b"w")
    task._status_received(1, 2)
    assert told == []
    task._exception_received(b"boom")
    assert [type(error) for error in told] == [TaskException]


# Guarantee 1: one outcome.


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("first", ENDS)
def test_only_first_end_counts(first: Callable[[Story], None]) -> None:
    """Nobody is told of another one."""
    story = Story()
    story.run(first)
    before = [*story.events]
    for end in ENDS:
        end(story)
        assert story.events == before
    assert len(story.fired) == 1
    assert story.task._holder is None


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("end", ENDS)
def test_background_task_ends_with_its_handle(end: Callable[[Story], None]) -> None:
    story = Story(background=True)
    story.create()
    before = [*story.events]
    end(story)
    assert story.events == before


@pytest.mark.guarantee(number=1)
@given(st.lists(st.sampled_from(ENDS), min_size=1))
def test_any_sequence_of_ends_makes_one_outcome(ends: list[Callable[[Story], None]]) -> None:
    story = Story()
    for end in ends:
        end(story)
    assert story.names.count("fired") == story.names.count("ended") == 1
    assert story.names.count("on_complete") + story.names.count("on_fail") == 1


# Guarantee 13: the caller's callback can do no harm.


class Mishap(BaseException):
    """A mistake in the caller's code; `except Exception` would let it through."""


def misbehave(story: Story) -> None:
    raise Mishap("in a callback")


@contextmanager
def logged(failures: Failures) -> Iterator[list[LogEvent]]:
    """The mishaps that are logged meanwhile; they are expected."""
    with capturedLogs() as events:
        mishaps: list[LogEvent] = []
        yield mishaps
    mishaps += [event for event in events if "log_failure" in event]
    assert len(failures.flush(Mishap)) == len(mishaps)


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("name", ALL_CALLBACKS)
def test_exception_of_callback_is_logged_with_task(name: str, logged_failures: Failures) -> None:
    """And all goes on as if it had not raised."""
    good, bad = Story(), Story({name: misbehave})
    good.run(REACHES[name])
    with logged(logged_failures) as mishaps:
        bad.run(REACHES[name])
    assert bad.names == good.names
    assert len(mishaps) == good.names.count(name)
    for event in mishaps:
        assert event["task"] is bad.task
        assert "resize 10.0.0.1:4730//H:host:12" in formatEvent(event)


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("name", ["on_created", "on_fail"])
def test_exception_of_background_callback_is_logged(name: str, logged_failures: Failures) -> None:
    story = Story({name: misbehave}, background=True)
    with logged(logged_failures) as mishaps:
        (story.create if name == "on_created" else story.deferred.cancel)()
    assert len(mishaps) == len(story.fired) == 1
    assert story.names[-2:] == ["fired", "ended"]


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("name", ["on_created", "on_data", "on_warning", "on_status", "on_exception"])
def test_callback_may_cancel_task_before_its_end(name: str) -> None:
    """Then what would have come after it does not."""
    story = Story({name: cancel})
    story.run(REACHES[name])
    (reason,) = story.fired
    assert isinstance(reason, CancelledError)
    after = story.events[story.names.index(name) + 1 :]
    assert after == [("discard",), ("on_fail", reason), ("fired", reason), ("ended",)]


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("name", ["on_complete", "on_fail"])
def test_last_callback_may_cancel_task(name: str) -> None:
    """Nobody is told of two ends, but the Deferred does as it was asked."""
    story = Story({name: cancel})
    story.run(REACHES[name])
    assert story.names == [*(event[0] for event in PROGRESS), name, "fired", "ended"]
    assert isinstance(story.fired[0], CancelledError)


@pytest.mark.guarantee(number=13)
def test_on_created_may_cancel_background_task() -> None:
    story = Story({"on_created": cancel}, background=True)
    story.create()
    assert story.names == ["on_created", "discard", "on_fail", "fired", "ended"]
    assert isinstance(story.fired[0], CancelledError)


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("name", ALL_CALLBACKS)
def test_callback_may_stop_client(name: str) -> None:
    """Which ends the task under its feet, unless it has ended."""
    story = Story({name: stop})
    story.run(REACHES[name])
    over = name in ("on_complete", "on_fail")
    assert isinstance(story.fired[0], ClientStopped) is not over
    assert story.names.count("on_complete") + story.names.count("on_fail") == 1
    assert story.names.count("fired") == story.names.count("ended") == 1


@pytest.mark.guarantee(number=13)
def test_callback_of_deferred_may_end_task_again() -> None:
    """By cancelling, or by stopping the client; the owner is told after it, once."""
    story = Story()

    def end_again(_: object) -> None:
        for end in ENDS:
            end(story)

    story.deferred.addCallback(end_again)
    story.run(complete)
    assert story.names == [*(event[0] for event in PROGRESS), "on_complete", "fired", "ended"]
    assert story.fired == [b"thumbnail"]


# Guarantee 8: the caller's mistakes are told at the call.

TOO_LONG = f"must have {MAX_FUNCTION} bytes at most, not "

MISTAKES: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (ValueError, "function must not be empty", {"function": ""}),
    (ValueError, "function must not be empty", {"function": b""}),
    (ValueError, "function must not have a NUL: .*re.x00size", {"function": "re\0size"}),
    (ValueError, "function must not have a NUL", {"function": b"resize\0"}),
    (ValueError, f"function {TOO_LONG}{MAX_FUNCTION + 1}", {"function": b"f" * (MAX_FUNCTION + 1)}),
    (ValueError, f"function {TOO_LONG}8192", {"function": "f" * 8192}),
    (ValueError, f"function {TOO_LONG}{MAX_FUNCTION + 1}", {"function": "é" * (MAX_FUNCTION // 2) + "f"}),
    (ValueError, "function must be encodable as UTF-8", {"function": "re\udcffsize"}),
    (TypeError, "function must be str or bytes, not int", {"function": 5}),
    (TypeError, "function must be str or bytes, not NoneType", {"function": None}),
    (TypeError, "function must be str or bytes, not bytearray", {"function": bytearray(b"resize")}),
    (TypeError, "workload must be bytes, not str", {"workload": "picture"}),
    (TypeError, "workload must be bytes, not int", {"workload": 5}),
    (TypeError, "workload must be bytes, not NoneType", {"workload": None}),
    (TypeError, "workload must be bytes, not list", {"workload": [1, 2]}),
    (ValueError, "unique must not have a NUL", {"unique": "u\0v"}),
    (ValueError, "unique must not have a NUL", {"unique": b"\0"}),
    (ValueError, "unique must have 63 bytes at most, not 64", {"unique": b"u" * 64}),
    (ValueError, "unique must have 63 bytes at most, not 64", {"unique": "é" * 32}),
    (TypeError, "unique must be str or bytes, not int", {"unique": 5}),
    (TypeError, "unique must be str or bytes, not NoneType", {"unique": None}),
    (TypeError, "priority must be a Priority, not 1", {"priority": 1}),
    (TypeError, "priority must be a Priority, not 'HIGH'", {"priority": "HIGH"}),
    (TypeError, "priority must be a Priority, not None", {"priority": None}),
    (TypeError, "drop_on_cancel must be bool, not int", {"drop_on_cancel": 1}),
    (TypeError, "on_fail must be callable, not str", {"on_fail": "print"}),
    (TypeError, "a task has no option 'at_once'", {"at_once": True}),
    (TypeError, "a task has no option '_holder'", {"_holder": None}),
]

NOW = datetime.datetime(2030, 1, 2, 3, 4, 5)  # naive, since that is the mistake
LATEST = 2**63 - 1

AT_MISTAKES: list[tuple[type[Exception], str, object]] = [
    (ValueError, "at must be an aware datetime, with a time zone, not .*2030, 1, 2", NOW),
    (TypeError, "at must be an aware datetime or POSIX seconds, not date", NOW.date()),
    (TypeError, "at must be an aware datetime or POSIX seconds, not timedelta", datetime.timedelta(seconds=5)),
    (TypeError, "at must be an aware datetime or POSIX seconds, not bool", True),
    (TypeError, "at must be an aware datetime or POSIX seconds, not bool", False),
    (TypeError, "at must be an aware datetime or POSIX seconds, not str", "1900000000"),
    (TypeError, "at must be an aware datetime or POSIX seconds, not Decimal", decimal.Decimal(5)),
    (ValueError, f"at must be from 0 to {LATEST} POSIX seconds, not nan", math.nan),
    (ValueError, f"at must be from 0 to {LATEST} POSIX seconds, not inf", math.inf),
    (ValueError, f"at must be from 0 to {LATEST} POSIX seconds, not -inf", -math.inf),
    (ValueError, f"at must be from 0 to {LATEST} POSIX seconds, not -1", -1),
    (ValueError, f"at must be from 0 to {LATEST} POSIX seconds, not -0.5", -0.5),
    (ValueError, f"at must be from 0 to {LATEST} POSIX seconds, not {2**63}", 2**63),
    (ValueError, f"at must be from 0 to {LATEST} POSIX seconds, not 9.22", 2.0**63),
    (ValueError, "at must be from 0", datetime.datetime(1969, 12, 31, 23, tzinfo=datetime.timezone.utc)),
]


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(("error", "told", "arguments"), MISTAKES, ids=[repr(each)[:50] for _, _, each in MISTAKES])
def test_invalid_arguments_raise(error: type[Exception], told: str, arguments: dict[str, Any]) -> None:
    for background in (False, True):
        with pytest.raises(error, match=told):
            Task(**{"function": "resize", "background": background, **arguments})


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(("error", "told", "at"), AT_MISTAKES, ids=[repr(at) for _, _, at in AT_MISTAKES])
def test_invalid_at_raises(error: type[Exception], told: str, at: Any) -> None:
    """In a foreground task too, which takes no time at all."""
    for background in (False, True):
        with pytest.raises(error, match=told):
            Task("resize", background=background, at=at)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("at", [0, 1900000000, datetime.datetime(2030, 1, 2, tzinfo=datetime.timezone.utc)])
def test_at_raises_for_foreground_task(at: datetime.datetime | int) -> None:
    with pytest.raises(ValueError, match="at must be None for a foreground task"):
        Task("resize", at=at)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("priority", [Priority.HIGH, Priority.LOW])
def test_at_raises_for_other_priority_than_normal(priority: Priority) -> None:
    with pytest.raises(ValueError, match=r"priority must be Priority\.NORMAL for a task with at, not <Priority\."):
        Task("resize", background=True, at=0, priority=priority)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("name", FOREGROUND_CALLBACKS)
def test_foreground_callback_raises_for_background_task(name: str) -> None:
    callback: dict[str, Any] = {name: print}
    with pytest.raises(ValueError, match=f"{name} must be None for a background task"):
        Task("resize", background=True, **callback)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("end", [None, *ENDS])
def test_second_submit_of_task_raises(end: Callable[[Story], None] | None) -> None:
    """Whether it is under way or over; and the first submit takes no notice."""
    story = Story()
    if end is not None:
        end(story)
    before = [*story.events]
    with pytest.raises(ValueError, match=r"<Task resize> was submitted before; make a new Task"):
        story.task._begin(TaskOwner())
    assert story.events == before
    complete(story)
    assert len(story.fired) == 1


@pytest.mark.guarantee(number=8)
def test_length_of_function_includes_prefix() -> None:
    """A task that is refused for it is as it was."""
    task = Task(b"f" * (MAX_FUNCTION - 3))
    told = f"prefix and function {TOO_LONG}{MAX_FUNCTION + 1}"
    with pytest.raises(ValueError, match=told):
        task._begin(TaskOwner(), b"box\t")
    assert task._wire_function == b"f" * (MAX_FUNCTION - 3)
    told_outcome = outcome(task._begin(TaskOwner(), b"bo\t"))
    assert task._wire_function == b"bo\t" + b"f" * (MAX_FUNCTION - 3)
    task._job_completed(b"done")
    assert told_outcome == [b"done"]


@pytest.mark.guarantee(number=8)
def test_names_are_accepted_up_to_their_limits() -> None:
    task = Task(b"f" * MAX_FUNCTION, unique=b"u" * MAX_UNIQUE)
    assert (task._wire_function, task.unique) == (b"f" * MAX_FUNCTION, b"u" * MAX_UNIQUE)
    assert name_bytes("handle", b"h" * MAX_HANDLE, MAX_HANDLE) == b"h" * MAX_HANDLE
    with pytest.raises(ValueError, match="handle must have 63 bytes at most, not 64"):
        name_bytes("handle", b"h" * 64, MAX_HANDLE)


# What a task is.


def test_task_has_default_options() -> None:
    task = Task("resize")
    assert (task.workload, task.unique, task._options.priority, task._options.at) == (
        b"",
        b"",
        Priority.NORMAL,
        None,
    )
    assert task.background is False


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("name", ["größe", "größe".encode(), b"\xff\xfe", b"a b\tc\n%s"])
def test_names_are_sent_as_bytes(name: str | bytes) -> None:
    wire = name.encode() if isinstance(name, str) else name
    task = Task(name, unique=name)
    assert (task.function, task._wire_function, task.unique) == (name, wire, wire)


WORKLOADS = [
    bytes(range(256)),
    bytearray(range(256)),
    memoryview(bytes(range(256))),
    memoryview(bytes(512))[::2],
    memoryview(array.array("i", [1, 2, 3])),
    b"",
]


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("workload", WORKLOADS, ids=[f"{type(data).__name__}-{len(data)}" for data in WORKLOADS])
def test_workload_may_be_any_bytes_like_object(workload: Any) -> None:
    task = Task("resize", workload)
    assert type(task.workload) is bytes
    assert task.workload == bytes(workload)


@pytest.mark.guarantee(number=15)
def test_workload_is_copied_from_mutable_object() -> None:
    workload = bytearray(b"picture")
    view, copy = Task("resize", memoryview(workload)), Task("resize", workload)  # type: ignore[arg-type]  # a view will do, too
    workload[:] = b"changed"
    assert (view.workload, copy.workload) == (b"picture", b"picture")


EAST = datetime.timezone(datetime.timedelta(hours=5, minutes=30))


@pytest.mark.parametrize(
    ("at", "seconds"),
    [
        (0, 0),
        (-0.0, 0),
        (1900000000, 1900000000),
        (1900000000.0, 1900000000),
        (1900000000.000001, 1900000001),
        (1900000000.999, 1900000001),
        (LATEST, LATEST),
        (datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc), 1893553445),
        (datetime.datetime(2030, 1, 2, 3, 4, 5, 1, tzinfo=datetime.timezone.utc), 1893553446),
        (datetime.datetime(2030, 1, 2, 8, 34, 5, tzinfo=EAST), 1893553445),
    ],
)
def test_at_is_rounded_up_to_whole_seconds(at: datetime.datetime | float, seconds: int) -> None:
    """Never down: the job must not start before its time."""
    task = Task("resize", background=True, at=at)
    assert task._options.at == seconds
    assert type(task._options.at) is int


@pytest.mark.parametrize(
    ("function", "text"),
    [("größe", "größe"), ("größe".encode(), "größe"), (b"\xff", "\\xff")],
)
def test_string_of_task_has_function_and_job(function: str | bytes, text: str) -> None:
    task = Task(function)
    assert (str(task), repr(task)) == (text, f"<Task {text}>")
    told = outcome(task._begin(TaskOwner(), b"box\t"))
    task._server = SERVER
    task._job_created(HANDLE)
    assert str(task) == f"{text} 10.0.0.1:4730//H:host:12"
    task._job_completed(b"")
    assert told == [b""]


# Guarantee 12: nothing is kept after the end.


@contextmanager
def no_collector() -> Iterator[None]:
    """What lives in a cycle of references stays."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def watched(background: bool = False) -> tuple[Task, Deferred[Any], weakref.ref[Task]]:
    """A task under way, whose callbacks keep nothing of it."""

    def nothing(*told: object) -> None:
        pass

    task = Task("resize", background=background, on_created=nothing, on_fail=nothing)
    deferred = task._begin(TaskOwner())
    deferred.addErrback(lambda failure: None)
    return task, deferred, weakref.ref(task)


LIVES: dict[str, Callable[[Task, Deferred[Any]], object]] = {
    "completed": lambda task, deferred: task._job_completed(b"thumbnail"),
    "failed": lambda task, deferred: task._attempt_failed(TaskFailed(task)),
    "exception": lambda task, deferred: task._exception_received(b"boom"),
    "cancelled": lambda task, deferred: deferred.cancel(),
}


@pytest.mark.guarantee(number=12)
@pytest.mark.parametrize("live", LIVES.values(), ids=LIVES.keys())
def test_ended_task_is_freed_with_last_reference(live: Callable[[Task, Deferred[Any]], object]) -> None:
    """At once, without the garbage collector; the Deferred may be kept for its result."""
    task, deferred, reference = watched()
    task._server = SERVER
    task._job_created(HANDLE)
    with no_collector():
        live(task, deferred)
        assert reference() is task
        del task
        assert reference() is None
    assert deferred.called


@pytest.mark.guarantee(number=12)
def test_acknowledged_background_task_is_freed_with_last_reference() -> None:
    task, deferred, reference = watched(background=True)
    with no_collector():
        task._server = SERVER
        task._job_created(HANDLE)
        assert reference() is task
        del task
        assert reference() is None
    assert outcome(deferred) == [JOB]


@pytest.mark.guarantee(number=12)
def test_ended_task_keeps_no_reference_to_holder_and_owner() -> None:
    """A caller that keeps the task keeps no connection and no client with it."""
    story = Story()
    task, reference = story.task, weakref.ref(story)
    complete(story)
    task._options = Task("resize")._options  # the callbacks are the caller's, and here they refer to the story
    with no_collector():
        del story
        assert reference() is None
    assert task._holder is None


# Handles.

SERVERS = st.text(min_size=1)
HANDLES = st.binary(min_size=1)


@pytest.mark.guarantee(number=15)
@given(SERVERS, HANDLES)
def test_handle_round_trips_through_string(server: str, handle: bytes) -> None:
    job = JobHandle(server, handle)
    assert JobHandle.from_string(str(job)) == job


@given(HANDLES)
def test_string_of_handle_is_printable(handle: bytes) -> None:
    """So that any database, log or URL can have it."""
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
    """A line read with its end, say, would name a job that no server knows: `known` is false, and nobody sees why."""
    with pytest.raises(ValueError, match="text must be a job handle such as"):
        JobHandle.from_string(text)


# States.


@pytest.mark.parametrize(
    ("numerator", "denominator", "progress"),
    [(0, 0, None), (4294967293, 0, None), (0, 8, 0.0), (3, 8, 0.375), (8, 8, 1.0), (9, 8, 1.125)],
)
def test_progress_is_fraction_of_job(numerator: int, denominator: int, progress: float | None) -> None:
    """gearmand makes what a worker sends a number, or 0 (docs/gearman.md §5)."""
    status = JobStatus(True, True, numerator, denominator)
    assert status.progress == progress
    assert status.waiting_clients is None


def test_priorities_sort_in_order_of_execution() -> None:
    assert sorted(Priority) == [Priority.HIGH, Priority.NORMAL, Priority.LOW]


# Guarantee 7: retries.


def with_retries(count: int, **react: Callable[[Story], None]) -> Story:
    """A task whose owner takes it back after each failure."""
    story = Story({"on_retry": lambda story: story.events.append(("attempt", story.task.attempt)), **react})
    story.task._options = story.task._options._replace(retries=count)
    story.retries = True
    return story


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize("end", [fail, raise_exception])
def test_task_fails_only_when_no_retry_is_left(end: Callable[[Story], None]) -> None:
    story = with_retries(2)
    for attempt in (1, 2):
        story.create()
        end(story)
        assert (story.fired, story.task.attempt, story.task.handle) == ([], attempt, None)
        assert not story.task.ended
    end(story)
    assert len(story.fired) == 1
    retries = [event for event in story.events if event[0] in ("on_retry", "attempt")]
    assert retries == [("on_retry", 1), ("attempt", 1), ("on_retry", 2), ("attempt", 2)]
    assert story.names.count("on_fail") == 1
    assert story.names.count("on_created") == 2
    assert story.task.ended


@pytest.mark.guarantee(number=7)
def test_retried_task_fires_with_result() -> None:
    story = with_retries(1)
    fail(story)
    story.run(complete)
    assert story.fired == [b"thumbnail"]
    assert [event for event in story.events if event[0] != "attempt"] == [
        ("on_retry", 1),
        *PROGRESS,
        ("on_complete", b"thumbnail"),
        ("fired", b"thumbnail"),
        ("ended",),
    ]


@pytest.mark.guarantee(number=7)
def test_task_is_retried_without_on_retry() -> None:
    story = with_retries(1)
    story.task._options = story.task._options._replace(on_retry=None)
    fail(story)
    assert (story.fired, story.task.attempt) == ([], 1)


@pytest.mark.guarantee(number=7)
def test_owner_decides_about_retry() -> None:
    story = with_retries(5)
    story.retries = False
    fail(story)
    assert (len(story.fired), story.names.count("on_retry")) == (1, 0)


@pytest.mark.guarantee(number=7)
def test_owner_retries_nothing_by_default() -> None:
    task = Task("resize", retries=3)
    told = outcome(task._begin(TaskOwner()))
    task._attempt_failed(TaskFailed(task))
    assert [type(error) for error in told] == [TaskFailed]


@pytest.mark.guarantee(number=1)
def test_ended_task_is_not_retried() -> None:
    story = with_retries(5)
    complete(story)
    fail(story)
    assert (story.fired, story.names.count("on_retry")) == ([b"thumbnail"], 0)


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("name", ["on_complete", "on_fail"])
def test_task_is_not_retried_during_its_last_callback(name: str) -> None:
    """Whatever its callback does: its owner would submit it a second time."""
    story = with_retries(5, **{name: fail})
    story.task._options = story.task._options._replace(retries=5 if name == "on_complete" else 0)
    REACHES[name](story)
    assert (len(story.fired), story.names.count("on_retry"), story.task.attempt) == (1, 0, 0)


@pytest.mark.guarantee(number=9)
def test_cancelled_task_is_not_retried() -> None:
    story = with_retries(5)
    story.retries = False  # as an owner says of a CancelledError
    cancel(story)
    assert (len(story.fired), story.names.count("on_retry")) == (1, 0)


@pytest.mark.guarantee(number=13)
def test_on_retry_may_raise_or_cancel(logged_failures: Failures) -> None:
    story = with_retries(2, on_retry=misbehave)
    with logged(logged_failures) as mishaps:
        fail(story)
    assert (len(mishaps), story.fired) == (1, [])

    def _abandon(story: Story) -> None:
        story.retries = False
        cancel(story)

    story = with_retries(2, on_retry=_abandon)
    fail(story)
    assert [type(reason) for reason in story.fired] == [CancelledError]


def test_unsent_task_is_returned_to_owner() -> None:
    story = Story()
    story.task._return_unsent()
    assert story.names == ["placed again"]
    complete(story)
    before = [*story.events]
    story.task._return_unsent()
    assert story.events == before


def test_unsent_task_fails_if_owner_cannot_reroute_it() -> None:
    alone = Task("resize")
    assert not alone.ended
    told = outcome(alone._begin(TaskOwner()))
    alone._return_unsent()
    assert alone.ended
    assert [type(error) for error in told] == [ClientStopped]


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("wanted", [False, True])
def test_owner_drops_job_only_with_drop_on_cancel(wanted: bool) -> None:
    """For the one who carries it out: while the task is under way."""

    class Owner(TaskOwner):
        def __init__(self) -> None:
            self.dropped: list[JobHandle] = []

        def drop(self, handle: JobHandle) -> None:
            self.dropped.append(handle)

    owner, task = Owner(), Task("resize", drop_on_cancel=wanted)
    assert task._drop is None
    told = outcome(task._begin(owner))
    if task._drop is not None:
        task._drop(JOB)
    assert owner.dropped == [JOB] * wanted
    task._job_completed(b"thumbnail")
    assert (task._drop, told) == (None, [b"thumbnail"])


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("options", "kind", "complaint"),
    [
        ({"timeout": 0}, ValueError, "timeout must be a positive number of seconds, not 0"),
        ({"timeout": "5"}, TypeError, "timeout must be a number of seconds, not str"),
        ({"retries": -1}, ValueError, "retries must be at least 0, not -1"),
        ({"retries": 1.0}, TypeError, "retries must be int, not float"),
        ({"retries": 1, "background": True}, ValueError, "retries must be 0 for a background task"),
        ({"on_retry": print, "background": True}, ValueError, "on_retry must be None for a background task"),
    ],
)
def test_invalid_timeout_or_retries_raise(
    options: dict[str, Any], kind: type[Exception], complaint: str
) -> None:
    with pytest.raises(kind, match=complaint):
        Task("resize", **options)


def test_options_may_be_passed_with_default_values() -> None:
    """Who wraps a client passes them on as they are."""
    callbacks: dict[str, Any] = dict.fromkeys([*FOREGROUND_CALLBACKS, "on_created", "on_fail", "on_retry"])
    task = Task("resize", unique="", at=None, timeout=None, retries=0, drop_on_cancel=False, **callbacks)
    plain = Task("resize")
    assert (task.unique, task.timeout, task._options) == (plain.unique, plain.timeout, plain._options)


def test_background_task_may_have_timeout() -> None:
    assert Task("resize", background=True, timeout=5).timeout == 5


# Queues of tasks.


def queue_of(*tasks: Task) -> TaskQueue:
    queue = TaskQueue()
    for task in tasks:
        queue.append(task)
    return queue


def test_queue_pops_tasks_in_order() -> None:
    tasks = [Task("resize", b"%d" % number) for number in range(3)]
    queue = queue_of(*tasks)
    assert [task._holder for task in tasks] == [queue] * 3
    assert (queue.pop(), len(queue)) == (tasks[0], 2)
    assert queue.pop_all() == tasks[1:]
    assert ([task._holder for task in tasks], len(queue)) == ([None] * 3, 0)


@pytest.mark.guarantee(number=9)
def test_discarded_task_leaves_queue_at_once() -> None:
    tasks = [Task("resize") for _ in range(3)]
    for task in tasks:
        task._begin(TaskOwner()).addErrback(lambda _: None)
    queue = queue_of(*tasks)
    assert tasks[1]._holder is queue
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
    assert reference() is None
    assert (queue.pop(), queue.pop(), len(queue)) == (second, None, 0)


@pytest.mark.guarantee(number=12)
def test_number_of_spare_entries_in_queue_is_limited() -> None:
    """However many came and left while one of them waited."""
    queue, patient = TaskQueue(), [Task("resize") for _ in range(3)]
    places = set()
    for round_ in range(1000):
        task = Task("resize")
        queue.append(task)
        places.add(task._position)
        if round_ % 100 == 0 and round_ < 300:
            queue.append(patient[round_ // 100])
        queue.discard(task)
    assert max(places) < 100
    queue.discard(patient[1])
    assert queue.pop_all() == [patient[0], patient[2]]


@pytest.mark.guarantee(number=9)
@given(st.lists(st.sampled_from(["append", "pop", "let go", "clear"]), max_size=300), st.randoms(use_true_random=False))
def test_queue_matches_model_list(steps: list[str], random: Random) -> None:
    queue, waiting = TaskQueue(), list[Task]()
    for step in steps:
        if step == "append":
            waiting.append(Task("resize"))
            queue.append(waiting[-1])
        elif step == "pop":
            assert queue.pop() is (waiting.pop(0) if waiting else None)
        elif step == "clear":
            assert queue.pop_all() == waiting
            waiting = []
        elif waiting:
            queue.discard(waiting.pop(random.randrange(len(waiting))))
        assert len(queue) == len(waiting)
    assert queue.pop_all() == waiting
