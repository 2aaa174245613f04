"""The library's worker on a queue of background jobs, until it has done them all.

python -m benchmarks.worker --port PORT --jobs 20000
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from txgearman import GearmanClient, GearmanWorker, Job

from .common import Stopwatch, arguments, payloads


async def main(reactor: Any) -> None:
    options = arguments()
    address = f"127.0.0.1:{options.port}"
    async with GearmanClient([address]) as client:
        for payload in payloads(options.jobs, options.payload):
            client.add_task_bg("bench", payload).addErrback(lambda failure: failure.raiseException())
        await client.drain()
    watch = Stopwatch()
    left = options.jobs
    done: Deferred[None] = Deferred()

    def bench(job: Job) -> bytes:
        nonlocal left
        left -= 1
        if not left:
            done.callback(None)
        return job.workload

    worker = GearmanWorker([address], max_jobs=options.window)
    worker.register_function("bench", bench)
    watch.start()
    worker.startService()
    await done
    watch.stop()
    watch.report(options.jobs)
    await worker.stopService()


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
