"""The ways in which an application has jobs done: each of them is what one would write, with every result checked.

Single tasks have a Deferred each, by callbacks, ``async def`` or `inlineCallbacks`, and with options; many at once are
`add_tasks`, `add_tasks_bg`, `map` and `as_completed`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks

from .common import Stopwatch

__all__ = ["STYLES", "Work"]

AT_ONCE = 1000
"""Background jobs of one `add_tasks_bg`."""

Submit = Callable[..., "Deferred[Any]"]


class Work:
    """Workloads, and what is left of them.

    :ivar kept: the results, if they are to be kept.
    :ivar watch: whose `seconds` takes the latencies.
    """

    def __init__(self, client: Any, workload: str, payloads: list[bytes], width: int, watch: Stopwatch) -> None:
        """
        :param workload: one of `common.WORKLOADS`.
        :param width: number of jobs in flight, for those that bound it.
        """
        self.client = client
        self.background = workload == "background"
        self.payloads = payloads
        self.width = {"window": width, "latency": 1}.get(workload, len(payloads))
        self.kept: list[bytes] | None = None
        self.watch = watch
        self._left = len(payloads)
        self._finished: Deferred[None] = Deferred()

    @property
    def submit(self) -> Submit:
        """What submits a single task."""
        submit: Submit = self.client.add_task_bg if self.background else self.client.add_task
        return submit

    def check(self, result: Any, payload: bytes) -> None:
        """Check the result of a job, and count it."""
        if not self.background:
            assert result == payload
            if self.kept is not None:
                self.kept.append(result)
        self._left -= 1
        if not self._left:
            self._finished.callback(None)

    def check_all(self, results: Any) -> None:
        """Check the results of all jobs."""
        assert results == self.payloads

    def failed(self, failure: Any) -> None:
        if not self._finished.called:
            self._finished.errback(failure)

    def by_callbacks(self, submit: Callable[[bytes], Deferred[Any]]) -> Deferred[None]:
        """Submit a task for each workload, so many at a time."""
        return self._one_by_one(submit) if self.width == 1 else self._in_window(submit)

    def _in_window(self, submit: Callable[[bytes], Deferred[Any]]) -> Deferred[None]:
        waiting: Iterator[bytes] = iter(self.payloads)

        def done(result: Any, payload: bytes) -> None:
            self.check(result, payload)
            for following in waiting:
                submit(following).addCallback(done, following).addErrback(self.failed)
                return

        for payload in islice(waiting, self.width):
            submit(payload).addCallback(done, payload).addErrback(self.failed)
        return self._finished

    def _one_by_one(self, submit: Callable[[bytes], Deferred[Any]]) -> Deferred[None]:
        waiting: Iterator[bytes] = iter(self.payloads)

        def more() -> None:
            for payload in waiting:
                submit(payload).addCallback(done, payload, perf_counter()).addErrback(self.failed)
                return

        def done(result: Any, payload: bytes, began: float) -> None:
            self.watch.seconds.append(perf_counter() - began)
            self.check(result, payload)
            more()

        more()
        return self._finished


# Single tasks.


def callbacks(work: Work) -> Awaitable[Any]:
    return work.by_callbacks(partial(work.submit, "echo"))


def keep(work: Work) -> Awaitable[Any]:
    work.kept = []
    return callbacks(work)


def with_timeout(work: Work) -> Awaitable[Any]:
    return work.by_callbacks(partial(work.submit, "echo", timeout=30.0))


def with_callback(work: Work) -> Awaitable[Any]:
    return work.by_callbacks(partial(work.submit, "echo", on_complete=lambda task, result: None))


def with_unique(work: Work) -> Awaitable[Any]:
    submit = work.submit
    return work.by_callbacks(lambda payload: submit("echo", payload, unique=payload))


def by_async(work: Work) -> Awaitable[Any]:
    async def job(payload: bytes) -> None:
        work.check(await work.submit("echo", payload), payload)

    return gatherResults([Deferred.fromCoroutine(job(payload)) for payload in work.payloads])


def by_inline_callbacks(work: Work) -> Awaitable[Any]:
    @inlineCallbacks
    def job(payload: bytes) -> Any:
        work.check((yield work.submit("echo", payload)), payload)

    return gatherResults([job(payload) for payload in work.payloads])


async def in_a_loop(work: Work) -> None:
    """One after the other: what most code does."""
    for payload in work.payloads:
        began = perf_counter()
        result = await work.submit("echo", payload)
        work.watch.seconds.append(perf_counter() - began)
        work.check(result, payload)


# Many at once.


async def bulk(work: Work, **options: Any) -> None:
    if not work.background:
        work.check_all(await work.client.add_tasks("echo", work.payloads, **options))
        return
    for first in range(0, len(work.payloads), AT_ONCE):
        piece = work.payloads[first : first + AT_ONCE]
        handles = await work.client.add_tasks_bg("echo", piece, **options)
        assert len(handles) == len(piece)


async def bulk_with_uniques(work: Work) -> None:
    await bulk(work, uniques="-")


async def by_map(work: Work) -> None:
    work.check_all([result async for result in work.client.map("echo", work.payloads, concurrency=work.width)])


async def by_as_completed(work: Work) -> None:
    outcomes: list[Any] = [None] * len(work.payloads)
    async for position, outcome in work.client.as_completed("echo", work.payloads, concurrency=work.width):
        outcomes[position] = outcome
    work.check_all(outcomes)


STYLES: dict[str, Callable[[Work], Awaitable[Any]]] = {
    "callbacks": callbacks,
    "keep": keep,
    "timeout": with_timeout,
    "on_complete": with_callback,
    "unique": with_unique,
    "async": by_async,
    "inline": by_inline_callbacks,
    "await": in_a_loop,
    "bulk": bulk,
    "bulk_uniques": bulk_with_uniques,
    "map": by_map,
    "as_completed": by_as_completed,
}
