"""`GearmanClient` on the in-memory wire: policy, starting and stopping, and what callers do wrong."""

from __future__ import annotations

import datetime
import gc
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from twisted.application.service import IService, MultiService
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.error import ConnectionRefusedError, TimeoutError
from twisted.internet.task import Clock

from txgearman import (
    ClientStopped,
    GearmanClient,
    JobHandle,
    JobStatus,
    NoServersAvailable,
    ServerError,
    ServerState,
    Task,
    TaskLost,
)
from txgearman.packets import (
    ECHO_REQ,
    ECHO_RES,
    ERROR,
    GET_STATUS,
    GET_STATUS_UNIQUE,
    JOB_CREATED,
    NOOP,
    STATUS_RES_UNIQUE,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    Packet,
)

from .conftest import Failures
from .wire import MemoryEndpoint, ServerSide, answer

NOTHING = "nothing yet"


def outcome(deferred: Deferred[Any]) -> Any:
    """The result or the exception that it has fired with; `NOTHING` if it has not."""
    if not deferred.called:
        return NOTHING
    result = deferred.result
    deferred.addErrback(lambda _: None)
    return getattr(result, "value", result)


def outcomes(deferreds: Iterable[Deferred[Any]]) -> list[Any]:
    return [outcome(deferred) for deferred in deferreds]


class House:
    """A client and its servers, on one clock."""

    def __init__(self, servers: int = 1, **options: Any) -> None:
        self.clock = Clock()
        self.endpoints = [MemoryEndpoint(self.clock) for _ in range(servers)]
        self.client = GearmanClient(self.endpoints, reactor=self.clock, **options)

    def server(self, place: int = 0) -> ServerSide:
        return self.endpoints[place].server

    def received(self, place: int = 0) -> list[Packet]:
        return self.server(place).received()

    def loads(self, place: int = 0) -> list[bytes]:
        """The workloads of the submits that came since the last look."""
        return [arguments[-1] for _, arguments in self.received(place)]

    def stop(self) -> None:
        """Stop the client; nothing may be left."""
        stopped = self.client.stopService()
        self.clock.advance(0)
        assert outcome(stopped) is not NOTHING
        assert self.clock.getDelayedCalls() == []
        assert all(side.transport.lost for endpoint in self.endpoints for side in endpoint.connections)


# Connecting.


def test_it_is_a_service() -> None:
    house = House()
    assert IService.providedBy(house.client)
    parent = MultiService()
    house.client.setServiceParent(parent)
    assert house.endpoints[0].attempts == 0
    parent.startService()
    assert house.client.running
    assert house.client.servers[0].state is ServerState.READY
    stopped = parent.stopService()
    house.clock.advance(0)
    assert outcome(stopped) is not NOTHING
    assert not house.client.running


@pytest.mark.parametrize("use", ["add_task", "add_task_bg", "get_status_unique"])
def test_it_connects_to_every_server_at_the_first_use(use: str) -> None:
    house = House(3)
    assert [endpoint.attempts for endpoint in house.endpoints] == [0, 0, 0]
    getattr(house.client, use)("name").addErrback(lambda _: None)
    getattr(house.client, use)("name").addErrback(lambda _: None)
    house.client.startService()
    assert [endpoint.attempts for endpoint in house.endpoints] == [1, 1, 1]
    house.stop()


def test_without_a_reactor_it_takes_the_global_one() -> None:
    client = GearmanClient(["127.0.0.1:1"])
    assert client._reactor is global_reactor


@pytest.mark.parametrize("stopped", [True, False])
def test_async_with_starts_and_stops(stopped: bool) -> None:
    house = House()

    async def use() -> bytes:
        async with house.client as client:
            assert client.servers[0].state is ServerState.READY
            task = client.add_task("work")
            house.server().send(JOB_CREATED.response(b"H:1"), WORK_COMPLETE.response(b"H:1", b"done"))
            if stopped:
                await client.stopService()
            return await task

    used = ensureDeferred(use())
    house.clock.advance(0)
    assert outcome(used) == b"done"
    assert house.client.servers[0].state is ServerState.STOPPED


