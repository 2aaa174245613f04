"""docs/gearman.md §2: ordering. Answers are in the order of requests; JOB_CREATED precedes the job's packets."""

from __future__ import annotations

from functools import partial
from itertools import cycle, islice

import pytest

from txgearman.packets import (
    CAN_DO,
    ECHO_REQ,
    ECHO_RES,
    ERROR,
    GET_STATUS,
    GET_STATUS_UNIQUE,
    GRAB_JOB,
    JOB_ASSIGN,
    JOB_CREATED,
    NO_JOB,
    NOOP,
    OPTION_REQ,
    OPTION_RES,
    PRE_SLEEP,
    STATUS_RES,
    STATUS_RES_UNIQUE,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_FAIL,
    WORK_STATUS,
    Packet,
)

from .harness import Peer, Server
from .test_1_coalescing import job, send_unanswered
from .test_5_status import RUNNING, UNKNOWN, run, status, status_unique
from .test_6_client_disconnect import can_do

Exchange = tuple[bytes, Packet]
"""Requests, and their answers."""

COUNT = 600


def next_handles(client: Peer, count: int) -> list[bytes]:
    """Return the handles of the jobs that are created next."""
    prefix, _, number = client.submit(job(b"", function=b"counter", kind=SUBMIT_JOB_BG)).rpartition(b":")
    return [b"%b:%d" % (prefix, int(number) + n) for n in range(1, count + 1)]


