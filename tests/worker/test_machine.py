"""Random histories of a worker: its groups, connections and slots are right in any order of calls, jobs and faults.

For longer runs by hand: ``python -m pytest tests/worker/test_machine.py --hypothesis-profile=long --timeout=0``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock

from txgearman import GearmanClient, GearmanWorker, Job
from txgearman.testing import MemoryJobServer
from txgearman.worker import execution
from txgearman.worker.worker import POLL_INTERVAL

from ..conftest import Failures
from ..examples import of_histories
from .harness import MINUTE, ReactingEndpoint, Slow, offers, running_jobs, slots_held

MAX_JOBS = 3

LIMITS = {"a": None, "b": None, "c": 1, "d": 2}
"""The functions, and the limit of each."""

DRAIN = 4.0

REACTIONS = ["stop", "restart", "register", "unregister", "change servers", "raise"]
"""What the user's code does when the worker calls it."""

ID = "worker"


class Timers(Clock):
    """The reactor of the worker: another clock, and the delayed calls that the worker has made.

    It is a `Clock`, so that the worker's random numbers are the same each time.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.seconds = clock.seconds  # type: ignore[method-assign]  # time is the other clock's
        self._clock = clock
        self._calls: list[IDelayedCall] = []

    def callLater(  # type: ignore[override]  # Twisted's name of the second parameter hides a builtin
        self, delay: float, call: Callable[..., object], *arguments: Any, **named: Any
    ) -> IDelayedCall:
        made: IDelayedCall = self._clock.callLater(delay, call, *arguments, **named)
        self._calls = [*self.active(), made]
        return made

    def active(self) -> list[IDelayedCall]:
        return [call for call in self._calls if call.active()]


class WorkerMachine(RuleBasedStateMachine):
    """A worker of up to three job servers, whose user's code calls it back.

    A job's workload begins with the number of the server that it was submitted to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(execution, "MAX_CANCELS", 1)
        clock = Clock()
        self.servers = [MemoryJobServer(clock) for _ in range(3)]
        self.timers = Timers(clock)
        self.endpoints = [ReactingEndpoint(server.endpoint(), self.react) for server in self.servers]
        self.listed = [0, 1]
        self.registered: set[str] = set()
        self.started = False
        self.reaction = ""
        self.errors: list[BaseException] = []
        self.slow = Slow()
        self.submitted = 0
        self.stops: list[Deferred[None]] = []
        self.worker = GearmanWorker(
            [self.endpoints[index] for index in self.listed],
            reactor=self.timers,  # type: ignore[arg-type]  # it has what a worker without threads needs
            client_id=ID,
            max_jobs=MAX_JOBS,
            drain_timeout=DRAIN,
        )
        self.start()

    def settle(self, seconds: float = 0.0) -> None:
        self.servers[0].advance(seconds)

    # The user's code, which the worker calls: endpoints, functions, and the cancellers of their Deferreds.

    def react(self) -> None:
        """Do once what was prepared."""
        reaction, self.reaction = self.reaction, ""
        if not reaction:
            return
        event(f"reaction: {reaction}")
        if reaction == "raise":
            raise RuntimeError("the user's code raises")
        try:
            self.act(reaction)
        except Exception as error:  # the worker would only log it
            self.errors.append(error)

    def act(self, reaction: str) -> None:
        if reaction == "stop":
            self.stop()
        elif reaction == "restart":
            self.stop()
            self.start()
        elif reaction == "change servers":
            self.change_servers(self.listed[::-1] + [index for index in range(3) if index not in self.listed], 2)
        else:
            here = self.registered if reaction == "unregister" else set(LIMITS) - self.registered
            if here:
                self.register_or_unregister(min(here))

    def run_job(self, job: Job) -> Deferred[Any]:
        self.react()
        return self.slow(job)

    def run_quickly(self, job: Job) -> bytes:
        self.react()
        return job.workload

    # The caller.

    @rule(function=st.sampled_from(sorted(LIMITS)))
    def register_or_unregister(self, function: str) -> None:
        if function in self.registered:
            self.registered.discard(function)
            self.worker.unregister_function(function)
        else:
            self.registered.add(function)
            call = self.run_quickly if function == "b" else self.run_job
            self.worker.register_function(function, call, max_jobs=LIMITS[function])

    @rule(indices=st.permutations([0, 1, 2]), count=st.integers(1, 3))
    def change_servers(self, indices: list[int], count: int) -> None:
        self.listed = indices[:count]
        self.worker.job_servers = [self.endpoints[index] for index in self.listed]

    @rule()
    def stop_or_start(self) -> None:
        if self.started:
            self.stop()
        else:
            self.start()

    def start(self) -> None:
        self.started = True
        self.worker.startService()

    def stop(self) -> None:
        self.started = False
        self.stops.append(self.worker.stopService())

    @rule(reaction=st.sampled_from(REACTIONS))
    def prepare_reaction(self, reaction: str) -> None:
        self.reaction = reaction

    # Jobs.

    @rule(
        function=st.sampled_from(sorted(LIMITS)), index=st.integers(0, 2), count=st.integers(1, 5), turn=st.booleans()
    )
    def submit(self, function: str, index: int, count: int, turn: bool) -> None:
        server = self.servers[index]
        client: GearmanClient = server.client()
        for _ in range(count):
            server.result_of(client.add_task_bg(function, b"%d %d" % (index, self.submitted)))
            self.submitted += 1
        server.result_of(client.stopService())
        if turn:
            self.settle()

    @precondition(lambda self: self.slow.running)
    @rule(count=st.integers(1, 3))
    def end(self, count: int) -> None:
        for workload in list(self.slow.running)[:count]:
            if workload in self.slow.running:  # the end of another one may have stopped the worker
                self.slow.end(workload)

    # Networks and time.

    @rule(index=st.integers(0, 2), turn=st.booleans())
    def drop(self, index: int, turn: bool) -> None:
        if turn:
            self.settle()
        with suppress(AssertionError):  # there may be none
            self.servers[index].drop_connections()

    @rule(seconds=st.sampled_from([0.0, 0.0, 0.1, 1.0, DRAIN, POLL_INTERVAL + 1]))
    def wait(self, seconds: float) -> None:
        """At rest the servers have just those jobs as running that run here."""
        self.settle(seconds)
        here = Counter(int(workload.split()[0]) for workload in self.slow.running)
        for index, server in enumerate(self.servers):
            assert sum(running_jobs(server, name) for name in LIMITS) == here[index]

    @rule()
    def check_groups(self) -> None:
        """At rest, and with no job, there is one connection for each server and group, and no slot is held."""
        self.finish()
        assert slots_held(self.worker) == 0
        limited = [name for name in self.registered if LIMITS[name] is not None]
        unlimited = self.registered.difference(limited)
        groups: list[set[str]] = [unlimited, *({name} for name in limited)]
        expected = sorted(sorted(group) for group in groups)
        for index, server in enumerate(self.servers):
            found = sorted(sorted(functions) for _, functions in offers(server) if functions)
            reached = self.started and index in self.listed
            assert found == ([group for group in expected if group] if reached else [])
            assert len(server.connections) == (len(groups) if reached else 0)

    def finish(self) -> None:
        """End all jobs, and let all connections be made or closed."""
        self.reaction = ""
        for _ in range(self.submitted + 1):
            self.settle()
            if not self.slow.running:
                break
            self.slow.end_all()
        self.settle(MINUTE)
        while self.slow.running:
            self.slow.end_all()
            self.settle()

    # Invariants.

    @invariant()
    def check_servers(self) -> None:
        """They are those that were set, and count the jobs that run."""
        assert self.worker.job_servers == [self.endpoints[index] for index in self.listed]
        here = Counter(int(workload.split()[0]) for workload in self.slow.running)
        assert [info.in_flight for info in self.worker.servers] == [here[index] for index in self.listed]

    @invariant()
    def check_slots(self) -> None:
        assert len(self.slow.running) <= slots_held(self.worker) <= MAX_JOBS
        functions = {job.workload: job.function for job in self.slow.jobs if job.workload in self.slow.running}
        counts = Counter(functions.values())
        for function, limit in LIMITS.items():
            assert limit is None or counts[function] <= limit

    @invariant()
    def check_stopped(self) -> None:
        """Nothing is left when the Deferreds of all stops have fired, and no one fails."""
        assert not any(hasattr(stop, "result") and stop.result for stop in self.stops)
        if not self.started and all(stop.called for stop in self.stops):
            assert self.timers.active() == []
            assert not self.slow.running

    @invariant()
    def check_reactions(self) -> None:
        for error in self.errors:
            raise error

    def teardown(self) -> None:
        self.patch.undo()
        self.check_reactions()
        self.reaction = ""
        if not self.started:
            self.start()
        self.check_full()
        self.check_groups()
        self.stop()
        self.settle(MINUTE)
        assert all(stop.called for stop in self.stops)
        self.check_stopped()
        assert [server.connections for server in self.servers] == [[], [], []]

    def check_full(self) -> None:
        """No slot was lost: as many jobs run as may."""
        self.finish()
        if "a" not in self.registered:
            self.register_or_unregister("a")
        self.submit("a", self.listed[0], 2 * MAX_JOBS, turn=True)
        self.settle(POLL_INTERVAL)
        assert len(self.slow.running) == MAX_JOBS


@pytest.fixture(autouse=True)
def forgiven(logged_failures: Failures) -> Iterator[None]:
    """What the user's code raises is logged if a job calls it."""
    yield
    logged_failures.flush(RuntimeError)


TestAnything = WorkerMachine.TestCase
TestAnything.settings = of_histories()
