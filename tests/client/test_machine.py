"""Random histories of a client: each task has one outcome, the right one, and nothing is left.

For longer runs by hand: ``python -m pytest tests/client/test_machine.py --hypothesis-profile=long --timeout=0``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from txgearman import (
    BatchFailed,
    ClientStopped,
    GearmanClient,
    JobHandle,
    NoServersAvailable,
    Task,
    TaskError,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
    TaskTimedOut,
)
from txgearman.client.awaiting import SHARE_TIME
from txgearman.client.batches import Part
from txgearman.client.protocol import GearmanClientProtocol
from txgearman.client.shared_job import SharedJob
from txgearman.testing import Fault, MemoryJobServer, TakenJob

from ..client_harness import RecordedTask
from ..examples import of_histories
from .forgetting import forget_queued_jobs

REACTIONS = ["", "", "", "cancel", "cancel", "submit", "change servers", "restart"]
"""What a task does when an attempt of it ends, or a batch when it ends."""


def tasks_of(connection: GearmanClientProtocol) -> list[Task]:
    """Return the tasks in the tables of a connection: those that were written and have no outcome."""
    held: list[object] = list(connection._outstanding)  # of parts, those jobs that share a handle are tasks
    for job in connection._jobs.values():
        held += job.remaining() if isinstance(job, SharedJob) else [job]
    return [task for task in held if isinstance(task, Task)]


class RecordedBatch:
    """A batch that records its outcome.

    :ivar keys: the unique, or else the workload, of each job.
    """

    def __init__(self, number: int, background: bool, uniques: list[bytes], timeout: float | None, drop: bool) -> None:
        self.background = background
        self.uniques = uniques
        self.workloads = [b"b%d.%d" % (number, place) for place in range(len(uniques))]
        self.keys = [unique or workload for unique, workload in zip(uniques, self.workloads, strict=True)]
        self.timeout = timeout
        self.drop = drop
        self.cancelled = False
        self.stopped = False
        self.fired: list[object] = []

    def submit(self, client: GearmanClient) -> None:
        arguments: dict[str, Any] = {"timeout": self.timeout}
        if any(self.uniques):
            arguments["uniques"] = self.uniques
        if self.background:
            self.deferred: Deferred[Any] = client.add_tasks_bg("work", self.workloads, **arguments)
        else:
            self.deferred = client.add_tasks("work", self.workloads, drop_on_cancel=self.drop, **arguments)

    @property
    def missing(self) -> int:
        """Number of jobs without an outcome."""
        return 0 if self.fired else self.deferred._batch.missing  # type: ignore[attr-defined]

    @property
    def outcomes(self) -> list[tuple[bytes, object]]:
        """Return the outcome of each job with its key."""
        (result,) = self.fired
        if isinstance(result, CancelledError):
            assert self.cancelled
            return []
        outcomes = result.outcomes if isinstance(result, BatchFailed) else result
        assert isinstance(outcomes, Sequence)
        if isinstance(result, BatchFailed):
            assert result.failed == sum(isinstance(outcome, Exception) for outcome in outcomes) > 0
        return list(zip(self.keys, outcomes, strict=True))

    def check(self, outcome: object) -> None:
        """Check that an outcome of a job can be one of this batch."""
        if isinstance(outcome, TaskTimedOut):
            assert self.timeout is not None
        elif isinstance(outcome, ClientStopped):
            assert self.stopped
        else:
            assert not isinstance(outcome, CancelledError)
        if isinstance(outcome, TaskError):
            assert outcome.task.workload in self.workloads


class ClientMachine(RuleBasedStateMachine):
    """A client of up to three job servers. Results contain the unique or the workload of their job."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.servers = [MemoryJobServer(self.clock) for _ in range(3)]
        self.endpoints = [server.endpoint() for server in self.servers]
        self.tasks: list[RecordedTask] = []
        self.batches: list[RecordedBatch] = []
        self.jobs: list[tuple[int, TakenJob]] = []
        self.faults: list[list[Fault]] = [[] for _ in self.servers]
        self.results: dict[bytes, set[bytes]] = {}  # by unique; by workload if that is empty
        self.started = True
        self.reacting = True
        self.errors: list[Exception] = []  # of reactions
        self.seen: set[GearmanClientProtocol] = set()

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
            job_check_interval=4.0,
        )
        self.client.startService()
        self.settle()

    def settle(self, seconds: float = 0.0) -> None:
        self.servers[0].advance(seconds)

    # The caller.

    @rule(
        kinds=st.lists(
            st.tuples(
                st.sampled_from([False, False, False, True]),
                st.sampled_from([b"", b"u", b"u", b"v"]),
                st.sampled_from([0, 0, 1, 3]),
                st.sampled_from([None, None, None, 1.0, 7.0]),
                st.booleans(),
                st.sampled_from(REACTIONS),
            ),
            min_size=1,
            max_size=4,
        ),
        turn=st.booleans(),
    )
    def submit(self, kinds: list[tuple[bool, bytes, int, float | None, bool, str]], turn: bool) -> None:
        for background, unique, retries, timeout, drop, reaction in kinds:
            retries = 0 if background else retries
            self.add(RecordedTask(len(self.tasks), background, unique, retries, timeout, drop), reaction)
        if turn:
            self.settle()

    def add(self, recorded: RecordedTask, reaction: str = "") -> None:
        def called(name: str) -> None:
            if reaction and self.reacting and name in ("complete", "fail", "retry"):
                try:
                    self.react(recorded, reaction)
                except Exception as error:  # the client would only log it
                    self.errors.append(error)

        recorded.stopped = not self.started
        recorded.react = called
        self.tasks.append(recorded)
        recorded.watch(self.client.submit(recorded.task))

    @rule(
        uniques=st.lists(st.sampled_from([b"", b"", b"u", b"v"]), min_size=1, max_size=6),
        background=st.sampled_from([False, False, True]),
        timeout=st.sampled_from([None, None, 1.0, 7.0]),
        drop=st.booleans(),
        reaction=st.sampled_from(REACTIONS),
        turn=st.booleans(),
    )
    def submit_batch(
        self, uniques: list[bytes], background: bool, timeout: float | None, drop: bool, reaction: str, turn: bool
    ) -> None:
        batch = RecordedBatch(len(self.batches), background, uniques, timeout, drop)
        batch.stopped = not self.started
        self.batches.append(batch)

        def fired(result: object) -> None:
            batch.fired.append(getattr(result, "value", result))
            if reaction and self.reacting:
                try:
                    self.react(None, reaction)
                except Exception as error:  # the client would not see it
                    self.errors.append(error)

        batch.submit(self.client)
        batch.deferred.addBoth(fired)
        if turn:
            self.settle()

    @precondition(lambda self: self.batches)
    @rule(pick=st.integers(0, 99))
    def cancel_batch(self, pick: int) -> None:
        self.abandon(self.batches[-1 - pick % len(self.batches)])

    def react(self, recorded: RecordedTask | None, reaction: str) -> None:
        """Do in a callback of a task, or of the Deferred of a batch, what its caller might do."""
        self.check_counts()
        if reaction == "submit":
            self.add(RecordedTask(len(self.tasks), False, recorded.unique if recorded else b"u", 1, None))
        elif reaction == "cancel":
            for other in self.tasks[-6:]:
                # One that has no Deferred so far is being submitted at this moment.
                if other is not recorded and not other.task.ended and hasattr(other, "deferred"):
                    self.abandon(other)
            for batch in self.batches[-2:]:
                if not batch.fired and hasattr(batch, "deferred"):
                    self.abandon(batch)
        elif reaction == "change servers":
            self.client.job_servers = self.client.job_servers[::-1][:2]
        else:
            self.restart()
        self.check_counts()

    @staticmethod
    def abandon(recorded: RecordedTask | RecordedBatch) -> None:
        recorded.cancelled = True
        recorded.deferred.cancel()

    @precondition(lambda self: self.tasks)
    @rule(pick=st.integers(0, 99))
    def cancel(self, pick: int) -> None:
        self.abandon(self.tasks[-1 - pick % len(self.tasks)])

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
        tasks, batches = list(self.tasks), list(self.batches)
        self.halt()
        assert all(recorded.outcomes for recorded in tasks)
        assert all(batch.fired for batch in batches)

    def halt(self) -> None:
        for recorded in self.tasks:
            recorded.stopped = True
        for batch in self.batches:
            batch.stopped = True
        self.started = False
        self.stopped = self.client.stopService()

    def restart(self) -> None:
        self.halt()
        self.client.startService()
        self.started = True

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
            self.jobs = [(where, job) for where, job in self.jobs if where != index]
            fault = server.go_down(lose_jobs=kind == "restart")
        else:
            fault = {
                "silence": server.fall_silent,
                "hold": server.hold_answers,
                "black hole": server.black_hole_connections,
                "full": lambda: server.reject("QUEUE_ERROR"),
            }[kind]()
        self.faults[index].append(fault)

    @rule(seconds=st.sampled_from([0.0, 6.0]))
    def forget(self, seconds: float) -> None:
        """A server that has a job forgets its queued jobs."""
        self.settle()
        server = next((server for server in self.servers if server.queued("work")), None)
        if server is not None:
            forget_queued_jobs(server)
            self.settle(seconds)

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
        if (self.tasks or self.batches) and self.most is not None:
            assert self.client._dispatcher._admitted <= self.most

    @invariant()
    def check_unfinished_count(self) -> None:
        if self.tasks or self.batches:
            unfinished = sum(not recorded.outcomes for recorded in self.tasks)
            unfinished += sum(batch.missing for batch in self.batches)
            assert self.client._dispatcher._unfinished == unfinished

    @invariant()
    def check_waiting(self) -> None:
        """Waiting tasks are counted, and none waits for any server longer than `SHARE_TIME` while one is ready."""
        if not hasattr(self, "client"):
            return
        waiting = self.client._dispatcher._awaiting_connection
        assert len(waiting) == len(waiting.unbound) + sum(map(len, waiting.by_server.values()))
        ready = [server for server in self.client._servers if server.connection is not None]
        assert list(self.client._servers.ready) == ready
        if ready and waiting.unbound:
            assert waiting._share_timer is not None
            assert waiting._share_timer.getTime() <= self.clock.seconds() + SHARE_TIME
        assert all(server.connection is None for server, queue in waiting.by_server.items() if queue)

    @invariant()
    def check_reactions(self) -> None:
        for error in self.errors:
            raise error

    @invariant()
    def check_counts(self) -> None:
        """Each connection counts the tasks that it holds, and no other; one that is lost holds none."""
        for connection in self.connections():
            held = tasks_of(connection)
            parts = connection._parts
            assert connection.in_flight == len(held) + sum(part.in_flight for part in parts)
            assert all(part.in_flight > 0 for part in parts)
            assert all(task._holder is connection._tasks for task in held)
            assert all(part._holder is connection._tasks for part in parts)
            assert {job for job in connection._jobs.values() if isinstance(job, Part)} <= parts.keys()

    def connections(self) -> set[GearmanClientProtocol]:
        """All connections that were seen so far."""
        if hasattr(self, "client"):
            found = (server.connection for server in self.client._servers)
            self.seen.update(connection for connection in found if connection is not None)
        return self.seen

    def teardown(self) -> None:
        self.check_reactions()
        self.reacting = False
        for index in range(3):
            self.recover(index)
        if not hasattr(self, "client"):
            return
        drained = self.client.drain()
        for _ in range(
            40 + len(self.tasks) + sum(len(batch.keys) for batch in self.batches)
        ):  # of many, a client with max_in_flight=1 completes one at a time
            self.complete_all()
            self.settle(5.0)
        assert drained.called, "a task has no outcome though all servers are reachable"
        for recorded in self.tasks:
            recorded.check_outcome()
            self.check_result(recorded.unique or recorded.workload, recorded.outcomes[0])
        for batch in self.batches:
            for key, result in batch.outcomes:
                batch.check(result)
                self.check_result(key, result)
        self.stop()
        self.settle(3.0)
        assert self.stopped.called
        assert self.clock.getDelayedCalls() == []
        assert [server.connections for server in self.servers] == [[], [], []]

    def check_result(self, key: bytes, result: object) -> None:
        """Check the outcome of a task or a job with this unique or workload."""
        event(f"outcome: {type(result).__name__}")
        if isinstance(result, bytes):
            assert result in self.results[key]
        elif isinstance(result, TaskException):
            assert result.data == key
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

    def complete_all(self) -> None:
        for index, server in enumerate(self.servers):
            with suppress(AssertionError):  # ask until there is none: only this removes jobs without clients (H1)
                while True:
                    self.jobs.append((index, server.take("work")))
        while self.jobs:
            self.end(0, "complete")


TestAnything = ClientMachine.TestCase
TestAnything.settings = of_histories()
