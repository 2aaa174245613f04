"""`GearmanClient` and a job server in memory: policy, starting and stopping, failures, and what callers do wrong."""

from __future__ import annotations

import datetime
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from twisted.application.service import IService, MultiService
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.error import ConnectionLost, TimeoutError

from txgearman import (
    ClientStopped,
    GearmanClient,
    JobHandle,
    JobStatus,
    NoServersAvailable,
    Priority,
    ProtocolError,
    ServerError,
    ServerState,
    Task,
    TaskException,
    TaskFailed,
    TaskLost,
)
from txgearman.packets import (
    ECHO_REQ,
    ERROR,
    GET_STATUS,
    GET_STATUS_UNIQUE,
    JOB_CREATED,
    OPTION_REQ,
    SUBMIT_JOB,
)
from txgearman.testing import MemoryJobServer, TakenJob

from .conftest import Failures
from .house import NOTHING, House, loads, noting, outcome, outcomes

# Connecting.


def test_it_is_a_service() -> None:
    house = House()
    assert IService.providedBy(house.client)
    parent = MultiService()
    house.client.setServiceParent(parent)
    house.advance()
    assert house.connected() == [0]
    parent.startService()
    house.advance()
    assert house.client.running
    assert house.client.servers[0].state is ServerState.READY
    stopped = parent.stopService()
    house.advance()
    assert outcome(stopped) is not NOTHING
    assert not house.client.running


@pytest.mark.parametrize("use", ["add_task", "add_task_bg", "get_status_unique"])
def test_it_connects_to_every_server_at_the_first_use(use: str) -> None:
    house = House(3)
    house.advance()
    assert house.connected() == [0, 0, 0]
    getattr(house.client, use)("name").addErrback(lambda _: None)
    getattr(house.client, use)("name").addErrback(lambda _: None)
    house.start()
    assert house.connected() == [1, 1, 1]
    house.stop()


def test_without_a_reactor_it_takes_the_global_one() -> None:
    client = GearmanClient(["127.0.0.1:1"])
    assert client._reactor is global_reactor


@pytest.mark.parametrize("stopped", [True, False])
def test_async_with_starts_and_stops(stopped: bool) -> None:
    house = House()

    async def use() -> bytes:
        async with house.client as client:
            task = client.add_task("work")
            house.server.take("work").complete(b"done")
            if stopped:
                await client.stopService()
            return await task

    used = ensureDeferred(use())
    house.advance()
    assert outcome(used) == b"done"
    assert house.client.servers[0].state is ServerState.STOPPED


@pytest.mark.parametrize(("exceptions", "kind"), [(True, TaskException), (False, TaskFailed)])
def test_exceptions_are_asked_for_or_not(exceptions: bool, kind: type[Exception]) -> None:
    house = House(exceptions=exceptions)
    task = house.client.add_task("work")
    house.server.take("work").send_exception(b"bo\0om")
    assert type(outcome(task)) is kind
    assert house.server.connections[0].requests.count(OPTION_REQ) == exceptions
    house.stop()


@pytest.mark.guarantee(number=10)
def test_the_time_to_connect_is_limited() -> None:
    house = House(connect_timeout=5.0)
    house.server.black_hole_connections()
    task = house.client.add_task("work")
    house.advance(4.9)
    assert outcome(task) is NOTHING
    house.advance(0.2)
    error = outcome(task)
    assert type(error) is NoServersAvailable
    assert [type(reason) for reason in error.reasons.values()] == [TimeoutError]
    house.stop()


# Guarantee 7: what was not written moves, what was is lost.


@pytest.mark.guarantee(number=7)
def test_tasks_wait_for_the_first_attempt_and_go_out_in_order() -> None:
    house = House()
    silence = house.server.fall_silent()
    tasks = [house.client.add_task("work", b"%d" % number) for number in range(3)]
    house.advance()
    assert house.client.servers[0].in_flight == 0
    silence.end()
    assert loads(house.server) == [b"0", b"1", b"2"]
    assert outcomes(tasks) == [NOTHING] * 3
    assert house.client.servers[0].in_flight == 3
    house.stop()
    assert [type(error) for error in outcomes(tasks)] == [ClientStopped] * 3


@pytest.mark.guarantee(number=7)
def test_unwritten_tasks_move_on_until_every_server_has_refused() -> None:
    house = House(3)
    for server in house.servers:
        server.fall_silent()
    tasks: list[Deferred[Any]] = [house.client.add_task("work"), house.client.add_task_bg("work", unique="u")]
    for server in house.servers:
        assert outcomes(tasks) == [NOTHING] * 2
        server.drop_connections()
    for error in outcomes(tasks):
        assert type(error) is NoServersAvailable
        assert set(error.reasons) == {"endpoint:0", "endpoint:1", "endpoint:2"}
    assert type(outcome(house.client.add_task("work"))) is NoServersAvailable
    house.stop()


@pytest.mark.guarantee(number=7)
def test_unwritten_tasks_go_to_the_server_that_is_there() -> None:
    house = House(2)
    silences = [server.fall_silent() for server in house.servers]
    tasks = [house.client.add_task("work", b"%d" % number, unique=b"%d" % number) for number in range(10)]
    house.advance()
    house.server.drop_connections()
    silences[1].end()
    assert sorted(loads(house.servers[1])) == sorted(b"%d" % number for number in range(10))
    assert outcomes(tasks) == [NOTHING] * 10
    house.stop()
    outcomes(tasks)


@pytest.mark.guarantee(number=7)
def test_a_server_that_accepts_and_never_answers_gets_no_task() -> None:
    """gearmand at its limit of file descriptors does (H12)."""
    house = House(2)
    with house.server.hold_answers():
        for number in range(10):
            house.client.add_task("work", b"%d" % number, unique=b"%d" % number).addErrback(lambda _: None)
        early = len(loads(house.servers[1]))
        assert house.server.connections[0].requests == [OPTION_REQ, GET_STATUS]
        house.advance(10.1)
        assert early + len(loads(house.servers[1])) == 10
    house.stop()


