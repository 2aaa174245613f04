"""What gearmand 2.0 does otherwise than 1.1, which `MemoryJobServer` imitates: see the table in docs/gearman.md §16.

Each test here has one of 1.1 beside it in that table, which is run against `MemoryJobServer` as well.
"""

from __future__ import annotations

import pytest

from txgearman.packets import (
    GET_STATUS,
    NOOP,
    PRE_SLEEP,
    STATUS_RES,
    SUBMIT_JOB,
    SUBMIT_JOB_HIGH,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW,
    SUBMIT_JOB_LOW_BG,
    PacketType,
)

from .conftest import StartGearmand
from .harness import RealServer
from .test_5_status import UNKNOWN
from .test_6_client_disconnect import abandon, can_do
from .test_7_worker import grab, queue
from .test_9_epoch_reduce import handles_of_all, later, soon, submit_epoch, wait_until_due, worker_of

pytestmark = [pytest.mark.daemon("gearmand"), pytest.mark.gearmand("2.0")]


@pytest.fixture
def server(start_gearmand: StartGearmand) -> RealServer:
    return start_gearmand()


# EPOCH.


@pytest.mark.guarantee(number=5)
def test_sleeping_worker_is_woken_at_the_time(server: RealServer) -> None:
    """Of H7, nothing is left: it comes within a second after that time."""
    client, worker, epoch = server.peer(), worker_of(server), soon(server)
    worker.send(PRE_SLEEP.request())
    assert worker.so_far() == []
    handle = submit_epoch(client, b"%d" % epoch)
    assert worker.so_far() == [(NOOP, [])]
    assert handles_of_all(worker) == []
    worker.send(PRE_SLEEP.request())
    wait_until_due(server, epoch)
    assert worker.so_far() == [(NOOP, [])]
    assert handles_of_all(worker) == [handle]


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("submit", [SUBMIT_JOB_LOW, SUBMIT_JOB, SUBMIT_JOB_HIGH])
def test_job_does_not_wait_for_one_with_a_time(server: RealServer, submit: PacketType) -> None:
    """Of H8, nothing is left: one of low priority is assigned, too, and then the worker may sleep."""
    client, worker = server.peer(), worker_of(server)
    submit_epoch(client, later(server))
    (handle,) = queue(client, b"f", submit=submit)
    assert handles_of_all(worker) == [handle]
    worker.send(PRE_SLEEP.request())
    assert worker.so_far() == []


# How jobs are assigned.


def test_the_highest_priority_of_all_functions_is_first(server: RealServer) -> None:
    client = server.peer()
    a, b = queue(client, b"a", b"b", submit=SUBMIT_JOB_HIGH_BG)
    (c,) = queue(client, b"c", submit=SUBMIT_JOB_LOW_BG)
    a2, b2, c2 = queue(client, b"a", b"b", b"c")
    worker = can_do(server, b"a", b"b", b"c")
    assert grab(worker, 6) == [b, a, c2, b2, a2, c]


@pytest.mark.parametrize("options", [(), ("--round-robin",)])
def test_functions_take_turns(start_gearmand: StartGearmand, options: tuple[str, ...]) -> None:
    """The one that was registered last begins. The option of 1.1 has no effect."""
    server = start_gearmand(*options)
    a, a2, b, b2, b3 = queue(server.peer(), b"a", b"a", b"b", b"b", b"b")
    assert grab(can_do(server, b"a", b"b"), 5) == [b, a, b2, a2, b3]


@pytest.mark.guarantee(number=5)
def test_h9_worker_that_falls_asleep_frees_a_good_job(server: RealServer) -> None:
    """Nobody is notified. It would have freed the abandoned job of its other function, which is assigned instead."""
    abandoned = abandon(server, SUBMIT_JOB.request(b"a", b"uu", b"work"))
    client = server.peer()
    (good,) = queue(client, b"b", submit=SUBMIT_JOB_HIGH)
    worker = can_do(server, b"b", b"a")
    worker.send(PRE_SLEEP.request())
    assert worker.so_far() == [(NOOP, [])]
    assert client.ask(GET_STATUS.request(good)) == (STATUS_RES, [good, *UNKNOWN])
    assert grab(worker, 1) == [abandoned]
    assert handles_of_all(worker) == []
    assert client.so_far() == []
