"""The API of a worker on job servers in memory, and any calls of it in any order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from txgearman import (
    ClientStopped,
    GearmanWorker,
    Job,
    NoServersAvailable,
    Priority,
    ServerState,
)
from txgearman.packets import (
    SUBMIT_REDUCE_JOB,
)
from txgearman.testing import MemoryJobServer
from txgearman.validation import MAX_FUNCTION
from txgearman.worker.worker import POLL_INTERVAL, format_exception

from ..wire import outcome, present
from .harness import Slow, do_nothing, function_status, offers, reactor, running_jobs, slots_held, submit

# What a job shows.


def test_job_shows_its_submit(server: MemoryJobServer) -> None:
    slow = Slow()
    server.worker(prefix="box").register_function("slow", slow)
    client = server.client(prefix="box")
    handle = server.result_of(client.add_task_bg("slow", b"w\0", unique=b"u"))
    [job] = slow.jobs
    received = (job.function, job.workload, job.unique, job.reducer, job.handle.handle)
    assert received == ("slow", b"w\0", b"u", b"", handle.handle)
    assert str(job) == f"slow {job.handle}"
    slow.end_all()


def test_job_shows_its_reducer(server: MemoryJobServer) -> None:
    slow = Slow()
    server.worker().register_function("slow", slow)
    [connection] = [each.connection for each in server.client()._servers]  # no call of the client's submits one
    present(connection).transport.write(SUBMIT_REDUCE_JOB.request(b"slow", b"u", b"red", b"\0"[:0], b"data"))
    server.advance()
    assert [(job.reducer, job.workload, job.unique) for job in slow.jobs] == [(b"red", b"data", b"u")]


@pytest.mark.parametrize(("prefix", "name"), [("", "slow"), ("box", "box\tslow")])
def test_prefix_is_on_the_wire_only(server: MemoryJobServer, prefix: str, name: str) -> None:
    slow = Slow()
    worker = server.worker(prefix=prefix)
    worker.register_function("slow", slow)
    done = outcome(server.client().add_task(name, b"x"))
    assert running_jobs(server, name) == 1
    slow.end_all()
    server.advance()
    assert (done, slow.jobs[0].function) == ([b"x"], "slow")
    worker.unregister_function("slow")
    assert function_status(server)[name][2] == 0


def test_function_name_of_bytes_stays_bytes(server: MemoryJobServer) -> None:
    slow = Slow()
    server.worker().register_function(b"slow", slow)
    server.result_of(server.client().add_task_bg("slow"))
    assert slow.jobs[0].function == b"slow"
    slow.end_all()


def test_server_shows_client_id(server: MemoryJobServer) -> None:
    worker = server.worker(client_id="thumbs-1")
    worker.register_function("a", lambda job: None)
    worker.register_function("b", lambda job: None, max_jobs=1)
    assert offers(server) == [("thumbs-1", {"a"}), ("thumbs-1", {"b"})]


# Members.


@pytest.mark.parametrize(
    ("kind", "members"),
    [
        (
            GearmanWorker,
            {"end_drain", "function", "functions", "job_servers", "max_jobs", "pause", "paused", "register_function"}
            | {"resume", "running_jobs", "servers", "unregister_function", "when_ready"},
        ),
        (
            Job,
            {"function", "handle", "reducer", "unique", "workload", "ended", "complete", "fail"}
            | {"send_data", "send_exception", "send_status", "send_warning", "when_drained"},
        ),
    ],
)
def test_public_members_are_those_of_the_reference(kind: type[object], members: set[str]) -> None:
    """Besides those of a service of Twisted."""
    assert {name for name in dir(kind) if not name.startswith("_")} - set(dir(Service)) == members


def test_worker_has_no_public_attributes_but_those_of_a_service() -> None:
    assert {name for name in vars(GearmanWorker(["localhost"])) if not name.startswith("_")} <= {"name", "parent"}


# Defaults.


def test_default_format_has_type_and_text_only() -> None:
    assert format_exception(Failure(ValueError("\u00fc"))) == "ValueError: \u00fc".encode()


# Threads.


def test_threaded_function_needs_reactor_with_threads(server: MemoryJobServer) -> None:
    with pytest.raises(ValueError, match="threads"):
        server.worker().register_function("work", lambda job: None, threaded=True)


# Invalid arguments.


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"max_jobs": 0}, ValueError),
        ({"max_jobs": 1.5}, TypeError),
        ({"client_id": "a\0b"}, ValueError),
        ({"client_id": "x" * 128}, ValueError),
        ({"poll_interval": 0}, ValueError),
        ({"prefix": 5}, TypeError),
    ],
)
def test_invalid_argument_raises(options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        GearmanWorker(["localhost"], **options)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(("value", "shown"), [(-1, "-1"), (float("inf"), "inf"), (float("nan"), "nan"), ("5", "str")])
def test_invalid_drain_timeout_raises_and_names_none(value: Any, shown: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^drain_timeout .* or None for no limit, not {shown}$"):
        GearmanWorker(["localhost"], drain_timeout=value)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("job_servers", "kind"), [("localhost", TypeError), ([], ValueError), (["a", "a"], ValueError)]
)
def test_invalid_job_servers_raise(job_servers: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        GearmanWorker(job_servers)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("name", "function", "options", "kind"),
    [
        ("", len, {}, ValueError),
        ("a\0", len, {}, ValueError),
        ("x" * (MAX_FUNCTION - 3), len, {}, ValueError),  # with its prefix
        (5, len, {}, TypeError),
        ("f", None, {}, TypeError),
        ("f", len, {"timeout": 0}, ValueError),
        ("f", len, {"max_jobs": 0}, ValueError),
        ("taken", len, {}, ValueError),
    ],
)
def test_invalid_registration_raises_and_registers_nothing(
    server: MemoryJobServer, name: Any, function: Any, options: dict[str, Any], kind: type[Exception]
) -> None:
    worker = server.worker(prefix="box")
    worker.register_function("taken", lambda job: None)
    with pytest.raises(kind):
        worker.register_function(name, function, **options)
    server.advance()
    assert set(function_status(server)) == {"box\ttaken"}


@pytest.mark.guarantee(number=8)
def test_unregistration_of_unknown_function_raises(server: MemoryJobServer) -> None:
    with pytest.raises(ValueError, match="not registered"):
        server.worker().unregister_function("f")


# Servers at run time.


@pytest.mark.parametrize("max_jobs", [None, 2])
def test_job_servers_can_be_changed_at_run_time(
    server: MemoryJobServer, second: MemoryJobServer, max_jobs: int | None
) -> None:
    """Jobs that run end at their server, which is asked for no more; those of a limited function as well."""
    slow = Slow()
    worker = server.worker(client_id="w")
    worker.register_function("slow", slow, max_jobs=max_jobs)
    clients = server.client(), second.client()
    first = outcome(clients[0].add_task("slow", b"1"))
    server.advance()
    assert slow.started == [b"1"]
    worker.job_servers = [second.endpoint()]
    waiting = outcome(clients[0].add_task("slow", b"2"))
    moved = outcome(clients[1].add_task("slow", b"3"))
    server.advance()
    assert slow.started == [b"1", b"3"]
    slow.end_all()
    server.advance()
    assert (first, moved, waiting) == ([b"1"], [b"3"], [])
    assert (offers(server), {name for name, _ in offers(second)}) == ([], {"w"})
    worker.job_servers = [*worker.job_servers, server.endpoint()]
    server.advance()
    slow.end(b"2")
    server.advance()
    assert waiting == [b"2"]
    second.close(verify=False)


def test_idle_worker_disconnects_removed_server_at_once(server: MemoryJobServer, second: MemoryJobServer) -> None:
    worker = server.worker(second)
    worker.register_function("slow", Slow())
    server.advance()
    assert len(offers(second)) == 1
    worker.job_servers = worker.job_servers[:1]
    server.advance()
    assert (len(offers(server)), offers(second)) == (1, [])
    assert [info.state for info in worker.servers] == [ServerState.READY]


@pytest.mark.guarantee(number=8)
def test_invalid_job_servers_change_nothing(server: MemoryJobServer) -> None:
    worker = server.worker()
    worker.register_function("slow", Slow(), max_jobs=1)
    before = worker.job_servers
    for wrong in ([], ["a b"], "host", [1]):
        with pytest.raises((TypeError, ValueError), match="job_servers"):
            worker.job_servers = wrong  # type: ignore[assignment]  # some are of a wrong type
    assert worker.job_servers == before
    server.advance()
    assert len(offers(server)) == 1


@pytest.mark.guarantee(number=11)
def test_stop_waits_for_jobs_of_removed_server(server: MemoryJobServer, second: MemoryJobServer) -> None:
    slow = Slow()
    worker = server.worker(second)
    worker.register_function("slow", slow)
    done = outcome(server.client().add_task("slow", b"1"))
    server.advance()
    worker.job_servers = worker.job_servers[1:]
    stopped = outcome(worker.stopService())
    server.advance(1)
    assert (done, stopped) == ([], [])
    slow.end_all()
    server.advance()
    assert (done, len(stopped)) == ([b"1"], 1)
    assert offers(server) == offers(second) == []


# Stopping.


@pytest.mark.guarantee(number=11)
def test_worker_that_was_never_started_stops_at_once(server: MemoryJobServer) -> None:
    worker = GearmanWorker([server.endpoint()], reactor=server.clock)
    worker.register_function("f", lambda job: None, max_jobs=1)
    assert outcome(worker.stopService()) == [None]


def prepare_connecting(server: MemoryJobServer) -> GearmanWorker:
    worker = GearmanWorker([server.endpoint()], reactor=server.clock)
    worker.register_function("f", lambda job: None)
    worker.startService()
    return worker


def prepare_handshake(server: MemoryJobServer) -> GearmanWorker:
    hold = server.hold_answers()
    worker = prepare_connecting(server)
    server.advance(1)
    server.clock.callLater(1, hold.release)
    return worker


def prepare_reconnect_delay(server: MemoryJobServer) -> GearmanWorker:
    with server.refuse_connections():
        worker = prepare_connecting(server)
        server.advance(0.1)
    assert [info.state for info in worker.servers] == [ServerState.WAITING]
    return worker


def prepare_black_hole(server: MemoryJobServer) -> GearmanWorker:
    with server.black_hole_connections():
        worker = prepare_connecting(server)
        server.advance(1)
    return worker


def prepare_asleep(server: MemoryJobServer) -> GearmanWorker:
    worker = prepare_connecting(server)
    server.advance(1)
    return worker


def prepare_request(server: MemoryJobServer) -> GearmanWorker:
    worker = prepare_asleep(server)
    hold = server.hold_answers()
    server.advance(POLL_INTERVAL)
    assert slots_held(worker) == 1
    server.clock.callLater(1, hold.release)
    return worker


def prepare_wakeup_backoff(server: MemoryJobServer) -> GearmanWorker:
    client = server.client()
    server.result_of(client.add_task_bg("f", at=server.clock.seconds() + 1000))
    server.result_of(client.add_task_bg("f", priority=Priority.LOW))
    return prepare_asleep(server)


PREPARE: Final = [
    prepare_connecting,
    prepare_handshake,
    prepare_reconnect_delay,
    prepare_black_hole,
    prepare_asleep,
    prepare_request,
    prepare_wakeup_backoff,
]


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("prepare", PREPARE)
def test_stop_leaves_nothing(server: MemoryJobServer, prepare: Callable[[MemoryJobServer], Any]) -> None:
    worker = prepare(server)
    timers = [outcome(worker.stopService()), outcome(worker.stopService())]
    server.advance(5)
    assert timers == [[None], [None]]
    assert slots_held(worker) == 0
    assert all(info.state is ServerState.STOPPED for info in worker.servers)
    server.advance(100)
    assert offers(server) == []


@pytest.mark.parametrize("prepare", PREPARE)
def test_worker_can_be_restarted_at_once(server: MemoryJobServer, prepare: Callable[[MemoryJobServer], Any]) -> None:
    worker = prepare(server)
    stopped = [outcome(worker.stopService())]
    worker.startService()
    worker.startService()
    server.advance(0.1)
    stopped.append(outcome(worker.stopService()))
    worker.startService()
    worker.register_function("g", lambda job: b"g")
    server.advance(5)
    assert stopped == [[None], [None]]
    done = outcome(server.client().add_task("g"))
    server.advance(1)  # a connection with many spurious wake-ups is asked with a delay
    assert done == [b"g"]
    assert [functions for _, functions in offers(server)] == [{"f", "g"}]
    assert slots_held(worker) == 0
    server.result_of(worker.stopService())


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("kind", ["stop", "restart", "unregister", "register", "all"])
@pytest.mark.parametrize("later", [False, True])
def test_function_may_stop_start_and_change_its_worker(server: MemoryJobServer, kind: str, later: bool) -> None:
    stopped: list[Any] = []

    def change_worker() -> None:
        if kind in ("stop", "restart", "all"):
            worker.stopService().addCallback(stopped.append)
        if kind in ("unregister", "all"):
            worker.unregister_function("f")
        if kind in ("register", "all"):
            worker.register_function("more", lambda job: b"more")
        if kind in ("restart", "all"):
            worker.startService()

    async def function(job: Job) -> bytes:
        if later:
            await deferLater(server.clock, 1)
        change_worker()
        return b"done"

    worker = server.worker()
    worker.register_function("f", function)
    assert outcome_of(server, server.client().add_task("f")) == [b"done"]
    assert stopped == [None] * (kind in ("stop", "restart", "all"))
    assert slots_held(worker) == 0
    expected = {"stop": [], "restart": [{"f"}], "unregister": [], "register": [{"f", "more"}], "all": [{"more"}]}
    assert [functions for _, functions in offers(server)] == expected[kind]


def outcome_of(server: MemoryJobServer, deferred: Deferred[Any]) -> list[Any]:
    received = outcome(deferred)
    server.advance(5)
    return received


def test_function_that_awaits_stop_of_its_worker_is_cancelled(server: MemoryJobServer) -> None:
    """Each waits for the other, until the drain time-out."""

    async def function(job: Job) -> None:
        await worker.stopService()

    worker = server.worker(drain_timeout=5.0)
    worker.register_function("f", function)
    server.result_of(server.client().add_task_bg("f"))
    stopped = outcome(worker.stopService())
    server.advance(5.1)
    assert (stopped, slots_held(worker)) == ([None], 0)
    assert function_status(server)["f"] == (1, 0, 0)


@pytest.mark.guarantee(number=13)
def test_deferred_of_stop_may_start_and_stop_worker(server: MemoryJobServer) -> None:
    worker = server.worker()
    worker.register_function("f", lambda job: b"done")
    server.advance()
    order: list[str] = []

    def again(_: object) -> Deferred[Any]:
        order.append("stopped")
        worker.startService()
        stopping: Deferred[Any] = worker.stopService()
        worker.startService()
        return stopping

    assert outcome_of(server, worker.stopService().addCallback(again)) == [None]
    assert order == ["stopped"]
    assert server.result_of(server.client().add_task("f")) == b"done"


@pytest.mark.guarantee(number=13)
def test_canceller_may_stop_and_start_worker(server: MemoryJobServer) -> None:
    """It is called while a lost connection is cleaned up."""
    cancelled: list[bytes] = []

    def function(job: Job) -> Deferred[None]:
        def cancel(_: object) -> None:
            cancelled.append(job.workload)
            worker.stopService()
            worker.startService()

        return Deferred(cancel)

    worker = server.worker(max_jobs=3)
    worker.register_function("slow", function)
    submit(server.client(), range(3))
    server.advance()
    server.drop_connections()
    assert cancelled == [b"0", b"1", b"2"]
    assert slots_held(worker) == 0
    server.advance(5)
    assert [functions for _, functions in offers(server)] == [{"slow"}]


@pytest.mark.guarantee(number=13)
def test_function_may_await_another_job_of_its_server(server: MemoryJobServer) -> None:
    client = server.client()

    async def outer(job: Job) -> bytes:
        return b"<" + await client.add_task("inner", job.workload) + b">"

    worker = server.worker(max_jobs=2)
    worker.register_function("outer", outer)
    worker.register_function("inner", lambda job: job.workload)
    assert server.result_of(client.add_task("outer", b"x")) == b"<x>"


async def test_worker_is_async_context_manager() -> None:
    server = MemoryJobServer(reactor)
    async with GearmanWorker([server.endpoint()]) as worker:
        assert worker.running
        worker.register_function("f", lambda job: b"done")
        assert await server.client().add_task("f") == b"done"
    assert not worker.running
    assert [info.state for info in worker.servers] == [ServerState.STOPPED]
    await server.close()


def test_servers_count_running_jobs_of_all_groups(server: MemoryJobServer, second: MemoryJobServer) -> None:
    """Those of limited functions and of retired groups are counted, too."""
    slow, limited = Slow(), Slow()
    worker = server.worker(second)
    worker.register_function("slow", slow)
    worker.register_function("limited", limited, max_jobs=2)
    submit(server.client(), range(2))
    submit(second.client(), range(5, 6), "limited")
    server.advance()
    worker.unregister_function("slow")
    server.advance()
    assert [(info.state, info.in_flight) for info in worker.servers] == [
        (ServerState.READY, 2),
        (ServerState.READY, 1),
    ]
    slow.end_all()
    limited.end_all()


def test_repr_has_servers_and_their_states() -> None:
    server = MemoryJobServer()
    worker = server.worker()
    assert repr(worker) == "<GearmanWorker of memory:1 ready>"
    server.close()


# Waiting for a server.


def test_when_ready_fires_once_each_function_is_registered(server: MemoryJobServer) -> None:
    worker = GearmanWorker([server.endpoint()], reactor=server.clock, heartbeat=None)
    worker.register_function("slow", Slow())
    worker.register_function("limited", Slow(), max_jobs=1)
    worker.startService()
    ready = outcome(worker.when_ready())
    assert ready == []
    server.advance()
    assert (ready, outcome(worker.when_ready())) == ([None], [None])
    assert set(function_status(server)) == {"slow", "limited"}
    worker.stopService()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda worker: worker.register_function("late", do_nothing), [("w", {"f", "late"})]),
        (lambda worker: worker.unregister_function("f"), []),
        (lambda worker: worker.pause(), []),
    ],
    ids=["register", "unregister", "pause"],
)
def test_change_as_soon_as_worker_is_ready_reaches_the_server(
    server: MemoryJobServer, change: Callable[[GearmanWorker], None], expected: list[Any]
) -> None:
    """Also from the callback of `when_ready`, which the connection's first good answer calls."""
    worker = GearmanWorker([server.endpoint()], reactor=server.clock, client_id="w")
    worker.register_function("f", do_nothing)
    worker.startService()
    changed = worker.when_ready().addCallback(lambda _: change(worker))
    server.advance()
    assert (offers(server), changed.called) == (expected, True)
    worker.stopService()


