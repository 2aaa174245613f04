"""A worker whose function computes in processes: threads of Python do not compute at the same time.

Run it beside a job server on port 4730: ``python examples/cpu_bound.py``. It does one job of its own, and ends.
"""

from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread
from txgearman import GearmanClient, GearmanWorker, Job


class Processes:
    """Processes that compute for a worker, each for one job at a time."""

    def __init__(self, reactor: Any, count: int) -> None:
        self._reactor = reactor
        self._count = count
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        # Not by a fork: the child would have the reactor's sockets, and maybe a lock that a thread holds.
        return ProcessPoolExecutor(self._count, mp_context=get_context("spawn"))

    def call(self, function: Callable[..., bytes], *arguments: object) -> "Deferred[bytes]":
        """Call a function of a module in one of the processes.

        A cancel drops the call if it has not begun; else its result is ignored. If a process dies, all calls of the
        pool fail with BrokenProcessPool, and the next one starts a new pool.
        """
        try:
            future = self._pool.submit(function, *arguments)
        except BrokenProcessPool:
            self._pool = self._new_pool()
            future = self._pool.submit(function, *arguments)

        def cancel(_: object) -> None:
            future.cancel()

        result: Deferred[bytes] = Deferred(cancel)
        future.add_done_callback(lambda _: self._reactor.callFromThread(self._done, future, result))
        return result

    def _done(self, future: "Future[bytes]", result: "Deferred[bytes]") -> None:
        if not result.called:  # it is, after a cancel
            error = future.exception()
            result.callback(future.result()) if error is None else result.errback(error)

    def close(self) -> "Deferred[None]":
        """End the processes, once they have done what they are at.

        :return: fires when they have ended. A program that ends before may print an error of Python's.
        """
        return deferToThread(self._pool.shutdown, cancel_futures=True)


def largest_prime(limit: int) -> bytes:
    """Return the largest prime number below a limit, as text."""
    number = next(n for n in range(limit - 1, 1, -1) if all(n % d for d in range(2, int(n**0.5) + 1)))
    return b"%d" % number


async def main(reactor: Any) -> None:
    processes = Processes(reactor, 2)
    worker = GearmanWorker(["127.0.0.1:4730"], max_jobs=2)

    @worker.function("largest_prime", decode=int, timeout=60)
    def start(job: Job, limit: int) -> "Deferred[bytes]":
        return processes.call(largest_prime, limit)

    try:
        async with worker, GearmanClient(["127.0.0.1:4730"]) as client:
            print(await client.add_task("largest_prime", b"1000000", timeout=60))  # b'999983'
    finally:
        await processes.close()


if __name__ == "__main__":  # the processes import this file, too
    react(main)
