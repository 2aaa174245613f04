"""Every fault happens as its name says, alone and with others, and says what it waited for."""

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


def complaint(server: MemoryJobServer) -> str:
    """What `verify` says, but for which packets came; empty if it is content."""
    try:
        server.verify()
    except AssertionError as error:
        return re.sub(", only [^;]*", "", str(error))
    return ""


# Strictness.

Make = Callable[[MemoryJobServer], Fault]

NEVER_HAPPENED: list[tuple[Make, str]] = [
    (
        lambda server: server.refuse_connections(),
        "refuse_connections() has not happened: nobody has tried to connect",
    ),
    (
        lambda server: server.black_hole_connections(),
        "black_hole_connections() has not happened: nobody has tried to connect",
    ),
    (
        lambda server: server.drop_before(SUBMIT_JOB),
        "drop_before(SUBMIT_JOB) has not happened: no such packet has come",
    ),
    (
        lambda server: server.drop_after(SUBMIT_JOB, ECHO_REQ),
        "drop_after(SUBMIT_JOB, ECHO_REQ) has not happened: no such packet has come",
    ),
    (
        lambda server: server.leave_unanswered(ECHO_REQ, times=None),
        "leave_unanswered(ECHO_REQ) has not happened: no such packet has come",
    ),
    (
        lambda server: server.reject("QUEUE_ERROR"),
        "reject('QUEUE_ERROR') has not happened: no such packet has come",
    ),
    (
        lambda server: server.reject("QUEUE_ERROR", "full", function="f"),
        "reject('QUEUE_ERROR', function='f') has not happened: no such packet has come",
    ),
    (lambda server: server.hold_answers(), "hold_answers() has not happened: there was no answer to hold"),
    (lambda server: server.fall_silent(), "fall_silent() has not happened: there was no connection"),
    (lambda server: server.split_answers(3), "split_answers(3) has not happened: nothing was sent"),
]


@pytest.mark.parametrize(("make", "text"), NEVER_HAPPENED, ids=[text.split("(")[0] for _, text in NEVER_HAPPENED])
def test_a_fault_that_has_not_happened(server: MemoryJobServer, make: Make, text: str) -> None:
    """It is told, while it lasts and when it was ended; and in the words of the test."""
    fault = make(server)
    assert complaint(server) == text
    fault.end()
    fault.end()
    assert complaint(server) == text
    assert fault.happened == 0


@pytest.mark.parametrize(("make", "text"), NEVER_HAPPENED, ids=[text.split("(")[0] for _, text in NEVER_HAPPENED])
def test_a_fault_ends_with_its_with(server: MemoryJobServer, make: Make, text: str) -> None:
    """However that ends; and after it all is well."""
    with pytest.raises(ZeroDivisionError), make(server) as fault:
        raise ZeroDivisionError
    assert not server.lasts(fault)
    assert ask(server, connect(server), ECHO, SUBMIT) == ECHOED + CREATED
    assert complaint(server) == text


def test_a_complaint_tells_what_came_instead(server: MemoryJobServer) -> None:
    server.drop_before(SUBMIT_JOB)
    for came in ("none at all", "ECHO_REQ, SUBMIT_JOB_BG"):
        with pytest.raises(AssertionError, match=f"no such packet has come, only {came}$"):
            server.verify()
        ask(server, connect(server), ECHO, SUBMIT_JOB_BG.request(b"reverse", b"", b""))


def test_all_complaints_are_told(server: MemoryJobServer) -> None:
    for make, _ in NEVER_HAPPENED:
        make(server).end()
    assert complaint(server) == "; ".join(text for _, text in NEVER_HAPPENED)


def test_without_a_fault_there_is_no_complaint(server: MemoryJobServer) -> None:
    assert complaint(server) == ""


@pytest.mark.parametrize("name", ["drop_before", "drop_after", "leave_unanswered"])
def test_a_fault_that_has_not_happened_as_often_as_it_should(server: MemoryJobServer, name: str) -> None:
    """One that was asked for twice and came once, is one that the test did not get."""
    fault = getattr(server, name)(ECHO_REQ, times=2)
    ask(server, connect(server), ECHO)
    assert fault.happened == 1
    assert complaint(server).startswith(f"{name}(ECHO_REQ")
    ask(server, connect(server), ECHO)
    assert complaint(server) == ""
    assert not server.lasts(fault)


@pytest.mark.parametrize("answers", [1, 2])
def test_held_answers_must_be_released(server: MemoryJobServer, answers: int) -> None:
    peer = connect(server)
    held = server.hold_answers()
    ask(server, peer, *[ECHO] * answers)
    assert complaint(server) == f"hold_answers() still holds {len(ECHOED) * answers} bytes: release() was expected"
    held.release()
    assert complaint(server) == ""


