"""Observers of clients and workers: the events of tasks, batches, jobs and servers.

An observer is any object with some of the methods of `Observer`. Each task, job of a batch and job of a worker ends for
it exactly once, however it ends. `Observers` calls them; what they raise is logged.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal, Protocol, TypeAlias

from twisted.logger import Logger
from twisted.python.failure import Failure

from .connection.pool import ServerInfo
from .failures import for_log
from .models import JobHandle, TaskInfo

__all__ = [
    "JobOutcome",
    "ObservedJob",
    "Observer",
    "Observers",
    "PROCESS_OBSERVERS",
    "TaskOutcome",
    "as_observers",
]

_log = Logger()

TaskOutcome: TypeAlias = Literal[
    "completed", "failed", "exception", "rejected", "lost", "timed_out", "unavailable", "cancelled", "stopped"
]
"""How a task has ended: with its result (of a background task: it was queued), or with `TaskFailed`, `TaskException`,
`TaskRejected`, `TaskLost`, `TaskTimedOut`, `NoServersAvailable`, ``CancelledError`` or `ClientStopped`."""

JobOutcome: TypeAlias = Literal["done", "failed", "raised", "timed_out", "lost"]
"""How a job of a worker has ended: with a result; as failed, by `JobFailed` or ``fail()``; with the exception that its
function has raised or sent; by the ``timeout`` of its function; or without a word to its server, since the connection
was lost, the server has taken the job away, or the worker was stopped before it has ended."""


class ObservedJob(Protocol):
    """What may be read of a worker's job: a `Job` is one."""

    function: str | bytes
    handle: JobHandle
    workload: bytes
    unique: bytes
    reducer: bytes

    @property
    def ended(self) -> str:
        """How it has ended, for people; empty while it has not."""


class Observer:
    """Base class of observers, whose methods do nothing: for a client's or a worker's ``observers``.

    Any object that has some of these methods will do. They are called in the reactor's thread; they may call the
    client or worker, submit, cancel and stop. What they raise is logged, and changes nothing.
    """

    def task_started(self, task: TaskInfo) -> None:
        """Handle the submit of a task, which is not sent yet."""

    def task_retried(self, task: TaskInfo, attempt: int, reason: Exception) -> None:
        """Handle a failed attempt of a task that will be resubmitted. `attempt` is 1 for the first retry."""

    def task_finished(self, task: TaskInfo, outcome: TaskOutcome, seconds: float) -> None:
        """Handle the outcome of a task, whose Deferred is about to fire. The time is counted from the submit."""

    def batch_started(self, function: str | bytes, count: int) -> None:
        """So many jobs were submitted by `add_tasks` or `add_tasks_bg`, or as a part of a `map` without options."""

    def batch_finished(self, function: str | bytes, outcomes: Mapping[TaskOutcome, int], seconds: float) -> None:
        """All jobs of a batch have their outcomes, which are counted."""

    def job_started(self, job: ObservedJob) -> None:
        """Handle the start of a job, whose function is about to be called.

        It is called in the context in which the function runs: what it sets in a ``ContextVar`` is seen by the
        function, its coroutine and its thread, and by `job_finished` of this job, but nowhere else.
        """

    def job_finished(self, job: ObservedJob, outcome: JobOutcome, seconds: float) -> None:
        """Handle the end of a job: of its function or, if that comes first, of its time limit or its connection."""

    def server_changed(self, info: ServerInfo) -> None:
        """Handle a server that is ready, a connection that was lost or failed, or the stop of the service."""


HOOKS: Final = tuple(name for name in vars(Observer) if not name.startswith("_"))


class Observers:
    """Calls the methods of observers.

    :raises TypeError: one of them has no method of an observer, or such an attribute is no plain method.
    """

    def __init__(self, observers: Iterable[object]) -> None:
        self._methods: dict[str, list[Callable[..., object]]] = {name: [] for name in HOOKS}
        for index, observer in enumerate(observers):
            names = [name for name in HOOKS if hasattr(observer, name)]
            if not names:
                raise TypeError(f"observers[{index}] must have a method of Observer, not be {observer!r:.80}")
            for name in names:
                method = getattr(observer, name)
                if not callable(method) or inspect.iscoroutinefunction(method):
                    raise TypeError(f"observers[{index}].{name} must be a method that is not async, not {method!r:.80}")
                self._methods[name].append(method)

    def notify(self, name: str, *arguments: object) -> None:
        """Call this method of each observer that has it."""
        for method in self._methods[name]:
            try:
                method(*arguments)
            except BaseException:  # as in a Deferred: what an observer raises must change nothing
                _log.failure("{method} of an observer raised", for_log(Failure()), method=name)


PROCESS_OBSERVERS: Final[list[object]] = []
"""Observers of each worker that is made from now on, besides its own: for a program that runs a worker of others."""


def as_observers(observers: Iterable[object], others: Iterable[object] = ()) -> Observers | None:
    """Return what calls these observers, and then others; None if there are none. Raises as `Observers`."""
    if isinstance(observers, (str, bytes)) or not isinstance(observers, Iterable):
        raise TypeError(f"observers must be an iterable of observers, not {type(observers).__name__}")
    checked = [*observers, *others]
    return Observers(checked) if checked else None
