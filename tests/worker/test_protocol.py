"""A worker's half of the protocol on one connection: handshake, registration, requests and answers.

No socket, no real time: the test plays the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost, TimeoutError
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from txgearman.connection.connector import EndpointConnector
from txgearman.connection.factory import GearmanFactory
from txgearman.connection.protocol import GearmanProtocol
from txgearman.connection.timers import PROBES_PER_PERIOD
from txgearman.errors import ClientStopped, ProtocolError
from txgearman.packets import (
    CAN_DO,
    CAN_DO_TIMEOUT,
    CANT_DO,
    ECHO_REQ,
    ERROR,
    GET_STATUS,
    GRAB_JOB,
    GRAB_JOB_ALL,
    GRAB_JOB_UNIQ,
    JOB_ASSIGN,
    JOB_ASSIGN_ALL,
    JOB_ASSIGN_UNIQ,
    JOB_CREATED,
    NO_JOB,
    NOOP,
    PRE_SLEEP,
    SET_CLIENT_ID,
    STATUS_RES,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    Packet,
    PacketType,
)
from txgearman.worker.job import Assignment, Job
from txgearman.worker.protocol import GEARD, GEARMAND, PERL, GearmanWorkerFactory, GearmanWorkerProtocol

from ..wire import MemoryEndpoint, ServerSide, answer, outcome, with_connection_options

FENCE: Packet = (GET_STATUS, [b"txgearman:fence"])
FENCED = answer(FENCE)
REFUSED = ERROR.response(b"server_error", b'Can\'t locate object method "CMD_"')

HELLO = {"gearmand": NO_JOB.response() + FENCED, "perl": REFUSED + FENCED, "geard": FENCED}
"""What each kind of server answers to the handshake."""

DIALECTS = {"gearmand": GEARMAND, "perl": PERL, "geard": GEARD}

SECONDS = 10.0  # that a server may take for an answer

H1 = b"H:host:1"
H2 = b"H:host:2"

each_dialect = pytest.mark.parametrize("dialect", DIALECTS)


class Receiver:
    """Records events, each with the number of unanswered requests of its connection, which must be right by then.

    :ivar answers: after how many events it was reported that those were all the answers.
    """

    def __init__(self) -> None:
        self.functions: list[tuple[bytes, float | None]] = []
        self.events: list[tuple[Any, ...]] = []
        self.answers: list[int] = []

    def registration(self) -> Iterable[tuple[bytes, float | None]]:
        return self.functions

    def connection_ready(self, connection: GearmanWorkerProtocol) -> None:
        self.events.append(("ready", connection.ready))

    def connection_drained(self, connection: GearmanWorkerProtocol) -> None:
        self.events.append(("drained", connection.writing_paused))

    def connection_retired(self, connection: GearmanWorkerProtocol) -> None:
        self.events.append(("retired", connection._retiring))

    def job_ended(self, connection: GearmanWorkerProtocol, job: Job) -> None:
        self.events.append(("ended", job, connection.in_flight))

    def wakeup_received(self, connection: GearmanWorkerProtocol) -> None:
        self.events.append(("woken", connection.asleep))

    def job_assigned(self, connection: GearmanWorkerProtocol, assignment: Assignment) -> None:
        received = (getattr(assignment, name) for name in ("handle", "function", "unique", "reducer", "workload"))
        self.events.append(("assigned", connection.grabs, *received))

    def no_job_received(self, connection: GearmanWorkerProtocol) -> None:
        self.events.append(("no_job", connection.grabs))

    def answers_received(self, connection: GearmanWorkerProtocol) -> None:
        self.answers.append(len(self.events))

    def connection_closed(self, connection: GearmanWorkerProtocol, grabs: int, jobs: list[Job]) -> None:
        self.events.append(("lost", grabs, jobs, connection.in_flight, type(connection.error)))

    def new_events(self) -> list[tuple[Any, ...]]:
        """The events since the last call."""
        events, self.events = self.events, []
        return events


class Net:
    """A connection to a server that the test plays."""

    def __init__(self, dialect: str | None = "gearmand", **arguments: Any) -> None:
        """
        :param dialect: whose handshake is done, and forgotten; None for none.
        """
        self.clock = Clock()
        self.receiver = Receiver()
        self.endpoint = MemoryEndpoint(self.clock)
        self.endpoint.answers_opening = False
        self.factory = GearmanWorkerFactory(
            self.clock,
            receiver=self.receiver,
            registrar=self.receiver,
            name="server",
            **with_connection_options({"server_timeout": SECONDS, **arguments}),
        )
        EndpointConnector(self.endpoint, self.factory).connect()
        if dialect is not None:
            self.server.received()
            self.server.send(HELLO[dialect])
            self.receiver.new_events()

    @property
    def server(self) -> ServerSide:
        return self.endpoint.server

    @property
    def connection(self) -> GearmanWorkerProtocol:
        connection: GearmanWorkerProtocol = self.server.protocol
        return connection

    def assign(self, handle: bytes) -> Job:
        """A job that the connection has."""
        job = self.connection.jobs[handle] = Job(self.connection, "f", Assignment(handle, b"f", b"", b"", b""))
        return job

    def wait(self, seconds: float) -> None:
        """Advance the clock in small steps."""
        for _ in range(round(seconds * 4)):
            self.clock.advance(0.25)

    def reconnect(self, dialect: str) -> None:
        """Restart the server, as one of this kind."""
        attempts = self.endpoint.attempts
        self.server.lose(ConnectionLost("restart"))
        self.clock.advance(self.factory.maxDelay)
        assert self.endpoint.attempts == attempts + 1
        self.receiver.new_events()
        self.server.received()
        self.server.send(HELLO[dialect])


def in_pieces(net: Net, stream: bytes, size: int) -> None:
    for start in range(0, len(stream), size):
        net.server.send(stream[start : start + size])


# The handshake.


@pytest.mark.guarantee(number=17)
def test_handshake_requests_job_before_any_function_is_registered() -> None:
    """So that the answer, which shows the server's kind, can be no job."""
    net = Net(None)
    net.receiver.functions = [(b"f", None)]
    assert net.server.received() == [(GRAB_JOB_ALL, []), FENCE]
    assert (net.connection.ready, net.receiver.new_events()) == (False, [])


