"""A job that several tasks of one connection share: which task gets which copy of a packet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from ..errors import ServerError
from ..models import JobHandle
from ..packets import JOB_CREATED, STATUS_RES
from ..validation import whole_number
from .task import Task

__all__ = ["CancelledSubmit", "Jobs", "SharedJob", "StatusQuery", "Tombstone", "can_share"]


class Tombstone:
    """Tombstone for a cancelled task: keeps only what identifies its job.

    :param leading_arguments: those of the task: function and unique, each followed by a NUL.
    """

    __slots__ = ("_leading_arguments",)

    def __init__(self, leading_arguments: bytes) -> None:
        self._leading_arguments = leading_arguments


class Jobs(Protocol):
    """The jobs of a connection, as requests about them use them."""

    def _job_handle(self, handle: bytes) -> JobHandle:
        """Return the `JobHandle` of a job."""

    def _join(self, handle: bytes, task: Tombstone) -> None:
        """Add a cancelled task to the job with this handle."""

    def _job_forgotten(self, handle: bytes) -> None:
        """Fail the tasks of a job that the server does not have."""

    def _job_known(self, handle: bytes, running: bool) -> None:
        """Handle that the server has a silent job, which waits or runs."""


def can_share(one: Task | Tombstone, other: Task | Tombstone) -> bool:
    """Whether the server may have put both tasks into one job."""
    function, unique, _ = one._leading_arguments.split(b"\0")
    other_function, other_unique, _ = other._leading_arguments.split(b"\0")
    # With "-" the workload is the unique, and the other task may have the same bytes for its unique.
    same_unique = unique == other_unique or b"-" in (unique, other_unique)
    return function == other_function and same_unique and bool(unique and other_unique)


class CancelledSubmit:
    """The submit of a task that was cancelled before the server has answered it."""

    __slots__ = ("_background", "_drop", "_leading_arguments")

    _answer_type: Final = JOB_CREATED

    def __init__(self, task: Task) -> None:
        self._leading_arguments = task._leading_arguments
        self._background = task._background  # of such a task no more packets arrive
        self._drop = task._drop

    def _is_answered_by(self, arguments: list[bytes]) -> bool:
        return bool(arguments[0])

    def _answered(self, connection: Jobs, arguments: list[bytes]) -> None:
        if not self._background:
            connection._join(arguments[0], Tombstone(self._leading_arguments))
        if self._drop is not None:
            self._drop(connection._job_handle(arguments[0]))

    def _refused(self, connection: object, error: ServerError) -> None:
        """Do nothing: the task has its outcome."""

    def _lost(self, connection: object, error: Exception) -> None:
        """Do nothing: the task has its outcome."""


class StatusQuery:
    """A GET_STATUS that asks whether the server still has one of the connection's jobs.

    :param ended: called after the answer; None for nothing. It is not called if the connection is lost before.
    """

    __slots__ = ("_ended", "_handle")

    _answer_type: Final = STATUS_RES

    def __init__(self, handle: bytes, ended: Callable[[], object] | None = None) -> None:
        self._handle = handle
        self._ended = ended

    def _is_answered_by(self, arguments: list[bytes]) -> bool:
        return arguments[0] == self._handle

    def _answered(self, connection: Jobs, arguments: list[bytes]) -> None:
        if whole_number(arguments[1]):
            connection._job_known(self._handle, bool(whole_number(arguments[2])))
        else:
            connection._job_forgotten(self._handle)
        if self._ended is not None:
            self._ended()

    def _refused(self, connection: object, error: ServerError) -> None:
        """Leave the job's tasks waiting: a later sweep asks again."""
        if self._ended is not None:
            self._ended()

    def _lost(self, connection: object, error: Exception) -> None:
        """Do nothing: whatever ended the connection has failed the job's tasks, too."""


class SharedJob:
    """The foreground tasks of one job, in the order of their JOB_CREATED, with tombstones for cancelled ones.

    The server sends one copy of each packet for each task, in that order.
    """

    __slots__ = ("_ended_count", "_next", "_tasks")

    def __init__(self, first: Task | Tombstone) -> None:
        self._tasks: list[Task | Tombstone] = []
        self.join(first)
        self._next = 0  # index of the task that the next copy is for
        self._ended_count = 0  # how many tasks, from the first on, have got their final packet

    @property
    def _leading_arguments(self) -> bytes:
        return self._tasks[0]._leading_arguments

    def join(self, task: Task | Tombstone) -> None:
        """Add a task whose JOB_CREATED has arrived."""
        if isinstance(task, Task):
            task._position = len(self._tasks)
        self._tasks.append(task)

    def can_be_of(self, task: Task | Tombstone) -> bool:
        """Whether the task may share this job."""
        return can_share(self._tasks[0], task)

    def discard(self, task: Task) -> None:
        """Replace a task by a tombstone, since copies for it will still arrive."""
        self._tasks[task._position] = Tombstone(task._leading_arguments)

    def next_copy(self) -> Task | Tombstone:
        """Return the task that this copy of a non-final packet is for."""
        task = self._tasks[self._next]
        self._next += 1
        if self._next == len(self._tasks):
            self._next = self._ended_count
        return task

    def next_end(self) -> tuple[Task | Tombstone, bool]:
        """Return the task that this copy of a final packet is for, and whether it was the last copy."""
        task = self._tasks[self._ended_count]
        self._tasks[self._ended_count] = Tombstone(task._leading_arguments)
        self._ended_count += 1
        self._next = max(self._next, self._ended_count)
        return task, self._ended_count == len(self._tasks)

    def remaining(self) -> list[Task]:
        """Return the tasks without an outcome."""
        return [task for task in self._tasks if isinstance(task, Task)]
