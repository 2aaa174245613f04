"""A job that a test took to play its worker."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ..packets import WORK_COMPLETE, WORK_DATA, WORK_FAIL, WORK_STATUS, WORK_WARNING, PacketType
from ..validation import check_count, payload_bytes
from ..worker.job import MAX_STATUS
from .core import JobServerCore, ManualWorker
from .jobs import Job


class TakenJob:
    """A job that a test took from a `MemoryJobServer`, and whose worker it plays: `MemoryJobServer.take`.

    With a `Clock`, what a call sends has arrived at the client when the call returns. Once the job has ended, each call
    raises `RuntimeError`.

    :ivar handle: the job handle.
    :ivar function: the function's name, with the prefix if there is one.
    :ivar unique: as submitted; empty if there was none.
    :ivar workload: the payload.
    :ivar priority: see `Priority`.
    :ivar background: whether it was submitted in the background.
    :ivar reducer: the name of the function for its results; empty unless it is a reduce job.
    :ivar at: the time of the server's clock from which on it was due; 0 for a job that was not scheduled.
    """

    def __init__(self, core: JobServerCore, worker: ManualWorker, job: Job, settle: Callable[[], None]) -> None:
        self._core = core
        self._worker = worker
        self._job = job
        self._settle = settle
        self._ended = ""
        worker.lost = self._lost
        self.handle = job.handle
        self.function = job.function.name
        self.unique = job.unique
        self.workload = job.workload
        self.priority = job.priority
        self.background = job.background
        self.reducer = job.reducer
        self.at = job.at

    def __repr__(self) -> str:
        return f"<TakenJob {self.handle.decode('utf-8', 'backslashreplace')} of {self.function!r}>"

    @property
    def ended(self) -> bool:
        """Whether it has ended, or the server was down meanwhile."""
        return bool(self._ended)

    def send_data(self, data: bytes) -> None:
        """Send WORK_DATA: a part of the result."""
        self._send_data(WORK_DATA, data)

    def send_warning(self, data: bytes) -> None:
        """Send WORK_WARNING."""
        self._send_data(WORK_WARNING, data)

    def send_status(self, numerator: int, denominator: int) -> None:
        """Send WORK_STATUS: how far the job has got.

        :raises TypeError, ValueError: the numbers are not whole ones from 0, of up to 32 bits, as a worker's must be.
        """
        for name, number in (("numerator", numerator), ("denominator", denominator)):
            if check_count(name, number, 0) > MAX_STATUS:
                raise ValueError(f"{name} must be from 0 to {MAX_STATUS}, not {number}")
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
        self._ended = "has ended"
        self._core.work_exception(self._job, payload)
        self._remove_worker()

    def abandon(self) -> None:
        """Disconnect the worker: the server gives the job to another one, as often as its `job_retries` allow."""
        self._check_active()
        self._ended = "has ended"
        self._remove_worker()

    def _check_active(self) -> None:
        if self._ended:
            raise RuntimeError(f"{self!r} {self._ended}")

    def _lost(self) -> None:
        """Note that the server has dropped all its workers: the job is queued again, or forgotten."""
        self._ended = "was lost, since the server went down"
        self._core.remove_abilities(reversed(self._worker.abilities))

    def _send_data(self, packet_type: PacketType, data: bytes) -> None:
        self._check_active()
        self._core.work_data(self._job, packet_type, payload_bytes("data", data))
        self._settle()

    def _end(self, packet: bytes) -> None:
        self._check_active()
        self._ended = "has ended"
        self._core.work_end(self._job, packet)
        self._remove_worker()

    def _remove_worker(self) -> None:
        self._core.manual_workers.pop(self._worker, None)
        self._core.remove_abilities(reversed(self._worker.abilities))
        self._settle()


class JobAwaiter(ManualWorker):
    """A worker that a test plays, and that waits for a job.

    :ivar deferred: fires with the job. Cancelling it ends the wait.
    """

    def __init__(self, core: JobServerCore, reactor: IReactorTime, place: str, settle: Callable[[], None]) -> None:
        super().__init__(place)
        self._core = core
        self._reactor = reactor
        self._settle = settle
        self._call: IDelayedCall | None = None
        self.deferred: Deferred[TakenJob] = Deferred(lambda _: self.stop())

    def wait(self, name: bytes) -> None:
        """Take the next job of a function, now or later."""
        self._core.jobs.add_ability(self, name)
        self._take(name)

    def wake(self) -> None:
        # Later: the submit that wakes it is not answered yet.
        (ability,) = self.abilities
        self._look_again(ability.function.name, 0.0)

    def stop(self) -> None:
        """Wait no longer."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._core.jobs.awake(self)
        self._core.remove_abilities(reversed(self.abilities))

    def _look_again(self, name: bytes, seconds: float) -> None:
        if self._call is not None:
            self._call.cancel()
        self._call = self._reactor.callLater(seconds, self._take, name)

    def _take(self, name: bytes) -> None:
        self._call = None
        job = self._core.jobs.take(self)
        if job is not None:
            job.seen = True
            self._core.manual_workers[self] = None
            self.deferred.callback(TakenJob(self._core, self, job, self._settle))
            return
        self._core.jobs.sleep(self)
        times = [job.at for queue in self._core.jobs.function(name).queues for job in queue]
        if times:  # the server wakes nobody for a job whose time has come
            self._look_again(name, max(0.0, min(times) - self._reactor.seconds()))
