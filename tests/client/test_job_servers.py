"""Changes of `GearmanClient.job_servers` while the client runs."""

from __future__ import annotations

import pytest

from txgearman import ClientStopped, NoServersAvailable, TaskLost

from ..client_harness import NOTHING, ClientHarness, outcome, outcomes, take_all

# Changes of job_servers.


def test_added_server_is_connected_and_gets_tasks() -> None:
    harness = ClientHarness(2)
    both = harness.client.job_servers
    harness.client.job_servers = both[:1]
    harness.start()
    assert harness.connected() == [1, 0]
    harness.client.job_servers = both
    harness.advance()
    assert harness.connected() == [1, 1]
    for number in range(4):
        harness.client.add_task("work", b"%d" % number).addErrback(lambda _: None)
    assert [len(take_all(server)) for server in harness.servers] == [2, 2]
    harness.stop()


def test_removed_server_finishes_its_tasks() -> None:
    """It gets no more tasks, and is disconnected after the last outcome."""
    harness = ClientHarness(2).start()
    tasks = [harness.client.add_task("work", b"%d" % number) for number in range(4)]
    harness.advance()
    harness.client.job_servers = harness.client.job_servers[1:]
    assert [server.address for server in harness.client.servers] == ["memory:2"]
    later = [harness.client.add_task("work", b"later") for _ in range(3)]
    harness.advance(100)
    assert harness.connected() == [1, 1]
    assert len(harness.server.queued("work")) == 2
    for left in (1, 0):
        harness.server.take("work").complete(b"done")
        assert harness.connected() == [left, 1]
    while harness.servers[1].queued("work"):
        harness.servers[1].take("work").complete(b"done")
    assert outcomes([*tasks, *later]) == [b"done"] * 7
    harness.stop()


@pytest.mark.guarantee(number=7)
def test_lost_connection_to_removed_server_is_not_retried() -> None:
    harness = ClientHarness(2).start()
    task = harness.client.add_task("work", unique="u")
    index = 0 if harness.advance() or harness.server.queued("work") else 1
    harness.client.job_servers = [harness.client.job_servers[1 - index]]
    harness.servers[index].drop_connections()
    assert type(outcome(task)) is TaskLost
    harness.advance(100)
    assert harness.connected()[index] == 0
    harness.stop()


@pytest.mark.guarantee(number=7)
def test_unsent_tasks_of_removed_server_go_to_another() -> None:
    harness = ClientHarness(2)
    both = harness.client.job_servers
    harness.client.job_servers = both[:1]
    harness.start()
    silence = harness.server.fall_silent()
    big = harness.client.add_task("work", b"x" * 70_000)
    waiting = harness.client.add_task("work", b"waiting")
    harness.client.job_servers = both[1:]
    harness.servers[1].take("work").complete(b"done")
    assert outcome(waiting) == b"done"
    assert outcome(big) is NOTHING
    silence.end()
    harness.server.take("work").complete(b"done")
    assert outcome(big) == b"done"
    assert harness.connected() == [0, 1]
    harness.stop()


@pytest.mark.guarantee(number=1)
def test_drain_awaits_tasks_of_removed_server() -> None:
    harness = ClientHarness(2).start()
    tasks = [harness.client.add_task("work") for _ in range(2)]
    harness.advance()
    harness.client.job_servers = harness.client.job_servers[1:]
    drained = harness.client.drain()
    harness.servers[1].take("work").complete(b"done")
    assert outcome(drained) is NOTHING
    harness.server.take("work").complete(b"done")
    assert (outcome(drained), outcomes(tasks)) == (None, [b"done"] * 2)
    harness.stop()


def test_tasks_awaiting_server_go_to_added_server() -> None:
    harness = ClientHarness(2, server_wait=60.0)
    both = harness.client.job_servers
    harness.client.job_servers = both[:1]
    harness.server.refuse_connections()
    harness.start()
    tasks = [harness.client.add_task("work", b"%d" % number) for number in range(3)]
    harness.client.job_servers = both
    assert take_all(harness.servers[1]) == [b"0", b"1", b"2"]
    harness.stop()
    assert [type(error) for error in outcomes(tasks)] == [ClientStopped] * 3


@pytest.mark.guarantee(number=10)
def test_server_wait_ends_if_added_server_does_not_answer() -> None:
    harness = ClientHarness(2, server_wait=5.0, connect_timeout=8.0)
    both = harness.client.job_servers
    harness.client.job_servers = both[:1]
    harness.server.refuse_connections()
    harness.servers[1].black_hole_connections()
    harness.start()
    task = harness.client.add_task("work")
    harness.client.job_servers = both
    harness.advance(8 + 5)
    error = outcome(task)
    assert (type(error), set(error.reasons)) == (NoServersAvailable, {"memory:1", "memory:2"})
    harness.stop()
