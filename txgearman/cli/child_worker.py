"""The side of a child in ``txgearman work --processes``: it drains when its parent ends, and reports its worker."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from ..connection.pool import ServerInfo, ServerState
from ..errors import ClientStopped, NoServersAvailable
from ..observers import PROCESS_OBSERVERS, JobOutcome, ObservedJob
from ..worker.worker import GearmanWorker
from .child_status import ChildOptions, ChildStatus
from .exit_codes import ExitCode
from .terminal import kill_child_groups
from .worker_run import EXIT_DELAY

if TYPE_CHECKING:
    from ..metrics import PrometheusObserver

__all__ = [
    "StatusReporter",
    "allow_stack_dumps",
    "await_end_of_parent",
    "child_observers",
    "follow_parent",
    "status_reports",
]

REPORT_INTERVAL: Final = 1.0
"""Seconds between two reports."""

PR_SET_PDEATHSIG: Final = 1
"""Of ``linux/prctl.h``."""


def allow_stack_dumps() -> None:
    """Have SIGUSR1 write the stacks of all threads to standard error, also while a function blocks the reactor."""
    # A handler in Python first, so that the rest of the program sees that the signal has one.
    signal.signal(signal.SIGUSR1, _ignore)
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def _ignore(*_: object) -> None:
    """Do nothing: unlike SIG_IGN, programs that are started do not inherit it."""


def follow_parent(options: ChildOptions, drain_timeout: float) -> None:
    """Drain when the parent wants it, or has ended, whatever ends it. To be called before code of others is imported.

    Before this program has handlers for signals, it is ended at once.
    """
    allow_stack_dumps()
    for number in (options.control, options.status):
        os.set_inheritable(number, False)
    os.set_blocking(options.status, False)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it may be ignored, as by nohup
    signal.signal(signal.SIGUSR2, _ignore)  # which its parent has ignored for the time of the start
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # it is a pipe, and its lines are log
    threading.Thread(target=await_end_of_parent, args=(options.control, drain_timeout), daemon=True).start()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library; the pipe does the same
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGHUP)
    if options.metrics:
        from .shared_metrics import ChildMetrics  # it needs an extra, which the parent has

        ChildMetrics(options.metrics, options.place, options.name, options.parent)
    if os.getppid() != options.parent:
        os.kill(os.getpid(), signal.SIGHUP)


def await_end_of_parent(control: int, drain_timeout: float) -> None:
    """Wait for the end of the parent's pipe; then have this program drain, and end it if it does not.

    It is called in a thread, since a function may block the reactor. SIGHUP has its effect only once.
    """
    while os.read(control, 1):
        pass
    os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(drain_timeout + 2 * EXIT_DELAY)  # the reactor, or the handler of the signal, does so before
    kill_child_groups()
    os._exit(ExitCode.FAILED)


def child_observers(options: ChildOptions | None) -> list[PrometheusObserver]:
    """Return observers for the metrics of a child's worker; none if there are no metrics, or if this is no child."""
    if options is None or not options.metrics:
        return []
    from prometheus_client import CollectorRegistry

    from ..metrics import PrometheusObserver

    return [PrometheusObserver(registry=CollectorRegistry())]


@contextmanager
def status_reports(reactor: Any, options: ChildOptions | None) -> Iterator[Callable[[GearmanWorker], object]]:
    """Observe the workers that are made while the block runs. It gets a callable, which begins to report one of them.

    :param options: None if this is no child; then nothing is done.
    """
    if options is None:
        yield lambda _: None
        return
    reporter = StatusReporter(reactor, options)
    PROCESS_OBSERVERS.append(reporter)
    try:
        yield reporter.start
    finally:
        PROCESS_OBSERVERS.remove(reporter)
        reporter.stop()


class StatusReporter:
    """Reports the worker of a child to its parent: each second, when it becomes ready, and when its first job starts.

    It is an observer of the worker.
    """

    def __init__(self, reactor: Any, options: ChildOptions) -> None:
        self._reactor = reactor
        self._descriptor = options.status
        self._each_job = options.count is not None
        self._job_limit = options.job_limit
        self._worker: GearmanWorker | None = None
        self._registered = False
        self._awaiting_ready = False
        self._running = 0
        self._ended = 0
        self._reported = ChildStatus()
        self._call: IDelayedCall | None = None

    def start(self, worker: GearmanWorker) -> None:
        """Begin to report a worker."""
        self._worker = worker
        self._await_ready()
        self._report_regularly()

    def stop(self) -> None:
        """Report the last state, and nothing later."""
        if self._call is not None:
            self._report()
            self._call.cancel()
            self._call = self._worker = None

    # What the worker reports.

    def server_changed(self, info: ServerInfo) -> None:
        """Report that a server became ready, or was lost."""
        self._await_ready()
        self._report()

    def _await_ready(self) -> None:
        """Once a server is ready, wait until all functions are registered."""
        if self._worker is None or self._registered or self._awaiting_ready:
            return
        if any(info.state is ServerState.READY for info in self._worker.servers):
            self._awaiting_ready = True
            self._worker.when_ready().addCallbacks(self._is_ready, self._is_not_ready)

    def _is_ready(self, _: None) -> None:
        self._registered = True
        self._report()

    def _is_not_ready(self, failure: Failure) -> None:
        failure.trap(NoServersAvailable, ClientStopped)
        self._awaiting_ready = False  # the next server that becomes ready is another chance

    def job_started(self, job: ObservedJob) -> None:
        self._running += 1
        if not self._reported.running:  # or else a job that blocks the reactor would look like a worker that hangs
            self._report()

    def job_finished(self, job: ObservedJob, outcome: JobOutcome, seconds: float) -> None:
        self._running -= 1
        if outcome == "lost":  # another worker gets it
            return
        self._ended += 1
        if self._each_job or self._ended == self._job_limit:
            self._report()

    # What is reported.

    def _report_regularly(self) -> None:
        self._report()
        self._call = self._reactor.callLater(REPORT_INTERVAL, self._report_regularly)

    def _report(self) -> None:
        if self._worker is None:
            return
        servers = self._worker.servers
        ready = sum(info.state is ServerState.READY for info in servers)
        self._reported = ChildStatus(
            ready=self._registered and ready > 0,
            running=self._running,
            ended=self._ended,
            servers_ready=ready,
            servers=len(servers),
            wants_successor=self._job_limit is not None and self._ended >= self._job_limit,
        )
        # If the pipe is full, the parent is stopped: a later report has all that this one has.
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(self._descriptor, self._reported.encode())
