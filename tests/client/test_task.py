"""Tasks, queues of tasks, handles and states: validation, events and their order, and what is kept."""

from __future__ import annotations

import array
import datetime
import decimal
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

from txgearman.client.task import Options, Task, TaskOwner
from txgearman.client.task_queue import TaskQueue
from txgearman.errors import ClientStopped, TaskException, TaskFailed
from txgearman.models import JobHandle, JobStatus, Priority
from txgearman.validation import MAX_FUNCTION, MAX_HANDLE, MAX_UNIQUE, name_bytes

from ..conftest import Failures
from ..garbage import is_freed
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


class RecordedTask(TaskOwner):
    """A task, its holder and its owner: records what its callbacks, holder, Deferred and owner get, in order.

    :ivar react: what the callback of a name does after it was recorded.
    :ivar retries: whether the owner retries the task after each failure.
    """

    def __init__(
        self, react: Mapping[str, Callable[[RecordedTask], None]] | None = None, *, background: bool = False
    ) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.react = react or {}
        self.retries = False
        names = [name for name in ALL_CALLBACKS if not (background and name in FOREGROUND_CALLBACKS)]
        callbacks: dict[str, Any] = {name: self._recorder(name) for name in names}
        if not background:
            callbacks["on_retry"] = self._recorder("on_retry")
        self.task = Task("resize", b"picture", background=background, **callbacks)
        self.deferred: Deferred[Any] = begin(self.task, self)
        self.task._holder = self
        self.task._server = SERVER
        self.deferred.addCallbacks(
            lambda result: self.events.append(("fired", result)),
            lambda failure: self.events.append(("fired", failure.value)),
        )

    def _recorder(self, name: str) -> Callable[..., None]:
        def record(task: Task, *arguments: object) -> None:
            assert task is self.task
            self.events.append((name, *arguments))
            if name in self.react:
                self.react[name](self)

        return record

    def discard(self, task: Task) -> None:
        assert task is self.task
        self.events.append(("discard",))

    def reroute(self, task: Task) -> None:
        assert task is self.task
        self.events.append(("reroute",))

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
        """What the Deferred fired with."""
        return [event[1] for event in self.events if event[0] == "fired"]

    def create(self) -> None:
        create_job(self.task)

    def run(self, end: Callable[[RecordedTask], None]) -> None:
        """Report a job up to its end. Once the task has ended, nothing more is reported to it."""
        for event in (self.create, *progress(self.task), lambda: end(self)):
            if not self.fired:
                event()


# What a connection reports to a task.


def begin(task: Task, owner: TaskOwner | None = None, prefix: bytes = b"") -> Deferred[Any]:
    return task._begin(owner or TaskOwner(), prefix)


def create_job(task: Task) -> None:
    task._server = SERVER
    task._answered(None, [HANDLE])


def progress(task: Task) -> list[Callable[[], None]]:
    return [
        lambda: task._data_received(b"d1"),
        lambda: task._status_received(1, 2),
        lambda: task._warning_received(b"w1"),
        lambda: task._data_received(b"d2"),
    ]


def complete_task(task: Task) -> None:
    task._job_completed(b"thumbnail")


def send_exception(task: Task) -> None:
    task._exception_received(b"boom")


def fail_task(task: Task, reason: Exception | None = None) -> None:
    task._attempt_failed(reason or TaskFailed(task))


def options_of(task: Task) -> Options:
    return task._options


def set_options(task: Task, **options: Any) -> None:
    task._options = options_of(task)._replace(**options)


def holder_of(task: Task) -> object:
    return task._holder


def return_unsent(task: Task) -> None:
    task._return_unsent()


def wire_function(task: Task) -> bytes:
    return task._wire_function


# Ends of a task.


def complete(recorded: RecordedTask) -> None:
    complete_task(recorded.task)


def raise_exception(recorded: RecordedTask) -> None:
    send_exception(recorded.task)


def fail(recorded: RecordedTask) -> None:
    fail_task(recorded.task)


def cancel(recorded: RecordedTask) -> None:
    recorded.deferred.cancel()


