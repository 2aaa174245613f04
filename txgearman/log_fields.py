"""Plain fields of log events: what an event is about, in a form that JSON keeps and that keeps nothing else alive."""

from __future__ import annotations

from typing import Protocol

from .models import JobHandle, TaskInfo
from .validation import MAX_NAME, short_text

__all__ = ["Fields", "job_fields", "task_fields"]

Fields = dict[str, "str | int"]


class _Job(Protocol):
    """What the fields need of a worker's job."""

    function: str | bytes
    unique: bytes

    @property
    def handle(self) -> JobHandle:
        """The server's name for it, and the server."""


def task_fields(task: TaskInfo) -> Fields:
    """Return ``function``, ``handle``, ``server``, ``unique`` and ``attempt`` of a client's task."""
    return {
        "function": short_text(task.function, MAX_NAME),
        "handle": "" if task.handle is None else short_text(task.handle.handle, MAX_NAME),
        "server": task.server,
        "unique": short_text(task.unique, MAX_NAME),
        "attempt": task.attempt,
    }


def job_fields(job: _Job) -> Fields:
    """Return ``function``, ``handle``, ``server`` and ``unique`` of a worker's job."""
    return {
        "function": short_text(job.function, MAX_NAME),
        "handle": short_text(job.handle.handle, MAX_NAME),
        "server": job.handle.server,
        "unique": short_text(job.unique, MAX_NAME),
    }
