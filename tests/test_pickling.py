"""Exceptions, handles and statuses cross processes: pickle, copy and deepcopy keep what they say."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from typing import Any, TypeVar

import pytest
from twisted.internet.error import ConnectError, ConnectionLost, ConnectionRefusedError

from txgearman import JobHandle, JobStatus, Priority, Task, errors
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
)
from txgearman.models import TaskInfo, TaskSnapshot
from txgearman.testing import MemoryJobServer

T = TypeVar("T")

PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)

TASK = Task("resize", b"secret", unique="u", timeout=5, priority=Priority.HIGH, retries=2, on_data=lambda task, data: 0)

PLAIN: list[GearmanError] = [
    GearmanError("one", 2),
    ProtocolError("not the header of a Gearman packet"),
    ServerError("UNKNOWN_OPTION", "no such option"),
    RequestUnsupported("this server leaves it unanswered"),
    UnknownFunction("this server has no function"),
    TLSError("TLS: wrong version number"),
    NoServersAvailable({"10.0.0.1:4730": ConnectionRefusedError(), "10.0.0.2:4730": TLSError("no route")}),
    ClientStopped(),
    ClientStopped("the client is being stopped"),
    BatchFailed([b"result", JobHandle("server", b"H:1"), ClientStopped()], 1),
    JobFailed("no such picture"),
    JobEnded("timed out"),
    WorkloadInvalid("resize: invalid workload"),
]

OF_TASKS: list[TaskError] = [
    TaskError(TASK),
    TaskFailed(TASK),
    TaskException(TASK, b"boom\xff"),
    TaskRejected(TASK, "QUEUE_ERROR", "Job queue is full"),
    TaskLost(TASK, acknowledged=True),
    TaskLost(TASK, acknowledged=False, forgotten=True),
    TaskTimedOut(TASK),
    ResultInvalid(TASK, b"\xff{"),
]


def pickled(value: T, protocol: int = pickle.HIGHEST_PROTOCOL) -> T:
    restored: T = pickle.loads(pickle.dumps(value, protocol))
    return restored


def caused(error: T, cause: BaseException) -> T:
    vars(BaseException)["__cause__"].__set__(error, cause)
    return error


def seen(task: TaskInfo) -> dict[str, object]:
    """Return what `TaskInfo` names of a task, apart from its workload."""
    names = {name for name in vars(TaskInfo) if isinstance(vars(TaskInfo)[name], property)} - {"workload"}
    return {name: getattr(task, name) for name in names}


def attributes(error: BaseException) -> dict[str, object]:
    """Return the attributes of an error, with the texts of the errors in it."""
    return {
        name: {key: str(reason) for key, reason in value.items()} if name == "reasons" else str(value)
        for name, value in vars(error).items()
        if name != "task"
    }


def test_errors_of_jobs_of_batch_are_pickled_as_those_of_tasks() -> None:
    caused_by = caused(TaskLost(TASK, acknowledged=True), ConnectionLost("reset"))
    restored = pickled(BatchFailed([b"result", caused_by], 1))
    assert restored.outcomes[0] == b"result"
    lost = restored.outcomes[1]
    assert isinstance(lost, TaskLost)
    assert (str(lost), lost.task.workload, type(lost.__cause__)) == (str(caused_by), b"", ConnectionLost)


def test_every_exception_is_in_these_tests() -> None:
    classes = {error for _, error in inspect.getmembers(errors, inspect.isclass) if issubclass(error, GearmanError)}
    assert {type(error) for error in [*PLAIN, *OF_TASKS]} == classes


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("error", [*PLAIN, *OF_TASKS], ids=repr)
def test_exception_is_pickled_with_its_text_and_attributes(error: GearmanError, protocol: int) -> None:
    restored = pickled(error, protocol)
    assert type(restored) is type(error)
    assert str(restored) == str(error)
    assert attributes(restored) == attributes(error)
    assert restored.retriable is error.retriable
    assert len(restored.args) == len(error.args)
    assert str(pickled(restored, protocol)) == str(error)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("error", OF_TASKS, ids=repr)
def test_pickled_error_of_task_has_frozen_copy_without_workload(error: TaskError, protocol: int) -> None:
    restored = pickled(error, protocol)
    assert isinstance(restored.task, TaskSnapshot)
    assert restored.args == (restored.task,)
    assert seen(restored.task) == seen(TASK)
    assert restored.task.workload == b""
    assert b"secret" not in pickle.dumps(error, protocol)
    assert error.task is TASK
    with pytest.raises(AttributeError):
        restored.task.attempt = 3  # type: ignore[misc]  # what the test is about
    assert (str(restored.task), repr(restored.task)) == ("resize", "<TaskSnapshot resize>")


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("error", [*PLAIN, *OF_TASKS], ids=repr)
def test_copy_of_exception_is_equal_and_its_own(error: GearmanError, way: Any) -> None:
    copied = way(error)
    assert copied is not error
    assert type(copied) is type(error)
    assert str(copied) == str(error)
    assert attributes(copied) == attributes(error)
    assert len(copied.args) == len(error.args)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("error", OF_TASKS, ids=repr)
def test_copies_have_same_task(error: TaskError, way: Any) -> None:
    copied = way(caused(copy.copy(error), OSError("reset")))
    assert copied.task is TASK
    assert copied.args == (TASK,)
    assert str(copied.__cause__) == "reset"


def test_deep_copy_has_attributes_and_reasons_of_its_own() -> None:
    error = NoServersAvailable({"jobs:4730": OSError("refused")})
    error.seen_by = ["me"]  # type: ignore[attr-defined]  # as programs mark errors
    copied = copy.deepcopy([error, error])
    assert copied[0] is copied[1]
    assert copied[0].reasons == error.reasons
    assert copied[0].reasons is not error.reasons
    assert vars(copied[0])["seen_by"] == ["me"]
    assert vars(copied[0])["seen_by"] is not vars(error)["seen_by"]


class Awkward(Exception):
    """An exception of somebody else's that neither pickle nor copy can call again."""

    def __init__(self, code: int, *, text: str) -> None:
        super().__init__(code)
        self.text = text

    def __str__(self) -> str:
        return self.text


