"""Deferreds that coroutines await, whether Twisted runs them or a task of asyncio does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred

from txgearman.connection.awaitable import AwaitableDeferred

from ..wire import outcome


def in_asyncio(coroutine: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine as a task of asyncio, in a loop and a thread of its own: the reactor may be a loop, too."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine()).result(20)


def test_task_of_asyncio_gets_the_result() -> None:
    async def await_it() -> list[Any]:
        deferred: AwaitableDeferred[int] = AwaitableDeferred()
        asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(deferred.callback, 5))
        return [await deferred]

    assert in_asyncio(await_it) == [5]


def test_task_of_asyncio_gets_the_error() -> None:
    async def await_it() -> None:
        deferred: AwaitableDeferred[int] = AwaitableDeferred()
        asyncio.get_running_loop().call_later(0.01, deferred.errback, ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            await deferred

    in_asyncio(await_it)


def test_task_of_asyncio_gets_a_result_that_is_there_at_once() -> None:
    async def await_it() -> int:
        deferred: AwaitableDeferred[int] = AwaitableDeferred()
        deferred.callback(5)
        return await deferred

    assert in_asyncio(await_it) == 5


def test_cancel_of_the_task_cancels_the_deferred() -> None:
    cancelled: list[object] = []

    async def await_it() -> None:
        deferred: AwaitableDeferred[int] = AwaitableDeferred(cancelled.append)

        async def wait() -> None:
            await deferred

        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cancelled == [deferred]

    in_asyncio(await_it)


def test_deferred_that_fires_after_the_task_was_cancelled_is_ignored() -> None:
    async def await_it() -> list[object]:
        deferred: AwaitableDeferred[int] = AwaitableDeferred(lambda cancelled: cancelled.callback(7))

        async def wait() -> None:
            await deferred

        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return outcome(deferred)

    assert in_asyncio(await_it) == [7]


def test_coroutine_of_twisted_that_a_task_starts_awaits_it_as_before() -> None:
    async def await_it() -> list[Any]:
        deferred: AwaitableDeferred[int] = AwaitableDeferred()

        async def of_twisted() -> int:
            return await deferred

        result = outcome(ensureDeferred(of_twisted()))
        deferred.callback(5)
        return result

    assert in_asyncio(await_it) == [5]


@pytest.mark.parametrize("error", [RuntimeError("other"), ZeroDivisionError()])
def test_coroutine_of_twisted_gets_any_error(error: Exception) -> None:
    deferred: AwaitableDeferred[int] = AwaitableDeferred()

    async def wait() -> int:
        return await deferred

    result = outcome(ensureDeferred(wait()))
    deferred.errback(error)
    assert result == [error]


def test_cancel_of_a_coroutine_of_twisted_cancels_it() -> None:
    deferred: AwaitableDeferred[int] = AwaitableDeferred()

    async def wait() -> int:
        return await deferred

    waiting: Deferred[int] = ensureDeferred(wait())
    result = outcome(waiting)
    waiting.cancel()
    assert [type(error) for error in result] == [CancelledError]
