"""What a caller asks for, and what the caller is told: `Task`, `Priority`, `JobHandle`, `JobStatus`.

A task is asked for by its arguments, `begin()` hands out its Deferred, and whoever holds the task then tells it what
happens: ``tell_...`` for what may come several times, ``end_...`` for the outcome. All of guarantee 2 (order) and
guarantee 13 (a callback can do no harm) is kept here; where the events come from is no concern of this module.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol, TypedDict

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import Unpack

from ..errors import ClientStopped, TaskException
from ..models import JobHandle, Priority
from ..packets import (
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_EPOCH,
    SUBMIT_JOB_HIGH,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW,
    SUBMIT_JOB_LOW_BG,
    PacketType,
)
from ..validation import (
    MAX_FUNCTION,
    MAX_UNIQUE,
    check_callback,
    check_count,
    check_flag,
    function_bytes,
    name_bytes,
    payload_bytes,
    positive_seconds,
)

__all__ = [
    "AnyOptions",
    "BackgroundOptions",
    "Options",
    "Task",
    "TaskOptions",
    "TaskOwner",
]

_log = Logger()

_NO_UNIQUE: Final = b""

# By Priority: HIGH, NORMAL, LOW.
_SUBMIT: Final = (SUBMIT_JOB_HIGH, SUBMIT_JOB, SUBMIT_JOB_LOW)
_SUBMIT_BACKGROUND: Final = (SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_BG, SUBMIT_JOB_LOW_BG)

_MAX_EPOCH: Final = 2**63 - 1  # a larger number is left unanswered (H6)


class TaskHolder(Protocol):
    """Where a task is while it waits for something: a queue, or a connection."""

    def discard(self, task: Task) -> None:
        """Forget the task; what comes for it from now on is dropped."""


class _OfAll(TypedDict, total=False):
    priority: Priority
    drop_on_cancel: bool
    on_created: Callable[[Task], object] | None
    on_fail: Callable[[Task, Exception], object] | None


class _OfForeground(_OfAll, total=False):
    retries: int
    on_data: Callable[[Task, bytes], object] | None
    on_warning: Callable[[Task, bytes], object] | None
    on_status: Callable[[Task, int, int], object] | None
    on_complete: Callable[[Task, bytes], object] | None
    on_exception: Callable[[Task, bytes], object] | None
    on_retry: Callable[[Task, int], object] | None


class AnyOptions(_OfForeground, total=False):
    """What `Task` takes by keyword beside what it names itself."""

    at: datetime.datetime | float | None


class TaskOptions(_OfForeground, total=False):
    """What may be said of a foreground task, by keyword: as with `Task`."""

    unique: str | bytes
    timeout: float | None


class BackgroundOptions(_OfAll, total=False):
    """What may be said of a background task, by keyword: as with `Task`."""

    unique: str | bytes
    timeout: float | None
    at: datetime.datetime | float | None


class Options(NamedTuple):
    """What was said of a task that is seldom said, checked; or else what is so if nothing is said."""

    packet_type: PacketType
    """What the task is submitted by."""
    priority: Priority = Priority.NORMAL
    at: int | None = None
    retries: int = 0
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
    def read(cls, said: AnyOptions, background: bool) -> Options:
        """Check what was said of a task.

        :raises TypeError, ValueError: it can't be meant.
        """
        checked = {}
        for name, value in said.items():
            check = _CHECKS.get(name)
            if check is None:
                raise TypeError(f"a task has no option {name!r}")
            checked[name] = check(name, value)
        options = cls(_packet_type(background, **checked), **checked)
        if background:
            options._check_background()
        elif options.at is not None:
            raise ValueError("at is for background tasks: the protocol has no other that waits for a time")
        return options

    def _check_background(self) -> None:
        for name in ("on_data", "on_warning", "on_status", "on_complete", "on_exception"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is for foreground tasks: nobody is told what becomes of a background one")
        if self.retries or self.on_retry is not None:
            raise ValueError("retries are for foreground tasks: a background one is never submitted twice")
        if self.at is not None and self.priority is not Priority.NORMAL:
            raise ValueError("at goes with Priority.NORMAL only: the protocol has no other that waits for a time")


def _packet_type(
    background: bool, priority: Priority = Priority.NORMAL, at: int | None = None, **_: object
) -> PacketType:
    if at is not None:
        return SUBMIT_JOB_EPOCH
    return (_SUBMIT_BACKGROUND if background else _SUBMIT)[priority]


_PLAIN: Final = Options(SUBMIT_JOB)
_PLAIN_BACKGROUND: Final = Options(SUBMIT_JOB_BG)


class TaskOwner:
    """Who answers for a task from its submit to its end. This one just lets it end."""

    def drop(self, handle: JobHandle) -> None:
        """The task was let go, and its caller wants the job to be dropped."""

    def reroute(self, task: Task) -> None:
        """The task was not written where it was to be; it is to go elsewhere."""
        task._attempt_failed(ClientStopped())

    def retry(self, task: Task, reason: Exception) -> bool:
        """An attempt has failed; whether the task is to be submitted again, which is the owner's to do then."""
        return False

    def task_ended(self, task: Task) -> None:
        """The task has its outcome, and its Deferred has fired."""


