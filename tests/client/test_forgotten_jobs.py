"""Jobs that a server forgot: the connection asks after silent jobs (guarantee 16)."""

from __future__ import annotations

from unittest import mock

import pytest
from twisted.internet.defer import CancelledError

from txgearman.client import job_sweep
from txgearman.errors import (
    TaskLost,
)
from txgearman.packets import (
    ERROR,
    GET_STATUS,
    STATUS_RES,
    SUBMIT_JOB,
    WORK_STATUS,
)
from txgearman.validation import MAX_HANDLE

from .connection_harness import (
    H1,
    H2,
    ProbingHarness,
    complete,
    created,
    data,
    outcomes,
)


@pytest.mark.guarantee(number=16)
def test_task_of_forgotten_job_is_lost() -> None:
    harness = ProbingHarness()
    recorded = harness.begin(H1)
    harness.wait(7.75)
    assert harness.queried() == []
    harness.wait(0.25)
    assert harness.queried() == [H1]
    harness.answer(H1, known=False)
    assert recorded.outcomes == [TaskLost]
    assert (recorded.error.acknowledged, recorded.error.forgotten) == (True, True)
    assert "job forgotten by the server" in str(recorded.error)
    assert (harness.connection.in_flight, harness.connection.error) == (0, None)


@pytest.mark.guarantee(number=16)
def test_job_check_interval_of_a_minute() -> None:
    harness = ProbingHarness(job_check_interval=60.0)
    harness.begin(H1)
    harness.wait(59.75)
    assert harness.queried() == []
    harness.wait(0.25)
    assert harness.queried() == [H1]


@pytest.mark.guarantee(number=16)
@pytest.mark.parametrize("empty", [(b"0", b"", b""), (b"1", b"3", b"8")], ids=["geard", "running"])
def test_known_job_is_queried_again(empty: tuple[bytes, ...]) -> None:
    harness = ProbingHarness()
    recorded = harness.begin(H1)
    for _ in range(5):
        harness.wait(8)
        assert harness.queried() == [H1]
        harness.answer(H1, True, empty)
    harness.server.send(complete(b"r"))
    assert recorded.outcomes == [b"r"]


@pytest.mark.guarantee(number=16)
def test_only_silent_jobs_are_queried_in_one_sweep() -> None:
    harness = ProbingHarness()
    for number in range(4):
        harness.begin(b"H:%d" % number)
    for _ in range(3):
        harness.wait(3.75)
        harness.server.send(data(b"d", b"H:1"), WORK_STATUS.response(b"H:2", b"1", b"2"))
    harness.server.send(complete(b"", b"H:3"))
    harness.wait(0.5)
    assert harness.queried() == [b"H:0"]
    harness.wait(8.5)
    assert sorted(harness.queried()) == [b"H:0", b"H:1", b"H:2"]


@pytest.mark.guarantee(number=16)
def test_silent_job_is_queried_within_one_and_a_half_intervals() -> None:
    harness = ProbingHarness()
    harness.begin(H1)
    harness.wait(3)
    harness.begin(H2)
    harness.wait(5)
    assert harness.queried() == [H1]
    harness.wait(4)
    assert harness.queried() == [H2]


@pytest.mark.guarantee(number=16)
def test_each_task_of_forgotten_shared_job_is_lost_once() -> None:
    harness = ProbingHarness()
    tasks = harness.share(3)
    tasks[1].deferred.cancel()
    harness.wait(8)
    assert harness.queried() == [H1]
    harness.answer(H1, known=False)
    assert outcomes(tasks) == [[TaskLost], [CancelledError], [TaskLost]]
    harness.server.send(complete(b"late"))
    assert harness.connection.error is None


@pytest.mark.guarantee(number=12)
@pytest.mark.guarantee(number=16)
def test_tombstone_is_removed_with_forgotten_job() -> None:
    harness = ProbingHarness()
    recorded = harness.begin(H1)
    recorded.deferred.cancel()
    harness.wait(8)
    assert harness.queried() == [H1]
    harness.answer(H1, known=False)
    assert harness.tables()[1] == 0
    harness.wait(8)
    assert (harness.queried(), harness.connection._job_sweep.on) == ([], False)


@pytest.mark.guarantee(number=6)
def test_status_after_outcome_is_ignored() -> None:
    harness = ProbingHarness()
    recorded = harness.begin(H1)
    harness.wait(8)
    harness.server.send(complete(b"r"))
    harness.answer(H1, known=False)
    assert recorded.outcomes == [b"r"]
    assert harness.connection.error is None


@pytest.mark.guarantee(number=16)
def test_job_with_longest_handle_is_queried() -> None:
    harness = ProbingHarness()
    harness.begin(b"H" * MAX_HANDLE)
    harness.wait(8)
    assert harness.queried() == [b"H" * MAX_HANDLE]


