"""Plain values of the API: `Priority`, `JobHandle`, `JobStatus`, and what may be read of a task."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple, Protocol
from urllib.parse import quote_from_bytes, unquote_to_bytes

__all__ = ["JobHandle", "JobStatus", "Priority", "TaskInfo", "decode_text"]


def decode_text(text: str | bytes) -> str:
    """Return a name or message from the wire as text: decoded as UTF-8, with escapes for what is not UTF-8."""
    return text if isinstance(text, str) else text.decode("utf-8", "backslashreplace")


class Priority(enum.IntEnum):
    """Which of a function's queues a job waits in: all HIGH jobs are done before NORMAL ones, and those before LOW."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class JobHandle(NamedTuple):
    """Names a job on its server.

    Its string, ``10.0.0.1:4730//H:host:12``, is printable whatever the bytes of the handle are; keep it in a database
    and read it back by `from_string`. A server that restarts counts from 1 again, so that an old handle may come to
    name another job (M4).
    """

    server: str
    """The server's address, as in ``GearmanClient.servers``."""

    handle: bytes
    """The handle as the server gave it."""

    def __str__(self) -> str:
        return f"{self.server}//{quote_from_bytes(self.handle, safe=':')}"

    @classmethod
    def from_string(cls, text: str) -> JobHandle:
        """Read what ``str()`` of a handle printed.

        :raises ValueError: it is not one.
        """
        server, _, handle = text.rpartition("//")
        read = cls(server, unquote_to_bytes(handle))
        if not (server and handle) or str(read) != text:
            raise ValueError(f"not a job handle, which reads like '10.0.0.1:4730//H:host:12': {text!r}")
        return read


@dataclass(frozen=True)
class JobStatus:
    """What a server knows of a job.

    :ivar known: whether it knows the job at all. It forgets jobs that ended.
    :ivar running: whether a worker has it.
    :ivar numerator, denominator: how far the worker says it is; 0 and 0 where it has not said.
    :ivar waiting_clients: how many clients wait for its result; None where the server does not say, as in the
        answer about a handle.
    """

    known: bool
    running: bool
    numerator: int
    denominator: int
    waiting_clients: int | None = None

    @property
    def progress(self) -> float | None:
        """The fraction that is done, or None where the worker has not said."""
        return self.numerator / self.denominator if self.denominator else None


class TaskInfo(Protocol):
    """What may be read of a task, in callbacks and of `TaskError.task`; see `Task`."""

    @property
    def function(self) -> str | bytes:
        """The function's name, as it was given."""

    @property
    def workload(self) -> bytes:
        """What the worker gets."""

    @property
    def background(self) -> bool:
        """Whether nobody waits for the result."""

    @property
    def unique(self) -> bytes:
        """What makes jobs coalesce; empty for nothing."""

    @property
    def timeout(self) -> float | None:
        """Seconds from the submit to the outcome; None for no limit."""

    @property
    def priority(self) -> Priority:
        """Which of the function's queues the job waits in."""

    @property
    def at(self) -> int | None:
        """When the server may start the job, in POSIX seconds; None for at once."""

    @property
    def retries(self) -> int:
        """How often the task may be submitted again."""

    @property
    def handle(self) -> JobHandle | None:
        """The job's handle, once the server has sent it."""

    @property
    def server(self) -> str:
        """The address of the server that the task was sent to last; empty before."""

    @property
    def attempt(self) -> int:
        """How often the task was submitted again."""

    @property
    def ended(self) -> bool:
        """Whether the task has its outcome."""
