"""A task: its arguments, its options, and the order of its events.

`Task._begin` returns the task's Deferred. The holder of the task then reports each event to it (`Task._answered`,
`Task._data_received` ...), up to its outcome. Guarantees 2 (order) and 13 (isolated callbacks) are kept here; this
module does not know where the events come from.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping
from copy import copy
from functools import lru_cache
from types import EllipsisType
from typing import Any, ClassVar, Final, Protocol, TypeAlias, TypedDict, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from typing_extensions import TypeVarTuple, Unpack

from ..connection.awaitable import AwaitableDeferred
from ..errors import ClientStopped, RequestUnsupported, ServerError, TaskException, TaskLost, TaskRejected
from ..failures import for_log
from ..log_fields import task_fields
from ..models import JobHandle, Priority, job_handle
from ..packets import (
    JOB_CREATED,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_EPOCH,
    SUBMIT_JOB_HIGH,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW,
    SUBMIT_JOB_LOW_BG,
    PacketType,
)
from ..retry import Retry
from ..validation import (
    MAX_FUNCTION,
    MAX_NAME,
    MAX_UNIQUE,
    check_callback,
    check_count,
    check_flag,
    function_bytes,
    name_bytes,
    payload_bytes,
    positive_seconds,
    short_text,
)

__all__ = [
    "AnyOptions",
    "BackgroundOptions",
    "Options",
    "Task",
    "TaskHolder",
    "TaskOptions",
    "TaskOwner",
    "TaskResult",
    "TaskTables",
]

_log = Logger()

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TaskResult: TypeAlias = bytes | JobHandle
"""What the Deferred of a task fires with: the result of a foreground task, or the handle of a background one."""

_NO_UNIQUE: Final = b""

_NO_RETRIES: Final = -1
"""``retries`` of a task that leaves them to its client."""

# By Priority: HIGH, NORMAL, LOW.
_SUBMIT: Final = (SUBMIT_JOB_HIGH, SUBMIT_JOB, SUBMIT_JOB_LOW)
_SUBMIT_BACKGROUND: Final = (SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_BG, SUBMIT_JOB_LOW_BG)

_MAX_EPOCH: Final = 2**63 - 1  # gearmand leaves a submit with a larger number unanswered (H6)


class TaskHolder(Protocol):
    """Where a submitted task currently is: a queue, or a connection."""

    def discard(self, task: Task) -> None:
        """Remove the task, and ignore what arrives for it later."""


class TaskTables(Protocol):
    """The tables of a connection, which a task is in until it has its outcome."""

    def _task_removed(self, task: Task) -> None:
        """Note that the task has left the tables."""


class _CommonOptions(TypedDict, total=False):
    priority: Priority
    drop_on_cancel: bool
    on_created: Callable[[Task], object] | None
    on_fail: Callable[[Task, Exception], object] | None


class _ForegroundOptions(_CommonOptions, total=False):
    retries: int
    retry: Retry | None
    on_data: Callable[[Task, bytes], object] | None
    on_warning: Callable[[Task, bytes], object] | None
    on_status: Callable[[Task, int, int], object] | None
    on_complete: Callable[[Task, bytes], object] | None
    on_exception: Callable[[Task, bytes], object] | None
    on_retry: Callable[[Task, int], object] | None


class AnyOptions(_ForegroundOptions, total=False):
    """Keyword arguments of `Task` beyond its named parameters."""

    at: datetime.datetime | float | None


class TaskOptions(_ForegroundOptions, total=False):
    """Keyword options of a foreground task. `Task` describes them."""

    unique: str | bytes
    timeout: float | None


class BackgroundOptions(_CommonOptions, total=False):
    """Keyword options of a background task. `Task` describes them."""

    unique: str | bytes
    timeout: float | None
    at: datetime.datetime | float | None


class Options:
    """Validated options of a task that most tasks leave at their defaults.

    The defaults are attributes of the class. An object has only what was given: that takes half the time.
    """

    packet_type: PacketType = SUBMIT_JOB
    """Type of packet that submits the task."""
    streamed: bool = False
    """Whether the task has a connection to itself, so that reading from it can be paused."""
    priority: Priority = Priority.NORMAL
    at: int | None = None
    retries: int = _NO_RETRIES
    retry: Retry | None = None
    """When to resubmit the task, if not as usual. `retries` alone says how often."""
    unlimited: bool = False
    """Whether the task has no timeout, even if its client has one."""
    drop_on_cancel: bool = False
    on_created: Callable[[Task], object] | None = None
    on_data: Callable[[Task, bytes], object] | None = None
    on_warning: Callable[[Task, bytes], object] | None = None
    on_status: Callable[[Task, int, int], object] | None = None
    on_complete: Callable[[Task, bytes], object] | None = None
    on_exception: Callable[[Task, bytes], object] | None = None
    on_fail: Callable[[Task, Exception], object] | None = None
    on_retry: Callable[[Task, int], object] | None = None

    @classmethod
    def from_keywords(cls, keywords: AnyOptions, background: bool) -> Options:
        """Validate keyword arguments.

        :raises TypeError, ValueError: an argument is invalid, or not allowed for this kind of task.
        """
        if len(keywords) == 1:
            (name,) = keywords
            if name == "priority":
                return _OF_PRIORITY[background][_priority(name, keywords["priority"])]
            callback = keywords.get(name)
            if name in _CALLBACKS[background] and callable(callback):  # as below, in half the time
                options = cls()
                setattr(options, name, callback)
                if background:
                    options.packet_type = SUBMIT_JOB_BG
                return options
        options = cls()
        for name, value in keywords.items():
            check = _CHECKS.get(name)
            if check is None:
                raise TypeError(f"a task has no option {name!r}{_INSTEAD.get(name, '')}")
            setattr(options, name, check(name, value))
        if "retry" in keywords:
            _set_retries(options, keywords)
        if background:
            options.packet_type = SUBMIT_JOB_BG
            if not _RESTRICTED.isdisjoint(keywords):
                options._check_background()
        elif "at" in keywords and options.at is not None:
            raise ValueError("at must be None for a foreground task: servers schedule background jobs only")
        if "priority" in keywords or "at" in keywords:
            options.packet_type = _packet_type(background, options.priority, options.at)
        return options

    def streamed_to(self, on_data: Callable[[Task, bytes], object]) -> Options:
        """Return the same options, for a task with a connection to itself whose data this callback gets."""
        options = copy(self)
        options.on_data = on_data
        options.streamed = True
        return options

    def with_retries(self, retries: int, retry: Retry) -> Options:
        """Return the same options with these for retries."""
        options = copy(self)
        options.retries, options.retry = retries, retry
        return options

    @property
    def leaves_retries(self) -> bool:
        """Whether ``retries`` was left to the client."""
        return self.retries == _NO_RETRIES

    def _check_background(self) -> None:
        for name in ("on_data", "on_warning", "on_status", "on_complete", "on_exception"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} must be None for a background task: servers do not report on its job")
        if self.retries > 0:
            raise ValueError("retries must be 0 for a background task: it is never submitted twice")
        if self.on_retry is not None:
            raise ValueError("on_retry must be None for a background task: it is never submitted twice")
        if self.at is not None and self.priority is not Priority.NORMAL:
            raise ValueError(f"priority must be Priority.NORMAL for a task with at, not {self.priority!r}")


def _packet_type(background: bool, priority: Priority, at: int | None) -> PacketType:
    if at is not None:
        return SUBMIT_JOB_EPOCH
    return (_SUBMIT_BACKGROUND if background else _SUBMIT)[priority]


def _set_retries(options: Options, keywords: AnyOptions) -> None:
    """Take ``retries`` from ``retry``."""
    if options.retry is not None:
        if "retries" in keywords:
            raise ValueError("retries must be left out if retry is given, which says how often")
        options.retries = options.retry.retries


def _unlimited(options: Options) -> Options:
    options = copy(options)
    options.unlimited = True
    return options


class TaskOwner:
    """Owner of a task from its submit to its outcome. This base class neither retries tasks nor drops jobs."""

    def drop(self, handle: JobHandle) -> None:
        """Have the server drop the job of a task that was cancelled or has timed out."""

    def reroute(self, task: Task) -> None:
        """Send a task elsewhere: its connection was lost or retired before the task was written."""
        task._attempt_failed(ClientStopped())

    def retry(self, task: Task, reason: Exception) -> bool:
        """Schedule another attempt of a task that failed with `reason`.

        :return: whether there will be one; if not, the task fails for good.
        """
        return False

    def task_ended(self, task: Task) -> None:
        """Handle the end of a task, whose Deferred has fired."""


class _TaskDeferred(AwaitableDeferred[TaskResult]):
    # The canceller finds the task here: cheaper than one canceller object for each task.
    _task: Task | None


def _cancel(deferred: Deferred[TaskResult]) -> None:
    assert isinstance(deferred, _TaskDeferred)
    task = deferred._task
    if task is not None:
        task._abandon(CancelledError())


class Task:
    """A piece of work for a worker, and the callbacks for its events.

    A task is submitted once. Each callback gets the task as its first argument; what it returns is ignored, and what
    it raises is logged.

    :param function: name of the function as workers registered it, without the client's prefix; a `str` is encoded as
        UTF-8.
    :param workload: bytes that the worker receives.
    :param background: whether nobody waits for the result. If so, the Deferred fires with a `JobHandle` once the server
        has queued the job.
    :param unique: key by which jobs coalesce; empty, the default, for a job of its own. While a job of the same
        function and unique is queued or running, the task shares that job, and each of its tasks gets the result.
        ``b"-"`` makes the workload the key.
    :param timeout: seconds from the submit to the outcome, all attempts together; None for no limit. If it is left out,
        that of the client holds. Then the task fails with `TaskTimedOut`. As after a cancel, its job may still run.
    :param priority: see `Priority`.
    :param at: earliest start of the job, as an aware `datetime` or POSIX seconds, rounded up to whole seconds; None for
        as soon as possible. Only for background tasks of normal priority. gearmand 1.1 starts the job only when a
        worker asks for its next job after that time (H7).
    :param retries: how often a foreground task is resubmitted after a retriable failure: see `GearmanClient`. Its job
        may then run more than once, in whole or in part. If it is left out, that of the client holds.
    :param retry: the same, with delays and failures of your choice: see `Retry`. None for ``retries`` alone.
    :param drop_on_cancel: whether a `GearmanClient` asks the server to drop the job if the task is cancelled or times
        out, as `GearmanClient.cancel_job` does. Other tasks that share the job then fail, too.
    :param on_created: ``(task)``: the server has the job, and ``task.handle`` is set. Called again for each retry.
    :param on_data: ``(task, data)``: the worker sent WORK_DATA, a part of the result or whatever the function uses it
        for.
    :param on_warning: ``(task, data)``: the worker sent WORK_WARNING.
    :param on_status: ``(task, numerator, denominator)``: the worker reported progress. Of anything but a whole number,
        the leading digits count. If the worker dies, another one restarts the job, and data and status come again.
    :param on_complete: ``(task, result)``: the job is done. The Deferred fires next.
    :param on_exception: ``(task, data)``: the worker sent WORK_EXCEPTION. ``on_fail`` or ``on_retry`` is called next.
    :param on_retry: ``(task, attempt)``: the attempt failed, and the task will be resubmitted after a delay; `attempt`
        is 1 for the first retry.
    :param on_fail: ``(task, reason)``: the task failed. The Deferred fails next, with the exception `reason`.
    :raises TypeError, ValueError: an argument is invalid.
    """

    # Few slots, since the garbage collector traverses all tasks in flight: most tasks share one object of options.
    __slots__ = (
        "__weakref__",
        "_attempt",
        "_background",
        "_deferred",
        "_ended",
        "_function",
        "_holder",
        "_job_handle",
        "_leading_arguments",
        "_options",
        "_owner",
        "_position",
        "_server",
        "_timeout",
        "_workload",
    )

    def __init__(
        self,
        function: str | bytes,
        workload: bytes = b"",
        background: bool = False,
        unique: str | bytes = _NO_UNIQUE,
        timeout: float | EllipsisType | None = ...,
        **options: Unpack[AnyOptions],
    ) -> None:
        self._function = function
        self._leading_arguments = (
            _known_leading_arguments(function) if type(function) is str else _leading_arguments(function)
        )
        """The first arguments of its submit: function and unique, each followed by a NUL. The function has the client's
        prefix once the task is submitted."""
        self._workload = workload if type(workload) is bytes else payload_bytes("workload", workload)
        self._background = background
        if unique is not _NO_UNIQUE:
            unique_bytes = name_bytes("unique", unique, MAX_UNIQUE)
            self._leading_arguments = b"%b%b\0" % (self._leading_arguments[:-1], unique_bytes)
        if options:
            self._options = Options.from_keywords(options, background)
        else:
            self._options = _PLAIN_BACKGROUND if background else _PLAIN
        self._timeout: float | None = None
        if timeout is not ...:
            if (type(timeout) is float or type(timeout) is int) and 0 < timeout < math.inf:
                self._timeout = timeout  # as _set_timeout() would, with two calls less
            else:
                self._set_timeout(timeout)
        self._holder: TaskHolder | None = None
        """Where the task is now; None before the submit and after the outcome."""
        self._position: int
        """Position of the task within its holder, which sets it."""
        self._job_handle = b""
        """Handle of the job; empty before JOB_CREATED."""
        self._server = ""
        self._attempt = 0
        self._ended = False
        self._owner: TaskOwner | None = None
        self._deferred: _TaskDeferred | None = None

    def _set_timeout(self, timeout: float | None) -> None:
        if timeout is None:
            plain = _PLAIN_BACKGROUND if self._background else _PLAIN
            self._options = _UNLIMITED[self._background] if self._options is plain else _unlimited(self._options)
        else:
            self._timeout = positive_seconds("timeout", timeout)

    def __repr__(self) -> str:
        return f"<Task {self}>"

    def __str__(self) -> str:
        name = short_text(self._function, MAX_NAME)
        return f"{name} {short_text(str(self.handle), MAX_NAME)}" if self._job_handle else name

    # Public, and read-only: `TaskInfo`.

    @property
    def function(self) -> str | bytes:
        """Name of the function, as it was passed."""
        return self._function

    @property
    def workload(self) -> bytes:
        """Bytes that the worker receives."""
        return self._workload

    @property
    def background(self) -> bool:
        """Whether it is a background task, whose client does not get the result."""
        return self._background

    @property
    def unique(self) -> bytes:
        """Key by which jobs coalesce; empty for none."""
        return self._leading_arguments.split(b"\0")[1]

    @property
    def timeout(self) -> float | None:
        """Seconds from the submit to the outcome; None for no limit. From the submit on, maybe the client's."""
        return self._timeout

    @property
    def priority(self) -> Priority:
        """Priority of the job."""
        return self._options.priority

    @property
    def at(self) -> int | None:
        """Earliest start of the job, in POSIX seconds; None for as soon as possible."""
        return self._options.at

    @property
    def retries(self) -> int:
        """How often the task may be resubmitted. From the submit on, maybe as the client says."""
        return max(self._options.retries, 0)

    @property
    def handle(self) -> JobHandle | None:
        """Handle of the job; None until the server has sent it."""
        return JobHandle(self._server, self._job_handle) if self._job_handle else None

    @property
    def server(self) -> str:
        """Address of the server that the task was last sent to; empty before."""
        return self._server

    @property
    def attempt(self) -> int:
        """How often the task has been resubmitted."""
        return self._attempt

    @property
    def ended(self) -> bool:
        """Whether the task has its outcome, or its last callback is running."""
        return self._ended

    # For the other modules of the client.

    @property
    def _routing_key(self) -> bytes:
        """Bytes that choose the server, so that tasks that could share a job do; empty for any server.

        gearmand takes the unique "-" to mean that the workload is the unique (docs/gearman.md §1).
        """
        leading_arguments = self._leading_arguments
        if leading_arguments.endswith(b"\0\0"):  # as those of most tasks do: no function's name has a NUL
            return b""
        unique = leading_arguments.split(b"\0")[1]
        return self._workload if unique == b"-" else unique

    @property
    def _wire_function(self) -> bytes:
        """Name of the function as sent: with the prefix, once the task is submitted."""
        return self._leading_arguments.partition(b"\0")[0]

    def _leading_arguments_with(self, prefix: bytes) -> bytes:
        """Return the first arguments of the submit, with `prefix` before the function's name.

        :raises ValueError: the name becomes too long.
        """
        length = len(prefix) + len(self._wire_function)
        if length > MAX_FUNCTION:
            raise ValueError(f"prefix and function must have {MAX_FUNCTION} bytes at most, not {length}")
        return prefix + self._leading_arguments

    def _begin(self, owner: TaskOwner, prefix: bytes = b"") -> Deferred[TaskResult]:
        """Create the task's Deferred.

        :param owner: owns the task up to its outcome.
        :param prefix: bytes that precede the function's name in the submit.
        :raises ValueError: the task was submitted before, or its function's name becomes too long.
        """
        if self._ended or self._owner is not None:
            raise ValueError(f"{self!r} was submitted before; make a new Task for each submit")
        if prefix:
            self._leading_arguments = self._leading_arguments_with(prefix)
        self._owner = owner
        deferred = self._deferred = _TaskDeferred(_cancel)
        deferred._task = self
        return deferred

    @property
    def _drop(self) -> Callable[[JobHandle], None] | None:
        """Has the server drop a job; None unless the task was submitted with ``drop_on_cancel``."""
        return self._owner.drop if self._owner is not None and self._options.drop_on_cancel else None

    _job_count: ClassVar = 1
    """Number of jobs: a part of a batch, which queues hold, too, has several."""

    # Outcomes of the submit, by the names that `connection.protocol.Outstanding` has for them.

    _answer_type: ClassVar = JOB_CREATED

    def _is_answered_by(self, arguments: list[bytes]) -> bool:
        return bool(arguments[0])  # an empty handle names no job

    def _answered(self, connection: object, arguments: list[bytes]) -> None:
        """Handle JOB_CREATED, which is the outcome of a background task."""
        handle = self._job_handle = arguments[0]
        callback = self._options.on_created
        if callback is not None:
            try:  # as _call() does, with a call less
                callback(self)
            except BaseException:  # as there
                self._callback_raised()
        if self._background:
            self._end(job_handle((self._server, handle)), None, handle)

    def _refused(self, connection: TaskTables, error: ServerError) -> None:
        """Handle an ERROR, or that the server left the submit unanswered."""
        connection._task_removed(self)
        rejected = TaskRejected(self, error.code, error.text)
        if isinstance(error, RequestUnsupported):
            rejected.__cause__ = error
        self._attempt_failed(rejected)

    def _lost(self, connection: object, error: Exception) -> None:
        """Handle that the connection was lost, before or after JOB_CREATED."""
        if isinstance(error, ClientStopped):
            self._attempt_failed(ClientStopped())
            return
        lost = TaskLost(self, acknowledged=bool(self._job_handle))
        lost.__cause__ = error
        self._attempt_failed(lost)

    # Events of its job.

    def _data_received(self, data: bytes) -> None:
        """Handle WORK_DATA."""
        self._call(self._options.on_data, data)

    def _warning_received(self, data: bytes) -> None:
        """Handle WORK_WARNING."""
        self._call(self._options.on_warning, data)

    def _status_received(self, numerator: int, denominator: int) -> None:
        """Handle WORK_STATUS."""
        self._call(self._options.on_status, numerator, denominator)

    def _job_completed(self, result: bytes) -> None:
        """Handle WORK_COMPLETE."""
        self._end(result, self._options.on_complete, result)

    def _exception_received(self, data: bytes) -> None:
        """Handle WORK_EXCEPTION. It ends the job, whatever the server sends after it (D3, H13)."""
        if self._deferred is not None:
            self._call(self._options.on_exception, data)
        self._attempt_failed(TaskException(self, data))

    def _attempt_failed(self, reason: Exception) -> None:
        """Fail the task, unless it has retries left and its owner schedules one."""
        if not (self._attempt < self._options.retries and self._retry(reason)):
            self._end(Failure(reason), self._options.on_fail, reason)

    def _abandon(self, reason: Exception) -> None:
        """Remove the task from its holder, and fail it."""
        if self._holder is not None:
            self._holder.discard(self)
        elif self._background and self._drop is not None and self._job_handle:  # by its own on_created
            self._drop(JobHandle(self._server, self._job_handle))
        self._attempt_failed(reason)

    def _retry(self, reason: Exception) -> bool:
        return self._owner is not None and self._owner.retry(self, reason)

    def _return_unsent(self) -> None:
        """Return the task to its owner, since it was not written. Does nothing if it has ended."""
        if self._owner is not None:
            self._owner.reroute(self)

    def _retry_scheduled(self, observe: Callable[[Task], object] | None = None) -> None:
        """Reset the task for its next attempt, and report it.

        :param observe: called before ``on_retry``; None for nobody.
        """
        self._attempt += 1
        self._job_handle = b""
        if observe is not None:
            observe(self)
        if not self._ended:
            self._call(self._options.on_retry, self._attempt)

    def _end(self, outcome: TaskResult | Failure, callback: Callable[[Task, T], object] | None, argument: T) -> None:
        """Call the last callback, and fire the Deferred."""
        deferred, owner = self._deferred, self._owner
        if deferred is None or owner is None:
            return  # it has its one outcome already
        self._ended = True
        # A caller that keeps the task must keep nothing else alive with it.
        deferred._task = self._deferred = self._owner = self._holder = None
        if callback is not None:
            try:  # as _call() does, with a call less
                callback(self, argument)
            except BaseException:  # as there
                self._callback_raised()
        if not deferred.called:  # the callback may have cancelled it
            deferred.callback(outcome)
        owner.task_ended(self)

    def _call(self, callback: Callable[[Task, Unpack[Ts]], object] | None, *arguments: Unpack[Ts]) -> None:
        if callback is None:
            return
        try:
            callback(self, *arguments)
        except BaseException:  # as in a Deferred: what the caller's code raises must not keep the outcome from others
            self._callback_raised()

    def _callback_raised(self) -> None:
        """Log the exception that is being handled."""
        fields = task_fields(self)
        _log.failure("a callback of {task} raised", for_log(Failure()), LogLevel.critical, task=str(self), **fields)


