"""`MemoryJobServer` as a test meets it: what it is made with, what it gives, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, ensureDeferred, fail, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.error import CannotListenError, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory
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
    SUBMIT_JOB_BG,
    SUBMIT_JOB_EPOCH,
)
from txgearman.testing import JobServerProtocol, MemoryJobServer, TakenJob

from ..wire import outcome
from .peer import CREATED, ECHO, ECHOED, SUBMIT, Recorder, ask, connect, in_turns

reactor: Any = global_reactor


@pytest.fixture
def server() -> MemoryJobServer:
    """On a clock that begins at 0; one of its own begins now."""
    return MemoryJobServer(Clock())


def taken(server: MemoryJobServer, **callbacks: Any) -> tuple[TakenJob, list[Any]]:
    """A job that the test has taken, and what its task comes to."""
    told = outcome(server.client().add_task("reverse", b"abc", unique=b"u", **callbacks))
    return server.take("reverse"), told


# What it is made with.


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"job_retries": -1}, "job_retries must be a number from 0, not -1"),
        ({"job_retries": 1.0}, "job_retries must be a number from 0, not 1.0"),
        ({"job_retries": True}, "job_retries must be a number from 0, not True"),
        ({"job_retries": "1"}, "job_retries must be a number from 0, not '1'"),
        ({"job_handle_prefix": "x" * 41}, "job_handle_prefix"),
        ({"job_handle_prefix": "ä" * 21}, "job_handle_prefix"),
        ({"job_handle_prefix": "a\0b"}, "job_handle_prefix"),
        ({"job_handle_prefix": 3}, "job_handle_prefix"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_options_that_can_not_be_meant(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises((TypeError, ValueError), match=complaint):
        MemoryJobServer(**options)


@pytest.mark.parametrize(
    ("prefix", "handle"), [("x" * 40, b"x" * 40 + b":1"), (b"\xff", b"\xff:1"), ("ä", "ä:1".encode())]
)
def test_handles_begin_as_they_should(prefix: Any, handle: bytes) -> None:
    server = MemoryJobServer(job_handle_prefix=prefix)
    ask(server, connect(server), SUBMIT)
    assert server.take("reverse").handle == handle


def test_the_clock_may_be_somebody_elses() -> None:
    clock = Clock()
    assert MemoryJobServer(clock).clock is clock
    assert isinstance(MemoryJobServer().clock, Clock)
    assert MemoryJobServer(reactor).clock is reactor


# Connections.


def test_connections_tell_what_came_on_them(server: MemoryJobServer) -> None:
    first, second = connect(server), connect(server)
    ask(server, second, ECHO, SUBMIT)
    assert [connection.requests for connection in server.connections] == [[], [ECHO_REQ, SUBMIT_JOB]]
    assert all(isinstance(connection, JobServerProtocol) for connection in server.connections)
    first.transport.loseConnection()
    server.advance()
    assert [connection.number for connection in server.connections] == [2]


def test_client_is_a_started_client(server: MemoryJobServer) -> None:
    """Of the options that it is given."""
    client = server.client(prefix="sandbox", exceptions=False)
    assert isinstance(client, GearmanClient)
    assert client.running
    assert len(server.connections) == 1
    assert OPTION_REQ not in server.connections[0].requests
    client.add_task("reverse").addErrback(lambda failure: failure.trap(ClientStopped))
    assert server.take("sandbox\treverse").function == b"sandbox\treverse"
    assert server.result_of(server.close()) is None


@pytest.mark.guarantee(number=8)
def test_clients_options_are_checked(server: MemoryJobServer) -> None:
    with pytest.raises(ValueError, match="connect_timeout"):
        server.client(connect_timeout=0)
    with pytest.raises(TypeError):
        server.client(reactor=Clock())
    assert server.result_of(server.close()) is None
    assert server.connections == []


def test_two_servers_on_one_clock() -> None:
    """A client of both; one of them goes, and its jobs go to the other."""
    clock = Clock()
    servers = [MemoryJobServer(clock), MemoryJobServer(clock, job_handle_prefix="H:second")]
    client = GearmanClient([server.endpoint() for server in servers], reactor=clock)
    client.startService()
    clock.advance(0)
    told = [outcome(client.add_task_bg("reverse")) for _ in range(2)]
    clock.advance(0)
    assert {handle.handle for (handle,) in told} == {b"H:memory:1", b"H:second:1"}
    servers[0].refuse_connections()
    servers[0].drop_connections()
    for _ in range(2):
        outcome(client.add_task_bg("reverse"))
    servers[0].advance(10)  # the delay has jitter
    assert [servers[1].take("reverse").handle for _ in range(3)] == [b"H:second:%d" % n for n in (1, 2, 3)]
    client.stopService()
    for server in servers:
        assert server.result_of(server.close()) is None
    assert clock.getDelayedCalls() == []


def test_two_servers_know_nothing_of_each_other() -> None:
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


def test_take_gives_the_next(server: MemoryJobServer) -> None:
    peer = connect(server)
    for n in range(3):
        ask(server, peer, SUBMIT_JOB.request(b"reverse", b"", b"%d" % n))
    assert [server.take("reverse").workload for _ in range(3)] == [b"0", b"1", b"2"]


def test_take_tells_what_is_queued(server: MemoryJobServer) -> None:
    """Not what is running; and a name that is no text, too."""
    with pytest.raises(AssertionError, match=r"^no job for 'reverse' is due; queued: none$"):
        server.take("reverse")
    peer = connect(server)
    for name in (b"running", b"sandbox\treverse", b"\xffother"):
        ask(server, peer, SUBMIT_JOB.request(name, b"", b""))
    server.take("running")
    with pytest.raises(AssertionError) as caught:
        server.take(b"reverse")
    assert str(caught.value) == (r"no job for b'reverse' is due; queued: 'sandbox\treverse', '\\xffother'")


def test_a_job_that_waits_for_its_time_is_not_due(server: MemoryJobServer) -> None:
    ask(server, connect(server), SUBMIT_JOB_EPOCH.request(b"later", b"", b"100", b""))
    with pytest.raises(AssertionError, match=r"^no job for 'later' is due; queued: 'later'$"):
        server.take("later")
    server.advance(100)
    assert server.take("later").function == b"later"


def test_taking_in_vain_leaves_no_worker(server: MemoryJobServer) -> None:
    peer = connect(server)
    with pytest.raises(AssertionError):
        server.take("reverse")
    assert ask(server, peer, b"status\n") in (b".\n", b"reverse\t0\t0\t0\n.\n")


def test_a_taken_job_has_a_worker_until_it_ends(server: MemoryJobServer) -> None:
    peer = connect(server)
    ask(server, peer, SUBMIT)
    job = server.take("reverse")
    assert ask(server, peer, b"status\n") == b"reverse\t1\t1\t1\n.\n"
    job.complete()
    peer.received()
    assert ask(server, peer, b"status\n") == b"reverse\t0\t0\t0\n.\n"


# What comes of a taken job.


@pytest.mark.guarantee(number=2)
def test_everything_that_a_job_can_say(server: MemoryJobServer) -> None:
    """It has arrived when the call returns."""
    events: list[Any] = []
    job, told = taken(
        server,
        on_data=lambda _, data: events.append(data),
        on_warning=lambda _, data: events.append((data, "!")),
        on_status=lambda _, *numbers: events.append(numbers),
    )
    job.send_data(b"\0data")
    job.send_warning(b"care")
    job.send_status(1, 3)
    assert events == [b"\0data", (b"care", "!"), (1, 3)]
    assert told == []
    job.complete(b"\0cba")
    assert told == [b"\0cba"]


ENDS: dict[str, tuple[Callable[[TakenJob], object], type[Exception] | None]] = {
    "complete": (lambda job: job.complete(), None),
    "fail": (lambda job: job.fail(), TaskFailed),
    "send_exception": (lambda job: job.send_exception(b"boom"), TaskException),
}


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("end", ENDS)
def test_every_end(server: MemoryJobServer, end: str) -> None:
    act, error = ENDS[end]
    job, told = taken(server)
    act(job)
    assert told == [b""] if error is None else [type(fault) for fault in told] == [error]
    assert ask(server, connect(server), b"status\n") == b"reverse\t0\t0\t0\n.\n"


SAYINGS: dict[str, Callable[[TakenJob], object]] = {
    **{name: act for name, (act, _) in ENDS.items()},
    "send_data": lambda job: job.send_data(b""),
    "send_warning": lambda job: job.send_warning(b""),
    "send_status": lambda job: job.send_status(0, 0),
    "abandon": lambda job: job.abandon(),
}


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("first", [*ENDS, "abandon"])
@pytest.mark.parametrize("second", SAYINGS)
def test_a_job_that_has_ended_says_nothing_more(server: MemoryJobServer, first: str, second: str) -> None:
    job, told = taken(server)
    SAYINGS[first](job)
    before = list(told)
    with pytest.raises(RuntimeError, match=r"^<TakenJob H:memory:1 of b'reverse'> has ended$"):
        SAYINGS[second](job)
    assert told == before


TEXT: Any = "text"


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    "say",
    [
        lambda job: job.send_data(TEXT),
        lambda job: job.send_warning(TEXT),
        lambda job: job.send_status(TEXT, 3),
        lambda job: job.complete(TEXT),
        lambda job: job.send_exception(TEXT),
    ],
    ids=["send_data", "send_warning", "send_status", "complete", "send_exception"],
)
def test_text_is_refused_and_the_job_goes_on(server: MemoryJobServer, say: Callable[[TakenJob], object]) -> None:
    job, told = taken(server)
    with pytest.raises(TypeError):
        say(job)
    assert told == []
    job.complete(b"cba")
    assert told == [b"cba"]


@pytest.mark.parametrize(("retries", "workers"), [(1, 1), (2, 2), (5, 5)])
def test_abandon_as_often_as_a_job_is_tried(retries: int, workers: int) -> None:
    server = MemoryJobServer(job_retries=retries)
    job, told = taken(server)
    for _ in range(workers - 1):
        job.abandon()
        assert told == []
        job = server.take("reverse")
    job.abandon()
    assert [type(error) for error in told] == [TaskFailed]
    with pytest.raises(AssertionError, match="queued: none"):
        server.take("reverse")


def test_abandon_without_a_limit(server: MemoryJobServer) -> None:
    job, told = taken(server)
    for _ in range(20):
        job.abandon()
        job = server.take("reverse")
    job.complete(b"at last")
    assert told == [b"at last"]
    assert job.handle == b"H:memory:1"


def test_an_abandoned_job_goes_to_a_worker_that_sleeps(server: MemoryJobServer) -> None:
    job, _ = taken(server)
    worker = connect(server)
    ask(server, worker, CAN_DO.request(b"reverse"))
    job.abandon()
    assert ask(server, worker, GRAB_JOB.request()) == JOB_ASSIGN.response(b"H:memory:1", b"reverse", b"abc")


def test_a_job_whose_client_left_ends_as_any(server: MemoryJobServer) -> None:
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
def test_a_callback_plays_the_worker(server: MemoryJobServer) -> None:
    """The result is there before add_task's caller has another turn."""
    client = server.client()
    told = outcome(client.add_task("reverse", on_created=lambda _: server.take("reverse").complete(b"cba")))
    server.advance()
    assert told == [b"cba"]


