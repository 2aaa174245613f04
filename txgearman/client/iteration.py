"""The async iterators behind `GearmanClient.map` and `GearmanClient.stream`.

Both are async generators that await nothing while they are closed. So a loop that is left early cancels its tasks at
once, whoever closes the generator.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Final, TypeVar

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure

from ..connection.waiters import Waiters
from .protocol import ConnectionTasks
from .task import Task, TaskResult

__all__ = ["STREAM_BUFFER", "Stream", "map_workloads"]

T = TypeVar("T")

STREAM_BUFFER: Final = 1024 * 1024
"""Bytes of chunks to buffer before reading from the server is paused."""


def cancel_all(deferreds: Iterable[Deferred[T]]) -> None:
    """Cancel these Deferreds and ignore how they end.

    The newest is cancelled first: else the end of one task would admit the next one, which would then be sent.
    """
    for deferred in reversed(list(deferreds)):
        deferred.addErrback(lambda _: None)
        deferred.cancel()


def map_workloads(
    submit: Callable[[bytes], Deferred[bytes]],
    workloads: Iterable[bytes] | AsyncIterable[bytes],
    concurrency: int,
) -> AsyncGenerator[bytes, None]:
    """Return an async generator of the results of all workloads, in order.

    :param concurrency: maximum number of tasks that are in flight, or done and not yet yielded.
    :raises TypeError: the workloads are not iterable.
    """
    if isinstance(workloads, AsyncIterable):
        return _AsyncMap(submit, workloads, concurrency).results()
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
    """A task of an `_AsyncMap`, and its outcome."""

    __slots__ = ("deferred", "outcome")

    def __init__(self) -> None:
        self.deferred: Deferred[None] | None = None
        self.outcome: bytes | Failure | None = None


class _AsyncMap:
    """Maps workloads that arrive asynchronously: a result does not wait for the next workload."""

    def __init__(
        self, submit: Callable[[bytes], Deferred[bytes]], workloads: AsyncIterable[bytes], concurrency: int
    ) -> None:
        self._submit = submit
        self._workloads = workloads
        self._concurrency = concurrency
        self._window: deque[_Slot] = deque()
        self._next_workload: Deferred[bytes] | None = None
        self._end: Failure | bool = False  # of the workloads
        self._changed: Waiters[None] = Waiters()

    async def results(self) -> AsyncGenerator[bytes, None]:
        workloads = aiter(self._workloads)
        try:
            while self._fill_window(workloads) or self._window:
                if self._window and self._window[0].outcome is not None:
                    yield _result(self._window.popleft().outcome)
                else:
                    await self._changed.wait()
            if isinstance(self._end, Failure):
                self._end.raiseException()
        finally:
            self._end = True  # a workload that still arrives is not sent
            cancel_all(slot.deferred for slot in self._window if slot.deferred is not None)
            if self._next_workload is not None:
                cancel_all([self._next_workload])

    def _fill_window(self, workloads: AsyncIterator[bytes]) -> bool:
        """Request workloads while the window has a free slot and they arrive at once; whether there may be more."""
        while not self._end and self._next_workload is None and len(self._window) < self._concurrency:
            next_workload = self._next_workload = ensureDeferred(_next(workloads))
            next_workload.addCallback(self._workload_received).addErrback(self._workloads_ended)
        return not self._end

    def _workload_received(self, workload: bytes) -> None:
        if self._end:
            return
        self._next_workload = None
        slot = _Slot()
        deferred = self._submit(workload)
        self._window.append(slot)
        slot.deferred = deferred.addBoth(self._task_ended, slot)
        self._changed.fire(None)

    def _task_ended(self, outcome: bytes | Failure, slot: _Slot) -> None:
        slot.outcome = outcome
        self._changed.fire(None)

    def _workloads_ended(self, failure: Failure) -> None:
        self._next_workload = None
        self._end = failure if failure.check(StopAsyncIteration) is None else True
        self._changed.fire(None)


async def _next(workloads: AsyncIterator[bytes]) -> bytes:
    return await anext(workloads)


def _result(outcome: TaskResult | Failure | None) -> bytes:
    if isinstance(outcome, Failure):
        outcome.raiseException()
    assert isinstance(outcome, bytes)
    return outcome


class Stream:
    """The data of one task, in chunks.

    :ivar task: the task.
    """

    def __init__(self, task: Task) -> None:
        """
        :param task: a foreground task, not yet submitted. The stream sets its ``on_data``.
        :raises TypeError: the task has an ``on_data`` already.
        """
        if task._options.on_data is not None:
            raise TypeError("on_data must be None for a stream: iterate over its chunks instead")
        self.task = task
        task._options = task._options._replace(on_data=self._data_received, streamed=True)
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._changed: Waiters[None] = Waiters()
        self._outcome: TaskResult | Failure | None = None
        self._paused: ConnectionTasks | None = None  # the connection on which the task is held

    async def chunks(self, submit: Callable[[Task], Deferred[TaskResult]]) -> AsyncGenerator[bytes, None]:
        """Submit the task, and yield its chunks."""
        deferred = submit(self.task)
        deferred.addBoth(self._task_ended)
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
            self._resume()
            cancel_all([deferred])

    def _data_received(self, task: Task, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        if self._size > STREAM_BUFFER:
            self._pause(task)
        self._changed.fire(None)

    def _take(self) -> bytes:
        chunk = self._chunks.popleft()
        self._size -= len(chunk)
        if self._size <= STREAM_BUFFER:
            self._resume()
        return chunk

    def _pause(self, task: Task) -> None:
        connection = task._holder
        assert isinstance(connection, ConnectionTasks)
        if connection is not self._paused:  # which is the connection of an earlier attempt
            self._resume()
        self._paused = connection
        connection.hold(task)

    def _resume(self) -> None:
        connection, self._paused = self._paused, None
        if connection is not None:
            connection.release(self.task)

    def _task_ended(self, outcome: TaskResult | Failure) -> None:
        self._outcome = outcome
        self._resume()
        self._changed.fire(None)
