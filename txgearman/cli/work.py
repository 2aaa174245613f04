"""``txgearman work``: a worker whose jobs run a command, or call Python functions."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ..worker.job import Job
from ..worker.worker import DRAIN_TIMEOUT, GearmanWorker
from .child_status import METRICS_VARIABLE, ChildOptions
from .child_worker import child_observers, status_reports
from .exit_codes import ExitCode
from .job_tracker import JobTracker
from .options import Servers
from .reactor_loop import usage_errors
from .terminal import Terminal
from .worker_run import WorkerRun

if TYPE_CHECKING:
    from .command_runner import CommandRunner

__all__ = ["Command", "WorkerSettings", "import_function", "import_object", "work"]


@dataclass(frozen=True)
class Command:
    """A command that runs jobs.

    :ivar arguments: its name and its arguments.
    :ivar lines, exceptions, max_output: see `CommandRunner`.
    """

    arguments: Sequence[str]
    lines: bool
    exceptions: bool
    max_output: int


@dataclass(frozen=True)
class WorkerSettings:
    """The worker that the command line asks for.

    :ivar functions: what runs the jobs, by the names of the functions: a callable, or a command.
    :ivar jobs: maximum number of jobs that run at a time.
    :ivar count: number of jobs after which the worker exits; None for no limit.
    :ivar timeout: seconds until a job is stopped; None disables it.
    :ivar threaded: whether the callables run in threads.
    :ivar drain_timeout: seconds that running jobs have to finish on exit.
    :ivar verbose: whether to log a line for each job.
    :ivar http: ``[HOST:]PORT`` of the pages with metrics and health; None for no pages.
    :ivar child: options of a child of ``--processes``, which has no pages of its own; None if it is none.
    """

    functions: dict[bytes, Callable[[Job], object] | Command]
    servers: Servers
    jobs: int = 1
    count: int | None = None
    timeout: float | None = None
    threaded: bool = False
    client_id: bytes = b""
    drain_timeout: float = DRAIN_TIMEOUT
    verbose: bool = False
    http: str | None = None
    child: ChildOptions | None = None


def import_function(name: str) -> Callable[[Job], object]:
    """Import the callable of a name such as ``package.module:callable``, also from the current directory.

    :raises click.UsageError: the name is invalid, or its module or attribute does not exist or is not callable.
    """
    found = import_object("function", name, "callable")
    if not callable(found):
        raise click.UsageError(f"{name} is not callable")
    function: Callable[[Job], object] = found
    return function


def import_object(argument: str, name: str, kind: str = "worker") -> object:
    """Import what has a name such as ``package.module:name``, also from the current directory.

    :param argument: of the command line, for the error, like `kind`.
    :raises click.UsageError: the name is invalid, or its module or attribute does not exist.
    """
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise click.UsageError(f"{argument} must be package.module:{kind}, not {name!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise click.UsageError(f"can't import {name}: {error}") from error
    return found


async def work(terminal: Terminal, settings: WorkerSettings) -> ExitCode:
    """Run a worker until a signal, or until it has run `settings.count` jobs. Running jobs may finish."""
    commands = [function for function in settings.functions.values() if isinstance(function, Command)]
    for command in commands:
        if shutil.which(command.arguments[0]) is None:
            raise click.UsageError(f"can't find the command {command.arguments[0]!r}, or it is not executable")
    async with AsyncExitStack() as stack:
        start_reports = stack.enter_context(status_reports(terminal.reactor, settings.child))
        health = None
        observers = child_observers(settings.child)
        if settings.http is not None:
            from .health import HealthServer  # it needs an extra

            health = HealthServer(settings.http)
        worker = _make_worker(terminal, settings, observers if health is None else health.observers)
        for observer in observers:
            observer.watch(worker)
        run = _prepare_run(terminal, settings, worker)
        if health is not None:
            await stack.enter_async_context(health.serving(terminal, worker, own=True))
        start_reports(worker)
        return await run.run()


def _prepare_run(terminal: Terminal, settings: WorkerSettings, worker: GearmanWorker) -> WorkerRun:
    """Register the functions of a worker, and return a run of it."""
    tracker = JobTracker(terminal.reactor, threaded=settings.threaded, verbose=settings.verbose)
    is_child = settings.child is not None
    run = WorkerRun(terminal, worker, tracker, drain_timeout=settings.drain_timeout, is_child=is_child)
    if settings.count is not None:
        countdown = _Countdown(settings.count, worker, run.stop, tracker.on_end)
        tracker.on_start, tracker.on_end = countdown.job_started, countdown.job_ended
    listener = _CommandWatch(terminal, tracker, run)
    hidden = [METRICS_VARIABLE] if settings.child is not None and settings.child.metrics else []
    with usage_errors():
        for name, function in settings.functions.items():
            call = _make_runner(terminal, function, listener, hidden) if isinstance(function, Command) else function
            worker.register_function(name, tracker.watch(call), timeout=settings.timeout, threaded=settings.threaded)
    return run


def _make_worker(terminal: Terminal, settings: WorkerSettings, observers: Iterable[object]) -> GearmanWorker:
    with usage_errors():
        return GearmanWorker(
            settings.servers.addresses,
            prefix=settings.servers.prefix,
            client_id=settings.client_id,
            max_jobs=settings.jobs if settings.count is None else min(settings.jobs, settings.count),
            reactor=terminal.reactor,
            drain_timeout=2 * settings.drain_timeout,  # the run of the worker ends the drain before
            connect_timeout=settings.servers.connect_timeout,
            tls=settings.servers.tls_options(),
            observers=observers,
        )


def _make_runner(
    terminal: Terminal, command: Command, listener: _CommandWatch, hidden: Collection[str]
) -> CommandRunner:
    from .command_runner import CommandRunner  # for POSIX alone

    runner = CommandRunner(
        terminal.reactor,
        command.arguments,
        lines=command.lines,
        exceptions=command.exceptions,
        max_output=command.max_output,
        hidden=hidden,
    )
    runner.listener = listener
    return runner


class _Countdown:
    """Counts jobs as they start, and stops the worker after as many as wanted.

    Before that, the worker never requests more jobs than are wanted: its server would assign each, and it would be run.
    """

    def __init__(
        self, count: int, worker: GearmanWorker, stop: Callable[[], None], job_ended: Callable[[], None]
    ) -> None:
        """Have `stop` called when so many jobs have started, and `job_ended` whenever one has ended."""
        self._left = count
        self._running = 0
        self._worker = worker
        self._stop = stop
        self._job_ended = job_ended

    def job_started(self) -> None:
        self._left -= 1
        self._running += 1
        if self._left <= 0:
            self._stop()

    def job_ended(self) -> None:
        """Lower the number of slots, of which the job still holds one, to the jobs that run or are wanted."""
        self._running -= 1
        if 0 < self._left + self._running < self._worker.max_jobs:
            self._worker.max_jobs = self._left + self._running
        self._job_ended()


class _CommandWatch:
    """Stops the worker if its command can't be started: all jobs would fail."""

    def __init__(self, terminal: Terminal, tracker: JobTracker, run: WorkerRun) -> None:
        self._terminal = terminal
        self._tracker = tracker
        self._run = run

    def data_sent(self, job: Job, size: int) -> None:
        self._tracker.data_sent(job, size)

    def command_not_started(self, job: Job, error: OSError) -> None:
        self._terminal.write_error(
            f"txgearman: can't run {error.filename}: {error.strerror}; stopping, and {job} goes to another worker"
        )
        self._run.return_job(job)
        self._terminal.reactor.callLater(0, self._run.stop, ExitCode.NOT_STARTED)
