"""A client's half of the protocol on one connection: whose each packet is. No socket, no real time."""

from __future__ import annotations

import gc
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost, TimeoutError
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from txgearman.client.protocol import ConnectionTasks, GearmanClientFactory, GearmanClientProtocol
from txgearman.client.task import Task, TaskOwner
from txgearman.connection.connector import EndpointConnector
from txgearman.connection.factory import GearmanFactory
from txgearman.connection.options import ConnectionOptions
from txgearman.connection.protocol import GearmanProtocol
from txgearman.errors import (
    ClientStopped,
    ProtocolError,
    RequestUnsupported,
    ServerError,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
)
from txgearman.models import JobHandle, Priority
from txgearman.packets import (
    ECHO_REQ,
    ECHO_RES,
    ERROR,
    GET_STATUS,
    JOB_CREATED,
    OPTION_REQ,
    STATUS_RES,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_EPOCH,
    SUBMIT_JOB_HIGH,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW,
    SUBMIT_JOB_LOW_BG,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    Packet,
    PacketType,
)
from txgearman.validation import MAX_HANDLE, whole_number

from ..wire import MemoryEndpoint, answer, outcome, with_limits

FENCE: Packet = (GET_STATUS, [b"txgearman:fence"])

H1 = b"H:host:1"
H2 = b"H:host:2"

BACKGROUND_CALLBACKS = ("on_created", "on_fail")
CALLBACKS = (*BACKGROUND_CALLBACKS, "on_data", "on_warning", "on_status", "on_complete", "on_exception")


class Told:
    """A task that was submitted, and what its caller is told, in order; of an exception, its type.

    :ivar error: the exception itself.
    """

    def __init__(self, connection: GearmanClientProtocol, workload: bytes = b"", **options: Any) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.error: Any = None
        names = BACKGROUND_CALLBACKS if options.get("background") else CALLBACKS
        callbacks: dict[str, Any] = {name: self._note(name) for name in names}
        self.task = Task(b"f", workload, **callbacks, **options)
        self.deferred = connection.submit(self.task)
        self.deferred.addCallbacks(self._succeeded, self._failed)

    def _note(self, name: str) -> Callable[..., None]:
        def note(task: Task, *arguments: Any) -> None:
            assert task is self.task
            shown = (type(argument) if isinstance(argument, Exception) else argument for argument in arguments)
            self.events.append((name, *shown))

        return note

    def _succeeded(self, result: object) -> None:
        self.events.append(("result", result))

    def _failed(self, failure: Failure) -> None:
        self.error = failure.value
        self.events.append(("failure", type(self.error)))

    @property
    def data(self) -> list[bytes]:
        """What came as WORK_DATA."""
        return [event[1] for event in self.events if event[0] == "on_data"]

    @property
    def outcomes(self) -> list[Any]:
        """What came of its Deferred: results, and types of exceptions."""
        return [event[1] for event in self.events if event[0] in ("result", "failure")]


class Net:
    """A connection to a server that the test plays, with nothing outstanding."""

    def __init__(self, **arguments: Any) -> None:
        self.clock = Clock()
        self.endpoint = MemoryEndpoint(self.clock)
        self.factory = GearmanClientFactory(self.clock, name="server", **with_limits(arguments))
        EndpointConnector(self.endpoint, self.factory).connect()
        assert isinstance(self.factory.connection, GearmanClientProtocol)
        self.connection = self.factory.connection
        self.tasks = ConnectionTasks(self.connection)
        self.server = self.endpoint.server

    def submit(self, workload: bytes = b"", **options: Any) -> Told:
        return Told(self.connection, workload, **options)

    def share(self, count: int, handle: bytes = H1) -> list[Told]:
        """Submit tasks that share a job; the server has it."""
        tasks = [self.submit(unique=b"u") for _ in range(count)]
        self.server.received()
        self.server.send(*[created(handle)] * count)
        return tasks


def created(handle: bytes = H1) -> bytes:
    return JOB_CREATED.response(handle)


def data(text: bytes, handle: bytes = H1) -> bytes:
    return WORK_DATA.response(handle, text)


def complete(result: bytes, handle: bytes = H1) -> bytes:
    return WORK_COMPLETE.response(handle, result)


def work_fail(handle: bytes = H1) -> bytes:
    return WORK_FAIL.response(handle)


def exception(text: bytes, handle: bytes = H1) -> bytes:
    return WORK_EXCEPTION.response(handle, text)


def outcomes(tasks: list[Told]) -> list[list[Any]]:
    return [told.outcomes for told in tasks]


# What is written.


@pytest.mark.parametrize(
    ("priority", "background", "packet_type"),
    [
        (Priority.HIGH, False, SUBMIT_JOB_HIGH),
        (Priority.NORMAL, False, SUBMIT_JOB),
        (Priority.LOW, False, SUBMIT_JOB_LOW),
        (Priority.HIGH, True, SUBMIT_JOB_HIGH_BG),
        (Priority.NORMAL, True, SUBMIT_JOB_BG),
        (Priority.LOW, True, SUBMIT_JOB_LOW_BG),
    ],
)
def test_submit_sends_one_packet(priority: Priority, background: bool, packet_type: PacketType) -> None:
    net = Net()
    net.submit(b"a\0b", unique=b"u", priority=priority, background=background)
    assert net.server.received() == [(packet_type, [b"f", b"u", b"a\0b"])]


@pytest.mark.parametrize(("background", "packet_type"), [(False, SUBMIT_JOB), (True, SUBMIT_JOB_BG)])
def test_submit_without_options_sends_plain_packet(background: bool, packet_type: PacketType) -> None:
    net = Net()
    told = outcome(net.connection.submit(Task("f", b"x", background)))
    assert net.server.received() == [(packet_type, [b"f", b"", b"x"])]
    net.server.send(created(), complete(b"r"))
    assert told == [JobHandle("server", H1) if background else b"r"]


@pytest.mark.guarantee(number=17)
def test_scheduled_submit_is_followed_by_fence() -> None:
    net = Net()
    net.submit(b"x", background=True, unique=b"u", at=1234.5)
    assert net.server.received() == [(SUBMIT_JOB_EPOCH, [b"f", b"u", b"1235", b"x"]), FENCE]


@pytest.mark.parametrize(("exceptions", "options"), [(True, [b"exceptions"]), (False, [])])
def test_connection_asks_for_exceptions_if_enabled(exceptions: bool, options: list[bytes]) -> None:
    clock = Clock()
    endpoint = MemoryEndpoint(clock)
    endpoint.polite = False
    EndpointConnector(endpoint, GearmanClientFactory(clock, exceptions=exceptions)).connect()
    assert [packet[1][0] for packet in endpoint.server.received() if packet[0] is OPTION_REQ] == options


@pytest.mark.guarantee(number=10)
def test_connect_timeout_is_configurable() -> None:
    clock = Clock()
    endpoint = MemoryEndpoint(clock)
    endpoint.polite = False
    EndpointConnector(
        endpoint, GearmanClientFactory(clock, connection_options=ConnectionOptions(connect_timeout=2))
    ).connect()
    clock.advance(1.9)
    assert not endpoint.server.transport.aborted
    clock.advance(0.1)
    assert endpoint.server.transport.aborted


@pytest.mark.guarantee(number=14)
def test_max_packet_size_is_configurable() -> None:
    net = Net(max_packet_size=64)
    told = net.submit()
    space = 64 - len(H1) - 1
    net.server.send(created(), data(b"x" * space), data(b"x" * (space + 1)))
    assert told.data == [b"x" * space]
    assert told.outcomes == [TaskLost]


def test_factory_uses_global_reactor_by_default() -> None:
    from twisted.internet import reactor

    assert GearmanClientFactory().reactor is reactor


@pytest.mark.guarantee(number=8)
def test_second_submit_of_task_raises() -> None:
    net = Net()
    told = net.submit()
    net.server.received()
    with pytest.raises(ValueError, match="submitted before"):
        net.connection.submit(told.task)
    assert net.server.received() == []
    assert net.connection.in_flight == 1


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("size", [1, 7, 10**6])
@pytest.mark.parametrize("payload", [b"", b"\0", b"\0RES\0\0\0\x0d" * 3, bytes(range(256)) * 300])
def test_payloads_are_transmitted_unchanged(payload: bytes, size: int) -> None:
    net = Net()
    told = net.submit(payload)
    assert net.server.received()[0][1][2] == payload
    stream = b"".join(
        [
            created(),
            data(payload),
            WORK_WARNING.response(H1, payload),
            complete(payload),
        ]
    )
    for start in range(0, len(stream), size):
        net.server.send(stream[start : start + size])
    assert [event[1] for event in told.events if len(event) > 1] == [payload] * 4


# Order and outcome.

NEWS = [
    data(b"1"),
    WORK_WARNING.response(H1, b"2"),
    WORK_STATUS.response(H1, b"3", b"4"),
    data(b"5"),
]
TOLD_NEWS = [("on_created",), ("on_data", b"1"), ("on_warning", b"2"), ("on_status", 3, 4), ("on_data", b"5")]