@pytest.mark.guarantee(number=7)
def test_written_tasks_are_lost_and_not_sent_again() -> None:
    house = House()
    house.server.drop_after(SUBMIT_JOB)
    tasks: list[Deferred[Any]] = [house.client.add_task("work"), house.client.add_task_bg("work")]
    house.advance()
    assert [(type(error), error.acknowledged) for error in outcomes(tasks)] == [(TaskLost, False)] * 2
    house.advance(2)
    assert house.server.connections[0].requests == [OPTION_REQ, GET_STATUS]
    house.stop()


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize("half", [[], [("data", b"half")]], ids=["after JOB_CREATED", "under way"])
def test_a_task_that_the_server_has_is_lost_with_the_connection(half: list[tuple[str, bytes]]) -> None:
    house = House()
    seen: list[tuple[Any, ...]] = []
    task = house.client.add_task("work", **noting(seen))
    job = house.server.take("work")
    for _, data in half:
        job.send_data(data)
    house.server.drop_connections()
    error = outcome(task)
    assert (type(error), error.acknowledged, type(error.__cause__)) == (TaskLost, True, ConnectionLost)
    assert seen == [("created",), *half, ("fail", error)]
    house.stop()


@pytest.mark.guarantee(number=7)
def test_what_is_submitted_on_a_loss_goes_to_another_server() -> None:
    """The one that just went is no longer chosen when the tasks that it had are told."""
    house = House(2).start()
    again: list[Deferred[Any]] = []
    for _ in range(2):
        task = house.client.add_task("work", b"first")
        task.addErrback(lambda _: again.append(house.client.add_task("work", b"second")))
    house.advance()
    house.server.drop_connections()
    assert loads(house.servers[1]) == [b"first", b"second"]
    assert outcomes(again) == [NOTHING]
    house.stop()
    assert {type(error) for error in outcomes(again)} == {ClientStopped}


@pytest.mark.guarantee(number=7)
def test_the_unique_dash_goes_where_its_workload_goes() -> None:
    """Since the workload is then what coalesces."""
    for load in (b"a", b"b", b"c", b"d"):
        places = []
        for unique in (b"-", load):
            house = House(3)
            house.client.add_task("work", load, unique=unique).addErrback(lambda _: None)
            places.append(house.place_of_work())
            house.stop()
        assert places[0] == places[1]


NONSENSE = {
    "wrong magic": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "truncated packet": b"\0RES\0\0\0\x11\0\0\0\0\0RES\0\0\0\x14\0\0\0\x01x",
    "4 GiB header": b"\0RES\0\0\0\x08\xff\xff\xff\xff",
    "unasked answer": JOB_CREATED.response(b"H:1"),
    "flood of ERROR": ERROR.response(b"NO", b"never") * 10_000,
}


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize("nonsense", NONSENSE)
def test_the_client_is_alive_when_the_server_is_sane_again(nonsense: str) -> None:
    """What it says is met with back-off."""
    house = House().start()
    task = house.client.add_task("work")
    house.server.send_raw(NONSENSE[nonsense])
    assert type(outcome(task)) is TaskLost
    others = outcomes([house.client.add_task("work") for _ in range(50)])
    assert {type(error) for error in others} == {NoServersAvailable}
    assert type(house.client.servers[0].last_error) is ProtocolError
    assert (house.connected(), (house.client.servers[0].next_attempt or 0) > 0.2) == ([0], True)
    house.advance(2)
    house.check_that_it_works()
    house.stop()


# Guarantee 8: the caller's mistakes.


NAIVE = datetime.datetime(2030, 1, 1)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("options", "kind", "complaint"),
    [
        ({"function": ""}, ValueError, "function must not be empty"),
        ({"function": b"a\0b"}, ValueError, "function must not have a NUL"),
        ({"function": 5}, TypeError, "function must be str or bytes, not int"),
        ({"function": "f" * 8051}, ValueError, "function must have 8050 bytes at most, not 8051"),
        ({"function": "f" * 8050}, ValueError, "prefix and function must have 8050 bytes at most, not 8053"),
        ({"workload": "text"}, TypeError, "workload must be bytes, not str"),
        ({"workload": b"x" * 1001}, ValueError, "workload must have max_packet_size=1000 bytes at most, not 1001"),
        ({"unique": "a\0b"}, ValueError, "unique must not have a NUL"),
        ({"unique": b"u" * 64}, ValueError, "unique must have 63 bytes at most, not 64"),
        ({"unique": None}, TypeError, "unique must be str or bytes, not NoneType"),
        ({"priority": 1}, TypeError, "priority must be a Priority"),
        ({"on_created": "print"}, TypeError, "on_created must be callable, not str"),
        ({"on_complet": print}, TypeError, "a task has no option 'on_complet'"),
        ({"background": True}, TypeError, "multiple values for argument 'background'"),
    ],
)
@pytest.mark.parametrize("call", ["add_task", "add_task_bg", "stream"])
def test_what_cannot_be_sent(call: str, options: dict[str, Any], kind: type[Exception], complaint: str) -> None:
    house = House(prefix="pp", max_packet_size=1000)
    good = house.client.add_task("work", b"good")
    with pytest.raises(kind, match=complaint):
        getattr(house.client, call)(**{"function": "work", **options})
    job = house.server.take("pp\twork")
    assert (job.workload, house.client.servers[0].in_flight) == (b"good", 1)
    job.complete(b"done")
    assert outcome(good) == b"done"
    assert outcome(house.client.drain()) is None
    house.stop()


@pytest.mark.guarantee(number=8)
def test_a_naive_datetime() -> None:
    house = House()
    with pytest.raises(ValueError, match="at must be an aware datetime"):
        house.client.add_task_bg("work", at=NAIVE)
    house.check_that_nothing_was_done()


