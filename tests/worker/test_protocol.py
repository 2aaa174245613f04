"""A worker's half of the protocol on one connection: who the server is, what is registered, asked for and answered.

No socket, no real time: the test plays the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost, TimeoutError
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

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
    """Notes what it is told. Of each connection, its number of requests that are out, too: it must be right by then."""

    def __init__(self) -> None:
        self.functions: list[tuple[bytes, float | None]] = []
        self.events: list[tuple[Any, ...]] = []

    def registration(self) -> Iterable[tuple[bytes, float | None]]:
        return self.functions

    def connection_ready(self, connection: GearmanWorkerProtocol) -> None:
        self.events.append(("ready", connection.ready))

    def connection_drained(self, connection: GearmanWorkerProtocol) -> None:
        self.events.append(("drained", connection.writing_paused))

    def wakeup_received(self, connection: GearmanWorkerProtocol) -> None:
        self.events.append(("woken", connection.asleep))

    def job_assigned(self, connection: GearmanWorkerProtocol, assignment: Assignment) -> None:
        told = (getattr(assignment, name) for name in ("handle", "function", "unique", "reducer", "workload"))
        self.events.append(("assigned", connection.grabs, *told))

    def no_job_received(self, connection: GearmanWorkerProtocol) -> None:
        self.events.append(("no_job", connection.grabs))

    def connection_closed(self, connection: GearmanWorkerProtocol, grabs: int, jobs: list[Job]) -> None:
        self.events.append(("lost", grabs, jobs, connection.in_flight, type(connection.error)))

    def told(self) -> list[tuple[Any, ...]]:
        """What it was told since the last call."""
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
            self.receiver.told()

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
        """Let time pass, a little at a time."""
        for _ in range(round(seconds * 4)):
            self.clock.advance(0.25)

    def reconnect(self, dialect: str) -> None:
        """The server restarts, as one of another kind maybe."""
        attempts = self.endpoint.attempts
        self.server.lose(ConnectionLost("restart"))
        self.clock.advance(self.factory.maxDelay)
        assert self.endpoint.attempts == attempts + 1
        self.receiver.told()
        self.server.received()
        self.server.send(HELLO[dialect])


def in_pieces(net: Net, stream: bytes, size: int) -> None:
    for start in range(0, len(stream), size):
        net.server.send(stream[start : start + size])


# The handshake.


@pytest.mark.guarantee(number=17)
def test_a_job_is_asked_for_before_any_function_is_registered() -> None:
    """So that the answer, which tells the server's kind, can be no job."""
    net = Net(None)
    net.receiver.functions = [(b"f", None)]
    assert net.server.received() == [(GRAB_JOB_ALL, []), FENCE]
    assert (net.connection.ready, net.receiver.told()) == (False, [])


@each_dialect
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_answer_tells_which_server_it_is(dialect: str, size: int) -> None:
    net = Net(None)
    in_pieces(net, HELLO[dialect], size)
    assert net.connection.dialect is DIALECTS[dialect]
    assert net.connection.dialect.name == dialect
    assert (net.connection.error, net.receiver.told()) == (None, [("ready", True)])


@pytest.mark.parametrize("first", [b"", NO_JOB.response(), REFUSED])
def test_nothing_is_registered_before_the_fence_is_answered(first: bytes) -> None:
    net = Net(None)
    net.receiver.functions = [(b"f", None)]
    net.server.received()
    net.server.send(first)
    assert (net.server.received(), net.receiver.told(), net.connection.ready) == ([], [], False)
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
def test_a_server_that_answers_wrongly_is_dropped(stream: bytes) -> None:
    net = Net(None)
    net.server.send(stream, FENCED)
    assert net.server.transport.aborted
    assert net.receiver.told() == [("lost", 0, [], 0, ProtocolError)]


def test_a_noop_in_the_handshake_is_nothing() -> None:
    net = Net(None)
    net.server.send(NOOP.response(), HELLO["gearmand"])
    assert (net.connection.error, net.receiver.told()) == (None, [("ready", True)])


@pytest.mark.guarantee(number=10)
def test_a_handshake_has_the_time_of_a_connect() -> None:
    net = Net(None)
    net.wait(SECONDS - 1)
    assert not net.server.transport.aborted
    net.wait(1.5)
    assert net.receiver.told() == [("lost", 0, [], 0, TimeoutError)]


@pytest.mark.guarantee(number=17)
def test_each_connection_finds_out_anew_which_server_it_is() -> None:
    net = Net("gearmand")
    found = []
    for dialect in ("geard", "perl", "gearmand"):
        net.reconnect(dialect)
        found.append(net.connection.dialect.name)
    assert found == ["geard", "perl", "gearmand"]


