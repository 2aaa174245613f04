"""The library's worker, which does so many jobs by an empty function.

python -m benchmarks.worker --port PORT --jobs 20000
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from txgearman import GearmanWorker, Job

from .common import Stopwatch, arguments


async def main(reactor: Any) -> None:
    options = arguments()
    left = options.jobs
    last: Deferred[None] = Deferred()

    def echo(job: Job) -> bytes:
        nonlocal left
        left -= 1
        if not left:
            last.callback(None)
        return b""

    worker = GearmanWorker([f"127.0.0.1:{options.port[0]}"], max_jobs=options.window)
    worker.register_function("echo", echo)
    watch = Stopwatch()
    watch.start()
    worker.startService()
    await last
    await worker.stopService()  # the results are out
    watch.stop()
    watch.report(options.jobs)


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
