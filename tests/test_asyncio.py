"""Tasks of asyncio that use a client, and coroutines of asyncio as functions of a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from txgearman import Job, TaskFailed
from txgearman.testing import MemoryJobServer

from .conftest import Failures
from .connection.test_awaitable import in_asyncio
from .wire import outcome


def echo(server: MemoryJobServer) -> None:
    server.worker().register_function("echo", lambda job: job.workload)


async def advancing(server: MemoryJobServer, call: Any) -> Any:
    """Await a call in a task of its own, while the clock of the server goes on."""
    task = asyncio.ensure_future(call)
    while not task.done():
        await asyncio.sleep(0)
        server.advance(0.01)
    return task.result()


async def each_call(server: MemoryJobServer) -> list[Any]:
    """Await each kind of call."""
    client = server.client()
    echoed = client.function("echo", encode=str.encode, decode=bytes.decode)
    await client.when_ready()
    results = [
        await client.add_task("echo", b"1"),
        (await client.add_task_bg("echo", b"2")).server,
        await client.add_tasks("echo", [b"3", b"4"]),
        len(await client.add_tasks_bg("echo", [b"5"])),
        [result async for result in client.map("echo", [b"6", b"7"], concurrency=2)],
        [result async for result in client.map("echo", [b"6"] * 9, concurrency=9)][:1],
        [outcome async for outcome in client.as_completed("echo", [b"8"])],
        [chunk async for chunk in client.stream("echo", b"9")],
        await echoed("10"),
        [result async for result in echoed.map(["11"])],
    ]
    await client.drain()
    await client.stopService()
    return results


def test_each_call_of_a_client_can_be_awaited_in_a_task_of_asyncio() -> None:
    async def main() -> Any:
        server = MemoryJobServer()
        echo(server)
        results = await advancing(server, each_call(server))
        server.close()
        return results

    expected = [b"1", "memory:1", [b"3", b"4"], 1, [b"6", b"7"], [b"6"], [(0, b"8")], [b"9"], "10", ["11"]]
    assert in_asyncio(main) == expected


def test_error_of_a_task_is_raised_in_a_task_of_asyncio() -> None:
    async def main() -> None:
        server = MemoryJobServer()
        call = server.client().add_task("work")

        async def wait() -> None:
            with pytest.raises(TaskFailed):
                await call

        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        server.take("work").fail()
        await task
        server.close()

    in_asyncio(main)


def test_coroutine_of_asyncio_as_a_function_says_what_to_do(server: MemoryJobServer) -> None:
    async def function(job: Job) -> bytes:
        future: asyncio.Future[None] = asyncio.Future(loop=loop)
        await future
        return b""

    loop = asyncio.new_event_loop()
    server.worker().register_function("work", function)
    [error] = failed_with(server)
    loop.close()
    assert b"TypeError: " in error.data
    assert b"Deferred.fromFuture(asyncio.ensure_future(" in error.data


def failed_with(server: MemoryJobServer) -> list[Any]:
    failed = outcome(server.client().add_task("work"))
    server.advance()
    return failed


def test_other_runtime_errors_of_coroutines_are_as_they_are(server: MemoryJobServer) -> None:
    async def function(job: Job) -> bytes:
        raise RuntimeError("no colour")

    server.worker().register_function("work", function)
    [error] = failed_with(server)
    assert error.data == b"RuntimeError: no colour"


@pytest.fixture
def server(logged_failures: Failures) -> Iterator[MemoryJobServer]:
    server = MemoryJobServer()
    yield server
    logged_failures.flush(TypeError, RuntimeError)
    server.close()
