"""The async iterators behind `GearmanClient.map`, `GearmanClient.as_completed` and `GearmanClient.stream`.

All are async generators that await nothing while they are closed. So a loop that is left early cancels its tasks at
once, no matter who closes the generator.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Final, Generic, TypeVar

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure

from ..connection.awaitable import AwaitableDeferred
from ..connection.waiters import Waiters
from .batches import Batch, BatchResult
from .protocol import ConnectionTasks
from .task import Task, TaskResult

__all__ = ["STREAM_BUFFER", "Stream", "completed_workloads", "map_in_batches", "map_workloads"]

T = TypeVar("T")

STREAM_BUFFER: Final = 1024 * 1024
"""Bytes of chunks to buffer before reading from the server is paused."""

MIN_BATCHED: Final = 8
"""Least concurrency of a map whose jobs are submitted in batches: a batch of one job costs more than a task."""


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
        return _AsyncMap(submit, workloads, concurrency, _result_of, in_order=True).results()
    return _map_iterable(submit, _checked(workloads), concurrency)


def completed_workloads(
    submit: Callable[[bytes], Deferred[bytes]],
    workloads: Iterable[bytes] | AsyncIterable[bytes],
    concurrency: int,
) -> AsyncGenerator[tuple[int, bytes | Exception], None]:
    """Return an async generator of the position and the outcome of each workload, as they come.

    :param concurrency: maximum number of tasks that are in flight, or done and not yet yielded.
    :raises TypeError: the workloads are not iterable.
    """
    if not isinstance(workloads, AsyncIterable):
        _checked(workloads)
    return _AsyncMap(submit, workloads, concurrency, _outcome_of, in_order=False).results()


def _checked(workloads: Iterable[bytes]) -> Iterable[bytes]:
    if isinstance(workloads, (bytes, str)) or not isinstance(workloads, Iterable):
        raise TypeError(f"workloads must be an iterable of bytes, not {type(workloads).__name__}")
    return workloads


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


def map_in_batches(
    submit: Callable[[list[bytes], Batch | None], tuple[Batch, Deferred[BatchResult]]],
    check: Callable[[bytes], bytes],
    workloads: Iterable[bytes],
    concurrency: int,
) -> AsyncGenerator[bytes, None]:
    """Return the same as `map_workloads`, without a task for each workload.

    :param submit: submits workloads, given an earlier batch of the same function if there is one.
    :param check: returns a workload as bytes, or raises if it is invalid.
    :param concurrency: `MIN_BATCHED` or more.
    :raises TypeError: the workloads are not iterable.
    """
    return _BatchedMap(submit, check, _checked(workloads), concurrency).results()


class _BatchedMap:
    """Maps workloads in batches, each of a quarter to a half of those that may be in flight.

    While results are ready, the loop gets them, and what it makes free is submitted together.
    """

    def __init__(
        self,
        submit: Callable[[list[bytes], Batch | None], tuple[Batch, Deferred[BatchResult]]],
        check: Callable[[bytes], bytes],
        workloads: Iterable[bytes],
        concurrency: int,
    ) -> None:
        self._submit = submit
        self._check = check
        self._workloads = workloads
        self._free = concurrency  # how many more may be in flight, or done and not yet yielded
        self._least = concurrency // 4
        self._most = concurrency // 2
        self._window: deque[tuple[Batch, Deferred[BatchResult]]] = deque()
        self._last: Batch | None = None  # of those that were submitted
        self._ended = False  # whether there are no more workloads
        self._place = 0  # of the next result in the first batch of the window, up to which places are free
        self._waiting: Deferred[None] | None = None  # for that result

    async def results(self) -> AsyncGenerator[bytes, None]:
        workloads = iter(self._workloads)
        try:
            self._fill_window(workloads)
            while self._window:
                outcomes = self._window[0][0].outcomes
                place = 0
                for outcome in outcomes:
                    if outcome is None:
                        self._yielded(place)
                        self._fill_window(workloads)
                        while (outcome := outcomes[place]) is None:  # which has come meanwhile
                            await self._change()
                    if not isinstance(outcome, bytes):
                        raise outcome
                    yield outcome
                    place += 1
                self._yielded(place)
                self._window.popleft()
                self._place = 0
                self._fill_window(workloads)
        finally:
            cancel_all(deferred for _, deferred in self._window)

    def _yielded(self, place: int) -> None:
        """Note that the loop has iterated over the results before this place in the first batch."""
        self._free += place - self._place
        self._place = place

    def _change(self) -> Deferred[None]:
        """Wait until there is an outcome in the next place of the first batch."""
        waiting = self._waiting = AwaitableDeferred[None](self._wait_cancelled)
        return waiting

    def _wait_cancelled(self, waiting: Deferred[None]) -> None:
        self._waiting = None

    def _fill_window(self, workloads: Iterator[bytes]) -> None:
        """Submit batches while the window has space for another one, and there are workloads."""
        while self._free >= self._least and not self._ended:
            self._submit_next(workloads, min(self._free, self._most))

    def _submit_next(self, workloads: Iterator[bytes], size: int) -> None:
        """Submit the next batch. If a workload is invalid, or taking it raises, those before it are submitted."""
        batch: list[bytes] = []
        try:
            batch.extend(islice(workloads, size))  # it keeps those before one that raises
        finally:
            self._ended = len(batch) < size
            self._submit_valid(batch)

    def _submit_valid(self, workloads: list[bytes]) -> None:
        """Submit a batch. If a workload is invalid, submit those before it, and raise."""
        try:
            if workloads:
                self._begin(workloads)
        except (TypeError, ValueError):
            valid: list[bytes] = []
            try:
                while True:  # one of them is invalid
                    valid.append(self._check(workloads[len(valid)]))
            finally:
                if valid:
                    self._begin(valid)

    def _begin(self, workloads: list[bytes]) -> None:
        batch, deferred = self._submit(workloads, self._last)
        self._last = batch
        deferred.addErrback(lambda _: None)  # each outcome is looked at in its turn
        batch.watcher = self._outcomes_came
        self._window.append((batch, deferred))
        self._free -= len(workloads)

    def _outcomes_came(self) -> None:
        waiting = self._waiting
        if waiting is not None and self._window[0][0].outcomes[self._place] is not None:
            self._waiting = None
            waiting.callback(None)


class _Slot:
    """A task of an `_AsyncMap`, and its outcome."""

    __slots__ = ("deferred", "outcome", "position")

    def __init__(self, position: int) -> None:
        self.position = position  # of its workload
        self.deferred: Deferred[None] | None = None
        self.outcome: bytes | Failure | None = None


class _AsyncMap(Generic[T]):
    """Maps workloads, which may arrive asynchronously: a result does not wait for the next workload.

    :param result: returns what is yielded for a task that has ended, or raises.
    :param in_order: whether tasks are yielded in the order of the workloads, or else in that of their ends.
    """

    def __init__(
        self,
        submit: Callable[[bytes], Deferred[bytes]],
        workloads: Iterable[bytes] | AsyncIterable[bytes],
        concurrency: int,
        result: Callable[[_Slot], T],
        in_order: bool,
    ) -> None:
        self._submit = submit
        self._workloads = workloads
        self._concurrency = concurrency
        self._result = result
        self._in_order = in_order
        self._slots: dict[_Slot, None] = {}  # in flight, or done and not yet yielded
        self._queue: deque[_Slot] = deque()  # in the order in which they are yielded
        self._position = 0  # of the next workload
        self._next_workload: Deferred[bytes] | None = None
        self._end: Failure | bool = False  # of the workloads
        self._changed: Waiters[None] = Waiters()

    async def results(self) -> AsyncGenerator[T, None]:
        fill_window = self._window_filler()
        try:
            while fill_window() or self._slots:
                if self._queue and self._queue[0].outcome is not None:
                    slot = self._queue.popleft()
                    del self._slots[slot]
                    yield self._result(slot)
                else:
                    await self._changed.wait()
            if isinstance(self._end, Failure):
                self._end.raiseException()
        finally:
            self._end = True  # a workload that still arrives is not sent
            cancel_all(slot.deferred for slot in self._slots if slot.deferred is not None)
            if self._next_workload is not None:
                cancel_all([self._next_workload])

    def _window_filler(self) -> Callable[[], bool]:
        """Return what takes workloads while the window has a free slot, and returns whether there may be more."""
        if isinstance(self._workloads, AsyncIterable):
            return partial(self._request_workloads, aiter(self._workloads))
        return partial(self._take_workloads, iter(self._workloads))

    def _take_workloads(self, workloads: Iterator[bytes]) -> bool:
        """Take workloads of an iterable, without the cost of a Deferred for each."""
        while not self._end and len(self._slots) < self._concurrency:
            try:
                self._workload_received(next(workloads))
            except BaseException:  # as in a Deferred: it is raised once the tasks before have been iterated over
                self._workloads_ended(Failure())
        return not self._end

    def _request_workloads(self, workloads: AsyncIterator[bytes]) -> bool:
        """Request workloads of an async iterable as long as they arrive at once."""
        while not self._end and self._next_workload is None and len(self._slots) < self._concurrency:
            next_workload = self._next_workload = ensureDeferred(_next(workloads))
            next_workload.addCallback(self._workload_received).addErrback(self._workloads_ended)
        return not self._end

    def _workload_received(self, workload: bytes) -> None:
        if self._end:
            return
        self._next_workload = None
        slot = _Slot(self._position)
        self._position += 1
        deferred = self._submit(workload)
        self._slots[slot] = None
        if self._in_order:
            self._queue.append(slot)
        slot.deferred = deferred.addBoth(self._task_ended, slot)
        self._changed.fire(None)

    def _task_ended(self, outcome: bytes | Failure, slot: _Slot) -> None:
        slot.outcome = outcome
        if not self._in_order:
            self._queue.append(slot)
        self._changed.fire(None)

    def _workloads_ended(self, failure: Failure) -> None:
        self._next_workload = None
        self._end = failure if failure.check(StopIteration, StopAsyncIteration) is None else True
        self._changed.fire(None)


def _result_of(slot: _Slot) -> bytes:
    return _result(slot.outcome)


def _outcome_of(slot: _Slot) -> tuple[int, bytes | Exception]:
    outcome = slot.outcome
    if isinstance(outcome, Failure):
        assert isinstance(outcome.value, Exception)
        return slot.position, outcome.value
    assert outcome is not None
    return slot.position, outcome


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
    :param task: a foreground task, not yet submitted. The stream sets its ``on_data``.
    :raises TypeError: the task has an ``on_data`` already.
    """

    def __init__(self, task: Task) -> None:
        if task._options.on_data is not None:
            raise TypeError("on_data must be None for a stream: iterate over its chunks instead")
        self.task = task
        task._options = task._options.streamed_to(self._data_received)
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