@pytest.mark.guarantee(number=17)
@pytest.mark.parametrize("handle", [b"H" * (MAX_HANDLE + 1), b"H:\0:1"], ids=["long", "with a NUL"])
def test_job_with_unanswerable_handle_is_not_queried(handle: bytes) -> None:
    """Some servers would leave the query unanswered (H6)."""
    harness = ProbingHarness()
    harness.begin(handle)
    harness.wait(30)
    assert harness.queried() == []


@pytest.mark.guarantee(number=17)
def test_status_query_is_answered_in_order() -> None:
    harness = ProbingHarness()
    harness.begin(H1)
    harness.wait(8)
    later = harness.submit()
    assert [packet_type for packet_type, _ in harness.server.received()] == [GET_STATUS, SUBMIT_JOB]
    harness.server.send(STATUS_RES.response(H1, b"0", b"0", b"0", b"0"), created(H2), complete(b"2", H2))
    assert later.outcomes == [b"2"]


@pytest.mark.guarantee(number=16)
def test_task_is_lost_once_if_connection_is_lost_during_query() -> None:
    harness = ProbingHarness()
    recorded = harness.begin(H1)
    harness.wait(8)
    harness.server.lose()
    assert recorded.outcomes == [TaskLost]
    assert not recorded.error.forgotten


@pytest.mark.guarantee(number=12)
def test_late_packets_leave_no_record_of_their_jobs() -> None:
    """Nor do the packets of a job that has ended, once the jobs were probed."""
    harness = ProbingHarness()
    for number in range(100):
        harness.server.send(data(b"late", b"H:%d" % number))
    assert harness.connection._job_sweep.heard_of == set()
    for number in range(100):
        handle = b"H:%d" % number
        harness.begin(handle)
        harness.server.send(data(b"d", handle), complete(b"", handle))
    harness.wait(4)
    sweep = harness.connection._job_sweep
    assert (sweep.heard_of, sweep._handles_before) == (set(), [])


@pytest.mark.guarantee(number=10)
def test_connection_without_jobs_has_no_timer() -> None:
    harness = ProbingHarness()
    harness.begin(H1)
    harness.server.send(complete(b""))
    harness.wait(8)
    harness.clock.advance(1e6)
    assert harness.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=16)
def test_background_jobs_are_not_queried() -> None:
    harness = ProbingHarness()
    recorded = harness.begin(H1, background=True)
    assert len(recorded.outcomes) == 1
    harness.wait(30)
    assert harness.queried() == []


def test_held_job_is_not_queried() -> None:
    """Its data is not read, and the answer would arrive after that data."""
    harness = ProbingHarness()
    recorded = harness.begin(H1)
    harness.tasks.hold(recorded.task)
    harness.wait(60)
    assert harness.queried() == []
    harness.tasks.release(recorded.task)
    harness.wait(12)
    assert harness.queried() == [H1]


# Many jobs: a sweep is made in pieces, so that it never blocks the reactor for long.


class ManyJobs(ProbingHarness):
    """A connection with many jobs, all of which have been silent for so long that a sweep begins to ask for them."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.begin(H1)  # starts the sweeps; the silence of others begins with the first of them
        self.server.send(complete(b""))
        self.handles = [b"H:%d" % number for number in range(count)]
        self.recorded = [self.begin(handle) for handle in self.handles]
        self.wait(12)

    def answer_all(self, handles: list[bytes], known: bool = True) -> None:
        self.server.send(*(STATUS_RES.response(handle, b"%d" % known, b"0", b"0", b"0") for handle in handles))


@pytest.fixture
def swept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps look at few jobs at a time."""
    monkeypatch.setattr(job_sweep, "MAX_SWEPT", 10)


@pytest.mark.guarantee(number=16)
def test_sweep_asks_for_thousand_jobs_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert job_sweep.MAX_SWEPT == 1000
    monkeypatch.setattr(job_sweep, "MAX_SWEPT", 10)
    harness = ManyJobs(25)
    for asked in (harness.handles[:10], harness.handles[10:20], harness.handles[20:]):
        assert harness.queried() == asked
        harness.answer_all(asked[:-1])
        harness.clock.advance(0)
        assert harness.queried() == []
        harness.answer_all(asked[-1:])
        harness.clock.advance(0)
    assert harness.queried() == []
    assert harness.connection._job_sweep._handles == []


@pytest.mark.guarantee(number=16)
def test_sweep_looks_at_jobs_that_are_not_silent_in_turns_of_their_own(swept: None) -> None:
    """A `Clock` makes all turns at once, so that they are counted."""
    harness = ProbingHarness()
    for number in range(25):
        harness.begin(b"H:%d" % number)
    with mock.patch.object(harness.clock, "callLater", wraps=harness.clock.callLater) as call_later:
        harness.wait(4)
    assert [call.args[0] for call in call_later.call_args_list].count(0) == 2
    assert harness.queried() == []