@pytest.mark.guarantee(number=8)
def test_a_task_is_submitted_once() -> None:
    house = House()
    task = Task("work", b"x")
    house.client.submit(task).addErrback(lambda _: None)
    with pytest.raises(ValueError, match="was submitted before"):
        house.client.submit(task)
    assert loads(house.server) == [b"x"]
    house.stop()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("options", "kind", "complaint"),
    [
        ({"prefix": "a\0b"}, ValueError, "prefix must not have a NUL"),
        ({"prefix": 7}, TypeError, "prefix must be str or bytes"),
        ({"max_packet_size": 0}, ValueError, "max_packet_size must be from 1 to 4294901760 bytes"),
        ({"max_packet_size": 1.5}, ValueError, "max_packet_size must be from 1 to 4294901760 bytes"),
        ({"max_packet_size": 2**32}, ValueError, "max_packet_size must be from 1 to 4294901760 bytes"),
        ({"max_packet_size": True}, ValueError, "max_packet_size must be from 1 to 4294901760 bytes"),
        ({"connect_timeout": 0}, ValueError, "connect_timeout must be a positive number of seconds"),
        ({"connect_timeout": float("nan")}, ValueError, "connect_timeout must be a positive number of seconds"),
        ({"job_servers": []}, ValueError, "job_servers must have at least one address"),
        ({"job_servers": ["a:b:c"]}, ValueError, "job_servers: can't make an endpoint"),
    ],
)
def test_a_client_that_cannot_be_meant(options: dict[str, Any], kind: type[Exception], complaint: str) -> None:
    with pytest.raises(kind, match=complaint):
        GearmanClient(**{"job_servers": ["127.0.0.1"], **options})


@pytest.mark.parametrize("prefix", ["pre", b"pre"])
def test_the_prefix_is_joined_by_a_tab(prefix: str | bytes) -> None:
    house = House(prefix=prefix)
    task = house.client.add_task("work", b"x")
    house.server.take("pre\twork").complete(b"y")
    assert outcome(task) == b"y"
    house.stop()


def test_priorities_run_high_before_normal_before_low() -> None:
    house = House()
    for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH):
        house.client.add_task("work", priority.name.encode(), priority=priority).addErrback(lambda _: None)
        house.client.add_task_bg("work", b"BG " + priority.name.encode(), priority=priority)
    assert loads(house.server) == [b"HIGH", b"BG HIGH", b"NORMAL", b"BG NORMAL", b"LOW", b"BG LOW"]
    house.stop()


# Guarantees 3 and 4: what the server says is told to those whom it is for.


@pytest.mark.guarantee(number=3)
def test_a_refused_unique_fails_its_own_task() -> None:
    """The client sends none that long; here it is made to."""
    house = House()
    refused = Task("work", b"2")
    refused.head = b"work\0" + b"u" * 65 + b"\0"
    tasks = [house.client.add_task("work", b"1"), house.client.submit(refused), house.client.add_task("work", b"3")]
    for _ in range(2):
        job = house.server.take("work")
        job.complete(job.workload)
    one, error, three = outcomes(tasks)
    assert (one, three) == (b"1", b"3")
    assert (error.code, error.text) == ("ARGUMENT_TOO_LARGE", "Unique value too large")
    house.stop()


@pytest.mark.guarantee(number=4)
@pytest.mark.parametrize(
    ("end", "kind"), [(TakenJob.fail, TaskFailed), (lambda job: job.send_exception(b"x"), TaskException)]
)
def test_a_failure_and_an_exception_reach_each_task_once(
    end: Callable[[TakenJob], None], kind: type[Exception]
) -> None:
    house = House()
    tasks = [house.client.add_task("work", unique="u") for _ in range(3)]
    end(house.server.take("work"))
    errors = outcomes(tasks)
    assert [type(error) for error in errors] == [kind] * 3
    assert len({id(error) for error in errors}) == 3
    assert house.client.servers[0].in_flight == 0
    house.stop()


@pytest.mark.guarantee(number=4)
def test_a_cancelled_task_of_a_shared_job_takes_nothing_from_the_others() -> None:
    house = House()
    seen: list[list[tuple[Any, ...]]] = [[], [], []]
    tasks = [house.client.add_task("work", unique="u", **noting(events)) for events in seen]
    job = house.server.take("work")
    tasks[1].cancel()
    job.send_data(b"d")
    job.complete(b"done")
    assert outcomes(tasks[::2]) == [b"done"] * 2
    assert seen[0] == seen[2] == [("created",), ("data", b"d"), ("complete", b"done")]
    assert seen[1] == [("created",), ("fail", outcome(tasks[1]))]
    house.stop()


@pytest.mark.guarantee(number=4)
def test_the_unique_dash_coalesces_by_workload() -> None:
    house = House().start()
    handles = [house.client.add_task_bg("work", load, unique="-") for load in (b"a", b"a", b"b", b"", b"")]
    house.advance()
    first, second, *others = outcomes(handles)
    assert first == second
    assert len({first, *others}) == 4
    house.stop()


# Guarantees 6 and 9: cancel.


@pytest.mark.guarantee(number=6)
@pytest.mark.parametrize("early", [True, False], ids=["before JOB_CREATED", "after JOB_CREATED"])
def test_packets_for_a_task_that_was_cancelled(early: bool) -> None:
    house = House().start()
    seen: list[tuple[Any, ...]] = []
    task = house.client.add_task("work", **noting(seen))
    if early:
        task.cancel()
    job = house.server.take("work")
    task.cancel()
    job.send_data(b"late")
    job.complete(b"late")
    house.check_that_it_works()
    assert seen == [*[("created",)] * (not early), ("fail", outcome(task))]
    house.stop()


@pytest.mark.guarantee(number=9)
def test_a_task_cancelled_while_it_waits_is_never_sent() -> None:
    house = House()
    silence = house.server.fall_silent()
    tasks = [house.client.add_task("work", b"%d" % number) for number in range(3)]
    house.advance()
    tasks[1].cancel()
    assert type(outcome(tasks[1])) is CancelledError
    silence.end()
    assert loads(house.server) == [b"0", b"2"]
    house.stop()
    assert [type(error) for error in outcomes(tasks[::2])] == [ClientStopped] * 2


