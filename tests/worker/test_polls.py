"""`PollSchedule`: each connection is due once in an interval, few at a time."""

from __future__ import annotations

from collections import Counter
from typing import cast

import pytest
from twisted.internet.task import Clock

from txgearman.packets import GRAB_JOB_ALL
from txgearman.testing import MemoryJobServer
from txgearman.worker.groups import GrabState
from txgearman.worker.polls import TICKS, PollSchedule
from txgearman.worker.worker import POLL_INTERVAL

from .harness import do_nothing, packets_received

INTERVAL = 20.0


class Polls:
    """A schedule, and when each of its connections was due."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.calls: list[tuple[float, list[GrabState]]] = []
        self.schedule = PollSchedule(self.clock, INTERVAL, self.record)

    def record(self, states: list[GrabState]) -> None:
        self.calls.append((self.clock.seconds(), states))

    def add(self, count: int) -> list[GrabState]:
        states = [cast(GrabState, object()) for _ in range(count)]
        for state in states:
            self.schedule.add(state)
        return states

    def advance(self, seconds: float) -> list[tuple[float, list[GrabState]]]:
        """Let time pass, and return the new calls."""
        end, self.calls = self.clock.seconds() + seconds, []
        while (due := min((call.getTime() for call in self.clock.getDelayedCalls()), default=end + 1)) <= end:
            self.clock.advance(due - self.clock.seconds())
        self.clock.advance(end - self.clock.seconds())
        return self.calls


@pytest.mark.parametrize("count", [1, 2, 7, TICKS, 1234])
def test_each_connection_is_due_once_in_each_interval_and_few_at_a_time(count: int) -> None:
    polls = Polls()
    states = polls.add(count)
    for _ in range(3):
        calls = polls.advance(INTERVAL)
        assert Counter(state for _, due in calls for state in due) == Counter(states)
        assert max(len(due) for _, due in calls) <= -(-count // TICKS)
        assert len(calls) <= min(count, TICKS)


def test_one_connection_is_due_at_the_end_of_its_interval() -> None:
    polls = Polls()
    states = polls.add(1)
    assert polls.advance(2 * INTERVAL) == [(INTERVAL, states), (2 * INTERVAL, states)]


def test_connection_that_is_added_later_is_due_within_an_interval() -> None:
    polls = Polls()
    polls.add(5)
    polls.advance(0.77 * INTERVAL)
    [late] = polls.add(1)
    calls = polls.advance(INTERVAL)
    assert sum(late in due for _, due in calls) == 1


@pytest.mark.guarantee(number=10)
def test_discarded_connection_is_not_due_and_the_last_leaves_no_timer() -> None:
    polls = Polls()
    first, second = polls.add(2)
    polls.schedule.discard(first)
    polls.schedule.discard(first)
    assert [due for _, due in polls.advance(INTERVAL)] == [[second]]
    polls.schedule.discard(second)
    assert polls.clock.getDelayedCalls() == []


def test_schedule_begins_anew_after_its_last_connection() -> None:
    polls = Polls()
    for _ in range(2):
        states = polls.add(1)
        polls.advance(INTERVAL / 3)
        polls.schedule.discard(states[0])
    states = polls.add(1)
    assert [due for _, due in polls.advance(INTERVAL)] == [states]


def polls_within(server: MemoryJobServer, seconds: float) -> int:
    """How many requests for a job the server gets within that time."""
    before = packets_received(server).count(GRAB_JOB_ALL)
    server.advance(seconds)
    return packets_received(server).count(GRAB_JOB_ALL) - before


@pytest.mark.parametrize("max_jobs", [1, 50])
def test_number_of_polls_is_that_of_connections_whatever_max_jobs_is(server: MemoryJobServer, max_jobs: int) -> None:
    worker = server.worker(max_jobs=max_jobs)
    worker.register_function("unlimited", do_nothing)
    for number in range(5):
        worker.register_function(f"f{number}", do_nothing, max_jobs=7)
    server.advance()
    assert polls_within(server, POLL_INTERVAL) == 6
    worker.unregister_function("f0")
    server.advance()
    assert polls_within(server, POLL_INTERVAL) == 5