class Unpicklable(Exception):
    """An exception of somebody else's that holds what can't be pickled."""

    def __init__(self) -> None:
        super().__init__("a connection", lambda: None)

    def __str__(self) -> str:
        return "a connection"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "cause",
    [
        ConnectionLost("reset by peer"),
        ConnectError(111, "refused"),
        OSError(2, "No such file", "/run/gearmand.sock"),
        Awkward(3, text="awkward"),
        RequestUnsupported("this server leaves it unanswered"),
        caused(TLSError("TLS: it has expired"), Awkward(3, text="of OpenSSL")),
        TaskFailed(TASK),
    ],
    ids=repr,
)
def test_cause_is_pickled_with_its_text(cause: BaseException, protocol: int) -> None:
    error = caused(TaskLost(TASK, acknowledged=True), cause)
    restored = pickled(error, protocol)
    assert str(restored) == str(error) == f"resize: connection lost after JOB_CREATED ({cause})"
    assert type(restored.__cause__) is type(cause)
    assert restored.__suppress_context__
    assert str(restored.__cause__ and restored.__cause__.__cause__) == str(cause.__cause__)
    reasons = pickled(NoServersAvailable({"jobs": cause}), protocol).reasons
    assert (type(reasons["jobs"]), str(reasons["jobs"])) == (type(cause), str(cause))


