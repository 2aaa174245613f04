"""Jobs that several tasks share: which task gets which copy of a packet (docs/gearman.md §1, D1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import CancelledError

from txgearman.client.protocol import GearmanClientProtocol
from txgearman.client.task import Task
from txgearman.errors import (
    ProtocolError,
    TaskException,
    TaskFailed,
    TaskLost,
    TaskRejected,
)
from txgearman.models import JobHandle
from txgearman.packets import (
    ERROR,
    SUBMIT_JOB,
    SUBMIT_JOB_BG,
    SUBMIT_JOB_EPOCH,
    WORK_STATUS,
    Packet,
    PacketType,
)

from ..examples import of_histories
from ..wire import answer, outcome
from .connection_harness import (
    FENCE,
    H1,
    H2,
    PROGRESS,
    PROGRESS_EVENTS,
    ConnectionHarness,
    RecordedTask,
    complete,
    created,
    data,
    exception,
    late,
    outcomes,
    work_fail,
)

# Copies of packets.


@pytest.mark.guarantee(number=4)
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    ("end", "expected"),
    [(complete(b"r"), b"r"), (work_fail(), TaskFailed), (exception(b"e"), TaskException)],
    ids=["complete", "fail", "exception"],
)
def test_each_task_of_shared_job_gets_each_packet_once(count: int, end: bytes, expected: object) -> None:
    """The server sends one copy for each task, directly after each other."""
    harness = ConnectionHarness()
    tasks = harness.share(count)
    for packet in [*PROGRESS, end]:
        harness.server.send(*[packet] * count)
    assert [recorded.events[:5] for recorded in tasks] == [PROGRESS_EVENTS] * count
    assert outcomes(tasks) == [[expected]] * count
    assert harness.tables()[1] == 0


@pytest.mark.guarantee(number=4)
def test_joining_task_gets_packets_from_then_on() -> None:
    harness = ConnectionHarness()
    first = harness.share(2)
    harness.server.send(*[data(b"1")] * 2)
    late = harness.share(1)
    harness.server.send(*[data(b"2")] * 3, *[complete(b"r")] * 3)
    assert [recorded.data for recorded in first + late] == [[b"1", b"2"], [b"1", b"2"], [b"2"]]
    assert outcomes(first + late) == [[b"r"]] * 3


@pytest.mark.guarantee(number=4)
@pytest.mark.parametrize("order", [(True, False, False), (False, True, False), (False, False, True)])
def test_background_task_of_shared_job_gets_no_copies(order: tuple[bool, ...]) -> None:
    harness = ConnectionHarness()
    tasks = [harness.submit(unique=b"u", background=background) for background in order]
    harness.server.send(*[created()] * 3, *[data(b"1")] * 2, *[complete(b"r")] * 2)
    for recorded, background in zip(tasks, order, strict=True):
        assert recorded.outcomes == [JobHandle("server", H1) if background else b"r"]
        assert recorded.data == ([] if background else [b"1"])


@pytest.mark.guarantee(number=4)
@pytest.mark.parametrize("cancelled", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("early", [True, False], ids=["before JOB_CREATED", "after JOB_CREATED"])
def test_copies_for_cancelled_task_go_to_no_other_task(cancelled: tuple[int, ...], early: bool) -> None:
    """The server does not know that it was cancelled, and goes on sending copies for it."""
    harness = ConnectionHarness()
    tasks = [harness.submit(unique=b"u") for _ in range(3)]
    if not early:
        harness.server.send(*[created()] * 3)
    for index in cancelled:
        tasks[index].deferred.cancel()
    if early:
        harness.server.send(*[created()] * 3)
    late = harness.submit(unique=b"u")
    harness.server.send(created(), *[data(b"1")] * 4, *[data(b"2")] * 4, *[complete(b"r")] * 4)
    left = [recorded for index, recorded in enumerate(tasks) if index not in cancelled] + [late]
    assert [recorded.data for recorded in left] == [[b"1", b"2"]] * len(left)
    assert outcomes(left) == [[b"r"]] * len(left)
    assert outcomes([tasks[index] for index in cancelled]) == [[CancelledError]] * len(cancelled)
    assert harness.tables()[1] == 0


@pytest.mark.guarantee(number=4)
def test_task_may_join_job_whose_only_task_was_cancelled() -> None:
    """Data that arrived before it joined is not for it."""
    harness = ConnectionHarness()
    first = harness.share(1)[0]
    first.deferred.cancel()
    harness.server.send(data(b"1"))
    second = harness.share(1)[0]
    harness.server.send(*[data(b"2")] * 2, *[complete(b"r")] * 2)
    assert (first.data, second.data, second.outcomes) == ([], [b"2"], [b"r"])


@pytest.mark.guarantee(number=4)
def test_task_submitted_between_two_copies_of_end_gets_new_job() -> None:
    """The server had ended the first job before it sent the first copy."""
    harness = ConnectionHarness()
    first, second = harness.share(2)
    again: list[RecordedTask] = []
    first.deferred.addCallback(lambda _: again.append(harness.submit(unique=b"u")))
    harness.server.send(*[complete(b"r")] * 2, created(H2), data(b"new", H2), complete(b"s", H2))
    assert outcomes([first, second, *again]) == [[b"r"], [b"r"], [b"s"]]
    assert (second.data, again[0].data) == ([], [b"new"])


@pytest.mark.guarantee(number=4)
def test_data_between_two_copies_of_end_is_for_remaining_task() -> None:
    """No known server sends this, but one that fails a single client of a job would."""
    harness = ConnectionHarness()
    first, second = harness.share(2)
    harness.server.send(work_fail(), data(b"1"), data(b"2"), complete(b"r"))
    assert outcomes([first, second]) == [[TaskFailed], [b"r"]]
    assert (first.data, second.data) == ([], [b"1", b"2"])


@pytest.mark.guarantee(number=4)
def test_jobs_with_different_handles_are_kept_apart() -> None:
    harness = ConnectionHarness()
    ones, twos = harness.share(2, H1), harness.share(2, H2)
    harness.server.send(data(b"1", H1), data(b"1", H1), *[complete(b"two", H2)] * 2, *[complete(b"one", H1)] * 2)
    assert outcomes(ones + twos) == [[b"one"], [b"one"], [b"two"], [b"two"]]
    assert [recorded.data for recorded in ones + twos] == [[b"1"], [b"1"], [], []]


# A running job that an administrator cancelled: its tasks fail, and the server goes on sending copies for them (D2).


@pytest.mark.guarantee(number=4)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_task_that_joins_cancelled_job_gets_each_packet_once(count: int) -> None:
    harness = ConnectionHarness()
    ended = harness.share(count)
    harness.server.send(*[work_fail()] * count, *[data(b"late")] * count)
    joined = harness.share(2)
    total = count + 2
    harness.server.send(*[data(b"1")] * total, *[data(b"2")] * total, *[complete(b"r")] * total)
    assert outcomes(ended) == [[TaskFailed]] * count
    assert [recorded.data for recorded in ended + joined] == [[]] * count + [[b"1", b"2"]] * 2
    assert outcomes(joined) == [[b"r"]] * 2


@pytest.mark.guarantee(number=4)
@pytest.mark.parametrize("uniques", [(b"abc", b"-", b"abc"), (b"-", b"abc", b"-"), (b"abc", b"abc", b"-")])
def test_task_that_joins_cancelled_job_by_other_unique_gets_each_packet_once(uniques: tuple[bytes, ...]) -> None:
    """A task with the unique "-" joins a job whose unique and workload are its workload (docs/gearman.md §1)."""
    harness = ConnectionHarness()
    ended = [harness.submit(b"abc", unique=unique) for unique in uniques[:2]]
    harness.server.send(*[created()] * 2, *[work_fail()] * 2)
    joined = [harness.submit(b"abc", unique=unique) for unique in (uniques[2], b"abc")]
    harness.server.send(*[created()] * 2, *[data(b"1")] * 4, *[data(b"2")] * 4, *[complete(b"r")] * 4)
    assert outcomes(ended) == [[TaskFailed]] * 2
    assert [recorded.data for recorded in joined] == [[b"1", b"2"]] * 2
    assert outcomes(joined) == [[b"r"]] * 2
    assert harness.tables() == (0, 0, 0)


@pytest.mark.guarantee(number=4)
def test_job_may_be_cancelled_repeatedly() -> None:
    harness = ConnectionHarness()
    for copies in range(1, 5):
        recorded = harness.share(1)[0]
        harness.server.send(*[data(b"1")] * copies, *[data(b"2")] * copies, *[work_fail()] * copies)
        assert recorded.data == [b"1", b"2"]
        assert recorded.outcomes == [TaskFailed]


@pytest.mark.guarantee(number=4)
def test_task_that_joins_cancelled_job_with_cancelled_task_gets_each_packet_once() -> None:
    """Copies for the cancelled task arrive, too."""
    harness = ConnectionHarness()
    cancelled, recorded = harness.share(2)
    cancelled.deferred.cancel()
    harness.server.send(*[work_fail()] * 2)
    joined = harness.share(1)[0]
    harness.server.send(*[data(b"1")] * 3, *[data(b"2")] * 3, *[complete(b"r")] * 3)
    assert recorded.outcomes == [TaskFailed]
    assert joined.data == [b"1", b"2"]
    assert joined.outcomes == [b"r"]


@pytest.mark.guarantee(number=4)
def test_task_that_joins_cancelled_job_after_cancelled_task_gets_each_packet_once() -> None:
    """The cancelled task had joined, and was cancelled before its JOB_CREATED."""
    harness = ConnectionHarness()
    recorded = harness.share(1)[0]
    harness.server.send(work_fail())
    harness.submit(unique=b"u").deferred.cancel()
    harness.server.send(created())
    joined = harness.share(1)[0]
    harness.server.send(*[data(b"1")] * 3, *[data(b"2")] * 3, *[complete(b"r")] * 3)
    assert recorded.outcomes == [TaskFailed]
    assert joined.data == [b"1", b"2"]
    assert joined.outcomes == [b"r"]


@pytest.mark.guarantee(number=4)
def test_job_with_same_handle_and_other_unique_is_another_job() -> None:
    """Servers with long host names assign handles twice (docs/gearman.md §10b)."""
    harness = ConnectionHarness()
    harness.share(1)
    harness.server.send(work_fail())
    other = harness.submit(unique=b"other")
    harness.server.send(created(), data(b"1"), data(b"2"), complete(b"r"))
    assert other.data == [b"1", b"2"]
    assert other.outcomes == [b"r"]


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize("uniques", [(b"", b""), (b"u", b"v"), (b"u", b""), (b"", b"u"), (b"-", b"")])
@pytest.mark.parametrize("first_cancelled", [False, True])
def test_two_jobs_with_one_handle_close_connection(uniques: tuple[bytes, bytes], first_cancelled: bool) -> None:
    """Their results could not be distinguished (H10, M5)."""
    harness = ConnectionHarness()
    first, second = (harness.submit(unique=unique) for unique in uniques)
    harness.server.send(created())
    if first_cancelled:
        first.deferred.cancel()
    harness.server.send(created() + complete(b"whose?"))
    assert outcomes([first, second]) == [[CancelledError if first_cancelled else TaskLost], [TaskLost]]
    assert (second.error.acknowledged, type(second.error.__cause__)) == (True, ProtocolError)
    assert harness.server.transport.aborted


@pytest.mark.guarantee(number=17)
def test_one_handle_for_two_functions_closes_connection() -> None:
    """Even if the unique is the same: jobs of different functions do not coalesce."""
    harness = ConnectionHarness()
    first = harness.submit(unique=b"u")
    second = outcome(harness.connection.submit(Task("g", unique=b"u")))
    harness.server.send(created() * 2)
    assert first.outcomes == [TaskLost]
    assert [type(error) for error in second] == [TaskLost]
    assert harness.server.transport.aborted


@pytest.mark.guarantee(number=17)
def test_second_job_of_handle_closes_connection_though_task_was_cancelled() -> None:
    harness = ConnectionHarness()
    first, second = harness.submit(), harness.submit()
    second.deferred.cancel()
    harness.server.send(created() * 2)
    assert outcomes([first, second]) == [[TaskLost], [CancelledError]]
    assert type(first.error.__cause__) is ProtocolError


@pytest.mark.guarantee(number=4)
@pytest.mark.parametrize("uniques", [(b"-", b"abc"), (b"abc", b"-"), (b"-", b"-")])
def test_unique_dash_shares_job_with_workload(uniques: tuple[bytes, bytes]) -> None:
    """To Perl's server, the unique "-" and the workload as unique are the same (docs/gearman.md §1)."""
    harness = ConnectionHarness()
    tasks = [harness.submit(b"abc", unique=unique) for unique in uniques]
    harness.server.send(created() * 2 + complete(b"r") * 2)
    assert outcomes(tasks) == [[b"r"]] * 2


