"""Reports a client's tasks and batches to its observers: the start of each, and its end as its Deferred has it."""

from __future__ import annotations

from collections import Counter
from typing import Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from ..connection.reactor import Reactor
from ..errors import (
    ClientStopped,
    NoServersAvailable,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
    TaskTimedOut,
)
from ..observers import Observers, TaskOutcome
from .batches import Batch, BatchResult
from .task import Task, TaskResult

__all__ = ["TaskObservation"]

_OUTCOME_OF: Final[dict[type[object], TaskOutcome]] = {
    TaskException: "exception",
    TaskFailed: "failed",
    TaskRejected: "rejected",
    TaskLost: "lost",
    TaskTimedOut: "timed_out",
    NoServersAvailable: "unavailable",
    CancelledError: "cancelled",
    ClientStopped: "stopped",
    type(None): "cancelled",  # of a job in a batch that was cancelled
}


class TaskObservation:
    """Reports tasks and batches.

    It adds the first callback to the Deferred of each, which fires exactly once (guarantee 1), and has the outcome that
    the caller gets.
    """

    def __init__(self, reactor: Reactor, observers: Observers) -> None:
        self._reactor = reactor
        self._notify = observers.notify

    def task_started(self, task: Task, deferred: Deferred[TaskResult]) -> None:
        """Report a task that was begun, and later its end."""
        deferred.addBoth(self._task_ended, task, self._reactor.seconds())
        self._notify("task_started", task)

    def task_retried(self, task: Task, reason: Exception) -> None:
        """Report that a task waits for its next attempt."""
        self._notify("task_retried", task, task.attempt, reason)

    def _task_ended(self, result: TaskResult | Failure, task: Task, start: float) -> TaskResult | Failure:
        outcome = _OUTCOME_OF[type(result.value)] if isinstance(result, Failure) else "completed"
        self._notify("task_finished", task, outcome, self._reactor.seconds() - start)
        return result

    def batch_started(self, batch: Batch, deferred: Deferred[BatchResult]) -> None:
        """Report a batch that was begun, and later its end."""
        deferred.addBoth(self._batch_ended, batch, self._reactor.seconds())
        self._notify("batch_started", batch.function, len(batch))

    def _batch_ended(self, result: BatchResult | Failure, batch: Batch, start: float) -> BatchResult | Failure:
        outcomes: Counter[TaskOutcome] = Counter()
        for kind, count in Counter(map(type, batch.outcomes)).items():
            outcomes[_OUTCOME_OF.get(kind, "completed")] += count
        self._notify("batch_finished", batch.function, outcomes, self._reactor.seconds() - start)
        return result