@pytest.mark.guarantee(number=2)
def test_a_callback_that_ends_another_job_does_not_overtake_its_creation(server: MemoryJobServer) -> None:
    """Both JOB_CREATED have come in one piece, and the second one's task has not been told yet."""
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
def test_a_callback_takes_the_next_job(server: MemoryJobServer) -> None:
    """A chain of jobs, each submitted by the one before."""
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
def test_a_timer_plays_the_worker(server: MemoryJobServer) -> None:
    """Inside of advance()."""
    told = outcome(server.client().add_task("reverse"))
    server.clock.callLater(3, lambda: server.take("reverse").complete(b"cba"))
    server.advance(2.9)
    assert told == []
    server.advance(0.2)
    assert told == [b"cba"]


# Time.


@pytest.mark.guarantee(number=10)
def test_advance_goes_from_one_event_to_the_next(server: MemoryJobServer) -> None:
    """Each happens at its time, those among it that another one plans."""
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
def test_odd_numbers_come_to_an_end(server: MemoryJobServer) -> None:
    """Sums of floating point numbers that are not what they should be."""
    happened: list[float] = []
    for n in range(1, 200):
        server.clock.callLater(n * 0.1, happened.append, n)
    for _ in range(70):
        server.advance(0.3)
    assert happened == list(range(1, 200))


