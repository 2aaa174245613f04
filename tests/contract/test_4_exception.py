"""docs/gearman.md §4: WORK_EXCEPTION. It ends the job; clients that did not ask for exceptions get a WORK_FAIL."""

from __future__ import annotations

import pytest

from txgearman.packets import (
    ERROR,
    GRAB_JOB,
    OPTION_REQ,
    OPTION_RES,
    RES,
    SUBMIT_JOB_BG,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    Packet,
)

from .conftest import Start
from .harness import Peer, Server
from .test_1_coalescing import REFUSED, job, send_unanswered
from .test_5_status import UNKNOWN, run, status
from .test_6_client_disconnect import NOTHING, abandon_running, can_do

NO_SUCH_JOB: Packet = (ERROR, [b"JOB_NOT_FOUND", b"Job does not exist on server"])
NO_SUCH_EXCEPTION: Packet = (ERROR, [b"JOB_NOT_FOUND", b"An exception was received for a job that does not exist"])
UNKNOWN_OPTION: Packet = (ERROR, [b"UNKNOWN_OPTION", b"Server does not recognize given option"])
DATA = [b"", b"boom", b"bo\0om", b"\0", b"x" * 100_000]


def set_option(peer: Peer, option: bytes = b"exceptions") -> None:
    assert peer.ask(OPTION_REQ.request(option)) == (OPTION_RES, [option])


def client_with_exceptions(server: Server) -> Peer:
    """Return a client that has asked for exceptions."""
    client = server.peer()
    set_option(client)
    return client


def exception(handle: bytes, data: bytes = b"boom") -> Packet:
    return WORK_EXCEPTION, [handle, data]


def failure(handle: bytes) -> Packet:
    """Return what a client gets that did not ask for exceptions."""
    return WORK_FAIL, [handle + b"\0"]


def raise_exception(server: Server, handle: bytes, data: bytes = b"boom") -> Peer:
    """End this job by an exception, and return its worker, to which nothing is sent."""
    worker = run(server, handle)
    send_unanswered(worker, WORK_EXCEPTION.request(handle, data))
    return worker


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("data", DATA)
def test_m1_client_without_option_gets_work_fail_with_nul(server: Server, data: bytes) -> None:
    client = server.peer()
    handle = client.submit(job())
    worker = raise_exception(server, handle, data)
    assert client.so_far() == [failure(handle)]
    assert status(worker, handle) == UNKNOWN


@pytest.mark.guarantee(number=5)
def test_m1_nul_is_part_of_packet(server: Server) -> None:
    client = server.peer()
    handle = client.submit(job())
    raise_exception(server, handle)
    body = handle + b"\0"
    assert client._await(12 + len(body)) == RES + b"\0\0\0\x0e" + len(body).to_bytes(4, "big") + body


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("nuls", [b"", b"\0", b"\0extra", b"\0\0"])
def test_m1_work_fail_is_relayed_unchanged(server: Server, nuls: bytes) -> None:
    client = server.peer()
    handle = client.submit(job())
    send_unanswered(run(server, handle), WORK_FAIL.request(handle + nuls))
    assert client.so_far() == [(WORK_FAIL, [handle + nuls])]
    assert status(client, handle) == UNKNOWN


@pytest.mark.parametrize("data", DATA)
def test_client_with_option_gets_exception(server: Server, data: bytes) -> None:
    client = client_with_exceptions(server)
    handle = client.submit(job())
    worker = raise_exception(server, handle, data)
    assert client.so_far() == [exception(handle, data)]
    assert status(worker, handle) == UNKNOWN


@pytest.mark.parametrize("option", [b"exceptions", b"EXCEPTIONS", b"Exceptions", b"exceptions\0", b"exceptions\0x"])
def test_option_name_is_case_insensitive_and_ends_at_nul(server: Server, option: bytes) -> None:
    """The answer repeats it unchanged."""
    client = server.peer()
    set_option(client, option)
    handle = client.submit(job())
    raise_exception(server, handle)
    assert client.so_far() == [exception(handle)]


@pytest.mark.parametrize("running", [True, False])
def test_option_may_be_set_before_exception_is_sent(server: Server, running: bool) -> None:
    client = server.peer()
    handle = client.submit(job())
    if running:
        worker = run(server, handle)
        set_option(client)
        send_unanswered(worker, WORK_EXCEPTION.request(handle, b"boom"))
    else:
        set_option(client)
        raise_exception(server, handle)
    assert client.so_far() == [exception(handle)]


