"""`map` with jobs in batches, and `as_completed`: order, laziness, bounds, failures, and loops that are left early."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred

from txgearman import (
    ClientStopped,
    GearmanClient,
    GearmanWorker,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
    TaskTimedOut,
)
from txgearman.client.iteration import MIN_BATCHED
from txgearman.packets import ERROR
from txgearman.testing import MemoryJobServer

from ..client_harness import outcome
from .batch_harness import BatchHarness
from .connection_harness import complete, created, exception, late, work_fail
from .test_iteration import ManualWorkloads, Workloads

reactor: Any = global_reactor

CONCURRENCY = 20
QUARTER = 5


class LoopHarness(BatchHarness):
    """A client and a loop over its results, whose jobs have their workloads for handles.

    :ivar seen: what the loop got so far.
    :ivar over: fires when the loop has ended.
    """

    def __init__(
        self,
        workloads: Any,
        concurrency: int = CONCURRENCY,
        most: int | None = None,
        method: str = "map",
        options: Any = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.seen: list[Any] = []
        self.gate: Deferred[None] | None = None
        source = getattr(self.client, method)("f", workloads, concurrency=concurrency, **(options or {}))
        self.over = ensureDeferred(self._loop(source, most))

    async def _loop(self, source: Any, most: int | None) -> str:
        async with aclosing(source) as results:
            async for result in results:
                self.seen.append(result)
                if self.gate is not None:
                    await self.gate
                if len(self.seen) == most:
                    return "left"
        return "exhausted"

    def end_loop(self) -> None:
        """End a loop that waits for results: else the collector would find it."""
        self.over.cancel()
        assert isinstance(outcome(self.over), CancelledError)

    def create(self) -> list[bytes]:
        """Acknowledge what was submitted since the last call, and return it."""
        workloads = self.received()
        self.server.send(*map(created, workloads))
        return workloads

    def complete(self, *handles: bytes) -> None:
        """Complete these jobs: their results come in one read."""
        self.server.send(*(complete(b"r" + handle, handle) for handle in handles))


def numbers(first: int, last: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, last)]


def results(first: int, last: int) -> list[bytes]:
    return [b"r" + number for number in numbers(first, last)]


@pytest.mark.parametrize("concurrency", [MIN_BATCHED - 1, MIN_BATCHED, 11, 20, 1000])
@pytest.mark.parametrize("count", [0, 1, 10, 103])
def test_results_are_in_order_of_workloads(concurrency: int, count: int) -> None:
    harness = LoopHarness(iter(numbers(0, count)), concurrency)
    while jobs := harness.create():
        assert harness.in_flight[0] <= concurrency
        harness.complete(*reversed(jobs))
    assert (harness.seen, outcome(harness.over)) == (results(0, count), "exhausted")
    assert (harness.in_flight, harness.drained) == ([0], True)


def test_no_more_than_concurrency_are_in_flight_or_wait_for_loop() -> None:
    workloads = Workloads()
    harness = LoopHarness(workloads)
    assert harness.create() == numbers(0, 20)
    harness.complete(*numbers(1, 20))
    assert (harness.seen, harness.create(), workloads.taken) == ([], [], 20)
    harness.gate = Deferred()
    harness.complete(b"0")
    assert (harness.seen, workloads.taken) == (results(0, 1), 20)
    gate, harness.gate = harness.gate, None
    gate.callback(None)
    assert harness.seen == results(0, 20)
    assert harness.create() == numbers(20, 40)
    harness.end_loop()


def test_quarter_of_concurrency_is_submitted_at_a_time() -> None:
    workloads = Workloads()
    harness = LoopHarness(workloads)
    harness.create()
    harness.complete(*numbers(0, 4))
    assert (harness.seen, workloads.taken) == (results(0, 4), 20)
    harness.complete(b"4")
    assert (harness.seen, workloads.taken, harness.create()) == (results(0, 5), 25, numbers(20, 25))
    harness.end_loop()


def test_workloads_are_not_asked_for_after_their_end() -> None:
    class Ending(Workloads):
        ends = 0

        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            if self.taken == 22:
                self.ends += 1
                raise StopIteration
            self.taken += 1
            return b"%d" % (self.taken - 1)

    workloads = Ending()
    harness = LoopHarness(workloads)
    while jobs := harness.create():
        harness.complete(*jobs)
    assert (len(harness.seen), workloads.ends) == (22, 1)


class Broken(Exception):
    """Raised by an iterable of workloads."""


def broken(last: Any) -> Iterator[Any]:
    yield from numbers(0, 7)
    if last is Broken:
        raise Broken
    yield last


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("last", "error"), [("text", TypeError), (None, TypeError), (b"x" * 101, ValueError), (Broken, Broken)]
)
def test_invalid_workload_raises_after_those_before_it_were_sent(last: Any, error: type[Exception]) -> None:
    harness = LoopHarness(broken(last), max_packet_size=100)
    assert harness.received() == numbers(0, 7)
    assert type(outcome(harness.over)) is error
    assert (harness.in_flight, harness.drained) == ([0], True)


def test_workloads_may_be_bytearrays() -> None:
    harness = LoopHarness([bytearray(b"0"), memoryview(b"1")])
    harness.complete(*harness.create())
    assert harness.seen == results(0, 2)


@pytest.mark.parametrize("workloads", ["text", b"bytes", 5])
@pytest.mark.parametrize("method", ["map", "as_completed"])
def test_workloads_must_be_iterable(workloads: Any, method: str) -> None:
    with pytest.raises(TypeError, match="workloads must be an iterable of bytes, not"):
        getattr(BatchHarness().client, method)("f", workloads)


@pytest.mark.parametrize(
    ("end", "error"), [(work_fail, TaskFailed), (lambda handle: exception(b"e", handle), TaskException)]
)
def test_first_failure_in_order_ends_map(end: Any, error: type[Exception]) -> None:
    harness = LoopHarness(Workloads())
    harness.create()
    harness.server.send(end(b"2"))
    harness.complete(b"0")
    assert (harness.seen, harness.over.called) == (results(0, 1), False)
    harness.complete(b"1")
    raised = outcome(harness.over)
    assert (type(raised), raised.task.workload) == (error, b"2")
    assert (harness.seen, harness.in_flight) == (results(0, 2), [0])


def test_refusal_ends_map() -> None:
    harness = LoopHarness(Workloads())
    assert len(harness.received()) == 20
    harness.server.send(ERROR.response(b"QUEUE_ERROR", b"full"))
    assert type(outcome(harness.over)) is TaskRejected


def test_failure_of_job_that_is_waited_for_ends_map() -> None:
    harness = LoopHarness(Workloads())
    harness.create()
    harness.server.send(work_fail(b"0"))
    assert type(outcome(harness.over)) is TaskFailed


@pytest.mark.guarantee(number=7)
def test_lost_connection_ends_map() -> None:
    harness = LoopHarness(Workloads())
    harness.create()
    harness.complete(b"0")
    harness.server.lose()
    assert (harness.seen, type(outcome(harness.over))) == (results(0, 1), TaskLost)


@pytest.mark.guarantee(number=1)
def test_stop_ends_map() -> None:
    harness = LoopHarness(Workloads())
    harness.client.stopService()
    assert type(outcome(harness.over)) is ClientStopped


@pytest.mark.guarantee(number=9)
def test_loop_that_is_left_cancels_jobs() -> None:
    harness = LoopHarness(Workloads(), most=3)
    harness.create()
    harness.complete(*numbers(0, 20))
    assert (harness.seen, outcome(harness.over)) == (results(0, 3), "left")
    assert (harness.in_flight, harness.drained, harness.received()) == ([0], True, [])


@pytest.mark.guarantee(number=9)
def test_cancelled_loop_cancels_jobs_that_wait_for_admission() -> None:
    harness = LoopHarness(Workloads(), max_in_flight=8)
    assert harness.received() == numbers(0, 8)
    harness.over.cancel()
    assert type(outcome(harness.over)) is CancelledError
    assert (harness.in_flight, harness.drained, harness.received()) == ([0], True, [])
    harness.server.send(*map(created, numbers(0, 8)), *late(b"3"))
    harness.client.add_task("f", b"next")
    assert harness.received() == [b"next"]


# as_completed.


def completing(workloads: Any, **arguments: Any) -> LoopHarness:
    return LoopHarness(workloads, method="as_completed", **arguments)


def shown(seen: list[Any]) -> list[Any]:
    return [(position, type(value) if isinstance(value, Exception) else value) for position, value in seen]


async def from_async(workloads: list[bytes]) -> AsyncIterator[bytes]:
    for workload in workloads:
        yield workload


@pytest.mark.parametrize("source", [list, iter, from_async])
def test_outcomes_come_as_jobs_end(source: Any) -> None:
    harness = completing(source(numbers(0, 5)), concurrency=3)
    assert harness.create() == numbers(0, 3)
    harness.complete(b"2", b"1")
    assert harness.seen == [(2, b"r2"), (1, b"r1")]
    assert harness.create() == numbers(3, 5)
    harness.server.send(work_fail(b"4"), exception(b"e", b"3"))
    assert (shown(harness.seen[2:]), harness.over.called) == ([(4, TaskFailed), (3, TaskException)], False)
    harness.complete(b"0")
    assert (harness.seen[4:], outcome(harness.over)) == ([(0, b"r0")], "exhausted")


def test_no_more_than_concurrency_are_in_flight_or_wait_for_loop_as_completed() -> None:
    workloads = Workloads()
    harness = completing(workloads, concurrency=3)
    harness.create()
    harness.gate = Deferred()
    harness.complete(b"0", b"1", b"2")
    assert (len(harness.seen), workloads.taken) == (1, 3)
    gate, harness.gate = harness.gate, None
    gate.callback(None)
    assert (len(harness.seen), workloads.taken) == (3, 6)
    harness.end_loop()


def test_options_apply_to_each_task_as_completed() -> None:
    harness = completing([b"0", b"1"], options={"timeout": 2.0})
    harness.create()
    harness.complete(b"1")
    harness.clock.advance(2.0)
    assert (shown(harness.seen), outcome(harness.over)) == ([(1, b"r1"), (0, TaskTimedOut)], "exhausted")


@pytest.mark.guarantee(number=8)
def test_invalid_option_of_as_completed_raises_at_call() -> None:
    client = BatchHarness().client
    with pytest.raises(ValueError, match="timeout must be a positive number of seconds, not 0"):
        client.as_completed("f", [], timeout=0)
    with pytest.raises(ValueError, match="concurrency must be at least 1, not 0"):
        client.as_completed("f", [], concurrency=0)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(("last", "error"), [(None, TypeError), (Broken, Broken)])
def test_invalid_workload_raises_after_outcomes_before_it(last: Any, error: type[Exception]) -> None:
    harness = completing(broken(last))
    assert harness.create() == numbers(0, 7)
    assert not harness.over.called
    harness.complete(*numbers(0, 7))
    assert (len(harness.seen), type(outcome(harness.over))) == (7, error)


@pytest.mark.guarantee(number=9)
def test_loop_that_is_left_cancels_tasks_as_completed() -> None:
    workloads = ManualWorkloads()
    harness = completing(workloads, most=1)
    for number in range(2):
        workloads.supply(b"%d" % number)
    harness.create()
    harness.complete(b"1")
    assert (harness.seen, outcome(harness.over)) == ([(1, b"r1")], "left")
    assert (harness.in_flight, len(workloads.cancelled)) == ([0], 1)


async def test_workloads_of_a_read_are_sent_together_over_tcp() -> None:
    """There, what is written while data is handled is collected; what a loop submits after it, too."""
    server = MemoryJobServer(reactor)
    address = server.listen()
    worker = GearmanWorker([address], reactor=reactor, max_jobs=50)
    worker.register_function("work", lambda job: job.workload[::-1])
    async with worker, GearmanClient([address], reactor=reactor) as client:
        workloads = [b"%03d" % number for number in range(200)]
        results = [result async for result in client.map("work", workloads, concurrency=CONCURRENCY)]
    assert results == [workload[::-1] for workload in workloads]
    await server.close()
