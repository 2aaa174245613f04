"""Commands of jobs: limits of what they write, back-pressure, failures, environment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, succeed

from txgearman import GearmanClient, JobHandle, TaskException, TaskFailed
from txgearman.cli.command_runner import MAX_ERRORS, MAX_LINE, CommandRunner
from txgearman.testing import MemoryJobServer

from ..watched_log import WatchedLog
from .harness import is_alive, reactor
from .test_processes import read_pid, until

LIMIT = 1000


class Listener:
    """Records what it learns."""

    def __init__(self) -> None:
        self.sent = 0
        self.not_started: list[OSError] = []

    def data_sent(self, _: object, size: int) -> None:
        self.sent += size

    def command_not_started(self, _: object, error: OSError) -> None:
        self.not_started.append(error)


class Site:
    """A server, a client, and a worker whose function ``f`` runs a command.

    :ivar warnings, data: what the client received of its last task.
    """

    def __init__(self) -> None:
        self.server = MemoryJobServer(reactor)
        self.client: GearmanClient = self.server.client()
        self.listener = Listener()
        self.warnings: list[bytes] = []
        self.data: list[bytes] = []

    def run(
        self,
        *command: str,
        workload: bytes = b"",
        timeout: float | None = None,
        lines: bool = False,
        exceptions: bool = False,
    ) -> Deferred[bytes]:
        runner = CommandRunner(reactor, command, lines=lines, exceptions=exceptions, max_output=LIMIT)
        runner.listener = self.listener
        worker = self.server.worker(drain_timeout=0)
        worker.register_function("f", runner, timeout=timeout)
        return self.client.add_task(
            "f",
            workload,
            unique="key",
            on_warning=lambda _, data: self.warnings.append(data),
            on_data=lambda _, data: self.data.append(data),
        )


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it has no annotations
async def site() -> AsyncIterator[Site]:
    site = Site()
    yield site
    await site.server.close()


async def test_environment_has_names_of_any_bytes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_WORKER", "inherited")
    result = await site.run("sh", "-c", 'echo "$OF_WORKER $GEARMAN_FUNCTION $GEARMAN_UNIQUE ${GEARMAN_HANDLE##*/}"')
    assert result.startswith(b"inherited f key H:")


# Limits.


async def test_output_up_to_limit_is_result(site: Site) -> None:
    assert await site.run("cat", workload=b"x" * LIMIT) == b"x" * LIMIT
    assert site.warnings == []


async def test_output_beyond_limit_fails_job_and_kills_command(site: Site, tmp_path: Path) -> None:
    with pytest.raises(TaskFailed):
        await site.run("sh", "-c", f"echo $$ >{tmp_path}/pid; exec yes")
    assert site.warnings == [b"sh wrote more than 1000 bytes to its standard output"]
    pid = await read_pid(tmp_path / "pid")
    await until(lambda: not is_alive(pid))


async def test_output_beyond_limit_is_exception(site: Site) -> None:
    with pytest.raises(TaskException) as failure:
        await site.run("yes", exceptions=True)
    assert failure.value.data == b"yes wrote more than 1000 bytes to its standard output"


async def test_end_of_errors_is_kept(site: Site) -> None:
    assert await site.run("sh", "-c", "yes 1234567 | head -c 800000 >&2; echo end >&2") == b""
    (warning,) = site.warnings
    assert warning.startswith(b"(%d bytes before this were left out)\n" % (800_004 - MAX_ERRORS))
    assert warning.endswith(b"1234567\nend\n")
    assert len(warning) - warning.index(b"\n") - 1 == MAX_ERRORS


async def test_long_line_is_sent_in_parts(site: Site) -> None:
    """What is kept of a line whose end has not come is bounded."""
    workload = b"x" * (2 * MAX_LINE) + b"\nshort\nlast"
    assert await site.run("cat", workload=workload, lines=True) == b""
    assert b"".join(site.data) == workload
    assert max(map(len, site.data)) < 2 * MAX_LINE
    assert site.data[-2:] == [b"short\n", b"last"]
    assert site.listener.sent == len(workload)


# Ends.


@pytest.mark.parametrize(
    ("script", "reason"),
    [("exit 3", "sh exited with 3"), ("kill -9 $$", "sh was ended by SIGKILL"), ("kill -40 $$", "sh was ended by")],
)
async def test_failure_says_how_command_ended(site: Site, script: str, reason: str) -> None:
    with pytest.raises(TaskException) as failure:
        await site.run("sh", "-c", script, exceptions=True)
    assert failure.value.data.decode().startswith(reason)


@pytest.mark.parametrize("exceptions", [False, True])
async def test_last_line_of_errors_is_logged(site: Site, *, exceptions: bool) -> None:
    """Of a background job, nobody else gets them."""
    with WatchedLog() as log, pytest.raises(TaskFailed):
        await site.run("sh", "-c", "echo one >&2; echo no such file >&2; exit 3", exceptions=exceptions)
    assert [text for text in log.texts() if text.endswith(": sh exited with 3: no such file")]


async def test_time_out_kills_child_that_holds_pipe_after_exit_of_command(site: Site, tmp_path: Path) -> None:
    with pytest.raises(TaskException) as failure:
        await site.run("sh", "-c", f"sleep 1000 & echo $! >{tmp_path}/pid", timeout=0.1)
    assert failure.value.data == b"TimeoutError: it took longer than 0.1 seconds"
    pid = await read_pid(tmp_path / "pid")
    await until(lambda: not is_alive(pid))
    assert site.server.flush_logged_errors() == []


async def test_command_that_cant_be_started_is_reported_and_job_has_no_end(site: Site) -> None:
    task = site.run("no-such-program")
    await until(lambda: site.listener.not_started)
    (error,) = site.listener.not_started
    assert (type(error), error.filename) == (FileNotFoundError, "no-such-program")
    assert not task.called
    task.addErrback(lambda _: None)
    task.cancel()


# With a job of the test's.


class FakeJob:
    """A job whose server takes data when the test says so.

    :ivar drained: of the last call of `when_drained`; None to take everything at once.
    """

    function: str | bytes = b"\xfff"
    handle = JobHandle("server", b"H:1")
    unique = b""

    def __init__(self, workload: bytes = b"") -> None:
        self.workload = workload
        self.ended = ""
        self.sent: list[bytes] = []
        self.drained: Deferred[None] | None = None

    def send_data(self, data: bytes) -> None:
        self.sent.append(data)

    def when_drained(self) -> Deferred[None]:
        self.drained = Deferred() if len(self.sent) == 1 else None
        return self.drained or succeed(None)


def start(job: Any, *command: str, lines: bool = True) -> Deferred[bytes]:
    return CommandRunner(reactor, command, lines=lines, exceptions=False, max_output=LIMIT)(job)


async def test_slow_server_stops_reading_of_output(tmp_path: Path) -> None:
    job = FakeJob()
    ended = start(job, "sh", "-c", f"echo one; until test -e {tmp_path}/go; do sleep 0.01; done; echo two; echo three")
    await until(lambda: job.drained)
    drained = job.drained
    (tmp_path / "go").touch()
    await until(lambda: job.drained is drained)  # nothing more was read
    assert drained is not None
    drained.callback(None)
    assert await ended == b""
    assert b"".join(job.sent) == b"one\ntwo\nthree\n"


@pytest.mark.parametrize("lines", [True, False])
async def test_output_after_end_of_job_is_dropped(lines: bool) -> None:
    """The job has been ended, and its function is cancelled in a later turn of the reactor."""
    job = FakeJob(b"line\n")
    job.ended = "its connection was lost"
    assert await start(job, "cat", lines=lines) == b""
    assert job.sent == []


async def test_function_that_is_no_text_is_in_environment() -> None:
    job = FakeJob()
    assert await start(job, "sh", "-c", 'printf "$GEARMAN_FUNCTION"', lines=False) == b"\xfff"


async def test_cancel_before_start_of_command_has_no_effect() -> None:
    ended = start(FakeJob(), "no-such-program")
    ended.cancel()
    with pytest.raises(CancelledError):
        await ended
