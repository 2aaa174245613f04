"""Registered functions: how they are started, and how what they return becomes a result. No server, no connection."""

from __future__ import annotations

import inspect
import itertools
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, cast

import pytest
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks, succeed
from twisted.internet.task import Clock

from txgearman import (
    Job,
    JobEnded,
    JobFailed,
)
from txgearman.worker.functions import Function

from ..conftest import Failures
from ..wire import outcome
from .job_harness import HANG, ServerConnection, make_job, reactor


def start(call: Callable[[Job], Any], job: Job, its_reactor: Any = reactor, **options: Any) -> Any:
    return Function("f", b"f", call, **options).start(job, its_reactor)


# Registered functions.


def test_function_shows_what_it_was_registered_with() -> None:
    plain = Function("f", b"pre\tf", repr)
    assert (plain.name, plain.wire_name) == ("f", b"pre\tf")
    assert (plain.timeout, plain.threaded, plain.max_jobs) == (None, False, None)
    special = Function(b"f", b"f", repr, timeout=1.5, threaded=True, max_jobs=3)
    assert (special.timeout, special.threaded, special.max_jobs) == (1.5, True, 3)


class Bytes(bytes):
    """A subclass of bytes."""


@pytest.mark.parametrize("result", [b"", b"r", Bytes(b"r"), bytearray(b"r"), None, "text", 1, [b"x"], object()])
def test_result_is_returned_as_it_is(result: Any) -> None:
    """Whether it is a result is checked later."""
    job = make_job()
    given: list[Job] = []

    def call(job: Job) -> Any:
        given.append(job)
        return result

    assert start(call, job) is result
    assert given == [job]


def test_deferred_is_returned_as_it_is() -> None:
    deferred: Deferred[bytes] = Deferred()
    assert start(lambda job: deferred, make_job()) is deferred


def test_exception_is_raised_as_it_is() -> None:
    def call(job: Job) -> None:
        raise JobFailed("no")

    with pytest.raises(JobFailed, match="no"):
        start(call, make_job())


# Coroutines.


class Pending:
    """Something that a function awaits until the test lets it go on.

    :ivar closed: what it was left with: the type of an exception, or None.
    """

    def __init__(self) -> None:
        self.awaited: Deferred[bytes] = Deferred()
        self.closed: list[type[BaseException] | None] = []

    def __enter__(self) -> Pending:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.closed.append(kind)


def awaiting(pending: Pending) -> Callable[[Job], Coroutine[Any, Any, bytes]]:
    async def call(job: Job) -> bytes:
        with pending:
            return await pending.awaited

    return call


def test_coroutine_runs_at_once() -> None:
    async def call(job: Job) -> bytes:
        return job.workload[::-1]

    assert outcome(start(call, make_job())) == [b"b\0a"]


def test_coroutine_may_await() -> None:
    pending = Pending()
    received = outcome(start(awaiting(pending), make_job()))
    assert (received, pending.closed) == ([], [])
    pending.awaited.callback(b"r")
    assert (received, pending.closed) == ([b"r"], [None])


def test_exception_of_coroutine_fails_deferred() -> None:
    pending = Pending()
    received = outcome(start(awaiting(pending), make_job()))
    pending.awaited.errback(JobFailed("no"))
    assert ([type(error) for error in received], pending.closed) == ([JobFailed], [JobFailed])


@pytest.mark.guarantee(number=9)
def test_cancelled_coroutine_cleans_up() -> None:
    pending = Pending()
    deferred = start(awaiting(pending), make_job())
    received = outcome(deferred)
    deferred.cancel()
    assert ([type(error) for error in received], pending.closed) == ([CancelledError], [CancelledError])
    assert pending.awaited.called


# Generators.


class Chunks:
    """A generator function, of either kind.

    :ivar closed: what each of its generators was left with.
    :ivar threads: where they were.
    """

    def __init__(self, *chunks: Any, result: Any = None, error: Exception | None = None) -> None:
        self.chunks = chunks
        self.result = result
        self.error = error
        self.closed: list[type[BaseException] | None] = []
        self.threads: list[int] = []

    def __enter__(self) -> Chunks:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.closed.append(kind)
        self.threads.append(threading.get_ident())

    def plain(self, job: Job) -> Generator[Any, None, Any]:
        with self:
            yield from self.chunks
            if self.error:
                raise self.error
            return self.result

    async def of_coroutine(self, job: Job) -> AsyncGenerator[Any, None]:
        with self:
            for chunk in self.chunks:
                yield chunk
            if self.error:
                raise self.error


KINDS: dict[str, Callable[[Chunks], Callable[[Job], Any]]] = {
    "generator": lambda chunks: chunks.plain,
    "async generator": lambda chunks: chunks.of_coroutine,
}


each_kind = pytest.mark.parametrize("kind", KINDS)


class Turns(Clock):
    """A clock with turns: each calls what was due before it, as a reactor does, and not what that makes due."""

    def turn(self) -> None:
        due: list[Any] = [*self.getDelayedCalls()]
        for call in due:
            self.calls.remove(call)
            call.called = True
            call.func(*call.args, **call.kw)


