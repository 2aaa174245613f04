"""Anything that may happen to a client, in any order: each task has one outcome, the right one, and nothing is left.

For longer runs by hand: ``LONG_RUN=2000 python -m pytest tests/client/test_machine.py --timeout=0``.
"""

from __future__ import annotations

import os
from contextlib import suppress

from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from txgearman import (
    ClientStopped,
    GearmanClient,
    JobHandle,
    NoServersAvailable,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
    TaskTimedOut,
)
from txgearman.testing import Fault, MemoryJobServer, TakenJob

from ..client_harness import Told


class ClientMachine(RuleBasedStateMachine):
    """A client of up to three job servers. Workers answer with what tells whose job it was."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.servers = [MemoryJobServer(self.clock) for _ in range(3)]
        self.endpoints = [server.endpoint() for server in self.servers]
        self.tasks: list[Told] = []
        self.jobs: list[tuple[int, TakenJob]] = []
        self.faults: list[list[Fault]] = [[] for _ in self.servers]
        self.results: dict[bytes, set[bytes]] = {}  # by unique, or else by workload
        self.started = True

    @initialize(
        count=st.integers(1, 3),
        most=st.sampled_from([None, None, 1, 3]),
        wait=st.sampled_from([0.0, 0.0, 3.0, 100.0]),
        heartbeat=st.sampled_from([None, 4.0]),
    )
    def make_the_client(self, count: int, most: int | None, wait: float, heartbeat: float | None) -> None:
        self.most = most
        self.client = GearmanClient(
            self.endpoints[:count],
            reactor=self.clock,
            max_in_flight=most,
            server_wait=wait,
            heartbeat=heartbeat,
            server_timeout=6.0,
            job_check_interval=8.0,
        )
        self.client.startService()
        self.settle()

    def settle(self, seconds: float = 0.0) -> None:
        self.servers[0].advance(seconds)

    # What the caller does.

    @rule(
        kinds=st.lists(
            st.tuples(
                st.booleans(),
                st.sampled_from([b"", b"", b"u", b"v"]),
                st.sampled_from([0, 0, 1, 3]),
                st.sampled_from([None, None, 1.0, 7.0]),
            ),
            min_size=1,
            max_size=4,
        ),
        turn=st.booleans(),
    )
    def submit(self, kinds: list[tuple[bool, bytes, int, float | None]], turn: bool) -> None:
        for background, unique, retries, timeout in kinds:
            told = Told(len(self.tasks), background, unique, 0 if background else retries, timeout)
            told.stopped = not self.started
            self.tasks.append(told)
            told.watch(self.client.submit(told.task))
        if turn:
            self.settle()

    @precondition(lambda self: self.tasks)
    @rule(pick=st.integers(0, 99))
    def cancel(self, pick: int) -> None:
        told = self.tasks[-1 - pick % len(self.tasks)]
        told.cancelled = True
        told.deferred.cancel()

    @rule(places=st.permutations([0, 1, 2]), count=st.integers(1, 3))
    def change_job_servers(self, places: list[int], count: int) -> None:
        self.client.job_servers = [self.endpoints[place] for place in places[:count]]

    @rule(turn=st.booleans())
    def stop_and_start(self, turn: bool) -> None:
        self.stop()
        if turn:
            self.settle()
        self.client.startService()
        self.started = True

    def stop(self) -> None:
        for told in self.tasks:
            told.stopped = True
        self.stopped = self.client.stopService()
        self.started = False
        assert all(told.outcomes for told in self.tasks)

    # What workers do.

    @rule(place=st.integers(0, 2))
    def take(self, place: int) -> None:
        if self.servers[place].queued("work"):
            self.jobs.append((place, self.servers[place].take("work")))

    def take_if_there_is_none(self) -> bool:
        """Whether there is a job then."""
        for place in range(3):
            if not self.jobs:
                self.take(place)
        return bool(self.jobs)

    @rule(pick=st.integers(0, 99), kind=st.sampled_from(["data", "warning", "status"]))
    def say(self, pick: int, kind: str) -> None:
        if not self.take_if_there_is_none():
            return
        job = self.jobs[pick % len(self.jobs)][1]
        if kind == "status":
            job.send_status(1, 2)
        else:
            getattr(job, f"send_{kind}")(self.key(job))

    @staticmethod
    def key(job: TakenJob) -> bytes:
        return job.unique or job.workload

    @rule(pick=st.integers(0, 99), end=st.sampled_from(["complete", "complete", "fail", "exception", "abandon"]))
    def end(self, pick: int, end: str) -> None:
        if not self.take_if_there_is_none():
            return
        _, job = self.jobs.pop(pick % len(self.jobs))
        if end == "complete":
            result = b"%b %d" % (self.key(job), len(self.results))
            self.results.setdefault(self.key(job), set()).add(result)
            job.complete(result)
        elif end == "exception":
            job.send_exception(self.key(job))
        else:
            getattr(job, end)()

    # What servers and networks do.

    @rule(place=st.integers(0, 2))
    def lose(self, place: int) -> None:
        self.settle()
        if self.servers[place].connections:
            self.servers[place].drop_connections()

    @rule(place=st.integers(0, 2), kind=st.sampled_from(["silence", "down", "restart", "hold", "black hole", "full"]))
    def go_wrong(self, place: int, kind: str) -> None:
        server = self.servers[place]
        if self.faults[place]:
            return
        if kind in ("down", "restart"):
            self.jobs = [(where, job) for where, job in self.jobs if where != place or kind == "down"]
            fault = server.go_down(lose_jobs=kind == "restart")
        else:
            fault = {
                "silence": server.fall_silent,
                "hold": server.hold_answers,
                "black hole": server.black_hole_connections,
                "full": lambda: server.reject("QUEUE_ERROR"),
            }[kind]()
        self.faults[place].append(fault)

    @rule(place=st.integers(0, 2))
    def be_well_again(self, place: int) -> None:
        while self.faults[place]:
            self.faults[place].pop().end()

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 5.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.settle(seconds)

    # What must be so.

    @invariant()
    def order_is_kept(self) -> None:
        for told in self.tasks:
            told.check_order()
            for name, *what in told.events:
                if name in ("data", "warning", "exception"):
                    assert what[0] == (told.unique or told.workload)

    @invariant()
    def no_more_are_in_flight_than_may_be(self) -> None:
        if self.tasks and self.most is not None:
            assert self.client._dispatcher._admitted <= self.most

    @invariant()
    def what_is_counted_is_what_is_out(self) -> None:
        if self.tasks:
            out = sum(not told.outcomes for told in self.tasks)
            assert self.client._dispatcher._unfinished == out

    def teardown(self) -> None:
        for place in range(3):
            self.be_well_again(place)
        if not hasattr(self, "client"):
            return
        drained = self.client.drain()
        for _ in range(40):
            self.do_what_is_there()
            self.settle(5.0)
        assert drained.called, "some task has no outcome though all is well"
        for told in self.tasks:
            told.check_outcome()
            result = told.outcomes[0]
            event(f"a task came to {type(result).__name__}")
            if isinstance(result, bytes):
                assert result in self.results[told.unique or told.workload]
            elif isinstance(result, TaskException):
                assert result.data == (told.unique or told.workload)
            else:
                assert isinstance(
                    result,
                    (
                        JobHandle,
                        CancelledError,
                        ClientStopped,
                        NoServersAvailable,
                        TaskFailed,
                        TaskLost,
                        TaskRejected,
                        TaskTimedOut,
                    ),
                )
        self.stop()
        self.settle(3.0)
        assert self.stopped.called
        assert self.clock.getDelayedCalls() == []
        assert [server.connections for server in self.servers] == [[], [], []]

    def do_what_is_there(self) -> None:
        for place, server in enumerate(self.servers):
            with suppress(AssertionError):  # asked for all the same: only then are jobs that nobody waits for gone (H1)
                while True:
                    self.jobs.append((place, server.take("work")))
        while self.jobs:
            self.end(0, "complete")


LONG_RUN = int(os.environ.get("LONG_RUN", "0"))
"""How many histories to try; 0 for as many as a normal run has time for."""

TestAnything = ClientMachine.TestCase
TestAnything.settings = settings(
    max_examples=LONG_RUN or 150,
    stateful_step_count=60 if LONG_RUN else 40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