@pytest.mark.guarantee(number=2)
@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (complete(b"r"), [("on_complete", b"r"), ("result", b"r")]),
        (work_fail(), [("on_fail", TaskFailed), ("failure", TaskFailed)]),
        (exception(b"e"), [("on_exception", b"e"), ("on_fail", TaskException), ("failure", TaskException)]),
    ],
    ids=["complete", "fail", "exception"],
)
def test_events_come_in_order(end: bytes, expected: list[Any]) -> None:
    net = Net()
    told = net.submit()
    assert told.events == []
    net.server.send(created(), *NEWS, end)
    assert told.events == TOLD_NEWS + expected


@pytest.mark.guarantee(number=2)
def test_background_task_fires_with_handle() -> None:
    net = Net()
    told = net.submit(background=True)
    net.server.send(created())
    assert told.events == [("on_created",), ("result", JobHandle("server", H1))]


@pytest.mark.parametrize("background", [False, True])
def test_handle_has_address_of_server(background: bool) -> None:
    net = Net()
    told = net.submit(background=background)
    net.server.send(created(b"\xc3\xbc: 1"))
    assert told.task.handle == JobHandle("server", b"\xc3\xbc: 1")


@pytest.mark.guarantee(number=5)
def test_exception_may_have_any_data() -> None:
    net = Net()
    first, second = net.submit(), net.submit()
    net.server.send(created(), created(H2), exception(b"bo\0om"), exception(b"", H2))
    assert isinstance(first.error, TaskException)
    assert (first.error.data, second.error.data) == (b"bo\0om", b"")


def test_answers_are_matched_to_submits_in_order() -> None:
    """Other requests among them."""
    net = Net()
    first = net.submit()
    echoed: list[Any] = []
    net.connection.request(ECHO_REQ, b"1", answer=ECHO_RES).addCallback(echoed.append)
    second = net.submit()
    net.server.send(created(H1), ECHO_RES.response(b"1"), answer(FENCE), created(H2))
    net.server.send(complete(b"two", H2), complete(b"one", H1))
    assert (first.outcomes, echoed, second.outcomes) == ([b"one"], [[b"1"]], [b"two"])


@pytest.mark.guarantee(number=17)
def test_other_requests_fail_among_submits() -> None:
    """Refused, left unanswered, lost: among submits, too."""
    net = Net()
    told: list[Any] = []
    for text in (b"refused", b"unanswered", b"lost"):
        net.submit(background=True)
        net.connection.request(ECHO_REQ, text, answer=ECHO_RES).addErrback(lambda failure: told.append(failure.value))
    error = ERROR.response(b"code", b"text")
    net.server.send(created(), error, answer(FENCE), created(), answer(FENCE), created())
    net.server.lose(ConnectionLost("cable"))
    assert [type(error) for error in told] == [ServerError, RequestUnsupported, ConnectionLost]
    assert [error.code for error in told[:2]] == ["code", ""]


# A refusal.


@pytest.mark.guarantee(number=3)
@pytest.mark.parametrize("options", [{}, {"background": True}], ids=["foreground", "background"])
def test_error_fails_submit_that_it_answers(options: dict[str, Any]) -> None:
    net = Net()
    tasks = [net.submit(**options) for _ in range(3)]
    net.server.send(created(H1), ERROR.response(b"QUEUE_ERROR", b"Job queue is full"), created(H2))
    assert tasks[1].events == [("on_fail", TaskRejected), ("failure", TaskRejected)]
    assert (tasks[1].error.code, tasks[1].error.text) == ("QUEUE_ERROR", "Job queue is full")
    assert tasks[1].error.task is tasks[1].task
    assert [told.task._job_handle for told in tasks] == [H1, b"", H2]


def epoch(net: Net) -> Told:
    return net.submit(background=True, at=1234)


@pytest.mark.guarantee(number=3)
def test_scheduled_submit_is_accepted_or_rejected() -> None:
    net = Net()
    taken, refused, last = epoch(net), epoch(net), net.submit()
    error = ERROR.response(b"server_error", b"")
    net.server.send(created(H1), answer(FENCE), error, answer(FENCE), created(H2), complete(b"r", H2))
    assert outcomes([taken, refused, last]) == [[JobHandle("server", H1)], [TaskRejected], [b"r"]]


@pytest.mark.guarantee(number=17)
def test_unanswered_scheduled_submit_is_rejected() -> None:
    """geard does so (H6). The tasks around it are not touched."""
    net = Net()
    first, unanswered, last = net.submit(), epoch(net), net.submit()
    net.server.send(created(H1), answer(FENCE), created(H2), complete(b"1", H1), complete(b"2", H2))
    assert outcomes([first, unanswered, last]) == [[b"1"], [TaskRejected], [b"2"]]
    assert unanswered.error.code == ""
    assert net.connection.in_flight == 0


# Several tasks of one job: docs/gearman.md §1, D1.


@pytest.mark.guarantee(number=4)
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    ("end", "expected"),
    [(complete(b"r"), b"r"), (work_fail(), TaskFailed), (exception(b"e"), TaskException)],
    ids=["complete", "fail", "exception"],
)
def test_each_task_of_shared_job_gets_each_packet_once(count: int, end: bytes, expected: object) -> None:
    """The server sends a copy for each, one right behind the other."""
    net = Net()
    tasks = net.share(count)
    for packet in [*NEWS, end]:
        net.server.send(*[packet] * count)
    assert [told.events[:5] for told in tasks] == [TOLD_NEWS] * count
    assert outcomes(tasks) == [[expected]] * count
    assert net.connection._jobs == {}


@pytest.mark.guarantee(number=4)
def test_joining_task_gets_packets_from_then_on() -> None:
    net = Net()
    first = net.share(2)
    net.server.send(*[data(b"1")] * 2)
    late = net.share(1)
    net.server.send(*[data(b"2")] * 3, *[complete(b"r")] * 3)
    assert [told.data for told in first + late] == [[b"1", b"2"], [b"1", b"2"], [b"2"]]
    assert outcomes(first + late) == [[b"r"]] * 3


@pytest.mark.guarantee(number=4)
@pytest.mark.parametrize("order", [(True, False, False), (False, True, False), (False, False, True)])
def test_background_task_of_shared_job_gets_no_copies(order: tuple[bool, ...]) -> None:
    net = Net()
    tasks = [net.submit(unique=b"u", background=background) for background in order]
    net.server.send(*[created()] * 3, *[data(b"1")] * 2, *[complete(b"r")] * 2)
    for told, background in zip(tasks, order, strict=True):
        assert told.outcomes == [JobHandle("server", H1) if background else b"r"]
        assert told.data == ([] if background else [b"1"])


