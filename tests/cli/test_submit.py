"""``txgearman submit``: results, exit codes, lines; compared with gearman on the same gearmand."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from txgearman import GearmanAdmin, GearmanWorker, Job, JobFailed
from txgearman.cli import submit
from txgearman.cli.exit_codes import BROKEN_PIPE, INTERNAL_ERROR, ExitCode
from txgearman.cli.submit import LineBatch
from txgearman.testing import MemoryJobServer

from ..conftest import Failures
from ..daemons import Gearmand, free_port
from ..programs import open_terminal
from ..raw_worker import connect_worker
from .harness import RunningCommand, reactor, run_command, run_tool, usage_error
from .test_processes import until

EVERY_BYTE = bytes(range(256)) * 40


class Workers:
    """The functions of a worker.

    :ivar held: jobs of ``hold``, which do not finish by themselves.
    """

    def __init__(self) -> None:
        self.held: list[Job] = []
        self.failed = 0

    def hold(self, job: Job) -> Deferred[bytes]:
        self.held.append(job)
        return Deferred(lambda _: None)

    def talk(self, job: Job) -> bytes:
        job.send_status(1, 4)
        job.send_data(b"one ")
        job.send_warning(b"careful")
        job.send_status(3, 4)
        job.send_status(4, 4)
        job.send_data(b"two ")
        return b"three"

    def parts(self, job: Job) -> bytes:
        job.send_data(b"one ")
        job.send_data(b"two ")
        return b"three"

    def fail(self, _: Job) -> bytes:
        raise JobFailed("on purpose")

    def crash(self, _: Job) -> bytes:
        raise ZeroDivisionError("by zero")

    def fail_odd(self, job: Job) -> bytes:
        if int(job.workload) % 2:
            raise JobFailed("odd")
        job.send_data(b"even ")
        return job.workload

    def fail_once(self, job: Job) -> bytes:
        self.failed += 1
        if self.failed == 1:
            job.send_data(b"again ")
            raise JobFailed("the first time")
        return job.workload

    def where(self, job: Job) -> bytes:
        return job.unique

    async def until_held(self) -> None:
        while not self.held:
            await deferLater(reactor, 0.01)


@pytest.fixture
def workers() -> Workers:
    return Workers()


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it has no annotations
async def server_option(gearmand: Gearmand, workers: Workers) -> AsyncIterator[list[str]]:
    """Run a worker with these functions; return the option for its server."""
    worker = GearmanWorker([gearmand.address], max_jobs=50, drain_timeout=0)
    worker.register_function("reverse", lambda job: job.workload[::-1])
    worker.register_function("pre\treverse", lambda job: job.workload[::-1])
    for name in ("hold", "talk", "parts", "fail", "crash", "fail_odd", "fail_once", "where"):
        worker.register_function(name, getattr(workers, name))
    async with worker:
        yield ["-s", gearmand.address]


# One job.


async def test_submit_writes_only_the_result(server_option: list[str], gearmand: Gearmand) -> None:
    result = await run_command("submit", "reverse", "stressed", *server_option)
    assert result == (0, b"desserts", "")


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("workload", [b"", b"\0", b"\xff\n\0", EVERY_BYTE])
async def test_binary_workload_is_unchanged(server_option: list[str], workload: bytes) -> None:
    assert (await run_command("submit", "reverse", "-", *server_option, stdin=workload)).out == workload[::-1]


async def test_large_workload_is_unchanged(server_option: list[str]) -> None:
    workload = os.urandom(5_000_000)
    assert (await run_command("submit", "reverse", "-", *server_option, stdin=workload)).out == workload[::-1]


async def test_workload_argument_may_be_any_bytes_but_nul(server_option: list[str]) -> None:
    assert (await run_command("submit", "reverse", b"\xff\xfe\n", *server_option)).out == b"\n\xfe\xff"
    assert (await run_command("submit", "reverse", *server_option)).out == b""


# The workload from standard input.


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it has no annotations
async def memory_option() -> AsyncIterator[list[str]]:
    """Run a worker at a server in memory; return the option for that."""
    server = MemoryJobServer(reactor)
    server.worker().register_function("reverse", lambda job: job.workload[::-1])
    yield ["-s", server.listen()]
    await server.close()


@pytest.mark.parametrize(
    ("arguments", "out"), [([], b"cba"), (["-"], b"cba"), ([""], b""), (["xy"], b"yx")], ids=["none", "-", "''", "xy"]
)
async def test_omitted_workload_is_read_from_standard_input(
    memory_option: list[str], arguments: list[str], out: bytes
) -> None:
    assert await run_command("submit", *memory_option, "reverse", *arguments, stdin=b"abc") == (0, out, "")


async def test_omitted_workload_is_empty_at_terminal(memory_option: list[str]) -> None:
    assert (await run_command("submit", *memory_option, "reverse", terminal=True)).out == b""


@pytest.mark.parametrize("arguments", [[], ["-q"], ["-"]])
async def test_input_that_does_not_come_is_reported_unless_it_was_asked_for(
    memory_option: list[str], arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "HINT_DELAY", 0.0)
    source, sink = os.pipe()
    started = RunningCommand("submit", *memory_option, "reverse", *arguments, pipe=source)
    if arguments:
        await deferLater(reactor, 0)
    else:
        await started.wait_for("reading the workload from standard input; give '' for none")
    os.write(sink, b"abc")
    os.close(sink)
    result = await started.finish()
    os.close(source)
    assert (result.out, result.err.count("\n")) == (b"cba", 0 if arguments else 1)


async def test_input_that_comes_in_time_is_not_reported(memory_option: list[str]) -> None:
    """Nor if more of it comes late: nothing waits for somebody who does not know of it."""
    source, sink = os.pipe()
    started = RunningCommand("submit", *memory_option, "reverse", pipe=source)

    def hints() -> list[object]:
        return [call for call in reactor.getDelayedCalls() if call.func == started.terminal.write_error]

    await until(hints)
    os.write(sink, b"ab")
    await until(lambda: not hints())
    os.write(sink, b"c")
    os.close(sink)
    assert (await started.finish())[1:] == (b"cba", "")
    os.close(source)


async def test_data_warnings_and_status_are_written(server_option: list[str]) -> None:
    result = await run_command("submit", "talk", *server_option)
    assert result == (0, b"one two three", "talk: 1/4\ntalk: warning: careful\ntalk: 3/4\ntalk: 4/4\n")


async def test_quiet_hides_progress_and_warnings(server_option: list[str]) -> None:
    assert await run_command("submit", "-q", "talk", *server_option) == (0, b"one two three", "")


async def test_prefix_is_added_to_function(server_option: list[str]) -> None:
    assert (await run_command("submit", "--prefix", "pre", "reverse", "ab", *server_option)).out == b"ba"


async def test_environment_sets_default_servers(server_option: list[str], gearmand: Gearmand, monkeypatch: Any) -> None:
    monkeypatch.setenv("GEARMAN_SERVERS", f"127.0.0.1:{free_port()},{gearmand.address}, ")
    assert (await run_command("submit", "reverse", "ab")).out == b"ba"


async def test_unique_and_priority_reach_worker(server_option: list[str], gearmand: Gearmand) -> None:
    assert (await run_command("submit", "-u", "key", "--high", "where", *server_option)).out == b"key"
    assert (await run_command("submit", "-u", "key", "--low", "where", *server_option)).out == b"key"


async def test_terminal_shows_bar_and_adds_end_of_line(server_option: list[str]) -> None:
    result = await run_command("submit", "talk", *server_option, terminal=True)
    assert result.code == 0
    assert b"talk" in result.out
    assert b"25%" in result.out
    assert b"careful\n" in result.out
    assert result.out.index(b"one ") < result.out.index(b"two ") < result.out.index(b"three\n")
    assert result.out.count(b"\x1b[?25l") == result.out.count(b"\x1b[?25h")  # the cursor is shown again


async def test_results_match_gearman(server_option: list[str], gearmand: Gearmand) -> None:
    """gearman runs in a process of its own, and the worker in this one."""
    expected: Any = await run_tool_in_thread("gearman", gearmand, "-f", "reverse", "-s", "stressed")
    assert (await run_command("submit", "reverse", "stressed", *server_option)).out == b"desserts"
    assert expected.out == b"desserts"
    expected = await run_tool_in_thread("gearman", gearmand, "-f", "parts", "-s", "x")
    assert (await run_command("submit", "parts", "x", *server_option)).out == expected.out == b"one two three"


async def run_tool_in_thread(name: str, gearmand: Gearmand, *arguments: str, stdin: bytes = b"") -> Any:
    """Run a C tool in a thread, so that the reactor runs on."""
    from txgearman.cli.terminal import run_in_thread

    return await run_in_thread(reactor, lambda: run_tool(name, gearmand.port, *arguments, stdin=stdin))


# Background.


async def test_background_prints_handle(server_option: list[str], gearmand: Gearmand, workers: Workers) -> None:
    result = await run_command("submit", "-b", "hold", "abc", *server_option)
    assert result.out.startswith(f"{gearmand.address}//H:".encode())
    await workers.until_held()
    assert (str(workers.held[0].handle) + "\n").encode() == result.out
    assert workers.held[0].workload == b"abc"


async def test_at_delays_background_job(gearmand: Gearmand) -> None:
    result = await run_command("submit", "-b", "--at", "+1h", "f", "-s", gearmand.address)
    assert result.code == 0
    worker = await connect_worker(gearmand.port, b"f")
    assert await worker.settled
    async with GearmanAdmin([gearmand.address]) as admin:
        (status,) = (await admin.status()).one()
        assert (status.total, status.running, status.workers) == (1, 0, 1)
    await worker.close()


async def test_lines_in_background_print_handles(server_option: list[str], workers: Workers) -> None:
    result = await run_command("submit", "-b", "-n", "hold", *server_option, stdin=b"a\nb\n")
    assert len(result.out.splitlines()) == 2
    while len(workers.held) < 2:
        await deferLater(reactor, 0.01)
    handles = {job.workload: str(job.handle).encode() for job in workers.held}
    assert result.out.splitlines() == [handles[b"a"], handles[b"b"]]


# Exit codes.


async def test_failed_job_exits_with_1(server_option: list[str]) -> None:
    result = await run_command("submit", "fail", *server_option)
    assert (result.code, result.out) == (ExitCode.FAILED, b"")
    assert result.err.endswith(": failed\n")


async def test_exception_exits_with_1(server_option: list[str], logged_failures: Failures) -> None:
    result = await run_command("submit", "crash", *server_option)
    assert (result.code, result.out) == (ExitCode.FAILED, b"")
    assert "ZeroDivisionError: by zero" in result.err
    assert logged_failures.flush(ZeroDivisionError)


async def test_refused_job_exits_with_3(gearmand: Gearmand) -> None:
    async with GearmanAdmin([gearmand.address]) as admin:
        (await admin.create_function("f")).all()
        (await admin.set_max_queue("f", 1)).all()
    server_option = ["-s", gearmand.address]
    assert (await run_command("submit", "-b", "f", *server_option)).code == 0
    result = await run_command("submit", "f", *server_option)
    assert (result.code, result.out) == (ExitCode.REFUSED, b"")
    assert "QUEUE_ERROR: Job queue is full" in result.err
    # gearman reports the error as well, but exits with 0.
    assert (await run_tool_in_thread("gearman", gearmand, "-b", "-f", "f", "-s", "x")).code == 0


async def test_timeout_exits_with_4(server_option: list[str]) -> None:
    result = await run_command("submit", "-t", "0.05", "hold", *server_option)
    assert (result.code, result.out) == (ExitCode.TIMED_OUT, b"")
    assert "timed out" in result.err


async def test_lost_job_exits_with_5(server_option: list[str], gearmand: Gearmand, workers: Workers) -> None:
    started = RunningCommand("submit", "hold", *server_option)
    await workers.until_held()
    gearmand.stop()
    result = await started.finish()
    assert (result.code, result.out) == (ExitCode.LOST, b"")
    # JOB_CREATED may not have come yet: gearmand's thread for this client sends it, another one sends the job.
    assert re.search(r"\ntxgearman: hold\b.*: connection lost (before|after) JOB_CREATED", result.err)


async def test_unreachable_server_exits_with_6() -> None:
    result = await run_command("submit", "f", "-s", f"127.0.0.1:{free_port()}")
    assert (result.code, result.out) == (ExitCode.NO_SERVER, b"")
    assert "Connection was refused" in result.err


async def test_wait_waits_for_server(server_option: list[str], gearmand: Gearmand) -> None:
    gearmand.stop()
    started = RunningCommand("submit", "--wait", "30", "reverse", "ab", *server_option)
    gearmand.start()
    assert (await started.finish()).out == b"ba"


async def test_retries_resubmit_failed_job(server_option: list[str]) -> None:
    assert await run_command("submit", "--retries", "1", "fail_once", "ab", *server_option) == (0, b"again ab", "")


async def test_internal_error_exits_with_70_and_traceback(server_option: list[str], monkeypatch: Any) -> None:
    def fail(self: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(LineBatch, "run", fail)
    result = await run_command("submit", "-n", "reverse", *server_option)
    assert result.code == INTERNAL_ERROR
    assert "ZeroDivisionError" in result.err


async def test_ctrl_c_exits_with_130_and_shows_cursor(
    server_option: list[str], gearmand: Gearmand, workers: Workers
) -> None:
    started = RunningCommand("submit", "hold", *server_option, terminal=True)
    await workers.until_held()
    workers.held[0].send_status(1, 2)
    shown = b""
    while b"50%" not in shown:
        shown += started.read_screen()
        await deferLater(reactor, 0.01)
    result = await started.finish(signal.SIGINT)
    shown += result.out
    assert result.code == 130
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") > 0


async def test_closed_output_exits_with_141(server_option: list[str], workers: Workers) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    started = RunningCommand("submit", "hold", *server_option, output=writing)
    await workers.until_held()
    workers.held[0].send_data(b"unread")
    result = await started.finish()
    os.close(writing)
    assert (result.code, result.err) == (BROKEN_PIPE, "")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["submit"], "Missing argument 'FUNCTION'"),
        (["submit", "f", "x", "--lines"], "reads workloads from standard input"),
        (["submit", "f", "--at", "+1h"], "--at requires --background"),
        (["submit", "f", "-b", "--retries", "2"], "--retries can't be used with --background"),
        (["submit", "f", "-n", "-u", "k"], "--unique must be - with --lines, not 'k': all lines would be one"),
        (["submit", "f", "-t", "0"], "must be a duration above 0"),
        (["submit", "f", "-t", "soon"], "must be a duration above 0"),
        (["submit", "f", "-b", "--at", "tomorrow"], "must be 90s, 5m, +1h or 1d from now"),
        (["submit", "f", "-j", "0"], "is not in the range"),
        (["submit", "f", "--high", "--low"], "--high and --low can't be used together"),
        (["nothing"], "No such command"),
    ],
)
def test_invalid_options_are_usage_errors(arguments: list[str], text: str) -> None:
    assert text in usage_error(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["f", "-u", "x" * 64],
        [""],
        ["f", "-b", "--at", "+1h", "--high"],
        ["f", "-s", "a:b:c"],
        ["x" * 8050, "--prefix", "pre"],
        ["x" * 8050, "--prefix", "pre", "-b"],
    ],
)
async def test_invalid_task_exits_with_2(arguments: list[str]) -> None:
    options = [] if "-s" in arguments else ["-s", f"127.0.0.1:{free_port()}"]
    result = await run_command("submit", *arguments, *options)
    assert (result.code, result.out) == (ExitCode.USAGE, b"")
    assert result.err.startswith("txgearman: ")


# Lines.


async def test_lines_keep_order_of_input(server_option: list[str]) -> None:
    lines = [b"%d" % number for number in range(1000)]
    result = await run_command("submit", "--lines", "-j", "50", "reverse", *server_option, stdin=b"\n".join(lines))
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [line[::-1] for line in lines]


async def test_lines_match_gearman(server_option: list[str], gearmand: Gearmand) -> None:
    """gearman adds no ends of lines to results; its -N removes them from workloads."""
    expected = await run_tool_in_thread("gearman", gearmand, "-f", "reverse", "-N", stdin=b"ab\ncd\n")
    result = await run_command("submit", "--lines", "reverse", *server_option, stdin=b"ab\ncd\n")
    assert result.out.replace(b"\n", b"") == expected.out == b"badc"


@pytest.mark.parametrize(
    ("stdin", "out"),
    [(b"", b""), (b"\n", b"\n"), (b"a", b"a\n"), (b"a\n\nb\n", b"a\n\nb\n"), (b"\xff\0\n", b"\0\xff\n")],
)
async def test_lines_are_split_at_line_ends(server_option: list[str], stdin: bytes, out: bytes) -> None:
    assert (await run_command("submit", "-n", "reverse", *server_option, stdin=stdin)).out == out


async def test_null_allows_line_ends_in_workloads(server_option: list[str]) -> None:
    result = await run_command("submit", "--null", "reverse", "-", *server_option, stdin=b"a\nb\0c\0")
    assert result.out == b"b\na\0c\0"


async def test_failed_line_is_empty_and_others_continue(server_option: list[str]) -> None:
    result = await run_command("submit", "-n", "fail_odd", *server_option, stdin=b"0\n1\n2\n3\n")
    assert result.code == ExitCode.FAILED
    assert result.out == b"even 0\n\neven 2\n\n"
    errors = sorted(result.err.splitlines())
    assert [line.partition(": fail_odd")[0] for line in errors] == ["txgearman: line 2", "txgearman: line 4"]


async def test_retried_line_has_its_data_once(server_option: list[str]) -> None:
    assert (
        await run_command("submit", "-n", "--retries", "1", "fail_once", *server_option, stdin=b"ab\n")
    ).out == b"ab\n"


async def test_lines_stop_without_server() -> None:
    result = await run_command("submit", "-n", "f", "-s", f"127.0.0.1:{free_port()}", stdin=b"a\nb\nc\n")
    assert (result.code, result.out) == (ExitCode.NO_SERVER, b"")
    assert len(result.err.splitlines()) == 1


async def test_lines_show_count_on_stderr_only(server_option: list[str], tmp_path: Path) -> None:
    """There is no count if the results are shown on the terminal as well."""
    with (tmp_path / "out").open("wb") as file:
        arguments = ["submit", "-n", "reverse", *server_option]
        result = await RunningCommand(*arguments, stdin=b"ab\n" * 3, terminal=True, output=file.fileno()).finish()
    assert (tmp_path / "out").read_bytes() == b"ba\n" * 3
    assert b"1 lines" in result.out
    assert (await run_command(*arguments, stdin=b"ab\n" * 3, terminal=True)).out == b"ba\n" * 3


async def test_typed_lines_show_no_count(server_option: list[str]) -> None:
    master, slave = open_terminal()
    started = RunningCommand("submit", "-n", "reverse", *server_option, pipe=slave, terminal=True)
    shown = b""
    for line in (b"ab", b"cd"):
        os.write(master, line + b"\n")
        while line[::-1] not in shown:
            shown += started.read_screen()
            await deferLater(reactor, 0.01)
    os.write(master, b"\x04")
    result = await started.finish()
    assert (result.code, shown + result.out) == (0, b"ba\ndc\n")
    os.close(master)
    os.close(slave)


async def test_slow_output_slows_reading_of_input(server_option: list[str]) -> None:
    """While results are not read, only as many workloads are read as fit in the pipes and may be in flight."""
    reading, writing = os.pipe()
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    started = RunningCommand("submit", "-n", "-j", "2", "reverse", *server_option, pipe=source, output=writing)
    os.set_blocking(reading, False)
    line = b"x" * 3999 + b"\n"  # less than PIPE_BUF: written whole or not at all
    fed, idle = 0, time.monotonic()
    while time.monotonic() - idle < 0.5:  # until the pipe has been full for so long
        try:
            fed += os.write(sink, line)
            idle = time.monotonic()
        except BlockingIOError:
            await deferLater(reactor, 0.01)
    assert 0 < fed < 2_000_000
    os.close(sink)
    out = b""
    while len(out) < fed:
        with suppress(BlockingIOError):
            out += os.read(reading, 1 << 20)
        await deferLater(reactor, 0)
    result = await started.finish()
    for descriptor in (reading, writing, source):
        os.close(descriptor)
    assert result.code == 0
    assert out[: len(line)] == line