@each_dialect
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_handshake_detects_dialect(dialect: str, size: int) -> None:
    net = Net(None)
    in_pieces(net, HELLO[dialect], size)
    assert net.connection.dialect is DIALECTS[dialect]
    assert net.connection.dialect.name == dialect
    assert (net.connection.error, net.receiver.new_events()) == (None, [("ready", True)])


@pytest.mark.parametrize("first", [b"", NO_JOB.response(), REFUSED])
def test_nothing_is_registered_before_fence_is_answered(first: bytes) -> None:
    net = Net(None)
    net.receiver.functions = [(b"f", None)]
    net.server.received()
    net.server.send(first)
    assert (net.server.received(), net.receiver.new_events(), net.connection.ready) == ([], [], False)
    net.server.send(FENCED)
    assert net.server.received() == [(CAN_DO, [b"f"])]


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize(
    "stream",
    [
        NO_JOB.response() * 2,
        REFUSED * 2,
        NO_JOB.response() + REFUSED,
        REFUSED + NO_JOB.response(),
        STATUS_RES.response(b"another", b"0", b"0", b"0", b"0"),
        JOB_ASSIGN.response(H1, b"f", b"x"),
        JOB_ASSIGN_UNIQ.response(H1, b"f", b"u", b"x"),
        JOB_ASSIGN_ALL.response(H1, b"f", b"u", b"r", b"x"),
        JOB_CREATED.response(H1),
        b"HTTP/1.1 400 Bad Request\r\n",
    ],
    ids=[
        "2 x NO_JOB", "2 x ERROR", "NO_JOB, ERROR", "ERROR, NO_JOB", "another STATUS_RES", "JOB_ASSIGN",
        "JOB_ASSIGN_UNIQ", "JOB_ASSIGN_ALL", "JOB_CREATED", "HTTP",
    ],
)  # fmt: skip
def test_wrong_answer_in_handshake_closes_connection(stream: bytes) -> None:
    net = Net(None)
    net.server.send(stream, FENCED)
    assert net.server.transport.aborted
    assert net.receiver.new_events() == [("lost", 0, [], 0, ProtocolError)]


def test_noop_in_handshake_is_ignored() -> None:
    net = Net(None)
    net.server.send(NOOP.response(), HELLO["gearmand"])
    assert (net.connection.error, net.receiver.new_events()) == (None, [("ready", True)])


