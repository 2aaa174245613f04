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
    Task,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
    TaskTimedOut,
)
from txgearman.client.awaiting import SHARE_TIME
from txgearman.client.protocol import GearmanClientProtocol
from txgearman.client.shared_job import SharedJob
from txgearman.testing import Fault, MemoryJobServer, TakenJob

from ..client_harness import RecordedTask
from ..examples import of_histories
from .forgetting import forget_queued_jobs

REACTIONS = ["", "", "", "cancel", "cancel", "submit", "change servers", "restart"]
"""What a task does when an attempt of it ends."""


def tasks_of(connection: GearmanClientProtocol) -> list[Task]:
    """Return the tasks in the tables of a connection: those that were written and have no outcome."""
    held: list[object] = list(connection._outstanding)
    for job in connection._jobs.values():
        held += job.remaining() if isinstance(job, SharedJob) else [job]
    return [task for task in held if isinstance(task, Task)]


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
        self.reacting = True
        self.errors: list[Exception] = []  # of reactions
        self.seen: set[GearmanClientProtocol] = set()
        self.sharing_since = 0.0

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

    def react(self, recorded: RecordedTask, reaction: str) -> None:
        """Do in a callback of a task what its caller might do."""
        self.check_counts()
        if reaction == "submit":
            self.add(RecordedTask(len(self.tasks), False, recorded.unique, 1, None))
        elif reaction == "cancel":
            for other in self.tasks[-6:]:
                # One that has no Deferred so far is being submitted at this moment.
                if other is not recorded and not other.task.ended and hasattr(other, "deferred"):
                    self.abandon(other)
        elif reaction == "change servers":
            self.client.job_servers = self.client.job_servers[::-1][:2]
        else:
            self.restart()
        self.check_counts()

    @staticmethod
    def abandon(recorded: RecordedTask) -> None:
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
        tasks = list(self.tasks)
        self.halt()
        assert all(recorded.outcomes for recorded in tasks)

    def halt(self) -> None:
        for recorded in self.tasks:
            recorded.stopped = True
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
        if self.tasks and self.most is not None:
            assert self.client._dispatcher._admitted <= self.most

    @invariant()
    def check_unfinished_count(self) -> None:
        if self.tasks:
            unfinished = sum(not recorded.outcomes for recorded in self.tasks)
            assert self.client._dispatcher._unfinished == unfinished

    @invariant()
    def check_waiting(self) -> None:
        """Waiting tasks are counted, and none waits for any server longer than `SHARE_TIME` while one is ready."""
        if not hasattr(self, "client"):
            return
        waiting = self.client._dispatcher._awaiting_connection
        held = [queue for queue in (waiting.unbound, *waiting.by_server.values()) for _ in range(len(queue))]
        assert len(waiting) == len(held)
        ready = [server for server in self.client._servers if server.connection is not None]
        assert list(self.client._servers.ready) == ready
        since = self.clock.seconds() if not (ready and waiting.unbound) else self.sharing_since
        self.sharing_since = since
        assert self.clock.seconds() - since <= SHARE_TIME
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
            assert connection.in_flight == len(held)
            assert all(task._holder is connection._tasks for task in held)

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
        for _ in range(40 + len(self.tasks)):  # of many, a client with max_in_flight=1 completes one at a time
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
