"""A simulated day of a client with faults of all kinds: nothing accumulates (guarantees 1, 11, 12)."""

from __future__ import annotations

import gc
import random
from collections import Counter
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from txgearman import TaskException, TaskFailed, TaskLost, TaskTimedOut

from ..client_harness import ClientHarness, outcome
from ..wire import present

MINUTE = 60
TASKS_PER_MINUTE = 8


class Day:
    """A client of two job servers, their workers, and their faults.

    :ivar outcomes: number of tasks by the type of their outcome.
    """

    def __init__(self) -> None:
        connection_options: dict[str, Any] = {"heartbeat": 20.0, "server_timeout": 15.0, "job_check_interval": 30.0}
        self.harness = ClientHarness(2, server_wait=90.0, max_in_flight=100, **connection_options)
        self.harness.start()
        self.chance = random.Random(24)
        self.submitted = 0
        self.outcomes: Counter[str] = Counter()

    def submit(self) -> None:
        number = self.submitted
        self.submitted += 1
        chance = self.chance
        unique = b"%d" % chance.randrange(40) if chance.random() < 0.3 else b""
        if chance.random() < 0.2:
            task: Deferred[Any] = self.harness.client.add_task_bg(
                "work", b"%d" % number, unique=unique and b"bg" + unique
            )
        else:
            timeout, retries = chance.choice([20.0, 1800.0]), chance.choice([0, 2])
            task = self.harness.client.add_task("work", b"%d" % number, unique=unique, timeout=timeout, retries=retries)
        task.addCallbacks(self.succeeded, self.failed)
        if chance.random() < 0.02:
            task.cancel()

    def succeeded(self, result: object) -> None:
        self.outcomes[type(result).__name__] += 1

    def failed(self, failure: Any) -> None:
        self.outcomes[type(failure.value).__name__] += 1

    def work(self, thoroughly: bool = False) -> None:
        """Complete some jobs, fail others, and leave some running without an end."""
        for server in self.harness.servers:
            for _ in server.queued("work"):
                if not server.queued("work"):
                    break
                job = server.take("work")
                luck = 1.0 if thoroughly else self.chance.random()
                if luck < 0.1:
                    job.fail()
                elif luck < 0.2:
                    job.send_exception(b"x")
                elif luck < 0.25:
                    job.abandon()
                elif luck < 0.3:
                    continue
                else:
                    job.send_data(b"half")
                    job.complete(b"done")

    def minute(self, number: int) -> None:
        harness = self.harness
        first, second = harness.servers
        faults: list[Any] = []
        if number % 7 == 0 and first.connections:
            first.drop_connections()
        if number % 13 == 0:
            faults.append(second.fall_silent())
        if number % 17 == 0:
            faults += [server.go_down() for server in harness.servers]
        if number % 19 == 0:  # as gearmand does (H1 to H3)
            second._core.jobs = type(second._core.jobs)(harness.clock.seconds, 0, b"H:%d" % number)
        if number % 31 == 0:
            faults.append(first.go_down(lose_jobs=True))
        for _ in range(TASKS_PER_MINUTE):
            self.submit()
        harness.advance(MINUTE / 2)
        self.work()
        harness.advance(MINUTE / 2)
        for fault in faults:
            fault.end()

    def two_hours(self, number: int) -> None:
        """Run one hour with faults, and one in which all remaining jobs are completed."""
        for minute in range(60):
            self.minute(60 * number + minute + 1)
        for _ in range(60):
            self.harness.advance(MINUTE)
            self.work(thoroughly=True)
        # Restart both servers.
        downs = [server.go_down(lose_jobs=True) for server in self.harness.servers]
        for down in downs:
            down.end()
        self.harness.advance(10 * MINUTE)
        for server in self.harness.servers:  # they remember what a test may ask for, or a complaint may name
            server._faults.injected.clear()
            server._core.submitted.clear()
            server._group.places.clear()
            server._group.end_errors()

    def census(self) -> dict[str, Any]:
        """Count timers, entries in tables, objects and connections."""
        assert outcome(self.harness.client.drain()) is None
        log = Logger()
        for _ in range(1000):
            log.info("nothing")  # Twisted buffers the last log events, with their errors, until there is an observer
        gc.collect()
        kinds = Counter(type(each).__module__ for each in gc.get_objects())
        return {
            "timers": len(self.harness.clock.getDelayedCalls()),
            "entries": self.entries(),
            "library objects": sum(count for module, count in kinds.items() if module.startswith("txgearman")),
            "Twisted objects": sum(count for module, count in kinds.items() if module.startswith("twisted")),
            "connections": self.harness.connected(),
        }

    def entries(self) -> int:
        """Count the entries in the tables of the dispatcher and of the connections."""
        policy = self.harness.client._dispatcher
        tables: list[Any] = [policy._admission_queue, policy._awaiting_connection]
        for deadlines in (policy._awaiting_server, policy._backing_off, policy._timeouts):
            tables += [deadlines._heap, deadlines._items, deadlines._numbers]
        for server in self.harness.client._servers:
            connection = present(server.connection)
            tables += [
                connection._outstanding,
                connection._jobs,
                connection._remembered_ends,
                connection._backlog,
                connection._job_sweep.heard_of,
                connection._job_sweep._silent_probes,
            ]
        return sum(map(len, tables))


@pytest.mark.guarantee(number=12)
@pytest.mark.soak
def test_day_leaves_no_more_than_its_first_hours() -> None:
    day = Day()
    day.two_hours(0)
    first = day.census()
    everything = len(gc.get_objects())
    for hour in range(1, 12):
        day.two_hours(hour)
        assert day.census() == first
    assert abs(len(gc.get_objects()) - everything) < 100
    assert (first["entries"], first["connections"]) == (0, [1, 1])
    assert sum(day.outcomes.values()) == day.submitted
    for kind in (bytes, TaskLost, TaskTimedOut, TaskFailed, TaskException):
        assert day.outcomes[kind.__name__] > 20, day.outcomes
    assert (day.outcomes["JobHandle"], day.outcomes["CancelledError"]) > (20, 20)
    day.harness.stop()
