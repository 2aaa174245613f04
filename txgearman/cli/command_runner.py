"""Runs a command for each job: the workload is its standard input, its standard output is the result."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final
from typing import Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ..errors import JobFailed
from ..validation import short_text
from ..worker.job import Job
from .processes import ProcessListener, RunningProcess

__all__ = ["CommandListener", "CommandRunner"]

_log = Logger()

MAX_LOGGED: Final = 200
"""Characters of a failed command's last line of errors that are logged."""

MAX_ERRORS: Final = 64 * 1024
"""Bytes of standard error that are kept, of its end."""

MAX_LINE: Final = 1024 * 1024
"""Bytes of a line that are kept until its end has come; longer ones are sent in parts."""


class CommandListener(Interface):
    """Learns what happens to the commands of jobs."""

    def data_sent(self, job: Job, size: int) -> None:
        """Record that so many bytes were sent as data of the job, before its result."""

    def command_not_started(self, job: Job, error: OSError) -> None:
        """Handle a command that could not be started. Its job has no outcome: another worker is to get it."""


class _NoListener:
    """A listener that does nothing."""

    def data_sent(self, job: Job, size: int) -> None:
        pass

    def command_not_started(self, job: Job, error: OSError) -> None:
        pass


class CommandRunner:
    """A function for a worker that runs a command, without a shell, in the reactor.

    The environment variables GEARMAN_FUNCTION, GEARMAN_HANDLE and GEARMAN_UNIQUE describe the job. If the command exits
    with another code than 0, or a signal ends it, the job fails. Its standard error is sent as a warning. Once the job
    has ended, for whatever reason, all processes of the command's group are killed.

    :ivar program: the command's name.
    :ivar listener: learns what happens to the commands. The other attributes are the arguments of the constructor.
    :param lines: send each line of the output as WORK_DATA, as soon as it is written and the server takes it.
    :param exceptions: if the command fails, send its standard error as WORK_EXCEPTION, instead of WORK_WARNING
        followed by WORK_FAIL.
    :param max_output: maximum number of bytes of a result; beyond it the job fails. No limit for `lines`.
    :param hidden: environment variables of this program that the command does not get.
    """

    def __init__(
        self,
        reactor: Any,
        command: Sequence[str],
        *,
        lines: bool,
        exceptions: bool,
        max_output: int,
        hidden: Collection[str] = (),
    ) -> None:
        self.program = command[0]
        self.listener: CommandListener = _NoListener()
        self.reactor = reactor
        self.command = command
        self.lines = lines
        self.exceptions = exceptions
        self.max_output = max_output
        self._environment = {name: value for name, value in os.environb.items() if os.fsdecode(name) not in hidden}

    def __call__(self, job: Job) -> Deferred[bytes]:
        """Start the command for a job.

        :return: fires with the result; fails with `JobFailed`. Cancelling kills the command with its children. If the
            command can't be started, it does not fire by itself.
        """
        run = _CommandRun(self, job)
        try:
            run.start(self._environment | _job_environment(job))
        except OSError as error:
            self.listener.command_not_started(job, error)
        return run.ended


def _job_environment(job: Job) -> dict[bytes, bytes]:
    """Return the environment variables that describe a job."""
    function = job.function.encode() if isinstance(job.function, str) else job.function
    return {
        b"GEARMAN_FUNCTION": function,
        b"GEARMAN_HANDLE": str(job.handle).encode(),
        b"GEARMAN_UNIQUE": job.unique,
    }


