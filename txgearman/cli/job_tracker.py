"""Watches the jobs of a worker's functions: which of them run, and how they ended."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from contextlib import aclosing, closing, contextmanager
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..errors import JobFailed
from ..worker.job import Job

__all__ = ["JobTracker"]

_log = Logger()

_OUTCOMES: Final = {
    "": "done",
    "it was completed": "done",
    "it has failed": "failed",
    "its exception was sent": "failed",
    "it timed out": "timed out",
    "the worker was stopped": "cut off",
}
"""Words for how a job ended, by `Job.ended`; for all others, it was lost."""


class _Record:
    """A job that runs.

    :ivar started_at: the reactor's time.
    :ivar sent: bytes that were sent as data and result.
    """

    def __init__(self, started_at: float) -> None:
        self.started_at = started_at
        self.sent = 0


def _do_nothing() -> None:
    pass


class JobTracker:
    """Watches the jobs of functions.

    :ivar on_start: called when a job starts.
    :ivar on_end: called when the function of a job has ended.
    :param threaded: whether the functions are called in threads. `on_start` and `on_end` are then called in a later
        turn of the reactor.
    :param verbose: whether to log a line for each job that has ended.
    """

    def __init__(self, reactor: Any, *, threaded: bool, verbose: bool) -> None:
        self.on_start: Callable[[], None] = _do_nothing
        self.on_end: Callable[[], None] = _do_nothing
        self._reactor = reactor
        self._threaded = threaded
        self._verbose = verbose
        self._records: dict[Job, _Record] = {}

    @property
    def running(self) -> list[Job]:
        """The jobs whose functions run."""
        return list(self._records)

    def data_sent(self, job: Job, size: int) -> None:
        """Count bytes that were sent as data of a job."""
        if job in self._records:
            self._records[job].sent += size

    def watch(self, function: Callable[[Job], object]) -> Callable[[Job], object]:
        """Return a function that does the same, and whose jobs are watched."""

        def call(job: Job) -> object:
            self._records[job] = _Record(self._reactor.seconds())
            self._notify(self.on_start)
            with self._ends(job):
                result = function(job)
            return self._watch_result(job, result)

        return call

    def _watch_result(self, job: Job, result: object) -> object:
        if isinstance(result, GeneratorType):
            return self._watch_generator(job, result)
        if not self._threaded:  # else the library refuses those
            if isinstance(result, Deferred):
                return result.addBoth(self._fired, job)
            if inspect.iscoroutine(result):
                return self._watch_coroutine(job, result)
            if isinstance(result, AsyncGeneratorType):
                return self._watch_async_generator(job, result)
        self._end(job, result)
        return result

    def _fired(self, result: object, job: Job) -> object:
        self._end(job, result.value if isinstance(result, Failure) else result)
        return result

    async def _watch_coroutine(self, job: Job, coroutine: Coroutine[Any, Any, object]) -> object:
        with self._ends(job):
            result = await coroutine
        return self._watch_result(job, result)

    def _watch_generator(self, job: Job, chunks: Generator[bytes, None, object]) -> Generator[bytes, None, object]:
        with self._ends(job), closing(chunks):
            while True:
                try:
                    chunk = next(chunks)
                except StopIteration as stop:
                    result = stop.value
                    break
                self._count(job, chunk)
                yield chunk
        return self._watch_result(job, result)

    async def _watch_async_generator(
        self, job: Job, chunks: AsyncGenerator[bytes, None]
    ) -> AsyncGenerator[bytes, None]:
        with self._ends(job):
            async with aclosing(chunks):
                async for chunk in chunks:
                    self._count(job, chunk)
                    yield chunk
        self._end(job, None)

    @contextmanager
    def _ends(self, job: Job) -> Iterator[None]:
        """Record that the job has ended, if there is an exception."""
        try:
            yield
        except BaseException as error:
            self._end(job, error)
            raise

    def _count(self, job: Job, data: object) -> None:
        if isinstance(data, bytes):  # else the library raises for it
            self.data_sent(job, len(data))

    def _end(self, job: Job, result: object) -> None:
        """Record that the function of a job has ended.

        :param result: what it has returned or raised.
        """
        self._count(job, result)
        record = self._records.pop(job)
        if self._verbose:
            _log.info(
                "{job}: {outcome}, {seconds:.3f} s, {received} bytes in, {sent} bytes out",
                job=str(job),
                outcome=_outcome(job, result),
                seconds=self._reactor.seconds() - record.started_at,
                received=len(job.workload),
                sent=record.sent,
            )
        self._notify(self.on_end)

    def _notify(self, callback: Callable[[], None]) -> None:
        if self._threaded:
            self._reactor.callFromThread(callback)
        else:
            callback()


def _outcome(job: Job, result: object) -> str:
    """Return how a job has ended, in one or two words."""
    if not job.ended and isinstance(result, BaseException):
        return "failed" if isinstance(result, JobFailed) else f"raised {type(result).__name__}"
    return _OUTCOMES.get(job.ended, "lost")
