"""docs/gearman.md §9: scheduled jobs, and jobs with a reducer."""

from __future__ import annotations

import time

import pytest

from txgearman.packets import (
    CAN_DO,
    CANT_DO,
    ECHO_REQ,
    ERROR,
    GET_STATUS,
    GET_STATUS_UNIQUE,
    GRAB_JOB,
    GRAB_JOB_ALL,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN,
    JOB_ASSIGN_ALL,
    JOB_ASSIGN_UNIQ,
    JOB_CREATED,
    NO_JOB,
    NOOP,
    PRE_SLEEP,
    REQ,
    STATUS_RES,
    STATUS_RES_UNIQUE,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_EPOCH,
    SUBMIT_JOB_HIGH,
    SUBMIT_JOB_LOW,
    SUBMIT_REDUCE_JOB,
    SUBMIT_REDUCE_JOB_BACKGROUND,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_FAIL,
    Packet,
    PacketType,
)

from .harness import MemoryServer, Peer, Server

NOTHING: Packet = (NO_JOB, [])
TOO_LARGE: Packet = (ERROR, [b"ARGUMENT_TOO_LARGE", b"Unique value too large"])
FULL: Packet = (ERROR, [b"QUEUE_ERROR", b"Job queue is full"])

# Helpers.


def now(server: Server) -> float:
    """Return the server's time."""
    return server.clock.seconds() if isinstance(server, MemoryServer) else time.time()


def later(server: Server) -> bytes:
    """Return a time that is not reached while a test runs."""
    return b"%d" % (now(server) + 1000)


def soon(server: Server) -> int:
    """Return the next full second that is at least half a second away."""
    return int(now(server) + 0.5) + 1


def wait_until_due(server: Server, epoch: int) -> None:
    """Wait until a job is due: gearmand checks the time once a second."""
    server.wait(max(0.0, epoch - now(server)) + 1.1)


def submit_epoch(client: Peer, epoch: bytes, unique: bytes = b"", function: bytes = b"f") -> bytes:
    return client.submit(SUBMIT_JOB_EPOCH.request(function, unique, epoch, b"at " + epoch))


def worker_of(server: Server, *functions: bytes) -> Peer:
    worker = server.peer()
    worker.send(*map(CAN_DO.request, functions or (b"f",)))
    return worker


def grab(worker: Peer) -> Packet:
    return worker.ask(GRAB_JOB_UNIQ.request())


def handles_of_all(worker: Peer) -> list[bytes]:
    """Grab all jobs that are due, and return their handles."""
    handles = []
    while (packet := grab(worker)) != NOTHING:
        handles.append(packet[1][0])
    return handles


def grab_a_little_later(server: Server, worker: Peer) -> list[bytes]:
    """Return the handle of the next job, if there is one."""
    server.wait(0.1)
    return grab(worker)[1][:1]


# EPOCH: before its time.


def test_epoch_job_is_known_and_queued_in_the_background(server: Server) -> None:
    client, admin = server.peer(), server.peer()
    handle = submit_epoch(client, later(server), b"u")
    assert client.ask(GET_STATUS.request(handle)) == (STATUS_RES, [handle, b"1", b"0", b"0", b"0"])
    assert client.ask(GET_STATUS_UNIQUE.request(b"u")) == (STATUS_RES_UNIQUE, [b"u", b"1", b"0", b"0", b"0", b"0"])
    assert admin.table(b"status") == [b"f\t1\t0\t0"]
    assert admin.table(b"prioritystatus") == [b"f\t0\t1\t0\t0"]
    assert admin.table(b"show jobs") == [handle + b"\t0\t0\t1"]


@pytest.mark.parametrize("epoch", [b"9223372036854775807", b"99999999999", b"99999999999abc", b" +99999999999"])
def test_epoch_job_is_not_assigned_before_its_time(server: Server, epoch: bytes) -> None:
    client, worker = server.peer(), worker_of(server)
    submit_epoch(client, epoch)
    worker.send(GRAB_JOB.request(), GRAB_JOB_UNIQ.request(), GRAB_JOB_ALL.request())
    assert worker.so_far() == [NOTHING] * 3
    assert client.so_far() == []


