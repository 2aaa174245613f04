"""The exceptions: their tree, their texts and their attributes."""

from __future__ import annotations

import copy
import inspect
import re

import pytest

import txgearman
from txgearman import Task, errors
from txgearman.errors import (
    BatchFailed,
    ClientStopped,
    GearmanError,
    JobEnded,
    JobFailed,
    NoServersAvailable,
    ProtocolError,
    RequestUnsupported,
    ResultInvalid,
    ServerError,
    TaskError,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
    TaskTimedOut,
    TLSError,
    UnknownFunction,
    WorkloadInvalid,
    merge_unavailable,
)

TASK = Task("resize")

PARENTS: dict[type[Exception], type[Exception]] = {
    GearmanError: Exception,
    ProtocolError: GearmanError,
    ServerError: GearmanError,
    RequestUnsupported: ServerError,
    UnknownFunction: ServerError,
    TLSError: GearmanError,
    NoServersAvailable: GearmanError,
    ClientStopped: GearmanError,
    BatchFailed: GearmanError,
    JobFailed: GearmanError,
    JobEnded: GearmanError,
    WorkloadInvalid: GearmanError,
    TaskError: GearmanError,
    TaskFailed: TaskError,
    TaskException: TaskFailed,
    TaskRejected: TaskError,
    ResultInvalid: TaskError,
    TaskLost: TaskError,
    TaskTimedOut: TaskError,
}

CLASSES = {
    error.__name__: error
    for _, error in inspect.getmembers(errors, inspect.isclass)
    if issubclass(error, BaseException)
}


def drawn_tree() -> dict[str, str]:
    """Return the parent of each class in the tree of the module's docstring."""
    parents: dict[str, str] = {}
    above: dict[int, str] = {}
    for indent, name in re.findall(r"^    ([ │├└─]*)([A-Z]\w+)", inspect.getdoc(errors) or "", re.MULTILINE):
        depth = len(indent) // 4
        above[depth] = name
        parents[name] = above.get(depth - 1, "Exception")
    return parents


def lost(acknowledged: bool, cause: Exception | None = None) -> TaskLost:
    error = TaskLost(TASK, acknowledged=acknowledged)
    error.__cause__ = cause
    return error


def test_tree_of_exceptions() -> None:
    assert {error: error.__bases__ for error in PARENTS} == {error: (parent,) for error, parent in PARENTS.items()}


def test_docstring_draws_tree_of_exceptions() -> None:
    assert drawn_tree() == {error.__name__: parent.__name__ for error, parent in PARENTS.items()}


def test_every_exception_is_public_in_module_and_package() -> None:
    own = {name: error for name, error in CLASSES.items() if error.__module__ == errors.__name__}
    assert set(own.values()) == set(PARENTS)
    assert set(own) == set(errors.__all__) <= set(txgearman.__all__)
    assert all(getattr(txgearman, name) is getattr(errors, name) for name in errors.__all__)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ProtocolError("not the header of a Gearman packet"), "not the header of a Gearman packet"),
        (ServerError("UNKNOWN_OPTION", "no such option"), "UNKNOWN_OPTION: no such option"),
        (ServerError("not_worker", ""), "not_worker"),
        (RequestUnsupported("this server leaves it unanswered"), "this server leaves it unanswered"),
        (UnknownFunction("this server has no function"), "this server has no function"),
        (TLSError("TLS: wrong version number"), "TLS: wrong version number"),
        (
            NoServersAvailable({"10.0.0.1:4730": OSError("refused"), "10.0.0.2:4730": OSError("no route")}),
            "10.0.0.1:4730: refused; 10.0.0.2:4730: no route",
        ),
        (ClientStopped(), "the client was stopped"),
        (ClientStopped("the client is being stopped"), "the client is being stopped"),
        (
            BatchFailed([b"r", TaskFailed(TASK), ClientStopped()], 2),
            "2 of 3 jobs failed, the first with: resize: failed",
        ),
        (TaskError(TASK), "resize: failed"),
        (TaskFailed(TASK), "resize: failed"),
        (TaskException(TASK, "naïve".encode()), "resize: exception: naïve"),
        (TaskException(TASK, b"\xff\0"), "resize: exception: \\xff\\x00"),
        (
            TaskRejected(TASK, "QUEUE_ERROR", "Job queue is full"),
            "resize: rejected: QUEUE_ERROR: Job queue is full",
        ),
        (lost(True), "resize: connection lost after JOB_CREATED"),
        (lost(False), "resize: connection lost before JOB_CREATED"),
        (TaskLost(TASK, acknowledged=True, forgotten=True), "resize: job forgotten by the server"),
        (lost(True, OSError("reset")), "resize: connection lost after JOB_CREATED (reset)"),
        (TaskTimedOut(TASK), "resize: timed out"),
    ],
    ids=repr,
)
def test_text_of_exception(error: GearmanError, text: str) -> None:
    assert str(error) == text