def _leading_arguments(function: str | bytes) -> bytes:
    return function_bytes(function) + b"\0\0"


# A program submits few functions, each of them often.
_known_leading_arguments = lru_cache(1024)(_leading_arguments)


def _priority(name: str, value: Priority) -> Priority:
    if not isinstance(value, Priority):
        raise TypeError(f"{name} must be a Priority, not {value!r}")
    return value


def _retries(name: str, value: int) -> int:
    return check_count(name, value, 0)


def _retry(name: str, value: Retry | None) -> Retry | None:
    if not isinstance(value, (Retry, type(None))):
        raise TypeError(f"{name} must be a Retry, not {type(value).__name__}")
    return value


def _epoch(name: str, at: datetime.datetime | float | None) -> int | None:
    if at is None:
        return None
    if isinstance(at, datetime.datetime):
        if at.utcoffset() is None:
            raise ValueError(f"{name} must be an aware datetime, with a time zone, not {at!r}")
        at = at.timestamp()
    elif isinstance(at, bool) or not isinstance(at, (int, float)):
        raise TypeError(f"{name} must be an aware datetime or POSIX seconds, not {type(at).__name__}")
    if not 0 <= at <= _MAX_EPOCH:
        raise ValueError(f"{name} must be from 0 to {_MAX_EPOCH} POSIX seconds, not {at!r}")
    return math.ceil(at)