@pytest.mark.parametrize(("exceptions", "asked"), [(True, 1), (False, 0)])
def test_exceptions_are_asked_for_or_not(exceptions: bool, asked: int) -> None:
    house = House(exceptions=exceptions)
    house.endpoints[0].polite = False
    house.client.startService()
    assert [packet_type.name for packet_type, _ in house.received()].count("OPTION_REQ") == asked
    house.stop()


def test_p10_the_time_to_connect_is_limited() -> None:
    house = House(connect_timeout=5.0)
    house.endpoints[0].black_hole = True
    task = house.client.add_task("work")
    house.clock.advance(4.9)
    assert outcome(task) is NOTHING
    house.clock.advance(0.2)
    error = outcome(task)
    assert type(error) is NoServersAvailable
    assert [type(reason) for reason in error.reasons.values()] == [TimeoutError]
    house.stop()


# Promise 7: what was not written moves, what was is lost.


def test_p7_tasks_wait_for_the_first_attempt_and_go_out_in_order() -> None:
    house = House()
    house.endpoints[0].polite = False
    tasks = [house.client.add_task("work", b"%d" % number) for number in range(3)]
    house.server().shake_hands()
    assert house.loads() == [b"0", b"1", b"2"]
    assert outcomes(tasks) == [NOTHING] * 3
    assert house.client.servers[0].in_flight == 3
    house.stop()
    assert [type(error) for error in outcomes(tasks)] == [ClientStopped] * 3


def test_p7_unwritten_tasks_move_on_until_every_server_has_refused() -> None:
    house = House(3)
    for endpoint in house.endpoints:
        endpoint.black_hole = True
    tasks: list[Deferred[Any]] = [house.client.add_task("work"), house.client.add_task_bg("work", unique="u")]
    for endpoint in house.endpoints:
        assert outcomes(tasks) == [NOTHING] * 2
        endpoint.pending[0].errback(ConnectionRefusedError())
    for error in outcomes(tasks):
        assert type(error) is NoServersAvailable
        assert set(error.reasons) == {"endpoint:0", "endpoint:1", "endpoint:2"}
    assert type(outcome(house.client.add_task("work"))) is NoServersAvailable
    house.stop()


def test_p7_unwritten_tasks_go_to_the_server_that_is_there() -> None:
    house = House(2)
    for endpoint in house.endpoints:
        endpoint.polite = False
    tasks = [house.client.add_task("work", b"%d" % number, unique=b"%d" % number) for number in range(10)]
    house.server(0).lose()
    house.server(1).shake_hands()
    assert sorted(house.loads(1)) == sorted(b"%d" % number for number in range(10))
    assert outcomes(tasks) == [NOTHING] * 10
    house.stop()
    outcomes(tasks)


def test_p7_a_server_that_accepts_and_never_answers_gets_no_task() -> None:
    """gearmand at its limit of file descriptors does (H12)."""
    house = House(2)
    house.endpoints[0].polite = False
    for number in range(10):
        house.client.add_task("work", b"%d" % number, unique=b"%d" % number).addErrback(lambda _: None)
    assert all(packet_type not in (SUBMIT_JOB, SUBMIT_JOB_BG) for packet_type, _ in house.received(0))
    early = len(house.loads(1))
    house.clock.advance(10.1)
    assert early + len(house.loads(1)) == 10
    house.stop()


def test_p7_written_tasks_are_lost_and_not_sent_again() -> None:
    house = House()
    tasks: list[Deferred[Any]] = [house.client.add_task("work"), house.client.add_task_bg("work")]
    house.server().lose()
    assert [(type(error), error.acknowledged) for error in outcomes(tasks)] == [(TaskLost, False)] * 2
    house.clock.advance(2)
    assert house.endpoints[0].attempts == 2
    assert house.received() == []
    house.stop()


