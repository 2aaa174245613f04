"""A queue of tasks from which any task can be removed, and the reporting of an event to several tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from .batches import Work

__all__ = [
    "TaskQueue",
    "release_all",
    "report_all",
]

WorkT = TypeVar("WorkT", bound=Work)

_MAX_SPARE: Final = 64  # entries of removed tasks to keep beyond the number of tasks, before they are compacted


class TaskQueue:
    """First-in, first-out queue of tasks and parts of batches, whose length is the number of their jobs.

    Removing a cancelled task takes constant time on average.
    """

    __slots__ = ("_empty", "_jobs", "_pushed", "_tasks")

    def __init__(self) -> None:
        self._tasks: deque[Work | None] = deque()  # None for a task that was removed
        self._pushed = 0  # entries that were appended so far: the position of the next one
        self._empty = 0  # entries that are None
        self._jobs = 0

    def __len__(self) -> int:
        return self._jobs

    @property
    def entries(self) -> int:
        """Number of tasks and parts."""
        return len(self._tasks) - self._empty

    @property
    def _first(self) -> int:
        """Position of the first entry."""
        return self._pushed - len(self._tasks)

    def append(self, task: Work) -> None:
        """Add a task at the end, and become its holder."""
        task._position = self._pushed
        self._pushed += 1
        task._holder = self
        self._tasks.append(task)
        self._jobs += task._job_count

    def prepend(self, task: Work) -> None:
        """Add a task at the beginning, and become its holder."""
        task._position = self._first - 1
        task._holder = self
        self._tasks.appendleft(task)
        self._jobs += task._job_count

    def pop(self) -> Work | None:
        """Remove and return the first task; None if there is none."""
        tasks = self._tasks
        while tasks:
            task = tasks.popleft()
            if task is not None:
                task._holder = None
                self._jobs -= task._job_count
                return task
            self._empty -= 1
        return None

    def pop_all(self) -> list[Work]:
        """Remove and return all tasks."""
        return list(iter(self.pop, None))

    def discard(self, task: Work) -> None:
        """Remove a task of this queue."""
        self._tasks[task._position - self._first] = None
        self._empty += 1
        self._jobs -= task._job_count
        if self._empty > self.entries + _MAX_SPARE:
            left = self.pop_all()
            self._pushed = 0
            for other in left:
                self.append(other)


def release_all(tasks: Iterable[Work]) -> None:
    """Note that these tasks, which were removed from their queue or connection, have no holder.

    Whatever reports an event to several tasks first removes all of them, corrects its counts, and calls this: the
    report to one of them runs its caller's code, which may cancel any other one, submit, stop or raise.
    """
    for task in tasks:
        task._holder = None


def report_all(tasks: Iterable[WorkT], report: Callable[[WorkT], object]) -> None:
    """Call `report` with each of these tasks, which have no holder, unless the report to another one has ended it."""
    for task in tasks:
        if not task._ended:
            report(task)