def test_when_ready_of_worker_fails_once_each_server_has_failed(server: MemoryJobServer) -> None:
    worker = GearmanWorker([server.endpoint()], reactor=server.clock, heartbeat=None)
    worker.startService()
    with server.refuse_connections():
        ready = outcome(worker.when_ready())
        server.advance()
        assert [type(error) for error in ready] == [NoServersAvailable]
        assert [type(error) for error in outcome(worker.when_ready())] == [NoServersAvailable]
    server.advance(2)
    assert outcome(worker.when_ready()) == [None]
    worker.stopService()


@pytest.mark.guarantee(number=1)
def test_when_ready_of_worker_fails_at_stop_and_while_it_does_not_run(server: MemoryJobServer) -> None:
    worker = GearmanWorker([server.endpoint()], reactor=server.clock, heartbeat=None)
    before = outcome(worker.when_ready())
    worker.startService()
    ready = outcome(worker.when_ready())
    worker.stopService()
    after = outcome(worker.when_ready())
    assert [type(error) for error in [*before, *ready, *after]] == [ClientStopped] * 3


def test_reconnect_delay_of_worker(server: MemoryJobServer) -> None:
    worker = server.worker(reconnect_delay=lambda failures: 50.0)
    server.drop_connections()
    server.advance()
    assert [info.next_attempt for info in worker.servers] == [50.0]
