"""Runs a worker until a signal, and lets its jobs end."""

from __future__ import annotations

from contextlib import suppress
from typing import Final, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from ..worker.job import Job
from ..worker.worker import GearmanWorker
from .exit_codes import ExitCode
from .job_tracker import JobTracker
from .systemd import WorkerReports
from .terminal import Terminal

__all__ = ["WorkerRun"]

T = TypeVar("T")

_log = Logger()

EXIT_DELAY: Final = 1.0
"""Seconds after the end of the drain, at which the program exits whatever still holds it up: code of a job that blocks
the reactor, or a server that does not take the last packets."""


class WorkerRun:
    """A run of one worker.

    A signal ends it, or `stop`. The worker then requests no more jobs, and those that run have a time to end. After
    that they are cut off: their servers give them to other workers. systemd is notified, where it asks for it.

    :param worker: its own ``drain_timeout`` must be longer.
    :param tracker: watches its functions.
    :param drain_timeout: seconds that running jobs have to end.
    :param is_child: whether this is a child of ``--processes``, whose parent gets the signals.
    """

    def __init__(
        self,
        terminal: Terminal,
        worker: GearmanWorker,
        tracker: JobTracker,
        *,
        drain_timeout: float,
        is_child: bool = False,
    ) -> None:
        self._terminal = terminal
        self._worker = worker
        self._tracker = tracker
        self._drain_timeout = drain_timeout
        self._hint = "" if is_child else "; a second signal exits at once"
        self._reports = WorkerReports(terminal.reactor, worker)
        self._stop_wanted: Deferred[ExitCode] = Deferred()
        self._returned: set[Job] = set()
        self._draining = False
        self._over: Deferred[None] = Deferred()  # the drain
        self._reported = False
        tracker.on_end = self._job_ended

    async def run(self) -> ExitCode:
        """Run the worker.

        :return: the exit code: that of `stop`, or 0 after a signal; if jobs were cut off, `ExitCode.FAILED`.
        """
        self._terminal.stop_limit = self._drain_timeout + EXIT_DELAY
        self._terminal.before_exit.append(self._report_running)
        self._worker.startService()
        self._reports.start()
        code = ExitCode.DONE
        with suppress(CancelledError):  # by a signal
            code = await self._stop_wanted
        await self._drain()
        return code or (ExitCode.FAILED if self._reported else ExitCode.DONE)

    def stop(self, code: ExitCode = ExitCode.DONE) -> None:
        """End the run, if it has not been ended before."""
        if not self._stop_wanted.called:
            self._stop_wanted.callback(code)

    def return_job(self, job: Job) -> None:
        """Have the server of a job give it to another worker at the end of the run. The function must not have ended.

        Jobs that run otherwise may end before.
        """
        self._returned.add(job)
        self._job_ended()

    def _job_ended(self) -> None:
        if self._returned:
            self._terminal.reactor.callLater(0, self._end_drain_if_done)  # first the job's outcome is sent

    async def _drain(self) -> None:
        running = sum(server.in_flight for server in self._worker.servers) - len(self._returned)
        if running:
            _log.info("waiting for running jobs: {running}{hint}", running=running, hint=self._hint)
        self._reports.stop(f"waiting for running jobs: {running}")
        self._draining = True
        self._worker.stopService().addCallback(_fire, self._over)
        end = self._terminal.reactor.callLater(self._drain_timeout, self._cut_off)
        self._job_ended()
        # A first signal may come now, after `stop`. It must not cut off the jobs, so it ends only one of the waits.
        while not self._over.called:
            waiting: Deferred[None] = Deferred()
            self._over.addCallback(_fire, waiting)
            with suppress(CancelledError):
                await waiting
        if end.active():
            end.cancel()

    def _cut_off(self) -> None:
        self._report_running()
        self._worker.end_drain()
        if not all(job.ended for job in self._worker.running_jobs):
            _fire(None, self._over)  # threads can't be cancelled: the program exits without them

    def _report_running(self) -> None:
        """Report what is cut off. May be called in any thread."""
        if self._reported:
            return
        self._reported = True
        running = [job for job in self._tracker.running if job not in self._returned]
        for job in running:
            self._terminal.write_error(
                f"txgearman: cut off {job}, which still ran: its server gives it to another worker"
            )
        unknown = sum(server.in_flight for server in self._worker.servers) - len(self._tracker.running)
        if unknown > 0:  # of a worker whose functions are not watched
            self._terminal.write_error(f"txgearman: cut off {unknown} jobs: their servers give them to other workers")
        elif not running:
            self._terminal.write_error("txgearman: exiting before servers have taken all results")

    def _end_drain_if_done(self) -> None:
        """End the drain early if only jobs are left that will not end by themselves."""
        if self._draining and self._returned.issuperset(self._tracker.running):
            self._worker.end_drain()


def _fire(result: T, waiting: Deferred[None]) -> T:
    """Fire a Deferred, unless it was cancelled; pass the result on."""
    if not waiting.called:
        waiting.callback(None)
    return result
