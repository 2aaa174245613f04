"""Everything at once: clients' tasks of every kind, workers, and two gearmands, with faults of every kind between them.

What goes wrong, and when, is drawn from one seed. What is held up when, and so what becomes of each task, is up to the
machine; what must be true of each is checked whatever it is.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import socket
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias
from weakref import WeakSet
from zlib import crc32

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from txgearman import (
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
)
from txgearman.testing import Direction, Fault, FaultProxy

from .daemons import Gearmand

reactor: Any = global_reactor
_log = Logger()

# What the clients, workers and tasks are made with. Time-outs are short, so that a run sees many of them.

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
"""For each task, one of them is drawn."""
SERVER_WAITS: Final = [0.0, 2.0]
"""For each client, one of them is drawn."""

WINDOW: Final = 300
"""Tasks that are out at a time."""
JOBS_PER_TROUBLE: Final = 250
PATIENCE: Final = 20.0
"""Seconds after which a task counts as forgotten, whatever has gone wrong."""
REST: Final = 0.02
"""Seconds for which nothing is submitted once there was no server."""
LOG_KEEPS: Final = 200
"""Events that Twisted keeps until somebody has begun to log; some have a job."""
SHARED_JOBS: Final = 20
"""From how many jobs a task that shares one draws it, so that some come back when their client was away (H1)."""
QUIET_PORTS: Final = range(20000, 30000)
"""No connection gets one of these by chance, so that a gearmand that was away finds its own free."""


def seal(text: bytes) -> bytes:
    """Make a payload of which can be told whether it was altered on its way."""
    return b"%08x %b" % (crc32(text), text)


def unseal(payload: bytes) -> bytes | None:
    """What was sealed; None if it was altered."""
    text = payload[9:]
    return text if payload == seal(text) else None


ALTERED: Final = seal(b"the workload was altered")


def answer(text: bytes) -> bytes:
    """What a job comes to, as a result or an exception."""
    return seal(text[::-1])


def part(name: str, text: bytes) -> bytes:
    """What a job sends on its way."""
    return seal(b"%b of %b" % (name.encode(), text[:16]))


def progress(text: bytes) -> tuple[int, int]:
    return crc32(text) % 1000, 1000


# The functions of the workers.


def plain(job: Job, text: bytes) -> bytes:
    return answer(text)


CHATTER: Final = ["status", "data", "warning", "data"]


def chatty(job: Job, text: bytes) -> bytes:
    job.send_status(*progress(text))
    job.send_data(part("data", text))
    job.send_warning(part("warning", text))
    job.send_data(part("data", text))
    return answer(text)


def late(job: Job, text: bytes) -> Deferred[bytes]:
    return deferLater(reactor, crc32(text) % 50 / 1000, answer, text)


def failing(job: Job, text: bytes) -> bytes:
    raise JobFailed("as it should")


def excepting(job: Job, text: bytes) -> None:
    job.send_exception(answer(text))


FUNCTIONS: Final[dict[str, Callable[[Job, bytes], Any]]] = {
    function.__name__: function for function in (plain, chatty, late, failing, excepting)
}
ERRORS: Final[dict[str, type[Exception]]] = {"failing": TaskFailed, "excepting": TaskException}
"""What the tasks of a function come to, where it is not a result."""
SHARES: Final = (8, 4, 4, 1, 1)
"""How many tasks each function gets, against each other."""


class Witness:
    """Witnesses one task: what it is told is right, and in order, and its Deferred fires once."""

    __slots__ = ("chaos", "events", "function", "since", "stage", "text", "told", "unique", "was_cancelled")

    def __init__(self, chaos: Chaos, function: str, text: bytes, unique: bytes) -> None:
        self.chaos = chaos
        self.function = function
        self.text = text
        self.unique = unique
        self.since = reactor.seconds()
        self.stage = "submitted"
        self.events: list[str] = []
        self.told: Any = None
        self.was_cancelled = False

    def task(self, background: bool, **options: Any) -> Task:
        """Make it."""
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

    def complain(self, what: str) -> None:
        self.chaos.complain(f"{what}, of {self.function} {self.text[:40]!r}, which was {self.stage}")

    def go(self, stage: str, *befores: str) -> None:
        """The task comes to a stage, from one of those before."""
        if self.stage not in befores:
            self.complain(f"it can't be {stage}")
        self.stage = stage

    def compare(self, payload: object, right: object) -> None:
        """Complain of what was not to come, such as another task's result, unless the network may have made it so."""
        if payload != right:
            self.chaos.seen["altered"] += 1
            if not self.chaos.trouble.may_have_altered(self.since):
                self.complain(f"{payload!r:.200} has come in the place of {right!r:.200}")

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
        self.chaos.seen["retries"] += 1

    def complete(self, task: Task, result: bytes) -> None:
        self.go("ended", "created")
        if self.function == "chatty":
            self._compare_events()
        self.told = result

    def fail(self, task: Task, reason: Exception) -> None:
        self.go("ended", "submitted", "created", "excepted")
        self.told = reason

    def fired(self, outcome: Any) -> None:
        """The Deferred has."""
        if isinstance(outcome, JobHandle):
            self.go("fired", "created")
        else:
            self.go("fired", "ended")
            outcome = outcome.value if isinstance(outcome, Failure) else outcome
            if outcome is not self.told:
                self.complain(f"the callback was told {self.told!r}, and the Deferred {outcome!r}")
            self._judge(outcome)
        self.told = None  # an error has its task
        self.chaos.ended(self, outcome)

    def _compare_events(self) -> None:
        """What the job sent on its way came once. A task that joined it late has not had all of it; where a worker was
        lost, another has begun anew."""
        last = self.events[-len(CHATTER) :]
        self.compare(last, CHATTER[len(CHATTER) - len(last) :])

    def _judge(self, outcome: object) -> None:
        error = ERRORS.get(self.function)
        if isinstance(outcome, bytes):
            self.compare(outcome, "an error" if error else answer(self.text))
        elif isinstance(outcome, CancelledError):
            if not self.was_cancelled:
                self.complain("nobody has cancelled it")
        elif isinstance(outcome, TaskFailed):
            self.compare(type(outcome), error)
        elif not isinstance(outcome, GearmanError):
            self.complain(f"{outcome!r} is no error of ours")


