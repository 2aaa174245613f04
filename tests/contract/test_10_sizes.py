"""docs/gearman.md §10 and §10b: large payloads, unusual names, and handles."""

from __future__ import annotations

import re
from typing import Final

import pytest

from txgearman.packets import (
    CAN_DO,
    CANT_DO,
    ECHO_REQ,
    ECHO_RES,
    GET_STATUS_UNIQUE,
    GRAB_JOB,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN,
    JOB_ASSIGN_UNIQ,
    NO_JOB,
    REQ,
    RESET_ABILITIES,
    SET_CLIENT_ID,
    STATUS_RES_UNIQUE,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_WARNING,
    PacketType,
)

from .conftest import Start
from .harness import Peer, Server

MIB = bytes(range(256)) * 4096
PAYLOADS = pytest.mark.parametrize(
    "payload",
    [b"", b"\0a\0", b"\0REQ\0", b"0\r\n.\n", MIB],
    ids=lambda data: repr(data[:9]),
)
NAMES: Final = (b"\xff\xfe", b"a b", b"a\tb", b"a\nb", b" ", b"%s%n", b".", b"-", b"0", b"\r", b"a\\b", b"n" * 500)

# Helpers.


def raw(packet_type: PacketType, body: bytes, size: int | None = None) -> bytes:
    """Return a request whose body the codec may refuse, and whose size may be wrong."""
    header = REQ + packet_type.number.to_bytes(4, "big")
    return header + (len(body) if size is None else size).to_bytes(4, "big") + body


def worker_of(server: Server, function: bytes) -> Peer:
    worker = server.peer()
    worker.send(CAN_DO.request(function))
    return worker


def workers(admin: Peer) -> list[bytes]:
    """Return the answer to `workers`, without the number and the address at the start of each line."""
    rows = [re.fullmatch(rb"\d+ \S+ (.*)", row, re.DOTALL) for row in admin.table(b"workers")]
    return sorted(row[1] for row in rows if row)


# Payloads.


@PAYLOADS
def test_echo(server: Server, payload: bytes) -> None:
    assert server.peer().ask(ECHO_REQ.request(payload)) == (ECHO_RES, [payload])


@PAYLOADS
def test_workload(server: Server, payload: bytes) -> None:
    client, worker = server.peer(), worker_of(server, b"f")
    first = client.submit(SUBMIT_JOB.request(b"f", b"u", payload))
    second = client.submit(SUBMIT_JOB_BG.request(b"f", b"v", payload))
    assert worker.ask(GRAB_JOB_UNIQ.request()) == (JOB_ASSIGN_UNIQ, [first, b"f", b"u", payload])
    assert worker.ask(GRAB_JOB.request()) == (JOB_ASSIGN, [second, b"f", payload])


@PAYLOADS
def test_results(server: Server, payload: bytes) -> None:
    client, worker = server.peer(), worker_of(server, b"f")
    handle = client.submit(SUBMIT_JOB.request(b"f", b"", b""))
    worker.ask(GRAB_JOB.request())
    sent = [WORK_DATA, WORK_WARNING, WORK_DATA, WORK_COMPLETE]
    worker.send(*(packet_type.request(handle, payload) for packet_type in sent))
    assert worker.so_far() == []
    assert client.so_far() == [(packet_type, [handle, payload]) for packet_type in sent]


@PAYLOADS
def test_exception(start: Start, payload: bytes) -> None:
    server = start(exceptions=True)
    client, worker = server.peer(), worker_of(server, b"f")
    handle = client.submit(SUBMIT_JOB.request(b"f", b"", b""))
    worker.ask(GRAB_JOB.request())
    worker.send(WORK_EXCEPTION.request(handle, payload))
    assert worker.so_far() == []
    assert client.so_far() == [(WORK_EXCEPTION, [handle, payload])]


def test_large_workload_coalesces(server: Server) -> None:
    client = server.peer()
    handle = client.submit(SUBMIT_JOB.request(b"f", b"-", MIB))
    assert client.submit(SUBMIT_JOB.request(b"f", b"-", MIB)) == handle
    assert client.submit(SUBMIT_JOB.request(b"f", b"-", MIB[:-1])) != handle


def test_requests_may_come_byte_by_byte(server: Server) -> None:
    client, worker = server.peer(), worker_of(server, b"f")
    packet = SUBMIT_JOB.request(b"f", b"u", b"workload")
    for end in range(len(packet)):
        client.send(packet[end : end + 1])
    client.send(ECHO_REQ.request(b"after"))
    (handle,) = client.receive()[1]
    assert client.receive() == (ECHO_RES, [b"after"])
    assert worker.ask(GRAB_JOB_UNIQ.request()) == (JOB_ASSIGN_UNIQ, [handle, b"f", b"u", b"workload"])


