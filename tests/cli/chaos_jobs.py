"""A function whose jobs are written down: for ``txgearman work f=tests.cli.chaos_jobs:record``."""

from __future__ import annotations

import os
import time

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from txgearman import Job

log = os.open(os.environ.get("TEST_CHAOS_LOG", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def record(job: Job) -> Deferred[bytes]:
    """Take a moment, and write the unique, the process ID and the time to a file."""

    def end() -> bytes:
        os.write(log, b"%s %d %.3f\n" % (job.unique, os.getpid(), time.time()))
        return b""

    return deferLater(reactor, 0.01, end)
