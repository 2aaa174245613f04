"""Workers for ``txgearman work --app``, on the server that a test names in the environment."""

from __future__ import annotations

import os

from twisted.internet.defer import Deferred

from txgearman import GearmanWorker, Job

NOT_A_WORKER = "worker"


def make_worker() -> GearmanWorker:
    """Return a worker with two functions, as a program declares them."""
    worker = GearmanWorker([os.environ["TEST_GEARMAND"]])

    @worker.function("upper", timeout=5.0, max_jobs=1)
    def upper(job: Job) -> bytes:
        return job.workload.upper()

    @worker.function("never_end")
    def never_end(job: Job) -> Deferred[bytes]:
        return Deferred()

    return worker


def __getattr__(name: str) -> GearmanWorker:
    if name == "worker":
        return make_worker()
    raise AttributeError(name)


def make_nothing() -> None:
    """Make no worker."""
