"""The worker of the other files in this folder: ``txgearman work --app workers:make_worker`` makes one per process."""

from __future__ import annotations

import os

from txgearman import GearmanWorker, Job
from txgearman.metrics import PrometheusObserver


def make_worker() -> GearmanWorker:
    metrics = PrometheusObserver()
    servers = os.environ["GEARMAN_SERVERS"].split(",")
    worker = GearmanWorker(servers, client_id="text", max_jobs=4, observers=[metrics])
    metrics.watch(worker)
    worker.register_function("upper", upper, timeout=60.0)
    return worker


def upper(job: Job) -> bytes:
    return job.workload.upper()
