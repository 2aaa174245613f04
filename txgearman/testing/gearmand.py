"""`Gearmand`: a real gearmand in a process of its own, for tests that run on `MemoryJobServer` as well."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from random import SystemRandom
from tempfile import gettempdir
from threading import Event, Thread
from typing import Any, Final, NoReturn, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred

from ..admin.admin import GearmanAdmin
from ..client.client import GearmanClient
from ..connection.reactor import reactor_or_default
from ..service import GearmanService
from ..worker.job import Job
from ..worker.worker import GearmanWorker
from .faults import Fault, FaultRegistry
from .ports import host_and_port

Service = TypeVar("Service", bound=GearmanService)

HOST: Final = "127.0.0.1"

PROGRAM: Final = "TXGEARMAN_GEARMAND"
"""The environment variable with the path of the gearmand to run, or its name on the PATH."""

_DIRECTORIES: Final = ("/usr/sbin", "/usr/local/sbin")
"""Where gearmand may be, though they are not on a plain user's PATH."""

_PORTS: Final = range(10_000, 32_000)
"""Ports that Linux gives to no program which asks for any port."""

_START_LIMIT: Final = 20.0
"""Seconds until gearmand must listen."""

_PATIENCE: Final = 1.0
"""Seconds until it is looked whether another program has the port."""

_ANSWER_LIMIT: Final = 10.0
"""Seconds until gearmand must answer a line of the text protocol."""

_ONE_LINE: Final = re.compile(rb"(?:OK|ERR|v\d)[^\n]*\n")
"""An answer that is not a table. Perl's server answers ``version`` with ``v1.130.1``."""

_MAX_LINES: Final = 1000
"""Lines of gearmand's log that are kept."""

_ATTEMPTS: Final = 10
"""Ports to try: another program may get one before gearmand listens on it."""


class GearmandMissing(Exception):
    """gearmand is not installed, or the program that ``TXGEARMAN_GEARMAND`` names is not there.

    :param program: the value of that environment variable.
    """

    def __init__(self, program: str = "") -> None:
        super().__init__(program)
        self._program = program

    def __str__(self) -> str:
        if self._program:
            return f"needs gearmand, and {PROGRAM} names no program: {self._program}"
        return (
            "needs gearmand, which is not installed: apt-get install gearman-job-server, or the package of your system"
        )


class _Process:
    """One run of gearmand.

    :ivar listens: whether it has begun to listen.
    :ivar lines: the last lines of its log.
    """

    def __init__(self, command: list[str], port: int) -> None:
        self.port = port
        self.command = [*command, f"--port={port}"]
        self.lines: deque[str] = deque(maxlen=_MAX_LINES)
        self.listens = False
        self._begun = Event()
        self._process = subprocess.Popen(  # noqa: S603  # the program that was found, with the options of a test
            self.command,
            cwd=gettempdir(),  # where it writes a file "stderr" if this process is killed, and the pipe is closed
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
        )
        self._reader = Thread(target=self._read, name="log of gearmand", daemon=True)
        self._reader.start()
        try:
            self._await_begin()
        finally:
            if not self.listens:
                self.kill()

    def _await_begin(self) -> None:
        end = time.monotonic() + _START_LIMIT
        while not self._begun.wait(_PATIENCE) and time.monotonic() < end:
            # gearmand tries again and again, without a word, while the port is another program's.
            if _is_used(self.port) and not self._begun.wait(_PATIENCE):
                return

    def _read(self) -> None:
        """Keep the lines of the log, up to the end of the process."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line.rstrip())
            if " Listening on " in line:
                self.listens = True
                self._begun.set()
        self._begun.set()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def stall(self) -> None:
        """Stop it where it is; when this returns, all of its threads have stopped."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)
            os.waitpid(self._process.pid, os.WUNTRACED)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it; when this returns, it is gone."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


class _Down(Fault):
    """The process was killed."""


class _Silence(Fault):
    """The process stands still."""


