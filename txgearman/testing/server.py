"""`MemoryJobServer`: a Gearman job server that lives in the process that uses it."""

from __future__ import annotations

import math
import time
from collections.abc import Coroutine
from typing import Any, Final

from twisted.internet.defer import Deferred, FirstError, ensureDeferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorTCP
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ..client.client import GearmanClient
from ..validation import name_bytes
from ..worker.worker import DRAIN_TIMEOUT, GearmanWorker
from . import commands as text
from .core import Core
from .faults import Fault, Faults
from .jobs import Function
from .memory_transport import MemoryEndpoint
from .protocol import JobServerProtocol
from .taken_job import Hand, TakenJob

MAX_HANDLE_PREFIX: Final = 40
"""Bytes. gearmand takes more, and then gives distinct jobs the same handle (H10)."""


MAX_PORT: Final = 65535

TOLERANCE: Final = 1e-6
"""Seconds by which the sums of fractions may be off."""


def _clock_of_now() -> Clock:
    clock = Clock()
    clock.advance(math.ceil(time.time()))
    return clock


def _first_failure(failure: Failure) -> Failure:
    error = failure.value
    assert isinstance(error, FirstError)
    return error.subFailure


class MemoryJobServer(ServerFactory, Faults):
    """A Gearman job server in memory, for tests and for development.

    It does what gearmand 1.1.20 does, wherever a client or a worker could notice, its quirks included. Clients and
    workers reach it without a socket, or on a port; it makes no difference to them.

    In a test that is not to wait, it lives on a `Clock`::

        server = MemoryJobServer()
        client = server.client()                        # a GearmanClient, connected to it
        deferred = client.add_task("reverse", b"abc")
        job = server.take("reverse")                    # the test plays the worker
        job.complete(b"cba")                            # the deferred has fired

    Everything that a test may have go wrong is a method of its own: see `Faults`.

    :ivar clock: the `Clock`, or the reactor.
    :ivar connections: those that are there, oldest first: `JobServerProtocol`.
    """

    noisy = False

    def __init__(
        self,
        reactor: Any = None,
        *,
        job_retries: int = 0,
        job_handle_prefix: str = "H:memory",
        exceptions: bool = False,
    ) -> None:
        """
        :param reactor: what times it: a `Clock`, or the reactor. None for a `Clock` of its own, which stands at the
            next full second, so that a job for a time (``at=``) is due when the clock was advanced by so much. (A test
            that takes a while should ask the clock, not the wall, what time it is.)
        :param job_retries: how many workers a job is given to, before it fails. 0 for no limit, as is gearmand's
            default.
        :param job_handle_prefix: what handles begin with; up to 40 bytes.
        :param exceptions: send WORK_EXCEPTION to clients that have not asked for it, too.
        :raises TypeError, ValueError: for an argument that can't be meant.
        """
        if type(job_retries) is not int or job_retries < 0:
            raise ValueError(f"job_retries must be a number from 0, not {job_retries!r}")
        prefix = name_bytes("job_handle_prefix", job_handle_prefix, MAX_HANDLE_PREFIX)
        self.clock = _clock_of_now() if reactor is None else reactor
        self._core = Core(self.clock.seconds, job_retries, prefix, exceptions)
        Faults.__init__(self, self.clock, self._core.connections)
        self._services: list[GearmanClient | GearmanWorker] = []
        self._ports: list[IListeningPort] = []
        self._others: dict[MemoryJobServer, None] = {}
        self._drain_timeout = 0.0
        self._closed = False

    @property
    def connections(self) -> list[JobServerProtocol]:
        return [connection for connection in self._core.connections if isinstance(connection, JobServerProtocol)]

    # Ways in.

    def buildProtocol(self, addr: IAddress | None) -> JobServerProtocol | None:
        """For the reactor, at each connection to a port."""
        if self.refused():
            return None
        host = getattr(addr, "host", "memory")
        return JobServerProtocol(self.clock, self._core, self, host.encode())

    def endpoint(self) -> MemoryEndpoint:
        """An endpoint that leads here without a socket.

        ::

            client = GearmanClient([server.endpoint()], reactor=server.clock)
        """
        return MemoryEndpoint(self.clock, self, self)

    def client(self, *others: MemoryJobServer, **options: Any) -> GearmanClient:
        """A started client of this server, which `close` stops.

        :param others: more servers that it is to have; on the same clock: ``MemoryJobServer(server.clock)``. They are
            closed with this one.
        :param options: those of `GearmanClient`, other than its servers and reactor.
        :raises ValueError: another server has another clock.
        """
        client = GearmanClient(self._endpoints(others), reactor=self.clock, **options)
        self._services.append(client)
        client.startService()
        self._settle()
        return client

    def worker(self, *others: MemoryJobServer, **options: Any) -> GearmanWorker:
        """A started worker of this server, for functions to be registered; `close` stops it, too.

        :param others: as with `client`.
        :param options: those of `GearmanWorker`, other than its servers and reactor.
        """
        worker = GearmanWorker(self._endpoints(others), reactor=self.clock, **options)
        self._services.append(worker)
        self._drain_timeout = max(self._drain_timeout, options.get("drain_timeout", DRAIN_TIMEOUT))
        worker.startService()
        self._settle()
        return worker

    def _endpoints(self, others: tuple[MemoryJobServer, ...]) -> list[MemoryEndpoint]:
        if any(other.clock is not self.clock for other in others):
            raise ValueError("the servers of a client must have one clock: MemoryJobServer(server.clock)")
        self._others.update(dict.fromkeys(others))
        return [server.endpoint() for server in (self, *others)]

    def listen(self, port: int = 0, interface: str = "127.0.0.1") -> str:
        """Listen on a port, too, until `close`.

        :param port: 0 for any that is free.
        :return: the address, as `GearmanClient` takes it.
        :raises ValueError: the server is on a `Clock`, or there can't be such a port.
        :raises twisted.internet.error.CannotListenError: the port is not to be had.
        """
        if not IReactorTCP.providedBy(self.clock):
            raise ValueError("to listen on a port, a server needs the reactor: MemoryJobServer(reactor)")
        if not 0 <= port <= MAX_PORT:
            raise ValueError(f"port must be from 0 to {MAX_PORT}, not {port}")
        listening = self.clock.listenTCP(port, self, interface=interface)
        self._ports.append(listening)
        host: Any = listening.getHost()
        return f"[{host.host}]:{host.port}" if ":" in host.host else f"{host.host}:{host.port}"

    # For tests.

    def take(self, function: str | bytes) -> TakenJob:
        """Take the next job of a function, as a worker would.

        :param function: the function's name, with the prefix if there is one.
        :raises AssertionError: there is none; tells which there are.
        """
        self._settle()
        name = function.encode() if isinstance(function, str) else function
        hand = Hand()
        hand.abilities.append(self._core.jobs.add_ability(hand, name))
        job = self._core.jobs.take(hand.abilities)
        if job is None:
            self._core.remove_abilities(hand.abilities)
            queued = (each.name.decode("utf-8", "backslashreplace") for each in self._functions_with_jobs())
            raise AssertionError(f"no job for {function!r} is due; queued: {', '.join(map(repr, queued)) or 'none'}")
        return TakenJob(self._core, hand, job, self._settle)

    def queued(self, function: str | bytes) -> list[bytes]:
        """The workloads of the jobs that are queued for a function, in the order in which `take` would give them; those
        for a later time, too."""
        self._settle()
        name = function.encode() if isinstance(function, str) else function
        found = self._core.jobs.functions.get(name)
        return [job.workload for queue in found.queues for job in queue if not job.dropped] if found else []

    def command(self, line: str) -> str:
        """What the server answers to a line of its text protocol, such as ``"status"`` or ``"maxqueue reverse 10"``.

        :raises ValueError: it would close the connection.
        """
        self._settle()
        answer = text.answer(self._core, line.encode() + b"\r\n")
        self._settle()
        if answer is None:
            raise ValueError(f"gearmand closes the connection: {line!r}")
        return answer.decode("utf-8", "backslashreplace")

    def go_down(self, lose_jobs: bool = False) -> Fault:
        """Lose every connection and refuse new ones, until the `Fault` ends.

        :param lose_jobs: forget all jobs, as a gearmand does that is started anew; handles are numbered from 1 again.
        """
        fault = self.refuse_connections()
        fault.happens()
        self._settle()
        for connection in self.connections:
            connection.drop()
        self._settle()
        if lose_jobs:
            self._core.forget_jobs()
        return fault

    def result_of(self, outcome: Deferred[Any] | Coroutine[Any, Any, Any]) -> Any:
        """What a Deferred has fired with, or a coroutine has returned, once all that is to happen now has happened.

        :raises AssertionError: nothing, yet.
        :raises Exception: what it has failed with.
        """
        deferred = ensureDeferred(outcome)
        self._settle()
        # Nothing is added to one that is pending: whoever asks again is to get what has come of it.
        if not deferred.called or isinstance(deferred.result, Deferred):
            raise AssertionError("there is no result yet")
        failed: list[Failure] = []
        deferred.addErrback(failed.append)
        for failure in failed:
            failure.raiseException()
        return deferred.result

    def advance(self, seconds: float = 0.0) -> None:
        """Let time pass on the `Clock`, from one event to the next, so that each happens at its time.

        :raises TypeError: the server is on a reactor.
        """
        if not isinstance(self.clock, Clock):
            raise TypeError("time can be let pass only on a Clock: MemoryJobServer()")
        end = self.clock.seconds() + seconds
        while True:
            due = [call.getTime() for call in self.clock.getDelayedCalls() if call.getTime() <= end + TOLERANCE]
            self.clock.advance(max(0.0, min(due, default=end) - self.clock.seconds()))
            if not due:
                return

    def close(self) -> Deferred[Any]:
        """Stop the clients and workers that were made here, close every connection and port, and `verify`; the same
        for the other servers of these clients and workers.

        :return: fires when nothing is left. With a `Clock`, it has fired; if jobs run, their worker's drain_timeout has
            passed on it. Fails with `AssertionError` for a fault that
            has not happened, or answers that are still held.
        """
        self._closed = True
        verified = maybeDeferred(self.verify)
        for fault in list(self._lasting):
            self.ended(fault)
        stopping = [maybeDeferred(service.stopService) for service in self._services]
        stopping += [maybeDeferred(port.stopListening) for port in self._ports]
        stopped = gatherResults(stopping).addCallback(self._drop_all).addCallback(self._close_others)
        self._settle()
        if isinstance(self.clock, Clock) and not stopped.called:
            self.advance(self._drain_timeout)
        return stopped.addCallback(lambda _: verified)

    def _close_others(self, _: object) -> Deferred[Any]:
        closing = [other.close() for other in self._others if not other._closed]
        return gatherResults(closing, consumeErrors=True).addErrback(_first_failure)

    def _drop_all(self, _: object) -> Deferred[Any]:
        connections = self.connections
        for connection in connections:
            connection.drop()
        return gatherResults([connection.lost for connection in connections])

    def _functions_with_jobs(self) -> list[Function]:
        return [function for function in self._core.jobs.functions.values() if any(function.queues)]