def test_a_jobs_time_runs_on_the_clock(server: MemoryJobServer) -> None:
    """The one with which a worker said that it can do the function; no timer is left when it has ended."""
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
def test_a_worker_with_a_time_leaves_no_timer(server: MemoryJobServer) -> None:
    client, worker = connect(server), connect(server)
    ask(server, client, SUBMIT)
    ask(server, worker, CAN_DO_TIMEOUT.request(b"reverse", b"5000"), GRAB_JOB.request())
    assert server.clock.getDelayedCalls()
    assert server.result_of(server.close()) is None
    assert server.clock.getDelayedCalls() == []


# Results.


def test_result_of(server: MemoryJobServer) -> None:
    """Of a Deferred and of a coroutine; what is to happen now happens first."""
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
    with pytest.raises(AssertionError, match=r"^there is no result yet$"):
        server.result_of(waiting)
    server.close()


# The end.


def assert_closed(server: MemoryJobServer) -> None:
    """With a Clock, it has fired; and nothing is left."""
    assert server.result_of(server.close()) is None
    assert server.connections == []
    assert server.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("clients", [0, 1, 3])
def test_close(server: MemoryJobServer, clients: int) -> None:
    made = [server.client() for _ in range(clients)]
    assert_closed(server)
    assert not any(client.running for client in made)


