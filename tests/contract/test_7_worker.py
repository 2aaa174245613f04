"""docs/gearman.md §7: disconnected workers, how jobs are assigned, and which workers are woken."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from txgearman.packets import (
    CAN_DO,
    CAN_DO_TIMEOUT,
    CANT_DO,
    ECHO_REQ,
    ERROR,
    GET_STATUS,
    GRAB_JOB,
    GRAB_JOB_ALL,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN,
    JOB_ASSIGN_UNIQ,
    JOB_CREATED,
    NO_JOB,
    NOOP,
    OPTION_REQ,
    PRE_SLEEP,
    RESET_ABILITIES,
    SET_CLIENT_ID,
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
from .test_6_client_disconnect import NOTHING, WAKE, can_do

REFUSED: Packet = (ERROR, [b"JOB_NOT_FOUND", b"Job given in work result not found"])
PRE_SLEEP_NOW = PRE_SLEEP.request()
GRABS = [GRAB_JOB, GRAB_JOB_UNIQ, GRAB_JOB_ALL]


def queue(peer: Peer, *functions: bytes, submit: PacketType = SUBMIT_JOB_BG) -> list[bytes]:
    """Submit a job of each of these functions, and return their handles."""
    return [peer.submit(submit.request(function, b"", b"work")) for function in functions]


def grab(worker: Peer, count: int) -> list[bytes]:
    """Grab this many jobs, and return their handles."""
    packets = [worker.ask(GRAB_JOB.request()) for _ in range(count)]
    assert [packet_type for packet_type, _ in packets] == [JOB_ASSIGN] * count
    return [arguments[0] for _, arguments in packets]


def send_unanswered(worker: Peer, *packets: bytes) -> None:
    """Send packets that are not answered, and wait until they are processed."""
    worker.send(*packets)
    assert worker.so_far() == []


def asleep(server: Server, *functions: bytes) -> Peer:
    worker = can_do(server, *functions)
    send_unanswered(worker, PRE_SLEEP_NOW)
    return worker


def disconnect(server: Server, worker: Peer, *handles: bytes, then: Sequence[bytes] = QUEUED) -> None:
    """Close the connection of the worker that runs these jobs, and wait until their status has changed."""
    worker.close()
    admin = server.peer()
    server.until(lambda: all(status(admin, handle) == then for handle in handles))


# Retries.


@pytest.mark.guarantee(number=5)
def test_d4_job_is_retried_until_worker_ends_it(server: Server) -> None:
    """The client gets what each of them sent, and is not notified of a retry."""
    client = server.peer()
    handle = client.submit(SUBMIT_JOB.request(b"f", b"uu", b"work"))
    for tries in range(1, 4):
        worker = run(server, handle)
        send_unanswered(worker, WORK_STATUS.request(handle, b"%d" % tries, b"9"), WORK_DATA.request(handle, b"d"))
        disconnect(server, worker, handle)
        assert client.so_far() == [(WORK_STATUS, [handle, b"%d" % tries, b"9"]), (WORK_DATA, [handle, b"d"])]
        assert client.table(b"show jobs") == [b"%b\t%d\t0\t0" % (handle, tries)]
        assert client.table(b"status") == [b"f\t1\t0\t0"]
    send_unanswered(run(server, handle), WORK_COMPLETE.request(handle, b"done"))
    assert client.so_far() == [(WORK_COMPLETE, [handle, b"done"])]


def test_requeued_job_is_unchanged(server: Server) -> None:
    client = server.peer()
    handle = client.submit(SUBMIT_JOB.request(b"f", b"uu", b"wo\0rk"))
    for _ in range(2):
        worker = can_do(server, b"f")
        assert worker.ask(GRAB_JOB_UNIQ.request()) == (JOB_ASSIGN_UNIQ, [handle, b"f", b"uu", b"wo\0rk"])
        disconnect(server, worker, handle)
    assert client.submit(SUBMIT_JOB.request(b"f", b"uu", b"")) == handle
    assert status_unique(client, b"uu") == [*QUEUED, b"2"]


@pytest.mark.parametrize("retries", [1, 2])
def test_job_fails_after_job_retries(start: Start, retries: int) -> None:
    """WORK_FAIL goes to each client once for each of its submits."""
    server = start(job_retries=retries)
    client, other = server.peer(), server.peer()
    submit = SUBMIT_JOB.request(b"f", b"uu", b"work")
    (handle,) = {peer.submit(submit) for peer in (client, client, other)}
    for _ in range(retries - 1):
        disconnect(server, run(server, handle), handle)
        assert client.so_far() == other.so_far() == []
    disconnect(server, run(server, handle), handle, then=UNKNOWN)
    assert client.so_far() == [(WORK_FAIL, [handle])] * 2
    assert other.so_far() == [(WORK_FAIL, [handle])]
    assert (client.table(b"status"), client.table(b"show jobs")) == ([b"f\t0\t0\t0"], [])
    assert can_do(server, b"f").ask(GRAB_JOB.request()) == NOTHING


@pytest.mark.parametrize("retries", [1, 2])
def test_background_job_is_forgotten_after_job_retries(start: Start, retries: int) -> None:
    server = start(job_retries=retries)
    client = server.peer()
    (handle,) = queue(client, b"f")
    for _ in range(retries - 1):
        disconnect(server, run(server, handle), handle)
    disconnect(server, run(server, handle), handle, then=UNKNOWN)
    assert client.so_far() == []
    assert can_do(server, b"f").ask(GRAB_JOB.request()) == NOTHING


@pytest.mark.gearmand("1.1")
def test_job_retries_0_is_no_limit(start: Start) -> None:
    server = start(job_retries=0)
    (handle,) = queue(server.peer(), b"f", submit=SUBMIT_JOB)
    for _ in range(3):
        disconnect(server, run(server, handle), handle)


def test_failures_of_jobs_of_one_worker_are_sent_in_order_of_requeue(start: Start) -> None:
    """By function, the one registered last first; within a function, the job grabbed last first."""
    server = start(job_retries=1)
    client = server.peer()
    x1, y1, x2, y2 = queue(client, b"x", b"y", b"x", b"y", submit=SUBMIT_JOB)
    worker = can_do(server, b"x", b"y")
    assert {*grab(worker, 4)} == {x1, y1, x2, y2}  # in an order that depends on the release
    disconnect(server, worker, x1, x2, y1, y2, then=UNKNOWN)
    assert client.so_far() == [(WORK_FAIL, [handle]) for handle in (y2, y1, x2, x1)]


# The order after a requeue.


def test_a_job_is_requeued_behind_the_others(server: Server) -> None:
    a, b, c = queue(server.peer(), b"f", b"f", b"f")
    disconnect(server, run(server, a), a)
    worker = can_do(server, b"f")
    assert grab(worker, 3) == [b, c, a]
    assert worker.ask(GRAB_JOB.request()) == NOTHING


def test_jobs_of_one_worker_are_requeued_the_last_one_first(server: Server) -> None:
    a, b, c, d = queue(server.peer(), b"f", b"f", b"f", b"f")
    worker = can_do(server, b"f")
    assert grab(worker, 3) == [a, b, c]
    disconnect(server, worker, a, b, c)
    assert grab(can_do(server, b"f"), 4) == [d, c, b, a]


def test_a_job_keeps_its_priority_when_it_is_requeued(server: Server) -> None:
    client = server.peer()
    submits = [SUBMIT_JOB_LOW_BG, SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_BG, SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_LOW_BG]
    low, high, normal, high2, low2 = [queue(client, b"f", submit=submit)[0] for submit in submits]
    disconnect(server, run(server, high), high)
    assert client.table(b"prioritystatus") == [b"f\t2\t1\t2\t0"]
    assert grab(can_do(server, b"f"), 5) == [high2, high, normal, low, low2]


@pytest.mark.parametrize("submit", [SUBMIT_JOB, SUBMIT_JOB_BG])
def test_all_sleeping_workers_are_woken_by_a_requeue(server: Server, submit: PacketType) -> None:
    (handle,) = queue(server.peer(), b"f", submit=submit)
    worker = run(server, handle)
    sleepers, other = [asleep(server, b"f") for _ in range(3)], asleep(server, b"g")
    disconnect(server, worker, handle)
    assert [sleeper.so_far() for sleeper in sleepers] == [[WAKE]] * 3
    assert other.so_far() == []


def test_no_worker_is_woken_if_retries_are_exhausted(start: Start) -> None:
    server = start(job_retries=1)
    (handle,) = queue(server.peer(), b"f")
    worker, sleeper = run(server, handle), asleep(server, b"f")
    disconnect(server, worker, handle, then=UNKNOWN)
    assert sleeper.so_far() == []


def test_results_sent_before_a_close_count(server: Server) -> None:
    client = server.peer()
    (handle,) = queue(client, b"f", submit=SUBMIT_JOB)
    worker = run(server, handle)
    worker.send(WORK_DATA.request(handle, b"d"), WORK_COMPLETE.request(handle, b"done"))
    worker.close()
    assert client.receive() == (WORK_DATA, [handle, b"d"])
    assert client.receive() == (WORK_COMPLETE, [handle, b"done"])
    assert status(client, handle) == UNKNOWN


def test_lost_worker_is_not_counted(server: Server) -> None:
    gone, stays = asleep(server, b"f", b"g"), can_do(server, b"f")
    gone.close()
    server.until(lambda: stays.table(b"status") == [b"f\t0\t0\t1", b"g\t0\t0\t0"])
    (handle,) = queue(server.peer(), b"f")
    assert grab(stays, 1) == [handle]


def test_results_of_first_worker_are_refused_after_requeue(server: Server) -> None:
    """A worker that lost its job is refused as any other connection is."""
    client = server.peer()
    (handle,) = queue(client, b"f", submit=SUBMIT_JOB)
    first = run(server, handle)
    send_unanswered(first, CANT_DO.request(b"f"))
    second = run(server, handle)
    assert first.ask(WORK_COMPLETE.request(handle, b"first")) == REFUSED
    send_unanswered(second, WORK_COMPLETE.request(handle, b"second"))
    assert client.so_far() == [(WORK_COMPLETE, [handle, b"second"])]


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize(
    ("packet_type", "arguments", "text"),
    [
        (WORK_STATUS, [b"7", b"8"], b"Job given in work result not found"),
        (WORK_COMPLETE, [b"x"], b"Job given in work result not found"),
        (WORK_FAIL, [], b"Job given in work result not found"),
        (WORK_DATA, [b"x"], b"Job does not exist on server"),
        (WORK_WARNING, [b"x"], b"Job does not exist on server"),
        (WORK_EXCEPTION, [b"x"], b"An exception was received for a job that does not exist"),
    ],
)
def test_results_from_another_connection_are_refused(
    server: Server, packet_type: PacketType, arguments: list[bytes], text: bytes, running: bool
) -> None:
    """Even from a worker of the function."""
    client = server.peer()
    (handle,) = queue(client, b"f", submit=SUBMIT_JOB)
    if running:
        run(server, handle)
    other = can_do(server, b"f")
    assert other.ask(packet_type.request(handle, *arguments)) == (ERROR, [b"JOB_NOT_FOUND", text])
    assert client.so_far() == []
    assert status(client, handle) == (RUNNING if running else QUEUED)


# Abilities that are added or removed while a job runs.

TAKEN_AWAY = [CANT_DO.request(b"f"), RESET_ABILITIES.request()]


@pytest.mark.parametrize("request_", TAKEN_AWAY)
def test_cant_do_and_reset_abilities_requeue_the_running_job(server: Server, request_: bytes) -> None:
    client = server.peer()
    handle, behind = queue(client, b"f", b"f", submit=SUBMIT_JOB)
    worker, sleeper = run(server, handle), can_do(server, b"g")
    send_unanswered(worker, WORK_STATUS.request(handle, b"1", b"2"))
    sleeper.send(PRE_SLEEP_NOW, CAN_DO.request(b"f"))
    assert sleeper.so_far() == []
    send_unanswered(worker, request_)
    assert client.so_far() == [(WORK_STATUS, [handle, b"1", b"2"])]
    assert status(client, handle) == QUEUED
    assert client.table(b"show jobs") == [handle + b"\t1\t0\t0", behind + b"\t0\t0\t0"]
    assert sleeper.so_far() == [WAKE]
    assert worker.ask(WORK_COMPLETE.request(handle, b"done")) == REFUSED
    assert grab(sleeper, 2) == [behind, handle]
    assert client.so_far() == []


@pytest.mark.parametrize("request_", TAKEN_AWAY)
def test_cant_do_and_reset_abilities_count_as_retry(start: Start, request_: bytes) -> None:
    server = start(job_retries=1)
    client = server.peer()
    (handle,) = queue(client, b"f", submit=SUBMIT_JOB)
    worker, sleeper = run(server, handle), asleep(server, b"f")
    send_unanswered(worker, request_)
    assert client.so_far() == [(WORK_FAIL, [handle])]
    assert status(client, handle) == UNKNOWN
    assert worker.ask(WORK_COMPLETE.request(handle, b"done")) == REFUSED
    assert sleeper.so_far() == client.so_far() == []


@pytest.mark.parametrize("count", [1, 2])
def test_cant_do_of_a_function_registered_twice(server: Server, count: int) -> None:
    """It removes all registrations, and requeues the running job."""
    (handle,) = queue(server.peer(), b"f")
    worker = can_do(server, *[b"f"] * count)
    assert grab(worker, 1) == [handle]
    send_unanswered(worker, *[CAN_DO.request(b"f")] * (2 - count), CANT_DO.request(b"f"))
    assert status(worker, handle) == QUEUED
    assert worker.table(b"status") == [b"f\t1\t0\t0"]
    assert worker.ask(GRAB_JOB.request()) == NOTHING


def test_cant_do_requeues_all_running_jobs_of_the_function(server: Server) -> None:
    a, b, other = queue(server.peer(), b"f", b"f", b"g")
    worker = can_do(server, b"f", b"g")
    assert grab(worker, 3) == [other, a, b]
    send_unanswered(worker, CANT_DO.request(b"f"))
    assert [status(worker, handle) for handle in (a, b, other)] == [QUEUED, QUEUED, RUNNING]
    assert grab(can_do(server, b"f"), 2) == [b, a]


def test_reset_abilities_requeues_the_jobs_of_all_functions(server: Server) -> None:
    handles = queue(server.peer(), b"f", b"g")
    worker = can_do(server, b"f", b"g")
    grab(worker, 2)
    send_unanswered(worker, RESET_ABILITIES.request())
    assert [status(worker, handle) for handle in handles] == [QUEUED] * 2
    assert worker.table(b"status") == [b"f\t1\t0\t0", b"g\t1\t0\t0"]
    assert worker.ask(GRAB_JOB.request()) == NOTHING


def test_worker_can_get_job_again_that_it_returned(server: Server) -> None:
    client = server.peer()
    (handle,) = queue(client, b"f", submit=SUBMIT_JOB)
    worker = run(server, handle)
    send_unanswered(worker, CANT_DO.request(b"f"), CAN_DO.request(b"f"))
    assert grab(worker, 1) == [handle]
    send_unanswered(worker, WORK_COMPLETE.request(handle, b"done"))
    assert client.so_far() == [(WORK_COMPLETE, [handle, b"done"])]


@pytest.mark.parametrize(
    "request_",
    [
        CANT_DO.request(b"g"),
        CANT_DO.request(b"unknown"),
        CAN_DO.request(b"f"),
        CAN_DO_TIMEOUT.request(b"f", b"0"),
        SET_CLIENT_ID.request(b"name"),
        PRE_SLEEP_NOW,
    ],
)
def test_other_requests_do_not_affect_running_job(start: Start, request_: bytes) -> None:
    server = start(job_retries=1)
    client = server.peer()
    (handle,) = queue(client, b"f", submit=SUBMIT_JOB)
    worker = can_do(server, b"f", b"g")
    assert grab(worker, 1) == [handle]
    send_unanswered(worker, request_)
    assert status(client, handle) == RUNNING
    send_unanswered(worker, WORK_COMPLETE.request(handle, b"done"))
    assert client.so_far() == [(WORK_COMPLETE, [handle, b"done"])]


@pytest.mark.parametrize("grab_type", GRABS)
def test_grab_does_not_affect_running_job(server: Server, grab_type: PacketType) -> None:
    handle, second = queue(server.peer(), b"f", b"f")
    worker = run(server, handle)
    assert worker.ask(grab_type.request())[1][0] == second
    assert worker.ask(grab_type.request()) == NOTHING
    assert [status(worker, each) for each in (handle, second)] == [RUNNING] * 2
    send_unanswered(worker, WORK_COMPLETE.request(second, b""), WORK_COMPLETE.request(handle, b""))


@pytest.mark.parametrize("request_", [CANT_DO.request(b"f"), CANT_DO.request(b"unknown"), RESET_ABILITIES.request()])
def test_abilities_can_be_removed_repeatedly(server: Server, request_: bytes) -> None:
    worker = can_do(server, b"f")
    send_unanswered(worker, *[CANT_DO.request(b"f"), request_] * 2)
    assert worker.table(b"status") == [b"f\t0\t0\t0"]


# How jobs are assigned.


@pytest.mark.parametrize("grab_type", GRABS)
def test_without_abilities_there_is_no_job(server: Server, grab_type: PacketType) -> None:
    queue(server.peer(), b"f")
    assert server.peer().ask(grab_type.request()) == NOTHING


def test_the_highest_priority_is_first_and_the_oldest_of_it(server: Server) -> None:
    """Whether a client awaits the job makes no difference."""
    client = server.peer()
    submits = [SUBMIT_JOB_LOW_BG, SUBMIT_JOB, SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_LOW, SUBMIT_JOB_BG, SUBMIT_JOB_HIGH]
    low, normal, high, low2, normal2, high2 = [queue(client, b"f", submit=submit)[0] for submit in submits]
    assert grab(can_do(server, b"f"), 6) == [high, high2, normal, normal2, low, low2]


@pytest.mark.gearmand("1.1")
def test_the_newest_ability_is_first_whatever_the_priority(server: Server) -> None:
    client = server.peer()
    a, b = queue(client, b"a", b"b", submit=SUBMIT_JOB_HIGH_BG)
    (c,) = queue(client, b"c", submit=SUBMIT_JOB_LOW_BG)
    a2, b2, c2 = queue(client, b"a", b"b", b"c")
    worker = can_do(server, b"a", b"b", b"c")
    assert grab(worker, 6) == [c2, c, b, b2, a, a2]


def test_order_of_abilities_applies_to_each_grab(server: Server) -> None:
    client = server.peer()
    worker = can_do(server, b"a", b"b")
    a, a2 = queue(client, b"a", b"a")
    assert grab(worker, 1) == [a]
    (b,) = queue(client, b"b")
    assert grab(worker, 2) == [b, a2]


@pytest.mark.parametrize("take_back", [[], [CANT_DO.request(b"a")]])
def test_can_do_again_makes_an_ability_the_newest(server: Server, take_back: list[bytes]) -> None:
    worker = can_do(server, b"a", b"b")
    send_unanswered(worker, *take_back, CAN_DO.request(b"a"))
    a, b = queue(server.peer(), b"a", b"b")
    assert grab(worker, 2) == [a, b]


@pytest.mark.parametrize("second", [CAN_DO.request(b"f"), CAN_DO_TIMEOUT.request(b"f", b"0")])
def test_a_function_registered_twice_is_counted_twice(server: Server, second: bytes) -> None:
    worker = can_do(server, b"f", b"g")
    send_unanswered(worker, SET_CLIENT_ID.request(b"me"), second)
    assert worker.table(b"status") == [b"f\t0\t0\t2", b"g\t0\t0\t1"]
    assert any(line.endswith(b" me : f g f") for line in worker.table(b"workers"))
    send_unanswered(worker, CANT_DO.request(b"f"))
    assert worker.table(b"status") == [b"f\t0\t0\t0", b"g\t0\t0\t1"]
    assert any(line.endswith(b" me : g") for line in worker.table(b"workers"))


def test_a_job_is_assigned_once_where_a_function_is_registered_twice(server: Server) -> None:
    (handle,) = queue(server.peer(), b"f")
    worker = can_do(server, b"f", b"f")
    assert grab(worker, 1) == [handle]
    assert worker.ask(GRAB_JOB.request()) == NOTHING


def test_worker_may_offer_empty_function(server: Server) -> None:
    (handle,) = queue(server.peer(), b"")
    assert grab(can_do(server, b""), 1) == [handle]


# Which workers are woken.


def test_a_sleeping_worker_is_woken_once(server: Server) -> None:
    client, worker = server.peer(), asleep(server, b"f", b"g")
    queue(client, b"f", b"g", b"f")
    assert worker.so_far() == [WAKE]


@pytest.mark.parametrize(
    "submit", [SUBMIT_JOB, SUBMIT_JOB_HIGH, SUBMIT_JOB_LOW, SUBMIT_JOB_BG, SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_LOW_BG]
)
def test_all_sleeping_workers_of_the_function_are_woken(server: Server, submit: PacketType) -> None:
    sleepers = [asleep(server, *functions) for functions in ((b"f",), (b"g", b"f"), (b"f", b"g"), (b"f", b"f"))]
    others = [asleep(server, b"g"), asleep(server), can_do(server, b"f")]
    queue(server.peer(), b"f", submit=submit)
    assert [worker.so_far() for worker in sleepers] == [[WAKE]] * 4
    assert [worker.so_far() for worker in others] == [[]] * 3


def test_only_one_of_them_gets_the_job(server: Server) -> None:
    sleepers = [asleep(server, b"f") for _ in range(3)]
    (handle,) = queue(server.peer(), b"f")
    assert [sleeper.receive() for sleeper in sleepers] == [WAKE] * 3
    assert [sleeper.ask(GRAB_JOB.request())[0] for sleeper in sleepers] == [JOB_ASSIGN, NO_JOB, NO_JOB]
    assert status(sleepers[0], handle) == RUNNING


@pytest.mark.parametrize("running", [False, True])
def test_join_wakes_no_worker(server: Server, running: bool) -> None:
    client = server.peer()
    submit = SUBMIT_JOB.request(b"f", b"uu", b"work")
    handle = client.submit(submit)
    if running:
        run(server, handle)
    worker = asleep(server, b"g")
    send_unanswered(worker, CAN_DO.request(b"f"))
    assert client.submit(submit) == handle
    assert worker.so_far() == []


def test_pre_sleep_with_a_job_in_the_queue_is_answered_by_noop_at_once(server: Server) -> None:
    """Each time; the worker does not sleep."""
    client, worker = server.peer(), can_do(server, b"f")
    (handle,) = queue(client, b"f")
    worker.send(PRE_SLEEP_NOW, PRE_SLEEP_NOW)
    assert worker.so_far() == [WAKE] * 2
    run(server, handle)
    queue(client, b"f")
    assert worker.so_far() == []


def test_a_worker_that_was_not_asleep_can_sleep_after_the_noop(server: Server) -> None:
    client, worker = server.peer(), can_do(server, b"f")
    (handle,) = queue(client, b"f")
    assert worker.ask(PRE_SLEEP_NOW) == WAKE
    run(server, handle)
    send_unanswered(worker, PRE_SLEEP_NOW)
    queue(client, b"f")
    assert worker.so_far() == [WAKE]


def test_pre_sleep_again_changes_nothing(server: Server) -> None:
    worker = asleep(server, b"f")
    send_unanswered(worker, PRE_SLEEP_NOW, PRE_SLEEP_NOW)
    queue(server.peer(), b"f", b"f")
    assert worker.so_far() == [WAKE]
    assert worker.ask(PRE_SLEEP_NOW) == WAKE


def test_a_woken_worker_is_not_woken_again_before_it_grabs(server: Server) -> None:
    """Not even if it sends PRE_SLEEP again when there is no job: only GRAB_JOB ends the sleep."""
    client, worker = server.peer(), asleep(server, b"f")
    (handle,) = queue(client, b"f")
    assert worker.receive() == WAKE
    run(server, handle)
    send_unanswered(worker, PRE_SLEEP_NOW)
    (second,) = queue(client, b"f")
    assert worker.so_far() == []
    assert grab(worker, 1) == [second]
    send_unanswered(worker, PRE_SLEEP_NOW)
    queue(client, b"f")
    assert worker.so_far() == [WAKE]


@pytest.mark.parametrize("grab_type", GRABS)
def test_a_worker_that_grabs_is_awake_even_if_there_is_no_job(server: Server, grab_type: PacketType) -> None:
    worker = asleep(server, b"f")
    assert worker.ask(grab_type.request()) == NOTHING
    queue(server.peer(), b"f")
    assert worker.so_far() == []
    assert worker.ask(PRE_SLEEP_NOW) == WAKE


def test_worker_without_pre_sleep_is_not_woken(server: Server) -> None:
    worker = can_do(server, b"f")
    assert worker.ask(GRAB_JOB.request()) == NOTHING
    queue(server.peer(), b"f")
    assert worker.so_far() == []


@pytest.mark.parametrize("register", [CAN_DO.request(b"f"), CAN_DO_TIMEOUT.request(b"f", b"0")])
@pytest.mark.parametrize("functions", [[], [b"g"]])
def test_ability_added_while_asleep_wakes_worker_for_next_job_only(
    server: Server, functions: list[bytes], register: bytes
) -> None:
    """The worker is not notified of jobs that are already queued."""
    client, worker = server.peer(), asleep(server, *functions)
    waiting = queue(client, b"f")
    send_unanswered(worker, register)
    waiting += queue(client, b"f")
    assert worker.so_far() == [WAKE]
    assert grab(worker, 2) == waiting


@pytest.mark.parametrize("request_", TAKEN_AWAY)
def test_ability_removed_while_asleep_wakes_no_worker(server: Server, request_: bytes) -> None:
    """It stays asleep, and is woken once it offers the function again."""
    client, worker = server.peer(), asleep(server, b"f")
    send_unanswered(worker, request_)
    queue(client, b"f")
    send_unanswered(worker, CAN_DO.request(b"f"))
    queue(client, b"f")
    assert worker.so_far() == [WAKE]


@pytest.mark.parametrize(
    "request_",
    [
        ECHO_REQ.request(b"x"),
        SET_CLIENT_ID.request(b"name"),
        GET_STATUS.request(b"H:x:1"),
        OPTION_REQ.request(b"exceptions"),
        OPTION_REQ.request(b"unknown"),
        SUBMIT_JOB.request(b"g", b"", b"work"),
        WORK_COMPLETE.request(b"H:x:1", b""),
        NOOP.request(),
        CAN_DO.request(b"g"),
        CANT_DO.request(b"g"),
    ],
)
def test_worker_stays_asleep_across_other_requests(server: Server, request_: bytes) -> None:
    worker = asleep(server, b"f")
    worker.send(request_)
    assert WAKE not in worker.so_far()
    queue(server.peer(), b"f")
    assert worker.so_far() == [WAKE]


def test_worker_stays_asleep_across_text_commands(server: Server) -> None:
    worker = asleep(server, b"f")
    assert worker.table(b"status") == [b"f\t0\t0\t1"]
    queue(server.peer(), b"f")
    assert worker.so_far() == [WAKE]


def test_a_worker_can_sleep_while_it_works(server: Server) -> None:
    client = server.peer()
    (handle,) = queue(client, b"f", submit=SUBMIT_JOB)
    worker = run(server, handle)
    send_unanswered(worker, PRE_SLEEP_NOW, WORK_DATA.request(handle, b"d"), WORK_COMPLETE.request(handle, b"done"))
    assert client.so_far() == [(WORK_DATA, [handle, b"d"]), (WORK_COMPLETE, [handle, b"done"])]
    queue(client, b"f")
    assert worker.so_far() == [WAKE]


def test_a_worker_is_woken_for_a_job_that_it_submits_itself(server: Server) -> None:
    """Before it gets JOB_CREATED."""
    worker = asleep(server, b"f")
    worker.send(SUBMIT_JOB_BG.request(b"f", b"", b"work"))
    assert [packet_type for packet_type, _ in worker.so_far()] == [NOOP, JOB_CREATED]


def test_a_worker_can_run_a_job_that_it_waits_for(server: Server) -> None:
    both = can_do(server, b"f")
    (handle,) = queue(both, b"f", submit=SUBMIT_JOB)
    assert grab(both, 1) == [handle]
    both.send(WORK_COMPLETE.request(handle, b"done"))
    assert both.so_far() == [(WORK_COMPLETE, [handle, b"done"])]
