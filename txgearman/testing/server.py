"""`MemoryJobServer`: an in-memory Gearman job server for tests and for development."""

from __future__ import annotations

import math
import time
from collections.abc import Coroutine
from typing import Any, Final, TypeVar, cast
from typing import Protocol as Interface

from twisted.internet.defer import Deferred, FirstError, ensureDeferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorTCP
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ..client.client import GearmanClient
from ..packets import PacketType
from ..validation import name_bytes
from ..worker.worker import DRAIN_TIMEOUT, GearmanWorker
from . import commands
from .core import JobServerCore
from .faults import Fault, Faults, HeldAnswers
from .group import group_of
from .memory_transport import MemoryEndpoint
from .ports import check_port, host_and_port
from .protocol import JobServerProtocol
from .taken_job import ManualWorker, TakenJob

T = TypeVar("T")

MAX_HANDLE_PREFIX: Final = 40
"""Bytes. gearmand takes more, and then gives distinct jobs the same handle (H10)."""

TOLERANCE: Final = 1e-6
"""Seconds by which sums of fractions may be off."""


class ServerConnection(Interface):
    """What tests may use of a connection to a `MemoryJobServer`: see `MemoryJobServer.connections`."""

    number: int
    host: bytes
    requests: list[PacketType]

    def drop(self) -> None:
        """Abort it."""


