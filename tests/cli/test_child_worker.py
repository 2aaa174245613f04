"""The side of a child: what it reports of its worker, and how it follows its parent."""

from __future__ import annotations

import ctypes
import faulthandler
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from txgearman import GearmanClient, GearmanWorker, Job, NoServersAvailable
from txgearman.cli import child_worker, shared_metrics
from txgearman.cli.child_status import CHILD_VARIABLE, METRICS_VARIABLE, ChildOptions, ChildStatus
from txgearman.cli.child_worker import (
    PR_SET_PDEATHSIG,
    REPORT_INTERVAL,
    allow_stack_dumps,
    await_end_of_parent,
    child_observers,
    follow_parent,
    status_reports,
)
from txgearman.cli.exit_codes import ExitCode
from txgearman.cli.worker_run import EXIT_DELAY
from txgearman.observers import PROCESS_OBSERVERS
from txgearman.testing import MemoryJobServer

from ..daemons import Gearmand
from .harness import RunningCommand

OPTIONS = ChildOptions(place=1, name=0, parent=-1, control=-1, status=-1)


class Site:
    """A worker of a child, on a server in memory, and the pipe of its parent."""

    def __init__(self, server: MemoryJobServer, **options: Any) -> None:
        self.server = server
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self.writing, False)
        self._options = replace(OPTIONS, status=self.writing, **options)
        self.open_reports()
        self.worker = GearmanWorker([server.endpoint()], reactor=server.clock, max_jobs=2)
        self.worker.register_function("f", self.hold)
        self.running: list[Deferred[bytes]] = []
        self.client = self.server.client()

    def hold(self, job: Job) -> Deferred[bytes]:
        self.running.append(Deferred())
        return self.running[-1]

    def open_reports(self) -> None:
        self._reports = status_reports(self.server.clock, self._options)
        self._start = self._reports.__enter__()

    def start(self) -> None:
        self._start(self.worker)
        self.worker.startService()

    def submit(self, number: int = 1) -> None:
        self.client.add_tasks_bg("f", [b""] * number)
        self.server.advance()

    def end_job(self) -> None:
        self.running.pop(0).callback(b"")
        self.server.advance()

    def reports(self) -> list[ChildStatus | None]:
        """Return what was reported since the last call."""
        try:
            data = os.read(self._reading, 100_000)
        except BlockingIOError:
            return []
        return [ChildStatus.parse(line) for line in data.splitlines()]

    def close_reports(self) -> None:
        self._reports.__exit__(None, None, None)

    def close(self) -> None:
        for ended in self.running:
            ended.callback(b"")
        self.worker.stopService()
        self.server.advance()
        os.close(self._reading)
        os.close(self.writing)


@pytest.fixture
def server() -> Iterator[MemoryJobServer]:
    with MemoryJobServer() as server:
        yield server


@pytest.fixture
def make_site(server: MemoryJobServer) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(**options: int) -> Site:
        made.append(Site(server, **options))
        return made[-1]

    yield make
    for site in made:
        site.close_reports()
        site.close()


CONNECTING = ChildStatus(servers=1)
READY = ChildStatus(ready=True, servers_ready=1, servers=1)


def test_child_is_ready_once_its_functions_are_registered(make_site: Callable[..., Site]) -> None:
    site = make_site()
    site.start()
    site.server.advance()
    assert list(dict.fromkeys(site.reports())) == [CONNECTING, READY]
    site.server.advance(REPORT_INTERVAL)
    assert site.reports() == [READY]


def test_child_that_loses_its_server_is_not_ready_until_it_is_back(make_site: Callable[..., Site]) -> None:
    site = make_site()
    site.start()
    site.server.advance()
    fault = site.server.go_down()
    site.server.advance()
    assert site.reports()[-1] == CONNECTING
    fault.end()
    site.server.reconnect()
    assert site.reports()[-1] == READY


