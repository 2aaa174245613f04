"""The warning about a function whose jobs no worker takes."""

from __future__ import annotations

from unittest import mock

from txgearman.client import untaken_jobs
from txgearman.testing import MemoryJobServer

from ..client_harness import ClientHarness, ignore_errors
from ..watched_log import WatchedLog
from .connection_harness import H1, ProbingHarness, complete


def warnings(log: WatchedLog) -> list[str]:
    return [text for text in log.texts() if text.startswith("no worker")]


def advance(harness: ClientHarness, seconds: float) -> None:
    for _ in range(round(seconds)):
        harness.advance(1.0)


def submit(harness: ClientHarness, function: str = "resize") -> None:
    ignore_errors(harness.client.add_task(function))


def test_function_that_no_worker_takes_is_warned_of_once() -> None:
    harness = ClientHarness().start()
    with WatchedLog() as log:
        for _ in range(3):
            submit(harness)
        advance(harness, 59)
        assert warnings(log) == []
        advance(harness, 2)
        assert warnings(log) == ["no worker has taken resize on memory:1 for 60 s"]
        submit(harness, "rotate")
        advance(harness, 600)
        assert warnings(log)[1:] == ["no worker has taken rotate on memory:1 for 60 s"]
    harness.stop()


def test_function_of_a_batch_is_warned_of() -> None:
    harness = ClientHarness(job_check_interval=10.0, prefix="box").start()
    ignore_errors(harness.client.add_tasks("resize", [b"1", b"2"]))
    with WatchedLog() as log:
        advance(harness, 30)
        assert warnings(log) == [r"no worker has taken box\tresize on memory:1 for 10 s"]
    harness.stop()


def test_function_of_a_shared_job_is_warned_of() -> None:
    harness = ClientHarness(job_check_interval=10.0).start()
    for _ in range(2):
        ignore_errors(harness.client.add_task("resize", unique="u"))
    with WatchedLog() as log:
        advance(harness, 30)
        assert len(warnings(log)) == 1
    harness.stop()


def test_long_queue_from_which_workers_take_jobs_is_not_warned_of() -> None:
    """Each job waits for minutes, but another one ends each few seconds."""
    harness = ClientHarness().start()
    for _ in range(60):
        submit(harness)
    with WatchedLog() as log:
        for _ in range(60):
            job = harness.server.take("resize")
            advance(harness, 10)
            job.complete()
        assert warnings(log) == []
    harness.stop()


def test_function_whose_jobs_run_for_long_is_not_warned_of() -> None:
    harness = ClientHarness().start()
    submit(harness)
    harness.server.take("resize")
    submit(harness)
    with WatchedLog() as log:
        advance(harness, 600)
        assert warnings(log) == []
    harness.stop()


def test_function_is_warned_of_again_after_a_worker_had_it() -> None:
    harness = ClientHarness().start()
    submit(harness)
    with WatchedLog() as log:
        advance(harness, 61)
        job = harness.server.take("resize")
        advance(harness, 61)
        job.complete()
        submit(harness)
        advance(harness, 91)
        assert len(warnings(log)) == 2
    harness.stop()


def test_job_that_ended_before_the_answer_is_not_warned_of() -> None:
    harness = ProbingHarness()
    harness.begin(H1)
    with WatchedLog() as log:
        harness.wait(8)
        assert harness.queried() == [H1]
        harness.server.send(complete(b"", H1))
        harness.answer(H1, known=True)
        assert warnings(log) == []


def test_functions_that_are_remembered_are_limited() -> None:
    harness = ClientHarness(job_check_interval=10.0).start()
    with WatchedLog() as log, mock.patch.object(untaken_jobs, "MAX_WARNED", 2):
        for function in ("a", "b", "c"):
            submit(harness, function)
        advance(harness, 60)
        assert len(warnings(log)) > 3
    harness.stop()


def test_each_connection_warns_of_its_server() -> None:
    harness = ClientHarness(2, job_check_interval=10.0).start()
    for _ in range(20):
        submit(harness)
    with WatchedLog() as log:
        advance(harness, 60)
        assert sorted(text.split()[-4] for text in warnings(log)) == ["memory:1", "memory:2"]
    harness.stop()


def test_name_of_function_is_printable_in_the_warning() -> None:
    server = MemoryJobServer()
    client = server.client(job_check_interval=10.0)
    ignore_errors(client.add_task(b"a\n\x1b[31m"))
    with WatchedLog() as log:
        server.advance(5)
        server.advance(5)
        assert warnings(log) == [r"no worker has taken a\n\x1b[31m on memory:1 for 10 s"]
    server.close(verify=False)
