"""The calls of `MemoryJobServer`, except for its faults: construction, clients, jobs and time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, ensureDeferred, fail, succeed
from twisted.internet.task import Clock

from txgearman import (
    ClientStopped,
    GearmanClient,
    NoServersAvailable,
    Priority,
    Task,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
)
from txgearman.packets import (
    CAN_DO,
    CAN_DO_TIMEOUT,
    ECHO_REQ,
    GRAB_JOB,
    JOB_ASSIGN,
    OPTION_REQ,
    SUBMIT_JOB,
    SUBMIT_JOB_EPOCH,
)
from txgearman.testing import MemoryJobServer, TakenJob
from txgearman.testing.protocol import JobServerProtocol

from ..wire import outcome
from .peer import ECHO, SUBMIT, ask, connect, taken

reactor: Any = global_reactor


# Construction.


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"job_retries": -1}, "job_retries must be an int of at least 0, not -1"),
        ({"job_retries": 1.0}, "job_retries must be an int of at least 0, not 1.0"),
        ({"job_retries": True}, "job_retries must be an int of at least 0, not True"),
        ({"job_retries": "1"}, "job_retries must be an int of at least 0, not '1'"),
        ({"job_handle_prefix": "x" * 41}, "job_handle_prefix"),
        ({"job_handle_prefix": "ä" * 21}, "job_handle_prefix"),
        ({"job_handle_prefix": "a\0b"}, "job_handle_prefix"),
        ({"job_handle_prefix": 3}, "job_handle_prefix"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_invalid_options_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        MemoryJobServer(**options)


@pytest.mark.parametrize(
    ("prefix", "handle"), [("x" * 40, b"x" * 40 + b":1"), (b"\xff", b"\xff:1"), ("ä", "ä:1".encode())]
)
def test_handles_begin_with_prefix(prefix: Any, handle: bytes) -> None:
    server = MemoryJobServer(job_handle_prefix=prefix)
    ask(server, connect(server), SUBMIT)
    assert server.take("reverse").handle == handle


def test_server_runs_on_given_clock() -> None:
    clock = Clock()
    assert MemoryJobServer(clock).clock is clock
    assert isinstance(MemoryJobServer().clock, Clock)
    assert MemoryJobServer(reactor).clock is reactor


# Connections.


def test_connections_list_received_packet_types(server: MemoryJobServer) -> None:
    first, second = connect(server), connect(server)
    ask(server, second, ECHO, SUBMIT)
    assert [connection.requests for connection in server.connections] == [[], [ECHO_REQ, SUBMIT_JOB]]
    assert all(isinstance(connection, JobServerProtocol) for connection in server.connections)
    first.transport.loseConnection()
    server.advance()
    assert [connection.number for connection in server.connections] == [2]


def test_client_is_started_with_options(server: MemoryJobServer) -> None:
    """With the options that were passed."""
    client = server.client(prefix="sandbox", exceptions=False)
    assert isinstance(client, GearmanClient)
    assert client.running
    assert len(server.connections) == 1
    assert OPTION_REQ not in server.connections[0].requests
    client.add_task("reverse").addErrback(lambda failure: failure.trap(ClientStopped))
    assert server.take("sandbox\treverse").function == b"sandbox\treverse"
    server.close(verify=False)


@pytest.mark.guarantee(number=8)
def test_options_of_client_are_checked(server: MemoryJobServer) -> None:
    with pytest.raises(ValueError, match="connect_timeout"):
        server.client(connect_timeout=0)
    with pytest.raises(TypeError):
        server.client(reactor=Clock())
    assert server.result_of(server.close()) is None
    assert server.connections == []


def test_two_servers_share_clock() -> None:
    """The jobs of a client of both go to the second when the first is down."""
    clock = Clock()
    servers = [MemoryJobServer(clock), MemoryJobServer(clock, job_handle_prefix="H:second")]
    client = GearmanClient([server.endpoint() for server in servers], reactor=clock)
    client.startService()
    clock.advance(0)
    fired = [outcome(client.add_task_bg("reverse")) for _ in range(2)]
    clock.advance(0)
    assert {handle.handle for (handle,) in fired} == {b"H:memory:1", b"H:second:1"}
    servers[0].refuse_connections()
    servers[0].drop_connections()
    for _ in range(2):
        outcome(client.add_task_bg("reverse"))
    servers[0].advance(10)  # the delay has jitter
    assert [servers[1].take("reverse").handle for _ in range(3)] == [b"H:second:%d" % n for n in (1, 2, 3)]
    client.stopService()
    for server in servers:
        server.close(verify=False)
    assert clock.getDelayedCalls() == []


def test_two_servers_are_independent() -> None:
    first, second = MemoryJobServer(), MemoryJobServer()
    ask(first, connect(first), SUBMIT)
    first.hold_answers().end()
    with pytest.raises(AssertionError, match="queued: none"):
        second.take("reverse")
    second.verify()


# Taking jobs.


@pytest.mark.parametrize("name", ["reverse", b"reverse"])
def test_take(server: MemoryJobServer, name: str | bytes) -> None:
    outcome(server.client().add_task("reverse", b"abc", unique=b"u"))
    job = server.take(name)
    assert (job.handle, job.function, job.unique, job.workload) == (b"H:memory:1", b"reverse", b"u", b"abc")
    assert repr(job) == "<TakenJob H:memory:1 of b'reverse'>"


def test_take_returns_jobs_in_order(server: MemoryJobServer) -> None:
    peer = connect(server)
    for n in range(3):
        ask(server, peer, SUBMIT_JOB.request(b"reverse", b"", b"%d" % n))
    assert [server.take("reverse").workload for _ in range(3)] == [b"0", b"1", b"2"]


def test_take_without_job_names_queued_functions(server: MemoryJobServer) -> None:
    """Running jobs are not named; a name that is not UTF-8 is escaped."""
    with pytest.raises(AssertionError, match=r"^no job for 'reverse' is due; queued: none\n"):
        server.take("reverse")
    peer = connect(server)
    for name in (b"running", b"sandbox\treverse", b"\xffother"):
        ask(server, peer, SUBMIT_JOB.request(name, b"", b""))
    server.take("running")
    with pytest.raises(AssertionError) as caught:
        server.take(b"reverse")
    first = str(caught.value).splitlines()[0]
    assert first == r"no job for b'reverse' is due; queued: 'sandbox\treverse', '\\xffother'"


def test_scheduled_job_is_not_due_before_its_time(server: MemoryJobServer) -> None:
    ask(server, connect(server), SUBMIT_JOB_EPOCH.request(b"later", b"", b"100", b""))
    with pytest.raises(AssertionError, match=r"^no job for 'later' is due; queued: 'later'\n"):
        server.take("later")
    server.advance(100)
    assert server.take("later").function == b"later"


def test_take_without_job_leaves_no_worker(server: MemoryJobServer) -> None:
    peer = connect(server)
    with pytest.raises(AssertionError):
        server.take("reverse")
    assert ask(server, peer, b"status\n") in (b".\n", b"reverse\t0\t0\t0\n.\n")


def test_taken_job_has_worker_until_it_ends(server: MemoryJobServer) -> None:
    peer = connect(server)
    ask(server, peer, SUBMIT)
    job = server.take("reverse")
    assert ask(server, peer, b"status\n") == b"reverse\t1\t1\t1\n.\n"
    job.complete()
    peer.received()
    assert ask(server, peer, b"status\n") == b"reverse\t0\t0\t0\n.\n"


# Taken jobs.


@pytest.mark.guarantee(number=2)
def test_packets_of_taken_job_arrive_before_call_returns(server: MemoryJobServer) -> None:
    """Of each type."""
    events: list[Any] = []
    job, fired = taken(
        server,
        on_data=lambda _, data: events.append(data),
        on_warning=lambda _, data: events.append((data, "!")),
        on_status=lambda _, *numbers: events.append(numbers),
    )
    job.send_data(b"\0data")
    job.send_warning(b"care")
    job.send_status(1, 3)
    assert events == [b"\0data", (b"care", "!"), (1, 3)]
    assert fired == []
    job.complete(b"\0cba")
    assert fired == [b"\0cba"]


ENDS: dict[str, tuple[Callable[[TakenJob], object], type[Exception] | None]] = {
    "complete": (lambda job: job.complete(), None),
    "fail": (lambda job: job.fail(), TaskFailed),
    "send_exception": (lambda job: job.send_exception(b"boom"), TaskException),
}


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("end", ENDS)
def test_each_way_to_end_taken_job(server: MemoryJobServer, end: str) -> None:
    act, error = ENDS[end]
    job, fired = taken(server)
    act(job)
    assert fired == [b""] if error is None else [type(fault) for fault in fired] == [error]
    assert ask(server, connect(server), b"status\n") == b"reverse\t0\t0\t0\n.\n"


CALLS: dict[str, Callable[[TakenJob], object]] = {
    **{name: act for name, (act, _) in ENDS.items()},
    "send_data": lambda job: job.send_data(b""),
    "send_warning": lambda job: job.send_warning(b""),
    "send_status": lambda job: job.send_status(0, 0),
    "abandon": lambda job: job.abandon(),
}


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("first", [*ENDS, "abandon"])
@pytest.mark.parametrize("second", CALLS)
def test_ended_job_refuses_further_calls(server: MemoryJobServer, first: str, second: str) -> None:
    job, fired = taken(server)
    CALLS[first](job)
    before = list(fired)
    with pytest.raises(RuntimeError, match=r"^<TakenJob H:memory:1 of b'reverse'> has ended$"):
        CALLS[second](job)
    assert fired == before


TEXT: Any = "text"


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    "call",
    [
        lambda job: job.send_data(TEXT),
        lambda job: job.send_warning(TEXT),
        lambda job: job.send_status(TEXT, 3),
        lambda job: job.complete(TEXT),
        lambda job: job.send_exception(TEXT),
    ],
    ids=["send_data", "send_warning", "send_status", "complete", "send_exception"],
)
def test_taken_job_refuses_str_and_stays_active(server: MemoryJobServer, call: Callable[[TakenJob], object]) -> None:
    job, fired = taken(server)
    with pytest.raises(TypeError):
        call(job)
    assert fired == []
    job.complete(b"cba")
    assert fired == [b"cba"]


@pytest.mark.parametrize(("retries", "workers"), [(1, 1), (2, 2), (5, 5)])
def test_abandoned_job_fails_after_job_retries(retries: int, workers: int) -> None:
    server = MemoryJobServer(job_retries=retries)
    job, fired = taken(server)
    for _ in range(workers - 1):
        job.abandon()
        assert fired == []
        job = server.take("reverse")
    job.abandon()
    assert [type(error) for error in fired] == [TaskFailed]
    with pytest.raises(AssertionError, match="queued: none"):
        server.take("reverse")


def test_abandoned_job_is_requeued_without_limit(server: MemoryJobServer) -> None:
    job, fired = taken(server)
    for _ in range(20):
        job.abandon()
        job = server.take("reverse")
    job.complete(b"at last")
    assert fired == [b"at last"]
    assert job.handle == b"H:memory:1"


def test_abandoned_job_is_assigned_to_sleeping_worker(server: MemoryJobServer) -> None:
    job, _ = taken(server)
    worker = connect(server)
    ask(server, worker, CAN_DO.request(b"reverse"))
    job.abandon()
    assert ask(server, worker, GRAB_JOB.request()) == JOB_ASSIGN.response(b"H:memory:1", b"reverse", b"abc")


def test_taken_job_whose_client_left_can_be_completed(server: MemoryJobServer) -> None:
    peer = connect(server)
    ask(server, peer, SUBMIT)
    job = server.take("reverse")
    peer.transport.loseConnection()
    server.advance()
    job.send_data(b"for nobody")
    job.complete(b"for nobody")
    assert ask(server, connect(server), b"show jobs\n") == b".\n"


# From within callbacks.


@pytest.mark.guarantee(number=13)
def test_callback_can_take_and_complete_job(server: MemoryJobServer) -> None:
    """The result arrives in the same turn."""
    client = server.client()
    fired = outcome(client.add_task("reverse", on_created=lambda _: server.take("reverse").complete(b"cba")))
    server.advance()
    assert fired == [b"cba"]


@pytest.mark.guarantee(number=2)
def test_job_completed_within_callback_is_created_first(server: MemoryJobServer) -> None:
    """Both JOB_CREATED arrive in one piece, and the second has not been processed yet."""
    events: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: events.append(name)

    def created(_: Task) -> None:
        server.take("second").complete(b"2")

    client = server.client()
    client.add_task("first", on_created=created).addErrback(lambda failure: failure.trap(ClientStopped))
    second = outcome(client.add_task("second", on_created=note("created"), on_complete=note("complete")))
    server.advance()
    assert second == [b"2"]
    assert events == ["created", "complete"]


@pytest.mark.guarantee(number=13)
def test_callback_can_take_next_job(server: MemoryJobServer) -> None:
    """A chain of jobs, each submitted by the callback of the one before."""
    client = server.client()
    results: list[bytes] = []

    def go_on(result: bytes) -> Any:
        results.append(result)
        if len(results) == 5:
            return succeed(result)
        following = client.add_task("next", result + b"x")
        server.take("next").complete(result + b"x")
        return following.addCallback(go_on)

    last = outcome(client.add_task("next", b"").addCallback(go_on))
    server.take("next").complete(b"")
    assert results == [b"", b"x", b"xx", b"xxx", b"xxxx"]
    assert last == [b"xxxx"]


@pytest.mark.guarantee(number=13)
def test_timer_can_take_and_complete_job(server: MemoryJobServer) -> None:
    """Within advance()."""
    fired = outcome(server.client().add_task("reverse"))
    server.clock.callLater(3, lambda: server.take("reverse").complete(b"cba"))
    server.advance(2.9)
    assert fired == []
    server.advance(0.2)
    assert fired == [b"cba"]


# Time.


@pytest.mark.guarantee(number=10)
def test_advance_runs_each_event_at_its_time(server: MemoryJobServer) -> None:
    """Including events that another event schedules."""
    times: list[float] = []

    def tick() -> None:
        times.append(server.clock.seconds())
        server.clock.callLater(0.1, tick)

    server.clock.callLater(0.25, tick)
    server.advance(0.5)
    assert times == pytest.approx([0.25, 0.35, 0.45])
    assert server.clock.seconds() == 0.5
    server.advance()
    assert server.clock.seconds() == 0.5
    assert len(times) == 3


@pytest.mark.guarantee(number=10)
def test_advance_within_advance(server: MemoryJobServer) -> None:
    times: list[float] = []
    server.clock.callLater(1, server.advance, 5)
    server.clock.callLater(3, lambda: times.append(server.clock.seconds()))
    server.advance(2)
    assert times == [3]
    assert server.clock.seconds() == 6


@pytest.mark.guarantee(number=10)
def test_advance_ends_despite_rounding(server: MemoryJobServer) -> None:
    """Sums of floating-point numbers are inexact."""
    happened: list[float] = []
    for n in range(1, 200):
        server.clock.callLater(n * 0.1, happened.append, n)
    for _ in range(70):
        server.advance(0.3)
    assert happened == list(range(1, 200))


def test_timeout_of_job_runs_on_clock(server: MemoryJobServer) -> None:
    """The timeout of CAN_DO_TIMEOUT; no timer is left when the job has ended."""
    client, worker = connect(server), connect(server)
    ask(server, client, SUBMIT)
    assignment = ask(server, worker, CAN_DO_TIMEOUT.request(b"reverse", b"5000"), GRAB_JOB.request())
    assert assignment == JOB_ASSIGN.response(b"H:memory:1", b"reverse", b"abc")
    server.advance(4.9)
    with pytest.raises(AssertionError, match="queued: none"):
        server.take("reverse")
    server.advance(0.2)
    server.take("reverse").complete()
    assert server.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=11)
def test_worker_with_timeout_leaves_no_timer(server: MemoryJobServer) -> None:
    client, worker = connect(server), connect(server)
    ask(server, client, SUBMIT)
    ask(server, worker, CAN_DO_TIMEOUT.request(b"reverse", b"5000"), GRAB_JOB.request())
    assert server.clock.getDelayedCalls()
    assert server.result_of(server.close()) is None
    assert server.clock.getDelayedCalls() == []


# Results.


def test_result_of(server: MemoryJobServer) -> None:
    """Of a Deferred and of a coroutine; everything that is due happens first."""
    client = server.client()

    async def echo() -> str:
        await client.echo(b"")
        return "came"

    assert server.result_of(client.add_task_bg("reverse")).handle == b"H:memory:1"
    assert server.result_of(echo()) == "came"
    assert server.result_of(succeed(None)) is None
    with pytest.raises(ZeroDivisionError):
        server.result_of(fail(ZeroDivisionError()))
    waiting: Deferred[None] = Deferred()
    with pytest.raises(AssertionError, match=r"^there is no result yet\n"):
        server.result_of(waiting)
    assert server.queued("reverse") == [b""]
    server.close()


# Queues, and the text protocol.


def test_queued_returns_workloads_in_order_of_take(server: MemoryJobServer) -> None:
    client = server.client(prefix="sandbox")
    for workload, priority in ((b"1", Priority.LOW), (b"2", Priority.NORMAL), (b"3", Priority.HIGH)):
        client.add_task_bg("reverse", workload, priority=priority)
    assert server.queued("sandbox\treverse") == [b"3", b"2", b"1"]
    assert server.queued(b"reverse") == []
    server.take("sandbox\treverse")
    assert server.queued("sandbox\treverse") == [b"2", b"1"]


@pytest.mark.guarantee(number=5)
def test_d2_command_cancels_job_of_client(server: MemoryJobServer) -> None:
    client = server.client()
    fired = outcome(client.add_task("reverse", b"abc"))
    job = server.take("reverse")
    assert server.command("status") == "reverse\t1\t1\t1\n.\n"
    assert server.command(f"cancel job {job.handle.decode()}") == "OK\r\n"
    assert [type(error) for error in fired] == [TaskFailed]
    with pytest.raises(ValueError, match=r"line must have 4 arguments at most, .* 'a b c d e f'"):
        server.command("a b c d e f")


@pytest.mark.guarantee(number=7)
def test_client_of_two_servers_fails_over(server: MemoryJobServer) -> None:
    """A task that can't be sent to one is sent to the other."""
    other = MemoryJobServer(server.clock)
    client = server.client(other)
    with server.refuse_connections():
        server.drop_connections()
        fired = outcome(client.add_task("reverse", b"abc"))
        other.take("reverse").complete(b"cba")
        assert fired == [b"cba"]
        server.advance(5)
    server.result_of(other.close())