@pytest.mark.parametrize("packet_type", [ECHO_REQ, SUBMIT_JOB])
@pytest.mark.parametrize("size", [0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_packet_with_huge_size_is_awaited(server: Server, packet_type: PacketType, size: int) -> None:
    """Other connections are served. (That it is not closed later can't be seen without waiting.)"""
    client, other = server.peer(), server.peer()
    assert client.so_far() == other.so_far() == []
    client.send(raw(packet_type, b"f\0u\0x", size))
    assert other.ask(ECHO_REQ.request(b"x")) == (ECHO_RES, [b"x"])
    assert workers(other) == [b"- :"] * 2


# Names.


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize(
    ("body", "arguments"), [(b"f\0x\0uu\0da", [b"f", b"x", b"uu\0da"]), (b"f\0u\0v\0da", [b"f", b"u", b"v\0da"])]
)
def test_m6_a_nul_in_function_or_unique_shifts_the_arguments(
    server: Server, body: bytes, arguments: list[bytes]
) -> None:
    client, worker = server.peer(), worker_of(server, b"f")
    handle = client.submit(raw(SUBMIT_JOB, body))
    assert worker.ask(GRAB_JOB_UNIQ.request()) == (JOB_ASSIGN_UNIQ, [handle, *arguments])


def test_unusual_function_names_are_accepted(server: Server) -> None:
    """They are accepted, and printed unchanged."""
    client, admin, worker = server.peer(), server.peer(), server.peer()
    for name in NAMES:
        worker.send(CAN_DO.request(name))
        handle = client.submit(SUBMIT_JOB.request(name, b"", b"w"))
        assert worker.ask(GRAB_JOB_UNIQ.request()) == (JOB_ASSIGN_UNIQ, [handle, name, b"", b"w"])
    lines = b"".join(name + b"\t1\t1\t1\n" for name in NAMES).split(b"\n")[:-1]
    assert admin.table(b"status") == sorted(lines)


def test_unusual_names_in_list_of_workers(server: Server) -> None:
    admin, worker = server.peer(), server.peer()
    for name in (b"\xff\xfe", b"a b", b"a\tb", b" ", b"%s%n", b"."):
        worker.send(SET_CLIENT_ID.request(name), RESET_ABILITIES.request(), CAN_DO.request(name))
        assert worker.so_far() == []
        assert workers(admin) == sorted([b"- :", name + b" : " + name])


def test_the_empty_function_name(server: Server) -> None:
    client, admin, worker = server.peer(), server.peer(), worker_of(server, b"")
    handle = client.submit(SUBMIT_JOB.request(b"", b"u", b"w"))
    assert worker.ask(GRAB_JOB_UNIQ.request()) == (JOB_ASSIGN_UNIQ, [handle, b"", b"u", b"w"])
    assert admin.table(b"status") == [b"\t1\t1\t1"]


def test_unusual_uniques_coalesce(server: Server) -> None:
    client, worker = server.peer(), worker_of(server, b"f")
    for unique in (b" ", b"a b", b"\xff", b"a\tb", b"\n", b"%s%n", b"--", b"."):
        handles = {client.submit(SUBMIT_JOB.request(b"f", unique, b"w")) for _ in range(2)}
        status = client.ask(GET_STATUS_UNIQUE.request(unique))
        assert status == (STATUS_RES_UNIQUE, [unique, b"1", b"0", b"0", b"0", b"2"])
        assert worker.ask(GRAB_JOB_UNIQ.request()) == (JOB_ASSIGN_UNIQ, [*handles, b"f", unique, b"w"])


@pytest.mark.parametrize("name", [b"f\0x", b"f\0"])
def test_nul_in_function_of_worker_makes_it_another_function(server: Server, name: bytes) -> None:
    """It looks like the first one in the lists, and no client can submit a job for it."""
    client, admin, worker = server.peer(), server.peer(), worker_of(server, name)
    client.submit(SUBMIT_JOB.request(b"f", b"", b""))
    assert worker.ask(GRAB_JOB.request()) == (NO_JOB, [])
    assert admin.table(b"status") == [b"f\t0\t0\t1", b"f\t1\t0\t0"]
    assert workers(admin) == [b"- :", b"- :", b"- : f"]


def test_cant_do_with_nul_removes_other_function(server: Server) -> None:
    admin, worker = server.peer(), worker_of(server, b"f")
    worker.send(CANT_DO.request(b"f\0x"))
    assert worker.so_far() == []
    assert admin.table(b"status") == [b"f\t0\t0\t1"]


def test_client_id_is_printed_up_to_its_first_nul(server: Server) -> None:
    admin, worker = server.peer(), server.peer()
    worker.send(SET_CLIENT_ID.request(b"me\0you"))
    assert worker.so_far() == []
    assert workers(admin) == [b"- :", b"me :"]


# 10b: handles.


def test_handles_are_numbered_from_1(server: Server) -> None:
    client, other = server.peer(), server.peer()
    handles = [peer.submit(SUBMIT_JOB.request(b"f", b"", b"")) for peer in (client, other) * 6]
    prefix = handles[0].removesuffix(b"1")
    assert re.fullmatch(rb"H:[^:]+:", prefix)
    assert handles == [prefix + b"%d" % number for number in range(1, 13)]


@pytest.mark.parametrize("prefix", ["X", "H:me", "P" * 40])
def test_option_job_handle_prefix(start: Start, prefix: str) -> None:
    client = start(job_handle_prefix=prefix).peer()
    handles = [client.submit(SUBMIT_JOB.request(b"f", b"", b"")) for _ in range(11)]
    assert handles == [b"%b:%d" % (prefix.encode(), number) for number in range(1, 12)]


def test_joined_or_refused_submit_takes_no_handle_number(start: Start) -> None:
    client = start(job_handle_prefix="X").peer()
    uniques = [b"u", b"u", b"u" * 65, b"v"]
    for unique in uniques:
        client.send(SUBMIT_JOB.request(b"f", unique, b""))
    answers = [arguments[0] for _, arguments in client.so_far()]
    assert answers == [b"X:1", b"X:1", b"ARGUMENT_TOO_LARGE", b"X:2"]
