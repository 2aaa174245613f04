"""A job that a test took to play its worker."""

from __future__ import annotations

from collections.abc import Callable

from ..packets import WORK_COMPLETE, WORK_DATA, WORK_FAIL, WORK_STATUS, WORK_WARNING, PacketType
from ..validation import payload_bytes
from .core import JobServerCore
from .jobs import Ability, Job


class ManualWorker:
    """The worker that a test plays: one for each job that it takes."""

    def __init__(self) -> None:
        self.abilities: dict[Ability, None] = {}

    def wake(self) -> None:
        """Do nothing: it never sleeps."""


class TakenJob:
    """A job that a test took from a `MemoryJobServer`, and whose worker it plays: `MemoryJobServer.take`.

    With a `Clock`, what a call sends has arrived at the client when the call returns. Once the job has ended, each call
    raises `RuntimeError`.

    :ivar handle: the job handle.
    :ivar function: the function's name, with the prefix if there is one.
    :ivar unique: as submitted; empty if there was none.
    :ivar workload: the payload.
    """

    def __init__(self, core: JobServerCore, worker: ManualWorker, job: Job, settle: Callable[[], None]) -> None:
        self._core = core
        self._worker = worker
        self._job = job
        self._settle = settle
        self._ended = False
        self.handle = job.handle
        self.function = job.function.name
        self.unique = job.unique
        self.workload = job.workload

    def __repr__(self) -> str:
        return f"<TakenJob {self.handle.decode()} of {self.function!r}>"

    def send_data(self, data: bytes) -> None:
        """Send WORK_DATA: a part of the result."""
        self._send_data(WORK_DATA, data)

    def send_warning(self, data: bytes) -> None:
        """Send WORK_WARNING."""
        self._send_data(WORK_WARNING, data)

    def send_status(self, numerator: int, denominator: int) -> None:
        """Send WORK_STATUS: how far the job has got."""
        self._check_active()
        packet = WORK_STATUS.response(self.handle, b"%d" % numerator, b"%d" % denominator)
        self._core.work_status(self._job, packet, numerator, denominator)
        self._settle()

    def complete(self, result: bytes = b"") -> None:
        """Send WORK_COMPLETE, which ends the job."""
        self._end(WORK_COMPLETE.response(self.handle, payload_bytes("result", result)))

    def fail(self) -> None:
        """Send WORK_FAIL, which ends the job without a result or a reason."""
        self._end(WORK_FAIL.response(self.handle))

    def send_exception(self, data: bytes) -> None:
        """Send WORK_EXCEPTION, which ends the job."""
        payload = payload_bytes("data", data)
        self._check_active()
        self._ended = True
        self._core.work_exception(self._job, payload)
        self._remove_worker()

    def abandon(self) -> None:
        """Disconnect the worker: the server gives the job to another one, as often as its `job_retries` allow."""
        self._check_active()
        self._ended = True
        self._remove_worker()

    def _check_active(self) -> None:
        if self._ended:
            raise RuntimeError(f"{self!r} has ended")

    def _send_data(self, packet_type: PacketType, data: bytes) -> None:
        self._check_active()
        self._core.work_data(self._job, packet_type, payload_bytes("data", data))
        self._settle()

    def _end(self, packet: bytes) -> None:
        self._check_active()
        self._ended = True
        self._core.work_end(self._job, packet)
        self._remove_worker()

    def _remove_worker(self) -> None:
        self._core.remove_abilities(reversed(self._worker.abilities))
        self._settle()