def test_answers_that_were_held_for_somebody_who_left_are_no_longer_held(server: MemoryJobServer) -> None:
    peer = connect(server)
    server.hold_answers()
    ask(server, peer, ECHO)
    peer.transport.loseConnection()
    server.advance()
    assert complaint(server) == ""


# Wrong arguments.

BAD: Any = object()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("size", [0, -1])
def test_pieces_of_nothing(server: MemoryJobServer, size: int) -> None:
    with pytest.raises(ValueError, match=f"size must be at least 1, not {size}"):
        server.split_answers(size)
    assert complaint(server) == ""


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
def test_times_that_can_not_be_meant(
    server: MemoryJobServer, make: Callable[[MemoryJobServer, Any], Fault], times: Any
) -> None:
    """They would last for ever."""
    with pytest.raises((TypeError, ValueError)):
        make(server, times)
    assert complaint(server) == ""


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
def test_wrong_arguments_make_no_fault(server: MemoryJobServer, make: Callable[[Any], Fault]) -> None:
    """They are told at the call, and the server goes on as if it had not been made."""
    with pytest.raises((TypeError, ValueError)):
        make(server)
    assert complaint(server) == ""
    assert ask(server, connect(server), ECHO, SUBMIT) == ECHOED + CREATED


@pytest.mark.parametrize("name", ["drop_connections", "send_raw"])
def test_what_needs_a_connection_says_so(server: MemoryJobServer, name: str) -> None:
    arguments = [b"raw"] if name == "send_raw" else []
    with pytest.raises(AssertionError, match=rf"{name}\(\): nobody is connected"):
        getattr(server, name)(*arguments)


# Connecting.


def test_refuse_connections(server: MemoryJobServer) -> None:
    """As long as it lasts, those that are there going on."""
    before = connect(server)
    with server.refuse_connections() as fault:
        for _ in range(2):
            assert [type(error) for error in attempt(server)] == [ConnectionRefusedError]
        assert ask(server, before, ECHO) == ECHOED
    assert fault.happened == 2
    assert ask(server, connect(server), ECHO) == ECHOED
    assert complaint(server) == ""


def test_black_hole_connections(server: MemoryJobServer) -> None:
    before = connect(server)
    with server.black_hole_connections() as fault:
        assert attempt(server) == []
        assert ask(server, before, ECHO) == ECHOED
    assert fault.happened == 1
    assert ask(server, connect(server), ECHO) == ECHOED


def test_a_refusal_comes_before_a_black_hole(server: MemoryJobServer) -> None:
    """A packet that is refused does not get as far as a hole."""
    server.black_hole_connections()
    server.refuse_connections()
    assert [type(error) for error in attempt(server)] == [ConnectionRefusedError]
    assert complaint(server) == "black_hole_connections() has not happened: nobody has tried to connect"


# Dropping.


def test_drop_connections(server: MemoryJobServer) -> None:
    """All of them, once what was under way has arrived; new ones are good."""
    peers = [connect(server), connect(server)]
    for peer in peers:
        peer.transport.write(ECHO)
    server.drop_connections()
    server.advance()
    assert [(peer.pieces, peer.lost_with()) for peer in peers] == [([ECHOED], [ConnectionLost])] * 2
    assert server.connections == []
    assert ask(server, connect(server), ECHO) == ECHOED


@pytest.mark.parametrize("name", ["drop_before", "drop_after"])
def test_a_drop_at_any_packet(server: MemoryJobServer, name: str) -> None:
    """Each time, until it ends."""
    with getattr(server, name)(times=None) as fault:
        for request in (ECHO, SUBMIT):
            peer = connect(server)
            assert (ask(server, peer, request), peer.lost_with()) == (b"", [ConnectionLost])
    assert fault.happened == 2
    assert ask(server, connect(server), ECHO) == ECHOED


def test_another_request_than_a_submit_may_be_rejected(server: MemoryJobServer) -> None:
    server.reject("UNKNOWN_OPTION", "no such thing", ECHO_REQ)
    peer = connect(server)
    assert ask(server, peer, SUBMIT, ECHO) == CREATED + ERROR.response(b"UNKNOWN_OPTION", b"no such thing")
    assert complaint(server) == ""


def test_dropping_twice_in_one_turn_is_dropping_once(server: MemoryJobServer) -> None:
    peer = connect(server)
    (connection,) = server.connections
    for _ in range(2):
        connection.drop()
    server.advance()
    assert peer.lost_with() == [ConnectionLost]
    assert server.connections == []


