"""`GearmanAdmin`: on gearmand, geard and the server in memory, one and several."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from itertools import product
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock

from txgearman import (
    Answers,
    ClientStopped,
    FunctionStatus,
    GearmanAdmin,
    GearmanClient,
    JobHandle,
    JobInfo,
    NoServersAvailable,
    PriorityStatus,
    ProtocolError,
    ServerError,
    ServerState,
    TaskFailed,
    TaskRejected,
    WorkerInfo,
)
from txgearman.models import Priority
from txgearman.testing import MemoryJobServer

from ..daemons import Geard, Gearmand, free_port
from ..raw_worker import connect_worker
from ..wire import MemoryEndpoint, outcome
from .test_protocol import ANSWERED


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]  # it says nothing of its types
async def admin(gearmand: Gearmand) -> AsyncIterator[GearmanAdmin]:
    async with GearmanAdmin([gearmand.address]) as admin:
        yield admin


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]
async def client(gearmand: Gearmand) -> AsyncIterator[GearmanClient]:
    async with GearmanClient([gearmand.address]) as client:
        yield client


async def refusal(deferred: Deferred[Answers[Any]]) -> tuple[str, str]:
    with pytest.raises(ServerError) as error:
        (await deferred).one()
    return error.value.code, error.value.text


# Queries.


async def test_status(admin: GearmanAdmin, client: GearmanClient) -> None:
    assert (await admin.status()).one() == ()
    for name in ("plain", "pre\tfixed", "a b", "two\nlines", b"\xff\xfe"):
        await client.add_task_bg(name)
    told = {status.function: status for status in (await admin.status()).one()}
    names = [b"plain", b"pre\tfixed", b"a b", b"two\nlines", b"\xff\xfe"]
    assert told == {name: FunctionStatus(name, 1, 0, 0) for name in names}


async def test_priority_status(admin: GearmanAdmin, client: GearmanClient) -> None:
    assert (await admin.priority_status()).one() == ()
    for priority in (Priority.HIGH, Priority.NORMAL, Priority.NORMAL, Priority.LOW):
        await client.add_task_bg("f", priority=priority)
    assert (await admin.priority_status()).one() == (PriorityStatus(b"f", 1, 2, 1, 0),)


async def test_workers(gearmand: Gearmand, admin: GearmanAdmin) -> None:
    worker = await connect_worker(gearmand.port, b"f", b"pre\tg")
    assert await worker.settled
    told = (await admin.workers()).one()
    assert {(each.address, each.client_id, frozenset(each.functions)) for each in told} == {
        ("127.0.0.1", b"-", frozenset()),
        ("127.0.0.1", b"-", frozenset({b"f", b"pre\tg"})),
    }
    assert len({each.number for each in told}) == 2
    await worker.close()


async def test_jobs(admin: GearmanAdmin, client: GearmanClient) -> None:
    assert (await admin.jobs()).one() == ()
    handle = await client.add_task_bg("f")
    client.add_task("f", unique="u").addErrback(lambda _: None)
    while len(told := (await admin.jobs()).one()) < 2:
        pass
    assert JobInfo(handle.handle, 0, False, True) in told
    assert sorted(job.stored for job in told) == [False, True]


@pytest.mark.guarantee(number=5)
async def test_m7_unique_jobs(admin: GearmanAdmin, client: GearmanClient) -> None:
    """A unique that looks like the end of the list is not."""
    assert (await admin.unique_jobs()).one() == ()
    for unique in ("u", ".", "aaa", ""):
        await client.add_task_bg("f", unique=unique)
    assert sorted((await admin.unique_jobs()).one()) == [b"", b".", b"aaa", b"u"]


async def test_version_pid_and_verbosity(gearmand: Gearmand, admin: GearmanAdmin) -> None:
    version, pid, verbosity = admin.version(), admin.pid(), admin.verbosity()
    assert (await version).results == {gearmand.address: gearmand.admin("version")[0].removeprefix("OK ")}
    assert (await pid).one() == int(gearmand.admin("getpid")[0].removeprefix("OK "))
    assert (await verbosity).one() == "ERROR"


# Commands.


async def test_a_full_queue(admin: GearmanAdmin, client: GearmanClient) -> None:
    (await admin.create_function("f")).all()
    assert dict((await admin.set_max_queue("f", 1, low=0)).all()) != {}
    await client.add_task_bg("f")
    with pytest.raises(TaskRejected):
        await client.add_task_bg("f")
    await client.add_task_bg("f", priority=Priority.LOW)
    (await admin.set_max_queue("f", 1, high=5)).all()
    await client.add_task_bg("f", priority=Priority.HIGH)


async def test_limit_of_unknown_function_is_an_error(admin: GearmanAdmin) -> None:
    """gearmand says OK, and does nothing."""
    assert await refusal(admin.set_max_queue("nope", 1)) == ("", "this server has no function 'nope'")


async def test_functions_are_created_and_dropped(admin: GearmanAdmin) -> None:
    """The name is not cut, as gearmand does behind an LF."""
    (await admin.create_function("newf")).all()
    assert [status.function for status in (await admin.status()).one()] == [b"newf"]
    (await admin.drop_function("newf")).all()
    assert (await admin.status()).one() == ()
    assert await refusal(admin.drop_function("newf")) == ("ERR", "function not found")


async def test_function_with_workers_is_not_dropped(gearmand: Gearmand, admin: GearmanAdmin) -> None:
    worker = await connect_worker(gearmand.port, b"f")
    assert await worker.settled
    assert await refusal(admin.drop_function("f")) == (
        "ERR",
        "there are still connected workers or executing clients",
    )
    await worker.close()


async def test_a_prefix_is_joined_to_names(gearmand: Gearmand) -> None:
    async with GearmanAdmin([gearmand.address], prefix="pre") as admin:
        (await admin.create_function("f")).all()
        (await admin.set_max_queue("f", 1)).all()
        (status,) = (await admin.status()).one()
        assert (status.function, status.prefix, status.name) == (b"pre\tf", b"pre", b"f")
        (await admin.drop_function("f")).all()


async def test_a_job_is_cancelled(admin: GearmanAdmin, client: GearmanClient) -> None:
    created: Deferred[Any] = Deferred()
    task = client.add_task("f", on_created=lambda task: created.callback(task.handle))
    handle = await created
    await admin.cancel_job(handle)
    with pytest.raises(TaskFailed):
        await task
    with pytest.raises(ServerError) as error:
        await admin.cancel_job(JobHandle(handle.server, b"H:nobody:1"))
    assert error.value.code == "UNKNOWN_JOB"


async def test_gearmand_has_no_shutdown(admin: GearmanAdmin) -> None:
    assert (await refusal(admin.shutdown()))[0] == "UNKNOWN_COMMAND"
    assert (await refusal(admin.shutdown(graceful=True)))[0] == "UNKNOWN_COMMAND"


async def test_hundreds_of_calls_share_a_connection(admin: GearmanAdmin) -> None:
    versions = [admin.version() for _ in range(500)]
    (_,) = (await admin.workers()).one()
    assert all(version.called for version in versions)
    assert len({answer.one() for answer in await gatherResults(versions)}) == 1


# geard, and several servers.


async def test_unanswered_commands_of_geard_are_unsupported(geard: Geard) -> None:
    """At once, not by a time-out."""
    async with GearmanAdmin([geard.address], server_timeout=50.0) as admin:
        assert await refusal(admin.version()) == ("", "this server does not answer the command 'version'")
        for silent in (
            admin.priority_status,
            admin.jobs,
            admin.unique_jobs,
            admin.pid,
            admin.verbosity,
            admin.shutdown,
        ):
            assert (await refusal(silent()))[0] == ""
        assert (await admin.status()).one() == ()
        (own,) = (await admin.workers()).one()
        assert isinstance(own, WorkerInfo)
        assert own.functions == ()
        with pytest.raises(ServerError) as error:
            await admin.cancel_job(JobHandle(geard.address, b"H:x:1"))
        assert error.value.code == "UNKNOWN_JOB"


async def test_each_server_has_its_answer_or_its_error(gearmand: Gearmand, geard: Geard) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    async with GearmanAdmin([gearmand.address, nobody, geard.address]) as admin:
        answers = await admin.version()
        assert list(answers.results) == [gearmand.address]
        assert list(answers.errors) == [nobody, geard.address]
        unreachable, silent = answers.errors.values()
        assert isinstance(unreachable, NoServersAvailable)
        assert isinstance(unreachable.reasons[nobody], Refused)
        assert isinstance(silent, ServerError)
        with pytest.raises(NoServersAvailable):
            answers.all()
        with pytest.raises(ValueError, match="needs exactly one server"):
            answers.one()
        assert [server.state for server in admin.servers] == [
            ServerState.READY,
            ServerState.WAITING,
            ServerState.READY,
        ]


# In memory.


def test_admin_reconnects(logged_failures: object) -> None:
    server = MemoryJobServer()
    admin = GearmanAdmin([server.endpoint()], reactor=server.clock)
    assert server.result_of(admin.status()).one() == ()
    with server.go_down():
        answers = server.result_of(admin.status())
        assert isinstance(answers.errors["memory:1"], NoServersAvailable)
    server.advance(5)
    assert server.result_of(admin.status()).one() == ()
    server.result_of(admin.stopService())
    server.close()


def test_each_query_asks_for_what_it_is_called() -> None:
    server = MemoryJobServer()
    server.worker(client_id="me").register_function("work", lambda job: None)
    client, admin = server.client(), server.admin()
    server.result_of(client.add_task_bg("other", unique="u"))

    def answer(query: Callable[[], Deferred[Answers[Any]]]) -> Any:
        return server.result_of(query()).one()

    assert {(each.function, each.total, each.workers) for each in answer(admin.status)} == {
        (b"work", 0, 1),
        (b"other", 1, 0),
    }
    assert {(each.function, each.normal) for each in answer(admin.priority_status)} == {(b"work", 0), (b"other", 1)}
    assert [each.functions for each in answer(admin.workers) if each.client_id == b"me"] == [(b"work",)]
    assert [each.handle for each in answer(admin.jobs)] == [b"H:memory:1"]
    assert answer(admin.unique_jobs) == (b"u",)
    assert "txgearman" in answer(admin.version)
    assert answer(admin.pid) == os.getpid()
    assert answer(admin.verbosity) == "ERROR"
    server.close()


def memory() -> tuple[Clock, MemoryEndpoint, GearmanAdmin]:
    clock = Clock()
    endpoint = MemoryEndpoint(clock)
    return clock, endpoint, GearmanAdmin([endpoint], reactor=clock, server_timeout=5.0)


@pytest.mark.guarantee(number=10)
def test_dead_server_is_reported_and_dropped() -> None:
    clock, endpoint, admin = memory()
    told = outcome(admin.version())
    clock.pump([2.5] * 3)
    error = told[0].errors["endpoint:0"]
    assert isinstance(error, NoServersAvailable)
    assert "no answer within 5.0 seconds" in str(error)
    assert endpoint.server.transport.aborted
    admin.stopService()
    clock.advance(0)
    assert clock.getDelayedCalls() == []


def test_answer_that_can_not_be_parsed_is_error_of_its_server() -> None:
    _, endpoint, admin = memory()
    told = outcome(admin.status())
    endpoint.server.send(b"what?\n", ANSWERED)
    assert isinstance(told[0].errors["endpoint:0"], ProtocolError)


@pytest.mark.guarantee(number=14)
def test_number_of_5000_digits_does_not_lose_the_answers_of_other_servers() -> None:
    clock = Clock()
    wrong, right = MemoryEndpoint(clock), MemoryEndpoint(clock)
    admin = GearmanAdmin([wrong, right], reactor=clock)
    told = outcome(admin.status())
    wrong.server.send(b"f\t%b\t0\t0\n.\n" % (b"1" * 5000), ANSWERED)
    right.server.send(b"f\t1\t0\t0\n.\n", ANSWERED)
    assert isinstance(told[0].errors["endpoint:0"], ProtocolError)
    assert told[0].results == {"endpoint:1": (FunctionStatus(b"f", 1, 0, 0),)}
    admin.stopService()
    clock.advance(0)


@pytest.mark.guarantee(number=1)
def test_stop_fails_pending_calls() -> None:
    clock, _, admin = memory()
    told = [outcome(call) for call in (admin.status(), admin.cancel_job(JobHandle("endpoint:0", b"H:x:1")))]
    stopped = outcome(admin.stopService())
    assert [type(each[0]) for each in told] == [ClientStopped, ClientStopped]
    clock.advance(0)
    assert stopped == [None]
    assert isinstance(outcome(admin.status())[0], ClientStopped)
    assert isinstance(outcome(admin.cancel_job(JobHandle("endpoint:0", b"H:x:1")))[0], ClientStopped)
    assert clock.getDelayedCalls() == []


def test_admin_can_be_restarted() -> None:
    clock, endpoint, admin = memory()
    admin.startService()
    admin.startService()
    assert endpoint.attempts == 1
    admin.stopService()
    clock.advance(0)
    admin.startService()
    told = outcome(admin.version())
    endpoint.server.send(b"OK 1\n", ANSWERED)
    assert told[0].one() == "1"
    admin.stopService()


def test_job_servers_can_be_replaced() -> None:
    """A server that leaves gives its answer before it is disconnected."""
    clock, endpoint, admin = memory()
    told = outcome(admin.version())
    other = MemoryEndpoint(clock)
    admin.job_servers = [other]
    assert admin.job_servers == [other]
    after = outcome(admin.version())
    endpoint.server.send(b"OK old\n", ANSWERED)
    other.server.send(b"OK new\n", ANSWERED)
    assert (told[0].results, after[0].results) == ({"endpoint:0": "old"}, {"endpoint:1": "new"})
    clock.advance(0)
    assert endpoint.server.transport.lost
    assert not other.server.transport.lost
    admin.stopService()


@pytest.mark.guarantee(number=9)
def test_answer_to_cancelled_call_is_ignored() -> None:
    _, endpoint, admin = memory()
    call = admin.version()
    told = outcome(call)
    call.cancel()
    assert isinstance(told[0], CancelledError)
    after = outcome(admin.pid())
    endpoint.server.send(b"OK 1\n", ANSWERED, b"OK 2\n", ANSWERED)
    assert after[0].one() == 2
    admin.stopService()


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("states", list(product(["connecting", "no answer yet", "asked", "answered"], repeat=3)))
def test_cancelled_call_over_several_servers_logs_nothing(states: tuple[str, ...]) -> None:
    """`logged_failures` fails this for an unhandled error in a Deferred."""
    clock = Clock()
    endpoints = [MemoryEndpoint(clock) for _ in states]
    for endpoint, state in zip(endpoints, states, strict=True):
        endpoint.black_hole = state == "connecting"
        endpoint.answers_opening = state != "no answer yet"
    admin = GearmanAdmin(endpoints, reactor=clock)
    calls: list[Deferred[Any]] = [admin.status(), admin.set_max_queue("f", 1)]
    for endpoint, state in zip(endpoints, states, strict=True):
        if state == "answered":
            endpoint.server.send(b".\n", ANSWERED)
    told = [outcome(call) for call in calls]
    for call in calls:
        call.cancel()
    assert isinstance(told[0][0], Answers if set(states) == {"answered"} else CancelledError)
    assert isinstance(told[1][0], CancelledError)
    admin.stopService()
    clock.advance(5)


def test_answer_to_shutdown_counts_though_connection_closes() -> None:
    """As perl's does."""
    _, endpoint, admin = memory()
    told = outcome(admin.shutdown())
    endpoint.server.send(b"OK\n")
    endpoint.server.lose()
    assert dict(told[0].all()) == {"endpoint:0": None}
    admin.stopService()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    "call",
    [
        lambda admin: admin.create_function("a b"),
        lambda admin: admin.drop_function(""),
        lambda admin: admin.set_max_queue("f\n", 1),
        lambda admin: admin.set_max_queue("f", -1),
        lambda admin: admin.set_max_queue("f", 1, high=2**31),
        lambda admin: admin.cancel_job(JobHandle("elsewhere:4730", b"H:x:1")),
        lambda admin: admin.cancel_job(JobHandle("endpoint:0", b"H:x 1")),
        lambda admin: GearmanAdmin([]),
        lambda admin: GearmanAdmin(["127.0.0.1"], server_timeout=0),
    ],
)
def test_invalid_values_are_refused_at_the_call(call: Any) -> None:
    _, endpoint, admin = memory()
    with pytest.raises(ValueError):  # each has a text of its own
        call(admin)
    assert endpoint.attempts == 0


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    "call",
    [
        lambda admin: admin.create_function(3),
        lambda admin: admin.set_max_queue("f", True),
        lambda admin: admin.set_max_queue("f", 1, low="2"),
        lambda admin: admin.cancel_job("H:x:1"),
    ],
)
def test_wrong_types_are_refused_at_the_call(call: Any) -> None:
    _, endpoint, admin = memory()
    with pytest.raises(TypeError):
        call(admin)
    assert endpoint.attempts == 0


def test_reconnect_delay_of_admin_client() -> None:
    server = MemoryJobServer()
    admin = server.admin(reconnect_delay=lambda failures: 50.0)
    server.drop_connections()
    server.advance()
    assert [info.next_attempt for info in admin.servers] == [50.0]
    server.close()