class Server(Gearmand):
    """A gearmand that comes back on its port, even if it ends by itself (C1)."""

    def __init__(self) -> None:
        super().__init__("--threads=2")
        first = os.getpid() * 10 % len(QUIET_PORTS)  # not that of another run at the same time
        self.port = next(port for port in (*QUIET_PORTS[first:], *QUIET_PORTS[:first]) if is_free(port))

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


Service: TypeAlias = "tuple[GearmanClient | GearmanWorker, list[FaultProxy]]"
"""One that uses the servers, and the proxies by which it does."""


def is_ready(service: GearmanClient | GearmanWorker) -> bool:
    return all(server.state is ServerState.READY for server in service.servers)


def selectables_and_timers() -> set[Any]:
    return {*reactor.getReaders(), *reactor.getWriters(), *reactor.getDelayedCalls()}


class Trouble:
    """What goes wrong, and when: all of it is drawn beforehand.

    :ivar seen: what has happened, and how often.
    :ivar era: how often what was said may have been altered.
    """

    def __init__(self, draw: random.Random, servers: list[Server], services: list[Service], seen: Counter[str]) -> None:
        """
        :param services: each with the proxies that it has for the servers.
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

    def plan(self, jobs: int) -> None:
        """Draw it for so many jobs.

        The last of them are spared. Before these, a server forgets jobs: now the connection stays, and they are to be
        found out.
        """
        end = jobs * 9 // 10
        steps = [(self._draw.randrange(end), self._draw_step()) for _ in range(jobs // JOBS_PER_TROUBLE)]
        self._plan = sorted(steps, key=lambda step: step[0])
        self._plan.append((end, self._orphan(self._proxies[0], 0.0)))

    def go_on(self, finished: int) -> None:
        """So many jobs are finished."""
        self._look_after_servers()
        while self._plan and self._plan[0][0] <= finished:
            self._plan.pop(0)[1]()

    @property
    def over(self) -> bool:
        """Whether nothing more goes wrong, unless more jobs are finished."""
        self._look_after_servers()
        return not (self._timers or self._stopping)

    def stop(self) -> None:
        """It is the end."""
        for timer in self._timers:
            timer.cancel()

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """Do it then, if it is not the end before."""

        def now() -> None:
            self._timers.discard(timer)
            call()

        timer = reactor.callLater(seconds, now)
        self._timers.add(timer)

    def may_have_altered(self, since: float) -> bool:
        """Whether anything that was on its way since then may have been altered."""
        return self._altering > 0 or self._altered_until >= since

    # What goes wrong. Each of these draws what it needs, and returns what makes it happen.

    def _draw_step(self) -> Callable[[], object]:
        shares = {
            self._drop: 6,
            self._drop_after: 6,
            self._hold_up: 8,
            self._hide: 4,
            self._alter: 2,
            self._orphan: 2,
            self._kill: 4,
            self._stop: 1,
            self._leave: 2,
        }
        [step] = self._draw.choices(list(shares), list(shares.values()))
        return step(self._draw.choice(self._proxies), self._draw.uniform(0.02, 0.4))

    def _drop(self, proxy: FaultProxy, seconds: float) -> Callable[[], object]:
        return partial(self._drop_now, proxy, self._draw.random() < 0.5)

    def _drop_after(self, proxy: FaultProxy, seconds: float) -> Callable[[], object]:
        size, direction = self._draw.randrange(1, 5000), self._draw.choice(list(Direction))
        reset = self._draw.random() < 0.5
        return lambda: self._last(seconds, proxy.drop_after(size, direction, reset=reset))

    def _hold_up(self, proxy: FaultProxy, seconds: float) -> Callable[[], object]:
        """So long, at times, that somebody's time is up."""
        draw = self._draw
        directions = draw.choice([(), *((direction,) for direction in Direction)])
        size, late = draw.randrange(1, 100), draw.uniform(0.001, 0.1)
        return draw.choice(
            (
                lambda: self._last(4 * seconds, proxy.fall_silent(*directions)),
                lambda: self._last(seconds, proxy.delay(late, *directions)),
                lambda: self._last(seconds, proxy.split(size, *directions)),
            )
        )

    def _hide(self, proxy: FaultProxy, seconds: float) -> Callable[[], object]:
        def black_hole() -> None:
            self._last(seconds, proxy.black_hole_connections())
            self._drop_now(proxy, reset=True)

        return self._draw.choice((lambda: self._last(seconds, proxy.go_down()), black_hole))

    def _alter(self, proxy: FaultProxy, seconds: float) -> Callable[[], object]:
        """Afterwards, the connections whose two ends may not agree are dropped."""
        rate, seed = self._draw.uniform(0.0001, 0.01), self._draw.randrange(2**32)

        def begin() -> None:
            self._altering += 1
            self._last(seconds, proxy.corrupt(rate, seed=seed))
            self.later(seconds, end)

        def end() -> None:
            self._drop_now(proxy, reset=True)
            self._altering -= 1
            self._altered_until = reactor.seconds()
            self.era += 1

        return begin

    def _orphan(self, proxy: FaultProxy, seconds: float) -> Callable[[], object]:
        """Jobs lose their client while no worker can take them, and others of their unique come (H1)."""
        place = self._draw.randrange(len(self._servers))
        client, *workers = [proxies[place] for _, proxies in self._services]

        def orphan() -> None:
            for worker in workers:
                self._last(seconds + 0.3, worker.fall_silent())
            self.later(0.1, partial(self._drop_now, client, True))

        return orphan

    def _kill(self, proxy: FaultProxy, seconds: float) -> Callable[[], object]:
        """A gearmand is restarted."""
        server, number = self._draw.choice(self._servers), self._draw.choice((signal.SIGKILL, signal.SIGTERM))

        def kill() -> None:
            if not server.down:
                server.stop(number)
                self.later(seconds, server.start)
                self.seen["restarts of gearmand"] += 1

        return kill

    def _stop(self, proxy: FaultProxy, seconds: float) -> Callable[[], object]:
        """The client or a worker is restarted."""
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
        """The client or a worker has but one server for a while."""
        service, proxies = self._draw.choice(self._services)
        one = self._draw.choice(proxies).address

        def leave() -> None:
            service.job_servers = [one]
            self.later(seconds, come_back)
            self.seen["changes of job_servers"] += 1

        def come_back() -> None:
            service.job_servers = [proxy.address for proxy in proxies]

        return leave

    def _last(self, seconds: float, fault: Fault) -> None:
        """Have the fault last so long."""
        self.seen["faults"] += 1

        def end() -> None:
            fault.end()
            self.seen["faults that happened"] += fault.happened > 0

        self.later(seconds, end)

    def _drop_now(self, proxy: FaultProxy, reset: bool) -> None:
        self.seen["faults"] += 1
        if proxy.connections:
            proxy.drop_connections(reset)
            self.seen["faults that happened"] += 1

    def _look_after_servers(self) -> None:
        for server in self._servers:
            if server.crashed:
                server.stop()
                server.start()
                self.seen["crashes of gearmand"] += 1