@pytest.mark.guarantee(number=1)
def test_close_ends_what_is_under_way(server: MemoryJobServer) -> None:
    """Queued, running, and not even settled."""
    client = server.client()
    told = [outcome(client.add_task(name)) for name in ("queued", "running")]
    server.take("running")
    told.append(outcome(client.add_task("new")))
    assert_closed(server)
    assert [type(error) for (error,) in told] == [ClientStopped] * 3


def test_close_drops_the_connections_of_others(server: MemoryJobServer) -> None:
    """Raw ones, and those of clients that it did not make."""
    peer = connect(server)
    client = GearmanClient([server.endpoint()], reactor=server.clock)
    told = outcome(client.add_task("reverse"))
    server.advance()
    assert server.result_of(server.close()) is None
    assert peer.lost_with() == [ConnectionLost]
    assert [type(error) for error in told] == [TaskLost]
    client.stopService()
    assert server.clock.getDelayedCalls() == []


def test_close_twice(server: MemoryJobServer) -> None:
    server.client()
    connect(server)
    assert_closed(server)
    assert_closed(server)


def test_close_again_before_the_first_is_over(server: MemoryJobServer) -> None:
    """By somebody whose task it ended."""
    again: list[Any] = []
    client = server.client()
    client.add_task("reverse").addErrback(lambda _: again.append(outcome(server.close())))
    assert_closed(server)
    assert again == [[None]]


def test_close_with_held_answers(server: MemoryJobServer) -> None:
    """It tells of them, and ends all the same."""
    client = server.client()
    server.hold_answers()
    told = outcome(client.add_task("reverse"))
    server.advance()
    assert_complaint(server, "hold_answers() still holds 22 bytes: release() was expected")
    assert [type(error) for error in told] == [ClientStopped]


def assert_complaint(server: MemoryJobServer, complaint: str) -> None:
    """close() fails, once everything is gone."""
    (error,) = outcome(server.close())
    assert isinstance(error, AssertionError)
    assert str(error) == complaint
    assert server.connections == []
    assert server.clock.getDelayedCalls() == []


def test_close_with_a_fault_that_has_not_happened(server: MemoryJobServer) -> None:
    server.client()
    server.drop_before(SUBMIT_JOB)
    assert_complaint(
        server, "drop_before(SUBMIT_JOB) has not happened: no such packet has come, only OPTION_REQ, GET_STATUS"
    )


def test_close_while_silent(server: MemoryJobServer) -> None:
    client = server.client()
    with_task = outcome(client.add_task("reverse"))
    server.fall_silent()
    assert_closed(server)
    assert [type(error) for error in with_task] == [ClientStopped]


def test_close_while_silent_to_a_client_that_has_just_come(server: MemoryJobServer) -> None:
    server.fall_silent()
    client = server.client()
    told = outcome(client.add_task_bg("reverse"))
    assert_closed(server)
    assert [type(error) for error in told] == [ClientStopped]


