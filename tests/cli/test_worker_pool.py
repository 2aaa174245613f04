"""``txgearman work --processes``: children, first shells and then workers on a real server, and their parent."""

from __future__ import annotations

import gc
import os
import re
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from txgearman import GearmanClient
from txgearman.cli import child, reactor_loop, supervisor, worker_pool
from txgearman.cli.child import Child
from txgearman.cli.child_process import WorkerProcess
from txgearman.cli.exit_codes import ExitCode
from txgearman.cli.supervisor import Supervisor

from ..daemons import Gearmand
from .harness import PROCESS_TIMEOUT, RunningCommand, is_alive, reactor, start_process, usage_error
from .test_child_process import START
from .test_processes import until
from .test_worker_app import APPS, get, url_of

HERE = "tests.cli.jobs"

READY = START + "echo '1 0 0 1 1 0' >$status;"
"""Of a script: a child that is ready."""

DRAIN = "read -r line <$control; exit 0"
"""Of a script: wait until the parent wants it to drain."""


class Pool(RunningCommand):
    """A pool whose children are shells."""

    def __init__(self, patch: pytest.MonkeyPatch, script: str, *arguments: str, processes: int = 2) -> None:
        patch.setattr(worker_pool, "child_command", lambda _: ["sh", "-c", script])
        super().__init__("work", *arguments, "--processes", str(processes), f"f={HERE}:shout")


async def test_pool_runs_children_until_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their lines are on its standard error, after number and process ID. A signal drains them, as the log says."""
    pool = Pool(monkeypatch, READY + "echo one; echo two >&2;" + DRAIN)
    await pool.wait_for("two", 2)
    await pool.wait_for("is ready", 2)
    result = await pool.finish(signal.SIGTERM)
    assert result.code == ExitCode.DONE
    lines = result.err.splitlines()
    started = re.findall(r"started child (\d) \(process (\d+)\)", result.err)
    expected = {f"[{place}:{pid}] {word}" for place, pid in started for word in ("one", "two")}
    assert {line for line in lines if line.startswith("[")} == expected
    assert "txgearman: draining all children; a second signal ends them at once" in lines
    assert sum(line.endswith(") has ended: exit code 0") for line in lines) == 2


async def test_lines_of_children_do_not_control_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(monkeypatch, READY + r"printf 'a\033[2Jb\377\n' >&2;" + DRAIN, processes=1)
    await pool.wait_for("] a\\x1b[2Jb\\xff\n")
    await pool.finish(signal.SIGTERM)


async def test_interrupt_drains_and_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(monkeypatch, READY + DRAIN)
    await pool.wait_for("is ready", 2)
    assert (await pool.finish(signal.SIGINT)).code == 130


async def test_usage_error_of_children_is_that_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    result = await Pool(monkeypatch, "echo typo >&2; exit 2").finish()
    assert (result.code, "] typo\n" in result.err) == (ExitCode.USAGE, True)


async def test_children_get_their_share_of_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    result = await Pool(monkeypatch, 'echo "$TXGEARMAN_CHILD" >&2', "--count", "3").finish()
    assert result.code == ExitCode.DONE
    assert sorted(re.findall(r'\[(\d):.*"count": (\d)', result.err)) == [("1", "2"), ("2", "1")]


async def test_signal_replaces_children(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(monkeypatch, READY + DRAIN)
    await pool.wait_for("is ready", 2)
    os.kill(os.getpid(), signal.SIGUSR2)
    await pool.wait_for("all children were replaced")
    assert pool.stderr().count("started child") == 4
    assert (await pool.finish(signal.SIGTERM)).code == ExitCode.DONE
    assert signal.getsignal(signal.SIGUSR1) is signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


async def test_recycled_children_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wants a successor as soon as it is ready: no descriptor, process or reader stays of those before."""
    pool = Pool(monkeypatch, START + "echo '1 0 5 1 1 1' >$status;" + DRAIN)

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    await pool.wait_for("has ended", 3)
    before, readers = descriptors(), len(reactor.getReaders())
    await pool.wait_for("has ended", 10)
    # There may be one child more at one of the two moments, with four descriptors.
    assert abs(descriptors() - before) <= 4
    assert abs(len(reactor.getReaders()) - readers) <= 3
    assert (await pool.finish(signal.SIGTERM)).code == ExitCode.DONE
    gc.collect()
    assert sum(type(made) in (Child, WorkerProcess) for made in gc.get_objects()) <= 6  # of 24


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The codes with which this process would have exited at once."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(reactor_loop, "REPEAT_TIME", 0.0)
    return codes


