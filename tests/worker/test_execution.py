"""Running jobs: what functions return and raise, time-outs, threads."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from functools import partial
from typing import Any, Final

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from txgearman import GearmanClient, GearmanWorker, Job, JobEnded, JobFailed, TaskException, TaskFailed
from txgearman.packets import CAN_DO_TIMEOUT
from txgearman.testing import MemoryJobServer
from txgearman.worker import job as jobs_module

from ..conftest import Failures
from ..wire import outcome
from .harness import MINUTE, Slow, packets_received, reactor, running_jobs, scheduler_of, slots_held


def run_one(server: MemoryJobServer, function: Callable[[Job], Any], workload: bytes = b"abc", **options: Any) -> Any:
    """Run one job by a new worker with this function, and return its result."""
    server.worker().register_function("work", function, **options)
    return server.result_of(server.client().add_task("work", workload))


# What a function returns.


async def coroutine(job: Job) -> bytes:
    return job.workload


def generator(job: Job) -> Generator[bytes, None, bytes]:
    yield b"1"
    yield b"2"
    return b"end"


async def async_generator(job: Job) -> AsyncIterator[bytes]:
    yield b"1"
    yield b"2"


def completes_early(job: Job) -> bytes:
    job.complete(b"done")
    return b"too late"


RETURNS: Final = [
    pytest.param(lambda job: job.workload[::-1], b"cba", [], id="bytes"),
    pytest.param(lambda job: bytearray(job.workload), b"abc", [], id="bytearray"),
    pytest.param(lambda job: memoryview(job.workload)[1:], b"bc", [], id="memoryview"),
    pytest.param(lambda job: None, b"", [], id="None"),
    pytest.param(lambda job: succeed(b"x"), b"x", [], id="Deferred"),
    pytest.param(lambda job: succeed(None), b"", [], id="Deferred of None"),
    pytest.param(coroutine, b"abc", [], id="coroutine"),
    pytest.param(generator, b"end", [b"1", b"2"], id="generator"),
    pytest.param(async_generator, b"", [b"1", b"2"], id="async generator"),
    pytest.param(completes_early, b"done", [], id="complete"),
    pytest.param(lambda job: bytes(range(256)) * 9000, bytes(range(256)) * 9000, [], id="many bytes"),
]


@pytest.mark.parametrize(("function", "result", "chunks"), RETURNS)
def test_returned_value_is_result(
    server: MemoryJobServer, function: Callable[[Job], Any], result: bytes, chunks: list[bytes]
) -> None:
    received: list[bytes] = []
    server.worker().register_function("work", function)
    done = server.client().add_task("work", b"abc", on_data=lambda _, data: received.append(data))
    assert (server.result_of(done), received) == (result, chunks)


def test_data_status_and_warnings_are_sent_in_order(server: MemoryJobServer) -> None:
    def send(job: Job) -> None:
        job.send_status(1, 3)
        job.send_data(b"d\0")
        job.send_warning(b"")
        job.send_status(2**32 - 1, 2**32 - 1)

    received: list[Any] = []
    server.worker().register_function("work", send)
    done = server.client().add_task(
        "work",
        on_data=lambda _, *what: received.append(what),
        on_warning=lambda _, *what: received.append(what),
        on_status=lambda _, *what: received.append(what),
    )
    assert server.result_of(done) == b""
    assert received == [(1, 3), (b"d\0",), (b"",), (2**32 - 1, 2**32 - 1)]


def test_long_generator_does_not_delay_other_jobs(server: MemoryJobServer) -> None:
    """The other job ends first."""
    closed: list[bool] = []

    def endless(job: Job) -> Generator[bytes, None, None]:
        try:
            for _ in range(1000):
                yield b"x"
        finally:
            closed.append(True)

    order: list[str] = []
    worker, client = server.worker(), server.client()
    worker.register_function("endless", endless)
    worker.register_function("quick", lambda job: b"")
    client.add_task("endless").addBoth(lambda _: order.append("endless"))
    client.add_task("quick").addBoth(lambda _: order.append("quick"))
    server.advance()
    assert (order, closed) == (["quick", "endless"], [True])


# Failures.


def raises(job: Job) -> None:
    raise ZeroDivisionError("by zero, \udcff")


async def raises_later(job: Job) -> None:
    raise ZeroDivisionError("by zero, \udcff")


def raises_in_a_generator(job: Job) -> Iterator[bytes]:
    yield b"1"
    raise ZeroDivisionError("by zero, \udcff")


async def raises_in_an_async_generator(job: Job) -> AsyncIterator[bytes]:
    yield b"1"
    raise ZeroDivisionError("by zero, \udcff")


@pytest.mark.parametrize(
    "function",
    [
        raises,
        raises_later,
        raises_in_a_generator,
        raises_in_an_async_generator,
        lambda job: fail(ZeroDivisionError("by zero, \udcff")),
        lambda job: Failure(ZeroDivisionError("by zero, \udcff")),
    ],
)
def test_exception_is_sent_and_logged(
    server: MemoryJobServer, logged_failures: Failures, function: Callable[[Job], Any]
) -> None:
    with pytest.raises(TaskException) as caught:
        run_one(server, function)
    assert caught.value.data == b"ZeroDivisionError: by zero, \\udcff"
    assert len(logged_failures.flush(ZeroDivisionError)) == 1


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, CancelledError])
def test_any_base_exception_is_sent_and_logged(
    server: MemoryJobServer, logged_failures: Failures, kind: type[BaseException]
) -> None:
    def function(job: Job) -> None:
        raise kind("out")

    with pytest.raises(TaskException) as caught:
        run_one(server, function)
    assert caught.value.data == kind.__name__.encode() + b": out"
    assert len(logged_failures.flush(kind)) == 1


def fails(job: Job) -> None:
    raise JobFailed("no such picture")


def fails_by_call(job: Job) -> None:
    job.fail()


@pytest.mark.parametrize("function", [fails, fails_by_call, lambda job: fail(JobFailed())])
def test_job_failed_sends_work_fail(server: MemoryJobServer, function: Callable[[Job], Any]) -> None:
    with pytest.raises(TaskFailed) as caught:
        run_one(server, function)
    assert type(caught.value) is TaskFailed


def test_function_may_send_exception_of_its_own(server: MemoryJobServer) -> None:
    with pytest.raises(TaskException) as caught:
        run_one(server, lambda job: job.send_exception(b"own\0"))
    assert caught.value.data == b"own\0"


async def returns_a_str_later(job: Job) -> Any:
    return "text"


def yields_a_str(job: Job) -> Any:
    yield "text"


async def yields_a_str_later(job: Job) -> Any:
    yield "text"


@pytest.mark.parametrize(
    "function",
    [lambda job: "text", lambda job: succeed("text"), returns_a_str_later, yields_a_str, yields_a_str_later],
)
def test_result_that_is_not_bytes_fails_job(
    server: MemoryJobServer, logged_failures: Failures, function: Callable[[Job], Any]
) -> None:
    with pytest.raises(TaskException, match="must be bytes, not str"):
        run_one(server, function)
    assert len(logged_failures.flush(TypeError)) == 1


def test_result_that_is_too_large_fails_job(
    server: MemoryJobServer, logged_failures: Failures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "MAX_PAYLOAD", 100)
    client = server.client()
    server.worker().register_function("work", lambda job: bytes(int(job.workload)))
    assert server.result_of(client.add_task("work", b"100")) == bytes(100)
    with pytest.raises(TaskException, match="at most, not 101"):
        server.result_of(client.add_task("work", b"101"))
    assert len(logged_failures.flush(ValueError)) == 1


@pytest.mark.parametrize("kind", ["coroutine", "generator"])
def test_deferred_that_coroutine_returns_is_awaited(server: MemoryJobServer, kind: str) -> None:
    """Twisted refuses to fire a Deferred with a Deferred: older ones would leave the job without an end."""

    async def awaits_and_returns_a_deferred(job: Job) -> Any:
        await deferLater(server.clock, 0)
        return succeed(b"x")

    def generates_and_returns_a_deferred(job: Job) -> Any:
        yield b"1"
        return succeed(b"x")

    worker, client = server.worker(max_jobs=1), server.client()
    functions = {"coroutine": awaits_and_returns_a_deferred, "generator": generates_and_returns_a_deferred}
    worker.register_function("work", functions[kind])
    worker.register_function("next", lambda job: b"next")
    received = outcome(client.add_task("work"))
    server.advance()
    assert received == [b"x"]
    assert server.result_of(client.add_task("next")) == b"next"


def test_shared_deferred_is_result_of_each_job(server: MemoryJobServer) -> None:
    """As of a function that asks a slow source once for several jobs."""
    shared: Deferred[bytes] = Deferred()
    worker, client = server.worker(), server.client()
    worker.register_function("work", lambda job: shared)
    outcomes = [outcome(client.add_task("work")) for _ in range(3)]
    server.advance()
    shared.callback(b"x")
    server.advance()
    assert outcomes == [[b"x"]] * 3


def test_shared_deferred_that_fails_fails_each_job(server: MemoryJobServer, logged_failures: Failures) -> None:
    shared: Deferred[bytes] = Deferred()
    worker, client = server.worker(), server.client()
    worker.register_function("work", lambda job: shared)
    outcomes = [outcome(client.add_task("work")) for _ in range(3)]
    server.advance()
    shared.errback(ZeroDivisionError())
    server.advance()
    assert [type(received[0]) for received in outcomes] == [TaskException] * 3
    assert slots_held(worker) == 0
    assert len(logged_failures.flush(ZeroDivisionError)) == 3


@pytest.mark.guarantee(number=10)
def test_timeout_does_not_cancel_shared_deferred(server: MemoryJobServer, logged_failures: Failures) -> None:
    shared: Deferred[bytes] = Deferred()
    worker, client = server.worker(), server.client()
    worker.register_function("timed", lambda job: shared, timeout=1.0)
    worker.register_function("untimed", lambda job: shared)
    timed, untimed = outcome(client.add_task("timed")), outcome(client.add_task("untimed"))
    server.advance(2)
    assert ([type(error) for error in timed], untimed) == ([TaskException], [])
    shared.callback(b"x")
    server.advance()
    assert (untimed, slots_held(worker)) == ([b"x"], 0)
    assert timed != [b"x"]
    logged_failures.flush(TimeoutError)


@pytest.mark.parametrize(
    ("formatter", "data"),
    [
        (lambda failure: b"own", b"own"),
        (lambda failure: failure.getErrorMessage().encode(), b"secret"),
        (lambda failure: "text", b"ZeroDivisionError"),
        (lambda failure: 1 / 0, b"ZeroDivisionError"),
    ],
)
def test_format_exception_makes_data_of_exception(
    server: MemoryJobServer, logged_failures: Failures, formatter: Any, data: bytes
) -> None:
    """If it fails, only the type is sent: the text may be what it was made to hide."""

    def function(job: Job) -> None:
        raise ZeroDivisionError("secret")

    server.worker(format_exception=formatter).register_function("work", function)
    with pytest.raises(TaskException) as caught:
        server.result_of(server.client().add_task("work"))
    assert caught.value.data == data
    logged_failures.flush(ZeroDivisionError, TypeError)


class Mishap(BaseException):
    """An exception that `except Exception` does not catch."""


def mishap(*args: object) -> Any:
    raise Mishap


@pytest.mark.guarantee(number=13)
def test_job_ends_if_format_exception_raises(server: MemoryJobServer, logged_failures: Failures) -> None:
    worker, client = server.worker(max_jobs=1, format_exception=mishap), server.client()
    worker.register_function("work", lambda job: 1 / 0)
    for _ in range(2):
        received = outcome(client.add_task("work"))
        server.advance()
        assert [error.data for error in received] == [b"ZeroDivisionError"]
    assert slots_held(worker) == 0
    assert len(logged_failures.flush(Mishap, ZeroDivisionError)) == 4


@pytest.mark.guarantee(number=18)
@pytest.mark.guarantee(number=13)
def test_canceller_that_raises_frees_slot(server: MemoryJobServer, logged_failures: Failures) -> None:
    worker, client = server.worker(max_jobs=1), server.client()
    worker.register_function("stuck", lambda job: Deferred(mishap))
    worker.register_function("work", lambda job: b"done")
    server.result_of(client.add_task_bg("stuck"))
    server.advance()
    with server.go_down(lose_jobs=True):
        server.advance()
        assert slots_held(worker) == 0
    server.advance(MINUTE)
    assert server.result_of(client.add_task("work")) == b"done"
    assert len(logged_failures.flush(Mishap)) == 1


@pytest.mark.guarantee(number=13)
def test_canceller_may_fire_and_raise(server: MemoryJobServer, logged_failures: Failures) -> None:
    def cancel(deferred: Deferred[Any]) -> None:
        deferred.callback(b"late")
        mishap()

    worker, client = server.worker(max_jobs=1), server.client()
    worker.register_function("work", lambda job: Deferred(cancel), timeout=1.0)
    received = outcome(client.add_task("work"))
    server.advance(2)
    assert ([type(error) for error in received], slots_held(worker)) == ([TaskException], 0)
    assert len(logged_failures.flush(Mishap, TimeoutError)) == 1


class Sudden(bytearray):
    """A result that calls something when it is converted to bytes."""

    on_conversion: Callable[[], object]

    def __bytes__(self) -> bytes:
        self.on_conversion()
        return b"too late"


def test_thread_may_end_job_just_before_result(server: MemoryJobServer) -> None:
    def work(job: Job) -> bytearray:
        result = Sudden()
        result.on_conversion = partial(job.complete, b"from a thread")
        return result

    worker = server.worker(max_jobs=1)
    worker.register_function("work", work)
    assert server.result_of(server.client().add_task("work")) == b"from a thread"
    assert slots_held(worker) == 0


def test_thread_may_end_job_just_before_exception(server: MemoryJobServer, logged_failures: Failures) -> None:
    jobs: list[Job] = []

    def work(job: Job) -> None:
        jobs.append(job)
        raise ZeroDivisionError

    def formatted(failure: Failure) -> bytes:
        jobs[0].complete(b"from a thread")
        return b"too late"

    worker = server.worker(max_jobs=1, format_exception=formatted)
    worker.register_function("work", work)
    assert server.result_of(server.client().add_task("work")) == b"from a thread"
    assert slots_held(worker) == 0
    logged_failures.flush(ZeroDivisionError)


def test_result_whose_conversion_raises_fails_job(server: MemoryJobServer, logged_failures: Failures) -> None:
    def work(job: Job) -> bytearray:
        result = Sudden()
        result.on_conversion = partial(raise_it, MemoryError())
        return result

    worker = server.worker(max_jobs=1)
    worker.register_function("work", work)
    received = outcome(server.client().add_task("work"))
    server.advance()
    assert ([error.data for error in received], slots_held(worker)) == ([b"MemoryError: "], 0)
    assert len(logged_failures.flush(MemoryError)) == 1


def raise_it(error: Exception) -> None:
    raise error


def test_format_exception_that_returns_none_sends_work_fail(server: MemoryJobServer, logged_failures: Failures) -> None:
    server.worker(format_exception=lambda failure: None).register_function("work", raises)
    with pytest.raises(TaskFailed) as caught:
        server.result_of(server.client().add_task("work"))
    assert type(caught.value) is TaskFailed
    assert len(logged_failures.flush(ZeroDivisionError)) == 1


def test_job_ends_if_formatted_exception_is_too_large(
    server: MemoryJobServer, logged_failures: Failures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "MAX_PAYLOAD", 100)
    worker, client = server.worker(max_jobs=1, format_exception=lambda failure: bytes(101)), server.client()
    worker.register_function("work", raises)
    worker.register_function("next", lambda job: b"next")
    received = outcome(client.add_task("work"))
    server.advance()
    logged_failures.flush(ZeroDivisionError, ValueError)
    assert len(received) == 1
    assert server.result_of(client.add_task("next")) == b"next"


CALLS: Final = [
    lambda job: job.send_data(b""),
    lambda job: job.send_warning(b""),
    lambda job: job.send_status(1, 2),
    lambda job: job.complete(b""),
    lambda job: job.fail(),
    lambda job: job.send_exception(b""),
]


@pytest.mark.parametrize("call", CALLS)
def test_call_after_end_of_job_raises_and_is_logged(
    server: MemoryJobServer, logged_failures: Failures, call: Callable[[Job], None]
) -> None:
    def function(job: Job) -> None:
        job.complete(b"done")
        call(job)

    assert run_one(server, function) == b"done"
    [error] = logged_failures.flush(JobEnded)
    assert "it was completed" in str(error)


def test_exception_after_end_of_job_is_logged_only(server: MemoryJobServer, logged_failures: Failures) -> None:
    def function(job: Job) -> None:
        job.complete(b"done")
        raise ZeroDivisionError

    assert run_one(server, function) == b"done"
    assert len(logged_failures.flush(ZeroDivisionError)) == 1


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda job: job.send_data("text"), TypeError),
        (lambda job: job.send_status(1.5, 2), TypeError),
        (lambda job: job.send_status(1, -1), ValueError),
        (lambda job: job.send_status(2**32, 1), ValueError),
    ],
)
def test_invalid_argument_raises_and_job_goes_on(
    server: MemoryJobServer, call: Callable[[Any], None], kind: type[Exception]
) -> None:
    def function(job: Job) -> bytes:
        with pytest.raises(kind):
            call(job)
        return b"goes on"

    assert run_one(server, function) == b"goes on"


# Time-outs.


@pytest.mark.guarantee(number=10)
def test_timeout_cancels_job_and_sends_exception(server: MemoryJobServer) -> None:
    slow = Slow()
    server.worker().register_function("slow", slow, timeout=30.0)
    done = outcome(server.client().add_task("slow", b"x"))
    server.advance(29.9)
    assert (done, slow.cancelled) == ([], [])
    server.advance(0.2)
    assert [error.data for error in done] == [b"TimeoutError: it took longer than 30.0 seconds"]
    assert (slow.cancelled, running_jobs(server)) == ([b"x"], 0)


@pytest.mark.guarantee(number=10)
def test_end_of_job_cancels_its_timer(server: MemoryJobServer) -> None:
    slow = Slow()
    server.worker().register_function("slow", slow, timeout=1000.0)
    outcome(server.client().add_task("slow", b"x"))
    server.advance()
    before = len(server.clock.getDelayedCalls())
    slow.end_all()
    server.advance()
    assert len(server.clock.getDelayedCalls()) == before - 1


def test_server_times_out_after_worker(server: MemoryJobServer) -> None:
    """The server's time-out is for a worker that hangs, and must not come first."""
    slow = Slow()
    worker = server.worker(max_jobs=1)
    scheduler_of(worker).runner._time_out = lambda job, seconds: None  # type: ignore[method-assign]  # it hangs
    worker.register_function("slow", slow, timeout=30.0)
    done = outcome(server.client().add_task("slow", b"x"))
    server.advance()
    assert packets_received(server).count(CAN_DO_TIMEOUT) == 1
    server.advance(34.9)
    assert running_jobs(server) == 1
    server.advance(0.2)
    assert (slow.started, running_jobs(server), server.queued("slow"), done) == ([b"x"], 0, [b"x"], [])
    slow.end_all()
    server.advance()
    slow.end_all()