@pytest.mark.guarantee(number=9)
def test_a_waiting_task_cancelled_by_the_failure_of_another() -> None:
    house = House()
    house.server.refuse_connections()
    first, second = house.client.add_task("work"), house.client.add_task("work")
    first.addErrback(lambda _: second.cancel())
    house.advance()
    assert type(outcome(second)) is CancelledError
    house.stop()


# Guarantees 1 and 11: stopping.


def never_started(house: House) -> None:
    """The tasks start it."""


def connecting(house: House) -> None:
    house.server.black_hole_connections()
    house.start()


def not_answered(house: House) -> None:
    house.server.leave_unanswered(OPTION_REQ, GET_STATUS, times=None)
    house.start()


def ready(house: House) -> None:
    house.start()


def refused(house: House) -> None:
    house.server.refuse_connections()
    house.start()


def lost(house: House) -> None:
    house.start()
    house.server.drop_connections()


def being_lost(house: House) -> None:
    """The client has not been told yet."""
    house.start()
    house.server.connections[0].drop()


def aborting(house: House) -> None:
    """The client has aborted it, and the socket is not gone yet."""
    house.start()
    next(iter(house.client._servers)).link.abort(ProtocolError("nonsense"))


def stopped(house: House) -> None:
    house.start()
    house.client.stopService()


@pytest.mark.guarantee(number=1)
@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize(
    "state", [never_started, connecting, not_answered, ready, refused, lost, being_lost, aborting, stopped]
)
def test_stopping_in_every_state_leaves_nothing(state: Callable[[House], None]) -> None:
    house = House()
    state(house)
    tasks: list[Deferred[Any]] = [house.client.add_task("work"), house.client.add_task_bg("work")]
    asked: list[Deferred[Any]] = [house.client.echo(), house.client.get_status_unique("u")]
    drained = house.client.drain()
    house.stop()
    assert outcome(drained) is None
    told = {ClientStopped, NoServersAvailable, TaskLost} if state is being_lost else {ClientStopped, NoServersAvailable}
    assert {type(outcome(task)) for task in tasks} <= told
    assert {type(outcome(question)) for question in asked} <= {ClientStopped, NoServersAvailable}
    house.stop()
    assert type(outcome(house.client.add_task("work"))) is ClientStopped
    assert type(outcome(house.client.echo())) is ClientStopped
    assert type(outcome(house.client.get_status_unique("u"))) is ClientStopped


@pytest.mark.guarantee(number=11)
def test_a_peer_that_reads_nothing_holds_it_up_for_three_seconds_only() -> None:
    house = House().start()
    house.server.fall_silent()
    stopped = house.client.stopService()
    house.advance(2.9)
    assert outcome(stopped) is NOTHING
    house.advance(0.2)
    assert outcome(stopped) is not NOTHING
    house.stop()


def test_it_can_be_started_again() -> None:
    house = House().start()
    house.stop()
    house.start()
    house.check_that_it_works()
    house.stop()


def test_drain_awaits_those_submitted_meanwhile() -> None:
    house = House()
    assert outcome(house.client.drain()) is None
    first = house.client.add_task("work")
    drained, given_up = house.client.drain(), house.client.drain()
    second: list[Deferred[bytes]] = []
    first.addCallback(lambda _: second.append(house.client.add_task("work")))
    given_up.cancel()
    assert type(outcome(given_up)) is CancelledError
    house.server.take("work").complete(b"")
    assert outcome(drained) is NOTHING
    house.server.take("work").complete(b"done")
    assert outcome(drained) is None
    assert outcome(second[0]) == b"done"
    house.stop()


# Guarantee 12.


@pytest.mark.guarantee(number=12)
@pytest.mark.parametrize("end", ["cancelled unsent", "cancelled unacknowledged", "cancelled", "done"])
def test_nothing_of_a_task_is_kept_wherever_it_ended(end: str) -> None:
    house = House() if end == "cancelled unsent" else House().start()
    gc.disable()
    try:
        task = Task("work")
        watched = weakref.ref(task)
        deferred = house.client.submit(task)
        del task
        deferred.addErrback(lambda _: None)
        if end in ("cancelled", "done"):
            job = house.server.take("work")
        job.complete(b"") if end == "done" else deferred.cancel()
        assert watched() is None
    finally:
        gc.enable()
    house.stop()


# Guarantee 13: callbacks that do what they like.

EVENTS = ["on_created", "on_data", "on_warning", "on_status", "on_complete", "on_exception", "on_fail"]


def work(job: TakenJob, event: str) -> None:
    """Do a job so that its task is told of this event."""
    job.send_data(b"d")
    job.send_warning(b"w")
    job.send_status(1, 2)
    if event == "on_exception":
        job.send_exception(b"x")
    elif event == "on_fail":
        job.fail()
    else:
        job.complete(b"done")


