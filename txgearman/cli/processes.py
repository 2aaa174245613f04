"""Programs with pipes to their standard streams, in process groups of their own, in the reactor and without threads.

They are started by `subprocess.Popen`, which has an option for a new session, forks without copying the tables of
memory (vfork), and raises the error if a program can't be started. `reactor.spawnProcess` has no such option. A run of
``true`` takes about 1.9 ms of CPU time; with ``setsid(1)`` as a program in between 3.5 ms; with a subclass of Twisted's
``Process``, which must fork, 14 ms. PR_SET_PDEATHSIG would take 1.6 ms more by ``setpriv(1)``, or such a fork. (Medians
of 1,000 runs; Python 3.11, Twisted 26.10, Linux.)
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, Final
from typing import Protocol as Interface

from twisted.internet.interfaces import IReadDescriptor, IWriteDescriptor
from twisted.internet.process import reapProcessHandlers
from twisted.python.failure import Failure
from zope.interface import implementer

from .terminal import child_groups, child_start

__all__ = ["InputPipe", "OutputPipe", "ProcessListener", "RunningProcess"]

READ_SIZE: Final = 64 * 1024
"""Bytes to read at a time: what a pipe holds."""


class ProcessListener(Interface):
    """Learns what a program writes, and its end."""

    def output_received(self, data: bytes) -> None:
        """Handle what the program has written to its standard output."""

    def errors_received(self, data: bytes) -> None:
        """Handle what the program has written to its standard error."""

    def process_ended(self, code: int) -> None:
        """Handle the end of the program: it has exited, and no process can write to its outputs any more.

        :param code: its exit code, or the negative number of the signal that has ended it.
        """


class RunningProcess:
    """A program that runs.

    It ends once it has exited and its standard output and standard error are closed, also by processes that it has
    started. Then whatever is left of its process group is killed.

    :ivar pid: its process ID, which is that of the group.
    :param arguments: the program, which is looked for in ``PATH``, and its arguments.
    :param stdin: what is written to its standard input, as fast as the program reads it.
    :raises OSError: it can't be started.
    """

    def __init__(
        self,
        reactor: Any,
        arguments: Sequence[str],
        environment: Mapping[bytes, bytes],
        stdin: bytes,
        listener: ProcessListener,
    ) -> None:
        self._reactor = reactor
        self._listener: ProcessListener | None = listener
        with child_start:
            process = subprocess.Popen(  # noqa: S603  # running the user's command is the purpose
                arguments,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C does not reach it, and it can be killed together with its children
                env=environment,
            )
            child_groups.add(process.pid)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self.pid = process.pid
        self._exited = False
        # Not registerReapProcessHandler(), which reaps a program that has exited: its ID, which is that of the group,
        # could then be given to another program before the group is killed.
        reapProcessHandlers[process.pid] = self  # type: ignore[assignment]  # it has what Twisted calls
        self._input = InputPipe(reactor, process.stdin, stdin)
        self._output = OutputPipe(reactor, process.stdout, listener.output_received, self._end_if_done)
        self._errors = OutputPipe(reactor, process.stderr, listener.errors_received, self._end_if_done)

    def pause_output(self) -> None:
        """Read no more of the standard output, so that the program has to wait once the pipe is full."""
        self._output.pause()

    def resume_output(self) -> None:
        """Read the standard output again."""
        self._output.resume()

    def kill(self) -> None:
        """Kill the process group, unless the program has ended. The listener learns nothing more."""
        if self._listener is not None:
            self._listener = None
            self._release()

    def reapProcess(self) -> None:  # noqa: N802  # Twisted's name
        """Look whether the program has exited. Twisted calls this for each program, after each SIGCHLD."""
        if not self._exited and self._has_exited():
            self._exited = True
            if self._listener is None:
                self._reap()
            else:
                self._end_if_done()

    def _has_exited(self) -> bool:
        """Return whether the program has exited, without reaping it."""
        if not hasattr(os, "waitid"):  # macOS, in older versions of Python
            return self._process.poll() is not None
        with suppress(ChildProcessError):  # another part of this program has reaped it
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        return True

    def _end_if_done(self) -> None:
        listener = self._listener
        if listener is not None and self._exited and self._output.closed and self._errors.closed:
            self._listener = None
            self._release()
            listener.process_ended(self._process.returncode)

    def _release(self) -> None:
        """Kill what is left of the process group, and close the pipes."""
        with suppress(ProcessLookupError, PermissionError):  # only zombies are left; the latter is macOS's error
            os.killpg(self.pid, signal.SIGKILL)
        for pipe in (self._input, self._output, self._errors):
            pipe.close()
        if self._exited:
            self._reap()

    def _reap(self) -> None:
        reapProcessHandlers.pop(self.pid, None)
        child_groups.discard(self.pid)
        self._process.wait()


class _Pipe:
    """The end of a pipe that this program has."""

    def __init__(self, reactor: Any, file: IO[bytes]) -> None:
        self._reactor = reactor
        self._file = file
        os.set_blocking(file.fileno(), False)

    @property
    def closed(self) -> bool:
        return self._file.closed

    def fileno(self) -> int:
        return -1 if self._file.closed else self._file.fileno()

    def logPrefix(self) -> str:  # noqa: N802  # Twisted's name
        return type(self).__name__

    def connectionLost(self, reason: Failure) -> None:  # Twisted's name
        """Handle the close of the other end, or an error that a method has raised."""
        self._end()

    def _end(self) -> None:
        self.close()

    def close(self) -> None:
        if not self._file.closed:
            self._stop()
            self._file.close()

    def _stop(self) -> None:
        """Have the reactor stop watching the pipe. Each kind of pipe overrides this."""


@implementer(IWriteDescriptor)
class InputPipe(_Pipe):
    """Writes data to a pipe, and closes it."""

    def __init__(self, reactor: Any, file: IO[bytes], data: bytes) -> None:
        super().__init__(reactor, file)
        self._rest = memoryview(data)
        self.doWrite()
        if not self.closed:
            reactor.addWriter(self)

    def doWrite(self) -> None:  # noqa: N802  # Twisted's name
        try:
            self._rest = self._rest[os.write(self.fileno(), self._rest) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # the program need not read all of it
            self._rest = self._rest[:0]
        if not self._rest:
            self._end()

    def _stop(self) -> None:
        self._reactor.removeWriter(self)


@implementer(IReadDescriptor)
class OutputPipe(_Pipe):
    """Reads a pipe to its end.

    :param received: called with what was read.
    :param ended: called after all have closed the other end.
    """

    def __init__(
        self, reactor: Any, file: IO[bytes], received: Callable[[bytes], None], ended: Callable[[], None]
    ) -> None:
        super().__init__(reactor, file)
        self._received = received
        self._ended = ended
        reactor.addReader(self)

    def pause(self) -> None:
        self._reactor.removeReader(self)

    def resume(self) -> None:
        if not self.closed:
            self._reactor.addReader(self)

    def doRead(self) -> None:  # noqa: N802  # Twisted's name
        try:
            data = os.read(self.fileno(), READ_SIZE)
        except BlockingIOError:
            return
        if data:
            self._received(data)
        else:
            self._end()

    def _end(self) -> None:
        self.close()
        self._ended()

    def _stop(self) -> None:
        self._reactor.removeReader(self)