_Check: TypeAlias = Callable[[str, Any], Any]  # type: ignore[explicit-any]  # each has its own type

_CHECKS: Final[Mapping[str, _Check]] = {
    "priority": _priority,
    "at": _epoch,
    "retries": _retries,
    "retry": _retry,
    "drop_on_cancel": check_flag,
    "on_created": check_callback,
    "on_data": check_callback,
    "on_warning": check_callback,
    "on_status": check_callback,
    "on_complete": check_callback,
    "on_exception": check_callback,
    "on_fail": check_callback,
    "on_retry": check_callback,
}

_INSTEAD: Final[Mapping[str, str]] = {
    "max_retries": ": use retries, and server_wait of GearmanClient",
    "poll_timeout": ": use timeout",
    "wait_until_complete": ": leave it out, since no call blocks; its Deferred fires once the job is complete",
}
"""What to write instead of options of python-gearman, for the error."""

# Options that a background task may not have, or not together with others.
_RESTRICTED: Final = frozenset(_CHECKS) - {"priority", "drop_on_cancel", "on_created", "on_fail"}

_CALLBACKS: Final = (
    frozenset(name for name, check in _CHECKS.items() if check is check_callback),
    frozenset({"on_created", "on_fail"}),
)
"""Callbacks of foreground tasks, and of background tasks."""


def _plain_options(background: bool) -> Options:
    options = Options.from_keywords({}, background)
    for name in Options.__annotations__:
        setattr(options, name, getattr(options, name))  # read faster from the object than from its class
    return options


_PLAIN: Final = _plain_options(background=False)
_PLAIN_BACKGROUND: Final = _plain_options(background=True)

_UNLIMITED: Final = _unlimited(_PLAIN), _unlimited(_PLAIN_BACKGROUND)
"""Options of most tasks with ``timeout=None``: foreground and background."""


def _of_priority(background: bool, priority: Priority) -> Options:
    options = _plain_options(background)
    options.priority = priority
    options.packet_type = _packet_type(background, priority, None)
    return options


_OF_PRIORITY: Final = tuple(
    tuple(_of_priority(background, priority) for priority in Priority) for background in (False, True)
)
"""Options of tasks that have nothing but a priority: foreground and background."""
