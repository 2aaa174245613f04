"""The command as operators run it: signals to workers of a real gearmand, closed descriptors, full disks, systemd."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from txgearman.cli.exit_codes import ExitCode
from txgearman.cli.reactor_loop import REPEAT_TIME

from ..daemons import Gearmand
from ..processes import ROOT, Running
from ..programs import open_terminal
from . import harness
from .harness import interrupt, is_alive, start_process

pytestmark = pytest.mark.process("gearmand")

JOBS = "tests.cli.jobs"


@pytest.fixture
def server() -> Iterator[Gearmand]:
    with Gearmand() as server:
        yield server


def wait_until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + harness.PROCESS_TIMEOUT
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.005)
    return value


def submit(server: Gearmand, *arguments: str | bytes, stdin: bytes = b"") -> harness.Result:
    return harness.run_process("submit", "-s", server.address, *arguments, stdin=stdin)


def forked(*arguments: str) -> Running:
    """Return the command, running beside the process that a test is about."""
    return Running("-m", "txgearman", *arguments)


def submit_until_running(server: Gearmand, function: str) -> str:
    """Submit a background job, and wait until a worker runs it; return its handle."""
    handle = submit(server, "-b", function, "").out.decode().strip()
    wait_until(lambda: f"{function}\t1\t1\t1" in server.admin("status"))
    return handle


def read_pid(path: Path) -> int:
    """Wait for a program to write its ID, as a line."""
    return int(wait_until(lambda: path.exists() and path.read_text().endswith("\n") and path.read_text()))


def until_dead(pid: int) -> None:
    wait_until(lambda: not is_alive(pid))


def sleeper(folder: Path, then: str = "wait") -> list[str]:
    """Return a command that starts a child, writes the IDs of both, and does not end."""
    script = f"echo $$ >{folder}/leader; sleep 1000 & echo $! >{folder}/child; {then}"
    return ["--", "sh", "-c", script]


# Signals.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_first_signal_lets_jobs_end(server: Gearmand, tmp_path: Path, number: int) -> None:
    """The exit code is 0, which systemd and containers take for success; after Ctrl-C, that of shells."""
    script = f"touch {tmp_path}/begun; until test -e {tmp_path}/go; do sleep 0.01; done; echo done"
    with start_process("work", "-s", server.address, "f", "--", "sh", "-c", script) as worker:
        with forked("submit", "-s", server.address, "f", "") as client:
            wait_until((tmp_path / "begun").exists)
            worker.send_signal(number)
            assert "waiting for running jobs: 1" in wait_until(lambda: next_line(worker, "waiting"))
            (tmp_path / "go").touch()
            assert (client.end(), client.said) == (0, "done\n")
        assert worker.wait(harness.PROCESS_TIMEOUT) == (130 if number == signal.SIGINT else 0)


def next_line(started: Any, text: str) -> str:
    """Read lines that a process writes to standard error, up to one with the text."""
    line = started.stderr.readline().decode()
    return line if text in line else ""


def test_hangup_does_not_end_worker_of_nohup(server: Gearmand) -> None:
    with start_process(
        "work", "-s", server.address, "f", "cat", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ) as worker:
        assert submit(server, "f", "one").out == b"one"
        worker.send_signal(signal.SIGHUP)
        assert submit(server, "f", "two").out == b"two"
        assert interrupt(worker, signal.SIGTERM).code == 0


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGUSR1, signal.SIGALRM])
def test_other_signal_ends_worker_and_its_commands(server: Gearmand, tmp_path: Path, number: int) -> None:
    with start_process(
        *("work", "-s", server.address, "f", *sleeper(tmp_path)),
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a shell's background job ignores SIGQUIT
    ) as worker:
        submit_until_running(server, "f")
        child = read_pid(tmp_path / "child")
        assert interrupt(worker, number).code == -number
    until_dead(child)


@pytest.mark.parametrize("ending", ["second signal", "end of drain"])
@pytest.mark.parametrize("leader", ["wait", "exit"])
def test_end_of_worker_kills_process_groups_of_its_commands(
    server: Gearmand, tmp_path: Path, ending: str, leader: str
) -> None:
    """Also where the command has exited and its child holds the output."""
    drain = "300ms" if ending == "end of drain" else "1h"
    with start_process("work", "--drain", drain, "-s", server.address, "f", *sleeper(tmp_path, leader)) as worker:
        handle = submit_until_running(server, "f")
        child = read_pid(tmp_path / "child")
        worker.send_signal(signal.SIGTERM)
        if ending == "second signal":
            wait_until(lambda: next_line(worker, "waiting"))
            time.sleep(REPEAT_TIME)  # or else it is the first one once more
            worker.send_signal(signal.SIGTERM)
        _, errors = worker.communicate(timeout=harness.PROCESS_TIMEOUT)
    assert worker.returncode == (143 if ending == "second signal" else ExitCode.FAILED)
    assert f"txgearman: cut off f {handle}, which still ran: its server gives it to another worker\n" in errors.decode()
    until_dead(child)
    wait_until(lambda: server.admin("status") == ["f\t1\t0\t0", "."])


@pytest.mark.parametrize("options", [["--threaded"], []], ids=["thread", "reactor"])
def test_function_that_blocks_does_not_delay_end_of_drain(server: Gearmand, options: list[str]) -> None:
    with start_process("work", *options, "--drain", "500ms", "-s", server.address, f"f={JOBS}:block") as worker:
        handle = submit_until_running(server, "f")
        start = time.monotonic()
        result = interrupt(worker, signal.SIGTERM)
        seconds = time.monotonic() - start
    assert result.code == ExitCode.FAILED
    assert f"txgearman: cut off f {handle}, which still ran: its server gives it to another worker\n" in result.err
    assert 0.5 < seconds < 4
    wait_until(lambda: server.admin("status") == ["f\t1\t0\t0", "."])


@pytest.mark.parametrize(
    "arguments",
    [["server", "--port", "0"], ["metrics", "--listen", "0"], ["work", "f", "cat"]],
    ids=["server", "metrics", "work"],
)
def test_service_that_sigterm_ends_exits_with_0(server: Gearmand, arguments: list[str]) -> None:
    with start_process(*arguments, environment={"GEARMAN_SERVERS": server.address}) as started:
        if arguments[0] == "work":
            wait_until(lambda: "f\t0\t0\t1" in server.admin("status"))
        else:
            assert started.stdout.readline()
        assert interrupt(started, signal.SIGTERM).code == 0


def test_lost_terminal_ends_worker_and_lets_its_command_end(server: Gearmand, tmp_path: Path) -> None:
    """The terminal closes: SIGHUP arrives, and nothing can be written to it any more."""
    script = f"touch {tmp_path}/begun; until test -e {tmp_path}/go; do sleep 0.01; done; echo done"
    master, slave = open_terminal()
    arguments = [sys.executable, "-m", "txgearman", "work", "-s", server.address, "f", "--", "sh", "-c", script]
    with forked("submit", "-s", server.address, "f", "") as client:
        worker = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *arguments], cwd=ROOT, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        try:
            wait_until((tmp_path / "begun").exists)
            os.close(master)
            (tmp_path / "go").touch()
            assert (client.end(), client.said) == (0, "done\n")
            assert worker.wait(harness.PROCESS_TIMEOUT) == 0
        finally:
            worker.kill()
            worker.wait()


# Standard streams.


def test_workload_is_read_from_pipe(server: Gearmand) -> None:
    with forked("work", "-q", "-s", server.address, "up", "--", "tr", "a-z", "A-Z"):
        for arguments, result in ((), b"HELLO\n"), (("",), b""):
            with start_process("submit", "-s", server.address, "up", *arguments, stdin=subprocess.PIPE) as client:
                assert client.communicate(b"hello\n", timeout=harness.PROCESS_TIMEOUT) == (result, b"")


def test_pipe_without_input_is_reported_after_two_seconds(server: Gearmand) -> None:
    with (
        forked("work", "-q", "-s", server.address, "up", "--", "tr", "a-z", "A-Z"),
        start_process("submit", "-s", server.address, "up", stdin=subprocess.PIPE) as client,
    ):
        line = client.stderr.readline()
        assert line == b"txgearman: reading the workload from standard input; give '' for none\n"
        assert client.communicate(b"late", timeout=harness.PROCESS_TIMEOUT) == (b"LATE", b"")


@pytest.mark.parametrize("arguments", [["submit", "f", "x"], ["version"], ["--help"], ["work", "--help"]])
def test_full_disk_is_one_line_and_exit_code_74(server: Gearmand, arguments: list[str]) -> None:
    with (
        Path("/dev/full").open("wb") as full,
        forked("work", "-q", "-s", server.address, "f", "cat"),
        start_process(*arguments, stdout=full, environment={"GEARMAN_SERVERS": server.address}) as started,
    ):
        _, errors = started.communicate(timeout=harness.PROCESS_TIMEOUT)
    assert (started.returncode, errors) == (74, b"txgearman: can't write the output: No space left on device\n")


@pytest.mark.parametrize("descriptors", [(1,), (0, 1), (0, 1, 2)])
def test_closed_descriptors_get_no_connection(server: Gearmand, descriptors: tuple[int, ...]) -> None:
    """What is printed goes nowhere, and not into a connection that has got the number."""

    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    with (
        forked("work", "-q", "-s", server.address, "f", "cat"),
        start_process("submit", "-s", server.address, "f", "x", preexec_fn=close) as started,
    ):
        _, errors = started.communicate(timeout=harness.PROCESS_TIMEOUT)
    assert (started.returncode, errors) == (0, b"")


# Under systemd.

UNIT = (ROOT / "examples" / "deploy" / "command-worker.service").read_text("utf-8")


def test_stop_of_unit_lets_jobs_end_and_then_ends_all(server: Gearmand, tmp_path: Path) -> None:
    """What systemd does with KillMode=mixed, by hand: SIGTERM for the worker; after a time SIGKILL for all."""
    (arguments,) = re.findall(r"^ExecStart=/usr/local/bin/txgearman (work .*) -- ", UNIT, re.MULTILINE)
    assert "KillMode=mixed" in UNIT
    drain = int(re.findall(r"--drain (\d+)s", arguments)[0])
    assert drain + 5 < int(re.findall(r"^TimeoutStopSec=(\d+)s", UNIT, re.MULTILINE)[0])
    with start_process(
        *arguments.split(), *sleeper(tmp_path), environment={"GEARMAN_SERVERS": server.address}
    ) as worker:
        handle = submit(server, "-b", "resize", "").out
        assert handle
        leader, child = read_pid(tmp_path / "leader"), read_pid(tmp_path / "child")
        worker.send_signal(signal.SIGTERM)
        wait_until(lambda: next_line(worker, "waiting"))
        assert is_alive(child)
        worker.kill()
        assert os.getpgid(child) == leader  # a process group that systemd finds by the control group
        os.killpg(leader, signal.SIGKILL)
    until_dead(child)


# Many jobs.


def test_many_jobs_take_no_threads_and_leave_nothing(server: Gearmand, tmp_path: Path) -> None:
    """Two hundred jobs, 50 at a time. A command has three pipes while it runs."""
    script = f"touch {tmp_path}/$GEARMAN_UNIQUE; until test -e {tmp_path}/go; do sleep 0.05; done; cat"
    with start_process("work", "-q", "--jobs", "50", "-s", server.address, "f", "--", "sh", "-c", script) as worker:
        wait_until(lambda: "f\t0\t0\t1" in server.admin("status"))
        before = usage(worker.pid)
        with start_process("submit", "-n", "-j", "200", "-s", server.address, "f", stdin=subprocess.PIPE) as client:
            lines = b"".join(b"%d\n" % number for number in range(200))
            client.stdin.write(lines)
            client.stdin.close()
            client.stdin = None
            wait_until(lambda: "f\t200\t50\t1" in server.admin("status"))
            wait_until(lambda: usage(worker.pid)["processes"] == 50)
            # The input of each command has been written; a command that is just being started takes some more.
            wait_until(lambda: usage(worker.pid)["descriptors"] <= before["descriptors"] + 2 * 50)
            during = usage(worker.pid)
            (tmp_path / "go").touch()
            assert client.communicate(timeout=60)[0] == lines
        wait_until(lambda: usage(worker.pid) == before)
        assert interrupt(worker, signal.SIGTERM).code == 0
    assert during["threads"] == before["threads"]


def usage(pid: int) -> dict[str, int]:
    """Return how many threads, descriptors and child processes a process has."""
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    children = " ".join((task / "children").read_text() for task in tasks)
    descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    return {"threads": len(tasks), "descriptors": len(descriptors), "processes": len(children.split())}
