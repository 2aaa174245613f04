"""`GearmanClient.waiting`: the tasks and jobs of batches that are unfinished and not in flight."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred

from txgearman import ClientStopped

from ..client_harness import ClientHarness, ignore_errors, outcome, outcomes


def counts(harness: ClientHarness) -> tuple[int, int]:
    """Return how many tasks wait in the client, and how many are in flight."""
    return harness.client.waiting, sum(server.in_flight for server in harness.client.servers)


def test_tasks_and_jobs_beyond_max_in_flight_wait() -> None:
    harness = ClientHarness(max_in_flight=3).start()
    assert counts(harness) == (0, 0)
    tasks = [harness.client.add_task("work") for _ in range(5)]
    batch = harness.client.add_tasks("work", [b""] * 4)
    assert counts(harness) == (6, 3)
    harness.server.take("work").complete()
    assert counts(harness) == (5, 3)
    for task in tasks[1:]:
        ignore_errors(task)
    tasks[-1].cancel()
    assert counts(harness) == (4, 3)
    ignore_errors(batch)
    batch.cancel()
    assert counts(harness) == (0, 3)
    harness.stop()


def test_tasks_and_jobs_without_server_wait() -> None:
    harness = ClientHarness(server_wait=30.0)
    refusal = harness.server.refuse_connections()
    submitted: list[Deferred[Any]] = [harness.client.add_task("work"), harness.client.add_tasks("work", [b""] * 4)]
    assert counts(harness) == (5, 0)  # the first attempt to connect is under way
    harness.advance()
    assert counts(harness) == (5, 0)
    refusal.end()
    harness.advance(2)
    assert counts(harness) == (0, 5)
    for each in submitted:
        ignore_errors(each)
    harness.stop()
    assert harness.client.waiting == 0


def test_task_waits_through_pause_before_retry() -> None:
    harness = ClientHarness().start()
    task = harness.client.add_task("work", retries=1)
    harness.server.take("work").fail()
    assert counts(harness) == (1, 0)
    harness.advance(0.5)
    assert counts(harness) == (0, 1)
    harness.server.take("work").complete(b"done")
    assert (outcome(task), counts(harness)) == (b"done", (0, 0))
    harness.stop()


def test_tasks_for_slow_server_wait() -> None:
    harness = ClientHarness().start()
    ((connection, _),) = [(server.connection, server) for server in harness.client._servers]
    assert connection is not None
    connection.pauseProducing()
    task = harness.client.add_task_bg("work")
    assert counts(harness) == (1, 0)
    connection.resumeProducing()
    assert counts(harness) == (0, 1)
    harness.advance()
    assert (task.called, counts(harness)) == (True, (0, 0))
    harness.stop()


def test_task_and_stream_on_removed_server_do_not_wait() -> None:
    harness = ClientHarness(2).start()
    harness.client.job_servers = [harness.servers[0].endpoint()]
    chunk = ensureDeferred(anext(harness.client.stream("work")))
    task = harness.client.add_task("work")
    assert counts(harness) == (1, 1)  # the stream waits for a connection of its own
    harness.advance()
    assert counts(harness) == (0, 2)
    harness.client.job_servers = [harness.servers[1].endpoint()]
    assert counts(harness) == (0, 0)
    harness.stop()
    assert [type(error) for error in outcomes([task, chunk])] == [ClientStopped] * 2