@pytest.mark.guarantee(number=4)
@pytest.mark.parametrize("cancelled", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("early", [True, False], ids=["before JOB_CREATED", "after JOB_CREATED"])
def test_copies_for_cancelled_task_go_to_no_other_task(cancelled: tuple[int, ...], early: bool) -> None:
    """The server knows nothing of it, and goes on sending its copies: they are nobody else's."""
    net = Net()
    tasks = [net.submit(unique=b"u") for _ in range(3)]
    if not early:
        net.server.send(*[created()] * 3)
    for place in cancelled:
        tasks[place].deferred.cancel()
    if early:
        net.server.send(*[created()] * 3)
    late = net.submit(unique=b"u")
    net.server.send(created(), *[data(b"1")] * 4, *[data(b"2")] * 4, *[complete(b"r")] * 4)
    left = [told for place, told in enumerate(tasks) if place not in cancelled] + [late]
    assert [told.data for told in left] == [[b"1", b"2"]] * len(left)
    assert outcomes(left) == [[b"r"]] * len(left)
    assert outcomes([tasks[place] for place in cancelled]) == [[CancelledError]] * len(cancelled)
    assert net.connection._jobs == {}


@pytest.mark.guarantee(number=4)
def test_task_may_join_job_whose_only_task_was_cancelled() -> None:
    """And be cancelled between two copies of one packet, by the task that got the other."""
    net = Net()
    first = net.share(1)[0]
    first.deferred.cancel()
    net.server.send(data(b"1"))
    second = net.share(1)[0]
    net.server.send(*[data(b"2")] * 2, *[complete(b"r")] * 2)
    assert (first.data, second.data, second.outcomes) == ([], [b"2"], [b"r"])


@pytest.mark.guarantee(number=9)
def test_task_may_cancel_task_that_shares_its_job() -> None:
    """Between two copies of one packet."""
    net = Net()
    first, second, third = net.share(3)
    first.task._options = first.task._options._replace(on_data=lambda task, text: second.deferred.cancel())
    net.server.send(*[data(b"1")] * 3, *[data(b"2")] * 3, *[complete(b"r")] * 3)
    assert (second.data, third.data) == ([], [b"1", b"2"])
    assert outcomes([first, second, third]) == [[b"r"], [CancelledError], [b"r"]]


@pytest.mark.guarantee(number=4)
def test_task_submitted_between_two_copies_of_end_gets_new_job() -> None:
    """It is a new job then, since the server was done with the other before it sent the first copy."""
    net = Net()
    first, second = net.share(2)
    again: list[Told] = []
    first.deferred.addCallback(lambda _: again.append(net.submit(unique=b"u")))
    net.server.send(*[complete(b"r")] * 2, created(H2), data(b"new", H2), complete(b"s", H2))
    assert outcomes([first, second, *again]) == [[b"r"], [b"r"], [b"s"]]
    assert (second.data, again[0].data) == ([], [b"new"])


@pytest.mark.guarantee(number=4)
def test_data_between_two_copies_of_end_is_for_remaining_task() -> None:
    """No server was seen to do it; but one that cancels one client of a job would."""
    net = Net()
    first, second = net.share(2)
    net.server.send(work_fail(), data(b"1"), data(b"2"), complete(b"r"))
    assert outcomes([first, second]) == [[TaskFailed], [b"r"]]
    assert (first.data, second.data) == ([], [b"1", b"2"])


@pytest.mark.guarantee(number=4)
def test_jobs_with_different_handles_are_kept_apart() -> None:
    net = Net()
    ones, twos = net.share(2, H1), net.share(2, H2)
    net.server.send(data(b"1", H1), data(b"1", H1), *[complete(b"two", H2)] * 2, *[complete(b"one", H1)] * 2)
    assert outcomes(ones + twos) == [[b"one"], [b"one"], [b"two"], [b"two"]]
    assert [told.data for told in ones + twos] == [[b"1"], [b"1"], [], []]


# A running job that an administrator cancelled: its tasks are told, and it goes on, copies and all (D2).


@pytest.mark.guarantee(number=4)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_task_that_joins_cancelled_job_gets_each_packet_once(count: int) -> None:
    net = Net()
    ended = net.share(count)
    net.server.send(*[work_fail()] * count, *[data(b"late")] * count)
    joined = net.share(2)
    total = count + 2
    net.server.send(*[data(b"1")] * total, *[data(b"2")] * total, *[complete(b"r")] * total)
    assert outcomes(ended) == [[TaskFailed]] * count
    assert [told.data for told in ended + joined] == [[]] * count + [[b"1", b"2"]] * 2
    assert outcomes(joined) == [[b"r"]] * 2


@pytest.mark.guarantee(number=4)
def test_job_may_be_cancelled_repeatedly() -> None:
    net = Net()
    for places in range(1, 5):
        told = net.share(1)[0]
        net.server.send(*[data(b"1")] * places, *[data(b"2")] * places, *[work_fail()] * places)
        assert told.data == [b"1", b"2"]
        assert told.outcomes == [TaskFailed]


@pytest.mark.guarantee(number=4)
def test_task_that_joins_cancelled_job_with_cancelled_task_gets_each_packet_once() -> None:
    """The place of that one is still there, too."""
    net = Net()
    discard, told = net.share(2)
    discard.deferred.cancel()
    net.server.send(*[work_fail()] * 2)
    joined = net.share(1)[0]
    net.server.send(*[data(b"1")] * 3, *[data(b"2")] * 3, *[complete(b"r")] * 3)
    assert told.outcomes == [TaskFailed]
    assert joined.data == [b"1", b"2"]
    assert joined.outcomes == [b"r"]


@pytest.mark.guarantee(number=4)
def test_task_that_joins_cancelled_job_after_cancelled_task_gets_each_packet_once() -> None:
    """One that joined, and was let go before its JOB_CREATED."""
    net = Net()
    told = net.share(1)[0]
    net.server.send(work_fail())
    net.submit(unique=b"u").deferred.cancel()
    net.server.send(created())
    joined = net.share(1)[0]
    net.server.send(*[data(b"1")] * 3, *[data(b"2")] * 3, *[complete(b"r")] * 3)
    assert told.outcomes == [TaskFailed]
    assert joined.data == [b"1", b"2"]
    assert joined.outcomes == [b"r"]


@pytest.mark.guarantee(number=4)
def test_job_with_same_handle_and_other_unique_is_another_job() -> None:
    """Servers with long names give handles twice (docs/gearman.md §10b)."""
    net = Net()
    net.share(1)
    net.server.send(work_fail())
    other = net.submit(unique=b"other")
    net.server.send(created(), data(b"1"), data(b"2"), complete(b"r"))
    assert other.data == [b"1", b"2"]
    assert other.outcomes == [b"r"]


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize("uniques", [(b"", b""), (b"u", b"v"), (b"u", b""), (b"", b"u"), (b"-", b"")])
@pytest.mark.parametrize("first_cancelled", [False, True])
def test_two_jobs_with_one_handle_close_connection(uniques: tuple[bytes, bytes], first_cancelled: bool) -> None:
    """Their results could not be told apart (H10, M5)."""
    net = Net()
    first, second = (net.submit(unique=unique) for unique in uniques)
    net.server.send(created())
    if first_cancelled:
        first.deferred.cancel()
    net.server.send(created() + complete(b"whose?"))
    assert outcomes([first, second]) == [[CancelledError if first_cancelled else TaskLost], [TaskLost]]
    assert (second.error.acknowledged, type(second.error.__cause__)) == (True, ProtocolError)
    assert net.server.transport.aborted


@pytest.mark.guarantee(number=17)
def test_one_handle_for_two_functions_closes_connection() -> None:
    """Though the unique is the same: it is one job only where the function is, too."""
    net = Net()
    first = net.submit(unique=b"u")
    second = outcome(net.connection.submit(Task("g", unique=b"u")))
    net.server.send(created() * 2)
    assert first.outcomes == [TaskLost]
    assert [type(error) for error in second] == [TaskLost]
    assert net.server.transport.aborted


@pytest.mark.guarantee(number=17)
def test_second_job_of_handle_closes_connection_though_task_was_cancelled() -> None:
    net = Net()
    first, second = net.submit(), net.submit()
    second.deferred.cancel()
    net.server.send(created() * 2)
    assert outcomes([first, second]) == [[TaskLost], [CancelledError]]
    assert type(first.error.__cause__) is ProtocolError


@pytest.mark.guarantee(number=4)
@pytest.mark.parametrize("uniques", [(b"-", b"abc"), (b"abc", b"-"), (b"-", b"-")])
def test_unique_dash_shares_job_with_workload(uniques: tuple[bytes, bytes]) -> None:
    """perl's server takes "-" and the workload as unique for the same (docs/gearman.md §1)."""
    net = Net()
    tasks = [net.submit(b"abc", unique=unique) for unique in uniques]
    net.server.send(created() * 2 + complete(b"r") * 2)
    assert outcomes(tasks) == [[b"r"]] * 2


@pytest.mark.guarantee(number=12)
@pytest.mark.parametrize(("unique", "kept"), [(b"", 0), (b"u%d", 1000)])
def test_number_of_remembered_failed_jobs_is_limited(unique: bytes, kept: int) -> None:
    """Only jobs with a unique can be joined, and only so many are remembered."""
    net = Net()
    for number in range(1010):
        net.submit(unique=unique.replace(b"%d", b"%d" % number))
        handle = b"H:%d" % number
        net.server.send(created(handle), work_fail(handle))
    assert (len(net.connection._jobs), len(net.connection._outstanding), len(net.connection._remembered_ends)) == (
        0,
        0,
        kept,
    )
    assert net.connection.in_flight == 0


# The server's quirks, and late packets.


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize(
    "packet",
    [
        WORK_FAIL.response(H1 + b"\0"),
        WORK_FAIL.response(H1 + b"\0extra"),
        WORK_FAIL.request(H1),
        WORK_FAIL.request(H1 + b"\0extra\0"),
    ],
    ids=["M1: trailing NUL", "M1: more behind it", "M2: wrong magic", "both"],
)
def test_malformed_work_fail_fails_task(packet: bytes) -> None:
    net = Net()
    told = net.submit()
    net.server.send(created(), packet)
    assert told.outcomes == [TaskFailed]
    assert net.connection.error is None


def late(handle: bytes = H1) -> list[bytes]:
    """One packet of each kind."""
    return [
        data(b"late", handle),
        WORK_WARNING.response(handle, b"late"),
        WORK_STATUS.response(handle, b"1", b"2"),
        exception(b"late", handle),
        work_fail(handle),
        complete(b"late", handle),
    ]


@pytest.mark.guarantee(number=6)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "end", [work_fail(), exception(b"e"), complete(b"r")], ids=["D2: fail", "D3: exception", "complete"]
)
def test_packets_for_ended_tasks_are_ignored(end: bytes, count: int) -> None:
    net = Net()
    tasks = net.share(count)
    net.server.send(*[end] * count)
    before = [list(told.events) for told in tasks]
    for packet in late():
        net.server.send(*[packet] * count)
    assert [told.events for told in tasks] == before
    check_still_good(net)


@pytest.mark.guarantee(number=6)
@pytest.mark.parametrize("early", [True, False], ids=["before JOB_CREATED", "after JOB_CREATED"])
def test_packets_for_cancelled_task_are_ignored(early: bool) -> None:
    net = Net()
    told = net.submit()
    if early:
        told.deferred.cancel()
    net.server.send(created())
    told.deferred.cancel()
    net.server.send(*NEWS, *late())
    assert told.outcomes == [CancelledError]
    assert told.data == []
    check_still_good(net)


