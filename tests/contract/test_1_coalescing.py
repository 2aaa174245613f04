"""docs/gearman.md §1: coalescing. Submits with the same function and unique are one job."""

from __future__ import annotations

import pytest

from txgearman.packets import (
    ERROR,
    GRAB_JOB,
    GRAB_JOB_ALL,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN,
    JOB_ASSIGN_ALL,
    JOB_ASSIGN_UNIQ,
    JOB_CREATED,
    OPTION_REQ,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_EPOCH,
    SUBMIT_JOB_HIGH,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW,
    SUBMIT_JOB_LOW_BG,
    SUBMIT_REDUCE_JOB,
    SUBMIT_REDUCE_JOB_BACKGROUND,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    Packet,
    PacketType,
)

from .harness import Peer, Server
from .test_5_status import QUEUED, RUNNING, UNKNOWN, run, status, status_unique
from .test_6_client_disconnect import NOTHING, abandon, can_do, leave

REFUSED: Packet = (ERROR, [b"JOB_NOT_FOUND", b"Job given in work result not found"])
TOO_LARGE: Packet = (ERROR, [b"ARGUMENT_TOO_LARGE", b"Unique value too large"])
LONGEST = b"k" * 63

FOREGROUND = [SUBMIT_JOB, SUBMIT_JOB_HIGH, SUBMIT_JOB_LOW, SUBMIT_REDUCE_JOB]
BACKGROUND = [
    SUBMIT_JOB_BG,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW_BG,
    SUBMIT_JOB_EPOCH,
    SUBMIT_REDUCE_JOB_BACKGROUND,
]
PRIORITIES = [SUBMIT_JOB, SUBMIT_JOB_HIGH, SUBMIT_JOB_LOW, SUBMIT_JOB_BG, SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_LOW_BG]


def job(
    unique: bytes = b"u", workload: bytes = b"work", *, function: bytes = b"f", kind: PacketType = SUBMIT_JOB
) -> bytes:
    """Return a submit of any kind. The time of SUBMIT_JOB_EPOCH has passed."""
    more = {SUBMIT_JOB_EPOCH: [b"0"], SUBMIT_REDUCE_JOB: [b"red", b""], SUBMIT_REDUCE_JOB_BACKGROUND: [b"red", b""]}
    return kind.request(function, unique, *more.get(kind, []), workload)


def send_unanswered(worker: Peer, *packets: bytes) -> None:
    """Send packets that are not answered, and wait until they are processed."""
    worker.send(*packets)
    assert worker.so_far() == []


def numbered(handles: list[bytes]) -> list[int]:
    """Submit jobs, and return the numbers of their handles, of which the first is 1."""
    numbers = [int(handle.rpartition(b":")[2]) for handle in handles]
    return [number - numbers[0] + 1 for number in numbers]


def submit_all(client: Peer, *jobs: bytes) -> list[int]:
    return numbered([client.submit(packet) for packet in jobs])


# Submits that coalesce.


@pytest.mark.parametrize("kind", [*FOREGROUND, *BACKGROUND])
@pytest.mark.parametrize("first", [True, False])
def test_submits_of_every_kind_coalesce(server: Server, kind: PacketType, first: bool) -> None:
    """The workload of the first applies; each foreground submit gets a copy of the result."""
    kinds = [kind, SUBMIT_JOB] if first else [SUBMIT_JOB, kind]
    client = server.peer()
    handle, joined = [client.submit(job(workload=b"work%d" % n, kind=kind)) for n, kind in enumerate(kinds)]
    assert joined == handle
    worker = can_do(server, b"f")
    assert worker.ask(GRAB_JOB.request()) == (JOB_ASSIGN, [handle, b"f", b"work0"])
    assert worker.ask(GRAB_JOB.request()) == NOTHING
    send_unanswered(worker, WORK_DATA.request(handle, b"d"), WORK_COMPLETE.request(handle, b"done"))
    copies = sum(kind in FOREGROUND for kind in kinds)
    assert client.so_far() == [(WORK_DATA, [handle, b"d"])] * copies + [(WORK_COMPLETE, [handle, b"done"])] * copies


@pytest.mark.parametrize("kind", BACKGROUND)
def test_background_submits_coalesce(server: Server, kind: PacketType) -> None:
    client = server.peer()
    handle = client.submit(job(workload=b"one", kind=SUBMIT_JOB_BG))
    assert client.submit(job(workload=b"two", kind=kind)) == handle
    worker = can_do(server, b"f")
    assert worker.ask(GRAB_JOB_UNIQ.request()) == (JOB_ASSIGN_UNIQ, [handle, b"f", b"u", b"one"])
    assert worker.ask(GRAB_JOB.request()) == NOTHING
    send_unanswered(worker, WORK_COMPLETE.request(handle, b"done"))
    assert client.so_far() == []
    assert status(client, handle) == UNKNOWN


