"""`GearmanWorker`: the API of a worker."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Generator, Iterable
from functools import partial
from typing import Final, ParamSpec, TypeVar, overload
from typing import Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ..connection.addresses import Address
from ..connection.awaitable import AwaitableDeferred
from ..connection.options import CONNECT_TIMEOUT, HEARTBEAT, SERVER_TIMEOUT, ConnectionOptions
from ..connection.pool import ServerInfo, ServerPool
from ..connection.reactor import Reactor, ThreadedReactor
from ..connection.tls import TLSOptions
from ..observers import PROCESS_OBSERVERS, as_observers
from ..packets import MAX_PACKET_SIZE
from ..service import GearmanService, service_repr
from ..validation import (
    MAX_FUNCTION,
    check_callback,
    check_count,
    function_bytes,
    name_bytes,
    positive_seconds,
    quoted,
)
from .functions import Function, typed_call
from .job import Job
from .protocol import GearmanWorkerFactory, GearmanWorkerProtocol, JobReceiver, Registrar
from .scheduler import WorkerScheduler

__all__ = ["GearmanWorker", "format_exception"]

P = ParamSpec("P")
AnyT = TypeVar("AnyT")
RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")
ResultT_contra = TypeVar("ResultT_contra", contravariant=True)
PlainFunctionT = TypeVar("PlainFunctionT", bound=Callable[[Job], object])


class _Decorator(Interface[P, ResultT]):
    """Decorator of functions that return a result, at once, later, or after chunks."""

    @overload
    def __call__(self, function: Callable[P, Awaitable[ResultT]], /) -> Callable[P, Awaitable[ResultT]]: ...
    @overload
    def __call__(
        self, function: Callable[P, Generator[bytes, None, ResultT]], /
    ) -> Callable[P, Generator[bytes, None, ResultT]]: ...
    @overload
    def __call__(self, function: Callable[P, ResultT], /) -> Callable[P, ResultT]: ...


MAX_CLIENT_ID: Final = 127
"""Bytes; gearmand keeps no more."""

POLL_INTERVAL: Final = 10.0
"""Seconds after which a sleeping worker asks for a job by itself."""

DRAIN_TIMEOUT: Final = 30.0
"""Seconds that running jobs get when the worker is stopped."""


def format_exception(failure: Failure) -> bytes:
    """Return what is sent of an exception by default: its type and its text."""
    assert failure.type is not None
    return f"{failure.type.__name__}: {failure.getErrorMessage()}".encode("utf-8", "backslashreplace")


class GearmanWorker(GearmanService):
    """Runs the jobs of one or more job servers.

    ::

        worker = GearmanWorker(["10.0.0.1", "10.0.0.2"], max_jobs=10)
        worker.register_function("reverse", lambda job: job.workload[::-1])
        worker.startService()

    It is an `IService`, and an async context manager that starts and stops it. Connections that fail are made again
    after up to two seconds at first, and up to half a minute later, and the functions are then registered again; a
    server that is down does not stop the others. It is used in the reactor's thread, as a `GearmanClient` is; a `Job`
    can be used in any.

    **A function** gets a `Job`. It returns the result as bytes, or None for an empty one; or a Deferred, a coroutine,
    or a generator or async generator, whose chunks are sent as WORK_DATA. What it raises is logged, and sent as
    WORK_EXCEPTION; `JobFailed` makes the job fail without one.

    **Twice.** If the connection of a job is lost, the server gives the job to another worker, as often as its settings
    allow. So any job may run twice, or may have run in part before. Here its Deferred or coroutine is cancelled.

    :param job_servers: as `GearmanClient` has them.
    :param prefix: joined to each function's name with a TAB, as clients with that prefix do.
    :param client_id: the worker's name in what administrators see; up to 127 bytes.
    :param max_jobs: how many jobs may run at a time, of all functions and servers together.
    :param reactor: None for the global one.
    :param format_exception: makes the data that is sent of an exception; by default, its type and text, and no
        traceback. If it returns None, the job fails without an exception: for clients that have not asked for
        exceptions, and that don't recognize the WORK_FAIL by which gearmand reports one to them (M1). Those on
        libgearman wait for ever, those on python-gearman end by a ``KeyError``.
    :param poll_interval: seconds after which a sleeping worker asks for a job by itself. gearmand 1.1 does not wake
        it for a job whose time (``at=``) has come, so such a job starts so much later at most.
    :param drain_timeout: seconds that running jobs get to end when the worker is stopped; 0 for none, None for no
        limit. Functions in threads (``threaded=True``), which can't be cancelled, have no limit in any case.
    :param connect_timeout: seconds that an attempt to connect may take, up to the server's first answer.
    :param server_timeout: seconds that a server may leave a request unanswered, such as that for a job; then its
        connection is dropped.
    :param heartbeat: seconds of silence after which, at the latest, a server is sent an ECHO_REQ, also while jobs
        run: so no proxy or NAT drops the connection of a worker that sleeps or is busy. If the server sends nothing
        for as long again, its connection is dropped. None disables it; a worker that sleeps at a half-open
        connection then notices at its next poll.
    :param reconnect_delay: as `GearmanClient` has it.
    :param max_packet_size: bytes that the body of a packet from a server may have.
    :param tls: as `GearmanClient` has it.
    :param observers: objects whose methods, those of `Observer`, report jobs and servers.
    :raises TypeError, ValueError: for an invalid argument.
    """

    def __init__(
        self,
        job_servers: Iterable[Address],
        *,
        prefix: str | bytes = "",
        client_id: str | bytes = "",
        max_jobs: int = 10,
        reactor: Reactor | None = None,
        format_exception: Callable[[Failure], bytes | None] = format_exception,
        poll_interval: float = POLL_INTERVAL,
        drain_timeout: float | None = DRAIN_TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        server_timeout: float = SERVER_TIMEOUT,
        heartbeat: float | None = HEARTBEAT,
        reconnect_delay: Callable[[int], float] | None = None,
        max_packet_size: int = MAX_PACKET_SIZE,
        tls: TLSOptions | None = None,
        observers: Iterable[object] = (),
    ) -> None:
        connection_options = ConnectionOptions(
            connect_timeout,
            server_timeout,
            heartbeat,
            max_packet_size=max_packet_size,
            reconnect_delay=reconnect_delay,
        )
        super().__init__(prefix, reactor, connection_options)
        self._client_id = name_bytes("client_id", client_id, MAX_CLIENT_ID)
        self._tls = tls
        self._functions: dict[bytes, Function] = {}
        self._scheduler = WorkerScheduler(
            self._reactor,
            _read_once(job_servers),
            self._make_servers,
            check_count("max_jobs", max_jobs),
            format_exception=format_exception,
            poll_interval=positive_seconds("poll_interval", poll_interval),
            drain_timeout=_check_drain_timeout(drain_timeout),
            observers=as_observers(observers, PROCESS_OBSERVERS),
        )

    def __repr__(self) -> str:
        return service_repr(self, self.servers)

    def _make_servers(
        self, job_servers: Iterable[Address], receiver: JobReceiver, registrar: Registrar
    ) -> ServerPool[GearmanWorkerProtocol]:
        make_factory = partial(
            GearmanWorkerFactory,
            self._reactor,
            receiver=receiver,
            registrar=registrar,
            client_id=self._client_id,
            connection_options=self._connection_options,
            source=self._random,
        )
        return ServerPool(job_servers, self._reactor, make_factory, self._servers_changed, self._tls, self._random)

    def _servers_changed(self, _: object) -> None:
        self._scheduler.servers_changed()

    # Functions.

    def register_function(
        self,
        name: str | bytes,
        function: Callable[[Job], object],
        *,
        timeout: float | None = None,
        threaded: bool = False,
        max_jobs: int | None = None,
    ) -> None:
        """Register a function, before the start or at any time after it.

        :param name: the function's name without the worker's prefix; a `str` is sent as UTF-8.
        :param function: called with a `Job`; see the class for what it may return.
        :param timeout: seconds that one job may take; None for no limit. Then it is cancelled here, and fails with a
            `TimeoutError` as exception; a thread can't be cancelled, but its job fails. The server gets a time-out as
            well, of a few seconds more, for a worker that hangs as a whole: perl's server then fails the job; gearmand
            gives it to another worker, but only where this one has no free slot (``max_jobs``) and so does not wait
            for a job; geard has no such time-out.
        :param threaded: whether to run it in the reactor's thread pool, as code that blocks needs it. While the worker
            runs, the pool's maximum is raised by the worker's ``max_jobs``.
        :param max_jobs: how many of its jobs may run at a time, within the worker's ``max_jobs``; None for no limit of
            its own. A function with a limit has connections of its own.
        :raises TypeError, ValueError: for an invalid argument, or a name that is registered already.
        """
        self._check_thread()
        wire_name = self._prefix + function_bytes(name)
        if len(wire_name) > MAX_FUNCTION:
            raise ValueError(f"function must have {MAX_FUNCTION} bytes at most with its prefix, not {len(wire_name)}")
        if wire_name in self._functions:
            raise ValueError(f"function {quoted(name)} is registered already")
        if not callable(function):
            raise TypeError(f"function must be callable, not {function!r}")
        if timeout is not None:
            positive_seconds("timeout", timeout)
        if max_jobs is not None:
            check_count("max_jobs", max_jobs)
        if threaded and not isinstance(self._reactor, ThreadedReactor):
            raise ValueError("threaded needs a reactor that has threads")
        registered = self._functions[wire_name] = Function(
            name, wire_name, function, timeout=timeout, threaded=threaded, max_jobs=max_jobs
        )
        self._scheduler.add_function(registered)

    @overload
    def function(
        self, name: str | bytes, *, timeout: float | None = ..., threaded: bool = ..., max_jobs: int | None = ...
    ) -> Callable[[PlainFunctionT], PlainFunctionT]: ...
    @overload
    def function(
        self,
        name: str | bytes,
        *,
        encode: Callable[[ResultT], bytes],
        timeout: float | None = ...,
        threaded: bool = ...,
        max_jobs: int | None = ...,
    ) -> _Decorator[[Job], ResultT]: ...
    @overload
    def function(
        self,
        name: str | bytes,
        *,
        decode: Callable[[bytes], RequestT],
        timeout: float | None = ...,
        threaded: bool = ...,
        max_jobs: int | None = ...,
    ) -> Callable[[Callable[[Job, RequestT], AnyT]], Callable[[Job, RequestT], AnyT]]: ...
    @overload
    def function(
        self,
        name: str | bytes,
        *,
        decode: Callable[[bytes], RequestT],
        encode: Callable[[ResultT], bytes],
        timeout: float | None = ...,
        threaded: bool = ...,
        max_jobs: int | None = ...,
    ) -> _Decorator[[Job, RequestT], ResultT]: ...
    def function(
        self,
        name: str | bytes,
        *,
        decode: Callable[[bytes], object] | None = None,
        encode: Callable[[ResultT], bytes] | None = None,
        timeout: float | None = None,
        threaded: bool = False,
        max_jobs: int | None = None,
    ) -> object:
        """Return a decorator that registers a function, and returns it unchanged.

        ::

            @worker.function("resize", decode=Request.from_bytes, encode=Image.to_bytes, timeout=30, max_jobs=2)
            async def resize(job: Job, request: Request) -> Image:
                ...

        :param name: as for `register_function`, like ``timeout``, ``threaded`` and ``max_jobs``.
        :param decode: makes the request of a workload. The function is called with the job and the request. What it
            raises fails the job with a `WorkloadInvalid` as exception. None for a function that takes the job alone.
        :param encode: makes the bytes of what the function returns, at once or later; the chunks of a generator stay as
            they are. None for a function that returns bytes or None.
        :raises TypeError, ValueError: an argument is invalid, or the name is registered already.
        """
        check_callback("decode", decode)
        check_callback("encode", encode)

        def register(function: Callable[..., object]) -> Callable[..., object]:  # type: ignore[explicit-any]  # of any kind
            if not callable(function):
                raise TypeError(f"function must be callable, not {function!r}")
            call = typed_call(name, function, decode, encode)  # type: ignore[arg-type]  # of what the function returns
            self.register_function(name, call, timeout=timeout, threaded=threaded, max_jobs=max_jobs)
            return function

        return register

    def unregister_function(self, name: str | bytes) -> None:
        """Unregister a function. Its jobs that run go on.

        :raises ValueError: it is not registered.
        """
        self._check_thread()
        wire_name = self._prefix + function_bytes(name)
        function = self._functions.pop(wire_name, None)
        if function is None:
            raise ValueError(f"function {quoted(name)} is not registered")
        self._scheduler.remove_function(function)

    @property
    def functions(self) -> tuple[str | bytes, ...]:
        """The names of the registered functions, as they were given, in the order of their registration."""
        return tuple(function.name for function in self._functions.values())

    # Control at run time.

    def pause(self) -> None:
        """Request no more jobs until `resume`. Those that run go on.

        The connections stay, and the functions are unregistered on them, so that servers wake other workers instead,
        and don't count this one. A function whose jobs run is unregistered at a connection when the last of them has
        ended there, since gearmand would take them away. A job that was requested before, or for which a server has
        woken this worker just now, may still come.

        It may be called at any time, also before the start and in a function. A stop and a start don't end the pause.
        Functions that are registered meanwhile are offered at `resume`.
        """
        self._check_thread()
        self._scheduler.pause()

    def resume(self) -> None:
        """End a `pause`: register the functions again, on the same connections, and request jobs."""
        self._check_thread()
        self._scheduler.resume()

    @property
    def paused(self) -> bool:
        """Whether the worker is paused."""
        return self._scheduler.paused

    @property
    def max_jobs(self) -> int:
        """How many jobs may run at a time. Can be set at any time.

        Where more jobs run than a lower number allows, they go on, and none is requested until enough have ended. The
        limits of functions are separate.

        :raises TypeError, ValueError: when set to what is not a positive `int`; then nothing changes. To have none run,
            `pause` the worker.
        """
        return self._scheduler.slots.max_jobs

    @max_jobs.setter
    def max_jobs(self, max_jobs: int) -> None:
        self._check_thread()
        self._scheduler.change_max_jobs(check_count("max_jobs", max_jobs))

    @property
    def running_jobs(self) -> list[Job]:
        """The jobs whose functions run, the oldest first.

        Also those that have ended (`Job.ended`) while their functions go on, such as a thread after a time-out: they
        count for ``max_jobs``.
        """
        return self._scheduler.running_jobs()

    # Servers.

    @property
    def job_servers(self) -> list[Address]:
        """The addresses of the job servers. Others may be set at any time.

        New servers are connected. Those that are no longer among them are asked for no more jobs, and are disconnected
        once the jobs that run have ended.

        :raises TypeError, ValueError: when set to invalid addresses; then nothing is changed.
        """
        return self._scheduler.job_servers

    @job_servers.setter
    def job_servers(self, job_servers: Iterable[Address]) -> None:
        self._check_thread()
        self._scheduler.change_servers(_read_once(job_servers))

    @property
    def servers(self) -> list[ServerInfo]:
        """The state of each job server, in the order of ``job_servers``. ``in_flight`` counts its running jobs."""
        return self._scheduler.server_infos()

    # Starting and stopping.

    def when_ready(self) -> Deferred[None]:
        """Wait until jobs may come: for a service that is to fail at its start.

        :return: fires once each function is registered with a server, which is at once if it is so already; functions
            with a limit of their own have connections of their own. Fails with `NoServersAvailable` once the latest
            attempt to connect to each server has failed; the worker goes on connecting. Fails with `ClientStopped` if
            the worker is stopped, or was not started. Cancelling it only ends the wait.
        """
        self._check_thread()
        return self._scheduler.when_ready()

    def startService(self) -> None:
        """Connect, and request jobs. May be called after `stopService`, too."""
        self._check_thread()
        super().startService()
        self._scheduler.start()

    def stopService(self) -> Deferred[None]:
        """Request no more jobs, let those that run end, and disconnect.

        What still runs after ``drain_timeout`` seconds is cancelled; its server gives it to another worker (geard and
        perl's server fail it). Threads can't be cancelled: their connections stay until they have ended, and their
        results are sent. May be called at any time, and again.

        :return: fires when no socket, timer or reader of the worker is left. If it is cancelled, the worker stops all
            the same.
        """
        self._check_thread()
        super().stopService()
        stopped: Deferred[None] = AwaitableDeferred(lambda _: None)
        self._scheduler.stop().addCallback(lambda _: None if stopped.called else stopped.callback(None))
        return stopped

    def end_drain(self) -> None:
        """Cancel what still runs of a worker that is being stopped, as at the end of ``drain_timeout``.

        It has no effect on a worker that was not stopped, or whose jobs have ended.
        """
        self._check_thread()
        self._scheduler.end_drain()


def _check_drain_timeout(value: float | None) -> float | None:
    if value is not None and not isinstance(value, (int, float)):
        raise TypeError(f"drain_timeout must be a number of seconds, or None for no limit, not {type(value).__name__}")
    if value is not None and not 0 <= value < math.inf:
        raise ValueError(f"drain_timeout must be a number of seconds from 0, or None for no limit, not {value!r}")
    return value


def _read_once(job_servers: Iterable[Address]) -> Iterable[Address]:
    """Return the addresses as a list, since each group reads them; but a `str` as it is, which the first refuses."""
    return job_servers if isinstance(job_servers, (str, bytes)) else list(job_servers)