class _CommandRun(ProcessListener):
    """The command of one job.

    :ivar ended: fires with the result of the job.
    """

    def __init__(self, runner: CommandRunner, job: Job) -> None:
        self.ended: Deferred[bytes] = Deferred(self._cancelled)
        self._runner = runner
        self._job = job
        self._process: RunningProcess | None = None
        self._output = _Lines(self._send_data) if runner.lines else _Result(runner.max_output)
        self._errors = _Tail()

    def start(self, environment: dict[bytes, bytes]) -> None:
        """Start the command. Raises OSError."""
        runner = self._runner
        self._process = RunningProcess(runner.reactor, runner.command, environment, self._job.workload, self)

    def _cancelled(self, _: Deferred[bytes]) -> None:
        if self._process is not None:
            self._process.kill()

    def output_received(self, data: bytes) -> None:
        if self._job.ended:  # the command is about to be killed
            return
        assert self._process is not None
        if not self._output.add(data):
            self._process.kill()
            reason = f"wrote more than {self._runner.max_output} bytes to its standard output"
            self._fail(reason, f"{self._runner.program} {reason}".encode())
            return
        drained = self._job.when_drained()
        if not drained.called:
            self._process.pause_output()
            drained.addCallback(lambda _: self._resume())

    def _resume(self) -> None:
        assert self._process is not None
        self._process.resume_output()

    def _send_data(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            self._job.send_data(line)
        self._runner.listener.data_sent(self._job, sum(map(len, lines)))

    def errors_received(self, data: bytes) -> None:
        self._errors.add(data)

    def process_ended(self, code: int) -> None:
        if self._job.ended:  # its function is about to be cancelled
            self.ended.callback(b"")
        else:
            self._end(code, self._output.end(), self._errors.content())

    def _end(self, code: int, result: bytes, errors: bytes) -> None:
        if code:
            self._fail(_describe_end(code), errors, _last_line(errors))
            return
        if errors:
            self._job.send_warning(errors)
        self.ended.callback(result)

    def _fail(self, reason: str, errors: bytes, detail: str = "") -> None:
        """Fail the job.

        :param errors: what is sent about it. Of a background job, nobody gets it.
        :param detail: of the errors, for the log.
        """
        program = self._runner.program
        if self._runner.exceptions:
            text = f"{program} {reason}{detail}"
            _log.info("{job}: {text}", job=str(self._job), text=text)
            self._job.send_exception(errors or f"{program} {reason}".encode())
            self.ended.callback(b"")
            return
        if errors:
            self._job.send_warning(errors)
        self.ended.errback(JobFailed(f"{program} {reason}{detail}"))


def _last_line(errors: bytes) -> str:
    """Return the last line of a program's errors, to be appended to how it ended; empty if there is none."""
    line = errors.rstrip().rpartition(b"\n")[2]
    return f": {short_text(line, MAX_LOGGED)}" if line else ""


def _describe_end(code: int) -> str:
    """Return how a program ended, for people."""
    if code > 0:
        return f"exited with {code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"was ended by {names.get(-code, f'signal {-code}')}"


class _Result:
    """Output that is the result of a job."""

    def __init__(self, limit: int) -> None:
        self._chunks: list[bytes] = []
        self._left = limit

    def add(self, data: bytes) -> bool:
        """Keep what the command has written; return whether it is within the limit."""
        self._chunks.append(data)
        self._left -= len(data)
        return self._left >= 0

    def end(self) -> bytes:
        """Return the result."""
        return b"".join(self._chunks)


class _Lines:
    """Output that is sent line by line."""

    def __init__(self, send: Callable[[Sequence[bytes]], None]) -> None:
        self._send = send
        self._parts: list[bytes] = []  # of a line whose end has not come
        self._size = 0

    def add(self, data: bytes) -> bool:
        """Send the lines that are complete."""
        *lines, rest = data.split(b"\n")
        if lines:
            first = b"".join([*self._parts, lines[0]])
            self._parts.clear()
            self._size = 0
            self._send([line + b"\n" for line in (first, *lines[1:])])
        self._parts.append(rest)
        self._size += len(rest)
        if self._size > MAX_LINE:
            self._send_rest()
        return True

    def end(self) -> bytes:
        """Send a last line that has no end; return the result, which is empty."""
        if self._size:
            self._send_rest()
        return b""

    def _send_rest(self) -> None:
        self._send([b"".join(self._parts)])
        self._parts.clear()
        self._size = 0


class _Tail:
    """The end of what a command has written to its standard error."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._left_out = 0

    def add(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > 2 * MAX_ERRORS:
            self._cut()

    def _cut(self) -> None:
        extra = max(0, len(self._data) - MAX_ERRORS)
        del self._data[:extra]
        self._left_out += extra

    def content(self) -> bytes:
        """Return the end of the errors, and before it how much was left out."""
        self._cut()
        note = b"(%d bytes before this were left out)\n" % self._left_out if self._left_out else b""
        return note + bytes(self._data)