@pytest.mark.guarantee(number=17)
def test_each_connection_detects_dialect_anew() -> None:
    net = Net("gearmand")
    found = []
    for dialect in ("geard", "perl", "gearmand"):
        net.reconnect(dialect)
        found.append(net.connection.dialect.name)
    assert found == ["geard", "perl", "gearmand"]


# Registration.


@each_dialect
def test_each_connect_registers_id_and_functions(dialect: str) -> None:
    """As they are by then; and before a job may be requested."""
    net = Net(None)
    net.factory.client_id = b"me"
    net.receiver.functions = [(b"f", None), (b"g", None)]
    net.server.received()
    net.server.send(HELLO[dialect])
    assert net.server.received() == [(SET_CLIENT_ID, [b"me"]), (CAN_DO, [b"f"]), (CAN_DO, [b"g"])]
    net.receiver.functions = [(b"\xff\t\n", None)]
    net.reconnect(dialect)
    assert net.server.received() == [(SET_CLIENT_ID, [b"me"]), (CAN_DO, [b"\xff\t\n"])]
    assert net.receiver.new_events() == [("ready", True)]


def test_empty_id_is_not_sent() -> None:
    net = Net(None)
    net.receiver.functions = [(b"f", None)]
    net.server.received()
    net.server.send(HELLO["gearmand"])
    assert net.server.received() == [(CAN_DO, [b"f"])]


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize(
    ("dialect", "seconds", "expected"),
    [
        ("gearmand", None, (CAN_DO, [b"f"])),
        ("gearmand", 30, (CAN_DO_TIMEOUT, [b"f", b"30000"])),
        ("gearmand", 1.5004, (CAN_DO_TIMEOUT, [b"f", b"1500"])),
        ("gearmand", 2147483.647, (CAN_DO_TIMEOUT, [b"f", b"2147483647"])),
        ("gearmand", 2147483.648, (CAN_DO_TIMEOUT, [b"f", b"2147483647"])),
        ("gearmand", 1e300, (CAN_DO_TIMEOUT, [b"f", b"2147483647"])),
        ("perl", None, (CAN_DO, [b"f"])),
        ("perl", 30, (CAN_DO_TIMEOUT, [b"f", b"30.000"])),
        ("perl", 1.5004, (CAN_DO_TIMEOUT, [b"f", b"1.500"])),
        ("geard", None, (CAN_DO, [b"f"])),
        ("geard", 30, (CAN_DO, [b"f"])),
    ],
)
def test_can_do_timeout_is_in_unit_of_dialect(dialect: str, seconds: float | None, expected: Packet) -> None:
    """Milliseconds, seconds; and none where the function would not be registered at all (docs/gearman.md §8)."""
    net = Net(None)
    net.receiver.functions = [(b"f", seconds)]
    net.server.received()
    net.server.send(HELLO[dialect])
    net.connection.can_do(b"f", seconds)
    assert net.server.received() == [expected] * 2


def test_cant_do_is_sent() -> None:
    net = Net()
    net.connection.can_do(b"f", None)
    assert (net.server.received(), net.connection.registered) == ([(CAN_DO, [b"f"])], {b"f"})
    net.connection.cant_do(b"f")
    assert (net.server.received(), net.connection.registered) == ([(CANT_DO, [b"f"])], set())


# Requests for jobs.

ASSIGNMENTS = {
    JOB_ASSIGN: (JOB_ASSIGN.response(H1, b"f", b"a\0b"), (H1, b"f", b"", b"", b"a\0b")),
    JOB_ASSIGN_UNIQ: (JOB_ASSIGN_UNIQ.response(H1, b"f", b"u", b"a\0b"), (H1, b"f", b"u", b"", b"a\0b")),
    JOB_ASSIGN_ALL: (JOB_ASSIGN_ALL.response(H1, b"f", b"u", b"r", b"a\0b"), (H1, b"f", b"u", b"r", b"a\0b")),
}
"""A job, as it is received and as it is reported."""

each_assignment = pytest.mark.parametrize("packet_type", ASSIGNMENTS, ids=str)


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize(
    ("dialect", "packet_type"), [("gearmand", GRAB_JOB_ALL), ("geard", GRAB_JOB_UNIQ), ("perl", GRAB_JOB)]
)
def test_grab_sends_request_of_dialect(dialect: str, packet_type: PacketType) -> None:
    """Of the requests that the server answers, the one whose answer says most (H6)."""
    net = Net(dialect)
    net.connection.grab()
    assert (net.server.received(), net.connection.grabs) == ([(packet_type, [])], 1)