def stop(recorded: RecordedTask) -> None:
    """As a client that is stopped."""
    fail_task(recorded.task, ClientStopped())


ENDS: list[Callable[[RecordedTask], None]] = [complete, raise_exception, fail, cancel, stop]

REACHES = {
    "on_created": complete,
    "on_data": complete,
    "on_warning": complete,
    "on_status": complete,
    "on_complete": complete,
    "on_exception": raise_exception,
    "on_fail": fail,
}
"""For each callback, an end of a task that calls it."""


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


@pytest.mark.guarantee(number=1)
@given(st.lists(st.sampled_from(ENDS), min_size=1))
def test_any_sequence_of_ends_makes_one_outcome(ends: list[Callable[[RecordedTask], None]]) -> None:
    recorded = RecordedTask()
    for end in ends:
        end(recorded)
    assert recorded.names.count("fired") == recorded.names.count("ended") == 1
    assert recorded.names.count("on_complete") + recorded.names.count("on_fail") == 1


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
        assert event["task"] is bad.task
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
@pytest.mark.parametrize("name", ALL_CALLBACKS)
def test_callback_may_stop_client(name: str) -> None:
    """This ends the task during its callback, unless it has ended."""
    recorded = RecordedTask({name: stop})
    recorded.run(REACHES[name])
    over = name in ("on_complete", "on_fail")
    assert isinstance(recorded.fired[0], ClientStopped) is not over
    assert recorded.names.count("on_complete") + recorded.names.count("on_fail") == 1
    assert recorded.names.count("fired") == recorded.names.count("ended") == 1


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

TOO_LONG = f"must have {MAX_FUNCTION} bytes at most, not "