def conversation(client: Peer, count: int) -> list[Exchange]:
    """Return requests of all kinds, and their answers: one packet each, some of them an ERROR."""
    handles = next_handles(client, 2 * count // 8 + 2)
    made = iter(handles)
    exchanges: list[Exchange] = []
    for n in range(count):
        unknown = b"H:x:%d" % n
        exchanges += [
            (job(b""), (JOB_CREATED, [next(made)])),
            (ECHO_REQ.request(unknown), (ECHO_RES, [unknown])),
            (GET_STATUS.request(unknown), (STATUS_RES, [unknown, *UNKNOWN])),
            (job(b"k" * 65), (ERROR, [b"ARGUMENT_TOO_LARGE", b"Unique value too large"])),
            (OPTION_REQ.request(b"exceptions"), (OPTION_RES, [b"exceptions"])),
            (OPTION_REQ.request(unknown), (ERROR, [b"UNKNOWN_OPTION", b"Server does not recognize given option"])),
            (job(unknown, kind=SUBMIT_JOB_BG), (JOB_CREATED, [next(made)])),
            (GET_STATUS_UNIQUE.request(unknown + b"!"), (STATUS_RES_UNIQUE, [unknown + b"!", *UNKNOWN, b"0"])),
        ]
        if len(exchanges) >= count:
            break
    return exchanges[:count]


def pieces(stream: bytes, sizes: list[int]) -> list[bytes]:
    """Cut a stream into pieces of these sizes, repeatedly."""
    found = []
    size = cycle(sizes)
    while stream:
        length = next(size)
        found.append(stream[:length])
        stream = stream[length:]
    return found


@pytest.mark.parametrize("sizes", [[1_000_000], [200, 1, 57, 3, 130, 12, 2, 99]])
def test_answers_come_in_the_order_of_the_requests(server: Server, sizes: list[int]) -> None:
    """However the requests are cut into pieces."""
    client = server.peer()
    exchanges = conversation(client, COUNT)
    for piece in pieces(b"".join(request for request, _ in exchanges), sizes):
        client.send(piece)
    assert client.so_far() == [answer for _, answer in exchanges]


def test_requests_received_byte_by_byte_are_answered(server: Server) -> None:
    """Packets and lines of text, mixed."""
    client = server.peer()
    for byte in ECHO_REQ.request(b"1") + b"maxqueue f\r\n" + job() + b"cancel job x\n" + ECHO_REQ.request(b"2"):
        client.send(bytes([byte]))
    assert client.receive() == (ECHO_RES, [b"1"])
    assert client.line() == b"OK\r\n"
    assert client.receive_type(JOB_CREATED)
    assert client.line() == b"ERR UNKNOWN_JOB\r\n"
    assert client.so_far() == [(ECHO_RES, [b"2"])]


def test_text_and_packets_are_answered_in_order(server: Server) -> None:
    """500 pairs in one write."""
    client = server.peer()
    pairs = [(ECHO_REQ.request(b"%d" % n), b"cancel job H:x:%d\r\n" % n) for n in range(500)]
    client.send(*(part for pair in pairs for part in pair))
    for n in range(500):
        assert client.receive() == (ECHO_RES, [b"%d" % n])
        assert client.line() == b"ERR UNKNOWN_JOB\r\n"
    assert client.so_far() == []


def test_large_packet_delays_those_behind_it(server: Server) -> None:
    client = server.peer()
    large = b"x\0" * 500_000
    client.send(ECHO_REQ.request(b"1"), ECHO_REQ.request(large), GET_STATUS.request(b"x"), ECHO_REQ.request(b"2"))
    assert client.so_far() == [
        (ECHO_RES, [b"1"]),
        (ECHO_RES, [large]),
        (STATUS_RES, [b"x", *UNKNOWN]),
        (ECHO_RES, [b"2"]),
    ]


def test_incomplete_packet_does_not_delay_other_connections(server: Server) -> None:
    client, other = server.peer(), server.peer()
    request = job(b"u", b"x" * 1000)
    client.send(request[:500])
    handle = other.submit(job(b"u", b"first"))
    client.send(request[500:])
    assert client.so_far() == [(JOB_CREATED, [handle])]


def test_incomplete_packet_is_no_request(server: Server) -> None:
    client, other = server.peer(), server.peer()
    client.send(job(kind=SUBMIT_JOB_BG)[:-1])
    client.close()
    server.until(lambda: len(other.table(b"workers")) == 1)
    assert other.table(b"status") == []


def test_one_connection_is_client_worker_and_administrator(server: Server) -> None:
    """Client and worker, in one write; the client's packets precede the worker's next answer.

    The job's end must not be in the write that grabs it: gearmand frees a workload that it has not yet sent.
    """
    peer = server.peer()
    (handle,) = next_handles(peer, 1)
    peer.send(CAN_DO.request(b"f"), PRE_SLEEP.request(), job(), GRAB_JOB.request())
    assert peer.so_far() == [(NOOP, []), (JOB_CREATED, [handle]), (JOB_ASSIGN, [handle, b"f", b"work"])]
    peer.send(
        WORK_STATUS.request(handle, b"1", b"2"),
        GET_STATUS.request(handle),
        WORK_COMPLETE.request(handle, b"done"),
        GET_STATUS.request(handle),
        WORK_FAIL.request(handle),
        GRAB_JOB.request(),
    )
    assert peer.so_far() == [
        (WORK_STATUS, [handle, b"1", b"2"]),
        (STATUS_RES, [handle, b"1", b"1", b"1", b"2"]),
        (WORK_COMPLETE, [handle, b"done"]),
        (STATUS_RES, [handle, *UNKNOWN]),
        (ERROR, [b"JOB_NOT_FOUND", b"Job given in work result not found"]),
        (NO_JOB, []),
    ]


def finish_all(worker: Peer, count: int) -> None:
    """Run this many jobs; grab the next one at once, as a fast worker does."""
    worker.send(GRAB_JOB.request())
    while count:
        packet_type, arguments = worker.receive()
        if packet_type is JOB_ASSIGN:
            handle, _, workload = arguments
            worker.send(WORK_DATA.request(handle, workload), WORK_COMPLETE.request(handle, workload))
            count -= 1
        worker.send(GRAB_JOB.request())


def test_job_created_comes_before_the_packets_of_the_job(server: Server) -> None:
    """The client reads nothing until all jobs have ended."""
    client, worker = server.peer(), can_do(server, b"f")
    handles = next_handles(client, COUNT)
    for n in range(0, COUNT, 8):
        client.send(*(job(b"", b"%d" % k) for k in range(n, n + 8)))
        finish_all(worker, 8)
    worker.so_far()
    found: dict[bytes, list[Packet]] = {handle: [] for handle in handles}
    for packet_type, (handle, *rest) in client.so_far():
        found[handle].append((packet_type, rest))
    for n, handle in enumerate(handles):
        data = [b"%d" % n]
        assert found[handle] == [(JOB_CREATED, []), (WORK_DATA, data), (WORK_COMPLETE, data)]


def is_told(peer: Peer, unique: bytes, expected: list[bytes]) -> bool:
    return status_unique(peer, unique) == expected


def test_job_created_comes_before_the_packets_of_a_job_that_is_joined(server: Server) -> None:
    """The n-th submit gets packets from its answer on."""
    client, watch = server.peer(), server.peer()
    handle = client.submit(job())
    worker = run(server, handle)
    expected: list[Packet] = []
    for n in range(2, 30):
        client.send(job())
        waiting = [*RUNNING, b"%d" % n]
        server.until(partial(is_told, watch, b"u", waiting))
        send_unanswered(worker, WORK_DATA.request(handle, b"%d" % n))
        expected += [(JOB_CREATED, [handle]), *[(WORK_DATA, [handle, b"%d" % n])] * n]
    assert client.so_far() == expected


def test_a_client_gets_packets_as_the_workers_sent_them(server: Server) -> None:
    """Two jobs, whose workers send by turns, and which end in the opposite order of the submits."""
    client = server.peer()
    first, second = (client.submit(job(b"%d" % n, function=b"f%d" % n)) for n in range(2))
    workers = [(run(server, first, b"f0"), first), (run(server, second, b"f1"), second)]
    expected: list[Packet] = []
    for n, (worker, handle) in enumerate(islice(cycle(workers), 20)):
        send_unanswered(worker, WORK_DATA.request(handle, b"%d" % n))
        expected.append((WORK_DATA, [handle, b"%d" % n]))
    for worker, handle in reversed(workers):
        send_unanswered(worker, WORK_COMPLETE.request(handle, b""))
        expected.append((WORK_COMPLETE, [handle, b""]))
    assert client.so_far() == expected


def test_a_worker_may_end_its_jobs_in_any_order(server: Server) -> None:
    """Packets of one job that are sent between those of another arrive in this order."""
    client, worker = server.peer(), can_do(server, b"f")
    handles = [client.submit(job(b"")) for _ in range(3)]
    for handle in handles:
        assert worker.ask(GRAB_JOB.request()) == (JOB_ASSIGN, [handle, b"f", b"work"])
    order = [1, 0, 2, 1, 0, 2, 2, 1, 0]
    packets: list[Packet] = [(WORK_DATA, [handles[n], b"d"]) for n in order]
    packets += [(WORK_COMPLETE, [handles[n], b"done"]) for n in [2, 0, 1]]
    send_unanswered(worker, *(packet_type.request(*arguments) for packet_type, arguments in packets))
    assert client.so_far() == packets


def test_answers_and_the_packets_of_jobs_keep_their_order(server: Server) -> None:
    """A status that is requested after a packet was received takes account of the packet."""
    client = server.peer()
    handle = client.submit(SUBMIT_JOB.request(b"f", b"", b"work"))
    worker = run(server, handle)
    for n in range(1, 20):
        send_unanswered(worker, WORK_STATUS.request(handle, b"%d" % n, b"20"))
        client.send(GET_STATUS.request(handle))
        numbers = [b"%d" % n, b"20"]
        assert client.so_far() == [(WORK_STATUS, [handle, *numbers]), (STATUS_RES, [handle, b"1", b"1", *numbers])]
    send_unanswered(worker, WORK_COMPLETE.request(handle, b""))
    client.send(GET_STATUS.request(handle))
    assert client.so_far() == [(WORK_COMPLETE, [handle, b""]), (STATUS_RES, [handle, *UNKNOWN])]
    assert status(worker, handle) == UNKNOWN
