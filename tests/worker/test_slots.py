"""`Slots`, and `GrabQueue`, the order in which connections get them. No server, no connection."""

from __future__ import annotations

from random import Random
from typing import Any, cast

import pytest

from txgearman.worker.groups import FunctionGroup, FunctionLimit, GrabQueue, GrabState
from txgearman.worker.slots import Slots

NO_SERVERS: Any = None
"""What a group has that never connects."""


def make_group(function: bytes = b"", max_jobs: int | None = None) -> FunctionGroup:
    limit = None if max_jobs is None else FunctionLimit(function, max_jobs)
    return FunctionGroup([], limit, lambda _: NO_SERVERS, lambda _: None)


# Slots.


@pytest.mark.guarantee(number=18)
def test_slots_are_counted_for_worker_and_group() -> None:
    slots, one, other = Slots(5), make_group(), make_group()
    slots.acquire(one)
    slots.acquire(other, 3)
    assert (slots.held, slots.held_by(one), slots.held_by(other)) == (4, 1, 3)
    assert (slots.free_for(one), slots.free_for(other)) == (1, 1)
    slots.release(other, 2)
    slots.release(one)
    assert (slots.held, slots.held_by(one), slots.held_by(other)) == (1, 0, 1)


@pytest.mark.guarantee(number=18)
def test_limit_counts_jobs_of_all_groups_of_its_function() -> None:
    """As of a function that is registered again while its old jobs run."""
    slots, old, new, other = Slots(9), make_group(b"f", 2), make_group(b"f", 3), make_group(b"g", 3)
    slots.acquire(old, 2)
    assert (slots.free_for(new), slots.limit_reached(new), slots.free_for(other)) == (1, False, 3)
    slots.acquire(new)
    assert (slots.free_for(new), slots.limit_reached(new), slots.limit_reached(other)) == (0, True, False)
    slots.release(old, 2)
    assert (slots.free_for(new), slots.limit_reached(new)) == (2, False)


@pytest.mark.guarantee(number=18)
def test_lower_limit_may_be_exceeded_by_old_jobs() -> None:
    slots, old, new = Slots(9), make_group(b"f", 4), make_group(b"f", 1)
    slots.acquire(old, 4)
    assert (slots.free_for(new), slots.limit_reached(new)) == (-3, True)


@pytest.mark.guarantee(number=18)
def test_limit_leaves_no_more_slots_than_worker_has() -> None:
    slots, unlimited, limited = Slots(3), make_group(), make_group(b"f", 5)
    slots.acquire(unlimited, 2)
    assert (slots.free_for(limited), slots.limit_reached(limited)) == (1, False)


@pytest.mark.guarantee(number=18)
def test_slot_that_is_not_held_can_not_be_released() -> None:
    with pytest.raises(KeyError):
        Slots(3).release(make_group())


# The order of connections.


def make_states(count: int) -> list[GrabState]:
    group = make_group()
    return [GrabState(cast(Any, object()), NO_SERVERS, group) for _ in range(count)]


def pop_all(queue: GrabQueue) -> list[GrabState]:
    popped = []
    while queue.states:
        popped.append(queue.pop())
    return popped


def test_connections_that_were_never_asked_come_first_in_their_order() -> None:
    states = make_states(4)
    states[1].asked = 7
    states[0].asked = 8
    queue = GrabQueue()
    for state in states:
        queue.add(state)
    assert pop_all(queue) == [states[2], states[3], states[1], states[0]]


def test_connection_is_in_one_queue_at_most() -> None:
    (state,) = make_states(1)
    first, second = GrabQueue(), GrabQueue()
    first.add(state)
    first.add(state)
    second.add(state)
    assert (pop_all(first), pop_all(second)) == ([state], [])
    second.add(state)
    assert pop_all(second) == [state]


def test_closed_connection_leaves_its_queue() -> None:
    states = make_states(3)
    queue = GrabQueue()
    for state in states:
        queue.add(state)
    for state in states[:2]:
        state.close()
        state.close()
    assert (pop_all(queue), [state.queue for state in states]) == (states[2:], [None] * 3)


def test_order_survives_many_closes() -> None:
    """The numbers of closed connections are swept now and then."""
    random, queue, states = Random(0), GrabQueue(), make_states(1000)
    numbers = list(range(1000))
    random.shuffle(numbers)
    for state, number in zip(states, numbers, strict=True):
        state.asked = number
        queue.add(state)
    random.shuffle(states)
    for state in states[10:]:
        state.close()
    assert pop_all(queue) == sorted(states[:10], key=lambda state: state.asked)
