"""The client's half of the protocol on one connection: requests, answers, losses, and what is kept."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionLost, TimeoutError

from txgearman.client.task import Task
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
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_EPOCH,
    SUBMIT_JOB_HIGH,
    SUBMIT_JOB_HIGH_BG,
    SUBMIT_JOB_LOW,
    SUBMIT_JOB_LOW_BG,
    WORK_DATA,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    PacketType,
)
from txgearman.validation import whole_number

from ..wire import answer, outcome
from .connection_harness import (
    FENCE,
    H1,
    H2,
    PROGRESS,
    PROGRESS_EVENTS,
    ConnectionHarness,
    OwnedTask,
    RecordedTask,
    complete,
    created,
    data,
    exception,
    late,
    outcomes,
    work_fail,
)

# Requests.


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
    harness = ConnectionHarness()
    harness.submit(b"a\0b", unique=b"u", priority=priority, background=background)
    assert harness.server.received() == [(packet_type, [b"f", b"u", b"a\0b"])]


@pytest.mark.parametrize(("background", "packet_type"), [(False, SUBMIT_JOB), (True, SUBMIT_JOB_BG)])
def test_submit_without_options_sends_plain_packet(background: bool, packet_type: PacketType) -> None:
    harness = ConnectionHarness()
    recorded = outcome(harness.connection.submit(Task("f", b"x", background)))
    assert harness.server.received() == [(packet_type, [b"f", b"", b"x"])]
    harness.server.send(created(), complete(b"r"))
    assert recorded == [JobHandle("server", H1) if background else b"r"]


@pytest.mark.guarantee(number=17)
def test_scheduled_submit_is_followed_by_fence() -> None:
    harness = ConnectionHarness()
    harness.submit(b"x", background=True, unique=b"u", at=1234.5)
    assert harness.server.received() == [(SUBMIT_JOB_EPOCH, [b"f", b"u", b"1235", b"x"]), FENCE]


@pytest.mark.guarantee(number=14)
def test_max_packet_size_is_configurable() -> None:
    harness = ConnectionHarness(max_packet_size=64)
    recorded = harness.submit()
    space = 64 - len(H1) - 1
    harness.server.send(created(), data(b"x" * space), data(b"x" * (space + 1)))
    assert recorded.data == [b"x" * space]
    assert recorded.outcomes == [TaskLost]


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("size", [1, 7, 10**6])
@pytest.mark.parametrize("payload", [b"", b"\0", b"\0RES\0\0\0\x0d" * 3, bytes(range(256)) * 300])
def test_payloads_are_transmitted_unchanged(payload: bytes, size: int) -> None:
    harness = ConnectionHarness()
    recorded = harness.submit(payload)
    assert harness.server.received()[0][1][2] == payload
    stream = b"".join(
        [
            created(),
            data(payload),
            WORK_WARNING.response(H1, payload),
            complete(payload),
        ]
    )
    for start in range(0, len(stream), size):
        harness.server.send(stream[start : start + size])
    assert [event[1] for event in recorded.events if len(event) > 1] == [payload] * 4


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("options", [{"timeout": 5.0}, {"retries": 1}])
def test_submit_raises_for_timeout_or_retries(options: dict[str, Any]) -> None:
    harness = ConnectionHarness()
    with pytest.raises(ValueError, match="timeout and retries need a GearmanClient"):
        harness.connection.submit(Task("f", **options))
    assert harness.server.received() == []


# Order and outcome.
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
    harness = ConnectionHarness()
    recorded = harness.submit()
    assert recorded.events == []
    harness.server.send(created(), *PROGRESS, end)
    assert recorded.events == PROGRESS_EVENTS + expected


@pytest.mark.guarantee(number=2)
def test_background_task_fires_with_handle() -> None:
    harness = ConnectionHarness()
    recorded = harness.submit(background=True)
    harness.server.send(created())
    assert recorded.events == [("on_created",), ("result", JobHandle("server", H1))]


@pytest.mark.parametrize("background", [False, True])
def test_handle_has_address_of_server(background: bool) -> None:
    harness = ConnectionHarness()
    recorded = harness.submit(background=background)
    harness.server.send(created(b"\xc3\xbc: 1"))
    assert recorded.task.handle == JobHandle("server", b"\xc3\xbc: 1")


@pytest.mark.guarantee(number=5)
def test_exception_may_have_any_data() -> None:
    harness = ConnectionHarness()
    first, second = harness.submit(), harness.submit()
    harness.server.send(created(), created(H2), exception(b"bo\0om"), exception(b"", H2))
    assert isinstance(first.error, TaskException)
    assert (first.error.data, second.error.data) == (b"bo\0om", b"")


def test_answers_are_matched_to_submits_in_order() -> None:
    """Other requests may be among them."""
    harness = ConnectionHarness()
    first = harness.submit()
    echoed: list[Any] = []
    harness.connection.request(ECHO_REQ, b"1", answer=ECHO_RES).addCallback(echoed.append)
    second = harness.submit()
    harness.server.send(created(H1), ECHO_RES.response(b"1"), answer(FENCE), created(H2))
    harness.server.send(complete(b"two", H2), complete(b"one", H1))
    assert (first.outcomes, echoed, second.outcomes) == ([b"one"], [[b"1"]], [b"two"])


@pytest.mark.guarantee(number=17)
def test_other_requests_fail_among_submits() -> None:
    """Whether they are refused, left unanswered, or lost."""
    harness = ConnectionHarness()
    errors: list[Any] = []
    for text in (b"refused", b"unanswered", b"lost"):
        harness.submit(background=True)
        harness.connection.request(ECHO_REQ, text, answer=ECHO_RES).addErrback(
            lambda failure: errors.append(failure.value)
        )
    error = ERROR.response(b"code", b"text")
    harness.server.send(created(), error, answer(FENCE), created(), answer(FENCE), created())
    harness.server.lose(ConnectionLost("cable"))
    assert [type(error) for error in errors] == [ServerError, RequestUnsupported, ConnectionLost]
    assert [error.code for error in errors[:2]] == ["code", ""]


# Rejected submits.


@pytest.mark.guarantee(number=3)
@pytest.mark.parametrize("options", [{}, {"background": True}], ids=["foreground", "background"])
def test_error_fails_submit_that_it_answers(options: dict[str, Any]) -> None:
    harness = ConnectionHarness()
    tasks = [harness.submit(**options) for _ in range(3)]
    harness.server.send(created(H1), ERROR.response(b"QUEUE_ERROR", b"Job queue is full"), created(H2))
    assert tasks[1].events == [("on_fail", TaskRejected), ("failure", TaskRejected)]
    assert (tasks[1].error.code, tasks[1].error.text) == ("QUEUE_ERROR", "Job queue is full")
    assert tasks[1].error.task is tasks[1].task
    assert [recorded.task.handle for recorded in tasks] == [JobHandle("server", H1), None, JobHandle("server", H2)]


@pytest.mark.guarantee(number=3)
def test_scheduled_submit_is_accepted_or_rejected() -> None:
    harness = ConnectionHarness()
    taken, refused, last = harness.schedule(), harness.schedule(), harness.submit()
    error = ERROR.response(b"server_error", b"")
    harness.server.send(created(H1), answer(FENCE), error, answer(FENCE), created(H2), complete(b"r", H2))
    assert outcomes([taken, refused, last]) == [[JobHandle("server", H1)], [TaskRejected], [b"r"]]


@pytest.mark.guarantee(number=17)
def test_unanswered_scheduled_submit_is_rejected() -> None:
    """As by geard (H6). Submits before and after it are not affected."""
    harness = ConnectionHarness()
    first, unanswered, last = harness.submit(), harness.schedule(), harness.submit()
    harness.server.send(created(H1), answer(FENCE), created(H2), complete(b"1", H1), complete(b"2", H2))
    assert outcomes([first, unanswered, last]) == [[b"1"], [TaskRejected], [b"2"]]
    assert unanswered.error.code == ""
    assert harness.connection.in_flight == 0


# Quirks of servers, and late packets.


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize(
    "packet",
    [
        WORK_FAIL.response(H1 + b"\0"),
        WORK_FAIL.response(H1 + b"\0extra"),
        WORK_FAIL.request(H1),
        WORK_FAIL.request(H1 + b"\0extra\0"),
    ],
    ids=["M1: trailing NUL", "M1: trailing data", "M2: wrong magic", "both"],
)
def test_malformed_work_fail_fails_task(packet: bytes) -> None:
    harness = ConnectionHarness()
    recorded = harness.submit()
    harness.server.send(created(), packet)
    assert recorded.outcomes == [TaskFailed]
    assert harness.connection.error is None


@pytest.mark.guarantee(number=6)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "end", [work_fail(), exception(b"e"), complete(b"r")], ids=["D2: fail", "D3: exception", "complete"]
)
def test_packets_for_ended_tasks_are_ignored(end: bytes, count: int) -> None:
    harness = ConnectionHarness()
    tasks = harness.share(count)
    harness.server.send(*[end] * count)
    before = [list(recorded.events) for recorded in tasks]
    for packet in late():
        harness.server.send(*[packet] * count)
    assert [recorded.events for recorded in tasks] == before
    harness.check_still_good()


@pytest.mark.guarantee(number=6)
@pytest.mark.parametrize("early", [True, False], ids=["before JOB_CREATED", "after JOB_CREATED"])
def test_packets_for_cancelled_task_are_ignored(early: bool) -> None:
    harness = ConnectionHarness()
    recorded = harness.submit()
    if early:
        recorded.deferred.cancel()
    harness.server.send(created())
    recorded.deferred.cancel()
    harness.server.send(*PROGRESS, *late())
    assert recorded.outcomes == [CancelledError]
    assert recorded.data == []
    harness.check_still_good()


@pytest.mark.guarantee(number=6)
def test_packets_for_background_job_are_ignored() -> None:
    harness = ConnectionHarness()
    recorded = harness.submit(background=True)
    harness.server.send(created(), *late())
    assert recorded.outcomes == [JobHandle("server", H1)]
    harness.check_still_good()


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
    """Servers relay status as the worker wrote it (C2)."""
    assert whole_number(text) == number
    harness = ConnectionHarness()
    recorded = harness.submit()
    # A NUL would end the numerator.
    numerator = text.partition(b"\0")[0]
    harness.server.send(created(), WORK_STATUS.response(H1, numerator, text))
    assert recorded.events[1:] == [("on_status", whole_number(numerator), number)]


# Lost connections.


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize(
    ("answers", "acknowledged"),
    [([], False), ([created()], True), ([created(), data(b"1")], True)],
    ids=["before JOB_CREATED", "after JOB_CREATED", "under way"],
)
def test_task_is_lost_with_connection(answers: list[bytes], acknowledged: bool) -> None:
    harness = ConnectionHarness()
    recorded = harness.submit()
    harness.server.send(*answers)
    cause = ConnectionLost("cable")
    harness.server.lose(cause)
    assert recorded.outcomes == [TaskLost]
    assert recorded.error.acknowledged is acknowledged
    assert recorded.error.__cause__ is cause
    assert recorded.error.task is recorded.task
    assert harness.server.received()[1:] == []  # it is not sent again


@pytest.mark.guarantee(number=7)
@pytest.mark.parametrize("options", [{}, {"at": 1234}])
def test_background_task_is_lost_with_connection_unless_acknowledged(options: dict[str, Any]) -> None:
    harness = ConnectionHarness()
    taken = harness.submit(background=True)
    lost = harness.submit(background=True, **options)
    harness.server.send(created())
    harness.server.lose()
    assert outcomes([taken, lost]) == [[JobHandle("server", H1)], [TaskLost]]
    assert lost.error.acknowledged is False


def busy() -> tuple[ConnectionHarness, list[RecordedTask]]:
    """Return a connection with tasks in each state: not acknowledged, with its own job, and two with a shared job."""
    harness = ConnectionHarness()
    tasks = harness.share(2)
    tasks.append(harness.submit())
    harness.server.send(created(H2))
    tasks.append(harness.submit())
    return harness, tasks


@pytest.mark.guarantee(number=1)
def test_every_task_is_lost_once_with_connection() -> None:
    harness, tasks = busy()
    harness.server.send(created(b"H:5"))
    shared = harness.share(1, b"H:3") + harness.share(2, b"H:4")
    tasks.append(harness.submit())
    cancelled = harness.submit()
    for recorded in [cancelled, *shared[:2]]:
        recorded.deferred.cancel()
    harness.server.lose()
    assert outcomes(tasks) == [[TaskLost]] * 5
    assert outcomes([cancelled, *shared]) == [[CancelledError]] * 3 + [[TaskLost]]
    assert harness.connection.in_flight == 0


@pytest.mark.guarantee(number=1)
def test_stop_fails_every_task_with_client_stopped() -> None:
    """At once: in the same turn of the reactor, whether or not the server reads."""
    harness, tasks = busy()
    harness.factory.stop(ClientStopped())
    assert outcomes(tasks) == [[ClientStopped]] * 4
    assert harness.connection.in_flight == 0


@pytest.mark.guarantee(number=1)
def test_each_task_fails_with_its_own_error() -> None:
    """A traceback that one caller adds must not appear in the errors of others."""
    harness, tasks = busy()
    harness.factory.stop(ClientStopped())
    assert len({id(recorded.error) for recorded in tasks}) == len(tasks)


@pytest.mark.guarantee(number=1)
def test_submit_on_lost_connection_fails_at_once() -> None:
    harness = ConnectionHarness()
    harness.server.lose(ConnectionLost("cable"))
    recorded = harness.submit()
    assert recorded.events == [("on_fail", TaskLost), ("failure", TaskLost)]
    assert recorded.error.__cause__ is harness.connection.error
    assert recorded.error.acknowledged is False
    assert harness.server.received() == []
    assert harness.connection.in_flight == 0


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize(
    "packet",
    [
        created(b""),
        b"\0RES\0\0\0\x08\xff\xff\xff\xff",
        WORK_DATA.response(H1, b"")[:11] + b"\x08" + H1,
        ECHO_RES.response(b"x"),
        b"garbage" * 3,
    ],
    ids=["empty handle", "4 GiB", "truncated arguments", "wrong answer", "garbage"],
)
def test_protocol_violation_aborts_connection_and_loses_tasks(packet: bytes) -> None:
    harness = ConnectionHarness()
    acknowledged = harness.share(1)[0]
    waiting = [harness.submit(), harness.submit()]
    harness.server.send(packet, created())
    assert outcomes([acknowledged, *waiting]) == [[TaskLost]] * 3
    assert isinstance(acknowledged.error.__cause__, ProtocolError)
    assert [recorded.error.acknowledged for recorded in (acknowledged, *waiting)] == [True, False, False]
    harness.clock.advance(0)
    assert harness.server.transport.aborted
    assert harness.factory.next_attempt is not None


@pytest.mark.guarantee(number=14)
def test_empty_handle_for_cancelled_task_closes_connection() -> None:
    harness = ConnectionHarness()
    harness.submit().deferred.cancel()
    harness.server.send(created(b""))
    assert isinstance(harness.connection.error, ProtocolError)


@pytest.mark.guarantee(number=14)
def test_unexpected_job_created_closes_connection() -> None:
    harness = ConnectionHarness()
    recorded = harness.share(1)[0]
    harness.server.send(created(H2))
    assert recorded.outcomes == [TaskLost]
    assert isinstance(harness.connection.error, ProtocolError)


@pytest.mark.guarantee(number=10)
@pytest.mark.guarantee(number=17)
def test_server_that_acknowledges_nothing_is_dropped() -> None:
    """The end of a job is not an answer that is due."""
    harness = ConnectionHarness(server_timeout=8.0, job_check_interval=1e6)
    first = harness.submit()
    harness.server.send(created())
    for _ in range(100):
        harness.clock.advance(1)
    second, third = harness.submit(), harness.submit(background=True)
    assert harness.connection.error is None
    harness.clock.pump([0.25] * 31)
    assert outcomes([first, second, third]) == [[], [], []]
    harness.clock.pump([0.25])
    assert outcomes([first, second, third]) == [[TaskLost]] * 3
    assert [recorded.error.acknowledged for recorded in (first, second, third)] == [True, False, False]
    for recorded in (first, second, third):
        assert isinstance(recorded.error.__cause__, TimeoutError)
        assert "no answer within 8.0 seconds" in str(recorded.error)
    assert harness.server.transport.aborted


# Cancelled tasks.


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("background", [False, True])
def test_task_cancelled_before_its_answer_shifts_no_answer(background: bool) -> None:
    harness = ConnectionHarness()
    first = harness.submit(background=background)
    second, third = harness.submit(), harness.submit()
    first.deferred.cancel()
    assert first.events == [("on_fail", CancelledError), ("failure", CancelledError)]
    harness.server.send(created(), ERROR.response(b"code", b"text"), created(H2), complete(b"r", H2))
    assert len(first.events) == 2
    assert outcomes([second, third]) == [[TaskRejected], [b"r"]]


@pytest.mark.guarantee(number=6)
@pytest.mark.parametrize("background", [False, True])
def test_error_for_cancelled_task_is_ignored(background: bool) -> None:
    harness = ConnectionHarness()
    recorded = harness.submit(background=background)
    recorded.deferred.cancel()
    harness.server.send(ERROR.response(b"code", b"text"))
    assert recorded.outcomes == [CancelledError]
    harness.check_still_good()


@pytest.mark.guarantee(number=6)
def test_missing_answer_for_cancelled_task_is_ignored() -> None:
    harness = ConnectionHarness()
    recorded = harness.schedule()
    recorded.deferred.cancel()
    harness.server.send(answer(FENCE))
    assert recorded.outcomes == [CancelledError]
    harness.check_still_good()


@pytest.mark.guarantee(number=9)
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_owner_drops_job_of_cancelled_task_once_handle_is_known(background: bool, late: bool) -> None:
    """At the cancel, or at the JOB_CREATED after it; not after the outcome, and not twice."""
    harness = ConnectionHarness()
    tasks = [OwnedTask(harness, background=background, drop_on_cancel=True) for _ in range(2)]
    if not late:
        harness.server.send(created(H1))
    for task in tasks:
        task.deferred.cancel()
    dropped = [task.dropped for task in tasks]
    first, second = [JobHandle("server", H1)], [JobHandle("server", H2)]
    assert dropped == [[] if late or background else first, []]
    harness.server.send(*[created(H1)] * late, created(H2))
    assert dropped == [[] if background and not late else first, second]


@pytest.mark.guarantee(number=9)
def test_owner_drops_shared_job_of_cancelled_task() -> None:
    harness = ConnectionHarness()
    harness.share(1)
    task = OwnedTask(harness, unique=b"u", drop_on_cancel=True)
    harness.server.send(created(H1))
    task.deferred.cancel()
    assert task.dropped == [JobHandle("server", H1)]


# Counts and references.


def test_in_flight_counts_tasks_from_submit_to_outcome() -> None:
    harness = ConnectionHarness()
    counts = []

    def note(*packets: bytes) -> None:
        harness.server.send(*packets)
        counts.append(harness.connection.in_flight)

    shared = [harness.submit(unique=b"u") for _ in range(2)]
    background = harness.submit(background=True)
    refused, unanswered, alone = harness.submit(), harness.schedule(), harness.submit()
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
