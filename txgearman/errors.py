"""Every exception of txgearman.

::

    GearmanError                     .retriable: whether `retries=` submits again after it
    ├── ProtocolError                the server violated the protocol, or sent more than max_packet_size
    ├── ServerError                  an ERROR packet, or ERR in the text protocol: .code, .text
    │   ├── RequestUnsupported       this server never answers such a request (.code is empty)
    │   └── UnknownFunction          the server does not have the function (.code is empty)
    ├── TLSError                     TLS with a server failed: its certificate, the client's, or the server has no TLS
    ├── NoServersAvailable           no job server could be reached: .reasons, by address
    ├── ClientStopped                the client was stopped
    ├── BatchFailed                  jobs of a batch failed: .outcomes, .failed
    ├── JobFailed                    for a worker's function to raise: fails the job without an exception
    ├── JobEnded                     a worker's function used a job that had ended
    ├── WorkloadInvalid              the workload of a worker's job could not be decoded
    └── TaskError                    a task ended without a result: .task
        ├── TaskFailed               WORK_FAIL
        │   └── TaskException        WORK_EXCEPTION: .data
        ├── TaskRejected             the server answered the submit with ERROR: .code, .text
        ├── ResultInvalid            the result could not be decoded: .data
        ├── TaskLost                 the connection was lost, or the server forgot the job: .acknowledged, .forgotten
        └── TaskTimedOut             the timeout of the task passed

They report what happened at a server, a worker or on a connection. Invalid arguments raise the builtin ``TypeError`` or
``ValueError`` at the call.

Each can be pickled and copied, with its attributes and its ``__cause__``. A pickled `TaskError` has a frozen copy of
its task, whose workload is empty; a copied one has the same task. ``__init__`` is not called again: a subclass may have
other arguments, but what it keeps in attributes must be picklable. A cause that can't be pickled becomes a
`GearmanError` with its text.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from types import MappingProxyType
from typing import ClassVar, Final, TypeAlias, TypeVar

from typing_extensions import Self

from .models import JobHandle, TaskInfo, TaskSnapshot
from .validation import short_text

__all__ = [
    "BatchFailed",
    "ClientStopped",
    "GearmanError",
    "JobEnded",
    "JobFailed",
    "NoServersAvailable",
    "ProtocolError",
    "RequestUnsupported",
    "ResultInvalid",
    "ServerError",
    "TLSError",
    "TaskError",
    "TaskException",
    "TaskFailed",
    "TaskLost",
    "TaskRejected",
    "TaskTimedOut",
    "UnknownFunction",
    "WorkloadInvalid",
]

_QUEUE_FULL: Final = "QUEUE_ERROR"  # docs/gearman.md §3

_MAX_DATA_SHOWN: Final = 250  # characters of WORK_EXCEPTION data in the text of the error

_MIN_AGE_SHOWN: Final = 0.05  # seconds since an error of a connection in the text of `NoServersAvailable`

E = TypeVar("E", bound=BaseException)

_Reduced: TypeAlias = "tuple[object, tuple[object, ...], dict[str, object]]"
"""What pickle takes: a callable, its arguments, and the attributes of what it returns."""

_Content: TypeAlias = "tuple[tuple[object, ...], dict[str, object]]"
"""``args`` and attributes of an exception."""


class GearmanError(Exception):
    """Base of all exceptions of txgearman.

    Its text is printable, whatever others have sent: control characters and ends of lines are escaped. It has at most
    1,024 characters; if more were cut, it says how many. Attributes such as ``data`` keep what was received.
    """

    _retriable: ClassVar[bool] = False

    def __str__(self) -> str:
        return short_text(super().__str__())

    @property
    def retriable(self) -> bool:
        """Whether a task that failed with this error is resubmitted, if it has ``retries`` left."""
        return self._retriable

    def __reduce__(self) -> _Reduced:
        args, state = self._portable_content()
        cause = None if self.__cause__ is None else _portable(self.__cause__)
        return _restore, (type(self), args, cause), state

    def _portable_content(self) -> _Content:
        """Return ``args`` and attributes as they are pickled."""
        return self.args, vars(self)

    def __copy__(self) -> Self:
        return self._copy_with(self.args, vars(self))

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        memo.update((id(kept), kept) for kept in self._kept_by_copies())
        return self._copy_with(*deepcopy((self.args, vars(self)), memo))

    def _kept_by_copies(self) -> Iterable[object]:
        """Return the objects that a deep copy has in common with this error."""
        return ()

    def _copy_with(self, args: tuple[object, ...], attributes: Mapping[str, object]) -> Self:
        copied = _restore(type(self), args, self.__cause__)
        vars(copied).update(attributes)
        return copied


class ProtocolError(GearmanError):
    """The server sent bytes that are not Gearman, an answer to no request, or more than ``max_packet_size``.

    The connection is aborted; ``last_error`` in ``GearmanClient.servers`` has the error.
    """


class ServerError(GearmanError):
    """The server answered a request with an ERROR packet, or a command of the text protocol with ERR.

    :ivar code: the server's error code, such as ``"UNKNOWN_OPTION"``; geard sends numbers (C3). ``"ERR"`` if the text
        protocol gave none.
    :ivar text: the server's explanation; may be empty. Of one longer than 1,024 characters the rest was cut, and the
        last ones say how much.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return short_text(": ".join(filter(None, [self.code, self.text])))