def test_p7_what_is_submitted_on_a_loss_goes_to_another_server() -> None:
    """The one that just went is no longer chosen when the tasks that it had are told."""
    house = House(2)
    again: list[Deferred[Any]] = []
    tasks = [house.client.add_task("work", b"first") for _ in range(2)]
    for task in tasks:
        task.addErrback(lambda _: again.append(house.client.add_task("work", b"second")))
    house.server(0).lose()
    assert house.loads(1) == [b"first", b"second"]
    assert outcomes(again) == [NOTHING]
    house.stop()
    assert {type(error) for error in outcomes(again)} == {ClientStopped}


def test_p7_the_unique_dash_goes_where_its_workload_goes() -> None:
    """Since the workload is then what coalesces."""
    for load in (b"a", b"b", b"c", b"d"):
        places = []
        for unique in (b"-", load):
            house = House(3)
            house.client.startService()
            house.client.add_task("work", load, unique=unique).addErrback(lambda _: None)
            places.append([place for place in range(3) if house.loads(place)])
            house.stop()
        assert places[0] == places[1]


def test_p14_the_client_is_alive_when_the_server_is_sane_again() -> None:
    house = House()
    house.client.startService()
    task = house.client.add_task("work")
    house.server().protocol.dataReceived(b"HTTP/1.1 400 Bad Request\r\n")
    error = outcome(task)
    assert type(error) is TaskLost
    assert "not the header of a Gearman packet" in str(error.__cause__)
    house.clock.advance(0)
    house.clock.advance(2)
    task = house.client.add_task("work")
    house.server().send(JOB_CREATED.response(b"H:1"), WORK_COMPLETE.response(b"H:1", b"done"))
    assert outcome(task) == b"done"
    house.stop()


# Promise 8: the caller's mistakes.


NAIVE = datetime.datetime(2030, 1, 1)


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
    ],
)
@pytest.mark.parametrize("call", ["add_task", "add_task_bg"])
def test_p8_what_cannot_be_sent(call: str, options: dict[str, Any], kind: type[Exception], complaint: str) -> None:
    house = House(prefix="pp", max_packet_size=1000)
    good = house.client.add_task("work", b"good")
    with pytest.raises(kind, match=complaint):
        getattr(house.client, call)(**{"function": "work", **options})
    assert house.loads() == [b"good"]
    house.server().send(JOB_CREATED.response(b"H:1"), WORK_COMPLETE.response(b"H:1", b"done"))
    assert outcome(good) == b"done"
    assert outcome(house.client.drain()) is None
    house.stop()


def test_p8_a_naive_datetime() -> None:
    house = House()
    with pytest.raises(ValueError, match="at must be an aware datetime"):
        house.client.add_task_bg("work", at=NAIVE)
    assert house.endpoints[0].attempts == 0


def test_p8_a_task_is_submitted_once() -> None:
    house = House()
    task = Task("work", b"x")
    house.client.submit(task).addErrback(lambda _: None)
    with pytest.raises(ValueError, match="was submitted before"):
        house.client.submit(task)
    assert house.loads() == [b"x"]
    house.stop()


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
def test_p8_a_client_that_cannot_be_meant(options: dict[str, Any], kind: type[Exception], complaint: str) -> None:
    with pytest.raises(kind, match=complaint):
        GearmanClient(**{"job_servers": ["127.0.0.1"], **options})


@pytest.mark.parametrize("prefix", ["pre", b"pre"])
def test_the_prefix_is_joined_by_a_tab(prefix: str | bytes) -> None:
    house = House(prefix=prefix)
    house.client.add_task("work", b"x").addErrback(lambda _: None)
    assert house.received() == [(SUBMIT_JOB, [b"pre\twork", b"", b"x"])]
    house.stop()


# Promise 9: cancel.


def test_p9_a_task_cancelled_while_it_waits_is_never_sent() -> None:
    house = House()
    house.endpoints[0].polite = False
    tasks = [house.client.add_task("work", b"%d" % number) for number in range(3)]
    tasks[1].cancel()
    assert type(outcome(tasks[1])) is CancelledError
    house.server().shake_hands()
    assert house.loads() == [b"0", b"2"]
    house.stop()
    assert [type(error) for error in outcomes(tasks[::2])] == [ClientStopped] * 2


