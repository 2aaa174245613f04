"""The worker against job servers in memory, on a clock: what its functions do, and what servers and users do to it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from functools import partial
from typing import Any, Final

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from txgearman import (
    GearmanClient,
    GearmanWorker,
    Job,
    JobEnded,
    JobFailed,
    Priority,
    ServerState,
    TaskException,
    TaskFailed,
    TaskLost,
)
from txgearman.connection.options import SERVER_TIMEOUT
from txgearman.packets import (
    CAN_DO_TIMEOUT,
    CANT_DO,
    GRAB_JOB_ALL,
    PRE_SLEEP,
    SUBMIT_REDUCE_JOB,
    PacketType,
)
from txgearman.testing import MemoryJobServer
from txgearman.validation import MAX_FUNCTION
from txgearman.worker import job as jobs_module
from txgearman.worker.worker import DRAIN_TIMEOUT, POLL_INTERVAL, format_exception

from ..conftest import Failures
from ..examples import of_histories
from ..wire import outcome, present
from .harness import scheduler_of, slots_held

reactor: Any = global_reactor

MINUTE: Final = 60.0


@pytest.fixture
def server() -> Iterator[MemoryJobServer]:
    """A job server that is closed after the test; then no timer may be left on its clock."""
    server = MemoryJobServer()
    yield server
    server.result_of(server.close())
    assert server.clock.getDelayedCalls() == []


@pytest.fixture
def second(server: MemoryJobServer) -> MemoryJobServer:
    return MemoryJobServer(server.clock)


class Slow:
    """A function whose jobs end when the test says so.

    :ivar running: the Deferred of each job that runs, by the workload.
    :ivar begun: the workloads, in the order in which they came.
    :ivar cancelled: those of the jobs that were cancelled.
    :ivar most: how many have run at a time.
    """

    def __init__(self) -> None:
        self.running: dict[bytes, Deferred[Any]] = {}
        self.jobs: list[Job] = []
        self.cancelled: list[bytes] = []
        self.most = 0

    @property
    def begun(self) -> list[bytes]:
        return [job.workload for job in self.jobs]

    def __call__(self, job: Job) -> Deferred[Any]:
        assert job.workload not in self.running
        self.jobs.append(job)
        deferred: Deferred[Any] = Deferred(partial(self._cancel, job.workload))
        self.running[job.workload] = deferred
        self.most = max(self.most, len(self.running))
        return deferred

    def _cancel(self, workload: bytes, _: object) -> None:
        del self.running[workload]
        self.cancelled.append(workload)

    def end(self, workload: bytes | None = None) -> None:
        """End one job, or the oldest one."""
        workload = next(iter(self.running)) if workload is None else workload
        self.running.pop(workload).callback(workload)

    def end_all(self) -> None:
        for workload in list(self.running):
            self.end(workload)


def running(server: MemoryJobServer, function: str = "slow") -> int:
    """How many jobs of a function the server says are running."""
    return status(server).get(function, (0, 0, 0))[1]


def status(server: MemoryJobServer) -> dict[str, tuple[int, ...]]:
    """Each function's jobs, how many of them run, and its workers."""
    rows = [line.split("\t") for line in server.command("status").splitlines() if line != "."]
    return {"\t".join(row[:-3]): tuple(map(int, row[-3:])) for row in rows}


def workers(server: MemoryJobServer) -> list[tuple[str, set[str]]]:
    """The id and the functions of each connection that has any."""
    rows = (line.partition(" : ") for line in server.command("workers").splitlines() if " : " in line)
    found = [(head.split()[2], set(names.split())) for head, _, names in rows]
    return sorted(found, key=lambda row: (row[0], sorted(row[1])))


def came(server: MemoryJobServer) -> list[PacketType]:
    """What came on the connections that are there."""
    return [packet_type for connection in server.connections for packet_type in connection.requests]


def submit(client: GearmanClient, workloads: range, function: str = "slow", **options: Any) -> list[list[Any]]:
    """Submit jobs; what has come of each."""
    return [outcome(client.add_task(function, b"%d" % number, **options)) for number in workloads]


def results(outcomes: list[list[Any]]) -> list[Any]:
    """What they came to; each at most once."""
    assert all(len(each) <= 1 for each in outcomes)
    return [each[0] for each in outcomes if each]


def do(server: MemoryJobServer, function: Callable[[Job], Any], workload: bytes = b"abc", **options: Any) -> Any:
    """Have one job done, by a new worker with this function."""
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


def completes(job: Job) -> bytes:
    job.complete(b"told")
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
    pytest.param(completes, b"told", [], id="complete"),
    pytest.param(lambda job: bytes(range(256)) * 9000, bytes(range(256)) * 9000, [], id="many bytes"),
]


@pytest.mark.parametrize(("function", "result", "chunks"), RETURNS)
def test_what_a_function_returns_is_the_result(
    server: MemoryJobServer, function: Callable[[Job], Any], result: bytes, chunks: list[bytes]
) -> None:
    told: list[bytes] = []
    server.worker().register_function("work", function)
    done = server.client().add_task("work", b"abc", on_data=lambda _, data: told.append(data))
    assert (server.result_of(done), told) == (result, chunks)


def test_data_status_and_warnings_come_in_order(server: MemoryJobServer) -> None:
    def speak(job: Job) -> None:
        job.send_status(1, 3)
        job.send_data(b"d\0")
        job.send_warning(b"")
        job.send_status(2**32 - 1, 2**32 - 1)

    told: list[Any] = []
    server.worker().register_function("work", speak)
    done = server.client().add_task(
        "work",
        on_data=lambda _, *what: told.append(what),
        on_warning=lambda _, *what: told.append(what),
        on_status=lambda _, *what: told.append(what),
    )
    assert server.result_of(done) == b""
    assert told == [(1, 3), (b"d\0",), (b"",), (2**32 - 1, 2**32 - 1)]


def test_a_generator_lets_others_have_their_turn(server: MemoryJobServer) -> None:
    """An endless one does not keep a second job from its end, and ends with its connection."""
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


# What a job tells its function.


def test_a_job_tells_what_it_is(server: MemoryJobServer) -> None:
    slow = Slow()
    server.worker(prefix="box").register_function("slow", slow)
    client = server.client(prefix="box")
    handle = server.result_of(client.add_task_bg("slow", b"w\0", unique=b"u"))
    [job] = slow.jobs
    told = (job.function, job.workload, job.unique, job.reducer, job.handle.handle)
    assert told == ("slow", b"w\0", b"u", b"", handle.handle)
    assert str(job) == f"slow {job.handle}"
    slow.end_all()


def test_a_job_with_a_reducer_tells_it(server: MemoryJobServer) -> None:
    slow = Slow()
    server.worker().register_function("slow", slow)
    [connection] = [each.connection for each in server.client()._servers]  # no call of the client's submits one
    present(connection).transport.write(SUBMIT_REDUCE_JOB.request(b"slow", b"u", b"red", b"\0"[:0], b"data"))
    server.advance()
    assert [(job.reducer, job.workload, job.unique) for job in slow.jobs] == [(b"red", b"data", b"u")]


@pytest.mark.parametrize(("prefix", "name"), [("", "slow"), ("box", "box\tslow")])
def test_the_prefix_is_on_the_wire_only(server: MemoryJobServer, prefix: str, name: str) -> None:
    slow = Slow()
    worker = server.worker(prefix=prefix)
    worker.register_function("slow", slow)
    done = outcome(server.client().add_task(name, b"x"))
    assert running(server, name) == 1
    slow.end_all()
    server.advance()
    assert (done, slow.jobs[0].function) == ([b"x"], "slow")
    worker.unregister_function("slow")
    assert status(server)[name][2] == 0


def test_a_name_of_bytes_stays_bytes(server: MemoryJobServer) -> None:
    slow = Slow()
    server.worker().register_function(b"slow", slow)
    server.result_of(server.client().add_task_bg("slow"))
    assert slow.jobs[0].function == b"slow"
    slow.end_all()


