"""Threads of a worker: the maximum of the reactor's pool, and threads that send more than a server takes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python.threadpool import ThreadPool

from txgearman import GearmanWorker, Job, JobEnded
from txgearman.testing import MemoryJobServer
from txgearman.worker.threads import MAX_UNSENT, AddedThreads

from ..conftest import Failures
from .harness import do_nothing, group_of, never_end, slots_held
from .job_harness import HANG, ServerConnection, make_job

reactor: Any = global_reactor

# The maximum of the reactor's pool.


def make_threads(pool: ThreadPool, count: int) -> AddedThreads:
    made: Any = SimpleNamespace(getThreadPool=lambda: pool)
    return AddedThreads(made, count)


def test_added_threads_are_taken_away_again() -> None:
    """Others, such as the resolver of names, need the threads that the pool has by itself."""
    pool = ThreadPool(0, 10)
    first, second = make_threads(pool, 100), make_threads(pool, 20)
    first.add()
    first.add()
    second.add()
    assert pool.max == 130
    first.remove()
    first.remove()
    assert pool.max == 30
    second.remove()
    assert pool.max == 10


def test_maximum_that_others_set_meanwhile_stays() -> None:
    pool = ThreadPool(0, 10)
    before, after = make_threads(pool, 5), make_threads(pool, 7)
    before.add()
    pool.adjustPoolsize(maxthreads=40)
    after.add()
    before.remove()
    assert pool.max == 47
    after.remove()
    assert pool.max == 40


def test_maximum_is_not_below_minimum() -> None:
    """Twisted would raise an AssertionError out of the worker's stop."""
    pool = ThreadPool(0, 10)
    threads = make_threads(pool, 5)
    threads.add()
    pool.adjustPoolsize(minthreads=12)
    threads.remove()
    assert pool.max == 12


@pytest.fixture
def thread_pool() -> ThreadPool:
    made: ThreadPool = reactor.getThreadPool()
    return made


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await deferLater(reactor, 0.001)


async def test_pool_has_threads_for_max_jobs_while_worker_runs(thread_pool: ThreadPool) -> None:
    server, before = MemoryJobServer(reactor), thread_pool.max
    worker = GearmanWorker([server.endpoint()], max_jobs=25)
    worker.register_function("one", do_nothing, threaded=True)
    worker.register_function("another", do_nothing, threaded=True, max_jobs=3)
    assert thread_pool.max == before
    for _ in range(2):
        worker.startService()
        assert thread_pool.max == before + 25
        await worker.stopService()
        assert thread_pool.max == before
    await server.close()


async def test_function_that_is_registered_after_start_adds_threads(thread_pool: ThreadPool) -> None:
    server, before = MemoryJobServer(reactor), thread_pool.max
    worker = server.worker(max_jobs=25)
    worker.register_function("plain", do_nothing)
    assert thread_pool.max == before
    worker.register_function("threaded", do_nothing, threaded=True)
    assert thread_pool.max == before + 25
    await server.close()
    assert thread_pool.max == before


async def test_max_jobs_changes_added_threads(thread_pool: ThreadPool) -> None:
    server, before = MemoryJobServer(reactor), thread_pool.max
    worker = server.worker(max_jobs=3)
    worker.register_function("threaded", do_nothing, threaded=True)
    found = []
    for max_jobs in (20, 4):
        worker.max_jobs = max_jobs
        found.append(thread_pool.max - before)
    await worker.stopService()
    worker.max_jobs = 7
    found.append(thread_pool.max - before)
    worker.startService()
    found.append(thread_pool.max - before)
    await server.close()
    assert found == [20, 4, 0, 7]


async def test_thread_that_outlives_stop_keeps_threads_added(thread_pool: ThreadPool) -> None:
    """It takes up one of them."""
    server, before, thread = MemoryJobServer(reactor), thread_pool.max, Thread()
    worker = server.worker(drain_timeout=0)
    worker.register_function("work", thread, threaded=True)
    await server.client().add_task_bg("work")
    await until(thread.started.is_set)
    server.drop_connections()
    await worker.stopService()
    assert (thread_pool.max, slots_held(worker)) == (before + 10, 1)
    thread.gate.set()
    await until(lambda: not slots_held(worker))
    assert thread_pool.max == before
    await server.close(verify=False)


# Threads that outlive the drain of their worker. They can't be cancelled.