def test_one_job_counts_once(server: Server) -> None:
    """In every list of the text protocol; a submit that joins a job takes no handle number."""
    client = server.peer()
    jobs = [job(), job(), job(kind=SUBMIT_JOB_BG), job(kind=SUBMIT_JOB_HIGH), job(b"v")]
    assert submit_all(client, *jobs) == [1, 1, 1, 1, 2]
    assert client.table(b"status") == [b"f\t2\t0\t0"]
    assert client.table(b"prioritystatus") == [b"f\t0\t2\t0\t0"]
    assert client.table(b"show unique jobs") == [b"u", b"v"]
    assert len(client.table(b"show jobs")) == 2


def test_another_unique_is_another_job(server: Server) -> None:
    uniques = [b"u", b"", b"U", b"u ", b"uu", b"-", b"\xff", b"u"]
    assert submit_all(server.peer(), *map(job, uniques)) == [1, 2, 3, 4, 5, 6, 7, 1]


def test_another_function_is_another_job(server: Server) -> None:
    names = [b"f1", b"f2", b"F1", b"f1", b"f", b""]
    assert submit_all(server.peer(), *(job(function=name) for name in names)) == [1, 2, 3, 1, 4, 5]


def test_without_a_unique_nothing_is_joined(server: Server) -> None:
    jobs = [job(b"", kind=kind) for kind in [*FOREGROUND, *BACKGROUND]] * 2
    assert submit_all(server.peer(), *jobs) == list(range(1, len(jobs) + 1))


def test_unique_minus_coalesces_by_workload(server: Server) -> None:
    """An empty workload is like no unique. The worker gets the minus as the unique."""
    client = server.peer()
    workloads = [b"same", b"same", b"other", b"", b"", b"Same", b"same"]
    assert submit_all(client, *(job(b"-", workload) for workload in workloads)) == [1, 1, 2, 3, 4, 5, 1]
    worker = can_do(server, b"f")
    for workload in [b"same", b"other", b"", b"", b"Same"]:
        packet_type, (_, *rest) = worker.ask(GRAB_JOB_UNIQ.request())
        assert (packet_type, rest) == (JOB_ASSIGN_UNIQ, [b"f", b"-", workload])
    assert worker.ask(GRAB_JOB_UNIQ.request()) == NOTHING


def test_unique_minus_compares_whole_workloads(server: Server) -> None:
    workloads = [b"a\0b", b"a\0c", b"a", b"a\0b", b"x" * 99, b"x" * 100, b"x" * 99, b"x" * 100_000, b"x" * 100_000]
    jobs = [job(b"-", workload) for workload in workloads]
    assert submit_all(server.peer(), *jobs) == [1, 2, 3, 1, 4, 5, 4, 6, 6]


def test_unique_minus_coalesces_by_function_and_across_kinds(server: Server) -> None:
    jobs = [job(b"-"), job(b"-", function=b"g"), job(b"-", kind=SUBMIT_JOB_BG), job(b"-", kind=SUBMIT_JOB_HIGH)]
    assert submit_all(server.peer(), *jobs) == [1, 2, 1, 1]


@pytest.mark.parametrize("minus_first", [True, False])
def test_a_workload_is_not_a_unique(server: Server, minus_first: bool) -> None:
    jobs = [job(b"-", b"same"), job(b"same", b"x")]
    assert submit_all(server.peer(), *(jobs if minus_first else reversed(jobs))) == [1, 2]


@pytest.mark.parametrize(
    ("submits", "jobs"),
    [
        ([(b"same", b"same"), (b"-", b"same")], [1, 1]),
        ([(b"-", b"same"), (b"same", b"same")], [1, 2]),
        ([(b"-", b"same"), (b"same", b"same"), (b"-", b"same"), (b"same", b"same")], [1, 2, 2, 2]),
        ([(b"same", b"same"), (b"-", b"same"), (b"same", b"x")], [1, 1, 1]),
        ([(b"x", b"same"), (b"", b"same"), (b"-", b"same")], [1, 2, 3]),
        ([(b"u" * 64, b"u" * 64), (b"u" * 64, b"u" * 64), (b"-", b"u" * 64)], [1, 2, 2]),
    ],
)
def test_unique_minus_joins_the_newest_job_whose_unique_is_its_workload(
    server: Server, submits: list[tuple[bytes, bytes]], jobs: list[int]
) -> None:
    assert submit_all(server.peer(), *(job(unique, workload) for unique, workload in submits)) == jobs


