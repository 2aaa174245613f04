"""docs/gearman.md §5: GET_STATUS and GET_STATUS_UNIQUE."""

from __future__ import annotations

import pytest

from txgearman.packets import (
    CAN_DO,
    GET_STATUS,
    GET_STATUS_UNIQUE,
    GRAB_JOB,
    JOB_ASSIGN,
    STATUS_RES,
    STATUS_RES_UNIQUE,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_HIGH,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW,
    SUBMIT_JOB_LOW_BG,
    WORK_COMPLETE,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    PacketType,
)

from .harness import Peer, Server

UNKNOWN = [b"0", b"0", b"0", b"0"]
QUEUED = [b"1", b"0", b"0", b"0"]
RUNNING = [b"1", b"1", b"0", b"0"]
LONGEST = b"x" * 63


def status(peer: Peer, handle: bytes) -> list[bytes]:
    """Return known, running, numerator, denominator of the job with this handle."""
    packet_type, (asked, *rest) = peer.ask(GET_STATUS.request(handle))
    assert (packet_type, asked) == (STATUS_RES, handle)
    return rest


def status_unique(peer: Peer, unique: bytes) -> list[bytes]:
    """Return the same for the job with this unique, and the number of clients that await it."""
    packet_type, (asked, *rest) = peer.ask(GET_STATUS_UNIQUE.request(unique))
    assert (packet_type, asked) == (STATUS_RES_UNIQUE, unique)
    return rest


def run(server: Server, handle: bytes, function: bytes = b"f") -> Peer:
    """Return a new worker, which runs this job."""
    worker = server.peer()
    worker.send(CAN_DO.request(function))
    packet_type, (assigned, *_) = worker.ask(GRAB_JOB.request())
    assert (packet_type, assigned) == (JOB_ASSIGN, handle)
    return worker


@pytest.mark.parametrize("handle", [b"H:x:99", b"", b" ", b"\xff", LONGEST])
def test_status_of_unknown_handle(server: Server, handle: bytes) -> None:
    assert status(server.peer(), handle) == UNKNOWN


@pytest.mark.parametrize("unique", [b"nouniq", b"", b"-", b"\xff", LONGEST])
def test_status_of_unknown_unique(server: Server, unique: bytes) -> None:
    assert status_unique(server.peer(), unique) == [*UNKNOWN, b"0"]


@pytest.mark.parametrize("submit", [SUBMIT_JOB, SUBMIT_JOB_HIGH, SUBMIT_JOB_LOW])
def test_status_of_queued_job(server: Server, submit: PacketType) -> None:
    """Every connection gets the same answer."""
    client, other = server.peer(), server.peer()
    handle = client.submit(submit.request(b"f", b"uu", b"work"))
    assert status(client, handle) == status(other, handle) == QUEUED
    assert status_unique(client, b"uu") == status_unique(other, b"uu") == [*QUEUED, b"1"]


def test_waiting_clients_are_counted_once_for_each_submit(server: Server) -> None:
    client, other = server.peer(), server.peer()
    for number, peer in enumerate([client, other, client], 1):
        peer.submit(SUBMIT_JOB.request(b"f", b"uu", b"work"))
        assert status_unique(peer, b"uu") == [*QUEUED, b"%d" % number]


def test_status_of_running_job(server: Server) -> None:
    client, other = server.peer(), server.peer()
    (handle,) = {peer.submit(SUBMIT_JOB.request(b"f", b"uu", b"work")) for peer in (client, other)}
    run(server, handle)
    assert status(client, handle) == RUNNING
    assert status_unique(client, b"uu") == [*RUNNING, b"2"]


@pytest.mark.parametrize("submit", [SUBMIT_JOB_BG, SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_LOW_BG])
def test_background_job_has_no_waiting_clients(server: Server, submit: PacketType) -> None:
    client = server.peer()
    handle = client.submit(submit.request(b"f", b"uu", b"work"))
    assert (status(client, handle), status_unique(client, b"uu")) == (QUEUED, [*QUEUED, b"0"])
    run(server, handle)
    assert (status(client, handle), status_unique(client, b"uu")) == (RUNNING, [*RUNNING, b"0"])