@pytest.mark.parametrize("name", ["black_hole_connections", "refuse_connections"])
@pytest.mark.parametrize("seconds", [0, 5, 100])
def test_close_before_anybody_is_connected(server: MemoryJobServer, name: str, seconds: float) -> None:
    """An attempt hangs, has timed out, or waits to be made again."""
    getattr(server, name)()
    client = server.client()
    told = outcome(client.add_task("reverse"))
    server.advance(seconds)
    assert_closed(server)
    assert len(told) == 1


def test_close_while_splitting(server: MemoryJobServer) -> None:
    """In the middle of an answer."""
    client = server.client()
    server.split_answers(1)
    told = outcome(client.echo(b"x" * 100))
    closed: list[Any] = []
    in_turns(server, 20, lambda: closed.append(outcome(server.close())))
    server.advance()
    assert closed == [[None]]
    assert [type(error) for error in told] == [ClientStopped]
    assert server.connections == []


def test_close_while_jobs_are_in_hand(server: MemoryJobServer) -> None:
    """A job that was taken may still be ended, for nobody."""
    job, told = taken(server)
    assert_closed(server)
    job.complete(b"too late")
    assert [type(error) for error in told] == [ClientStopped]
    assert server.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=13)
def test_close_although_an_errback_makes_trouble(server: MemoryJobServer) -> None:
    """The last task's errback has the server fall silent; its client can't say good-bye, and is made to go."""
    client = server.client()
    client.add_task("reverse").addErrback(lambda _: [server.fall_silent()])
    server.advance()
    told = outcome(server.close())
    server.advance(5)
    assert told == [None]
    assert server.connections == []
    assert server.clock.getDelayedCalls() == []


# Ports.


def test_listen_needs_a_reactor(server: MemoryJobServer) -> None:
    with pytest.raises(
        ValueError, match=r"to listen on a port, a server needs the reactor: MemoryJobServer\(reactor\)"
    ):
        server.listen()


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize(("interface", "start"), [("127.0.0.1", "127.0.0.1:"), ("::1", "[::1]:")])
async def test_listen(interface: str, start: str) -> None:
    """A client that is given the address as it is."""
    server = MemoryJobServer(reactor)
    address = server.listen(interface=interface)
    assert address.startswith(start)
    client = GearmanClient([address])
    assert list(await client.echo()) == [address]
    created: Deferred[Any] = Deferred()
    deferred = client.add_task("reverse", b"abc", on_created=created.callback)
    await created
    server.take("reverse").complete(b"cba")
    assert await deferred == b"cba"
    assert server.connections[0].host == interface.encode()
    await client.stopService()
    await server.close()


@pytest.mark.guarantee(number=11)
async def test_a_server_on_the_reactor_has_clients_in_memory() -> None:
    server = MemoryJobServer(reactor)
    client = server.client()
    assert (await client.add_task_bg("reverse")).handle == b"H:memory:1"
    assert server.take("reverse").function == b"reverse"
    await server.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Twisted 22.4 leaves the socket open
async def test_a_port_that_is_taken() -> None:
    """Is told at the call; the server goes on."""
    first, second = MemoryJobServer(reactor), MemoryJobServer(reactor)
    port = int(first.listen().rpartition(":")[2])
    with pytest.raises(CannotListenError):
        second.listen(port)
    assert second.listen() != first.listen()
    await first.close()
    await second.close()


async def on_port(server: MemoryJobServer) -> Any:
    """A raw connection over TCP."""
    host, _, port = server.listen().rpartition(":")
    return await TCP4ClientEndpoint(reactor, host, int(port)).connect(Factory.forProtocol(Awaiting))