def test_the_server_knows_the_client_id(server: MemoryJobServer) -> None:
    worker = server.worker(client_id="thumbs-1")
    worker.register_function("a", lambda job: None)
    worker.register_function("b", lambda job: None, max_jobs=1)
    assert workers(server) == [("thumbs-1", {"a"}), ("thumbs-1", {"b"})]


# What goes wrong in a function.


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
def test_an_exception_is_sent_and_logged(
    server: MemoryJobServer, logged_failures: Failures, function: Callable[[Job], Any]
) -> None:
    with pytest.raises(TaskException) as caught:
        do(server, function)
    assert caught.value.data == b"ZeroDivisionError: by zero, \\udcff"
    assert len(logged_failures.flush(ZeroDivisionError)) == 1


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, CancelledError])
def test_whatever_is_raised_is_the_outcome(
    server: MemoryJobServer, logged_failures: Failures, kind: type[BaseException]
) -> None:
    def function(job: Job) -> None:
        raise kind("out")

    with pytest.raises(TaskException) as caught:
        do(server, function)
    assert caught.value.data == kind.__name__.encode() + b": out"
    assert len(logged_failures.flush(kind)) == 1


def fails(job: Job) -> None:
    raise JobFailed("no such picture")


def tells_that_it_failed(job: Job) -> None:
    job.fail()


@pytest.mark.parametrize("function", [fails, tells_that_it_failed, lambda job: fail(JobFailed())])
def test_a_job_can_fail_without_an_exception(server: MemoryJobServer, function: Callable[[Job], Any]) -> None:
    with pytest.raises(TaskFailed) as caught:
        do(server, function)
    assert type(caught.value) is TaskFailed


def test_a_function_may_send_an_exception_of_its_own(server: MemoryJobServer) -> None:
    with pytest.raises(TaskException) as caught:
        do(server, lambda job: job.send_exception(b"own\0"))
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
def test_what_is_not_bytes_is_a_clear_failure(
    server: MemoryJobServer, logged_failures: Failures, function: Callable[[Job], Any]
) -> None:
    with pytest.raises(TaskException, match="must be bytes, not str"):
        do(server, function)
    assert len(logged_failures.flush(TypeError)) == 1


