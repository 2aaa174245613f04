"""Registered functions: how one is started, and how what it returns becomes a result."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import aclosing, closing
from contextvars import copy_context
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import cast

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool

from ..connection.reactor import Reactor, ThreadedReactor
from ..errors import WorkloadInvalid
from ..validation import MAX_NAME, short_text
from .job import Job

__all__ = ["Function", "typed_call"]


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
        call: Callable[[Job], object],
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

    def start(self, job: Job, reactor: Reactor) -> object:
        """Start the function for a job.

        :return: the result; or a Deferred that fires with it, if it takes time.
        """
        if self.threaded:
            threads = cast(ThreadedReactor, reactor)  # the registration of the function has checked it
            return deferToThreadPool(threads, threads.getThreadPool(), copy_context().run, self._call_in_thread, job)  # type: ignore[arg-type]  # as in `_next_turn`
        result = self._call(job)
        if type(result) is bytes:  # the usual case needs none of the checks below
            return result
        if inspect.iscoroutine(result):
            return ensureDeferred(_outcome(result))
        if isinstance(result, GeneratorType):
            return ensureDeferred(_send_chunks(job, result, reactor))
        if isinstance(result, AsyncGeneratorType):
            return ensureDeferred(_send_async_chunks(job, result, reactor))
        return result

    def _call_in_thread(self, job: Job) -> object:
        result = self._call(job)
        if isinstance(result, GeneratorType):
            with closing(result):
                while True:
                    try:
                        job.send_data(next(result))
                    except StopIteration as stop:
                        return stop.value
        if inspect.iscoroutine(result):
            result.close()  # else Python warns that it was never awaited
        if isinstance(result, (Deferred, AsyncGeneratorType, CoroutineType)):
            raise TypeError(f"a function that is threaded can't return a {type(result).__name__}")
        return result


def typed_call(  # type: ignore[explicit-any]  # functions of one argument or two
    name: str | bytes,
    function: Callable[..., object],
    decode: Callable[[bytes], object] | None,
    encode: Callable[[object], bytes] | None,
) -> Callable[[Job], object]:
    """Return a function of a job that decodes its workload, and encodes its result.

    :param function: called with the job, and with what `decode` makes of its workload, if that is not None.
    """

    def call(job: Job) -> object:
        if decode is None:
            result = function(job)
        else:
            try:
                request = decode(job.workload)
            except Exception as error:  # whatever it raises, of whatever a client has sent
                text = f"{short_text(name, MAX_NAME)}: invalid workload: {type(error).__name__}: {error}"
                raise WorkloadInvalid(text) from error
            result = function(job, request)
        return result if encode is None else _encoded(result, encode)

    return call


def _encoded(result: object, encode: Callable[[object], bytes]) -> object:
    """Return what a function returned with its result encoded, at once or later."""
    if inspect.iscoroutine(result):
        return _encode_coroutine(result, encode)
    if isinstance(result, Deferred):
        return result.addCallback(encode)
    if isinstance(result, GeneratorType):
        return _encode_generator(result, encode)
    if isinstance(result, AsyncGeneratorType):
        return result  # it has no result
    return encode(result)


async def _encode_coroutine(
    coroutine: Coroutine[Deferred[object], object, object], encode: Callable[[object], bytes]
) -> bytes:
    return encode(await _outcome(coroutine))


def _encode_generator(
    chunks: Generator[bytes, None, object], encode: Callable[[object], bytes]
) -> Generator[bytes, None, object]:
    result = yield from chunks
    return result.addCallback(encode) if isinstance(result, Deferred) else encode(result)


async def _outcome(coroutine: Coroutine[Deferred[object], object, object]) -> object:
    """Await a coroutine, and what it returns if that is a Deferred: older Twisted would not fire with it."""
    try:
        result = await coroutine
    except RuntimeError as error:
        if str(error) == "await wasn't used with future":  # asyncio raises it where Twisted runs what awaits a future
            raise TypeError(
                "a coroutine that awaits what is asyncio's must run as a task of asyncio: "
                "return Deferred.fromFuture(asyncio.ensure_future(coroutine))"
            ) from error
        raise
    return await result if isinstance(result, Deferred) else result


async def _send_chunks(job: Job, chunks: Generator[bytes, None, object], reactor: Reactor) -> object:
    """Send one chunk in a turn of the reactor, so that others have theirs, and only when the last was written."""
    with closing(chunks):
        while True:
            try:
                chunk = next(chunks)
            except StopIteration as stop:
                return await stop.value if isinstance(stop.value, Deferred) else stop.value
            job.send_data(chunk)
            await _next_turn(reactor)
            await job.when_drained()


async def _send_async_chunks(job: Job, chunks: AsyncGenerator[bytes, None], reactor: Reactor) -> None:
    async with aclosing(chunks):
        async for chunk in chunks:
            job.send_data(chunk)
            await _next_turn(reactor)
            await job.when_drained()


def _next_turn(reactor: Reactor) -> Deferred[None]:
    return deferLater(reactor, 0)  # type: ignore[arg-type]  # Twisted declares more than it uses