@pytest.mark.parametrize("epoch", [b"0", b"-5", b"-9223372036854775808", b"", b"soon"])
def test_epoch_job_is_assigned_at_once_if_its_time_was_long_ago(server: Server, epoch: bytes) -> None:
    client, worker = server.peer(), worker_of(server)
    handle = submit_epoch(client, epoch, b"u")
    assert grab(worker) == (JOB_ASSIGN_UNIQ, [handle, b"f", b"u", b"at " + epoch])


def test_epoch_job_is_assigned_at_once_if_its_time_was_just_now(server: Server) -> None:
    client, worker = server.peer(), worker_of(server)
    epoch = b"%d" % (now(server) - 2)
    handle = submit_epoch(client, epoch)
    assert grab(worker) == (JOB_ASSIGN_UNIQ, [handle, b"f", b"", b"at " + epoch])


def test_end_of_epoch_job_notifies_no_client(server: Server) -> None:
    client, worker = server.peer(), worker_of(server)
    handle = submit_epoch(client, b"0")
    grab(worker)
    worker.send(WORK_DATA.request(handle, b"1"), WORK_COMPLETE.request(handle, b"2"))
    assert worker.so_far() == []
    assert client.so_far() == []
    assert client.ask(GET_STATUS.request(handle)) == (STATUS_RES, [handle, b"0", b"0", b"0", b"0"])


def test_epoch_job_is_requeued(server: Server) -> None:
    client, worker = server.peer(), worker_of(server)
    first, second = submit_epoch(client, b"0"), submit_epoch(client, b"-5")
    assert grab(worker)[1][0] == first
    worker.send(CANT_DO.request(b"f"), CAN_DO.request(b"f"))
    assert handles_of_all(worker) == [second, first]


def test_due_jobs_do_not_wait_for_scheduled_ones(server: Server) -> None:
    """Within their queue, they keep the order of the submits, not that of their times."""
    client, worker = server.peer(), worker_of(server)
    submit_epoch(client, later(server))
    due = [
        submit_epoch(client, b"0"),
        client.submit(SUBMIT_JOB.request(b"f", b"", b"plain")),
        submit_epoch(client, b"-5"),
    ]
    assert handles_of_all(worker) == due


def test_jobs_of_high_priority_precede_epoch_job(server: Server) -> None:
    client, worker = server.peer(), worker_of(server)
    epoch = submit_epoch(client, b"0")
    high = client.submit(SUBMIT_JOB_HIGH.request(b"f", b"", b""))
    assert handles_of_all(worker) == [high, epoch]


@pytest.mark.parametrize("functions", [(b"f", b"g"), (b"g", b"f")])
def test_epoch_job_delays_no_other_function(server: Server, functions: tuple[bytes, bytes]) -> None:
    client, worker = server.peer(), worker_of(server, *functions)
    submit_epoch(client, later(server))
    plain = client.submit(SUBMIT_JOB_LOW.request(b"g", b"", b""))
    assert handles_of_all(worker) == [plain]


@pytest.mark.guarantee(number=5)
def test_h7_sleeping_worker_is_woken_by_the_submit_but_finds_nothing(server: Server) -> None:
    client, worker = server.peer(), worker_of(server)
    worker.send(PRE_SLEEP.request())
    assert worker.so_far() == []
    submit_epoch(client, later(server))
    assert worker.so_far() == [(NOOP, [])]
    assert grab(worker) == NOTHING


@pytest.mark.guarantee(number=5)
def test_h7_pre_sleep_before_the_time_is_not_answered(server: Server) -> None:
    client, worker = server.peer(), worker_of(server)
    submit_epoch(client, later(server))
    worker.send(PRE_SLEEP.request())
    assert worker.so_far() == []


@pytest.mark.gearmand("1.1")
@pytest.mark.guarantee(number=5)
def test_h8_epoch_job_delays_jobs_of_low_priority(server: Server) -> None:
    client, worker = server.peer(), worker_of(server)
    submit_epoch(client, later(server))
    client.submit(SUBMIT_JOB_LOW.request(b"f", b"", b"low"))
    assert grab(worker) == NOTHING