def test_a_result_that_is_too_large_is_a_clear_failure(
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
def test_a_deferred_as_the_result_of_a_coroutine_is_awaited(server: MemoryJobServer, kind: str) -> None:
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
    told = outcome(client.add_task("work"))
    server.advance()
    assert told == [b"x"]
    assert server.result_of(client.add_task("next")) == b"next"


def test_one_deferred_may_be_the_result_of_several_jobs(server: MemoryJobServer) -> None:
    """A function that asks a slow source once for all who want the same."""
    shared: Deferred[bytes] = Deferred()
    worker, client = server.worker(), server.client()
    worker.register_function("work", lambda job: shared)
    outcomes = [outcome(client.add_task("work")) for _ in range(3)]
    server.advance()
    shared.callback(b"x")
    server.advance()
    assert outcomes == [[b"x"]] * 3


def test_a_deferred_that_fails_is_the_failure_of_each_of_its_jobs(
    server: MemoryJobServer, logged_failures: Failures
) -> None:
    shared: Deferred[bytes] = Deferred()
    worker, client = server.worker(), server.client()
    worker.register_function("work", lambda job: shared)
    outcomes = [outcome(client.add_task("work")) for _ in range(3)]
    server.advance()
    shared.errback(ZeroDivisionError())
    server.advance()
    assert [type(told[0]) for told in outcomes] == [TaskException] * 3
    assert slots_held(worker) == 0
    assert len(logged_failures.flush(ZeroDivisionError)) == 3


@pytest.mark.guarantee(number=10)
def test_the_time_out_of_one_job_does_not_cancel_what_another_waits_for(
    server: MemoryJobServer, logged_failures: Failures
) -> None:
    shared: Deferred[bytes] = Deferred()
    worker, client = server.worker(), server.client()
    worker.register_function("impatient", lambda job: shared, timeout=1.0)
    worker.register_function("patient", lambda job: shared)
    impatient, patient = outcome(client.add_task("impatient")), outcome(client.add_task("patient"))
    server.advance(2)
    assert ([type(error) for error in impatient], patient) == ([TaskException], [])
    shared.callback(b"x")
    server.advance()
    assert (patient, slots_held(worker)) == ([b"x"], 0)
    assert impatient != [b"x"]
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
def test_the_user_chooses_what_is_sent_of_an_exception(
    server: MemoryJobServer, logged_failures: Failures, formatter: Any, data: bytes
) -> None:
    """If the user's formatter fails, no text is sent that it may have been made to hide."""

    def function(job: Job) -> None:
        raise ZeroDivisionError("secret")

    server.worker(format_exception=formatter).register_function("work", function)
    with pytest.raises(TaskException) as caught:
        server.result_of(server.client().add_task("work"))
    assert caught.value.data == data
    logged_failures.flush(ZeroDivisionError, TypeError)


class Mishap(BaseException):
    """What `except Exception` would let through."""


def mishap(*args: object) -> Any:
    raise Mishap


@pytest.mark.guarantee(number=13)
def test_whatever_a_formatter_raises_its_job_has_an_end(server: MemoryJobServer, logged_failures: Failures) -> None:
    worker, client = server.worker(max_jobs=1, format_exception=mishap), server.client()
    worker.register_function("work", lambda job: 1 / 0)
    for _ in range(2):
        told = outcome(client.add_task("work"))
        server.advance()
        assert [error.data for error in told] == [b"ZeroDivisionError"]
    assert slots_held(worker) == 0
    assert len(logged_failures.flush(Mishap, ZeroDivisionError)) == 4


@pytest.mark.guarantee(number=18)
@pytest.mark.guarantee(number=13)
def test_a_canceller_that_raises_keeps_no_slot(server: MemoryJobServer, logged_failures: Failures) -> None:
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
def test_a_canceller_may_fire_and_raise(server: MemoryJobServer, logged_failures: Failures) -> None:
    def cancel(deferred: Deferred[Any]) -> None:
        deferred.callback(b"late")
        mishap()

    worker, client = server.worker(max_jobs=1), server.client()
    worker.register_function("work", lambda job: Deferred(cancel), timeout=1.0)
    told = outcome(client.add_task("work"))
    server.advance(2)
    assert ([type(error) for error in told], slots_held(worker)) == ([TaskException], 0)
    assert len(logged_failures.flush(Mishap, TimeoutError)) == 1


class Sudden(bytearray):
    """A result for which something happens just as it is looked at."""

    happens: Callable[[], object]

    def __bytes__(self) -> bytes:
        self.happens()
        return b"too late"


def test_a_thread_may_end_the_job_just_before_its_result(server: MemoryJobServer) -> None:
    def work(job: Job) -> bytearray:
        result = Sudden()
        result.happens = partial(job.complete, b"from a thread")
        return result

    worker = server.worker(max_jobs=1)
    worker.register_function("work", work)
    assert server.result_of(server.client().add_task("work")) == b"from a thread"
    assert slots_held(worker) == 0


def test_a_thread_may_end_the_job_just_before_its_exception(server: MemoryJobServer, logged_failures: Failures) -> None:
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


def test_a_result_that_can_not_be_had_is_a_failure(server: MemoryJobServer, logged_failures: Failures) -> None:
    def work(job: Job) -> bytearray:
        result = Sudden()
        result.happens = partial(raise_it, MemoryError())
        return result

    worker = server.worker(max_jobs=1)
    worker.register_function("work", work)
    told = outcome(server.client().add_task("work"))
    server.advance()
    assert ([error.data for error in told], slots_held(worker)) == ([b"MemoryError: "], 0)
    assert len(logged_failures.flush(MemoryError)) == 1


def raise_it(error: Exception) -> None:
    raise error


def test_a_formatter_may_send_nothing(server: MemoryJobServer, logged_failures: Failures) -> None:
    server.worker(format_exception=lambda failure: None).register_function("work", raises)
    with pytest.raises(TaskFailed) as caught:
        server.result_of(server.client().add_task("work"))
    assert type(caught.value) is TaskFailed
    assert len(logged_failures.flush(ZeroDivisionError)) == 1


def test_a_formatter_that_says_too_much_is_no_hang(
    server: MemoryJobServer, logged_failures: Failures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "MAX_PAYLOAD", 100)
    worker, client = server.worker(max_jobs=1, format_exception=lambda failure: bytes(101)), server.client()
    worker.register_function("work", raises)
    worker.register_function("next", lambda job: b"next")
    told = outcome(client.add_task("work"))
    server.advance()
    logged_failures.flush(ZeroDivisionError, ValueError)
    assert len(told) == 1
    assert server.result_of(client.add_task("next")) == b"next"


def test_the_default_format_has_type_and_text_only() -> None:
    assert format_exception(Failure(ValueError("\u00fc"))) == "ValueError: \u00fc".encode()


CALLS: Final = [
    lambda job: job.send_data(b""),
    lambda job: job.send_warning(b""),
    lambda job: job.send_status(1, 2),
    lambda job: job.complete(b""),
    lambda job: job.fail(),
    lambda job: job.send_exception(b""),
]


@pytest.mark.parametrize("call", CALLS)
def test_after_its_end_nothing_can_be_said_of_a_job(
    server: MemoryJobServer, logged_failures: Failures, call: Callable[[Job], None]
) -> None:
    def function(job: Job) -> None:
        job.complete(b"told")
        call(job)

    assert do(server, function) == b"told"
    [error] = logged_failures.flush(JobEnded)
    assert "it was completed" in str(error)


def test_what_a_function_raises_after_the_end_is_logged_only(
    server: MemoryJobServer, logged_failures: Failures
) -> None:
    def function(job: Job) -> None:
        job.complete(b"told")
        raise ZeroDivisionError

    assert do(server, function) == b"told"
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
def test_what_cant_be_sent_is_told_at_the_call(
    server: MemoryJobServer, call: Callable[[Any], None], kind: type[Exception]
) -> None:
    def function(job: Job) -> bytes:
        with pytest.raises(kind):
            call(job)
        return b"goes on"

    assert do(server, function) == b"goes on"


# Time-outs.


@pytest.mark.guarantee(number=10)
def test_a_job_that_takes_too_long_is_cancelled_and_told(server: MemoryJobServer) -> None:
    slow = Slow()
    server.worker().register_function("slow", slow, timeout=30.0)
    done = outcome(server.client().add_task("slow", b"x"))
    server.advance(29.9)
    assert (done, slow.cancelled) == ([], [])
    server.advance(0.2)
    assert [error.data for error in done] == [b"TimeoutError: it took longer than 30.0 seconds"]
    assert (slow.cancelled, running(server)) == ([b"x"], 0)


@pytest.mark.guarantee(number=10)
def test_the_timer_goes_with_the_job(server: MemoryJobServer) -> None:
    slow = Slow()
    server.worker().register_function("slow", slow, timeout=1000.0)
    outcome(server.client().add_task("slow", b"x"))
    server.advance()
    before = len(server.clock.getDelayedCalls())
    slow.end_all()
    server.advance()
    assert len(server.clock.getDelayedCalls()) == before - 1


def test_the_server_waits_a_little_longer_than_the_worker(server: MemoryJobServer) -> None:
    """Its own time-out is for a worker that hangs, and must not come first."""
    slow = Slow()
    worker = server.worker(max_jobs=1)
    scheduler_of(worker).runner._time_out = lambda job, seconds: None  # type: ignore[method-assign]  # it hangs
    worker.register_function("slow", slow, timeout=30.0)
    done = outcome(server.client().add_task("slow", b"x"))
    server.advance()
    assert came(server).count(CAN_DO_TIMEOUT) == 1
    server.advance(34.9)
    assert running(server) == 1
    server.advance(0.2)
    assert (slow.begun, running(server), server.queued("slow"), done) == ([b"x"], 0, [b"x"], [])
    slow.end_all()
    server.advance()
    slow.end_all()


def test_a_job_that_ended_in_time_may_be_cancelled_still(server: MemoryJobServer) -> None:
    """The time-out is about the function, which has a slot of ours."""
    slow = Slow()

    def function(job: Job) -> Deferred[Any]:
        job.complete(b"told")
        return slow(job)

    assert do(server, function, timeout=5.0) == b"told"
    server.advance(6)
    assert slow.cancelled == [b"abc"]


@pytest.mark.guarantee(number=18)
def test_a_slot_is_kept_by_what_does_not_heed_its_cancellation(server: MemoryJobServer) -> None:
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


async def threaded_server() -> tuple[MemoryJobServer, GearmanWorker, GearmanClient]:
    server = MemoryJobServer(reactor)
    return server, server.worker(), server.client()


async def test_a_thread_does_the_job() -> None:
    server, worker, client = await threaded_server()
    seen: list[int] = []
    told: list[Any] = []

    def function(job: Job) -> bytes:
        seen.append(threading.get_ident())
        job.send_status(1, 2)
        job.send_data(b"d")
        job.send_warning(b"w")
        return job.workload[::-1]

    worker.register_function("work", function, threaded=True)
    callbacks = {name: lambda _, *what: told.append(what) for name in ("on_data", "on_status", "on_warning")}
    assert await client.add_task("work", b"abc", **callbacks) == b"cba"  # type: ignore[arg-type]
    assert told == [(1, 2), (b"d",), (b"w",)]
    assert threading.get_ident() not in seen
    await server.close()


@pytest.mark.parametrize("returned", ["Deferred", "str", "coroutine"])
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
async def test_a_thread_that_returns_no_bytes_is_no_hang(logged_failures: Failures, returned: str) -> None:
    """Twisted refuses to fire a Deferred with a Deferred: the job must end all the same, and its slot be free."""
    server, worker, client = await threaded_server()
    values = {"Deferred": lambda job: succeed(b"x"), "str": lambda job: "x", "coroutine": coroutine}
    worker.register_function("work", values[returned], threaded=True)
    try:
        with pytest.raises(TaskException):
            await client.add_task("work").addTimeout(2.0, reactor)
        assert slots_held(worker) == 0
    finally:
        logged_failures.flush(TypeError, AssertionError)
        scheduler_of(worker).drain_timeout = 0.01
        await server.close()


@pytest.mark.parametrize("how", ["raise", "fail", "complete"])
async def test_a_thread_ends_its_job(logged_failures: Failures, how: str) -> None:
    server, worker, client = await threaded_server()

    def function(job: Job) -> None:
        if how == "raise":
            raise ZeroDivisionError("in a thread")
        job.complete(b"told") if how == "complete" else job.fail()

    worker.register_function("work", function, threaded=True)
    outcomes: list[Any] = []
    await client.add_task("work").addBoth(outcomes.append)
    [told] = outcomes
    assert told == b"told" if how == "complete" else isinstance(told.value, TaskFailed)
    assert len(logged_failures.flush(ZeroDivisionError)) == (how == "raise")
    await server.close()


@pytest.mark.guarantee(number=18)
async def test_a_thread_that_takes_too_long_keeps_its_slot() -> None:
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


@pytest.mark.guarantee(number=11)
async def test_a_thread_that_outlives_the_stop_leaves_no_timer() -> None:
    """A thread can't be cancelled; the timer of its time-out can."""
    server, worker, client = await threaded_server()
    scheduler_of(worker).drain_timeout = 0.01
    gate, begun = threading.Event(), threading.Event()

    def function(job: Job) -> None:
        begun.set()
        gate.wait(20)

    worker.register_function("work", function, threaded=True, timeout=1234.0)
    client.add_task("work").addErrback(lambda _: None)
    while not begun.is_set():
        await deferLater(reactor, 0.001)
    await worker.stopService()
    times = (call.getTime() - reactor.seconds() for call in reactor.getDelayedCalls())
    left = [seconds for seconds in times if 1200 < seconds <= 1234]  # the server has a later one
    gate.set()
    while scheduler_of(worker).runner.running:
        await deferLater(reactor, 0.001)
    await server.close()
    assert left == []


def test_a_threaded_job_starts_at_once_however_many_there_are() -> None:
    """The pool has ten threads of itself, which others need as well: the resolver of names."""
    pool = reactor.getThreadPool()
    before = pool.max
    worker = GearmanWorker(["127.0.0.1"], max_jobs=25)
    worker.register_function("one", nothing, threaded=True)
    worker.register_function("another", nothing, threaded=True)
    try:
        assert pool.max == before + 25
    finally:
        reactor.suggestThreadPoolSize(before)


def nothing(job: Job) -> None:
    """Do that."""


def test_threads_need_a_reactor_that_has_some(server: MemoryJobServer) -> None:
    with pytest.raises(ValueError, match="threads"):
        server.worker().register_function("work", lambda job: None, threaded=True)


# What can't be meant.


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"max_jobs": 0}, ValueError),
        ({"max_jobs": 1.5}, TypeError),
        ({"client_id": "a\0b"}, ValueError),
        ({"client_id": "x" * 128}, ValueError),
        ({"poll_interval": 0}, ValueError),
        ({"drain_timeout": -1}, ValueError),
        ({"prefix": 5}, TypeError),
    ],
)
def test_arguments_that_cant_be_meant(options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        GearmanWorker(["localhost"], **options)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("job_servers", "kind"), [("localhost", TypeError), ([], ValueError), (["a", "a"], ValueError)]
)
def test_job_servers_that_cant_be_meant(job_servers: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        GearmanWorker(job_servers)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("name", "function", "options", "kind"),
    [
        ("", len, {}, ValueError),
        ("a\0", len, {}, ValueError),
        ("x" * (MAX_FUNCTION - 3), len, {}, ValueError),  # with its prefix
        (5, len, {}, TypeError),
        ("f", None, {}, TypeError),
        ("f", len, {"timeout": 0}, ValueError),
        ("f", len, {"max_jobs": 0}, ValueError),
        ("taken", len, {}, ValueError),
    ],
)
def test_functions_that_cant_be_meant(
    server: MemoryJobServer, name: Any, function: Any, options: dict[str, Any], kind: type[Exception]
) -> None:
    worker = server.worker(prefix="box")
    worker.register_function("taken", lambda job: None)
    with pytest.raises(kind):
        worker.register_function(name, function, **options)
    server.advance()
    assert set(status(server)) == {"box\ttaken"}


