"""``txgearman submit``: results, exit codes, lines; beside gearman, on the same gearmand."""

from __future__ import annotations

import os
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
from txgearman.cli.exit_codes import BROKEN_PIPE, BUG, Exit
from txgearman.cli.submit import Batch

from ..conftest import Failures
from ..daemons import Gearmand, free_port
from ..raw_worker import connect_worker
from .harness import Started, command, misused, reactor, tool

EVERY_BYTE = bytes(range(256)) * 40


class Workers:
    """A worker with functions of all kinds.

    :ivar held: jobs of ``hold``, that wait for what the test does.
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


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it says nothing of its types
async def there(gearmand: Gearmand, workers: Workers) -> AsyncIterator[list[str]]:
    """The option for a server with such a worker."""
    worker = GearmanWorker([gearmand.address], max_jobs=50, drain_timeout=0)
    worker.register_function("reverse", lambda job: job.workload[::-1])
    worker.register_function("pre\treverse", lambda job: job.workload[::-1])
    for name in ("hold", "talk", "parts", "fail", "crash", "fail_odd", "fail_once", "where"):
        worker.register_function(name, getattr(workers, name))
    async with worker:
        yield ["-s", gearmand.address]


# One job.


async def test_the_result_is_written_and_nothing_else(there: list[str], gearmand: Gearmand) -> None:
    ran = await command("submit", "reverse", "stressed", *there)
    assert ran == (0, b"desserts", "")


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("workload", [b"", b"\0", b"\xff\n\0", EVERY_BYTE])
async def test_binary_workloads_come_and_go_as_they_are(there: list[str], workload: bytes) -> None:
    assert (await command("submit", "reverse", "-", *there, stdin=workload)).out == workload[::-1]


async def test_a_large_workload(there: list[str]) -> None:
    workload = os.urandom(5_000_000)
    assert (await command("submit", "reverse", "-", *there, stdin=workload)).out == workload[::-1]


async def test_a_workload_on_the_command_line_may_have_any_bytes_but_nul(there: list[str]) -> None:
    assert (await command("submit", "reverse", b"\xff\xfe\n", *there)).out == b"\n\xfe\xff"
    assert (await command("submit", "reverse", *there)).out == b""


async def test_data_warnings_and_status(there: list[str]) -> None:
    ran = await command("submit", "talk", *there)
    assert ran == (0, b"one two three", "talk: 1/4\ncareful\ntalk: 3/4\ntalk: 4/4\n")


async def test_quiet_is_without_progress_and_warnings(there: list[str]) -> None:
    assert await command("submit", "-q", "talk", *there) == (0, b"one two three", "")


async def test_a_prefix(there: list[str]) -> None:
    assert (await command("submit", "--prefix", "pre", "reverse", "ab", *there)).out == b"ba"


async def test_the_environment_names_servers(there: list[str], gearmand: Gearmand, monkeypatch: Any) -> None:
    monkeypatch.setenv("GEARMAN_SERVERS", f"127.0.0.1:{free_port()},{gearmand.address}, ")
    assert (await command("submit", "reverse", "ab")).out == b"ba"


async def test_a_unique_and_a_priority_reach_the_worker(there: list[str], gearmand: Gearmand) -> None:
    assert (await command("submit", "-u", "key", "--high", "where", *there)).out == b"key"
    assert (await command("submit", "-u", "key", "--low", "where", *there)).out == b"key"


async def test_on_a_terminal_there_is_a_bar_and_an_end_of_line(there: list[str]) -> None:
    ran = await command("submit", "talk", *there, terminal=True)
    assert ran.code == 0
    assert b"talk" in ran.out
    assert b"25%" in ran.out
    assert b"careful\n" in ran.out
    assert ran.out.index(b"one ") < ran.out.index(b"two ") < ran.out.index(b"three\n")
    assert ran.out.count(b"\x1b[?25l") == ran.out.count(b"\x1b[?25h")  # the cursor is back


async def test_results_are_those_of_gearman(there: list[str], gearmand: Gearmand) -> None:
    """Its client waits in a process of its own; the worker is in this one."""
    theirs: Any = await in_process("gearman", gearmand, "-f", "reverse", "-s", "stressed")
    assert (await command("submit", "reverse", "stressed", *there)).out == b"desserts"
    assert theirs.out == b"desserts"
    theirs = await in_process("gearman", gearmand, "-f", "parts", "-s", "x")
    assert (await command("submit", "parts", "x", *there)).out == theirs.out == b"one two three"


async def in_process(name: str, gearmand: Gearmand, *arguments: str, stdin: bytes = b"") -> Any:
    """Run a C tool while the reactor goes on."""
    from txgearman.cli.terminal import in_thread

    return await in_thread(reactor, lambda: tool(name, gearmand.port, *arguments, stdin=stdin))


# Background.


async def test_background_prints_the_handle(there: list[str], gearmand: Gearmand, workers: Workers) -> None:
    ran = await command("submit", "-b", "hold", "abc", *there)
    assert ran.out.startswith(f"{gearmand.address}//H:".encode())
    await workers.until_held()
    assert (str(workers.held[0].handle) + "\n").encode() == ran.out
    assert workers.held[0].workload == b"abc"


async def test_at_a_time(gearmand: Gearmand) -> None:
    ran = await command("submit", "-b", "--at", "+1h", "f", "-s", gearmand.address)
    assert ran.code == 0
    worker = await connect_worker(gearmand.port, b"f")
    assert await worker.settled
    async with GearmanAdmin([gearmand.address]) as admin:
        (status,) = (await admin.status()).one()
        assert (status.total, status.running, status.workers) == (1, 0, 1)
    await worker.close()


async def test_lines_in_background(there: list[str], workers: Workers) -> None:
    ran = await command("submit", "-b", "-n", "hold", *there, stdin=b"a\nb\n")
    assert len(ran.out.splitlines()) == 2
    while len(workers.held) < 2:
        await deferLater(reactor, 0.01)
    handles = {job.workload: str(job.handle).encode() for job in workers.held}
    assert ran.out.splitlines() == [handles[b"a"], handles[b"b"]]


# Exit codes.


async def test_1_failed(there: list[str]) -> None:
    ran = await command("submit", "fail", *there)
    assert (ran.code, ran.out) == (Exit.FAILED, b"")
    assert ran.err.endswith(": failed\n")


async def test_1_failed_with_an_exception(there: list[str], logged_failures: Failures) -> None:
    ran = await command("submit", "crash", *there)
    assert (ran.code, ran.out) == (Exit.FAILED, b"")
    assert "ZeroDivisionError: by zero" in ran.err
    assert logged_failures.flush(ZeroDivisionError)


async def test_3_refused(gearmand: Gearmand) -> None:
    async with GearmanAdmin([gearmand.address]) as admin:
        (await admin.create_function("f")).all()
        (await admin.set_max_queue("f", 1)).all()
    there = ["-s", gearmand.address]
    assert (await command("submit", "-b", "f", *there)).code == 0
    ran = await command("submit", "f", *there)
    assert (ran.code, ran.out) == (Exit.REFUSED, b"")
    assert "QUEUE_ERROR: Job queue is full" in ran.err
    # gearman says so too, and exits with 0.
    assert (await in_process("gearman", gearmand, "-b", "-f", "f", "-s", "x")).code == 0


async def test_4_timed_out(there: list[str]) -> None:
    ran = await command("submit", "-t", "0.05", "hold", *there)
    assert (ran.code, ran.out) == (Exit.TIMED_OUT, b"")
    assert "timed out" in ran.err


async def test_5_lost(there: list[str], gearmand: Gearmand, workers: Workers) -> None:
    started = Started("submit", "hold", *there)
    await workers.until_held()
    gearmand.stop()
    ran = await started.end()
    assert (ran.code, ran.out) == (Exit.LOST, b"")
    assert "lost: the connection went after JOB_CREATED" in ran.err


async def test_6_no_server() -> None:
    ran = await command("submit", "f", "-s", f"127.0.0.1:{free_port()}")
    assert (ran.code, ran.out) == (Exit.NO_SERVER, b"")
    assert "Connection was refused" in ran.err


async def test_a_server_may_be_waited_for(there: list[str], gearmand: Gearmand) -> None:
    gearmand.stop()
    started = Started("submit", "--wait", "30", "reverse", "ab", *there)
    gearmand.start()
    assert (await started.end()).out == b"ba"


async def test_retries(there: list[str]) -> None:
    assert await command("submit", "--retries", "1", "fail_once", "ab", *there) == (0, b"again ab", "")


async def test_70_a_bug_has_a_traceback(there: list[str], monkeypatch: Any) -> None:
    def bug(self: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Batch, "run", bug)
    ran = await command("submit", "-n", "reverse", *there)
    assert ran.code == BUG
    assert "ZeroDivisionError" in ran.err


async def test_130_ctrl_c_lets_go_of_the_job(there: list[str], gearmand: Gearmand, workers: Workers) -> None:
    started = Started("submit", "hold", *there, terminal=True)
    await workers.until_held()
    workers.held[0].send_status(1, 2)
    shown = b""
    while b"50%" not in shown:
        shown += started.shown_so_far()
        await deferLater(reactor, 0.01)
    ran = await started.end(signal.SIGINT)
    shown += ran.out
    assert ran.code == 130
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") > 0


async def test_141_a_closed_output_lets_go_of_the_job(there: list[str], workers: Workers) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    started = Started("submit", "hold", *there, output=writing)
    await workers.until_held()
    workers.held[0].send_data(b"nobody reads this")
    ran = await started.end()
    os.close(writing)
    assert (ran.code, ran.err) == (BROKEN_PIPE, "")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["submit"], "Missing argument 'FUNCTION'"),
        (["submit", "f", "x", "--lines"], "workloads come from the standard input"),
        (["submit", "f", "--at", "+1h"], "--at goes with --background"),
        (["submit", "f", "-b", "--retries", "2"], "--retries does not go with --background"),
        (["submit", "f", "-t", "0"], "not a positive number of seconds"),
        (["submit", "f", "-t", "soon"], "not a positive number of seconds"),
        (["submit", "f", "-b", "--at", "tomorrow"], "none of POSIX seconds"),
        (["submit", "f", "-c", "0"], "is not in the range"),
        (["nothing"], "No such command"),
    ],
)
def test_2_bad_usage(arguments: list[str], text: str) -> None:
    assert text in misused(*arguments)


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
async def test_2_what_can_not_be_sent(arguments: list[str]) -> None:
    options = [] if "-s" in arguments else ["-s", f"127.0.0.1:{free_port()}"]
    ran = await command("submit", *arguments, *options)
    assert (ran.code, ran.out) == (Exit.USAGE, b"")
    assert ran.err.startswith("txgearman: ")


# Lines.


async def test_lines_come_out_in_the_order_of_the_input(there: list[str]) -> None:
    lines = [b"%d" % number for number in range(1000)]
    ran = await command("submit", "--lines", "-c", "50", "reverse", *there, stdin=b"\n".join(lines))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [line[::-1] for line in lines]


async def test_lines_are_those_of_gearman(there: list[str], gearmand: Gearmand) -> None:
    """It adds no ends of lines to results, and -N takes them off workloads."""
    theirs = await in_process("gearman", gearmand, "-f", "reverse", "-N", stdin=b"ab\ncd\n")
    ours = await command("submit", "--lines", "reverse", *there, stdin=b"ab\ncd\n")
    assert ours.out.replace(b"\n", b"") == theirs.out == b"badc"


@pytest.mark.parametrize(
    ("stdin", "out"),
    [(b"", b""), (b"\n", b"\n"), (b"a", b"a\n"), (b"a\n\nb\n", b"a\n\nb\n"), (b"\xff\0\n", b"\0\xff\n")],
)
async def test_what_is_a_line(there: list[str], stdin: bytes, out: bytes) -> None:
    assert (await command("submit", "-n", "reverse", *there, stdin=stdin)).out == out


async def test_null_is_for_workloads_with_ends_of_lines(there: list[str]) -> None:
    ran = await command("submit", "--null", "reverse", "-", *there, stdin=b"a\nb\0c\0")
    assert ran.out == b"b\na\0c\0"


async def test_a_line_that_fails_is_empty_and_the_others_go_on(there: list[str]) -> None:
    ran = await command("submit", "-n", "fail_odd", *there, stdin=b"0\n1\n2\n3\n")
    assert ran.code == Exit.FAILED
    assert ran.out == b"even 0\n\neven 2\n\n"
    told = sorted(ran.err.splitlines())
    assert [line.partition(": fail_odd")[0] for line in told] == ["txgearman: line 2", "txgearman: line 4"]


async def test_a_line_that_is_done_again_has_its_data_once(there: list[str]) -> None:
    assert (await command("submit", "-n", "--retries", "1", "fail_once", *there, stdin=b"ab\n")).out == b"ab\n"


async def test_lines_stop_where_there_is_no_server() -> None:
    ran = await command("submit", "-n", "f", "-s", f"127.0.0.1:{free_port()}", stdin=b"a\nb\nc\n")
    assert (ran.code, ran.out) == (Exit.NO_SERVER, b"")
    assert len(ran.err.splitlines()) == 1


async def test_lines_show_their_count_on_a_terminal(there: list[str], tmp_path: Path) -> None:
    """But not among the results, if they are shown there, too."""
    with (tmp_path / "out").open("wb") as file:
        arguments = ["submit", "-n", "reverse", *there]
        ran = await Started(*arguments, stdin=b"ab\n" * 3, terminal=True, output=file.fileno()).end()
    assert (tmp_path / "out").read_bytes() == b"ba\n" * 3
    assert b"1 lines" in ran.out
    assert (await command(*arguments, stdin=b"ab\n" * 3, terminal=True)).out == b"ba\n" * 3


async def test_a_typed_line_has_its_answer_and_no_count(there: list[str]) -> None:
    master, slave = os.openpty()
    started = Started("submit", "-n", "reverse", *there, pipe=slave, terminal=True)
    shown = b""
    for line in (b"ab", b"cd"):
        os.write(master, line + b"\n")
        while line[::-1] not in shown:
            shown += started.shown_so_far()
            await deferLater(reactor, 0.01)
    os.write(master, b"\x04")
    ran = await started.end()
    assert (ran.code, shown + ran.out) == (0, b"ba\ndc\n")
    os.close(master)
    os.close(slave)


async def test_the_output_sets_the_pace_of_the_input(there: list[str]) -> None:
    """Where nobody reads results, no more workloads are read than fit in the pipes and in what may be out."""
    reading, writing = os.pipe()
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    started = Started("submit", "-n", "-c", "2", "reverse", *there, pipe=source, output=writing)
    os.set_blocking(reading, False)
    line = b"x" * 3999 + b"\n"  # a pipe takes it whole, or not at all
    fed, idle = 0, time.monotonic()
    while time.monotonic() - idle < 0.5:  # that is, until nothing has moved for so long
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
    ran = await started.end()
    for descriptor in (reading, writing, source):
        os.close(descriptor)
    assert ran.code == 0
    assert out[: len(line)] == line