@pytest.mark.guarantee(number=16)
def test_sweep_passes_over_ended_jobs_in_turns_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The silence of the others goes on."""
    monkeypatch.setattr(job_sweep, "MAX_SKIPPED", 5)
    harness = ProbingHarness()
    handles = [b"H:%d" % number for number in range(15)]
    for handle in handles:
        harness.begin(handle)
    harness.wait(4)
    harness.server.send(*(complete(b"r", handle) for handle in handles[:12]))
    with mock.patch.object(harness.clock, "callLater", wraps=harness.clock.callLater) as call_later:
        harness.wait(4)
    assert [call.args[0] for call in call_later.call_args_list].count(0) == 2
    assert harness.queried() == []
    harness.wait(4)
    assert harness.queried() == handles[12:]


@pytest.mark.guarantee(number=16)
def test_silence_of_shared_job_begins_with_the_end_of_one_of_its_tasks() -> None:
    """Which moves the job behind those that began later."""
    harness = ProbingHarness()
    harness.begin(H1)
    harness.begin(H2, unique=b"u")
    harness.begin(H2, unique=b"u")
    harness.begin(b"H:3")
    harness.wait(5)
    harness.server.send(complete(b"r", H2))
    harness.wait(3)
    assert harness.queried() == [H1]
    harness.wait(4)
    assert harness.queried() == [b"H:3"]
    harness.wait(4)
    assert harness.queried() == [H1, H2]


@pytest.mark.guarantee(number=16)
def test_jobs_that_end_or_begin_during_sweep(swept: None) -> None:
    harness = ManyJobs(25)
    harness.answer_all(harness.queried())
    harness.server.send(complete(b"r", b"H:12"))
    harness.begin(b"H:new")
    harness.clock.advance(0)
    second = harness.queried()
    assert second == [handle for handle in harness.handles[10:20] if handle != b"H:12"]
    harness.answer_all(second)
    harness.clock.advance(0)
    assert harness.queried() == harness.handles[20:]
    harness.server.send(*(complete(b"r", handle) for handle in harness.handles if handle != b"H:12"))
    harness.wait(11.75)
    assert harness.queried() == []
    harness.wait(0.25)
    assert harness.queried() == [b"H:new"]


@pytest.mark.guarantee(number=16)
def test_sweep_that_takes_longer_than_half_an_interval_goes_on(swept: None) -> None:
    """The next one begins after it, so that no job is asked for twice meanwhile."""
    harness = ManyJobs(15)
    assert harness.queried() == harness.handles[:10]
    harness.wait(8)
    assert harness.queried() == []
    harness.answer_all(harness.handles[:10])
    harness.clock.advance(0)
    assert harness.queried() == harness.handles[10:]
    harness.answer_all(harness.handles[10:])
    harness.wait(4)
    assert harness.queried() == []
    harness.wait(4)
    assert harness.queried() == harness.handles[:10]


@pytest.mark.guarantee(number=16)
def test_forgotten_jobs_of_each_piece_are_lost(swept: None) -> None:
    harness = ManyJobs(25)
    while asked := harness.queried():
        harness.answer_all(asked, known=False)
        harness.clock.advance(0)
    assert outcomes(harness.recorded) == [[TaskLost]] * 25
    harness.wait(4)
    assert harness.connection._job_sweep.on is False


@pytest.mark.guarantee(number=10)
def test_sweep_ends_with_last_job(swept: None) -> None:
    """Though an answer that it waits for comes later, when another job has started the sweeps again."""
    harness = ManyJobs(25)
    for _ in range(3):
        harness.answer_all(harness.queried())
        harness.clock.advance(0)
    harness.wait(7.75)
    harness.submit()
    harness.server.received()
    harness.wait(0.25)
    asked = harness.queried()
    harness.server.send(*(complete(b"r", handle) for handle in harness.handles))
    harness.wait(4)
    assert harness.connection._job_sweep.on is False
    harness.server.send(created(H1))
    harness.answer_all(asked)
    harness.wait(7.75)
    assert harness.queried() == []
    harness.wait(0.25)
    assert harness.queried() == [H1]


@pytest.mark.guarantee(number=11)
def test_sweep_ends_with_connection(swept: None) -> None:
    harness = ManyJobs(25)
    harness.answer_all(harness.queried())
    assert any(call.getTime() == harness.clock.seconds() for call in harness.clock.getDelayedCalls())
    harness.server.lose()
    assert outcomes(harness.recorded) == [[TaskLost]] * 25
    assert not any(call.getTime() == harness.clock.seconds() for call in harness.clock.getDelayedCalls())


@pytest.mark.guarantee(number=16)
@pytest.mark.parametrize("refused", [0, -1])
def test_sweep_goes_on_after_server_has_refused_query(swept: None, refused: int) -> None:
    harness = ManyJobs(15)
    asked = harness.queried()
    for handle in asked:
        if handle == asked[refused]:
            harness.server.send(ERROR.response(b"OUT_OF_MEMORY", b""))
        else:
            harness.answer_all([handle])
    harness.clock.advance(0)
    assert harness.queried() == harness.handles[10:]