def test_drop_connections_is_over_when_it_returns(server: MemoryJobServer) -> None:
    """With a `Clock`; so are the other things that a test says to the server."""
    peer = connect(server)
    held = server.hold_answers()
    server.send_raw(b"raw")
    held.release()
    assert peer.received() == b"raw"
    server.drop_connections()
    assert peer.lost_with() == [ConnectionLost]
    with pytest.raises(AssertionError, match="nobody is connected"):
        server.drop_connections()


def test_drop_before(server: MemoryJobServer) -> None:
    """What is behind the packet in the same piece is not done either; what was under way to it is lost."""
    fault = server.drop_before(SUBMIT_JOB, SUBMIT_JOB_BG)
    peer, other = connect(server), connect(server)
    assert ask(server, other, ECHO) == ECHOED
    assert ask(server, peer, ECHO, SUBMIT, SUBMIT) == b""
    assert peer.lost_with() == [ConnectionLost]
    with pytest.raises(AssertionError, match="queued: none"):
        server.take("reverse")
    assert ask(server, other, SUBMIT) == CREATED, "once is once"
    assert fault.happened == 1
    assert complaint(server) == ""


def test_drop_after(server: MemoryJobServer) -> None:
    """The job is there, its answer is not."""
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
def test_a_drop_happens_as_often_as_asked_for(server: MemoryJobServer, name: str) -> None:
    fault = getattr(server, name)(ECHO_REQ, times=2)
    for _ in range(2):
        peer = connect(server)
        assert (ask(server, peer, ECHO), len(peer.lost)) == (b"", 1)
    assert ask(server, connect(server), ECHO) == ECHOED
    assert fault.happened == 2


def test_two_drops_at_one_packet_happen_one_after_the_other(server: MemoryJobServer) -> None:
    first, second = server.drop_before(ECHO_REQ), server.drop_after(ECHO_REQ)
    ask(server, connect(server), ECHO)
    assert (first.happened, second.happened) == (1, 0)
    ask(server, connect(server), ECHO)
    assert (first.happened, second.happened) == (1, 1)
    assert ask(server, connect(server), ECHO) == ECHOED


def test_a_drop_gives_a_workers_job_back(server: MemoryJobServer) -> None:
    """Its worker dies with the connection."""
    client, worker = connect(server), connect(server)
    ask(server, client, SUBMIT)
    server.drop_after(GRAB_JOB)
    assert ask(server, worker, CAN_DO.request(b"reverse"), GRAB_JOB.request()) == b""
    assert server.take("reverse").workload == b"abc"


# Answers that are missing or others.


@pytest.mark.guarantee(number=17)
def test_leave_unanswered(server: MemoryJobServer) -> None:
    fault = server.leave_unanswered(ECHO_REQ)
    peer = connect(server)
    assert ask(server, peer, ECHO, SUBMIT, ECHO) == CREATED + ECHOED
    assert fault.happened == 1


@pytest.mark.guarantee(number=17)
def test_leave_unanswered_for_good(server: MemoryJobServer) -> None:
    fault = server.leave_unanswered(ECHO_REQ, GET_STATUS, times=None)
    peer = connect(server)
    assert ask(server, peer, ECHO, SUBMIT, GET_STATUS.request(b"H:memory:1"), ECHO) == CREATED
    fault.end()
    assert ask(server, peer, ECHO) == ECHOED
    assert fault.happened == 3


@pytest.mark.guarantee(number=3)
@pytest.mark.parametrize("packet_type", SUBMITS, ids=repr)
def test_reject(server: MemoryJobServer, packet_type: PacketType) -> None:
    """Any kind of submit; there is no job."""
    arguments = [b"1" if name == "epoch" else b"f" for name in packet_type.arguments]
    submit = packet_type.request(*arguments)
    server.reject("QUEUE_ERROR", "Job queue is full")
    peer = connect(server)
    assert ask(server, peer, submit, ECHO, submit) == FULL + ECHOED + CREATED
    assert complaint(server) == ""


@pytest.mark.guarantee(number=3)
@pytest.mark.parametrize("function", ["sandbox\tf", b"sandbox\tf"])
def test_reject_a_function(server: MemoryJobServer, function: str | bytes) -> None:
    fault = server.reject("QUEUE_ERROR", "Job queue is full", function=function, times=2)
    peer = connect(server)
    theirs = SUBMIT_JOB_BG.request(b"sandbox\tf", b"", b"")
    assert ask(server, peer, SUBMIT, theirs, ECHO) == CREATED + FULL + ECHOED
    assert ask(server, peer, theirs, theirs) == FULL + JOB_CREATED.response(b"H:memory:2")
    assert fault.happened == 2


