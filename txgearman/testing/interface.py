"""What a test may use of any job server: a `MemoryJobServer` on a clock or on a port, or a `Gearmand`."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AbstractContextManager
from typing import Any
from typing import Protocol as Interface

from ..admin.admin import GearmanAdmin
from ..client.client import GearmanClient
from ..worker.worker import GearmanWorker


class PlayedJob(Interface):
    """A job whose worker a test plays, on any `AnyJobServer`."""

    @property
    def workload(self) -> bytes:
        """The payload."""

    @property
    def unique(self) -> bytes:
        """As submitted; empty if there was none."""

    def send_data(self, data: bytes) -> None:
        """Send WORK_DATA: a part of the result."""

    def send_warning(self, data: bytes) -> None:
        """Send WORK_WARNING."""

    def send_status(self, numerator: int, denominator: int) -> None:
        """Send WORK_STATUS: how far the job has got."""

    def complete(self, result: bytes = b"") -> None:
        """Send WORK_COMPLETE, which ends the job."""

    def fail(self) -> None:
        """Send WORK_FAIL, which ends the job without a result or a reason."""

    def send_exception(self, data: bytes) -> None:
        """Send WORK_EXCEPTION, which ends the job."""


class AnyJobServer(Interface):
    """What a test may use of a job server, whether it is a `MemoryJobServer` or a `Gearmand`.

    :ivar clock: the `Clock` or the reactor: time passes by ``deferLater(server.clock, seconds)``.
    """

    clock: Any

    def client(self, **options: Any) -> GearmanClient:
        """Return a client of this server, which was started."""

    def worker(self, **options: Any) -> GearmanWorker:
        """Return a worker of this server, which was started."""

    def admin(self, **options: Any) -> GearmanAdmin:
        """Return an admin client of this server, which was started."""

    def next_job(self, function: str | bytes) -> Awaitable[PlayedJob]:
        """Wait for the next job of a function, and take it as a worker would."""

    def command(self, line: str) -> str:
        """Return the answer to a line of the text protocol."""

    def go_down(self, *, lose_jobs: bool) -> AbstractContextManager[object]:
        """Drop every connection and refuse new ones, until the end of the block."""

    def fall_silent(self) -> AbstractContextManager[object]:
        """Neither read nor send anything on any connection, until the end of the block."""