@pytest.mark.guarantee(number=6)
def test_packets_for_background_job_are_ignored() -> None:
    net = Net()
    told = net.submit(background=True)
    net.server.send(created(), *late())
    assert told.outcomes == [JobHandle("server", H1)]
    check_still_good(net)


def check_still_good(net: Net) -> None:
    """The connection serves the next task, and nothing is left of those before."""
    assert net.connection.in_flight == 0
    assert net.connection._jobs == {}
    told = net.submit()
    net.server.send(created(H2), data(b"1", H2), complete(b"r", H2))
    assert (told.data, told.outcomes) == ([b"1"], [b"r"])
    assert net.connection.error is None


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"7", 7),
        (b"-1", -1),
        (b"+2", 2),
        (b" 1.5", 1),
        (b"\t\n 3", 3),
        (b"007", 7),
        (b"12abc", 12),
        (b"abc", 0),
        (b"-", 0),
        (b"- 1", 0),
        (b"", 0),
        (b"7\0", 7),
        (b"\0" + b"7", 0),
        ("٣".encode(), 0),
        (b"\xff", 0),
        (b"0x10", 0),
        (b"1_000", 1),
        (b"99999999999999999999", 99999999999999999999),
        (b"1" * 20, int("1" * 20)),
        (b"1" * 5000, int("1" * 20)),
        (b"0" * 5000 + b"7", 7),
        (b"-" + b"0" * 30, 0),
    ],
)
def test_status_counts_leading_digits(text: bytes, number: int) -> None:
    """Servers relay what the worker wrote (C2)."""
    assert whole_number(text) == number
    net = Net()
    told = net.submit()
    # A NUL would end the numerator.
    numerator = text.partition(b"\0")[0]
    net.server.send(created(), WORK_STATUS.response(H1, numerator, text))
    assert told.events[1:] == [("on_status", whole_number(numerator), number)]


# The connection goes.


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize(
    ("answers", "acknowledged"),
    [([], False), ([created()], True), ([created(), data(b"1")], True)],
    ids=["before JOB_CREATED", "after JOB_CREATED", "under way"],
)
def test_task_is_lost_with_connection(answers: list[bytes], acknowledged: bool) -> None:
    net = Net()
    told = net.submit()
    net.server.send(*answers)
    cause = ConnectionLost("cable")
    net.server.lose(cause)
    assert told.outcomes == [TaskLost]
    assert told.error.acknowledged is acknowledged
    assert told.error.__cause__ is cause
    assert told.error.task is told.task
    assert net.server.received()[1:] == []  # it is not written again


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize("options", [{}, {"at": 1234}])
def test_background_task_is_lost_with_connection_unless_acknowledged(options: dict[str, Any]) -> None:
    net = Net()
    taken = net.submit(background=True)
    lost = net.submit(background=True, **options)
    net.server.send(created())
    net.server.lose()
    assert outcomes([taken, lost]) == [[JobHandle("server", H1)], [TaskLost]]
    assert lost.error.acknowledged is False


def busy() -> tuple[Net, list[Told]]:
    """A connection with tasks in every state: one not acknowledged, one with a job of its own, two that share one."""
    net = Net()
    tasks = net.share(2)
    tasks.append(net.submit())
    net.server.send(created(H2))
    tasks.append(net.submit())
    return net, tasks


@pytest.mark.guarantee(number=1)
def test_every_task_is_lost_once_with_connection() -> None:
    net, tasks = busy()
    net.server.send(created(b"H:5"))
    shared = net.share(1, b"H:3") + net.share(2, b"H:4")
    tasks.append(net.submit())
    cancelled = net.submit()
    for told in [cancelled, *shared[:2]]:
        told.deferred.cancel()
    net.server.lose()
    assert outcomes(tasks) == [[TaskLost]] * 5
    assert outcomes([cancelled, *shared]) == [[CancelledError]] * 3 + [[TaskLost]]
    assert net.connection.in_flight == 0


@pytest.mark.guarantee(number=1)
def test_stop_fails_every_task_with_client_stopped() -> None:
    """At once, whether or not the server reads: no turn of the reactor passes."""
    net, tasks = busy()
    net.factory.stop(ClientStopped())
    assert outcomes(tasks) == [[ClientStopped]] * 4
    assert net.connection.in_flight == 0


@pytest.mark.guarantee(number=1)
def test_each_task_fails_with_its_own_error() -> None:
    """A traceback that one of their callers adds must not show up with the others."""
    net, tasks = busy()
    net.factory.stop(ClientStopped())
    assert len({id(told.error) for told in tasks}) == len(tasks)


@pytest.mark.guarantee(number=1)
def test_submit_on_lost_connection_fails_at_once() -> None:
    net = Net()
    net.server.lose(ConnectionLost("cable"))
    told = net.submit()
    assert told.events == [("on_fail", TaskLost), ("failure", TaskLost)]
    assert told.error.__cause__ is net.connection.error
    assert told.error.acknowledged is False
    assert net.server.received() == []
    assert net.connection.in_flight == 0


@pytest.mark.guarantee(number=1)
def test_submit_by_callback_of_lost_task_fails_at_once() -> None:
    net, tasks = busy()
    again: list[Told] = []
    for told in tasks:
        told.task._options = told.task._options._replace(on_fail=lambda task, reason: again.append(net.submit()))
    net.server.received()
    net.server.lose()
    assert outcomes(again) == [[TaskLost]] * 4
    assert net.server.received() == []
    assert net.connection.in_flight == 0


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_lost_task_may_cancel_others(place: int) -> None:
    net, tasks = busy()
    others = [told for number, told in enumerate(tasks) if number != place]

    def cancel_others(task: Task, reason: Exception) -> None:
        for told in others:
            told.deferred.cancel()

    tasks[place].task._options = tasks[place].task._options._replace(on_fail=cancel_others)
    net.server.lose()
    assert tasks[place].outcomes == [TaskLost]
    assert all(told.outcomes in ([TaskLost], [CancelledError]) for told in others)


class JobCanceller:
    """An observer that cancels tasks as soon as it hears that their connection is down."""

    def __init__(self) -> None:
        self.tasks: list[Told] = []

    def connection_ready(self, connection: GearmanProtocol) -> None:
        """Of no interest."""

    def connection_down(self, factory: GearmanFactory[GearmanClientProtocol], error: Exception) -> None:
        for told in self.tasks:
            told.deferred.cancel()


@pytest.mark.guarantee(number=9)
def test_listener_may_cancel_tasks_before_they_are_lost() -> None:
    listener = JobCanceller()
    net = Net(listener=listener)
    listener.tasks = [*net.share(2), net.submit()]
    net.server.lose()
    assert outcomes(listener.tasks) == [[CancelledError]] * 3
    assert net.connection.in_flight == 0


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize("event", ["on_created", "on_data", "on_complete"])
def test_callback_may_stop_factory(event: str) -> None:
    """What comes behind it in the same read is dropped, and every task has one outcome."""
    net = Net()
    tasks = [net.submit(unique=b"u") for _ in range(3)]
    callbacks: dict[str, Any] = {event: lambda *_: net.factory.stop(ClientStopped())}
    tasks[0].task._options = tasks[0].task._options._replace(**callbacks)
    net.server.send(*[created()] * 3, *[data(b"1")] * 3, *[complete(b"r")] * 3, b"garbage" * 3)
    first = b"r" if event == "on_complete" else ClientStopped
    assert outcomes(tasks) == [[first], [ClientStopped], [ClientStopped]]
    net.clock.advance(0)
    assert net.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize(
    "said",
    [
        created(b""),
        b"\0RES\0\0\0\x08\xff\xff\xff\xff",
        WORK_DATA.response(H1, b"")[:11] + b"\x08" + H1,
        ECHO_RES.response(b"x"),
        b"garbage" * 3,
    ],
    ids=["empty handle", "4 GiB", "truncated arguments", "wrong answer", "garbage"],
)
def test_protocol_violation_aborts_connection_and_loses_tasks(said: bytes) -> None:
    net = Net()
    acknowledged = net.share(1)[0]
    waiting = [net.submit(), net.submit()]
    net.server.send(said, created())
    assert outcomes([acknowledged, *waiting]) == [[TaskLost]] * 3
    assert isinstance(acknowledged.error.__cause__, ProtocolError)
    assert [told.error.acknowledged for told in (acknowledged, *waiting)] == [True, False, False]
    net.clock.advance(0)
    assert net.server.transport.aborted
    assert net.factory.next_attempt is not None


@pytest.mark.guarantee(number=14)
def test_empty_handle_for_cancelled_task_closes_connection() -> None:
    net = Net()
    net.submit().deferred.cancel()
    net.server.send(created(b""))
    assert isinstance(net.connection.error, ProtocolError)


@pytest.mark.guarantee(number=14)
def test_unexpected_job_created_closes_connection() -> None:
    net = Net()
    told = net.share(1)[0]
    net.server.send(created(H2))
    assert told.outcomes == [TaskLost]
    assert isinstance(net.connection.error, ProtocolError)


