"""`GearmanClient`: what a caller sees, and the policy."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, FirstError, gatherResults, inlineCallbacks, succeed

from .client_protocol import GearmanClientFactory, whole_number
from .connection import CONNECT_TIMEOUT, Waiters
from .errors import UNANSWERED, ClientStopped, NoServersAvailable, ServerError
from .packets import (
    ECHO_REQ,
    ECHO_RES,
    GET_STATUS,
    GET_STATUS_UNIQUE,
    MAX_PACKET_SIZE,
    STATUS_RES,
    STATUS_RES_UNIQUE,
    PacketType,
)
from .servers import Address, JobServer, JobServers, ServerInfo
from .service import GearmanService
from .tasks import MAX_HANDLE, MAX_UNIQUE, JobHandle, JobStatus, Priority, Task, name_bytes
from .tls import TLSOptions

__all__ = ["GearmanClient"]


class GearmanClient(GearmanService):
    """Has jobs done by the workers of one or more job servers.

    ::

        client = GearmanClient(["10.0.0.1", "10.0.0.2:4731"])
        deferred = client.add_task("reverse", b"abc")     # fires with b"cba"

    It connects at `startService()`, or at the first use. It is an `IService`, and an async context manager that
    starts and stops it. Connections that fail are tried again after half a second to half a minute.

    A task without a unique goes to the connected server that has the fewest tasks in flight. A unique chooses its
    server, the same one for every client with the same servers, so that jobs coalesce across a pool; while that server
    is down, the next in rank. A task that was not written to any server yet moves on where its server can't be
    reached; it fails with `NoServersAvailable` when the last attempt to reach each of them has failed. If that is so
    already, it fails before the call returns: whoever tries again should wait a little first.

    **What a Deferred means.** Each fires exactly once. Once a task is written to a server, a connection that goes
    fails it with `TaskLost`; it is never submitted twice. ``cancel()`` means letting go: a task that was not written is
    never sent; of one that was, nothing more is heard, but its job may still run.
    """

    def __init__(
        self,
        job_servers: Iterable[Address],
        *,
        prefix: str | bytes = "",
        reactor: Any = None,
        exceptions: bool = True,
        connect_timeout: float = CONNECT_TIMEOUT,
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
        :param connect_timeout: seconds that an attempt to connect may take, up to the server's first answer.
        :param max_packet_size: bytes that a workload may have, and the body of a packet from a server.
        :param tls: how TLS is spoken with servers at ``"tls:host"``, ``"tls:host:port"`` and ``"tls:[v6]:port"``; None
            for the defaults of `TLSOptions`. A description with options of its own says all of it.
        :raises TypeError, ValueError: for an argument that can't be meant.
        """
        super().__init__(prefix, reactor, connect_timeout, max_packet_size)
        make_factory = partial(
            GearmanClientFactory,
            self._reactor,
            exceptions=exceptions,
            connect_timeout=connect_timeout,
            max_packet_size=max_packet_size,
        )
        self._servers = JobServers(
            job_servers, self._reactor, make_factory, self._servers_changed, connect_timeout, tls
        )
        self._started = False
        self._stopped = False
        # Tasks not written yet, in order: until a server is there, or all have refused.
        self._waiting: dict[Task, None] = {}
        self._unfinished = 0
        self._drained = Waiters()

    # Tasks.

    def add_task(
        self,
        function: str | bytes,
        workload: bytes = b"",
        *,
        unique: str | bytes = b"",
        priority: Priority = Priority.NORMAL,
        on_created: Callable[[Task], object] | None = None,
        on_data: Callable[[Task, bytes], object] | None = None,
        on_warning: Callable[[Task, bytes], object] | None = None,
        on_status: Callable[[Task, int, int], object] | None = None,
        on_complete: Callable[[Task, bytes], object] | None = None,
        on_exception: Callable[[Task, bytes], object] | None = None,
        on_fail: Callable[[Task, Exception], object] | None = None,
    ) -> Deferred[bytes]:
        """Have a job done and get its result.

        The arguments are those of `Task`. The callbacks come in this order: `on_created`, what data, warnings and
        status there are, then one of `on_complete` and `on_fail`, and then the Deferred.

        :return: fires with the result. Fails with `TaskFailed`, `TaskException`, `TaskRejected`, `TaskLost`,
            `NoServersAvailable` or `ClientStopped`. Cancelled before the task was written, it is never sent;
            after that, the job may still run, and nothing more is heard of it.
        :raises TypeError, ValueError: for what can't be sent; nothing is.
        """
        return self.submit(
            Task(
                function,
                workload,
                unique=unique,
                priority=priority,
                on_created=on_created,
                on_data=on_data,
                on_warning=on_warning,
                on_status=on_status,
                on_complete=on_complete,
                on_exception=on_exception,
                on_fail=on_fail,
            )
        )

    def add_task_bg(
        self,
        function: str | bytes,
        workload: bytes = b"",
        *,
        unique: str | bytes = b"",
        priority: Priority = Priority.NORMAL,
        at: datetime.datetime | float | None = None,
        on_created: Callable[[Task], object] | None = None,
        on_fail: Callable[[Task, Exception], object] | None = None,
    ) -> Deferred[JobHandle]:
        """Have a job done without waiting for it.

        The arguments are those of `Task`. The server keeps the job until a worker has done it; whether it survives the
        server is the server's setting. gearmand answers as ever, but throws the job away, if it has the unique of a
        foreground job whose client left (GEARMAN.md L1, L2): give background jobs uniques of their own.

        :return: fires with the job's handle once the server has it. Fails with `TaskRejected`, `TaskLost` (the server
            may have it), `NoServersAvailable` or `ClientStopped`. Cancelled as with `add_task`.
        :raises TypeError, ValueError: for what can't be sent; nothing is.
        """
        return self.submit(
            Task(
                function,
                workload,
                background=True,
                unique=unique,
                priority=priority,
                at=at,
                on_created=on_created,
                on_fail=on_fail,
            )
        )

    def submit(self, task: Task) -> Deferred[Any]:
        """Submit a task made before: what `add_task` and `add_task_bg` are made of.

        :return: fires with `bytes`, or with a `JobHandle` if it is a background task; as with those.
        :raises ValueError: the task was submitted before, or is too long with the prefix or for ``max_packet_size``.
        """
        if not isinstance(task, Task):
            raise TypeError(f"task must be a Task, not {type(task).__name__}")
        size = len(task.workload)
        if size > self._max_packet_size:
            raise ValueError(f"workload must have max_packet_size={self._max_packet_size} bytes at most, not {size}")
        deferred = task.begin(self._prefix, self)
        self._unfinished += 1
        if self._use():
            self._place(task)
        else:
            task.end_failed(ClientStopped())
        return deferred

    def _place(self, task: Task) -> None:
        """Send the task, or let it wait for a server."""
        try:
            link = self._servers.choose(self._coalescing_key(task) if len(self._servers) > 1 else b"")
        except NoServersAvailable as error:
            self._waiting.pop(task, None)
            task.end_failed(error)
            return
        if link is None:
            self._waiting[task] = None
            task.holder = self
        else:
            self._waiting.pop(task, None)
            link.send_task(task)

    @staticmethod
    def _coalescing_key(task: Task) -> bytes:
        # gearmand takes the unique "-" to mean that the workload is the unique (GEARMAN.md section 1).
        return task.workload if task.unique == b"-" else task.unique

    def let_go(self, task: Task) -> None:
        """For the task: it was cancelled while it waited here."""
        self._waiting.pop(task, None)

    def task_ended(self, task: Task) -> None:
        """For the task."""
        self._unfinished -= 1
        if not self._unfinished:
            self._drained.fire(None)

    def _servers_changed(self) -> None:
        for task in list(self._waiting):
            if task in self._waiting:  # the outcome of another one may have cancelled it
                self._place(task)

    # Questions.

    def get_status(self, handle: JobHandle) -> Deferred[JobStatus]:
        """Ask the server that has a job how far it is.

        :return: fires with what the server knows. Fails with `NoServersAvailable` if that server can't be reached, or
            goes away before it answers; with `ServerError` if it refuses; with `ClientStopped`.
        :raises ValueError: the handle names a server that is none of this client's, or is longer than any server's.
        """
        if not isinstance(handle, JobHandle):
            raise TypeError(f"handle must be a JobHandle, not {type(handle).__name__}; see JobHandle.from_string()")
        name = name_bytes("handle", handle.handle, MAX_HANDLE)
        if not name:
            raise ValueError("handle must not be empty")
        return self._status(GET_STATUS, name, STATUS_RES, [self._servers.by_address(handle.server)])

    def get_status_unique(self, unique: str | bytes) -> Deferred[JobStatus]:
        """Ask for the job with a unique, on the server that tasks with it go to.

        If jobs of several functions have it, the server tells of one of them. gearmand knows this question, geard not.

        :return: as `get_status`; also fails with `ServerError`, whose ``code`` is `UNANSWERED`, on a server without it.
        :raises ValueError: the unique is empty or ``"-"``, which name no job, or can't be sent.
        """
        name = name_bytes("unique", unique, MAX_UNIQUE)
        if name in (b"", b"-"):
            raise ValueError(f"unique must name a job, which {unique!r} does not")
        return self._status(GET_STATUS_UNIQUE, name, STATUS_RES_UNIQUE, self._servers.ranked(name))

    @inlineCallbacks
    def _status(
        self, question: PacketType, subject: bytes, answer: PacketType, servers: list[JobServer]
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

        geard does not answer an ECHO_REQ, but the question sent behind it (GEARMAN.md H6); that counts.

        :return: fires with the seconds that each server took, by its address. Servers that could not be reached
            are not in it; fails with `NoServersAvailable` if none could.
        """
        if not isinstance(data, bytes):
            raise TypeError(f"data must be bytes, not {type(data).__name__}")
        if len(data) > self._max_packet_size:
            raise ValueError(f"data must have max_packet_size={self._max_packet_size} bytes at most, not {len(data)}")
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
        self, server: JobServer, data: bytes, seconds: dict[str, float], reasons: dict[str, BaseException]
    ) -> Generator[Deferred[Any], Any, None]:
        try:
            yield server.when_ready()
            start = self._reactor.seconds()
            yield server.ask(ECHO_REQ, data, answer=ECHO_RES)
        except NoServersAvailable as error:
            reasons.update(error.reasons)
            return
        except ServerError as error:
            if error.code != UNANSWERED:
                raise
        seconds[server.address] = self._reactor.seconds() - start

    @property
    def servers(self) -> list[ServerInfo]:
        """How each job server is, in the order of ``job_servers``."""
        return [server.info() for server in self._servers]

    # Starting and stopping.

    def startService(self) -> None:
        """Connect to all servers. After `stopService`, too."""
        super().startService()
        self._stopped = False
        self._use()

    def stopService(self) -> Deferred[Any]:
        """Fail what is not finished with `ClientStopped`, and disconnect. `drain()` first to let it finish.

        What was written, background jobs above all, still goes out. May be called at any time, and again.

        :return: fires when no socket, timer or reader of the client is left; within three seconds even where a server
            does not read.
        """
        super().stopService()
        self._stopped = True
        self._started = False
        waiting, self._waiting = self._waiting, {}
        stopped = self._servers.stop(ClientStopped())
        for task in waiting:
            task.end_failed(ClientStopped())
        return stopped

    def drain(self) -> Deferred[None]:
        """Await the outcome of every task, those submitted meanwhile too.

        :return: fires when no task is out; at once if none is. Cancelled, it only stops waiting.
        """
        return self._drained.wait() if self._unfinished else succeed(None)

    def _use(self) -> bool:
        """Connect at the first use; False if the client was stopped."""
        if not (self._started or self._stopped):
            self._started = True
            self._servers.start()
        return self._started