def test_option_may_be_set_twice(server: Server) -> None:
    """An unknown option does not reset it."""
    client = client_with_exceptions(server)
    set_option(client)
    assert client.ask(OPTION_REQ.request(b"bogus")) == UNKNOWN_OPTION
    handle = client.submit(job())
    raise_exception(server, handle)
    assert client.so_far() == [exception(handle)]


def test_unknown_option_has_no_effect(server: Server) -> None:
    client = server.peer()
    assert client.ask(OPTION_REQ.request(b"exceptions ")) == UNKNOWN_OPTION
    handle = client.submit(job())
    raise_exception(server, handle)
    assert client.so_far() == [failure(handle)]


def test_option_of_worker_does_not_affect_clients(server: Server) -> None:
    client = server.peer()
    handle = client.submit(job())
    worker = run(server, handle)
    set_option(worker)
    send_unanswered(worker, WORK_EXCEPTION.request(handle, b"boom"))
    assert client.so_far() == [failure(handle)]


def test_option_affects_only_its_connection(server: Server) -> None:
    """Once for each of its submits (D1)."""
    client, other = client_with_exceptions(server), server.peer()
    (handle,) = {peer.submit(job()) for peer in [client, client, other, other, other]}
    raise_exception(server, handle)
    assert client.so_far() == [exception(handle)] * 2
    assert other.so_far() == [failure(handle)] * 3


@pytest.mark.parametrize("asked", [True, False])
def test_worker_may_await_job_that_it_runs(server: Server, asked: bool) -> None:
    worker = can_do(server, b"f")
    if asked:
        set_option(worker)
    handle = worker.submit(job())
    worker.ask(GRAB_JOB.request())
    worker.send(WORK_EXCEPTION.request(handle, b"boom"))
    assert worker.so_far() == [exception(handle) if asked else failure(handle)]


def test_exception_of_background_job_notifies_no_client(server: Server) -> None:
    client = client_with_exceptions(server)
    handle = client.submit(job(kind=SUBMIT_JOB_BG))
    raise_exception(server, handle)
    assert client.so_far() == []
    assert status(client, handle) == UNKNOWN


def test_exception_of_job_whose_client_left(server: Server) -> None:
    handle, worker = abandon_running(server)
    send_unanswered(worker, WORK_EXCEPTION.request(handle, b"boom"))
    assert status(worker, handle) == UNKNOWN


@pytest.mark.parametrize("asked", [True, False])
def test_nothing_is_sent_after_exception(server: Server, asked: bool) -> None:
    """gearmand does not have D3. What was sent before the exception was relayed."""
    client = client_with_exceptions(server) if asked else server.peer()
    handle = client.submit(job())
    worker = run(server, handle)
    worker.send(
        WORK_DATA.request(handle, b"before"),
        WORK_EXCEPTION.request(handle, b"boom"),
        WORK_DATA.request(handle, b"late"),
        WORK_WARNING.request(handle, b"late"),
        WORK_STATUS.request(handle, b"1", b"2"),
        WORK_COMPLETE.request(handle, b"late"),
        WORK_FAIL.request(handle),
        WORK_EXCEPTION.request(handle, b"late"),
        GRAB_JOB.request(),
    )
    assert worker.so_far() == [*[NO_SUCH_JOB] * 2, *[REFUSED] * 3, NO_SUCH_EXCEPTION, NOTHING]
    assert client.so_far() == [(WORK_DATA, [handle, b"before"]), exception(handle) if asked else failure(handle)]


def test_worker_disconnecting_after_exception_leaves_no_job(server: Server) -> None:
    client, other = client_with_exceptions(server), server.peer()
    handle = client.submit(job())
    worker = raise_exception(server, handle)
    worker.close()
    server.until(lambda: other.table(b"status") == [b"f\t0\t0\t0"])
    assert can_do(server, b"f").ask(GRAB_JOB.request()) == NOTHING
    assert client.so_far() == [exception(handle)]


@pytest.mark.parametrize("asked", [True, False])
def test_server_option_exceptions_applies_to_all_clients(start: Start, asked: bool) -> None:
    server = start(exceptions=True)
    client = client_with_exceptions(server) if asked else server.peer()
    handle = client.submit(job())
    raise_exception(server, handle, b"bo\0om")
    assert client.so_far() == [exception(handle, b"bo\0om")]
