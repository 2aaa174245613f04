"""``txgearman work``: a worker whose jobs run a program, or call Python functions."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

import click
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from ..errors import JobEnded, JobFailed
from ..worker.job import Job
from ..worker.worker import DRAIN_TIMEOUT, GearmanWorker
from .exit_codes import ExitCode
from .options import Servers
from .reactor_loop import usage_errors
from .terminal import Terminal, child_groups, run_in_thread

__all__ = ["ProgramRunner", "WorkerSettings", "import_function", "work"]

_log = Logger()


@dataclass(frozen=True)
class WorkerSettings:
    """The worker that the command line asks for.

    :ivar functions: callables, by the names of the functions.
    :ivar jobs: maximum number of jobs that run at a time.
    :ivar count: number of jobs after which the worker exits; None for no limit.
    :ivar timeout: seconds until a job is stopped; None disables it.
    :ivar threaded: whether the callables run in threads.
    :ivar drain_timeout: seconds that running jobs have to finish on exit.
    """

    functions: dict[bytes, Callable[[Job], Any]]
    servers: Servers
    jobs: int = 1
    count: int | None = None
    timeout: float | None = None
    threaded: bool = False
    client_id: bytes = b""
    drain_timeout: float = DRAIN_TIMEOUT


def import_function(name: str) -> Callable[[Job], Any]:
    """Import the callable of a name such as ``package.module:callable``, also from the current directory.

    :raises click.UsageError: the name is invalid, or its module or attribute does not exist or is not callable.
    """
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise click.UsageError(f"function must be package.module:callable, not {name!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except (ImportError, AttributeError) as error:
        raise click.UsageError(f"can't import {name}: {error}") from error
    if not callable(found):
        raise click.UsageError(f"{name} is not callable")
    function: Callable[[Job], Any] = found
    return function


async def work(terminal: Terminal, settings: WorkerSettings) -> ExitCode:
    """Run a worker until a signal, or until it has run `settings.count` jobs. Running jobs may finish."""
    counter = _JobCounter(settings.count)
    worker = _make_worker(terminal, settings, counter)
    async with worker:
        try:
            await counter.reached
        finally:
            running = sum(server.in_flight for server in worker.servers)
            if running:
                _log.info("waiting for running jobs: {running}; another signal exits at once", running=running)
    return ExitCode.DONE


def _make_worker(terminal: Terminal, settings: WorkerSettings, counter: _JobCounter) -> GearmanWorker:
    with usage_errors():
        worker = GearmanWorker(
            settings.servers.addresses,
            prefix=settings.servers.prefix,
            client_id=settings.client_id,
            max_jobs=settings.jobs if settings.count is None else min(settings.jobs, settings.count),
            reactor=terminal.reactor,
            drain_timeout=settings.drain_timeout,
            connect_timeout=settings.servers.connect_timeout,
            tls=settings.servers.tls_options(),
        )
        for name, function in settings.functions.items():
            worker.register_function(
                name,
                counter.count_calls(function),
                timeout=settings.timeout,
                threaded=settings.threaded,
                max_jobs=None,
            )
    return worker


class _JobCounter:
    """Counts jobs as they start.

    :ivar reached: fires when as many jobs as wanted have started; never, if their number is not limited.
    """

    def __init__(self, count: int | None) -> None:
        self._left = count
        self.reached: Deferred[None] = Deferred()

    def count_calls(self, function: Callable[[Job], Any]) -> Callable[[Job], Any]:
        """Return a function that counts the calls of the given one."""
        return function if self._left is None else lambda job: self._call(function, job)

    def _call(self, function: Callable[[Job], Any], job: Job) -> Any:
        assert self._left is not None
        self._left -= 1
        if self._left == 0:  # negative if the server had assigned another job already: that one is run as well
            self.reached.callback(None)
        return function(job)


class ProgramRunner:
    """Runs a program for each job: the workload is its standard input, its standard output is the result."""

    def __init__(self, command: Sequence[str], *, lines: bool, exceptions: bool) -> None:
        """
        :param lines: send each line of the output as WORK_DATA, as soon as it is written.
        :param exceptions: if the program fails, send its standard error as WORK_EXCEPTION, instead of WORK_WARNING
            followed by WORK_FAIL.
        """
        self._command = list(command)
        self._lines = lines
        self._exceptions = exceptions

    async def __call__(self, job: Job) -> bytes:
        try:
            process = self._start(job)  # not in a thread: a cancel could come before the process to kill is known
        except OSError as error:
            raise JobFailed(f"can't run {self._command[0]}: {error.strerror}") from error
        child_groups.add(process.pid)
        try:
            output, errors, _ = await gatherResults(
                [
                    _in_thread(self._send_lines if self._lines else _read_output, process.stdout, job),
                    _in_thread(_read_output, process.stderr),
                    _in_thread(_write_input, process.stdin, job.workload),
                ],
                consumeErrors=True,
            )
            code = await _in_thread(process.wait)
        finally:
            _kill(process)
            child_groups.discard(process.pid)
        if code:
            self._report_failure(job, code, errors)
        elif errors:
            job.send_warning(errors)
        return bytes(output)

    def _start(self, job: Job) -> Any:
        # In a session of its own: Ctrl-C does not reach it, and it can be killed together with its children.
        return subprocess.Popen(  # noqa: S603  # running the user's command is the purpose
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=os.environ | _job_environment(job),
        )

    def _send_lines(self, output: IO[bytes], job: Job) -> bytes:
        """Send each line of the output as soon as it is written. Runs in a thread."""
        with output, suppress(JobEnded):  # the program is then being killed
            for line in output:
                job.send_data(line)
        return b""

    def _report_failure(self, job: Job, code: int, errors: bytes) -> None:
        if self._exceptions:
            job.send_exception(errors)
            return
        if errors:
            job.send_warning(errors)
        raise JobFailed(f"{self._command[0]} exited with {code}")


def _in_thread(call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
    from twisted.internet import reactor

    return run_in_thread(reactor, call, *arguments)


def _job_environment(job: Job) -> dict[str, str]:
    """Return the environment variables that describe a job."""
    function = job.function.encode() if isinstance(job.function, str) else job.function
    values = {"FUNCTION": function, "HANDLE": str(job.handle).encode(), "UNIQUE": job.unique}
    return {f"GEARMAN_{name}": os.fsdecode(value) for name, value in values.items()}


def _read_output(output: IO[bytes], _: object = None) -> bytes:
    """Read an output of the program to its end. Runs in a thread."""
    with output:
        return output.read()


def _write_input(stdin: IO[bytes], workload: bytes) -> None:
    """Write the standard input of the program. Runs in a thread."""
    with suppress(BrokenPipeError), stdin:  # the program may exit without reading all of it
        stdin.write(workload)


def _kill(process: Any) -> None:
    """Kill the program and its children, unless the program has exited."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
