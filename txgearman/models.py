"""Value types of the API: `Priority`, `JobHandle`, `JobStatus`, and `TaskInfo`, the read-only view of a task."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, Protocol, cast
from urllib.parse import quote_from_bytes, unquote_to_bytes

__all__ = ["JobHandle", "JobStatus", "Priority", "TaskInfo", "TaskSnapshot", "decode_text", "job_handle"]


def decode_text(text: str | bytes) -> str:
    """Return a name or message from the wire as text: decoded as UTF-8, with escapes for what is not UTF-8."""
    return text if isinstance(text, str) else text.decode("utf-8", "backslashreplace")


class Priority(enum.IntEnum):
    """Priority of a job: workers of its function get all HIGH jobs before NORMAL ones, and those before LOW ones."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class JobHandle(NamedTuple):
    """Identifier of a job: the address of its server, and the handle that the server assigned.

    Its string, such as ``10.0.0.1:4730//H:host:12``, is printable whatever bytes the handle has; it can be stored, and
    parsed again by `from_string`. A server that restarts counts from 1 again, so an old handle may later identify
    another job (M4).
    """

    server: str
    """Address of the server, as in ``GearmanClient.servers``."""

    handle: bytes
    """The handle, as the server sent it."""

    def __str__(self) -> str:
        return f"{self.server}//{quote_from_bytes(self.handle, safe=':')}"

    @classmethod
    def from_string(cls, text: str) -> JobHandle:
        """Parse what ``str()`` of a handle returned.

        :raises ValueError: `text` is not a job handle.
        """
        server, _, handle = text.rpartition("//")
        parsed = cls(server, unquote_to_bytes(handle))
        if not (server and handle) or str(parsed) != text:
            raise ValueError(f"text must be a job handle such as '10.0.0.1:4730//H:host:12', not {text!r}")
        return parsed


job_handle: Final = cast(Callable[[tuple[str, bytes]], JobHandle], partial(tuple.__new__, JobHandle))
"""Make a `JobHandle` of its two fields: in a third of the time that the class takes."""


@dataclass(frozen=True)
class JobStatus:
    """Status of a job, as reported by its server.

    :ivar known: whether the server has the job. Servers forget jobs that have ended.
    :ivar running: whether a worker is running it.
    :ivar numerator: the progress that the worker reported last, out of `denominator`; 0 if it has reported none.
    :ivar denominator: what `numerator` is at the end of the job; 0 if the worker has reported no progress.
    :ivar waiting_clients: number of clients that wait for the result; None if the server does not report it, as for a
        status by handle.
    """

    known: bool
    running: bool
    numerator: int
    denominator: int
    waiting_clients: int | None = None

    @property
    def progress(self) -> float | None:
        """Fraction of the job that is done; None if the worker has reported no progress."""
        return self.numerator / self.denominator if self.denominator else None


class TaskInfo(Protocol):
    """Read-only view of a task, which callbacks and `TaskError.task` offer; see `Task`."""

    @property
    def function(self) -> str | bytes:
        """Name of the function, as it was passed."""

    @property
    def workload(self) -> bytes:
        """Bytes that the worker receives."""

    @property
    def background(self) -> bool:
        """Whether it is a background task, whose client does not get the result."""

    @property
    def unique(self) -> bytes:
        """Key by which jobs coalesce; empty for none."""

    @property
    def timeout(self) -> float | None:
        """Seconds from the submit to the outcome; None for no limit."""

    @property
    def priority(self) -> Priority:
        """Priority of the job."""

    @property
    def at(self) -> int | None:
        """Earliest start of the job, in POSIX seconds; None for as soon as possible."""

    @property
    def retries(self) -> int:
        """How often the task may be resubmitted."""

    @property
    def handle(self) -> JobHandle | None:
        """Handle of the job; None until the server has sent it."""

    @property
    def server(self) -> str:
        """Address of the server that the task was last sent to; empty before."""

    @property
    def attempt(self) -> int:
        """How often the task has been resubmitted."""

    @property
    def ended(self) -> bool:
        """Whether the task has its outcome."""


@dataclass(frozen=True, repr=False)
class TaskSnapshot:
    """Frozen copy of a task: the `TaskInfo` of a `TaskError` that was pickled.

    Its workload is empty, whatever the task's was: it may be large or secret, and reports of errors go far.
    """

    function: str | bytes
    background: bool
    unique: bytes
    timeout: float | None
    priority: Priority
    at: int | None
    retries: int
    handle: JobHandle | None
    server: str
    attempt: int
    ended: bool
    workload: bytes = b""
    text: str = ""
    """The text of the task."""

    @classmethod
    def of(cls, task: TaskInfo) -> TaskSnapshot:
        """Copy what may be read of a task."""
        return cls(
            function=task.function,
            background=task.background,
            unique=task.unique,
            timeout=task.timeout,
            priority=task.priority,
            at=task.at,
            retries=task.retries,
            handle=task.handle,
            server=task.server,
            attempt=task.attempt,
            ended=task.ended,
            text=str(task),
        )

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<TaskSnapshot {self}>"
