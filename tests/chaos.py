"""A client with tasks of every kind and batches, workers, and two gearmands, with faults of every kind between them.

The faults, and when they are injected, are drawn from one seed. The outcome of each task depends on the machine as
well; what must be true of any outcome is checked.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias
from weakref import WeakSet
from zlib import crc32

from prometheus_client import CollectorRegistry
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from txgearman import (
    BatchFailed,
    ClientStopped,
    GearmanClient,
    GearmanError,
    GearmanWorker,
    Job,
    JobFailed,
    JobHandle,
    NoServersAvailable,
    Priority,
    ServerState,
    Task,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
    TaskTimedOut,
)
from txgearman.client.batches import Batch
from txgearman.metrics import PrometheusObserver
from txgearman.testing import Direction, Fault, FaultProxy

from .daemons import Gearmand

reactor: Any = global_reactor
_log = Logger()

# Options of clients, workers and tasks. Timeouts are short, so that many occur in a run.

CLIENT_OPTIONS: Final[dict[str, Any]] = {
    "connect_timeout": 1.0,
    "server_timeout": 1.0,
    "heartbeat": 0.5,
    "job_check_interval": 0.2,
    "max_in_flight": 250,
}
WORKER_OPTIONS: Final[dict[str, Any]] = {
    "connect_timeout": 1.0,
    "server_timeout": 1.0,
    "heartbeat": 0.5,
    "poll_interval": 0.5,
    "drain_timeout": 1.0,
    "max_jobs": 10,
}
TASK_OPTIONS: Final[list[dict[str, Any]]] = [{}, {}, {}, {"timeout": 0.2}, {"timeout": 3.0}, {"retries": 2}]
"""One of them is drawn for each task."""
BATCHES: Final = 0.01
"""The share of batches in what is submitted."""
MAX_BATCH: Final = 60
BATCH_TIMEOUTS: Final = [None, None, 0.2, 3.0]
SERVER_WAITS: Final = [0.0, 2.0]
"""One of them is drawn for each client."""

WINDOW: Final = 300
"""Tasks in flight at a time."""
JOBS_PER_FAULT: Final = 250
PAUSES: Final = 2
"""How often in a run no fault is injected until the earlier ones are over, and a task has a result again."""
MAX_SECONDS: Final = 20.0
"""Seconds after which a task must have an outcome, whatever happened, once nothing is submitted any longer."""
MAX_AGE: Final = 5.0
"""Seconds after which nothing is submitted until a task has its outcome: a server runs jobs of low priority last."""
SUBMIT_PAUSE: Final = 0.02
"""Seconds for which nothing is submitted after a task had no server."""
LOG_BUFFER: Final = 200
"""Events that Twisted buffers until logging is started; some of them refer to a job."""
SHARED_JOBS: Final = 20
"""How many jobs a task that shares one draws from, so that some are submitted again after their client left (H1)."""
RESERVED_PORTS: Final = range(20000, 30000)
"""The system assigns none of these to connections, so that the port of a gearmand is free when it is restarted."""


def seal(text: bytes) -> bytes:
    """Return a payload with a checksum, which shows whether it was altered on its way."""
    return b"%08x %b" % (crc32(text), text)


def unseal(payload: bytes) -> bytes | None:
    """Return the text of a payload; None if it was altered."""
    text = payload[9:]
    return text if payload == seal(text) else None


ALTERED: Final = seal(b"the workload was altered")


def answer(text: bytes) -> bytes:
    """Return the result or the exception of a job."""
    return seal(text[::-1])


def part(name: str, text: bytes) -> bytes:
    """Return data or a warning that a job sends."""
    return seal(b"%b of %b" % (name.encode(), text[:16]))


def progress(text: bytes) -> tuple[int, int]:
    return crc32(text) % 1000, 1000


# The functions of the workers.


def plain(job: Job, text: bytes) -> bytes:
    return answer(text)


REPORTS: Final = ["status", "data", "warning", "data"]


def reporting(job: Job, text: bytes) -> bytes:
    job.send_status(*progress(text))
    job.send_data(part("data", text))
    job.send_warning(part("warning", text))
    job.send_data(part("data", text))
    return answer(text)


def late(job: Job, text: bytes) -> Deferred[bytes]:
    return deferLater(reactor, crc32(text) % 50 / 1000, answer, text)


def failing(job: Job, text: bytes) -> bytes:
    raise JobFailed("on purpose")


def excepting(job: Job, text: bytes) -> None:
    job.send_exception(answer(text))


FUNCTIONS: Final[dict[str, Callable[[Job, bytes], Any]]] = {
    function.__name__: function for function in (plain, reporting, late, failing, excepting)
}
ERRORS: Final[dict[str, type[Exception]]] = {"failing": TaskFailed, "excepting": TaskException}
"""The errors of the tasks of a function, where there is no result."""
WEIGHTS: Final = (8, 4, 4, 1, 1)
"""The share of tasks of each function."""


class TaskCheck:
    """Checks one task: its events are correct and in order, and its Deferred fires once."""

    __slots__ = ("chaos", "events", "function", "reported", "since", "stage", "text", "unique", "was_cancelled")

    def __init__(self, chaos: Chaos, function: str, text: bytes, unique: bytes) -> None:
        self.chaos = chaos
        self.function = function
        self.text = text
        self.unique = unique
        self.since = reactor.seconds()
        self.stage = "submitted"
        self.events: list[str] = []
        self.reported: Any = None
        self.was_cancelled = False

    def task(self, background: bool, **options: Any) -> Task:
        """Return the task."""
        if background:
            options.pop("retries", None)
        else:
            names = ("data", "warning", "status", "complete", "exception", "retry")
            options.update((f"on_{name}", getattr(self, name)) for name in names)
        return Task(
            self.function,
            seal(self.text),
            background=background,
            unique=self.unique,
            on_created=self.created,
            on_fail=self.fail,
            **options,
        )

    def report(self, what: str) -> None:
        self.chaos.report(f"{what}, of {self.function} {self.text[:40]!r}, which was {self.stage}")

    def go(self, stage: str, *befores: str) -> None:
        """Move the task to a stage, which must follow one of `befores`."""
        if self.stage not in befores:
            self.report(f"it must not be {stage}")
        self.stage = stage

    def compare(self, payload: object, right: object) -> None:
        """Report a wrong payload, such as another task's result, unless the network may have altered it."""
        if payload != right:
            self.chaos.seen["altered"] += 1
            if not self.chaos.faults.may_have_altered(self.since):
                self.report(f"{payload!r:.200} was received instead of {right!r:.200}")

    # Callbacks.

    def created(self, task: Task) -> None:
        self.go("created", "submitted")

    def data(self, task: Task, data: bytes) -> None:
        self.go("created", "created")
        self.events.append("data")
        self.compare(data, part("data", self.text))

    def warning(self, task: Task, data: bytes) -> None:
        self.go("created", "created")
        self.events.append("warning")
        self.compare(data, part("warning", self.text))

    def status(self, task: Task, numerator: int, denominator: int) -> None:
        self.go("created", "created")
        self.events.append("status")
        self.compare((numerator, denominator), progress(self.text))

    def exception(self, task: Task, data: bytes) -> None:
        self.go("excepted", "created")
        self.compare(data, answer(self.text))

    def retry(self, task: Task, attempt: int) -> None:
        self.go("submitted", "submitted", "created", "excepted")
        self.events.clear()
        self.chaos.retried(self)

    def complete(self, task: Task, result: bytes) -> None:
        self.go("ended", "created")
        if self.function == "reporting":
            self._compare_events()
        self.reported = result

    def fail(self, task: Task, reason: Exception) -> None:
        self.go("ended", "submitted", "created", "excepted")
        self.reported = reason

    def fired(self, outcome: Any) -> None:
        """Check the outcome with which the Deferred has fired."""
        if isinstance(outcome, JobHandle):
            self.go("fired", "created")
        else:
            self.go("fired", "ended")
            outcome = outcome.value if isinstance(outcome, Failure) else outcome
            if outcome is not self.reported:
                self.report(f"the callback got {self.reported!r}, and the Deferred {outcome!r}")
            self.check_outcome(outcome)
        self.reported = None  # an error refers to its task
        self.chaos.ended(self, [outcome])

    def _compare_events(self) -> None:
        """Check that everything that the job sent was received once.

        A task that joined it late gets only the rest; after a worker was lost, another one sends everything again.
        """
        last = self.events[-len(REPORTS) :]
        self.compare(last, REPORTS[len(REPORTS) - len(last) :])

    def check_outcome(self, outcome: object) -> None:
        error = ERRORS.get(self.function)
        if isinstance(outcome, bytes):
            self.compare(outcome, "an error" if error else answer(self.text))
        elif isinstance(outcome, CancelledError):
            if not self.was_cancelled:
                self.report("it was not cancelled")
        elif isinstance(outcome, TaskFailed):
            self.compare(type(outcome), error)
        elif not isinstance(outcome, GearmanError):
            self.report(f"{outcome!r} is no error of the library")