def test_p9_a_waiting_task_cancelled_by_the_failure_of_another() -> None:
    house = House()
    house.endpoints[0].black_hole = True
    first, second = house.client.add_task("work"), house.client.add_task("work")
    first.addErrback(lambda _: second.cancel())
    house.endpoints[0].pending[0].errback(ConnectionRefusedError())
    assert type(outcome(second)) is CancelledError
    house.stop()


# Promises 1 and 11: stopping.


def in_every_state() -> dict[str, Callable[[House], None]]:
    def black_hole(house: House) -> None:
        house.endpoints[0].black_hole = True
        house.client.startService()

    def unanswered(house: House) -> None:
        house.endpoints[0].polite = False
        house.client.startService()

    def refused(house: House) -> None:
        house.endpoints[0].refuse = True
        house.client.startService()

    def lost(house: House) -> None:
        house.client.startService()
        house.server().lose()

    def aborting(house: House) -> None:
        house.client.startService()
        house.server().send(NOOP.response())

    def stopped(house: House) -> None:
        house.client.startService()
        house.client.stopService()

    return {
        "never started": lambda house: None,
        "connecting": black_hole,
        "not answered": unanswered,
        "ready": lambda house: house.client.startService(),
        "refused": refused,
        "lost": lost,
        "aborting": aborting,
        "stopped": stopped,
    }


@pytest.mark.parametrize("state", in_every_state())
def test_p1_p11_stopping_in_every_state_leaves_nothing(state: str) -> None:
    house = House()
    in_every_state()[state](house)
    tasks: list[Deferred[Any]] = [house.client.add_task("work"), house.client.add_task_bg("work")]
    asked: list[Deferred[Any]] = [house.client.echo(), house.client.get_status_unique("u")]
    drained = house.client.drain()
    house.stop()
    assert outcome(drained) is None
    assert {type(outcome(task)) for task in tasks} <= {ClientStopped, NoServersAvailable}
    assert {type(outcome(question)) for question in asked} <= {ClientStopped, NoServersAvailable}
    house.stop()
    assert type(outcome(house.client.add_task("work"))) is ClientStopped
    assert type(outcome(house.client.echo())) is ClientStopped
    assert type(outcome(house.client.get_status_unique("u"))) is ClientStopped


def test_p11_a_peer_that_reads_nothing_holds_it_up_for_three_seconds_only() -> None:
    house = House()
    house.client.startService()
    house.server().transport.stalled = True
    stopped = house.client.stopService()
    house.clock.advance(2.9)
    assert outcome(stopped) is NOTHING
    house.clock.advance(0.2)
    house.clock.advance(0)
    assert outcome(stopped) is not NOTHING
    house.stop()


def test_it_can_be_started_again() -> None:
    house = House()
    house.client.startService()
    house.stop()
    house.client.startService()
    assert house.endpoints[0].attempts == 2
    task = house.client.add_task("work")
    house.server().send(JOB_CREATED.response(b"H:1"), WORK_COMPLETE.response(b"H:1", b"done"))
    assert outcome(task) == b"done"
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
    house.server().send(JOB_CREATED.response(b"H:1"), WORK_COMPLETE.response(b"H:1", b""))
    assert outcome(drained) is NOTHING
    house.server().send(JOB_CREATED.response(b"H:2"), WORK_COMPLETE.response(b"H:2", b"done"))
    assert outcome(drained) is None
    assert outcome(second[0]) == b"done"
    house.stop()


# Promise 12.


def test_p12_nothing_of_a_task_is_kept_wherever_it_ended() -> None:
    house = House()
    house.endpoints[0].polite = False
    gc.disable()
    try:
        tasks = [Task("work") for _ in range(4)]
        watched = [weakref.ref(task) for task in tasks]
        deferreds = [house.client.submit(task) for task in tasks]
        del tasks
        for deferred in deferreds:
            deferred.addErrback(lambda _: None)
        deferreds[0].cancel()
        assert watched[0]() is None
        house.server().shake_hands()
        deferreds[1].cancel()
        assert watched[1]() is None
        house.server().send(*(JOB_CREATED.response(b"H:%d" % number) for number in (1, 2, 3)))
        deferreds[2].cancel()
        assert watched[2]() is None
        house.server().send(WORK_COMPLETE.response(b"H:3", b""))
        assert watched[3]() is None
    finally:
        gc.enable()
    house.stop()


