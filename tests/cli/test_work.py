"""``txgearman work``: programs and Python functions do jobs; gearman's clients have them done."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from txgearman import GearmanAdmin, GearmanClient, TaskException, TaskFailed
from txgearman.cli.exit_codes import Exit
from txgearman.cli.terminal import in_thread

from ..conftest import Failures
from ..daemons import Gearmand, free_port
from .harness import Started, lives, misused, reactor, tool

HERE = "tests.cli.jobs"


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it says nothing of its types
async def client(gearmand: Gearmand) -> AsyncIterator[GearmanClient]:
    async with GearmanClient([gearmand.address]) as client:
        yield client


class Work(Started):
    """A worker of the command's."""

    def __init__(self, gearmand: Gearmand, *arguments: str) -> None:
        super().__init__("work", "-s", gearmand.address, *arguments)

    async def stop(self) -> str:
        """Let it end; return what it said."""
        ran = await self.end(signal.SIGTERM)
        assert ran.code == 128 + signal.SIGTERM
        return ran.err


async def test_a_program_does_jobs(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(gearmand, "f", "--", "tr", "a-z", "A-Z")
    assert await client.add_task("f", b"ab\ncd\n") == b"AB\nCD\n"
    theirs = await in_thread(reactor, lambda: tool("gearman", gearmand.port, "-f", "f", "-s", "stressed"))
    assert theirs.out == b"STRESSED"
    await worker.stop()


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("workload", [b"", bytes(range(256)) * 4000, b"\0"])
async def test_a_program_has_any_bytes(gearmand: Gearmand, client: GearmanClient, workload: bytes) -> None:
    worker = Work(gearmand, "f", "cat")
    assert await client.add_task("f", workload) == workload
    await worker.stop()


async def test_a_program_need_not_read_its_input(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(gearmand, "f", "--", "echo", "hello")
    assert await client.add_task("f", b"x" * 1_000_000) == b"hello\n"
    await worker.stop()


async def test_lines_are_sent_as_they_come(gearmand: Gearmand, client: GearmanClient, tmp_path: Path) -> None:
    """The second line is written once the first has arrived."""
    go = tmp_path / "go"
    worker = Work(gearmand, "--lines", "f", "sh", "-c", f"echo one; until test -e {go}; do sleep 0.01; done; echo two")
    data: list[bytes] = []

    def on_data(_: object, chunk: bytes) -> None:
        data.append(chunk)
        go.touch()

    assert await client.add_task("f", on_data=on_data) == b""
    assert data == [b"one\n", b"two\n"]
    await worker.stop()


async def test_a_program_that_fails_fails_the_job_with_a_warning(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(gearmand, "f", "--", "sh", "-c", "echo no good >&2; exit 3")
    warnings: list[bytes] = []
    with pytest.raises(TaskFailed) as failure:
        await client.add_task("f", on_warning=lambda _, data: warnings.append(data))
    assert type(failure.value) is TaskFailed
    assert warnings == [b"no good\n"]
    assert "sh exited with 3" in await worker.stop()


async def test_a_program_may_fail_in_silence(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(gearmand, "f", "false")
    warnings: list[bytes] = []
    with pytest.raises(TaskFailed):
        await client.add_task("f", on_warning=lambda _, data: warnings.append(data))
    assert warnings == []
    await worker.stop()


async def test_its_error_output_may_be_the_exception(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(gearmand, "--exceptions", "f", "sh", "-c", "echo no good >&2; exit 3")
    with pytest.raises(TaskException) as failure:
        await client.add_task("f")
    assert failure.value.data == b"no good\n"
    await worker.stop()


async def test_a_warning_of_a_program_that_does_not_fail(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(gearmand, "f", "--", "sh", "-c", "echo careful >&2; echo done")
    warnings: list[bytes] = []
    assert await client.add_task("f", on_warning=lambda _, data: warnings.append(data)) == b"done\n"
    assert warnings == [b"careful\n"]
    await worker.stop()


async def test_a_program_that_is_not_there_fails_the_job(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(gearmand, "f", "no-such-program")
    with pytest.raises(TaskFailed):
        await client.add_task("f")
    assert "can't run no-such-program: No such file or directory" in await worker.stop()


async def test_its_environment_tells_of_the_job(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(
        gearmand, "f", "--", "sh", "-c", 'printf "%s %s %s" $GEARMAN_FUNCTION $GEARMAN_UNIQUE $GEARMAN_HANDLE'
    )
    handles: list[str] = []
    result = await client.add_task("f", unique="key", on_created=lambda task: handles.append(str(task.handle)))
    assert result.decode() == f"f key {handles[0]}"
    await worker.stop()


async def test_a_job_that_takes_too_long_is_ended_with_its_children(
    gearmand: Gearmand, client: GearmanClient, tmp_path: Path, logged_failures: Failures
) -> None:
    pid = tmp_path / "pid"
    script = f"sleep 1000 & echo $! >{pid}.new; mv {pid}.new {pid}; wait"
    worker = Work(gearmand, "-t", "1", "f", "--", "sh", "-c", script)
    with pytest.raises(TaskException):
        await client.add_task("f")
    while lives(int(pid.read_text())):
        await deferLater(reactor, 0.01)
    await worker.stop()
    logged_failures.flush(Exception)


async def test_a_line_after_the_end_is_dropped(
    gearmand: Gearmand, client: GearmanClient, logged_failures: Failures
) -> None:
    worker = Work(gearmand, "-t", "0.2", "-n", "f", "--", "sh", "-c", "while echo line; do sleep 0.01; done")
    with pytest.raises(TaskException):
        await client.add_task("f")
    await worker.stop()
    logged_failures.flush(Exception)


async def test_several_jobs_at_a_time(gearmand: Gearmand, client: GearmanClient, tmp_path: Path) -> None:
    """Each of the two waits for the other."""
    script = f"touch {tmp_path}/$GEARMAN_UNIQUE; until test -e {tmp_path}/$(cat); do sleep 0.01; done"
    worker = Work(gearmand, "--jobs", "2", "f", "--", "sh", "-c", script)
    one, two = client.add_task("f", b"two", unique="one"), client.add_task("f", b"one", unique="two")
    assert [await one, await two] == [b"", b""]
    await worker.stop()


async def test_it_ends_after_so_many_jobs(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(gearmand, "-q", "-c", "2", "f", "cat")
    for _ in range(3):
        await client.add_task_bg("f", b"x")
    ran = await worker.end()
    assert (ran.code, ran.err) == (Exit.DONE, "")
    async with GearmanAdmin([gearmand.address]) as admin:
        # gearmand may hear of an administrator before it hears what the worker said last.
        while (status := (await admin.status()).one()[0]).workers:
            pass
    assert status.total == 1


async def test_a_stop_lets_jobs_end(gearmand: Gearmand, client: GearmanClient, tmp_path: Path) -> None:
    go, begun = tmp_path / "go", tmp_path / "begun"
    worker = Work(gearmand, "f", "--", "sh", "-c", f"touch {begun}; until test -e {go}; do sleep 0.01; done; echo done")
    task = client.add_task("f")
    while not begun.exists():
        await deferLater(reactor, 0.01)
    worker.run.signalled(signal.SIGINT)
    await deferLater(reactor, 0.05)
    go.touch()
    assert await task == b"done\n"
    ran = await worker.end()
    assert ran.code == 130
    assert "jobs that are let end: 1;" in ran.err


async def test_a_prefix_and_an_id(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(gearmand, "--prefix", "pre", "--client-id", "me", "f", "cat")
    assert await client.add_task("pre\tf", b"abc") == b"abc"
    async with GearmanAdmin([gearmand.address]) as admin:
        workers = {each.client_id: each.functions for each in (await admin.workers()).one()}
    assert workers[b"me"] == (b"pre\tf",)
    await worker.stop()


async def test_python_functions_do_jobs(gearmand: Gearmand, client: GearmanClient) -> None:
    worker = Work(gearmand, f"a={HERE}:shout", f"b={HERE}:Nested.reverse")
    assert await client.add_task("a", b"abc") == b"ABC"
    assert await client.add_task("b", b"abc") == b"cba"
    await worker.stop()


async def test_python_functions_in_threads_from_the_current_directory(
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
        (["f"], "say what does the jobs"),
        (["f=nowhere_at_all:x"], "no nowhere_at_all:x"),
        ([f"f={HERE}:nothing"], "no tests.cli.jobs:nothing"),
        ([f"f={HERE}:not_callable"], "is not callable"),
        (["f=module"], "does not read like package.module:callable"),
        ([f"f={HERE}:shout", "g"], "does not read like FUNCTION=package.module:callable"),
        (["-n", f"f={HERE}:shout"], "for a COMMAND"),
        (["--exceptions", f"f={HERE}:shout"], "for a COMMAND"),
        (["-j", "0", "f", "cat"], "is not in the range"),
    ],
)
def test_bad_usage(arguments: list[str], text: str) -> None:
    assert text in misused("work", *arguments)


async def test_what_can_not_be_offered() -> None:
    ran = await Started("work", "-s", f"127.0.0.1:{free_port()}", "", "cat").end()
    assert ran.code == Exit.USAGE
    assert ran.err == "txgearman: function must not be empty\n"
