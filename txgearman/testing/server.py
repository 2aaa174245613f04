"""`MemoryJobServer`: an in-memory Gearman job server for tests and for development."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar
from typing import Protocol as Interface

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorFDSet, IReactorTCP
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ..admin.admin import GearmanAdmin
from ..client.client import GearmanClient
from ..connection.waiters import Waiters
from ..packets import PacketType
from ..service import GearmanService
from ..validation import name_bytes
from ..worker.worker import DRAIN_TIMEOUT, GearmanWorker
from . import commands
from .clock import EndlessLoop, MemoryClock, calling_place, due_time
from .clock_methods import ClockMethods
from .closing import Closing
from .core import JobServerCore, ManualWorker, SubmittedJob
from .description import describe_all
from .fault_methods import FaultMethods
from .faults import Faults
from .group import GroupedServer, group_of
from .jobs import Job
from .memory_transport import MemoryEndpoint
from .packet_log import MAX_ENTRIES
from .ports import check_port, host_and_port
from .protocol import MEMORY, JobServerProtocol
from .taken_job import JobAwaiter, TakenJob
from .waiting import StandstillWatch

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

MAX_HANDLE_PREFIX: Final = 40
"""Bytes. gearmand takes more, and then gives distinct jobs the same handle (H10)."""

MAX_SUBMITTED: Final = 100
"""Submits that a server on a reactor remembers."""


def host_handle_prefix() -> str:
    """Return the default of gearmand for `job_handle_prefix`: ``H:`` and the host's name, as far as it fits."""
    return f"H:{socket.gethostname()}".encode()[:MAX_HANDLE_PREFIX].decode("utf-8", "ignore")


class ServerConnection(Interface):
    """What tests may use of a connection to a `MemoryJobServer`: see `MemoryJobServer.connections`."""

    number: int
    host: bytes
    requests: list[PacketType]

    def drop(self) -> None:
        """Abort it."""