class Meddler:
    """A client with two tasks; the callback of the first one does something when its event comes."""

    def __init__(self, event: str, what: Callable[[Meddler], object]) -> None:
        self.house = House().start()
        self.calls = 0
        self.more: list[Deferred[Any]] = []

        def meddle(*_: object) -> None:
            self.calls += 1
            what(self)

        options: dict[str, Any] = {event: meddle}
        with self.house.server.hold_answers():  # so that all comes in one read
            self.first = self.house.client.add_task("work", b"1", **options)
            self.second = self.house.client.add_task("work", b"2")
            work(self.house.server.take("work"), event)
            self.house.server.take("work").complete(b"done too")

    def finish(self) -> None:
        assert self.calls == 1
        assert outcome(self.first) is not NOTHING
        self.house.stop()
        assert all(outcome(deferred) is not NOTHING for deferred in self.more)


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("event", EVENTS)
def test_a_callback_raises(event: str, logged_failures: Failures) -> None:
    def what(meddler: Meddler) -> None:
        raise ZeroDivisionError("of the caller's own")

    meddler = Meddler(event, what)
    assert len(logged_failures.flush(ZeroDivisionError)) == 1
    assert outcome(meddler.second) == b"done too"
    meddler.finish()


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("event", EVENTS)
def test_a_callback_cancels_its_own_task(event: str) -> None:
    meddler = Meddler(event, lambda meddler: meddler.first.cancel())
    assert type(outcome(meddler.first)) is CancelledError
    assert outcome(meddler.second) == b"done too"
    meddler.finish()


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("event", EVENTS)
def test_a_callback_cancels_another_task(event: str) -> None:
    meddler = Meddler(event, lambda meddler: meddler.second.cancel())
    assert type(outcome(meddler.second)) is CancelledError
    meddler.finish()


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("event", EVENTS)
def test_a_callback_adds_a_task(event: str) -> None:
    meddler = Meddler(event, lambda meddler: meddler.more.append(meddler.house.client.add_task("work", b"3")))
    assert outcome(meddler.second) == b"done too"
    meddler.house.server.take("work").complete(b"third")
    assert outcome(meddler.more[0]) == b"third"
    meddler.finish()


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("event", EVENTS)
def test_a_callback_stops_the_service(event: str) -> None:
    meddler = Meddler(event, lambda meddler: meddler.more.append(meddler.house.client.stopService()))
    assert type(outcome(meddler.second)) is ClientStopped
    meddler.finish()


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("event", EVENTS)
def test_a_callback_stops_the_service_and_starts_it(event: str) -> None:
    def what(meddler: Meddler) -> None:
        meddler.more.append(meddler.house.client.stopService())
        meddler.house.client.startService()

    meddler = Meddler(event, what)
    assert type(outcome(meddler.second)) is ClientStopped
    assert meddler.house.client.servers[0].state is ServerState.READY
    meddler.finish()


@pytest.mark.guarantee(number=13)
def test_a_task_that_waits_is_told_of_the_stop_and_submits_again() -> None:
    house = House()
    house.server.black_hole_connections()
    again: list[Any] = []
    house.client.add_task("work").addErrback(lambda _: again.append(outcome(house.client.add_task("work"))))
    house.advance()
    house.stop()
    assert [type(error) for error in again] == [ClientStopped]


# Questions.


def test_status_of_a_handle_is_asked_of_its_server() -> None:
    house = House(2).start()
    submitted = house.client.add_task_bg("work")
    house.advance()
    handle: JobHandle = outcome(submitted)
    other = "endpoint:1" if handle.server == "endpoint:0" else "endpoint:0"
    asked = [house.client.get_status(JobHandle(server, handle.handle)) for server in (handle.server, other)]
    house.advance()
    assert outcomes(asked) == [JobStatus(True, False, 0, 0, None), JobStatus(False, False, 0, 0, None)]
    house.stop()


def test_status_of_a_unique() -> None:
    house = House()
    house.client.add_task("work", unique="u").addErrback(lambda _: None)
    house.server.take("work").send_status(3, 8)
    asked = house.client.get_status_unique("u")
    house.advance()
    assert outcome(asked) == JobStatus(True, True, 3, 8, 1)
    house.stop()


def test_status_of_a_unique_is_asked_where_its_tasks_go() -> None:
    """While the first in rank is down, the next; and if it goes before it answers, the one after that."""
    house = House(3)
    house.client.add_task("work", unique="u").addErrback(lambda _: None)
    first = house.place_of_work()
    house.servers[first].drop_connections()
    house.client.add_task("work", unique="u").addErrback(lambda _: None)
    second = house.place_of_work()
    house.servers[second].drop_before(GET_STATUS_UNIQUE)
    asked = house.client.get_status_unique("u")
    house.advance()
    third = house.servers[3 - first - second].connections[0]
    assert (third.requests.count(GET_STATUS_UNIQUE), outcome(asked).known) == (1, False)
    house.stop()


def test_status_where_no_server_is() -> None:
    house = House(2)
    for server in house.servers:
        server.refuse_connections()
    asked = [house.client.get_status_unique("u"), house.client.get_status(JobHandle("endpoint:1", b"H:1"))]
    house.advance()
    errors = outcomes(asked)
    assert [type(error) for error in errors] == [NoServersAvailable] * 2
    assert [list(error.reasons) for error in errors] == [["endpoint:0", "endpoint:1"], ["endpoint:1"]]
    house.stop()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("handle", "kind", "complaint"),
    [
        ("endpoint:0//H:1", TypeError, "handle must be a JobHandle, not str; see JobHandle.from_string"),
        (JobHandle("elsewhere:4730", b"H:1"), ValueError, "'elsewhere:4730' is none of the job servers here"),
        (JobHandle("endpoint:0", b""), ValueError, "handle must not be empty"),
        (JobHandle("endpoint:0", b"H" * 64), ValueError, "handle must have 63 bytes at most, not 64"),
        (JobHandle("endpoint:0", b"H\0"), ValueError, "handle must not have a NUL"),
    ],
)
def test_a_handle_that_cannot_be_asked_about(handle: Any, kind: type[Exception], complaint: str) -> None:
    house = House()
    with pytest.raises(kind, match=complaint):
        house.client.get_status(handle)
    house.check_that_nothing_was_done()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("unique", ["", b"", "-", b"-"])
def test_a_unique_that_names_no_job(unique: str | bytes) -> None:
    with pytest.raises(ValueError, match="unique must name a job"):
        House().client.get_status_unique(unique)


def test_echo_makes_a_round_trip_to_each_server_that_is_there() -> None:
    """Its time runs from when it is sent, and not while a server connects."""
    house = House(3)
    house.server.refuse_connections()
    silence = house.servers[1].fall_silent()
    house.start()
    held = house.servers[2].hold_answers()
    echoed = house.client.echo(b"abc")
    house.advance(1)
    held.release()
    house.advance(0.25)
    assert outcome(echoed) is NOTHING
    silence.end()
    assert outcome(echoed) == {"endpoint:1": 0.0, "endpoint:2": 1.0}
    house.stop()