def test_unique_minus_joins_the_older_job_once_the_newer_has_ended(server: Server) -> None:
    client = server.peer()
    older, newer = client.submit(job(b"-", b"same")), client.submit(job(b"same", b"same", kind=SUBMIT_JOB_HIGH))
    send_unanswered(run(server, newer), WORK_COMPLETE.request(newer, b""))
    assert client.receive() == (WORK_COMPLETE, [newer, b""])
    assert client.submit(job(b"-", b"same")) == older
    assert client.submit(job(b"same", b"same")) not in (older, newer)


def test_two_minuses_are_ordinary_unique(server: Server) -> None:
    assert submit_all(server.peer(), job(b"--", b"1"), job(b"--", b"2")) == [1, 1]


@pytest.mark.parametrize("unique", [b"u", b"-"])
def test_a_running_job_is_joined(server: Server, unique: bytes) -> None:
    client = server.peer()
    handle = client.submit(job(unique))
    worker = run(server, handle)
    assert client.submit(job(unique)) == handle
    assert worker.ask(GRAB_JOB.request()) == NOTHING


@pytest.mark.parametrize("unique", [b"u", b"-"])
@pytest.mark.parametrize("end", [WORK_COMPLETE, WORK_FAIL, WORK_EXCEPTION])
def test_after_the_end_it_is_a_new_job(server: Server, unique: bytes, end: PacketType) -> None:
    client = server.peer()
    handle = client.submit(job(unique, b"same"))
    worker = run(server, handle)
    send_unanswered(worker, end.request(*[handle, b"data"][: len(end.arguments)]))
    client.send(job(unique, b"same"))
    (ended, _), (created, (again,)) = client.so_far()
    assert (ended, created) == (WORK_FAIL if end is WORK_EXCEPTION else end, JOB_CREATED)
    assert numbered([handle, again]) == [1, 2]
    assert worker.ask(GRAB_JOB_UNIQ.request()) == (JOB_ASSIGN_UNIQ, [again, b"f", unique, b"same"])


# Workload, priority and reducer of the first submit apply.


@pytest.mark.parametrize("later", PRIORITIES)
def test_the_priority_of_later_submits_is_ignored(server: Server, later: PacketType) -> None:
    client = server.peer()
    order = [client.submit(job(b"%d" % n)) for n in range(3)]
    high = client.submit(job(b"high", kind=SUBMIT_JOB_HIGH))
    low = client.submit(job(b"low", kind=SUBMIT_JOB_LOW))
    joined = [client.submit(job(unique, kind=later)) for unique in [b"1", b"high", b"low", b"2"]]
    assert joined == [order[1], high, low, order[2]]
    worker = can_do(server, b"f")
    assert [worker.ask(GRAB_JOB.request())[1][0] for _ in range(5)] == [high, *order, low]
    assert worker.ask(GRAB_JOB.request()) == NOTHING


def test_the_reducer_of_later_submits_is_ignored(server: Server) -> None:
    client, worker = server.peer(), can_do(server, b"f")
    plain = client.submit(job(b"plain"))
    assert client.submit(SUBMIT_REDUCE_JOB.request(b"f", b"plain", b"red", b"", b"")) == plain
    reduced = client.submit(SUBMIT_REDUCE_JOB.request(b"f", b"reduced", b"red", b"", b"data"))
    assert client.submit(SUBMIT_REDUCE_JOB.request(b"f", b"reduced", b"RED", b"", b"")) == reduced
    assert worker.ask(GRAB_JOB_ALL.request()) == (JOB_ASSIGN_UNIQ, [plain, b"f", b"plain", b"work"])
    assert worker.ask(GRAB_JOB_ALL.request()) == (JOB_ASSIGN_ALL, [reduced, b"f", b"reduced", b"red", b"data"])


