"""docs/gearman.md §6: disconnected clients."""

from __future__ import annotations

import pytest

from txgearman.packets import (
    CAN_DO,
    ERROR,
    GRAB_JOB,
    GRAB_JOB_ALL,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN,
    NO_JOB,
    NOOP,
    PRE_SLEEP,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_HIGH,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW,
    SUBMIT_JOB_LOW_BG,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    Packet,
    PacketType,
)

from .conftest import Start
from .harness import Peer, Server
from .test_5_status import QUEUED, RUNNING, UNKNOWN, run, status, status_unique

NOTHING: Packet = (NO_JOB, [])
WAKE: Packet = (NOOP, [])


def leave(server: Server, client: Peer, *handles: bytes) -> None:
    """Close this connection, the only one that awaits these jobs, and wait until the server has noticed."""
    client.close()
    admin = server.peer()

    def noticed() -> bool:
        jobs = [line.split(b"\t") for line in admin.table(b"show jobs")]
        return {handle for handle, _, ignored, _ in jobs if ignored == b"1"}.issuperset(handles)

    server.until(noticed)


def abandon(server: Server, submit: bytes, count: int = 1) -> bytes:
    """Submit a job this many times, disconnect, and return its handle."""
    client = server.peer()
    (handle,) = {client.submit(submit) for _ in range(count)}
    leave(server, client, handle)
    return handle


def abandon_running(server: Server, function: bytes = b"f") -> tuple[bytes, Peer]:
    """Return a job whose client disconnected while it ran, and its worker."""
    client = server.peer()
    handle = client.submit(SUBMIT_JOB.request(function, b"uu", b"work"))
    worker = run(server, handle, function)
    leave(server, client, handle)
    return handle, worker


def can_do(server: Server, *functions: bytes) -> Peer:
    worker = server.peer()
    worker.send(*map(CAN_DO.request, functions))
    assert worker.so_far() == []
    return worker


@pytest.mark.parametrize("submit", [SUBMIT_JOB, SUBMIT_JOB_HIGH, SUBMIT_JOB_LOW])
def test_an_abandoned_job_stays_listed(server: Server, submit: PacketType) -> None:
    handle = abandon(server, submit.request(b"f", b"uu", b"work"))
    admin = server.peer()
    assert status(admin, handle) == QUEUED
    assert status_unique(admin, b"uu") == [*QUEUED, b"0"]
    assert admin.table(b"status") == [b"f\t1\t0\t0"]
    assert admin.table(b"show jobs") == [handle + b"\t0\t1\t0"]
    assert admin.table(b"show unique jobs") == [b"uu"]
    counts = [b"%d" % (submit is queue) for queue in (SUBMIT_JOB_HIGH, SUBMIT_JOB, SUBMIT_JOB_LOW)]
    assert admin.table(b"prioritystatus") == [b"\t".join([b"f", *counts, b"0"])]


@pytest.mark.parametrize("grab", [GRAB_JOB, GRAB_JOB_UNIQ, GRAB_JOB_ALL])
def test_an_abandoned_job_is_dropped_by_a_grab(server: Server, grab: PacketType) -> None:
    handle = abandon(server, SUBMIT_JOB.request(b"f", b"uu", b"work"))
    worker = can_do(server, b"f")
    assert status(worker, handle) == QUEUED
    assert worker.ask(grab.request()) == NOTHING
    assert status(worker, handle) == UNKNOWN
    assert worker.table(b"status") == [b"f\t0\t0\t1"]
    assert worker.table(b"show jobs") == worker.table(b"show unique jobs") == []


def test_an_abandoned_job_is_dropped_by_pre_sleep(server: Server) -> None:
    """The worker is not woken, and sleeps."""
    handle = abandon(server, SUBMIT_JOB.request(b"f", b"uu", b"work"))
    worker = can_do(server, b"f")
    worker.send(PRE_SLEEP.request())
    assert worker.so_far() == []
    assert status(worker, handle) == UNKNOWN
    server.peer().submit(SUBMIT_JOB.request(b"f", b"uu", b"work"))
    assert worker.so_far() == [WAKE]