def test_echo_where_the_answer_is_left_out() -> None:
    """geard does (H6): the fence behind it makes the round trip."""
    house = House().start()
    house.server.leave_unanswered(ECHO_REQ)
    with house.server.hold_answers():
        echoed = house.client.echo()
        house.advance(0.5)
    assert outcome(echoed) == {"endpoint:0": 0.5}
    house.stop()


def test_echo_that_is_refused() -> None:
    house = House().start()
    house.server.leave_unanswered(ECHO_REQ, GET_STATUS, times=2)
    echoed = house.client.echo()
    house.server.send_raw(ERROR.response(b"NO", b"never"))
    error = outcome(echoed)
    assert (type(error), str(error)) == (ServerError, "NO: never")
    house.stop()


def test_echo_where_no_server_is() -> None:
    house = House(2)
    for server in house.servers:
        server.refuse_connections()
    echoed = house.client.echo()
    house.advance()
    error = outcome(echoed)
    assert (type(error), set(error.reasons)) == (NoServersAvailable, {"endpoint:0", "endpoint:1"})
    house.stop()


@pytest.mark.parametrize("question", ["get_status", "get_status_unique"])
def test_a_question_may_be_cancelled(question: str) -> None:
    """The next one gets its own answer."""
    house = House().start()
    submitted = house.client.add_task_bg("work", unique=b"u")
    house.advance()
    subject = outcome(submitted) if question == "get_status" else b"u"
    asked = getattr(house.client, question)(subject)
    again = getattr(house.client, question)(subject)
    asked.cancel()
    house.advance()
    assert type(outcome(asked)) is CancelledError
    assert outcome(again) == JobStatus(True, False, 0, 0, 0 if question == "get_status_unique" else None)
    house.stop()


@pytest.mark.guarantee(number=11)
def test_a_stop_whose_deferred_is_cancelled_stops_all_the_same() -> None:
    house = House().start()
    stopped = house.client.stopService()
    stopped.cancel()
    assert type(outcome(stopped)) is CancelledError
    house.stop()


def test_echo_may_be_cancelled() -> None:
    house = House(2).start()
    echoed = house.client.echo()
    echoed.cancel()
    house.advance()
    assert type(outcome(echoed)) is CancelledError
    assert house.client.servers[0].state is ServerState.READY
    house.stop()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("data", "kind", "complaint"),
    [
        ("text", TypeError, "data must be bytes, not str"),
        (b"x" * 11, ValueError, "data must have max_packet_size=10 bytes at most, not 11"),
    ],
)
def test_echo_of_what_cannot_be_sent(data: Any, kind: type[Exception], complaint: str) -> None:
    house = House(max_packet_size=10)
    with pytest.raises(kind, match=complaint):
        house.client.echo(data)
    house.check_that_nothing_was_done()


# What stops and starts get into each other's way.


@pytest.mark.guarantee(number=11)
def test_a_callback_starts_the_client_while_its_servers_are_being_stopped() -> None:
    """It is then connected to all of them anew, and nothing of the old connections is left."""
    house = House(3).start()

    def start(_: object) -> None:
        if not house.client.running:
            house.client.startService()

    for _ in range(3):
        house.client.add_task("work").addErrback(start)
    house.client.stopService()
    house.advance()
    assert [info.state for info in house.client.servers] == [ServerState.READY] * 3
    assert [[each.number for each in server.connections] for server in house.servers] == [[2]] * 3
    house.stop()


@pytest.mark.guarantee(number=11)
def test_every_stop_waits_until_nothing_is_left() -> None:
    """The second one too, and one after a start, for a peer that does not read."""
    house = House().start()
    house.server.fall_silent()
    stops = [house.client.stopService(), house.client.stopService()]
    house.client.startService()
    stops.append(house.client.stopService())
    house.advance(2.9)
    assert outcomes(stops) == [NOTHING] * 3
    house.advance(0.2)
    assert NOTHING not in outcomes(stops)
    house.stop()


def test_a_stop_that_nobody_waits_for_any_more_goes_on() -> None:
    house = House(3).start()
    stopped = house.client.stopService()
    stopped.cancel()
    assert type(outcome(stopped)) is CancelledError
    house.stop()


@pytest.mark.guarantee(number=1)
def test_a_question_goes_on_to_no_server_of_a_stopped_client() -> None:
    house = House(2).start()
    house.client.add_task("work", b"x", unique="u").addErrback(lambda _: house.client.stopService())
    house.servers[house.place_of_work()].drop_before(GET_STATUS_UNIQUE)
    asked = house.client.get_status_unique("u")
    house.advance()
    assert type(outcome(asked)) is ClientStopped
    house.stop()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("task", ["work", None, b"work"])
def test_what_is_no_task_is_not_submitted(task: Any) -> None:
    house = House()
    with pytest.raises(TypeError, match="task must be a Task, not "):
        house.client.submit(task)
    house.check_that_nothing_was_done()


# job_servers that change.


def test_a_server_that_joins_is_connected_and_gets_its_share() -> None:
    house = House(2)
    both = house.client.job_servers
    house.client.job_servers = both[:1]
    house.start()
    assert house.connected() == [1, 0]
    house.client.job_servers = both
    house.advance()
    assert house.connected() == [1, 1]
    for number in range(4):
        house.client.add_task("work", b"%d" % number).addErrback(lambda _: None)
    assert [len(loads(server)) for server in house.servers] == [2, 2]
    house.stop()


def test_a_server_that_leaves_finishes_what_it_has() -> None:
    """It gets nothing more, and is disconnected after the last outcome."""
    house = House(2).start()
    tasks = [house.client.add_task("work", b"%d" % number) for number in range(4)]
    house.advance()
    house.client.job_servers = house.client.job_servers[1:]
    assert [server.address for server in house.client.servers] == ["endpoint:1"]
    later = [house.client.add_task("work", b"later") for _ in range(3)]
    house.advance(100)
    assert house.connected() == [1, 1]
    assert len(house.server.queued("work")) == 2
    for left in (1, 0):
        house.server.take("work").complete(b"done")
        assert house.connected() == [left, 1]
    while house.servers[1].queued("work"):
        house.servers[1].take("work").complete(b"done")
    assert outcomes([*tasks, *later]) == [b"done"] * 7
    house.stop()


