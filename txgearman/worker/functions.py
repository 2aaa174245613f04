"""Registered functions, and what becomes of what they return."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import aclosing, closing
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool

from .job import Job

__all__ = [
    "Function",
]


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
