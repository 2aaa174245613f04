"""Each fault of a `MemoryJobServer` happens as documented, alone and with others, and reports what did not occur."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost, ConnectionRefusedError

from txgearman import TaskFailed, TaskLost, TaskRejected
from txgearman.packets import (
    CAN_DO,
    ECHO_REQ,
    ECHO_RES,
    ERROR,
    GET_STATUS,
    GRAB_JOB,
    JOB_ASSIGN,
    JOB_CREATED,
    NO_JOB,
    PRE_SLEEP,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    PacketType,
)
from txgearman.testing import Fault, HeldAnswers, MemoryJobServer
from txgearman.testing.faults import SUBMITS

from ..wire import outcome
from .peer import CREATED, ECHO, ECHOED, SUBMIT, ask, attempt, connect, in_turns

FULL = ERROR.response(b"QUEUE_ERROR", b"Job queue is full")


@pytest.fixture
def server() -> MemoryJobServer:
    return MemoryJobServer()


def problems(server: MemoryJobServer) -> str:
    """Return what `verify` reports, without the packet types that were received; empty if it passes."""
    try:
        server.verify()
    except AssertionError as error:
        return re.sub("(, only|, nor any) [^;]*", "", str(error))
    return ""


# Strictness.

Make = Callable[[MemoryJobServer], Fault]

NEVER_HAPPENED: list[tuple[Make, str]] = [
    (
        lambda server: server.refuse_connections(),
        "refuse_connections() has not happened: no connection was attempted",
    ),
    (
        lambda server: server.black_hole_connections(),
        "black_hole_connections() has not happened: no connection was attempted",
    ),
    (
        lambda server: server.drop_before(SUBMIT_JOB),
        "drop_before(SUBMIT_JOB) has not happened: no such packet was received",
    ),
    (
        lambda server: server.drop_after(SUBMIT_JOB, ECHO_REQ),
        "drop_after(SUBMIT_JOB, ECHO_REQ) has not happened: no such packet was received",
    ),
    (
        lambda server: server.leave_unanswered(ECHO_REQ, times=None),
        "leave_unanswered(ECHO_REQ) has not happened: no such packet was received",
    ),
    (
        lambda server: server.reject("QUEUE_ERROR"),
        "reject('QUEUE_ERROR') has not happened: no such packet was received",
    ),
    (
        lambda server: server.reject("QUEUE_ERROR", "full", function="f"),
        "reject('QUEUE_ERROR', function='f') has not happened: no such packet was received",
    ),
    (lambda server: server.hold_answers(), "hold_answers() has not happened: there was no answer to hold"),
    (lambda server: server.fall_silent(), "fall_silent() has not happened: there was no connection"),
    (lambda server: server.split_answers(3), "split_answers(3) has not happened: nothing was sent"),
]


@pytest.mark.parametrize(("make", "text"), NEVER_HAPPENED, ids=[text.split("(")[0] for _, text in NEVER_HAPPENED])
def test_fault_that_has_not_happened_fails_verify(server: MemoryJobServer, make: Make, text: str) -> None:
    """It is reported while it is active and after it has ended, by the call that injected it."""
    fault = make(server)
    assert problems(server) == text
    fault.end()
    fault.end()
    assert problems(server) == text
    assert fault.happened == 0


@pytest.mark.parametrize(("make", "text"), NEVER_HAPPENED, ids=[text.split("(")[0] for _, text in NEVER_HAPPENED])
def test_fault_ends_with_its_block(server: MemoryJobServer, make: Make, text: str) -> None:
    """However the block ends; after it, the server works as before."""
    with pytest.raises(ZeroDivisionError), make(server) as fault:
        raise ZeroDivisionError
    assert fault.ended
    assert ask(server, connect(server), ECHO, SUBMIT) == ECHOED + CREATED
    assert problems(server) == text


def test_verify_names_packet_types_that_were_received(server: MemoryJobServer) -> None:
    server.drop_before(SUBMIT_JOB)
    for received in ("nor any other", "only ECHO_REQ, SUBMIT_JOB_BG"):
        with pytest.raises(AssertionError, match=f"no such packet was received, {received}$"):
            server.verify()
        ask(server, connect(server), ECHO, SUBMIT_JOB_BG.request(b"reverse", b"", b""))


def test_verify_reports_all_faults(server: MemoryJobServer) -> None:
    for make, _ in NEVER_HAPPENED:
        make(server).end()
    assert problems(server) == "; ".join(text for _, text in NEVER_HAPPENED)


def test_verify_passes_without_faults(server: MemoryJobServer) -> None:
    assert problems(server) == ""


@pytest.mark.parametrize("name", ["drop_before", "drop_after", "leave_unanswered"])
def test_fault_that_happened_too_seldom_fails_verify(server: MemoryJobServer, name: str) -> None:
    """A fault that was requested twice and happened once."""
    fault = getattr(server, name)(ECHO_REQ, times=2)
    ask(server, connect(server), ECHO)
    assert fault.happened == 1
    assert problems(server).startswith(f"{name}(ECHO_REQ")
    ask(server, connect(server), ECHO)
    assert problems(server) == ""
    assert fault.ended


@pytest.mark.parametrize("answers", [1, 2])
def test_verify_fails_while_answers_are_held(server: MemoryJobServer, answers: int) -> None:
    peer = connect(server)
    held = server.hold_answers()
    ask(server, peer, *[ECHO] * answers)
    assert problems(server) == f"hold_answers() still holds {len(ECHOED) * answers} bytes: release() was expected"
    held.release()
    assert problems(server) == ""


def test_answers_held_for_closed_connection_are_discarded(server: MemoryJobServer) -> None:
    peer = connect(server)
    server.hold_answers()
    ask(server, peer, ECHO)
    peer.transport.loseConnection()
    server.advance()
    assert problems(server) == ""


# Wrong arguments.

BAD: Any = object()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("size", [0, -1])
def test_size_of_pieces_must_be_positive(server: MemoryJobServer, size: int) -> None:
    with pytest.raises(ValueError, match=f"size must be at least 1, not {size}"):
        server.split_answers(size)
    assert problems(server) == ""


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("times", [0, -1, 1.5, "2"])
@pytest.mark.parametrize(
    "make",
    [
        lambda server, times: server.drop_before(ECHO_REQ, times=times),
        lambda server, times: server.drop_after(ECHO_REQ, times=times),
        lambda server, times: server.leave_unanswered(ECHO_REQ, times=times),
        lambda server, times: server.reject("QUEUE_ERROR", times=times),
    ],
    ids=["drop_before", "drop_after", "leave_unanswered", "reject"],
)
def test_times_must_be_positive_int(
    server: MemoryJobServer, make: Callable[[MemoryJobServer, Any], Fault], times: Any
) -> None:
    """Otherwise the fault would never end."""
    with pytest.raises((TypeError, ValueError)):
        make(server, times)
    assert problems(server) == ""


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    "make",
    [
        lambda server: server.reject("QUEUE\0ERROR"),
        lambda server: server.reject("QUEUE_ERROR", function=3),
        lambda server: server.drop_before("ECHO_REQ"),
        lambda server: server.drop_before([ECHO_REQ]),
        lambda server: server.split_answers(2.5),
        lambda server: server.split_answers("2"),
    ],
    ids=["NUL", "no function", "name of a type", "list of types", "half a byte", "digits"],
)
def test_invalid_arguments_inject_no_fault(server: MemoryJobServer, make: Callable[[Any], Fault]) -> None:
    """The call raises, and the server works as before."""
    with pytest.raises((TypeError, ValueError)):
        make(server)
    assert problems(server) == ""
    assert ask(server, connect(server), ECHO, SUBMIT) == ECHOED + CREATED


@pytest.mark.parametrize("name", ["drop_connections", "send_raw"])
def test_call_without_connection_raises(server: MemoryJobServer, name: str) -> None:
    arguments = [b"raw"] if name == "send_raw" else []
    with pytest.raises(AssertionError, match=rf"{name}\(\) needs a connection"):
        getattr(server, name)(*arguments)


# Connecting.


def test_refuse_connections(server: MemoryJobServer) -> None:
    """While it is active; open connections stay open."""
    before = connect(server)
    with server.refuse_connections() as fault:
        for _ in range(2):
            assert [type(error) for error in attempt(server)] == [ConnectionRefusedError]
        assert ask(server, before, ECHO) == ECHOED
    assert fault.happened == 2
    assert ask(server, connect(server), ECHO) == ECHOED
    assert problems(server) == ""


def test_black_hole_connections(server: MemoryJobServer) -> None:
    before = connect(server)
    with server.black_hole_connections() as fault:
        assert attempt(server) == []
        assert ask(server, before, ECHO) == ECHOED
    assert fault.happened == 1
    assert ask(server, connect(server), ECHO) == ECHOED


def test_refusal_takes_precedence_over_black_hole(server: MemoryJobServer) -> None:
    """A refused attempt never reaches the black hole."""
    server.black_hole_connections()
    server.refuse_connections()
    assert [type(error) for error in attempt(server)] == [ConnectionRefusedError]
    assert problems(server) == "black_hole_connections() has not happened: no connection was attempted"


# Dropping.


def test_drop_connections(server: MemoryJobServer) -> None:
    """All of them, once what was in transit has arrived; new ones are accepted."""
    peers = [connect(server), connect(server)]
    for peer in peers:
        peer.transport.write(ECHO)
    server.drop_connections()
    server.advance()
    assert [(peer.pieces, peer.lost_with()) for peer in peers] == [([ECHOED], [ConnectionLost])] * 2
    assert server.connections == []
    assert ask(server, connect(server), ECHO) == ECHOED


@pytest.mark.parametrize("name", ["drop_before", "drop_after"])
def test_drop_without_types_happens_at_any_packet(server: MemoryJobServer, name: str) -> None:
    """Each time, until the fault ends."""
    with getattr(server, name)(times=None) as fault:
        for request in (ECHO, SUBMIT):
            peer = connect(server)
            assert (ask(server, peer, request), peer.lost_with()) == (b"", [ConnectionLost])
    assert fault.happened == 2
    assert ask(server, connect(server), ECHO) == ECHOED


def test_reject_takes_any_packet_type(server: MemoryJobServer) -> None:
    server.reject("UNKNOWN_OPTION", "no such thing", ECHO_REQ)
    peer = connect(server)
    assert ask(server, peer, SUBMIT, ECHO) == CREATED + ERROR.response(b"UNKNOWN_OPTION", b"no such thing")
    assert problems(server) == ""


def test_connection_dropped_twice_in_one_turn_is_lost_once(server: MemoryJobServer) -> None:
    peer = connect(server)
    (connection,) = server.connections
    for _ in range(2):
        connection.drop()
    server.advance()
    assert peer.lost_with() == [ConnectionLost]
    assert server.connections == []


def test_calls_have_taken_effect_when_they_return(server: MemoryJobServer) -> None:
    """With a `Clock`; the other calls of a test, too."""
    peer = connect(server)
    held = server.hold_answers()
    server.send_raw(b"raw")
    held.release()
    assert peer.received() == b"raw"
    server.drop_connections()
    assert peer.lost_with() == [ConnectionLost]
    with pytest.raises(AssertionError, match="no client or worker is connected"):
        server.drop_connections()


def test_drop_before(server: MemoryJobServer) -> None:
    """What follows the packet in the same piece is not processed either; answers in transit are lost."""
    fault = server.drop_before(SUBMIT_JOB, SUBMIT_JOB_BG)
    peer, other = connect(server), connect(server)
    assert ask(server, other, ECHO) == ECHOED
    assert ask(server, peer, ECHO, SUBMIT, SUBMIT) == b""
    assert peer.lost_with() == [ConnectionLost]
    with pytest.raises(AssertionError, match="queued: none"):
        server.take("reverse")
    assert ask(server, other, SUBMIT) == CREATED, "it happens once"
    assert fault.happened == 1
    assert problems(server) == ""


def test_drop_after(server: MemoryJobServer) -> None:
    """The job is queued, its answer is lost."""
    server.drop_after(SUBMIT_JOB_BG)
    peer = connect(server)
    submit = SUBMIT_JOB_BG.request(b"reverse", b"", b"abc")
    assert ask(server, peer, submit, submit) == b""
    assert peer.lost_with() == [ConnectionLost]
    server.take("reverse").complete()
    with pytest.raises(AssertionError, match="queued: none"):
        server.take("reverse")
    assert ask(server, connect(server), ECHO) == ECHOED


@pytest.mark.parametrize("name", ["drop_before", "drop_after"])
def test_drop_happens_as_often_as_requested(server: MemoryJobServer, name: str) -> None:
    fault = getattr(server, name)(ECHO_REQ, times=2)
    for _ in range(2):
        peer = connect(server)
        assert (ask(server, peer, ECHO), len(peer.lost)) == (b"", 1)
    assert ask(server, connect(server), ECHO) == ECHOED
    assert fault.happened == 2


def test_two_drops_at_same_packet_type_happen_one_after_the_other(server: MemoryJobServer) -> None:
    first, second = server.drop_before(ECHO_REQ), server.drop_after(ECHO_REQ)
    ask(server, connect(server), ECHO)
    assert (first.happened, second.happened) == (1, 0)
    ask(server, connect(server), ECHO)
    assert (first.happened, second.happened) == (1, 1)
    assert ask(server, connect(server), ECHO) == ECHOED


def test_drop_requeues_job_of_worker(server: MemoryJobServer) -> None:
    """The server loses the worker with the connection."""
    client, worker = connect(server), connect(server)
    ask(server, client, SUBMIT)
    server.drop_after(GRAB_JOB)
    assert ask(server, worker, CAN_DO.request(b"reverse"), GRAB_JOB.request()) == b""
    assert server.take("reverse").workload == b"abc"


# Missing and different answers.


@pytest.mark.guarantee(number=17)
def test_leave_unanswered(server: MemoryJobServer) -> None:
    fault = server.leave_unanswered(ECHO_REQ)
    peer = connect(server)
    assert ask(server, peer, ECHO, SUBMIT, ECHO) == CREATED + ECHOED
    assert fault.happened == 1


@pytest.mark.guarantee(number=17)
def test_leave_unanswered_without_limit(server: MemoryJobServer) -> None:
    fault = server.leave_unanswered(ECHO_REQ, GET_STATUS, times=None)
    peer = connect(server)
    assert ask(server, peer, ECHO, SUBMIT, GET_STATUS.request(b"H:memory:1"), ECHO) == CREATED
    fault.end()
    assert ask(server, peer, ECHO) == ECHOED
    assert fault.happened == 3


@pytest.mark.guarantee(number=3)
@pytest.mark.parametrize("packet_type", SUBMITS, ids=repr)
def test_reject(server: MemoryJobServer, packet_type: PacketType) -> None:
    """Any kind of submit; no job is queued."""
    arguments = [b"1" if name == "epoch" else b"f" for name in packet_type.arguments]
    submit = packet_type.request(*arguments)
    server.reject("QUEUE_ERROR", "Job queue is full")
    peer = connect(server)
    assert ask(server, peer, submit, ECHO, submit) == FULL + ECHOED + CREATED
    assert problems(server) == ""


@pytest.mark.guarantee(number=3)
@pytest.mark.parametrize("function", ["sandbox\tf", b"sandbox\tf"])
def test_reject_with_function_affects_only_that_function(server: MemoryJobServer, function: str | bytes) -> None:
    fault = server.reject("QUEUE_ERROR", "Job queue is full", function=function, times=2)
    peer = connect(server)
    rejected = SUBMIT_JOB_BG.request(b"sandbox\tf", b"", b"")
    assert ask(server, peer, SUBMIT, rejected, ECHO) == CREATED + FULL + ECHOED
    assert ask(server, peer, rejected, rejected) == FULL + JOB_CREATED.response(b"H:memory:2")
    assert fault.happened == 2


@pytest.mark.guarantee(number=3)
def test_rejected_task_fails_with_task_rejected(server: MemoryJobServer) -> None:
    client = server.client()
    with server.reject("NO", "thanks", times=None):
        fired = outcome(client.add_task("reverse", b"abc"))
        server.advance()
    assert isinstance(fired[0], TaskRejected)
    assert (fired[0].code, fired[0].text) == ("NO", "thanks")


# Holding.


@pytest.mark.guarantee(number=15)
def test_held_answers_arrive_in_order(server: MemoryJobServer) -> None:
    """On all connections, new ones included; requests are processed meanwhile."""
    first = connect(server)
    held = server.hold_answers()
    second = connect(server)
    assert ask(server, first, ECHO, SUBMIT) == ask(server, second, ECHO) == b""
    job = server.take("reverse")
    job.complete(b"cba")
    held.release()
    server.advance()
    assert [packet_type.name for packet_type, _ in first.packets()] == ["ECHO_RES", "JOB_CREATED", "WORK_COMPLETE"]
    assert second.received() == ECHOED
    assert isinstance(held, HeldAnswers)
    assert held.happened == 4


def test_answers_are_held_until_last_hold_is_released(server: MemoryJobServer) -> None:
    """Nothing is sent while one of them is active."""
    peer = connect(server)
    first, second = server.hold_answers(), server.hold_answers()
    ask(server, peer, ECHO)
    first.release()
    assert ask(server, peer) == b""
    second.release()
    assert ask(server, peer) == ECHOED


def test_held_answer_is_lost_with_its_connection(server: MemoryJobServer) -> None:
    peer, other = connect(server), connect(server)
    held = server.hold_answers()
    ask(server, peer, ECHO)
    ask(server, other, ECHO)
    server.connections[0].drop()
    server.advance()
    held.release()
    assert ask(server, other) == ECHOED
    assert (peer.received(), peer.lost_with()) == (b"", [ConnectionLost])


def test_nothing_is_held_for_lost_worker(server: MemoryJobServer) -> None:
    """A lost worker that slept, with a job and with two abilities for its function, must not be woken."""
    client, worker = connect(server), connect(server)
    ask(server, client, SUBMIT)
    can_do = CAN_DO.request(b"reverse")
    ask(server, worker, can_do, can_do, GRAB_JOB.request(), PRE_SLEEP.request())
    held = server.hold_answers()
    ask(server, client, ECHO)
    worker.transport.abortConnection()
    server.advance()
    assert held.happened == 1
    held.release()
    assert ask(server, client) == ECHOED


# Silence.


def test_fall_silent(server: MemoryJobServer) -> None:
    """No request is processed, on old and new connections, until the fault ends; then all are, in order."""
    old = connect(server)
    silence = server.fall_silent()
    new = connect(server)
    assert ask(server, old, ECHO, SUBMIT) == ask(server, new, ECHO) == b""
    assert silence.happened == 2
    with pytest.raises(AssertionError, match="queued: none"):
        server.take("reverse")
    silence.end()
    assert ask(server, old) == ECHOED + CREATED
    assert ask(server, new) == ECHOED
    assert problems(server) == ""


def test_job_that_ends_during_silence_is_reported_after_it(server: MemoryJobServer) -> None:
    client = server.client()
    fired = outcome(client.add_task("reverse", b"abc"))
    job = server.take("reverse")
    with server.fall_silent():
        job.send_data(b"c")
        job.complete(b"cba")
        assert fired == []
    server.advance()
    assert fired == [b"cba"]


def test_silence_lasts_until_last_one_ends(server: MemoryJobServer) -> None:
    peer = connect(server)
    first, second = server.fall_silent(), server.fall_silent()
    peer.transport.write(ECHO)
    first.end()
    assert ask(server, peer) == b""
    second.end()
    assert ask(server, peer) == ECHOED


def test_silence_and_hold_end_in_any_order(server: MemoryJobServer) -> None:
    """Whichever ends first."""
    peer = connect(server)
    silence, held = server.fall_silent(), server.hold_answers()
    ask(server, peer, ECHO)
    silence.end()
    assert ask(server, peer) == b""
    silence = server.fall_silent()
    held.release()
    assert ask(server, peer) == b""
    silence.end()
    assert ask(server, peer) == ECHOED


def test_client_can_disconnect_from_silent_server(server: MemoryJobServer) -> None:
    peer = connect(server)
    silence = server.fall_silent()
    ask(server, peer, ECHO)
    peer.transport.abortConnection()
    server.advance()
    assert peer.lost_with() == [ConnectionAborted]
    silence.end()
    server.advance()
    assert server.connections == []


# Splitting.


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("size", [1, 2, 5, 22, 23, 1000])
def test_split_answers(server: MemoryJobServer, size: int) -> None:
    """The data is unchanged; no piece is longer than requested, and only the last of an answer may be shorter."""
    peer = connect(server)
    splitting = server.split_answers(size)
    peer.transport.write(ECHO)
    server.advance()
    assert [len(piece) for piece in peer.pieces[:-1]] == [size] * (len(peer.pieces) - 1)
    assert len(peer.pieces) == splitting.happened == -(-len(ECHOED) // size)
    assert peer.received() == ECHOED


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("size", [1, 7, 20, 30, 60])
def test_answers_of_one_turn_are_split(server: MemoryJobServer, size: int) -> None:
    """No piece is longer than requested, even where several answers fit into one."""
    peer = connect(server)
    server.split_answers(size)
    peer.transport.write(ECHO + SUBMIT + ECHO + ECHO)
    server.advance()
    assert max(map(len, peer.pieces)) <= size
    assert peer.received() == ECHOED + CREATED + ECHOED + ECHOED


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("name", ["hold_answers", "fall_silent"])
def test_pieces_stay_separate_across_short_fault(server: MemoryJobServer, name: str) -> None:
    """It begins and ends while an answer is in transit."""
    peer = connect(server)
    server.split_answers(1)
    peer.transport.write(ECHO)
    in_turns(server, 4, lambda: getattr(server, name)().end())
    server.advance()
    assert {len(piece) for piece in peer.pieces} == {1}
    assert peer.received() == ECHOED


@pytest.mark.guarantee(number=15)
def test_rest_is_sent_at_once_when_splitting_ends(server: MemoryJobServer) -> None:
    peer = connect(server)
    splitting = server.split_answers(3)
    peer.transport.write(ECHO)
    in_turns(server, 4, splitting.end)
    server.advance()
    *pieces, rest = map(len, peer.pieces)
    assert set(pieces) == {3}
    assert rest > 3
    assert peer.received() == ECHOED


def test_dropped_connection_gets_no_more_pieces(server: MemoryJobServer) -> None:
    """Nothing is left to do for it."""
    peer, other = connect(server), connect(server)
    server.split_answers(1)
    for each in (peer, other):
        each.transport.write(ECHO)
    in_turns(server, 4, server.connections[0].drop)
    server.advance()
    assert peer.pieces
    assert len(peer.pieces) < len(ECHOED)
    assert peer.lost_with() == [ConnectionLost]
    assert other.received() == ECHOED
    assert not server.clock.getDelayedCalls()


@pytest.mark.guarantee(number=15)
def test_all_pieces_are_sent_before_server_closes_connection(server: MemoryJobServer) -> None:
    """It closes the connection for an invalid request, after it has sent what is pending."""
    peer = connect(server)
    server.split_answers(4)
    assert ask(server, peer, ECHO, b"a b c d e f g\n") == ECHOED
    assert peer.lost_with() == [ConnectionDone]


@pytest.mark.guarantee(number=15)
def test_held_answers_are_split_when_released(server: MemoryJobServer) -> None:
    peer = connect(server)
    server.split_answers(10)
    with server.hold_answers():
        assert ask(server, peer, ECHO, SUBMIT) == b""
    server.advance()
    assert {len(piece) for piece in peer.pieces[:-1]} == {10}
    assert peer.received() == ECHOED + CREATED


@pytest.mark.guarantee(number=15)
def test_client_reads_split_answers(server: MemoryJobServer) -> None:
    """The real client, through a whole job, byte by byte."""
    server.split_answers(1)
    client = server.client()
    fired = outcome(client.add_task("reverse", b"abc"))
    server.take("reverse").complete(b"cba")
    assert fired == [b"cba"]


# Raw bytes.


def test_send_raw(server: MemoryJobServer) -> None:
    peers = [connect(server), connect(server)]
    server.send_raw(b"\0what")
    server.advance()
    assert [peer.received() for peer in peers] == [b"\0what"] * 2


def test_raw_bytes_are_held_and_split(server: MemoryJobServer) -> None:
    peer = connect(server)
    server.split_answers(2)
    with server.hold_answers():
        server.send_raw(b"abcde")
    server.advance()
    assert peer.pieces == [b"ab", b"cd", b"e"]


@pytest.mark.guarantee(number=14)
def test_client_loses_task_after_invalid_raw_bytes(server: MemoryJobServer) -> None:
    client = server.client()
    fired = outcome(client.add_task("reverse", b"abc"))
    server.take("reverse")
    server.send_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    server.advance()
    assert isinstance(fired[0], TaskLost)


# From within callbacks.


@pytest.mark.guarantee(number=13)
def test_callback_can_inject_and_end_faults(server: MemoryJobServer) -> None:
    """What follows in the same piece is not lost."""
    client = server.client()
    made: list[HeldAnswers] = []
    first = outcome(client.add_task("first", on_created=lambda _: made.append(server.hold_answers())))
    second = outcome(client.add_task("second"))
    server.advance()
    server.take("first").complete(b"1")
    server.take("second").complete(b"2")
    assert first == second == []
    made[0].release()
    server.advance()
    assert (first, second) == ([b"1"], [b"2"])


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("name", ["hold_answers", "fall_silent"])
def test_timer_can_end_fault(server: MemoryJobServer, name: str) -> None:
    """A callback of the clock, such as a timeout."""
    client = server.client()
    fired = outcome(client.add_task("reverse", b"abc"))
    job = server.take("reverse")
    fault = getattr(server, name)()
    job.complete(b"cba")
    server.clock.callLater(5, fault.end)
    server.advance(4)
    assert fired == []
    server.advance(1)
    assert fired == [b"cba"]


@pytest.mark.guarantee(number=13)
def test_callback_can_drop_connections(server: MemoryJobServer) -> None:
    client = server.client()
    first = outcome(client.add_task("first", on_created=lambda _: server.drop_connections()))
    second = outcome(client.add_task("second"))
    server.advance()
    assert [type(fired[0]) for fired in (first, second)] == [TaskLost, TaskLost]


@pytest.mark.guarantee(number=13)
def test_errback_can_end_fault_and_submit_again(server: MemoryJobServer) -> None:
    client = server.client()
    rejecting = server.reject("QUEUE_ERROR", times=None)
    outcomes: list[Any] = []

    def try_again(_: object) -> None:
        rejecting.end()
        client.add_task("reverse").addBoth(outcomes.append)

    client.add_task("reverse").addErrback(try_again)
    server.advance()
    server.take("reverse").fail()
    assert [failure.type for failure in outcomes] == [TaskFailed]


def test_rejected_submit_leaves_no_job_for_worker(server: MemoryJobServer) -> None:
    """The next submit does."""
    client, worker = connect(server), connect(server)
    server.reject("QUEUE_ERROR")
    ask(server, client, SUBMIT)
    assert ask(server, worker, CAN_DO.request(b"reverse"), GRAB_JOB.request()) == NO_JOB.response()
    ask(server, client, SUBMIT)
    assert ask(server, worker, GRAB_JOB.request()) == JOB_ASSIGN.response(b"H:memory:1", b"reverse", b"abc")


def test_expected_answers_are_distinct() -> None:
    """Otherwise the tests that compare them could not fail."""
    assert len({ECHOED, CREATED, FULL, NO_JOB.response(), ECHO_RES.response(b"")}) == 5
