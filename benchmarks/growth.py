"""How the cost of one thing grows with the number of others: ``python -m benchmarks.growth``.

Each row is measured at three sizes, in one process with servers in memory. What counts is the exponent: 0 for a cost
that does not grow, 1 for one that is linear, 2 for one that is quadratic. It is the same on a slow machine and on a
fast one. A row is marked with ``!`` where it is above what it may be.

With ``--steps`` the lines of the library that are executed are counted, and not CPU time: they are the same in each
run, but what runs in C is not among them. The tests hold the exponents of these.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from math import log
from types import FrameType
from typing import Any, ParamSpec, TypeAlias

from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from txgearman import GearmanClient, GearmanWorker, Job
from txgearman.testing import MemoryJobServer

FLAT = 0.1
"""Exponent of a cost that does not grow."""

LINEAR = 1.1
"""Exponent of a cost that is linear."""

CPU_NOISE = 0.25
"""What CPU times and their exponents may be off by: caches are shared, and memory is."""

P = ParamSpec("P")

Operation: TypeAlias = "Callable[[], object]"


@dataclass(frozen=True)
class Row:
    """A cost.

    :ivar name: what costs, and what it may grow with.
    :ivar prepare: makes all that the operation needs, of a size, and returns the operation.
    :ivar sizes: that are measured.
    :ivar few: smaller ones, for tests.
    :ivar limit: exponent that it may have.
    """

    name: str
    prepare: Callable[[int], Operation]
    sizes: tuple[int, int, int]
    few: tuple[int, int, int]
    limit: float


class FastClock(Clock):
    """A `Clock` whose cost for one timer does not grow with the number of timers, as it does not in a reactor."""

    def __init__(self) -> None:
        super().__init__()
        self._heap: list[tuple[float, int, DelayedCall]] = []
        self._numbers = itertools.count()

    def callLater(
        self,
        delay: float,
        callable: Callable[P, object],  # noqa: A002  # Twisted's name
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> DelayedCall:
        call = DelayedCall(self.rightNow + delay, callable, args, kwargs, ignore_call, self._add, self.seconds)
        self._add(call)
        return call

    def _add(self, call: DelayedCall) -> None:
        heappush(self._heap, (call.getTime(), next(self._numbers), call))

    def getDelayedCalls(self) -> list[DelayedCall]:
        return [call for _, _, call in self._heap if call.active()]

    def advance(self, amount: float) -> None:
        self.rightNow += amount
        while self._heap and self._heap[0][0] <= self.rightNow:
            call = heappop(self._heap)[2]
            if call.active() and call.getTime() > self.rightNow:  # it was put off
                self._add(call)
            elif call.active():
                call.called = 1
                call.func(*call.args, **call.kw)


def ignore_call(call: DelayedCall) -> None:
    """Leave a call that was cancelled in the heap until its time."""


class Installation:
    """Job servers in memory on one clock, with a client or worker at each of them."""

    def __init__(self, servers: int = 1) -> None:
        self.clock = FastClock()
        self.servers = [MemoryJobServer(self.clock) for _ in range(servers)]
        self.server = self.servers[0]

    def client(self) -> GearmanClient:
        """Make a client of all servers."""
        return GearmanClient([server.endpoint() for server in self.servers], reactor=self.clock)

    def worker(self, max_jobs: int = 1) -> GearmanWorker:
        """Make a worker of all servers."""
        return GearmanWorker([server.endpoint() for server in self.servers], reactor=self.clock, max_jobs=max_jobs)

    def start(self, service: GearmanClient | GearmanWorker) -> None:
        """Start it, and wait until it is connected."""
        service.startService()
        self.wait(3)

    def wait(self, seconds: int) -> None:
        """Let so much time pass, by the tenth of a second."""
        for _ in range(seconds * 10):
            self.clock.advance(0.1)

    def submit(self, count: int, function: str = "work", **options: Any) -> None:
        """Submit jobs to the first server."""
        client = self.server.client()
        for _ in range(count):
            ignore(client.add_task(function, **options))
        self.clock.advance(0)


def ignore(deferred: Deferred[Any]) -> None:
    deferred.addErrback(lambda _: None)


def submit_all(client: GearmanClient, tasks: list[Any]) -> None:
    """Submit tasks with these options."""
    for options in tasks:
        ignore(client.add_task("work", **options))


def nothing(job: Job) -> None:
    """A function whose jobs end at once."""


def tasks(servers: int) -> Operation:
    """Submit tasks."""
    made = Installation(servers)
    client = made.client()
    made.start(client)
    submit_all(client, [{}] * (10 * servers))  # no task of the operation is the first of its connection
    return partial(submit_all, client, [{}] * 200)


def uniques(servers: int) -> Operation:
    """Submit tasks that have uniques."""
    made = Installation(servers)
    client = made.client()
    made.start(client)
    ignore(client.add_task("work", unique="the first"))  # which has the client arrange its servers
    return partial(submit_all, client, [{"unique": b"%d" % number} for number in range(200)])


def uniques_before_connect(servers: int, count: int = 100) -> Operation:
    """Connect while tasks with uniques wait for it."""
    made = Installation(servers)
    client = made.client()
    client.startService()
    for number in range(count):
        ignore(client.add_task("work", unique=b"%d" % number))
    return lambda: made.wait(3)


def tasks_before_connect(count: int) -> Operation:
    """Connect to ten servers while so many tasks with uniques wait for it."""
    return uniques_before_connect(10, count)


def functions(count: int) -> Operation:
    """Do jobs, by a worker that has so many functions."""
    made = Installation()
    worker = made.worker()
    for number in range(count - 1):
        worker.register_function(f"other {number}", nothing)
    worker.register_function("work", nothing)
    made.start(worker)
    return lambda: made.submit(20)


def limited_functions(count: int) -> Operation:
    """Do jobs, by a worker that has so many functions with limits of their own."""
    made = Installation()
    worker = made.worker(count)
    for number in range(count):
        worker.register_function(f"work {number}", nothing, max_jobs=1)
    made.start(worker)
    return lambda: made.submit(20, "work 0")


def polls(count: int) -> Operation:
    """Sleep for a minute, with so many functions that have limits of their own, and as many free slots."""
    made = Installation()
    worker = made.worker(count)
    for number in range(count):
        worker.register_function(f"work {number}", nothing, max_jobs=1)
    made.start(worker)
    return lambda: made.wait(60)


def running(count: int) -> tuple[Installation, list[Deferred[bytes]]]:
    """Run so many jobs of a worker, each of which has a Deferred."""
    made = Installation()
    deferreds: list[Deferred[bytes]] = []

    def work(job: Job) -> Deferred[bytes]:
        deferreds.append(Deferred())
        return deferreds[-1]

    worker = made.worker(count)
    worker.register_function("work", work)
    made.start(worker)
    made.submit(count)
    made.wait(1)
    assert len(deferreds) == count
    return made, deferreds


def ends(count: int) -> Operation:
    """End so many jobs that run."""
    _, deferreds = running(count)

    def end() -> None:
        for deferred in deferreds:
            deferred.callback(b"")

    return end


def losses(count: int) -> Operation:
    """Lose the connection of a worker that runs so many jobs."""
    made, _ = running(count)

    def lose() -> None:
        made.server.connections[0].drop()  # the worker's: it was the first
        made.clock.advance(0)

    return lose


def queue(count: int) -> Operation:
    """Do so many jobs that a server in memory has in its queue."""
    made = Installation()
    made.submit(count)
    worker = made.worker()
    worker.register_function("work", nothing)
    return lambda: made.start(worker)


def worker_of_servers(servers: int) -> Operation:
    """Do the jobs of one server, by a worker that has so many servers."""
    made = Installation(servers)
    worker = made.worker(10)
    worker.register_function("work", nothing)
    made.start(worker)
    return lambda: made.submit(20)


def sweep(count: int) -> Operation:
    """Sweep so many tasks in flight that have been silent: ask the server for each of them once."""
    made = Installation()
    client = made.client()
    made.start(client)
    for _ in range(count):
        ignore(client.add_task("work"))
    made.clock.advance(0)
    return lambda: made.wait(100)


def retries(count: int) -> Operation:
    """Lose so many tasks that are retried."""
    made = Installation()
    client = made.client()
    made.start(client)
    for _ in range(count):
        ignore(client.add_task("work", retries=1))
    made.clock.advance(0)

    def lose() -> None:
        for connection in made.server.connections:
            connection.drop()
        made.wait(1)

    return lose


ROWS = [
    Row("200 tasks, by servers", tasks, (8, 40, 200), (4, 8, 16), FLAT),
    Row("200 tasks with uniques, by servers", uniques, (8, 40, 200), (4, 8, 16), FLAT),
    Row("100 uniques wait for the connect, by servers", uniques_before_connect, (10, 40, 160), (4, 8, 16), LINEAR),
    Row("uniques wait for the connect to 10, by tasks", tasks_before_connect, (100, 400, 1600), (25, 50, 100), LINEAR),
    Row("20 jobs, by functions", functions, (10, 100, 1000), (5, 20, 80), FLAT),
    Row("20 jobs, by functions with limits", limited_functions, (10, 50, 250), (5, 20, 80), FLAT),
    Row("a minute's polls, by functions with limits", polls, (10, 50, 250), (5, 10, 20), LINEAR),
    Row("the end of jobs, by jobs", ends, (250, 1000, 4000), (25, 50, 100), LINEAR),
    Row("the loss of jobs, by jobs", losses, (250, 1000, 4000), (25, 50, 100), LINEAR),
    Row("jobs in a server in memory, by jobs", queue, (250, 1000, 4000), (10, 20, 40), LINEAR),
    Row("20 jobs of a worker, by servers", worker_of_servers, (8, 40, 200), (4, 8, 16), FLAT),
    Row("the sweep for forgotten jobs, by tasks", sweep, (1000, 4000, 16000), (10, 20, 40), LINEAR),
    Row("lost tasks with retries, by tasks", retries, (500, 2000, 8000), (25, 50, 100), LINEAR),
]


def cpu(operation: Operation) -> float:
    """Return the CPU time of an operation in milliseconds."""
    gc.collect()
    gc.disable()
    start = time.process_time()
    operation()
    taken = time.process_time() - start
    gc.enable()
    return taken * 1e3


def steps(operation: Operation) -> float:
    """Return the number of lines of the library that an operation executes."""
    counter = StepCounter()
    with counter.counting():
        operation()
    return counter.steps


class StepCounter:
    """Counts lines. A loop counts as often as it turns, a generator expression too."""

    def __init__(self) -> None:
        self.steps = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count meanwhile, and let whoever traced before go on afterwards."""
        before = sys.gettrace()
        sys.settrace(self._entered)
        try:
            yield
        finally:
            sys.settrace(before)

    def _entered(self, frame: FrameType, what: str, argument: object) -> Any:
        return self._counted if frame.f_globals.get("__name__", "").startswith("txgearman.") else None

    def _counted(self, frame: FrameType, what: str, argument: object) -> Any:
        if what == "line":
            self.steps += 1
        return self._counted


