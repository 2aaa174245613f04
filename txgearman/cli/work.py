"""``txgearman work``: does jobs, by a command or by Python functions."""

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
from .exit_codes import Exit
from .options import Servers
from .reactor_loop import usage
from .terminal import Terminal, children, in_thread

__all__ = ["Command", "Offer", "find", "work"]

_log = Logger()


@dataclass(frozen=True)
class Offer:
    """What is asked for on the command line.

    :ivar functions: what to call for the jobs of each name.
    :ivar count: jobs after which it ends; None: no end.
    """

    functions: dict[bytes, Callable[[Job], Any]]
    servers: Servers
    jobs: int = 1
    count: int | None = None
    timeout: float | None = None
    threaded: bool = False
    client_id: bytes = b""
    drain_timeout: float = DRAIN_TIMEOUT


def find(name: str) -> Callable[[Job], Any]:
    """The function of a name such as ``package.module:callable``. Modules in the current directory count.

    :raises click.UsageError: there is none.
    """
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise click.UsageError(f"{name!r} does not read like package.module:callable")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except (ImportError, AttributeError) as error:
        raise click.UsageError(f"no {name}: {error}") from error
    if not callable(found):
        raise click.UsageError(f"{name} is not callable")
    function: Callable[[Job], Any] = found
    return function


async def work(terminal: Terminal, offer: Offer) -> Exit:
    """Do jobs until a signal, or until there were as many as asked for. Those that run are let end."""
    counter = _Counter(offer.count)
    jobs = offer.jobs if offer.count is None else min(offer.jobs, offer.count)
    with usage():
        worker = GearmanWorker(
            offer.servers.addresses,
            prefix=offer.servers.prefix,
            client_id=offer.client_id,
            max_jobs=jobs,
            reactor=terminal.reactor,
            drain_timeout=offer.drain_timeout,
            connect_timeout=offer.servers.connect_timeout,
        )
        for name, function in offer.functions.items():
            worker.register_function(
                name, counter.counted(function), timeout=offer.timeout, threaded=offer.threaded, max_jobs=None
            )
    async with worker:
        try:
            await counter.reached
        finally:
            running = sum(server.in_flight for server in worker.servers)
            if running:
                _log.info("jobs that are let end: {running}; another signal ends them at once", running=running)
    return Exit.DONE


class _Counter:
    """Counts jobs that begin.

    :ivar reached: fires when there were enough.
    """

    def __init__(self, count: int | None) -> None:
        self._left = count
        self.reached: Deferred[None] = Deferred()

    def counted(self, function: Callable[[Job], Any]) -> Callable[[Job], Any]:
        """The function, with a count of its calls."""
        return function if self._left is None else lambda job: self._call(function, job)

    def _call(self, function: Callable[[Job], Any], job: Job) -> Any:
        assert self._left is not None
        self._left -= 1
        if self._left == 0:  # below that, a job was on its way; it is better done
            self.reached.callback(None)
        return function(job)


class Command:
    """Does each job by a program: the workload is its input, its output is the result."""

    def __init__(self, command: Sequence[str], lines: bool, exceptions: bool) -> None:
        """
        :param lines: send each line of the output as it comes, as WORK_DATA.
        :param exceptions: if the program fails, send what it wrote to its error output as WORK_EXCEPTION, rather than
            as WORK_WARNING before a WORK_FAIL.
        """
        self._command = list(command)
        self._lines = lines
        self._exceptions = exceptions

    async def __call__(self, job: Job) -> bytes:
        try:
            process = self._start(job)  # here, so that no cancel can come before it is known what is to be ended
        except OSError as error:
            raise JobFailed(f"can't run {self._command[0]}: {error.strerror}") from error
        children.add(process.pid)
        try:
            output, errors, _ = await gatherResults(
                [
                    _in_thread(self._pass_on if self._lines else _read, process.stdout, job),
                    _in_thread(_read, process.stderr),
                    _in_thread(_feed, process.stdin, job.workload),
                ],
                consumeErrors=True,
            )
            code = await _in_thread(process.wait)
        finally:
            _end(process)
            children.discard(process.pid)
        if code:
            self._fail(job, code, errors)
        elif errors:
            job.send_warning(errors)
        return bytes(output)

    def _start(self, job: Job) -> Any:
        # A session of its own: Ctrl-C is for us, and its children can be ended with it.
        return subprocess.Popen(  # noqa: S603  # to run what the user says is what this is for
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=os.environ | _variables(job),
        )

    def _pass_on(self, output: IO[bytes], job: Job) -> bytes:
        """In a thread: send the output as it comes, line by line."""
        with output, suppress(JobEnded):  # then the program is being ended, too
            for line in output:
                job.send_data(line)
        return b""

    def _fail(self, job: Job, code: int, errors: bytes) -> None:
        if self._exceptions:
            job.send_exception(errors)
            return
        if errors:
            job.send_warning(errors)
        raise JobFailed(f"{self._command[0]} exited with {code}")


def _in_thread(call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
    from twisted.internet import reactor

    return in_thread(reactor, call, *arguments)


def _variables(job: Job) -> dict[str, str]:
    function = job.function.encode() if isinstance(job.function, str) else job.function
    values = {"FUNCTION": function, "HANDLE": str(job.handle).encode(), "UNIQUE": job.unique}
    return {f"GEARMAN_{name}": os.fsdecode(value) for name, value in values.items()}


def _read(output: IO[bytes], _: object = None) -> bytes:
    """In a thread: read all that the program writes."""
    with output:
        return output.read()


def _feed(program: IO[bytes], workload: bytes) -> None:
    """In a thread: write the input of the program."""
    with suppress(BrokenPipeError), program:  # it may not care for the rest of its input
        program.write(workload)


def _end(process: Any) -> None:
    """End the program with its children, if it has not ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