async def test_second_signal_ends_all_at_once_and_passes_on_what_they_write(
    monkeypatch: pytest.MonkeyPatch, exits: list[int]
) -> None:
    pool = Pool(monkeypatch, READY + "trap 'echo cut off; exit 1' TERM; echo up; while :; do sleep 0.01; done")
    await pool.wait_for("up", 2)
    pool.run.signal_received(signal.SIGTERM)
    pool.run.signal_received(signal.SIGTERM)
    assert exits == [128 + signal.SIGTERM]
    assert sorted(re.findall(r"^\[(\d):\d+\] cut off$", pool.stderr(), re.MULTILINE)) == ["1", "2"]
    await pool.finish()


async def test_second_signal_kills_children_that_do_not_exit(monkeypatch: pytest.MonkeyPatch, exits: list[int]) -> None:
    monkeypatch.setattr(worker_pool, "EXIT_TIMEOUT", 0.05)
    pool = Pool(monkeypatch, READY + "trap '' TERM; echo up; while :; do sleep 0.01; done", processes=1)
    await pool.wait_for("up")
    pool.run.signal_received(signal.SIGTERM)
    pool.run.signal_received(signal.SIGTERM)
    assert exits == [128 + signal.SIGTERM]
    assert "killed by SIGKILL" in (await pool.finish()).err


async def test_child_that_is_not_ready_in_time_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "TICK", 0.02)
    monkeypatch.setattr(child, "KILL_DELAY", 0.02)
    pool = Pool(monkeypatch, START + DRAIN, "--ready-timeout", "0.1", processes=1)
    await pool.wait_for("started child", 2)
    text = pool.stderr()
    assert "is ended, its stacks first: its program has not started a worker within 0.1 s\n" in text
    assert "has ended: killed by SIGTERM; starting another in 0.5 s\n" in text
    await pool.finish(signal.SIGTERM)


# Options.


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--jobs-per-process", "5", "f", "cat"], "--jobs-per-process requires --processes"),
        (["--stall-timeout", "5", "f", "cat"], "--stall-timeout requires --processes"),
        (["--processes", "2", "-c", "5", "--jobs-per-process", "5", "f", "cat"], "--count excludes --jobs-per-process"),
        (["--processes", "0", "f", "cat"], "is not in the range"),
        (["--processes", "2"], "Missing argument 'FUNCTION'"),
        (["--processes", "2", "--jobs", "3", "--app", f"{APPS}:make_worker"], "--app excludes '-j' / '--jobs'"),
    ],
)
def test_invalid_combination_is_a_usage_error(arguments: list[str], text: str) -> None:
    assert text in usage_error("work", *arguments)


def test_processes_need_a_system_that_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    assert usage_error("work", "--processes", "2", "f", "cat") == "--processes requires a POSIX system"


async def test_invalid_address_of_pages_exits_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    result = await Pool(monkeypatch, "", "--http", "x").finish()
    assert (result.code, "--http must be PORT or HOST:PORT" in result.err) == (ExitCode.USAGE, True)