# Registration.


@each_dialect
def test_the_id_and_the_functions_are_registered_at_each_connect(dialect: str) -> None:
    """As they are by then; and before the taker may ask for a job."""
    net = Net(None)
    net.factory.client_id = b"me"
    net.receiver.functions = [(b"f", None), (b"g", None)]
    net.server.received()
    net.server.send(HELLO[dialect])
    assert net.server.received() == [(SET_CLIENT_ID, [b"me"]), (CAN_DO, [b"f"]), (CAN_DO, [b"g"])]
    net.receiver.functions = [(b"\xff\t\n", None)]
    net.reconnect(dialect)
    assert net.server.received() == [(SET_CLIENT_ID, [b"me"]), (CAN_DO, [b"\xff\t\n"])]
    assert net.receiver.told() == [("ready", True)]


def test_a_worker_without_an_id_sends_none() -> None:
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
def test_a_time_limit_is_in_the_servers_unit(dialect: str, seconds: float | None, expected: Packet) -> None:
    """Milliseconds, seconds; and none where the function would not be registered at all (docs/gearman.md §8)."""
    net = Net(None)
    net.receiver.functions = [(b"f", seconds)]
    net.server.received()
    net.server.send(HELLO[dialect])
    net.connection.can_do(b"f", seconds)
    assert net.server.received() == [expected] * 2


def test_a_function_is_taken_back() -> None:
    net = Net()
    net.connection.cant_do(b"f")
    assert net.server.received() == [(CANT_DO, [b"f"])]


# Asking for jobs.

ASSIGNMENTS = {
    JOB_ASSIGN: (JOB_ASSIGN.response(H1, b"f", b"a\0b"), (H1, b"f", b"", b"", b"a\0b")),
    JOB_ASSIGN_UNIQ: (JOB_ASSIGN_UNIQ.response(H1, b"f", b"u", b"a\0b"), (H1, b"f", b"u", b"", b"a\0b")),
    JOB_ASSIGN_ALL: (JOB_ASSIGN_ALL.response(H1, b"f", b"u", b"r", b"a\0b"), (H1, b"f", b"u", b"r", b"a\0b")),
}
"""A job, as it comes and as it is told."""

each_assignment = pytest.mark.parametrize("packet_type", ASSIGNMENTS, ids=str)


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize(
    ("dialect", "packet_type"), [("gearmand", GRAB_JOB_ALL), ("geard", GRAB_JOB_UNIQ), ("perl", GRAB_JOB)]
)
def test_a_job_is_asked_for_in_the_servers_words(dialect: str, packet_type: PacketType) -> None:
    """The request that tells most, of those that it answers (H6)."""
    net = Net(dialect)
    net.connection.grab()
    assert (net.server.received(), net.connection.grabs) == ([(packet_type, [])], 1)


@pytest.mark.guarantee(number=15)
@each_assignment
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_a_job_comes_in_each_form_and_any_pieces(packet_type: PacketType, size: int) -> None:
    packet, expected = ASSIGNMENTS[packet_type]
    net = Net()
    net.connection.grab()
    in_pieces(net, packet, size)
    assert net.receiver.told() == [("assigned", 0, *expected)]


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize("workload", [b"", b"\0", b"\0RES\0\0\0\x0b" * 3, bytes(range(256)) * 1000])
def test_a_workload_comes_out_as_it_went_in(workload: bytes) -> None:
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
    assert [event[-1] for event in net.receiver.told()] == [workload] * 3


def test_each_answer_is_of_one_request() -> None:
    """However many are out, and in one piece; the number is right by the time that the taker is told."""
    net = Net()
    for _ in range(4):
        net.connection.grab()
    packets = [ASSIGNMENTS[JOB_ASSIGN_UNIQ][0], NO_JOB.response(), ASSIGNMENTS[JOB_ASSIGN_ALL][0], NO_JOB.response()]
    net.server.send(*packets)
    assert [event[:2] for event in net.receiver.told()] == [
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
def test_an_answer_that_nobody_asked_for_ends_the_connection(packet: bytes, grabs: int) -> None:
    """The taker hears of the one that was asked for, and then of the end."""
    net = Net()
    for _ in range(grabs):
        net.connection.grab()
    net.server.send(packet * (grabs + 1))
    assert [event[0] for event in net.receiver.told()][grabs:] == ["lost"]
    assert isinstance(net.connection.error, ProtocolError)
    assert "answers nothing" in str(net.connection.error)
    assert net.server.transport.aborted


@pytest.mark.guarantee(number=14)
@pytest.mark.parametrize(
    "packet", [JOB_CREATED.response(H1), FENCED, WORK_COMPLETE.response(H1, b"")], ids=["JOB_CREATED", "STATUS", "WORK"]
)
def test_a_packet_for_clients_ends_the_connection(packet: bytes) -> None:
    net = Net()
    net.connection.grab()
    net.server.send(packet)
    assert net.receiver.told() == [("lost", 1, [], 0, ProtocolError)]


@pytest.mark.guarantee(number=14)
def test_the_largest_packet_is_the_callers_to_choose() -> None:
    net = Net(max_packet_size=64)
    net.connection.grab()
    net.server.send(JOB_ASSIGN.response(H1, b"f", b"x" * 64))
    assert net.receiver.told() == [("lost", 1, [], 0, ProtocolError)]


# Sleep.


def test_a_sleeper_is_woken_once() -> None:
    net = Net()
    net.connection.sleep()
    assert (net.server.received(), net.connection.asleep) == ([(PRE_SLEEP, [])], True)
    net.server.send(NOOP.response(), NOOP.response())
    assert (net.receiver.told(), net.connection.asleep) == ([("woken", False)], False)


def test_a_noop_wakes_nobody_who_is_awake() -> None:
    net = Net()
    net.server.send(NOOP.response())
    assert (net.receiver.told(), net.connection.error) == ([], None)


def test_who_asks_is_awake() -> None:
    """The server's NOOP may be under way by then, and tells nothing new."""
    net = Net()
    net.connection.sleep()
    net.connection.grab()
    assert not net.connection.asleep
    net.server.send(NOOP.response(), NO_JOB.response())
    assert net.receiver.told() == [("no_job", 0)]


def test_a_sleeper_can_sleep_again() -> None:
    net = Net()
    for _ in range(3):
        net.connection.sleep()
        net.server.send(NOOP.response())
    assert net.receiver.told() == [("woken", False)] * 3


# A server that does not answer.


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize("grabs", [1, 3])
def test_a_server_that_answers_no_request_for_a_job_is_dropped(grabs: int) -> None:
    net = Net()
    connection, server = net.connection, net.server
    for _ in range(grabs):
        connection.grab()
    net.wait(SECONDS - 1)
    assert connection.error is None
    net.wait(SECONDS / PROBES_PER_PERIOD + 1)  # it looks as often, and has looked at the handshake before
    assert net.receiver.told() == [("lost", grabs, [], 0, TimeoutError)]
    assert str(SECONDS) in str(connection.error)
    assert server.transport.aborted


def test_a_server_is_patiently_waited_for_while_it_answers() -> None:
    """One after the other, with some always out."""
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


@pytest.mark.guarantee(number=17)
def test_a_server_that_is_slow_with_a_large_job_is_waited_for() -> None:
    """Else the next one would get it, and drop its server for it in turn."""
    net = Net()
    connection = net.connection
    connection.grab()
    packet, expected = ASSIGNMENTS[JOB_ASSIGN_ALL]
    for place in range(len(packet)):
        net.wait(SECONDS - 1)
        net.server.send(packet[place : place + 1])
    assert (net.receiver.told(), connection.error) == ([("assigned", 0, *expected)], None)


@pytest.mark.guarantee(number=17)
def test_a_question_has_its_time_on_a_workers_connection_too() -> None:
    """Asked while no job is; and the connection is busy with it."""
    net = Net()
    connection = net.connection
    net.wait(2 * SECONDS)
    connection.send_fence()
    assert connection.busy
    net.wait(SECONDS - 0.5)
    assert connection.error is None
    net.wait(1)
    assert isinstance(connection.error, TimeoutError)


@pytest.mark.guarantee(number=10)
@each_dialect
def test_a_heartbeat_asks_in_silence_and_drops_who_is_gone(dialect: str) -> None:
    """A worker that sleeps may be silent for long; its jobs would be nobody's until the server comes to know."""
    net = Net(dialect, heartbeat=8.0)
    connection, server = net.connection, net.server
    job = net.assign(H1)
    connection.sleep()
    assert server.received() == [(PRE_SLEEP, [])]
    for _ in range(5):
        net.wait(16)
        packets = server.received()
        assert packets == [(ECHO_REQ, [b""]), FENCE]
        server.send(*map(answer, packets[dialect == "geard" :]))  # which leaves an ECHO_REQ unanswered (H6)
    assert (connection.error, net.receiver.told()) == (None, [])
    net.wait(20.25)
    assert net.receiver.told() == [("lost", 0, [job], 0, TimeoutError)]
    assert server.transport.aborted


def test_without_a_heartbeat_nobody_is_asked() -> None:
    net = Net()
    net.connection.sleep()
    net.server.received()
    net.wait(1000)
    assert (net.server.received(), net.connection.error) == ([], None)


@pytest.mark.guarantee(number=10)
def test_a_sleeping_worker_waits_without_a_timer() -> None:
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


def test_an_answer_that_came_while_the_reactor_was_blocked_counts() -> None:
    """A function of another server's job may block for long. Timers then run before sockets are read."""
    net = Net()
    connection, server = net.connection, net.server
    connection.grab()
    net.clock.advance(SECONDS + 1)
    server.send(NO_JOB.response())
    assert (net.receiver.told(), connection.error) == ([("no_job", 0)], None)


# What is said of a job.

EXCEPTION = (WORK_EXCEPTION, [H1, b"bo\0om"])

NEWS: list[tuple[Callable[[GearmanWorkerProtocol], None], Packet]] = [
    (lambda connection: connection.work_data(H1, b"a\0b"), (WORK_DATA, [H1, b"a\0b"])),
    (lambda connection: connection.work_warning(H1, b"a\0b"), (WORK_WARNING, [H1, b"a\0b"])),
    (lambda connection: connection.work_status(H1, 3, 8), (WORK_STATUS, [H1, b"3", b"8"])),
]
ENDS: list[tuple[Callable[[GearmanWorkerProtocol], None], Packet]] = [
    (lambda connection: connection.work_complete(H1, b"a\0b"), (WORK_COMPLETE, [H1, b"a\0b"])),
    (lambda connection: connection.work_fail(H1), (WORK_FAIL, [H1])),
]


@pytest.mark.guarantee(number=15)
@each_dialect
@pytest.mark.parametrize(("say", "packet"), NEWS, ids=["data", "warning", "status"])
def test_news_of_a_job(dialect: str, say: Callable[[GearmanWorkerProtocol], None], packet: Packet) -> None:
    net = Net(dialect)
    net.assign(H1)
    net.assign(H2)
    say(net.connection)
    assert (net.server.received(), net.connection.in_flight) == ([packet], 2)


@pytest.mark.guarantee(number=12)
@each_dialect
@pytest.mark.parametrize(("say", "packet"), ENDS, ids=["complete", "fail"])
def test_the_end_of_a_job(dialect: str, say: Callable[[GearmanWorkerProtocol], None], packet: Packet) -> None:
    net = Net(dialect)
    net.assign(H1)
    two = net.assign(H2)
    say(net.connection)
    assert (net.server.received(), net.connection.jobs) == ([packet], {H2: two})


@pytest.mark.guarantee(number=5)
@pytest.mark.parametrize(
    ("dialect", "packets"),
    [("gearmand", [EXCEPTION]), ("geard", [EXCEPTION]), ("perl", [EXCEPTION, (WORK_FAIL, [H1])])],
)
def test_an_exception_is_the_end_of_a_job_on_each_server(dialect: str, packets: list[Packet]) -> None:
    """On perl's a WORK_FAIL must follow, and nowhere else (docs/gearman.md §4, H13)."""
    net = Net(dialect)
    net.assign(H1)
    two = net.assign(H2)
    net.connection.work_exception(H1, b"bo\0om")
    assert (net.server.received(), net.connection.jobs) == (packets, {H2: two})


def test_the_end_of_a_job_that_the_connection_does_not_keep_is_sent() -> None:
    """Such as the refusal of one that the taker never had."""
    net = Net()
    net.connection.work_fail(H1)
    assert net.server.received() == [(WORK_FAIL, [H1])]


@pytest.mark.guarantee(number=3)
@each_dialect
@pytest.mark.parametrize("text", [b"Job given in work result not found", b"", b"{0} {nothing} \xff\0"])
def test_an_error_after_the_handshake_is_logged_and_hits_nothing(dialect: str, text: bytes) -> None:
    """It is about a packet that has no answer: the server has given the job to another worker (docs/gearman.md §8)."""
    net = Net(dialect)
    net.connection.grab()
    net.assign(H1)
    with capturedLogs() as events:
        net.server.send(ERROR.response(b"JOB_NOT_FOUND", text))
    told = [(event["address"], event["code"]) for event in events if "code" in event]
    assert told == [("server", "JOB_NOT_FOUND")]
    assert (net.receiver.told(), net.connection.error, net.connection.grabs, net.connection.in_flight) == (
        [],
        None,
        1,
        1,
    )
    net.server.send(NO_JOB.response())
    assert net.receiver.told() == [("no_job", 0)]


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
def test_the_taker_learns_once_what_is_lost(end: Callable[[Net], object], error: type[Exception]) -> None:
    """The jobs, and the number of requests; the connection has no jobs any more by then."""
    net = Net()
    net.connection.grab()
    net.connection.grab()
    one, two = net.assign(H1), net.assign(H2)
    connection = net.connection
    end(net)
    assert net.receiver.told() == [("lost", 2, [one, two], 0, error)]
    assert (connection.grabs, connection.jobs) == (0, {})
    net.clock.advance(0)
    connection.abort(BOOM)
    assert net.receiver.told() == []


@pytest.mark.guarantee(number=11)
@each_dialect
def test_nothing_is_left_after_a_stop(dialect: str) -> None:
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
def test_what_comes_while_it_closes_is_nothing(packet: bytes) -> None:
    """A job among it is given to another worker, once the server sees the end of the connection."""
    net = Net()
    net.connection.grab()
    net.connection.sleep()
    net.connection.close(STOP)
    net.receiver.told()
    net.server.send(packet)
    assert (net.receiver.told(), net.connection.grabs) == ([], 0)


def test_what_came_before_a_close_in_the_same_piece_is_told_and_nothing_after_it() -> None:
    net = Net()
    net.connection.grab()
    net.connection.grab()
    net.receiver.no_job_received = lambda connection: connection.close(STOP)  # type: ignore[method-assign]
    net.server.send(NO_JOB.response(), ASSIGNMENTS[JOB_ASSIGN_ALL][0])
    assert net.receiver.told() == [("lost", 1, [], 0, ClientStopped)]


class Fickle(GearmanWorkerProtocol):
    """Wants nothing of a server that leaves its own request unanswered."""

    def send_opening(self) -> None:
        asked: Deferred[Any] = self.request(GRAB_JOB_ALL, answer=NO_JOB)
        asked.addErrback(lambda _: self.close(STOP))


def test_a_connection_that_was_closed_in_its_handshake_does_not_get_ready() -> None:
    """A handshake is a subclass's to change, and may come to that."""
    net = Net()
    net.factory.protocol = Fickle
    net.receiver.functions = [(b"f", None)]
    net.reconnect("geard")
    assert (net.server.received(), net.receiver.told()) == ([], [("lost", 0, [], 0, ClientStopped)])


class Closing:
    """An observer who wants the connection no more."""

    def connection_ready(self, connection: GearmanProtocol) -> None:
        connection.close(STOP)

    def connection_down(self, factory: GearmanFactory[GearmanWorkerProtocol], error: Exception) -> None:
        """It knows."""


def test_a_connection_that_its_observer_closes_is_not_told_as_ready_after_its_end() -> None:
    """The taker would ask it for jobs for ever."""
    net = Net(None, listener=Closing())
    net.server.send(HELLO["gearmand"])
    assert [event[0] for event in net.receiver.told()][-1] == "lost"


def test_a_failed_attempt_is_nothing_to_the_taker() -> None:
    """There was no connection."""
    net = Net()
    net.endpoint.black_hole = True
    net.server.lose()
    net.receiver.told()
    net.wait(3 * SECONDS)
    assert net.endpoint.attempts > 2
    assert (len(net.endpoint.connections), net.receiver.told()) == (1, [])


def test_the_global_reactor_is_the_default() -> None:
    from twisted.internet import reactor

    assert GearmanWorkerFactory(receiver=Receiver(), registrar=Receiver()).reactor is reactor


# A connection that is used no more.


def test_a_connection_with_jobs_is_busy_until_the_last_is_done() -> None:
    """And what is said of it is written by then."""
    net = Net()
    connection = net.connection
    left: list[list[Packet]] = []
    net.assign(H1)
    connection.retire(lambda: left.append(net.server.received()))
    assert (connection.busy, left) == (True, [])
    connection.work_complete(H1, b"r")
    assert (connection.busy, left) == (False, [[(WORK_COMPLETE, [H1, b"r"])]])


def test_a_connection_that_asked_in_vain_is_left_at_the_answer() -> None:
    net = Net()
    net.connection.grab()
    left: list[bool] = []
    net.connection.retire(lambda: left.append(True))
    assert left == []
    net.server.send(NO_JOB.response())
    assert left == [True]


def test_the_taker_is_told_when_the_server_takes_something_again() -> None:
    """And who waits for that to say more of a job."""
    net = Net()
    net.connection.pauseProducing()
    waiting = outcome(net.connection.when_drained())
    assert (net.receiver.told(), waiting) == ([], [])
    net.connection.resumeProducing()
    assert (net.receiver.told(), waiting) == ([("drained", False)], [None])