# Promise 13: callbacks that do what they like.

EVENTS: dict[str, list[bytes]] = {
    "on_created": [],
    "on_data": [WORK_DATA.response(b"H:1", b"d")],
    "on_warning": [WORK_WARNING.response(b"H:1", b"w")],
    "on_status": [WORK_STATUS.response(b"H:1", b"1", b"2")],
    "on_complete": [WORK_COMPLETE.response(b"H:1", b"done")],
    "on_exception": [WORK_EXCEPTION.response(b"H:1", b"x")],
    "on_fail": [WORK_FAIL.response(b"H:1")],
}


class Meddler:
    """A client with two tasks; the callback of the first one does something when its event comes."""

    def __init__(self, event: str, what: Callable[[Meddler], object]) -> None:
        self.house = House()
        self.calls = 0
        self.more: list[Deferred[Any]] = []

        def meddle(*_: object) -> None:
            self.calls += 1
            what(self)

        options: dict[str, Any] = {event: meddle}
        self.first = self.house.client.add_task("work", b"1", **options)
        self.second = self.house.client.add_task("work", b"2")
        self.house.received()
        # All in one read.
        self.house.server().send(
            JOB_CREATED.response(b"H:1"),
            *EVENTS[event],
            JOB_CREATED.response(b"H:2"),
            WORK_COMPLETE.response(b"H:1", b"done"),
            WORK_COMPLETE.response(b"H:2", b"done too"),
        )

    def finish(self) -> None:
        assert self.calls == 1
        assert outcome(self.first) is not NOTHING
        self.house.stop()
        assert all(outcome(deferred) is not NOTHING for deferred in self.more)


@pytest.mark.parametrize("event", EVENTS)
def test_p13_a_callback_raises(event: str, logged_failures: Failures) -> None:
    def what(meddler: Meddler) -> None:
        raise ZeroDivisionError("of the caller's own")

    meddler = Meddler(event, what)
    assert len(logged_failures.flush(ZeroDivisionError)) == 1
    assert outcome(meddler.second) == b"done too"
    meddler.finish()


@pytest.mark.parametrize("event", EVENTS)
def test_p13_a_callback_cancels_its_own_task(event: str) -> None:
    meddler = Meddler(event, lambda meddler: meddler.first.cancel())
    assert type(outcome(meddler.first)) is CancelledError
    assert outcome(meddler.second) == b"done too"
    meddler.finish()


@pytest.mark.parametrize("event", EVENTS)
def test_p13_a_callback_cancels_another_task(event: str) -> None:
    meddler = Meddler(event, lambda meddler: meddler.second.cancel())
    assert type(outcome(meddler.second)) is CancelledError
    meddler.finish()


@pytest.mark.parametrize("event", EVENTS)
def test_p13_a_callback_adds_a_task(event: str) -> None:
    meddler = Meddler(event, lambda meddler: meddler.more.append(meddler.house.client.add_task("work", b"3")))
    assert outcome(meddler.second) == b"done too"
    assert meddler.house.loads() == [b"3"]
    meddler.house.server().send(JOB_CREATED.response(b"H:3"), WORK_COMPLETE.response(b"H:3", b"third"))
    assert outcome(meddler.more[0]) == b"third"
    meddler.finish()


@pytest.mark.parametrize("event", EVENTS)
def test_p13_a_callback_stops_the_service(event: str) -> None:
    meddler = Meddler(event, lambda meddler: meddler.more.append(meddler.house.client.stopService()))
    assert type(outcome(meddler.second)) is ClientStopped
    meddler.finish()