INVALID: list[tuple[type[Exception], str, dict[str, Any]]] = [
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

AT_INVALID: list[tuple[type[Exception], str, object]] = [
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
@pytest.mark.parametrize(("error", "message", "arguments"), INVALID, ids=[repr(each)[:50] for _, _, each in INVALID])
def test_invalid_arguments_raise(error: type[Exception], message: str, arguments: dict[str, Any]) -> None:
    for background in (False, True):
        with pytest.raises(error, match=message):
            Task(**{"function": "resize", "background": background, **arguments})


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(("error", "message", "at"), AT_INVALID, ids=[repr(at) for _, _, at in AT_INVALID])
def test_invalid_at_raises(error: type[Exception], message: str, at: Any) -> None:
    """For a foreground task, too, which must not have any `at`."""
    for background in (False, True):
        with pytest.raises(error, match=message):
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


@pytest.mark.guarantee(number=8)
def test_length_of_function_includes_prefix() -> None:
    """A submit that raises leaves the task as it was."""
    task = Task(b"f" * (MAX_FUNCTION - 3))
    with pytest.raises(ValueError, match=f"prefix and function {TOO_LONG}{MAX_FUNCTION + 1}"):
        begin(task, prefix=b"box\t")
    assert wire_function(task) == b"f" * (MAX_FUNCTION - 3)
    outcomes = outcome(begin(task, prefix=b"bo\t"))
    assert wire_function(task) == b"bo\t" + b"f" * (MAX_FUNCTION - 3)
    complete_task(task)
    assert outcomes == [b"thumbnail"]


@pytest.mark.guarantee(number=8)
def test_names_are_accepted_up_to_their_limits() -> None:
    task = Task(b"f" * MAX_FUNCTION, unique=b"u" * MAX_UNIQUE)
    assert (wire_function(task), task.unique) == (b"f" * MAX_FUNCTION, b"u" * MAX_UNIQUE)
    assert name_bytes("handle", b"h" * MAX_HANDLE, MAX_HANDLE) == b"h" * MAX_HANDLE
    with pytest.raises(ValueError, match="handle must have 63 bytes at most, not 64"):
        name_bytes("handle", b"h" * 64, MAX_HANDLE)


# Members of a task.


PUBLIC = {
    "function": "resize",
    "workload": b"",
    "background": False,
    "unique": b"",
    "timeout": None,
    "priority": Priority.NORMAL,
    "at": None,
    "retries": 0,
    "handle": None,
    "server": "",
    "attempt": 0,
    "ended": False,
}
"""Public members of a task, and their values before the submit if nothing but the function is passed."""


def test_task_has_default_options() -> None:
    task = Task("resize")
    assert {name: getattr(task, name) for name in dir(task) if not name.startswith("_")} == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_members_of_task_are_read_only(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(Task("resize"), name, None)


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("name", ["größe", "größe".encode(), b"\xff\xfe", b"a b\tc\n%s"])
def test_names_are_sent_as_bytes(name: str | bytes) -> None:
    wire = name.encode() if isinstance(name, str) else name
    task = Task(name, unique=name)
    assert (task.function, wire_function(task), task.unique) == (name, wire, wire)


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
    view, copy = Task("resize", memoryview(workload)), Task("resize", workload)  # type: ignore[arg-type]  # views are accepted
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
    """Not down: the job must not start early."""
    task = Task("resize", background=True, at=at)
    assert task.at == seconds
    assert type(task.at) is int


@pytest.mark.parametrize(
    ("function", "text"),
    [("größe", "größe"), ("größe".encode(), "größe"), (b"\xff", "\\xff")],
)
def test_string_of_task_has_function_and_job(function: str | bytes, text: str) -> None:
    task = Task(function)
    assert (str(task), repr(task)) == (text, f"<Task {text}>")
    outcomes = outcome(begin(task, prefix=b"box\t"))
    create_job(task)
    assert str(task) == f"{text} 10.0.0.1:4730//H:host:12"
    complete_task(task)
    assert outcomes == [b"thumbnail"]


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
    set_options(task, **options_of(Task("resize"))._asdict())  # the callbacks refer to the RecordedTask
    del recorded
    assert is_freed(reference)
    assert holder_of(task) is None


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
def test_owner_decides_about_retry() -> None:
    recorded = with_retries(5)
    recorded.retries = False
    fail(recorded)
    assert (len(recorded.fired), recorded.names.count("on_retry")) == (1, 0)


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


@pytest.mark.guarantee(number=9)
def test_cancelled_task_is_not_retried() -> None:
    recorded = with_retries(5)
    recorded.retries = False  # as a client does after a CancelledError
    cancel(recorded)
    assert (len(recorded.fired), recorded.names.count("on_retry")) == (1, 0)


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


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("wanted", [False, True])
def test_owner_drops_job_only_with_drop_on_cancel(wanted: bool) -> None:
    """While the task is in flight."""

    class Owner(TaskOwner):
        def __init__(self) -> None:
            self.dropped: list[JobHandle] = []

        def drop(self, handle: JobHandle) -> None:
            self.dropped.append(handle)

    owner, task = Owner(), Task("resize", drop_on_cancel=wanted)
    assert task._drop is None
    outcomes = outcome(begin(task, owner))
    if task._drop is not None:
        task._drop(JOB)
    assert owner.dropped == [JOB] * wanted
    complete_task(task)
    assert (task._drop, outcomes) == (None, [b"thumbnail"])


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"timeout": 0}, ValueError, "timeout must be a positive number of seconds, not 0"),
        ({"timeout": "5"}, TypeError, "timeout must be a number of seconds, not str"),
        ({"retries": -1}, ValueError, "retries must be at least 0, not -1"),
        ({"retries": 1.0}, TypeError, "retries must be int, not float"),
        ({"retries": 1, "background": True}, ValueError, "retries must be 0 for a background task"),
        ({"on_retry": print, "background": True}, ValueError, "on_retry must be None for a background task"),
    ],
)
def test_invalid_timeout_or_retries_raise(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Task("resize", **options)


def test_options_may_be_passed_with_default_values() -> None:
    """As a wrapper of a client does."""
    callbacks: dict[str, Any] = dict.fromkeys([*FOREGROUND_CALLBACKS, "on_created", "on_fail", "on_retry"])
    task = Task("resize", unique="", at=None, timeout=None, retries=0, drop_on_cancel=False, **callbacks)
    plain = Task("resize")
    assert (task.unique, task.timeout, options_of(task)) == (plain.unique, plain.timeout, options_of(plain))


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