class _Interruptions(FaultRegistry):
    """What a test does to the process of gearmand.

    :ivar process: the process.
    """

    def __init__(self, reactor: Any, command: list[str]) -> None:
        super().__init__(reactor)
        self._command = command
        for _ in range(_ATTEMPTS):
            self.process = _Process(command, free_port())
            if self.process.listens:
                return
        raise self._not_started()

    def _not_started(self) -> RuntimeError:
        lines = "\n".join(self.process.lines)
        return RuntimeError(f"gearmand does not start: {' '.join(self.process.command)}\n{lines}")

    def go_down(self) -> Fault:
        """Kill it."""
        self.process.kill()
        return self._add(_Down(self, "go_down()", ""))

    def fall_silent(self) -> Fault:
        """Stall it."""
        if self.first(_Silence) is None:
            self.process.stall()
        return self._add(_Silence(self, "fall_silent()", ""))

    def _resume(self, fault: Fault) -> None:
        if self.first(type(fault)) is not None:
            return  # another one of the same kind lasts
        if isinstance(fault, _Silence):
            self.process.resume()
            return
        self.process = _Process(self._command, self.process.port)
        if not self.process.listens:
            raise self._not_started()


class Gearmand:
    """A real gearmand in a process of its own, on a free port: for tests that run on `MemoryJobServer` as well.

    It is ready when it is there, and its process is gone once `close` returns. What it has in common with
    `MemoryJobServer` is `AnyJobServer`.

    :ivar clock: the reactor.
    :param reactor: for clients and workers. None for the global one.
    :param job_retries: as for `MemoryJobServer`.
    :param job_handle_prefix: the prefix of job handles; empty for gearmand's default.
    :param exceptions: as for `MemoryJobServer`.
    :param arguments: more command line arguments of gearmand.
    :raises GearmandMissing: it is not installed.
    :raises RuntimeError: it does not start. The message has the last lines of its log.
    """

    def __init__(
        self,
        reactor: Any = None,
        *,
        job_retries: int = 0,
        job_handle_prefix: str = "",
        exceptions: bool = False,
        arguments: Sequence[str] = (),
    ) -> None:
        self.clock: Any = reactor_or_default(reactor)
        command = [
            gearmand_program(),
            f"--listen={HOST}",
            "--log-file=stderr",
            "--verbose=INFO",
        ]
        # 0 is without limit by default: to --job-retries=0, gearmand after 2.0.0 gives another meaning.
        command += [f"--job-retries={job_retries}"] if job_retries else []
        command += [f"--job-handle-prefix={job_handle_prefix}"] if job_handle_prefix else []
        command += ["--exceptions"] if exceptions else []
        self._services: list[GearmanService] = []
        self._awaited: list[Deferred[Job]] = []
        self._interruptions = _Interruptions(self.clock, [*command, *arguments])

    def __repr__(self) -> str:
        return f"<Gearmand {self.address}>"

    @property
    def address(self) -> str:
        """The address, as `GearmanClient` takes it."""
        return host_and_port(HOST, self._interruptions.process.port)

    def log(self, count: int = _MAX_LINES) -> str:
        """Return the last lines of gearmand's log."""
        return "\n".join(list(self._interruptions.process.lines)[-count:])

    # Clients, workers and administrators.

    def client(self, **options: Any) -> GearmanClient:
        """Return a client of this server, which was started and is stopped by `close`.

        :param options: as for `MemoryJobServer.client`.
        """
        return self._started(GearmanClient([self.address], reactor=self.clock, **{"heartbeat": None, **options}))

    def worker(self, **options: Any) -> GearmanWorker:
        """Return a worker of this server, which was started and is stopped by `close`. It has no functions yet.

        :param options: as for `MemoryJobServer.worker`.
        """
        return self._started(GearmanWorker([self.address], reactor=self.clock, **{"heartbeat": None, **options}))

    def admin(self, **options: Any) -> GearmanAdmin:
        """Return an admin client of this server, which was started and is stopped by `close`.

        :param options: as for `MemoryJobServer.admin`.
        """
        return self._started(GearmanAdmin([self.address], reactor=self.clock, **options))

    def _started(self, service: Service) -> Service:
        self._services.append(service)
        service.startService()
        return service

    def next_job(self, function: str | bytes) -> Deferred[Job]:
        """Wait for the next job of a function, and take it. The test ends it, as a worker's function would.

        :param function: the function's name, with the prefix if there is one.
        :return: fires with the job. Cancelling it ends the wait, and so does `close`.
        """
        worker = self.worker(max_jobs=1, drain_timeout=0)

        def stop(_: object) -> None:
            worker.stopService()

        taken: Deferred[Job] = Deferred(stop)
        self._awaited.append(taken)

        def take(job: Job) -> Deferred[None]:
            taken.callback(job)
            # It never fires, so that the worker takes no other job. It is cancelled if the connection is lost.
            return Deferred(stop)

        worker.register_function(function, take)
        return taken

    def command(self, line: str) -> str:
        """Return the answer to a line of the text protocol, such as ``"status"`` or ``"maxqueue reverse 10"``.

        It waits for the answer without running the reactor.

        :raises OSError: gearmand is down, silent, or closes the connection.
        """
        return ask(HOST, self._interruptions.process.port, line)

    # Faults.

    def go_down(self, *, lose_jobs: bool) -> Fault:
        """Kill gearmand, and start it again on the same port when the `Fault` ends.

        :param lose_jobs: True, since gearmand keeps no jobs.
        :raises ValueError: it is False.
        """
        if not lose_jobs:
            raise ValueError(f"lose_jobs must be True for gearmand, which keeps no jobs, not {lose_jobs!r}")
        return self._interruptions.go_down()

    def fall_silent(self) -> Fault:
        """Stop gearmand where it is, until the `Fault` ends. The kernel still accepts connections for it."""
        return self._interruptions.fall_silent()

    # The end.

    def close(self) -> Deferred[None]:
        """Stop the clients and workers that were made here, and kill gearmand, in whatever state it is.

        :return: fires when nothing is left in the reactor. The process is gone when this returns.
        """
        for taken in [taken for taken in self._awaited if not taken.called]:
            taken.addErrback(lambda failure: failure.trap(CancelledError))
            taken.cancel()
        stopping = [maybeDeferred(service.stopService) for service in self._services]
        self._interruptions.process.kill()
        return DeferredList(stopping, consumeErrors=True).addCallback(lambda _: None)