@pytest.mark.gearmand("1.1")
@pytest.mark.guarantee(number=5)
def test_h8_epoch_job_delays_no_jobs_of_normal_or_high_priority(server: Server) -> None:
    client, worker = server.peer(), worker_of(server)
    submit_epoch(client, later(server))
    client.submit(SUBMIT_JOB_LOW.request(b"f", b"", b"low"))
    normal = client.submit(SUBMIT_JOB.request(b"f", b"", b"normal"))
    high = client.submit(SUBMIT_JOB_HIGH.request(b"f", b"", b"high"))
    assert handles_of_all(worker) == [high, normal]


@pytest.mark.gearmand("1.1")
@pytest.mark.guarantee(number=5)
def test_h8_worker_is_woken_repeatedly_for_delayed_low_job(server: Server) -> None:
    client, worker = server.peer(), worker_of(server)
    submit_epoch(client, later(server))
    client.submit(SUBMIT_JOB_LOW.request(b"f", b"", b"low"))
    for _ in range(2):
        worker.send(PRE_SLEEP.request())
        assert worker.so_far() == [(NOOP, [])]
        assert grab(worker) == NOTHING


# EPOCH: coalescing, and jobs that end before their time.


def test_time_of_first_submit_of_unique_applies(server: Server) -> None:
    client, worker = server.peer(), worker_of(server)
    waiting = submit_epoch(client, later(server), b"u")
    assert submit_epoch(client, b"0", b"u") == waiting
    assert client.submit(SUBMIT_JOB_BG.request(b"f", b"u", b"now")) == waiting
    assert grab(worker) == NOTHING


def test_an_epoch_submit_that_joins_a_job_does_not_delay_it(server: Server) -> None:
    client, worker = server.peer(), worker_of(server)
    handle = client.submit(SUBMIT_JOB_BG.request(b"f", b"u", b"now"))
    assert submit_epoch(client, later(server), b"u") == handle
    assert grab(worker) == (JOB_ASSIGN_UNIQ, [handle, b"f", b"u", b"now"])


def test_join_of_epoch_job_wakes_no_worker(server: Server) -> None:
    client, worker = server.peer(), worker_of(server)
    handle = submit_epoch(client, later(server), b"u")
    worker.send(PRE_SLEEP.request())
    assert worker.so_far() == []
    assert client.submit(SUBMIT_JOB.request(b"f", b"u", b"")) == handle
    assert worker.so_far() == []
    assert client.ask(GET_STATUS_UNIQUE.request(b"u")) == (STATUS_RES_UNIQUE, [b"u", b"1", b"0", b"0", b"0", b"1"])
    assert grab(worker) == NOTHING


@pytest.mark.parametrize(("unique", "count"), [(b"-", 1), (b"", 2), (b"u" * 63, 1)])
def test_epoch_jobs_coalesce(server: Server, unique: bytes, count: int) -> None:
    client, epoch = server.peer(), later(server)
    assert len({submit_epoch(client, epoch, unique) for _ in range(2)}) == count


def test_epoch_job_with_a_long_unique_is_refused(server: Server) -> None:
    assert server.peer().ask(SUBMIT_JOB_EPOCH.request(b"f", b"u" * 65, b"0", b"")) == TOO_LARGE


def test_epoch_jobs_count_for_the_limit_of_the_queue(server: Server) -> None:
    client, admin = server.peer(), server.peer()
    epoch = later(server)
    submit_epoch(client, epoch, b"u")
    assert admin.command(b"maxqueue f 1") == b"OK\r\n"
    assert client.ask(SUBMIT_JOB_EPOCH.request(b"f", b"v", epoch, b"")) == FULL
    assert client.ask(SUBMIT_JOB.request(b"f", b"w", b"")) == FULL
    submit_epoch(client, epoch, b"u")


@pytest.mark.guarantee(number=5)
def test_l1_foreground_client_that_joins_and_leaves_drops_epoch_job(server: Server) -> None:
    client, joiner, admin, worker = server.peer(), server.peer(), server.peer(), worker_of(server)
    handle = submit_epoch(client, later(server), b"u")
    assert joiner.submit(SUBMIT_JOB.request(b"f", b"u", b"")) == handle
    joiner.close()
    server.until(lambda: admin.table(b"show jobs") == [handle + b"\t0\t1\t0"])
    worker.send(PRE_SLEEP.request())
    assert worker.so_far() == []
    assert grab(worker) == NOTHING
    assert client.ask(GET_STATUS.request(handle)) == (STATUS_RES, [handle, b"1", b"0", b"0", b"0"])
    assert admin.table(b"show jobs") == [handle + b"\t0\t1\t0"]


