"""Tasks that wait, in order."""

from __future__ import annotations

from collections import deque
from typing import Final

from .task import Task

__all__ = [
    "TaskQueue",
]

_SPARE: Final = 64  # places of a queue that may be empty, whatever there is besides


class TaskQueue:
    """Tasks that wait, the first come first. A cancelled one leaves it."""

    __slots__ = ("_empty", "_popped", "_tasks")

    def __init__(self) -> None:
        self._tasks: deque[Task | None] = deque()  # None where one has left
        self._popped = 0  # places that were before the first
        self._empty = 0

    def __len__(self) -> int:
        return len(self._tasks) - self._empty

    def append(self, task: Task) -> None:
        """Let the task wait here."""
        task._position = self._popped + len(self._tasks)
        task._holder = self
        self._tasks.append(task)

    def pop(self) -> Task | None:
        """Take the first one out; None if there is none."""
        while self._tasks:
            task = self._tasks.popleft()
            self._popped += 1
            if task is not None:
                task._holder = None
                return task
            self._empty -= 1
        return None

    def pop_all(self) -> list[Task]:
        """Take all of them out."""
        return list(iter(self.pop, None))

    def discard(self, task: Task) -> None:
        self._tasks[task._position - self._popped] = None
        self._empty += 1
        if self._empty > len(self) + _SPARE:
            left = self.pop_all()
            self._popped = 0
            for task in left:
                self.append(task)