@pytest.mark.parametrize("request_type", [GRAB_JOB, PRE_SLEEP])
def test_workers_of_other_functions_do_not_drop_it(server: Server, request_type: PacketType) -> None:
    handle = abandon(server, SUBMIT_JOB.request(b"f", b"uu", b"work"))
    worker = can_do(server, b"g")
    worker.send(request_type.request())
    assert worker.so_far() == ([NOTHING] if request_type is GRAB_JOB else [])
    assert status(worker, handle) == QUEUED


@pytest.mark.gearmand("1.1")
@pytest.mark.guarantee(number=5)
def test_h9_pre_sleep_drops_the_abandoned_job_and_no_job_of_another_function(server: Server) -> None:
    abandoned = abandon(server, SUBMIT_JOB.request(b"f", b"uu", b"work"))
    good = server.peer().submit(SUBMIT_JOB_HIGH.request(b"g", b"", b"work"))
    worker = can_do(server, b"g", b"f")
    worker.send(PRE_SLEEP.request())
    assert worker.so_far() == [WAKE]
    assert [status(worker, handle) for handle in (abandoned, good)] == [UNKNOWN, QUEUED]


def test_worker_woken_for_abandoned_job_gets_no_job(server: Server) -> None:
    worker = can_do(server, b"f")
    worker.send(PRE_SLEEP.request())
    assert worker.so_far() == []
    abandon(server, SUBMIT_JOB.request(b"f", b"uu", b"work"))
    assert worker.so_far() == [WAKE]
    assert worker.ask(GRAB_JOB.request()) == NOTHING


def test_grab_skips_abandoned_jobs(server: Server) -> None:
    """Those before the job that is assigned are dropped, those after it stay."""
    client = server.peer()
    first = abandon(server, SUBMIT_JOB.request(b"f", b"1", b"work"))
    normal = client.submit(SUBMIT_JOB.request(b"f", b"2", b"work"))
    last = abandon(server, SUBMIT_JOB.request(b"f", b"3", b"work"))
    high = client.submit(SUBMIT_JOB_HIGH.request(b"f", b"4", b"work"))
    worker = can_do(server, b"f")
    for assigned, left in ((high, [first, normal, last]), (normal, [last])):
        assert worker.ask(GRAB_JOB.request()) == (JOB_ASSIGN, [assigned, b"f", b"work"])
        assert [handle for handle in (first, normal, last) if status(worker, handle) == QUEUED] == left
    assert worker.ask(GRAB_JOB.request()) == NOTHING
    assert status(worker, last) == UNKNOWN


def test_pre_sleep_skips_abandoned_jobs(server: Server) -> None:
    first = abandon(server, SUBMIT_JOB.request(b"f", b"1", b"work"))
    client = server.peer()
    handle = client.submit(SUBMIT_JOB.request(b"f", b"2", b"work"))
    worker = can_do(server, b"f")
    worker.send(PRE_SLEEP.request())
    assert worker.so_far() == [WAKE]
    assert [status(worker, each) for each in (first, handle)] == [UNKNOWN, QUEUED]
    assert worker.ask(GRAB_JOB.request()) == (JOB_ASSIGN, [handle, b"f", b"work"])


def test_all_jobs_of_a_client_are_abandoned(server: Server) -> None:
    """Of every function and priority. One grab drops all those of the worker's functions."""
    client = server.peer()
    submits = [t.request(f, b"", b"work") for t in (SUBMIT_JOB, SUBMIT_JOB_HIGH, SUBMIT_JOB_LOW) for f in (b"f", b"g")]
    handles = [client.submit(submit) for submit in submits]
    leave(server, client, *handles)
    worker = can_do(server, b"f", b"g")
    assert worker.ask(GRAB_JOB.request()) == NOTHING
    assert [status(worker, handle) for handle in handles] == [UNKNOWN] * 6


@pytest.mark.parametrize("count", [1, 2])
def test_job_with_another_client_is_not_abandoned(server: Server, count: int) -> None:
    stays, leaves = server.peer(), server.peer()
    submit = SUBMIT_JOB.request(b"f", b"uu", b"work")
    (handle,) = {peer.submit(submit) for peer in [stays, *[leaves] * count]}
    leaves.close()
    server.until(lambda: status_unique(stays, b"uu") == [*QUEUED, b"1"])
    assert stays.table(b"show jobs") == [handle + b"\t0\t0\t0"]
    worker = run(server, handle)
    worker.send(WORK_COMPLETE.request(handle, b"done"))
    assert worker.so_far() == []
    assert stays.so_far() == [(WORK_COMPLETE, [handle, b"done"])]


