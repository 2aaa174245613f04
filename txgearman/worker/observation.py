"""A `JobRunner` that reports each job to observers: once at its start, and once at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from typing import Final

from twisted.python.failure import Failure

from ..connection.reactor import Reactor
from ..errors import JobFailed
from ..observers import JobOutcome, Observers
from .execution import ExecutionListener, JobRunner
from .functions import Function
from .groups import GrabState
from .job import COMPLETED, EXCEPTION_SENT, FAILED, TIMED_OUT, Job

__all__ = ["ObservedJobRunner"]

_OUTCOME_OF: Final[dict[str, JobOutcome]] = {
    COMPLETED: "done",
    FAILED: "failed",
    EXCEPTION_SENT: "raised",
    TIMED_OUT: "timed_out",
}


class _Record:
    """A job whose end was not reported.

    :ivar context: the context in which its function runs.
    :ivar start: the reactor's time of its start.
    :ivar outcome: its outcome, where `Job.ended` does not say it.
    :ivar entered: whether the context is the current one.
    """

    __slots__ = ("context", "entered", "outcome", "start")

    def __init__(self, start: float) -> None:
        self.context: Context = copy_context()
        self.start = start
        self.outcome: JobOutcome | None = None
        self.entered = False


class ObservedJobRunner(JobRunner):
    """Runs jobs, and reports them."""

    def __init__(
        self,
        reactor: Reactor,
        format_exception: Callable[[Failure], bytes | None],
        listener: ExecutionListener,
        observers: Observers,
    ) -> None:
        super().__init__(reactor, format_exception, listener)
        self._notify = observers.notify
        self._records: dict[Job, _Record] = {}

    def run_job(self, job: Job, function: Function, state: GrabState) -> bool:
        record = self._records[job] = _Record(self._reactor.seconds())
        return record.context.run(self._run_in_context, record, job, function, state)

    def _run_in_context(self, record: _Record, job: Job, function: Function, state: GrabState) -> bool:
        record.entered = True
        self._notify("job_started", job)
        ended = super().run_job(job, function, state)
        if ended:
            self._finish(job)
        record.entered = False
        return ended

    def _finish(self, job: Job) -> None:
        """Report the end of a job, unless that was done."""
        record = self._records.pop(job, None)
        if record is None:
            return
        outcome = record.outcome or _OUTCOME_OF.get(job.ended, "lost")
        arguments = "job_finished", job, outcome, self._reactor.seconds() - record.start
        if record.entered:
            self._notify(*arguments)
        else:
            record.context.run(self._notify, *arguments)

    def _deferred_fired(self, result: object, job: Job) -> object:
        passed_on = super()._deferred_fired(result, job)
        if job in self._records and not self._records[job].entered:  # else `run_job` reports it
            self._finish(job)
        return passed_on

    def _report_failure(self, job: Job, failure: Failure) -> None:
        record = self._records.get(job)
        if record is not None and not job.ended and not failure.check(JobFailed):
            record.outcome = "raised"  # whatever format_exception makes of it
        super()._report_failure(job, failure)

    def abandon(self, jobs: Iterable[Job], reason: str) -> None:
        jobs = list(jobs)
        for job in jobs:
            record = self._records.get(job)
            if record is not None:  # else it had ended with its function going on, as far as observers know
                record.outcome = _OUTCOME_OF.get(job.ended, "lost")
        super().abandon(jobs, reason)
        for job in jobs:
            self._finish(job)

    def _time_out(self, job: Job, seconds: float) -> None:
        super()._time_out(job, seconds)
        self._finish(job)
