"""Runs jobs: starts their functions, times them out, and sends their outcomes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final
from typing import Protocol as Interface

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from ..connection.reactor import Reactor
from ..connection.waiters import Waiters
from ..errors import JobEnded, JobFailed, WorkloadInvalid
from ..failures import for_log
from ..log_fields import Fields, job_fields
from ..validation import MAX_REASON, short_text
from .functions import Function
from .groups import FunctionGroup, GrabState, cancel_timer
from .job import TIMED_OUT, Job

__all__ = ["ExecutionListener", "JobRunner"]

_log = Logger()

MAX_CANCELS: Final = 500
"""Functions that are cancelled in one turn of the reactor."""


class ExecutionListener(Interface):
    """Learns what happens to a job that did not end at once.

    Each method gets the state of the connection that the job came on.
    """

    def function_ended(self, state: GrabState) -> None:
        """Handle the end of the function, so that its slot is free."""

    def job_timed_out(self, state: GrabState) -> None:
        """Handle a job that was ended because it took too long. The function still runs, and keeps the slot."""


class JobRunner:
    """Runs jobs, and sends their outcomes.

    :ivar running: the jobs whose functions take time, each with the state of its connection and the function.
    :param reactor: for time-outs and threads.
    :param format_exception: makes the data that is sent of an exception; None fails the job without an exception.
    :param listener: learns the end of functions that take time.
    """

    def __init__(
        self, reactor: Reactor, format_exception: Callable[[Failure], bytes | None], listener: ExecutionListener
    ) -> None:
        self.running: dict[Job, tuple[GrabState, Function]] = {}
        self._reactor = reactor
        self._format_exception = format_exception
        self._listener = listener
        # How many running jobs await each Deferred: a function may return the same one for several.
        self._awaiting: dict[Deferred[object], int] = {}
        # Jobs that were abandoned, and whose functions are to be cancelled.
        self._to_cancel: deque[Job] = deque()
        self._cancelling = False
        self._cancel_call: IDelayedCall | None = None
        self._cancelled: Waiters[None] = Waiters()

    def run_job(self, job: Job, function: Function, state: GrabState) -> bool:
        """Start the function of a job.

        :param state: of the connection that the job came on.
        :return: whether the function has ended. If not, the listener learns its end.
        """
        timeout = function.timeout
        if timeout is not None:
            self.running[job] = state, function
            job._timer = self._reactor.callLater(timeout, self._time_out, job, timeout)
        try:
            result = function.start(job, self._reactor)
        except BaseException:  # as in a Deferred: whatever it raises is the outcome of the job
            result = Failure()
        # The usual case first: to find that bytes are no Deferred, whose class is an ABC, takes as long as all of this.
        if type(result) is not bytes and isinstance(result, Deferred):
            self.running[job] = state, function
            result.addBoth(self._deferred_fired, job)
            if job in self.running:
                job._deferred = result
                self._awaiting[result] = self._awaiting.get(result, 0) + 1
                return False
            return True
        if timeout is not None:
            self._forget(job)
        self._report(job, result)
        return True

    def abandon(self, jobs: Iterable[Job], reason: str) -> None:
        """End jobs without a packet, and cancel their functions. All have ended before the first is cancelled.

        Many are cancelled in several turns of the reactor: a canceller is the author's code.

        :param reason: why, for people.
        """
        for job in jobs:
            job._close(reason)
            self._stop_timer(job)
            self._to_cancel.append(job)
        if self._cancel_call is None and not self._cancelling:
            self._cancel_some()

    def when_cancelled(self) -> Deferred[None]:
        """Return a Deferred that fires when all functions of abandoned jobs have been cancelled."""
        return self._cancelled.wait() if self._to_cancel or self._cancelling else succeed(None)

    def abandon_all(self, group: FunctionGroup, reason: str) -> None:
        """Abandon all jobs of a group but those whose functions run in threads, which can't be cancelled."""
        running = self.running.items()
        self.abandon(
            [job for job, (state, function) in running if state.group is group and not function.threaded], reason
        )

    # The end of a function.

    def _deferred_fired(self, result: object, job: Job) -> object:
        """Handle the result of a function's Deferred.

        :return: the result, for other uses of the Deferred. A failure is handled here.
        """
        at_once = job._deferred is None
        state, _ = self.running[job]
        shared = self._forget(job) > 0
        self._report(job, result)
        if not at_once:  # else `run_job` returns it
            self._listener.function_ended(state)
        return None if isinstance(result, Failure) and not shared else result

    def _forget(self, job: Job) -> int:
        """Forget a job whose function has ended.

        :return: how many other running jobs await the same Deferred.
        """
        del self.running[job]
        if job._timer is not None:
            self._stop_timer(job)
        deferred = job._deferred
        if deferred is None:
            return 0
        job._deferred = None
        others = self._awaiting.pop(deferred) - 1
        if others:
            self._awaiting[deferred] = others
        return others

    def _stop_timer(self, job: Job) -> None:
        cancel_timer(job._timer)
        job._timer = None

    # The outcome of a job.

    def _report(self, job: Job, result: object) -> None:
        """Send what a function returned, unless its job has ended before."""
        if type(result) is not bytes and isinstance(result, Failure):
            self._report_failure(job, result)
        elif not job.ended:
            try:
                job.complete(b"" if result is None else result)  # type: ignore[arg-type]  # it checks its argument
            except JobEnded:
                pass  # a thread was faster
            except Exception:  # it is no result
                self._report_failure(job, Failure())

    def _report_failure(self, job: Job, failure: Failure) -> None:
        if job.ended:
            if not failure.check(CancelledError):
                _log_failure("{job}: after its end ({ended})", job, failure, ended=job.ended)
        elif failure.check(JobFailed):
            _log.info("{job}: {reason}", **_failed_fields(job, failure))
            with suppress(JobEnded):  # a thread was faster
                job.fail()
        elif failure.check(WorkloadInvalid):
            _log.warn("{job} failed: {reason}", **_failed_fields(job, failure))
            self._send_exception(job, failure)
        else:
            _log_failure("{job} failed", job, failure)
            self._send_exception(job, failure)

    def _send_exception(self, job: Job, failure: Failure) -> None:
        try:
            data = self._format_exception(failure)
            if data is None:
                job.fail()
            else:
                job.send_exception(data)
        except JobEnded:
            pass  # a thread was faster
        except BaseException:  # it is the user's formatter; the job must have an end all the same
            _log.failure("format_exception failed", for_log(Failure()))
            assert failure.type is not None
            with suppress(JobEnded):
                job.send_exception(failure.type.__name__.encode())  # the text may be what it was to hide

    # What ends a job early.

    def _time_out(self, job: Job, seconds: float) -> None:
        job._timer = None
        in_time = bool(job.ended)
        if not in_time:
            failure = Failure(TimeoutError(f"it took longer than {seconds} seconds"))
            _log.warn("{job} took longer than {seconds} seconds", seconds=seconds, **_failed_fields(job, failure))
            self._send_exception(job, failure)
            job._close(TIMED_OUT)
        self._cancel(job)
        if not in_time and job in self.running:
            self._listener.job_timed_out(self.running[job][0])

    def _cancel_some(self) -> None:
        """Cancel as many functions as one turn of the reactor may take."""
        self._cancel_call = None
        self._cancelling = True
        for _ in range(MAX_CANCELS):
            if self._to_cancel:
                self._cancel(self._to_cancel.popleft())
        self._cancelling = False
        if self._to_cancel:
            self._cancel_call = self._reactor.callLater(0, self._cancel_some)
        else:
            self._cancelled.fire(None)

    def _cancel(self, job: Job) -> None:
        # A thread can't be cancelled, and keeps its slot until it ends; so does a job whose Deferred is shared.
        deferred = job._deferred
        if deferred is None or self._awaiting[deferred] > 1 or self.running[job][1].threaded:
            return
        try:
            deferred.cancel()
        except BaseException:  # it is the author's canceller, after which Twisted leaves the Deferred as it is
            _log_failure("{job}: its Deferred can't be cancelled", job, Failure())
            if not deferred.called:
                deferred.errback(CancelledError())


def _failed_fields(job: Job, failure: Failure) -> Fields:
    """Return the fields of an event about a job that failed."""
    assert failure.type is not None
    reason = short_text(failure.getErrorMessage(), MAX_REASON)
    return {"job": str(job), "error": failure.type.__name__, "reason": reason, **job_fields(job)}


def _log_failure(text: str, job: Job, failure: Failure, **others: str) -> None:
    """Log what a job's function has raised, with its traceback."""
    _log.failure(text, for_log(failure), LogLevel.critical, **_failed_fields(job, failure), **others)