def gearmand_program() -> str:
    """Return the path of gearmand: the one that ``TXGEARMAN_GEARMAND`` names, or else the installed one.

    :raises GearmandMissing: there is none.
    """
    named = os.environ.get(PROGRAM)
    if named:
        return shutil.which(named) or _missing(named)
    directories = [*os.environ.get("PATH", os.defpath).split(os.pathsep), *_DIRECTORIES]
    found = (shutil.which("gearmand", path=directory) for directory in directories)
    return next((program for program in found if program and not is_in_perl(program)), None) or _missing()


def _missing(named: str = "") -> NoReturn:
    raise GearmandMissing(named)


def is_in_perl(program: str) -> bool:
    """Return whether this is Perl's job server, which has the same name."""
    with open(program, "rb") as file:
        first = file.readline(100)
    return first.startswith(b"#!") and b"perl" in first


def ask(host: str, port: int, line: str) -> str:
    """Return the answer of a job server to a line of the text protocol.

    It blocks until the answer is there.

    :raises OSError: the server is down, silent, or closes the connection.
    """
    with socket.create_connection((host, port), _ANSWER_LIMIT) as connection:
        connection.sendall(line.encode() + b"\r\n")
        answer = b""
        while not (answer.endswith(b"\n.\n") or answer == b".\n" or _ONE_LINE.fullmatch(answer)):
            more = connection.recv(65536)
            if not more:
                raise ConnectionResetError(f"{host_and_port(host, port)} closed the connection; before: {answer!r}")
            answer += more
    return answer.decode("utf-8", "backslashreplace")


def free_port() -> int:
    """Return a port on which nothing listens, and which Linux gives to no program that asks for any port."""
    while True:
        port = SystemRandom().choice(_PORTS)
        if not _is_used(port):
            return port


def _is_used(port: int) -> bool:
    """Return whether a program listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def gearmand_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options of a `MemoryJobServer` that a `Gearmand` has, too, and its own."""
    return {name: value for name, value in options.items() if name != "name"}
