"""The states of a task, from its submit to its outcome, are those that the documentation draws."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from txgearman import GearmanClient, Task
from txgearman.client import dispatcher as policy
from txgearman.testing import MemoryJobServer

from ..diagrams import PAGE, arrows, rows_of_table

HOLDERS = [row[0] for row in rows_of_table(PAGE, "| holder |")]
ADMISSION, CONNECTING, SERVER_WAIT, BACKOFF, CONNECTION = HOLDERS


class Walk:
    """A task of a client with a server in memory, and the states that it passes through."""

    def __init__(self, **options: Any) -> None:
        self.server = MemoryJobServer()
        self.client = GearmanClient([self.server.endpoint()], reactor=self.server.clock, **options)
        dispatcher: Any = self.client._dispatcher
        waiting = (
            dispatcher._admission_queue,
            dispatcher._awaiting_connection.unbound,
            dispatcher._awaiting_server,
            dispatcher._backing_off,
        )
        self._names = dict(zip(map(id, waiting), HOLDERS, strict=False))
        self.states = ["submitted"]

    def submit(self, **options: Any) -> None:
        self.task = Task("reverse", b"abc", **options)
        self.client.submit(self.task).addErrback(lambda _: None)
        self.record()

    def record(self) -> None:
        """Record the state of the task."""
        holder = self.task._holder
        state = "outcome" if self.task.ended else self._names.get(id(holder), "on a connection")
        if holder in self.client._dispatcher._awaiting_attempt._queues.values():
            state = SERVER_WAIT
        if state != self.states[-1]:
            self.states.append(state)

    def settle(self, seconds: float = 0.0) -> None:
        self.server.advance(seconds)
        self.record()

    def end(self) -> list[str]:
        """Stop the client and the server; return the states."""
        self.settle()
        self.client.stopService()
        self.server.result_of(self.server.close())
        return self.states


def waits_for_admission() -> list[str]:
    walk = Walk(max_in_flight=1)
    walk.client.add_task("reverse")
    walk.submit()
    walk.server.take("reverse").complete()
    walk.settle()
    walk.server.take("reverse").complete()
    return walk.end()


def waits_for_server_until_server_wait_is_over() -> list[str]:
    walk = Walk(server_wait=30)
    with walk.server.refuse_connections():
        walk.submit()
        walk.settle()
        walk.settle(30)
    return walk.end()


def waits_for_server_that_comes_back() -> list[str]:
    walk = Walk(server_wait=30)
    with walk.server.refuse_connections():
        walk.submit()
        walk.settle()
    walk.settle(5)
    walk.server.take("reverse").complete()
    return walk.end()


def fails_and_is_retried() -> list[str]:
    walk = Walk()
    walk.submit(retries=1)
    walk.settle()
    walk.server.take("reverse").fail()
    walk.settle()
    walk.settle(1)
    walk.server.take("reverse").fail()
    return walk.end()


def finds_no_server() -> list[str]:
    walk = Walk()
    with walk.server.refuse_connections():
        walk.submit()
        walk.settle()
    return walk.end()


def finds_no_server_and_is_retried() -> list[str]:
    walk = Walk()
    with walk.server.refuse_connections():
        walk.submit(retries=2)
        for _ in range(15):
            walk.settle(0.2)
    return walk.end()


def is_rerouted_unsent() -> list[str]:
    walk = Walk(server_wait=30)
    walk.client.startService()
    walk.server.advance()
    connection: Any = next(iter(walk.client._servers)).connection
    connection.pauseProducing()
    walk.submit()
    walk.server.drop_connections()
    return walk.end()


WALKS: dict[Callable[[], list[str]], list[str]] = {
    waits_for_admission: [ADMISSION, CONNECTION, "outcome"],
    waits_for_server_until_server_wait_is_over: [CONNECTING, SERVER_WAIT, "outcome"],
    waits_for_server_that_comes_back: [CONNECTING, SERVER_WAIT, CONNECTION, "outcome"],
    fails_and_is_retried: [CONNECTING, CONNECTION, BACKOFF, CONNECTION, "outcome"],
    finds_no_server: [CONNECTING, "outcome"],
    finds_no_server_and_is_retried: [CONNECTING, BACKOFF, SERVER_WAIT, BACKOFF, SERVER_WAIT, "outcome"],
    is_rerouted_unsent: [CONNECTION, SERVER_WAIT],
}


@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk.__name__)
def test_task_passes_through_states_of_diagram(walk: Callable[[], list[str]]) -> None:
    assert walk() == ["submitted", *WALKS[walk]]


def test_diagram_has_each_step_of_these_walks_and_no_other() -> None:
    steps = (steps_of(pair) for states in WALKS.values() for pair in pairwise(["submitted", *states]))
    assert set().union(*steps) == arrows("task")


def steps_of(pair: tuple[str, str]) -> set[tuple[str, str]]:
    """Return the arrows from one state to another, most of which lead through the routing of the task."""
    return {pair} if pair in arrows("task") else {(pair[0], "routing"), ("routing", pair[1])}


def test_docstring_of_policy_lists_same_holders() -> None:
    assert re.findall(r"^(\w[\w ]*\w)  +\S", policy.__doc__ or "", re.MULTILINE) == HOLDERS
