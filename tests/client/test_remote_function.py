"""Typed functions of a client: requests are encoded, results decoded, and what can't be is a clear error."""

from __future__ import annotations

import json
import pickle
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred

from txgearman import JobHandle, Priority, RemoteFunction, ResultInvalid, TaskFailed

from ..client_harness import ClientHarness, ignore_errors, outcome


def encode(request: object) -> bytes:
    return json.dumps(request).encode()


def numbers(harness: ClientHarness, **options: Any) -> RemoteFunction[list[int], int]:
    function: RemoteFunction[list[int], int] = harness.client.function(
        "work", encode=encode, decode=json.loads, **options
    )
    return function


def test_request_is_encoded_and_result_decoded() -> None:
    harness = ClientHarness()
    result = numbers(harness)([1, 2])
    job = harness.server.take("work")
    assert job.workload == b"[1, 2]"
    job.complete(b"3")
    assert outcome(result) == 3
    harness.stop()


def test_bytes_stay_bytes_without_codecs() -> None:
    harness = ClientHarness()
    result = harness.client.function("work")(b"abc")
    job = harness.server.take("work")
    job.complete(job.workload)
    assert outcome(result) == b"abc"
    harness.stop()


def test_options_hold_for_each_call_unless_it_has_its_own() -> None:
    harness = ClientHarness()
    function = numbers(harness, unique="u", priority=Priority.HIGH)
    for result in (function([1]), function([2], unique="v"), function.background([3], priority=Priority.LOW)):
        ignore_errors(result)
    harness.advance()
    submitted = [(job.workload, job.unique, job.priority) for job in harness.server.submitted]
    assert sorted(submitted) == [
        (b"[1]", b"u", Priority.HIGH),
        (b"[2]", b"v", Priority.HIGH),
        (b"[3]", b"u", Priority.LOW),
    ]
    harness.stop()


def test_background_job_leaves_out_options_of_foreground_ones() -> None:
    harness = ClientHarness()
    handle = numbers(harness, retries=3, on_data=print).background([1])
    harness.advance()
    assert isinstance(outcome(handle), JobHandle)
    assert harness.server.take("work").workload == b"[1]"
    harness.stop()


def test_result_that_can_not_be_decoded_is_invalid() -> None:
    harness = ClientHarness(retries=3)
    result = numbers(harness, unique="u")([1])
    harness.server.take("work").complete(b"\xff{")
    error = outcome(result)
    assert type(error) is ResultInvalid
    assert (error.data, error.task.function, error.task.unique, error.retriable) == (b"\xff{", "work", b"u", False)
    assert isinstance(error.__cause__, UnicodeDecodeError)
    assert "invalid result (UnicodeDecodeError: " in str(error)
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), copied.data, str(copied)) == (ResultInvalid, error.data, str(error))
    harness.stop()


def test_failure_is_not_decoded() -> None:
    harness = ClientHarness()
    result = numbers(harness)([1])
    harness.server.take("work").fail()
    assert type(outcome(result)) is TaskFailed
    harness.stop()


@pytest.mark.guarantee(number=9)
def test_call_can_be_cancelled() -> None:
    harness = ClientHarness(max_in_flight=1)
    function = numbers(harness)
    ignore_errors(function([1]))
    second = function([2])
    second.cancel()
    assert type(outcome(second)) is CancelledError
    harness.advance()
    assert harness.server.queued("work") == [b"[1]"]
    harness.stop()


@pytest.mark.guarantee(number=8)
def test_request_that_can_not_be_encoded_raises_at_the_call() -> None:
    harness = ClientHarness()
    function = harness.client.function("work", encode=encode)
    for call in (function, function.background):
        with pytest.raises(TypeError, match="not JSON serializable"):
            call(object())
    text: Any = "no bytes"
    with pytest.raises(TypeError, match="workload must be bytes, not str"):
        harness.client.function("work")(text)
    harness.advance()
    assert harness.server.submitted == []
    harness.stop()


async def later(requests: list[list[int]]) -> AsyncIterator[list[int]]:
    for request in requests:
        yield request


def collected(results: AsyncIterator[Any]) -> Deferred[list[Any]]:
    async def collect() -> list[Any]:
        return [result async for result in results]

    return ensureDeferred(collect())


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("concurrency", [2, 100])
def test_map_encodes_and_decodes_in_order(asynchronous: bool, concurrency: int) -> None:
    harness = ClientHarness()
    requests = [[number] for number in range(20)]
    function = numbers(harness)
    mapped = collected(function.map(later(requests) if asynchronous else requests, concurrency=concurrency))
    for number in range(20):
        job = harness.server.take("work")
        assert job.workload == b"[%d]" % number
        job.complete(b"%d" % number)
    assert outcome(mapped) == list(range(20))
    harness.stop()


def test_map_raises_for_the_first_result_that_can_not_be_decoded() -> None:
    harness = ClientHarness()
    mapped = collected(numbers(harness).map([[1], [2]]))
    for result in (b"1", b"{"):
        harness.server.take("work").complete(result)
    error = outcome(mapped)
    assert (type(error), error.data, error.task.function) == (ResultInvalid, b"{", "work")
    harness.stop()


def test_map_encodes_lazily() -> None:
    harness = ClientHarness()
    encoded: list[int] = []

    def requests() -> Iterator[list[int]]:
        for number in range(1000):
            encoded.append(number)
            yield [number]

    results = numbers(harness).map(requests(), concurrency=2, retries=1)
    collected(results).addErrback(lambda _: None)
    harness.advance()
    assert len(encoded) <= 3
    harness.stop()


@pytest.mark.guarantee(number=8)
def test_invalid_arguments_are_refused() -> None:
    harness = ClientHarness()
    function: Any = harness.client.function
    with pytest.raises(TypeError, match="encode must be callable, not str"):
        function("work", encode="json")
    with pytest.raises(TypeError, match="decode must be callable, not str"):
        function("work", decode="json")
    with pytest.raises(ValueError, match="function must not be empty"):
        function("")
    with pytest.raises(TypeError, match="a task has no option 'colour'"):
        function("work", colour="red")
    for invalid in (b"abc", 5):
        with pytest.raises(TypeError, match="requests must be an iterable of requests"):
            function("work").map(invalid)
    harness.client.stopService()


def test_repr_names_the_function() -> None:
    assert repr(ClientHarness().client.function("wo\nrk")) == r"<RemoteFunction wo\nrk>"
