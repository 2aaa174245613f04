"""The tracker of jobs: which run, how they end, and the line for each, for every kind of function."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer

from txgearman import GearmanClient, GearmanWorker, Job, JobFailed, TaskException, TaskFailed
from txgearman.cli.job_tracker import JobTracker
from txgearman.testing import MemoryJobServer

from ..conftest import Failures
from .harness import reactor
from .test_processes import until


@implementer(ILogObserver)
class Site:
    """A server, a client, and a worker whose functions are watched.

    :ivar lines: the lines of the log, without handles and seconds.
    :ivar notices: what the tracker has called.
    """

    def __init__(self) -> None:
        self.server = MemoryJobServer(reactor)
        self.client: GearmanClient = self.server.client()
        self.worker: GearmanWorker = self.server.worker(drain_timeout=0)
        self.lines: list[str] = []
        self.notices: list[str] = []
        self.tracker = self.make_tracker()

    def make_tracker(self, *, threaded: bool = False) -> JobTracker:
        tracker = JobTracker(reactor, threaded=threaded, verbose=True)
        tracker.on_start = lambda: self.notices.append("start")
        tracker.on_end = lambda: self.notices.append("end")
        return tracker

    def register(self, function: Callable[[Job], object], **options: Any) -> None:
        if options.get("threaded"):
            self.tracker = self.make_tracker(threaded=True)
        self.worker.register_function("f", self.tracker.watch(function), **options)

    def __call__(self, event: LogEvent) -> None:
        if event["log_namespace"] == "txgearman.cli.job_tracker":
            words = formatEvent(event).replace(f" {event['seconds']:.3f} s,", "").split(" ")
            self.lines.append(" ".join([words[0], *words[2:]]))


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it has no annotations
async def site() -> AsyncIterator[Site]:
    site = Site()
    globalLogPublisher.addObserver(site)
    yield site
    globalLogPublisher.removeObserver(site)
    await site.server.close()


def plain(_: Job) -> bytes:
    return b"abc"


def deferred(_: Job) -> Deferred[bytes]:
    return deferLater(reactor, 0, lambda: b"abc")


async def coroutine(_: Job) -> bytes:
    await deferLater(reactor, 0)
    return b"abc"


async def coroutine_with_deferred(_: Job) -> Deferred[bytes]:
    return succeed(b"abc")


def generator(_: Job) -> Generator[bytes, None, bytes]:
    yield b"a"
    return b"bc"


async def async_generator(_: Job) -> AsyncIterator[bytes]:
    yield b"a"
    await deferLater(reactor, 0)
    yield b"bc"


KINDS = [plain, deferred, coroutine, coroutine_with_deferred, generator, async_generator]


@pytest.mark.parametrize("function", KINDS)
async def test_job_of_each_kind_of_function_is_tracked(site: Site, function: Callable[[Job], object]) -> None:
    running: list[list[Job]] = []
    site.tracker.on_start = lambda: running.append(site.tracker.running)
    site.register(function)
    chunks = [chunk async for chunk in site.client.stream("f", b"workload")]
    assert b"".join(chunks) == b"abc"
    assert [job.workload for (job,) in running] == [b"workload"]
    assert site.tracker.running == []
    assert site.lines == ["f done, 8 bytes in, 3 bytes out"]


@pytest.mark.parametrize("function", [plain, generator])
async def test_job_in_thread_is_tracked(site: Site, function: Callable[[Job], object]) -> None:
    threads: list[threading.Thread] = []
    site.register(function, threaded=True)
    site.tracker.on_end = lambda: threads.append(threading.current_thread())
    assert b"".join([chunk async for chunk in site.client.stream("f")]) == b"abc"
    assert site.lines == ["f done, 0 bytes in, 3 bytes out"]
    assert (site.notices, threads) == (["start"], [threading.main_thread()])


@pytest.mark.parametrize("function", [deferred, coroutine, async_generator])
async def test_function_that_cant_run_in_thread_is_refused_as_without_tracker(
    site: Site, function: Callable[[Job], object], logged_failures: Failures
) -> None:
    site.register(function, threaded=True)
    with pytest.raises(TaskException) as failure:
        await site.client.add_task("f")
    assert failure.value.data.startswith(b"TypeError: a function that is threaded can't return a")
    assert site.tracker.running == []
    logged_failures.flush(TypeError)


@pytest.mark.parametrize(("error", "word"), [(JobFailed("no"), "failed"), (KeyError("no"), "raised KeyError")])
@pytest.mark.parametrize("kind", ["plain", "deferred", "coroutine", "generator", "async generator"])
async def test_job_that_raises_is_tracked(
    site: Site, kind: str, error: Exception, word: str, logged_failures: Failures
) -> None:
    def fail() -> bytes:
        raise error

    async def coroutine(_: Job) -> bytes:
        return fail()

    def generator(_: Job) -> Iterator[bytes]:
        yield fail()

    async def async_generator(_: Job) -> AsyncIterator[bytes]:
        yield fail()

    functions: dict[str, Callable[[Job], object]] = {
        "plain": lambda _: fail(),
        "deferred": lambda _: succeed(None).addCallback(lambda _: fail()),
        "coroutine": coroutine,
        "generator": generator,
        "async generator": async_generator,
    }
    site.register(functions[kind])
    with pytest.raises(TaskFailed):
        await site.client.add_task("f")
    assert site.lines == [f"f {word}, 0 bytes in, 0 bytes out"]
    assert (site.tracker.running, site.notices) == ([], ["start", "end"])
    logged_failures.flush(KeyError)


async def test_chunk_that_is_no_bytes_is_refused_as_without_tracker(site: Site, logged_failures: Failures) -> None:
    def function(_: Job) -> Iterator[Any]:
        yield "text"

    site.register(function)
    with pytest.raises(TaskException):
        await site.client.add_task("f")
    assert site.lines == ["f raised GeneratorExit, 0 bytes in, 0 bytes out"]
    logged_failures.flush(TypeError)


async def test_job_that_ends_itself_has_that_outcome(site: Site) -> None:
    def function(job: Job) -> None:
        job.fail() if job.workload else job.complete(b"")

    site.register(function)
    assert await site.client.add_task("f") == b""
    with pytest.raises(TaskFailed):
        await site.client.add_task("f", b"x")
    assert site.lines == ["f done, 0 bytes in, 0 bytes out", "f failed, 1 bytes in, 0 bytes out"]


@pytest.mark.parametrize("outcome", ["timed out", "lost", "cut off"])
async def test_job_that_is_cancelled_has_its_reason_as_outcome(
    site: Site, outcome: str, logged_failures: Failures
) -> None:
    site.register(lambda _: Deferred(), timeout=0.01 if outcome == "timed out" else None)
    site.client.add_task("f").addErrback(lambda _: None)
    await until(lambda: site.notices)
    if outcome == "lost":
        site.server.drop_connections()
    if outcome == "cut off":
        await site.worker.stopService()
    await until(lambda: len(site.notices) == 2)
    assert site.lines == [f"f {outcome}, 0 bytes in, 0 bytes out"]
    logged_failures.flush(Exception)


async def test_sent_data_is_counted_while_job_runs(site: Site) -> None:
    jobs: list[Job] = []

    def function(job: Job) -> bytes:
        jobs.append(job)
        site.tracker.data_sent(job, 10)
        return b"abc"

    site.register(function)
    await site.client.add_task("f")
    site.tracker.data_sent(jobs[0], 10)  # too late
    assert site.lines == ["f done, 0 bytes in, 13 bytes out"]


async def test_no_line_without_verbose(site: Site) -> None:
    site.tracker = JobTracker(reactor, threaded=False, verbose=False)
    site.register(plain)
    await site.client.add_task("f")
    assert site.lines == []