def test_timeout_cancels_function_that_goes_on_after_end_of_job(server: MemoryJobServer) -> None:
    """The time-out is the function's, which holds a slot."""
    slow = Slow()

    def function(job: Job) -> Deferred[Any]:
        job.complete(b"done")
        return slow(job)

    assert run_one(server, function, timeout=5.0) == b"done"
    server.advance(6)
    assert slow.cancelled == [b"abc"]


@pytest.mark.guarantee(number=18)
def test_function_that_ignores_cancel_keeps_slot(server: MemoryJobServer) -> None:
    gate: Deferred[None] = Deferred()

    async def stubborn(job: Job) -> None:
        try:
            await Deferred()
        except CancelledError:
            await gate

    worker, client = server.worker(max_jobs=1), server.client()
    worker.register_function("stubborn", stubborn, timeout=5.0)
    worker.register_function("quick", lambda job: b"quick")
    first = outcome(client.add_task("stubborn"))
    server.advance()
    second = outcome(client.add_task("quick"))
    server.advance(6)
    assert ([type(error) for error in first], second) == ([TaskException], [])
    gate.callback(None)
    server.advance()
    assert second == [b"quick"]


# Threads.


async def threaded_server(**options: Any) -> tuple[MemoryJobServer, GearmanWorker, GearmanClient]:
    """A server on the reactor, with a worker and a client."""
    server = MemoryJobServer(reactor)
    return server, server.worker(**options), server.client()


@pytest.mark.guarantee(number=18)
async def test_thread_that_times_out_keeps_slot() -> None:
    server, worker, client = await threaded_server()
    gate = threading.Event()
    worker.register_function("work", lambda job: gate.wait(20) and None, threaded=True, timeout=0.05)
    with pytest.raises(TaskException, match="TimeoutError"):
        await client.add_task("work")
    assert len(scheduler_of(worker).runner.running) == 1
    gate.set()
    while scheduler_of(worker).runner.running:
        await deferLater(reactor, 0.001)
    await server.close()
