"""Arguments of a task: what they may be, and what is made of them."""

from __future__ import annotations

import array
import datetime
import decimal
import math
from typing import Any

import pytest

from txgearman.client.task import Task
from txgearman.models import Priority
from txgearman.validation import MAX_FUNCTION, MAX_HANDLE, MAX_UNIQUE, name_bytes

from ..wire import outcome
from .task_harness import FOREGROUND_CALLBACKS, begin, complete_task, create_job, options_of, wire_function

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
    (TypeError, "a task has no option 'max_retries': use retries, and server_wait of", {"max_retries": 5}),
    (TypeError, "a task has no option 'poll_timeout': use timeout$", {"poll_timeout": 5}),
    (TypeError, "a task has no option 'wait_until_complete': leave it out, since", {"wait_until_complete": False}),
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


# Guarantee 7: retries.


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
    assert (task.unique, task.timeout, task.retries) == (plain.unique, plain.timeout, plain.retries) == (b"", None, 0)
    assert {**options_of(task), "retries": -1, "unlimited": False} == options_of(plain)


def test_background_task_may_have_timeout() -> None:
    assert Task("resize", background=True, timeout=5).timeout == 5