# The packets that each submit gets.


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_d1_each_submit_gets_its_own_copy(server: Server, count: int) -> None:
    """The copies of one packet follow each other."""
    client, other = server.peer(), server.peer()
    (handle,) = {client.submit(job(workload=b"work%d" % n)) for n in range(count)}
    assert other.submit(job()) == handle
    worker = run(server, handle)
    packets: list[Packet] = [
        (WORK_DATA, [handle, b"d1"]),
        (WORK_WARNING, [handle, b"w1"]),
        (WORK_STATUS, [handle, b"1", b"2"]),
        (WORK_DATA, [handle, b"d\0002"]),
        (WORK_COMPLETE, [handle, b"done"]),
    ]
    send_unanswered(worker, *(packet_type.request(*arguments) for packet_type, arguments in packets))
    assert client.so_far() == [packet for packet in packets for _ in range(count)]
    assert other.so_far() == packets


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("end", [WORK_COMPLETE, WORK_FAIL, WORK_EXCEPTION])
def test_d1_each_submit_gets_a_copy_of_the_end(server: Server, end: PacketType) -> None:
    client = server.peer()
    client.ask(OPTION_REQ.request(b"exceptions"))
    (handle,) = {client.submit(job()) for _ in range(100)}
    arguments = [handle, b"data"][: len(end.arguments)]
    send_unanswered(run(server, handle), end.request(*arguments))
    assert client.so_far() == [(end, arguments)] * 100


@pytest.mark.guarantee(number=5)
def test_d1_worker_may_await_job_that_it_runs(server: Server) -> None:
    """It gets its copies as any client does."""
    worker = can_do(server, b"f")
    (handle,) = {worker.submit(job()) for _ in range(2)}
    assert worker.ask(GRAB_JOB.request()) == (JOB_ASSIGN, [handle, b"f", b"work"])
    assert worker.submit(job()) == handle
    worker.send(WORK_DATA.request(handle, b"d"), WORK_COMPLETE.request(handle, b"done"))
    assert worker.so_far() == [(WORK_DATA, [handle, b"d"])] * 3 + [(WORK_COMPLETE, [handle, b"done"])] * 3


def test_client_that_joins_later_gets_only_later_packets(server: Server) -> None:
    """Earlier packets are not sent again, to any client."""
    client, other = server.peer(), server.peer()
    (handle,) = {client.submit(job()) for _ in range(2)}
    worker = run(server, handle)
    send_unanswered(worker, WORK_DATA.request(handle, b"d1"), WORK_STATUS.request(handle, b"1", b"2"))
    client.send(job())
    assert client.so_far() == [
        *[(WORK_DATA, [handle, b"d1"])] * 2,
        *[(WORK_STATUS, [handle, b"1", b"2"])] * 2,
        (JOB_CREATED, [handle]),
    ]
    assert other.submit(job()) == handle
    send_unanswered(worker, WORK_DATA.request(handle, b"d2"), WORK_COMPLETE.request(handle, b"done"))
    rest: list[Packet] = [(WORK_DATA, [handle, b"d2"]), (WORK_COMPLETE, [handle, b"done"])]
    assert client.so_far() == [packet for packet in rest for _ in range(3)]
    assert other.so_far() == rest


def test_client_that_joins_requeued_job_gets_packets_of_next_worker(server: Server) -> None:
    client, other = server.peer(), server.peer()
    handle = client.submit(job())
    worker = run(server, handle)
    send_unanswered(worker, WORK_DATA.request(handle, b"d1"))
    worker.close()
    server.until(lambda: status(other, handle) == QUEUED)
    assert other.submit(job(workload=b"later")) == handle
    worker = can_do(server, b"f")
    assert worker.ask(GRAB_JOB.request()) == (JOB_ASSIGN, [handle, b"f", b"work"])
    send_unanswered(worker, WORK_COMPLETE.request(handle, b"done"))
    assert client.so_far() == [(WORK_DATA, [handle, b"d1"]), (WORK_COMPLETE, [handle, b"done"])]
    assert other.so_far() == [(WORK_COMPLETE, [handle, b"done"])]


def test_a_second_end_is_refused(server: Server) -> None:
    """The client does not notice."""
    client = server.peer()
    handle = client.submit(job())
    worker = run(server, handle)
    worker.send(*[WORK_COMPLETE.request(handle, b"done")] * 3)
    assert worker.so_far() == [REFUSED] * 2
    assert client.so_far() == [(WORK_COMPLETE, [handle, b"done"])]


def test_an_old_handle_does_not_end_the_new_job(server: Server) -> None:
    client = server.peer()
    old = client.submit(job())
    worker = run(server, old)
    send_unanswered(worker, WORK_COMPLETE.request(old, b"done"))
    assert client.so_far() == [(WORK_COMPLETE, [old, b"done"])]
    new = client.submit(job())
    assert worker.ask(GRAB_JOB.request()) == (JOB_ASSIGN, [new, b"f", b"work"])
    assert worker.ask(WORK_COMPLETE.request(old, b"late")) == REFUSED
    assert status(client, new) == RUNNING
    assert client.so_far() == []