# Cancelling.


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("background", [False, True])
def test_task_cancelled_before_its_answer_shifts_no_answer(background: bool) -> None:
    net = Net()
    first = net.submit(background=background)
    second, third = net.submit(), net.submit()
    first.deferred.cancel()
    assert first.events == [("on_fail", CancelledError), ("failure", CancelledError)]
    net.server.send(created(), ERROR.response(b"code", b"text"), created(H2), complete(b"r", H2))
    assert len(first.events) == 2
    assert outcomes([second, third]) == [[TaskRejected], [b"r"]]


@pytest.mark.guarantee(number=4)
def test_cancelled_background_task_gets_no_copies() -> None:
    net = Net()
    net.submit(unique=b"u", background=True).deferred.cancel()
    told = net.submit(unique=b"u")
    net.server.send(created() * 2, data(b"1"), data(b"2"), complete(b"r"))
    assert (told.data, told.outcomes) == ([b"1", b"2"], [b"r"])
    check_still_good(net)


@pytest.mark.guarantee(number=6)
@pytest.mark.parametrize("background", [False, True])
def test_error_for_cancelled_task_is_ignored(background: bool) -> None:
    net = Net()
    told = net.submit(background=background)
    told.deferred.cancel()
    net.server.send(ERROR.response(b"code", b"text"))
    assert told.outcomes == [CancelledError]
    check_still_good(net)


@pytest.mark.guarantee(number=6)
def test_missing_answer_for_cancelled_task_is_ignored() -> None:
    net = Net()
    told = epoch(net)
    told.deferred.cancel()
    net.server.send(answer(FENCE))
    assert told.outcomes == [CancelledError]
    check_still_good(net)


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("count", [1, 2])
def test_on_created_may_cancel_task(count: int) -> None:
    net = Net()
    tasks = [net.submit(unique=b"u") for _ in range(count)]
    tasks[0].task._options = tasks[0].task._options._replace(on_created=lambda task: tasks[0].deferred.cancel())
    net.server.send(*[created()] * count, *[complete(b"r")] * count)
    assert outcomes(tasks) == [[CancelledError], [b"r"]][:count]
    check_still_good(net)


@pytest.mark.guarantee(number=9)
def test_on_created_may_cancel_background_task_on_connection() -> None:
    net = Net()
    told = net.submit(background=True)
    told.task._options = told.task._options._replace(on_created=lambda task: told.deferred.cancel())
    net.server.send(created())
    assert told.outcomes == [CancelledError]
    check_still_good(net)


# What is counted, and what is kept.


def test_in_flight_counts_tasks_from_submit_to_outcome() -> None:
    net = Net()
    counts = []

    def note(*packets: bytes) -> None:
        net.server.send(*packets)
        counts.append(net.connection.in_flight)

    shared = [net.submit(unique=b"u") for _ in range(2)]
    background = net.submit(background=True)
    refused, unanswered, alone = net.submit(), epoch(net), net.submit()
    note()
    note(created(), created())
    note(created())
    note(ERROR.response(b"code", b"text"))
    note(answer(FENCE))
    note(created(H2))
    note(data(b"1", H2), WORK_STATUS.response(H2, b"1", b"2"))
    shared[0].deferred.cancel()
    note()
    note(work_fail())
    note(work_fail())
    note(exception(b"e", H2))
    assert counts == [6, 6, 5, 4, 3, 3, 3, 2, 2, 1, 0]
    assert outcomes([background, refused, unanswered, alone, shared[1]]) == [
        [JobHandle("server", H1)],
        [TaskRejected],
        [TaskRejected],
        [TaskException],
        [TaskFailed],
    ]


def completes(net: Net, deferred: Deferred[Any]) -> None:
    net.server.send(created(), complete(b"r"))


def completes_in_company(net: Net, deferred: Deferred[Any]) -> None:
    """The other one is still waiting."""
    net.submit(unique=b"u")
    net.server.send(created(), created(), complete(b"r"))


def fails(net: Net, deferred: Deferred[Any]) -> None:
    net.server.send(created(), work_fail())


def raises(net: Net, deferred: Deferred[Any]) -> None:
    net.server.send(created(), exception(b"e"))


def is_rejected(net: Net, deferred: Deferred[Any]) -> None:
    net.server.send(ERROR.response(b"code", b"text"))


def is_cancelled_early(net: Net, deferred: Deferred[Any]) -> None:
    deferred.cancel()


def is_cancelled_late(net: Net, deferred: Deferred[Any]) -> None:
    net.server.send(created())
    deferred.cancel()


def is_cancelled_in_company(net: Net, deferred: Deferred[Any]) -> None:
    net.submit(unique=b"u")
    net.server.send(created(), created())
    deferred.cancel()


def is_lost_early(net: Net, deferred: Deferred[Any]) -> None:
    net.server.lose()


def is_lost_late(net: Net, deferred: Deferred[Any]) -> None:
    net.server.send(created())
    net.server.lose()


def is_lost_to_garbage(net: Net, deferred: Deferred[Any]) -> None:
    net.server.send(b"garbage" * 3)


def is_lost_to_a_wrong_answer(net: Net, deferred: Deferred[Any]) -> None:
    """The connection and whoever watches it keep the error."""
    net.server.send(created(b""))


def is_held_and_lost(net: Net, deferred: Any) -> None:
    net.server.send(created())
    net.tasks.hold(deferred._task)
    net.server.lose()


def is_held_and_completes(net: Net, deferred: Any) -> None:
    net.server.send(created())
    net.tasks.hold(deferred._task)
    net.server.send(complete(b"r"))


def is_held_and_cancelled(net: Net, deferred: Any) -> None:
    net.server.send(created())
    net.tasks.hold(deferred._task)
    deferred.cancel()


def is_forgotten(net: Net, deferred: Deferred[Any]) -> None:
    net.server.send(created())
    net.clock.pump([30, 30])
    net.server.send(STATUS_RES.response(H1, b"0", b"0", b"0", b"0"))


def is_stopped(net: Net, deferred: Deferred[Any]) -> None:
    net.factory.stop(ClientStopped())


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """What goes must go by its count of references."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def what_is_left(end: Callable[[Net, Deferred[Any]], None], **options: Any) -> Task | None:
    """Submit a task, have it end so, and return it if somebody still has it. The connection itself is still there."""
    net = Net()
    task = Task(b"f", unique=b"u", **options)
    kept = weakref.ref(task)
    deferred = net.connection.submit(task)
    end(net, deferred)
    assert deferred.called
    deferred.addErrback(lambda _: None)
    del task, deferred
    return kept()


@pytest.mark.guarantee(number=12)
@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize(
    "end",
    [
        completes,
        completes_in_company,
        fails,
        raises,
        is_rejected,
        is_cancelled_early,
        is_cancelled_late,
        is_cancelled_in_company,
        is_lost_early,
        is_lost_late,
        is_lost_to_garbage,
        is_lost_to_a_wrong_answer,
        is_held_and_lost,
        is_held_and_completes,
        is_held_and_cancelled,
        is_forgotten,
        is_stopped,
    ],
)
def test_connection_keeps_no_reference_to_ended_task(end: Callable[[Net, Deferred[Any]], None]) -> None:
    assert what_is_left(end) is None


def is_created(net: Net, deferred: Deferred[Any]) -> None:
    net.server.send(created())


@pytest.mark.guarantee(number=12)
@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("end", [is_created, is_rejected, is_cancelled_early, is_lost_early, is_stopped])
def test_connection_keeps_no_reference_to_ended_background_task(end: Callable[[Net, Deferred[Any]], None]) -> None:
    assert what_is_left(end, background=True) is None


@pytest.mark.guarantee(number=12)
def test_many_tasks_leave_tables_empty() -> None:
    net = Net()
    for number in range(500):
        handle = b"H:%d" % number
        for background in (False, True):
            net.submit(unique=handle, background=background)
        net.submit(unique=handle).deferred.cancel()
        net.server.send(*[created(handle)] * 3, *[complete(b"r", handle)] * 2)
        net.server.received()
    assert (
        len(net.connection._outstanding),
        net.connection._jobs,
        net.connection._remembered_ends,
        net.connection.in_flight,
    ) == (0, {}, {}, 0)


# All of it at random, against a model.


class Submit:
    """A task of the model below.

    :ivar expected: what its caller is to be told, as `Told` keeps it.
    :ivar wire: what the server is to receive.
    """

    def __init__(
        self, connection: GearmanClientProtocol, workload: bytes, unique: bytes, background: bool, timed: bool
    ):
        self.background = background
        options = {"at": 1234} if timed else {}
        self.told = Told(connection, workload, unique=unique, background=background, **options)
        self.expected: list[tuple[Any, ...]] = []
        self.waiting = True
        packet_type = SUBMIT_JOB_EPOCH if timed else SUBMIT_JOB_BG if background else SUBMIT_JOB
        self.wire: Packet = (packet_type, [b"f", unique, *([b"1234"] if timed else []), workload])

    def end(self, *events: tuple[Any, ...]) -> None:
        self.expected += events
        self.waiting = False

    def fail(self, error: type[Exception]) -> None:
        self.end(("on_fail", error), ("failure", error))


class Job:
    """A job on the model's server; `waiting` has its foreground tasks, and None for those that want no more copies."""

    def __init__(self, handle: bytes) -> None:
        self.handle = handle
        self.waiting: list[Submit | None] = []

    def discard(self, submit: Submit) -> None:
        self.waiting = [None if other is submit else other for other in self.waiting]

    def tell(self, event: tuple[Any, ...]) -> None:
        for submit in self.waiting:
            if submit is not None:
                submit.expected.append(event)

    def end(self, tell: Callable[[Submit], None]) -> None:
        """Its tasks have their outcome. Their places stay, as long as the job does."""
        for submit in self.waiting:
            if submit is not None:
                tell(submit)
        self.waiting = [None] * len(self.waiting)