class Chaos:
    """One run.

    :ivar seen: what has happened, and how often.
    :ivar complaints: what must not happen, and has.
    """

    def __init__(self, seed: int, jobs: int) -> None:
        self.seen: Counter[str] = Counter()
        self.complaints: list[str] = []
        self._draw = random.Random(seed)
        self._jobs = jobs
        self._submitted = 0
        self._finished = 0
        self._out: dict[Witness, Any] = {}
        self._alive: WeakSet[Any] = WeakSet()
        self._resting_until = 0.0
        self._shared: list[tuple[str, bytes, bytes]] = []
        self._shared_era = 0
        self._tick: Any = None
        self._done: Deferred[None] = Deferred()

    async def run(self) -> None:
        """Do it, and complain of what went wrong."""
        await deferLater(reactor, 0)  # the timer of the test's deadline is there from then on
        before = selectables_and_timers()
        self._set_up()
        try:
            self._keep_going()
            await self._done
            await self._calm_down()
            self._submit_many(WINDOW, "late")
        finally:
            await self._stop()
        if self._finished != self._submitted:
            self.complain(f"{self._finished} of {self._submitted} Deferreds have fired")
        await self._look_for_remains(before)

    def complain(self, what: str) -> None:
        self.complaints.append(what)

    # Who takes part.

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
        self.trouble = Trouble(self._draw, self._servers, self._services, self.seen)
        self.trouble.plan(self._jobs)
        for service, _ in self._services:
            service.startService()

    def _new_proxies(self) -> list[FaultProxy]:
        return [FaultProxy(server.address, reactor) for server in self._servers]

    def _client_and_proxies(self) -> tuple[GearmanClient, list[FaultProxy]]:
        proxies = self._new_proxies()
        server_wait = self._draw.choice(SERVER_WAITS)
        addresses = [proxy.address for proxy in proxies]
        return GearmanClient(addresses, reactor=reactor, server_wait=server_wait, **CLIENT_OPTIONS), proxies

    def _worker_and_proxies(self) -> tuple[GearmanWorker, list[FaultProxy]]:
        proxies = self._new_proxies()
        worker = GearmanWorker([proxy.address for proxy in proxies], reactor=reactor, **WORKER_OPTIONS)
        for name, function in FUNCTIONS.items():
            worker.register_function(name, partial(self._work, function))
        return worker, proxies

    def _work(self, function: Callable[[Job, bytes], Any], job: Job) -> Any:
        self._alive.add(job)
        text = unseal(job.workload)
        return ALTERED if text is None else function(job, text)

    async def _stop(self) -> None:
        self.trouble.stop()
        if self._tick.active():
            self._tick.cancel()
        await gatherResults([service.stopService() for service, _ in self._services])
        proxies = [proxy for _, proxies in self._services for proxy in proxies]
        await gatherResults([proxy.close(verify=False) for proxy in proxies])
        for server in self._servers:
            server.stop()

    async def _look_for_remains(self, before: set[Any]) -> None:
        await deferLater(reactor, 0)
        left = selectables_and_timers() - before
        if left:
            self.complain(f"left in the reactor: {left}")
        for _ in range(LOG_KEEPS):
            _log.debug("no job")
        gc.collect()
        if self._alive:
            remains = [str(each) for each in self._alive]
            self.complain(f"{len(remains)} left in memory, such as {remains[:3]}")

    # Tasks.

    def _keep_going(self) -> None:
        """Every few milliseconds: submit as much as the limit allows, and have go wrong what is due."""
        self._tick = reactor.callLater(0.002, self._keep_going)
        self.trouble.go_on(self._finished)
        self._look_for_forgotten()
        while self._below_limit():
            self._submit_one()
        if self._finished == self._jobs or self.complaints:
            self._tick.cancel()
            self._done.callback(None)

    def _below_limit(self) -> bool:
        there_is = len(self._out) < WINDOW and self._submitted < self._jobs
        return there_is and reactor.seconds() >= self._resting_until

    def _submit_one(self) -> None:
        draw = self._draw
        [function] = draw.choices(list(FUNCTIONS), SHARES)
        text = b"%d " % self._submitted + draw.randbytes(draw.choice((0, 10, 100, 100, 1000, 20000)))
        job = self._shared_job(function, text) if draw.random() < 0.2 else (function, text, b"")
        witness = Witness(self, *job)
        background = draw.random() < 0.1
        self._submit(witness, background, priority=draw.choice(list(Priority)), **draw.choice(TASK_OPTIONS))
        if draw.random() < 0.03:
            self._cancel_in(draw.choice((0, 0.001, 0.01, 0.1)), witness)

    def _shared_job(self, function: str, text: bytes) -> tuple[str, bytes, bytes]:
        """One that several tasks share: this one and those to come, or those that there were.

        None shares a job whose workload may have been altered.
        """
        if self._shared_era != self.trouble.era:
            self._shared.clear()
            self._shared_era = self.trouble.era
        if len(self._shared) < SHARED_JOBS or self._draw.random() < 0.1:
            self._shared.append((function, text, b"%08x" % crc32(text)))
        del self._shared[:-SHARED_JOBS]
        return self._draw.choice(self._shared)

    def _submit(self, witness: Witness, background: bool, **options: Any) -> None:
        task = witness.task(background, **options)
        self._alive.add(task)
        self._submitted += 1
        deferred = self._out[witness] = self._client.submit(task)
        deferred.addBoth(witness.fired)

    def _submit_many(self, number: int, function: str) -> None:
        for _ in range(number):
            text = b"%d" % self._submitted
            self._submit(Witness(self, function, text, b"%08x" % crc32(text)), background=False)

    def _cancel_in(self, seconds: float, witness: Witness) -> None:
        def cancel() -> None:
            deferred = self._out.get(witness)
            if deferred is not None:
                witness.was_cancelled = True
                deferred.cancel()

        if seconds:
            self.trouble.later(seconds, cancel)
        else:
            cancel()

    def ended(self, witness: Witness, outcome: object) -> None:
        """A task's Deferred has fired."""
        del self._out[witness]
        self._finished += 1
        self.seen["results" if isinstance(outcome, bytes) else type(outcome).__name__] += 1
        self.seen["forgotten jobs"] += isinstance(outcome, TaskLost) and outcome.forgotten
        if isinstance(outcome, (NoServersAvailable, ClientStopped)):
            self._resting_until = reactor.seconds() + REST

    def _look_for_forgotten(self) -> None:
        witness = next(iter(self._out), None)
        if witness is not None and reactor.seconds() - witness.since > PATIENCE:
            witness.complain(f"nothing was heard for {PATIENCE} seconds")

    # Afterwards.

    async def _calm_down(self) -> None:
        """When the last fault is over, everything goes as if there had been none."""
        await self._until("the faults are over", lambda: self.trouble.over)
        for service, _ in self._services:
            await self._until(f"{service} is ready", partial(is_ready, service))
        right = self.seen["results"]
        self._submit_many(WINDOW, "plain")
        await self._until("new tasks are done", lambda: not self._out)
        if self.seen["results"] != right + WINDOW and not self.complaints:
            self.complain(f"of {WINDOW} new tasks, {self.seen['bytes'] - right} have a result")

    async def _until(self, what: str, condition: Callable[[], bool]) -> None:
        end = reactor.seconds() + PATIENCE
        while not (condition() or self.complaints):
            if reactor.seconds() > end:
                self.complain(f"it has not come to this: {what}")
            await deferLater(reactor, 0.01)