# The length of a unique.


def test_63_bytes_are_one_job(server: Server) -> None:
    client = server.peer()
    (handle,) = {client.submit(job(LONGEST, b"x%d" % n)) for n in range(2)}
    assert can_do(server, b"f").ask(GRAB_JOB_UNIQ.request()) == (JOB_ASSIGN_UNIQ, [handle, b"f", LONGEST, b"x0"])


@pytest.mark.parametrize("kind", [SUBMIT_JOB, SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_EPOCH])
def test_64_bytes_are_not_joined(server: Server, kind: PacketType) -> None:
    """They are stored as 63 bytes, but neither 63 nor 64 bytes find them."""
    client = server.peer()
    jobs = [job(LONGEST + b"k", kind=kind), job(LONGEST + b"k", kind=kind), job(LONGEST), job(LONGEST + b"k")]
    assert submit_all(client, *jobs) == [1, 2, 3, 4]
    assert client.table(b"show unique jobs") == [LONGEST] * 4


def test_64_bytes_are_not_found(server: Server) -> None:
    client = server.peer()
    client.submit(job(LONGEST + b"k"))
    assert status_unique(client, LONGEST) == [*UNKNOWN, b"0"]


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("grab", [GRAB_JOB_UNIQ, GRAB_JOB_ALL])
@pytest.mark.parametrize("workload", [b"", b"x1", b"\0"])
def test_m6_with_64_bytes_the_workload_gets_a_nul(server: Server, grab: PacketType, workload: bytes) -> None:
    """In a JOB_ASSIGN with a unique."""
    handle = server.peer().submit(job(LONGEST + b"k", workload))
    assigned = can_do(server, b"f").ask(grab.request())
    assert assigned == (JOB_ASSIGN_UNIQ, [handle, b"f", LONGEST, b"\0" + workload])


def test_64_bytes_do_not_shift_workload_of_plain_job_assign(server: Server) -> None:
    client = server.peer()
    handle = client.submit(job(LONGEST + b"k", b"x1"))
    worker = can_do(server, b"f")
    assert worker.ask(GRAB_JOB.request()) == (JOB_ASSIGN, [handle, b"f", b"x1"])
    send_unanswered(worker, WORK_COMPLETE.request(handle, b"done"))
    assert client.so_far() == [(WORK_COMPLETE, [handle, b"done"])]


def test_more_than_64_bytes_are_refused(server: Server) -> None:
    client = server.peer()
    for kind in [*PRIORITIES, SUBMIT_JOB_EPOCH]:
        client.send(job(b"k" * 65, kind=kind), job(b"k" * 8191, kind=kind))
        assert client.so_far() == [TOO_LARGE] * 2
    assert client.table(b"status") == client.table(b"show jobs") == []


# Jobs that are lost. See section 6, too.


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("kind", [*FOREGROUND, *BACKGROUND])
def test_h1_l2_a_submit_that_joins_an_abandoned_job_is_forgotten(server: Server, kind: PacketType) -> None:
    """A submit of any kind. Until a worker grabs, nothing shows it."""
    handle = abandon(server, job())
    other = server.peer()
    assert other.submit(job(kind=kind)) == handle
    assert status(other, handle) == QUEUED
    assert other.table(b"show jobs") == [handle + b"\t0\t1\t0"]
    assert other.table(b"status") == [b"f\t1\t0\t0"]
    assert can_do(server, b"f").ask(GRAB_JOB.request()) == NOTHING
    assert other.so_far() == []
    assert status(other, handle) == UNKNOWN
    assert other.table(b"show jobs") == []


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("kind", FOREGROUND)
def test_h1_an_abandoned_job_of_any_priority_is_joined(server: Server, kind: PacketType) -> None:
    client, other = server.peer(), server.peer()
    handle = client.submit(job(kind=kind))
    assert client.submit(job()) == handle
    leave(server, client, handle)
    assert other.submit(job()) == handle
    assert can_do(server, b"f").ask(GRAB_JOB.request()) == NOTHING
    assert other.so_far() == []
    assert status(other, handle) == UNKNOWN