@pytest.mark.guarantee(number=3)
def test_a_client_meets_a_rejection(server: MemoryJobServer) -> None:
    client = server.client()
    with server.reject("NO", "thanks", times=None):
        told = outcome(client.add_task("reverse", b"abc"))
        server.advance()
    assert isinstance(told[0], TaskRejected)
    assert (told[0].code, told[0].text) == ("NO", "thanks")


# Holding.


@pytest.mark.guarantee(number=15)
def test_held_answers_come_in_order(server: MemoryJobServer) -> None:
    """On all connections, those that are new among them; the requests are done meanwhile."""
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


def test_two_holds(server: MemoryJobServer) -> None:
    """Nothing is sent while one of them lasts."""
    peer = connect(server)
    first, second = server.hold_answers(), server.hold_answers()
    ask(server, peer, ECHO)
    first.release()
    assert ask(server, peer) == b""
    second.release()
    assert ask(server, peer) == ECHOED


def test_a_held_answer_is_lost_with_its_connection(server: MemoryJobServer) -> None:
    peer, other = connect(server), connect(server)
    held = server.hold_answers()
    ask(server, peer, ECHO)
    ask(server, other, ECHO)
    server.connections[0].drop()
    server.advance()
    held.release()
    assert ask(server, other) == ECHOED
    assert (peer.received(), peer.lost_with()) == (b"", [ConnectionLost])


def test_nothing_is_kept_for_a_worker_that_is_gone(server: MemoryJobServer) -> None:
    """One that sleeps with a job in its hands, and can do the function twice, is not to be woken in its grave."""
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
    """Nothing is done, on old and new connections, until the end of it; then everything is, in order."""
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
    assert complaint(server) == ""


def test_a_job_that_ends_in_silence_is_told_after_it(server: MemoryJobServer) -> None:
    client = server.client()
    told = outcome(client.add_task("reverse", b"abc"))
    job = server.take("reverse")
    with server.fall_silent():
        job.send_data(b"c")
        job.complete(b"cba")
        assert told == []
    server.advance()
    assert told == [b"cba"]


def test_two_silences(server: MemoryJobServer) -> None:
    peer = connect(server)
    first, second = server.fall_silent(), server.fall_silent()
    peer.transport.write(ECHO)
    first.end()
    assert ask(server, peer) == b""
    second.end()
    assert ask(server, peer) == ECHOED


def test_silence_and_held_answers(server: MemoryJobServer) -> None:
    """In any order of their ends."""
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


