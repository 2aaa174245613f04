"""The way of a job through the worker: which modules it passes, and how often scheduler and protocol call each other.

A profiler records each call from one module of the package to another. The docstring of the package has the list.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, NamedTuple

import pytest

import txgearman.worker
from txgearman import GearmanWorker, Job
from txgearman.packets import GRAB_JOB_ALL, JOB_ASSIGN, NOOP
from txgearman.testing import MemoryJobServer
from txgearman.worker.worker import POLL_INTERVAL

from ..wire import outcome, present
from .harness import MINUTE, never_end, submit_bg

PACKAGE: Final = "txgearman.worker."

SCHEDULER, PROTOCOL = "scheduler", "protocol"


class Crossing(NamedTuple):
    """A call from one module to another.

    :ivar event: the number of the event that it belongs to.
    :ivar caller: a module of the package; empty for any other.
    :ivar callee: what is called: ``module.function``; of a class, its name.
    :ivar on: the object whose method is called.
    """

    event: int
    caller: str
    callee: str
    on: object

    @property
    def modules(self) -> tuple[str, str]:
        return self.caller, self.callee.partition(".")[0]


class Recorder:
    """Records crossings. Each call into the package from outside is an event of its own."""

    def __init__(self) -> None:
        self.crossings: list[Crossing] = []
        self._events = 0
        self._stack: list[tuple[str, int]] = []

    def __call__(self, frame: FrameType, what: str, _: object) -> None:
        if what == "call":
            self._called(frame)
        elif what == "return" and self._stack:
            self._stack.pop()

    def _called(self, frame: FrameType) -> None:
        name: str = frame.f_globals.get("__name__", "")
        module = name.removeprefix(PACKAGE) if name.startswith(PACKAGE) else ""
        caller, event = self._stack[-1] if self._stack else ("", 0)
        if module and not caller:
            self._events += 1
            event = self._events
        self._stack.append((module, event))
        if module and module != caller:
            function, on = frame.f_code.co_name, frame.f_locals.get("self")
            self.crossings.append(
                Crossing(event, caller, f"{module}.{type(on).__name__ if function == '__init__' else function}", on)
            )


@contextmanager
def recorded() -> Iterator[list[Crossing]]:
    recorder = Recorder()
    sys.setprofile(recorder)
    try:
        yield recorder.crossings
    finally:
        sys.setprofile(None)


# The list of modules.


def documented_way() -> list[str]:
    """The tables in the package's docstring, as ``module.function``."""
    return re.findall(r"^``(\w+\.\w+)``  ", present(txgearman.worker.__doc__), re.MULTILINE)


def test_job_passes_documented_modules_and_functions_in_order(server: MemoryJobServer) -> None:
    server.worker().register_function("f", lambda job: b"done")
    server.advance()
    done = outcome(server.client().add_task("f"))
    with recorded() as crossings:
        server.advance(0)
    assert done == [b"done"]
    events = {crossing.callee: crossing.event for crossing in reversed(crossings)}
    way = [
        crossing.callee
        for entry in ("scheduler.job_assigned", "scheduler.answers_received")
        for crossing in crossings
        if crossing.event == events[entry]
    ]
    assert way == documented_way()
    assert way.index("protocol.work_complete") < way.index("protocol.grab")


# Scheduler and protocol.


def prepared(
    server: MemoryJobServer, second: MemoryJobServer, function: Callable[[Job], Any] = never_end
) -> GearmanWorker:
    """A worker of two servers, one of which has assigned two jobs."""
    worker = server.worker(second, max_jobs=4)
    worker.register_function("f", function, timeout=MINUTE)
    worker.register_function("g", function, max_jobs=2)
    submit_bg(server, "f", 2)
    return worker


def assign(server: MemoryJobServer, function: bytes, times: int = 1) -> None:
    """Answer the next requests with one and the same job of this function."""
    for _ in range(times):
        with server.leave_unanswered(GRAB_JOB_ALL):
            server.advance(POLL_INTERVAL)
        server.send_raw(JOB_ASSIGN.response(b"H:x:1", function, b""))
        server.advance()


def wake(server: MemoryJobServer, times: int) -> None:
    for _ in range(times):
        server.send_raw(NOOP.response())
        server.advance()


def lose_connections(server: MemoryJobServer) -> None:
    server.drop_connections()
    server.advance(MINUTE)


def stop(server: MemoryJobServer, worker: GearmanWorker) -> None:
    worker.stopService()
    server.advance(MINUTE)


EVENTS: Final[dict[str, Callable[[MemoryJobServer, MemoryJobServer, GearmanWorker], object]]] = {
    "jobs of a server": lambda server, second, worker: submit_bg(server, "g", 5),
    "jobs of another server": lambda server, second, worker: submit_bg(second, "f", 5),
    "job of an unregistered function": lambda server, second, worker: assign(server, b"unknown"),
    "jobs that are assigned anew": lambda server, second, worker: assign(server, b"f", times=2),
    "time-outs": lambda server, second, worker: server.advance(MINUTE + 1),
    "polls": lambda server, second, worker: server.advance(2 * POLL_INTERVAL),
    "wake-ups": lambda server, second, worker: wake(server, times=30),
    "losses": lambda server, second, worker: lose_connections(server),
    "registration": lambda server, second, worker: worker.register_function("h", never_end),
    "unregistration": lambda server, second, worker: worker.unregister_function("f"),
    "change of servers": lambda server, second, worker: setattr(worker, "job_servers", worker.job_servers[1:]),
    "stop": lambda server, second, worker: stop(server, worker),
}


@pytest.mark.parametrize("function", [never_end, lambda job: b""], ids=["never ends", "ends at once"])
@pytest.mark.parametrize("event", EVENTS)
def test_scheduler_and_connection_call_each_other_at_most_once_per_event(
    server: MemoryJobServer, second: MemoryJobServer, event: str, function: Callable[[Job], Any]
) -> None:
    """Each call from outside the package is an event: of a connection, of a timer, of a Deferred, of the API."""
    worker = prepared(server, second, function)
    with recorded() as crossings:
        EVENTS[event](server, second, worker)
        server.advance()
    down = Counter((each.event, each.on) for each in crossings if each.modules == (SCHEDULER, PROTOCOL))
    up = Counter(each.event for each in crossings if each.modules == (PROTOCOL, SCHEDULER))
    assert max([*down.values(), *up.values()], default=1) == 1
    assert event == "unregistration" or down or up  # that one finds jobs, and so only replaces the group