@pytest.mark.guarantee(number=5)
def test_h2_cancelled_epoch_job_stays_known_till_its_time(server: Server) -> None:
    client, admin, worker = server.peer(), server.peer(), worker_of(server)
    handle = submit_epoch(client, later(server), b"u")
    client.submit(SUBMIT_JOB.request(b"f", b"u", b""))
    assert admin.command(b"cancel job " + handle) == b"OK\r\n"
    assert client.so_far() == [(WORK_FAIL, [handle])]
    assert grab(worker) == NOTHING
    assert client.ask(GET_STATUS.request(handle)) == (STATUS_RES, [handle, b"1", b"0", b"0", b"0"])
    assert admin.table(b"show jobs") == [handle + b"\t0\t1\t0"]


def test_a_cancelled_epoch_job_that_is_due_is_skipped(server: Server) -> None:
    client, admin, worker = server.peer(), server.peer(), worker_of(server)
    handle = submit_epoch(client, b"0")
    assert admin.command(b"cancel job " + handle) == b"OK\r\n"
    assert client.so_far() == []
    assert grab(worker) == NOTHING
    assert client.ask(GET_STATUS.request(handle)) == (STATUS_RES, [handle, b"0", b"0", b"0", b"0"])


# EPOCH: at its time. These two tests take real seconds.


@pytest.mark.gearmand("1.1")
@pytest.mark.guarantee(number=5)
def test_h7_sleeping_worker_is_not_woken_at_the_time(server: Server) -> None:
    client, worker, epoch = server.peer(), worker_of(server), soon(server)
    worker.send(PRE_SLEEP.request())
    assert worker.so_far() == []
    handle = submit_epoch(client, b"%d" % epoch)
    assert worker.so_far() == [(NOOP, [])]
    assert grab(worker) == NOTHING
    worker.send(PRE_SLEEP.request())
    wait_until_due(server, epoch)
    assert worker.so_far() == []
    worker.send(PRE_SLEEP.request())
    assert worker.so_far() == [(NOOP, [])]
    assert handles_of_all(worker) == [handle]


@pytest.mark.gearmand("1.1")
@pytest.mark.guarantee(number=5)
def test_h8_epoch_job_is_assigned_at_its_time_to_worker_that_grabs(server: Server) -> None:
    client, joiner, admin = server.peer(), server.peer(), server.peer()
    worker, epoch = worker_of(server), soon(server)
    due = b"%d" % epoch
    low = client.submit(SUBMIT_JOB_LOW.request(b"f", b"", b""))
    handle, dead = submit_epoch(client, due, b"u"), submit_epoch(client, due, b"dead", b"g")
    assert joiner.submit(SUBMIT_JOB.request(b"f", b"u", b"")) == handle
    admin.command(b"cancel job " + dead)
    assert grab(worker) == NOTHING

    server.until(lambda: grab_a_little_later(server, worker) == [handle])
    assert now(server) >= epoch
    assert handles_of_all(worker) == [low]
    worker.send(WORK_COMPLETE.request(handle, b"done"))
    assert worker.so_far() == client.so_far() == []
    assert joiner.so_far() == [(WORK_COMPLETE, [handle, b"done"])]
    assert grab(worker_of(server, b"g")) == NOTHING
    assert client.ask(GET_STATUS.request(dead)) == (STATUS_RES, [dead, b"0", b"0", b"0", b"0"])


# REDUCE.

REDUCE_TYPES = pytest.mark.parametrize("submit_type", [SUBMIT_REDUCE_JOB, SUBMIT_REDUCE_JOB_BACKGROUND])


