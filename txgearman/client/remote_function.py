"""A function of workers with the types of its requests and results: `RemoteFunction`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred
from typing_extensions import Unpack

from ..errors import ResultInvalid
from ..models import JobHandle, TaskSnapshot
from ..validation import MAX_NAME, check_callback, short_text
from .task import BackgroundOptions, Task, TaskOptions, TaskResult

__all__ = ["RemoteFunction", "TaskSubmitter"]

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")


class TaskSubmitter(Protocol):
    """What a typed function needs of its client."""

    def submit(self, task: Task) -> Deferred[TaskResult]:
        """Submit a task."""

    def map(
        self,
        function: str | bytes,
        workloads: Iterable[bytes] | AsyncIterable[bytes],
        *,
        concurrency: int = 100,
        **options: Unpack[TaskOptions],
    ) -> AsyncGenerator[bytes, None]:
        """Submit a task for each workload, and iterate over the results."""


class RemoteFunction(Generic[RequestT, ResultT]):
    """A function of workers, called with a request and answered by a result, whose bytes it encodes and decodes.

    `GearmanClient.function` makes it::

        resize = client.function("resize", encode=Request.to_bytes, decode=Image.from_bytes, timeout=30)
        image = await resize(Request("a.png", 100))

    It may be made before the client is started, and called any number of times.
    """

    def __init__(
        self,
        client: TaskSubmitter,
        name: str | bytes,
        encode: Callable[[RequestT], bytes] | None,
        decode: Callable[[bytes], ResultT] | None,
        options: TaskOptions,
    ) -> None:
        self._client = client
        self._name = name
        self._encode = check_callback("encode", encode)
        self._decode = check_callback("decode", decode)
        self._options = options
        Task(name, b"", False, **options)  # an invalid argument raises here

    def __repr__(self) -> str:
        return f"<RemoteFunction {short_text(self._name, MAX_NAME)}>"

    def __call__(self, request: RequestT, **options: Unpack[TaskOptions]) -> Deferred[ResultT]:
        """Submit a foreground job.

        :param request: what `encode` makes the workload of.
        :param options: those of `GearmanClient.add_task`, which take the place of those of the function.
        :return: fires with what `decode` makes of the result. Fails as with `GearmanClient.add_task`, and with
            `ResultInvalid` if `decode` raises. Cancelling it has the same effect as for that.
        :raises Exception: what `encode` raises; nothing is sent.
        """
        task = Task(self._name, self._encoded(request), False, **self._merged(options))
        submitted: Deferred[bytes] = self._client.submit(task)  # type: ignore[assignment]  # of a foreground task
        return submitted.addCallback(self._decoded, task)

    def background(self, request: RequestT, **options: Unpack[BackgroundOptions]) -> Deferred[JobHandle]:
        """Submit a background job.

        :param options: those of `GearmanClient.add_task_bg`. Of those of the function, the ones for background jobs
            hold: ``unique``, ``timeout``, ``priority``, ``drop_on_cancel``, ``on_created`` and ``on_fail``.
        :return: fires and fails as with `GearmanClient.add_task_bg`.
        :raises Exception: what `encode` raises; nothing is sent.
        """
        merged: BackgroundOptions = {
            name: value for name, value in self._options.items() if name in BackgroundOptions.__annotations__
        }  # type: ignore[assignment]  # the values of the same names
        merged.update(options)
        task = Task(self._name, self._encoded(request), True, **merged)
        return self._client.submit(task)  # type: ignore[return-value]  # a background task

    def map(
        self,
        requests: Iterable[RequestT] | AsyncIterable[RequestT],
        *,
        concurrency: int = 100,
        **options: Unpack[TaskOptions],
    ) -> AsyncGenerator[ResultT, None]:
        """Submit a foreground job for each of many requests, and iterate over the results in the same order.

        :param requests: an iterable or async iterable, which is consumed and encoded lazily.
        :param concurrency: as for `GearmanClient.map`, like the rest.
        :return: an async iterator of the decoded results. It raises `ResultInvalid` for the first one that `decode` can
            not read, and what `encode` raises when the turn of its request comes, and ends with it.
        """
        workloads = self._encode_later(requests) if isinstance(requests, AsyncIterable) else self._encode_all(requests)
        results = self._client.map(self._name, workloads, concurrency=concurrency, **self._merged(options))
        return self._decode_all(results)

    def _merged(self, options: TaskOptions) -> TaskOptions:
        merged = self._options.copy()
        merged.update(options)
        return merged

    def _encoded(self, request: RequestT) -> bytes:
        return request if self._encode is None else self._encode(request)  # type: ignore[return-value]  # then bytes

    def _encode_all(self, requests: Iterable[RequestT]) -> Iterable[bytes]:
        if isinstance(requests, (str, bytes)) or not isinstance(requests, Iterable):
            raise TypeError(f"requests must be an iterable of requests, not {type(requests).__name__}")
        return map(self._encoded, requests)

    async def _encode_later(self, requests: AsyncIterable[RequestT]) -> AsyncIterator[bytes]:
        async for request in requests:
            yield self._encoded(request)

    async def _decode_all(self, results: AsyncGenerator[bytes, None]) -> AsyncGenerator[ResultT, None]:
        async with aclosing(results):
            async for result in results:
                yield self._decoded(result, None)

    def _decoded(self, result: bytes, task: Task | None) -> ResultT:
        if self._decode is None:
            return result  # type: ignore[return-value]  # a caller who gives no `decode` gets bytes
        try:
            return self._decode(result)
        except Exception as error:  # whatever the caller's code raises: the result is what it is
            about = TaskSnapshot.of(Task(self._name)) if task is None else task
            raise ResultInvalid(about, result) from error