def test_a_server_that_leaves_with_nothing_out_is_disconnected_at_once() -> None:
    house = House(2).start()
    house.client.job_servers = house.client.job_servers[1:]
    house.advance()
    assert house.connected() == [0, 1]
    house.stop()


@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("state", ["connecting", "in back-off"])
def test_a_server_that_leaves_while_it_is_not_there_leaves_nothing(state: str) -> None:
    house = House(2)
    both = house.client.job_servers
    house.client.job_servers = both[1:]
    house.start().advance(20)
    assert house.clock.getDelayedCalls() == []
    if state == "connecting":
        house.server.black_hole_connections()
    else:
        house.server.refuse_connections()
    house.client.job_servers = both
    house.advance()
    assert len(house.clock.getDelayedCalls()) == 1
    house.client.job_servers = both[1:]
    house.advance()
    assert house.clock.getDelayedCalls() == []
    house.check_that_it_works(1)
    house.stop()


@pytest.mark.guarantee(number=7)
def test_a_leaving_server_that_is_lost_loses_its_tasks_and_is_not_tried_again() -> None:
    house = House(2).start()
    task = house.client.add_task("work", unique="u")
    place = 0 if house.advance() or house.server.queued("work") else 1
    house.client.job_servers = [house.client.job_servers[1 - place]]
    house.servers[place].drop_connections()
    assert type(outcome(task)) is TaskLost
    house.advance(100)
    assert house.connected()[place] == 0
    house.stop()


@pytest.mark.guarantee(number=7)
def test_what_a_leaving_server_was_not_written_goes_to_another() -> None:
    house = House(2)
    both = house.client.job_servers
    house.client.job_servers = both[:1]
    house.start()
    silence = house.server.fall_silent()
    big = house.client.add_task("work", b"x" * 70_000)
    waiting = house.client.add_task("work", b"waiting")
    house.client.job_servers = both[1:]
    house.servers[1].take("work").complete(b"done")
    assert outcome(waiting) == b"done"
    assert outcome(big) is NOTHING
    silence.end()
    house.server.take("work").complete(b"done")
    assert outcome(big) == b"done"
    assert house.connected() == [0, 1]
    house.stop()


@pytest.mark.guarantee(number=11)
def test_a_stop_while_servers_leave() -> None:
    house = House(2).start()
    tasks = [house.client.add_task("work") for _ in range(2)]
    house.advance()
    house.client.job_servers = house.client.job_servers[1:]
    house.advance()
    house.stop()
    assert [type(error) for error in outcomes(tasks)] == [ClientStopped] * 2


@pytest.mark.guarantee(number=1)
def test_drain_awaits_those_of_a_leaving_server() -> None:
    house = House(2).start()
    tasks = [house.client.add_task("work") for _ in range(2)]
    house.advance()
    house.client.job_servers = house.client.job_servers[1:]
    drained = house.client.drain()
    house.servers[1].take("work").complete(b"done")
    assert outcome(drained) is NOTHING
    house.server.take("work").complete(b"done")
    assert (outcome(drained), outcomes(tasks)) == (None, [b"done"] * 2)
    house.stop()


def test_a_server_may_come_back_while_it_still_leaves() -> None:
    house = House(2).start()
    both = house.client.job_servers
    tasks = [house.client.add_task("work") for _ in range(2)]
    house.advance()
    house.client.job_servers = both[1:]
    house.client.job_servers = both
    house.advance()
    assert house.connected() == [2, 1]
    for server in house.servers:
        server.take("work").complete(b"done")
    assert outcomes(tasks) == [b"done"] * 2
    assert house.connected() == [1, 1]
    house.stop()


def test_handles_are_asked_about_where_their_server_is_one_of_ours() -> None:
    house = House(2).start()
    submitted = [house.client.add_task_bg("work") for _ in range(2)]
    house.advance()
    handles = sorted(outcomes(submitted))
    house.client.job_servers = house.client.job_servers[1:]
    with pytest.raises(ValueError, match="'endpoint:0' is none of the job servers here: endpoint:1"):
        house.client.get_status(handles[0])
    asked = house.client.get_status(handles[1])
    house.advance()
    assert outcome(asked).known
    house.stop()


@pytest.mark.guarantee(number=1)
def test_questions_to_a_server_that_leaves_before_it_is_there() -> None:
    house = House(2)
    house.server.black_hole_connections()
    both = house.client.job_servers
    house.client.job_servers = both[:1]
    asked: list[Deferred[Any]] = [house.client.get_status_unique("u"), house.client.echo()]
    house.advance()
    house.client.job_servers = both[1:]
    house.advance()
    for error in outcomes(asked):
        assert (type(error), list(error.reasons)) == (NoServersAvailable, ["endpoint:0"])
    house.stop()


def test_patient_tasks_go_to_a_server_that_joins() -> None:
    house = House(2, server_wait=60.0)
    both = house.client.job_servers
    house.client.job_servers = both[:1]
    house.server.refuse_connections()
    house.start()
    tasks = [house.client.add_task("work", b"%d" % number) for number in range(3)]
    house.client.job_servers = both
    assert loads(house.servers[1]) == [b"0", b"1", b"2"]
    house.stop()
    assert [type(error) for error in outcomes(tasks)] == [ClientStopped] * 3