class Awaiting(Recorder):
    """Tells when something has come, and when the connection is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.came: Deferred[None] = Deferred()
        self.gone: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if not self.came.called:
            self.came.callback(None)

    def connectionLost(self, reason: Any = None) -> None:
        super().connectionLost(reason)
        self.gone.callback(None)


@pytest.mark.guarantee(number=11)
async def test_close_closes_the_port() -> None:
    server = MemoryJobServer(reactor)
    peer = await on_port(server)
    peer.transport.write(ECHO)
    await peer.came
    assert peer.received() == ECHOED
    await server.close()
    await peer.gone
    assert server.connections == []
    await server.close()


@pytest.mark.guarantee(number=11)
async def test_close_has_closed_when_it_fires() -> None:
    """No connection is left, and no timer that is to close it: trial agrees."""
    server = MemoryJobServer(reactor)
    peer = await on_port(server)
    peer.transport.write(ECHO)
    await peer.came
    before = set(reactor.getDelayedCalls())
    await server.close()
    left = list(server.connections), set(reactor.getDelayedCalls()) - before
    await peer.gone
    assert left == ([], set())


async def test_refuse_connections_on_a_port() -> None:
    """Accepted and closed at once, as it says."""
    server = MemoryJobServer(reactor)
    refusing = server.refuse_connections()
    peer = await on_port(server)
    peer.gone.addTimeout(2, reactor)
    try:
        await peer.gone
        assert refusing.happened == 1
    finally:
        peer.transport.abortConnection()
        refusing.end()
        refusing.happened = 1
        await server.close()


async def asking(server: MemoryJobServer) -> Any:
    """A connection whose first request has gone out."""
    count = len(server.connections)
    peer = await on_port(server)
    peer.transport.write(ECHO)
    while len(server.connections) == count:
        await turn()
    return peer


@pytest.mark.guarantee(number=10)
@pytest.mark.parametrize("meanwhile", ["nothing", "another silence"])
async def test_black_hole_connections_on_a_port(meanwhile: str) -> None:
    """Made, and never read from; also when new ones are, and when another silence ends."""
    server = MemoryJobServer(reactor)
    with server.black_hole_connections() as hole:
        swallowed = await asking(server)
    if meanwhile != "nothing":
        server.fall_silent().end()
    good = await asking(server)
    await good.came
    await turn()
    assert hole.happened == 1
    for peer in (swallowed, good):
        peer.transport.abortConnection()
    await server.close()
    assert swallowed.pieces == []


def turn() -> Deferred[None]:
    """Let the reactor have one."""
    deferred: Deferred[None] = Deferred()
    reactor.callLater(0.01, deferred.callback, None)
    return deferred


async def test_fall_silent_on_a_port() -> None:
    server = MemoryJobServer(reactor)
    peer = await on_port(server)
    other = await asking(server)
    await other.came
    silence = server.fall_silent()
    peer.transport.write(ECHO)
    await turn()
    assert peer.pieces == []
    silence.end()
    await peer.came
    assert peer.received() == ECHOED
    await server.close()
    await peer.gone
    await other.gone


async def test_split_and_drop_on_a_port() -> None:
    """An answer in pieces; then another, which is lost."""
    server = MemoryJobServer(reactor)
    peer = await on_port(server)
    server.split_answers(1)
    peer.transport.write(ECHO)
    while len(b"".join(peer.pieces)) < len(ECHOED):
        await turn()
    assert peer.received() == ECHOED
    server.drop_after(ECHO_REQ)
    peer.transport.write(ECHO)
    await peer.gone
    assert peer.lost_with()[0] in (ConnectionLost, ConnectionDone)
    await server.close()


async def test_it_serves_unix_sockets_too(tmp_path: Path) -> None:
    """It is a factory like others; the oldest Twisted takes a unix socket for TCP."""
    server = MemoryJobServer(reactor)
    port: Any = reactor.listenUNIX(str(tmp_path / "gearman"), server)
    peer: Any = await UNIXClientEndpoint(reactor, str(tmp_path / "gearman")).connect(Factory.forProtocol(Awaiting))
    peer.came.addTimeout(5, reactor)
    peer.transport.write(SUBMIT_JOB_BG.request(b"reverse", b"", b""))
    try:
        await peer.came
        assert peer.received() == CREATED
        assert server.connections[0].host == b"memory"
    finally:
        peer.transport.abortConnection()
        await peer.gone
        await server.close()
        await port.stopListening()


# Looking in.


def test_queued_tells_the_workloads_in_the_order_of_their_turns(server: MemoryJobServer) -> None:
    client = server.client(prefix="sandbox")
    for workload, priority in ((b"1", Priority.LOW), (b"2", Priority.NORMAL), (b"3", Priority.HIGH)):
        client.add_task_bg("reverse", workload, priority=priority)
    assert server.queued("sandbox\treverse") == [b"3", b"2", b"1"]
    assert server.queued(b"reverse") == []
    server.take("sandbox\treverse")
    assert server.queued("sandbox\treverse") == [b"2", b"1"]


@pytest.mark.guarantee(number=5)
def test_d2_command_plays_the_administrator(server: MemoryJobServer) -> None:
    client = server.client()
    told = outcome(client.add_task("reverse", b"abc"))
    job = server.take("reverse")
    assert server.command("status") == "reverse\t1\t1\t1\n.\n"
    assert server.command(f"cancel job {job.handle.decode()}") == "OK\r\n"
    assert [type(error) for error in told] == [TaskFailed]
    with pytest.raises(ValueError, match="gearmand closes the connection: 'a b c d e f'"):
        server.command("a b c d e f")


@pytest.mark.guarantee(number=7)
def test_a_client_of_two_servers(server: MemoryJobServer) -> None:
    """What can't be written to the one goes to the other."""
    other = MemoryJobServer(server.clock)
    client = server.client(other)
    with server.refuse_connections():
        server.drop_connections()
        told = outcome(client.add_task("reverse", b"abc"))
        other.take("reverse").complete(b"cba")
        assert told == [b"cba"]
        server.advance(5)
    server.result_of(other.close())


