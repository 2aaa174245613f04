"""Functions for ``txgearman work FUNCTION=tests.cli.jobs:callable``."""

from __future__ import annotations

import os
import time
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from txgearman import Job


def echo(job: Job) -> bytes:
    return job.workload


def shout(job: Job) -> bytes:
    return job.workload.upper()


def block(_: Job) -> None:
    """Block the thread, or the reactor."""
    time.sleep(1000)


def never_end(_: Job) -> Deferred[bytes]:
    return Deferred()


def soon(_: Job) -> Deferred[bytes]:
    """End the job in a later turn of the reactor."""
    from twisted.internet import reactor

    return deferLater(reactor, 0.001, lambda: b"")


class Nested:
    @staticmethod
    def reverse(job: Job) -> bytes:
        return job.workload[::-1]


not_callable = 3


def process_id(_: Job) -> bytes:
    return str(os.getpid()).encode()


def block_once(job: Job) -> bytes:
    """Block the reactor, unless a job has done so before, which the file says that the workload names."""
    path = Path(job.workload.decode())
    if not path.exists():
        path.touch()
        time.sleep(1000)
    return b"done"