def test_joined_background_job_has_waiting_client(server: Server) -> None:
    client = server.peer()
    handle = client.submit(SUBMIT_JOB_BG.request(b"f", b"uu", b"work"))
    assert client.submit(SUBMIT_JOB.request(b"f", b"uu", b"work")) == handle
    assert status_unique(client, b"uu") == [*QUEUED, b"1"]


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize(
    ("numerator", "denominator", "stored"),
    [
        (b"3", b"8", [b"3", b"8"]),
        (b"9", b"9", [b"9", b"9"]),
        (b"0.5", b"1", [b"0", b"1"]),
        (b"-3", b"xyz", [b"4294967293", b"0"]),
        (b"4294967295", b"4294967296", [b"4294967295", b"0"]),
        (b"4294967297", b"99999999999", [b"1", b"1410065407"]),
        # Ten characters of the denominator are read; for more than eleven see docs/gearman.md §5.
        (b"00000000012", b"00000000012", [b"12", b"1"]),
        (b"          7", b"          7", [b"7", b"0"]),
        (b"12345678901", b"-9999999999", [b"3755744309", b"3294967297"]),
        (b"9223372036854775807", b"1", [b"4294967295", b"1"]),
        (b"99999999999999999999", b"1", [b"4294967295", b"1"]),
        (b"-99999999999999999999", b"1", [b"0", b"1"]),
        (b"-2147483649", b"1", [b"2147483647", b"1"]),
        (b"", b"", [b"0", b"0"]),
        (b" 7", b"+8", [b"7", b"8"]),
        (b"\t5", b"\n6", [b"5", b"6"]),
        (b"7 ", b"8/", [b"7", b"8"]),
        (b"0x10", b"1e3", [b"0", b"1"]),
        (b"5", b"7\0", [b"5", b"7"]),
        (b"5", b"7\x008", [b"5", b"7"]),
    ],
)
def test_c2_status_is_relayed_unchanged_and_stored_as_atoi_reads_it(
    server: Server, numerator: bytes, denominator: bytes, stored: list[bytes]
) -> None:
    client, other = server.peer(), server.peer()
    handle = client.submit(SUBMIT_JOB.request(b"f", b"uu", b"work"))
    worker = run(server, handle)
    worker.send(WORK_STATUS.request(handle, numerator, denominator))
    assert worker.so_far() == []
    assert client.so_far() == [(WORK_STATUS, [handle, numerator, denominator])]
    assert status(other, handle) == [b"1", b"1", *stored]
    assert status_unique(other, b"uu") == [b"1", b"1", *stored, b"1"]


def test_the_last_status_counts(server: Server) -> None:
    client = server.peer()
    handle = client.submit(SUBMIT_JOB_BG.request(b"f", b"", b"work"))
    worker = run(server, handle)
    worker.send(*(WORK_STATUS.request(handle, b"%d" % n, b"9") for n in (1, 8, 2)))
    assert worker.so_far() == []
    assert status(client, handle) == [b"1", b"1", b"2", b"9"]


@pytest.mark.parametrize("clients", [0, 1])
@pytest.mark.parametrize("end", [WORK_COMPLETE, WORK_FAIL, WORK_EXCEPTION])
def test_ended_job_is_unknown(server: Server, end: PacketType, clients: int) -> None:
    client, other = server.peer(), server.peer()
    handle = client.submit((SUBMIT_JOB if clients else SUBMIT_JOB_BG).request(b"f", b"uu", b"work"))
    worker = run(server, handle)
    worker.send(WORK_STATUS.request(handle, b"1", b"2"), end.request(handle, *[b""] * (len(end.arguments) - 1)))
    assert worker.so_far() == []
    assert status(other, handle) == UNKNOWN
    assert status_unique(other, b"uu") == [*UNKNOWN, b"0"]


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("submit", [SUBMIT_JOB, SUBMIT_JOB_BG])
def test_d4_progress_is_reset_when_worker_is_lost(server: Server, submit: PacketType) -> None:
    client, other = server.peer(), server.peer()
    handle = client.submit(submit.request(b"f", b"", b"work"))
    worker = run(server, handle)
    worker.send(WORK_STATUS.request(handle, b"3", b"8"))
    assert worker.so_far() == []
    worker.close()
    server.until(lambda: status(other, handle)[1] == b"0")
    assert status(other, handle) == QUEUED
    run(server, handle)
    assert status(other, handle) == RUNNING


