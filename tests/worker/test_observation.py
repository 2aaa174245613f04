"""What observers of a worker get: each job ends exactly once, however its function runs and however it ends."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Generator
from contextvars import ContextVar
from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from txgearman import GearmanWorker, Job, JobFailed, Observer
from txgearman.observers import ObservedJob
from txgearman.testing import MemoryJobServer

from ..conftest import Failures
from ..observing import Recorder
from ..wire import outcome
from .harness import do_nothing, never_end

reactor: Any = global_reactor


class Ending:
    """How the jobs of the table end. A function of each kind calls it for the result, or awaits `forever`."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.gate = threading.Event()  # of a thread that does not end

    @property
    def forever(self) -> bool:
        return self.how in ("timed_out", "lost")

    def __call__(self, job: Job) -> bytes:
        if self.how == "failed":
            raise JobFailed("no colour")
        if self.how == "raised":
            raise ZeroDivisionError
        return b"done"


def sync(ending: Ending) -> Callable[[Job], object]:
    return ending


def fired(ending: Ending) -> Callable[[Job], object]:
    """Of functions that return a Deferred which has fired."""

    def function(job: Job) -> Deferred[bytes]:
        try:
            return succeed(ending(job))
        except Exception:
            return fail()

    return function


def deferred(ending: Ending) -> Callable[[Job], object]:
    def function(job: Job) -> Deferred[bytes]:
        later: Deferred[bytes] = Deferred()
        if not ending.forever:
            later = deferLater(job._connection.factory.reactor, 0.1, ending, job)  # type: ignore[arg-type]  # a clock
        return later

    return function


def coroutine(ending: Ending) -> Callable[[Job], object]:
    wait = deferred(ending)

    async def function(job: Job) -> bytes:
        waited: Any = wait(job)
        result: bytes = await waited
        return result

    return function


def generator(ending: Ending) -> Callable[[Job], object]:
    def function(job: Job) -> Generator[bytes, None, object]:
        yield b"chunk"
        return Deferred() if ending.forever else ending(job)

    return function


def async_generator(ending: Ending) -> Callable[[Job], object]:
    wait = deferred(ending)

    async def function(job: Job) -> AsyncIterator[bytes]:
        waited: Any = wait(job)
        yield await waited

    return function


KINDS = [sync, fired, deferred, coroutine, generator, async_generator]

TASK_OUTCOMES = {"done": "completed", "failed": "failed", "raised": "exception", "timed_out": "exception"}
"""What the client's observer gets for the end of the job."""

TABLE = [
    (kind, how)
    for kind in KINDS
    for how in ("done", "failed", "raised", "timed_out", "lost")
    if kind not in (sync, fired) or how in TASK_OUTCOMES.keys() - {"timed_out"}
]


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize(("kind", "how"), TABLE, ids=[f"{kind.__name__}-{how}" for kind, how in TABLE])
def test_each_end_of_a_job_is_reported_once(
    server: MemoryJobServer, kind: Callable[[Ending], Callable[[Job], object]], how: str, logged_failures: Failures
) -> None:
    of_worker, of_client = Recorder(), Recorder()
    worker = server.worker(observers=[of_worker])
    worker.register_function("work", kind(Ending(how)), timeout=5.0)
    task = server.client(observers=[of_client]).add_task("work")
    ended = outcome(task)
    server.advance(0.2)
    if how == "lost":
        server.drop_connections()
        worker.unregister_function("work")
    for _ in range(6):
        server.advance(1.0)
    assert of_worker.named("job_started", "job_finished") == [("job_started",), ("job_finished", how)]
    server.result_of(server.close(verify=False))
    assert len(ended) == 1
    assert of_worker.named("job_started", "job_finished") == [("job_started",), ("job_finished", how)]
    assert of_client.named("task_started", "task_finished") == [
        ("task_started",),
        ("task_finished", TASK_OUTCOMES.get(how, "lost")),
    ]
    logged_failures.flush(ZeroDivisionError)


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("how", ["done", "failed", "raised", "timed_out", "lost"])
async def test_each_end_of_a_threaded_job_is_reported_once(how: str, logged_failures: Failures) -> None:
    of_worker, of_client = Recorder(), Recorder()
    server = MemoryJobServer(reactor)
    worker = server.worker(observers=[of_worker])
    ending, started = Ending(how), threading.Event()

    def function(job: Job) -> bytes:
        started.set()
        if ending.forever:
            ending.gate.wait(20)
        return ending(job)

    worker.register_function("work", function, threaded=True, timeout=0.2 if how == "timed_out" else None)
    client = server.client(observers=[of_client])
    task = client.add_task("work").addErrback(lambda _: None)
    if how == "lost":
        while not started.is_set():
            await deferLater(reactor, 0.001)
        worker.unregister_function("work")
        server.drop_connections()
    await task
    while not of_worker.ends():
        await deferLater(reactor, 0.001)
    ending.gate.set()
    while worker._scheduler.slots.held:
        await deferLater(reactor, 0.001)
    await server.close(verify=False)
    assert of_worker.named("job_started", "job_finished") == [("job_started",), ("job_finished", how)]
    assert of_client.ends() == [TASK_OUTCOMES.get(how, "lost")]
    logged_failures.flush(ZeroDivisionError)