def exponent(sizes: tuple[int, int, int], costs: list[float], noise: float = 0.02) -> float:
    """Return the exponent ``p`` of a cost that is ``constant + factor * size ** p``.

    :param sizes: each the same multiple of the one before.
    :param noise: growth that counts as none, as a share of the least cost.
    """
    first, second = costs[1] - costs[0], costs[2] - costs[1]
    if second <= noise * min(costs):
        return 0.0
    return log(second / max(first, noise * min(costs))) / log(sizes[2] / sizes[1])


def measure(row: Row, sizes: tuple[int, int, int], cost: Callable[[Operation], float], times: int = 1) -> list[float]:
    """Return the cost of each size, the least of several measurements."""
    return [min(cost(row.prepare(size)) for _ in range(times)) for size in sizes]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth")
    parser.add_argument("--steps", action="store_true", help="count lines of the library, not CPU time")
    parser.add_argument("--few", action="store_true", help="the small sizes of the tests")
    parser.add_argument("--only", default="", help="the rows whose names have this in them")
    options = parser.parse_args()
    unit = "lines" if options.steps else "ms of CPU"
    print(f"{'what, by what':46} {'at three sizes':>15} {unit:>32} exponent")
    for row in ROWS:
        if options.only in row.name:
            show(row, row.few if options.few else row.sizes, options.steps)


def show(row: Row, sizes: tuple[int, int, int], counted: bool) -> None:
    """Measure a row, and print it."""
    if counted:
        costs = measure(row, sizes, steps)
        found, above = exponent(sizes, costs), exponent(sizes, costs) > row.limit
    else:
        costs = measure(row, sizes, cpu, 3)
        found = exponent(sizes, costs, CPU_NOISE)
        above = found > row.limit + CPU_NOISE
    figures = " ".join(f"{cost:10,.{0 if counted else 2}f}" for cost in costs)
    print(f"{row.name:46} {'/'.join(map(str, sizes)):>15} {figures} {found:8.2f}{' !' if above else ''}", flush=True)


if __name__ == "__main__":
    main()
