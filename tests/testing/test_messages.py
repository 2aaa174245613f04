"""What a failing test reports: the state of tasks, jobs, connections and faults, and the last packets."""

from __future__ import annotations

import re
from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, ensureDeferred, fail

from txgearman import Priority
from txgearman.packets import SUBMIT_JOB, SUBMIT_JOB_BG, SUBMIT_REDUCE_JOB
from txgearman.testing import MemoryJobServer, SubmittedJob
from txgearman.testing.packet_log import MAX_ENTRIES

from ..wire import outcome
from .peer import ask, connect

reactor: Any = global_reactor

HERE = r"tests/testing/test_messages\.py:\d+"


@pytest.fixture
def server() -> MemoryJobServer:
    """A server that is not verified: the tests below leave what they speak of."""
    return MemoryJobServer()


def message_of_take(server: MemoryJobServer, function: str = "reverse", **options: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        server.take(function, **options)
    return str(caught.value)


# take().


def test_nobody_is_connected(server: MemoryJobServer) -> None:
    assert message_of_take(server) == "no job for 'reverse' is due; queued: none\n  memory:1: connected: nobody"


def test_job_runs_already(server: MemoryJobServer) -> None:
    server.worker(client_id="w").register_function("reverse", lambda job: Deferred())
    server.client().add_task("reverse")
    first, task, state = message_of_take(server).splitlines()
    assert first == "no job for 'reverse' is due; queued: none"
    assert task.endswith("has no outcome: its job is running in worker for 'reverse' 'w' (connection 1)")
    assert state == "  memory:1: connected: worker for 'reverse' 'w' (connection 1), client (connection 2)"


def test_background_job_runs_already(server: MemoryJobServer) -> None:
    client = server.client()
    for _ in range(2):
        client.add_task_bg("reverse")
        server.take("reverse")
    client.add_task_bg("reverse")
    server.take("reverse")
    _, first, second, _ = message_of_take(server).splitlines()
    same = (
        rf"  background job H:memory:1 of 'reverse' on memory:1, submitted at {HERE} was taken at {HERE}, and has not "
    )
    assert re.fullmatch(same + r"ended \(and 1 more like it\)", first)
    assert second.startswith("  background job H:memory:3 of 'reverse' on memory:1, ")


def test_job_was_taken(server: MemoryJobServer) -> None:
    server.client().add_task("reverse")
    server.take("reverse")
    assert "has no outcome: its job was taken at tests/testing/test_messages.py:" in message_of_take(server)


def test_server_is_down(server: MemoryJobServer) -> None:
    client = server.client(server_wait=60)
    server.go_down()
    client.add_task("reverse")
    _, task, state = message_of_take(server).splitlines()
    assert "it has no job; its client: memory:1 is down (" in task
    assert "next attempt in " in task
    assert state == "  memory:1: connected: nobody; faults that last: go_down()"


def test_server_has_forgotten_the_job(server: MemoryJobServer) -> None:
    server.client().add_task("reverse")
    server.advance()
    server._core.jobs = type(server._core.jobs)(server.clock.seconds, 0, b"H:new")
    assert "has no outcome: its server does not have its job" in message_of_take(server)


def test_server_has_forgotten_jobs_of_a_batch(server: MemoryJobServer) -> None:
    server.client().add_tasks("reverse", [b"a", b"b", b"c"])
    server.take("reverse").complete()
    server._core.jobs = type(server._core.jobs)(server.clock.seconds, 0, b"H:new")
    assert re.search(
        rf"\n  batch of 3 jobs of 'reverse' \(submitted at {HERE}\) has no outcome for 2 of its jobs: job H:memory:2 "
        r"on memory:1 is not known to its server \(and 1 more like it\)\n",
        message_of_take(server),
    )


def test_job_is_queued_again(server: MemoryJobServer) -> None:
    server.client().add_task("reverse")
    server.take("reverse").abandon()
    assert "its job is queued again, and nobody has taken it" in message_of_take(server, "other")


def test_job_was_dropped(server: MemoryJobServer) -> None:
    client = server.client()
    client.add_task("reverse", unique="u").addErrback(lambda _: None).cancel()
    client.add_task("reverse", unique="u")
    server.advance()
    job = next(iter(server._core.jobs))
    job.dropped = True
    assert "its job was dropped, and stays queued until a worker asks for it" in message_of_take(server, "other")


def test_many_tasks_are_not_all_listed(server: MemoryJobServer) -> None:
    client = server.client()
    for _ in range(13):
        client.add_task("reverse")
    lines = message_of_take(server, "other").splitlines()
    assert len(lines) == 13
    assert lines[11] == "  and 3 more tasks"


def test_server_on_reactor_says_that_nothing_happens_meanwhile() -> None:
    text = message_of_take(MemoryJobServer(reactor))
    assert text.endswith("the server is on a reactor, where nothing happens during this call: await what is to happen")


# take(unique=, where=) and submitted.


def test_take_by_unique(server: MemoryJobServer) -> None:
    client = server.client()
    for unique in ("a", "b", "c"):
        client.add_task_bg("mail", unique=unique)
    assert server.take("mail", unique="b").unique == b"b"
    assert server.take("mail").unique == b"a"
    text = message_of_take(server, "mail", unique="b")
    assert text.startswith("no job for 'mail' with unique 'b' is due; queued: 'mail'\n")
    assert server.take("mail", unique=b"c").unique == b"c"
    assert server.queued("mail") == []


def test_take_where(server: MemoryJobServer) -> None:
    client = server.client()
    for number in range(5):
        client.add_task_bg("mail", b"%d" % number, priority=Priority.HIGH if number == 3 else Priority.LOW)
    client.add_task_bg("mail", b"later", at=100)
    job = server.take("mail", where=lambda job: job.priority is Priority.LOW and job.workload > b"1")
    assert (job.workload, job.priority, job.background, job.reducer, job.at) == (b"2", Priority.LOW, True, b"", 0)
    text = message_of_take(server, "mail", where=lambda job: job.at)
    assert text.startswith("no job for 'mail' that matches where= is due; queued: 'mail'\n")
    assert server.queued("mail") == [b"3", b"later", b"0", b"1", b"4"]
    job.complete()
    assert server.take("mail").workload == b"3"


def test_submitted_has_every_submit(server: MemoryJobServer) -> None:
    client = server.client(prefix="shop")
    client.add_task_bg("order", b"1", unique="o1", priority=Priority.HIGH)
    client.add_task("order", b"2", unique="o1")
    client.add_task_bg("mail", at=60)
    peer = connect(server)
    ask(server, peer, SUBMIT_REDUCE_JOB.request(b"count", b"", b"sum", b"", b"x"))
    submits = [SUBMIT_JOB_BG.request(b"full", b"", workload) for workload in (b"1", b"2")]
    ask(server, peer, submits[0], b"maxqueue full 1\r\n", submits[1])
    high, normal = Priority.HIGH, Priority.NORMAL
    assert server.submitted == [
        SubmittedJob(b"shop\torder", b"1", b"o1", high, True, b"", 0, b"H:memory:1"),
        SubmittedJob(b"shop\torder", b"2", b"o1", normal, False, b"", 0, b"H:memory:1"),
        SubmittedJob(b"shop\tmail", b"", b"", normal, True, b"", 60, b"H:memory:2"),
        SubmittedJob(b"count", b"x", b"", normal, False, b"sum", 0, b"H:memory:3"),
        SubmittedJob(b"full", b"1", b"", normal, True, b"", 0, b"H:memory:4"),
    ]
    assert server.take("count").reducer == b"sum"


def test_submitted_has_the_jobs_of_batches(server: MemoryJobServer) -> None:
    client = server.client()
    client.add_tasks("order", [b"1", b"2"], uniques=["o1", "o2"], priority=Priority.LOW)
    client.add_tasks_bg("mail", [b"3"])
    assert server.submitted == [
        SubmittedJob(b"order", b"1", b"o1", Priority.LOW, False, b"", 0, b"H:memory:1"),
        SubmittedJob(b"order", b"2", b"o2", Priority.LOW, False, b"", 0, b"H:memory:2"),
        SubmittedJob(b"mail", b"3", b"", Priority.NORMAL, True, b"", 0, b"H:memory:3"),
    ]


# result_of().


def test_failed_deferreds_raise_each_time(server: MemoryJobServer) -> None:
    failed: list[Deferred[None]] = [fail(ZeroDivisionError("first")), fail(ZeroDivisionError("second"))]
    for _ in range(3):
        for deferred, name in zip(failed, ("first", "second"), strict=True):
            with pytest.raises(ZeroDivisionError, match=f"^{name}$"):
                server.result_of(deferred)


def test_no_result_has_the_state(server: MemoryJobServer) -> None:
    deferred = server.client().add_task("reverse")
    with pytest.raises(AssertionError) as caught:
        server.result_of(deferred)
    first, task, state = str(caught.value).splitlines()
    assert first == "there is no result yet"
    assert task.startswith("  task 'reverse' (job H:memory:1 on memory:1, submitted at tests/testing/test_messages.py:")
    assert state == "  memory:1: connected: client (connection 1)"


def test_unfinished_coroutine_says_what_to_do(server: MemoryJobServer) -> None:
    client = server.client()

    async def both() -> bytes:
        return await client.add_task("reverse") + await client.add_task("reverse")

    expected = r"^there is no result yet: the coroutine waits. Call ensureDeferred\(\) of it, "
    with pytest.raises(AssertionError, match=expected):
        server.result_of(both())
    deferred = ensureDeferred(both())
    for _ in range(4):
        server.take("reverse").complete(b"x")
    assert server.result_of(deferred) == b"xx"


def test_call_within_callback_says_why_not(server: MemoryJobServer) -> None:
    texts: list[str] = []

    def ask_too_early(_: object) -> None:
        with pytest.raises(AssertionError) as caught:
            server.result_of(deferred)
        texts.append(str(caught.value).splitlines()[0])

    deferred = server.client().add_task("reverse", on_created=ask_too_early)
    server.advance()
    assert texts == ["there is no result yet: this call is within a callback, and what follows it has not happened"]


# The log, and reprs.


def test_log_has_what_came_and_went(server: MemoryJobServer) -> None:
    peer = connect(server)
    server.advance(1.5)
    ask(server, peer, SUBMIT_JOB.request(b"reverse", b"", b"x" * 1000), b"version\r\n")
    server.take("reverse").complete(b"\0" * 1000)
    peer.transport.loseConnection()
    server.advance()
    assert server.log().splitlines() == [
        "     0.000    1 -- connected",
        f"     1.500    1 -> SUBMIT_JOB 'reverse' '' '{'x' * 59}...",
        "     1.500    1 <- JOB_CREATED 'H:memory:1'",
        r"     1.500    1 -> 'version\r\n'",
        r"     1.500    1 <- 'OK 1.1.20-txgearman\n'",
        "     1.500    1 <- WORK_COMPLETE 'H:memory:1' '" + r"\x00" * 14 + r"\x0...",
        "     1.500    1 -- disconnected",
    ]
    assert server.log(1) == "     1.500    1 -- disconnected"
    assert server.log(0) == ""


def test_log_is_bounded(server: MemoryJobServer) -> None:
    client = server.client()
    for _ in range(MAX_ENTRIES):
        client.add_task_bg("mail")
    server.advance()
    assert len(server.log().splitlines()) == MAX_ENTRIES


def test_packets_without_arguments_are_named(server: MemoryJobServer) -> None:
    server.worker().register_function("mail", lambda job: None)
    server.advance()
    assert server.log(1).endswith(" -> PRE_SLEEP")
    assert server.log(2).splitlines()[0].endswith(" <- NO_JOB")


def test_reprs(server: MemoryJobServer) -> None:
    client, worker, admin = server.client(), server.worker(), server.admin()
    server.result_of(admin.version())
    fault = server.drop_before(SUBMIT_JOB)
    assert repr(fault) == "<Fault drop_before(SUBMIT_JOB): active, happened 0 times>"
    fault.end()
    assert repr(fault) == "<Fault drop_before(SUBMIT_JOB): ended, happened 0 times>"
    client.add_task_bg("mail")
    server.advance()
    assert repr(server) == "<MemoryJobServer memory:1: 3 connections, 1 jobs>"
    assert repr(server.connections[0]) == "<connection 1 to memory:1>"
    assert repr(client) == "<GearmanClient of memory:1 ready>"
    assert repr(worker) == "<GearmanWorker of memory:1 ready>"
    assert repr(admin) == "<GearmanAdmin of memory:1 ready>"
    server.close(verify=False)
    assert repr(client) == "<GearmanClient of memory:1 stopped>"
    assert repr(server) == "<MemoryJobServer memory:1 (closed): 0 connections, 1 jobs>"


# Faults.


def test_go_down_ends_what_the_test_has_taken(server: MemoryJobServer) -> None:
    """Its worker is disconnected like any other; the job goes back to the queue."""
    server.client().add_task_bg("mail")
    job = server.take("mail")
    with server.go_down():
        pass
    assert job.ended
    with pytest.raises(RuntimeError, match=r"of b'mail'> was lost, since the server went down$"):
        job.complete()
    assert server.command("status") == "mail\t1\t0\t0\n.\n"
    assert server.take("mail").handle == job.handle


def test_taken_job_is_lost_with_all_jobs(server: MemoryJobServer) -> None:
    server.client().add_task_bg("mail")
    job = server.take("mail")
    with server.go_down(lose_jobs=True):
        pass
    with pytest.raises(RuntimeError, match="was lost"):
        job.send_data(b"x")
    assert server.command("show jobs") == ".\n"


@pytest.mark.parametrize("numbers", [(-1, 0), (0, -1), (2**32, 1), (1, 2**32)])
@pytest.mark.guarantee(number=8)
def test_status_of_taken_job_is_checked_as_by_worker(server: MemoryJobServer, numbers: tuple[int, int]) -> None:
    server.client().add_task_bg("mail")
    job = server.take("mail")
    with pytest.raises(ValueError, match=r"^(numerator|denominator) must be "):
        job.send_status(*numbers)
    job.complete()


def test_nested_holds_have_both_happened(server: MemoryJobServer) -> None:
    client = server.client()
    outer = server.hold_answers()
    with server.hold_answers():
        fired = outcome(client.echo())
        server.advance()
    assert fired == []
    outer.release()
    assert len(fired) == 1
    server.close()


def test_reject_of_another_function_names_what_came(server: MemoryJobServer) -> None:
    client = server.client()
    server.reject("QUEUE_ERROR", function="mail")
    client.add_task_bg("order")
    client.add_task_bg("bill")
    server.queued("order")
    server.queued("bill")
    expected = r"reject\('QUEUE_ERROR', function='mail'\) has not happened: no such packet was received, only {}"
    with pytest.raises(AssertionError, match=expected.format("SUBMIT_JOB_BG of 'order', SUBMIT_JOB_BG of 'bill'")):
        server.verify()


def test_reject_of_function_names_nothing_where_nothing_was_submitted(server: MemoryJobServer) -> None:
    server.client()
    server.reject("QUEUE_ERROR", function="mail")
    with pytest.raises(AssertionError, match=r"no such packet was received, only other types$"):
        server.verify()


async def test_all_jobs_are_lost_under_a_worker_on_a_reactor() -> None:
    """Its connection is lost only later."""
    server = MemoryJobServer(reactor)
    started: Deferred[None] = Deferred()

    def work(job: object) -> Deferred[None]:
        if not started.called:
            started.callback(None)
        return Deferred()

    server.worker().register_function("mail", work)
    await server.client().add_task_bg("mail")
    await started
    with server.go_down(lose_jobs=True):
        assert server.command("show jobs") == ".\n"
    await server.close()
