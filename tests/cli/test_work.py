"""``txgearman work``: programs and Python functions run jobs of our client and of gearman."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from txgearman import GearmanAdmin, GearmanClient, GearmanWorker, TaskException, TaskFailed
from txgearman.cli.exit_codes import ExitCode
from txgearman.cli.terminal import run_in_thread

from ..conftest import Failures
from ..daemons import Gearmand, free_port
from .harness import RunningCommand, is_alive, reactor, run_tool, usage_error
from .test_processes import read_pid, until

HERE = "tests.cli.jobs"


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it has no annotations
async def client(gearmand: Gearmand) -> AsyncIterator[GearmanClient]:
    async with GearmanClient([gearmand.address]) as client:
        yield client


class Work(RunningCommand):
    """A running ``txgearman work``."""

    def __init__(self, gearmand: Gearmand, *arguments: str) -> None:
        super().__init__("work", "-s", gearmand.address, *arguments)

    async def stop(self) -> str:
        """Stop it; return what it wrote to standard error."""
        result = await self.finish(signal.SIGTERM)
        assert result.code == ExitCode.DONE
        return result.err


async def test_program_runs_jobs(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(gearmand, "f", "--", "tr", "a-z", "A-Z")
    assert await client.add_task("f", b"ab\ncd\n") == b"AB\nCD\n"
    result = await run_in_thread(reactor, lambda: run_tool("gearman", gearmand.port, "-f", "f", "-s", "stressed"))
    assert result.out == b"STRESSED"
    await worker.stop()


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("workload", [b"", bytes(range(256)) * 4000, b"\0"], ids=["empty", "1 MB", "NUL"])
async def test_program_receives_any_bytes(gearmand: Gearmand, client: GearmanClient, workload: bytes) -> None:
    worker = Work(gearmand, "f", "cat")
    assert await client.add_task("f", workload) == workload
    await worker.stop()


async def test_program_may_ignore_its_input(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(gearmand, "f", "--", "echo", "hello")
    assert await client.add_task("f", b"x" * 1_000_000) == b"hello\n"
    await worker.stop()


async def test_lines_are_sent_when_written(gearmand: Gearmand, client: GearmanClient, tmp_path: Path) -> None:
    """The second line is written after the first has arrived."""
    go = tmp_path / "go"
    worker = Work(gearmand, "--lines", "f", "sh", "-c", f"echo one; until test -e {go}; do sleep 0.01; done; echo two")
    data: list[bytes] = []

    def on_data(_: object, chunk: bytes) -> None:
        data.append(chunk)
        go.touch()

    assert await client.add_task("f", on_data=on_data) == b""
    assert data == [b"one\n", b"two\n"]
    await worker.stop()


async def test_failing_program_sends_warning_and_fails_job(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(gearmand, "f", "--", "sh", "-c", "echo no good >&2; exit 3")
    warnings: list[bytes] = []
    with pytest.raises(TaskFailed) as failure:
        await client.add_task("f", on_warning=lambda _, data: warnings.append(data))
    assert type(failure.value) is TaskFailed
    assert warnings == [b"no good\n"]
    assert "sh exited with 3" in await worker.stop()


async def test_failing_program_without_stderr_sends_no_warning(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(gearmand, "f", "false")
    warnings: list[bytes] = []
    with pytest.raises(TaskFailed):
        await client.add_task("f", on_warning=lambda _, data: warnings.append(data))
    assert warnings == []
    await worker.stop()


async def test_exceptions_option_sends_stderr_as_exception(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(gearmand, "--exceptions", "f", "sh", "-c", "echo no good >&2; exit 3")
    with pytest.raises(TaskException) as failure:
        await client.add_task("f")
    assert failure.value.data == b"no good\n"
    await worker.stop()


async def test_stderr_of_successful_program_is_warning(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(gearmand, "f", "--", "sh", "-c", "echo careful >&2; echo done")
    warnings: list[bytes] = []
    assert await client.add_task("f", on_warning=lambda _, data: warnings.append(data)) == b"done\n"
    assert warnings == [b"careful\n"]
    await worker.stop()


async def test_environment_describes_job(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(
        gearmand, "f", "--", "sh", "-c", 'printf "%s %s %s" $GEARMAN_FUNCTION $GEARMAN_UNIQUE $GEARMAN_HANDLE'
    )
    handles: list[str] = []
    result = await client.add_task("f", unique="key", on_created=lambda task: handles.append(str(task.handle)))
    assert result.decode() == f"f key {handles[0]}"
    await worker.stop()


async def test_timeout_kills_program_and_its_children(
    gearmand: Gearmand, client: GearmanClient, tmp_path: Path, logged_failures: Failures
) -> None:
    pid = tmp_path / "pid"
    script = f"sleep 1000 & echo $! >{pid}.new; mv {pid}.new {pid}; wait"
    worker = Work(gearmand, "-t", "1", "f", "--", "sh", "-c", script)
    with pytest.raises(TaskException):
        await client.add_task("f")
    while is_alive(int(pid.read_text())):
        await deferLater(reactor, 0.01)
    await worker.stop()
    logged_failures.flush(Exception)


async def test_line_after_timeout_is_dropped(
    gearmand: Gearmand, client: GearmanClient, logged_failures: Failures
) -> None:
    worker = Work(gearmand, "-t", "0.2", "--lines", "f", "--", "sh", "-c", "while echo line; do sleep 0.01; done")
    with pytest.raises(TaskException):
        await client.add_task("f")
    await worker.stop()
    logged_failures.flush(Exception)


async def test_jobs_option_runs_jobs_concurrently(gearmand: Gearmand, client: GearmanClient, tmp_path: Path) -> None:
    """Each of the two jobs waits for the other."""
    script = f"touch {tmp_path}/$GEARMAN_UNIQUE; until test -e {tmp_path}/$(cat); do sleep 0.01; done"
    worker = Work(gearmand, "--jobs", "2", "f", "--", "sh", "-c", script)
    one, two = client.add_task("f", b"two", unique="one"), client.add_task("f", b"one", unique="two")
    assert [await one, await two] == [b"", b""]
    await worker.stop()


async def test_count_option_exits_after_jobs(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(gearmand, "-q", "-c", "2", "f", "cat")
    for _ in range(3):
        await client.add_task_bg("f", b"x")
    result = await worker.finish()
    assert (result.code, result.err) == (ExitCode.DONE, "")
    async with GearmanAdmin([gearmand.address]) as admin:
        # gearmand may read the admin connection before the last packets of the worker.
        while (status := (await admin.status()).one()[0]).workers:
            pass
    assert status.total == 1


@pytest.mark.parametrize("function", ["shout", "soon"])
async def test_count_is_exact_with_several_jobs_at_a_time(
    gearmand: Gearmand, client: GearmanClient, function: str
) -> None:
    """What is requested when the last job starts would be run as well."""
    await client.add_tasks_bg("f", [b"x"] * 30)
    worker = Work(gearmand, "-q", "-j", "4", "-c", "7", f"f={HERE}:{function}")
    assert (await worker.finish()).code == ExitCode.DONE
    await until(lambda: gearmand.admin("status") == ["f\t23\t0\t0", "."])


async def test_signal_waits_for_running_jobs(gearmand: Gearmand, client: GearmanClient, tmp_path: Path) -> None:
    go, begun = tmp_path / "go", tmp_path / "begun"
    worker = Work(gearmand, "f", "--", "sh", "-c", f"touch {begun}; until test -e {go}; do sleep 0.01; done; echo done")
    task = client.add_task("f")
    while not begun.exists():
        await deferLater(reactor, 0.01)
    worker.run.signal_received(signal.SIGINT)
    await deferLater(reactor, 0.05)
    go.touch()
    assert await task == b"done\n"
    result = await worker.finish()
    assert result.code == 130
    assert "waiting for running jobs: 1;" in result.err


async def test_prefix_and_client_id_are_set(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(gearmand, "--prefix", "pre", "--client-id", "me", "f", "cat")
    assert await client.add_task("pre\tf", b"abc") == b"abc"
    async with GearmanAdmin([gearmand.address]) as admin:
        workers = {each.client_id: each.functions for each in (await admin.workers()).one()}
    assert workers[b"me"] == (b"pre\tf",)
    await worker.stop()


async def test_python_functions_run_jobs(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(gearmand, f"a={HERE}:shout", f"b={HERE}:Nested.reverse")
    assert await client.add_task("a", b"abc") == b"ABC"
    assert await client.add_task("b", b"abc") == b"cba"
    await worker.stop()


async def test_threaded_function_from_current_directory_runs_in_thread(
    gearmand: Gearmand, client: GearmanClient, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "in_current_directory.py").write_text(
        "import threading\ndef name(job): return threading.current_thread().name.encode()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in os.sys.path if path])  # type: ignore[attr-defined]
    worker = Work(gearmand, "--threaded", "f=in_current_directory:name")
    assert await client.add_task("f") != b"MainThread"
    await worker.stop()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["f"], "missing COMMAND"),
        (["f=nowhere_at_all:x"], "can't import nowhere_at_all:x"),
        ([f"f={HERE}:nothing"], "can't import tests.cli.jobs:nothing"),
        ([f"f={HERE}:not_callable"], "is not callable"),
        (["f=module"], "must be package.module:callable"),
        ([f"f={HERE}:shout", "g"], "must be FUNCTION=package.module:callable"),
        (["--lines", f"f={HERE}:shout"], "require a COMMAND"),
        (["--exceptions", f"f={HERE}:shout"], "require a COMMAND"),
        (["-j", "0", "f", "cat"], "is not in the range"),
    ],
)
def test_invalid_options_are_usage_errors(arguments: list[str], text: str) -> None:
    assert text in usage_error("work", *arguments)


async def test_invalid_function_name_exits_with_2() -> None:
    result = await RunningCommand("work", "-s", f"127.0.0.1:{free_port()}", "", "cat").finish()
    assert result.code == ExitCode.USAGE
    assert result.err == "txgearman: FUNCTION must not be empty\n"


# What must not lose jobs.


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["resize", "-s", "localhost", "--jobs", "4", "--", "cat"], "options must precede FUNCTION, such as -s here"),
        (["resize", "--verbose"], "a COMMAND that begins with - must follow --: txgearman work [OPTIONS] FUNCTION -- "),
        ([f"f={HERE}:shout", "-j", "4"], "options must precede FUNCTION, such as -j here"),
        (
            ["f", "cat", "--jobs", "4"],
            "options must precede FUNCTION, such as --jobs here; a COMMAND that has it must",
        ),
        (["f", "cat", "--drain=4"], "options must precede FUNCTION, such as --drain here"),
        (["f", "--"], "missing COMMAND"),
        (["--max-output", "5", f"f={HERE}:shout"], "require a COMMAND"),
    ],
)
def test_option_behind_function_is_no_command(arguments: list[str], text: str) -> None:
    assert text in usage_error("work", *arguments)


async def test_command_that_begins_with_dash_may_follow_dashes(
    gearmand: Gearmand, client: GearmanClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "-s"
    program.write_text("#!/bin/sh\necho $1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    worker = Work(gearmand, "f", "--", "-s", "--jobs")
    assert await client.add_task("f") == b"--jobs\n"
    await worker.stop()


async def test_missing_command_is_usage_error_and_takes_no_job(gearmand: Gearmand, client: GearmanClient) -> None:
    await client.add_task_bg("f", b"x")
    result = await Work(gearmand, "f", "--", "typo").finish()
    assert (result.code, result.err) == (
        ExitCode.USAGE,
        "txgearman: can't find the command 'typo', or it is not executable\n",
    )
    assert gearmand.admin("status") == ["f\t1\t0\t0", "."]


@pytest.mark.parametrize("fault", ["No such file or directory", "Permission denied"])
async def test_command_that_vanishes_ends_worker_and_its_job_goes_to_another(
    gearmand: Gearmand, client: GearmanClient, tmp_path: Path, fault: str
) -> None:
    """Another job, which runs, may finish."""
    program, go, begun = tmp_path / "program", tmp_path / "go", tmp_path / "begun"
    program.write_text(f"#!/bin/sh\ntouch {begun}; until test -e {go}; do sleep 0.01; done; echo done\n")
    program.chmod(0o755)
    worker = Work(gearmand, "--jobs", "2", "f", "--", str(program))
    running = client.add_task("f")
    await until(begun.exists)
    program.unlink() if fault.startswith("No") else program.chmod(0o644)
    await client.add_task_bg("f", b"kept", unique="b")
    await until(lambda: "can't run" in worker.stderr())
    go.touch()
    assert await running == b"done\n"
    result = await worker.finish()
    assert result.code == ExitCode.NOT_STARTED
    assert f"txgearman: can't run {program}: {fault}; stopping, and f " in result.err
    await until(lambda: gearmand.admin("status") == ["f\t1\t0\t0", "."])
    received: list[bytes] = []
    async with GearmanWorker([gearmand.address]) as other:
        other.register_function("f", lambda job: received.append(job.workload))
        await until(lambda: received)
    assert received == [b"kept"]


async def test_lines_wait_for_server_that_does_not_read(gearmand: Gearmand, client: GearmanClient) -> None:
    """A command that writes for ever has to wait; once the server reads again, its lines arrive."""
    received: list[int] = []
    worker = Work(gearmand, "--lines", "f", "--", "sh", "-c", "echo $$; exec yes 0123456789")
    first: list[bytes] = []

    def on_data(_: object, data: bytes) -> None:
        first[:] = first or [data]
        received.append(len(data))

    task = client.add_task("f", on_data=on_data)
    task.addErrback(lambda _: None)
    await until(lambda: len(received) > 1000)
    gearmand.stall()
    io = Path(f"/proc/{int(first[0])}/io")
    written = await until_steady(lambda: int(io.read_text().split("wchar:")[1].split()[0]))
    assert written < 40_000_000  # `yes` writes some GB a second
    gearmand.signal(signal.SIGCONT)
    before = len(received)
    await until(lambda: len(received) > before + 1000)
    task.cancel()
    worker.run.signal_received(signal.SIGTERM)
    gearmand.stop()  # the connection is lost, and the command with it
    assert (await worker.finish()).code == ExitCode.DONE
    await until(lambda: not is_alive(int(first[0])))


async def until_steady(read: Callable[[], int]) -> int:
    """Wait until a number has not changed for a fifth of a second; return it."""
    before = -1
    while (value := read()) != before:
        before = value
        await deferLater(reactor, 0.2)
    return value


async def test_each_end_of_job_kills_what_command_has_left(
    gearmand: Gearmand, client: GearmanClient, tmp_path: Path, logged_failures: Failures
) -> None:
    """The command has exited, and its child holds its output. A time-out, and the loss of the connection."""
    script = f"sleep 1000 & echo $! >{tmp_path}/$GEARMAN_UNIQUE"
    worker = Work(gearmand, "--jobs", "2", "-t", "1", "f", "--", "sh", "-c", script)
    with pytest.raises(TaskException):
        await client.add_task("f", unique="timed_out")
    client.add_task("f", unique="lost").addErrback(lambda _: None)
    children = [await read_pid(tmp_path / name) for name in ("timed_out", "lost")]
    gearmand.stop()
    for child in children:
        await until(lambda child=child: not is_alive(child))  # type: ignore[misc]  # mypy can't infer it
    await worker.stop()
    logged_failures.flush(Exception)


async def test_verbose_logs_line_for_each_job(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = RunningCommand("-v", "work", "-s", gearmand.address, "--lines", "f", "--", "sh", "-c", "cat; exit $(cat)")
    assert await client.add_task("f", b"four") == b""
    result = await worker.finish(signal.SIGTERM)
    pattern = rf"^txgearman: f {gearmand.address}//H:\S+: done, 0\.\d\d\d s, 4 bytes in, 4 bytes out$"
    assert len(re.findall(pattern, result.err, re.MULTILINE)) == 1
    assert result.code == ExitCode.DONE


async def test_python_function_that_is_cut_off_is_reported(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(gearmand, "--drain", "100ms", f"f={HERE}:never_end")
    handle = await client.add_task_bg("f")
    await until(lambda: gearmand.admin("status") == ["f\t1\t1\t1", "."])
    result = await worker.finish(signal.SIGTERM)
    assert result.code == ExitCode.FAILED
    assert result.err.endswith(
        f"txgearman: cut off f {handle}, which still ran: its server gives it to another worker\n"
    )
    await until(lambda: gearmand.admin("status") == ["f\t1\t0\t0", "."])