@pytest.mark.guarantee(number=8)
def test_a_function_that_is_not_registered_cant_be_taken_back(server: MemoryJobServer) -> None:
    with pytest.raises(ValueError, match="not registered"):
        server.worker().unregister_function("f")


# How many at a time.


def check_load(slow: Slow, worker: GearmanWorker, servers: list[MemoryJobServer], limit: int) -> None:
    assert sum(map(running, servers)) == len(slow.running) <= limit
    assert slots_held(worker) >= len(slow.running)
    assert sum(info.in_flight for info in worker.servers) == len(slow.running)


@pytest.mark.guarantee(number=18)
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("max_jobs", [1, 2, 5])
def test_no_server_has_given_a_job_that_does_not_run(count: int, max_jobs: int, server: MemoryJobServer) -> None:
    servers = [server, *(MemoryJobServer(server.clock) for _ in range(count - 1))]
    slow = Slow()
    worker = server.worker(*servers[1:], max_jobs=max_jobs)
    worker.register_function("slow", slow)
    outcomes = [submit(each.client(), range(number, 100, count)) for number, each in enumerate(servers)]
    for _ in range(100):
        server.advance()
        check_load(slow, worker, servers, max_jobs)
        assert len(slow.running) == min(max_jobs, 100 - sum(len(results(each)) for each in outcomes))
        slow.end()
    server.advance()
    done = [result for each in outcomes for result in results(each)]
    assert sorted(done, key=int) == [b"%d" % number for number in range(100)]
    assert (slow.most, len(slow.jobs), slots_held(worker)) == (max_jobs, 100, 0)


