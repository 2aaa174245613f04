"""Results as they come: what is behind `GearmanClient.map` and `GearmanClient.stream`.

Both are async generators that await nothing while they are closed, so that a loop which is left early can let go of
what is out at once, whoever closes them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure

from ..connection.waiters import Waiters
from .task import Task

__all__ = ["STREAM_BUFFER", "Stream", "map_workloads"]

STREAM_BUFFER: Final = 1024 * 1024
"""Bytes of chunks that may wait for the caller before nothing more is read."""


def cancel_all(deferreds: Iterable[Deferred[Any]]) -> None:
    """Cancel them; nobody wants to hear of it. The newest first: what waits for a place must not be sent meanwhile."""
    for deferred in reversed(list(deferreds)):
        deferred.addErrback(lambda _: None)
        deferred.cancel()


def map_workloads(
    submit: Callable[[bytes], Deferred[bytes]],
    workloads: Iterable[bytes] | AsyncIterable[bytes],
    concurrency: int,
) -> AsyncGenerator[bytes, None]:
    """The results of all workloads, in order.

    :param concurrency: how many may be out, or done and not gone through.
    :raises TypeError: the workloads can't be gone through.
    """
    if isinstance(workloads, AsyncIterable):
        return _Feed(submit, workloads, concurrency).results()
    if isinstance(workloads, (bytes, str)) or not isinstance(workloads, Iterable):
        raise TypeError(f"workloads must be an iterable of bytes, not {type(workloads).__name__}")
    return _map_iterable(submit, workloads, concurrency)


async def _map_iterable(
    submit: Callable[[bytes], Deferred[bytes]], workloads: Iterable[bytes], concurrency: int
) -> AsyncGenerator[bytes, None]:
    window: deque[Deferred[bytes]] = deque()
    try:
        for workload in workloads:
            window.append(submit(workload))
            if len(window) == concurrency:
                yield await window.popleft()
        while window:
            yield await window.popleft()
    finally:
        cancel_all(window)


class _Slot:
    """One task of a `_Feed`, and what has become of it."""

    __slots__ = ("deferred", "outcome")

    def __init__(self) -> None:
        self.deferred: Deferred[None] | None = None
        self.outcome: bytes | Failure | None = None


class _Feed:
    """Results of workloads that come when they come: a result must not wait for the next workload."""

    def __init__(
        self, submit: Callable[[bytes], Deferred[bytes]], workloads: AsyncIterable[bytes], concurrency: int
    ) -> None:
        self._submit = submit
        self._workloads = workloads
        self._concurrency = concurrency
        self._window: deque[_Slot] = deque()
        self._coming: Deferred[Any] | None = None  # the next workload
        self._end: Failure | bool = False  # of the workloads
        self._changed: Waiters[None] = Waiters()

    async def results(self) -> AsyncGenerator[bytes, None]:
        workloads = aiter(self._workloads)
        try:
            while self._take_what_comes(workloads) or self._window:
                if self._window and self._window[0].outcome is not None:
                    yield _result(self._window.popleft().outcome)
                else:
                    await self._changed.wait()
            if isinstance(self._end, Failure):
                self._end.raiseException()
        finally:
            self._end = True  # a workload that comes all the same is not sent
            out = [self._coming, *(slot.deferred for slot in self._window)]
            cancel_all(deferred for deferred in out if deferred is not None)

    def _take_what_comes(self, workloads: AsyncIterator[bytes]) -> bool:
        """Ask for workloads while the window has a free place and they come at once; whether there may be more."""
        while not self._end and self._coming is None and len(self._window) < self._concurrency:
            coming: Deferred[Any] = ensureDeferred(_next(workloads))
            self._coming = coming
            coming.addCallback(self._came).addErrback(self._ended)
        return not self._end

    def _came(self, workload: bytes) -> None:
        if self._end:
            return
        self._coming = None
        slot = _Slot()
        deferred = self._submit(workload)
        self._window.append(slot)
        slot.deferred = deferred.addBoth(self._done, slot)
        self._changed.fire(None)

    def _done(self, outcome: bytes | Failure, slot: _Slot) -> None:
        slot.outcome = outcome
        self._changed.fire(None)

    def _ended(self, failure: Failure) -> None:
        self._coming = None
        self._end = failure if failure.check(StopAsyncIteration) is None else True
        self._changed.fire(None)


async def _next(workloads: AsyncIterator[bytes]) -> Any:
    return await anext(workloads)


def _result(outcome: bytes | Failure | None) -> bytes:
    if isinstance(outcome, Failure):
        outcome.raiseException()
    assert isinstance(outcome, bytes)
    return outcome


class Stream:
    """The data of one task.

    :ivar task: the task.
    """

    def __init__(self, task: Task) -> None:
        """
        :param task: its ``on_data`` is this from now on.
        :raises TypeError: it has one.
        """
        if task._options.on_data is not None:
            raise TypeError("on_data is what a stream takes for itself: go through its chunks")
        self.task = task
        task._options = task._options._replace(on_data=self._add)
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._changed: Waiters[None] = Waiters()
        self._outcome: bytes | Failure | None = None
        self._connection: Any = None  # that we have told to read nothing more

    async def chunks(self, submit: Callable[[Task], Deferred[bytes]]) -> AsyncGenerator[bytes, None]:
        """Submit the task, and go through its chunks."""
        deferred = submit(self.task)
        deferred.addBoth(self._end)
        try:
            while self._chunks or self._outcome is None:
                if self._chunks:
                    yield self._take()
                else:
                    await self._changed.wait()
            result = _result(self._outcome)
            if result:
                yield result
        finally:
            self._release()
            cancel_all([deferred])

    def _add(self, task: Task, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        if self._size > STREAM_BUFFER:
            if self._connection is not task._holder:  # but that of an attempt before
                self._release()
            self._connection = task._holder
            self._connection.hold(task)
        self._changed.fire(None)

    def _take(self) -> bytes:
        chunk = self._chunks.popleft()
        self._size -= len(chunk)
        if self._size <= STREAM_BUFFER:
            self._release()
        return chunk

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release(self.task)

    def _end(self, outcome: bytes | Failure) -> None:
        self._outcome = outcome
        self._release()
        self._changed.fire(None)
