"""`GearmanClient`: the API of the client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Sequence
from dataclasses import replace
from functools import partial
from threading import get_ident
from typing import TypeVar, overload

from twisted.internet.defer import Deferred, FirstError, fail, gatherResults, inlineCallbacks
from twisted.logger import Logger
from twisted.python import threadable
from typing_extensions import Unpack

from ..connection.addresses import Address
from ..connection.options import CONNECT_TIMEOUT, HEARTBEAT, JOB_CHECK_INTERVAL, SERVER_TIMEOUT, ConnectionOptions
from ..connection.pool import JobServer, ServerInfo
from ..connection.reactor import Reactor
from ..connection.tls import TLSOptions
from ..errors import ClientStopped, NoServersAvailable, RequestUnsupported, merge_unavailable
from ..models import JobHandle, JobStatus, Priority
from ..observers import as_observers
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
from ..retry import Retry
from ..service import PoolService
from ..validation import (
    MAX_HANDLE,
    MAX_NAME,
    MAX_REASON,
    MAX_UNIQUE,
    check_count,
    name_bytes,
    payload_bytes,
    positive_seconds,
    quoted,
    short_text,
    whole_number,
)
from .batches import Batch, BatchResult
from .canceller import JobCanceller
from .defaults import TaskDefaults
from .dispatcher import Dispatcher
from .iteration import MIN_BATCHED, Stream, completed_workloads, map_in_batches, map_workloads
from .protocol import GearmanClientFactory, GearmanClientProtocol
from .remote_function import RemoteFunction
from .stream_router import StreamRouter
from .task import BackgroundOptions, Task, TaskOptions, TaskResult

__all__ = ["GearmanClient"]

_log = Logger()

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")


class GearmanClient(PoolService[GearmanClientProtocol]):
    """Submits jobs to one or more job servers.

    ::

        client = GearmanClient(["10.0.0.1", "10.0.0.2:4731"])
        deferred = client.add_task("reverse", b"abc")     # fires with b"cba"

    It is used in the reactor's thread: in any other one its methods raise `RuntimeError`, which says how to call them.

    A client is an `IService`, and an async context manager that starts and stops it. It connects on `startService()`,
    or on first use. A connection that fails or is lost is retried within two seconds, at a random moment; further
    attempts follow after delays that grow to half a minute, or within two seconds while a task waits for a server.

    **Routing.** A task without a unique goes to the less busy one of two connected servers. A task with a unique goes
    to the server that ranks highest for that unique, or to the next in rank while that one is down. All clients with
    the same servers rank them alike, so that jobs coalesce across the pool. Tasks that were submitted before any server
    was connected are shared out: each server gets its share once it is ready, and what is left after a second goes to
    those that are. A task that was not sent yet fails over if its server can't be reached. Once the latest attempt to
    reach each server has failed, tasks wait up to ``server_wait`` seconds for a server, and then fail with
    `NoServersAvailable`. Without ``server_wait`` those that have no retries fail at once, possibly before the call
    returns; they, too, bring the next attempt to connect forward.

    **Outcomes.** Each Deferred fires exactly once. There are no hidden retries: if the connection is lost after a task
    was sent, or the server forgets its job, the task fails with `TaskLost`; it is resubmitted only if you pass
    ``retries``. Cancelling a Deferred abandons its task: if it was not sent yet, it never is; otherwise nothing more is
    reported of it, but its job may still run, unless ``drop_on_cancel`` has the server drop the job in time.

    **Retries.** A foreground task with ``retries=n`` is resubmitted up to n times, after a random delay of up to 0.5,
    1, 2 ... 30 seconds: with a unique to the next server in rank, without one to another server, if there is one.
    Retriable failures are `TaskLost`, `TaskFailed`, `TaskException`, `NoServersAvailable`, and a `TaskRejected` because
    the queue was full; ``retry`` may choose others, and other delays. No retry is spent on servers that are known to be
    down: without ``server_wait``, such a task waits for the next attempt to connect to each of them. The job may run
    more than once. A background task is never submitted twice.

    :param job_servers: addresses of one or more job servers, each of which is ``"host"``, ``"host:port"`` (default
        port 4730), ``"[v6]:port"``, one of these after ``"tls:"``, a Twisted client endpoint description
        (``"unix:/path"``), an `IStreamClientEndpoint`, or a pair of a name for the server and an endpoint.
    :param prefix: is joined to each function's name with a TAB, as for workers with the same prefix, so that
        applications can share servers. Empty for none.
    :param reactor: None for the global reactor.
    :param exceptions: whether to ask servers to forward WORK_EXCEPTION, so that tasks fail with `TaskException` and
        its data. If not, gearmand reports an exception as WORK_FAIL.
    :param timeout: seconds from the submit of a task to its outcome, all attempts together; None for no limit.
        Holds for each task that is submitted without ``timeout``: of `add_task`, `add_task_bg`, `map` and
        `as_completed`, but not of `stream`, `add_tasks` and `add_tasks_bg`.
    :param retries: how often a foreground task is resubmitted after a retriable failure. Holds as ``timeout`` does.
    :param retry: the same, with delays and failures of your choice; None for ``retries`` alone. For a task with
        ``retries`` of its own it says when, but not how often.
    :param max_in_flight: maximum number of tasks in flight; further tasks wait in the client, in order. None for no
        limit.
    :param connect_timeout: seconds that an attempt to connect may take, up to the server's first answer.
    :param server_timeout: seconds that a server may leave a request, such as a submit, unanswered; then its
        connection is dropped. A workload must be transmitted within this time.
    :param server_wait: seconds that a task may wait for a server while none can be reached; 0 for not at all.
    :param heartbeat: seconds of silence after which, at the latest, a server is sent an ECHO_REQ, also while tasks
        wait for results; if it stays silent for as many seconds again, its connection is dropped, and its tasks
        fail with `TaskLost`. It keeps proxies and NATs from dropping the connection. None to send none: a half-open
        connection is then detected only when there is something to send.
    :param job_check_interval: seconds without a packet about a foreground task after which its server is asked
        whether it still has the job; if not, the task fails with `TaskLost`. Detection takes up to one and a half
        times as long. If the oldest job of a function waits in a server's queue for as long, a warning says that no
        worker has taken the function.
    :param reconnect_delay: called with 1 after the loss of a connection, or the first attempt to connect that has
        failed, 2 after the next failure, and so on; returns the seconds until the next attempt, as what
        ``twisted.application.internet.backoffPolicy()`` makes does. None for up to 2 s at first, and up to half a
        minute later. A task that waits for a server still brings the next attempt forward.
    :param max_packet_size: maximum size in bytes of a workload, and of the body of a packet from a server.
    :param tls: TLS options for servers at ``"tls:host"``, ``"tls:host:port"`` and ``"tls:[v6]:port"``; None for the
        defaults of `TLSOptions`. They do not apply to a ``"tls:"`` description with options of its own.
    :param observers: objects whose methods, those of `Observer`, report tasks, batches and servers.
    :raises TypeError, ValueError: an argument is invalid.
    """

    def __init__(
        self,
        job_servers: Iterable[Address],
        *,
        prefix: str | bytes = "",
        reactor: Reactor | None = None,
        exceptions: bool = True,
        timeout: float | None = None,
        retries: int = 0,
        retry: Retry | None = None,
        max_in_flight: int | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
        server_timeout: float = SERVER_TIMEOUT,
        server_wait: float = 0.0,
        heartbeat: float | None = HEARTBEAT,
        job_check_interval: float = JOB_CHECK_INTERVAL,
        reconnect_delay: Callable[[int], float] | None = None,
        max_packet_size: int = MAX_PACKET_SIZE,
        tls: TLSOptions | None = None,
        observers: Iterable[object] = (),
    ) -> None:
        connection_options = ConnectionOptions(
            connect_timeout, server_timeout, heartbeat, job_check_interval, max_packet_size, reconnect_delay
        )
        make_factory = partial(
            GearmanClientFactory, reactor, exceptions=exceptions, connection_options=connection_options
        )
        super().__init__(job_servers, prefix, reactor, connection_options, tls, make_factory, self._servers_changed)
        if server_wait != 0:
            positive_seconds("server_wait", server_wait)
        if max_in_flight is not None:
            check_count("max_in_flight", max_in_flight)
        checked_observers = as_observers(observers)
        self._streams = StreamRouter(self._reactor, self._servers, make_factory, server_wait)
        self._dispatcher = Dispatcher(
            self._reactor,
            self._servers,
            self._streams,
            self._drop,
            server_wait,
            max_in_flight,
            TaskDefaults(timeout, retries, retry),
            self._random,
            checked_observers,
        )
        if checked_observers is not None:
            self._servers.observe = partial(checked_observers.notify, "server_changed")
        self._canceller = JobCanceller(self._reactor, connection_options, self._random)

    @property
    def servers(self) -> list[ServerInfo]:
        """State of each job server, in the order of ``job_servers``."""
        return [
            replace(info, in_flight=info.in_flight + self._streams.in_flight(server))
            for info, server in zip(super().servers, self._servers, strict=True)
        ]

    @property
    def waiting(self) -> int:
        """Number of tasks, and of jobs of batches, that have no outcome and are not in flight: they wait in the client.

        They wait for a server, for one that is slow to read, or for their turn (``max_in_flight``); or they failed and
        pause before a retry. Together with ``in_flight`` of each server, and of those that were removed and are not
        disconnected yet, these are all that have no outcome.
        """
        return self._dispatcher.waiting

    def when_ready(self) -> Deferred[None]:
        """Connect, unless that was done, and wait until a server is ready: for a service that is to fail at its start.

        :return: fires once a server is ready; at once if one is. Fails with `NoServersAvailable` once the latest
            attempt to connect to each server has failed, whatever ``server_wait`` is; the client goes on connecting.
            Fails with `ClientStopped` if the client is stopped. Cancelling it only ends the wait.
        """
        self._check_thread()
        self._use()
        return self._servers.when_ready()

    def _servers_changed(self, server: JobServer[GearmanClientProtocol] | None) -> None:
        self._dispatcher.servers_changed(server)

    # Tasks.

    def add_task(self, function: str | bytes, workload: bytes = b"", **options: Unpack[TaskOptions]) -> Deferred[bytes]:
        """Submit a foreground job.

        Callbacks are called in this order: ``on_created``; any of ``on_data``, ``on_warning`` and ``on_status``; then
        either ``on_complete`` or ``on_fail``. The Deferred fires last. With ``retries``, the order starts again after
        each ``on_retry``.

        :param options: `TaskOptions`, as for `Task`: ``unique``, ``priority``, ``timeout``, ``retries``,
            ``drop_on_cancel``, and the callbacks.
        :return: fires with the result. Fails with `TaskFailed`, `TaskException`, `TaskRejected`, `TaskLost`,
            `TaskTimedOut`, `NoServersAvailable` or `ClientStopped`. If it is cancelled before the task was sent, the
            task is never sent; if later, nothing more is reported of it, and its job may still run. With
            ``drop_on_cancel``, the server is asked to drop the job.
        :raises TypeError, ValueError: an argument is invalid; nothing is sent.
        """
        try:
            task = Task(function, workload, False, **options)
        except TypeError:
            _check_options(options)
            raise
        return self.submit(task)  # type: ignore[return-value]  # a foreground task

    def add_task_bg(
        self, function: str | bytes, workload: bytes = b"", **options: Unpack[BackgroundOptions]
    ) -> Deferred[JobHandle]:
        """Submit a background job.

        The server keeps the job until a worker has done it. Whether the job survives a restart of the server depends on
        the server's configuration. Give background jobs uniques of their own: gearmand answers as usual but discards
        the job if it coalesces with a foreground job whose client has disconnected (L1, L2).

        :param options: `BackgroundOptions`, as for `Task`: ``unique``, ``priority``, ``at``, ``timeout``,
            ``drop_on_cancel``, ``on_created`` and ``on_fail``.
        :return: fires with the job's handle once the server has queued the job. Fails with `TaskRejected`,
            `NoServersAvailable` or `ClientStopped`; or with `TaskLost` or `TaskTimedOut`, in which case the server may
            have the job. Cancelling it has the same effect as for `add_task`.
        :raises TypeError, ValueError: an argument is invalid; nothing is sent.
        """
        try:
            task = Task(function, workload, True, **options)
        except TypeError:
            _check_options(options)
            raise
        return self.submit(task)  # type: ignore[return-value]  # a background task

    def add_tasks(
        self,
        function: str | bytes,
        workloads: Iterable[bytes],
        *,
        uniques: Iterable[str | bytes] | None = None,
        priority: Priority = Priority.NORMAL,
        timeout: float | None = None,
        drop_on_cancel: bool = False,
    ) -> Deferred[list[bytes]]:
        """Submit many foreground jobs of one function: as `add_task` for each, at a fraction of the cost.

        Servers get the jobs in parts, so that ``max_in_flight`` and a server that is slow to read hold back the rest.
        Where a task of its own would fail, the other jobs go on.

        :param workloads: an iterable of `bytes`, which is consumed at the call.
        :param uniques: key by which each job coalesces, as ``unique`` of `Task`: as many as workloads, in their order.
            ``"-"`` makes each workload the key. None, the default, for jobs of their own.
        :param priority: see `Priority`.
        :param timeout: seconds until all jobs have their outcome; None for no limit. Then those that have none fail
            with `TaskTimedOut`.
        :param drop_on_cancel: whether the servers are asked to drop the jobs without an outcome if the Deferred is
            cancelled or the timeout passes.
        :return: fires with the results, in the order of the workloads; at once if there are none. If jobs fail, it
            fails with `BatchFailed` once all have their outcome. Cancelling it abandons the jobs without an outcome:
            those not sent yet never are; of the others nothing more is reported, and they may still run.
        :raises TypeError, ValueError: an argument is invalid; nothing is sent.
        """
        batch = Batch(
            function,
            workloads,
            False,
            uniques=uniques,
            priority=priority,
            timeout=timeout,
            drop_on_cancel=drop_on_cancel,
            max_size=self._connection_options.max_packet_size,
        )
        return self._submit_batch(batch)  # type: ignore[return-value]  # of a foreground batch

    def add_tasks_bg(
        self,
        function: str | bytes,
        workloads: Iterable[bytes],
        *,
        uniques: Iterable[str | bytes] | None = None,
        priority: Priority = Priority.NORMAL,
        timeout: float | None = None,
    ) -> Deferred[Sequence[JobHandle]]:
        """Submit many background jobs of one function: as `add_task_bg` for each, at a fraction of the cost.

        :param workloads: as for `add_tasks`, like ``uniques``, ``priority`` and ``timeout``.
        :return: fires with the handles, in the order of the workloads, once the servers have queued all jobs. If jobs
            fail, it fails with `BatchFailed` once all have their outcome. Cancelling it has the same effect as for
            `add_tasks`.
        :raises TypeError, ValueError: an argument is invalid; nothing is sent.
        """
        batch = Batch(
            function,
            workloads,
            True,
            uniques=uniques,
            priority=priority,
            timeout=timeout,
            max_size=self._connection_options.max_packet_size,
        )
        return self._submit_batch(batch)  # type: ignore[return-value]  # of a background batch

    def _submit_batch(self, batch: Batch) -> Deferred[BatchResult]:
        self._check_thread()
        if not self._servers.started:
            self._use()
        deferred = self._dispatcher.submit_batch(batch, self._prefix)
        if self._record is not None:
            self._record.batch_submitted(self, batch, deferred)
        return deferred

    def submit(self, task: Task) -> Deferred[TaskResult]:
        """Submit a task. `add_task` and `add_task_bg` are shorthands for this.

        :return: as for `add_task`, or as for `add_task_bg` if it is a background task.
        :raises TypeError: `task` is not a `Task`.
        :raises ValueError: the task was submitted before, its workload exceeds ``max_packet_size``, or its function's
            name is too long with the prefix.
        """
        if get_ident() != threadable.ioThread:  # else a call less
            self._check_thread()
        if not isinstance(task, Task):
            raise TypeError(f"task must be a Task, not {type(task).__name__}")
        if len(task._workload) > self._connection_options.max_packet_size:
            raise self._too_large(task._workload)
        if not self._servers.started:
            self._use()
        return self._dispatcher.submit(task, self._prefix)

    def _too_large(self, workload: bytes) -> ValueError:
        most = self._connection_options.max_packet_size
        return ValueError(f"workload must have max_packet_size={most} bytes at most, not {len(workload)}")

    def _drop(self, handle: JobHandle) -> None:
        """Ask a server to drop the job of a task that was cancelled or has timed out, and log a failure."""
        try:
            dropped = self.cancel_job(handle)
        except ValueError as error:  # its server has been removed from the client's meanwhile
            dropped = fail(error)
        dropped.addErrback(
            lambda failure: _log.info(
                "{job} was not dropped: {reason}",
                job=short_text(str(handle), MAX_NAME),
                handle=short_text(handle.handle, MAX_NAME),
                server=handle.server,
                error=type(failure.value).__name__,
                reason=short_text(str(failure.value), MAX_REASON),
            )
        )

    def cancel_job(self, handle: JobHandle) -> Deferred[None]:
        """Ask the server of a job to drop it, over a connection made for that purpose.

        gearmand fails all tasks of the job, whichever client they belong to, and removes the job if it is queued. A
        worker that runs it is not notified. gearmand also loses a new job of the same function and unique, until a
        worker has asked for it (H2). geard drops queued jobs only, and does not notify the clients that wait for them
        (H5). Perl's server does not support it.

        :return: fires when the server has confirmed. Fails with `ServerError`, whose code is ``"UNKNOWN_JOB"`` if the
            server does not have the job; with `NoServersAvailable`, or with `ClientStopped`. Cancelling it only ignores
            the server's answer.
        :raises TypeError: `handle` is not a `JobHandle`.
        :raises ValueError: the handle names a server that is not one of this client's, or can't be sent.
        """
        self._check_thread()
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
        """Submit a foreground job for each of many workloads, and iterate over the results in the same order.

        ::

            async for result in client.map("resize", images, concurrency=20):
                ...

        Workloads are consumed lazily: at most `concurrency` tasks are in flight, or done with a result that was not yet
        iterated over. Leaving the loop early cancels these tasks: at once in CPython, or when the iterator is closed,
        for which there is ``contextlib.aclosing``.

        :param workloads: an iterable or async iterable of `bytes`, possibly infinite.
        :param concurrency: maximum number of tasks that are in flight, or whose results wait for the loop.
        :param options: those of `add_task`, for each task.
        :return: an async iterator of the results. It raises the error of the first task in order that fails, and ends
            with it.
        :raises TypeError, ValueError: an argument is invalid; nothing is sent. An invalid workload raises when its turn
            comes.
        """
        self._check_thread()
        check_count("concurrency", concurrency)
        self._check_task(function, options)

        # Each job of a batch would have neither a timeout nor retries of its own.
        single = options or self._dispatcher.defaults or concurrency < MIN_BATCHED
        if single or isinstance(workloads, AsyncIterable):
            return map_workloads(partial(self._submit_one, function, options), workloads, concurrency)
        return map_in_batches(partial(self._submit_some, function), self._checked_workload, workloads, concurrency)

    def as_completed(
        self,
        function: str | bytes,
        workloads: Iterable[bytes] | AsyncIterable[bytes],
        *,
        concurrency: int = 100,
        **options: Unpack[TaskOptions],
    ) -> AsyncGenerator[tuple[int, bytes | Exception], None]:
        """Submit a foreground job for each of many workloads, and iterate over the outcomes as they come.

        ::

            async for position, outcome in client.as_completed("resize", images, concurrency=20):
                ...

        Unlike in `map`, a slow job does not hold up those behind it, and a job that fails ends nothing: its outcome is
        the error. Workloads are consumed as lazily as by `map`, and leaving the loop early has the same effect.

        :param workloads: as for `map`, like ``concurrency`` and ``options``.
        :return: an async iterator of the position of a workload, from 0, with the result or the error of its task. It
            raises what the iterable of workloads raises, and the error of an invalid workload, once the tasks before
            have been iterated over.
        :raises TypeError, ValueError: an argument is invalid; nothing is sent.
        """
        self._check_thread()
        check_count("concurrency", concurrency)
        self._check_task(function, options)
        return completed_workloads(partial(self._submit_one, function, options), workloads, concurrency)

    def _check_task(self, function: str | bytes, options: TaskOptions) -> None:
        """Check the arguments of tasks at the call: an invalid one raises there, not in the loop."""
        _check_options(options)
        Task(function, b"", False, **options)._leading_arguments_with(self._prefix)

    def _submit_one(self, function: str | bytes, options: TaskOptions, workload: bytes) -> Deferred[bytes]:
        return self.submit(Task(function, workload, False, **options))  # type: ignore[return-value]  # as add_task

    def _submit_some(
        self, function: str | bytes, workloads: list[bytes], like: Batch | None
    ) -> tuple[Batch, Deferred[BatchResult]]:
        max_size = self._connection_options.max_packet_size
        if like is None:
            batch = Batch(function, workloads, False, max_size=max_size)
        else:
            batch = like.another(workloads, max_size=max_size)
        return batch, self._submit_batch(batch)

    def _checked_workload(self, workload: bytes) -> bytes:
        if type(workload) is not bytes:
            workload = payload_bytes("workload", workload)
        if len(workload) > self._connection_options.max_packet_size:
            raise self._too_large(workload)
        return workload

    def stream(
        self, function: str | bytes, workload: bytes = b"", **options: Unpack[TaskOptions]
    ) -> AsyncGenerator[bytes, None]:
        """Submit a foreground job, and iterate over its data as the worker sends it.

        ::

            async for chunk in client.stream("log", b"today"):
                ...

        If the loop is slower than the worker, chunks are buffered. Once there is a megabyte of them, the client reads
        no more of this stream. That stops nothing else, since each stream has a connection to itself while it runs.
        The connection is kept for the next stream, and closed after half a minute without one.

        The worker is not slowed: servers accept all that it sends, without limit, and hold what the client has not
        read (C5). Where that may be more than the server has memory for, have the client submit a task for each part.
        Leaving the loop early cancels the task, as for `map`.

        :param options: those of `add_task` except ``on_data``. With ``retries``, chunks may be repeated.
        :return: an async iterator of the data of each WORK_DATA, and of the WORK_COMPLETE unless that is empty. It
            raises the error that the task fails with, after the chunks that came before. The task is submitted when the
            first chunk is asked for.
        :raises TypeError, ValueError: an argument is invalid; nothing is sent.
        """
        self._check_thread()
        _check_options(options)
        task = Task(function, workload, False, **options)
        # An invalid argument raises here, not in the loop.
        if len(task._workload) > self._connection_options.max_packet_size:
            raise self._too_large(task._workload)
        task._leading_arguments_with(self._prefix)
        return Stream(task).chunks(self.submit)

    @overload
    def function(
        self,
        name: str | bytes,
        *,
        encode: Callable[[RequestT], bytes],
        decode: Callable[[bytes], ResultT],
        **options: Unpack[TaskOptions],
    ) -> RemoteFunction[RequestT, ResultT]: ...
    @overload
    def function(
        self, name: str | bytes, *, encode: Callable[[RequestT], bytes], **options: Unpack[TaskOptions]
    ) -> RemoteFunction[RequestT, bytes]: ...
    @overload
    def function(
        self, name: str | bytes, *, decode: Callable[[bytes], ResultT], **options: Unpack[TaskOptions]
    ) -> RemoteFunction[bytes, ResultT]: ...
    @overload
    def function(self, name: str | bytes, **options: Unpack[TaskOptions]) -> RemoteFunction[bytes, bytes]: ...
    def function(
        self,
        name: str | bytes,
        *,
        encode: Callable[[RequestT], bytes] | None = None,
        decode: Callable[[bytes], ResultT] | None = None,
        **options: Unpack[TaskOptions],
    ) -> RemoteFunction[RequestT, ResultT] | RemoteFunction[bytes, bytes]:
        """Return a function of workers as a callable with types of its own. Can be called in any thread.

        ::

            resize = client.function("resize", encode=json_bytes, decode=json.loads, timeout=30)
            size = await resize({"width": 100})

        :param name: the function's name, without the client's prefix.
        :param encode: makes the workload of a request. None if requests are bytes.
        :param decode: makes a result of its bytes. None if results are bytes.
        :param options: those of `add_task`, for each call.
        :raises TypeError, ValueError: an argument is invalid.
        """
        _check_options(options)
        return RemoteFunction(self, name, encode, decode, options)

    # Queries.

    def get_status(self, handle: JobHandle) -> Deferred[JobStatus]:
        """Ask the server of a job for its status.

        :return: fires with the status. Fails with `NoServersAvailable` if the server can't be reached, or its
            connection is lost before it answers; with `ServerError` if the server refuses; with `ClientStopped`.
            Cancelling it only ignores the server's answer.
        :raises TypeError: `handle` is not a `JobHandle`.
        :raises ValueError: the handle names a server that is not one of this client's, is empty, or is longer than any
            server's.
        """
        self._check_thread()
        _check_handle(handle)
        name = name_bytes("handle", handle.handle, MAX_HANDLE)
        if not name:
            raise ValueError("handle must not be empty")
        return self._status(GET_STATUS, name, STATUS_RES, [self._servers.by_address(handle.server)])

    def get_status_unique(self, unique: str | bytes) -> Deferred[JobStatus]:
        """Ask for the status of the job with a unique, on the server that tasks with this unique go to.

        If jobs of several functions have the unique, the server reports one of them. gearmand supports this query,
        geard does not.

        :return: as for `get_status`; also fails with `RequestUnsupported`.
        :raises ValueError: the unique is empty or ``"-"``, which identify no job, or can't be sent.
        """
        self._check_thread()
        name = name_bytes("unique", unique, MAX_UNIQUE)
        if name in (b"", b"-"):
            raise ValueError(f"unique must identify a job, not be {quoted(name)}")
        return self._status(GET_STATUS_UNIQUE, name, STATUS_RES_UNIQUE, self._servers.ranked(name))

    @inlineCallbacks
    def _status(
        self, query: PacketType, subject: bytes, answer: PacketType, servers: list[JobServer[GearmanClientProtocol]]
    ) -> Generator[Deferred[list[bytes]], list[bytes], JobStatus]:
        """Query the first of `servers` that can be reached."""
        if not self._use():
            raise ClientStopped()
        errors: list[NoServersAvailable] = []
        for server in servers:
            try:
                arguments = yield server.ask(query, subject, answer=answer, subject=subject)
            except NoServersAvailable as error:
                errors.append(error)
            else:
                known, running, *numbers = map(whole_number, arguments[1:])
                return JobStatus(bool(known), bool(running), *numbers)
        raise merge_unavailable(errors)

    def echo(self, data: bytes = b"") -> Deferred[dict[str, float]]:
        """Measure the round trip to each server that is connected, or whose first connection attempt is under way.

        geard leaves an ECHO_REQ unanswered (H6); for it, the answer to the request that follows counts.

        :return: fires with the seconds that each server took, by address, without those that could not be reached.
            Fails with `NoServersAvailable` if none could be, or with `ClientStopped`. Cancelling it only ignores the
            answers.
        :raises TypeError, ValueError: `data` is not bytes, or exceeds ``max_packet_size``.
        """
        self._check_thread()
        if not isinstance(data, bytes):
            raise TypeError(f"data must be bytes, not {type(data).__name__}")
        if len(data) > self._connection_options.max_packet_size:
            most = self._connection_options.max_packet_size
            raise ValueError(f"data must have max_packet_size={most} bytes at most, not {len(data)}")
        return self._echo(data)

    @inlineCallbacks
    def _echo(self, data: bytes) -> Generator[Deferred[list[None]], object, dict[str, float]]:
        if not self._use():
            raise ClientStopped()
        seconds: dict[str, float] = {}
        errors: list[NoServersAvailable] = []
        trips = [self._round_trip(server, data, seconds, errors) for server in self._servers]
        try:
            yield gatherResults(trips, consumeErrors=True)
        except FirstError as error:
            error.subFailure.raiseException()
        if not seconds:
            raise merge_unavailable(errors)
        return seconds

    @inlineCallbacks
    def _round_trip(
        self,
        server: JobServer[GearmanClientProtocol],
        data: bytes,
        seconds: dict[str, float],
        errors: list[NoServersAvailable],
    ) -> Generator[Deferred[GearmanClientProtocol] | Deferred[list[bytes]], object, None]:
        try:
            yield server.when_ready()
            start = self._reactor.seconds()
            yield server.ask(ECHO_REQ, data, answer=ECHO_RES)
        except NoServersAvailable as error:
            errors.append(error)
            return
        except RequestUnsupported:
            pass  # the fence after the request was answered
        seconds[server.address] = self._reactor.seconds() - start

    # Stopping.

    def _disconnect(self) -> Deferred[None]:
        closed = self._canceller.stop()
        return self._dispatcher.stop().addCallback(lambda _: closed)

    def drain(self) -> Deferred[None]:
        """Wait until every task has its outcome, including those submitted meanwhile.

        :return: fires when no task is unfinished; at once if none is. Cancelling it only ends the wait.
        """
        self._check_thread()
        return self._dispatcher.drain()


def _check_options(options: TaskOptions | BackgroundOptions) -> None:
    """Say what to call instead of passing ``background``, which the methods know."""
    if "background" in options:
        raise TypeError(
            "background must be left out: add_task() submits a foreground job, add_task_bg() a background one"
        ) from None


def _check_handle(handle: JobHandle) -> None:
    if not isinstance(handle, JobHandle):
        raise TypeError(f"handle must be a JobHandle, not {type(handle).__name__}; see JobHandle.from_string()")