@pytest.mark.parametrize("max_jobs", [1, 2, 5])
def test_servers_take_turns(max_jobs: int, server: MemoryJobServer, second: MemoryJobServer) -> None:
    third = MemoryJobServer(server.clock)
    servers = [server, second, third]
    for number, each in enumerate(servers):
        submit(each.client(), range(number * 100, number * 100 + 50))
    slow = Slow()
    server.worker(second, third, max_jobs=max_jobs).register_function("slow", slow)
    for _ in range(60):
        server.advance()
        slow.end()
    shares = [sum(int(workload) // 100 == number for workload in slow.begun[:60]) for number in range(3)]
    assert max(shares) - min(shares) <= 1 + max_jobs
    slow.end_all()


def test_a_function_has_a_limit_of_its_own(server: MemoryJobServer, second: MemoryJobServer) -> None:
    limited, free = Slow(), Slow()
    worker = server.worker(second, max_jobs=3)
    worker.register_function("limited", limited, max_jobs=1)
    worker.register_function("free", free)
    for each in (server, second):
        submit(each.client(), range(id(each), id(each) + 10), "limited")
        submit(each.client(), range(id(each), id(each) + 10), "free")
    for _ in range(20):
        server.advance()
        assert len(limited.running) == sum(running(each, "limited") for each in (server, second)) <= 1
        assert len(free.running) == sum(running(each, "free") for each in (server, second))
        assert len(limited.running) + len(free.running) <= 3
        for slow in (limited, free):
            if slow.running:
                slow.end()
    while limited.running or free.running:
        limited.end_all()
        free.end_all()
        server.advance()
    assert (len(limited.jobs), len(free.jobs), limited.most) == (20, 20, 1)


def test_a_limit_holds_across_a_restart(server: MemoryJobServer) -> None:
    """A function that may not run twice at a time is still running when the worker is started again at once."""
    slow = Slow()
    worker = server.worker()
    worker.register_function("slow", slow, max_jobs=1)
    outcomes = submit(server.client(), range(3))
    server.advance()
    worker.stopService()
    worker.startService()
    server.advance(1)
    try:
        assert len(slow.running) == 1
    finally:
        for _ in range(3):
            slow.end_all()
            server.advance(1)
    assert results(outcomes) == [b"0", b"1", b"2"]


def test_a_limit_holds_for_a_function_that_is_registered_again(server: MemoryJobServer) -> None:
    slow = Slow()
    worker = server.worker()
    worker.register_function("slow", slow, max_jobs=1)
    worker.register_function("other", slow, max_jobs=5)
    outcomes = submit(server.client(), range(3))
    server.advance()
    worker.unregister_function("other")
    worker.unregister_function("slow")
    worker.register_function("slow", slow, max_jobs=1)
    server.advance(1)
    assert len(slow.running) == 1
    for _ in range(3):
        slow.end_all()
        server.advance(1)
    assert (slow.most, results(outcomes)) == (1, [b"0", b"1", b"2"])


@pytest.mark.guarantee(number=18)
def test_a_lost_connection_gives_its_slots_back(server: MemoryJobServer) -> None:
    slow = Slow()
    worker = server.worker(max_jobs=2)
    worker.register_function("slow", slow)
    client = server.client()
    for number in range(5):
        server.result_of(client.add_task_bg("slow", b"%d" % number))
    for _ in range(5):
        server.drop_connections()
        assert (slow.running, slots_held(worker)) == ({}, 0)
        server.advance(MINUTE)
        assert len(slow.running) == 2
    slow.end_all()


# Functions that come and go.


def test_functions_from_before_the_start_are_offered(server: MemoryJobServer) -> None:
    worker = GearmanWorker([server.endpoint()], reactor=server.clock)
    worker.register_function("a", lambda job: b"a")
    worker.register_function("b", lambda job: b"b", max_jobs=1)
    worker.register_function("c", lambda job: b"c")
    worker.unregister_function("c")
    worker.startService()
    client = server.client()
    assert server.result_of(client.add_task("a")) + server.result_of(client.add_task("b")) == b"ab"
    assert set(status(server)) == {"a", "b"}
    server.result_of(worker.stopService())


@pytest.mark.parametrize("max_jobs", [None, 1])
def test_a_function_can_come_and_go_while_the_worker_sleeps(server: MemoryJobServer, max_jobs: int | None) -> None:
    """Nobody is woken for what was queued before a CAN_DO: the worker must look."""
    worker, client = server.worker(), server.client()
    worker.register_function("other", lambda job: None)
    for _ in range(3):
        done = outcome(client.add_task("f"))
        server.advance()
        worker.register_function("f", lambda job: b"done", max_jobs=max_jobs)
        server.advance()
        assert done == [b"done"]
        worker.unregister_function("f")
        server.advance()
        assert status(server)["f"] == (0, 0, 0)


@pytest.mark.parametrize("max_jobs", [None, 1])
def test_unregistering_takes_no_running_job_away(
    server: MemoryJobServer, second: MemoryJobServer, max_jobs: int | None
) -> None:
    """gearmand would give it to another worker at CANT_DO."""
    slow = Slow()
    worker = server.worker(second)
    worker.register_function("slow", slow, max_jobs=max_jobs)
    worker.register_function("other", lambda job: b"other")
    outcomes = submit(server.client(), range(1)) + submit(second.client(), range(1, 2 if max_jobs is None else 1))
    server.advance()
    worker.unregister_function("slow")
    server.advance(MINUTE)
    later = submit(server.client(), range(5, 6))
    assert server.result_of(second.client().add_task("other")) == b"other"
    assert sum(map(running, (server, second))) == len(slow.running) == len(outcomes)
    slow.end_all()
    server.advance()
    assert (results(outcomes), results(later)) == ([b"0", b"1"][: len(outcomes)], [])
    assert status(server)["slow"] == (1, 0, 0)
    assert status(second).get("slow", (0, 0, 0)) == (0, 0, 0)


def test_unregistering_while_a_job_is_asked_for_loses_nothing(server: MemoryJobServer, second: MemoryJobServer) -> None:
    """The answer may be a job of that function."""
    slow, other = Slow(), Slow()
    worker = server.worker(second, max_jobs=4)
    worker.register_function("slow", slow)
    worker.register_function("other", other)
    clients = [each.client() for each in (server, second)]
    server.advance()
    held = [each.hold_answers() for each in (server, second)]
    outcomes = []
    for number, client in enumerate(clients):
        outcomes += submit(client, range(number * 10, number * 10 + 3))
        outcomes += submit(client, range(number * 10, number * 10 + 3), "other")
    server.advance(POLL_INTERVAL)
    assert slots_held(worker)
    worker.unregister_function("slow")
    server.advance(1)
    for each in held:
        each.release()
    for _ in range(20):
        server.advance(0.5)
        assert slots_held(worker) <= 4
        slow.end_all()
        other.end_all()
    assert len(other.jobs) == 6
    left = sum(status(each)["slow"][0] for each in (server, second))
    assert len(results(outcomes)) == 12 - left
    assert slots_held(worker) == 0
    assert len(slow.jobs) == 6 - left


def test_a_function_registered_again_while_its_old_jobs_run(server: MemoryJobServer) -> None:
    old, new = Slow(), Slow()
    worker, client = server.worker(), server.client()
    worker.register_function("slow", old)
    first = submit(client, range(1))
    server.advance()
    worker.unregister_function("slow")
    worker.register_function("slow", new)
    second = submit(client, range(1, 3))
    server.advance()
    assert (old.begun, new.begun) == ([b"0"], [b"1", b"2"])
    assert running(server) == 3
    new.end_all()
    old.end_all()
    server.advance()
    assert results(first + second) == [b"0", b"1", b"2"]
    assert status(server)["slow"] == (0, 0, 1)


def test_the_old_connection_is_gone_when_its_last_job_has_ended(server: MemoryJobServer) -> None:
    slow = Slow()
    worker = server.worker(client_id="w")
    worker.register_function("slow", slow)
    worker.register_function("other", lambda job: None)
    submit(server.client(), range(1))
    server.advance()
    worker.unregister_function("slow")
    server.advance()
    slow.end_all()
    server.advance()
    assert workers(server) == [("w", {"other"})]


@pytest.mark.parametrize("how", ["unregister", "stop"])
def test_what_is_left_is_not_offered_anew(server: MemoryJobServer, second: MemoryJobServer, how: str) -> None:
    """A job runs on one server, and the connection to the other one, that nobody needs any more, is lost."""
    slow = Slow()
    worker = server.worker(second, drain_timeout=100.0)
    worker.register_function("slow", slow)
    submit(server.client(), range(1))
    server.advance()
    if how == "stop":
        worker.stopService()
    else:
        worker.unregister_function("slow")
    server.advance()
    if second.connections:
        second.drop_connections()
    server.advance(40)
    assert len(slow.running) == 1
    offered = status(second)["slow"][2]
    slow.end_all()
    assert offered == 0


def test_a_function_that_is_not_registered_can_have_no_job_left(server: MemoryJobServer) -> None:
    """CANT_DO goes out where nothing runs."""
    worker = server.worker()
    worker.register_function("slow", lambda job: None)
    server.advance()
    worker.unregister_function("slow")
    server.advance()
    assert came(server).count(CANT_DO) == 1


# Connections that come and go.


@pytest.mark.parametrize("lose_jobs", [True, False])
def test_after_a_reconnect_everything_is_registered_again(server: MemoryJobServer, lose_jobs: bool) -> None:
    worker = server.worker(client_id="w")
    worker.register_function("a", lambda job: b"a", timeout=30.0)
    worker.register_function("b", lambda job: b"b", max_jobs=2)
    worker.register_function("gone", lambda job: b"")
    server.advance()
    fault = server.go_down(lose_jobs=lose_jobs)
    worker.unregister_function("gone")
    worker.register_function("new", lambda job: b"n")
    server.advance(5)
    assert [info.state for info in worker.servers] == [ServerState.WAITING]
    fault.end()
    server.advance(MINUTE)
    assert workers(server) == [("w", {"a", "new"}), ("w", {"b"})]
    assert CAN_DO_TIMEOUT in came(server)
    client = server.client()
    assert [server.result_of(client.add_task(name)) for name in ("a", "b", "new")] == [b"a", b"b", b"n"]


def test_one_server_that_is_down_does_not_stop_the_other(server: MemoryJobServer, second: MemoryJobServer) -> None:
    worker = server.worker(second, max_jobs=1)
    worker.register_function("f", lambda job: job.workload)
    with server.go_down():
        for _ in range(5):
            assert server.result_of(second.client().add_task("f", b"x")) == b"x"
            server.advance(5)
        states = [info.state for info in worker.servers]
        assert states[1] is ServerState.READY
        assert states[0] in (ServerState.WAITING, ServerState.CONNECTING)
    server.advance(MINUTE)
    assert server.result_of(server.client().add_task("f", b"y")) == b"y"


@pytest.mark.guarantee(number=18)
@pytest.mark.parametrize("max_jobs", [1, 3])
def test_a_silent_server_keeps_no_slot_for_long(
    server: MemoryJobServer, second: MemoryJobServer, max_jobs: int
) -> None:
    """It was asked for a job when it fell silent."""
    worker = server.worker(second, max_jobs=max_jobs, server_timeout=4.0)
    worker.register_function("f", lambda job: b"done")
    client = second.client()
    server.advance()
    with server.fall_silent():
        for _ in range(10):
            server.advance(8.1)
            done = outcome(client.add_task("f"))
            server.advance(8.1)
            assert done == [b"done"]
    server.advance(MINUTE)
    assert slots_held(worker) == 0
    assert [info.state for info in worker.servers] == [ServerState.READY] * 2


def test_a_dead_server_is_found_out_by_an_idle_worker(server: MemoryJobServer) -> None:
    """Alive to the eye and doing nothing is what users complain of most."""
    worker = server.worker()
    worker.register_function("f", lambda job: b"done")
    server.advance()
    silence = server.fall_silent()
    server.advance(POLL_INTERVAL + 1.5 * SERVER_TIMEOUT)
    assert [info.state for info in worker.servers] != [ServerState.READY]
    silence.end()
    server.advance(MINUTE)
    assert server.result_of(server.client().add_task("f")) == b"done"


# Other servers at run time.


@pytest.mark.parametrize("max_jobs", [None, 2])
def test_servers_may_join_and_leave(server: MemoryJobServer, second: MemoryJobServer, max_jobs: int | None) -> None:
    """What runs is finished where it came from; nothing more is taken there. A function with a limit goes with it."""
    slow = Slow()
    worker = server.worker(client_id="w")
    worker.register_function("slow", slow, max_jobs=max_jobs)
    clients = server.client(), second.client()
    first = outcome(clients[0].add_task("slow", b"1"))
    server.advance()
    assert slow.begun == [b"1"]
    worker.job_servers = [second.endpoint()]
    waiting = outcome(clients[0].add_task("slow", b"2"))
    moved = outcome(clients[1].add_task("slow", b"3"))
    server.advance()
    assert slow.begun == [b"1", b"3"]
    slow.end_all()
    server.advance()
    assert (first, moved, waiting) == ([b"1"], [b"3"], [])
    assert (workers(server), {name for name, _ in workers(second)}) == ([], {"w"})
    worker.job_servers = [*worker.job_servers, server.endpoint()]
    server.advance()
    slow.end(b"2")
    server.advance()
    assert waiting == [b"2"]
    server.result_of(second.close())


def test_a_server_that_is_left_by_an_idle_worker_is_left_at_once(
    server: MemoryJobServer, second: MemoryJobServer
) -> None:
    worker = server.worker(second)
    worker.register_function("slow", Slow())
    server.advance()
    assert len(workers(second)) == 1
    worker.job_servers = worker.job_servers[:1]
    server.advance()
    assert (len(workers(server)), workers(second)) == (1, [])
    assert [info.state for info in worker.servers] == [ServerState.READY]


@pytest.mark.guarantee(number=8)
def test_servers_that_cant_be_meant_change_nothing(server: MemoryJobServer) -> None:
    worker = server.worker()
    worker.register_function("slow", Slow(), max_jobs=1)
    before = worker.job_servers
    for wrong in ([], ["a b"], "host", [1]):
        with pytest.raises((TypeError, ValueError), match="job_servers"):
            worker.job_servers = wrong  # type: ignore[assignment]  # that is what is wrong with some of them
    assert worker.job_servers == before
    server.advance()
    assert len(workers(server)) == 1


@pytest.mark.guarantee(number=11)
def test_a_stop_waits_for_a_server_that_is_being_left(server: MemoryJobServer, second: MemoryJobServer) -> None:
    slow = Slow()
    worker = server.worker(second)
    worker.register_function("slow", slow)
    done = outcome(server.client().add_task("slow", b"1"))
    server.advance()
    worker.job_servers = worker.job_servers[1:]
    stopped = outcome(worker.stopService())
    server.advance(1)
    assert (done, stopped) == ([], [])
    slow.end_all()
    server.advance()
    assert (done, len(stopped)) == ([b"1"], 1)
    assert workers(server) == workers(second) == []


def test_a_job_whose_connection_is_lost_is_cancelled_and_done_again(server: MemoryJobServer) -> None:
    slow = Slow()
    server.worker().register_function("slow", slow)
    server.result_of(server.client().add_task_bg("slow", b"x"))
    job = slow.jobs[0]
    server.drop_connections()
    assert slow.cancelled == [b"x"]
    assert "lost" in job.ended
    with pytest.raises(JobEnded, match="connection was lost"):
        job.send_data(b"")
    server.advance(MINUTE)
    assert slow.begun == [b"x", b"x"]
    slow.end_all()
    server.advance()
    assert status(server)["slow"] == (0, 0, 1)


def test_a_generator_is_closed_when_its_connection_is_lost(server: MemoryJobServer) -> None:
    closed: list[str] = []

    async def chunks(job: Job) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
                await deferLater(server.clock, 1)
        finally:
            closed.append("closed")

    server.worker().register_function("f", chunks)
    told = outcome(server.client().add_task("f"))
    server.advance(2.5)
    server.drop_connections()
    assert (closed, [type(error) for error in told]) == (["closed"], [TaskLost])


# Sleep.


@pytest.mark.parametrize("poll_interval", [2.0, 10.0])
def test_a_job_for_a_time_starts_within_the_poll(server: MemoryJobServer, poll_interval: float) -> None:
    """H7: gearmand 1.1 wakes nobody for it."""
    begun: list[float] = []
    server.worker(poll_interval=poll_interval).register_function("f", lambda job: begun.append(server.clock.seconds()))
    at = server.clock.seconds() + 21
    server.result_of(server.client().add_task_bg("f", at=at))
    server.advance(21 + poll_interval)
    assert len(begun) == 1
    assert 0 <= begun[0] - at <= poll_interval


def test_what_an_idle_worker_sends(server: MemoryJobServer, second: MemoryJobServer) -> None:
    worker = server.worker(second)
    worker.register_function("f", lambda job: None)
    server.advance()
    before = [len(came(each)) for each in (server, second)]
    server.advance(MINUTE)
    for count, each in zip(before, (server, second), strict=True):
        assert came(each)[count:] == [GRAB_JOB_ALL, PRE_SLEEP] * 6


def test_a_server_that_wakes_without_end_is_not_asked_without_end(server: MemoryJobServer) -> None:
    """H8: a job for later hides a LOW one from GRAB_JOB, but not from PRE_SLEEP."""
    done: list[bytes] = []
    client = server.client()
    server.result_of(client.add_task_bg("f", b"epoch", at=server.clock.seconds() + 61))
    server.result_of(client.add_task_bg("f", b"low", priority=Priority.LOW))
    worker = server.worker()
    worker.register_function("f", lambda job: done.append(job.workload))
    worker.register_function("g", lambda job: b"g")
    server.advance(0)
    before = len(came(server))
    server.advance(MINUTE)
    assert done == []
    assert len(came(server)) - before <= 2 * 4 * MINUTE + 40
    assert server.result_of(client.add_task_bg("g")) is not None
    server.advance(2)
    assert done == [b"epoch", b"low"]


@pytest.mark.parametrize("burst", [1, 13, 100])
def test_bursts_of_jobs_are_never_kept_waiting(server: MemoryJobServer, burst: int) -> None:
    """At the end of each, many requests are answered with NO_JOB; those are no spurious wake-ups."""
    worker, client = server.worker(max_jobs=burst), server.client()
    worker.register_function("f", lambda job: job.workload)
    server.advance()
    for _ in range(20):
        done = [outcome(client.add_task("f", b"x")) for _ in range(burst)]
        server.advance()
        assert done == [[b"x"]] * burst


def test_jobs_one_after_the_other_cost_few_packets(server: MemoryJobServer) -> None:
    worker, client = server.worker(), server.client()
    worker.register_function("f", lambda job: job.workload)
    server.advance()
    before = len(came(server))
    for _ in range(20):
        assert server.result_of(client.add_task("f", b"x")) == b"x"
    grabs = came(server)[before:].count(GRAB_JOB_ALL)
    assert 20 < grabs <= 60


# Stopping.


@pytest.mark.guarantee(number=11)
def test_a_worker_that_was_never_started_stops_at_once(server: MemoryJobServer) -> None:
    worker = GearmanWorker([server.endpoint()], reactor=server.clock)
    worker.register_function("f", lambda job: None, max_jobs=1)
    assert outcome(worker.stopService()) == [None]


def prepare_connecting(server: MemoryJobServer) -> GearmanWorker:
    worker = GearmanWorker([server.endpoint()], reactor=server.clock)
    worker.register_function("f", lambda job: None)
    worker.startService()
    return worker


def prepare_shaking_hands(server: MemoryJobServer) -> GearmanWorker:
    hold = server.hold_answers()
    worker = prepare_connecting(server)
    server.advance(1)
    server.clock.callLater(1, hold.release)
    return worker


def prepare_back_off(server: MemoryJobServer) -> GearmanWorker:
    with server.refuse_connections():
        worker = prepare_connecting(server)
        server.advance(0.1)
    assert [info.state for info in worker.servers] == [ServerState.WAITING]
    return worker


def prepare_black_hole(server: MemoryJobServer) -> GearmanWorker:
    with server.black_hole_connections():
        worker = prepare_connecting(server)
        server.advance(1)
    return worker


def prepare_asleep(server: MemoryJobServer) -> GearmanWorker:
    worker = prepare_connecting(server)
    server.advance(1)
    return worker


def prepare_asking(server: MemoryJobServer) -> GearmanWorker:
    worker = prepare_asleep(server)
    hold = server.hold_answers()
    server.advance(POLL_INTERVAL)
    assert slots_held(worker) == 1
    server.clock.callLater(1, hold.release)
    return worker


def prepare_resting(server: MemoryJobServer) -> GearmanWorker:
    client = server.client()
    server.result_of(client.add_task_bg("f", at=server.clock.seconds() + 1000))
    server.result_of(client.add_task_bg("f", priority=Priority.LOW))
    return prepare_asleep(server)


PREPARE: Final = [
    prepare_connecting,
    prepare_shaking_hands,
    prepare_back_off,
    prepare_black_hole,
    prepare_asleep,
    prepare_asking,
    prepare_resting,
]


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("prepare", PREPARE)
def test_a_stop_leaves_nothing(server: MemoryJobServer, prepare: Callable[[MemoryJobServer], Any]) -> None:
    worker = prepare(server)
    timers = [outcome(worker.stopService()), outcome(worker.stopService())]
    server.advance(5)
    assert timers == [[None], [None]]
    assert slots_held(worker) == 0
    assert all(info.state is ServerState.STOPPED for info in worker.servers)
    server.advance(100)
    assert workers(server) == []


@pytest.mark.parametrize("prepare", PREPARE)
def test_a_worker_can_be_started_again_at_once(
    server: MemoryJobServer, prepare: Callable[[MemoryJobServer], Any]
) -> None:
    worker = prepare(server)
    stopped = [outcome(worker.stopService())]
    worker.startService()
    worker.startService()
    server.advance(0.1)
    stopped.append(outcome(worker.stopService()))
    worker.startService()
    worker.register_function("g", lambda job: b"g")
    server.advance(5)
    assert stopped == [[None], [None]]
    done = outcome(server.client().add_task("g"))
    server.advance(1)  # one with endless spurious wake-ups asks less often
    assert done == [b"g"]
    assert [functions for _, functions in workers(server)] == [{"f", "g"}]
    assert slots_held(worker) == 0
    server.result_of(worker.stopService())


def test_a_stop_lets_jobs_end_and_takes_no_more(server: MemoryJobServer, second: MemoryJobServer) -> None:
    slow = Slow()
    worker = server.worker(second, max_jobs=4)
    worker.register_function("slow", slow)
    outcomes = submit(server.client(), range(3)) + submit(second.client(), range(10, 13))
    server.advance()
    begun = slow.begun
    stopped = outcome(worker.stopService())
    server.advance(DRAIN_TIMEOUT - 1)
    assert (stopped, len(slow.running), slow.begun) == ([], 4, begun)
    slow.end_all()
    server.advance()
    assert (stopped, len(results(outcomes)), slow.cancelled) == ([None], 4, [])
    assert len(server.queued("slow") + second.queued("slow")) == 2


@pytest.mark.parametrize("drain_timeout", [0, 0.5, 7.0])
def test_a_job_that_does_not_end_in_time_goes_back_to_its_server(server: MemoryJobServer, drain_timeout: float) -> None:
    slow = Slow()
    worker = server.worker(drain_timeout=drain_timeout)
    worker.register_function("slow", slow, timeout=100.0)
    submit(server.client(), range(2))
    server.advance()
    stopped = outcome(worker.stopService())
    if drain_timeout:
        server.advance(drain_timeout - 0.1)
        assert (stopped, slow.cancelled) == ([], [])
    server.advance(0.2)
    assert (stopped, slow.cancelled, slots_held(worker)) == ([None], [b"0", b"1"], 0)
    assert sorted(server.queued("slow")) == [b"0", b"1"]


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("stubborn", [False, True])
def test_a_function_that_goes_on_after_its_end_leaves_no_timer(server: MemoryJobServer, stubborn: bool) -> None:
    """Its job is done, and its connection has forgotten it; but it runs, and its time-out is still to come."""
    cancelled: list[bool] = []

    async def function(job: Job) -> None:
        if not stubborn:
            job.complete(b"told")
        try:
            await deferLater(server.clock, 500)
        except CancelledError:
            cancelled.append(True)
            if stubborn:
                await Deferred()

    worker = GearmanWorker([server.endpoint()], reactor=server.clock, drain_timeout=2.0)
    worker.register_function("f", function, timeout=1000.0)
    worker.startService()
    outcome(server.client().add_task("f"))
    server.advance(1)
    stopped = outcome(worker.stopService())
    server.advance(10)
    left = [call for call in server.clock.getDelayedCalls() if call.getTime() - server.clock.seconds() > 100]
    for call in left:
        call.cancel()
    assert (stopped, cancelled, left) == ([None], [True], [])


def test_a_generator_that_runs_is_closed_at_the_end_of_the_drain(server: MemoryJobServer) -> None:
    closed: list[bool] = []

    async def endless(job: Job) -> AsyncIterator[bytes]:
        try:
            while True:
                await deferLater(server.clock, 1)
                yield b"x"
        finally:
            closed.append(True)

    worker = server.worker(drain_timeout=5.0)
    worker.register_function("f", endless)
    told: list[bytes] = []
    server.client().add_task("f", on_data=lambda _, data: told.append(data)).addErrback(lambda _: None)
    server.advance()
    stopped = outcome(worker.stopService())
    server.advance(5.1)
    assert (stopped, closed) == ([None], [True])
    assert len(told) >= 4


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("kind", ["stop", "restart", "unregister", "register", "all"])
@pytest.mark.parametrize("later", [False, True])
def test_a_function_may_do_anything_to_its_worker(server: MemoryJobServer, kind: str, later: bool) -> None:
    stopped: list[Any] = []

    def meddle() -> None:
        if kind in ("stop", "restart", "all"):
            worker.stopService().addCallback(stopped.append)
        if kind in ("unregister", "all"):
            worker.unregister_function("f")
        if kind in ("register", "all"):
            worker.register_function("more", lambda job: b"more")
        if kind in ("restart", "all"):
            worker.startService()

    async def function(job: Job) -> bytes:
        if later:
            await deferLater(server.clock, 1)
        meddle()
        return b"done"

    worker = server.worker()
    worker.register_function("f", function)
    assert outcome_of(server, server.client().add_task("f")) == [b"done"]
    assert stopped == [None] * (kind in ("stop", "restart", "all"))
    assert slots_held(worker) == 0
    expected = {"stop": [], "restart": [{"f"}], "unregister": [], "register": [{"f", "more"}], "all": [{"more"}]}
    assert [functions for _, functions in workers(server)] == expected[kind]


def outcome_of(server: MemoryJobServer, deferred: Deferred[Any]) -> list[Any]:
    told = outcome(deferred)
    server.advance(5)
    return told


def test_a_function_that_awaits_the_stop_of_its_worker_is_cancelled(server: MemoryJobServer) -> None:
    """Each waits for the other, for as long as the drain may take."""

    async def function(job: Job) -> None:
        await worker.stopService()

    worker = server.worker(drain_timeout=5.0)
    worker.register_function("f", function)
    server.result_of(server.client().add_task_bg("f"))
    stopped = outcome(worker.stopService())
    server.advance(5.1)
    assert (stopped, slots_held(worker)) == ([None], 0)
    assert status(server)["f"] == (1, 0, 0)


@pytest.mark.guarantee(number=13)
def test_the_deferred_of_a_stop_may_start_and_stop_the_worker(server: MemoryJobServer) -> None:
    worker = server.worker()
    worker.register_function("f", lambda job: b"done")
    server.advance()
    order: list[str] = []

    def again(_: object) -> Deferred[Any]:
        order.append("stopped")
        worker.startService()
        stopping: Deferred[Any] = worker.stopService()
        worker.startService()
        return stopping

    assert outcome_of(server, worker.stopService().addCallback(again)) == [None]
    assert order == ["stopped"]
    assert server.result_of(server.client().add_task("f")) == b"done"


@pytest.mark.guarantee(number=13)
def test_a_canceller_may_stop_and_start_the_worker(server: MemoryJobServer) -> None:
    """It runs while a lost connection is being cleared up."""
    cancelled: list[bytes] = []

    def function(job: Job) -> Deferred[None]:
        def cancel(_: object) -> None:
            cancelled.append(job.workload)
            worker.stopService()
            worker.startService()

        return Deferred(cancel)

    worker = server.worker(max_jobs=3)
    worker.register_function("slow", function)
    submit(server.client(), range(3))
    server.advance()
    server.drop_connections()
    assert cancelled == [b"0", b"1", b"2"]
    assert slots_held(worker) == 0
    server.advance(5)
    assert [functions for _, functions in workers(server)] == [{"slow"}]


@pytest.mark.guarantee(number=13)
def test_a_function_may_await_another_job_of_its_server(server: MemoryJobServer) -> None:
    client = server.client()

    async def outer(job: Job) -> bytes:
        return b"<" + await client.add_task("inner", job.workload) + b">"

    worker = server.worker(max_jobs=2)
    worker.register_function("outer", outer)
    worker.register_function("inner", lambda job: job.workload)
    assert server.result_of(client.add_task("outer", b"x")) == b"<x>"


def test_a_stop_while_old_connections_end(server: MemoryJobServer) -> None:
    """The jobs of a function that was unregistered get the time of the drain, no more."""
    slow = Slow()
    worker = server.worker(drain_timeout=5.0)
    worker.register_function("slow", slow)
    submit(server.client(), range(1))
    server.advance()
    worker.unregister_function("slow")
    server.advance(100)
    assert len(slow.running) == 1
    stopped = outcome(worker.stopService())
    server.advance(2)
    stopped += outcome(worker.stopService())
    server.advance(3.1)
    assert (stopped, slow.cancelled) == ([None], [b"0"])


def test_each_stop_waits_for_what_it_stopped(server: MemoryJobServer) -> None:
    """What is unregistered after a restart has no part in the stop before it."""
    slow = Slow()
    worker = server.worker(drain_timeout=5.0)
    worker.register_function("slow", slow)
    submit(server.client(), range(1))
    server.advance()
    first = outcome(worker.stopService())
    worker.startService()
    submit(server.client(), range(1, 2))
    server.advance(1)
    worker.unregister_function("slow")
    server.advance(30)
    assert slow.cancelled == [b"0"]
    assert list(slow.running) == [b"1"]
    told = list(first)
    slow.end_all()
    server.advance()
    assert told == [None]


def test_a_large_result_goes_out_before_the_connection_is_closed(server: MemoryJobServer) -> None:
    gate: Deferred[bytes] = Deferred()
    worker = server.worker()
    worker.register_function("f", lambda job: gate)
    done = outcome(server.client().add_task("f"))
    server.advance()
    stopped = outcome(worker.stopService())
    gate.callback(b"x" * 3_000_000)
    server.advance()
    assert (done, stopped) == ([b"x" * 3_000_000], [None])


async def test_it_is_an_async_context_manager() -> None:
    server = MemoryJobServer(reactor)
    async with GearmanWorker([server.endpoint()]) as worker:
        assert worker.running
        worker.register_function("f", lambda job: b"done")
        assert await server.client().add_task("f") == b"done"
    assert not worker.running
    assert [info.state for info in worker.servers] == [ServerState.STOPPED]
    await server.close()


def test_servers_tell_how_many_jobs_run(server: MemoryJobServer, second: MemoryJobServer) -> None:
    """On all connections to a server: those of limited functions, and those that are being left."""
    slow, limited = Slow(), Slow()
    worker = server.worker(second)
    worker.register_function("slow", slow)
    worker.register_function("limited", limited, max_jobs=2)
    submit(server.client(), range(2))
    submit(second.client(), range(5, 6), "limited")
    server.advance()
    worker.unregister_function("slow")
    server.advance()
    assert [(info.state, info.in_flight) for info in worker.servers] == [
        (ServerState.READY, 2),
        (ServerState.READY, 1),
    ]
    slow.end_all()
    limited.end_all()


# Anything, in any order.


class Anything(RuleBasedStateMachine):
    """Two servers, one worker, and whatever people and networks do to them.

    Each job's result comes once, unless its connection was lost; no more jobs run than may; and what the worker counts
    is what there is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.servers = [MemoryJobServer()]
        self.servers.append(MemoryJobServer(self.servers[0].clock))
        self.slow = Slow()
        self.worker = self.servers[0].worker(self.servers[1], max_jobs=3, drain_timeout=4.0)
        self.clients = [each.client() for each in self.servers]
        self.registered: set[str] = set()
        self.started = True
        self.stops: list[list[Any]] = []
        self.outcomes: dict[bytes, list[Any]] = {}
        self.functions: dict[bytes, str] = {}

    @rule(function=st.sampled_from("abc"))
    def register_or_unregister(self, function: str) -> None:
        if function in self.registered:
            self.worker.unregister_function(function)
        else:
            self.worker.register_function(function, self.slow, max_jobs=1 if function == "c" else None)
        self.registered ^= {function}

    @rule(function=st.sampled_from("abc"), which=st.integers(0, 1), count=st.integers(1, 4))
    def submit(self, function: str, which: int, count: int) -> None:
        for _ in range(count):
            workload = b"%d" % len(self.outcomes)
            self.functions[workload] = function
            self.outcomes[workload] = outcome(self.clients[which].add_task(function, workload))

    @precondition(lambda self: self.slow.running)
    @rule(count=st.integers(1, 3))
    def end(self, count: int) -> None:
        for workload in list(self.slow.running)[:count]:
            self.slow.end(workload)

    @rule(which=st.integers(0, 1))
    def drop(self, which: int) -> None:
        self.servers[0].advance()
        if self.servers[which].connections:
            self.servers[which].drop_connections()

    @rule(seconds=st.sampled_from([0.0, 0.0, 0.1, 1.0, 5.0, 11.0]))
    def wait(self, seconds: float) -> None:
        """Once all has settled, the servers know of just those jobs that run here."""
        self.servers[0].advance(seconds)
        assert sum(running(each, name) for each in self.servers for name in "abc") == len(self.slow.running)

    @rule()
    def stop_or_start(self) -> None:
        if self.started:
            self.stops.append(outcome(self.worker.stopService()))
        else:
            self.worker.startService()
        self.started = not self.started

    @invariant()
    def no_more_run_than_may(self) -> None:
        assert len(self.slow.running) <= slots_held(self.worker) <= 3
        assert sum(info.in_flight for info in self.worker.servers) == len(self.slow.running)

    @invariant()
    def each_has_one_outcome(self) -> None:
        for workload, told in self.outcomes.items():
            assert len(told) <= 1
            for each in told:
                assert each == workload or isinstance(each, TaskLost) or "NoServers" in type(each).__name__

    def teardown(self) -> None:
        server = self.servers[0]
        self.worker.startService()
        for function in set("abc") - self.registered:
            self.worker.register_function(function, self.slow)
        server.advance(MINUTE)
        for _ in range(len(self.outcomes) + 1):
            self.slow.end_all()
            server.advance()
        assert all(len(told) == 1 for told in self.outcomes.values())
        assert slots_held(self.worker) == 0
        server.result_of(server.close())
        assert all(told == [None] for told in self.stops)
        assert server.clock.getDelayedCalls() == []


TestAnything = Anything.TestCase
TestAnything.settings = of_histories()