@pytest.mark.guarantee(number=8)
def test_servers_of_client_must_share_clock(server: MemoryJobServer) -> None:
    with pytest.raises(ValueError, match="must have the same clock"):
        server.client(MemoryJobServer())


def test_result_of_pending_deferred_leaves_its_result(server: MemoryJobServer) -> None:
    """It raises for a pending one, and for one that has failed."""
    client = server.client()

    async def twice() -> bytes:
        return 2 * await client.add_task("reverse", b"abc")

    running = ensureDeferred(twice())
    with pytest.raises(AssertionError, match="there is no result yet"):
        server.result_of(running)
    server.take("reverse").complete(b"cba")
    assert [server.result_of(running) for _ in range(2)] == [b"cbacba"] * 2
    server.reject("QUEUE_ERROR")
    with pytest.raises(TaskRejected):
        server.result_of(twice())


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("port", [-1, 65536])
def test_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match=f"port must be from 0 to 65535, not {port}"):
        MemoryJobServer(reactor).listen(port)


@pytest.mark.guarantee(number=10)
def test_advance_needs_clock() -> None:
    with pytest.raises(TypeError, match="needs a Clock, not a reactor"):
        MemoryJobServer(reactor).advance(1)


@pytest.mark.guarantee(number=7)
def test_server_accepts_connections_again_after_go_down(server: MemoryJobServer) -> None:
    client = server.client()
    fired = outcome(client.add_task("reverse", b"1"))
    with server.go_down() as fault:
        assert [type(error) for error in fired] == [TaskLost]
        with pytest.raises(NoServersAvailable):
            server.result_of(client.add_task("reverse", b"2"))
    server.advance(5)
    assert fault.happened
    fired = outcome(client.add_task("reverse", b"3"))
    assert server.queued("reverse") == [b"3"]
    server.take("reverse").complete(b"!")
    assert fired == [b"!"]


