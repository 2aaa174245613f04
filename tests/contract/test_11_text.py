"""docs/gearman.md §11: the text protocol."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

import pytest

from txgearman.packets import (
    CAN_DO,
    CAN_DO_TIMEOUT,
    CANT_DO,
    ECHO_REQ,
    ECHO_RES,
    ERROR,
    GET_STATUS,
    GET_STATUS_UNIQUE,
    GRAB_JOB,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN_UNIQ,
    JOB_CREATED,
    NO_JOB,
    NOOP,
    PRE_SLEEP,
    RESET_ABILITIES,
    SET_CLIENT_ID,
    STATUS_RES,
    STATUS_RES_UNIQUE,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_EPOCH,
    SUBMIT_JOB_HIGH,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW,
    SUBMIT_JOB_LOW_BG,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_FAIL,
    WORK_STATUS,
    Packet,
    PacketType,
)

from .harness import Peer, Server

OK = b"OK\r\n"
IN_USE = b"ERR there are still connected workers or executing clients\r\n"
NO_FUNCTION = b"ERR function not found\r\n"
NO_JOB_OF_THAT_HANDLE = b"ERR UNKNOWN_JOB\r\n"
WRONG_CANCEL = b"ERR UNKNOWN_ERROR\r\n"
WRONG_SHOW = b"ERR UNKNOWN_SHOW_ARGUMENTS\r\n"
VERSION = rb"OK \d+\.\d+\.\d+\S*\n"
FULL: Packet = (ERROR, [b"QUEUE_ERROR", b"Job queue is full"])

LINE_ENDS = (b"\n", b"\r\n")

# Helpers.


def unknown(command: bytes) -> bytes:
    return b"ERR UNKNOWN_COMMAND Unknown+server+command" + command + b"\r\n"


def incomplete(command: bytes) -> bytes:
    return b"ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+" + command + b"\r\n"


def ask_line(admin: Peer, raw: bytes) -> bytes:
    """Send these bytes, and return the next line of the answer."""
    admin.send(raw)
    return admin.line()


def submit(client: Peer, unique: bytes = b"", function: bytes = b"f") -> bytes:
    return client.submit(SUBMIT_JOB.request(function, unique, b"w"))


def worker_of(server: Server, *functions: bytes) -> Peer:
    worker = server.peer()
    worker.send(*map(CAN_DO.request, functions or (b"f",)))
    assert worker.so_far() == []
    return worker


def workers(admin: Peer) -> list[bytes]:
    """Return the answer to `workers`, without the number and the address at the start of each line.

    For a connection that gearmand is closing, it may print neither.
    """
    rows = [re.fullmatch(rb"\d+ \S+ (.*)", row) for row in admin.table(b"workers")]
    return sorted(row[1] if row else b"(closing)" for row in rows)


def status_of(client: Peer, handle: bytes) -> list[bytes]:
    """Return known, running, numerator, denominator."""
    packet_type, arguments = client.ask(GET_STATUS.request(handle))
    assert packet_type is STATUS_RES
    return arguments[1:]


def answers_to(client: Peer, submits: Sequence[PacketType], function: bytes = b"f") -> str:
    """Submit a job for each type; return "j" for each that is accepted, "E" for each that is refused."""
    client.send(*(packet_type.request(function, b"", b"") for packet_type in submits))
    answers = client.so_far()
    assert all(packet == FULL or packet[0] is JOB_CREATED for packet in answers)
    return "".join("E" if packet == FULL else "j" for packet in answers)


# Commands and lines.


@pytest.mark.parametrize(
    ("answer", "commands"),
    [
        (VERSION, b"version|VERSION|vErSiOn|version |version      |version a b c d|version\0"),
        (rb"OK ERROR\n", b"verbose|Verbose x"),
        (rb"OK \d+\n", b"getpid|GetPid x"),
        (rb"\.\n", b"status|STATUS x|prioritystatus|Prioritystatus x"),
        (rb"\.\n", b"show jobs|SHOW JOBS|show  jobs|show\0 jobs|show unique jobs|Show Unique  Jobs"),
    ],
    ids=["version", "verbose", "getpid", "status", "show"],
)
def test_commands_with_one_answer(server: Server, answer: bytes, commands: bytes) -> None:
    """With either line end; the lists are empty."""
    admin = server.peer()
    for command in commands.split(b"|"):
        for end in LINE_ENDS:
            assert re.fullmatch(answer, ask_line(admin, command + end)), command
    assert admin.so_far() == []


UNKNOWN: Final = {
    b"": b"",
    b" ": b"",
    b"   ": b"",
    b" version": b"",
    b"  version": b"",
    b"foo": b"foo",
    b"FOO bar": b"FOO",
    b"foo ": b"foo",
    b"a b c d e": b"a",
    b"a  b  c  d  e": b"a",
    b"\tversion": b"\tversion",
    b"version\t": b"version\t",
    b"version\rversion": b"version\rversion",
    b"versio": b"versio",
    b"versions": b"versions",
    b"foo\0bar": b"foo",
    b"ver\0sion": b"ver",
    b"\xff\xfe": b"\xff\xfe",
    b"%s%n": b"%s%n",
    b"shutdown": b"shutdown",
    b"shutdown graceful": b"shutdown",
    b"jobs": b"jobs",
    b"clients": b"clients",
    b"help": b"help",
    b"show": b"show",
    b"cancel": b"cancel",
    b"cancel job": b"cancel",
    b"cancel foo": b"cancel",
}
"""Commands, and their names in the answer: the first word, up to a NUL. Commands that lack a word are unknown, too."""


def test_unknown_commands(server: Server) -> None:
    admin, expected = server.peer(), {command: unknown(name) for command, name in UNKNOWN.items()}
    for end in LINE_ENDS:
        assert {command: ask_line(admin, command + end) for command in UNKNOWN} == expected
    assert admin.so_far() == []


WRONG_ARGUMENTS: Final = {
    b"show ": WRONG_SHOW,
    b"show foo": WRONG_SHOW,
    b"show job": WRONG_SHOW,
    b"show jobs x": WRONG_SHOW,
    b"show jobs ": WRONG_SHOW,
    b"show unique": WRONG_SHOW,
    b"show unique foo": WRONG_SHOW,
    b"show unique jobs x": WRONG_SHOW,
    b"show unique jobs ": WRONG_SHOW,
    b"maxqueue": incomplete(b"maxqueue"),
    b"MaxQueue": incomplete(b"MaxQueue"),
    b"maxqueue ": OK,
    b"create": incomplete(b"create"),
    b"CREATE": incomplete(b"CREATE"),
    b"create function": incomplete(b"create"),
    b"create foo bar": incomplete(b"create"),
    b"create function a b": incomplete(b"create"),
    b"create function a ": incomplete(b"create"),
    b"create function ": OK,
    b"drop": incomplete(b"drop"),
    b"drop function": incomplete(b"drop"),
    b"drop foo bar": incomplete(b"drop"),
    b"drop function nope": NO_FUNCTION,
    b"Drop  Function  nope": NO_FUNCTION,
    b"drop function nope x": incomplete(b"drop"),
    b"cancel foo bar": WRONG_CANCEL,
    b"cancel job a b": WRONG_CANCEL,
    b"cancel job a ": WRONG_CANCEL,
    b"cancel job ": NO_JOB_OF_THAT_HANDLE,
    b"cancel job H:x:1": NO_JOB_OF_THAT_HANDLE,
    b"Cancel  Job  H:x:1": NO_JOB_OF_THAT_HANDLE,
    b"cancel job " + b"x" * 100: NO_JOB_OF_THAT_HANDLE,
}


def test_wrong_arguments(server: Server) -> None:
    admin = server.peer()
    assert {command: admin.command(command) for command in WRONG_ARGUMENTS} == WRONG_ARGUMENTS
    assert admin.so_far() == []


def test_lines_that_close_connection(server: Server) -> None:
    """Six words (a trailing space starts one), or 8 KiB without the line end."""
    six_words = b"maxqueue f 1 2 3 4|maxqueue f 1 2 3 |a b c d e f|a b c d e f g|a  b  c  d  e  f|version\0 a b c d e"
    for line in (*six_words.split(b"|"), b"x" * 8192, b"x" * 9000):
        for end in LINE_ENDS:
            client = server.peer()
            client.send(line + end)
            assert client.is_closed(), line


def test_too_long_line_closes_connection_before_its_end(server: Server) -> None:
    client = server.peer()
    client.send(b"x" * 8193)
    assert client.is_closed()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b" y\r\n"])
def test_longest_line(server: Server, end: bytes) -> None:
    name = b"x" * (8192 - len(end))
    assert ask_line(server.peer(), name + end) == unknown(name)


def test_only_one_carriage_return_belongs_to_the_end_of_a_line(server: Server) -> None:
    admin = server.peer()
    assert ask_line(admin, b"version\r\r\n") == unknown(b"version\r")
    assert ask_line(admin, b"\r\r\n") == unknown(b"\r")


@pytest.mark.parametrize(
    "pieces",
    [(b"version\r", b"\n"), (b"version", b"\r\n"), (b"ver", b"sion", b"\n"), tuple(b"%c" % c for c in b"version\n")],
)
def test_a_line_may_come_in_pieces(server: Server, pieces: tuple[bytes, ...]) -> None:
    admin = server.peer()
    for piece in pieces:
        admin.send(piece)
    assert re.fullmatch(VERSION, admin.line())
    assert admin.so_far() == []


def test_pipelined_commands_are_answered_in_order(server: Server) -> None:
    admin = server.peer()
    admin.send(b"verbose\nfoo\r\nstatus\nmaxqueue f\nshow foo\r\nverbose\r\n")
    answers = [admin.line() for _ in range(6)]
    assert answers == [b"OK ERROR\n", unknown(b"foo"), b".\n", OK, WRONG_SHOW, b"OK ERROR\n"]
    assert admin.so_far() == []


def test_commands_between_packets(server: Server) -> None:
    peer = server.peer()
    submit_request = SUBMIT_JOB.request(b"f", b"", b"")
    peer.send(ECHO_REQ.request(b"1") + b"verbose\r\n" + submit_request + b"status\n" + ECHO_REQ.request(b"2"))
    assert peer.receive() == (ECHO_RES, [b"1"])
    assert peer.line() == b"OK ERROR\n"
    assert peer.receive()[0] is JOB_CREATED
    assert [peer.line(), peer.line()] == [b"f\t1\t0\t0\n", b".\n"]
    assert peer.receive() == (ECHO_RES, [b"2"])


def test_many_commands_between_packets(server: Server) -> None:
    peer = server.peer()
    peer.send(*(ECHO_REQ.request(b"%d" % number) + b"foo%d\r\n" % number for number in range(200)))
    for number in range(200):
        assert peer.receive() == (ECHO_RES, [b"%d" % number])
        assert peer.line() == unknown(b"foo%d" % number)


def test_a_packet_within_a_line_is_part_of_it(server: Server) -> None:
    peer = server.peer()
    assert ask_line(peer, b"vers" + ECHO_REQ.request(b"x") + b"\n") == unknown(b"vers")
    assert peer.so_far() == []


def test_worker_stays_asleep_across_commands(server: Server) -> None:
    client, worker = server.peer(), worker_of(server)
    worker.send(PRE_SLEEP.request())
    assert worker.command(b"verbose") == b"OK ERROR\n"
    submit(client)
    assert worker.so_far() == [(NOOP, [])]


# status, prioritystatus.


def test_status_counts_jobs_and_workers(server: Server) -> None:
    client, admin, worker = server.peer(), server.peer(), worker_of(server)
    for packet_type in (SUBMIT_JOB_HIGH, SUBMIT_JOB, SUBMIT_JOB, SUBMIT_JOB_LOW, SUBMIT_JOB_LOW, SUBMIT_JOB_LOW_BG):
        client.submit(packet_type.request(b"f", b"", b""))
    assert admin.table(b"status") == [b"f\t6\t0\t1"]
    assert admin.table(b"prioritystatus") == [b"f\t1\t2\t3\t1"]
    worker.ask(GRAB_JOB.request())
    worker.ask(GRAB_JOB.request())
    assert admin.table(b"status") == [b"f\t6\t2\t1"]
    assert admin.table(b"prioritystatus") == [b"f\t0\t1\t3\t1"]


def test_status_after_the_end_of_a_job(server: Server) -> None:
    client, admin, worker = server.peer(), server.peer(), worker_of(server)
    handle = submit(client)
    worker.ask(GRAB_JOB.request())
    worker.send(WORK_COMPLETE.request(handle, b""))
    assert worker.so_far() == []
    assert admin.table(b"status") == [b"f\t0\t0\t1"]
    assert admin.table(b"prioritystatus") == [b"f\t0\t0\t0\t1"]


@pytest.mark.parametrize(("command", "zeros"), [(b"status", b"\t0\t0"), (b"prioritystatus", b"\t0\t0\t0")])
def test_a_worker_counts_once_for_each_can_do(server: Server, command: bytes, zeros: bytes) -> None:
    admin, worker = server.peer(), worker_of(server, b"f", b"g", b"f")
    worker.send(CAN_DO_TIMEOUT.request(b"f", b"5000"))
    assert worker.so_far() == []
    worker_of(server, b"g")
    assert admin.table(command) == [b"f" + zeros + b"\t3", b"g" + zeros + b"\t2"]


@pytest.mark.parametrize("packet", [CANT_DO.request(b"f"), RESET_ABILITIES.request()])
def test_functions_remain_when_workers_disconnect(server: Server, packet: bytes) -> None:
    admin, worker = server.peer(), worker_of(server, b"f", b"f")
    worker.send(packet)
    assert worker.so_far() == []
    assert admin.table(b"status") == [b"f\t0\t0\t0"]
    worker.close()
    server.until(lambda: workers(admin) == [b"- :"])
    assert admin.table(b"status") == [b"f\t0\t0\t0"]


def test_function_of_disconnected_worker_is_listed(server: Server) -> None:
    admin, worker = server.peer(), worker_of(server)
    worker.close()
    server.until(lambda: admin.table(b"status") == [b"f\t0\t0\t0"])


def test_requests_that_create_no_function(server: Server) -> None:
    peer, admin = server.peer(), server.peer()
    peer.send(CANT_DO.request(b"f"), GET_STATUS_UNIQUE.request(b"u"), SUBMIT_JOB.request(b"f", b"u" * 65, b""))
    assert [packet_type for packet_type, _ in peer.so_far()] == [STATUS_RES_UNIQUE, ERROR]
    admin.command(b"maxqueue f 5")
    assert admin.table(b"status") == []


def test_names_are_case_sensitive(server: Server) -> None:
    client, admin = server.peer(), server.peer()
    submit(client, b"u", b"f")
    submit(client, b"u", b"F")
    assert admin.table(b"status") == [b"F\t1\t0\t0", b"f\t1\t0\t0"]


def test_many_functions(server: Server) -> None:
    client, admin = server.peer(), server.peer()
    client.send(*(SUBMIT_JOB_BG.request(b"f%d" % number, b"", b"") for number in range(1000)))
    assert len(client.so_far()) == 1000
    assert admin.table(b"status") == sorted(b"f%d\t1\t0\t0" % number for number in range(1000))
    assert len(admin.table(b"show jobs")) == 1000


# workers.


def test_workers_lists_all_connections(server: Server) -> None:
    admin, worker = server.peer(), server.peer()
    worker.send(SET_CLIENT_ID.request(b"me"))
    assert worker.so_far() == []
    assert workers(admin) == [b"- :", b"me :"]


def test_workers_begin_with_a_number_of_their_own(server: Server) -> None:
    admin, _ = server.peer(), worker_of(server)
    rows = admin.table(b"workers")
    assert len({row.split(b" ")[0] for row in rows}) == 2
    assert sorted(row.split(b" ", 2)[2] for row in rows) == [b"- :", b"- : f"]


@pytest.mark.parametrize("client_id", [b"", b"wid with space : tab\tx", b"i" * 127])
def test_client_id(server: Server, client_id: bytes) -> None:
    admin, worker = server.peer(), worker_of(server, b"f")
    worker.send(SET_CLIENT_ID.request(b"before"), SET_CLIENT_ID.request(client_id))
    assert worker.so_far() == []
    assert workers(admin) == sorted([b"- :", client_id + b" : f"])


def test_client_id_is_cut_to_127_bytes(server: Server) -> None:
    admin, worker = server.peer(), server.peer()
    worker.send(SET_CLIENT_ID.request(b"i" * 128))
    assert worker.so_far() == []
    assert workers(admin) == [b"- :", b"i" * 127 + b" :"]


def test_functions_of_a_worker_are_listed_newest_first(server: Server) -> None:
    admin, worker = server.peer(), worker_of(server, b"f", b"g", b"fn", b"f")
    assert workers(admin) == [b"- :", b"- : f fn g f"]
    worker.send(CANT_DO.request(b"f"))
    assert worker.so_far() == []
    assert workers(admin) == [b"- :", b"- : fn g"]


def test_workers_lists_no_closed_connections(server: Server) -> None:
    admin, worker = server.peer(), worker_of(server)
    worker.close()
    server.until(lambda: workers(admin) == [b"- :"])


# show jobs, show unique jobs.


def test_show_jobs(server: Server) -> None:
    """The columns are handle, retries, dropped and background."""
    client, admin, worker = server.peer(), server.peer(), worker_of(server)
    foreground = submit(client, b"u")
    background = client.submit(SUBMIT_JOB_BG.request(b"f", b"v", b""))
    expected = [foreground + b"\t0\t0\t0", background + b"\t0\t0\t1"]
    assert admin.table(b"show jobs") == sorted(expected)
    for handle in (foreground, background):
        worker.ask(GRAB_JOB.request())
        assert admin.table(b"show jobs") == sorted(expected)
        worker.send(WORK_COMPLETE.request(handle, b""))
        assert worker.so_far() == []
        expected.pop(0)
    assert admin.table(b"show jobs") == []


def test_show_jobs_counts_the_attempts_that_failed(server: Server) -> None:
    client, admin, worker = server.peer(), server.peer(), worker_of(server)
    handle = client.submit(SUBMIT_JOB_BG.request(b"f", b"", b""))
    for attempt in range(3):
        worker.ask(GRAB_JOB.request())
        assert admin.table(b"show jobs") == [handle + b"\t%d\t0\t1" % attempt]
        worker.send(CANT_DO.request(b"f"), CAN_DO.request(b"f"))
        assert worker.so_far() == []
    assert admin.table(b"show jobs") == [handle + b"\t3\t0\t1"]


@pytest.mark.parametrize(
    ("first", "second", "background"), [(SUBMIT_JOB, SUBMIT_JOB_BG, 0), (SUBMIT_JOB_BG, SUBMIT_JOB, 1)]
)
def test_show_jobs_of_a_joined_job(server: Server, first: PacketType, second: PacketType, background: int) -> None:
    client, admin = server.peer(), server.peer()
    (handle,) = {client.submit(packet_type.request(b"f", b"u", b"")) for packet_type in (first, second)}
    assert admin.table(b"show jobs") == [handle + b"\t0\t0\t%d" % background]


def test_show_unique_jobs(server: Server) -> None:
    client, admin, worker = server.peer(), server.peer(), worker_of(server)
    for unique in (b"uniq1", b"uniq1", b"uniq2", b"", b"", b"-", b"a b"):
        submit(client, unique)
    expected = [b"", b"", b"-", b"a b", b"uniq1", b"uniq2"]
    assert admin.table(b"show unique jobs") == expected
    worker.ask(GRAB_JOB.request())
    assert admin.table(b"show unique jobs") == expected


@pytest.mark.guarantee(number=5)
def test_m7_a_dot_as_unique_looks_like_the_end_of_the_list(server: Server) -> None:
    client, admin = server.peer(), server.peer()
    submit(client, b".")
    admin.send(b"show unique jobs\n")
    assert [admin.line(), admin.line()] == [b".\n", b".\n"]
    assert admin.so_far() == []


@pytest.mark.guarantee(number=5)
def test_m7_what_comes_after_the_dot(server: Server) -> None:
    client, admin = server.peer(), server.peer()
    uniques = {b"aaa\n", b"u\n", b".\n"}
    for unique in uniques:
        submit(client, unique[:-1])
    lines = [ask_line(admin, b"show unique jobs\n"), *(admin.line() for _ in range(3))]
    assert set(lines[:3]) == uniques
    assert lines[3] == b".\n"
    assert admin.so_far() == []


# maxqueue.

ALL = (SUBMIT_JOB_HIGH, SUBMIT_JOB, SUBMIT_JOB_LOW, SUBMIT_JOB_HIGH_BG, SUBMIT_JOB_BG, SUBMIT_JOB_LOW_BG)


LIMITS: Final = {
    b"": "jjjjjj jjjjjj",
    b" 0": "jjjjjj jjjjjj",
    b" -1": "jjjjjj jjjjjj",
    b" abc": "jjjjjj jjjjjj",
    b" 0x5": "jjjjjj jjjjjj",
    b" 1": "jEEEEE EEEEEE",
    b" +1": "jEEEEE EEEEEE",
    b" 1.9": "jEEEEE EEEEEE",
    b" 2abc": "jjEEEE EEEEEE",
    b" 7": "jjjjjj jEEEEE",
    b" 1 2": "jjjEEj EEjEEj",
    b" 3 3 3": "jjjEEE EEEEEE",
    b" 2 1 3": "jEjEEj EEEEEE",
    b" 0 1 0": "jEjjEj jEjjEj",
    b" 1 0 0": "jjjEjj EjjEjj",
    b" 0 0 1": "jjEjjE jjEjjE",
    b" -1 2 3": "jjjjEE jEEjEE",
}


def test_maxqueue(server: Server) -> None:
    """Up to three limits: for high, normal, low; each counts the jobs of all priorities. A single one is for all."""
    client, admin, answers = server.peer(), server.peer(), {}
    for number, arguments in enumerate(LIMITS):
        function = b"f%d" % number
        assert admin.command(b"create function " + function) == OK
        assert admin.command(b"maxqueue " + function + arguments) == OK
        answers[arguments] = " ".join(answers_to(client, ALL, function) for _ in range(2))
    assert answers == LIMITS


@pytest.mark.parametrize("end", LINE_ENDS)
def test_maxqueue_with_any_line_end(server: Server, end: bytes) -> None:
    client, admin = server.peer(), server.peer()
    admin.command(b"create function f")
    assert ask_line(admin, b"MaxQueue  f  1" + end) == OK
    assert answers_to(client, [SUBMIT_JOB] * 2) == "jE"


def test_maxqueue_counts_running_jobs_but_not_joins(server: Server) -> None:
    client, admin, worker = server.peer(), server.peer(), worker_of(server)
    assert admin.command(b"maxqueue f 1") == OK
    handle = submit(client, b"u")
    worker.ask(GRAB_JOB.request())
    assert client.ask(SUBMIT_JOB.request(b"f", b"v", b"")) == FULL
    assert submit(client, b"u") == client.submit(SUBMIT_JOB_BG.request(b"f", b"u", b"")) == handle
    worker.send(WORK_COMPLETE.request(handle, b""))
    assert worker.so_far() == []
    assert client.so_far() == [(WORK_COMPLETE, [handle, b""])] * 2
    submit(client, b"v")


def test_maxqueue_counts_jobs_whose_client_has_left(server: Server) -> None:
    client, admin, gone = server.peer(), server.peer(), server.peer()
    handle = submit(gone)
    admin.command(b"maxqueue f 1")
    gone.close()
    server.until(lambda: admin.table(b"show jobs") == [handle + b"\t0\t1\t0"])
    assert answers_to(client, [SUBMIT_JOB]) == "E"


def test_maxqueue_keeps_queued_jobs_and_can_be_removed(server: Server) -> None:
    client, admin = server.peer(), server.peer()
    assert answers_to(client, [SUBMIT_JOB] * 3) == "jjj"
    admin.command(b"maxqueue f 2")
    assert answers_to(client, [SUBMIT_JOB]) == "E"
    assert admin.table(b"status") == [b"f\t3\t0\t0"]
    admin.command(b"maxqueue f 4")
    assert answers_to(client, [SUBMIT_JOB] * 2) == "jE"
    admin.command(b"maxqueue f")
    assert answers_to(client, [SUBMIT_JOB]) == "j"


def test_maxqueue_of_unknown_function_has_no_effect(server: Server) -> None:
    client, admin = server.peer(), server.peer()
    assert admin.command(b"maxqueue f 1") == OK
    assert answers_to(client, [SUBMIT_JOB] * 2) == "jj"


@pytest.mark.parametrize("name", [b"F", b"ff", b"f\t"])
def test_maxqueue_of_another_function(server: Server, name: bytes) -> None:
    client, admin = server.peer(), server.peer()
    admin.command(b"create function f")
    admin.command(b"create function " + name)
    assert admin.command(b"maxqueue " + name + b" 1") == OK
    assert answers_to(client, [SUBMIT_JOB] * 2) == "jj"


@pytest.mark.parametrize(
    ("commands", "answers"),
    [([b"create function f"], "jE"), ([b"drop function f"], "jj"), ([b"drop function f", b"create function f"], "jj")],
)
def test_limit_is_dropped_with_its_function(server: Server, commands: list[bytes], answers: str) -> None:
    client, admin = server.peer(), server.peer()
    for command in (b"create function f", b"maxqueue f 1", *commands):
        assert admin.command(command) == OK
    assert answers_to(client, [SUBMIT_JOB] * 2) == answers


def test_a_full_queue_refuses_epoch_jobs(server: Server) -> None:
    client, admin = server.peer(), server.peer()
    submit(client)
    admin.command(b"maxqueue f 1")
    assert client.ask(SUBMIT_JOB_EPOCH.request(b"f", b"", b"0", b"")) == FULL


# create function, drop function.


def test_create_and_drop_function(server: Server) -> None:
    admin = server.peer()
    for name in (b"newf", b"x", b"\xff\xfe", b"a.b", b"a\tb", b"n" * 600):
        for _ in range(2):
            assert admin.command(b"create function " + name) == OK
            assert admin.table(b"status") == [name + b"\t0\t0\t0"]
            assert admin.table(b"prioritystatus") == [name + b"\t0\t0\t0\t0"]
        assert admin.command(b"DROP Function " + name) == OK
        assert admin.table(b"status") == []
        assert admin.command(b"drop function " + name) == NO_FUNCTION


@pytest.mark.parametrize(("name", "created"), [(b"newf", b"new"), (b"xy", b"x"), (b"x", b"")])
def test_create_function_with_a_bare_line_feed_loses_a_byte(server: Server, name: bytes, created: bytes) -> None:
    admin = server.peer()
    assert ask_line(admin, b"Create Function " + name + b"\n") == OK
    assert admin.table(b"status") == [created + b"\t0\t0\t0"]


def test_drop_function_with_a_bare_line_feed_does_not(server: Server) -> None:
    admin = server.peer()
    admin.command(b"create function newf")
    assert ask_line(admin, b"drop function newf\n") == OK
    assert admin.table(b"status") == []


def test_create_function_does_not_change_existing_function(server: Server) -> None:
    client, admin, _ = server.peer(), server.peer(), worker_of(server)
    submit(client)
    assert admin.command(b"create function f") == OK
    assert admin.table(b"status") == [b"f\t1\t0\t1"]


def test_created_function_accepts_jobs(server: Server) -> None:
    client, admin, worker = server.peer(), server.peer(), server.peer()
    admin.command(b"create function f")
    handle = submit(client, b"u")
    worker.send(CAN_DO.request(b"f"))
    assert worker.ask(GRAB_JOB_UNIQ.request()) == (JOB_ASSIGN_UNIQ, [handle, b"f", b"u", b"w"])


def test_drop_function_with_workers_is_refused(server: Server) -> None:
    admin, worker = server.peer(), worker_of(server)
    assert admin.command(b"drop function f") == IN_USE
    assert admin.table(b"status") == [b"f\t0\t0\t1"]
    worker.send(CANT_DO.request(b"f"))
    assert worker.so_far() == []
    assert admin.command(b"drop function f") == OK


def test_drop_function_with_a_running_job_is_refused(server: Server) -> None:
    client, admin, worker = server.peer(), server.peer(), worker_of(server)
    submit(client)
    worker.ask(GRAB_JOB.request())
    assert admin.command(b"drop function f") == IN_USE
    assert admin.table(b"status") == [b"f\t1\t1\t1"]


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize(
    "packet_type", [SUBMIT_JOB, SUBMIT_JOB_HIGH, SUBMIT_JOB_LOW, SUBMIT_JOB_BG, SUBMIT_JOB_HIGH_BG]
)
def test_h4_drop_function_with_queued_jobs(server: Server, packet_type: PacketType) -> None:
    """The job stays known for ever, no worker gets it, and no client is notified."""
    client, admin, worker = server.peer(), server.peer(), server.peer()
    handle = client.submit(packet_type.request(b"f", b"u", b"w"))
    before = admin.table(b"show jobs")
    assert admin.command(b"drop function f") == OK
    assert admin.table(b"status") == []
    assert admin.table(b"show jobs") == before
    assert admin.table(b"show unique jobs") == [b"u"]
    worker.send(CAN_DO.request(b"f"))
    assert worker.ask(GRAB_JOB.request()) == (NO_JOB, [])
    worker.send(PRE_SLEEP.request())
    assert worker.so_far() == client.so_far() == []
    assert status_of(client, handle) == [b"1", b"0", b"0", b"0"]
    assert admin.table(b"status") == [b"f\t0\t0\t1"]


@pytest.mark.guarantee(number=5)
def test_h4_cancel_of_a_job_whose_function_was_dropped(server: Server) -> None:
    client, admin = server.peer(), server.peer()
    handle = submit(client, b"u")
    admin.command(b"drop function f")
    assert admin.command(b"cancel job " + handle) == OK
    assert client.so_far() == [(WORK_FAIL, [handle])]
    assert admin.table(b"show jobs") == [handle + b"\t0\t1\t0"]


def test_new_jobs_of_a_function_that_was_dropped(server: Server) -> None:
    client, admin, worker = server.peer(), server.peer(), server.peer()
    submit(client)
    admin.command(b"drop function f")
    handle = submit(client)
    worker.send(CAN_DO.request(b"f"))
    assert worker.ask(GRAB_JOB_UNIQ.request()) == (JOB_ASSIGN_UNIQ, [handle, b"f", b"", b"w"])
    assert worker.ask(GRAB_JOB_UNIQ.request()) == (NO_JOB, [])


# cancel job.


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("end", LINE_ENDS)
def test_d2_cancel_of_queued_job_notifies_each_listener_each_time(server: Server, end: bytes) -> None:
    client, other, admin = server.peer(), server.peer(), server.peer()
    (handle,) = {submit(peer, b"u") for peer in (client, other, client)}
    for _ in range(2):
        assert ask_line(admin, b"cancel job " + handle + end) == OK
        assert client.so_far() == [(WORK_FAIL, [handle])] * 2
        assert other.so_far() == [(WORK_FAIL, [handle])]


def test_cancelled_job_stays_known_until_worker_grabs(server: Server) -> None:
    client, admin, worker = server.peer(), server.peer(), server.peer()
    handle = submit(client, b"u")
    admin.command(b"cancel job " + handle)
    assert client.so_far() == [(WORK_FAIL, [handle])]
    assert status_of(client, handle) == [b"1", b"0", b"0", b"0"]
    assert client.ask(GET_STATUS_UNIQUE.request(b"u"))[1] == [b"u", b"1", b"0", b"0", b"0", b"1"]
    assert admin.table(b"status") == [b"f\t1\t0\t0"]
    assert admin.table(b"prioritystatus") == [b"f\t0\t1\t0\t0"]
    assert admin.table(b"show jobs") == [handle + b"\t0\t1\t0"]
    worker.send(CAN_DO.request(b"f"))
    assert worker.ask(GRAB_JOB.request()) == (NO_JOB, [])
    assert status_of(client, handle) == [b"0", b"0", b"0", b"0"]
    assert admin.table(b"show jobs") == []
    assert admin.command(b"cancel job " + handle) == NO_JOB_OF_THAT_HANDLE


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("packet_type", [SUBMIT_JOB, SUBMIT_JOB_BG])
def test_h2_a_submit_that_joins_a_cancelled_job_is_lost(server: Server, packet_type: PacketType) -> None:
    client, admin, worker = server.peer(), server.peer(), server.peer()
    handle = submit(client, b"u")
    admin.command(b"cancel job " + handle)
    assert client.so_far() == [(WORK_FAIL, [handle])]
    assert client.submit(packet_type.request(b"f", b"u", b"again")) == handle
    worker.send(CAN_DO.request(b"f"), PRE_SLEEP.request())
    assert worker.so_far() == client.so_far() == []
    assert worker.ask(GRAB_JOB.request()) == (NO_JOB, [])
    assert client.so_far() == []
    assert status_of(client, handle) == [b"0", b"0", b"0", b"0"]


def test_cancel_leaves_other_jobs_queued(server: Server) -> None:
    client, admin, worker = server.peer(), server.peer(), worker_of(server)
    first, second, third = (submit(client) for _ in range(3))
    assert admin.command(b"cancel job " + second) == OK
    assert client.so_far() == [(WORK_FAIL, [second])]
    assert worker.ask(GRAB_JOB.request())[1][0] == first
    assert worker.ask(GRAB_JOB.request())[1][0] == third


@pytest.mark.parametrize(
    "change", [bytes.lower, lambda handle: handle + b"0", lambda handle: handle[:-1]], ids=["case", "longer", "shorter"]
)
def test_cancel_needs_exact_handle(server: Server, change: Callable[[bytes], bytes]) -> None:
    client, admin = server.peer(), server.peer()
    handle = submit(client)
    assert admin.command(b"cancel job " + change(handle)) == NO_JOB_OF_THAT_HANDLE
    assert admin.command(b"cancel job " + handle + b" x") == WRONG_CANCEL
    assert client.so_far() == []
    assert admin.command(b"CANCEL  Job  " + handle) == OK
    assert client.so_far() == [(WORK_FAIL, [handle])]


@pytest.mark.guarantee(number=5)
def test_d2_cancel_of_a_running_job_does_not_stop_it(server: Server) -> None:
    client, admin, worker = server.peer(), server.peer(), worker_of(server)
    handle = submit(client)
    worker.ask(GRAB_JOB.request())
    assert admin.command(b"cancel job " + handle) == OK
    assert client.so_far() == [(WORK_FAIL, [handle])]
    assert status_of(client, handle) == [b"1", b"1", b"0", b"0"]
    assert admin.table(b"status") == [b"f\t1\t1\t1"]
    assert admin.table(b"show jobs") == [handle + b"\t0\t1\t0"]
    worker.send(WORK_DATA.request(handle, b"d"), WORK_STATUS.request(handle, b"1", b"2"))
    worker.send(WORK_COMPLETE.request(handle, b"done"))
    assert worker.so_far() == []
    assert client.so_far() == [
        (WORK_DATA, [handle, b"d"]),
        (WORK_STATUS, [handle, b"1", b"2"]),
        (WORK_COMPLETE, [handle, b"done"]),
    ]
    assert status_of(client, handle) == [b"0", b"0", b"0", b"0"]


def test_a_cancelled_running_job_whose_worker_leaves(server: Server) -> None:
    """It is requeued as a dropped job; the client is notified only of the cancel."""
    client, admin, worker = server.peer(), server.peer(), worker_of(server)
    handle = submit(client)
    worker.ask(GRAB_JOB.request())
    admin.command(b"cancel job " + handle)
    worker.close()
    server.until(lambda: admin.table(b"status") == [b"f\t1\t0\t0"])
    assert client.so_far() == [(WORK_FAIL, [handle])]
    assert admin.table(b"show jobs") == [handle + b"\t1\t1\t0"]
    assert worker_of(server).ask(GRAB_JOB.request()) == (NO_JOB, [])
    assert status_of(client, handle) == [b"0", b"0", b"0", b"0"]
    assert client.so_far() == []


@pytest.mark.parametrize("running", [False, True])
def test_cancel_of_a_background_job(server: Server, running: bool) -> None:
    client, admin, worker = server.peer(), server.peer(), worker_of(server)
    handle = client.submit(SUBMIT_JOB_BG.request(b"f", b"", b""))
    if running:
        worker.ask(GRAB_JOB.request())
    assert admin.command(b"cancel job " + handle) == OK
    assert worker.so_far() == client.so_far() == []
    assert admin.table(b"show jobs") == [handle + b"\t0\t1\t0"]
    assert worker.ask(GRAB_JOB.request()) == (NO_JOB, [])
    assert status_of(client, handle)[0] == b"%d" % running


def test_a_cancelled_running_background_job_may_be_completed(server: Server) -> None:
    client, admin, worker = server.peer(), server.peer(), worker_of(server)
    handle = client.submit(SUBMIT_JOB_BG.request(b"f", b"", b""))
    worker.ask(GRAB_JOB.request())
    admin.command(b"cancel job " + handle)
    worker.send(WORK_COMPLETE.request(handle, b""))
    assert worker.so_far() == client.so_far() == []
    assert status_of(client, handle) == [b"0", b"0", b"0", b"0"]