class _TaskDeferred(Deferred[Any]):
    # The way from the Deferred to its task, for cancelling: cheaper than a canceller object for each task.
    task: Task | None


def _cancel(deferred: Deferred[Any]) -> None:
    assert isinstance(deferred, _TaskDeferred)
    task = deferred.task
    if task is not None:
        task._abandon(CancelledError())


class Task:
    """One piece of work for some worker, with what the caller wants to hear of it.

    A task is submitted once. Every callback gets the task first; what it returns is ignored, and what it raises is
    logged.

    :param function: the name that workers registered, without the client's prefix; a `str` is sent as UTF-8.
    :param workload: what the worker gets. Any bytes.
    :param background: nobody waits for the result; the Deferred fires with a `JobHandle` once the server has the job.
    :param unique: jobs of one function with the same unique are one job while it is queued or running, and each
        of their tasks gets its result. ``b"-"`` makes the workload the unique. Empty: always a job of its own.
    :param priority: see `Priority`.
    :param at: when the server may start the job, as an aware `datetime` or POSIX seconds; whole seconds count, rounded
        up. For background tasks of normal priority. gearmand 1.1 starts it only when a worker asks for its next
        job after that time (H7).
    :param timeout: seconds from the submit to the outcome, all attempts together; then the task fails with
        `TaskTimedOut`. As with a cancel, its job may still run.
    :param retries: how often a foreground task that failed is submitted again: see `GearmanClient`. Its job may then be
        done more than once, or in part more than once.
    :param drop_on_cancel: where the task is let go, by a cancel or its timeout, a `GearmanClient` asks the server to
        drop the job, as `GearmanClient.cancel_job` does; others that wait for the same job lose it, too.
    :param on_created: ``(task)``: the server has the job; ``task.handle`` is set. Comes again with each retry.
    :param on_data: ``(task, data)``: a part of the result, or whatever the function means by WORK_DATA.
    :param on_warning: ``(task, data)``.
    :param on_status: ``(task, numerator, denominator)``. What a worker sends that is not a whole number counts as far
        as its leading digits go. If a worker dies, another starts the job anew, and data and status come again.
    :param on_complete: ``(task, result)``; the Deferred fires after it.
    :param on_exception: ``(task, data)``: the worker sent WORK_EXCEPTION; ``on_fail`` or ``on_retry`` follows.
    :param on_retry: ``(task, attempt)``: it failed, and will be submitted again after a while; 1 for the first retry.
    :param on_fail: ``(task, reason)``: `reason` is the exception that the Deferred fails with after it.
    :raises TypeError, ValueError: for what can't be sent; nothing is.
    """

    # Few, since the collector goes through all of them time and again: so most tasks share their options.
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
        timeout: float | None = None,
        **options: Unpack[AnyOptions],
    ) -> None:
        self._function = function
        self._leading_arguments = (
            _known_leading_arguments(function) if type(function) is str else _leading_arguments(function)
        )
        """What its packets begin with: function and unique, each with a NUL behind it. With the client's prefix, once
        the task is submitted."""
        self._workload = workload if type(workload) is bytes else payload_bytes("workload", workload)
        self._background = background
        if unique is not _NO_UNIQUE:
            unique_bytes = name_bytes("unique", unique, MAX_UNIQUE)
            self._leading_arguments = b"%b%b\0" % (self._leading_arguments[:-1], unique_bytes)
        self._timeout = None if timeout is None else positive_seconds("timeout", timeout)
        plain = _PLAIN_BACKGROUND if background else _PLAIN
        self._options = Options.read(options, background) if options else plain
        """What else was said, and what follows from it."""
        self._holder: TaskHolder | None = None
        """Where the task is now; None before it is submitted, and after its end."""
        self._position: int
        """Which of its holder's places it has, for the holder."""
        self._job_handle = b""
        """The bytes of the job's handle; empty before JOB_CREATED."""
        self._server = ""
        """The address of the server that it was sent to last; empty before."""
        self._attempt = 0
        """How often it was submitted again."""
        self._ended = False
        """Whether it has its outcome, or is about to."""
        self._owner: TaskOwner | None = None
        self._deferred: _TaskDeferred | None = None

    def __repr__(self) -> str:
        return f"<Task {self}>"

    def __str__(self) -> str:
        name = self._function if isinstance(self._function, str) else self._function.decode("utf-8", "backslashreplace")
        return f"{name} {self.handle}" if self._job_handle else name

    # What may be read of it.

    @property
    def function(self) -> str | bytes:
        """The function's name, as it was given."""
        return self._function

    @property
    def workload(self) -> bytes:
        """What the worker gets."""
        return self._workload

    @property
    def background(self) -> bool:
        """Whether nobody waits for the result."""
        return self._background

    @property
    def unique(self) -> bytes:
        """What makes jobs coalesce; empty for nothing."""
        return self._leading_arguments.split(b"\0")[1]

    @property
    def timeout(self) -> float | None:
        """Seconds from the submit to the outcome; None for no limit."""
        return self._timeout

    @property
    def priority(self) -> Priority:
        """Which of the function's queues the job waits in."""
        return self._options.priority

    @property
    def at(self) -> int | None:
        """When the server may start the job, in POSIX seconds; None for at once."""
        return self._options.at

    @property
    def retries(self) -> int:
        """How often the task may be submitted again."""
        return self._options.retries

    @property
    def handle(self) -> JobHandle | None:
        """The job's handle, once the server has sent it."""
        return JobHandle(self._server, self._job_handle) if self._job_handle else None

    @property
    def server(self) -> str:
        """The address of the server that the task was sent to last; empty before."""
        return self._server

    @property
    def attempt(self) -> int:
        """How often the task was submitted again."""
        return self._attempt

    @property
    def ended(self) -> bool:
        """Whether the task has its outcome, or is about to have it."""
        return self._ended

    # For the rest of the client.

    @property
    def _wire_function(self) -> bytes:
        """The function's name as it goes over the wire."""
        return self._leading_arguments.partition(b"\0")[0]

    def _leading_arguments_with(self, prefix: bytes) -> bytes:
        """What its packets begin with, with a prefix before the function's name.

        :raises ValueError: the name becomes too long.
        """
        length = len(prefix) + len(self._wire_function)
        if length > MAX_FUNCTION:
            raise ValueError(f"prefix and function must have {MAX_FUNCTION} bytes at most, not {length}")
        return prefix + self._leading_arguments

    def _begin(self, owner: TaskOwner, prefix: bytes = b"") -> Deferred[Any]:
        """Make the task's Deferred.

        :param owner: answers for the task.
        :param prefix: what the name of the function gets before it on the wire.
        :raises ValueError: the task was submitted before, or its function's name becomes too long.
        """
        if self._ended or self._owner is not None:
            raise ValueError(f"{self!r} was submitted before; make a new Task for each submit")
        if prefix:
            self._leading_arguments = self._leading_arguments_with(prefix)
        self._owner = owner
        deferred = self._deferred = _TaskDeferred(_cancel)
        deferred.task = self
        return deferred

    @property
    def _drop(self) -> Callable[[JobHandle], None] | None:
        """Drops the job of the task once it is let go, if that is wanted."""
        return self._owner.drop if self._owner is not None and self._options.drop_on_cancel else None

    def _job_created(self, handle: bytes) -> None:
        """JOB_CREATED has come. For a background task it is the outcome."""
        self._job_handle = handle
        callback = self._options.on_created
        if callback is not None:
            self._call(callback)
        if self._background:
            self._end(JobHandle(self._server, handle))

    def _data_received(self, data: bytes) -> None:
        """WORK_DATA has come."""
        self._call(self._options.on_data, data)

    def _warning_received(self, data: bytes) -> None:
        """WORK_WARNING has come."""
        self._call(self._options.on_warning, data)

    def _status_received(self, numerator: int, denominator: int) -> None:
        """WORK_STATUS has come."""
        self._call(self._options.on_status, numerator, denominator)

    def _job_completed(self, result: bytes) -> None:
        """WORK_COMPLETE has come."""
        self._end(result, self._options.on_complete, result)

    def _exception_received(self, data: bytes) -> None:
        """WORK_EXCEPTION has come. It is the end of the job, whatever else a server sends (D3, H13)."""
        if self._deferred is not None:
            self._call(self._options.on_exception, data)
        self._attempt_failed(TaskException(self, data))

    def _attempt_failed(self, reason: Exception) -> None:
        """There will be no result; unless the task has retries left, and its owner takes it back."""
        if not (self._attempt < self._options.retries and self._retry(reason)):
            self._end(Failure(reason), self._options.on_fail, reason)

    def _abandon(self, reason: Exception) -> None:
        """Nobody waits for it any more: whoever holds it is to forget it."""
        if self._holder is not None:
            self._holder.discard(self)
        self._attempt_failed(reason)

    def _retry(self, reason: Exception) -> bool:
        return self._owner is not None and self._owner.retry(self, reason)

    def _return_unsent(self) -> None:
        """It was not written after all. Nothing happens if it has ended."""
        if self._owner is not None:
            self._owner.reroute(self)

    def _retry_scheduled(self) -> None:
        """It will be submitted again, as if it had never been."""
        self._attempt += 1
        self._job_handle = b""
        self._call(self._options.on_retry, self._attempt)

    def _end(self, outcome: Any, callback: Callable[[Task, Any], object] | None = None, told: Any = None) -> None:
        deferred, owner = self._deferred, self._owner
        if deferred is None or owner is None:
            return  # it ended before; one outcome is enough
        self._ended = True
        # Who keeps the task, keeps nothing else with it.
        deferred.task = self._deferred = self._owner = self._holder = None
        if callback is not None:
            self._call(callback, told)
        if not deferred.called:  # the callback may have cancelled it
            deferred.callback(outcome)
        owner.task_ended(self)

    def _call(self, callback: Callable[..., object] | None, *arguments: Any) -> None:
        if callback is None:
            return
        try:
            callback(self, *arguments)
        except BaseException:  # as in a Deferred: what the caller's code raises must not keep the outcome from others
            _log.failure("a callback of {task} raised", task=self)


def _leading_arguments(function: str | bytes) -> bytes:
    return function_bytes(function) + b"\0\0"


# A program has few functions, and asks for each very often.
_known_leading_arguments = lru_cache(1024)(_leading_arguments)


def _priority(name: str, value: Priority) -> Priority:
    if not isinstance(value, Priority):
        raise TypeError(f"{name} must be a Priority, not {value!r}")
    return value


def _retries(name: str, value: int) -> int:
    return check_count(name, value, 0)


def _epoch(name: str, at: datetime.datetime | float | None) -> int | None:
    if at is None:
        return None
    if isinstance(at, datetime.datetime):
        if at.utcoffset() is None:
            raise ValueError(f"{name} must be an aware datetime, with a time zone: {at!r}")
        at = at.timestamp()
    elif isinstance(at, bool) or not isinstance(at, (int, float)):
        raise TypeError(f"{name} must be an aware datetime or POSIX seconds, not {type(at).__name__}")
    if not 0 <= at <= _MAX_EPOCH:
        raise ValueError(f"{name} must be from 0 to {_MAX_EPOCH} POSIX seconds, not {at!r}")
    return math.ceil(at)


_CHECKS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "priority": _priority,
    "at": _epoch,
    "retries": _retries,
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
