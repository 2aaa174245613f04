"""One job of several tasks: which task gets which copy of a packet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol as Interface

from ..connection.protocol import Outstanding
from ..models import JobHandle
from ..packets import STATUS_RES
from ..validation import whole_number
from .task import Task

__all__ = ["Tombstone", "StatusQuery", "SharedJob"]


class Tombstone:
    """Stands in the place of a task that was let go, and keeps of it only what tells its job from others."""

    __slots__ = ("_leading_arguments", "background", "drop")

    def __init__(
        self,
        head: bytes,
        background: bool = False,
        drop: Callable[[JobHandle], object] | None = None,
    ) -> None:
        """
        :param head: what its packets began with: function and unique, each with a NUL behind it.
        :param drop: is to be told the job's handle.
        """
        self._leading_arguments = head
        self.background = background
        self.drop = drop


def _can_share(one: Task | Tombstone, other: Task | Tombstone) -> bool:
    """Whether one job may be that of both."""
    function, unique, _ = one._leading_arguments.split(b"\0")
    other_function, other_unique, _ = other._leading_arguments.split(b"\0")
    # With "-" the workload is the unique, which the other may have said itself.
    alike = unique == other_unique or b"-" in (unique, other_unique)
    return function == other_function and alike and bool(unique and other_unique)


class JobOwner(Interface):
    """The connection that has a job."""

    def job_forgotten(self, handle: bytes) -> None:
        """The server does not know the job any more."""


class StatusQuery(Outstanding):
    """A GET_STATUS that asks whether the server still has a job of ours."""

    __slots__ = ("_connection", "subject")
    answer = STATUS_RES
    subject: bytes

    def __init__(self, connection: JobOwner, handle: bytes) -> None:
        self._connection = connection
        self.subject = handle

    def succeed(self, arguments: list[bytes]) -> None:
        if not whole_number(arguments[1]):
            self._connection.job_forgotten(self.subject)

    def fail(self, error: Exception) -> None:
        """Whatever ended the connection has ended the job's tasks, too."""


class SharedJob:
    """The foreground tasks of one handle, by the order of their JOB_CREATED, with the places of those let go."""

    __slots__ = ("_ended", "_tasks", "_turn")

    def __init__(self, first: Task | Tombstone) -> None:
        self._tasks: list[Task | Tombstone] = []
        self.join(first)
        self._turn = 0  # whose copy the next packet is
        self._ended = 0  # how many have had their final packet

    def join(self, task: Task | Tombstone) -> None:
        """Add the task whose JOB_CREATED has come."""
        if isinstance(task, Task):
            task._position = len(self._tasks)
        self._tasks.append(task)

    def can_be_of(self, task: Task | Tombstone) -> bool:
        """Whether this can be the job of the task, too."""
        return _can_share(self._tasks[0], task)

    def discard(self, task: Task) -> None:
        """Forget the task, but not that copies for it will come."""
        self._tasks[task._position] = Tombstone(task._leading_arguments)

    def next_copy(self) -> Task | Tombstone:
        """Whose is this copy of a packet that is not the last?"""
        task = self._tasks[self._turn]
        self._turn += 1
        if self._turn == len(self._tasks):
            self._turn = self._ended
        return task

    def next_end(self) -> tuple[Task | Tombstone, bool]:
        """Whose is this copy of a final packet, and was it the last copy?"""
        task = self._tasks[self._ended]
        self._tasks[self._ended] = Tombstone(task._leading_arguments)
        self._ended += 1
        self._turn = max(self._turn, self._ended)
        return task, self._ended == len(self._tasks)

    def remaining(self) -> list[Task]:
        """The tasks that wait for an outcome."""
        return [task for task in self._tasks if isinstance(task, Task)]
