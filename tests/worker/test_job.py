"""What a worker's author sees of a job, and what becomes of what a function returns. No server, no connection."""

from __future__ import annotations

import gc
import inspect
import itertools
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks, succeed
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread

from txgearman import JobEnded, JobFailed, JobHandle
from txgearman.validation import MAX_PAYLOAD
from txgearman.worker import job as jobs
from txgearman.worker.functions import Function
from txgearman.worker.job import MAX_STATUS, Assignment, Job

from ..conftest import Failures
from ..wire import outcome

reactor: Any = global_reactor

H1 = b"H:host:1"

HANG = 3.0
"""Seconds after which what should have come of a thread does not come any more."""


class ServerConnection:
    """Notes what is to be sent, and from which thread."""

    def __init__(self, its_reactor: Any = reactor) -> None:
        self.factory = SimpleNamespace(name="server", reactor=its_reactor)
        self.sent: list[tuple[Any, ...]] = []
        self.threads: set[int] = set()
        self.drained: Deferred[None] = succeed(None)

    def when_drained(self) -> Deferred[None]:
        return self.drained

    def __getattr__(self, name: str) -> Callable[..., None]:
        assert name.startswith("work_"), name

        def send(handle: bytes, *arguments: Any) -> None:
            assert handle == H1
            self.threads.add(threading.get_ident())
            self.sent.append((name.removeprefix("work_"), *arguments))

        return send

    @property
    def data(self) -> list[bytes]:
        """What was sent as data; nothing else must have been."""
        assert {event[0] for event in self.sent} <= {"data"}
        return [event[1] for event in self.sent]


def make_job(connection: ServerConnection | None = None, function: str | bytes = "reverse") -> Job:
    return Job(connection or ServerConnection(), function, Assignment(H1, b"pre\treverse", b"u", b"r", b"a\0b"))


def start(call: Callable[[Job], Any], job: Job, its_reactor: Any = reactor, **options: Any) -> Any:
    return Function("f", b"f", call, **options).start(job, its_reactor)


# Job: what it tells.


def test_a_job_tells_what_the_server_told() -> None:
    job = make_job()
    told = (job.handle, job.function, job.workload, job.unique, job.reducer, job.ended)
    assert told == (JobHandle("server", H1), "reverse", b"a\0b", b"u", b"r", "")


@pytest.mark.parametrize(
    ("function", "text"),
    [("reverse", "reverse"), ("ü", "ü"), (b"reverse", "reverse"), (b"\xc3\xbc", "ü"), (b"\xff", r"\xff")],
)
def test_a_job_is_printable_whatever_its_function_is_called(function: str | bytes, text: str) -> None:
    job = make_job(function=function)
    assert (str(job), repr(job)) == (f"{text} server//H:host:1", f"<Job {text} server//H:host:1>")
    assert job.function == function


@pytest.mark.guarantee(number=12)
def test_a_job_is_in_no_cycle() -> None:
    """It goes when the last one who has it lets go."""
    gc.disable()
    try:
        job = make_job()
        job.send_data(b"x")
        job.complete(b"r")
        gone = weakref.ref(job)
        del job
        assert gone() is None
    finally:
        gc.enable()


# Job: what is said of it.

NEWS: dict[str, Callable[[Job, Any], None]] = {"data": Job.send_data, "warning": Job.send_warning}
ENDS: dict[str, Callable[[Job, Any], None]] = {"complete": Job.complete, "exception": Job.send_exception}
SAYINGS = {**NEWS, **ENDS}
NAMES = {"data": "data", "warning": "data", "complete": "result", "exception": "data"}
"""What the argument of each is called."""

each_saying = pytest.mark.parametrize("saying", SAYINGS)


@pytest.mark.guarantee(number=15)
@each_saying
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("payload", [b"", b"a\0b"])
def test_a_payload_may_be_any_kind_of_bytes(saying: str, kind: Callable[[bytes], Any], payload: bytes) -> None:
    connection = ServerConnection()
    SAYINGS[saying](make_job(connection), kind(payload))
    assert connection.sent == [(saying, payload)]
    assert type(connection.sent[0][1]) is bytes