@pytest.mark.guarantee(number=8)
def test_the_servers_of_a_client_have_one_clock(server: MemoryJobServer) -> None:
    with pytest.raises(ValueError, match="must have one clock"):
        server.client(MemoryJobServer())


def test_result_of_what_is_pending_takes_nothing_away(server: MemoryJobServer) -> None:
    """Of a Deferred or a coroutine; what fails is raised; what is pending is told."""
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
def test_a_port_that_can_not_be(port: int) -> None:
    with pytest.raises(ValueError, match=f"port must be from 0 to 65535, not {port}"):
        MemoryJobServer(reactor).listen(port)


@pytest.mark.guarantee(number=10)
def test_advance_is_for_clocks() -> None:
    with pytest.raises(TypeError, match="only on a Clock"):
        MemoryJobServer(reactor).advance(1)


@pytest.mark.guarantee(number=7)
def test_a_server_that_goes_down_and_comes_back(server: MemoryJobServer) -> None:
    client = server.client()
    told = outcome(client.add_task("reverse", b"1"))
    with server.go_down() as fault:
        assert [type(error) for error in told] == [TaskLost]
        with pytest.raises(NoServersAvailable):
            server.result_of(client.add_task("reverse", b"2"))
    server.advance(5)
    assert fault.happened
    told = outcome(client.add_task("reverse", b"3"))
    assert server.queued("reverse") == [b"3"]
    server.take("reverse").complete(b"!")
    assert told == [b"!"]


@pytest.mark.guarantee(number=5)
def test_m4_a_server_that_is_started_anew_has_no_jobs(server: MemoryJobServer) -> None:
    client = server.client()
    before = server.result_of(client.add_task_bg("reverse", b"1"))
    server.go_down(lose_jobs=True).end()
    server.advance(5)
    assert server.queued("reverse") == []
    assert server.result_of(client.add_task_bg("reverse", b"2")).handle == before.handle


def test_a_real_worker_does_the_jobs(server: MemoryJobServer) -> None:
    """Of two servers; jobs that run are cancelled when the time for them is over."""
    other = MemoryJobServer(server.clock)
    worker = server.worker(other, drain_timeout=2.0)
    worker.register_function("reverse", lambda job: job.workload[::-1])
    worker.register_function("never", lambda job: Deferred())
    clients = [each.client() for each in (server, other)]
    results = [server.result_of(client.add_task("reverse", b"abc")) for client in clients]
    assert results == [b"cba"] * 2
    told = outcome(clients[0].add_task("never"))
    server.advance()
    start = server.clock.seconds()
    assert server.result_of(server.close()) is None
    assert server.clock.seconds() == start + 2
    assert [type(error) for error in told] == [ClientStopped]
    assert server.clock.getDelayedCalls() == []


def test_other_servers_are_verified_with_the_first(server: MemoryJobServer) -> None:
    other = MemoryJobServer(server.clock)
    server.client(other)
    other.reject("QUEUE_ERROR")
    with pytest.raises(AssertionError, match="QUEUE_ERROR"):
        server.result_of(server.close())