@pytest.mark.guarantee(number=5)
def test_h1_submit_without_unique_does_not_join_abandoned_job(server: Server) -> None:
    abandoned = abandon(server, job(b""))
    handle = server.peer().submit(job(b""))
    assert numbered([abandoned, handle]) == [1, 2]
    worker = run(server, handle)
    assert status(worker, abandoned) == UNKNOWN


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("first", [SUBMIT_JOB, SUBMIT_JOB_BG])
@pytest.mark.parametrize("again", [SUBMIT_JOB, SUBMIT_JOB_BG])
def test_h2_a_submit_that_joins_a_cancelled_job_is_forgotten(
    server: Server, first: PacketType, again: PacketType
) -> None:
    """A background client is not notified of the cancel either. Once a worker grabs, the unique is free."""
    client, worker = server.peer(), can_do(server, b"f")
    handle = client.submit(job(kind=first))
    assert server.peer().command(b"cancel job " + handle) == b"OK\r\n"
    assert client.so_far() == [(WORK_FAIL, [handle])] * (first is SUBMIT_JOB)
    assert client.submit(job(kind=again)) == handle
    assert status(client, handle) == QUEUED
    assert worker.ask(GRAB_JOB.request()) == NOTHING
    assert client.so_far() == []
    assert status(client, handle) == UNKNOWN
    assert numbered([handle, client.submit(job(kind=again))]) == [1, 2]


@pytest.mark.guarantee(number=5)
def test_h2_client_that_joins_job_cancelled_while_running_gets_its_end(server: Server) -> None:
    """A client that was notified of the cancel gets two: the cancel did not end its first submit."""
    client, other = server.peer(), server.peer()
    handle = client.submit(job())
    worker = run(server, handle)
    assert server.peer().command(b"cancel job " + handle) == b"OK\r\n"
    assert client.so_far() == [(WORK_FAIL, [handle])]
    assert client.submit(job()) == other.submit(job()) == handle
    send_unanswered(worker, WORK_COMPLETE.request(handle, b"done"))
    assert client.so_far() == [(WORK_COMPLETE, [handle, b"done"])] * 2
    assert other.so_far() == [(WORK_COMPLETE, [handle, b"done"])]


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("cancelled", [True, False])
@pytest.mark.parametrize("kind", [SUBMIT_JOB, SUBMIT_JOB_BG])
def test_h2_h3_client_that_joins_dropped_running_job_loses_it_with_worker(
    server: Server, cancelled: bool, kind: PacketType
) -> None:
    """The job is requeued, and unknown once a worker grabs."""
    client, other = server.peer(), server.peer()
    handle = client.submit(job())
    worker = run(server, handle)
    if cancelled:
        other.command(b"cancel job " + handle)
    else:
        leave(server, client, handle)
    assert other.submit(job(kind=kind)) == handle
    worker.close()
    server.until(lambda: status(other, handle) == QUEUED)
    assert other.table(b"show jobs") == [handle + b"\t1\t1\t0"]
    assert can_do(server, b"f").ask(GRAB_JOB.request()) == NOTHING
    assert status(other, handle) == UNKNOWN
    assert other.so_far() == []


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("kind", BACKGROUND)
def test_l1_a_background_job_is_lost_with_a_client_that_joined_it(server: Server, kind: PacketType) -> None:
    background, client = server.peer(), server.peer()
    handle = background.submit(job(kind=kind))
    assert client.submit(job()) == handle
    leave(server, client, handle)
    assert can_do(server, b"f").ask(GRAB_JOB.request()) == NOTHING
    assert status(background, handle) == UNKNOWN


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("kind", BACKGROUND)
def test_l1_background_job_joined_by_two_is_kept_while_one_is_connected(server: Server, kind: PacketType) -> None:
    background, client, other = server.peer(), server.peer(), server.peer()
    handle = background.submit(job(kind=kind))
    assert client.submit(job()) == other.submit(job()) == handle
    client.close()
    server.until(lambda: status_unique(other, b"u") == [*QUEUED, b"1"])
    send_unanswered(run(server, handle), WORK_COMPLETE.request(handle, b"done"))
    assert other.so_far() == [(WORK_COMPLETE, [handle, b"done"])]
    assert background.so_far() == []


@pytest.mark.guarantee(number=5)
def test_l1_a_background_submit_does_not_keep_a_job_whose_client_leaves(server: Server) -> None:
    """Even if its connection stays open."""
    client, background = server.peer(), server.peer()
    handle = client.submit(job())
    assert background.submit(job(kind=SUBMIT_JOB_BG)) == handle
    leave(server, client, handle)
    assert can_do(server, b"f").ask(GRAB_JOB.request()) == NOTHING
    assert status(background, handle) == UNKNOWN