class BatchCheck:
    """Checks one batch: each job has an outcome of its own in its place, and the Deferred fires once."""

    def __init__(self, chaos: Chaos, function: str, background: bool, jobs: list[tuple[bytes, bytes]]) -> None:
        """
        :param jobs: the text and the unique of each.
        """
        self.chaos = chaos
        self.function = function
        self.background = background
        self.jobs = [TaskCheck(chaos, function, *job) for job in jobs]
        self.since = reactor.seconds()
        self.has_fired = False
        self.was_cancelled = False
        self.before_cancel: list[Any] = []

    def report(self, what: str) -> None:
        self.chaos.report(f"{what}, of a batch of {len(self.jobs)}, background {self.background}")

    def submit(self, client: GearmanClient, **options: Any) -> Deferred[Any]:
        workloads = [seal(job.text) for job in self.jobs]
        uniques = [job.unique for job in self.jobs]
        add = client.add_tasks_bg if self.background else client.add_tasks
        return add(self.function, workloads, uniques=uniques if any(uniques) else None, **options)

    def fired(self, outcome: Any) -> None:
        """Check what the Deferred has fired with."""
        if self.has_fired:
            self.report("it must not fire again")
        self.has_fired = True
        error = outcome.value if isinstance(outcome, Failure) else None
        if isinstance(error, CancelledError):
            # What has ended before keeps its outcome, as far as observers count.
            outcomes: Sequence[Any] = [error if each is None else each for each in self.before_cancel]
            if not self.was_cancelled:
                self.report("it was not cancelled")
        else:
            assert error is None or isinstance(error, BatchFailed)
            outcomes = outcome if error is None else error.outcomes
            self._check_outcomes(outcomes, 0 if error is None else error.failed)
        self.chaos.seen["batches"] += 1
        self.chaos.ended(self, outcomes)

    def _check_outcomes(self, outcomes: Sequence[Any], failed: int) -> None:
        if len(outcomes) != len(self.jobs) or sum(isinstance(outcome, Exception) for outcome in outcomes) != failed:
            self.report(f"it has {len(outcomes)} outcomes, of which {failed} are said to be errors")
        for job, outcome in zip(self.jobs, outcomes, strict=False):
            if isinstance(outcome, JobHandle) != self.background and not isinstance(outcome, Exception):
                self.report(f"{outcome!r:.80} is not what it fires with")
            if not isinstance(outcome, JobHandle):
                job.check_outcome(outcome)


