"""Outages of all servers: how soon a task that comes or waits reaches a server that is up again."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.application.internet import backoffPolicy

from txgearman import JobHandle, NoServersAvailable

from ..client_harness import NOTHING, ClientHarness, complete_all, ignore_errors, outcome

MOMENTS = [300.0 + 2.5 * number for number in range(12)]
"""Seconds after the loss, over the longest delay between attempts."""


class Outage(ClientHarness):
    """A client whose servers have been down for so long that its delays are the longest."""

    def __init__(self, seconds: float, **options: Any) -> None:
        super().__init__(2, **options)
        self.start()
        self.faults = [server.go_down() for server in self.servers]
        self.advance(seconds)

    def end(self) -> None:
        for fault in self.faults:
            fault.end()


@pytest.mark.parametrize("seconds", MOMENTS)
def test_task_that_waits_reaches_server_that_was_up_before_it_within_two_seconds(seconds: float) -> None:
    """The longest delay is as long as a usual ``server_wait``, which nothing else would make an attempt in."""
    outage = Outage(seconds, server_wait=30.0)
    outage.end()
    task = outage.client.add_task_bg("work")
    outage.advance(2)
    assert isinstance(outcome(task), JobHandle)
    outage.stop()


@pytest.mark.parametrize("seconds", MOMENTS)
def test_task_that_waits_reaches_server_that_comes_up_within_two_seconds(seconds: float) -> None:
    outage = Outage(seconds, server_wait=30.0)
    task = outage.client.add_task_bg("work")
    outage.advance(17.3)
    assert outcome(task) is NOTHING
    outage.end()
    outage.advance(2)
    assert isinstance(outcome(task), JobHandle)
    outage.stop()


@pytest.mark.parametrize("seconds", MOMENTS)
def test_task_that_fails_at_once_brings_next_attempt_forward(seconds: float) -> None:
    outage = Outage(seconds)
    outage.end()
    error = outcome(outage.client.add_task_bg("work"))
    assert isinstance(error, NoServersAvailable)
    assert max(error.next_attempts.values()) <= 2
    outage.advance(2)
    task = outage.client.add_task_bg("work")
    outage.advance()
    assert isinstance(outcome(task), JobHandle)
    outage.stop()


@pytest.mark.parametrize("outage", [3.0, 12.0, 40.0])
@pytest.mark.parametrize(
    "options",
    [{}, {"reconnect_delay": lambda attempt: 30.0}, {"reconnect_delay": backoffPolicy()}, {"server_wait": 30.0}],
    ids=["default", "half a minute", "backoffPolicy", "server_wait"],
)
def test_one_of_calls_every_half_second_succeeds_within_two_seconds_after_outage(
    outage: float, options: dict[str, Any]
) -> None:
    """As those of web requests. The delays before are those of a client that was connected for long."""
    harness = ClientHarness(timeout=2.0, **options).start()
    harness.advance(60)
    with harness.server.go_down() as fault:
        for _ in range(int(outage * 2)):
            ignore_errors(harness.client.add_task("work"))
            harness.advance(0.5)
    assert 0.5 * outage <= fault.happened <= outage + 2
    for _ in range(4):
        ignore_errors(harness.client.add_task("work"))
        harness.advance(0.5)
    task = harness.client.add_task("work")
    harness.advance()
    complete_all(harness)
    assert outcome(task) == b"done"
    harness.stop()


@pytest.mark.guarantee(number=14)
def test_many_tasks_cause_one_attempt_a_second_at_most() -> None:
    outage = Outage(300.0)
    before = [fault.happened for fault in outage.faults]
    for _ in range(1000):
        assert isinstance(outcome(outage.client.add_task_bg("work")), NoServersAvailable)
        outage.advance(0.01)
    attempts = [fault.happened - count for fault, count in zip(outage.faults, before, strict=True)]
    assert all(5 <= count <= 10 for count in attempts)
    outage.stop()


def test_status_and_echo_without_server_fail_with_reason_of_each() -> None:
    outage = Outage(300.0)
    for asked in (outage.client.get_status_unique("u"), outage.client.echo()):
        error = outcome(asked)
        assert isinstance(error, NoServersAvailable)
        assert set(error.reasons) == set(error.ages) == set(error.next_attempts) == {"memory:1", "memory:2"}
    outage.stop()