class MemoryJobServer(FaultMethods, ClockMethods, ServerFactory):
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
    :param reactor: a `Clock`, or the reactor, for its timeouts. None for a `Clock` of its own, which starts at 0. A
        scheduled job is due when the clock was advanced to its time, ``at=server.clock.seconds() + 60``. POSIX
        seconds, as in ``at=time.time() + 60``, mean the same to a server on a clock that shows less than them: so
        many whole seconds after now.
    :param name: the server's name, as `JobHandle.server` and errors have it, and by which clients choose a server
        for a unique. None for ``"memory:1"``; further servers on the same clock are ``"memory:2"`` and so on.
    :param job_retries: how many workers a job is given to before it fails. 0 for no limit, as is gearmand's
        default.
    :param job_handle_prefix: the prefix of job handles; up to 40 bytes.
    :param exceptions: also send WORK_EXCEPTION to clients that have not asked for it.
    :raises TypeError, ValueError: for an invalid argument.
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
        if type(job_retries) is not int or job_retries < 0:
            raise ValueError(f"job_retries must be an int of at least 0, not {job_retries!r}")
        prefix = name_bytes("job_handle_prefix", job_handle_prefix, MAX_HANDLE_PREFIX)
        self.clock: Any = MemoryClock() if reactor is None else reactor
        self._group = group_of(self.clock)
        self.name = self._group.add(self, name)
        on_clock = isinstance(self.clock, Clock)
        self._core = JobServerCore(
            self.clock.seconds,
            job_retries,
            prefix,
            exceptions,
            partial(due_time, self.clock),
            deque(maxlen=None if on_clock else MAX_SUBMITTED),
        )
        self._faults = Faults(self.clock, self._core.connections, self.name)
        self._verified = False
        if on_clock:
            self._watch()
        self._services: list[GearmanService] = []
        self._ports: list[IListeningPort] = []
        self._awaiters: list[JobAwaiter] = []
        self._others: dict[MemoryJobServer, None] = {}
        self._drain_timeout = 0.0
        self._standstill: StandstillWatch | None = None
        self._closed = False
        self._ended: Waiters[None] | None = None

    def __repr__(self) -> str:
        state = " (closed)" if self._closed else ""
        return (
            f"<MemoryJobServer {self.name}{state}: {len(self.connections)} connections, {self._core.jobs.total} jobs>"
        )

    def _state(self) -> str:
        return describe_all(self, self._group)

    def _watch(self) -> None:
        """Verify the end of the test."""
        self._verified = True
        self._group.watch()

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
        host = getattr(addr, "host", MEMORY)
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
        drain_timeout = options.get("drain_timeout", DRAIN_TIMEOUT)
        self._drain_timeout = max(self._drain_timeout, DRAIN_TIMEOUT if drain_timeout is None else drain_timeout)
        worker.startService()
        self._faults.settle()
        return worker

    def admin(self, *others: MemoryJobServer, **options: Any) -> GearmanAdmin:
        """Return an admin client of this server, which was started and is stopped by `close`.

        :param others: as for `client`.
        :param options: those of `GearmanAdmin`, except ``job_servers`` and ``reactor``.
        :raises ValueError: another server has another clock.
        """
        admin = GearmanAdmin(self._endpoints(others), reactor=self.clock, **options)
        self._services.append(admin)
        admin.startService()
        self._faults.settle()
        return admin

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
        return _address_of(listening)

    @property
    def address(self) -> str:
        """The address of the first port that `listen` opened, as `GearmanClient` takes it.

        :raises AttributeError: there is none.
        """
        if not self._ports:
            raise AttributeError("address needs a port: MemoryJobServer(reactor).listen()")
        return _address_of(self._ports[0])

    # What the test plays: workers and administrators.

    def take(
        self,
        function: str | bytes,
        *,
        unique: str | bytes | None = None,
        where: Callable[[SubmittedJob], object] | None = None,
    ) -> TakenJob:
        """Take the next job of a function, as a worker would.

        :param function: the function's name, with the prefix if there is one.
        :param unique: only a job with this unique; None for any.
        :param where: only a job for which this returns true, called with a `SubmittedJob`; None for any.
        :raises AssertionError: there is no such job that is due. The message has the state of the test: tasks without
            an outcome, connections, and faults that last.
        """
        self._faults.settle()
        jobs = self._core.jobs
        worker = ManualWorker(calling_place())
        jobs.add_ability(worker, _as_bytes(function))
        if unique is None and where is None:
            job = jobs.take(worker)
        else:
            job = next(self._matching(_as_bytes(function), unique, where), None)
            if job is not None:
                jobs.take_this(job, worker)
        if job is None:
            self._core.remove_abilities(worker.abilities)
            which = "" if unique is None else f" with unique {unique!r}"
            which += "" if where is None else " that matches where="
            queued = f"no job for {function!r}{which} is due; queued: {self._functions_with_jobs()}"
            raise AssertionError(queued + describe_all(self, self._group, _as_bytes(function)))
        job.seen = True
        self._core.manual_workers[worker] = None
        return TakenJob(self._core, worker, job, self._faults.settle)

    def next_job(self, function: str | bytes) -> Deferred[TakenJob]:
        """Wait for the next job of a function, and take it as `take` does.

        :param function: as for `take`.
        :return: fires with the job; at once if one is due. Cancelling it ends the wait, and so does `close`.
        """
        self._faults.settle()
        awaiter = JobAwaiter(self._core, self.clock, calling_place(), self._faults.settle)
        self._awaiters.append(awaiter)
        awaiter.wait(_as_bytes(function))
        return awaiter.deferred

    def _matching(
        self, name: bytes, unique: str | bytes | None, where: Callable[[SubmittedJob], object] | None
    ) -> Iterator[Job]:
        wanted = None if unique is None else _as_bytes(unique)
        for job in self._queued(name):
            due = job.at <= self.clock.seconds()
            if due and wanted in (None, job.unique) and (where is None or where(SubmittedJob.of(job))):
                yield job

    def _queued(self, name: bytes) -> list[Job]:
        found = self._core.jobs.functions.get(name)
        return [job for queue in found.queues for job in queue if not job.dropped] if found else []

    def _functions_with_jobs(self) -> str:
        names = [function.name for function in self._core.jobs.functions.values() if any(function.queues)]
        return ", ".join(repr(name.decode("utf-8", "backslashreplace")) for name in names) or "none"

    def queued(self, function: str | bytes) -> list[bytes]:
        """Return the workloads of a function's queued jobs, in the order in which `take` would return them.

        Scheduled jobs are included.

        :param function: as for `take`.
        """
        self._faults.settle()
        jobs = self._queued(_as_bytes(function))
        for job in jobs:
            job.seen = True
        return [job.workload for job in jobs]

    @property
    def submitted(self) -> list[SubmittedJob]:
        """Everything that was submitted, the oldest first: a `SubmittedJob` for each submit that was not refused.

        On a reactor, the newest hundred.
        """
        self._faults.settle()
        self._core.jobs.see_all()
        return list(self._core.submitted)

    def log(self, count: int = MAX_ENTRIES) -> str:
        """Return the last packets, a line for each: time, number of the connection, direction, type and arguments.

        ``->`` is what the server has received, ``<-`` what it has sent, ``!!`` what it has refused without an answer,
        and why. Up to a thousand are kept.

        :param count: how many.
        """
        return "\n".join(self._core.log.lines(count))

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

    # The end.

    def close(self, *, verify: bool = True) -> Deferred[None]:
        """End a test: stop the clients and workers that were made here, close every connection and port, and verify.

        The servers that were made on the same clock after it are closed, too; so are the other servers of its clients.

        On a `Clock`, or if a fixture made the server, this fails for each of these:

        - a fault that has not happened, or answers that are still held;
        - a task without an outcome, or whose failure nobody has handled;
        - a background job that the test has taken and not ended; or that is still queued or running, and that the
          test has not looked at, by `take`, `queued`, `submitted` or a line of the text protocol;
        - what was logged as a failure, such as what a callback or a worker's function raised: `flush_logged_errors`
          forgives it (in a test of trial, trial fails the test, and its ``flushLoggedErrors`` forgives it);
        - a client, worker or admin client of the test's own that was not stopped;
        - a timer of the test that is left on the clock.

        What is due is done first. A server on a reactor that no fixture made verifies its faults only.

        :param verify: False to verify nothing.
        :return: fires when nothing is left in the reactor; fails with `AssertionError` for what is wrong. With a
            `Clock`, it has fired when this returns, and what is wrong is raised here; if jobs are running, the clock is
            advanced by their worker's ``drain_timeout``.
        :raises AssertionError: for what is wrong, with a `Clock`.
        :raises Exception: what a timer has raised meanwhile; once everything is closed.
        """
        if self._closed:
            return self._ended.wait() if self._ended is not None else self._drop_all()
        self._ended = Waiters()
        closed = Closing(self._closed_together(), self._group, verify, self._verified).run()
        closed.addBoth(self._report_end)
        if isinstance(self.clock, Clock) and closed.called:
            self._raise_failure(closed)
        return closed

    def _report_end(self, outcome: T) -> T:
        """Fire what earlier calls of `close` have returned while it was in progress."""
        waiting, self._ended = self._ended, None
        assert waiting is not None  # `close` has set it
        waiting.fire(None)
        return outcome

    def _forget_services(self) -> None:
        """Give up the services that were made here: they are in cycles of references, unlike the server itself."""
        self._services.clear()
        self._others.clear()

    def _drop_all(self) -> Deferred[None]:
        """Drop the connections that were made after the end."""
        protocols = self._protocols
        for protocol in protocols:
            protocol.drop()
        if isinstance(self.clock, Clock):
            raised = [error for error in self._advance(0) if not isinstance(error, EndlessLoop)]  # it was raised before
            if raised:
                raise raised[0]
        return gatherResults([protocol.lost for protocol in protocols]).addCallback(lambda _: None)

    def _closed_together(self) -> list[GroupedServer]:
        """Return this server and those that are closed with it."""
        others: list[GroupedServer] = list(self._others)
        if isinstance(self.clock, Clock):
            servers = self._group.servers
            others += servers[servers.index(self) + 1 :]
        return list(dict.fromkeys(server for server in (self, *others) if not server._closed))

    def _raise_failure(self, closed: Deferred[None]) -> None:
        failed: list[Failure] = []
        closed.addErrback(failed.append)
        for failure in failed:
            failure.raiseException()

    def _all_ports(self) -> list[IListeningPort]:
        """Return the ports that lead to this server: also those that it did not open, such as ``listenSSL``'s."""
        readers = self.clock.getReaders() if IReactorFDSet.providedBy(self.clock) else []
        found: list[Any] = [reader for reader in readers if _leads_to(getattr(reader, "factory", None), self)]
        return list(dict.fromkeys([*self._ports, *found]))

    def _stop_awaiters(self) -> bool:
        """End what `next_job` still waits for; return whether it did."""
        waiting = [awaiter.deferred for awaiter in self._awaiters if not awaiter.deferred.called]
        self._awaiters.clear()
        for deferred in waiting:
            deferred.addErrback(lambda failure: failure.trap(CancelledError))
            deferred.cancel()
        return bool(waiting)

    def _fail_awaiters(self, text: str) -> bool:
        """End what `next_job` waits for with an `AssertionError`; return whether there was anything."""
        waiting = [awaiter for awaiter in self._awaiters if not awaiter.deferred.called]
        for awaiter in waiting:
            if not awaiter.deferred.called:
                awaiter.stop()
                awaiter.deferred.errback(AssertionError(text))
        return bool(waiting)

    def reset(self, *, verify: bool = True) -> Deferred[None]:
        """End a test as `close` does, but keep the server and its ports for the next test.

        Jobs, faults, what was submitted and the log are forgotten, and timers that are left on the clock are cancelled.
        For a server that several tests share, as of a fixture with the scope of a module. The other servers on its
        clock are closed.

        :param verify: as for `close`.
        :return: as with `close`.
        :raises Exception: as `close` does.
        """
        closed = Closing(self._closed_together(), self._group, verify, self._verified, keep=self).run()
        closed.addBoth(self._begin_anew)
        if isinstance(self.clock, Clock) and closed.called:
            self._raise_failure(closed)
        return closed

    def _begin_anew(self, outcome: T) -> T:
        self._closed = False
        self._core.forget_jobs()
        self._core.submitted.clear()
        self._core.log.clear()
        self._faults.begin_anew()
        return outcome

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop_standstill()
        await self.close(verify=error is None)

    def __enter__(self) -> Self:
        if isinstance(self.clock, MemoryClock):
            self._standstill = StandstillWatch(self, self._group)
            self._standstill.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop_standstill()
        self.close(verify=error is None)

    def _stop_standstill(self) -> None:
        if self._standstill is not None:
            self._standstill.stop()
            self._standstill = None


def _address_of(port: Any) -> str:
    address = port.getHost()
    return host_and_port(address.host, address.port)


def _as_bytes(name: str | bytes) -> bytes:
    return name.encode() if isinstance(name, str) else name


def _leads_to(factory: Any, server: MemoryJobServer) -> bool:
    """Return whether a port's factory is this server, with or without TLS."""
    return factory is server or (factory is not None and getattr(factory, "wrappedFactory", None) is server)