def observed(
    server: MemoryJobServer, function: Callable[[Job], object], **options: Any
) -> tuple[GearmanWorker, Recorder]:
    """Return a worker with a function, which gets a job, and its observer."""
    recorder = Recorder()
    timeout = options.pop("timeout", None)
    worker = server.worker(observers=[recorder], **options)
    worker.register_function("work", function, timeout=timeout)
    outcome(server.client().add_task("work"))
    server.advance()
    return worker, recorder


def sends_exception(job: Job) -> None:
    job.send_exception(b"x")


def fails_itself(job: Job) -> None:
    job.fail()


def returns_no_bytes(job: Job) -> object:
    return "text"


@pytest.mark.parametrize(
    ("function", "expected"),
    [(do_nothing, "done"), (sends_exception, "raised"), (fails_itself, "failed"), (returns_no_bytes, "raised")],
)
def test_end_by_the_function_itself_is_reported(
    server: MemoryJobServer, function: Callable[[Job], object], expected: str, logged_failures: Failures
) -> None:
    assert observed(server, function)[1].ends() == [expected]
    logged_failures.flush(TypeError)


def test_exception_that_is_not_sent_was_raised_all_the_same(server: MemoryJobServer, logged_failures: Failures) -> None:
    def function(job: Job) -> None:
        raise ZeroDivisionError

    assert observed(server, function, format_exception=lambda failure: None)[1].ends() == ["raised"]
    logged_failures.flush(ZeroDivisionError)


@pytest.mark.parametrize(("seconds", "stops"), [(0.0, True), (10.0, False)])
def test_job_that_was_completed_early_ends_with_its_function(
    server: MemoryJobServer, seconds: float, stops: bool
) -> None:
    """Also if it is then cancelled by the worker's stop, or by its time-out."""

    def function(job: Job) -> Deferred[None]:
        job.complete(b"early")
        return Deferred()

    worker, recorder = observed(server, function, timeout=5.0, drain_timeout=0)
    assert recorder.ends() == []
    if stops:
        worker.stopService()
    server.advance(seconds)
    assert recorder.ends() == ["done"]


@pytest.mark.parametrize("function", [never_end, lambda job: Deferred(lambda deferred: None)])
def test_job_that_the_stop_ends_is_lost(server: MemoryJobServer, function: Callable[[Job], object]) -> None:
    worker, recorder = observed(server, function, drain_timeout=3.0)
    worker.stopService()
    server.advance(2.9)
    assert recorder.ends() == []
    server.advance(0.2)
    assert (recorder.ends(), recorder.seconds) == (["lost"], [3.0])


def test_time_is_that_of_the_function(server: MemoryJobServer) -> None:
    later: Deferred[bytes] = Deferred()
    _, recorder = observed(server, lambda job: later)
    server.advance(2.5)
    later.callback(b"")
    assert recorder.seconds == [2.5]


def test_jobs_of_one_deferred_are_reported_each(server: MemoryJobServer) -> None:
    shared: Deferred[bytes] = Deferred()
    _, recorder = observed(server, lambda job: shared)
    outcome(server.client().add_task("work"))
    server.advance()
    shared.callback(b"done")
    server.advance()
    assert recorder.ends() == ["done", "done"]


