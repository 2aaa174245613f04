"""Functions for ``txgearman work FUNCTION=tests.cli.jobs:callable``."""

from __future__ import annotations

from txgearman import Job


def echo(job: Job) -> bytes:
    return job.workload


def shout(job: Job) -> bytes:
    return job.workload.upper()


class Nested:
    @staticmethod
    def reverse(job: Job) -> bytes:
        return job.workload[::-1]


not_callable = 3