def test_disconnect_ends_all_submits_of_connection(server: Server) -> None:
    handle = abandon(server, SUBMIT_JOB.request(b"f", b"uu", b"work"), count=3)
    worker = can_do(server, b"f")
    assert status_unique(worker, b"uu") == [*QUEUED, b"0"]
    assert worker.ask(GRAB_JOB.request()) == NOTHING
    assert status(worker, handle) == UNKNOWN


# Running jobs.


@pytest.mark.parametrize("end", [WORK_COMPLETE, WORK_FAIL, WORK_EXCEPTION])
def test_running_job_continues_without_client(server: Server, end: PacketType) -> None:
    """The worker is not notified, and all that it sends is accepted."""
    handle, worker = abandon_running(server)
    assert worker.so_far() == []
    assert (status(worker, handle), worker.table(b"show jobs")) == (RUNNING, [handle + b"\t0\t1\t0"])
    assert worker.table(b"status") == [b"f\t1\t1\t1"]
    worker.send(WORK_DATA.request(handle, b"d"), WORK_WARNING.request(handle, b"w"))
    worker.send(WORK_STATUS.request(handle, b"1", b"2"))
    assert worker.so_far() == []
    assert status(worker, handle) == [b"1", b"1", b"1", b"2"]
    worker.send(end.request(handle, *[b""] * (len(end.arguments) - 1)))
    assert worker.so_far() == []
    assert status(worker, handle) == UNKNOWN


def test_a_running_job_can_be_joined_after_its_client_left(server: Server) -> None:
    """Unlike a queued one (H1)."""
    handle, worker = abandon_running(server)
    client = server.peer()
    assert client.submit(SUBMIT_JOB.request(b"f", b"uu", b"work")) == handle
    assert status_unique(client, b"uu") == [*RUNNING, b"1"]
    worker.send(WORK_DATA.request(handle, b"d"), WORK_COMPLETE.request(handle, b"done"))
    assert worker.so_far() == []
    assert client.so_far() == [(WORK_DATA, [handle, b"d"]), (WORK_COMPLETE, [handle, b"done"])]


def test_requeued_job_without_client_is_abandoned(server: Server) -> None:
    """It is queued again, sleeping workers are woken, and the first grab drops it."""
    admin, sleeper = server.peer(), can_do(server, b"f")
    handle, worker = abandon_running(server)
    sleeper.send(PRE_SLEEP.request())
    assert sleeper.so_far() == []
    worker.close()
    server.until(lambda: status(admin, handle) == QUEUED)
    assert sleeper.so_far() == [WAKE]
    assert sleeper.table(b"show jobs") == [handle + b"\t1\t1\t0"]
    assert sleeper.ask(GRAB_JOB.request()) == NOTHING
    assert status(sleeper, handle) == UNKNOWN


def test_job_without_client_or_retries_is_forgotten_at_once(start: Start) -> None:
    server = start(job_retries=1)
    admin, sleeper = server.peer(), can_do(server, b"f")
    handle, worker = abandon_running(server)
    sleeper.send(PRE_SLEEP.request())
    assert sleeper.so_far() == []
    worker.close()
    server.until(lambda: status(admin, handle) == UNKNOWN)
    assert sleeper.so_far() == []
    assert sleeper.table(b"show jobs") == []


@pytest.mark.guarantee(number=5)
def test_h3_client_that_joined_abandoned_running_job_gets_nothing_if_worker_is_lost(server: Server) -> None:
    handle, worker = abandon_running(server)
    client = server.peer()
    assert client.submit(SUBMIT_JOB.request(b"f", b"uu", b"work")) == handle
    worker.close()
    server.until(lambda: status(client, handle) == QUEUED)
    assert client.table(b"show jobs") == [handle + b"\t1\t1\t0"]
    assert status_unique(client, b"uu") == [*QUEUED, b"1"]
    assert can_do(server, b"f").ask(GRAB_JOB.request()) == NOTHING
    assert status(client, handle) == UNKNOWN
    assert client.so_far() == []


