"""Callbacks may call back into the client (guarantee 13): each callback with each action, in some of the events."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from ..client_harness import ClientHarness, RecordedTask, outcome
from ..conftest import Failures
from ..examples import some_of

CALLBACKS = ["created", "data", "warning", "status", "exception", "retry", "complete", "fail", "the Deferred"]


class Scenario:
    """A client of two servers. Its first task acts in a callback, the second shares its job, some wait for admission.

    :ivar calls: how often the first task has acted.
    """

    def __init__(self, callback: str, action: Callable[[Scenario], object]) -> None:
        self.harness = ClientHarness(2, max_in_flight=4, server_wait=10.0, job_check_interval=10.0).start()
        self.client = self.harness.client
        self.tasks: list[RecordedTask] = []
        self.calls = 0
        self._callback = callback
        self._action = action
        self.stops: list[Any] = []
        self.first = self.add(b"u", retries=1, timeout=90.0, acts=True)
        self.add(b"u")
        self.add(b"")
        self.add(b"", background=True)
        self.add(b"", retries=2)
        self.add(b"v", background=True)

    def add(
        self,
        unique: bytes,
        background: bool = False,
        retries: int = 0,
        timeout: float | None = None,
        acts: bool = False,
    ) -> RecordedTask:
        recorded = RecordedTask(len(self.tasks), background, unique, retries, timeout)
        recorded.stopped = not self.client.running
        self.tasks.append(recorded)
        if acts:
            recorded.react = self.act
        deferred = self.client.submit(recorded.task)
        recorded.watch(deferred)
        if acts:
            deferred.addCallback(lambda _: self.act("the Deferred")).addErrback(lambda _: None)
        return recorded

    def act(self, callback: str) -> None:
        if callback == self._callback and self.calls < 3:
            self.calls += 1
            self._action(self)

    def stop(self) -> None:
        for recorded in self.tasks:
            recorded.stopped = True
        self.stops.append(self.client.stopService())

    def cancel(self, recorded: RecordedTask) -> None:
        recorded.cancelled = True
        recorded.deferred.cancel()

    def work(self, end: str) -> None:
        """Run the job of the first task; the client reads its packets at once."""
        self.harness.advance()
        server = next((server for server in self.harness.servers if b"0" in server.queued("work")), None)
        if server is None:
            return
        jobs = [server.take("work") for _ in server.queued("work")]
        job = next(job for job in jobs if job.workload == b"0")
        for other in jobs:
            if other is not job:
                other.abandon()
        with server.hold_answers():
            job.send_data(b"d")
            job.send_warning(b"w")
            job.send_status(1, 2)
            if end == "loss":
                pass
            elif end == "exception":
                job.send_exception(b"x")
            else:
                getattr(job, end)()
        if end == "loss":
            if server.connections:
                server.drop_connections()
            job.abandon()

    def finish(self) -> None:
        """Complete all jobs; check that nothing is left."""
        for _ in range(8):
            if all(recorded.outcomes for recorded in self.tasks):
                break
            self.work("complete")
            for server in self.harness.servers:
                with suppress(AssertionError):  # ask until there is none: only this removes jobs without clients (H1)
                    while True:
                        server.take("work").complete(b"done")
            self.harness.advance(10)
        assert outcome(self.client.drain()) is None
        self.harness.stop()
        assert all(stop.called for stop in self.stops)
        for recorded in self.tasks:
            recorded.check_outcome()


def complete(scenario: Scenario) -> None:
    scenario.work("complete")


def fail(scenario: Scenario) -> None:
    scenario.work("fail")


def raise_exception(scenario: Scenario) -> None:
    scenario.work("exception")


def fail_twice(scenario: Scenario) -> None:
    for _ in range(2):
        scenario.work("fail")
        scenario.harness.advance(0.5)


def lose(scenario: Scenario) -> None:
    scenario.work("loss")


def go_down(scenario: Scenario) -> None:
    """For longer than ``server_wait``."""
    scenario.harness.advance()
    for server in scenario.harness.servers:
        if server.connections:
            server.go_down()
    scenario.harness.advance(30)
    for server in scenario.harness.servers:
        for fault in list(server._faults.active):
            fault.end()
    scenario.harness.advance(20)


def time_out(scenario: Scenario) -> None:
    scenario.harness.advance(91)


def stop_client(scenario: Scenario) -> None:
    scenario.harness.advance()
    scenario.stop()


def cancel_task(scenario: Scenario) -> None:
    scenario.harness.advance()
    scenario.cancel(scenario.first)


def remove_server(scenario: Scenario) -> None:
    scenario.harness.advance()
    scenario.client.job_servers = scenario.client.job_servers[:1]
    scenario.work("fail")


EVENTS = [
    complete,
    fail,
    raise_exception,
    fail_twice,
    lose,
    go_down,
    time_out,
    stop_client,
    cancel_task,
    remove_server,
]


REPORTS = [complete, fail, raise_exception, fail_twice, lose, remove_server]
"""The events in which a worker sends data, a warning and a status."""

OF_CALLBACK = {
    "data": REPORTS,
    "warning": REPORTS,
    "status": REPORTS,
    "exception": [raise_exception],
    "retry": [fail, raise_exception, fail_twice, lose, go_down, remove_server],
    "complete": [complete, fail, raise_exception, lose, remove_server],
    "fail": [fail_twice, go_down, time_out, stop_client, cancel_task],
}
"""The events in which a callback is called; others are called in each of them."""


def adds_tasks(scenario: Scenario) -> None:
    scenario.add(b"")
    scenario.add(b"u", retries=1)
    scenario.add(b"", background=True)


def cancels_itself(scenario: Scenario) -> None:
    scenario.cancel(scenario.first)


def cancels_others(scenario: Scenario) -> None:
    for recorded in scenario.tasks[1:]:
        scenario.cancel(recorded)


def stops_client(scenario: Scenario) -> None:
    scenario.stop()


def stops_and_starts_client(scenario: Scenario) -> None:
    scenario.stop()
    scenario.client.startService()


def stops_and_adds_tasks(scenario: Scenario) -> None:
    scenario.stop()
    scenario.add(b"u")
    scenario.add(b"", background=True)


def changes_servers(scenario: Scenario) -> None:
    scenario.client.job_servers = scenario.client.job_servers[::-1][:1]


def raises(scenario: Scenario) -> None:
    raise ZeroDivisionError("of the caller's own")


ACTIONS: list[Callable[[Scenario], object]] = [
    adds_tasks,
    cancels_itself,
    cancels_others,
    stops_client,
    stops_and_starts_client,
    stops_and_adds_tasks,
    changes_servers,
    raises,
]


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("callback", CALLBACKS)
def test_callback_may_do_anything(
    callback: str, action: Callable[[Scenario], object], logged_failures: Failures
) -> None:
    calls = 0
    events = some_of(OF_CALLBACK.get(callback, EVENTS), CALLBACKS.index(callback) + ACTIONS.index(action), 2)
    for event in events:
        scenario = Scenario(callback, action)
        event(scenario)
        scenario.finish()
        calls += scenario.calls
    assert calls >= len(events)
    logged = len(logged_failures.flush(ZeroDivisionError))
    assert logged == (calls if action is raises and callback != "the Deferred" else 0)
