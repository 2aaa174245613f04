"""docs/gearman.md §3: ERROR packets, requests that close the connection, and packets that are sent too late.

An ERROR takes the place of the answer, and the connection stays usable: every `so_far` needs that.
"""

from __future__ import annotations

import pytest

from txgearman.packets import (
    ALL_YOURS,
    CAN_DO,
    CAN_DO_TIMEOUT,
    CANT_DO,
    ECHO_REQ,
    ECHO_RES,
    ERROR,
    GET_STATUS,
    GRAB_JOB,
    GRAB_JOB_ALL,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN,
    JOB_ASSIGN_ALL,
    JOB_ASSIGN_UNIQ,
    JOB_CREATED,
    NO_JOB,
    NOOP,
    OPTION_REQ,
    OPTION_RES,
    PRE_SLEEP,
    REQ,
    RES,
    RESET_ABILITIES,
    SET_CLIENT_ID,
    STATUS_RES,
    STATUS_RES_UNIQUE,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_EPOCH,
    SUBMIT_JOB_HIGH,
    SUBMIT_JOB_LOW,
    SUBMIT_JOB_SCHED,
    SUBMIT_REDUCE_JOB,
    SUBMIT_REDUCE_JOB_BACKGROUND,
    UNUSED,
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
from .test_1_coalescing import BACKGROUND, FOREGROUND, PRIORITIES, REFUSED, TOO_LARGE, job, send_unanswered
from .test_4_exception import NO_SUCH_EXCEPTION, NO_SUCH_JOB, UNKNOWN_OPTION, failure
from .test_5_status import QUEUED, RUNNING, UNKNOWN, run, status
from .test_6_client_disconnect import NOTHING, abandon, can_do

NOT_EXPECTED: Packet = (ERROR, [b"INVALID_COMMAND", b"Command not expected"])
WRONG_MAGIC: Packet = (ERROR, [b"INVALID_MAGIC", b"Request magic expected"])
QUEUE_FULL: Packet = (ERROR, [b"QUEUE_ERROR", b"Job queue is full"])
ECHO = ECHO_REQ.request(b"hello")

NO_REQUESTS = [
    UNUSED,
    NOOP,
    JOB_CREATED,
    NO_JOB,
    JOB_ASSIGN,
    ECHO_RES,
    ERROR,
    STATUS_RES,
    ALL_YOURS,
    OPTION_RES,
    JOB_ASSIGN_UNIQ,
    SUBMIT_JOB_SCHED,
    JOB_ASSIGN_ALL,
    STATUS_RES_UNIQUE,
]


def raw(number: int, body: bytes = b"", magic: bytes = REQ) -> bytes:
    """Return a packet that the codec would refuse."""
    return magic + number.to_bytes(4, "big") + len(body).to_bytes(4, "big") + body


def anything(packet_type: PacketType) -> bytes:
    """Return a request of this type, with as many arguments as it has."""
    return packet_type.request(*[b"x"] * len(packet_type.arguments))


def results(handle: bytes) -> list[tuple[bytes, Packet]]:
    """Return all that a worker can send about a job, and the errors that refuse it."""
    return [
        (WORK_DATA.request(handle, b"late"), NO_SUCH_JOB),
        (WORK_WARNING.request(handle, b"late"), NO_SUCH_JOB),
        (WORK_STATUS.request(handle, b"3", b"4"), REFUSED),
        (WORK_COMPLETE.request(handle, b"late"), REFUSED),
        (WORK_FAIL.request(handle), REFUSED),
        (WORK_EXCEPTION.request(handle, b"late"), NO_SUCH_EXCEPTION),
    ]


def is_refused_all(peer: Peer, handle: bytes) -> None:
    """Check that whatever this connection sends about the job is refused."""
    peer.send(*(packet for packet, _ in results(handle)))
    assert peer.so_far() == [error for _, error in results(handle)]


# Refused requests.


def test_error_takes_place_of_answer_in_order(server: Server) -> None:
    client = server.peer()
    client.send(
        ECHO_REQ.request(b"1"),
        OPTION_REQ.request(b"bad"),
        job(b""),
        job(b"k" * 65),
        GET_STATUS.request(b"H:x:1"),
        NOOP.request(),
        ECHO_REQ.request(b"2"),
    )
    first, second, (created, _), *rest = client.so_far()
    assert [first, second, created] == [(ECHO_RES, [b"1"]), UNKNOWN_OPTION, JOB_CREATED]
    assert rest == [TOO_LARGE, (STATUS_RES, [b"H:x:1", *UNKNOWN]), NOT_EXPECTED, (ECHO_RES, [b"2"])]


def test_error_text_has_no_trailing_nul(server: Server) -> None:
    """C3."""
    client = server.peer()
    client.send(NOOP.request())
    packet = ERROR.response(b"INVALID_COMMAND", b"Command not expected")
    assert client._await(len(packet)) == packet


def test_packet_that_is_no_request_is_refused(server: Server) -> None:
    client = server.peer()
    for packet_type in NO_REQUESTS:
        client.send(anything(packet_type), ECHO)
        assert client.so_far() == [NOT_EXPECTED, (ECHO_RES, [b"hello"])], packet_type


def test_options(server: Server) -> None:
    """Unknown ones, and the known one, whose name is case-insensitive and ends at a NUL."""
    client = server.peer()
    for option in [b"", b"bogus", b"exception", b"exceptions ", b" exceptions", b"o" * 5000]:
        assert client.ask(OPTION_REQ.request(option)) == UNKNOWN_OPTION
    for option in [b"exceptions", b"EXCEPTIONS", b"exceptions\0"]:
        assert client.ask(OPTION_REQ.request(option)) == (OPTION_RES, [option])


@pytest.mark.parametrize("kind", [SUBMIT_REDUCE_JOB, SUBMIT_REDUCE_JOB_BACKGROUND], ids=str)
def test_too_long_reducer_is_refused(server: Server, kind: PacketType) -> None:
    """The reducer is refused; the error names the unique."""
    client = server.peer()
    client.send(kind.request(b"f", b"u", b"r" * 65, b"", b""))
    assert client.so_far() == [TOO_LARGE]
    assert client.submit(kind.request(b"f", b"u", b"r" * 64, b"", b""))


def test_a_packet_with_the_magic_of_a_response(server: Server) -> None:
    """It is refused, and not processed."""
    peer = server.peer()
    for packet_type in [CAN_DO, SUBMIT_JOB, JOB_CREATED, ECHO_REQ, GRAB_JOB, ERROR]:
        peer.send(packet_type.response(*[b"x"] * len(packet_type.arguments)), ECHO)
        assert peer.so_far() == [WRONG_MAGIC, (ECHO_RES, [b"hello"])]
    assert peer.table(b"status") == []


@pytest.mark.parametrize("function", [b"", b"f" * 511, b"f" * 512, b"f" * 513, b"f" * 8000, b"\xff\xfe", b"a b\t%s"])
def test_submit_takes_function_of_any_length(server: Server, function: bytes) -> None:
    """The limit of 512 is not enforced."""
    handle = server.peer().submit(job(function=function))
    assert can_do(server, function).ask(GRAB_JOB.request()) == (JOB_ASSIGN, [handle, function, b"work"])


@pytest.mark.parametrize("packet_type", [GRAB_JOB, GRAB_JOB_UNIQ], ids=str)
def test_an_assignment_must_fit_into_8192_bytes(server: Server, packet_type: PacketType) -> None:
    """With its header and without the workload. Otherwise each worker that grabs it is disconnected."""
    client = server.peer()
    handle = client.submit(job(b""))
    size = 8192 - len(packet_type.request()) - len(handle) - 2 - (packet_type is GRAB_JOB_UNIQ)
    fits, too_long = (job(b"", b"x" * 9000, function=b"f" * (size + n)) for n in range(2))
    handles = client.submit(fits), client.submit(too_long)
    worker = can_do(server, b"f" * size)
    assert worker.ask(packet_type.request())[1][:2] == [handles[0], b"f" * size]
    for _ in range(2):
        worker = can_do(server, b"f" * (size + 1))
        worker.send(packet_type.request())
        assert worker.is_closed()
        server.until(lambda: status(client, handles[1]) == QUEUED)


def test_function_may_have_8191_bytes(server: Server) -> None:
    client = server.peer()
    handle = client.submit(job(function=b"f" * 8191))
    assert client.table(b"status") == [b"f" * 8191 + b"\t1\t0\t0"]
    assert status(client, handle) == QUEUED


@pytest.mark.parametrize("epoch", [b"soon", b"", b"0", b"-5", b"0.5", b"0x10", b" -12abc"])
def test_epoch_is_read_up_to_first_non_digit(server: Server, epoch: bytes) -> None:
    """It is 0 if there is no digit; all these times have passed."""
    handle = server.peer().submit(SUBMIT_JOB_EPOCH.request(b"f", b"u", epoch, b"work"))
    assert can_do(server, b"f").ask(GRAB_JOB_UNIQ.request()) == (JOB_ASSIGN_UNIQ, [handle, b"f", b"u", b"work"])


def test_requests_without_answer(server: Server) -> None:
    peer = server.peer()
    for packet in [
        CAN_DO.request(b""),
        CAN_DO_TIMEOUT.request(b"f", b"1000"),
        CANT_DO.request(b"nope"),
        PRE_SLEEP.request(),
        SET_CLIENT_ID.request(b""),
        SET_CLIENT_ID.request(b"with space\n"),
        RESET_ABILITIES.request(),
    ]:
        send_unanswered(peer, packet, packet)


def test_a_grab_without_abilities(server: Server) -> None:
    for packet_type in [GRAB_JOB, GRAB_JOB_UNIQ, GRAB_JOB_ALL]:
        assert server.peer().ask(packet_type.request()) == NOTHING


# Full queues.


@pytest.mark.parametrize("running", [True, False])
def test_submit_is_refused_while_queue_is_full(server: Server, running: bool) -> None:
    """Running jobs count; joining a job is allowed; a refused job takes no handle number."""
    client = server.peer()
    handle = client.submit(job())
    assert client.command(b"maxqueue f 1") == b"OK\r\n"
    worker = run(server, handle) if running else server.peer()
    kinds = [*FOREGROUND, *BACKGROUND]
    client.send(*(job(b"v", kind=kind) for kind in kinds), *(job(kind=kind) for kind in PRIORITIES))
    assert client.so_far() == [QUEUE_FULL] * len(kinds) + [(JOB_CREATED, [handle])] * len(PRIORITIES)
    assert status(worker, handle) == (RUNNING if running else QUEUED)
    assert client.submit(job(function=b"g")).endswith(b":2")


def test_queue_accepts_again_when_a_job_ends(server: Server) -> None:
    client, other = server.peer(), server.peer()
    handle = client.submit(job())
    other.command(b"maxqueue f 1")
    assert other.ask(job(b"v")) == QUEUE_FULL
    worker = run(server, handle)
    assert other.ask(job(b"v")) == QUEUE_FULL
    send_unanswered(worker, WORK_COMPLETE.request(handle, b""))
    assert other.submit(job(b"v"))
    assert other.ask(job(b"w")) == QUEUE_FULL


def test_abandoned_job_counts_for_limit_of_queue(server: Server) -> None:
    """Until a worker grabs."""
    abandon(server, job())
    client = server.peer()
    client.command(b"maxqueue f 1")
    assert client.ask(job(b"v")) == QUEUE_FULL
    assert can_do(server, b"f").ask(GRAB_JOB.request()) == NOTHING
    assert client.submit(job(b"v"))


def test_each_function_has_its_own_limit(server: Server) -> None:
    client = server.peer()
    client.submit(job(b""))
    client.command(b"maxqueue f 2")
    client.send(job(b""), job(b"", function=b"g"), job(b""), job(b"", function=b"g"), job(b""))
    assert [packet_type for packet_type, _ in client.so_far()] == [JOB_CREATED, JOB_CREATED, ERROR, JOB_CREATED, ERROR]
    assert client.command(b"maxqueue f 0") == b"OK\r\n"
    assert client.submit(job(b""))


def test_each_priority_has_its_own_limit(server: Server) -> None:
    """High, normal, low. Each is compared with the number of all jobs of the function."""
    client = server.peer()
    client.submit(job(b""))
    assert client.command(b"maxqueue f 3 2 1") == b"OK\r\n"
    kinds = [SUBMIT_JOB_LOW, SUBMIT_JOB, SUBMIT_JOB_LOW, SUBMIT_JOB, SUBMIT_JOB_HIGH, SUBMIT_JOB, SUBMIT_JOB_HIGH]
    client.send(*(job(b"", kind=kind) for kind in kinds))
    assert [packet_type for packet_type, _ in client.so_far()] == [
        ERROR,
        JOB_CREATED,
        ERROR,
        ERROR,
        JOB_CREATED,
        ERROR,
        ERROR,
    ]


# Requests that close the connection.


@pytest.mark.parametrize(
    "data",
    [
        raw(0),
        raw(43),
        raw(999),
        raw(0x7FFFFFFF),
        raw(0, magic=RES),
        raw(43, magic=RES),
        raw(16, b"x", b"\0REX"),
        raw(16, b"x", b"\0\0\0\0"),
        raw(43, b"x" * 100)[:12],
        raw(16, b"x" * 100, b"\0REX")[:12],
    ],
)
def test_invalid_header_closes_connection(server: Server, data: bytes) -> None:
    """Type or magic. The body that it announces is not awaited."""
    peer = server.peer()
    peer.send(data)
    assert peer.is_closed()
    assert server.peer().so_far() == []


@pytest.mark.parametrize("packet_type", [CAN_DO, CANT_DO, SET_CLIENT_ID], ids=str)
def test_only_argument_may_have_8192_bytes(server: Server, packet_type: PacketType) -> None:
    send_unanswered(server.peer(), packet_type.request(b"x" * 8192))
    peer = server.peer()
    peer.send(packet_type.request(b"x" * 8193))
    assert peer.is_closed()


@pytest.mark.parametrize("size", [8192, 20_000])
@pytest.mark.parametrize(
    ("packet_type", "before", "behind"),
    [
        (SUBMIT_JOB, [], [b"u", b""]),
        (SUBMIT_JOB_BG, [b"f"], [b""]),
        (SUBMIT_JOB_EPOCH, [b"f", b"u"], [b""]),
        (WORK_COMPLETE, [], [b""]),
    ],
    ids=str,
)
def test_argument_of_more_than_8191_bytes_closes_connection(
    server: Server, size: int, packet_type: PacketType, before: list[bytes], behind: list[bytes]
) -> None:
    """Any but the last one."""
    peer = server.peer()
    peer.send(packet_type.request(*before, b"x" * size, *behind))
    assert peer.is_closed()
    assert server.peer().table(b"status") == []


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize(
    "short", [raw(7), raw(7, b"f"), raw(7, b"f\0u"), raw(18, b"f\0u"), raw(36, b"f\0u\0w"), raw(37, b"f\0u\0r\0w")]
)
def test_h6_submit_with_too_few_arguments_consumes_next_request_and_closes_connection(
    server: Server, short: bytes
) -> None:
    peer = server.peer()
    peer.send(short)
    assert server.peer().so_far() == []
    peer.send(ECHO)
    assert peer.is_closed()
    assert server.peer().table(b"status") == []


@pytest.mark.parametrize("short", [raw(13, b"H:x:1"), raw(25, b"H:x:1"), raw(28, b"H:x:1"), raw(29, b"H:x:1")])
def test_result_with_too_few_arguments_consumes_next_request_and_closes_connection(
    server: Server, short: bytes
) -> None:
    peer = server.peer()
    peer.send(short)
    assert server.peer().so_far() == []
    peer.send(ECHO)
    assert peer.is_closed()


def test_client_disconnected_for_error_abandons_its_job(server: Server) -> None:
    """As if it had closed the connection itself (H1)."""
    client, other = server.peer(), server.peer()
    handle = client.submit(job())
    client.send(raw(43))
    assert client.is_closed()
    server.until(lambda: other.table(b"show jobs") == [handle + b"\t0\t1\t0"])
    assert can_do(server, b"f").ask(GRAB_JOB.request()) == NOTHING


def test_job_of_worker_disconnected_for_error_is_requeued(server: Server) -> None:
    client = server.peer()
    handle = client.submit(job())
    worker = run(server, handle)
    worker.send(raw(43))
    assert worker.is_closed()
    server.until(lambda: status(client, handle) == QUEUED)
    send_unanswered(run(server, handle), WORK_COMPLETE.request(handle, b"done"))
    assert client.so_far() == [(WORK_COMPLETE, [handle, b"done"])]


# Results that are refused.


@pytest.mark.parametrize("handle", [b"H:x:1", b"", b"x" * 63])
def test_results_of_unknown_job_are_refused(server: Server, handle: bytes) -> None:
    is_refused_all(server.peer(), handle)


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("who", ["another connection", "its client", "another worker", "a client that joined"])
def test_results_from_other_connection_are_refused(server: Server, running: bool, who: str) -> None:
    """They have no effect, and no client is notified."""
    client, other = server.peer(), server.peer()
    handle = client.submit(job())
    worker = run(server, handle) if running else can_do(server, b"f")
    if who == "another worker":
        other = can_do(server, b"f")
    elif who == "a client that joined":
        assert other.submit(job()) == handle
    is_refused_all(client if who == "its client" else other, handle)
    assert status(worker, handle) == (RUNNING if running else QUEUED)
    assert client.so_far() == other.so_far() == worker.so_far() == []
    if running:
        send_unanswered(worker, WORK_COMPLETE.request(handle, b"done"))
        assert client.so_far() == [(WORK_COMPLETE, [handle, b"done"])]


@pytest.mark.parametrize("end", [WORK_COMPLETE, WORK_FAIL], ids=str)
def test_results_after_end_of_job_are_refused(server: Server, end: PacketType) -> None:
    """Including a WORK_FAIL with a NUL and more after the handle. No client is notified."""
    client = server.peer()
    handle = client.submit(job())
    worker = run(server, handle)
    arguments = [handle, b"done"][: len(end.arguments)]
    send_unanswered(worker, end.request(*arguments))
    is_refused_all(worker, handle)
    assert worker.ask(WORK_FAIL.request(handle + b"\0extra")) == REFUSED
    assert client.so_far() == [(end, arguments)]
    assert status(client, handle) == UNKNOWN


# An administrator cancels a job.


def cancel(server: Server, handle: bytes) -> bytes:
    return server.peer().command(b"cancel job " + handle)


@pytest.mark.guarantee(number=5)
def test_d2_cancel_of_a_queued_job(server: Server) -> None:
    """Each submit is notified of each cancel; the job stays listed until a worker grabs."""
    client, other = server.peer(), server.peer()
    (handle,) = {peer.submit(job()) for peer in [client, client, other]}
    for _ in range(2):
        assert cancel(server, handle) == b"OK\r\n"
        assert client.so_far() == [(WORK_FAIL, [handle])] * 2
        assert other.so_far() == [(WORK_FAIL, [handle])]
        assert status(client, handle) == QUEUED
        assert client.table(b"show jobs") == [handle + b"\t0\t1\t0"]
    assert can_do(server, b"f").ask(GRAB_JOB.request()) == NOTHING
    assert status(client, handle) == UNKNOWN
    assert cancel(server, handle) == b"ERR UNKNOWN_JOB\r\n"
    assert client.so_far() == []


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize(
    ("packet_type", "arguments"), [(WORK_COMPLETE, [b"done"]), (WORK_FAIL, []), (WORK_EXCEPTION, [b"boom"])]
)
def test_d2_cancel_of_a_running_job(server: Server, packet_type: PacketType, arguments: list[bytes]) -> None:
    """The worker is not notified, and all that it sends is relayed after the WORK_FAIL."""
    client = server.peer()
    handle = client.submit(job())
    worker = run(server, handle)
    assert cancel(server, handle) == cancel(server, handle) == b"OK\r\n"
    assert status(worker, handle) == RUNNING
    send_unanswered(worker, WORK_DATA.request(handle, b"d"), WORK_STATUS.request(handle, b"1", b"2"))
    assert status(worker, handle) == [b"1", b"1", b"1", b"2"]
    send_unanswered(worker, packet_type.request(handle, *arguments))
    end: Packet = failure(handle) if packet_type is WORK_EXCEPTION else (packet_type, [handle, *arguments])
    assert client.so_far() == [
        *[(WORK_FAIL, [handle])] * 2,
        (WORK_DATA, [handle, b"d"]),
        (WORK_STATUS, [handle, b"1", b"2"]),
        end,
    ]
    assert cancel(server, handle) == b"ERR UNKNOWN_JOB\r\n"
    is_refused_all(worker, handle)


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("kind", [SUBMIT_JOB, SUBMIT_JOB_BG], ids=str)
def test_d2_cancelled_job_is_not_retried(server: Server, kind: PacketType) -> None:
    """When its worker is lost, it is queued until the next grab; the client is not notified again."""
    client, other = server.peer(), server.peer()
    handle = client.submit(job(kind=kind))
    worker = run(server, handle)
    assert cancel(server, handle) == b"OK\r\n"
    worker.close()
    server.until(lambda: status(other, handle) == QUEUED)
    assert other.table(b"show jobs") == [handle + b"\t1\t1\t0"]
    assert can_do(server, b"f").ask(GRAB_JOB.request()) == NOTHING
    assert status(other, handle) == UNKNOWN
    assert client.so_far() == [(WORK_FAIL, [handle])] * (kind is SUBMIT_JOB)


def test_cancel_of_background_job_notifies_no_client(server: Server) -> None:
    client = server.peer()
    handle = client.submit(job(kind=SUBMIT_JOB_BG))
    assert cancel(server, handle) == b"OK\r\n"
    assert client.so_far() == []
    assert can_do(server, b"f").ask(GRAB_JOB.request()) == NOTHING


@pytest.mark.guarantee(number=5)
def test_d2_worker_woken_for_cancelled_job_gets_no_job(server: Server) -> None:
    client, worker = server.peer(), can_do(server, b"f")
    send_unanswered(worker, PRE_SLEEP.request())
    handle = client.submit(job())
    assert cancel(server, handle) == b"OK\r\n"
    assert worker.so_far() == [(NOOP, [])]
    assert worker.ask(GRAB_JOB.request()) == NOTHING
    assert client.so_far() == [(WORK_FAIL, [handle])]


def test_cancel_affects_no_other_job(server: Server) -> None:
    client = server.peer()
    handles = [client.submit(job(b"")) for _ in range(3)]
    assert cancel(server, handles[1]) == b"OK\r\n"
    worker = can_do(server, b"f")
    assert [worker.ask(GRAB_JOB.request())[1][0] for _ in range(2)] == [handles[0], handles[2]]
    assert client.so_far() == [(WORK_FAIL, [handles[1]])]
