"""`GearmanWorker`: what a worker's author sees.

**No job is asked for that could not start at once.** Each request for a job holds a slot of ``max_jobs``, which its job
then takes over. Where there are fewer slots than servers, the servers take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, DeferredList, TimeoutError
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..connection.addresses import Address
from ..connection.options import CONNECT_TIMEOUT, SERVER_TIMEOUT, ConnectionOptions
from ..connection.pool import ServerInfo, ServerPool
from ..connection.protocol import CLOSE_TIMEOUT
from ..connection.reactor import Reactor, ThreadedReactor
from ..connection.tls import TLSOptions
from ..errors import JobEnded, JobFailed
from ..packets import MAX_PACKET_SIZE
from ..service import GearmanService
from ..validation import MAX_FUNCTION, check_count, function_bytes, name_bytes, positive_seconds
from .functions import Function
from .groups import Post, Quota, cancel_timer
from .job import Job
from .protocol import GearmanWorkerFactory, GearmanWorkerProtocol

__all__ = ["GearmanWorker", "format_exception"]

_log = Logger()

MAX_CLIENT_ID: Final = 127
"""Bytes; gearmand keeps no more."""

POLL_INTERVAL: Final = 10.0
"""Seconds after which a sleeping worker looks by itself."""

DRAIN_TIMEOUT: Final = 30.0
"""Seconds that running jobs get when the worker is stopped."""


def format_exception(failure: Failure) -> bytes:
    """What is sent of an exception, unless the worker has a formatter of its own: its type and its text."""
    assert failure.type is not None
    return f"{failure.type.__name__}: {failure.getErrorMessage()}".encode("utf-8", "backslashreplace")


class GearmanWorker(GearmanService):
    """Does jobs, for one or more job servers.

    ::

        worker = GearmanWorker(["10.0.0.1", "10.0.0.2"], max_jobs=10)
        worker.register_function("reverse", lambda job: job.workload[::-1])
        worker.startService()

    It is an `IService`, and an async context manager that starts and stops it. Connections that fail are made again
    after half a second to half a minute, and its functions are then registered again; one server that is down does
    not stop the others.

    **A function** gets a `Job`. It returns the result as bytes, or None for an empty one; or a Deferred, a coroutine,
    or a generator or async generator, whose chunks are sent as WORK_DATA. What it raises is logged, and sent as
    WORK_EXCEPTION; `JobFailed` makes the job fail without one.

    **Twice.** A job whose connection is lost is given to another worker, as often as the server's settings allow; so
    any job may be done twice, or be done in part before. Here its Deferred or coroutine is cancelled.
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
        drain_timeout: float = DRAIN_TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        server_timeout: float = SERVER_TIMEOUT,
        heartbeat: float | None = None,
        max_packet_size: int = MAX_PACKET_SIZE,
        tls: TLSOptions | None = None,
    ) -> None:
        """
        :param job_servers: as `GearmanClient` has them.
        :param prefix: joined to each function's name with a TAB, as clients with that prefix do.
        :param client_id: names the worker in what administrators see; up to 127 bytes.
        :param max_jobs: how many jobs run at a time, of all functions and servers together.
        :param reactor: None for the global one.
        :param format_exception: makes what is sent of an exception. By default, its type and text, and no traceback.
            None makes it a failure without one: for clients that have not asked for exceptions, and that don't
            recognize the WORK_FAIL by which gearmand tells them of one (M1). Those on libgearman wait for
            ever, those on python-gearman end by a ``KeyError``.
        :param poll_interval: seconds after which a sleeping worker looks by itself whether there is a job. gearmand
            1.1 does not wake it for a job whose time (``at=``) has come, so such a job starts so much later at most.
        :param drain_timeout: seconds that running jobs get to end when the worker is stopped; 0 for none.
        :param connect_timeout: seconds that an attempt to connect may take, up to the server's first answer.
        :param server_timeout: seconds that a server may owe answers, such as that to a request for a job, and give
            none; then its connection is dropped.
        :param heartbeat: seconds of silence after which a server is asked whether it is there. If it says nothing for
            as long again, its connection is dropped. None: it is not asked, and a worker that sleeps at a half-open
            connection finds out when it looks by itself.
        :param max_packet_size: bytes that the body of a packet from a server may have.
        :param tls: as `GearmanClient` has it.
        :raises TypeError, ValueError: for an argument that can't be meant.
        """
        connection_options = ConnectionOptions(
            connect_timeout, server_timeout, heartbeat, max_packet_size=max_packet_size
        )
        super().__init__(prefix, reactor, connection_options)
        self.client_id = name_bytes("client_id", client_id, MAX_CLIENT_ID)
        check_count("max_jobs", max_jobs)
        self._max_jobs = max_jobs
        self._format_exception = format_exception
        self._poll_interval = positive_seconds("poll_interval", poll_interval)
        self.drain_timeout = drain_timeout if drain_timeout == 0 else positive_seconds("drain_timeout", drain_timeout)
        # An address is read once for each post; a generator could be read but once.
        self._job_servers = job_servers if isinstance(job_servers, (str, bytes)) else list(job_servers)
        self._tls = tls
        self._functions: dict[bytes, Function] = {}
        self._running: dict[Job, tuple[Post, Function]] = {}
        self.busy = 0
        self._asked = 0
        self._main = Post(self, [])
        self._limited: dict[bytes, Post] = {}
        # Those that are being left, with the timer that ends it.
        self._leaving: dict[Post, IDelayedCall | None] = {}
        self._started = False
        self._has_threads = False
        self._poll: IDelayedCall | None = None

    # Functions.

    def register_function(
        self,
        name: str | bytes,
        function: Callable[[Job], Any],
        *,
        timeout: float | None = None,
        threaded: bool = False,
        max_jobs: int | None = None,
    ) -> None:
        """Offer a function. Before the start, or at any time after it.

        :param name: without the worker's prefix; a `str` is sent as UTF-8.
        :param function: called with a `Job`; see the class for what it may return.
        :param timeout: seconds that one job may take. Then it is cancelled here, and fails with a `TimeoutError` as
            exception; a thread can't be cancelled, but its job fails. The server is told as well, with a few seconds
            more, for a worker that hangs as a whole: perl's server then fails the job; gearmand gives it to another,
            but only where the worker has no free slot (``max_jobs``) and so does not wait for a job; geard can't.
        :param threaded: run it in the reactor's thread pool: for code that blocks.
        :param max_jobs: how many of its jobs may run at a time, within the worker's ``max_jobs``. Such a function has
            connections of its own.
        :raises TypeError, ValueError: for an argument that can't be meant, or a name that is registered already.
        """
        wire_name = self._prefix + function_bytes(name)
        if len(wire_name) > MAX_FUNCTION:
            raise ValueError(f"function must have {MAX_FUNCTION} bytes at most with its prefix, not {len(wire_name)}")
        if wire_name in self._functions:
            raise ValueError(f"function {name!r} is registered already")
        if not callable(function):
            raise TypeError(f"function must be callable, not {function!r}")
        if timeout is not None:
            positive_seconds("timeout", timeout)
        if max_jobs is not None:
            check_count("max_jobs", max_jobs)
        if threaded:
            self._grow_thread_pool()
        self._functions[wire_name] = registered = Function(
            name, wire_name, function, timeout=timeout, threaded=threaded, max_jobs=max_jobs
        )
        if max_jobs is not None:
            post = self._limited[wire_name] = Post(self, [registered], self._quota(wire_name, max_jobs))
            self._open(post)
        else:
            self._main.add(registered)
            self.fill()

    def unregister_function(self, name: str | bytes) -> None:
        """Offer a function no more. Its jobs that run go on.

        :raises ValueError: it is not registered.
        """
        wire_name = self._prefix + function_bytes(name)
        function = self._functions.pop(wire_name, None)
        if function is None:
            raise ValueError(f"function {name!r} is not registered")
        if wire_name in self._limited:
            self._leave(self._limited.pop(wire_name))
        elif not self._main.remove(function):
            # gearmand would take its running jobs away. Those end on the old connections; new ones are without it.
            self._leave(self._main)
            self._main = self._new_main()
            self._open(self._main)

    def _quota(self, wire_name: bytes, limit: int) -> Quota:
        """The quota of a function: that of its jobs that run still, if it was registered before."""
        for post in self._leaving:
            if post.quota is not None and wire_name in post.functions:
                post.quota.limit = limit
                return post.quota
        return Quota(limit)

    def _grow_thread_pool(self) -> None:
        """Each job must start at once, and others, such as the resolver of names, need threads as well."""
        if not isinstance(self._reactor, ThreadedReactor):
            raise ValueError("threaded needs a reactor that has threads")
        if not self._has_threads:
            self._has_threads = True
            self._reactor.suggestThreadPoolSize(self._reactor.getThreadPool().max + self._max_jobs)

    def _new_main(self) -> Post:
        return Post(self, [function for function in self._functions.values() if function.max_jobs is None])

    @property
    def job_servers(self) -> list[Address]:
        """The addresses of the job servers. Others may be set at any time.

        New servers are connected. Of those that are no longer there no more jobs are taken; the jobs that run are
        finished, and then they are disconnected.

        :raises TypeError, ValueError: when set to what can't be read; then nothing is changed.
        """
        return list(self._main.servers.addresses)

    @job_servers.setter
    def job_servers(self, job_servers: Iterable[Address]) -> None:
        addresses = job_servers if isinstance(job_servers, (str, bytes)) else list(job_servers)
        for post in self._posts():  # the first refuses what can't be read
            post.servers.change(addresses, max(self.drain_timeout, CLOSE_TIMEOUT))
        self._job_servers = addresses

    @property
    def servers(self) -> list[ServerInfo]:
        """How each job server is, in the order of ``job_servers``. ``in_flight`` is how many jobs from it run."""
        infos = [server.info() for server in self._main.servers]
        for post in [*self._limited.values(), *self._leaving]:
            others = (server.info().in_flight for server in post.servers)
            infos = [replace(info, in_flight=info.in_flight + more) for info, more in zip(infos, others, strict=True)]
        return infos

    # Starting and stopping.

    def startService(self) -> None:
        """Connect, and take jobs. After `stopService`, too."""
        super().startService()
        if not self._started:
            self._started = True
            for post in self._posts():
                self._open(post)
            self._poll = self._reactor.callLater(self._poll_interval, self._look_around)

    def stopService(self) -> Deferred[Any]:
        """Take no more jobs, let those that run end, and disconnect.

        What still runs after ``drain_timeout`` seconds is cancelled; its server gives it to another worker (geard and
        perl's server fail it). May be called at any time, and again.

        :return: fires when no socket, timer or reader of the worker is left. Cancelled, the worker stops all the same.
        """
        super().stopService()
        if self._started:
            self._started = False
            cancel_timer(self._poll)
            self._poll = None
            posts = list(self._posts())
            self._main = self._new_main()
            for wire_name, post in self._limited.items():
                self._limited[wire_name] = Post(self, post.functions.values(), post.quota)
            for post in posts:
                self._leave(post)
            for post, deadline in self._leaving.items():
                self._leaving[post] = deadline or self._reactor.callLater(self.drain_timeout, self._hurry, post)
        # Those only that are there by now: after another start, more may be left that this stop is not about.
        waiting = DeferredList([post.when_stopped() for post in self._leaving])
        stopped: Deferred[None] = Deferred(lambda _: None)
        waiting.addCallback(lambda _: None if stopped.called else stopped.callback(None))
        return stopped

    def _hurry(self, post: Post) -> None:
        self._leaving[post] = None
        for job, (of, _) in list(self._running.items()):
            if of is post:
                self.abandon(job, "the worker was stopped")
        post.stop()

    def _posts(self) -> list[Post]:
        return [self._main, *self._limited.values()]

    def _open(self, post: Post) -> None:
        if self._started:
            post.servers.start()

    def _leave(self, post: Post) -> None:
        self._leaving[post] = None
        post.retire().addCallback(self._left, post)

    def _left(self, _: None, post: Post) -> None:
        cancel_timer(self._leaving.pop(post))

    def servers_for(self, post: Post) -> ServerPool[GearmanWorkerProtocol]:
        """For a post: the servers, with connections that are told to it."""
        make_factory = partial(
            GearmanWorkerFactory, self._reactor, receiver=post, connection_options=self._connection_options
        )
        timeout = self._connection_options.connect_timeout
        return ServerPool(self._job_servers, self._reactor, make_factory, lambda: None, timeout, self._tls)

    # Whose turn it is.

    def fill(self) -> None:
        """For the posts: ask for as many jobs as there are free slots, where there may be some."""
        while self._started and self.busy < self._max_jobs:
            connection = self._next_connection()
            if connection is None:
                return
            self._asked += 1
            self.busy += 1
            connection.factory.receiver.ask(connection, self._asked)

    def _next_connection(self) -> Any:
        """The connection that is asked next."""
        asked, chosen = self._asked + 1, None
        for post in self._posts():
            for connection, turn in post.turns.items():
                if turn.asked < asked and post.may_be_asked(connection, turn):
                    asked, chosen = turn.asked, connection
        return chosen

    def _look_around(self) -> None:
        self._poll = self._reactor.callLater(self._poll_interval, self._look_around)
        for post in self._posts():
            post.look_at_sleeping()
        self.fill()

    # Jobs.

    def perform(self, post: Post, function: Function, job: Job) -> None:
        """For the posts: do a job."""
        self._running[job] = post, function
        if function.timeout is not None:
            job.timer = self._reactor.callLater(function.timeout, self._time_out, job, function.timeout)
        try:
            result = function.start(job, self._reactor)
        except BaseException:  # as in a Deferred: whatever it raises is what has become of the job
            result = Failure()
        if isinstance(result, Deferred):
            job.deferred = result
            result.addBoth(self._finish, post, job)
        else:
            self._finish(result, post, job)

    def _finish(self, result: Any, post: Post, job: Job) -> Any:
        """A function has done what it does.

        :return: the result, for the author's other uses of the Deferred; what failed is dealt with.
        """
        del self._running[job]
        shared = self._is_shared(job)
        job.deferred = None
        cancel_timer(job.timer)
        job.timer = None
        if not job.ended:
            self._end(job, result)
        elif isinstance(result, Failure) and not result.check(CancelledError):
            _log.failure("{job}: after its end ({ended})", result, job=job, ended=job.ended)
        post.slot_free()
        self.fill()
        post.job_done(job.connection)
        return None if isinstance(result, Failure) and not shared else result

    def _is_shared(self, job: Job) -> bool:
        """Whether the Deferred that its function has returned is that of another job, too, which goes on."""
        return job.deferred is not None and any(
            other.deferred is job.deferred for other in self._running if other is not job
        )

    def _end(self, job: Job, result: Any) -> None:
        """Tell what a function returned."""
        if not isinstance(result, Failure):
            try:
                job.complete(b"" if result is None else result)
                return
            except JobEnded:  # a thread was faster
                return
            except Exception:  # it is no result
                result = Failure()
        if result.check(JobFailed):
            _log.info("{job}: {reason}", job=job, reason=result.getErrorMessage())
            job.fail()
        else:
            _log.failure("{job} failed", result, job=job)
            self._send_exception(job, result)

    def _send_exception(self, job: Job, failure: Failure) -> None:
        try:
            data = self._format_exception(failure)
            if data is None:
                job.fail()
            else:
                job.send_exception(data)
        except JobEnded:
            pass  # a thread was faster
        except BaseException:  # it is the user's formatter; the job must have an end all the same
            _log.failure("format_exception failed")
            assert failure.type is not None
            with suppress(JobEnded):
                job.send_exception(failure.type.__name__.encode())  # the text may be what it was to hide

    def _time_out(self, job: Job, seconds: float) -> None:
        job.timer = None
        if not job.ended:
            _log.warn("{job} took longer than {seconds} seconds", job=job, seconds=seconds)
            self._send_exception(job, Failure(TimeoutError(f"it took longer than {seconds} seconds")))
            job._close("it timed out")
            self._running[job][0].job_done(job.connection)
        self._cancel(job)

    def abandon(self, job: Job, why: str) -> None:
        """For the posts: nobody waits for the result any more."""
        cancel_timer(job.timer)
        job.timer = None
        job._close(why)
        self._cancel(job)

    def _cancel(self, job: Job) -> None:
        # A thread can't be cancelled, and has its slot until it ends; so has a job whose Deferred is another's, too.
        deferred = job.deferred
        if deferred is None or self._running[job][1].threaded or self._is_shared(job):
            return
        try:
            deferred.cancel()
        except BaseException:  # it is the author's canceller, after which Twisted leaves the Deferred as it is
            _log.failure("{job}: its Deferred can't be cancelled", job=job)
            if not deferred.called:
                deferred.errback(CancelledError())