@pytest.mark.guarantee(number=15)
@each_assignment
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_assignment_is_received_in_each_form_and_fragmentation(packet_type: PacketType, size: int) -> None:
    packet, expected = ASSIGNMENTS[packet_type]
    net = Net()
    net.connection.grab()
    in_pieces(net, packet, size)
    assert net.receiver.new_events() == [("assigned", 0, *expected)]


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("workload", [b"", b"\0", b"\0RES\0\0\0\x0b" * 3, bytes(range(256)) * 1000])
def test_workload_is_received_unchanged(workload: bytes) -> None:
    net = Net()
    for _ in ASSIGNMENTS:
        net.connection.grab()
    stream = b"".join(
        [
            JOB_ASSIGN.response(H1, b"f", workload),
            JOB_ASSIGN_UNIQ.response(H1, b"f", b"", workload),
            JOB_ASSIGN_ALL.response(H1, b"f", b"", b"r", workload),
        ]
    )
    in_pieces(net, stream, 4096)
    assert [event[-1] for event in net.receiver.new_events()] == [workload] * 3


def test_each_answer_counts_for_one_request() -> None:
    """Also if several come in one piece. The number is right by the time of each report."""
    net = Net()
    for _ in range(4):
        net.connection.grab()
    packets = [ASSIGNMENTS[JOB_ASSIGN_UNIQ][0], NO_JOB.response(), ASSIGNMENTS[JOB_ASSIGN_ALL][0], NO_JOB.response()]
    net.server.send(*packets)
    assert [event[:2] for event in net.receiver.new_events()] == [
        ("assigned", 3),
        ("no_job", 2),
        ("assigned", 1),
        ("no_job", 0),
    ]
    assert (net.connection.grabs, net.connection.error) == (0, None)


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize("grabs", [0, 1])
@pytest.mark.parametrize(
    "packet",
    [NO_JOB.response(), *(packet for packet, _ in ASSIGNMENTS.values())],
    ids=["NO_JOB", *map(str, ASSIGNMENTS)],
)
def test_answer_without_request_closes_connection(packet: bytes, grabs: int) -> None:
    """The receiver gets the answer that was requested, and then the end."""
    net = Net()
    for _ in range(grabs):
        net.connection.grab()
    net.server.send(packet * (grabs + 1))
    assert [event[0] for event in net.receiver.new_events()][grabs:] == ["lost"]
    assert isinstance(net.connection.error, ProtocolError)
    assert "answers nothing" in str(net.connection.error)
    assert net.server.transport.aborted


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize(
    "packet", [JOB_CREATED.response(H1), FENCED, WORK_COMPLETE.response(H1, b"")], ids=["JOB_CREATED", "STATUS", "WORK"]
)
def test_packet_for_clients_closes_connection(packet: bytes) -> None:
    net = Net()
    net.connection.grab()
    net.server.send(packet)
    assert net.receiver.new_events() == [("lost", 1, [], 0, ProtocolError)]


# Sleep.


def test_noop_wakes_sleeping_connection_once() -> None:
    net = Net()
    net.connection.sleep()
    assert (net.server.received(), net.connection.asleep) == ([(PRE_SLEEP, [])], True)
    net.server.send(NOOP.response(), NOOP.response())
    assert (net.receiver.new_events(), net.connection.asleep) == ([("woken", False)], False)


def test_noop_is_ignored_if_connection_is_awake() -> None:
    net = Net()
    net.server.send(NOOP.response())
    assert (net.receiver.new_events(), net.connection.error) == ([], None)


def test_request_ends_sleep() -> None:
    """The server's NOOP may be under way by then, and says nothing new."""
    net = Net()
    net.connection.sleep()
    net.connection.grab()
    assert not net.connection.asleep
    net.server.send(NOOP.response(), NO_JOB.response())
    assert net.receiver.new_events() == [("no_job", 0)]


def test_connection_can_sleep_again() -> None:
    net = Net()
    for _ in range(3):
        net.connection.sleep()
        net.server.send(NOOP.response())
    assert net.receiver.new_events() == [("woken", False)] * 3