def test_child_whose_server_goes_before_it_is_ready_waits_for_the_next_one(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does with a function with a limit, which has a connection of its own."""
    site = make_site()
    waiting: Deferred[None] = Deferred()
    with monkeypatch.context() as patch:
        patch.setattr(site.worker, "when_ready", lambda: waiting)
        site.start()
        site.server.advance()
        waiting.errback(NoServersAvailable({}))
    assert site.reports()[-1] == replace(CONNECTING, servers_ready=1)
    site.server.drop_connections()
    site.server.reconnect()
    assert site.reports()[-1] == READY


def test_first_job_is_reported_when_it_starts_and_others_with_the_next_report(make_site: Callable[..., Site]) -> None:
    """So the parent knows that a job runs, should that block the reactor."""
    site = make_site()
    site.start()
    site.server.advance()
    site.reports()
    site.submit(2)
    assert site.reports() == [replace(READY, running=1)]
    site.end_job()
    assert site.reports() == []
    site.server.advance(REPORT_INTERVAL)
    assert site.reports() == [replace(READY, running=1, ended=1)]


def test_child_wants_successor_after_so_many_jobs(make_site: Callable[..., Site]) -> None:
    site = make_site(job_limit=2)
    site.start()
    site.submit(3)
    site.end_job()
    site.reports()
    site.end_job()
    assert site.reports()[-1] == replace(READY, running=0, ended=2, wants_successor=True) or site.running
    site.end_job()
    site.server.advance(REPORT_INTERVAL)
    assert site.reports()[-1] == replace(READY, ended=3, wants_successor=True)


def test_each_job_is_reported_where_they_are_counted(make_site: Callable[..., Site]) -> None:
    site = make_site(count=5)
    site.start()
    site.submit(1)
    site.reports()
    site.end_job()
    assert site.reports() == [replace(READY, ended=1)]


def test_lost_job_is_not_counted(make_site: Callable[..., Site]) -> None:
    site = make_site()
    site.start()
    site.submit(1)
    site.server.drop_connections()
    site.server.reconnect()
    assert site.reports()[-1] == replace(READY, running=1)  # again
    assert len(site.running) == 2


def test_last_state_is_reported_at_the_end(make_site: Callable[..., Site]) -> None:
    site = make_site()
    site.start()
    site.submit(1)
    site.end_job()
    site.reports()
    site.close_reports()
    assert site.reports() == [replace(READY, ended=1)]
    site.server.advance(10 * REPORT_INTERVAL)
    assert site.reports() == []
    site.open_reports()


def test_reports_that_nobody_reads_or_can_read_are_dropped(make_site: Callable[..., Site]) -> None:
    site = make_site()
    site.start()
    site.server.advance(REPORT_INTERVAL)
    site.reports()
    os.write(site.writing, b"x" * 65536)  # as many as a pipe takes
    site.server.advance(REPORT_INTERVAL)
    assert site.reports() == [None]


def test_single_worker_reports_nothing() -> None:
    with status_reports(None, None) as start:
        assert start(None) is None  # type: ignore[arg-type]  # whatever it gets
    assert PROCESS_OBSERVERS == []


# The command.


async def test_child_follows_its_parent_and_has_its_share_but_no_pages(
    gearmand: Gearmand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It has metrics of its own, in the directory of its parent."""
    followed: list[tuple[object, ...]] = []
    monkeypatch.setattr(child_worker, "follow_parent", lambda *given: followed.append(given))
    reading, writing = os.pipe()
    options = replace(OPTIONS, status=writing, count=1, metrics=str(tmp_path))
    monkeypatch.setenv(CHILD_VARIABLE, options.encode())
    arguments = ["-s", gearmand.address, "--processes", "5", "--count", "5", "--drain", "7", "--http", "0"]
    command = RunningCommand("work", *arguments, "f=tests.cli.jobs:shout")
    async with GearmanClient([gearmand.address]) as client:
        assert await client.add_task("f", b"x", timeout=10) == b"X"
    result = await command.finish()
    assert (result.code, "serving" in result.err) == (ExitCode.DONE, False)
    assert followed == [(options, 7.0)]
    assert CHILD_VARIABLE not in os.environ
    reports = [ChildStatus.parse(line) for line in os.read(reading, 100_000).splitlines()]
    assert reports[-1] is not None
    assert (reports[-1].ended, READY in reports) == (1, True)
    os.close(reading)
    os.close(writing)


async def test_child_with_a_worker_of_a_program_has_no_pages(
    gearmand: Gearmand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_worker, "follow_parent", lambda *_: None)
    monkeypatch.setenv("TEST_GEARMAND", gearmand.address)
    reading, writing = os.pipe()
    monkeypatch.setenv(CHILD_VARIABLE, replace(OPTIONS, status=writing).encode())
    command = RunningCommand("work", "--processes", "5", "--http", "0", "--app", "tests.cli.apps:make_worker")
    await command.wait_for("connected to")
    assert "serving" not in (await command.finish(signal.SIGTERM)).err
    assert ChildStatus.parse(os.read(reading, 100_000).splitlines()[0]) == CONNECTING
    os.close(reading)
    os.close(writing)


# Metrics.


async def test_command_of_child_does_not_write_into_its_metrics(
    gearmand: Gearmand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(child_worker, "follow_parent", lambda *_: None)
    monkeypatch.setenv(METRICS_VARIABLE, str(tmp_path))  # as `follow_parent` does
    reading, writing = os.pipe()
    monkeypatch.setenv(CHILD_VARIABLE, replace(OPTIONS, status=writing, count=1, metrics=str(tmp_path)).encode())
    script = f"echo ${{{METRICS_VARIABLE}-none}}"
    command = RunningCommand("work", "-s", gearmand.address, "--processes", "5", "f", "sh", "-c", script)
    async with GearmanClient([gearmand.address]) as client:
        assert await client.add_task("f", timeout=10) == b"none\n"
    assert (await command.finish()).code == ExitCode.DONE
    os.close(reading)
    os.close(writing)


def test_child_with_a_directory_has_an_observer_for_its_metrics() -> None:
    assert child_observers(None) == []
    assert child_observers(OPTIONS) == []
    assert len(child_observers(replace(OPTIONS, metrics="/nowhere"))) == 1


# The parent.


class Calls:
    """Stands for what ends this process, and records it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[object, ...]] = []
        monkeypatch.setattr(os, "kill", lambda *arguments: self.made.append(("kill", *arguments)))
        monkeypatch.setattr(os, "_exit", lambda *arguments: self.made.append(("exit", *arguments)))
        monkeypatch.setattr(time, "sleep", lambda *arguments: self.made.append(("sleep", *arguments)))


def test_end_of_parent_has_child_drain_and_then_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    reading, writing = os.pipe()
    os.write(writing, b"x")
    os.close(writing)
    await_end_of_parent(reading, 7.0)
    os.close(reading)
    assert calls.made == [
        ("kill", os.getpid(), signal.SIGHUP),
        ("sleep", 7.0 + 2 * EXIT_DELAY),
        ("exit", ExitCode.FAILED),
    ]


@pytest.fixture
def _signals() -> Iterator[None]:
    """The handlers of signals, which are those of this process, are as before."""
    numbers = signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2
    before = [signal.getsignal(number) for number in numbers]
    yield
    faulthandler.unregister(signal.SIGUSR1)
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize("orphan", [False, True])
def test_child_follows_its_parent(monkeypatch: pytest.MonkeyPatch, orphan: bool) -> None:
    calls = Calls(monkeypatch)
    requests: list[tuple[object, ...]] = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(prctl=lambda *given: requests.append(given)))
    monkeypatch.setattr(threading.Thread, "start", lambda thread: requests.append(thread._args))
    metrics: list[tuple[object, ...]] = []
    monkeypatch.setattr(shared_metrics, "ChildMetrics", lambda *given: metrics.append(given))
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    parent = os.getpid() if orphan else os.getppid()
    follow_parent(replace(OPTIONS, parent=parent, control=reading, status=writing, metrics="/m" * orphan), 7.0)
    assert requests == [(reading, 7.0), (PR_SET_PDEATHSIG, signal.SIGHUP)]
    assert calls.made == [("kill", os.getpid(), signal.SIGHUP)] * orphan
    assert metrics == [("/m", 1, 0, parent)] * orphan
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    assert not os.get_inheritable(reading)
    assert not os.get_blocking(writing)
    assert sys.stdout.line_buffering
    os.close(reading)
    os.close(writing)


@pytest.mark.usefixtures("_signals")
def test_child_follows_its_parent_by_the_pipe_alone_on_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(sys, "stdout", object())
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread))
    monkeypatch.setattr(ctypes, "CDLL", None)
    reading, writing = os.pipe()
    follow_parent(replace(OPTIONS, parent=os.getppid(), control=reading, status=writing), 7.0)
    assert len(started) == 1
    os.close(reading)
    os.close(writing)


@pytest.mark.usefixtures("_signals")
def test_stacks_are_written_at_the_signal(capfd: pytest.CaptureFixture[str]) -> None:
    allow_stack_dumps()
    os.kill(os.getpid(), signal.SIGUSR1)
    assert "test_stacks_are_written_at_the_signal" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL
