"""The client and the worker against servers that send anything: random bytes, packets out of place, damaged streams.

Each Deferred fires once, errors are typed, nothing is logged, and nothing is left in the reactor.

For a long run by hand: ``python -m pytest tests/test_hostile_servers.py --hypothesis-profile=long --timeout=0``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.error import ConnectionClosed, TimeoutError
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from txgearman import GearmanClient, GearmanError, GearmanWorker, Job, JobFailed, JobHandle, JobStatus, ProtocolError
from txgearman.packets import (
    ECHO_REQ,
    ERROR,
    GET_STATUS,
    GET_STATUS_UNIQUE,
    GRAB_JOB_ALL,
    JOB_ASSIGN_ALL,
    JOB_CREATED,
    NO_JOB,
    NOOP,
    OPTION_REQ,
    PACKET_TYPES,
    PRE_SLEEP,
    REQ,
    RES,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_EPOCH,
    WORK_COMPLETE,
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    Packet,
    PacketType,
)

from .conftest import Failures
from .examples import of_scenarios
from .wire import MemoryEndpoint, answer, outcome

HANDLES: Final = [b"H:%d" % number for number in range(1, 5)]

# What a server does next: the name of a method of `Scenario`, and its arguments.
Step = tuple[Any, ...]


# Bytes that no valid server sends.

EDITS: Final = st.lists(
    st.tuples(
        st.sampled_from(["flip", "insert", "delete", "repeat", "end"]),
        st.integers(0, 200),
        st.integers(0, 255),
    ),
    max_size=3,
)
"""Damage to a stream: kind, position, and how many bytes or which new byte."""


def damaged(stream: bytes, edits: list[tuple[str, int, int]]) -> bytes:
    for kind, place, number in edits:
        at = place % (len(stream) + 1)
        if kind == "flip":
            stream = stream[:at] + bytes([number]) + stream[at + 1 :]
        elif kind == "insert":
            stream = stream[:at] + bytes([number]) + stream[at:]
        elif kind == "delete":
            stream = stream[:at] + stream[at + 1 + number % 8 :]
        elif kind == "repeat":
            stream = stream[:at] + stream[max(0, at - number) :]
        else:
            stream = stream[:at]
    return stream


ARGUMENTS: Final = st.sampled_from([*HANDLES, b"", b"f", b"u", b"0", b"1", b"7", b"txgearman:fence", b"exceptions"]) | (
    st.binary(max_size=8)
)


@st.composite
def any_packets(draw: st.DrawFn) -> bytes:
    """Draw a well-formed packet of any type, mostly out of place."""
    row = draw(st.sampled_from(list(PACKET_TYPES.values())))
    body = b"\0".join(draw(ARGUMENTS) for _ in row.arguments)
    magic = draw(st.sampled_from([RES, RES, RES, REQ]))
    return magic + row.number.to_bytes(4, "big") + len(body).to_bytes(4, "big") + body


CUTS: Final = st.sampled_from([1, 7, 10**6])

HARM: Final[list[tuple[int, st.SearchStrategy[Step]]]] = [
    (1, st.tuples(st.just("send"), st.binary(max_size=40), CUTS)),
    (1, st.tuples(st.just("send"), st.lists(any_packets(), max_size=3).map(b"".join), CUTS)),
    (2, st.tuples(st.just("wait"), st.sampled_from([0.0, 0.1, 1.0, 5.0, 40.0]))),
    (1, st.tuples(st.just("lose"))),
]
"""What any server may do to any service, each with its weight."""


def weighted(*choices: tuple[int, st.SearchStrategy[Step]]) -> st.SearchStrategy[list[Step]]:
    """Draw lists of steps from strategies with weights."""
    each = [strategy for weight, strategy in choices for _ in range(weight)]
    return st.lists(st.integers(0, len(each) - 1).flatmap(each.__getitem__), min_size=15, max_size=60)


class Scenario:
    """A service of the library, and a server that the test plays.

    :ivar outcomes: of each Deferred, as `outcome` returns it.
    """

    def __init__(self, polite: bool) -> None:
        self.clock = Clock()
        self.endpoint = MemoryEndpoint(self.clock)
        self.endpoint.answers_opening = polite
        self.outcomes: list[list[Any]] = []

    def perform(self, steps: list[Step]) -> None:
        for name, *arguments in steps:
            getattr(self, name)(*arguments)
            self.check()

    def check(self) -> None:
        """Check what must be true at all times."""
        assert all(len(outcomes) <= 1 for outcomes in self.outcomes)

    @property
    def connected(self) -> bool:
        if not self.endpoint.connections:
            return False
        transport = self.endpoint.server.transport
        return not (transport.disconnecting or transport.aborted or transport.lost)

    def send(self, stream: bytes, cut: int) -> None:
        for start in range(0, len(stream), cut):
            if self.connected:
                self.endpoint.server.send(stream[start : start + cut])

    def answer(self, edits: list[tuple[str, int, int]], cut: int) -> None:
        """Answer what was received, with damage."""
        if self.connected:
            answers = b"".join(map(self.valid_answer, self.endpoint.server.received()))
            self.send(damaged(answers, edits), cut)

    def valid_answer(self, packet: Packet) -> bytes:
        raise NotImplementedError

    def wait(self, seconds: float) -> None:
        self.clock.pump([seconds / 8] * 8)

    def lose(self) -> None:
        if self.connected:
            self.endpoint.server.lose()

    def end(self, service: GearmanClient | GearmanWorker) -> None:
        stopped = outcome(service.stopService())
        for _ in range(100):
            if not stopped:
                self.clock.advance(0.05)
        assert stopped == [None]
        assert self.clock.getDelayedCalls() == []
        assert all(server.transport.lost for server in self.endpoint.connections)
        assert all(len(outcomes) == 1 for outcomes in self.outcomes)
        (server,) = service.servers
        assert server.last_error is None or isinstance(
            server.last_error, (ProtocolError, TimeoutError, ConnectionClosed)
        ), server.last_error


@contextmanager
def nothing_logged() -> Generator[None, None, None]:
    failures = Failures()
    globalLogPublisher.addObserver(failures)
    yield
    globalLogPublisher.removeObserver(failures)
    assert not failures.texts()


# The client.


async def collected(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


RESULTS: Final = (bytes, JobHandle, JobStatus, dict, GearmanError, CancelledError)

SUBMITS: Final = (SUBMIT_JOB, SUBMIT_JOB_BG, SUBMIT_JOB_EPOCH)


class ClientScenario(Scenario):
    def __init__(self, polite: bool, **options: Any) -> None:
        super().__init__(polite)
        self.client = GearmanClient(
            [self.endpoint],
            reactor=self.clock,
            connect_timeout=3.0,
            server_timeout=4.0,
            heartbeat=5.0,
            job_check_interval=6.0,
            max_packet_size=1000,
            **options,
        )
        self.deferreds: list[Deferred[Any]] = []
        self.created = 0

    def ask(self, deferred: Deferred[Any]) -> None:
        self.deferreds.append(deferred)
        self.outcomes.append(outcome(deferred))

    def task(self, unique: bytes, options: dict[str, Any]) -> None:
        self.ask(self.client.add_task("f", b"w", unique=unique, **options))

    def background(self, options: dict[str, Any]) -> None:
        self.ask(self.client.add_task_bg("f", b"w", **options))

    def stream(self) -> None:
        self.ask(ensureDeferred(collected(self.client.stream("f", b"w"))))

    def status(self, handle: bytes) -> None:
        self.ask(self.client.get_status(JobHandle("endpoint:0", handle)))

    def question(self, name: str) -> None:
        self.ask(self.client.echo(b"e") if name == "echo" else self.client.get_status_unique("u"))

    def cancel(self, pick: int) -> None:
        if self.deferreds:
            self.deferreds[pick % len(self.deferreds)].cancel()

    def work(self, kind: str, pick: int, edits: list[tuple[str, int, int]], cut: int) -> None:
        """Send one packet about one of the newest jobs."""
        packet_type = WORK[kind]
        handle = b"H:%d" % max(1, self.created - pick)
        arguments = [b"5", b"7\0"] if kind == "status" else [b"data"] * (len(packet_type.arguments) - 1)
        self.send(damaged(packet_type.response(handle, *arguments), edits), cut)

    def valid_answer(self, packet: Packet) -> bytes:
        if packet[0] not in SUBMITS:
            return answer(packet)
        if self.created % 7 == 6:
            self.created += 1
            return ERROR.response(b"QUEUE_ERROR", b"full")
        # Some submits with a unique share a job.
        self.created += packet[1][1] != b"u" or self.created % 3 == 0
        return JOB_CREATED.response(b"H:%d" % self.created)

    def check(self) -> None:
        super().check()
        for outcomes in self.outcomes:
            assert all(isinstance(each, RESULTS) for each in outcomes), outcomes


CALLS: Final = [
    st.tuples(
        st.just("task"),
        st.sampled_from([b"", b"u", b"-"]),
        st.fixed_dictionaries({}, optional={"timeout": st.just(3.0), "retries": st.just(2)}),
    ),
    st.tuples(st.just("background"), st.fixed_dictionaries({}, optional={"unique": st.just("u"), "at": st.just(1)})),
    st.tuples(st.just("stream")),
    st.tuples(st.just("status"), st.sampled_from(HANDLES)),
    st.tuples(st.just("question"), st.sampled_from(["echo", "unique"])),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
]


WORK: Final = {
    "created": JOB_CREATED,
    "data": WORK_DATA,
    "complete": WORK_COMPLETE,
    "exception": WORK_EXCEPTION,
    "fail": WORK_FAIL,
    "status": WORK_STATUS,
}
"""What a server can send about a job."""

ANSWER: Final = st.tuples(st.just("answer"), EDITS, CUTS)
UNDAMAGED_ANSWER: Final[st.SearchStrategy[Step]] = st.tuples(st.just("answer"), st.just([]), CUTS)


def work_steps(edits: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.tuples(st.just("work"), st.sampled_from(sorted(set(WORK) - {"created"})), st.integers(0, 3), edits, CUTS)


CLIENT_STEPS: Final = weighted(
    (8, st.one_of(*CALLS)),
    (6, UNDAMAGED_ANSWER),
    (8, work_steps(st.just([]))),
    (1, ANSWER),
    (1, work_steps(EDITS)),
    (1, st.just(("work", "created", 0, [], 7))),  # once more, for the job of another task, or of none
    *HARM,
)

CLIENT_OPTIONS: Final = st.fixed_dictionaries(
    {}, optional={"server_wait": st.just(4.0), "max_in_flight": st.just(2), "exceptions": st.just(False)}
)


@pytest.mark.guarantee(number=1)
@pytest.mark.guarantee(number=14)
@given(CLIENT_STEPS, CLIENT_OPTIONS, st.sampled_from([False, False, False, True]))
@example([("question", "echo"), ("send", b"", 1), ("wait", 40.0)], {}, True)
@of_scenarios()
def test_client_gets_one_outcome_per_task_whatever_server_sends(
    steps: list[Step], options: dict[str, Any], impolite: bool
) -> None:
    with nothing_logged():
        scenario = ClientScenario(polite=not impolite, **options)
        scenario.perform(steps)
        scenario.end(scenario.client)
        scenario.check()


# The worker.


class WorkerScenario(Scenario):
    def __init__(self, polite: bool) -> None:
        super().__init__(polite)
        self.worker = GearmanWorker(
            [self.endpoint],
            reactor=self.clock,
            client_id="hostile",
            max_jobs=2,
            poll_interval=7.0,
            drain_timeout=1.0,
            connect_timeout=3.0,
            server_timeout=4.0,
            heartbeat=5.0,
            max_packet_size=1000,
        )
        self.running = 0
        self.pending: list[Deferred[bytes]] = []
        self.assigned = 0
        self.greeted = 0
        for name, function in self.functions().items():
            self.worker.register_function(name, function)
        self.worker.startService()

    def functions(self) -> dict[str, Callable[[Job], Any]]:
        def fails(job: Job) -> None:
            raise JobFailed

        def chunks(job: Job) -> Generator[bytes, None, bytes]:
            yield job.workload
            return job.unique

        return {"f": lambda job: job.workload, "fails": fails, "chunks": chunks, "slow": self.slow}

    async def slow(self, job: Job) -> bytes:
        self.running += 1
        deferred: Deferred[bytes] = Deferred()
        self.pending.append(deferred)
        try:
            return await deferred
        finally:
            self.running -= 1

    def finish(self) -> None:
        """End the oldest of the slow jobs."""
        pending = [deferred for deferred in self.pending if not deferred.called]
        if pending:
            pending[0].callback(b"done")

    def check(self) -> None:
        super().check()
        assert 0 <= self.running <= 2

    def valid_answer(self, packet: Packet) -> bytes:
        packet_type = packet[0]
        if packet_type is GRAB_JOB_ALL and self.greeted < len(self.endpoint.connections):
            self.greeted = len(self.endpoint.connections)
            return NO_JOB.response()
        if packet_type is GRAB_JOB_ALL:
            self.assigned += 1
            names = [b"", b"slow", b"f", b"fails", b"slow", b"chunks", b"unknown"]
            name = names[self.assigned % len(names)]
            handle = HANDLES[self.assigned // 2 % len(HANDLES)]
            return JOB_ASSIGN_ALL.response(handle, name, b"u", b"", b"work") if name else NO_JOB.response()
        if packet_type is PRE_SLEEP:
            return NOOP.response() if self.assigned % 3 else b""
        return answer(packet) if packet_type in ASKED else b""


ASKED: Final[tuple[PacketType, ...]] = (ECHO_REQ, GET_STATUS, GET_STATUS_UNIQUE, OPTION_REQ)

WORKER_STEPS: Final = weighted(
    (12, UNDAMAGED_ANSWER),
    (4, st.tuples(st.just("finish"))),
    (2, st.just(("send", NOOP.response(), 7))),
    (2, st.just(("send", ERROR.response(b"JOB_NOT_FOUND", b""), 7))),
    (1, st.just(("send", NO_JOB.response(), 7))),
    (1, st.just(("send", JOB_ASSIGN_ALL.response(b"H:7", b"slow", b"", b"", b""), 7))),
    (1, ANSWER),
    *HARM,
)


@pytest.mark.guarantee(number=1)
@pytest.mark.guarantee(number=14)
@given(WORKER_STEPS)
@of_scenarios()
def test_worker_keeps_running_and_stops_whatever_server_sends(steps: list[Step]) -> None:
    with nothing_logged():
        scenario = WorkerScenario(polite=False)
        scenario.perform(steps)
        scenario.end(scenario.worker)
        assert scenario.running == 0