class RequestUnsupported(ServerError):
    """The server does not answer requests of this type. ``code`` is empty.

    geard answers neither GET_STATUS_UNIQUE nor most commands of the text protocol (H6).
    """

    def __init__(self, text: str) -> None:
        super().__init__("", text)


class UnknownFunction(ServerError):
    """The server does not have the function. ``code`` is empty: gearmand answers OK and does nothing."""

    def __init__(self, text: str) -> None:
        super().__init__("", text)


class TLSError(GearmanError):
    """TLS with a server failed. The text names the fault; ``__cause__`` is the error of Twisted or OpenSSL.

    The client reconnects after a delay; ``last_error`` in ``GearmanClient.servers`` has the error.
    """


class NoServersAvailable(GearmanError):
    """No job server could be reached.

    It is retriable. To wait for a server, prefer ``server_wait`` of `GearmanClient`.

    :ivar reasons: the last error of each server that was tried, by its address.
    :ivar ages: the seconds that had passed since each of them.
    :ivar next_attempts: the seconds until the next attempt to connect to a server, by its address. A server is missing
        while an attempt is in progress.
    """

    _retriable = True

    def __init__(
        self,
        reasons: Mapping[str, BaseException],
        *,
        ages: Mapping[str, float] = MappingProxyType({}),
        next_attempts: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.reasons = dict(reasons)
        self.ages = dict(ages)
        self.next_attempts = dict(next_attempts)
        super().__init__(self.reasons)

    def __str__(self) -> str:
        return short_text("; ".join(map(self._describe, self.reasons)))

    def _describe(self, address: str) -> str:
        age = self.ages.get(address, 0.0)
        times = [f"{age:.1f} s ago"] if age >= _MIN_AGE_SHOWN else []
        if address in self.next_attempts:
            times.append(f"next attempt in {self.next_attempts[address]:.1f} s")
        return f"{address}: {self.reasons[address]}" + (f" ({', '.join(times)})" if times else "")

    def _portable_content(self) -> _Content:
        reasons = {address: _portable(reason) for address, reason in self.reasons.items()}
        return _replaced(self, {id(self.reasons): reasons})

    def _kept_by_copies(self) -> Iterable[object]:
        return self.reasons.values()


class ClientStopped(GearmanError):
    """The client was stopped, before the call or while it was pending."""

    def __init__(self, text: str = "the client was stopped") -> None:
        super().__init__(text)


class BatchFailed(GearmanError):
    """Jobs of a batch failed: one of them, some, or all.

    :ivar outcomes: outcome of each job, in the places of the workloads: its result or its `JobHandle`, or the error
        that a task of its own would have failed with. Several jobs may have the same error if it names no task.
    :ivar failed: number of errors among them.
    """

    def __init__(self, outcomes: Sequence[bytes | JobHandle | Exception], failed: int) -> None:
        super().__init__(outcomes, failed)
        self.outcomes = outcomes
        self.failed = failed

    def __str__(self) -> str:
        first = next(outcome for outcome in self.outcomes if isinstance(outcome, Exception))
        return short_text(f"{self.failed} of {len(self.outcomes)} jobs failed, the first with: {first}")


class JobFailed(GearmanError):
    """For a worker's function to raise: the job ends with WORK_FAIL, which carries no reason.

    Any other exception is sent as WORK_EXCEPTION. The text of a `JobFailed` appears in the worker's log only.
    """


class JobEnded(GearmanError):
    """A worker's function used a job that had ended: completed, timed out, or lost its connection."""


class WorkloadInvalid(GearmanError):
    """The workload of a job could not be decoded, by the ``decode`` that its function was registered with.

    It is logged without a traceback, and sent as WORK_EXCEPTION; ``__cause__`` is what ``decode`` has raised.
    """


class TaskError(GearmanError):
    """A task ended without a result.

    :ivar task: the task: a `TaskInfo`. That of an error that was pickled is a frozen copy with an empty workload.
    """

    def __init__(self, task: TaskInfo) -> None:
        super().__init__(task)
        self.task = task

    def __str__(self) -> str:
        return short_text(f"{self.task}: {self._what()}")

    def _portable_content(self) -> _Content:
        return _replaced(self, {id(self.task): TaskSnapshot.of(self.task)})

    def _kept_by_copies(self) -> Iterable[object]:
        return (self.task,)

    def _what(self) -> str:
        return "failed"


class TaskFailed(TaskError):
    """The worker sent WORK_FAIL, which carries no reason.

    It is retriable: the next attempt goes to another server, if there is one.
    """

    _retriable = True


class TaskException(TaskFailed):
    """The worker sent WORK_EXCEPTION.

    :ivar data: the bytes that the worker sent with it; their format is the worker's choice.
    """

    def __init__(self, task: TaskInfo, data: bytes) -> None:
        super().__init__(task)
        self.data = data

    def _what(self) -> str:
        return f"exception: {short_text(self.data, _MAX_DATA_SHOWN)}"


class TaskRejected(TaskError):
    """The server answered the submit with ERROR, and has not created a job.

    It is retriable if the queue was full (``QUEUE_ERROR``); any other refusal would be repeated.

    :ivar code: the server's error code, such as ``"QUEUE_ERROR"``; empty if the server left the submit unanswered, in
        which case ``__cause__`` is a `RequestUnsupported`.
    :ivar text: the server's explanation.
    """

    def __init__(self, task: TaskInfo, code: str, text: str) -> None:
        super().__init__(task)
        self.code = code
        self.text = text

    @property
    def retriable(self) -> bool:
        return self.code == _QUEUE_FULL

    def _what(self) -> str:
        return ": ".join(filter(None, ["rejected", self.code, self.text]))


class ResultInvalid(TaskError):
    """The job was done, but ``decode`` of a `RemoteFunction` could not read its result.

    :ivar data: the bytes of the result. ``__cause__`` is what ``decode`` has raised.
    """

    def __init__(self, task: TaskInfo, data: bytes) -> None:
        super().__init__(task)
        self.data = data

    def _what(self) -> str:
        why = f" ({type(self.__cause__).__name__}: {self.__cause__})" if self.__cause__ else ""
        return f"invalid result{why}: {short_text(self.data, _MAX_DATA_SHOWN)}"


class TaskLost(TaskError):
    """The connection was lost between the submit and the outcome, or the server forgot the job.

    After a lost connection the job may be queued, running or done: the client can't find out. ``__cause__`` is the
    error that ended the connection. It is retriable: the job may then run twice.

    :ivar acknowledged: whether JOB_CREATED had arrived. If not, the server may never have received the task.
    :ivar forgotten: whether the connection is up, but the server answered that it does not know the job, whose end it
        never reported (H1 to H3, H5, H9).
    """

    _retriable = True

    def __init__(self, task: TaskInfo, *, acknowledged: bool, forgotten: bool = False) -> None:
        super().__init__(task)
        self.acknowledged = acknowledged
        self.forgotten = forgotten

    def _what(self) -> str:
        if self.forgotten:
            return "job forgotten by the server"
        when = "after" if self.acknowledged else "before"
        text = f"connection lost {when} JOB_CREATED"
        return f"{text} ({self.__cause__})" if self.__cause__ else text


class TaskTimedOut(TaskError):
    """The ``timeout`` of the task passed, all attempts together. The job may still run."""

    def _what(self) -> str:
        return "timed out"


def merge_unavailable(errors: Iterable[NoServersAvailable]) -> NoServersAvailable:
    """Return one error for the servers of several."""
    merged = NoServersAvailable({})
    for error in errors:
        merged.reasons.update(error.reasons)
        merged.ages.update(error.ages)
        merged.next_attempts.update(error.next_attempts)
    return merged


def _restore(cls: type[E], args: tuple[object, ...], cause: BaseException | None = None) -> E:
    """Return an exception as it was, apart from its attributes.

    Python itself would call the class with ``args``, which fails if ``__init__`` takes others.
    """
    error = cls.__new__(cls, *args)
    error.args = args
    if cause is not None:
        error.__cause__ = cause
    return error


def _replaced(error: BaseException, others: Mapping[int, object]) -> _Content:
    """Return ``args`` and attributes of an exception, with other objects for those that have these ids."""
    args = tuple(others.get(id(value), value) for value in error.args)
    return args, {name: others.get(id(value), value) for name, value in vars(error).items()}


class _Restorable:
    """Pickles as an exception that is restored without a call of its ``__init__``."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> _Reduced:
        return _restore, (type(self._error), self._error.args), vars(self._error)


def _portable(error: BaseException) -> object:
    """Return what is pickled for an error: the error, or a way to restore it, or else another one with its text."""
    if isinstance(error, GearmanError):
        return error
    return next(filter(lambda way: _survives(way, error), (error, _Restorable(error))), GearmanError(str(error)))


def _survives(way: object, error: BaseException) -> bool:
    try:
        copied = pickle.loads(pickle.dumps(way))  # noqa: S301  # what was pickled here
    except Exception:  # whatever the attributes of somebody else's exception raise
        return False
    return type(copied) is type(error) and str(copied) == str(error)