@pytest.mark.guarantee(number=15)
def test_what_becomes_of_a_bytearray_later_changes_nothing() -> None:
    connection = ServerConnection()
    buffer: Any = bytearray(b"abc")
    make_job(connection).send_data(buffer)
    buffer[:] = b"xyz"
    assert connection.data == [b"abc"]


@pytest.mark.guarantee(number=8)
@each_saying
@pytest.mark.parametrize("wrong", ["text", None, 1, [b"x"]])
def test_a_payload_that_is_not_bytes_is_refused_and_ends_nothing(saying: str, wrong: Any) -> None:
    connection = ServerConnection()
    job = make_job(connection)
    with pytest.raises(TypeError, match=f"^{NAMES[saying]} must be bytes, not {type(wrong).__name__}$"):
        SAYINGS[saying](job, wrong)
    assert (connection.sent, job.ended) == ([], "")


@pytest.mark.guarantee(number=8)
@each_saying
def test_a_payload_that_no_header_can_tell_is_refused_and_ends_nothing(
    saying: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MAX_PAYLOAD", 3)
    connection = ServerConnection()
    job = make_job(connection)
    with pytest.raises(ValueError, match=f"^{NAMES[saying]} must have 3 bytes at most, not 4$"):
        SAYINGS[saying](job, b"abcd")
    assert (connection.sent, job.ended) == ([], "")
    SAYINGS[saying](job, b"abc")
    assert connection.sent == [(saying, b"abc")]


@pytest.mark.guarantee(number=8)
def test_limit_leaves_space_for_the_handle() -> None:
    assert MAX_PAYLOAD + len(H1) + 1 < 2**32


def test_news_may_come_often_and_end_nothing() -> None:
    connection = ServerConnection()
    job = make_job(connection)
    for _ in range(2):
        job.send_data(b"d")
        job.send_warning(b"w")
        job.send_status(1, 2)
    assert (connection.sent, job.ended) == ([("data", b"d"), ("warning", b"w"), ("status", 1, 2)] * 2, "")


def test_the_result_is_empty_unless_there_is_one() -> None:
    connection = ServerConnection()
    make_job(connection).complete()
    assert connection.sent == [("complete", b"")]


@pytest.mark.parametrize("numbers", [(0, 0), (3, 8), (8, 3), (MAX_STATUS, MAX_STATUS)])
def test_a_status_is_two_numbers(numbers: tuple[int, int]) -> None:
    connection = ServerConnection()
    make_job(connection).send_status(*numbers)
    assert connection.sent == [("status", *numbers)]


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("numbers", "error", "text"),
    [
        ((-1, 2), ValueError, f"numerator must be from 0 to {MAX_STATUS}, not -1"),
        ((1, -2), ValueError, f"denominator must be from 0 to {MAX_STATUS}, not -2"),
        ((MAX_STATUS + 1, 1), ValueError, f"numerator must be from 0 to {MAX_STATUS}, not {MAX_STATUS + 1}"),
        ((1, MAX_STATUS + 1), ValueError, f"denominator must be from 0 to {MAX_STATUS}, not {MAX_STATUS + 1}"),
        ((0.5, 1), TypeError, "numerator must be int, not float"),
        ((1, "2"), TypeError, "denominator must be int, not str"),
        ((None, 1), TypeError, "numerator must be int, not NoneType"),
    ],
)
def test_a_status_that_the_server_would_change_is_refused(
    numbers: tuple[Any, Any], error: type[Exception], text: str
) -> None:
    connection = ServerConnection()
    with pytest.raises(error, match=f"^{text}$"):
        make_job(connection).send_status(*numbers)
    assert connection.sent == []


# Job: its end.