@pytest.mark.guarantee(number=5)
def test_h3_client_is_notified_if_retries_are_exhausted(start: Start) -> None:
    server = start(job_retries=1)
    handle, worker = abandon_running(server)
    client = server.peer()
    assert client.submit(SUBMIT_JOB.request(b"f", b"uu", b"work")) == handle
    worker.close()
    assert client.receive() == (WORK_FAIL, [handle])
    assert status(client, handle) == UNKNOWN


# H1: a submit joins a queued job whose client has left.


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("unique", [b"uu", b"-"])
@pytest.mark.parametrize(
    "submit",
    [SUBMIT_JOB, SUBMIT_JOB_HIGH, SUBMIT_JOB_LOW, SUBMIT_JOB_BG, SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_LOW_BG],
)
def test_h1_client_that_joins_abandoned_job_gets_nothing(server: Server, submit: PacketType, unique: bytes) -> None:
    """A background submit that joins it is lost, too (L2)."""
    handle = abandon(server, SUBMIT_JOB.request(b"f", unique, b"work"))
    client = server.peer()
    assert client.submit(submit.request(b"f", unique, b"work")) == handle
    assert client.table(b"show jobs") == [handle + b"\t0\t1\t0"]
    assert status(client, handle) == QUEUED
    assert can_do(server, b"f").ask(GRAB_JOB.request()) == NOTHING
    assert status(client, handle) == UNKNOWN
    assert client.so_far() == []


@pytest.mark.guarantee(number=5)
def test_h1_join_of_abandoned_job_wakes_no_worker(server: Server) -> None:
    handle = abandon(server, SUBMIT_JOB.request(b"f", b"uu", b"work"))
    worker = can_do(server, b"g")
    worker.send(PRE_SLEEP.request(), CAN_DO.request(b"f"))
    assert worker.so_far() == []
    assert server.peer().submit(SUBMIT_JOB.request(b"f", b"uu", b"work")) == handle
    assert worker.so_far() == []


@pytest.mark.guarantee(number=5)
def test_h1_clients_of_an_abandoned_job_are_counted(server: Server) -> None:
    handle = abandon(server, SUBMIT_JOB.request(b"f", b"uu", b"work"))
    client = server.peer()
    for number in range(1, 4):
        assert client.submit(SUBMIT_JOB.request(b"f", b"uu", b"work")) == handle
        assert status_unique(client, b"uu") == [*QUEUED, b"%d" % number]


@pytest.mark.guarantee(number=5)
def test_h1_unique_is_free_after_abandoned_job_is_dropped(server: Server) -> None:
    submit = SUBMIT_JOB.request(b"f", b"uu", b"work")
    handle = abandon(server, submit)
    worker = can_do(server, b"f")
    assert worker.ask(GRAB_JOB.request()) == NOTHING
    client = server.peer()
    again = client.submit(submit)
    assert again != handle
    assert worker.ask(GRAB_JOB.request()) == (JOB_ASSIGN, [again, b"f", b"work"])
    worker.send(WORK_COMPLETE.request(again, b"done"))
    assert worker.so_far() == []
    assert client.so_far() == [(WORK_COMPLETE, [again, b"done"])]


@pytest.mark.guarantee(number=5)
def test_h1_another_function_or_unique_does_not_join(server: Server) -> None:
    handle = abandon(server, SUBMIT_JOB.request(b"f", b"uu", b"work"))
    client = server.peer()
    others = [
        client.submit(SUBMIT_JOB.request(*names, b"work")) for names in ((b"g", b"uu"), (b"f", b"u"), (b"f", b""))
    ]
    assert len({handle, *others}) == 4


# Background jobs.


def test_background_jobs_run_without_their_client(server: Server) -> None:
    client = server.peer()
    queued = [
        client.submit(t.request(b"f", b"", b"work")) for t in (SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_BG, SUBMIT_JOB_LOW_BG)
    ]
    waited_for = client.submit(SUBMIT_JOB.request(b"g", b"", b"work"))
    leave(server, client, waited_for)
    worker = can_do(server, b"f")
    for handle in queued:
        assert worker.ask(GRAB_JOB.request()) == (JOB_ASSIGN, [handle, b"f", b"work"])
        worker.send(WORK_COMPLETE.request(handle, b""))
    assert worker.so_far() == []


