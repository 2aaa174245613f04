"""How the scheduler allots free slots to connections, which here only record how many jobs they are asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from txgearman.connection.states import ConnectionState
from txgearman.worker.functions import Function
from txgearman.worker.groups import FunctionGroup
from txgearman.worker.job import Assignment
from txgearman.worker.protocol import GEARMAND
from txgearman.worker.scheduler import WorkerScheduler
from txgearman.worker.worker import format_exception

from .harness import never_end


class Connection:
    """Has what the scheduler needs of a connection.

    :ivar asked: for how many jobs it was asked in each call.
    """

    def __init__(self, name: str = "") -> None:
        self.factory = SimpleNamespace(name=name, reactor=None)
        self.dialect = GEARMAND
        self.error: Exception | None = None
        self._state = ConnectionState.READY
        self.writing_paused = False
        self.asleep = False
        self.grabs = 0
        self.jobs: dict[bytes, Any] = {}
        self.registered: set[bytes] = set()
        self.asked: list[int] = []

    def grab(self, count: int = 1) -> None:
        self.grabs += count
        self.asked.append(count)

    def sleep(self) -> None:
        self.asleep = True

    def work_complete(self, handle: bytes, result: bytes) -> None:
        del self.jobs[handle]

    def can_do(self, function: bytes, timeout: float | None) -> None:
        """Nothing to do."""


class Servers:
    """A pool that connects to nothing."""

    def start(self) -> None:
        """Nothing to do."""

    def by_address(self, address: str) -> None:
        """Nothing is known of any server."""

    def stop(self, error: Exception, timeout: float) -> Deferred[None]:
        return succeed(None)


def make_scheduler(max_jobs: int) -> WorkerScheduler:
    def make_servers(*_: object) -> Any:
        return Servers()

    scheduler = WorkerScheduler(
        Clock(), [], make_servers, max_jobs, format_exception=format_exception, poll_interval=10.0, drain_timeout=30.0
    )
    scheduler.start()
    return scheduler


def make_function(name: bytes = b"f", max_jobs: int | None = None) -> Function:
    return Function(name, name, never_end, max_jobs=max_jobs)


def connect(group: FunctionGroup, *windows: int) -> list[Any]:
    """Connect with these windows, which count from the next request."""
    connections: list[Any] = [Connection() for _ in windows]
    for connection, window in zip(connections, windows, strict=True):
        group.connection_ready(connection)
        group.states[connection].window = window
    return connections


@pytest.mark.guarantee(number=18)
@pytest.mark.parametrize(
    ("max_jobs", "windows", "asked"),
    [
        (6, [8], [6]),
        (6, [4], [4]),
        (6, [8, 8], [3, 3]),
        (7, [8, 8], [4, 3]),
        (3, [2, 2], [2, 1]),
        (10, [2, 2], [2, 2]),
        (10, [1, 2, 8], [1, 2, 7]),
        (1, [1, 1, 1], [1, 0, 0]),
    ],
)
def test_slots_are_shared_evenly_within_windows(max_jobs: int, windows: list[int], asked: list[int]) -> None:
    """Each connection is asked by one call."""
    scheduler = make_scheduler(max_jobs)
    connections = connect(scheduler.unlimited, *windows)
    scheduler.add_function(make_function())
    assert [connection.asked for connection in connections] == [[count] if count else [] for count in asked]
    assert scheduler.slots.held == sum(asked)


@pytest.mark.guarantee(number=18)
@pytest.mark.parametrize("how", ["dead", "retired", "paused"])
def test_connection_that_can_not_be_asked_leaves_slot_to_another(how: str) -> None:
    scheduler = make_scheduler(1)
    first, second = connect(scheduler.unlimited, 1, 1)
    states = {"dead": ConnectionState.DOWN, "retired": ConnectionState.RETIRING, "paused": ConnectionState.READY}
    first._state = states[how]
    first.writing_paused = how == "paused"
    scheduler.add_function(make_function())
    assert (first.asked, second.asked) == ([], [1])


@pytest.mark.guarantee(number=18)
@pytest.mark.parametrize(("running", "asked"), [(0, [1, 4, 4]), (1, [1, 4, 3]), (4, [1, 4])])
def test_jobs_that_were_read_together_are_followed_by_one_request_for_the_free_slots(
    running: int, asked: list[int]
) -> None:
    """Those that still run keep their slots."""
    scheduler = make_scheduler(4)
    (connection,) = connect(scheduler.unlimited, 1)
    scheduler.add_function(Function(b"f", b"f", lambda job: b""))
    scheduler.add_function(Function(b"g", b"g", never_end))
    for functions in (b"f", b"g" * running + b"f" * (4 - running)):
        scheduler.unlimited.states[connection].window = 8
        connection.grabs = 0  # as the protocol counts the answers
        for number, function in enumerate(functions):
            scheduler.job_assigned(connection, Assignment(b"H:%d" % number, b"%c" % function, b"", b"", b""))
        scheduler.answers_received(connection)
    assert (connection.asked, scheduler.slots.held) == (asked, 4)


@pytest.mark.guarantee(number=18)
def test_slot_of_job_whose_function_closed_the_connection_goes_to_another() -> None:
    scheduler = make_scheduler(1)
    first, second = connect(scheduler.unlimited, 1, 1)

    def close(job: object) -> bytes:
        first.error = ValueError()
        scheduler.connection_closed(first, 0, list(first.jobs.values()))
        return b""

    scheduler.add_function(Function(b"f", b"f", close))
    assert (first.asked, second.asked) == ([1], [])
    scheduler.job_assigned(first, Assignment(b"H:1", b"f", b"", b"", b""))
    scheduler.answers_received(first)
    assert (first.asked, second.asked, scheduler.slots.held) == ([1], [1], 1)


@pytest.mark.guarantee(number=18)
def test_slot_of_limit_goes_to_connection_that_waits_longest() -> None:
    scheduler = make_scheduler(10)
    scheduler.add_function(make_function(max_jobs=1))
    (group,) = scheduler.limited.values()
    first, second, third = (connect(group, 1)[0] for _ in range(3))
    assert (first.asked, second.asked, third.asked) == ([1], [], [])
    scheduler.no_job_received(first)
    scheduler.answers_received(first)
    assert (second.asked, third.asked) == ([1], [])
    second.error = ValueError()
    scheduler.connection_closed(second, 1, [])
    assert (first.asked, third.asked) == ([1], [1])


@pytest.mark.guarantee(number=18)
@pytest.mark.parametrize("lost", ["requests", "request and job"])
def test_all_slots_of_limit_that_lost_connection_held_go_to_others(lost: str) -> None:
    """Not only one of them."""
    scheduler = make_scheduler(10)
    scheduler.add_function(make_function(max_jobs=2))
    (group,) = scheduler.limited.values()
    (first,) = connect(group, 1)
    if lost == "request and job":
        first.grabs = 0  # as the protocol counts the answer
        scheduler.job_assigned(first, Assignment(b"H:1", b"f", b"", b"", b""))
        scheduler.answers_received(first)
    else:
        group.states[first].window = 2
        scheduler.wakeup_received(first)
    assert (first.asked, scheduler.slots.held) == ([1, 1], 2)
    second, third = connect(group, 1, 1)
    assert (second.asked, third.asked) == ([], [])
    first.error = ValueError()
    scheduler.connection_closed(first, first.grabs, list(first.jobs.values()))
    assert (second.asked, third.asked) == ([1], [1])


def test_retired_group_requests_nothing_after_a_job() -> None:
    """The job was requested before."""
    scheduler = make_scheduler(10)
    (connection,) = connect(scheduler.unlimited, 1)
    function = make_function()
    scheduler.add_function(function)
    scheduler.remove_function(function)
    connection.grabs = 0
    scheduler.job_assigned(connection, Assignment(b"H:1", b"f", b"", b"", b""))
    scheduler.answers_received(connection)
    assert (connection.asked, scheduler.slots.held) == ([1], 1)