class Run:
    """A job that a generator runs, turn by turn."""

    def __init__(self, kind: str, chunks: Chunks) -> None:
        self.clock = Turns()
        self.connection = ServerConnection(self.clock)
        self.job = make_job(self.connection)
        self.deferred = start(KINDS[kind](chunks), self.job, self.clock)
        self.received = outcome(self.deferred)

    def turns(self, count: int = 1) -> None:
        for _ in range(count):
            self.clock.turn()

    @property
    def ended_with(self) -> list[Any]:
        """Its result, or the type of its exception."""
        return [type(received) if isinstance(received, BaseException) else received for received in self.received]


@pytest.mark.guarantee(number=2)
@each_kind
def test_generator_sends_one_chunk_per_turn_in_order(kind: str) -> None:
    """So that other jobs go on."""
    chunks = Chunks(b"1", b"", b"3")
    run = Run(kind, chunks)
    sent = []
    for _ in chunks.chunks:
        sent.append(len(run.connection.data))
        assert run.received == []
        run.turns()
    assert (sent, run.connection.data, run.ended_with) == ([1, 2, 3], [b"1", b"", b"3"], [None])
    assert (chunks.closed, run.clock.getDelayedCalls()) == ([None], [])


@each_kind
def test_generator_waits_for_slow_server(kind: str) -> None:
    """Else an endless one would fill the memory."""
    chunks = Chunks(b"1", b"2", b"3")
    run = Run(kind, chunks)
    run.connection.drained = Deferred()
    run.turns()
    run.turns()
    assert run.connection.data == [b"1"]
    run.connection.drained.callback(None)
    run.turns()
    run.turns()
    assert (run.connection.data, run.ended_with) == ([b"1", b"2", b"3"], [None])


@each_kind
def test_generator_may_yield_nothing(kind: str) -> None:
    run = Run(kind, Chunks())
    assert (run.connection.data, run.ended_with) == ([], [None])


@pytest.mark.parametrize("result", [b"r", "text"])
def test_generator_returns_result(result: Any) -> None:
    run = Run("generator", Chunks(b"1", result=result))
    run.turns()
    assert (run.connection.data, run.received) == ([b"1"], [result])


@each_kind
@pytest.mark.parametrize("chunks", [(), (b"1",)])
def test_exception_of_generator_fails_deferred(kind: str, chunks: tuple[bytes, ...]) -> None:
    run = Run(kind, Chunks(*chunks, error=JobFailed("no")))
    run.turns(len(chunks))
    assert (run.connection.data, run.ended_with) == ([*chunks], [JobFailed])


@pytest.mark.guarantee(number=8)
@each_kind
@pytest.mark.parametrize("wrong", ["text", None, 1])
def test_chunk_that_is_not_bytes_fails_deferred(kind: str, wrong: Any) -> None:
    chunks = Chunks(b"1", wrong, b"3")
    run = Run(kind, chunks)
    run.turns(3)
    assert (run.connection.data, run.ended_with) == ([b"1"], [TypeError])
    assert str(run.received[0]) == f"data must be bytes, not {type(wrong).__name__}"
    assert chunks.closed == [GeneratorExit]


@pytest.mark.guarantee(number=9)
@each_kind
def test_cancelled_generator_cleans_up(kind: str) -> None:
    chunks = Chunks(b"1", b"2", b"3")
    run = Run(kind, chunks)
    run.turns()
    run.deferred.cancel()
    assert (run.connection.data, run.ended_with) == ([b"1", b"2"], [CancelledError])
    assert len(chunks.closed) == 1
    assert run.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=9)
@each_kind
def test_generator_cleans_up_after_end_of_job(kind: str) -> None:
    """As it is ended elsewhere while the generator waits."""
    chunks = Chunks(b"1", b"2", b"3")
    run = Run(kind, chunks)
    run.job._close("gone")
    run.turns(3)
    assert (run.connection.data, run.ended_with) == ([b"1"], [JobEnded])
    assert (chunks.closed, run.clock.getDelayedCalls()) == ([GeneratorExit], [])


@pytest.mark.guarantee(number=9)
@each_kind
def test_endless_generator_can_be_cancelled(kind: str) -> None:
    """Though it awaits nothing."""
    chunks = Chunks()
    chunks.chunks = cast(Any, itertools.repeat(b"x"))
    run = Run(kind, chunks)
    run.turns(9)
    assert (len(run.connection.data), run.received) == (10, [])
    run.deferred.cancel()
    assert run.ended_with == [CancelledError]
    assert len(chunks.closed) == 1


def awaiting_between(pending: Pending) -> Callable[[Job], AsyncGenerator[bytes, None]]:
    async def call(job: Job) -> AsyncGenerator[bytes, None]:
        with pending:
            yield b"1"
            yield await pending.awaited

    return call


def test_async_generator_may_await() -> None:
    pending, clock = Pending(), Clock()
    connection = ServerConnection(clock)
    received = outcome(start(awaiting_between(pending), make_job(connection), clock))
    clock.advance(0)
    assert (connection.data, received) == ([b"1"], [])
    pending.awaited.callback(b"2")
    clock.advance(0)
    assert (connection.data, received, pending.closed) == ([b"1", b"2"], [None], [None])