class Server(Gearmand):
    """A gearmand that is restarted on its port, even if it crashes (C1)."""

    def __init__(self) -> None:
        super().__init__("--threads=2")
        first = os.getpid() * 10 % len(RESERVED_PORTS)  # so that runs at the same time use different ports
        self.port = next(port for port in (*RESERVED_PORTS[first:], *RESERVED_PORTS[:first]) if is_free(port))

    @property
    def down(self) -> bool:
        """Whether it was stopped."""
        return self._process is None

    @property
    def crashed(self) -> bool:
        return self._process is not None and self._process.poll() is not None


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


OUTCOMES: Final[dict[type[object], str]] = {
    TaskException: "exception",
    TaskFailed: "failed",
    TaskRejected: "rejected",
    TaskLost: "lost",
    TaskTimedOut: "timed_out",
    NoServersAvailable: "unavailable",
    CancelledError: "cancelled",
    ClientStopped: "stopped",
}
"""The outcome that observers get for each error."""

Service: TypeAlias = "tuple[GearmanClient | GearmanWorker, list[FaultProxy]]"
"""A client or worker, and its proxies, one for each server."""


def is_ready(service: GearmanClient | GearmanWorker) -> bool:
    return all(server.state is ServerState.READY for server in service.servers)


def selectables_and_timers() -> set[Any]:
    return {*reactor.getReaders(), *reactor.getWriters(), *reactor.getDelayedCalls()}