ALL_ENDS: dict[str, tuple[Callable[[Job], None], list[tuple[Any, ...]]]] = {
    "it was completed": (lambda job: job.complete(b"r"), [("complete", b"r")]),
    "it has failed": (lambda job: job.fail(), [("fail",)]),
    "its exception was sent": (lambda job: job.send_exception(b"e"), [("exception", b"e")]),
    "its connection was lost": (lambda job: job._close("its connection was lost"), []),
}
CALLS: dict[str, Callable[[Job], None]] = {
    "send_data": lambda job: job.send_data(b"x"),
    "send_warning": lambda job: job.send_warning(b"x"),
    "send_status": lambda job: job.send_status(1, 2),
    "complete": lambda job: job.complete(b"x"),
    "fail": lambda job: job.fail(),
    "send_exception": lambda job: job.send_exception(b"x"),
}


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("reason", ALL_ENDS)
def test_after_its_end_nothing_is_said_of_a_job(reason: str, call: str) -> None:
    """Whoever tries is told which job it was, and how it ended; that stays as it is."""
    connection = ServerConnection()
    job = make_job(connection)
    end, sent = ALL_ENDS[reason]
    end(job)
    for _ in range(2):
        with pytest.raises(JobEnded) as raised:
            CALLS[call](job)
        assert str(raised.value) == f"reverse server//H:host:1: {reason}"
    assert (connection.sent, job.ended) == (sent, reason)


# Job: threads.


async def test_a_thread_may_say_anything_and_the_reactor_sends_it() -> None:
    """In its order, and in the reactor's thread, for transports are not to be used in any other."""
    connection = ServerConnection()
    job = make_job(connection)
    sent_by_then: list[Any] = []

    def work() -> None:
        job.send_data(b"1")
        job.send_warning(b"2")
        job.send_status(3, 4)
        sent_by_then.extend(connection.threads - {threading.main_thread().ident})
        job.complete(b"5")

    await deferToThread(work)
    assert connection.sent == [("data", b"1"), ("warning", b"2"), ("status", 3, 4), ("complete", b"5")]
    assert (sent_by_then, connection.threads) == ([], {threading.get_ident()})


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("reason", ["it was completed", "it has failed", "its exception was sent"])
async def test_a_thread_learns_at_once_that_the_job_has_ended(reason: str) -> None:
    """Not only when the reactor gets to send it."""
    connection = ServerConnection()
    job = make_job(connection)
    end, sent = ALL_ENDS[reason]

    def work() -> None:
        end(job)
        job.send_data(b"x")

    with pytest.raises(JobEnded, match=reason):
        await deferToThread(work)
    assert connection.sent == sent


@pytest.mark.guarantee(number=8)
async def test_a_thread_learns_at_once_of_its_mistakes() -> None:
    connection = ServerConnection()
    job = make_job(connection)
    wrong: Any = "text"
    with pytest.raises(TypeError, match="result must be bytes"):
        await deferToThread(job.complete, wrong)
    assert (connection.sent, job.ended) == ([], "")


class Interrupted(Job):
    """At each look whether it has ended, another thread gets its turn; if it can't, that is soon over."""

    meeting: threading.Barrier

    def _check(self) -> None:
        super()._check()
        with suppress(threading.BrokenBarrierError):
            self.meeting.wait(0.2)


