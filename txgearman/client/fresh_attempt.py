"""Tasks with retries that wait for the next attempts to connect, since no server can be reached.

A retry is not spent on a server that is known to be down: such a task fails only once an attempt to connect to each
server has failed after the task came.
"""

from __future__ import annotations

from ..connection.pool import JobServer, ServerPool
from .protocol import GearmanClientProtocol
from .task import Task
from .task_queue import TaskQueue

__all__ = ["AwaitingAttempt"]


class AwaitingAttempt:
    """Queues of tasks, by the number of failed attempts that had been counted when they came."""

    def __init__(self, servers: ServerPool[GearmanClientProtocol]) -> None:
        self._servers = servers
        self._queues: dict[int, TaskQueue] = {}
        self._failures = 0
        self._last_failure: dict[JobServer[GearmanClientProtocol], int] = {}

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def add(self, task: Task) -> None:
        """Add a task, and become its holder."""
        self._queues.setdefault(self._failures, TaskQueue()).append(task)

    def pop_all(self) -> list[Task]:
        """Remove and return all tasks."""
        return self._pop(len(self._queues))

    def pop_failed(self, server: JobServer[GearmanClientProtocol]) -> list[Task]:
        """Count a failed attempt of a server; remove and return the tasks for which each server has failed."""
        self._failures += 1
        known = {each: self._last_failure.get(each, 0) for each in self._servers}
        self._last_failure = {**known, server: self._failures}
        oldest = min(self._last_failure.values())
        return self._pop(sum(number < oldest for number in self._queues))

    def _pop(self, count: int) -> list[Task]:
        """Remove and return the tasks of the oldest queues."""
        queues = [self._queues.pop(number) for number in list(self._queues)[:count]]
        return [task for queue in queues for task in queue.pop_all() if isinstance(task, Task)]