class FaultPlan:
    """The faults of a run, which are all drawn in advance.

    :ivar seen: counts what has happened.
    :ivar era: how often payloads may have been altered.
    :ivar pausing: whether nothing is to be submitted until the faults so far are over.
    """

    def __init__(self, draw: random.Random, servers: list[Server], services: list[Service], seen: Counter[str]) -> None:
        """
        :param services: each with its proxies.
        """
        self._draw = draw
        self._servers = servers
        self._services = services
        self._proxies = [proxy for _, proxies in services for proxy in proxies]
        self._timers: set[Any] = set()
        self._stopping = 0
        self._altering = 0
        self._altered_until = 0.0
        self._plan: list[tuple[int, Callable[[], object]]] = []
        self.seen = seen
        self.era = 0
        self.pausing = False
        self._recovering_from: int | None = None

    def plan(self, jobs: int) -> None:
        """Draw the faults for this many jobs.

        The last jobs have none. Before them, a server forgets jobs while their connection stays open, so that the
        client must detect it.
        """
        end = jobs * 9 // 10
        steps = [(self._draw.randrange(end), self._draw_step()) for _ in range(jobs // JOBS_PER_FAULT)]
        steps += [(end * (number + 1) // (PAUSES + 1), self._pause) for number in range(PAUSES)]
        self._plan = sorted(steps, key=lambda step: step[0])
        self._plan.append((end, self._orphan(self._proxies[0], 0.0)))

    def proceed(self, finished: int, results: int) -> None:
        """Inject the faults that are due after this many jobs and results."""
        while not self._is_recovering(results) and self._plan and self._plan[0][0] <= finished:
            self._plan.pop(0)[1]()

    def _pause(self) -> None:
        self.pausing = True

    def _is_recovering(self, results: int) -> bool:
        """Return whether a pause is not over yet. It ends with the first result after the last fault."""
        if self.over and self.pausing:
            self.pausing, self._recovering_from = False, results
        if self._recovering_from is not None and results > self._recovering_from:
            self._recovering_from = None
            self.seen["recoveries"] += 1
        return self.pausing or self._recovering_from is not None

    @property
    def over(self) -> bool:
        """Whether no fault is active or scheduled, unless more jobs finish."""
        self._restart_crashed_servers()
        return not (self._timers or self._stopping)

    def stop(self) -> None:
        """Cancel what is scheduled."""
        for timer in self._timers:
            timer.cancel()

    def call_later(self, seconds: float, call: Callable[[], object]) -> None:
        """Schedule a call, until `stop`."""

        def run() -> None:
            self._timers.discard(timer)
            call()

        timer = reactor.callLater(seconds, run)
        self._timers.add(timer)

    def may_have_altered(self, since: float) -> bool:
        """Return whether anything that was in transit since then may have been altered."""
        return self._altering > 0 or self._altered_until >= since

    # Faults. Each of these draws its parameters, and returns a function that injects the fault.

    def _draw_step(self) -> Callable[[], object]:
        weights = {
            self._drop: 6,
            self._drop_after: 6,
            self._slow_down: 8,
            self._disappear: 4,
            self._alter: 2,
            self._orphan: 2,
            self._kill: 4,
            self._stop: 1,
            self._leave: 2,
        }
        [step] = self._draw.choices(list(weights), list(weights.values()))
        return step(self._draw.choice(self._proxies), self._draw.uniform(0.02, 0.4))

    def _drop(self, proxy: FaultProxy, seconds: float) -> Callable[[], object]:
        return partial(self._drop_now, proxy, self._draw.random() < 0.5)

    def _drop_after(self, proxy: FaultProxy, seconds: float) -> Callable[[], object]:
        size, direction = self._draw.randrange(1, 5000), self._draw.choice(list(Direction))
        reset = self._draw.random() < 0.5
        return lambda: self._end_later(seconds, proxy.drop_after(size, direction, reset=reset))

    def _slow_down(self, proxy: FaultProxy, seconds: float) -> Callable[[], object]:
        """Some of these last longer than timeouts."""
        draw = self._draw
        directions = draw.choice([(), *((direction,) for direction in Direction)])
        size, late = draw.randrange(1, 100), draw.uniform(0.001, 0.1)
        return draw.choice(
            (
                lambda: self._end_later(4 * seconds, proxy.fall_silent(*directions)),
                lambda: self._end_later(seconds, proxy.delay(late, *directions)),
                lambda: self._end_later(seconds, proxy.split(size, *directions)),
            )
        )

    def _disappear(self, proxy: FaultProxy, seconds: float) -> Callable[[], object]:
        def black_hole() -> None:
            self._end_later(seconds, proxy.black_hole_connections())
            self._drop_now(proxy, reset=True)

        return self._draw.choice((lambda: self._end_later(seconds, proxy.go_down()), black_hole))

    def _alter(self, proxy: FaultProxy, seconds: float) -> Callable[[], object]:
        """Afterwards, the connections are dropped, as the state of their two ends may differ."""
        rate, seed = self._draw.uniform(0.0001, 0.01), self._draw.randrange(2**32)

        def begin() -> None:
            self._altering += 1
            self._end_later(seconds, proxy.corrupt(rate, seed=seed))
            self.call_later(seconds, end)

        def end() -> None:
            self._drop_now(proxy, reset=True)
            self._altering -= 1
            self._altered_until = reactor.seconds()
            self.era += 1

        return begin

    def _orphan(self, proxy: FaultProxy, seconds: float) -> Callable[[], object]:
        """Drop the client of queued jobs, so that further submits of their uniques join abandoned jobs (H1)."""
        place = self._draw.randrange(len(self._servers))
        client, *workers = [proxies[place] for _, proxies in self._services]

        def orphan() -> None:
            for worker in workers:
                self._end_later(seconds + 0.3, worker.fall_silent())
            self.call_later(0.1, partial(self._drop_now, client, True))

        return orphan

    def _kill(self, proxy: FaultProxy, seconds: float) -> Callable[[], object]:
        """Restart a gearmand."""
        server, number = self._draw.choice(self._servers), self._draw.choice((signal.SIGKILL, signal.SIGTERM))

        def kill() -> None:
            if not server.down:
                server.stop(number)
                self.call_later(seconds, server.start)
                self.seen["restarts of gearmand"] += 1

        return kill

    def _stop(self, proxy: FaultProxy, seconds: float) -> Callable[[], object]:
        """Restart the client or a worker."""
        service, _ = self._draw.choice(self._services)

        def stop() -> None:
            self._stopping += 1
            service.stopService().addCallback(start)
            self.seen[f"restarts of {type(service).__name__}"] += 1

        def start(_: object) -> None:
            self._stopping -= 1
            service.startService()

        return stop

    def _leave(self, proxy: FaultProxy, seconds: float) -> Callable[[], object]:
        """Give the client or a worker only one server for a while."""
        service, proxies = self._draw.choice(self._services)
        one = self._draw.choice(proxies).address

        def leave() -> None:
            service.job_servers = [one]
            self.call_later(seconds, restore)
            self.seen["changes of job_servers"] += 1

        def restore() -> None:
            service.job_servers = [proxy.address for proxy in proxies]

        return leave

    def _end_later(self, seconds: float, fault: Fault) -> None:
        """Count a fault, and schedule its end."""
        self.seen["faults"] += 1

        def end() -> None:
            fault.end()
            self.seen["faults that happened"] += fault.happened > 0

        self.call_later(seconds, end)

    def _drop_now(self, proxy: FaultProxy, reset: bool) -> None:
        self.seen["faults"] += 1
        if proxy.connections:
            proxy.drop_connections(reset=reset)
            self.seen["faults that happened"] += 1

    def _restart_crashed_servers(self) -> None:
        for server in self._servers:
            if server.crashed:
                server.stop()
                server.start()
                self.seen["crashes of gearmand"] += 1


class Chaos:
    """One run.

    :ivar seen: counts what has happened.
    :ivar problems: what has happened and must not.
    """

    def __init__(self, seed: int, jobs: int) -> None:
        self.seen: Counter[str] = Counter()
        self.problems: list[str] = []
        self._draw = random.Random(seed)
        self._jobs = jobs
        self._submitted = 0
        self._finished = 0
        self._in_flight: dict[TaskCheck | BatchCheck, Any] = {}
        self._retained: WeakSet[Any] = WeakSet()
        self._paused_until = 0.0
        self._draining_since: float | None = None
        self._shared: list[tuple[str, bytes, bytes]] = []
        self._shared_era = 0
        self._tick: Any = None
        self._done: Deferred[None] = Deferred()
        # What the observers of client and workers have to count, by the names and labels of the metrics.
        self._registry = CollectorRegistry()
        self._observer = PrometheusObserver(registry=self._registry)
        self._expected: Counter[tuple[str, str, str]] = Counter()

    async def run(self) -> None:
        """Run, and collect the problems."""
        await deferLater(reactor, 0)  # the timer of the test's deadline is set by then
        before = selectables_and_timers()
        self._set_up()
        try:
            self._run_tick()
            await self._done
            await self._check_recovery()
            self._submit_many(WINDOW, "late")
        finally:
            await self._stop()
        if self._finished != self._submitted:
            self.report(f"{self._finished} of {self._submitted} Deferreds have fired")
        self._check_metrics()
        await self._check_remains(before)

    def report(self, what: str) -> None:
        self.problems.append(what)

    # Servers, client and workers.

    def _set_up(self) -> None:
        self._servers: list[Server] = []
        for _ in range(2):
            self._servers.append(Server())
            self._servers[-1].start()
        self._client, client_proxies = self._client_and_proxies()
        self._services: list[Service] = [
            (self._client, client_proxies),
            self._worker_and_proxies(),
            self._worker_and_proxies(),
        ]
        self.faults = FaultPlan(self._draw, self._servers, self._services, self.seen)
        self.faults.plan(self._jobs)
        for service, _ in self._services:
            service.startService()

    def _new_proxies(self) -> list[FaultProxy]:
        return [FaultProxy(server.address, reactor) for server in self._servers]

    def _client_and_proxies(self) -> tuple[GearmanClient, list[FaultProxy]]:
        proxies = self._new_proxies()
        server_wait = self._draw.choice(SERVER_WAITS)
        addresses = [proxy.address for proxy in proxies]
        observers = [self._observer]
        client = GearmanClient(
            addresses, reactor=reactor, server_wait=server_wait, observers=observers, **CLIENT_OPTIONS
        )
        return client, proxies

    def _worker_and_proxies(self) -> tuple[GearmanWorker, list[FaultProxy]]:
        proxies = self._new_proxies()
        addresses = [proxy.address for proxy in proxies]
        worker = GearmanWorker(addresses, reactor=reactor, observers=[self._observer], **WORKER_OPTIONS)
        for name, function in FUNCTIONS.items():
            worker.register_function(name, partial(self._work, function))
        return worker, proxies

    def _work(self, function: Callable[[Job, bytes], Any], job: Job) -> Any:
        self._retained.add(job)
        self._expected["jobs", str(job.function), ""] += 1
        text = unseal(job.workload)
        return ALTERED if text is None else function(job, text)

    async def _stop(self) -> None:
        self.faults.stop()
        if self._tick.active():
            self._tick.cancel()
        await gatherResults([service.stopService() for service, _ in self._services])
        proxies = [proxy for _, proxies in self._services for proxy in proxies]
        await gatherResults([proxy.close(verify=False) for proxy in proxies])
        for server in self._servers:
            server.stop()

    def _check_metrics(self) -> None:
        """Check that what the observers have counted is what the run has seen, and that nothing is left to count."""
        counted: Counter[tuple[str, str, str]] = Counter()
        for metric in self._registry.collect():
            for sample in metric.samples:
                function, outcome = sample.labels.get("function", ""), sample.labels.get("outcome", "")
                if sample.name == "txgearman_jobs_total":
                    counted["jobs", function, ""] += round(sample.value)
                elif sample.name == "txgearman_tasks_total":
                    counted["tasks", function, outcome] += round(sample.value)
                elif sample.name == "txgearman_task_retries_total":
                    counted["retries", function, ""] += round(sample.value)
                elif sample.name in ("txgearman_tasks_in_flight", "txgearman_jobs_in_progress") and sample.value:
                    self.report(f"{sample.name} of {function} is {sample.value} at the end")
        if counted != self._expected:
            self.report(f"observers have counted {counted - self._expected} more, {self._expected - counted} less")
        self.seen["counted by observers"] = sum(counted.values())

    async def _check_remains(self, before: set[Any]) -> None:
        await deferLater(reactor, 0)
        left = selectables_and_timers() - before
        if left:
            self.report(f"left in the reactor: {left}")
        for _ in range(LOG_BUFFER):
            _log.debug("no job")
        gc.collect()
        if self._retained:
            remains = [str(each) for each in self._retained]
            self.report(f"{len(remains)} left in memory, such as {remains[:3]}")

    # Tasks.

    def _run_tick(self) -> None:
        """Every few milliseconds: submit as much as the limit allows, and inject the faults that are due."""
        self._tick = reactor.callLater(0.002, self._run_tick)
        self.faults.proceed(self._finished, self.seen["results"])
        self._check_oldest()
        while self._may_submit():
            self._submit_one()
        if self._finished == self._jobs or self.problems:
            self._tick.cancel()
            self._done.callback(None)

    def _may_submit(self) -> bool:
        paused = self.faults.pausing or self._draining_since is not None
        allowed = len(self._in_flight) < WINDOW and self._submitted < self._jobs and not paused
        return allowed and reactor.seconds() >= self._paused_until

    def _submit_one(self) -> None:
        draw = self._draw
        [function] = draw.choices(list(FUNCTIONS), WEIGHTS)
        if draw.random() < BATCHES:
            self._submit_batch(function)
            return
        text = self._new_text(self._submitted)
        job = self._shared_job(function, text) if draw.random() < 0.2 else (function, text, b"")
        check = TaskCheck(self, *job)
        background = draw.random() < 0.1
        self._submit(check, background, priority=draw.choice(list(Priority)), **draw.choice(TASK_OPTIONS))
        if draw.random() < 0.03:
            self._cancel_in(draw.choice((0, 0.001, 0.01, 0.1)), check)

    def _new_text(self, number: int) -> bytes:
        return b"%d " % number + self._draw.randbytes(self._draw.choice((0, 10, 100, 100, 1000, 20000)))

    def _submit_batch(self, function: str) -> None:
        """Submit many jobs at once, some of which share a job with tasks."""
        draw = self._draw
        self._forget_altered()
        shared = [(text, unique) for name, text, unique in self._shared if name == function]
        size = min(draw.randint(1, MAX_BATCH), self._jobs - self._submitted)
        jobs = [
            draw.choice(shared) if shared and draw.random() < 0.1 else (self._new_text(self._submitted + number), b"")
            for number in range(size)
        ]
        check = BatchCheck(self, function, draw.random() < 0.2, jobs)
        self._submitted += size
        options = {"priority": draw.choice(list(Priority)), "timeout": draw.choice(BATCH_TIMEOUTS)}
        deferred = self._in_flight[check] = check.submit(self._client, **options)
        if isinstance(batch := getattr(deferred, "_batch", None), Batch):
            self._retained.add(batch)
        deferred.addBoth(check.fired)
        if draw.random() < 0.1:
            self._cancel_in(draw.choice((0, 0.001, 0.01, 0.1)), check)

    def _forget_altered(self) -> None:
        """Forget the shared jobs whose workloads may have been altered."""
        if self._shared_era != self.faults.era:
            self._shared.clear()
            self._shared_era = self.faults.era

    def _shared_job(self, function: str, text: bytes) -> tuple[str, bytes, bytes]:
        """Return a job that several tasks share: this one and later ones, or earlier ones."""
        self._forget_altered()
        if len(self._shared) < SHARED_JOBS or self._draw.random() < 0.1:
            self._shared.append((function, text, b"%08x" % crc32(text)))
        del self._shared[:-SHARED_JOBS]
        return self._draw.choice(self._shared)

    def _submit(self, check: TaskCheck, background: bool, **options: Any) -> None:
        task = check.task(background, **options)
        self._retained.add(task)
        self._submitted += 1
        deferred = self._in_flight[check] = self._client.submit(task)
        deferred.addBoth(check.fired)

    def _submit_many(self, number: int, function: str) -> None:
        for _ in range(number):
            text = b"%d" % self._submitted
            self._submit(TaskCheck(self, function, text, b"%08x" % crc32(text)), background=False)

    def _cancel_in(self, seconds: float, check: TaskCheck | BatchCheck) -> None:
        def cancel() -> None:
            deferred = self._in_flight.get(check)
            if deferred is not None:
                check.was_cancelled = True
                if isinstance(check, BatchCheck):
                    check.before_cancel = list(deferred._batch.outcomes)
                deferred.cancel()

        if seconds:
            self.faults.call_later(seconds, cancel)
        else:
            cancel()

    def retried(self, check: TaskCheck) -> None:
        """Count a retry."""
        self.seen["retries"] += 1
        self._expected["retries", check.function, ""] += 1

    def ended(self, check: TaskCheck | BatchCheck, outcomes: Sequence[Any]) -> None:
        """Count the jobs of a task or a batch whose Deferred has fired."""
        del self._in_flight[check]
        self._finished += len(outcomes)
        for outcome in outcomes:
            self._expected["tasks", check.function, OUTCOMES.get(type(outcome), "completed")] += 1
            self.seen["results" if isinstance(outcome, bytes) else type(outcome).__name__] += 1
            self.seen["forgotten jobs"] += isinstance(outcome, TaskLost) and outcome.forgotten
            if isinstance(outcome, (NoServersAvailable, ClientStopped)):
                self._paused_until = reactor.seconds() + SUBMIT_PAUSE

    def _check_oldest(self) -> None:
        now, check = reactor.seconds(), next(iter(self._in_flight), None)
        if check is None or now - check.since < MAX_AGE:
            self._draining_since = None
        elif self._draining_since is None:
            self._draining_since = now
            self.seen["drained"] += 1
        elif now - self._draining_since > MAX_SECONDS:
            check.report(f"it has no outcome after {MAX_SECONDS} seconds without further submits")

    # After the faults.

    async def _check_recovery(self) -> None:
        """Check that everything works when the last fault is over."""
        await self._until("the faults are over", lambda: self.faults.over)
        for service, _ in self._services:
            await self._until(f"{service} is ready", partial(is_ready, service))
        right = self.seen["results"]
        self._submit_many(WINDOW, "plain")
        await self._until("new tasks are done", lambda: not self._in_flight)
        if self.seen["results"] != right + WINDOW and not self.problems:
            self.report(f"of {WINDOW} new tasks, {self.seen['results'] - right} have a result")

    async def _until(self, what: str, condition: Callable[[], bool]) -> None:
        end = reactor.seconds() + MAX_SECONDS
        while not (condition() or self.problems):
            if reactor.seconds() > end:
                self.report(f"it has not happened in time: {what}")
            await deferLater(reactor, 0.01)