class MemoryJobServer(ServerFactory):
    """An in-memory Gearman job server for tests and for development.

    It behaves as gearmand 1.1.20 does, quirks included, wherever a client or a worker could notice. Clients and workers
    connect to it without a socket, or over a port; it makes no difference to them.

    In a test without waiting, it runs on a `Clock`::

        server = MemoryJobServer()
        client = server.client()                        # a GearmanClient, connected to it
        deferred = client.add_task("reverse", b"abc")
        job = server.take("reverse")                    # the test plays the worker
        job.complete(b"cba")                            # the deferred has fired

    Faults are injected by its methods from `go_down` to `send_raw`. Each that returns a `Fault` is active until it has
    happened as often as was requested, or until `Fault.end`; in a ``with`` statement, until the end of the block.
    Several may be active at once. With a `Clock`, everything that is due has happened when a call returns.

    It is a Twisted `ServerFactory`, which can also be given to ``reactor.listenUNIX`` or to a server endpoint.

    :ivar clock: the `Clock`, or the reactor.
    :ivar name: the server's name.
    """

    noisy = False

    def __init__(
        self,
        reactor: Any = None,
        *,
        name: str | None = None,
        job_retries: int = 0,
        job_handle_prefix: str = "H:memory",
        exceptions: bool = False,
    ) -> None:
        """
        :param reactor: a `Clock`, or the reactor, for its timeouts. None for a `Clock` of its own, which starts at the
            next full second: a scheduled job (``at=``) is due when the clock was advanced to its time. (In a test that
            takes some seconds, schedule by ``server.clock.seconds()``, not by ``time.time()``.)
        :param name: the server's name, as `JobHandle.server` and errors have it, and by which clients choose a server
            for a unique. None for ``"memory:1"``; further servers on the same clock are ``"memory:2"`` and so on.
        :param job_retries: how many workers a job is given to before it fails. 0 for no limit, as is gearmand's
            default.
        :param job_handle_prefix: the prefix of job handles; up to 40 bytes.
        :param exceptions: also send WORK_EXCEPTION to clients that have not asked for it.
        :raises TypeError, ValueError: for an invalid argument.
        """
        if type(job_retries) is not int or job_retries < 0:
            raise ValueError(f"job_retries must be an int of at least 0, not {job_retries!r}")
        prefix = name_bytes("job_handle_prefix", job_handle_prefix, MAX_HANDLE_PREFIX)
        self.clock = _clock_of_now() if reactor is None else reactor
        self._group = group_of(self.clock)
        self.name = self._group.add(self, name)
        self._core = JobServerCore(self.clock.seconds, job_retries, prefix, exceptions)
        self._faults = Faults(self.clock, self._core.connections)
        self._services: list[GearmanClient | GearmanWorker] = []
        self._ports: list[IListeningPort] = []
        self._others: dict[MemoryJobServer, None] = {}
        self._drain_timeout = 0.0
        self._closed = False

    @property
    def connections(self) -> list[ServerConnection]:
        """The open connections, oldest first.

        Each has a ``number`` (from 1, in the order in which they were made), a ``host`` (the peer's address, as bytes),
        ``requests`` (the packet types that were received on it, oldest first), and ``drop()``, which aborts it.
        """
        return [*self._protocols]

    @property
    def _protocols(self) -> list[JobServerProtocol]:
        return [connection for connection in self._core.connections if isinstance(connection, JobServerProtocol)]

    # Connecting.

    def buildProtocol(self, addr: IAddress | None) -> JobServerProtocol | None:
        if self._faults.refuses_connection():
            return None
        host = getattr(addr, "host", "memory")
        return JobServerProtocol(self.clock, self._core, self._faults, host.encode())

    def endpoint(self) -> MemoryEndpoint:
        """Return an endpoint that connects to this server without a socket.

        ::

            client = GearmanClient([server.endpoint()], reactor=server.clock)
        """
        return MemoryEndpoint(self.clock, self, self._faults, self.name)

    def client(self, *others: MemoryJobServer, **options: Any) -> GearmanClient:
        """Return a client of this server, which was started and is stopped by `close`.

        :param others: further servers of the client, on the same clock: ``MemoryJobServer(server.clock)``. `close`
            closes them, too.
        :param options: those of `GearmanClient`, except ``job_servers`` and ``reactor``. ``heartbeat`` is None by
            default, so that an idle client has no timer, and sends nothing while a test advances its clock.
        :raises ValueError: another server has another clock.
        """
        client = GearmanClient(self._endpoints(others), reactor=self.clock, **{"heartbeat": None, **options})
        self._services.append(client)
        client.startService()
        self._faults.settle()
        return client

    def worker(self, *others: MemoryJobServer, **options: Any) -> GearmanWorker:
        """Return a worker of this server, which was started and is stopped by `close`. It has no functions yet.

        :param others: as for `client`.
        :param options: those of `GearmanWorker`, except ``job_servers`` and ``reactor``. ``heartbeat`` is None by
            default, as with `client`.
        :raises ValueError: another server has another clock.
        """
        worker = GearmanWorker(self._endpoints(others), reactor=self.clock, **{"heartbeat": None, **options})
        self._services.append(worker)
        self._drain_timeout = max(self._drain_timeout, options.get("drain_timeout", DRAIN_TIMEOUT))
        worker.startService()
        self._faults.settle()
        return worker

    def _endpoints(self, others: tuple[MemoryJobServer, ...]) -> list[MemoryEndpoint]:
        if any(other.clock is not self.clock for other in others):
            raise ValueError("the servers of a client must have the same clock: MemoryJobServer(server.clock)")
        self._others.update(dict.fromkeys(others))
        return [server.endpoint() for server in (self, *others)]

    def listen(self, port: int = 0, interface: str = "127.0.0.1") -> str:
        """Listen on a TCP port as well, until `close`.

        :param port: 0 for any free port.
        :return: the address, as `GearmanClient` takes it.
        :raises ValueError: the server runs on a `Clock`, or the port is out of range.
        :raises twisted.internet.error.CannotListenError: the port is in use, or not allowed.
        """
        if not IReactorTCP.providedBy(self.clock):
            raise ValueError("listen() needs the reactor, not a Clock: MemoryJobServer(reactor)")
        check_port(port)
        listening = self.clock.listenTCP(port, self, interface=interface)
        self._ports.append(listening)
        address: Any = listening.getHost()
        return host_and_port(address.host, address.port)

    # What the test plays: workers and administrators.

    def take(self, function: str | bytes) -> TakenJob:
        """Take the next job of a function, as a worker would.

        :param function: the function's name, with the prefix if there is one.
        :raises AssertionError: no job of this function is due. The message names the functions that have jobs.
        """
        self._faults.settle()
        name = function.encode() if isinstance(function, str) else function
        worker = ManualWorker()
        self._core.jobs.add_ability(worker, name)
        job = self._core.jobs.take(worker)
        if job is None:
            self._core.remove_abilities(worker.abilities)
            raise AssertionError(f"no job for {function!r} is due; queued: {self._functions_with_jobs()}")
        return TakenJob(self._core, worker, job, self._faults.settle)

    def _functions_with_jobs(self) -> str:
        names = [function.name for function in self._core.jobs.functions.values() if any(function.queues)]
        return ", ".join(repr(name.decode("utf-8", "backslashreplace")) for name in names) or "none"

    def queued(self, function: str | bytes) -> list[bytes]:
        """Return the workloads of a function's queued jobs, in the order in which `take` would return them.

        Scheduled jobs are included.

        :param function: as for `take`.
        """
        self._faults.settle()
        name = function.encode() if isinstance(function, str) else function
        found = self._core.jobs.functions.get(name)
        return [job.workload for queue in found.queues for job in queue if not job.dropped] if found else []

    def command(self, line: str) -> str:
        """Return the answer to a line of the text protocol, such as ``"status"`` or ``"maxqueue reverse 10"``.

        :raises ValueError: gearmand would close the connection.
        """
        self._faults.settle()
        answer = commands.answer(self._core, line.encode() + b"\r\n")
        self._faults.settle()
        if answer is None:
            most = commands.MAX_ARGUMENTS
            raise ValueError(f"line must have {most} arguments at most, or gearmand closes the connection: {line!r}")
        return answer.decode("utf-8", "backslashreplace")

    # Faults.

    def go_down(self, *, lose_jobs: bool = False) -> Fault:
        """Drop every connection and refuse new ones, until the `Fault` ends.

        :param lose_jobs: forget all jobs, as a gearmand that is restarted does; handles are numbered from 1 again.
        """
        fault = self._faults.go_down()
        if lose_jobs:
            self._core.forget_jobs()
        return fault

    def refuse_connections(self) -> Fault:
        """Refuse new connections; open ones stay open.

        On a port, a connection is accepted and closed at once.
        """
        return self._faults.refuse_connections()

    def black_hole_connections(self) -> Fault:
        """Leave every attempt to connect unanswered.

        On a port, a connection is accepted and never read from, as by a gearmand that is out of file descriptors (H12).
        """
        return self._faults.black_hole_connections()

    def drop_connections(self) -> None:
        """Drop every connection now.

        What was sent before still arrives; `drop_before` loses it.

        :raises AssertionError: nothing is connected.
        """
        self._faults.drop_connections()

    def drop_before(self, *types: PacketType, times: int | None = 1) -> Fault:
        """Instead of processing the next packet of these types, drop its connection.

        :param types: packet types of `txgearman.packets`, such as ``SUBMIT_JOB``; none for any packet.
        :param times: how often; None for each time.
        :raises TypeError, ValueError: for an invalid argument.
        """
        return self._faults.drop_before(*types, times=times)

    def drop_after(self, *types: PacketType, times: int | None = 1) -> Fault:
        """Process the next packet of these types, and drop its connection before the answer is sent.

        :param types: as for `drop_before`.
        :param times: how often; None for each time.
        :raises TypeError, ValueError: for an invalid argument.
        """
        return self._faults.drop_after(*types, times=times)

    def leave_unanswered(self, *types: PacketType, times: int | None = 1) -> Fault:
        """Ignore the next packet of these types, as other servers do with some (H6).

        :param types: as for `drop_before`.
        :param times: how many packets are ignored; None for all.
        :raises TypeError, ValueError: for an invalid argument.
        """
        return self._faults.leave_unanswered(*types, times=times)

    def reject(
        self,
        code: str,
        text: str = "",
        *types: PacketType,
        function: str | bytes | None = None,
        times: int | None = 1,
    ) -> Fault:
        """Instead of processing the next packet of these types, answer it with an ERROR.

        :param code: the error code, such as ``"QUEUE_ERROR"``.
        :param text: the error text.
        :param types: as for `drop_before`; none for any packet that submits a job (`SUBMITS`).
        :param function: only packets whose first argument is this function's name, with the prefix if there is one.
        :param times: how many packets are rejected; None for all.
        :raises TypeError, ValueError: for an invalid argument.
        """
        return self._faults.reject(code, text, *types, function=function, times=times)

    def hold_answers(self) -> HeldAnswers:
        """Send nothing on any connection until `HeldAnswers.release`.

        Requests are still processed.
        """
        return self._faults.hold_answers()

    def fall_silent(self) -> Fault:
        """Neither read nor send anything on any connection, like a host that has lost its power."""
        return self._faults.fall_silent()

    def split_answers(self, size: int) -> Fault:
        """Send everything in pieces, each in a reactor turn of its own.

        :param size: bytes in a piece.
        :raises TypeError, ValueError: for an invalid argument.
        """
        return self._faults.split_answers(size)

    def send_raw(self, data: bytes) -> None:
        """Send these bytes to every connection, whatever they are.

        :raises AssertionError: nothing is connected.
        """
        self._faults.send_raw(data)

    def verify(self) -> None:
        """Check that every fault has happened, and that no answer is still held.

        `close` does so, too.

        :raises AssertionError: naming each fault that has not happened, and why.
        """
        self._faults.verify()

    # Results and time.

    def result_of(self, outcome: Deferred[T] | Coroutine[Any, Any, T]) -> T:
        """Return the result of a Deferred or a coroutine, once everything that is due now has happened.

        :raises AssertionError: it has no result yet.
        :raises Exception: what it has failed with.
        """
        deferred = ensureDeferred(outcome)
        self._faults.settle()
        # No callback is added to one that is pending, so that its result is still there for the next call.
        if not deferred.called or isinstance(deferred.result, Deferred):
            raise AssertionError("there is no result yet")
        failed: list[Failure] = []
        deferred.addErrback(failed.append)
        for failure in failed:
            failure.raiseException()
        return cast("T", deferred.result)

    def advance(self, seconds: float = 0.0) -> None:
        """Advance the `Clock` from one event to the next, so that each happens at its time.

        :raises TypeError: the server runs on a reactor.
        """
        if not isinstance(self.clock, Clock):
            raise TypeError("advance() needs a Clock, not a reactor: MemoryJobServer()")
        end = self.clock.seconds() + seconds
        while True:
            due = [call.getTime() for call in self.clock.getDelayedCalls() if call.getTime() <= end + TOLERANCE]
            self.clock.advance(max(0.0, min(due, default=end) - self.clock.seconds()))
            if not due:
                return

    # The end.

    def close(self) -> Deferred[None]:
        """Stop the clients and workers that were made here, close every connection and port, and `verify`.

        The other servers of these clients and workers are closed, too.

        :return: fires when nothing is left in the reactor. With a `Clock`, it has fired when this returns; if jobs are
            running, the clock is advanced by their worker's ``drain_timeout``. Fails with `AssertionError` for a fault
            that has not happened, or answers that are still held.
        """
        self._closed = True
        self._group.remove(self)
        verified = maybeDeferred(self.verify)
        for fault in list(self._faults.active):
            self._faults.deactivate(fault)
        stopping: list[Deferred[Any]] = [maybeDeferred(service.stopService) for service in self._services]
        stopping += [maybeDeferred(port.stopListening) for port in self._ports]
        stopped = gatherResults(stopping).addCallback(self._drop_all).addCallback(self._close_others)
        self._faults.settle()
        if isinstance(self.clock, Clock) and not stopped.called:
            self.advance(self._drain_timeout)
        return stopped.addCallback(lambda _: verified)

    def _close_others(self, _: object) -> Deferred[Any]:
        closing = [other.close() for other in self._others if not other._closed]
        return gatherResults(closing, consumeErrors=True).addErrback(_first_failure)

    def _drop_all(self, _: object) -> Deferred[Any]:
        protocols = self._protocols
        for protocol in protocols:
            protocol.drop()
        return gatherResults([protocol.lost for protocol in protocols])


def _clock_of_now() -> Clock:
    clock = Clock()
    clock.advance(math.ceil(time.time()))
    return clock


def _first_failure(failure: Failure) -> Failure:
    error = failure.value
    assert isinstance(error, FirstError)
    return error.subFailure