@pytest.mark.guarantee(number=12)
@pytest.mark.parametrize(("unique", "handle", "kept"), [(b"", b"H:%d", 0), (b"u%d", b"H:%d", 1000), (b"u%d", b"H", 2)])
def test_number_of_remembered_failed_jobs_is_limited(unique: bytes, handle: bytes, kept: int) -> None:
    """Jobs without a unique can't be joined, and are not remembered. Many jobs may have one handle (H10)."""
    harness = ConnectionHarness()
    for number in range(1010):
        harness.submit(unique=unique.replace(b"%d", b"%d" % number))
        named = handle.replace(b"%d", b"%d" % number)
        harness.server.send(created(named), work_fail(named))
    assert (harness.tables(), harness.connection.in_flight) == ((0, 0, kept), 0)


# Random histories against a model of a server.


class Submit:
    """A task of the model.

    :ivar expected: the expected events of its `RecordedTask`.
    :ivar wire: the packet that the server should receive.
    """

    def __init__(
        self, connection: GearmanClientProtocol, workload: bytes, unique: bytes, background: bool, timed: bool
    ):
        self.background = background
        options = {"at": 1234} if timed else {}
        self.recorded = RecordedTask(connection, workload, unique=unique, background=background, **options)
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
    """A job of the model server.

    :ivar waiting: its foreground tasks; None for a task that has ended or was cancelled.
    """

    def __init__(self, handle: bytes) -> None:
        self.handle = handle
        self.waiting: list[Submit | None] = []

    def discard(self, submit: Submit) -> None:
        self.waiting = [None if other is submit else other for other in self.waiting]

    def report(self, event: tuple[Any, ...]) -> None:
        for submit in self.waiting:
            if submit is not None:
                submit.expected.append(event)

    def end(self, end: Callable[[Submit], None]) -> None:
        """End its tasks. As long as the job exists, copies for them are sent."""
        for submit in self.waiting:
            if submit is not None:
                end(submit)
        self.waiting = [None] * len(self.waiting)