class LinkMachine(RuleBasedStateMachine):
    """A connection to a server that is a small model of gearmand; each task must be told what the model says.

    The server answers requests in their order. A submit joins the job of its unique, if there is one; a packet about
    a job is sent once for each foreground submit that ever came to it on this connection (D1, D2).
    """

    coalesces = True

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.submits: list[Submit] = []
        self.cut = 10**6
        self.start_server()

    def start_server(self) -> None:
        """Anew: it counts handles from 1, and knows nothing."""
        self.unanswered: deque[Packet] = deque()
        self.unmatched: deque[Submit] = deque()
        self.jobs: dict[Any, Job] = {}
        self.handles = 0

    @initialize(cut=st.sampled_from([1, 5, 13, 10**6]))
    def choose_the_size_of_reads(self, cut: int) -> None:
        self.cut = cut

    def send(self, *packets: bytes) -> None:
        stream = b"".join(packets)
        for start in range(0, len(stream), self.cut):
            self.net.server.send(stream[start : start + self.cut])

    def job(self, pick: int) -> Job:
        return list(self.jobs.values())[pick % len(self.jobs)]

    # What the caller does.

    @rule(
        unique=st.sampled_from([b"u"] * 5 + [b"v", b"-", b""]),
        workload=st.sampled_from([b"u", b"w", b""]),
        kinds=st.lists(st.sampled_from(["foreground"] * 4 + ["background", "timed"]), min_size=1, max_size=3),
    )
    def submit(self, unique: bytes, workload: bytes, kinds: list[str]) -> None:
        for kind in kinds:
            self.submit_one(unique, workload, kind)

    def submit_one(self, unique: bytes, workload: bytes, kind: str) -> None:
        submit = Submit(self.net.connection, workload, unique, kind != "foreground", kind == "timed")
        self.submits.append(submit)
        self.unmatched.append(submit)
        packets = self.net.server.received()
        assert packets == [submit.wire, FENCE][: len(packets)]
        assert len(packets) == 1 + (kind == "timed")
        self.unanswered.extend(packets)

    def out(self) -> list[Submit]:
        return [submit for submit in self.submits if submit.waiting]

    @precondition(lambda self: self.out())
    @rule(pick=st.integers(0, 50))
    def cancel(self, pick: int) -> None:
        submit = self.out()[pick % len(self.out())]
        submit.told.deferred.cancel()
        submit.fail(CancelledError)
        for job in self.jobs.values():
            job.discard(submit)

    # What the server answers.

    @precondition(lambda self: self.unanswered)
    @rule(count=st.integers(1, 4))
    def answer(self, count: int) -> None:
        count = min(count, len(self.unanswered))
        self.send(*(self.answer_to(self.unanswered.popleft()) for _ in range(count)))

    def answer_to(self, packet: Packet) -> bytes:
        if packet == FENCE:
            return answer(packet)
        submit = self.unmatched.popleft()
        job = self.jobs.setdefault(self.key(packet), Job(b"H:%d" % (self.handles + 1)))
        self.handles = max(self.handles, int(job.handle[2:]))
        if not submit.background:
            job.waiting.append(submit if submit.waiting else None)
        if submit.waiting:
            submit.expected.append(("on_created",))
            if submit.background:
                submit.end(("result", JobHandle("server", job.handle)))
        return created(job.handle)

    def key(self, packet: Packet) -> object:
        """What a submit coalesces by; a new object for nothing."""
        unique, workload = packet[1][1], packet[1][-1]
        if not self.coalesces or not unique or (unique == b"-" and not workload):
            return object()
        return (unique, workload) if unique == b"-" else unique

    def next_is(self, *types: PacketType) -> bool:
        return bool(self.unanswered) and self.unanswered[0][0] in types

    @precondition(lambda self: self.next_is(SUBMIT_JOB, SUBMIT_JOB_BG, SUBMIT_JOB_EPOCH))
    @rule()
    def refuse(self) -> None:
        self.drop_submit()
        self.send(ERROR.response(b"QUEUE_ERROR", b"Job queue is full"))

    @precondition(lambda self: self.next_is(SUBMIT_JOB_EPOCH))
    @rule()
    def leave_unanswered(self) -> None:
        """As geard does (H6). Its task is told as soon as the fence is answered."""
        self.drop_submit()
        self.send(answer(self.unanswered.popleft()))

    def drop_submit(self) -> None:
        self.unanswered.popleft()
        submit = self.unmatched.popleft()
        if submit.waiting:
            submit.fail(TaskRejected)

    # What becomes of jobs.

    def copies(self, job: Job, packet: bytes) -> None:
        self.send(*[packet] * len(job.waiting))

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0, 50), text=st.binary(max_size=3))
    def work_data(self, pick: int, text: bytes) -> None:
        job = self.job(pick)
        job.tell(("on_data", text))
        self.copies(job, data(text, job.handle))

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0, 50), numerator=st.integers(0, 9))
    def work_status(self, pick: int, numerator: int) -> None:
        job = self.job(pick)
        job.tell(("on_status", numerator, 9))
        self.copies(job, WORK_STATUS.response(job.handle, b"%d" % numerator, b"9"))

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0, 50), end=st.sampled_from(["complete", "fail", "exception"]), stays=st.booleans())
    def end_a_job(self, pick: int, end: str, stays: bool) -> None:
        """It stays if an administrator cancelled it while it ran (D2); on the Perl server, after an exception (D3)."""
        job = self.job(pick)
        packet = self.told_of_end(job, end)
        if end == "complete" or not stays:
            self.jobs = {key: other for key, other in self.jobs.items() if other is not job}
        self.copies(job, packet)

    def told_of_end(self, job: Job, end: str) -> bytes:
        """What its tasks are to be told is noted; return the packet that tells it."""
        if end == "fail":
            job.end(lambda submit: submit.fail(TaskFailed))
            return work_fail(job.handle + b"\0extra")
        if end == "exception":
            told = [("on_exception", b"e"), ("on_fail", TaskException), ("failure", TaskException)]
            job.end(lambda submit: submit.end(*told))
            return exception(b"e", job.handle)
        job.end(lambda submit: submit.end(("on_complete", b"r"), ("result", b"r")))
        return complete(b"r", job.handle)

    @precondition(lambda self: self.handles)
    @rule(pick=st.integers(0, 50), kind=st.integers(0, 5))
    def send_a_late_packet(self, pick: int, kind: int) -> None:
        """About a job that is gone."""
        handle = b"H:%d" % (1 + pick % self.handles)
        if all(job.handle != handle for job in self.jobs.values()):
            self.send(late(handle)[kind])

    # The end.

    @precondition(lambda self: self.handles > 2)
    @rule(bad=st.booleans())
    def lose_the_connection(self, bad: bool) -> None:
        for submit in self.out():
            submit.fail(TaskLost)
        if bad:
            self.net.server.send(b"garbage" * 3)
        else:
            self.net.server.lose()
        self.check()
        self.net.clock.pump([0, 60])
        connection = self.net.factory.connection
        assert isinstance(connection, GearmanClientProtocol)
        self.net.connection, self.net.server = connection, self.net.endpoint.server
        self.start_server()

    @precondition(lambda self: self.handles > 2)
    @rule()
    def finish(self) -> None:
        """The server does all that there is to do."""
        if self.unanswered:
            self.answer(len(self.unanswered))
        while self.jobs:
            self.end_a_job(0, "complete", stays=False)
        assert not self.out()
        assert (len(self.net.connection._outstanding), self.net.connection._jobs) == (0, {})

    @invariant()
    def check(self) -> None:
        for submit in self.submits:
            assert submit.told.events == submit.expected
        assert self.net.connection.in_flight == (len(self.out()) if self.net.connection.error is None else 0)


class GeardMachine(LinkMachine):
    """A server on which each submit makes a job of its own."""

    coalesces = False


@pytest.mark.guarantee(number=4)
@pytest.mark.slow
@pytest.mark.parametrize("machine", [LinkMachine, GeardMachine])
def test_random_histories_match_model_server(machine: type[LinkMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=150, stateful_step_count=40, deadline=None))


# Where the server takes nothing for now.


class Owner(TaskOwner):
    """Notes the tasks that are handed back, and those that ended; and the jobs that it is to drop."""

    def __init__(self) -> None:
        self.placed: list[Task] = []
        self.ended: list[Task] = []
        self.dropped: list[JobHandle] = []

    def drop(self, handle: JobHandle) -> None:
        self.dropped.append(handle)

    def reroute(self, task: Task) -> None:
        self.placed.append(task)

    def task_ended(self, task: Task) -> None:
        self.ended.append(task)