@pytest.mark.guarantee(number=10)
def test_patience_ends_though_a_server_that_joined_does_not_answer() -> None:
    house = House(2, server_wait=5.0, connect_timeout=8.0)
    both = house.client.job_servers
    house.client.job_servers = both[:1]
    house.server.refuse_connections()
    house.servers[1].black_hole_connections()
    house.start()
    task = house.client.add_task("work")
    house.client.job_servers = both
    house.advance(8 + 5)
    error = outcome(task)
    assert (type(error), set(error.reasons)) == (NoServersAvailable, {"endpoint:0", "endpoint:1"})
    house.stop()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("job_servers", "kind"), [([], ValueError), ("127.0.0.1", TypeError), (["a:b:c"], ValueError), ([5], TypeError)]
)
def test_job_servers_that_cannot_be_meant_change_nothing(job_servers: Any, kind: type[Exception]) -> None:
    house = House(2).start()
    before = house.client.job_servers
    with pytest.raises(kind):
        house.client.job_servers = job_servers
    assert house.client.job_servers == before
    before.clear()  # it is a copy
    house.advance()
    assert house.connected() == [1, 1]
    house.check_that_it_works(1)
    house.stop()


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("then", ["change", "stop", "stop and start"])
def test_those_who_are_told_while_servers_change_may_change_them_again(then: str) -> None:
    house = House(4)
    addresses = house.client.job_servers
    house.client.job_servers = addresses[:2]
    house.server.black_hole_connections()
    house.servers[1].black_hole_connections()
    house.start()

    def again(_: object) -> None:
        if then == "change":
            house.client.job_servers = addresses[3:]
        else:
            house.client.stopService()
        if then == "stop and start":
            house.client.startService()

    house.client.echo().addErrback(again)
    house.client.job_servers = addresses[2:]
    house.advance()
    assert house.connected() == {"change": [0, 0, 0, 1], "stop": [0] * 4, "stop and start": [0, 0, 1, 1]}[then]
    if then == "stop":
        assert house.clock.getDelayedCalls() == []
    else:
        house.advance(20)
        assert house.clock.getDelayedCalls() == []
        house.stop()


# Stops in what states there are besides.


def gated(house: House) -> None:
    house.start()


def in_the_backlog(house: House) -> None:
    house.start()
    house.server.fall_silent()
    house.client.add_task_bg("work", b"x" * 70_000).addErrback(lambda _: None)


def half_open(house: House) -> None:
    """The other end reads nothing and says nothing."""
    house.start()
    house.server.fall_silent()


def servers_leave(house: House) -> None:
    house.start()
    house.client.add_task("work").addErrback(lambda _: None)
    house.advance()
    house.client.job_servers = [MemoryJobServer(house.clock).endpoint()]


@pytest.mark.guarantee(number=1)
@pytest.mark.guarantee(number=11)
@pytest.mark.parametrize("state", [gated, in_the_backlog, half_open, servers_leave])
def test_stopping_with_tasks_out_leaves_nothing_within_three_seconds(state: Callable[[House], None]) -> None:
    house = House(max_in_flight=2, heartbeat=60.0)
    state(house)
    tasks: list[Deferred[Any]] = [house.client.add_task("work", timeout=99, retries=2) for _ in range(5)]
    tasks.append(house.client.add_task_bg("work"))
    drained = house.client.drain()
    stops = [house.client.stopService(), house.client.stopService()]
    assert {type(error) for error in outcomes(tasks)} == {ClientStopped}
    assert outcome(drained) is None
    house.advance(3)
    assert NOTHING not in outcomes(stops)
    house.stop()


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("options", "kind", "complaint"),
    [
        ({"max_in_flight": 0}, ValueError, "max_in_flight must be at least 1, not 0"),
        ({"max_in_flight": 1.5}, TypeError, "max_in_flight must be int, not float"),
        ({"server_wait": -1}, ValueError, "server_wait must be a positive number of seconds, not -1"),
        ({"server_wait": "1"}, TypeError, "server_wait must be a number of seconds, not str"),
        ({"ack_timeout": 0}, ValueError, "ack_timeout must be a positive number of seconds"),
        ({"heartbeat": 0}, ValueError, "heartbeat must be a positive number of seconds"),
        ({"check_interval": None}, TypeError, "check_interval must be a number of seconds, not NoneType"),
    ],
)
def test_a_policy_that_cannot_be_meant(options: dict[str, Any], kind: type[Exception], complaint: str) -> None:
    with pytest.raises(kind, match=complaint):
        GearmanClient(["127.0.0.1"], **options)


# What is behind map and stream has tests of its own.


def test_results_are_gone_through_as_they_come() -> None:
    house = House().start()

    async def use() -> list[bytes]:
        results = [result async for result in house.client.map("work", [b"1", b"2"])]
        return results + [chunk async for chunk in house.client.stream("work", b"3")]

    used = ensureDeferred(use())
    for _ in range(3):
        job = house.server.take("work")
        job.send_data(b"half of " + job.workload)
        job.complete(job.workload)
    assert outcome(used) == [b"1", b"2", b"half of 3", b"3"]
    house.stop()


@pytest.mark.guarantee(number=9)
def test_a_cancel_may_have_the_server_drop_the_job() -> None:
    server = MemoryJobServer()
    client = server.client()
    task = client.add_task("work", b"abc", drop_on_cancel=True)
    server.advance()
    assert loads(server) == [b"abc"]
    handle = server.result_of(client.add_task_bg("work", b"def"))
    assert server.result_of(client.cancel_job(handle)) is None
    task.addErrback(lambda _: None)
    task.cancel()
    server.advance()
    assert not server.queued("work")
    server.close()


@pytest.mark.guarantee(number=9)
def test_a_job_that_can_not_be_dropped_is_let_go() -> None:
    """Its server is none of the client's any more; or there is no such server at all."""
    server, other = MemoryJobServer(), MemoryJobServer()
    client = server.client()
    task = client.add_task("work", drop_on_cancel=True)
    server.advance()
    client.job_servers = [other.endpoint()]
    task.cancel()
    assert isinstance(outcome(task), CancelledError)
    handle = JobHandle(client.servers[0].address, b"H:memory:1")
    server.result_of(client.stopService())
    assert isinstance(outcome(client.cancel_job(handle)), ClientStopped)
    with pytest.raises(ValueError, match="none of the job servers here"):
        client.cancel_job(JobHandle("elsewhere:4730", b"H:memory:1"))
    server.close()