def test_somebody_leaves_a_silent_server(server: MemoryJobServer) -> None:
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
    """What is sent is the same; no piece is longer, and only the last of an answer may be shorter."""
    peer = connect(server)
    splitting = server.split_answers(size)
    peer.transport.write(ECHO)
    server.advance()
    assert [len(piece) for piece in peer.pieces[:-1]] == [size] * (len(peer.pieces) - 1)
    assert len(peer.pieces) == splitting.happened == -(-len(ECHOED) // size)
    assert peer.received() == ECHOED


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("size", [1, 7, 20, 30, 60])
def test_several_answers_of_one_turn_are_split_too(server: MemoryJobServer, size: int) -> None:
    """No piece is longer than asked for, also where answers fit into one."""
    peer = connect(server)
    server.split_answers(size)
    peer.transport.write(ECHO + SUBMIT + ECHO + ECHO)
    server.advance()
    assert max(map(len, peer.pieces)) <= size
    assert peer.received() == ECHOED + CREATED + ECHOED + ECHOED


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("name", ["hold_answers", "fall_silent"])
def test_pieces_stay_pieces_when_another_fault_is_short(server: MemoryJobServer, name: str) -> None:
    """It comes and goes while an answer is under way."""
    peer = connect(server)
    server.split_answers(1)
    peer.transport.write(ECHO)
    in_turns(server, 4, lambda: getattr(server, name)().end())
    server.advance()
    assert {len(piece) for piece in peer.pieces} == {1}
    assert peer.received() == ECHOED


@pytest.mark.guarantee(number=15)
def test_the_end_of_splitting_sends_the_rest_at_once(server: MemoryJobServer) -> None:
    peer = connect(server)
    splitting = server.split_answers(3)
    peer.transport.write(ECHO)
    in_turns(server, 4, splitting.end)
    server.advance()
    *pieces, rest = map(len, peer.pieces)
    assert set(pieces) == {3}
    assert rest > 3
    assert peer.received() == ECHOED


def test_a_connection_that_is_dropped_while_it_gets_pieces(server: MemoryJobServer) -> None:
    """It gets no more of them, and nothing is left to do."""
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
def test_pieces_come_whole_before_the_server_closes(server: MemoryJobServer) -> None:
    """It closes for what is not Gearman, once it has sent what it had to send."""
    peer = connect(server)
    server.split_answers(4)
    assert ask(server, peer, ECHO, b"a b c d e f g\n") == ECHOED
    assert peer.lost_with() == [ConnectionDone]


@pytest.mark.guarantee(number=15)
def test_hold_and_split(server: MemoryJobServer) -> None:
    peer = connect(server)
    server.split_answers(10)
    with server.hold_answers():
        assert ask(server, peer, ECHO, SUBMIT) == b""
    server.advance()
    assert {len(piece) for piece in peer.pieces[:-1]} == {10}
    assert peer.received() == ECHOED + CREATED


@pytest.mark.guarantee(number=15)
def test_a_client_reads_pieces(server: MemoryJobServer) -> None:
    """The real client, through a whole job, byte by byte."""
    server.split_answers(1)
    client = server.client()
    told = outcome(client.add_task("reverse", b"abc"))
    server.take("reverse").complete(b"cba")
    assert told == [b"cba"]


# Raw bytes.


def test_send_raw(server: MemoryJobServer) -> None:
    peers = [connect(server), connect(server)]
    server.send_raw(b"\0what")
    server.advance()
    assert [peer.received() for peer in peers] == [b"\0what"] * 2


def test_raw_bytes_are_held_and_split_as_all_others(server: MemoryJobServer) -> None:
    peer = connect(server)
    server.split_answers(2)
    with server.hold_answers():
        server.send_raw(b"abcde")
    server.advance()
    assert peer.pieces == [b"ab", b"cd", b"e"]


@pytest.mark.guarantee(number=14)
def test_a_client_meets_raw_bytes(server: MemoryJobServer) -> None:
    client = server.client()
    told = outcome(client.add_task("reverse", b"abc"))
    server.take("reverse")
    server.send_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    server.advance()
    assert isinstance(told[0], TaskLost)


# From within callbacks.


@pytest.mark.guarantee(number=13)
def test_a_callback_makes_and_ends_faults(server: MemoryJobServer) -> None:
    """What comes behind it in the same piece is not lost."""
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
def test_a_callback_ends_a_fault(server: MemoryJobServer, name: str) -> None:
    """That of the time-out, as it were."""
    client = server.client()
    told = outcome(client.add_task("reverse", b"abc"))
    job = server.take("reverse")
    fault = getattr(server, name)()
    job.complete(b"cba")
    server.clock.callLater(5, fault.end)
    server.advance(4)
    assert told == []
    server.advance(1)
    assert told == [b"cba"]


@pytest.mark.guarantee(number=13)
def test_a_callback_drops_the_connection(server: MemoryJobServer) -> None:
    client = server.client()
    first = outcome(client.add_task("first", on_created=lambda _: server.drop_connections()))
    second = outcome(client.add_task("second"))
    server.advance()
    assert [type(told[0]) for told in (first, second)] == [TaskLost, TaskLost]


@pytest.mark.guarantee(number=13)
def test_an_errback_makes_it_well_again(server: MemoryJobServer) -> None:
    client = server.client()
    rejecting = server.reject("QUEUE_ERROR", times=None)
    again: list[Any] = []

    def try_again(_: object) -> None:
        rejecting.end()
        client.add_task("reverse").addBoth(again.append)

    client.add_task("reverse").addErrback(try_again)
    server.advance()
    server.take("reverse").fail()
    assert [failure.type for failure in again] == [TaskFailed]


def test_a_worker_in_memory_gets_nothing_in_the_end(server: MemoryJobServer) -> None:
    """A rejected submit, as a worker sees it: there is no job; and the next one is there."""
    client, worker = connect(server), connect(server)
    server.reject("QUEUE_ERROR")
    ask(server, client, SUBMIT)
    assert ask(server, worker, CAN_DO.request(b"reverse"), GRAB_JOB.request()) == NO_JOB.response()
    ask(server, client, SUBMIT)
    assert ask(server, worker, GRAB_JOB.request()) == JOB_ASSIGN.response(b"H:memory:1", b"reverse", b"abc")


def test_the_same_answer_is_not_another() -> None:
    """The answers above differ, or the tests that tell them apart could not fail."""
    assert len({ECHOED, CREATED, FULL, NO_JOB.response(), ECHO_RES.response(b"")}) == 5