@REDUCE_TYPES
@pytest.mark.parametrize(
    ("grab_type", "assign_type", "arguments"),
    [
        (GRAB_JOB, JOB_ASSIGN, [b"f", b"da\0ta"]),
        (GRAB_JOB_UNIQ, JOB_ASSIGN_UNIQ, [b"f", b"u", b"da\0ta"]),
        (GRAB_JOB_ALL, JOB_ASSIGN_ALL, [b"f", b"u", b"red", b"da\0ta"]),
    ],
)
def test_assignment_of_reduce_job(
    server: Server,
    submit_type: PacketType,
    grab_type: PacketType,
    assign_type: PacketType,
    arguments: list[bytes],
) -> None:
    """The fourth argument of the submit is ignored."""
    client, worker = server.peer(), worker_of(server)
    for ignored in (b"", b"whatever"):
        handle = client.submit(submit_type.request(b"f", b"u", b"red", ignored, b"da\0ta"))
        assert worker.ask(grab_type.request()) == (assign_type, [handle, *arguments])
        worker.send(WORK_FAIL.request(handle))
        assert worker.so_far() == []
        client.so_far()


def test_assignment_of_plain_job_to_grab_job_all(server: Server) -> None:
    client, worker = server.peer(), worker_of(server)
    assert worker.ask(GRAB_JOB_ALL.request()) == NOTHING
    plain = client.submit(SUBMIT_JOB.request(b"f", b"u3", b"plain"))
    assert worker.ask(GRAB_JOB_ALL.request()) == (JOB_ASSIGN_UNIQ, [plain, b"f", b"u3", b"plain"])
    assert worker.ask(GRAB_JOB_ALL.request()) == NOTHING


@REDUCE_TYPES
def test_empty_reducer_makes_plain_job(server: Server, submit_type: PacketType) -> None:
    client, worker = server.peer(), worker_of(server)
    handle = client.submit(submit_type.request(b"f", b"u", b"", b"", b"data"))
    assert worker.ask(GRAB_JOB_ALL.request()) == (JOB_ASSIGN_UNIQ, [handle, b"f", b"u", b"data"])


@pytest.mark.parametrize(
    ("submit_type", "waiting", "background"),
    [(SUBMIT_REDUCE_JOB, b"1", b"0"), (SUBMIT_REDUCE_JOB_BACKGROUND, b"0", b"1")],
)
def test_reduce_job_has_normal_priority(
    server: Server, submit_type: PacketType, waiting: bytes, background: bytes
) -> None:
    client, admin = server.peer(), server.peer()
    handle = client.submit(submit_type.request(b"f", b"u", b"red", b"", b""))
    expected = [b"u", b"1", b"0", b"0", b"0", waiting]
    assert client.ask(GET_STATUS_UNIQUE.request(b"u")) == (STATUS_RES_UNIQUE, expected)
    assert admin.table(b"prioritystatus") == [b"f\t0\t1\t0\t0"]
    assert admin.table(b"show jobs") == [handle + b"\t0\t0\t" + background]


@pytest.mark.parametrize(("submit_type", "copies"), [(SUBMIT_REDUCE_JOB, 1), (SUBMIT_REDUCE_JOB_BACKGROUND, 0)])
def test_clients_that_are_notified_of_reduce_job(server: Server, submit_type: PacketType, copies: int) -> None:
    client, worker = server.peer(), worker_of(server)
    worker.send(PRE_SLEEP.request())
    assert worker.so_far() == []
    handle = client.submit(submit_type.request(b"f", b"u", b"red", b"", b"data"))
    assert worker.so_far() == [(NOOP, [])]
    worker.ask(GRAB_JOB_ALL.request())
    worker.send(WORK_DATA.request(handle, b"part"), WORK_COMPLETE.request(handle, b"all"))
    assert worker.so_far() == []
    assert client.so_far() == [(WORK_DATA, [handle, b"part"]), (WORK_COMPLETE, [handle, b"all"])][: 2 * copies]


def test_requeued_reduce_job_keeps_its_reducer(server: Server) -> None:
    client, worker = server.peer(), worker_of(server)
    handle = client.submit(SUBMIT_REDUCE_JOB_BACKGROUND.request(b"f", b"u", b"red", b"", b"data"))
    worker.ask(GRAB_JOB.request())
    worker.send(CANT_DO.request(b"f"), CAN_DO.request(b"f"))
    assert worker.ask(GRAB_JOB_ALL.request()) == (JOB_ASSIGN_ALL, [handle, b"f", b"u", b"red", b"data"])