# A server that does not answer.


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize("grabs", [1, 3])
def test_unanswered_requests_close_connection_after_server_timeout(grabs: int) -> None:
    net = Net()
    connection, server = net.connection, net.server
    for _ in range(grabs):
        connection.grab()
    net.wait(SECONDS - 1)
    assert connection.error is None
    net.wait(SECONDS / PROBES_PER_PERIOD + 1)  # it looks as often, and has looked at the handshake before
    assert net.receiver.new_events() == [("lost", grabs, [], 0, TimeoutError)]
    assert str(SECONDS) in str(connection.error)
    assert server.transport.aborted


def test_each_answer_restarts_server_timeout() -> None:
    """Though a request is always unanswered."""
    net = Net()
    connection = net.connection
    connection.grab()
    for _ in range(10):
        connection.grab()
        net.wait(SECONDS - 1)
        net.server.send(NO_JOB.response())
    assert (connection.error, connection.grabs) == (None, 1)
    net.wait(2 * SECONDS + 1)
    assert isinstance(connection.error, TimeoutError)


@pytest.mark.guarantee(number=10)
@each_dialect
def test_heartbeat_asks_in_silence_and_closes_dead_connection(dialect: str) -> None:
    """A worker that sleeps may be silent for long, and the server would keep its jobs assigned to it."""
    net = Net(dialect, heartbeat=8.0)
    connection, server = net.connection, net.server
    job = net.assign(H1)
    connection.sleep()
    assert server.received() == [(PRE_SLEEP, [])]
    for _ in range(5):
        net.wait(8)
        packets = server.received()
        assert packets == [(ECHO_REQ, [b""]), FENCE]
        server.send(*map(answer, packets[dialect == "geard" :]))  # which leaves an ECHO_REQ unanswered (H6)
    assert (connection.error, net.receiver.new_events()) == (None, [])
    net.wait(20.25)
    assert net.receiver.new_events() == [("lost", 0, [job], 0, TimeoutError)]
    assert server.transport.aborted


@pytest.mark.guarantee(number=10)
def test_sleeping_connection_has_no_timer() -> None:
    net = Net()
    connection = net.connection
    connection.grab()
    net.server.send(NO_JOB.response())
    connection.sleep()
    net.wait(2 * SECONDS + 1)
    assert (connection.error, net.clock.getDelayedCalls()) == (None, [])
    connection.grab()
    net.wait(SECONDS + 1)
    assert isinstance(connection.error, TimeoutError)


# What is sent for a job.

EXCEPTION = (WORK_EXCEPTION, [H1, b"bo\0om"])

OPEN: list[tuple[Callable[[GearmanWorkerProtocol], None], Packet]] = [
    (lambda connection: connection.work_data(H1, b"a\0b"), (WORK_DATA, [H1, b"a\0b"])),
    (lambda connection: connection.work_warning(H1, b"a\0b"), (WORK_WARNING, [H1, b"a\0b"])),
    (lambda connection: connection.work_status(H1, 3, 8), (WORK_STATUS, [H1, b"3", b"8"])),
]
ENDING: list[tuple[Callable[[GearmanWorkerProtocol], None], Packet]] = [
    (lambda connection: connection.work_complete(H1, b"a\0b"), (WORK_COMPLETE, [H1, b"a\0b"])),
    (lambda connection: connection.work_fail(H1), (WORK_FAIL, [H1])),
]


@pytest.mark.guarantee(number=15)
@each_dialect
@pytest.mark.parametrize(("send", "packet"), OPEN, ids=["data", "warning", "status"])
def test_data_warning_and_status_keep_job(
    dialect: str, send: Callable[[GearmanWorkerProtocol], None], packet: Packet
) -> None:
    net = Net(dialect)
    net.assign(H1)
    net.assign(H2)
    send(net.connection)
    assert (net.server.received(), net.connection.in_flight) == ([packet], 2)


@pytest.mark.guarantee(number=12)
@each_dialect
@pytest.mark.parametrize(("send", "packet"), ENDING, ids=["complete", "fail"])
def test_complete_and_fail_forget_job(
    dialect: str, send: Callable[[GearmanWorkerProtocol], None], packet: Packet
) -> None:
    net = Net(dialect)
    net.assign(H1)
    two = net.assign(H2)
    send(net.connection)
    assert (net.server.received(), net.connection.jobs) == ([packet], {H2: two})


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize(
    ("dialect", "packets"),
    [("gearmand", [EXCEPTION]), ("geard", [EXCEPTION]), ("perl", [EXCEPTION, (WORK_FAIL, [H1])])],
)
def test_exception_ends_job_in_each_dialect(dialect: str, packets: list[Packet]) -> None:
    """At perl's server a WORK_FAIL must follow, and at no other (docs/gearman.md §4, H13)."""
    net = Net(dialect)
    net.assign(H1)
    two = net.assign(H2)
    net.connection.work_exception(H1, b"bo\0om")
    assert (net.server.received(), net.connection.jobs) == (packets, {H2: two})


