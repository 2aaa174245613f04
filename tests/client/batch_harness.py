"""A client whose batches go to servers that the test plays."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from txgearman import BatchFailed, GearmanClient, JobHandle, TaskError
from txgearman.client.batches import Batch
from txgearman.packets import GET_STATUS

from ..wire import MemoryEndpoint, ServerSide

NOTHING = "nothing yet"


class Record:
    """Record of the batches on a clock, as `txgearman.testing` keeps one."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def service_made(self, service: object) -> None:
        pass

    def batch_submitted(self, client: object, batch: Batch, deferred: object) -> None:
        self.batches.append(batch)


class RecordingClock(Clock):
    """A clock with such a record."""

    def __init__(self) -> None:
        super().__init__()
        self.txgearman_services = Record()


class BatchHarness:
    """A started client with a connection to each server."""

    def __init__(self, servers: int = 1, *, clock: Clock | None = None, **options: Any) -> None:
        self.clock = Clock() if clock is None else clock
        self.endpoints = [MemoryEndpoint(self.clock) for _ in range(servers)]
        addresses = [(f"s{index}", endpoint) for index, endpoint in enumerate(self.endpoints)]
        self.client = GearmanClient(addresses, **{"reactor": self.clock, "heartbeat": None, **options})
        self.client.startService()

    @property
    def server(self) -> ServerSide:
        return self.endpoints[0].server

    @property
    def in_flight(self) -> list[int]:
        """Number of jobs in flight at each server."""
        return [info.in_flight for info in self.client.servers]

    def add(self, *workloads: bytes, background: bool = False, **options: Any) -> RecordedBatch:
        """Submit a batch for the function ``f``."""
        add = self.client.add_tasks_bg if background else self.client.add_tasks
        return RecordedBatch(add("f", workloads, **options))

    def received(self, index: int = 0) -> list[bytes]:
        """Return the workloads of the submits that a server has received since the last call."""
        packets = self.endpoints[index].server.received()
        return [arguments[-1] for packet_type, arguments in packets if packet_type is not GET_STATUS]

    def queried(self) -> list[bytes]:
        """Return the handles of the jobs that the server was asked for since the last call."""
        return [arguments[0] for packet_type, arguments in self.server.received() if packet_type is GET_STATUS]

    @property
    def drained(self) -> bool:
        """Whether the client has no unfinished task."""
        drained = self.client.drain()
        if not drained.called:
            drained.cancel()
            drained.addErrback(lambda _: None)
            return False
        return True


class RecordedBatch:
    """A batch that records what its Deferred fires with."""

    def __init__(self, deferred: Deferred[Any]) -> None:
        self.deferred = deferred
        self.fired: list[Any] = []
        deferred.addCallbacks(self.fired.append, lambda failure: self.fired.append(failure.value))

    @property
    def outcomes(self) -> Any:
        """The outcomes by place: results, handles, and the types of errors; the error if it is not `BatchFailed`."""
        if not self.fired:
            return NOTHING
        (result,) = self.fired
        if isinstance(result, BatchFailed):
            assert result.failed == sum(isinstance(outcome, Exception) for outcome in result.outcomes)
            assert all(
                outcome.task.ended and outcome.task.workload
                for outcome in result.outcomes
                if isinstance(outcome, TaskError)
            )
            result = result.outcomes
        if isinstance(result, Exception):
            return type(result)
        return [_shown(outcome) for outcome in result]

    @property
    def errors(self) -> list[Any]:
        """The errors of the jobs."""
        return [outcome for outcome in self.fired[0].outcomes if isinstance(outcome, Exception)]


def _shown(outcome: Any) -> Any:
    if isinstance(outcome, JobHandle):
        return outcome.handle
    return type(outcome) if isinstance(outcome, Exception) else outcome