@pytest.mark.parametrize("event", EVENTS)
def test_p13_a_callback_stops_the_service_and_starts_it(event: str) -> None:
    def what(meddler: Meddler) -> None:
        meddler.more.append(meddler.house.client.stopService())
        meddler.house.client.startService()

    meddler = Meddler(event, what)
    assert type(outcome(meddler.second)) is ClientStopped
    assert meddler.house.client.servers[0].state is ServerState.READY
    meddler.finish()


def test_p13_a_task_that_waits_is_told_of_the_stop_and_submits_again() -> None:
    house = House()
    house.endpoints[0].black_hole = True
    again: list[Any] = []
    house.client.add_task("work").addErrback(lambda _: again.append(outcome(house.client.add_task("work"))))
    house.stop()
    assert [type(error) for error in again] == [ClientStopped]


# Questions.

STATUS_UNIQUE = STATUS_RES_UNIQUE.response(b"u", b"1", b"1", b"3", b"8", b"2")


def test_status_of_a_handle_is_asked_of_its_server() -> None:
    house = House(2)
    asked = house.client.get_status(JobHandle("endpoint:1", b"H:7"))
    assert (house.received(0), house.received(1)[0]) == ([], (GET_STATUS, [b"H:7"]))
    house.server(1).send(answer((GET_STATUS, [b"H:7"])))
    assert outcome(asked) == JobStatus(False, False, 0, 0, None)
    house.stop()


def test_status_of_a_unique() -> None:
    house = House()
    asked = house.client.get_status_unique("u")
    assert house.received()[0] == (GET_STATUS_UNIQUE, [b"u"])
    house.server().send(STATUS_UNIQUE)
    assert outcome(asked) == JobStatus(True, True, 3, 8, 2)
    house.stop()


def test_status_of_a_unique_is_asked_where_its_tasks_go() -> None:
    """While the first in rank is down, the next; and if it goes before it answers, the one after that."""
    house = House(3)
    house.client.add_task("work", b"x", unique="u").addErrback(lambda _: None)
    first = next(place for place in range(3) if house.loads(place))
    house.server(first).lose()
    house.client.add_task("work", b"x", unique="u").addErrback(lambda _: None)
    second = next(place for place in range(3) if house.loads(place))
    asked = house.client.get_status_unique("u")
    assert house.received(second)[0] == (GET_STATUS_UNIQUE, [b"u"])
    house.server(second).lose()
    third = 3 - first - second
    house.server(third).send(STATUS_UNIQUE)
    assert outcome(asked).known
    house.stop()


def test_status_where_no_server_is() -> None:
    house = House(2)
    for endpoint in house.endpoints:
        endpoint.refuse = True
    error = outcome(house.client.get_status_unique("u"))
    assert (type(error), set(error.reasons)) == (NoServersAvailable, {"endpoint:0", "endpoint:1"})
    error = outcome(house.client.get_status(JobHandle("endpoint:1", b"H:1")))
    assert (type(error), set(error.reasons)) == (NoServersAvailable, {"endpoint:1"})
    house.stop()


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
def test_p8_a_handle_that_cannot_be_asked_about(handle: Any, kind: type[Exception], complaint: str) -> None:
    house = House()
    with pytest.raises(kind, match=complaint):
        house.client.get_status(handle)
    assert house.endpoints[0].attempts == 0


@pytest.mark.parametrize("unique", ["", b"", "-", b"-"])
def test_p8_a_unique_that_names_no_job(unique: str | bytes) -> None:
    with pytest.raises(ValueError, match="unique must name a job"):
        House().client.get_status_unique(unique)


def test_echo_makes_a_round_trip_to_each_server_that_is_there() -> None:
    house = House(3)
    house.endpoints[0].refuse = True
    house.endpoints[1].polite = False
    echoed = house.client.echo(b"abc")
    house.clock.advance(1)
    assert house.received(2)[0] == (ECHO_REQ, [b"abc"])
    house.server(2).send(ECHO_RES.response(b"abc"))
    house.server(1).shake_hands()
    house.clock.advance(0.25)
    assert outcome(echoed) is NOTHING
    house.server(1).send(ECHO_RES.response(b"abc"))
    assert outcome(echoed) == {"endpoint:1": 0.25, "endpoint:2": 1.0}
    house.stop()