@pytest.mark.guarantee(number=5)
def test_l5_jobs_of_client_that_closes_at_once_are_kept(server: Server) -> None:
    client, admin = server.peer(), server.peer()
    client.send(*(SUBMIT_JOB_BG.request(b"f", b"", b"%d" % n) for n in range(100)))
    client.close()
    server.until(lambda: admin.table(b"status") == [b"f\t100\t0\t0"])
    worker = can_do(server, b"f")
    assert [worker.ask(GRAB_JOB.request())[1][2] for _ in range(100)] == [b"%d" % n for n in range(100)]


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("background_first", [True, False])
def test_l1_a_background_job_is_lost_with_a_client_that_joined_it(server: Server, background_first: bool) -> None:
    stays, leaves = server.peer(), server.peer()
    submits = [(stays, SUBMIT_JOB_BG.request(b"f", b"uu", b"bg")), (leaves, SUBMIT_JOB.request(b"f", b"uu", b"fg"))]
    ordered = submits if background_first else submits[::-1]
    (handle,) = {peer.submit(submit) for peer, submit in ordered}
    leave(server, leaves, handle)
    assert status(stays, handle) == QUEUED
    assert can_do(server, b"f").ask(GRAB_JOB.request()) == NOTHING
    assert status(stays, handle) == UNKNOWN


def join_and_leave(server: Server) -> tuple[bytes, Peer]:
    """Return a running background job that a client had joined, and its worker."""
    client = server.peer()
    handle = client.submit(SUBMIT_JOB_BG.request(b"f", b"uu", b"work"))
    worker = run(server, handle)
    assert client.submit(SUBMIT_JOB.request(b"f", b"uu", b"work")) == handle
    leave(server, client, handle)
    return handle, worker


@pytest.mark.guarantee(number=5)
def test_l1_a_running_background_job_can_end_after_a_client_that_joined_it_left(server: Server) -> None:
    handle, worker = join_and_leave(server)
    assert status(worker, handle) == RUNNING
    worker.send(WORK_COMPLETE.request(handle, b""))
    assert worker.so_far() == []
    assert status(worker, handle) == UNKNOWN


@pytest.mark.guarantee(number=5)
def test_l1_running_background_job_is_lost_if_worker_is_lost_too(server: Server) -> None:
    handle, worker = join_and_leave(server)
    worker.close()
    other = can_do(server, b"f")
    server.until(lambda: status(other, handle) == QUEUED)
    assert other.ask(GRAB_JOB.request()) == NOTHING
    assert status(other, handle) == UNKNOWN


# A connection that is client and worker.


def test_worker_that_awaits_its_own_job_disconnects(server: Server) -> None:
    """It disconnects as a client and as a worker."""
    both = server.peer()
    handle = both.submit(SUBMIT_JOB.request(b"f", b"uu", b"work"))
    both.send(CAN_DO.request(b"f"))
    assert both.ask(GRAB_JOB.request()) == (JOB_ASSIGN, [handle, b"f", b"work"])
    both.close()
    other = server.peer()
    server.until(lambda: status(other, handle) == QUEUED)
    assert other.table(b"show jobs") == [handle + b"\t1\t1\t0"]
    other.send(CAN_DO.request(b"f"))
    assert other.ask(GRAB_JOB.request()) == NOTHING


@pytest.mark.parametrize("end", [WORK_COMPLETE, WORK_FAIL])
def test_result_of_dropped_job_is_refused(server: Server, end: PacketType) -> None:
    handle = abandon(server, SUBMIT_JOB.request(b"f", b"uu", b"work"))
    worker = can_do(server, b"f")
    assert worker.ask(GRAB_JOB.request()) == NOTHING
    refusal = (ERROR, [b"JOB_NOT_FOUND", b"Job given in work result not found"])
    assert worker.ask(end.request(handle, *[b""] * (len(end.arguments) - 1))) == refusal
