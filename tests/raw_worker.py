"""A worker for tests, made of the codec alone: each of its packets is under the control of the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from txgearman.packets import (
    CAN_DO,
    ERROR,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN_UNIQ,
    NO_JOB,
    NOOP,
    PRE_SLEEP,
    RES,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    Decoder,
)


class Job:
    """A job that a server assigned."""

    def __init__(self, worker: Worker, handle: bytes, function: bytes, unique: bytes, workload: bytes) -> None:
        self._worker = worker
        self.handle = handle
        self.function = function
        self.unique = unique
        self.workload = workload

    def data(self, data: bytes) -> None:
        self._worker.write(WORK_DATA.request(self.handle, data))

    def warning(self, data: bytes) -> None:
        self._worker.write(WORK_WARNING.request(self.handle, data))

    def status(self, numerator: int, denominator: int) -> None:
        self._worker.write(WORK_STATUS.request(self.handle, b"%d" % numerator, b"%d" % denominator))

    def complete(self, result: bytes) -> None:
        self._worker.write(WORK_COMPLETE.request(self.handle, result))

    def fail(self) -> None:
        self._worker.write(WORK_FAIL.request(self.handle))

    def exception(self, data: bytes) -> None:
        self._worker.write(WORK_EXCEPTION.request(self.handle, data))


class Worker(Protocol):
    """Worker that passes its jobs to `do`, or else to the callers of `job()`.

    :ivar settled: fires with True at the first NO_JOB; with False if the connection is lost before.
    :ivar errors: the arguments of each ERROR that was received.
    """

    def __init__(self, functions: tuple[bytes, ...], do: Callable[[Job], object] | None, grabs: int) -> None:
        self._functions = functions
        self._max_grabs = grabs
        self._grabs = 0
        self._jobs: DeferredQueue[Job] = DeferredQueue()
        self._do = do or self._jobs.put
        self._decoder = Decoder(RES)
        self._closed: Deferred[None] = Deferred()
        self.settled: Deferred[bool] = Deferred()
        self.errors: list[list[bytes]] = []

    def job(self) -> Deferred[Job]:
        """Return a Deferred of the next job."""
        return self._jobs.get()

    def write(self, packet: bytes) -> None:
        transport: Any = self.transport
        transport.write(packet)

    def close(self) -> Deferred[None]:
        """Close the connection.

        :return: fires when it is closed.
        """
        transport: Any = self.transport
        transport.abortConnection()
        return self._closed

    def connectionMade(self) -> None:
        for function in self._functions:
            self.write(CAN_DO.request(function))
        self._grab()

    def _settle(self, connected: bool) -> None:
        if not self.settled.called:
            self.settled.callback(connected)

    def _grab(self) -> None:
        self.write(GRAB_JOB_UNIQ.request() * (self._max_grabs - self._grabs))
        self._grabs = self._max_grabs

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._settle(False)
        self._closed.callback(None)

    def dataReceived(self, data: bytes) -> None:
        for packet_type, arguments in self._decoder.feed(data):
            if packet_type is JOB_ASSIGN_UNIQ:
                self._grabs -= 1
                self._grab()
                self._do(Job(self, *arguments))
            elif packet_type is NO_JOB:
                self._settle(True)
                self._grabs -= 1
                if not self._grabs:
                    self.write(PRE_SLEEP.request())
            elif packet_type is NOOP:
                self._grab()
            else:
                assert packet_type is ERROR, packet_type
                self.errors.append(arguments)
        assert self._decoder.error is None


def connect_worker(
    port: int, *functions: bytes, do: Callable[[Job], object] | None = None, grabs: int = 1
) -> Deferred[Worker]:
    """Connect a worker to a job server on this machine.

    :param grabs: how many jobs it requests at a time; more for speed.
    """
    from twisted.internet import reactor as global_reactor

    reactor: Any = global_reactor
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    connected: Deferred[Worker] = connectProtocol(endpoint, Worker(functions, do, grabs))
    return connected