@pytest.mark.guarantee(number=1)
def test_a_thread_that_is_interrupted_at_its_end_does_not_end_the_job_twice() -> None:
    """The other gets `JobEnded`, and nothing is sent twice."""
    connection = ServerConnection(SimpleNamespace(callFromThread=lambda call, *arguments: call(*arguments)))
    job = Interrupted(connection, "f", Assignment(H1, b"f", b"", b"", b""))
    job.meeting = threading.Barrier(2)

    def end() -> None:
        with suppress(JobEnded):
            job.complete(b"r")

    threads = [threading.Thread(target=end) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert connection.sent == [("complete", b"r")]


def say_in_a_thread(say: Callable[[Job], None], job: Job) -> None:
    """What it says is not sent before the reactor's next turn."""
    thread = threading.Thread(target=say, args=(job,))
    thread.start()
    thread.join(HANG)
    assert not thread.is_alive()


@pytest.mark.guarantee(number=6)
async def test_what_a_thread_said_before_the_end_does_not_come_after_it() -> None:
    """The reactor may end the job (by a time-out, say) before it gets to send what the thread said."""
    connection = ServerConnection()
    job = make_job(connection)
    say_in_a_thread(CALLS["send_data"], job)
    job.fail()
    await deferLater(reactor, 0)
    assert connection.sent in ([("fail",)], [("data", b"x"), ("fail",)])


@pytest.mark.guarantee(number=6)
@pytest.mark.parametrize("call", CALLS)
async def test_what_a_thread_said_of_a_job_that_was_lost_meanwhile_is_not_sent(call: str) -> None:
    connection = ServerConnection()
    job = make_job(connection)
    say_in_a_thread(CALLS[call], job)
    job._close("its connection was lost")
    await deferLater(reactor, 0)
    assert (connection.sent, job.ended) == ([], "its connection was lost")


class Collecting(Job):
    """At each look whether it has ended, the garbage collector runs, and with it somebody's clean-up: that of a
    generator, say, that was in a cycle, and ends its own job."""

    other: Job

    def _check(self) -> None:
        super()._check()
        self.other.fail()


def test_a_job_may_be_ended_while_another_one_is_about_to() -> None:
    """In the same thread, which must not wait for itself."""
    connection = ServerConnection()
    job = Collecting(connection, "f", Assignment(H1, b"f", b"", b"", b""))
    job.other = make_job(connection)
    thread = threading.Thread(target=job.complete, daemon=True)
    connection.factory.reactor = SimpleNamespace(callFromThread=lambda call, *arguments: call(*arguments))
    thread.start()
    thread.join(HANG)
    if thread.is_alive():
        jobs._ENDING.release()  # or it would hold up the tests that follow
    assert connection.sent == [("fail",), ("complete", b"")]


# Function.


def test_a_function_is_as_it_was_registered() -> None:
    plain = Function("f", b"pre\tf", repr)
    assert (plain.name, plain.wire_name) == ("f", b"pre\tf")
    assert (plain.timeout, plain.threaded, plain.max_jobs) == (None, False, None)
    special = Function(b"f", b"f", repr, timeout=1.5, threaded=True, max_jobs=3)
    assert (special.timeout, special.threaded, special.max_jobs) == (1.5, True, 3)


class Bytes(bytes):
    """Bytes of a kind of their own."""


@pytest.mark.parametrize("result", [b"", b"r", Bytes(b"r"), bytearray(b"r"), None, "text", 1, [b"x"], object()])
def test_what_a_function_returns_is_handed_on_as_it_is(result: Any) -> None:
    """The job's end tells what is no result."""
    job = make_job()
    given: list[Job] = []

    def call(job: Job) -> Any:
        given.append(job)
        return result

    assert start(call, job) is result
    assert given == [job]


def test_a_deferred_is_handed_on_as_it_is() -> None:
    deferred: Deferred[bytes] = Deferred()
    assert start(lambda job: deferred, make_job()) is deferred


def test_what_a_function_raises_comes_out() -> None:
    def call(job: Job) -> None:
        raise JobFailed("no")

    with pytest.raises(JobFailed, match="no"):
        start(call, make_job())


# Coroutines.


class Pending:
    """What a function awaits, until the test has it go on.

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


def test_a_coroutine_is_run_at_once() -> None:
    async def call(job: Job) -> bytes:
        return job.workload[::-1]

    assert outcome(start(call, make_job())) == [b"b\0a"]


def test_a_coroutine_may_take_its_time() -> None:
    pending = Pending()
    told = outcome(start(awaiting(pending), make_job()))
    assert (told, pending.closed) == ([], [])
    pending.awaited.callback(b"r")
    assert (told, pending.closed) == ([b"r"], [None])


def test_what_a_coroutine_raises_comes_out() -> None:
    pending = Pending()
    told = outcome(start(awaiting(pending), make_job()))
    pending.awaited.errback(JobFailed("no"))
    assert ([type(error) for error in told], pending.closed) == ([JobFailed], [JobFailed])


@pytest.mark.guarantee(number=9)
def test_a_cancelled_coroutine_cleans_up() -> None:
    pending = Pending()
    deferred = start(awaiting(pending), make_job())
    told = outcome(deferred)
    deferred.cancel()
    assert ([type(error) for error in told], pending.closed) == ([CancelledError], [CancelledError])
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
    """A clock that, as a reactor does, calls in each turn what was due before it. `advance` would go on with what that
    has made due."""

    def turn(self) -> None:
        due: list[Any] = [*self.getDelayedCalls()]
        for call in due:
            self.calls.remove(call)
            call.called = True
            call.func(*call.args, **call.kw)


class Run:
    """A job that a generator does, turn by turn."""

    def __init__(self, kind: str, chunks: Chunks) -> None:
        self.clock = Turns()
        self.connection = ServerConnection(self.clock)
        self.job = make_job(self.connection)
        self.deferred = start(KINDS[kind](chunks), self.job, self.clock)
        self.told = outcome(self.deferred)

    def turns(self, count: int = 1) -> None:
        for _ in range(count):
            self.clock.turn()

    @property
    def ended_with(self) -> list[Any]:
        """Its result, or the type of its exception."""
        return [type(told) if isinstance(told, BaseException) else told for told in self.told]


@pytest.mark.guarantee(number=2)
@each_kind
def test_chunks_are_sent_in_order_one_in_a_turn(kind: str) -> None:
    """So that others have theirs."""
    chunks = Chunks(b"1", b"", b"3")
    run = Run(kind, chunks)
    sent = []
    for _ in chunks.chunks:
        sent.append(len(run.connection.data))
        assert run.told == []
        run.turns()
    assert (sent, run.connection.data, run.ended_with) == ([1, 2, 3], [b"1", b"", b"3"], [None])
    assert (chunks.closed, run.clock.getDelayedCalls()) == ([None], [])


@each_kind
def test_a_generator_waits_for_a_server_that_is_slow(kind: str) -> None:
    """Else one without an end would fill the memory."""
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
def test_a_generator_may_have_no_chunks(kind: str) -> None:
    run = Run(kind, Chunks())
    assert (run.connection.data, run.ended_with) == ([], [None])


@pytest.mark.parametrize("result", [b"r", "text"])
def test_what_a_generator_returns_is_the_result(result: Any) -> None:
    run = Run("generator", Chunks(b"1", result=result))
    run.turns()
    assert (run.connection.data, run.told) == ([b"1"], [result])


@each_kind
@pytest.mark.parametrize("chunks", [(), (b"1",)])
def test_what_a_generator_raises_comes_out(kind: str, chunks: tuple[bytes, ...]) -> None:
    run = Run(kind, Chunks(*chunks, error=JobFailed("no")))
    run.turns(len(chunks))
    assert (run.connection.data, run.ended_with) == ([*chunks], [JobFailed])


@pytest.mark.guarantee(number=8)
@each_kind
@pytest.mark.parametrize("wrong", ["text", None, 1])
def test_a_chunk_that_is_not_bytes_is_a_failure(kind: str, wrong: Any) -> None:
    chunks = Chunks(b"1", wrong, b"3")
    run = Run(kind, chunks)
    run.turns(3)
    assert (run.connection.data, run.ended_with) == ([b"1"], [TypeError])
    assert str(run.told[0]) == f"data must be bytes, not {type(wrong).__name__}"
    assert chunks.closed == [GeneratorExit]


@pytest.mark.guarantee(number=9)
@each_kind
def test_a_cancelled_generator_cleans_up(kind: str) -> None:
    chunks = Chunks(b"1", b"2", b"3")
    run = Run(kind, chunks)
    run.turns()
    run.deferred.cancel()
    assert (run.connection.data, run.ended_with) == ([b"1", b"2"], [CancelledError])
    assert len(chunks.closed) == 1
    assert run.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=9)
@each_kind
def test_a_generator_cleans_up_when_its_job_has_ended(kind: str) -> None:
    """By what others say of the job, while it waits for its turn."""
    chunks = Chunks(b"1", b"2", b"3")
    run = Run(kind, chunks)
    run.job._close("gone")
    run.turns(3)
    assert (run.connection.data, run.ended_with) == ([b"1"], [JobEnded])
    assert (chunks.closed, run.clock.getDelayedCalls()) == ([GeneratorExit], [])


@pytest.mark.guarantee(number=9)
@each_kind
def test_a_generator_that_has_no_end_can_be_cancelled(kind: str) -> None:
    """Though it awaits nothing."""
    chunks = Chunks()
    chunks.chunks = cast(Any, itertools.repeat(b"x"))
    run = Run(kind, chunks)
    run.turns(9)
    assert (len(run.connection.data), run.told) == (10, [])
    run.deferred.cancel()
    assert run.ended_with == [CancelledError]
    assert len(chunks.closed) == 1


def awaiting_between(pending: Pending) -> Callable[[Job], AsyncGenerator[bytes, None]]:
    async def call(job: Job) -> AsyncGenerator[bytes, None]:
        with pending:
            yield b"1"
            yield await pending.awaited

    return call


def test_an_async_generator_may_take_its_time() -> None:
    pending, clock = Pending(), Clock()
    connection = ServerConnection(clock)
    told = outcome(start(awaiting_between(pending), make_job(connection), clock))
    clock.advance(0)
    assert (connection.data, told) == ([b"1"], [])
    pending.awaited.callback(b"2")
    clock.advance(0)
    assert (connection.data, told, pending.closed) == ([b"1", b"2"], [None], [None])


@pytest.mark.guarantee(number=9)
def test_an_async_generator_that_awaits_something_is_cancelled_there() -> None:
    pending, clock = Pending(), Clock()
    connection = ServerConnection(clock)
    deferred = start(awaiting_between(pending), make_job(connection), clock)
    told = outcome(deferred)
    clock.advance(0)
    deferred.cancel()
    assert ([type(error) for error in told], pending.closed) == ([CancelledError], [CancelledError])
    assert (connection.data, clock.getDelayedCalls()) == ([b"1"], [])


# Threads.


def in_thread(call: Callable[[Job], Any], job: Job | None = None) -> Deferred[Any]:
    """Do a job in a thread; fails with `TimeoutError` if that has no end."""
    deferred: Deferred[Any] = start(call, job or make_job(), threaded=True)
    return deferred.addTimeout(HANG, reactor)


@pytest.mark.parametrize("result", [b"r", None, "text"])
async def test_a_thread_hands_on_what_the_function_returns(result: Any) -> None:
    threads: list[int] = []

    def call(job: Job) -> Any:
        threads.append(threading.get_ident())
        return result

    assert await in_thread(call) is result
    assert threads != [threading.get_ident()]


async def test_what_a_function_raises_in_a_thread_comes_out() -> None:
    def call(job: Job) -> None:
        raise JobFailed("no")

    with pytest.raises(JobFailed, match="no"):
        await in_thread(call)


async def test_a_generator_runs_in_the_thread() -> None:
    connection, chunks = ServerConnection(), Chunks(b"1", b"2", result=b"r")
    assert await in_thread(chunks.plain, make_job(connection)) == b"r"
    assert (connection.data, connection.threads) == ([b"1", b"2"], {threading.get_ident()})
    assert threading.get_ident() not in chunks.threads


async def test_what_a_generator_raises_in_a_thread_comes_out() -> None:
    connection, chunks = ServerConnection(), Chunks(b"1", error=JobFailed("no"))
    with pytest.raises(JobFailed, match="no"):
        await in_thread(chunks.plain, make_job(connection))
    assert connection.data == [b"1"]


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("chunk", [b"2", "text"], ids=["its job has ended", "a chunk is not bytes"])
async def test_a_generator_in_a_thread_cleans_up_there(chunk: Any) -> None:
    """Before its job has an outcome, and not in the reactor's thread: its clean-up may block, too."""
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
async def test_a_deferred_from_a_thread_is_a_failure_and_no_hang(logged_failures: Failures) -> None:
    """It can't be awaited there; ``threaded=True`` is the author's mistake, and must be told as one. (Older
    Twisted lets no thread return one: what should have fired then never does.)"""
    job = make_job()
    done: Deferred[Any] = start(by_inline_callbacks, job, threaded=True)
    done.addCallback(job.complete).addTimeout(HANG, reactor)
    try:
        with pytest.raises(TypeError, match="Deferred"):
            await done
    finally:
        logged_failures.flush(AssertionError)


@pytest.mark.guarantee(number=8)
async def test_a_coroutine_from_a_thread_is_closed() -> None:
    """Else Python warns, some time, that it was never awaited."""

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
