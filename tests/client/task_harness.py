"""A task without a client: records what its callbacks, its holder, its Deferred and its owner get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

from twisted.internet.defer import Deferred

from txgearman.client.task import Options, Task, TaskOwner
from txgearman.errors import ClientStopped, TaskFailed
from txgearman.models import JobHandle

SERVER = "10.0.0.1:4730"

HANDLE = b"H:host:12"

JOB = JobHandle(SERVER, HANDLE)

ALL_CALLBACKS = (
    "on_created",
    "on_data",
    "on_warning",
    "on_status",
    "on_complete",
    "on_exception",
    "on_fail",
)

FOREGROUND_CALLBACKS = ("on_data", "on_warning", "on_status", "on_complete", "on_exception")


class RecordedTask(TaskOwner):
    """A task, its holder and its owner: records what its callbacks, holder, Deferred and owner get, in order.

    :ivar react: what the callback of a name does after it was recorded.
    :ivar retries: whether the owner retries the task after each failure.
    """

    def __init__(
        self, react: Mapping[str, Callable[[RecordedTask], None]] | None = None, *, background: bool = False
    ) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.react = react or {}
        self.retries = False
        names = [name for name in ALL_CALLBACKS if not (background and name in FOREGROUND_CALLBACKS)]
        callbacks: dict[str, Any] = {name: self._recorder(name) for name in names}
        if not background:
            callbacks["on_retry"] = self._recorder("on_retry")
        self.task = Task("resize", b"picture", background=background, **callbacks)
        self.deferred: Deferred[Any] = begin(self.task, self)
        self.task._holder = self
        self.task._server = SERVER
        self.deferred.addCallbacks(
            lambda result: self.events.append(("fired", result)),
            lambda failure: self.events.append(("fired", failure.value)),
        )

    def _recorder(self, name: str) -> Callable[..., None]:
        def record(task: Task, *arguments: object) -> None:
            assert task is self.task
            self.events.append((name, *arguments))
            if name in self.react:
                self.react[name](self)

        return record

    def discard(self, task: Task) -> None:
        assert task is self.task
        self.events.append(("discard",))

    def reroute(self, task: Task) -> None:
        assert task is self.task
        self.events.append(("reroute",))

    def retry(self, task: Task, reason: Exception) -> bool:
        assert task is self.task
        if self.retries:
            task._retry_scheduled()
        return self.retries

    def task_ended(self, task: Task) -> None:
        assert task is self.task
        self.events.append(("ended",))

    @property
    def names(self) -> list[str]:
        return [event[0] for event in self.events]

    @property
    def fired(self) -> list[Any]:
        """What the Deferred fired with."""
        return [event[1] for event in self.events if event[0] == "fired"]

    def create(self) -> None:
        create_job(self.task)

    def run(self, end: Callable[[RecordedTask], None]) -> None:
        """Report a job up to its end. Once the task has ended, nothing more is reported to it."""
        for event in (self.create, *progress(self.task), lambda: end(self)):
            if not self.fired:
                event()


# What a connection reports to a task.


def begin(task: Task, owner: TaskOwner | None = None, prefix: bytes = b"") -> Deferred[Any]:
    return task._begin(owner or TaskOwner(), prefix)


def create_job(task: Task) -> None:
    task._server = SERVER
    task._answered(None, [HANDLE])


def progress(task: Task) -> list[Callable[[], None]]:
    return [
        lambda: task._data_received(b"d1"),
        lambda: task._status_received(1, 2),
        lambda: task._warning_received(b"w1"),
        lambda: task._data_received(b"d2"),
    ]


def complete_task(task: Task) -> None:
    task._job_completed(b"thumbnail")


def send_exception(task: Task) -> None:
    task._exception_received(b"boom")


def fail_task(task: Task, reason: Exception | None = None) -> None:
    task._attempt_failed(reason or TaskFailed(task))


def options_of(task: Task) -> dict[str, object]:
    return {name: getattr(task._options, name) for name in Options.__annotations__}


def set_options(task: Task, **options: Any) -> None:
    task._options = copy(task._options)
    for name, value in options.items():
        setattr(task._options, name, value)


def holder_of(task: Task) -> object:
    return task._holder


def return_unsent(task: Task) -> None:
    task._return_unsent()


def wire_function(task: Task) -> bytes:
    return task._wire_function


# Ends of a task.


def complete(recorded: RecordedTask) -> None:
    complete_task(recorded.task)


def raise_exception(recorded: RecordedTask) -> None:
    send_exception(recorded.task)


def fail(recorded: RecordedTask) -> None:
    fail_task(recorded.task)


def cancel(recorded: RecordedTask) -> None:
    recorded.deferred.cancel()


def stop(recorded: RecordedTask) -> None:
    """As a client that is stopped."""
    fail_task(recorded.task, ClientStopped())


ENDS: list[Callable[[RecordedTask], None]] = [complete, raise_exception, fail, cancel, stop]

REACHES = {
    "on_created": complete,
    "on_data": complete,
    "on_warning": complete,
    "on_status": complete,
    "on_complete": complete,
    "on_exception": raise_exception,
    "on_fail": fail,
}
"""For each callback, an end of a task that calls it."""