@pytest.mark.parametrize(
    ("arguments", "stall"),
    [([], None), (["--timeout", "10"], 40.0), (["--timeout", "10", "--stall-timeout", "3"], 3.0)],
)
async def test_job_may_block_child_for_its_timeout_and_a_while(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], stall: float | None
) -> None:
    seen: list[Any] = []

    def make(clock: Any, start: Callable[..., Any], settings: Any) -> Any:
        seen.append(settings)
        return Supervisor(clock, start, settings)

    monkeypatch.setattr(worker_pool, "Supervisor", make)
    await Pool(monkeypatch, "exit 2", *arguments, processes=1).finish()
    assert [settings.stall_timeout for settings in seen] == [stall]


# Pages.


async def test_pages_of_children(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(monkeypatch, START + 'test "$TEST_READY" && echo "1 0 0 1 1 0" >$status;' + DRAIN, "--http", "0")
    url = await url_of(pool)
    assert await get(f"{url}/healthz") == (200, "ok\n")
    status, text = await get(f"{url}/readyz")
    assert (status, text.startswith("no child is ready\nchild 1 (process ")) == (503, True)
    monkeypatch.setenv("TEST_READY", "1")
    os.kill(os.getpid(), signal.SIGUSR2)
    await pool.wait_for("all children were replaced")
    assert await get(f"{url}/readyz") == (200, "ok\n")
    status, text = await get(f"{url}/metrics")
    assert status == 200
    for line in (
        'txgearman_work_children{state="ready"} 2.0',
        "txgearman_work_children_wanted 2.0",
        "txgearman_work_children_blocked 0.0",
        'txgearman_work_children_ended_total{reason="drained"} 2.0',
        'txgearman_work_children_ended_total{reason="exited"} 0.0',
        'txgearman_work_children_ended_total{reason="killed"} 0.0',
    ):
        assert f"\n{line}\n" in text
    with monkeypatch.context() as patch:
        patch.setattr(Supervisor, "is_well", False)
        assert await get(f"{url}/healthz") == (503, "children are not supervised\n")
    assert (await pool.finish(signal.SIGTERM)).code == ExitCode.DONE
    assert list(Path(os.environ["TMPDIR"]).glob("txgearman-metrics-*")) == []


@pytest.fixture(autouse=True)
def _directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


# Systemd.


async def test_pool_notifies_systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(worker_pool, "STATUS_INTERVAL", 0.02)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        received: list[str] = []

        def has_received(*states: str) -> bool:
            with suppress(BlockingIOError):
                received.append(systemd.recv(1000).decode())
            seen = [line for message in received for line in message.splitlines()]
            return set(states) <= set(seen)

        pool = Pool(monkeypatch, READY + DRAIN, processes=1)
        await until(lambda: has_received("READY=1"))
        status = "STATUS=children ready: 1 of 1; jobs running: 0; servers connected: 1 of 1"
        await until(lambda: has_received(status))
        os.kill(os.getpid(), signal.SIGUSR2)
        await until(lambda: has_received("RELOADING=1"))
        received.clear()
        await until(lambda: has_received("READY=1"))
        await pool.finish(signal.SIGTERM)
        await until(lambda: has_received("STOPPING=1"))
    assert "NOTIFY_SOCKET" not in os.environ


# Workers in processes of their own.


@pytest.mark.process
async def test_workers_in_processes_run_jobs_and_are_recycled(gearmand: Gearmand) -> None:
    """Each child is replaced after a job, and the metrics count all of them."""
    pool = RunningCommand(
        "work",
        *("-s", gearmand.address, "--processes", "2", "--jobs-per-process", "1", "--http", "0"),
        f"f={HERE}:process_id",
    )
    await pool.wait_for("is ready", 2)
    processes: set[bytes] = set()
    async with GearmanClient([gearmand.address]) as client:
        for number in range(3, 5):
            processes.add(await client.add_task("f", timeout=PROCESS_TIMEOUT))
            await pool.wait_for("is ready", number)
            await pool.wait_for("has ended: exit code 0", number - 2)
        assert len(processes) == 2
        status, text = await get(f"{await url_of(pool)}/metrics")
        assert (status, 'txgearman_jobs_total{function="f",outcome="done"} 2.0' in text) == (200, True)
        assert 'txgearman_work_children_ended_total{reason="drained"} 2.0' in text
    result = await pool.finish(signal.SIGTERM)
    assert result.code == ExitCode.DONE
    assert re.search(r"^\[[12]:\d+\] txgearman: connected to ", result.err, re.MULTILINE)


@pytest.mark.process
async def test_worker_of_a_program_runs_in_processes_and_counts_its_jobs(
    gearmand: Gearmand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_GEARMAND", gearmand.address)
    pool = RunningCommand("work", "--processes", "1", "--jobs-per-process", "2", "--app", f"{APPS}:make_worker")
    await pool.wait_for("is ready")
    async with GearmanClient([gearmand.address]) as client:
        assert await client.add_task("upper", b"abc", timeout=PROCESS_TIMEOUT) == b"ABC"
        assert await client.add_task("upper", b"abc", timeout=PROCESS_TIMEOUT) == b"ABC"
    await pool.wait_for("has ended: exit code 0")
    assert (await pool.finish(signal.SIGTERM)).code == ExitCode.DONE


@pytest.mark.process
async def test_no_child_outlives_a_killed_parent_and_running_jobs_may_end(gearmand: Gearmand, tmp_path: Path) -> None:
    go, pids = tmp_path / "go", tmp_path / "pids"
    script = f"echo $PPID >>{pids}; until test -e {go}; do sleep 0.01; done; echo done"
    with start_process(
        "work", "-q", "-s", gearmand.address, "--processes", "2", "f", "--", "sh", "-c", script
    ) as parent:
        async with GearmanClient([gearmand.address]) as client:
            tasks: list[Deferred[bytes]] = [client.add_task("f", timeout=PROCESS_TIMEOUT) for _ in range(2)]
            await until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
            parent.kill()
            parent.wait()
            go.touch()
            assert [await task for task in tasks] == [b"done\n", b"done\n"]
    children = [int(pid) for pid in pids.read_text().split()]
    assert len(set(children)) == 2
    await until(lambda: not any(map(is_alive, children)))


@pytest.mark.process
async def test_child_that_hangs_in_an_import_shows_where_and_ends_with_the_pool(
    gearmand: Gearmand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "hanging.py").write_text(f"import time\nopen({str(tmp_path / 'here')!r}, 'w')\ntime.sleep(1000)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    pool = RunningCommand("work", "-s", gearmand.address, "--processes", "1", "f=hanging:run")
    await until((tmp_path / "here").exists)
    os.kill(os.getpid(), signal.SIGUSR1)
    await until(
        lambda: re.search(r'^\[1:\d+\]   File ".*hanging.py", line [23] in <module>$', pool.stderr(), re.MULTILINE)
    )
    assert (await pool.finish(signal.SIGTERM)).code == ExitCode.DONE


@pytest.mark.process
async def test_child_that_a_job_blocks_is_replaced_and_its_job_goes_to_another(
    gearmand: Gearmand, tmp_path: Path
) -> None:
    """It reports its job before it is killed."""
    options = ["-s", gearmand.address, "--processes", "1", "--stall-timeout", "1"]
    pool = RunningCommand("work", *options, f"f={HERE}:block_once")
    await pool.wait_for("is ready")
    async with GearmanClient([gearmand.address]) as client:
        assert await client.add_task("f", str(tmp_path / "blocked").encode(), timeout=PROCESS_TIMEOUT) == b"done"
    result = await pool.finish(signal.SIGTERM)
    assert result.code == ExitCode.DONE
    assert "is ended, its stacks first: a job blocks its reactor for 1 s" in result.err
    assert "in block_once" in result.err
    assert "] txgearman: cut off f 127.0.0.1:" in result.err