def owned(net: Net, workload: bytes = b"", **options: Any) -> tuple[Task, Owner, list[Any]]:
    """A task that somebody answers for, on the connection; and what becomes of it."""
    task, owner = Task(b"f", workload, **options), Owner()
    told: list[Any] = []
    task._begin(owner).addCallbacks(told.append, lambda failure: told.append(failure.type))
    net.connection._send_task(task)
    return task, owner, told


def workloads(net: Net) -> list[bytes]:
    """Of the submits that have come."""
    return [arguments[-1] for packet_type, arguments in net.server.received() if "SUBMIT" in packet_type.name]


def test_tasks_wait_in_backlog_while_writing_is_paused() -> None:
    net = Net()
    net.connection.pauseProducing()
    tasks = [net.submit(b"%d" % number, background=number == 1) for number in range(4)]
    assert workloads(net) == []
    assert (net.connection.in_flight, net.connection.load, net.connection.busy) == (0, 4, True)
    net.connection.resumeProducing()
    assert workloads(net) == [b"0", b"1", b"2", b"3"]
    assert (net.connection.in_flight, net.connection.load) == (4, 4)
    net.server.send(*(created(b"H:%d" % number) for number in range(4)), complete(b"r", b"H:0"))
    assert tasks[0].outcomes == [b"r"]


def fills_up(net: Net, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on the transport is full after each write; return how much each was."""
    sizes: list[int] = []
    write = net.server.transport.write

    def write_and_be_full(data: bytes) -> None:
        sizes.append(len(data))
        write(data)
        net.connection.pauseProducing()

    monkeypatch.setattr(net.server.transport, "write", write_and_be_full)
    monkeypatch.setattr(net.server.transport, "writeSequence", lambda data: write_and_be_full(b"".join(data)))
    return sizes


def test_backlog_is_written_only_while_writing_is_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    net.connection.pauseProducing()
    for number in range(6):
        net.submit(b"%d" % number * 40_000)
    waiting = outcomes_of_drain(net)
    fills_up(net, monkeypatch)
    seen = []
    for _ in range(3):
        assert waiting == []
        net.connection.resumeProducing()
        seen.append([workload[:1] for workload in workloads(net)])
    assert seen == [[b"0", b"1"], [b"2", b"3"], [b"4", b"5"]]
    assert waiting == []  # the last of it is not out
    net.connection.resumeProducing()
    assert waiting == [None]


def test_backlog_of_small_tasks_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    net.connection.pauseProducing()
    for number in range(100):
        net.submit(b"%d" % number)
    sizes = fills_up(net, monkeypatch)
    net.connection.resumeProducing()
    assert (len(sizes), len(workloads(net)), net.connection.writing_paused) == (1, 100, True)


@pytest.mark.guarantee(number=10)
@pytest.mark.guarantee(number=17)
def test_server_that_acknowledges_nothing_is_dropped() -> None:
    """A job whose end it has not told yet is no answer that it owes."""
    net = Net(server_timeout=8.0, job_check_interval=1e6)
    first = net.submit()
    net.server.send(created())
    for _ in range(100):
        net.clock.advance(1)
    second, third = net.submit(), net.submit(background=True)
    assert net.connection.error is None
    net.clock.pump([0.25] * 31)
    assert outcomes([first, second, third]) == [[], [], []]
    net.clock.pump([0.25])
    assert outcomes([first, second, third]) == [[TaskLost]] * 3
    assert [told.error.acknowledged for told in (first, second, third)] == [True, False, False]
    for told in (first, second, third):
        assert isinstance(told.error.__cause__, TimeoutError)
        assert "no answer within 8.0 seconds" in str(told.error)
    assert net.server.transport.aborted


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize("late", [1, 7, 100])
def test_blocked_reactor_loses_no_task(late: float) -> None:
    """The time of the server's answer counts, and not that at which somebody else's code lets it be read."""
    net = Net(server_timeout=8.0, job_check_interval=8.0)
    for number in range(5):
        told = net.submit(b"%d" % number)
        net.clock.advance(late)
        net.server.send(created(), complete(b"r"))
        assert told.outcomes == [b"r"]
    assert net.connection.error is None


def outcomes_of_drain(net: Net) -> list[Any]:
    told: list[Any] = []
    net.connection.when_drained().addCallback(told.append)
    return told


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("background", [False, True])
def test_task_cancelled_in_backlog_is_never_sent(background: bool) -> None:
    net = Net()
    net.connection.pauseProducing()
    tasks = [net.submit(b"%d" % number, background=background) for number in range(3)]
    tasks[1].deferred.cancel()
    assert tasks[1].outcomes == [CancelledError]
    net.connection.resumeProducing()
    assert workloads(net) == [b"0", b"2"]


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize("background", [False, True])
def test_backlog_is_rerouted_when_connection_is_lost(background: bool) -> None:
    net = Net()
    written, _, lost = owned(net, b"written", background=background)
    net.connection.pauseProducing()
    task, owner, told = owned(net, b"waiting", background=background)
    other = net.submit(b"of nobody", background=background)
    net.server.lose()
    assert (lost, owner.placed, told) == ([TaskLost], [task], [])
    assert other.outcomes == [TaskLost]
    assert not other.error.acknowledged
    assert task._holder is None
    assert written.ended


@pytest.mark.guarantee(number=7)
def test_task_cancelled_by_lost_task_is_not_rerouted() -> None:
    net = Net()
    first = net.submit(b"written")
    net.connection.pauseProducing()
    task, owner, told = owned(net, b"waiting")
    deferred = task._deferred
    assert deferred is not None
    first.deferred.addBoth(lambda _: deferred.cancel())
    net.server.lose()
    assert (owner.placed, told) == ([], [CancelledError])


@pytest.mark.guarantee(number=12)
@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("end", ["cancelled", "lost"])
def test_connection_keeps_no_reference_to_unsent_task(end: str) -> None:
    net = Net()
    net.connection.pauseProducing()
    task = Task(b"f")
    kept = weakref.ref(task)
    deferred = net.connection.submit(task).addErrback(lambda _: None)
    if end == "cancelled":
        deferred.cancel()
    else:
        net.server.lose()
    assert deferred.called
    del task, deferred
    assert kept() is None


@pytest.mark.guarantee(number=7)
def test_backlog_is_rerouted_when_connection_is_retired() -> None:
    net = Net()
    first, _, told = owned(net, b"written")
    net.connection.pauseProducing()
    task, owner, _ = owned(net, b"waiting")
    left: list[bool] = []
    net.connection.retire(lambda: left.append(True))
    assert (owner.placed, left) == ([task], [])
    net.server.send(created(), complete(b"r"))
    assert (told, left, first.ended) == ([b"r"], [True], True)


@pytest.mark.parametrize("acknowledged", [False, True])
def test_retired_connection_is_idle_once_last_task_is_cancelled(acknowledged: bool) -> None:
    """A server owes an answer to a submit, whoever waits for it."""
    net = Net()
    told = net.submit()
    if acknowledged:
        net.server.send(created())
    left: list[bool] = []
    net.connection.retire(lambda: left.append(True))
    assert left == []
    told.deferred.cancel()
    assert left == [True] * acknowledged
    if not acknowledged:
        net.server.send(created())
    assert left == [True]
    assert not net.connection.busy


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("options", [{"timeout": 5.0}, {"retries": 1}])
def test_submit_raises_for_timeout_or_retries(options: dict[str, Any]) -> None:
    net = Net()
    with pytest.raises(ValueError, match="timeout and retries need a GearmanClient"):
        net.connection.submit(Task("f", **options))
    assert net.server.received() == []


# Forgotten jobs (guarantee 16).


class Sweep(Net):
    """A connection whose server is asked after jobs."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{"job_check_interval": 8.0, "server_timeout": 1e6, **arguments})

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            self.clock.advance(0.25)

    def begun(self, handle: bytes, **options: Any) -> Told:
        """A task whose job the server has."""
        told = self.submit(**options)
        self.server.send(created(handle))
        self.server.received()
        return told

    def asked(self) -> list[bytes]:
        """The handles that were asked after."""
        packets = self.server.received()
        assert all(packet_type is GET_STATUS for packet_type, _ in packets)
        return [arguments[0] for _, arguments in packets]

    def say(self, handle: bytes, known: bool, rest: tuple[bytes, ...] = (b"0", b"0", b"0")) -> None:
        self.server.send(STATUS_RES.response(handle, b"%d" % known, *rest))


@pytest.mark.guarantee(number=16)
def test_task_of_forgotten_job_is_lost() -> None:
    net = Sweep()
    told = net.begun(H1)
    net.wait(7.75)
    assert net.asked() == []
    net.wait(0.25)
    assert net.asked() == [H1]
    net.say(H1, known=False)
    assert told.outcomes == [TaskLost]
    assert (told.error.acknowledged, told.error.forgotten) == (True, True)
    assert "job forgotten by the server" in str(told.error)
    assert (net.connection.in_flight, net.connection.error) == (0, None)


@pytest.mark.guarantee(number=16)
def test_job_check_interval_of_a_minute() -> None:
    net = Sweep(job_check_interval=60.0)
    net.begun(H1)
    net.wait(59.75)
    assert net.asked() == []
    net.wait(0.25)
    assert net.asked() == [H1]


@pytest.mark.guarantee(number=16)
@pytest.mark.parametrize("empty", [(b"0", b"", b""), (b"1", b"3", b"8")], ids=["geard", "running"])
def test_known_job_is_queried_again(empty: tuple[bytes, ...]) -> None:
    net = Sweep()
    told = net.begun(H1)
    for _ in range(5):
        net.wait(8)
        assert net.asked() == [H1]
        net.say(H1, True, empty)
    net.server.send(complete(b"r"))
    assert told.outcomes == [b"r"]


@pytest.mark.guarantee(number=16)
def test_only_silent_jobs_are_queried_in_one_sweep() -> None:
    net = Sweep()
    for number in range(4):
        net.begun(b"H:%d" % number)
    for _ in range(3):
        net.wait(3.75)
        net.server.send(data(b"d", b"H:1"), WORK_STATUS.response(b"H:2", b"1", b"2"))
    net.server.send(complete(b"", b"H:3"))
    net.wait(0.5)
    assert net.asked() == [b"H:0"]
    net.wait(8.5)
    assert sorted(net.asked()) == [b"H:0", b"H:1", b"H:2"]


@pytest.mark.guarantee(number=16)
def test_silent_job_is_queried_within_one_and_a_half_intervals() -> None:
    net = Sweep()
    net.begun(H1)
    net.wait(3)
    net.begun(H2)
    net.wait(5)
    assert net.asked() == [H1]
    net.wait(4)
    assert net.asked() == [H2]


@pytest.mark.guarantee(number=16)
def test_each_task_of_forgotten_shared_job_is_lost_once() -> None:
    net = Sweep()
    tasks = net.share(3)
    tasks[1].deferred.cancel()
    net.wait(8)
    assert net.asked() == [H1]
    net.say(H1, known=False)
    assert outcomes(tasks) == [[TaskLost], [CancelledError], [TaskLost]]
    net.server.send(complete(b"late"))
    assert net.connection.error is None


@pytest.mark.guarantee(number=12)
@pytest.mark.guarantee(number=16)
def test_tombstone_is_removed_with_forgotten_job() -> None:
    net = Sweep()
    told = net.begun(H1)
    told.deferred.cancel()
    net.wait(8)
    assert net.asked() == [H1]
    net.say(H1, known=False)
    assert net.connection._jobs == {}
    net.wait(8)
    assert (net.asked(), net.connection._job_probe.on) == ([], False)


@pytest.mark.guarantee(number=6)
def test_status_after_outcome_is_ignored() -> None:
    net = Sweep()
    told = net.begun(H1)
    net.wait(8)
    net.server.send(complete(b"r"))
    net.say(H1, known=False)
    assert told.outcomes == [b"r"]
    assert net.connection.error is None


@pytest.mark.guarantee(number=16)
def test_job_with_longest_handle_is_queried() -> None:
    net = Sweep()
    net.begun(b"H" * MAX_HANDLE)
    net.wait(8)
    assert net.asked() == [b"H" * MAX_HANDLE]


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize("handle", [b"H" * (MAX_HANDLE + 1), b"H:\0:1"], ids=["long", "with a NUL"])
def test_job_with_unanswerable_handle_is_not_queried(handle: bytes) -> None:
    """H6."""
    net = Sweep()
    net.begun(handle)
    net.wait(30)
    assert net.asked() == []


@pytest.mark.guarantee(number=17)
def test_status_query_is_answered_in_order() -> None:
    net = Sweep()
    net.begun(H1)
    net.wait(8)
    later = net.submit()
    assert [packet_type for packet_type, _ in net.server.received()] == [GET_STATUS, SUBMIT_JOB]
    net.server.send(STATUS_RES.response(H1, b"0", b"0", b"0", b"0"), created(H2), complete(b"2", H2))
    assert later.outcomes == [b"2"]


@pytest.mark.guarantee(number=16)
def test_task_is_lost_once_if_connection_is_lost_during_query() -> None:
    net = Sweep()
    told = net.begun(H1)
    net.wait(8)
    net.server.lose()
    assert told.outcomes == [TaskLost]
    assert not told.error.forgotten


@pytest.mark.guarantee(number=12)
def test_late_packets_leave_no_record_of_their_jobs() -> None:
    """Nor of jobs that were heard of and have ended, once it was looked after them."""
    net = Sweep()
    for number in range(100):
        net.server.send(data(b"late", b"H:%d" % number))
    assert net.connection._heard_of == set()
    for number in range(100):
        handle = b"H:%d" % number
        net.begun(handle)
        net.server.send(data(b"d", handle), complete(b"", handle))
    net.wait(4)
    assert (net.connection._heard_of, net.connection._silent_probes_of) == (set(), {})


@pytest.mark.guarantee(number=10)
def test_connection_without_jobs_has_no_timer() -> None:
    net = Sweep()
    net.begun(H1)
    net.server.send(complete(b""))
    net.wait(8)
    net.clock.advance(1e6)
    assert net.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=16)