class ConnectionMachine(RuleBasedStateMachine):
    """A connection to a small model of gearmand: the events of each task must be those that the model expects.

    The server answers requests in order. A submit joins the job of its unique, if there is one; a packet about a job is
    sent once for each foreground submit that ever joined the job on this connection (D1, D2).
    """

    coalesces = True

    def __init__(self) -> None:
        super().__init__()
        self.harness = ConnectionHarness()
        self.submits: list[Submit] = []
        self.cut = 10**6
        self.start_server()

    def start_server(self) -> None:
        """Start a server without jobs, which counts handles from 1."""
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
            self.harness.server.send(stream[start : start + self.cut])

    def job(self, pick: int) -> Job:
        return list(self.jobs.values())[pick % len(self.jobs)]

    # The caller.

    @rule(
        unique=st.sampled_from([b"u"] * 5 + [b"v", b"-", b""]),
        workload=st.sampled_from([b"u", b"w", b""]),
        kinds=st.lists(st.sampled_from(["foreground"] * 4 + ["background", "timed"]), min_size=1, max_size=3),
    )
    def submit(self, unique: bytes, workload: bytes, kinds: list[str]) -> None:
        for kind in kinds:
            self.submit_one(unique, workload, kind)

    def submit_one(self, unique: bytes, workload: bytes, kind: str) -> None:
        submit = Submit(self.harness.connection, workload, unique, kind != "foreground", kind == "timed")
        self.submits.append(submit)
        self.unmatched.append(submit)
        packets = self.harness.server.received()
        assert packets == [submit.wire, FENCE][: len(packets)]
        assert len(packets) == 1 + (kind == "timed")
        self.unanswered.extend(packets)

    def in_flight(self) -> list[Submit]:
        return [submit for submit in self.submits if submit.waiting]

    @precondition(lambda self: self.in_flight())
    @rule(pick=st.integers(0, 50))
    def cancel(self, pick: int) -> None:
        submit = self.in_flight()[pick % len(self.in_flight())]
        submit.recorded.deferred.cancel()
        submit.fail(CancelledError)
        for job in self.jobs.values():
            job.discard(submit)

    # Answers of the server.

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
        """Return the key by which a submit coalesces; a new object for none."""
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
        """As geard does (H6). The answer to the fence fails the task."""
        self.drop_submit()
        self.send(answer(self.unanswered.popleft()))

    def drop_submit(self) -> None:
        self.unanswered.popleft()
        submit = self.unmatched.popleft()
        if submit.waiting:
            submit.fail(TaskRejected)

    # Packets about jobs.

    def copies(self, job: Job, packet: bytes) -> None:
        self.send(*[packet] * len(job.waiting))

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0, 50), text=st.binary(max_size=3))
    def work_data(self, pick: int, text: bytes) -> None:
        job = self.job(pick)
        job.report(("on_data", text))
        self.copies(job, data(text, job.handle))

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0, 50), numerator=st.integers(0, 9))
    def work_status(self, pick: int, numerator: int) -> None:
        job = self.job(pick)
        job.report(("on_status", numerator, 9))
        self.copies(job, WORK_STATUS.response(job.handle, b"%d" % numerator, b"9"))

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0, 50), end=st.sampled_from(["complete", "fail", "exception"]), stays=st.booleans())
    def end_a_job(self, pick: int, end: str, stays: bool) -> None:
        """A job may stay: if an administrator cancels it while it runs (D2), or after an exception (D3)."""
        job = self.job(pick)
        packet = self.end_tasks(job, end)
        if end == "complete" or not stays:
            self.jobs = {key: other for key, other in self.jobs.items() if other is not job}
        self.copies(job, packet)

    def end_tasks(self, job: Job, end: str) -> bytes:
        """Expect the end of the job's tasks; return the packet that ends them."""
        if end == "fail":
            job.end(lambda submit: submit.fail(TaskFailed))
            return work_fail(job.handle + b"\0extra")
        if end == "exception":
            events = [("on_exception", b"e"), ("on_fail", TaskException), ("failure", TaskException)]
            job.end(lambda submit: submit.end(*events))
            return exception(b"e", job.handle)
        job.end(lambda submit: submit.end(("on_complete", b"r"), ("result", b"r")))
        return complete(b"r", job.handle)

    @precondition(lambda self: self.handles)
    @rule(pick=st.integers(0, 50), kind=st.integers(0, 5))
    def send_a_late_packet(self, pick: int, kind: int) -> None:
        """Send a packet about a job that does not exist any more."""
        handle = b"H:%d" % (1 + pick % self.handles)
        if all(job.handle != handle for job in self.jobs.values()):
            self.send(late(handle)[kind])

    # The end.

    @precondition(lambda self: self.handles > 2)
    @rule(bad=st.booleans())
    def lose_the_connection(self, bad: bool) -> None:
        for submit in self.in_flight():
            submit.fail(TaskLost)
        if bad:
            self.harness.server.send(b"garbage" * 3)
        else:
            self.harness.server.lose()
        self.check()
        self.harness.clock.pump([0, 60])
        connection = self.harness.factory.connection
        assert isinstance(connection, GearmanClientProtocol)
        self.harness.connection, self.harness.server = connection, self.harness.endpoint.server
        self.start_server()

    @precondition(lambda self: self.handles > 2)
    @rule()
    def finish(self) -> None:
        """Answer all requests, and complete all jobs."""
        if self.unanswered:
            self.answer(len(self.unanswered))
        while self.jobs:
            self.end_a_job(0, "complete", stays=False)
        assert not self.in_flight()
        assert self.harness.tables()[:2] == (0, 0)

    @invariant()
    def check(self) -> None:
        for submit in self.submits:
            assert submit.recorded.events == submit.expected
        assert self.harness.connection.in_flight == (
            len(self.in_flight()) if self.harness.connection.error is None else 0
        )


class GeardMachine(ConnectionMachine):
    """A server on which jobs do not coalesce."""

    coalesces = False


@pytest.mark.guarantee(number=4)
@pytest.mark.parametrize("machine", [ConnectionMachine, GeardMachine])
def test_random_histories_match_model_server(machine: type[ConnectionMachine]) -> None:
    run_state_machine_as_test(machine, settings=of_histories())