def test_text_of_rejection_without_server_text_ends_with_code() -> None:
    """Perl's server sends ERROR with an empty text (C3)."""
    assert str(TaskRejected(TASK, "not_worker", "")) == "resize: rejected: not_worker"


def test_text_of_exception_truncates_long_data() -> None:
    error = TaskException(TASK, b"x" * 100_000)
    assert len(str(error)) < 300
    assert error.data == b"x" * 100_000


@pytest.mark.parametrize(
    ("error", "attributes"),
    [
        (ServerError("UNKNOWN_OPTION", "no such"), {"code": "UNKNOWN_OPTION", "text": "no such"}),
        (TaskError(TASK), {"task": TASK}),
        (TaskFailed(TASK), {"task": TASK}),
        (TaskException(TASK, b"boom"), {"task": TASK, "data": b"boom"}),
        (TaskRejected(TASK, "QUEUE_ERROR", "full"), {"task": TASK, "code": "QUEUE_ERROR", "text": "full"}),
        (TaskLost(TASK, acknowledged=True), {"task": TASK, "acknowledged": True, "forgotten": False}),
        (TaskLost(TASK, acknowledged=False), {"task": TASK, "acknowledged": False, "forgotten": False}),
        (
            TaskLost(TASK, acknowledged=True, forgotten=True),
            {"task": TASK, "acknowledged": True, "forgotten": True},
        ),
        (TaskTimedOut(TASK), {"task": TASK}),
    ],
    ids=repr,
)
def test_attributes_of_exception(error: GearmanError, attributes: dict[str, object]) -> None:
    assert {name: value for name, value in vars(error).items() if not name.startswith("_")} == attributes


def test_reasons_are_copied() -> None:
    """Later changes of the servers do not change an error that a caller keeps."""
    refused = OSError("refused")
    reasons: dict[str, BaseException] = {"10.0.0.1:4730": refused}
    error = NoServersAvailable(reasons)
    reasons.clear()
    assert error.reasons == {"10.0.0.1:4730": refused}


def test_error_of_several_servers_has_times_of_each() -> None:
    merged = merge_unavailable(
        [
            NoServersAvailable({"a": OSError("refused")}, ages={"a": 61.26}, next_attempts={"a": 0.44}),
            NoServersAvailable({"b": OSError("silent")}, ages={"b": 0.0}),
            NoServersAvailable({"c": OSError("lost")}),
        ]
    )
    assert str(merged) == "a: refused (61.3 s ago, next attempt in 0.4 s); b: silent; c: lost"
    assert (merged.ages, merged.next_attempts) == ({"a": 61.26, "b": 0.0}, {"a": 0.44})
    assert str(copy.copy(merged)) == str(merged)


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize(
    ("error", "retriable"),
    [
        (TaskLost(TASK, acknowledged=False), True),
        (TaskLost(TASK, acknowledged=True), True),
        (TaskLost(TASK, acknowledged=True, forgotten=True), True),
        (TaskFailed(TASK), True),
        (TaskException(TASK, b"x"), True),
        (TaskRejected(TASK, "QUEUE_ERROR", "Job queue is full"), True),
        (TaskRejected(TASK, "ARGUMENT_TOO_LARGE", ""), False),
        (TaskRejected(TASK, "", ""), False),
        (NoServersAvailable({}), True),
        (TaskTimedOut(TASK), False),
        (ClientStopped(), False),
        (BatchFailed([TaskFailed(TASK)], 1), False),
        (ProtocolError(), False),
        (ServerError("code", ""), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_retriable_errors(error: GearmanError, retriable: bool) -> None:
    assert error.retriable is retriable
