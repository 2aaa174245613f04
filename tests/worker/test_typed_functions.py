"""`GearmanWorker.function`: a decorator, and functions of a decoded request whose result is encoded."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater

from txgearman import Job, TaskException
from txgearman.testing import MemoryJobServer

from ..conftest import Failures
from ..watched_log import WatchedLog
from ..wire import outcome


def encode(result: object) -> bytes:
    return json.dumps(result).encode()


def sync(job: Job, request: list[int]) -> int:
    return sum(request)


def fired(job: Job, request: list[int]) -> Deferred[int]:
    return succeed(sum(request))


async def coroutine(job: Job, request: list[int]) -> int:
    await deferLater(job._connection.factory.reactor, 0)  # type: ignore[arg-type]  # a clock
    return sum(request)


def generator(job: Job, request: list[int]) -> Generator[bytes, None, int]:
    yield b"chunk"
    return sum(request)


def generator_of_deferred(job: Job, request: list[int]) -> Generator[bytes, None, Deferred[int]]:
    yield b"chunk"
    return succeed(sum(request))


@pytest.mark.parametrize("function", [sync, fired, coroutine, generator, generator_of_deferred])
def test_workload_is_decoded_and_result_encoded(server: MemoryJobServer, function: Callable[..., Any]) -> None:
    decorated = server.worker().function("sum", decode=json.loads, encode=encode)(function)
    assert decorated is function
    result = outcome(server.client().add_task("sum", b"[1, 2]"))
    server.advance()
    assert result == [b"3"]


async def test_threaded_function_is_decoded_and_encoded_in_its_thread() -> None:
    from twisted.internet import reactor

    server = MemoryJobServer(reactor)
    server.worker().function("sum", decode=json.loads, encode=encode, threaded=True)(sync)
    assert await server.client().add_task("sum", b"[1, 2]") == b"3"
    await server.close()


def test_result_of_async_generator_is_empty(server: MemoryJobServer) -> None:
    @server.worker().function("count", encode=encode)
    async def count(job: Job) -> AsyncIterator[bytes]:
        yield b"1"

    chunks: list[bytes] = []
    result = outcome(server.client().add_task("count", on_data=lambda task, data: chunks.append(data)))
    server.advance()
    assert (result, chunks) == ([b""], [b"1"])


def test_function_without_codecs_takes_the_job(server: MemoryJobServer) -> None:
    @server.worker().function("reverse", timeout=5.0, max_jobs=1)
    def reverse(job: Job) -> bytes:
        return job.workload[::-1]

    result = outcome(server.client().add_task("reverse", b"abc"))
    server.advance()
    assert result == [b"cba"]


def test_result_alone_may_be_encoded(server: MemoryJobServer) -> None:
    @server.worker().function("length", encode=encode)
    def length(job: Job) -> int:
        return len(job.workload)

    result = outcome(server.client().add_task("length", b"abc"))
    server.advance()
    assert result == [b"3"]


def test_workload_that_can_not_be_decoded_fails_the_job_without_a_traceback(server: MemoryJobServer) -> None:
    called: list[object] = []
    server.worker().function("sum", decode=json.loads)(lambda job, request: called.append(request))
    with WatchedLog() as log:
        failed = outcome(server.client().add_task("sum", b"{"))
        server.advance()
    assert isinstance(failed[0], TaskException)
    assert failed[0].data.startswith(b"WorkloadInvalid: sum: invalid workload: JSONDecodeError: Expecting ")
    [event] = [event for event in log.events if event["log_level"].name == "warn"]
    assert "log_failure" not in event
    assert called == []


def test_result_that_can_not_be_encoded_is_logged_as_a_failure(
    server: MemoryJobServer, logged_failures: Failures
) -> None:
    @server.worker().function("sum", encode=encode)
    def function(job: Job) -> object:
        return object()

    failed = outcome(server.client().add_task("sum"))
    server.advance()
    assert failed[0].data.startswith(b"TypeError: ")
    assert len(logged_failures.flush(TypeError)) == 1


@pytest.mark.guarantee(number=8)
def test_invalid_arguments_are_refused(server: MemoryJobServer) -> None:
    function: Any = server.worker().function
    with pytest.raises(TypeError, match="decode must be callable, not str"):
        function("f", decode="json")
    with pytest.raises(TypeError, match="encode must be callable, not str"):
        function("f", encode="json")
    with pytest.raises(TypeError, match="function must be callable, not 5"):
        function("f")(5)
    function("f")(sync)
    with pytest.raises(ValueError, match="function 'f' is registered already"):
        function("f")(sync)
