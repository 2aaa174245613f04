"""What a worker's author sees: `Job`, and what becomes of what a function returns."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import aclosing, closing
from threading import RLock, get_ident
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool

from ..errors import JobEnded
from ..models import JobHandle
from ..validation import MOST_BYTES, payload_bytes

__all__ = ["Function", "Job"]

_ENDING: Final = RLock()  # a thread may come to end one job while it ends another: in a finalizer

MOST_STEPS: Final = 2**32 - 1
"""Of a status: gearmand keeps 32 bits of it (docs/gearman.md §5)."""


class Job:
    """One job, for the function that does it.

    A function may end its job by `complete`, `fail` or `send_exception`, or leave that to what it returns or raises.
    All of these calls are safe from other threads; from there, what is sent goes out a little later.

    :ivar handle: its `JobHandle`: the server's name for it, and the server's; the same that the client has.
    :ivar function: the function's name, as it was registered.
    :ivar workload: the payload.
    :ivar unique: as the client gave it; empty if it gave none.
    :ivar reducer: of a job with a reducer, its name; else empty. Only gearmand tells it.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_ended",
        "_thread",
        "deferred",
        "function",
        "handle",
        "link",
        "reducer",
        "timer",
        "unique",
        "workload",
    )

    def __init__(self, link: Any, function: str | bytes, assignment: Any) -> None:
        """
        :param link: the connection that it came on.
        """
        self.link = link
        """For the worker: the connection that it came on."""
        self._ended = ""  # how, as soon as somebody has said so
        self._closed = False  # whether that has been sent
        self._thread = get_ident()
        self.function = function
        self.handle = JobHandle(link.factory.name, assignment.handle)
        self.workload: bytes = assignment.workload
        self.unique: bytes = assignment.unique
        self.reducer: bytes = assignment.reducer
        # For the worker: what the function has returned, if it takes time, and the timer of its time-out.
        self.deferred: Deferred[Any] | None = None
        self.timer: IDelayedCall | None = None

    def __repr__(self) -> str:
        return f"<Job {self}>"

    def __str__(self) -> str:
        function = (
            self.function if isinstance(self.function, str) else self.function.decode("utf-8", "backslashreplace")
        )
        return f"{function} {self.handle}"

    @property
    def ended(self) -> str:
        """How it has ended, for people; empty while it has not."""
        return self._ended

    def send_data(self, data: bytes) -> None:
        """Send a part of the result, or whatever the function means by it. May be called as often as needed.

        A worker that does the job anew, after this one was lost, sends its parts anew, and the client gets both.

        :raises JobEnded: the job has ended.
        :raises TypeError: it is not bytes.
        :raises ValueError: it is too long for one packet.
        """
        self._send(self.link.work_data, _payload("data", data))

    def send_warning(self, data: bytes) -> None:
        """Send a warning. Raises as `send_data` does."""
        self._send(self.link.work_warning, _payload("data", data))

    def send_status(self, numerator: int, denominator: int) -> None:
        """Tell how far it is. Raises as `send_data` does.

        :param numerator: how much of `denominator` is done; both whole numbers from 0, of up to 32 bits.
        :raises ValueError: it is not.
        """
        for name, number in (("numerator", numerator), ("denominator", denominator)):
            if not isinstance(number, int):
                raise TypeError(f"{name} must be int, not {type(number).__name__}")
            if not 0 <= number <= MOST_STEPS:
                raise ValueError(f"{name} must be from 0 to {MOST_STEPS}, not {number}")
        self._send(self.link.work_status, numerator, denominator)

    def complete(self, result: bytes = b"") -> None:
        """It is done, and this is the result. It is the end of the job. Raises as `send_data` does.

        Should the connection go before the server has it, the server gives the job to another worker, or fails it;
        nobody here is told.
        """
        self._end("it was completed", self.link.work_complete, _payload("result", result))

    def fail(self) -> None:
        """It can't be done; the protocol tells the client no reason. It is the end of the job.

        :raises JobEnded: the job has ended.
        """
        self._end("it has failed", self.link.work_fail)

    def send_exception(self, data: bytes) -> None:
        """It can't be done, and this is why. It is the end of the job. Raises as `send_data` does.

        Clients of gearmand that have not asked for exceptions are told that it failed.
        """
        self._end("its exception was sent", self.link.work_exception, _payload("data", data))

    def when_drained(self) -> Deferred[None]:
        """Await that the server takes what was sent, where it is slow and more is to come.

        :return: fires at once, mostly; also when the connection is lost. Not for other threads.
        """
        drained: Deferred[None] = self.link.when_drained()
        return drained

    def let_go(self, why: str) -> None:
        """For the worker: nothing more can be said of it."""
        self._ended = why
        self._closed = True

    def _send(self, method: Callable[..., None], *arguments: Any) -> None:
        self._check()
        self._in_reactor(self._send_open, method, arguments)

    def _end(self, how: str, method: Callable[..., None], *arguments: Any) -> None:
        with _ENDING:  # two threads may be about to
            self._check()
            self._ended = how
        self._in_reactor(self._send_last, method, arguments)

    def _check(self) -> None:
        if self._ended:
            raise JobEnded(f"{self}: {self._ended}")

    def _in_reactor(self, call: Callable[..., None], *arguments: Any) -> None:
        if get_ident() == self._thread:
            call(*arguments)
        else:
            self.link.factory.reactor.callFromThread(call, *arguments)

    def _send_open(self, method: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        # What a thread said may come here only after the reactor has ended the job.
        if not self._closed:
            method(self.handle.handle, *arguments)

    def _send_last(self, method: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if not self._closed:
            self._closed = True
            method(self.handle.handle, *arguments)


def _payload(name: str, data: bytes) -> bytes:
    payload = payload_bytes(name, data)
    if len(payload) > MOST_BYTES:
        raise ValueError(f"{name} must have {MOST_BYTES} bytes at most, not {len(payload)}")
    return payload


class Function:
    """A function that a worker has registered.

    :ivar name: as it was registered.
    :ivar wire_name: with the prefix.
    :ivar timeout: seconds that a job may take; None for no limit.
    :ivar threaded: whether it runs in a thread.
    :ivar max_jobs: how many of its jobs may run at a time; None for as many as the worker may run.
    """

    def __init__(
        self,
        name: str | bytes,
        wire_name: bytes,
        call: Callable[[Job], Any],
        *,
        timeout: float | None = None,
        threaded: bool = False,
        max_jobs: int | None = None,
    ) -> None:
        self.name = name
        self.wire_name = wire_name
        self.timeout = timeout
        self.max_jobs = max_jobs
        self._call = call
        self.threaded = threaded

    def start(self, job: Job, reactor: Any) -> Any:
        """Do a job.

        :return: the result; or a Deferred that fires with it, if it takes time.
        """
        if self.threaded:
            return deferToThreadPool(reactor, reactor.getThreadPool(), self._call_in_thread, job)
        result: Any = self._call(job)
        if type(result) is bytes:  # in a hurry
            return result
        if inspect.iscoroutine(result):
            return ensureDeferred(_outcome(result))
        if isinstance(result, GeneratorType):
            return ensureDeferred(_send_chunks(job, result, reactor))
        if isinstance(result, AsyncGeneratorType):
            return ensureDeferred(_send_async_chunks(job, result, reactor))
        return result

    def _call_in_thread(self, job: Job) -> Any:
        result: Any = self._call(job)
        if isinstance(result, GeneratorType):
            with closing(result):
                while True:
                    try:
                        job.send_data(next(result))
                    except StopIteration as stop:
                        return stop.value
        if inspect.iscoroutine(result):
            result.close()  # else Python warns that nobody has awaited it
        if isinstance(result, (Deferred, AsyncGeneratorType, CoroutineType)):
            raise TypeError(f"a function that is threaded can't return a {type(result).__name__}")
        return result


async def _outcome(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns; or what that comes to, if it is a Deferred: in older Twisted, it would never fire."""
    result = await coroutine
    return await result if isinstance(result, Deferred) else result


async def _send_chunks(job: Job, chunks: Generator[bytes, None, Any], reactor: Any) -> Any:
    """One chunk in a turn of the reactor, so that others have theirs; and none before the server has taken the last."""
    with closing(chunks):
        while True:
            try:
                chunk = next(chunks)
            except StopIteration as stop:
                return await stop.value if isinstance(stop.value, Deferred) else stop.value
            job.send_data(chunk)
            await deferLater(reactor, 0)
            await job.when_drained()


async def _send_async_chunks(job: Job, chunks: AsyncGenerator[bytes, None], reactor: Any) -> None:
    async with aclosing(chunks):
        async for chunk in chunks:
            job.send_data(chunk)
            await deferLater(reactor, 0)
            await job.when_drained()