def test_end_of_unknown_job_is_sent() -> None:
    """Such as the refusal of a job whose function is not registered."""
    net = Net()
    net.connection.work_fail(H1)
    assert net.server.received() == [(WORK_FAIL, [H1])]


def test_error_after_handshake_is_logged_printable() -> None:
    hostile = b"\x1b]0;x\x07\r\nforged"
    net = Net()
    with capturedLogs() as events:
        net.server.send(ERROR.response(hostile, hostile))
    shown = "\\x1b]0;x\\x07\\r\\nforged"
    assert f"server: {shown}: {shown}" in list(map(formatEvent, events))


@pytest.mark.guarantee(number=3)
@each_dialect
@pytest.mark.parametrize("text", [b"Job given in work result not found", b"", b"{0} {nothing} \xff\0"])
def test_error_after_handshake_is_logged_and_changes_nothing(dialect: str, text: bytes) -> None:
    """It is about a packet that has no answer: the server has given the job to another worker (docs/gearman.md §8)."""
    net = Net(dialect)
    net.connection.grab()
    net.assign(H1)
    with capturedLogs() as events:
        net.server.send(ERROR.response(b"JOB_NOT_FOUND", text))
    received = [(event["server"], event["code"]) for event in events if "code" in event]
    assert received == [("server", "JOB_NOT_FOUND")]
    assert (net.receiver.new_events(), net.connection.error, net.connection.grabs, net.connection.in_flight) == (
        [],
        None,
        1,
        1,
    )
    net.server.send(NO_JOB.response())
    assert net.receiver.new_events() == [("no_job", 0)]


# The end of a connection.

BOOM = ConnectionLost("cable")
STOP = ClientStopped()


@pytest.mark.guarantee(number=1)
@pytest.mark.parametrize(
    ("end", "error"),
    [
        (lambda net: net.server.lose(BOOM), ConnectionLost),
        (lambda net: net.server.lose(), ConnectionDone),
        (lambda net: net.connection.close(STOP), ClientStopped),
        (lambda net: net.connection.abort(STOP), ClientStopped),
        (lambda net: net.factory.stop(STOP), ClientStopped),
        (lambda net: net.server.send(b"garbage, of more than twelve bytes"), ProtocolError),
    ],
    ids=["lost", "closed by the server", "closed", "aborted", "stopped", "garbage"],
)
def test_receiver_gets_lost_jobs_and_requests_once(end: Callable[[Net], object], error: type[Exception]) -> None:
    """By then the connection has no jobs any more."""
    net = Net()
    net.connection.grab()
    net.connection.grab()
    one, two = net.assign(H1), net.assign(H2)
    connection = net.connection
    end(net)
    assert net.receiver.new_events() == [("lost", 2, [one, two], 0, error)]
    assert (connection.grabs, connection.jobs) == (0, {})
    net.clock.advance(0)
    connection.abort(BOOM)
    assert net.receiver.new_events() == []


@pytest.mark.guarantee(number=11)
@each_dialect
def test_stop_leaves_no_timer(dialect: str) -> None:
    """Of a connection that awaits an answer, and of one that awaits its handshake."""
    for net in (Net(dialect), Net(None)):
        if net.connection.ready:
            net.connection.grab()
        stopped: list[Any] = []
        net.factory.stop(STOP).addCallback(stopped.append)
        net.clock.advance(0)
        assert (stopped, net.clock.getDelayedCalls()) == ([None], [])


@pytest.mark.guarantee(number=6)
@pytest.mark.parametrize(
    "packet", [NOOP.response(), NO_JOB.response(), *(packet for packet, _ in ASSIGNMENTS.values())]
)
def test_packet_during_close_is_ignored(packet: bytes) -> None:
    """If it is a job, the server gives it to another worker, once it sees the end of the connection."""
    net = Net()
    net.connection.grab()
    net.connection.sleep()
    net.connection.close(STOP)
    net.receiver.new_events()
    net.server.send(packet)
    assert (net.receiver.new_events(), net.connection.grabs) == ([], 0)


