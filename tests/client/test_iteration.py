"""`map` and `stream`: order, laziness, bounds, failures, and loops that are left early."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.task import deferLater

from txgearman import (
    ClientStopped,
    Task,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskTimedOut,
)

from ..client_harness import NOTHING, ClientHarness, outcome, take_all
from ..garbage import finalize
from .loops import Loop


class Workloads:
    """Workloads that count how many of them were taken."""

    def __init__(self, count: int = 10**9) -> None:
        self._count = count
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        while self.taken < self._count:
            self.taken += 1
            yield b"%d" % (self.taken - 1)


class AsyncWorkloads(Workloads):
    """The same as an async iterable, without delays."""

    def __iter__(self) -> Iterator[bytes]:
        raise AssertionError("not an iterable")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for workload in super().__iter__():
            yield workload


BOTH = pytest.mark.parametrize("workloads", [Workloads, AsyncWorkloads])


class ManualWorkloads:
    """Async iterable of workloads that the test supplies one by one."""

    def __init__(self) -> None:
        self.requested: list[Deferred[bytes]] = []
        self.cancelled: list[Deferred[bytes]] = []

    def __aiter__(self) -> ManualWorkloads:
        return self

    def __anext__(self) -> Awaitable[bytes]:
        self.requested.append(Deferred(self.cancelled.append))
        return self.requested[-1]

    def supply(self, workload: bytes) -> None:
        self.requested[-1].callback(workload)

    def end(self, error: BaseException | None = None) -> None:
        self.requested[-1].errback(error or StopAsyncIteration())


def do(harness: ClientHarness, *wanted: bytes) -> None:
    """Complete these jobs, in this order; each result is the workload with an exclamation mark."""
    harness.advance()
    jobs = {job.workload: job for job in [harness.server.take("work") for _ in harness.server.queued("work")]}
    for workload in wanted:
        jobs.pop(workload).complete(workload + b"!")
    for job in jobs.values():  # return them to the queue, in order
        job.abandon()


def do_all(harness: ClientHarness) -> None:
    """Complete jobs until there are no more."""
    while harness.server.queued("work"):
        job = harness.server.take("work")
        job.complete(job.workload + b"!")


def expected_results(count: int) -> list[bytes]:
    return [b"%d!" % number for number in range(count)]


async def some_turns() -> None:
    """Wait for turns of the real reactor: asyncio closes a generator that is dropped in a later turn."""
    reactor: Any = global_reactor
    for _ in range(3):
        await deferLater(reactor, 0)


def check_idle(harness: ClientHarness) -> None:
    harness.advance()
    assert harness.client.servers[0].in_flight == 0
    assert outcome(harness.client.drain()) is None


# map: order, laziness, bounds.


@BOTH
@pytest.mark.parametrize("concurrency", [1, 2, 3, 10, 11, 100])
def test_map_yields_results_in_order_of_workloads(workloads: type[Workloads], concurrency: int) -> None:
    harness = ClientHarness().start()
    loop = Loop(harness, harness.client.map("work", workloads(10), concurrency=concurrency))
    while harness.server.queued("work"):
        do(harness, *reversed(harness.server.queued("work")))
    assert (loop.outcome, loop.results) == ("exhausted", expected_results(10))
    check_idle(harness)
    harness.stop()


@BOTH
def test_map_takes_workloads_as_needed(workloads: type[Workloads]) -> None:
    harness = ClientHarness().start()
    source = workloads()
    results = harness.client.map("work", source, concurrency=3)
    harness.advance()
    assert source.taken == 0
    loop = Loop(harness, results, most=5)
    assert (source.taken, harness.server.queued("work")) == (3, [b"0", b"1", b"2"])
    do(harness, b"1", b"2")  # the first result is missing, so no more workloads are taken
    assert (source.taken, loop.results) == (3, [])
    do(harness, b"0")
    assert loop.results == expected_results(3)
    assert (source.taken, harness.server.queued("work")) == (6, [b"3", b"4", b"5"])
    do(harness, b"3", b"4")
    assert loop.outcome == "left"
    harness.stop()


@BOTH
def test_slow_loop_bounds_finished_tasks_of_map(workloads: type[Workloads]) -> None:
    harness = ClientHarness().start()
    source = workloads(7)
    held: Deferred[None] = Deferred()
    loop = Loop(harness, harness.client.map("work", source, concurrency=3), each=lambda _: held)
    do_all(harness)
    assert len(loop.results) == 1
    assert source.taken <= 3
    release, held = held, Deferred()
    held.callback(None)
    release.callback(None)
    do_all(harness)
    assert (loop.outcome, loop.results) == ("exhausted", expected_results(7))
    harness.stop()


@pytest.mark.parametrize("nothing", [[], AsyncWorkloads(0), iter(())], ids=["list", "async", "iterator"])
def test_map_of_no_workloads_yields_nothing(nothing: Any) -> None:
    harness = ClientHarness()
    loop = Loop(harness, harness.client.map("work", nothing))
    assert (loop.outcome, loop.results) == ("exhausted", [])
    harness.check_that_nothing_was_done()


def test_map_passes_options_to_each_task() -> None:
    harness = ClientHarness(prefix="p").start()
    created: list[bytes] = []
    options: dict[str, Any] = {"unique": "u", "on_created": lambda task: created.append(task.workload)}
    loop = Loop(harness, harness.client.map("work", Workloads(3), **options))
    job = harness.server.take("p\twork")
    assert (job.workload, job.unique) == (b"0", b"u")
    job.complete(b"one for all")
    assert (loop.outcome, loop.results, created) == ("exhausted", [b"one for all"] * 3, [b"0", b"1", b"2"])
    harness.stop()


def test_map_yields_empty_results() -> None:
    harness = ClientHarness().start()
    for source in (Workloads(2), AsyncWorkloads(2)):
        loop = Loop(harness, harness.client.map("work", source))
        for _ in range(2):
            harness.server.take("work").complete(b"")
        assert (loop.outcome, loop.results) == ("exhausted", [b"", b""])
    harness.stop()


# map: failures.


@BOTH
def test_map_raises_first_failure_in_order_and_cancels_others(workloads: type[Workloads]) -> None:
    harness = ClientHarness().start()
    source = workloads()
    loop = Loop(harness, harness.client.map("work", source, concurrency=3))
    jobs = [harness.server.take("work") for _ in range(3)]
    jobs[1].fail()
    assert (loop.outcome, loop.results) == (NOTHING, [])
    jobs[0].complete(b"0!")
    error = loop.outcome
    assert (type(error), error.task.workload, loop.results) == (TaskFailed, b"1", expected_results(1))
    check_idle(harness)
    assert source.taken <= 4
    harness.stop()


@BOTH
def test_map_ends_after_raising(workloads: type[Workloads]) -> None:
    harness = ClientHarness().start()
    results = harness.client.map("work", workloads())
    first = ensureDeferred(anext(results))
    harness.server.take("work").fail()
    assert type(outcome(first)) is TaskFailed
    second = ensureDeferred(anext(results))
    assert type(outcome(second)) is StopAsyncIteration
    harness.stop()


@BOTH
def test_map_raises_one_of_many_failures_and_logs_none(workloads: type[Workloads]) -> None:
    harness = ClientHarness().start()
    loop = Loop(harness, harness.client.map("work", workloads(5)))
    for job in [harness.server.take("work") for _ in range(5)][::-1]:
        job.send_exception(job.workload)
    error = loop.outcome
    assert (type(error), error.data) == (TaskException, b"0")
    del loop, error
    gc.collect()  # an unhandled error in a Deferred is logged now, which fails the test
    harness.stop()


@BOTH
def test_map_retries_each_task(workloads: type[Workloads]) -> None:
    harness = ClientHarness().start()
    loop = Loop(harness, harness.client.map("work", workloads(2), retries=1))
    harness.server.take("work").fail()
    do_all(harness)
    assert loop.results == []
    harness.advance(0.5)
    do_all(harness)
    assert (loop.outcome, loop.results) == ("exhausted", expected_results(2))
    harness.stop()


class WorkloadError(Exception):
    """Raised by an iterable of workloads."""


def failing(kind: type[Workloads]) -> Any:
    async def later() -> AsyncIterator[bytes]:
        for workload in Workloads(2):
            yield workload
        raise WorkloadError

    def now() -> Iterator[bytes]:
        yield from Workloads(2)
        raise WorkloadError

    return later() if kind is AsyncWorkloads else now()


def test_error_of_iterable_is_raised_at_once() -> None:
    harness = ClientHarness().start()
    loop = Loop(harness, harness.client.map("work", failing(Workloads)))
    assert (type(loop.outcome), loop.results) == (WorkloadError, [])
    check_idle(harness)
    harness.stop()


def test_error_of_async_iterable_is_raised_after_earlier_results() -> None:
    harness = ClientHarness().start()
    loop = Loop(harness, harness.client.map("work", failing(AsyncWorkloads)))
    do_all(harness)
    assert (type(loop.outcome), loop.results) == (WorkloadError, expected_results(2))
    harness.stop()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("wrong", ["text", None, b"x" * 101])
@pytest.mark.parametrize("is_async", [False, True])
def test_invalid_workload_raises_when_its_turn_comes(is_async: bool, wrong: Any) -> None:
    harness = ClientHarness(max_packet_size=100).start()

    async def later() -> AsyncIterator[Any]:
        yield b"0"
        yield wrong

    loop = Loop(harness, harness.client.map("work", later() if is_async else [b"0", wrong]))
    do_all(harness)
    assert isinstance(loop.outcome, (TypeError, ValueError))
    assert loop.results == (expected_results(1) if is_async else [])
    check_idle(harness)
    harness.stop()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"concurrency": 0}, ValueError, "concurrency must be at least 1, not 0"),
        ({"concurrency": 1.5}, TypeError, "concurrency must be int, not float"),
        ({"function": ""}, ValueError, "function must not be empty"),
        ({"function": "f" * 8050}, ValueError, "prefix and function must have 8050 bytes at most, not 8053"),
        ({"retries": -1}, ValueError, "retries must be at least 0"),
        ({"timeout": 0}, ValueError, "timeout must be a positive number"),
        ({"at": 5}, ValueError, "at must be None for a foreground task"),
        ({"background": True}, TypeError, "background"),
        ({"workload": b"x"}, TypeError, "workload"),
        ({"on_nothing": print}, TypeError, "on_nothing"),
        ({"workloads": b"abc"}, TypeError, "workloads must be an iterable of bytes, not bytes"),
        ({"workloads": "abc"}, TypeError, "workloads must be an iterable of bytes, not str"),
        ({"workloads": 5}, TypeError, "workloads must be an iterable of bytes, not int"),
    ],
)
def test_invalid_map_arguments_raise(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    harness = ClientHarness(prefix="pp")
    with pytest.raises(kind, match=message):
        harness.client.map(**{"function": "work", "workloads": [b"x"], **arguments})
    harness.check_that_nothing_was_done()


# map: loops that are left early.


@pytest.mark.guarantee(number=9)
@BOTH
def test_leaving_map_cancels_its_tasks(workloads: type[Workloads]) -> None:
    """Tasks that were not sent never are."""
    harness = ClientHarness(max_in_flight=2).start()
    loop = Loop(harness, harness.client.map("work", workloads(), concurrency=4), most=1)
    do(harness, b"0")
    assert (loop.outcome, loop.results) == ("left", expected_results(1))
    check_idle(harness)
    assert set(take_all(harness.server)) <= {b"1", b"2"}
    harness.stop()


@BOTH
async def test_break_cancels_tasks_of_map(workloads: type[Workloads]) -> None:
    harness = ClientHarness().start()

    async def first() -> bytes:
        async for result in harness.client.map("work", workloads(), concurrency=4):
            return result
        raise AssertionError

    got = ensureDeferred(first())
    harness.server.take("work").complete(b"first")
    assert outcome(got) == b"first"
    finalize()
    await some_turns()
    check_idle(harness)
    harness.stop()


@pytest.mark.guarantee(number=9)
@BOTH
def test_cancelling_loop_cancels_tasks_of_map(workloads: type[Workloads]) -> None:
    harness = ClientHarness(max_in_flight=2).start()
    loop = Loop(harness, harness.client.map("work", workloads(), concurrency=4))
    do(harness, b"1")
    loop.over.cancel()
    assert type(loop.outcome) is CancelledError
    check_idle(harness)
    assert set(take_all(harness.server)) <= {b"0", b"2"}
    harness.stop()


@pytest.mark.guarantee(number=9)
@BOTH
def test_closing_unused_map_does_nothing(workloads: type[Workloads]) -> None:
    harness = ClientHarness()
    source = workloads()
    closed = ensureDeferred(harness.client.map("work", source).aclose())
    assert outcome(closed) is None
    assert source.taken == 0
    harness.check_that_nothing_was_done()


@pytest.mark.guarantee(number=1)
@BOTH
def test_stop_ends_map(workloads: type[Workloads]) -> None:
    harness = ClientHarness().start()
    loop = Loop(harness, harness.client.map("work", workloads()))
    harness.stop()
    assert type(loop.outcome) is ClientStopped
    harness.stop()


@pytest.mark.guarantee(number=12)
@BOTH
async def test_left_map_keeps_no_tasks_and_no_workloads(workloads: type[Workloads]) -> None:
    harness = ClientHarness().start()
    tasks: list[weakref.ref[Task]] = []
    source: Any = workloads(9)
    loop = Loop(
        harness,
        harness.client.map("work", source, concurrency=4, on_created=lambda task: tasks.append(weakref.ref(task))),
        most=2,
    )
    do(harness, b"0", b"1", b"3")
    assert loop.outcome == "left"
    watched = weakref.ref(source)
    del loop, source
    await some_turns()
    gc.collect()
    assert (len(tasks) >= 4, [task() for task in tasks if task() is not None]) == (True, [])
    assert watched() is None
    harness.stop()


# map: workloads that arrive later.


def test_result_does_not_wait_for_next_workload() -> None:
    harness = ClientHarness().start()
    source = ManualWorkloads()
    loop = Loop(harness, harness.client.map("work", source))
    source.supply(b"0")
    do(harness, b"0")
    assert (loop.results, len(source.requested)) == ([b"0!"], 2)
    source.supply(b"1")
    source.supply(b"2")
    do(harness, b"2")
    assert loop.results == [b"0!"]
    do(harness, b"1")
    assert loop.results == expected_results(3)
    source.end()
    assert loop.outcome == "exhausted"
    harness.stop()


@pytest.mark.parametrize("error", [None, WorkloadError()])
def test_workloads_may_end_while_tasks_are_in_flight(error: Exception | None) -> None:
    harness = ClientHarness().start()
    source = ManualWorkloads()
    loop = Loop(harness, harness.client.map("work", source))
    source.supply(b"0")
    source.supply(b"1")
    source.end(error)
    assert (loop.outcome, loop.results) == (NOTHING, [])
    do(harness, b"1", b"0")
    assert loop.results == expected_results(2)
    assert loop.outcome == "exhausted" if error is None else loop.outcome is error
    assert len(source.requested) == 3
    harness.stop()


def test_map_requests_one_workload_at_a_time_within_concurrency() -> None:
    harness = ClientHarness().start()
    source = ManualWorkloads()
    loop = Loop(harness, harness.client.map("work", source, concurrency=2))
    assert len(source.requested) == 1
    source.supply(b"0")
    source.supply(b"1")
    assert len(source.requested) == 2
    do(harness, b"0")
    assert len(source.requested) == 3
    loop.over.cancel()
    assert type(loop.outcome) is CancelledError
    harness.stop()


@pytest.mark.guarantee(number=9)
def test_cancelling_loop_cancels_requested_workload() -> None:
    harness = ClientHarness().start()
    source = ManualWorkloads()
    loop = Loop(harness, harness.client.map("work", source))
    loop.over.cancel()
    assert type(loop.outcome) is CancelledError
    assert source.cancelled == source.requested
    harness.stop()


@pytest.mark.guarantee(number=9)
def test_workload_that_answers_cancel_is_not_sent() -> None:
    harness = ClientHarness().start()

    async def stubborn() -> AsyncIterator[bytes]:
        try:
            await Deferred()
        except CancelledError:
            yield b"all the same"

    loop = Loop(harness, harness.client.map("work", stubborn()))
    loop.over.cancel()
    assert type(loop.outcome) is CancelledError
    check_idle(harness)
    assert take_all(harness.server) == []
    harness.stop()


def test_map_accepts_results_of_another_map() -> None:
    harness = ClientHarness().start()
    loop = Loop(
        harness, harness.client.map("work", harness.client.map("work", Workloads(5), concurrency=2), concurrency=2)
    )
    do_all(harness)
    assert (loop.outcome, loop.results) == ("exhausted", [b"%d!!" % number for number in range(5)])
    harness.stop()


@BOTH
def test_map_of_many_finished_tasks_does_not_recurse(workloads: type[Workloads]) -> None:
    harness = ClientHarness().start()
    loop = Loop(harness, harness.client.map("work", workloads(1_200), concurrency=1_100))
    while harness.server.queued("work"):
        with harness.server.hold_answers():
            do_all(harness)
    assert (loop.outcome, loop.results) == ("exhausted", expected_results(1_200))
    harness.stop()


# stream.


def test_stream_yields_chunks_and_then_result() -> None:
    harness = ClientHarness().start()
    loop = Loop(harness, harness.client.stream("work", b"today", unique="u"))
    job = harness.server.take("work")
    assert (job.workload, job.unique) == (b"today", b"u")
    job.send_data(b"1")
    assert loop.results == [b"1"]
    job.send_data(b"")
    job.send_data(b"2")
    assert loop.results == [b"1", b"", b"2"]
    job.complete(b"3")
    assert (loop.outcome, loop.results) == ("exhausted", [b"1", b"", b"2", b"3"])
    harness.stop()


def test_stream_omits_empty_result() -> None:
    harness = ClientHarness().start()
    loop = Loop(harness, harness.client.stream("work"))
    job = harness.server.take("work")
    job.send_data(b"1")
    job.complete(b"")
    assert (loop.outcome, loop.results) == ("exhausted", [b"1"])
    harness.stop()


def test_stream_yields_chunks_before_raising_exception() -> None:
    harness = ClientHarness().start()
    held: Deferred[None] = Deferred()
    loop = Loop(harness, harness.client.stream("work"), each=lambda _: held)
    job = harness.server.take("work")
    job.send_data(b"1")
    job.send_data(b"2")
    job.send_exception(b"x")
    assert (loop.outcome, loop.results) == (NOTHING, [b"1"])
    held.callback(None)
    assert (type(loop.outcome), loop.results) == (TaskException, [b"1", b"2"])
    harness.stop()


def test_stream_submits_task_when_first_chunk_is_requested() -> None:
    harness = ClientHarness()
    chunks = harness.client.stream("work")
    harness.check_that_nothing_was_done()
    closed = ensureDeferred(chunks.aclose())
    assert outcome(closed) is None
    harness.check_that_nothing_was_done()


def test_stream_repeats_chunks_after_retry() -> None:
    harness = ClientHarness().start()
    retried: list[int] = []
    loop = Loop(
        harness, harness.client.stream("work", retries=1, on_retry=lambda task, attempt: retried.append(attempt))
    )
    job = harness.server.take("work")
    job.send_data(b"1")
    job.fail()
    harness.advance(0.5)
    job = harness.server.take("work")
    job.send_data(b"1")
    job.complete(b"2")
    assert (loop.outcome, loop.results, retried) == ("exhausted", [b"1", b"1", b"2"], [1])
    harness.stop()


@pytest.mark.parametrize(
    ("go_wrong", "kind"),
    [
        (lambda harness: harness.server.drop_connections(), TaskLost),
        (lambda harness: harness.client.stopService(), ClientStopped),
        (lambda harness: harness.advance(5), TaskTimedOut),
    ],
)
def test_stream_raises_error_of_task(go_wrong: Callable[[ClientHarness], Any], kind: type[Exception]) -> None:
    harness = ClientHarness().start()
    loop = Loop(harness, harness.client.stream("work", timeout=5.0))
    harness.server.take("work").send_data(b"1")
    go_wrong(harness)
    assert (type(loop.outcome), loop.results) == (kind, [b"1"])
    harness.stop()


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("leave", ["break", "cancel"])
def test_leaving_stream_cancels_its_task(leave: str) -> None:
    harness = ClientHarness().start()
    loop = Loop(harness, harness.client.stream("work"), most=1 if leave == "break" else None)
    job = harness.server.take("work")
    job.send_data(b"1")
    if leave == "cancel":
        loop.over.cancel()
    check_idle(harness)
    job.send_data(b"late")
    job.complete(b"late")
    assert loop.results == [b"1"]
    assert loop.outcome == "left" if leave == "break" else type(loop.outcome) is CancelledError
    harness.check_that_it_works()
    harness.stop()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"function": ""}, ValueError, "function must not be empty"),
        ({"function": "f" * 8050}, ValueError, "prefix and function must have 8050 bytes at most, not 8053"),
        ({"workload": "text"}, TypeError, "workload must be bytes, not str"),
        ({"workload": b"x" * 1001}, ValueError, "workload must have max_packet_size=1000 bytes at most, not 1001"),
        ({"retries": 1.0}, TypeError, "retries must be int, not float"),
        ({"background": True}, TypeError, "background"),
        ({"on_data": print}, TypeError, "on_data"),
    ],
)
def test_invalid_stream_arguments_raise(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    harness = ClientHarness(prefix="pp", max_packet_size=1000)
    with pytest.raises(kind, match=message):
        harness.client.stream(**{"function": "work", **arguments})
    harness.check_that_nothing_was_done()
