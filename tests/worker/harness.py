"""What the tests of a worker share: on a `MemoryJobServer`, and inside a `GearmanWorker`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface import implementer

from txgearman import (
    GearmanClient,
    GearmanWorker,
    Job,
)
from txgearman.packets import (
    PacketType,
)
from txgearman.testing import MemoryEndpoint, MemoryJobServer
from txgearman.worker.groups import FunctionGroup
from txgearman.worker.scheduler import WorkerScheduler

from ..wire import outcome


def scheduler_of(worker: GearmanWorker) -> WorkerScheduler:
    return worker._scheduler


def slots_held(worker: GearmanWorker) -> int:
    """How many jobs run or are requested."""
    return scheduler_of(worker).slots.held


def group_of(worker: GearmanWorker) -> FunctionGroup:
    """The group of the functions without a limit."""
    return scheduler_of(worker).unlimited


def slots_of_group(worker: GearmanWorker) -> int:
    """How many slots that group holds."""
    return scheduler_of(worker).slots.held_by(group_of(worker))


def packets_since(server: MemoryJobServer, start: int) -> list[PacketType]:
    """The types of the packets that the server has received, without the first so many."""
    server.advance()
    return packets_received(server)[start:]


def do_nothing(job: Job) -> None:
    """A function whose jobs end at once."""


def never_end(job: Job) -> Deferred[Any]:
    """A function whose jobs never end."""
    return Deferred()


def submit_bg(server: MemoryJobServer, function: str, count: int = 1, **options: Any) -> None:
    """Submit so many background jobs."""
    client = server.client()
    for number in range(count):
        server.result_of(client.add_task_bg(function, b"%d" % number, **options))


reactor: Any = global_reactor


MINUTE: Final = 60.0


class Slow:
    """A function whose jobs end when the test says so.

    :ivar running: the Deferred of each job that runs, by the workload.
    :ivar started: the workloads of all jobs, in the order of their starts.
    :ivar cancelled: the workloads of the jobs that were cancelled.
    :ivar most_running: how many have run at a time.
    """

    def __init__(self) -> None:
        self.running: dict[bytes, Deferred[Any]] = {}
        self.jobs: list[Job] = []
        self.cancelled: list[bytes] = []
        self.most_running = 0

    @property
    def started(self) -> list[bytes]:
        return [job.workload for job in self.jobs]

    def __call__(self, job: Job) -> Deferred[Any]:
        assert job.workload not in self.running
        self.jobs.append(job)
        deferred: Deferred[Any] = Deferred(partial(self._cancel, job.workload))
        self.running[job.workload] = deferred
        self.most_running = max(self.most_running, len(self.running))
        return deferred

    def _cancel(self, workload: bytes, _: object) -> None:
        del self.running[workload]
        self.cancelled.append(workload)

    def end(self, workload: bytes | None = None) -> None:
        """End this job, or the oldest one."""
        workload = next(iter(self.running)) if workload is None else workload
        self.running.pop(workload).callback(workload)

    def end_all(self) -> None:
        for workload in list(self.running):
            self.end(workload)


def running_jobs(server: MemoryJobServer, function: str = "slow") -> int:
    """How many jobs of a function are running, as the server has it."""
    return function_status(server).get(function, (0, 0, 0))[1]


def function_status(server: MemoryJobServer) -> dict[str, tuple[int, ...]]:
    """The numbers of jobs, of those that run, and of workers, of each function."""
    rows = [line.split("\t") for line in server.command("status").splitlines() if line != "."]
    return {"\t".join(row[:-3]): tuple(map(int, row[-3:])) for row in rows}


def offers(server: MemoryJobServer) -> list[tuple[str, set[str]]]:
    """The client id and the functions of each connection that offers any."""
    rows = (line.partition(" : ") for line in server.command("workers").splitlines() if " : " in line)
    found = [(head.split()[2], set(names.split())) for head, _, names in rows]
    return sorted(found, key=lambda row: (row[0], sorted(row[1])))


def packets_received(server: MemoryJobServer) -> list[PacketType]:
    """The types of the packets that the server has received on the connections that are open."""
    return [packet_type for connection in server.connections for packet_type in connection.requests]


def submit(client: GearmanClient, workloads: range, function: str = "slow", **options: Any) -> list[list[Any]]:
    """Submit foreground jobs, and return the outcome of each."""
    return [outcome(client.add_task(function, b"%d" % number, **options)) for number in workloads]


def results(outcomes: list[list[Any]]) -> list[Any]:
    """The outcomes of those that have one, and not more."""
    assert all(len(each) <= 1 for each in outcomes)
    return [each[0] for each in outcomes if each]


@implementer(IStreamClientEndpoint)
class ReactingEndpoint:
    """An endpoint of a caller's own, whose `connect` is the caller's code."""

    def __init__(self, endpoint: MemoryEndpoint, react: Callable[[], None]) -> None:
        self._endpoint = endpoint
        self._react = react

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        self._react()
        return self._endpoint.connect(protocolFactory)
