"""`Job`: what it shows, and what is sent for it. No server, no connection."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from txgearman import (
    Job,
    JobEnded,
    JobHandle,
)
from txgearman.validation import MAX_PAYLOAD
from txgearman.worker import job as jobs
from txgearman.worker.job import MAX_STATUS, Assignment

from ..garbage import is_freed
from .job_harness import H1, HANG, ServerConnection, make_job, reactor

# What a job shows.


def test_job_shows_what_server_sent() -> None:
    job = make_job()
    received = (job.handle, job.function, job.workload, job.unique, job.reducer, job.ended)
    assert received == (JobHandle("server", H1), "reverse", b"a\0b", b"u", b"r", "")


@pytest.mark.parametrize(
    ("function", "text"),
    [("reverse", "reverse"), ("ü", "ü"), (b"reverse", "reverse"), (b"\xc3\xbc", "ü"), (b"\xff", r"\xff")],
)
def test_job_is_printable_for_any_function_name(function: str | bytes, text: str) -> None:
    job = make_job(function=function)
    assert (str(job), repr(job)) == (f"{text} server//H:host:1", f"<Job {text} server//H:host:1>")
    assert job.function == function


@pytest.mark.guarantee(number=12)
@pytest.mark.usefixtures("no_garbage_collection")
def test_job_is_in_no_reference_cycle() -> None:
    """It is freed with its last reference."""
    job = make_job()
    job.send_data(b"x")
    job.complete(b"r")
    gone = weakref.ref(job)
    del job
    assert is_freed(gone)


# What is sent for a job.


OPEN_CALLS: dict[str, Callable[[Job, Any], None]] = {"data": Job.send_data, "warning": Job.send_warning}


END_CALLS: dict[str, Callable[[Job, Any], None]] = {"complete": Job.complete, "exception": Job.send_exception}


PAYLOAD_CALLS = {**OPEN_CALLS, **END_CALLS}


NAMES = {"data": "data", "warning": "data", "complete": "result", "exception": "data"}
"""The name of the argument of each."""


each_call = pytest.mark.parametrize("call", PAYLOAD_CALLS)


@pytest.mark.guarantee(number=15)
@each_call
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("payload", [b"", b"a\0b"])
def test_payload_may_be_any_kind_of_bytes(call: str, kind: Callable[[bytes], Any], payload: bytes) -> None:
    connection = ServerConnection()
    PAYLOAD_CALLS[call](make_job(connection), kind(payload))
    assert connection.sent == [(call, payload)]
    assert type(connection.sent[0][1]) is bytes


@pytest.mark.guarantee(number=15)
def test_later_change_of_bytearray_does_not_change_sent_data() -> None:
    connection = ServerConnection()
    buffer: Any = bytearray(b"abc")
    make_job(connection).send_data(buffer)
    buffer[:] = b"xyz"
    assert connection.data == [b"abc"]


@pytest.mark.guarantee(number=8)
@each_call
@pytest.mark.parametrize("wrong", ["text", None, 1, [b"x"]])
def test_payload_that_is_not_bytes_raises_and_leaves_job_open(call: str, wrong: Any) -> None:
    connection = ServerConnection()
    job = make_job(connection)
    with pytest.raises(TypeError, match=f"^{NAMES[call]} must be bytes, not {type(wrong).__name__}$"):
        PAYLOAD_CALLS[call](job, wrong)
    assert (connection.sent, job.ended) == ([], "")


@pytest.mark.guarantee(number=8)
@each_call
def test_payload_that_exceeds_a_packet_raises_and_leaves_job_open(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_PAYLOAD", 3)
    connection = ServerConnection()
    job = make_job(connection)
    with pytest.raises(ValueError, match=f"^{NAMES[call]} must have 3 bytes at most, not 4$"):
        PAYLOAD_CALLS[call](job, b"abcd")
    assert (connection.sent, job.ended) == ([], "")
    PAYLOAD_CALLS[call](job, b"abc")
    assert connection.sent == [(call, b"abc")]


@pytest.mark.guarantee(number=8)
def test_max_payload_leaves_space_for_handle() -> None:
    assert MAX_PAYLOAD + len(H1) + 1 < 2**32


def test_data_warnings_and_status_leave_job_open() -> None:
    connection = ServerConnection()
    job = make_job(connection)
    for _ in range(2):
        job.send_data(b"d")
        job.send_warning(b"w")
        job.send_status(1, 2)
    assert (connection.sent, job.ended) == ([("data", b"d"), ("warning", b"w"), ("status", 1, 2)] * 2, "")


def test_complete_sends_empty_result_by_default() -> None:
    connection = ServerConnection()
    make_job(connection).complete()
    assert connection.sent == [("complete", b"")]


@pytest.mark.parametrize("numbers", [(0, 0), (3, 8), (8, 3), (MAX_STATUS, MAX_STATUS)])
def test_status_sends_two_numbers(numbers: tuple[int, int]) -> None:
    connection = ServerConnection()
    make_job(connection).send_status(*numbers)
    assert connection.sent == [("status", *numbers)]


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("numbers", "error", "text"),
    [
        ((-1, 2), ValueError, f"numerator must be from 0 to {MAX_STATUS}, not -1"),
        ((1, -2), ValueError, f"denominator must be from 0 to {MAX_STATUS}, not -2"),
        ((MAX_STATUS + 1, 1), ValueError, f"numerator must be from 0 to {MAX_STATUS}, not {MAX_STATUS + 1}"),
        ((1, MAX_STATUS + 1), ValueError, f"denominator must be from 0 to {MAX_STATUS}, not {MAX_STATUS + 1}"),
        ((0.5, 1), TypeError, "numerator must be int, not float"),
        ((1, "2"), TypeError, "denominator must be int, not str"),
        ((None, 1), TypeError, "numerator must be int, not NoneType"),
    ],
)
def test_status_that_server_would_change_raises(numbers: tuple[Any, Any], error: type[Exception], text: str) -> None:
    connection = ServerConnection()
    with pytest.raises(error, match=f"^{text}$"):
        make_job(connection).send_status(*numbers)
    assert connection.sent == []


# The end of a job.


ALL_ENDS: dict[str, tuple[Callable[[Job], None], list[tuple[Any, ...]]]] = {
    "it was completed": (lambda job: job.complete(b"r"), [("complete", b"r")]),
    "it has failed": (lambda job: job.fail(), [("fail",)]),
    "its exception was sent": (lambda job: job.send_exception(b"e"), [("exception", b"e")]),
    "its connection was lost": (lambda job: job._close("its connection was lost"), []),
}


CALLS: dict[str, Callable[[Job], None]] = {
    "send_data": lambda job: job.send_data(b"x"),
    "send_warning": lambda job: job.send_warning(b"x"),
    "send_status": lambda job: job.send_status(1, 2),
    "complete": lambda job: job.complete(b"x"),
    "fail": lambda job: job.fail(),
    "send_exception": lambda job: job.send_exception(b"x"),
}


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("reason", ALL_ENDS)
def test_ended_job_refuses_every_call(reason: str, call: str) -> None:
    """Whoever tries is received which job it was, and how it ended; that stays as it is."""
    connection = ServerConnection()
    job = make_job(connection)
    end, sent = ALL_ENDS[reason]
    end(job)
    for _ in range(2):
        with pytest.raises(JobEnded) as raised:
            CALLS[call](job)
        assert str(raised.value) == f"reverse server//H:host:1: {reason}"
    assert (connection.sent, job.ended) == (sent, reason)


# Threads.


async def test_calls_from_thread_are_sent_in_order_by_reactor_thread() -> None:
    """Transports must not be used in any other thread."""
    connection = ServerConnection()
    job = make_job(connection)
    sent_by_then: list[Any] = []

    def work() -> None:
        job.send_data(b"1")
        job.send_warning(b"2")
        job.send_status(3, 4)
        sent_by_then.extend(connection.threads - {threading.main_thread().ident})
        job.complete(b"5")

    await deferToThread(work)
    assert connection.sent == [("data", b"1"), ("warning", b"2"), ("status", 3, 4), ("complete", b"5")]
    assert (sent_by_then, connection.threads) == ([], {threading.get_ident()})


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("reason", ["it was completed", "it has failed", "its exception was sent"])
async def test_call_from_thread_raises_at_once_after_end(reason: str) -> None:
    """Not only when the reactor gets to send it."""
    connection = ServerConnection()
    job = make_job(connection)
    end, sent = ALL_ENDS[reason]

    def work() -> None:
        end(job)
        job.send_data(b"x")

    with pytest.raises(JobEnded, match=reason):
        await deferToThread(work)
    assert connection.sent == sent


@pytest.mark.guarantee(number=8)
async def test_call_from_thread_raises_at_once_for_invalid_argument() -> None:
    connection = ServerConnection()
    job = make_job(connection)
    wrong: Any = "text"
    with pytest.raises(TypeError, match="result must be bytes"):
        await deferToThread(job.complete, wrong)
    assert (connection.sent, job.ended) == ([], "")


class Interrupted(Job):
    """At each check whether it has ended, it waits for another thread to check as well, but not for long."""

    meeting: threading.Barrier

    def _check(self) -> None:
        super()._check()
        with suppress(threading.BrokenBarrierError):
            self.meeting.wait(0.2)


@pytest.mark.guarantee(number=1)
def test_two_threads_end_job_only_once() -> None:
    """The other one gets `JobEnded`, and nothing is sent twice."""
    connection = ServerConnection(SimpleNamespace(callFromThread=lambda call, *arguments: call(*arguments)))
    job = Interrupted(connection, "f", Assignment(H1, b"f", b"", b"", b""))
    job.meeting = threading.Barrier(2)

    def end() -> None:
        with suppress(JobEnded):
            job.complete(b"r")

    threads = [threading.Thread(target=end, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert connection.sent == [("complete", b"r")]


def call_in_thread(call: Callable[[Job], None], job: Job) -> None:
    """Call in a thread; what that sends is not sent before the reactor's next turn."""
    thread = threading.Thread(target=call, args=(job,), daemon=True)
    thread.start()
    thread.join(HANG)
    assert not thread.is_alive()