def test_connection_that_is_lost_inside_the_function_is_reported(server: MemoryJobServer) -> None:
    def function(job: Job) -> bytes:
        worker.unregister_function("work")
        server.drop_connections()
        return b"late"

    recorder = Recorder()
    worker = server.worker(observers=[recorder])
    worker.register_function("work", function)
    outcome(server.client().add_task("work"))
    server.advance()
    assert recorder.ends() == ["lost"]


# The context.

current: ContextVar[str] = ContextVar("current", default="none")


class Spans(Observer):
    """Opens a span for each job, as a tracing observer does."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def job_started(self, job: ObservedJob) -> None:
        current.set(job.workload.decode())

    def job_finished(self, job: ObservedJob, outcome: str, seconds: float) -> None:
        self.ended.append(current.get())


async def awaits(job: Job) -> bytes:
    before = current.get()
    for _ in range(2):
        await deferLater(job._connection.factory.reactor, 0.1)  # type: ignore[arg-type]  # a clock
    return f"{before} {current.get()}".encode()


def yields(job: Job) -> Generator[bytes, None, bytes]:
    yield b""
    return f"{current.get()} {current.get()}".encode()


def calls(job: Job) -> bytes:
    return f"{current.get()} {current.get()}".encode()


@pytest.mark.parametrize("function", [awaits, yields, calls])
def test_context_of_the_start_is_that_of_the_whole_job(
    server: MemoryJobServer, function: Callable[[Job], object]
) -> None:
    spans = Spans()
    server.worker(observers=[spans]).register_function("work", function)
    client = server.client()
    results = [outcome(client.add_task("work", workload)) for workload in (b"a", b"b")]
    for _ in range(5):
        server.advance(0.1)
    assert [result[0].split() for result in results] == [[b"a", b"a"], [b"b", b"b"]]
    assert sorted(spans.ended) == ["a", "b"]
    assert current.get() == "none"


async def test_thread_runs_in_a_copy_of_the_context() -> None:
    server = MemoryJobServer(reactor)
    server.worker(observers=[Spans()]).register_function("work", calls, threaded=True)
    assert await server.client().add_task("work", b"a") == b"a a"
    assert current.get() == "none"
    await server.close()


# Observers that call the worker, and servers.


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("name", ["job_started", "job_finished"])
def test_observer_may_stop_the_worker(server: MemoryJobServer, name: str) -> None:
    recorder = Recorder()
    worker = server.worker(observers=[recorder])
    worker.register_function("work", do_nothing)
    stopped: list[list[Any]] = []
    recorder.react = lambda call: stopped.append(outcome(worker.stopService())) if call == name else None
    done = outcome(server.client().add_task("work"))
    server.advance(1)
    assert (done, stopped, recorder.ends()) == ([b""], [[None]], ["done"])


@pytest.mark.guarantee(number=13)
def test_observer_of_jobs_may_raise(server: MemoryJobServer, logged_failures: Failures) -> None:
    recorder = Recorder()

    def react(name: str) -> None:
        raise ZeroDivisionError

    server.worker(observers=[recorder]).register_function("work", do_nothing)
    recorder.react = react
    done = outcome(server.client().add_task("work"))
    server.advance()
    assert done == [b""]
    recorder.react = lambda name: None
    assert len(logged_failures.flush(ZeroDivisionError)) == 2


def test_changes_of_servers_are_reported_of_the_main_connection(server: MemoryJobServer) -> None:
    """A function with a limit has connections of its own, and one that is unregistered while it runs has new ones."""
    recorder = Recorder()
    worker = server.worker(observers=[recorder])
    worker.register_function("limited", do_nothing, max_jobs=1)
    worker.register_function("work", never_end)
    outcome(server.client().add_task("work"))
    server.advance()
    worker.unregister_function("work")
    server.advance()
    worker.stopService()
    server.advance(31)
    changes = [call[1:] for call in recorder.named("server_changed")]
    assert changes[:2] == [("memory:1", "ready")] * 2
    assert set(changes[2:]) == {("memory:1", "stopped")}


def test_failure_of_a_function_is_still_logged(server: MemoryJobServer, logged_failures: Failures) -> None:
    def function(job: Job) -> Any:
        return Failure(ZeroDivisionError())

    assert observed(server, function)[1].ends() == ["raised"]
    assert len(logged_failures.flush(ZeroDivisionError)) == 1
