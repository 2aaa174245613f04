"""An observer that records its calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from txgearman import JobOutcome, Observer, ServerInfo, TaskOutcome
from txgearman.models import TaskInfo
from txgearman.observers import ObservedJob


class Recorder(Observer):
    """Records the calls.

    :ivar calls: the name and the arguments of each, without times and tasks.
    :ivar seconds: the times that were reported.
    :ivar react: called with the name of each call, after it was recorded.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.seconds: list[float] = []
        self.tasks: list[TaskInfo] = []
        self.jobs: list[ObservedJob] = []
        self.react: Callable[[str], object] = lambda name: None

    def _record(self, name: str, *arguments: object) -> None:
        self.calls.append((name, *arguments))
        self.react(name)

    def task_started(self, task: TaskInfo) -> None:
        self.tasks.append(task)
        self._record("task_started")

    def task_retried(self, task: TaskInfo, attempt: int, reason: Exception) -> None:
        self._record("task_retried", attempt, type(reason).__name__)

    def task_finished(self, task: TaskInfo, outcome: TaskOutcome, seconds: float) -> None:
        assert task in self.tasks
        assert task.ended
        self.seconds.append(seconds)
        self._record("task_finished", outcome)

    def batch_started(self, function: str | bytes, count: int) -> None:
        self._record("batch_started", function, count)

    def batch_finished(self, function: str | bytes, outcomes: Mapping[TaskOutcome, int], seconds: float) -> None:
        self.seconds.append(seconds)
        self._record("batch_finished", function, dict(outcomes))

    def job_started(self, job: ObservedJob) -> None:
        self.jobs.append(job)
        self._record("job_started")

    def job_finished(self, job: ObservedJob, outcome: JobOutcome, seconds: float) -> None:
        assert job in self.jobs
        self.seconds.append(seconds)
        self._record("job_finished", outcome)

    def server_changed(self, info: ServerInfo) -> None:
        self._record("server_changed", info.address, info.state.value)

    def named(self, *names: str) -> list[tuple[Any, ...]]:
        """Return the calls with these names."""
        return [call for call in self.calls if call[0] in names]

    def ends(self) -> list[Any]:
        """Return the last argument of each call about an end."""
        return [call[-1] for call in self.named("task_finished", "batch_finished", "job_finished")]
