"""Random histories of a client: each task has one outcome, the right one, and nothing is left.

For longer runs by hand: ``python -m pytest tests/client/test_machine.py --hypothesis-profile=long --timeout=0``.
"""

from __future__ import annotations

from contextlib import suppress

from hypothesis import event
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

from ..client_harness import RecordedTask
from ..examples import of_histories


class ClientMachine(RuleBasedStateMachine):
    """A client of up to three job servers. Results contain the unique or the workload of their job."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.servers = [MemoryJobServer(self.clock) for _ in range(3)]
        self.endpoints = [server.endpoint() for server in self.servers]
        self.tasks: list[RecordedTask] = []
        self.jobs: list[tuple[int, TakenJob]] = []
        self.faults: list[list[Fault]] = [[] for _ in self.servers]
        self.results: dict[bytes, set[bytes]] = {}  # by unique; by workload if that is empty
        self.started = True

    @initialize(
        count=st.integers(1, 3),
        most=st.sampled_from([None, None, 1, 3]),
        wait=st.sampled_from([0.0, 0.0, 3.0, 100.0]),
        heartbeat=st.sampled_from([None, 4.0]),
    )
    def make_client(self, count: int, most: int | None, wait: float, heartbeat: float | None) -> None:
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

    # The caller.

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
            recorded = RecordedTask(len(self.tasks), background, unique, 0 if background else retries, timeout)
            recorded.stopped = not self.started
            self.tasks.append(recorded)
            recorded.watch(self.client.submit(recorded.task))
        if turn:
            self.settle()

    @precondition(lambda self: self.tasks)
    @rule(pick=st.integers(0, 99))
    def cancel(self, pick: int) -> None:
        recorded = self.tasks[-1 - pick % len(self.tasks)]
        recorded.cancelled = True
        recorded.deferred.cancel()

    @rule(indices=st.permutations([0, 1, 2]), count=st.integers(1, 3))
    def change_job_servers(self, indices: list[int], count: int) -> None:
        self.client.job_servers = [self.endpoints[index] for index in indices[:count]]

    @rule(turn=st.booleans())
    def stop_and_start(self, turn: bool) -> None:
        self.stop()
        if turn:
            self.settle()
        self.client.startService()
        self.started = True

    def stop(self) -> None:
        for recorded in self.tasks:
            recorded.stopped = True
        self.stopped = self.client.stopService()
        self.started = False
        assert all(recorded.outcomes for recorded in self.tasks)

    # The workers.

    @rule(index=st.integers(0, 2))
    def take(self, index: int) -> None:
        if self.servers[index].queued("work"):
            self.jobs.append((index, self.servers[index].take("work")))

    def ensure_job(self) -> bool:
        """Take a job if none is taken; return whether there is one."""
        for index in range(3):
            if not self.jobs:
                self.take(index)
        return bool(self.jobs)

    @rule(pick=st.integers(0, 99), kind=st.sampled_from(["data", "warning", "status"]))
    def send_progress(self, pick: int, kind: str) -> None:
        if not self.ensure_job():
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
        if not self.ensure_job():
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

    # Servers and networks.

    @rule(index=st.integers(0, 2))
    def lose(self, index: int) -> None:
        self.settle()
        if self.servers[index].connections:
            self.servers[index].drop_connections()

    @rule(index=st.integers(0, 2), kind=st.sampled_from(["silence", "down", "restart", "hold", "black hole", "full"]))
    def begin_fault(self, index: int, kind: str) -> None:
        server = self.servers[index]
        if self.faults[index]:
            return
        if kind in ("down", "restart"):
            self.jobs = [(where, job) for where, job in self.jobs if where != index or kind == "down"]
            fault = server.go_down(lose_jobs=kind == "restart")
        else:
            fault = {
                "silence": server.fall_silent,
                "hold": server.hold_answers,
                "black hole": server.black_hole_connections,
                "full": lambda: server.reject("QUEUE_ERROR"),
            }[kind]()
        self.faults[index].append(fault)

    @rule(index=st.integers(0, 2))
    def recover(self, index: int) -> None:
        while self.faults[index]:
            self.faults[index].pop().end()

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 5.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.settle(seconds)

    # Invariants.

    @invariant()
    def check_order(self) -> None:
        for recorded in self.tasks:
            recorded.check_order()
            for name, *arguments in recorded.events:
                if name in ("data", "warning", "exception"):
                    assert arguments[0] == (recorded.unique or recorded.workload)

    @invariant()
    def check_max_in_flight(self) -> None:
        if self.tasks and self.most is not None:
            assert self.client._dispatcher._admitted <= self.most

    @invariant()
    def check_unfinished_count(self) -> None:
        if self.tasks:
            unfinished = sum(not recorded.outcomes for recorded in self.tasks)
            assert self.client._dispatcher._unfinished == unfinished

    def teardown(self) -> None:
        for index in range(3):
            self.recover(index)
        if not hasattr(self, "client"):
            return
        drained = self.client.drain()
        for _ in range(40):
            self.complete_all()
            self.settle(5.0)
        assert drained.called, "a task has no outcome though all servers are reachable"
        for recorded in self.tasks:
            recorded.check_outcome()
            result = recorded.outcomes[0]
            event(f"outcome: {type(result).__name__}")
            if isinstance(result, bytes):
                assert result in self.results[recorded.unique or recorded.workload]
            elif isinstance(result, TaskException):
                assert result.data == (recorded.unique or recorded.workload)
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

    def complete_all(self) -> None:
        for index, server in enumerate(self.servers):
            with suppress(AssertionError):  # ask until there is none: only this removes jobs without clients (H1)
                while True:
                    self.jobs.append((index, server.take("work")))
        while self.jobs:
            self.end(0, "complete")


TestAnything = ClientMachine.TestCase
TestAnything.settings = of_histories()