@pytest.mark.guarantee(number=9)
def test_async_generator_is_cancelled_where_it_awaits() -> None:
    pending, clock = Pending(), Clock()
    connection = ServerConnection(clock)
    deferred = start(awaiting_between(pending), make_job(connection), clock)
    received = outcome(deferred)
    clock.advance(0)
    deferred.cancel()
    assert ([type(error) for error in received], pending.closed) == ([CancelledError], [CancelledError])
    assert (connection.data, clock.getDelayedCalls()) == ([b"1"], [])


# Threads.


def in_thread(call: Callable[[Job], Any], job: Job | None = None) -> Deferred[Any]:
    """Run a job in a thread; fails with `TimeoutError` if the thread hangs."""
    deferred: Deferred[Any] = start(call, job or make_job(), threaded=True)
    return deferred.addTimeout(HANG, reactor)


@pytest.mark.parametrize("result", [b"r", None, "text"])
async def test_threaded_function_runs_in_thread_and_returns_result(result: Any) -> None:
    threads: list[int] = []

    def call(job: Job) -> Any:
        threads.append(threading.get_ident())
        return result

    assert await in_thread(call) is result
    assert threads != [threading.get_ident()]


async def test_exception_in_thread_fails_deferred() -> None:
    def call(job: Job) -> None:
        raise JobFailed("no")

    with pytest.raises(JobFailed, match="no"):
        await in_thread(call)


async def test_threaded_generator_runs_in_thread() -> None:
    connection, chunks = ServerConnection(), Chunks(b"1", b"2", result=b"r")
    assert await in_thread(chunks.plain, make_job(connection)) == b"r"
    assert (connection.data, connection.threads) == ([b"1", b"2"], {threading.get_ident()})
    assert threading.get_ident() not in chunks.threads


async def test_exception_of_threaded_generator_fails_deferred() -> None:
    connection, chunks = ServerConnection(), Chunks(b"1", error=JobFailed("no"))
    with pytest.raises(JobFailed, match="no"):
        await in_thread(chunks.plain, make_job(connection))
    assert connection.data == [b"1"]


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("chunk", [b"2", "text"], ids=["its job has ended", "a chunk is not bytes"])
async def test_threaded_generator_cleans_up_in_thread(chunk: Any) -> None:
    """Before the job has its outcome, and not in the reactor's thread, since the clean-up may block as well."""
    chunks = Chunks(chunk)
    job = make_job()
    if chunk == b"2":
        job._close("gone")
    failures: list[Any] = []  # as a log would have it; its frames keep the generator
    closed_by_then: list[Any] = []

    def failed(failure: Any) -> None:
        failures.append(failure)
        closed_by_then.extend(chunks.closed)

    await in_thread(chunks.plain, job).addErrback(failed)
    assert [failure.type for failure in failures] == [JobEnded if chunk == b"2" else TypeError]
    assert closed_by_then == [GeneratorExit]
    assert threading.get_ident() not in chunks.threads


@inlineCallbacks
def by_inline_callbacks(job: Job) -> Generator[Deferred[bytes], bytes, bytes]:
    result: bytes = yield succeed(b"r")
    return result


@pytest.mark.guarantee(number=1)
async def test_deferred_from_thread_fails_and_does_not_hang(logged_failures: Failures) -> None:
    """It can't be awaited there. (In older Twisted the Deferred of a thread that returns one never fires.)"""
    job = make_job()
    done: Deferred[Any] = start(by_inline_callbacks, job, threaded=True)
    done.addCallback(job.complete).addTimeout(HANG, reactor)
    try:
        with pytest.raises(TypeError, match="Deferred"):
            await done
    finally:
        logged_failures.flush(AssertionError)


@pytest.mark.guarantee(number=8)
async def test_coroutine_from_thread_is_closed() -> None:
    """Else Python warns later that it was never awaited."""

    async def call(job: Job) -> bytes:
        return b"r"

    coroutines: list[Any] = []

    def calling(job: Job) -> Any:
        coroutines.append(call(job))
        return coroutines[0]

    await in_thread(calling).addErrback(lambda failure: failure.trap(TypeError))
    state = inspect.getcoroutinestate(coroutines[0])
    coroutines[0].close()
    assert state == inspect.CORO_CLOSED


class Future:
    """As asyncio's: it yields itself, and wants to be resumed by its loop."""

    def __await__(self) -> Generator[Future, None, None]:
        yield self
        raise RuntimeError("await wasn't used with future")


@pytest.mark.parametrize(
    ("raised", "expected"), [(None, "must run as a task of asyncio"), (RuntimeError("own"), "own")]
)
def test_coroutine_that_awaits_a_future_fails_with_what_to_do(raised: RuntimeError | None, expected: str) -> None:
    async def call(job: Job) -> None:
        if raised is not None:
            raise raised
        await Future()

    (error,) = outcome(start(call, make_job()))
    assert isinstance(error, (TypeError, RuntimeError))
    assert expected in str(error)
