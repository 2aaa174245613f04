"""A queue of tasks from which any task can be removed, and the reporting of an event to several tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from .task import Task

__all__ = [
    "TaskQueue",
    "release_all",
    "report_all",
]

_MAX_SPARE: Final = 64  # entries of removed tasks to keep beyond the number of tasks, before they are compacted


class TaskQueue:
    """First-in, first-out queue of tasks. Removing a cancelled task takes constant time on average."""

    __slots__ = ("_empty", "_popped", "_tasks")

    def __init__(self) -> None:
        self._tasks: deque[Task | None] = deque()  # None for a task that was removed
        self._popped = 0  # entries that were popped so far: the position of the first one
        self._empty = 0  # entries that are None

    def __len__(self) -> int:
        return len(self._tasks) - self._empty

    def append(self, task: Task) -> None:
        """Add a task at the end, and become its holder."""
        task._position = self._popped + len(self._tasks)
        task._holder = self
        self._tasks.append(task)

    def pop(self) -> Task | None:
        """Remove and return the first task; None if there is none."""
        while self._tasks:
            task = self._tasks.popleft()
            self._popped += 1
            if task is not None:
                task._holder = None
                return task
            self._empty -= 1
        return None

    def pop_all(self) -> list[Task]:
        """Remove and return all tasks."""
        return list(iter(self.pop, None))

    def discard(self, task: Task) -> None:
        """Remove a task of this queue."""
        self._tasks[task._position - self._popped] = None
        self._empty += 1
        if self._empty > len(self) + _MAX_SPARE:
            left = self.pop_all()
            self._popped = 0
            for task in left:
                self.append(task)


def release_all(tasks: Iterable[Task]) -> None:
    """Note that these tasks, which were removed from their queue or connection, have no holder.

    Whatever reports an event to several tasks first removes all of them, corrects its counts, and calls this: the
    report to one of them runs its caller's code, which may cancel any other one, submit, stop or raise.
    """
    for task in tasks:
        task._holder = None


def report_all(tasks: Iterable[Task], report: Callable[[Task], object]) -> None:
    """Call `report` with each of these tasks, which have no holder, unless the report to another one has ended it."""
    for task in tasks:
        if not task._ended:
            report(task)