@pytest.mark.guarantee(number=6)
async def test_data_from_thread_is_not_sent_after_end() -> None:
    """The reactor may end the job, by a time-out for example, before it gets to send the data."""
    connection = ServerConnection()
    job = make_job(connection)
    call_in_thread(CALLS["send_data"], job)
    job.fail()
    await deferLater(reactor, 0)
    assert connection.sent in ([("fail",)], [("data", b"x"), ("fail",)])


@pytest.mark.guarantee(number=6)
@pytest.mark.parametrize("call", CALLS)
async def test_call_from_thread_is_not_sent_if_job_is_lost_meanwhile(call: str) -> None:
    connection = ServerConnection()
    job = make_job(connection)
    call_in_thread(CALLS[call], job)
    job._close("its connection was lost")
    await deferLater(reactor, 0)
    assert (connection.sent, job.ended) == ([], "its connection was lost")


class Collecting(Job):
    """At each check whether it has ended, another job is ended in the same thread.

    As by the garbage collector, which may run the clean-up of a generator that ends its own job."""

    other: Job

    def _check(self) -> None:
        super()._check()
        self.other.fail()


def test_job_may_be_ended_while_another_one_ends() -> None:
    """The thread must not wait for itself."""
    connection = ServerConnection()
    job = Collecting(connection, "f", Assignment(H1, b"f", b"", b"", b""))
    job.other = make_job(connection)
    thread = threading.Thread(target=job.complete, daemon=True)
    connection.factory.reactor = SimpleNamespace(callFromThread=lambda call, *arguments: call(*arguments))
    thread.start()
    thread.join(HANG)
    if thread.is_alive():
        jobs._ENDING.release()  # else the tests that follow would hang
    assert connection.sent == [("fail",), ("complete", b"")]