def test_cause_that_can_not_be_pickled_becomes_error_with_its_text() -> None:
    restored = pickled(caused(TaskLost(TASK, acknowledged=True), Unpicklable()))
    assert type(restored.__cause__) is GearmanError
    assert str(restored) == "resize: connection lost after JOB_CREATED (a connection)"
    assert str(pickled(NoServersAvailable({"jobs": Unpicklable()}))) == "jobs: a connection"
    assert isinstance(copy.copy(caused(TaskFailed(TASK), Unpicklable())).__cause__, Unpicklable)
    assert str(copy.deepcopy(NoServersAvailable({"jobs": Unpicklable()}))) == "jobs: a connection"


class PictureFailed(TaskException):
    """A user's exception: other arguments, an attribute, and a text of its own."""

    def __init__(self, task: TaskInfo, *, picture: str) -> None:
        super().__init__(task, picture.encode())
        self.picture = picture
        self.original = task

    def __str__(self) -> str:
        return f"{self.picture}: {super().__str__()}"


class ServerLeft(NoServersAvailable):
    """A user's exception whose arguments are not those of its base."""

    def __init__(self, name: str) -> None:
        super().__init__({name: OSError("left")})
        self.args = (name,)


@pytest.mark.parametrize("way", [pickled, copy.copy, copy.deepcopy])
def test_subclasses_of_users_may_have_other_arguments(way: Any) -> None:
    error = way(PictureFailed(TASK, picture="cat"))
    assert type(error) is PictureFailed
    assert (error.picture, error.data) == ("cat", b"cat")
    assert error.original is error.task
    assert str(error) == "cat: resize: exception: cat"
    left = way(ServerLeft("jobs"))
    assert (type(left), left.args, str(left)) == (ServerLeft, ("jobs",), "jobs: left")


@pytest.mark.parametrize("way", [pickled, copy.copy, copy.deepcopy])
def test_error_that_was_raised_is_pickled_and_copied(way: Any) -> None:
    with pytest.raises(TaskFailed) as raised:
        raise TaskFailed(TASK) from ConnectionLost("reset")
    copied = way(raised.value)
    assert str(copied) == "resize: failed"
    assert isinstance(copied.__cause__, ConnectionLost)
    assert copied.__traceback__ is None


HANDLE = JobHandle("10.0.0.1:4730", b"H:host:\xff12")
STATUS = JobStatus(known=True, running=True, numerator=1, denominator=3, waiting_clients=2)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", [HANDLE, STATUS, Priority.HIGH], ids=repr)
def test_handle_and_status_are_pickled_and_copied(value: object, protocol: int) -> None:
    for copied in (pickled(value, protocol), copy.copy(value), copy.deepcopy(value)):
        assert type(copied) is type(value)
        assert copied == value
        assert str(copied) == str(value)


def test_error_raised_by_client_is_pickled_with_its_handle() -> None:
    job_server = MemoryJobServer()
    client = job_server.client()
    client.startService()
    task = client.add_task("resize", b"secret", unique="u")
    job_server.take("resize").send_exception(b"boom")
    with pytest.raises(TaskException) as raised:
        job_server.result_of(task)
    error = raised.value
    job_server.result_of(job_server.close())
    assert error.task.handle is not None
    for protocol in PROTOCOLS:
        restored = pickled(error, protocol)
        assert str(restored) == str(error)
        assert str(error.task.handle) in str(restored)
        assert seen(restored.task) == seen(error.task)
        assert restored.task.ended


@pytest.mark.process
def test_error_is_unpickled_in_fresh_process() -> None:
    """Which has imported nothing of txgearman, and gets its handle."""
    error = caused(TaskException(TASK, b"boom"), ConnectionLost("reset"))
    script = (
        "import pickle, sys; error = pickle.load(sys.stdin.buffer); "
        "print(type(error).__module__, type(error).__name__, error, error.task.priority.name, error.__cause__, sep='|')"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(error), capture_output=True, check=True, timeout=60
    )
    assert run.stdout.decode().rstrip() == f"txgearman.errors|TaskException|{error}|HIGH|{error.__cause__}"
