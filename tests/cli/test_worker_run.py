"""Runs of a worker: how they end, what becomes of running jobs, and what is reported of those that were cut off."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater

from txgearman import GearmanClient, Job
from txgearman.cli.exit_codes import ExitCode
from txgearman.cli.job_tracker import JobTracker
from txgearman.cli.terminal import Terminal
from txgearman.cli.worker_run import EXIT_DELAY, WorkerRun
from txgearman.testing import MemoryJobServer

from ..watched_log import WatchedLog
from .harness import reactor
from .test_processes import until


class Site:
    """A server, a client, and a run of a worker whose function ``f`` holds its jobs.

    :ivar held: the jobs, with what ends them.
    :ivar running, gate: of a job in a thread: whether it runs, and what ends it.
    """

    def __init__(
        self, errors: Path, drain_timeout: float = 20.0, *, threaded: bool = False, is_child: bool = False
    ) -> None:
        self.server = MemoryJobServer(reactor)
        self.client: GearmanClient = self.server.client()
        self._tasks: list[Deferred[bytes]] = []
        self.held: dict[bytes, tuple[Job, Deferred[bytes]]] = {}
        self._errors = errors
        self._file = errors.open("wb")
        self.terminal = Terminal(reactor, stderr=self._file.fileno())
        worker = self.server.worker(drain_timeout=2 * drain_timeout, max_jobs=3)
        tracker = JobTracker(reactor, threaded=threaded, verbose=False)
        self.run = WorkerRun(self.terminal, worker, tracker, drain_timeout=drain_timeout, is_child=is_child)
        self.gate = threading.Event()
        self.running = threading.Event()
        function: Callable[[Job], object] = self._block if threaded else self._hold
        worker.register_function("f", tracker.watch(function), threaded=threaded)
        self.finished: Deferred[ExitCode] = ensureDeferred(self.run.run())

    def _block(self, _: Job) -> object:
        self.running.set()
        self.gate.wait()
        return None

    def _hold(self, job: Job) -> Deferred[bytes]:
        ended: Deferred[bytes] = Deferred()
        self.held[job.workload] = job, ended
        return ended

    async def submit(self, *workloads: bytes) -> list[Deferred[bytes]]:
        """Submit jobs, and wait until they run."""
        tasks = [self.client.add_task("f", workload) for workload in workloads]
        self._tasks += tasks
        await until(lambda: self.held.keys() >= set(workloads))
        return tasks

    def errors(self) -> list[str]:
        return self._errors.read_text().splitlines()

    async def close(self) -> None:
        for task in self._tasks:
            task.addErrback(lambda _: None)  # of those that were cut off
        self._file.close()
        await self.server.close()


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it has no annotations
async def sites(tmp_path: Path) -> AsyncIterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(*arguments: Any, **options: Any) -> Site:
        made.append(Site(tmp_path / "errors", *arguments, **options))
        return made[-1]

    yield make
    for site in made:
        await site.close()


@pytest.mark.parametrize(("is_child", "hint"), [(False, "; a second signal exits at once"), (True, "")])
async def test_run_that_is_cancelled_lets_jobs_end(
    sites: Callable[..., Site],
    is_child: bool,
    hint: str,
) -> None:
    """Signals go to the parent of a child, whose log does not speak of a second one."""
    site = sites(is_child=is_child)
    (task,) = await site.submit(b"a")
    with WatchedLog() as log:
        site.finished.cancel()  # as a signal does
    assert f"waiting for running jobs: 1{hint}" in log.texts()
    site.held[b"a"][1].callback(b"result")
    assert await task == b"result"
    assert await site.finished is ExitCode.DONE
    assert site.errors() == []


async def test_run_reports_its_states_to_systemd(
    sites: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        site = sites()
        (task,) = await site.submit(b"a")
        site.run.stop()
        await deferLater(reactor, 0)
        site.held[b"a"][1].callback(b"result")
        assert await site.finished is ExitCode.DONE
        ready, stopping = (manager.recv(4096) for _ in range(2))
    assert ready == b"READY=1\nSTATUS=jobs running: 0; servers connected: 1 of 1"
    assert stopping == b"STOPPING=1\nSTATUS=waiting for running jobs: 1"
    assert await task == b"result"


async def test_signal_after_stop_lets_jobs_end(sites: Callable[..., Site]) -> None:
    site = sites()
    (task,) = await site.submit(b"a")
    site.run.stop()  # as after the last job of --count
    await deferLater(reactor, 0)
    site.finished.cancel()
    site.held[b"a"][1].callback(b"result")
    assert await task == b"result"
    assert await site.finished is ExitCode.DONE
    assert site.errors() == []


async def test_stop_ends_run_once(sites: Callable[..., Site]) -> None:
    site = sites()
    site.run.stop(ExitCode.NOT_STARTED)
    site.run.stop(ExitCode.DONE)
    assert await site.finished is ExitCode.NOT_STARTED


async def test_jobs_that_run_at_end_of_drain_are_cut_off_and_reported(sites: Callable[..., Site]) -> None:
    site = sites(0.02)
    await site.submit(b"a", b"b")
    site.finished.cancel()
    assert await site.finished is ExitCode.FAILED
    jobs = [str(job) for job, _ in site.held.values()]
    assert site.errors() == [
        f"txgearman: cut off {job}, which still ran: its server gives it to another worker" for job in jobs
    ]
    await until(lambda: sorted(site.server.queued("f")) == [b"a", b"b"])


async def test_thread_that_runs_at_end_of_drain_is_cut_off(
    sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program then exits without it."""
    monkeypatch.setattr(os, "_exit", lambda _: None)
    site = sites(0.02, threaded=True)
    site.client.add_task("f").addErrback(lambda _: None)
    await until(lambda: site.running.is_set())
    site.finished.cancel()
    assert await site.finished is ExitCode.FAILED
    site.terminal.exit(ExitCode.FAILED)
    assert len(site.errors()) == 1
    site.gate.set()


async def test_returned_job_ends_run_without_the_drain_once_others_have_ended(sites: Callable[..., Site]) -> None:
    site = sites()
    _, other = await site.submit(b"a", b"b")
    site.run.return_job(site.held[b"a"][0])
    site.run.stop(ExitCode.NOT_STARTED)
    await deferLater(reactor, 0)
    site.held[b"b"][1].callback(b"result")
    assert await other == b"result"
    assert await site.finished is ExitCode.NOT_STARTED
    await until(lambda: site.server.queued("f") == [b"a"])
    assert site.errors() == []


async def test_returned_job_alone_ends_run_at_once(sites: Callable[..., Site]) -> None:
    site = sites()
    await site.submit(b"a")
    site.run.stop(ExitCode.NOT_STARTED)
    site.run.return_job(site.held[b"a"][0])
    assert await site.finished is ExitCode.NOT_STARTED
    await until(lambda: site.server.queued("f") == [b"a"])


async def test_immediate_exit_reports_running_jobs(sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> None:
    """At a second signal, or after the limit that the run sets for the case that a job blocks the reactor."""
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    site = sites()
    assert site.terminal.stop_limit == 20.0 + EXIT_DELAY
    await site.submit(b"a")
    site.terminal.exit(1)
    assert exits == [1]
    assert [line.partition(" f ")[0] for line in site.errors()] == ["txgearman: cut off"]
    site.run.stop()
    site.held[b"a"][1].callback(b"")
    await site.finished


async def test_immediate_exit_without_running_jobs_reports_results(
    sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "_exit", lambda _: None)
    site = sites()
    site.terminal.exit(1)
    assert site.errors() == ["txgearman: exiting before servers have taken all results"]
    site.run.stop()
    await site.finished
