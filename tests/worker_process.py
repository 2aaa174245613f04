"""A worker in a process of its own, for tests that stop it by a signal.

    python -m tests.worker_process JOURNAL SECONDS ADDRESS ...

Its function `square` takes that many seconds, and notes each workload that it has begun in the journal.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from txgearman import GearmanWorker, Job


def main(reactor: Any, journal: str, seconds: str, *addresses: str) -> Deferred[None]:
    notes = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def square(job: Job) -> bytes:
        os.write(notes, job.workload + b"\n")  # in one piece, whoever else writes
        await deferLater(reactor, float(seconds))
        return b"%d" % int(job.workload) ** 2

    worker = GearmanWorker(addresses, client_id=f"process-{os.getpid()}", max_jobs=3)
    worker.register_function("square", square)
    worker.startService()
    reactor.addSystemEventTrigger("before", "shutdown", worker.stopService)
    return Deferred()


if __name__ == "__main__":
    react(main, sys.argv[1:])