def test_packet_behind_one_that_closes_connection_is_ignored() -> None:
    net = Net()
    net.connection.grab()
    net.connection.grab()
    net.receiver.no_job_received = lambda connection: connection.close(STOP)  # type: ignore[method-assign]
    net.server.send(NO_JOB.response(), ASSIGNMENTS[JOB_ASSIGN_ALL][0])
    assert net.receiver.new_events() == [("lost", 1, [], 0, ClientStopped)]


def test_end_of_answers_is_reported_once_for_each_read() -> None:
    """Also if a packet closes the connection, or is none."""
    net = Net()
    net.connection.grab(5)
    assigned, _ = ASSIGNMENTS[JOB_ASSIGN_ALL]
    net.server.send(assigned + NO_JOB.response())
    net.server.send(assigned[:-1])
    net.server.send(assigned[-1:])
    net.server.send(NO_JOB.response() + b"no packet at all")
    assert [event for event, *_ in net.receiver.events] == ["assigned", "no_job", "assigned", "no_job", "lost"]
    assert net.receiver.answers == [2, 3, 5]


class Fickle(GearmanWorkerProtocol):
    """Closes the connection if the server leaves its request unanswered."""

    def _send_opening(self) -> None:
        asked: Deferred[Any] = self.request(GRAB_JOB_ALL, answer=NO_JOB)
        asked.addErrback(lambda _: self.close(STOP))


def test_connection_that_is_closed_in_handshake_is_not_reported_ready() -> None:
    """As a subclass may do it in its handshake."""
    net = Net()
    net.factory.protocol = Fickle
    net.receiver.functions = [(b"f", None)]
    net.reconnect("geard")
    assert (net.server.received(), net.receiver.new_events()) == ([], [("lost", 0, [], 0, ClientStopped)])


class Closing:
    """A listener that closes the connection once it is ready."""

    def connection_ready(self, connection: GearmanProtocol) -> None:
        connection.close(STOP)

    def connection_down(self, factory: GearmanFactory[GearmanWorkerProtocol], error: Exception) -> None:
        """Nothing is left to do."""


def test_connection_that_listener_closes_is_not_reported_ready() -> None:
    """Else it would be asked for jobs for ever."""
    net = Net(None, listener=Closing())
    net.server.send(HELLO["gearmand"])
    assert [event[0] for event in net.receiver.new_events()][-1] == "lost"


def test_failed_attempt_is_not_reported_to_receiver() -> None:
    """There was no connection."""
    net = Net()
    net.endpoint.black_hole = True
    net.server.lose()
    net.receiver.new_events()
    net.wait(3 * SECONDS)
    assert net.endpoint.attempts > 2
    assert (len(net.endpoint.connections), net.receiver.new_events()) == (1, [])


# Retired connections.


def test_connection_with_jobs_is_busy_until_last_ends() -> None:
    """By then what was sent for it is written."""
    net = Net()
    connection = net.connection
    left: list[list[Packet]] = []
    net.assign(H1)
    connection._retire(lambda: left.append(net.server.received()))
    assert (connection._busy, left, net.receiver.new_events()[-1]) == (True, [], ("retired", True))
    connection.work_complete(H1, b"r")
    assert (connection._busy, left) == (False, [[(WORK_COMPLETE, [H1, b"r"])]])


def test_retired_connection_is_idle_after_last_answer() -> None:
    net = Net()
    net.connection.grab()
    left: list[bool] = []
    net.connection._retire(lambda: left.append(True))
    assert left == []
    net.server.send(NO_JOB.response())
    assert left == [True]


def test_receiver_learns_when_connection_is_drained() -> None:
    """So does who waits for it before sending more."""
    net = Net()
    net.connection.pauseProducing()
    waiting = outcome(net.connection.when_drained())
    assert (net.receiver.new_events(), waiting) == ([], [])
    net.connection.resumeProducing()
    assert (net.receiver.new_events(), waiting) == ([("drained", False)], [None])


@pytest.mark.guarantee(number=11)
def test_lost_connection_is_no_longer_awaited() -> None:
    """Else a function that waits until the server has taken what it sent would never end."""
    net = Net()
    net.connection.pauseProducing()
    waiting = outcome(net.connection.when_drained())
    net.server.lose(BOOM)
    assert waiting == [None]