@REDUCE_TYPES
@pytest.mark.parametrize("size", [63, 64])
def test_a_reducer_may_have_64_bytes(server: Server, submit_type: PacketType, size: int) -> None:
    client, worker = server.peer(), worker_of(server)
    handle = client.submit(submit_type.request(b"f", b"u", b"r" * size, b"", b"data"))
    assert worker.ask(GRAB_JOB_ALL.request()) == (JOB_ASSIGN_ALL, [handle, b"f", b"u", b"r" * size, b"data"])


@REDUCE_TYPES
def test_a_longer_reducer_is_refused(server: Server, submit_type: PacketType) -> None:
    client = server.peer()
    assert client.ask(submit_type.request(b"f", b"u", b"r" * 65, b"", b"")) == TOO_LARGE
    assert client.ask(submit_type.request(b"f", b"u", b"r" * 64, b"", b""))[0] is JOB_CREATED


@REDUCE_TYPES
@pytest.mark.parametrize(("size", "count"), [(63, 1), (64, 2), (65, 2), (100, 2)])
def test_a_reduce_job_may_have_a_long_unique(server: Server, submit_type: PacketType, size: int, count: int) -> None:
    """The worker does not get what was sent, but the submit is accepted."""
    client = server.peer()
    handles = {client.submit(submit_type.request(b"f", b"u" * size, b"red", b"", b"data")) for _ in range(2)}
    assert len(handles) == count


def test_reduce_jobs_coalesce_with_others(server: Server) -> None:
    client, worker = server.peer(), worker_of(server)
    handle = client.submit(SUBMIT_REDUCE_JOB.request(b"f", b"u", b"red", b"", b"1"))
    assert client.submit(SUBMIT_REDUCE_JOB_BACKGROUND.request(b"f", b"u", b"other", b"", b"2")) == handle
    assert client.submit(SUBMIT_JOB.request(b"f", b"u", b"3")) == handle
    assert worker.ask(GRAB_JOB_ALL.request()) == (JOB_ASSIGN_ALL, [handle, b"f", b"u", b"red", b"1"])
    worker.send(WORK_COMPLETE.request(handle, b"done"))
    assert worker.so_far() == []
    assert client.so_far() == [(WORK_COMPLETE, [handle, b"done"])] * 2


def test_a_plain_job_that_a_reduce_job_joins_stays_plain(server: Server) -> None:
    client, worker = server.peer(), worker_of(server)
    handle = client.submit(SUBMIT_JOB.request(b"f", b"u", b"1"))
    assert client.submit(SUBMIT_REDUCE_JOB.request(b"f", b"u", b"red", b"", b"2")) == handle
    assert worker.ask(GRAB_JOB_ALL.request()) == (JOB_ASSIGN_UNIQ, [handle, b"f", b"u", b"1"])


@pytest.mark.parametrize(("unique", "count"), [(b"-", 2), (b"", 3)])
def test_reduce_jobs_without_a_unique_of_their_own(server: Server, unique: bytes, count: int) -> None:
    client = server.peer()
    requests = [SUBMIT_REDUCE_JOB.request(b"f", unique, b"red", b"", workload) for workload in (b"1", b"1", b"2")]
    assert len(set(map(client.submit, requests))) == count


@REDUCE_TYPES
def test_the_limit_of_the_queue_holds_for_reduce_jobs(server: Server, submit_type: PacketType) -> None:
    client, admin = server.peer(), server.peer()
    client.submit(submit_type.request(b"f", b"u", b"red", b"", b""))
    assert admin.command(b"maxqueue f 1") == b"OK\r\n"
    assert client.ask(submit_type.request(b"f", b"v", b"red", b"", b"")) == FULL


@pytest.mark.guarantee(number=5)
@REDUCE_TYPES
def test_h6_a_reduce_job_with_the_four_arguments_of_the_published_text(server: Server, submit_type: PacketType) -> None:
    """The next request is taken for the rest of it; then the connection is closed."""
    client, body = server.peer(), b"f\0u\0red\0data"
    packet = REQ + submit_type.number.to_bytes(4, "big") + len(body).to_bytes(4, "big") + body
    client.send(packet, ECHO_REQ.request(b"1"), ECHO_REQ.request(b"2"))
    assert client.is_closed()