@pytest.mark.parametrize("newest_runs", [False, True])
def test_of_several_jobs_with_one_unique_the_newest_is_reported(server: Server, newest_runs: bool) -> None:
    """The request does not name a function."""
    client, other = server.peer(), server.peer()
    older = client.submit(SUBMIT_JOB.request(b"older", b"same", b"work"))
    newer = client.submit(SUBMIT_JOB_BG.request(b"newer", b"same", b"work"))
    run(server, *((newer, b"newer") if newest_runs else (older, b"older")))
    assert status_unique(other, b"same") == [*(RUNNING if newest_runs else QUEUED), b"0"]


def test_when_the_newest_has_ended_the_one_before_is_reported(server: Server) -> None:
    client, other = server.peer(), server.peer()
    handles = [client.submit(SUBMIT_JOB.request(f, b"same", b"work")) for f in (b"f0", b"f1", b"f2")]
    run(server, handles[1], b"f1")
    newest = run(server, handles[2], b"f2")
    newest.send(WORK_STATUS.request(handles[2], b"1", b"2"))
    assert newest.so_far() == []
    assert status_unique(other, b"same") == [b"1", b"1", b"1", b"2", b"1"]
    newest.send(WORK_FAIL.request(handles[2]))
    assert newest.so_far() == []
    assert status_unique(other, b"same") == [*RUNNING, b"1"]


@pytest.mark.parametrize("unique", [b"", b"-"])
def test_job_without_own_unique_is_not_found_by_unique(server: Server, unique: bytes) -> None:
    client = server.peer()
    handle = client.submit(SUBMIT_JOB.request(b"f", unique, b"work"))
    assert [status_unique(client, asked) for asked in (b"", b"-", b"work")] == [[*UNKNOWN, b"0"]] * 3
    assert status(client, handle) == QUEUED


def test_the_longest_unique_is_found(server: Server) -> None:
    client = server.peer()
    client.submit(SUBMIT_JOB.request(b"f", LONGEST, b"work"))
    assert status_unique(client, LONGEST) == [*QUEUED, b"1"]
    assert status_unique(client, LONGEST[1:]) == [*UNKNOWN, b"0"]


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("rest", [b"\0", b"\0rest", b"\0\0"])
def test_h6_handle_or_unique_ends_at_nul(server: Server, rest: bytes) -> None:
    """The answer has it without the NUL."""
    client = server.peer()
    handle = client.submit(SUBMIT_JOB.request(b"f", b"uu", b"work"))
    assert client.ask(GET_STATUS.request(handle + rest)) == (STATUS_RES, [handle, *QUEUED])
    assert client.ask(GET_STATUS_UNIQUE.request(b"uu" + rest)) == (STATUS_RES_UNIQUE, [b"uu", *QUEUED, b"1"])


def test_answers_come_in_the_order_of_the_requests(server: Server) -> None:
    client = server.peer()
    handle = client.submit(SUBMIT_JOB.request(b"f", b"uu", b"work"))
    client.send(GET_STATUS.request(b"no"), GET_STATUS_UNIQUE.request(b"uu"), GET_STATUS.request(handle))
    assert client.so_far() == [
        (STATUS_RES, [b"no", *UNKNOWN]),
        (STATUS_RES_UNIQUE, [b"uu", *QUEUED, b"1"]),
        (STATUS_RES, [handle, *QUEUED]),
    ]


@pytest.mark.guarantee(number=5)
def test_h1_end_of_job_is_sent_before_status_that_it_is_unknown(server: Server) -> None:
    """Therefore a client may treat a job as lost that is unknown and whose end it has not received."""
    client = server.peer()
    for number in range(20):
        handle = client.submit(SUBMIT_JOB.request(b"f%d" % number, b"", b"work"))
        worker = run(server, handle, b"f%d" % number)
        client.send(GET_STATUS.request(handle) * 10)
        worker.send(WORK_COMPLETE.request(handle, b"done"))
        client.send(GET_STATUS.request(handle) * 10)
        assert worker.so_far() == []
        packets = [*client.so_far(), client.ask(GET_STATUS.request(handle))]
        end = packets.index((WORK_COMPLETE, [handle, b"done"]))
        assert packets[:end] == [(STATUS_RES, [handle, *RUNNING])] * end
        assert packets[end + 1 :] == [(STATUS_RES, [handle, *UNKNOWN])] * (21 - end)