class Thread:
    """A function whose jobs end when the test says so."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.gate = threading.Event()

    def __call__(self, job: Job) -> bytes:
        self.started.set()
        self.gate.wait(HANG)
        return b"by the thread"


async def test_thread_outlives_drain_and_its_result_is_sent() -> None:
    """Its job is not run by another worker at the same time. What can be cancelled is given to others at once."""
    server, threads = MemoryJobServer(reactor), [Thread(), Thread()]
    worker, client = server.worker(drain_timeout=0), server.client()
    for number, thread in enumerate(threads):
        worker.register_function(f"thread {number}", thread, threaded=True)
    worker.register_function("cancelled", never_end)
    tasks = [client.add_task(name) for name in ("thread 0", "thread 1", "cancelled")]
    await until(lambda: len(worker.running_jobs) == 3 and all(thread.started.is_set() for thread in threads))
    stopped = worker.stopService()
    other = server.worker()
    for name in ("thread 0", "thread 1", "cancelled"):
        other.register_function(name, lambda job: b"by another")
    assert await tasks[2] == b"by another"
    for thread, task in zip(threads, tasks, strict=False):
        assert not stopped.called
        thread.gate.set()
        assert await task == b"by the thread"
    await stopped
    await server.close()


ENDS_OF_THREADS: dict[str, Callable[[MemoryJobServer], object]] = {
    "time-out": lambda server: None,
    "lost connection": MemoryJobServer.drop_connections,
}


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("end", ENDS_OF_THREADS)
async def test_worker_stops_when_job_of_thread_ends_before_its_function(end: str, logged_failures: Failures) -> None:
    """No result can be sent any more. No timer is left."""
    server, thread = MemoryJobServer(reactor), Thread()
    worker = server.worker(drain_timeout=0)
    worker.register_function("work", thread, threaded=True, timeout=0.05 if end == "time-out" else 1234.0)
    await server.client().add_task_bg("work")
    await until(thread.started.is_set)
    (job,) = worker.running_jobs
    group = group_of(worker)
    stopped = worker.stopService()
    await until(lambda: group.awaited)
    ENDS_OF_THREADS[end](server)
    await stopped
    assert (worker.running_jobs, bool(job.ended), thread.gate.is_set()) == ([job], True, False)
    times = (call.getTime() - reactor.seconds() for call in reactor.getDelayedCalls())
    assert [seconds for seconds in times if 1200 < seconds <= 1234] == []
    thread.gate.set()
    await until(lambda: not worker.running_jobs)
    await server.close(verify=False)


# Threads that send more than the server takes.


class SlowServer(ServerConnection):
    """A connection whose server takes nothing until the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Deferred[None]] = []

    def when_drained(self) -> Deferred[None]:
        self.waiting.append(Deferred())
        return self.waiting[-1]


@pytest.fixture
def slow() -> Iterator[SlowServer]:
    server = SlowServer()
    yield server
    for waiting in server.waiting:
        if not waiting.called:
            waiting.callback(None)


async def test_thread_waits_until_server_takes_what_it_sent(slow: SlowServer) -> None:
    job = make_job(slow)
    chunk = bytes(MAX_UNSENT // 2)

    def function() -> None:
        for _ in range(5):
            job.send_data(chunk)

    done = deferToThread(function)
    for sent in (2, 4):
        await until(lambda number=sent: len(slow.waiting) == number // 2)  # type: ignore[misc]  # its type is the default's
        assert (len(slow.data), done.called) == (sent, False)
        slow.waiting[-1].callback(None)
    await done
    assert len(slow.data) == 5


async def test_thread_waits_after_many_small_packets(slow: SlowServer) -> None:
    """Each takes memory until the reactor's thread has written it."""
    job = make_job(slow)

    def function() -> None:
        while True:
            job.send_status(1, 2)

    done = deferToThread(function)
    await until(lambda: slow.waiting)
    assert 100 < len(slow.sent) < 1000
    job._close("it is enough")
    with pytest.raises(JobEnded):
        await done


ENDS: dict[str, Callable[[Job], object]] = {
    "lost": lambda job: job._close("its connection was lost"),
    "completed": lambda job: job.complete(b""),
    "completed by a thread": lambda job: deferToThread(job.complete, b""),
}


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("end", ENDS)
async def test_thread_that_waits_is_released_when_its_job_ends(slow: SlowServer, end: str) -> None:
    job = make_job(slow)
    done = deferToThread(job.send_data, bytes(MAX_UNSENT))
    await until(lambda: slow.waiting)
    ENDS[end](job)
    with pytest.raises(JobEnded):
        await done


async def test_thread_does_not_wait_for_job_that_ends_while_it_sends(slow: SlowServer) -> None:
    job = make_job(slow)

    def call_from_thread(call: Callable[..., object], *arguments: object) -> None:
        job._close("it ended just now")

    slow.factory.reactor = SimpleNamespace(callFromThread=call_from_thread)
    await deferToThread(job.send_data, bytes(MAX_UNSENT))
    assert slow.waiting == []


@pytest.mark.guarantee(number=11)
async def test_lost_connection_releases_thread_that_waits_for_server(logged_failures: Failures) -> None:
    """Else a worker that stops would wait for it."""
    server = MemoryJobServer(reactor)
    worker = server.worker(drain_timeout=0)
    ended: list[BaseException] = []
    sent: list[int] = []

    def function(job: Job) -> Iterator[bytes]:
        try:
            while True:
                sent.append(1)
                yield bytes(MAX_UNSENT)
        except GeneratorExit as error:
            ended.append(error)
            raise

    worker.register_function("work", function, threaded=True)
    await server.client().add_task_bg("work")
    await until(lambda: sent)
    stopped = worker.stopService()
    server.drop_connections()
    await stopped
    await until(lambda: not slots_held(worker))
    assert (len(ended), len(logged_failures.flush(JobEnded))) == (1, 1)
    await server.close(verify=False)
