"""Runs Python programs, most of them forked from a process that has imported the library: that saves much time."""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "DEADLINE",
    "EXAMPLES",
    "ROOT",
    "TRIAL",
    "TWISTD",
    "Running",
    "environment",
    "example_worker",
    "output",
    "run",
    "run_alone",
    "run_python",
]

ROOT: Final = Path(__file__).parent.parent
EXAMPLES: Final = ROOT / "examples"

DEADLINE: Final = 60.0
"""Seconds that a program may take."""

TRIAL: Final = "from twisted.scripts.trial import run; run()"
TWISTD: Final = "from twisted.scripts.twistd import run; run()"


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a program that imports this library and prints UTF-8."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **variables}


class ForkServer:
    """The process that others are forked from, as fork_server.py does it. It ends with this one."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "fork_server.py"],
            cwd=ROOT,
            env={name: value for name, value in environment().items() if name != "PYTHONPATH"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        self._lock = threading.Lock()
        self._codes: dict[int, int] = {}

    def close(self) -> None:
        self._server.communicate()

    def start(
        self, arguments: list[str], files: list[Path], environment: Mapping[str, str], directory: Path = ROOT
    ) -> int:
        """Start Python with these arguments, and these files as its standard streams; return its ID."""
        request = {
            "arguments": arguments,
            "directory": str(directory),
            "environment": dict(environment),
            "files": [str(file) for file in files],
        }
        assert self._server.stdin is not None
        with self._lock:
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            while len(numbers := self._read()) != 1:
                pass
        return numbers[0]

    def wait(self, pid: int) -> int:
        """Wait until a process has ended; return its exit code."""
        with self._lock:
            while pid not in self._codes:
                self._read()
            return self._codes.pop(pid)

    def _read(self) -> list[int]:
        """Read a line: an ID, or an ID and an exit code."""
        assert self._server.stdout is not None
        numbers = [int(word) for word in self._server.stdout.readline().split()]
        assert numbers, "the fork server has ended"
        if len(numbers) == 2:
            self._codes[numbers[0]] = numbers[1]
        return numbers


@functools.cache
def fork_server() -> ForkServer:
    """Return the one of this process."""
    server = ForkServer()
    atexit.register(server.close)
    return server


def kill_later(pid: int, seconds: float) -> threading.Timer:
    """Kill a process that takes longer, unless the timer is cancelled."""
    timer = threading.Timer(seconds, os.kill, (pid, signal.SIGKILL))
    timer.daemon = True
    timer.start()
    return timer


def run_python(
    *arguments: str | bytes | Path, stdin: bytes = b"", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Run Python with these arguments to its end. This blocks, so servers must be in other processes.

    :param arguments: a script, a module after ``-m`` or code after ``-c``, and its arguments.
    :param variables: more of its environment.
    """
    words = [os.fsdecode(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("input", "output", "errors")]
        files[0].write_bytes(stdin)
        for file in files[1:]:
            file.touch()
        pid = fork_server().start(words, files, environment(**variables))
        deadline = kill_later(pid, DEADLINE)
        code = fork_server().wait(pid)
        deadline.cancel()
        return subprocess.CompletedProcess(words, code, *(file.read_bytes() for file in files[1:]))


def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments to its end, and decode what it printed."""
    ran = run_python(*arguments, stdin=b"", **variables)
    return subprocess.CompletedProcess(ran.args, ran.returncode, ran.stdout.decode(), ran.stderr.decode())


def run_alone(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments to its end. Not forked: they have options of Python, or change how it imports."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        encoding="utf-8",
        timeout=DEADLINE,
        check=False,
    )


def output(result: subprocess.CompletedProcess[str]) -> str:
    """Return what a program printed that succeeded and wrote no error."""
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


class Running:
    """Python with these arguments, running until the end of the `with`. Killed when it takes too long."""

    def __init__(self, *arguments: str | Path, cwd: Path = ROOT, deadline: float = DEADLINE, **variables: str) -> None:
        self._words = [os.fsdecode(argument) for argument in arguments]
        self._directory = cwd
        self._deadline = deadline
        self._variables = variables
        self.pid = 0
        self.said = ""
        self._code: int | None = None

    def await_line(self, pattern: str) -> re.Match[str]:
        """Read on to the line in which the pattern is found."""
        for line in self._output:
            self.said += line
            match = re.search(pattern, line)
            if match:
                return match
        raise AssertionError(f"it ended without {pattern!r}:\n{self.said}")

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):  # it has ended
            os.kill(self.pid, number)

    def terminate(self) -> int:
        """End it as a service manager does; return its exit code."""
        self.send_signal(signal.SIGTERM)
        return self.end()

    def begin_end(self) -> None:
        """Tell a twistd to end as a service manager does, and wait until it begins to."""
        self.send_signal(signal.SIGTERM)
        self.await_line("Received SIGTERM")

    def end(self) -> int:
        """Wait for its end; return its exit code."""
        self.said += self._output.read()
        self._code = fork_server().wait(self.pid)
        return self._code

    def __enter__(self) -> Self:
        with tempfile.TemporaryDirectory() as folder:
            pipe = Path(folder, "output")
            os.mkfifo(pipe)
            files = [Path(os.devnull), pipe]
            variables = environment(PYTHONUNBUFFERED="1", **self._variables)
            self.pid = fork_server().start(self._words, files, variables, self._directory)
            self._timer = kill_later(self.pid, self._deadline)
            self._output: IO[str] = pipe.open(encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._code is None:
            self.send_signal(signal.SIGKILL)
            fork_server().wait(self.pid)
        self._timer.cancel()
        self._output.close()


@contextmanager
def example_worker(address: str, deadline: float = DEADLINE) -> Iterator[Running]:
    """Run examples/worker.py at a server."""
    with Running(EXAMPLES / "worker.py", "--server", address, deadline=deadline) as worker:
        worker.await_line("^ready")
        yield worker
