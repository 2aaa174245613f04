"""A client's connection to a server that the test plays: no socket, no real time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from txgearman.client.protocol import ConnectionTasks, GearmanClientFactory, GearmanClientProtocol
from txgearman.client.task import Task, TaskOwner
from txgearman.connection.connector import EndpointConnector
from txgearman.models import JobHandle
from txgearman.packets import (
    GET_STATUS,
    JOB_CREATED,
    STATUS_RES,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    Packet,
)

from ..wire import MemoryEndpoint, with_connection_options

FENCE: Packet = (GET_STATUS, [b"txgearman:fence"])

H1 = b"H:host:1"
H2 = b"H:host:2"

BACKGROUND_CALLBACKS = ("on_created", "on_fail")
CALLBACKS = (*BACKGROUND_CALLBACKS, "on_data", "on_warning", "on_status", "on_complete", "on_exception")


class RecordedTask:
    """A task that was submitted, and records its callbacks and its outcome; of exceptions, the types.

    :ivar error: the exception that the task failed with.
    :ivar react: what else the callback of a name does.
    """

    def __init__(self, connection: GearmanClientProtocol, workload: bytes = b"", **options: Any) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.error: Any = None
        self.react: dict[str, Callable[[], object]] = {}
        names = BACKGROUND_CALLBACKS if options.get("background") else CALLBACKS
        callbacks: dict[str, Any] = {name: self._recorder(name) for name in names}
        self.task = Task(b"f", workload, **callbacks, **options)
        self.deferred = connection.submit(self.task)
        self.deferred.addCallbacks(self._succeeded, self._failed)

    def _recorder(self, name: str) -> Callable[..., None]:
        def record(task: Task, *arguments: Any) -> None:
            assert task is self.task
            shown = (type(argument) if isinstance(argument, Exception) else argument for argument in arguments)
            self.events.append((name, *shown))
            if name in self.react:
                self.react[name]()

        return record

    def _succeeded(self, result: object) -> None:
        self.events.append(("result", result))

    def _failed(self, failure: Failure) -> None:
        self.error = failure.value
        self.events.append(("failure", type(self.error)))

    @property
    def data(self) -> list[bytes]:
        """The data of each WORK_DATA."""
        return [event[1] for event in self.events if event[0] == "on_data"]

    @property
    def outcomes(self) -> list[Any]:
        """What the Deferred fired with: results, and types of exceptions."""
        return [event[1] for event in self.events if event[0] in ("result", "failure")]


class ConnectionHarness:
    """A connection to a server that the test plays, with no request outstanding."""

    def __init__(self, **arguments: Any) -> None:
        self.clock = Clock()
        self.endpoint = MemoryEndpoint(self.clock)
        self.factory = GearmanClientFactory(self.clock, name="server", **with_connection_options(arguments))
        EndpointConnector(self.endpoint, self.factory).connect()
        assert isinstance(self.factory.connection, GearmanClientProtocol)
        self.connection = self.factory.connection
        self.tasks = ConnectionTasks(self.connection)
        self.server = self.endpoint.server

    def submit(self, workload: bytes = b"", **options: Any) -> RecordedTask:
        return RecordedTask(self.connection, workload, **options)

    def share(self, count: int, handle: bytes = H1) -> list[RecordedTask]:
        """Submit tasks that share a job, which the server acknowledges."""
        tasks = [self.submit(unique=b"u") for _ in range(count)]
        self.server.received()
        self.server.send(*[created(handle)] * count)
        return tasks

    def schedule(self) -> RecordedTask:
        """Submit a background task for a later time, which a fence follows."""
        return self.submit(background=True, at=1234)

    def tables(self) -> tuple[int, int, int]:
        """Numbers of outstanding requests, of jobs, and of uniques of failed jobs that the connection remembers."""
        connection = self.connection
        remembered = sum(map(len, connection._remembered_ends.values()))
        return len(connection._outstanding), len(connection._jobs), remembered

    def check_still_good(self) -> None:
        """Check that earlier tasks have left nothing, and that the next task is completed."""
        assert (self.connection.in_flight, self.tables()[1]) == (0, 0)
        recorded = self.submit()
        self.server.send(created(H2), data(b"1", H2), complete(b"r", H2))
        assert (recorded.data, recorded.outcomes) == ([b"1"], [b"r"])
        assert self.connection.error is None


class ProbingHarness(ConnectionHarness):
    """A connection that asks its server after silent jobs."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{"job_check_interval": 8.0, "server_timeout": 1e6, **arguments})

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            self.clock.advance(0.25)

    def begin(self, handle: bytes, **options: Any) -> RecordedTask:
        """Submit a task, which the server acknowledges."""
        recorded = self.submit(**options)
        self.server.send(created(handle))
        self.server.received()
        return recorded

    def queried(self) -> list[bytes]:
        """Return the handles of the jobs that were asked after since the last call."""
        packets = self.server.received()
        assert all(packet_type is GET_STATUS for packet_type, _ in packets)
        return [arguments[0] for _, arguments in packets]

    def answer(self, handle: bytes, known: bool, others: tuple[bytes, ...] = (b"0", b"0", b"0")) -> None:
        """Answer a query with a status."""
        self.server.send(STATUS_RES.response(handle, b"%d" % known, *others))


class OwnedTask(TaskOwner):
    """A task that a client sent to a connection. It is its own owner, and records what its owner is asked to do.

    :ivar outcomes: what the Deferred fired with: results, and types of exceptions.
    """

    def __init__(self, harness: ConnectionHarness, workload: bytes = b"", **options: Any) -> None:
        self.rerouted: list[Task] = []
        self.dropped: list[JobHandle] = []
        self.outcomes: list[Any] = []
        self.task = Task(b"f", workload, **options)
        self.deferred: Deferred[Any] = self.task._begin(self)
        self.deferred.addCallbacks(self.outcomes.append, lambda failure: self.outcomes.append(failure.type))
        harness.connection._send_task(self.task)

    def drop(self, handle: JobHandle) -> None:
        self.dropped.append(handle)

    def reroute(self, task: Task) -> None:
        self.rerouted.append(task)


def outcomes(tasks: list[RecordedTask]) -> list[list[Any]]:
    return [recorded.outcomes for recorded in tasks]


# Packets of the server.


def created(handle: bytes = H1) -> bytes:
    return JOB_CREATED.response(handle)


def data(text: bytes, handle: bytes = H1) -> bytes:
    return WORK_DATA.response(handle, text)


def complete(result: bytes, handle: bytes = H1) -> bytes:
    return WORK_COMPLETE.response(handle, result)


def work_fail(handle: bytes = H1) -> bytes:
    return WORK_FAIL.response(handle)


def exception(text: bytes, handle: bytes = H1) -> bytes:
    return WORK_EXCEPTION.response(handle, text)


PROGRESS = [
    data(b"1"),
    WORK_WARNING.response(H1, b"2"),
    WORK_STATUS.response(H1, b"3", b"4"),
    data(b"5"),
]
PROGRESS_EVENTS = [("on_created",), ("on_data", b"1"), ("on_warning", b"2"), ("on_status", 3, 4), ("on_data", b"5")]


def late(handle: bytes = H1) -> list[bytes]:
    """One packet of each type that reports on a job."""
    return [
        data(b"late", handle),
        WORK_WARNING.response(handle, b"late"),
        WORK_STATUS.response(handle, b"1", b"2"),
        exception(b"late", handle),
        work_fail(handle),
        complete(b"late", handle),
    ]
