"""The queues of the server in memory: their order, and what a lookup costs. (The contract suite holds the rest.)"""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txgearman.models import Priority
from txgearman.testing.core import ManualWorker
from txgearman.testing.jobs import Ability, Job, Jobs

MANY: Final = 40_000


class Server:
    """The jobs of a server, and its clock, which counts how often it is asked."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked = 0
        self.jobs = Jobs(self._seconds, 0, b"H:x")
        self.function = self.jobs.function(b"f")

    def _seconds(self) -> float:
        self.asked += 1
        return self.now

    def ability(self) -> Ability:
        return self.jobs.add_ability(ManualWorker("here"), b"f")

    def submit(self, *, at: float = 0, priority: Priority = Priority.NORMAL) -> Job:
        return self.jobs.submit(Job(self.function, b"", b"x", at=at, priority=priority))[0]


class CountedTime(float):
    """A time that counts its comparisons."""

    comparisons = 0

    def __lt__(self, other: float) -> bool:
        CountedTime.comparisons += 1
        return float(self) < other

    def __le__(self, other: float) -> bool:
        CountedTime.comparisons += 1
        return float(self) <= other


def allocated_by_take(server: Server, ability: Ability) -> int:
    """Take a job; return how many bytes that needed at most."""
    tracemalloc: Any = pytest.importorskip("tracemalloc", reason="PyPy has none")
    tracemalloc.start()
    try:
        assert server.jobs.take(ability.worker) is not None
        peak: int = tracemalloc.get_traced_memory()[1]
        return peak
    finally:
        tracemalloc.stop()


def test_a_take_copies_no_queue() -> None:
    """A list of 40,000 jobs has 320,000 bytes."""
    server = Server()
    for _ in range(MANY):
        server.submit()
    ability = server.ability()
    server.jobs.take(ability.worker)  # all are due from now on
    assert allocated_by_take(server, ability) < 2_000


def test_a_take_asks_for_the_time_once_however_many_jobs_wait_for_theirs() -> None:
    server = Server()
    for _ in range(1_000):
        server.submit(at=100)
    last = server.submit()
    server.asked = 0
    assert server.jobs.take(server.ability().worker) is last
    assert server.asked == 1


@pytest.mark.parametrize("scheduled", [1_000, 10_000])
def test_a_take_compares_few_times_however_many_jobs_wait_for_theirs(scheduled: int) -> None:
    server = Server()
    for second in range(scheduled):
        server.submit(at=CountedTime(100 + second))
    for _ in range(1_000):
        server.submit(at=CountedTime(0))
    ability = server.ability()
    CountedTime.comparisons = 0
    for _ in range(1_000):
        assert server.jobs.take(ability.worker) is not None
    assert server.jobs.take(ability.worker) is None
    assert CountedTime.comparisons < 1_000 * 2 * scheduled.bit_length()


class QueueModel:
    """A queue that is one list, and is searched from its beginning."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def first_due(self, now: float) -> Job | None:
        for job in list(self.jobs):
            if job.at <= now:
                if not job.dropped:
                    return job
                self.jobs.remove(job)
        return None


STEPS: Final = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(0, 5)),
        st.tuples(st.just("take"), st.just(0)),
        st.tuples(st.just("requeue"), st.integers(0, 9)),
        st.tuples(st.just("drop"), st.integers(0, 9)),
        st.tuples(st.just("advance"), st.just(1)),
    ),
    max_size=60,
)


@given(STEPS)
def test_jobs_are_taken_in_the_order_of_one_list(steps: list[tuple[str, int]]) -> None:
    """With jobs that wait for their time, abandoned ones, and jobs that are queued again."""
    server = Server()
    ability = server.ability()
    model = QueueModel()
    taken: list[Job] = []
    for step, number in steps:
        if step == "submit":
            model.jobs.append(server.submit(at=number))
        elif step == "take":
            expected = model.first_due(server.now)
            assert server.jobs.take(ability.worker) is expected
            if expected is not None:
                model.jobs.remove(expected)
                taken.append(expected)
        elif step == "requeue" and taken:
            job = taken.pop(number % len(taken))
            assert server.jobs.requeue(job)
            model.jobs.append(job)
        elif step == "drop" and model.jobs:
            model.jobs[number % len(model.jobs)].dropped = True
        elif step == "advance":
            server.now += number
        queue = server.function.queues[Priority.NORMAL]
        assert (list(queue), len(queue)) == (model.jobs, len(model.jobs))
