"""A job that several tasks of one connection share: which task gets which copy of a packet."""

from __future__ import annotations

from collections.abc import Callable

from ..connection.protocol import Outstanding
from ..models import JobHandle
from ..packets import STATUS_RES
from ..validation import whole_number
from .task import Task

__all__ = ["Tombstone", "StatusQuery", "SharedJob"]


class Tombstone:
    """Tombstone for a cancelled task: keeps only what identifies its job.

    :ivar background: whether it was a background task, of which the server sends no more packets.
    :ivar drop: has the server drop the job once its handle is known; None if the job may run.
    """

    __slots__ = ("_leading_arguments", "background", "drop")

    def __init__(
        self,
        leading_arguments: bytes,
        background: bool = False,
        drop: Callable[[JobHandle], object] | None = None,
    ) -> None:
        """
        :param leading_arguments: those of the task: function and unique, each followed by a NUL.
        """
        self._leading_arguments = leading_arguments
        self.background = background
        self.drop = drop


def _can_share(one: Task | Tombstone, other: Task | Tombstone) -> bool:
    """Whether the server may have put both tasks into one job."""
    function, unique, _ = one._leading_arguments.split(b"\0")
    other_function, other_unique, _ = other._leading_arguments.split(b"\0")
    # With "-" the workload is the unique, and the other task may have the same bytes for its unique.
    same_unique = unique == other_unique or b"-" in (unique, other_unique)
    return function == other_function and same_unique and bool(unique and other_unique)


class StatusQuery(Outstanding):
    """A GET_STATUS that asks whether the server still has one of the connection's jobs.

    :ivar subject: the handle of the job, which the answer repeats.
    """

    __slots__ = ("_job_forgotten", "subject")
    answer = STATUS_RES
    subject: bytes

    def __init__(self, handle: bytes, job_forgotten: Callable[[bytes], None]) -> None:
        """
        :param job_forgotten: called with the handle if the server does not have the job.
        """
        self.subject = handle
        self._job_forgotten = job_forgotten

    def succeed(self, arguments: list[bytes]) -> None:
        if not whole_number(arguments[1]):
            self._job_forgotten(self.subject)

    def fail(self, error: Exception) -> None:
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

    def join(self, task: Task | Tombstone) -> None:
        """Add a task whose JOB_CREATED has arrived."""
        if isinstance(task, Task):
            task._position = len(self._tasks)
        self._tasks.append(task)

    def can_be_of(self, task: Task | Tombstone) -> bool:
        """Whether the task may share this job."""
        return _can_share(self._tasks[0], task)

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
        """The tasks without an outcome."""
        return [task for task in self._tasks if isinstance(task, Task)]