def test_background_jobs_are_not_queried() -> None:
    net = Sweep()
    told = net.begun(H1, background=True)
    assert len(told.outcomes) == 1
    net.wait(30)
    assert net.asked() == []


# Tasks whose caller can take no more for now.


def test_reading_is_paused_while_all_tasks_in_flight_are_held() -> None:
    net = Net()
    first, second = net.submit(), net.submit(unique=b"u")
    net.tasks.hold(first.task)
    assert not net.connection.reading_paused  # what was asked is not answered
    net.server.send(created(H1), created(H2))
    net.tasks.hold(first.task)
    assert not net.connection.reading_paused  # somebody else waits
    net.tasks.hold(second.task)
    assert net.connection.reading_paused
    net.tasks.release(second.task)
    assert not net.connection.reading_paused
    net.tasks.hold(first.task)
    assert not net.connection.reading_paused  # the second can take more


def test_reading_is_not_paused_while_answer_is_outstanding() -> None:
    net = Net()
    told = net.submit()
    net.server.send(created())
    asked = net.connection.request(ECHO_REQ, b"1", answer=ECHO_RES)
    net.tasks.hold(told.task)
    assert not net.connection.reading_paused
    net.server.send(ECHO_RES.response(b"1"), answer(FENCE))
    assert asked.called
    net.tasks.hold(told.task)
    assert net.connection.reading_paused


def test_submit_resumes_reading() -> None:
    net = Net()
    held = net.submit()
    net.server.send(created(H1))
    net.tasks.hold(held.task)
    assert net.connection.reading_paused
    other = net.submit()
    assert not net.connection.reading_paused
    net.server.send(created(H2), complete(b"r", H2))
    assert other.events[-1] == ("result", b"r")


@pytest.mark.guarantee(number=6)
def test_cancelled_task_is_no_longer_held() -> None:
    net = Net()
    first, second, third = net.submit(), net.submit(), net.submit()
    net.server.send(created(b"H:1"), created(b"H:2"), created(b"H:3"))
    net.tasks.hold(first.task)
    first.deferred.cancel()
    net.tasks.hold(second.task)
    assert not net.connection.reading_paused  # the third waits
    net.server.send(complete(b"", b"H:2"))
    net.tasks.hold(third.task)
    assert net.connection.reading_paused
    third.deferred.cancel()
    net.tasks.release(third.task)
    assert not net.connection.reading_paused


def test_hold_on_lost_connection_does_nothing() -> None:
    net = Net()
    told = net.submit()
    net.server.send(created())
    net.server.lose()
    net.tasks.hold(told.task)
    assert not net.connection.reading_paused


def test_held_job_is_not_queried() -> None:
    """It is by our own will that nothing is heard of it, and the answer would come behind all its data."""
    net = Sweep()
    told = net.begun(H1)
    net.tasks.hold(told.task)
    net.wait(60)
    assert net.asked() == []
    net.tasks.release(told.task)
    net.wait(12)
    assert net.asked() == [H1]


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_owner_drops_job_of_cancelled_task_once_handle_is_known(background: bool, late: bool) -> None:
    """Once it is there: at the cancel, or at the JOB_CREATED after it. Not after the end, and not twice."""
    net = Net()
    told = [owned(net, background=background, drop_on_cancel=True) for _ in range(2)]
    if not late:
        net.server.send(created(H1))
    for task, _, _ in told:
        task._abandon(CancelledError())
    dropped = [owner.dropped for _, owner, _ in told]
    first, second = [JobHandle("server", H1)], [JobHandle("server", H2)]
    assert dropped == [[] if late or background else first, []]
    net.server.send(*[created(H1)] * late, created(H2))
    assert dropped == [[] if background and not late else first, second]


@pytest.mark.guarantee(number=9)
def test_owner_drops_shared_job_of_cancelled_task() -> None:
    net = Net()
    net.share(1)
    task, owner, _ = owned(net, unique=b"u", drop_on_cancel=True)
    net.server.send(created(H1))
    task._abandon(CancelledError())
    assert owner.dropped == [JobHandle("server", H1)]