@pytest.mark.guarantee(number=5)
def test_m4_restarted_server_has_no_jobs_and_reuses_handles(server: MemoryJobServer) -> None:
    client = server.client()
    before = server.result_of(client.add_task_bg("reverse", b"1"))
    server.go_down(lose_jobs=True).end()
    server.advance(5)
    assert server.queued("reverse") == []
    assert server.result_of(client.add_task_bg("reverse", b"2")).handle == before.handle


def test_close_ends_jobs_of_worker_whose_drain_has_no_limit(server: MemoryJobServer) -> None:
    worker, ends = server.worker(drain_timeout=None), []
    worker.register_function("never", lambda job: Deferred(lambda _: ends.append(job.ended)))
    server.result_of(server.client().add_task_bg("never"))
    server.advance()
    assert server.result_of(server.close(verify=False)) is None
    assert [end.partition(":")[0] for end in ends] == ["its connection was lost"]


def test_worker_of_two_servers_runs_jobs(server: MemoryJobServer) -> None:
    """close() cancels jobs that are still running after the drain timeout."""
    other = MemoryJobServer(server.clock)
    worker = server.worker(other, drain_timeout=2.0)
    worker.register_function("reverse", lambda job: job.workload[::-1])
    worker.register_function("never", lambda job: Deferred())
    clients = [each.client() for each in (server, other)]
    results = [server.result_of(client.add_task("reverse", b"abc")) for client in clients]
    assert results == [b"cba"] * 2
    fired = outcome(clients[0].add_task("never"))
    server.advance()
    start = server.clock.seconds()
    server.close(verify=False)
    assert server.clock.seconds() == start + 2
    assert [type(error) for error in fired] == [ClientStopped]
    assert server.clock.getDelayedCalls() == []
