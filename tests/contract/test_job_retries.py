"""gearmand's ``--job-retries`` of 0, -1 and 256, which mean one thing up to 2.0.0, and another one since.

`MemoryJobServer` takes no negative number, and 0 as no limit.
"""

from __future__ import annotations

import functools
import subprocess

import pytest

from txgearman.packets import CAN_DO, CANT_DO, GRAB_JOB, JOB_ASSIGN, SUBMIT_JOB, WORK_FAIL

from ..programs import require_program
from .conftest import StartGearmand
from .harness import Peer, RealServer
from .test_5_status import QUEUED, UNKNOWN, status

pytestmark = pytest.mark.daemon("gearmand")


@functools.cache
def is_later_than_2_0_0() -> bool:
    """Whether ``--job-retries`` has the meaning that it has since 2.0.0, whose successors do not say it in a number."""
    command = [require_program("gearmand"), "--help"]
    ran = subprocess.run(command, capture_output=True, check=True, text=True)
    return "Use 0 to disable retries" in " ".join(ran.stdout.split())


def attempts(server: RealServer, client: Peer, most: int) -> int:
    """Have so many workers begin a job, and none end it; return how many got it before the client gets WORK_FAIL."""
    handle = client.submit(SUBMIT_JOB.request(b"f", b"", b""))
    worker = server.peer()
    for attempt in range(1, most + 1):
        worker.send(CAN_DO.request(b"f"))
        packet_type, (assigned, *_) = worker.ask(GRAB_JOB.request())
        assert (packet_type, assigned) == (JOB_ASSIGN, handle)
        worker.send(CANT_DO.request(b"f"))  # it is requeued as if this worker were lost: docs/gearman.md §7
        assert worker.so_far() == []
        if events := client.so_far():
            assert events == [(WORK_FAIL, [handle])]
            assert status(client, handle) == UNKNOWN
            return attempt
    assert status(client, handle) == QUEUED
    return most


MOST = 300
"""As many attempts as are made where there is no limit: more than fit into a byte."""


def test_job_retries_of_0(start_gearmand: StartGearmand) -> None:
    server = start_gearmand("--job-retries=0")
    assert attempts(server, server.peer(), MOST) == (1 if is_later_than_2_0_0() else MOST)


def test_job_retries_of_minus_1(start_gearmand: StartGearmand) -> None:
    """A byte of 255, or no limit."""
    server = start_gearmand("--job-retries=-1")
    assert attempts(server, server.peer(), MOST) == (MOST if is_later_than_2_0_0() else 255)


def test_job_retries_of_256(start_gearmand: StartGearmand) -> None:
    """A byte of 0; or invalid, so that gearmand does not start."""
    if is_later_than_2_0_0():
        with pytest.raises(AssertionError, match="ended with"):
            start_gearmand("--job-retries=256")
    else:
        server = start_gearmand("--job-retries=256")
        assert attempts(server, server.peer(), MOST) == MOST
