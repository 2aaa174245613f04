"""What a test has submitted: records of tasks and batches, for the messages of failing tests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any
from weakref import ref

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ..client.batches import Batch
from ..client.client import GearmanClient
from ..client.job_handles import JobHandles
from ..client.task import Task
from ..errors import BatchFailed, TaskError
from ..models import JobHandle
from .clock import quoted


class Submit(ABC):
    """A task or a batch: where it was submitted, and by which client. It keeps none of them.

    :ivar function: the function's name, without a prefix.
    :ivar place: file and line.
    """

    __slots__ = ("_client", "_deferred", "function", "place")

    def __init__(self, function: str | bytes, client: GearmanClient, place: str, deferred: Deferred[Any]) -> None:
        self.function = function
        self.place = place
        self._client = ref(client)
        self._deferred = ref(deferred)

    @property
    @abstractmethod
    def name(self) -> str:
        """What was submitted, for messages."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether it has its outcome."""

    @property
    def job_place(self) -> str:
        """Where its jobs were submitted."""
        return self.place

    @abstractmethod
    def fail(self, error: AssertionError) -> None:
        """End it, so that a test which waits for it does not wait for ever."""

    @abstractmethod
    def jobs(self, outcome: object) -> list[JobHandle]:
        """Return the handles of its jobs, as far as they are known once it has this outcome: a result or an error."""

    @property
    def client(self) -> GearmanClient | None:
        """The client, if it is still there."""
        return self._client()

    def errors(self, outcome: BaseException) -> list[BaseException]:
        """Return the error with which it has failed, and those of its jobs, which may be raised by themselves."""
        return [outcome]

    def forgive(self) -> None:
        """Let the failure with which it will end count as handled, as it is complained of already."""
        self._pending().addErrback(lambda _: None)

    def _pending(self) -> Deferred[Any]:
        deferred = self._deferred()
        assert deferred is not None  # what has no outcome holds it
        return deferred

    def unhandled_failure(self) -> Failure | None:
        """Return the failure of the Deferred that nobody has handled; it counts as handled from now on."""
        deferred = self._deferred()
        # Its result stays a failure, though a coroutine has awaited it. Twisted itself goes by this record.
        record = None if deferred is None else deferred._debugInfo
        if deferred is None or record is None or record.failResult is None:
            return None
        failed: list[Failure] = []
        deferred.addErrback(failed.append)
        return failed[0] if failed else None


class TaskSubmit(Submit):
    """A task."""

    __slots__ = ("_task",)

    def __init__(self, task: Task, client: GearmanClient, place: str, deferred: Deferred[Any]) -> None:
        super().__init__(task.function, client, place, deferred)
        self._task = ref(task)

    @property
    def name(self) -> str:
        return f"task {quoted(self.function)}"

    @property
    def task(self) -> Task | None:
        """The task, if it is still there."""
        return self._task()

    @property
    def ended(self) -> bool:
        task = self.task
        return task is None or task.ended

    def fail(self, error: AssertionError) -> None:
        self._pending().cancel()

    def jobs(self, outcome: object) -> list[JobHandle]:
        if isinstance(outcome, JobHandle):
            return [outcome]
        task = self.task
        return [] if task is None or task.handle is None else [task.handle]


class BatchSubmit(Submit):
    """A batch.

    :ivar size: number of its jobs.
    """

    __slots__ = ("_background", "_batch", "size")

    def __init__(self, batch: Batch, client: GearmanClient, place: str, deferred: Deferred[Any]) -> None:
        super().__init__(batch.function, client, place, deferred)
        self.size = len(batch)
        self._background = batch.background
        self._batch = ref(batch)

    @property
    def name(self) -> str:
        kind = ("background job" if self._background else "job") + ("s" if self.size > 1 else "")
        return f"batch of {self.size:,} {kind} of {quoted(self.function)}"

    @property
    def batch(self) -> Batch | None:
        """The batch, if it is still there."""
        return self._batch()

    @property
    def ended(self) -> bool:
        batch = self.batch
        return batch is None or batch.ended

    @property
    def job_place(self) -> str:
        return f"{self.place} in a batch of {self.size:,}"

    def fail(self, error: AssertionError) -> None:
        batch = self.batch
        assert batch is not None  # what has no outcome is held by its Deferred
        batch.abandon(lambda _: error)  # not by a cancel, which map() would not notice

    def errors(self, outcome: BaseException) -> list[BaseException]:
        batch = self.batch
        # `GearmanClient.map` raises the error of a job, and cancels the rest of the batch before.
        outcomes = outcome.outcomes if isinstance(outcome, BatchFailed) else batch.outcomes if batch else []
        jobs = {id(error): error for error in outcomes if isinstance(error, Exception)}
        return [outcome, *jobs.values()]

    def jobs(self, outcome: object) -> list[JobHandle]:
        if isinstance(outcome, JobHandles):
            return list(outcome)
        outcomes = outcome.outcomes if isinstance(outcome, BatchFailed) else []
        errors = [each.task.handle for each in outcomes if isinstance(each, TaskError)]
        handles = [each for each in outcomes if isinstance(each, JobHandle)]
        return [*handles, *(handle for handle in errors if handle is not None)]
