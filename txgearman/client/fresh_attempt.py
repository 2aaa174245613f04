"""Tasks with retries that wait for the next attempts to connect, since no server can be reached.

A retry is not spent on a server that is known to be down: such a task fails only once an attempt to connect to each
server has failed after the task came.
"""

from __future__ import annotations

from collections.abc import Callable

from ..connection.pool import JobServer, ServerPool
from ..connection.reactor import Reactor
from .batches import Work
from .losses import Losses
from .protocol import GearmanClientProtocol
from .task import Task
from .task_queue import TaskQueue

__all__ = ["AwaitingAttempt"]


class AwaitingAttempt:
    """Queues of tasks, by the number of failed attempts that had been counted when they came.

    Those for which each server has failed are reported in slices, as those of a lost connection are.

    :param report: called with each task that has waited for the attempts.
    """

    def __init__(
        self, reactor: Reactor, servers: ServerPool[GearmanClientProtocol], report: Callable[[Task], object]
    ) -> None:
        self._servers = servers
        self._report = report
        self._queues: dict[int, TaskQueue] = {}
        self._failures = 0
        self._last_failure: dict[JobServer[GearmanClientProtocol], int] = {}
        self._failed = Losses(reactor)

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def add(self, task: Task) -> None:
        """Add a task, and become its holder."""
        self._queues.setdefault(self._failures, TaskQueue()).append(task)

    def pop_all(self) -> list[Task]:
        """Remove and return all tasks that wait."""
        queues, self._queues = self._queues, {}
        return [task for queue in queues.values() for task in queue.pop_all() if isinstance(task, Task)]

    def attempt_failed(self, server: JobServer[GearmanClientProtocol]) -> None:
        """Count a failed attempt of a server, and report the tasks for which each server has failed."""
        if not self:
            return  # nobody asks when it was
        self._failures += 1
        known = {each: self._last_failure.get(each, 0) for each in self._servers}
        self._last_failure = {**known, server: self._failures}
        oldest = min(self._last_failure.values())
        for number in [number for number in self._queues if number < oldest]:
            self._failed.add(self._queues.pop(number), self._report_work)
        self._failed.report_some()

    def report_all(self) -> None:
        """Report all tasks now for which each server has failed."""
        self._failed.report_all()

    def _report_work(self, work: Work) -> None:
        assert isinstance(work, Task)  # a batch is not retried
        self._report(work)
