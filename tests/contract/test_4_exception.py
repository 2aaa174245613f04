"""docs/gearman.md §4: WORK_EXCEPTION. It is the end of the job; who did not ask for exceptions gets a WORK_FAIL."""

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
from .test_1_coalescing import REFUSED, job, tell
from .test_5_status import UNKNOWN, run, status
from .test_6_client_disconnect import NOTHING, abandon_running, can_do

NO_SUCH_JOB: Packet = (ERROR, [b"JOB_NOT_FOUND", b"Job does not exist on server"])
NO_SUCH_EXCEPTION: Packet = (ERROR, [b"JOB_NOT_FOUND", b"An exception was received for a job that does not exist"])
UNKNOWN_OPTION: Packet = (ERROR, [b"UNKNOWN_OPTION", b"Server does not recognize given option"])
DATA = [b"", b"boom", b"bo\0om", b"\0", b"x" * 100_000]


def wants(peer: Peer, option: bytes = b"exceptions") -> None:
    assert peer.ask(OPTION_REQ.request(option)) == (OPTION_RES, [option])


def asking(server: Server) -> Peer:
    """A client that has asked for exceptions."""
    client = server.peer()
    wants(client)
    return client


def exception(handle: bytes, data: bytes = b"boom") -> Packet:
    return WORK_EXCEPTION, [handle, data]


def failure(handle: bytes) -> Packet:
    """What is made of an exception for who did not ask for it."""
    return WORK_FAIL, [handle + b"\0"]


def throw(server: Server, handle: bytes, data: bytes = b"boom") -> Peer:
    """Run this job into an exception. The worker is told nothing."""
    worker = run(server, handle)
    tell(worker, WORK_EXCEPTION.request(handle, data))
    return worker


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("data", DATA)
def test_m1_who_did_not_ask_gets_a_failure_with_a_nul(server: Server, data: bytes) -> None:
    client = server.peer()
    handle = client.submit(job())
    worker = throw(server, handle, data)
    assert client.so_far() == [failure(handle)]
    assert status(worker, handle) == UNKNOWN


@pytest.mark.guarantee(number=5)
def test_m1_the_nul_is_in_the_packet(server: Server) -> None:
    client = server.peer()
    handle = client.submit(job())
    throw(server, handle)
    body = handle + b"\0"
    assert client._await(12 + len(body)) == RES + b"\0\0\0\x0e" + len(body).to_bytes(4, "big") + body


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize("nuls", [b"", b"\0", b"\0extra", b"\0\0"])
def test_m1_a_failure_is_relayed_as_the_worker_wrote_it(server: Server, nuls: bytes) -> None:
    client = server.peer()
    handle = client.submit(job())
    tell(run(server, handle), WORK_FAIL.request(handle + nuls))
    assert client.so_far() == [(WORK_FAIL, [handle + nuls])]
    assert status(client, handle) == UNKNOWN


@pytest.mark.parametrize("data", DATA)
def test_who_asked_gets_the_exception(server: Server, data: bytes) -> None:
    client = asking(server)
    handle = client.submit(job())
    worker = throw(server, handle, data)
    assert client.so_far() == [exception(handle, data)]
    assert status(worker, handle) == UNKNOWN


@pytest.mark.parametrize("option", [b"exceptions", b"EXCEPTIONS", b"Exceptions", b"exceptions\0", b"exceptions\0x"])
def test_the_option_is_read_without_case_up_to_a_nul(server: Server, option: bytes) -> None:
    """The answer repeats it as it came."""
    client = server.peer()
    wants(client, option)
    handle = client.submit(job())
    throw(server, handle)
    assert client.so_far() == [exception(handle)]


@pytest.mark.parametrize("running", [True, False])
def test_what_counts_is_what_was_asked_when_the_exception_comes(server: Server, running: bool) -> None:
    client = server.peer()
    handle = client.submit(job())
    if running:
        worker = run(server, handle)
        wants(client)
        tell(worker, WORK_EXCEPTION.request(handle, b"boom"))
    else:
        wants(client)
        throw(server, handle)
    assert client.so_far() == [exception(handle)]


def test_to_ask_twice_is_as_once(server: Server) -> None:
    """And an option that is not known takes nothing back."""
    client = asking(server)
    wants(client)
    assert client.ask(OPTION_REQ.request(b"bogus")) == UNKNOWN_OPTION
    handle = client.submit(job())
    throw(server, handle)
    assert client.so_far() == [exception(handle)]


def test_an_option_that_is_not_known_is_none(server: Server) -> None:
    client = server.peer()
    assert client.ask(OPTION_REQ.request(b"exceptions ")) == UNKNOWN_OPTION
    handle = client.submit(job())
    throw(server, handle)
    assert client.so_far() == [failure(handle)]


def test_the_worker_can_not_ask_for_its_clients(server: Server) -> None:
    client = server.peer()
    handle = client.submit(job())
    worker = run(server, handle)
    wants(worker)
    tell(worker, WORK_EXCEPTION.request(handle, b"boom"))
    assert client.so_far() == [failure(handle)]


def test_each_connection_asks_for_itself(server: Server) -> None:
    """D1: once for each of its submits."""
    client, other = asking(server), server.peer()
    (handle,) = {peer.submit(job()) for peer in [client, client, other, other, other]}
    throw(server, handle)
    assert client.so_far() == [exception(handle)] * 2
    assert other.so_far() == [failure(handle)] * 3


@pytest.mark.parametrize("asked", [True, False])
def test_a_worker_that_waits_for_its_job(server: Server, asked: bool) -> None:
    worker = can_do(server, b"f")
    if asked:
        wants(worker)
    handle = worker.submit(job())
    worker.ask(GRAB_JOB.request())
    worker.send(WORK_EXCEPTION.request(handle, b"boom"))
    assert worker.so_far() == [exception(handle) if asked else failure(handle)]


def test_an_exception_of_a_background_job_is_told_to_nobody(server: Server) -> None:
    client = asking(server)
    handle = client.submit(job(kind=SUBMIT_JOB_BG))
    throw(server, handle)
    assert client.so_far() == []
    assert status(client, handle) == UNKNOWN


def test_an_exception_of_a_job_whose_client_left(server: Server) -> None:
    handle, worker = abandon_running(server)
    tell(worker, WORK_EXCEPTION.request(handle, b"boom"))
    assert status(worker, handle) == UNKNOWN


@pytest.mark.parametrize("asked", [True, False])
def test_nothing_comes_after_an_exception(server: Server, asked: bool) -> None:
    """D3: gearmand has none of it. What came before the exception, came."""
    client = asking(server) if asked else server.peer()
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


def test_a_worker_that_dies_after_an_exception_leaves_no_job(server: Server) -> None:
    client, other = asking(server), server.peer()
    handle = client.submit(job())
    worker = throw(server, handle)
    worker.close()
    server.until(lambda: other.table(b"status") == [b"f\t0\t0\t0"])
    assert can_do(server, b"f").ask(GRAB_JOB.request()) == NOTHING
    assert client.so_far() == [exception(handle)]


@pytest.mark.parametrize("asked", [True, False])
def test_option_exceptions_of_the_server_asks_for_all(start: Start, asked: bool) -> None:
    server = start(exceptions=True)
    client = asking(server) if asked else server.peer()
    handle = client.submit(job())
    throw(server, handle, b"bo\0om")
    assert client.so_far() == [exception(handle, b"bo\0om")]
