"""A client and a worker as services of one application: the client has jobs done, of which this worker does its share.

    GEARMAN_SERVER=127.0.0.1:4730 twistd -ny examples/worker_service.tac

Every second a job is submitted; the log tells its result. When twistd is stopped, jobs that run are done first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count

from twisted.application.internet import TimerService
from twisted.application.service import Application
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from txgearman import GearmanClient, GearmanError, GearmanWorker, Job

log = Logger()

SERVERS = os.environ.get("GEARMAN_SERVER", "127.0.0.1:4730").split(",")

worker = GearmanWorker(SERVERS, client_id="tac", max_jobs=5)
client = GearmanClient(SERVERS, timeout=30)


def square(job: Job) -> bytes:
    return b"%d" % int(job.workload) ** 2


async def square_of(number: int) -> None:
    """Have a number squared."""
    try:
        result = await client.add_task("square", b"%d" % number)
    except GearmanError:
        log.failure("no square of {number}", number=number)
    else:
        log.info("{number} squared is {result}", number=number, result=result.decode())


def submit(numbers: Iterator[int]) -> None:
    Deferred.fromCoroutine(square_of(next(numbers)))


worker.register_function("square", square)

application = Application("squares")
for service in (worker, client, TimerService(1.0, submit, count(1))):
    service.setServiceParent(application)
