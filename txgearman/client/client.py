"""`GearmanClient`: what a caller sees, and the policy."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, FirstError, fail, gatherResults, inlineCallbacks
from twisted.logger import Logger
from typing_extensions import Unpack

from ..connection.addresses import Address
from ..connection.options import CONNECT_TIMEOUT, JOB_CHECK_INTERVAL, SERVER_TIMEOUT, ConnectionOptions
from ..connection.pool import JobServer
from ..connection.reactor import Reactor
from ..connection.tls import TLSOptions
from ..errors import ClientStopped, NoServersAvailable, RequestUnsupported
from ..models import JobHandle, JobStatus
from ..packets import (
    ECHO_REQ,
    ECHO_RES,
    GET_STATUS,
    GET_STATUS_UNIQUE,
    MAX_PACKET_SIZE,
    STATUS_RES,
    STATUS_RES_UNIQUE,
    PacketType,
)
from ..service import PoolService
from ..validation import MAX_HANDLE, MAX_UNIQUE, check_count, name_bytes, positive_seconds, whole_number
from .canceller import JobCanceller
from .dispatcher import Dispatcher
from .iteration import Stream, map_workloads
from .protocol import GearmanClientFactory, GearmanClientProtocol
from .task import BackgroundOptions, Task, TaskOptions

__all__ = ["GearmanClient"]

_log = Logger()


class GearmanClient(PoolService[GearmanClientProtocol]):
    """Has jobs done by the workers of one or more job servers.

    ::

        client = GearmanClient(["10.0.0.1", "10.0.0.2:4731"])
        deferred = client.add_task("reverse", b"abc")     # fires with b"cba"

    It connects at `startService()`, or at the first use. It is an `IService`, and an async context manager that
    starts and stops it. Connections that fail are tried again after half a second to half a minute.

    A task without a unique goes to the connected server that has the fewest tasks. A unique chooses its server, the
    same one for every client with the same servers, so that jobs coalesce across a pool; while that server is down, the
    next in rank. A task that was not written to any server yet moves on where its server can't be reached; when the
    last attempt to reach each of them has failed, it waits for ``server_wait`` seconds that one comes back, and then
    fails with `NoServersAvailable`. (Without ``server_wait``, at once: maybe before the call returns. Whoever tries
    again should wait a little first.)

    **What a Deferred means.** Each fires exactly once. Once a task is written to a server, a connection that goes
    fails it with `TaskLost`, and so does a server that has forgotten its job; it is submitted again only where
    ``retries`` says so. ``cancel()`` means letting go: a task that was not written is never sent; of one that was,
    nothing more is heard, but its job may still run (unless ``drop_on_cancel`` has the server drop it in time).

    **Retries.** A foreground task with ``retries=n`` is submitted up to n times more, after a rest of 0.5, 1, 2 ... 30
    seconds, to the next server in rank, or else to another one. That is so after `TaskLost`, `TaskFailed`,
    `TaskException`, `NoServersAvailable`, and a `TaskRejected` because the queue was full; after nothing else. Its job
    may then be done more than once. A background task is never submitted twice.
    """

    def __init__(
        self,
        job_servers: Iterable[Address],
        *,
        prefix: str | bytes = "",
        reactor: Reactor | None = None,
        exceptions: bool = True,
        max_in_flight: int | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
        server_timeout: float = SERVER_TIMEOUT,
        server_wait: float = 0.0,
        heartbeat: float | None = None,
        job_check_interval: float = JOB_CHECK_INTERVAL,
        max_packet_size: int = MAX_PACKET_SIZE,
        tls: TLSOptions | None = None,
    ) -> None:
        """
        :param job_servers: ``"host"``, ``"host:port"`` (default port 4730), ``"[v6]:port"``, or one of these behind
            ``"tls:"``; the description of a Twisted client endpoint (``"unix:/path"``); or an `IStreamClientEndpoint`.
            One or more.
        :param prefix: joined to each function's name with a TAB, as workers with that prefix expect; so applications
            can share servers.
        :param reactor: None for the global one.
        :param exceptions: ask for what workers raise: tasks fail with `TaskException`, which has its data. Without,
            gearmand says no more than WORK_FAIL.
        :param max_in_flight: how many tasks may be out at a time; those over it wait here, in order. None: no limit.
        :param connect_timeout: seconds that an attempt to connect may take, up to the server's first answer.
        :param server_timeout: seconds that a server may owe answers, such as JOB_CREATED, and give none; then its
            connection is dropped. A workload must get through in this time.
        :param server_wait: seconds that a task may wait for a server to come back while none can be reached; 0: none.
        :param heartbeat: seconds of silence after which a server is asked whether it is there. If it says nothing for
            as long again, its connection is dropped. None: it is not asked, and a half-open connection with nothing to
            send is found by TCP only.
        :param job_check_interval: seconds of silence about a foreground task after which its server is asked whether it
            still has the job; a job that it forgot is a `TaskLost`. It may take half as long again.
        :param max_packet_size: bytes that a workload may have, and the body of a packet from a server.
        :param tls: how TLS is spoken with servers at ``"tls:host"``, ``"tls:host:port"`` and ``"tls:[v6]:port"``; None
            for the defaults of `TLSOptions`. A description with options of its own says all of it.
        :raises TypeError, ValueError: for an argument that can't be meant.
        """
        connection_options = ConnectionOptions(
            connect_timeout, server_timeout, heartbeat, job_check_interval, max_packet_size
        )
        make_factory = partial(
            GearmanClientFactory, reactor, exceptions=exceptions, connection_options=connection_options
        )
        super().__init__(job_servers, prefix, reactor, connection_options, tls, make_factory, self._servers_changed)
        if server_wait != 0:
            positive_seconds("server_wait", server_wait)
        if max_in_flight is not None:
            check_count("max_in_flight", max_in_flight)
        self._dispatcher = Dispatcher(self._reactor, self._servers, self._drop, server_wait, max_in_flight)
        self._canceller = JobCanceller(self._reactor, connection_options)

    def _servers_changed(self) -> None:
        self._dispatcher.servers_changed()

    # Tasks.

    def add_task(self, function: str | bytes, workload: bytes = b"", **options: Unpack[TaskOptions]) -> Deferred[bytes]:
        """Have a job done and get its result.

        The callbacks come in this order: ``on_created``, what data, warnings and status there are, then one of
        ``on_complete`` and ``on_fail``, and then the Deferred.

        :param options: `TaskOptions`, by keyword, as with `Task`: ``unique``, ``priority``, ``timeout``, ``retries``,
            ``drop_on_cancel`` and the callbacks.
        :return: fires with the result. Fails with `TaskFailed`, `TaskException`, `TaskRejected`, `TaskLost`,
            `TaskTimedOut`, `NoServersAvailable` or `ClientStopped`. Cancelled before the task was written, it is never
            sent; after that, the job may still run, and nothing more is heard of it. With ``drop_on_cancel``, the
            server is asked to drop it.
        :raises TypeError, ValueError: for what can't be sent; nothing is.
        """
        return self.submit(Task(function, workload, False, **options))

    def add_task_bg(
        self, function: str | bytes, workload: bytes = b"", **options: Unpack[BackgroundOptions]
    ) -> Deferred[JobHandle]:
        """Have a job done without waiting for it.

        The server keeps the job until a worker has done it; whether it survives the server is the server's setting.
        gearmand answers as ever, but throws the job away, if it has the unique of a foreground job whose client left
        (L1, L2): give background jobs uniques of their own.

        :param options: `BackgroundOptions`, by keyword, as with `Task`: ``unique``, ``priority``, ``at``, ``timeout``,
            ``drop_on_cancel``, ``on_created`` and ``on_fail``.
        :return: fires with the job's handle once the server has it. Fails with `TaskRejected`, `TaskLost` and
            `TaskTimedOut` (the server may have it), `NoServersAvailable` or `ClientStopped`. Cancelled as with
            `add_task`.
        :raises TypeError, ValueError: for what can't be sent; nothing is.
        """
        return self.submit(Task(function, workload, True, **options))

    def submit(self, task: Task) -> Deferred[Any]:
        """Submit a task made before: what `add_task` and `add_task_bg` are made of.

        :return: fires with `bytes`, or with a `JobHandle` if it is a background task; as with those.
        :raises ValueError: the task was submitted before, or is too long with the prefix or for ``max_packet_size``.
        """
        if not isinstance(task, Task):
            raise TypeError(f"task must be a Task, not {type(task).__name__}")
        if len(task._workload) > self._connection_options.max_packet_size:
            raise self._too_large(task)
        if not self._servers.started:
            self._use()
        return self._dispatcher.submit(task, self._prefix)

    def _too_large(self, task: Task) -> ValueError:
        most = self._connection_options.max_packet_size
        return ValueError(f"workload must have max_packet_size={most} bytes at most, not {len(task._workload)}")

    def _drop(self, handle: JobHandle) -> None:
        """A task with `drop_on_cancel` was let go."""
        try:
            dropped = self.cancel_job(handle)
        except ValueError as error:  # its server is none of ours any more
            dropped = fail(error)
        dropped.addErrback(lambda failure: _log.info("{job} is not dropped: {why}", job=handle, why=failure.value))

    def cancel_job(self, handle: JobHandle) -> Deferred[None]:
        """Ask the server that has a job to drop it. A connection of its own is made for that.

        gearmand fails the job's tasks, here and anywhere, and drops it if it is queued. If it runs, the worker is not
        told. Until a worker has asked for it, gearmand loses a new job of the same function and unique (H2).
        geard only drops queued jobs, and does not tell those who wait (H5); perl's server can't.

        :return: fires when the server has done so. Fails with `ServerError`, whose code is ``"UNKNOWN_JOB"`` if the
            server has no such job; with `NoServersAvailable`, or `ClientStopped`. Cancelled, it only stops waiting.
        :raises ValueError: the handle names a server that is none of this client's, or can't be sent.
        """
        _check_handle(handle)
        server = self._servers.by_address(handle.server)
        return self._canceller.cancel(server, handle.handle) if self._use() else fail(ClientStopped())

    def map(
        self,
        function: str | bytes,
        workloads: Iterable[bytes] | AsyncIterable[bytes],
        *,
        concurrency: int = 100,
        **options: Unpack[TaskOptions],
    ) -> AsyncGenerator[bytes, None]:
        """Have a job done for each of many workloads, and go through the results, in the same order.

        ::

            async for result in client.map("resize", images, concurrency=20):
                ...

        Workloads are taken as they are needed: so many that no more than `concurrency` tasks are out, or done and not
        gone through yet. A loop that is left early lets go of those. (At once, with CPython, or where the iterator is
        closed, by ``contextlib.aclosing``.)

        :param workloads: an iterable or async iterable; it may be endless.
        :param options: those of `add_task`, for each task.
        :return: an async iterator of results. It raises what the first task in order that fails does, and is at its end
            then.
        :raises TypeError, ValueError: for what can't be meant; nothing is sent. For a workload, when it is its turn.
        """
        check_count("concurrency", concurrency)
        Task(function, b"", False, **options)._leading_arguments_with(self._prefix)  # what is wrong is told now
        return map_workloads(
            lambda workload: self.submit(Task(function, workload, False, **options)), workloads, concurrency
        )

    def stream(
        self, function: str | bytes, workload: bytes = b"", **options: Unpack[TaskOptions]
    ) -> AsyncGenerator[bytes, None]:
        """Have a job done, and go through its result in parts as they come.

        ::

            async for chunk in client.stream("log", b"today"):
                ...

        Where the loop is slower than the worker, chunks wait here. From a megabyte on nothing more is read from the
        server, as long as nobody else waits for anything on the same connection. A loop that is left early lets go of
        the task, as with `map`.

        :param options: those of `add_task`, but for ``on_data``. With ``retries``, chunks may come again.
        :return: an async iterator of the payloads of each WORK_DATA, and of the WORK_COMPLETE unless it is empty.
            It raises what `add_task` would fail with, after the chunks that came before. The task is submitted when the
            first one is asked for.
        :raises TypeError, ValueError: for what can't be sent; nothing is.
        """
        task = Task(function, workload, False, **options)
        if len(task._workload) > self._connection_options.max_packet_size:  # what is wrong is told now
            raise self._too_large(task)
        task._leading_arguments_with(self._prefix)
        return Stream(task).chunks(self.submit)

    # Questions.

    def get_status(self, handle: JobHandle) -> Deferred[JobStatus]:
        """Ask the server that has a job how far it is.

        :return: fires with what the server knows. Fails with `NoServersAvailable` if that server can't be reached, or
            goes away before it answers; with `ServerError` if it refuses; with `ClientStopped`. Cancelled, the answer
            is forgotten.
        :raises ValueError: the handle names a server that is none of this client's, or is longer than any server's.
        """
        _check_handle(handle)
        name = name_bytes("handle", handle.handle, MAX_HANDLE)
        if not name:
            raise ValueError("handle must not be empty")
        return self._status(GET_STATUS, name, STATUS_RES, [self._servers.by_address(handle.server)])

    def get_status_unique(self, unique: str | bytes) -> Deferred[JobStatus]:
        """Ask for the job with a unique, on the server that tasks with it go to.

        If jobs of several functions have it, the server tells of one of them. gearmand knows this question, geard not.

        :return: as `get_status`; also fails with `RequestUnsupported`, on a server without it.
        :raises ValueError: the unique is empty or ``"-"``, which name no job, or can't be sent.
        """
        name = name_bytes("unique", unique, MAX_UNIQUE)
        if name in (b"", b"-"):
            raise ValueError(f"unique must name a job, which {unique!r} does not")
        return self._status(GET_STATUS_UNIQUE, name, STATUS_RES_UNIQUE, self._servers.ranked(name))

    @inlineCallbacks
    def _status(
        self, question: PacketType, subject: bytes, answer: PacketType, servers: list[JobServer[GearmanClientProtocol]]
    ) -> Generator[Deferred[list[bytes]], list[bytes], JobStatus]:
        """Ask the first of `servers` that can be reached."""
        if not self._use():
            raise ClientStopped()
        reasons: dict[str, BaseException] = {}
        for server in servers:
            try:
                arguments = yield server.ask(question, subject, answer=answer, subject=subject)
            except NoServersAvailable as error:
                reasons.update(error.reasons)
            else:
                known, running, *numbers = map(whole_number, arguments[1:])
                return JobStatus(bool(known), bool(running), *numbers)
        raise NoServersAvailable(reasons)

    def echo(self, data: bytes = b"") -> Deferred[dict[str, float]]:
        """Make a round trip to every server that is connected, or whose first attempt is under way.

        geard does not answer an ECHO_REQ, but the question sent behind it (H6); that counts.

        :return: fires with the seconds that each server took, by its address. Servers that could not be reached
            are not in it; fails with `NoServersAvailable` if none could. Cancelled, the answers are forgotten.
        """
        if not isinstance(data, bytes):
            raise TypeError(f"data must be bytes, not {type(data).__name__}")
        if len(data) > self._connection_options.max_packet_size:
            most = self._connection_options.max_packet_size
            raise ValueError(f"data must have max_packet_size={most} bytes at most, not {len(data)}")
        return self._echo(data)

    @inlineCallbacks
    def _echo(self, data: bytes) -> Generator[Deferred[Any], Any, dict[str, float]]:
        if not self._use():
            raise ClientStopped()
        seconds: dict[str, float] = {}
        reasons: dict[str, BaseException] = {}
        trips = [self._round_trip(server, data, seconds, reasons) for server in self._servers]
        try:
            yield gatherResults(trips, consumeErrors=True)
        except FirstError as error:
            error.subFailure.raiseException()
        if not seconds:
            raise NoServersAvailable(reasons)
        return seconds

    @inlineCallbacks
    def _round_trip(
        self,
        server: JobServer[GearmanClientProtocol],
        data: bytes,
        seconds: dict[str, float],
        reasons: dict[str, BaseException],
    ) -> Generator[Deferred[Any], Any, None]:
        try:
            yield server.when_ready()
            start = self._reactor.seconds()
            yield server.ask(ECHO_REQ, data, answer=ECHO_RES)
        except NoServersAvailable as error:
            reasons.update(error.reasons)
            return
        except RequestUnsupported:
            pass  # the fence behind the question was answered
        seconds[server.address] = self._reactor.seconds() - start

    # Stopping.

    def _disconnect(self) -> Deferred[None]:
        closed = self._canceller.stop()
        return self._dispatcher.stop().addCallback(lambda _: closed)

    def drain(self) -> Deferred[None]:
        """Await the outcome of every task, those submitted meanwhile too.

        :return: fires when no task is out; at once if none is. Cancelled, it only stops waiting.
        """
        return self._dispatcher.drain()


def _check_handle(handle: JobHandle) -> None:
    if not isinstance(handle, JobHandle):
        raise TypeError(f"handle must be a JobHandle, not {type(handle).__name__}; see JobHandle.from_string()")