def test_echo_where_the_answer_is_left_out() -> None:
    """geard does (H6): the fence behind it makes the round trip."""
    house = House()
    echoed = house.client.echo()
    fence = house.received()[1]
    house.clock.advance(0.5)
    house.server().send(answer(fence))
    assert outcome(echoed) == {"endpoint:0": 0.5}
    house.stop()


def test_echo_that_is_refused() -> None:
    house = House()
    echoed = house.client.echo()
    house.server().send(ERROR.response(b"NO", b"never"))
    error = outcome(echoed)
    assert (type(error), str(error)) == (ServerError, "NO: never")
    house.stop()


def test_echo_where_no_server_is() -> None:
    house = House(2)
    for endpoint in house.endpoints:
        endpoint.refuse = True
    error = outcome(house.client.echo())
    assert (type(error), set(error.reasons)) == (NoServersAvailable, {"endpoint:0", "endpoint:1"})
    house.stop()


def test_echo_may_be_cancelled() -> None:
    house = House(2)
    echoed = house.client.echo()
    echoed.cancel()
    assert type(outcome(echoed)) is CancelledError
    assert house.client.servers[0].state is ServerState.READY
    house.stop()


@pytest.mark.parametrize(
    ("data", "kind", "complaint"),
    [
        ("text", TypeError, "data must be bytes, not str"),
        (b"x" * 11, ValueError, "data must have max_packet_size=10 bytes at most, not 11"),
    ],
)
def test_p8_echo_of_what_cannot_be_sent(data: Any, kind: type[Exception], complaint: str) -> None:
    house = House(max_packet_size=10)
    with pytest.raises(kind, match=complaint):
        house.client.echo(data)
    assert house.endpoints[0].attempts == 0


# What stops and starts get into each other's way.


def test_p11_a_callback_starts_the_client_while_its_servers_are_being_stopped() -> None:
    """It is then connected to all of them anew, and nothing of the old connections is left."""
    house = House(3)

    def start(_: object) -> None:
        if not house.client.running:
            house.client.startService()

    for _ in range(3):
        house.client.add_task("work").addErrback(start)
    house.client.stopService()
    house.clock.advance(0)
    assert [info.state for info in house.client.servers] == [ServerState.READY] * 3
    assert [endpoint.attempts for endpoint in house.endpoints] == [2, 2, 2]
    assert [endpoint.connections[0].transport.lost for endpoint in house.endpoints] == [True] * 3
    house.stop()


def test_p11_every_stop_waits_until_nothing_is_left() -> None:
    """The second one too, and one after a start, for a peer that does not read."""
    house = House()
    house.client.startService()
    house.server().transport.stalled = True
    stops = [house.client.stopService(), house.client.stopService()]
    house.client.startService()
    stops.append(house.client.stopService())
    house.clock.advance(2.9)
    assert outcomes(stops) == [NOTHING] * 3
    house.clock.advance(0.2)
    house.clock.advance(0)
    assert NOTHING not in outcomes(stops)
    house.stop()


def test_a_stop_that_nobody_waits_for_any_more_goes_on() -> None:
    house = House(3)
    house.client.startService()
    stopped = house.client.stopService()
    stopped.cancel()
    assert type(outcome(stopped)) is CancelledError
    house.stop()


def test_p1_a_question_goes_on_to_no_server_of_a_stopped_client() -> None:
    house = House(2)
    house.client.add_task("work", b"x", unique="u").addErrback(lambda _: house.client.stopService())
    asked = house.client.get_status_unique("u")
    next(house.server(place) for place in (0, 1) if house.loads(place)).lose()
    assert type(outcome(asked)) is ClientStopped
    house.stop()


@pytest.mark.parametrize("task", ["work", None, b"work"])
def test_p8_what_is_no_task_is_not_submitted(task: Any) -> None:
    house = House()
    with pytest.raises(TypeError, match="task must be a Task, not "):
        house.client.submit(task)
    assert house.endpoints[0].attempts == 0
