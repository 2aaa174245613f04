"""The library's client on the benchmarks' workloads, with a Deferred for each job and every result checked.

python -m benchmarks.client --port PORT --workload window --style callbacks

The styles are ``callbacks``, ``keep`` (the results), ``timeout``, ``async``, ``inline`` (for `inlineCallbacks`),
``map``, ``tls`` and ``memory`` (a server in memory); and ``bare``, which is Twisted without this library.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from time import perf_counter
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks, maybeDeferred
from twisted.internet.task import react

from txgearman import GearmanClient, TLSOptions
from txgearman.testing import MemoryJobServer

from . import bare
from .common import Stopwatch, arguments, payloads


class Run:
    """One measurement."""

    def __init__(self, client: Any, options: Any, watch: Stopwatch) -> None:
        self._client = client
        self._options = options
        self._watch = watch
        self._payloads = payloads(options.jobs, options.payload)
        self._left = options.jobs
        self._kept: list[bytes] = []
        self._finished: Deferred[None] = Deferred()

    async def measure(self) -> None:
        await self._client.echo()  # it is connected
        self._watch.start()
        await self._do()
        self._watch.stop()

    def _do(self) -> Any:
        options = self._options
        if options.workload == "background":
            return self._all(self._client.add_task_bg)
        if options.style == "map":
            return self._map()
        if options.workload == "flight":
            return {"async": self._async, "inline": self._inline}.get(options.style, self._all)(self._submit())
        return self._windowed(1 if options.workload == "latency" else options.window)

    def _submit(self) -> Callable[..., Deferred[Any]]:
        submit: Callable[..., Deferred[Any]] = self._client.add_task
        return partial(submit, timeout=30.0) if self._options.style == "timeout" else submit

    def _all(self, submit: Callable[..., Deferred[Any]]) -> Deferred[None]:
        for payload in self._payloads:
            submit("echo", payload).addCallback(self._done, payload).addErrback(self._failed)
        return self._finished

    def _windowed(self, width: int) -> Deferred[None]:
        submit = self._submit()
        waiting: Iterator[bytes] = iter(self._payloads)

        def more(_: object = None) -> None:
            payload = next(waiting, None)
            if payload is not None:
                began = perf_counter() if width == 1 else 0.0
                submit("echo", payload).addCallback(done, payload, began).addErrback(self._failed)

        def done(result: Any, payload: bytes, began: float) -> None:
            if width == 1:
                self._watch.seconds.append(perf_counter() - began)
            self._done(result, payload)
            more()

        for _ in range(min(width, len(self._payloads))):
            more()
        return self._finished

    def _async(self, submit: Callable[..., Deferred[Any]]) -> Deferred[Any]:
        async def job(payload: bytes) -> None:
            self._done(await submit("echo", payload), payload)

        return gatherResults([Deferred.fromCoroutine(job(payload)) for payload in self._payloads])

    def _inline(self, submit: Callable[..., Deferred[Any]]) -> Deferred[Any]:
        @inlineCallbacks
        def job(payload: bytes) -> Any:
            self._done((yield submit("echo", payload)), payload)

        return gatherResults([job(payload) for payload in self._payloads])

    async def _map(self) -> None:
        results: AsyncIterator[bytes] = self._client.map("echo", self._payloads, concurrency=self._options.window)
        expected = iter(self._payloads)
        async for result in results:
            self._done(result, next(expected))

    def _done(self, result: Any, payload: bytes) -> None:
        if self._options.style == "keep":
            self._kept.append(result)
        if self._options.workload != "background":
            assert result == payload
        self._left -= 1
        if not self._left:
            self._finished.callback(None)

    def _failed(self, failure: Any) -> None:
        if not self._finished.called:
            self._finished.errback(failure)


async def main(reactor: Any) -> None:
    options = arguments(style="callbacks", roots="")
    watch = Stopwatch()
    client: Any
    if options.style == "memory":
        server = MemoryJobServer(reactor)
        worker = server.worker(max_jobs=options.window)
        worker.register_function("echo", lambda job: job.workload)
        client = server.client()
    elif options.style == "bare":
        client = await bare.connect(reactor, options.port)
    elif options.style == "tls":
        client = GearmanClient([f"tls:127.0.0.1:{options.port}"], tls=TLSOptions(trust_roots=options.roots))
    else:
        client = GearmanClient([f"127.0.0.1:{options.port}"])
    await Run(client, options, watch).measure()
    watch.report(options.jobs)
    if options.style == "memory":
        await server.close()
    await maybeDeferred(client.stopService)


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
