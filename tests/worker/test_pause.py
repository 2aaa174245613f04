"""Control of a worker at run time: `pause` and `resume`, ``max_jobs``, and what it runs."""

from __future__ import annotations

from typing import Any

import pytest

from txgearman import GearmanWorker, Job
from txgearman.packets import CAN_DO, CANT_DO, GRAB_JOB_ALL, PRE_SLEEP, PacketType
from txgearman.testing import MemoryJobServer
from txgearman.worker.job import COMPLETED

from .harness import Slow, do_nothing, function_status, group_of, offers, running_jobs, slots_held, submit_bg


def registered(server: MemoryJobServer, *functions: str, **options: Any) -> tuple[GearmanWorker, Slow]:
    """A worker with these functions, whose jobs the test ends."""
    worker, slow = server.worker(client_id="w", **options), Slow()
    for function in functions:
        worker.register_function(function, slow)
    server.advance()
    return worker, slow


class Requests:
    """What the oldest connection of a server has sent, since it was asked last."""

    def __init__(self, server: MemoryJobServer) -> None:
        self._server = server
        self._seen = 0
        self.new()

    def new(self) -> list[PacketType]:
        self._server.advance()
        requests = self._server.connections[0].requests
        new, self._seen = requests[self._seen :], len(requests)
        return new


# Pause and resume.


@pytest.mark.guarantee(number=18)
def test_paused_worker_offers_and_requests_nothing_on_its_connection(server: MemoryJobServer) -> None:
    worker, slow = registered(server, "f", "g", poll_interval=1.0)
    requests = Requests(server)
    worker.pause()
    worker.pause()
    assert (requests.new(), worker.paused) == ([CANT_DO, CANT_DO], True)
    submit_bg(server, "f")
    server.advance(5.0)
    assert (offers(server), function_status(server)["f"], requests.new()) == ([], (1, 0, 0), [])
    worker.resume()
    worker.resume()
    assert requests.new() == [CAN_DO, CAN_DO, GRAB_JOB_ALL, GRAB_JOB_ALL, GRAB_JOB_ALL, PRE_SLEEP]
    assert (offers(server), slow.started, worker.paused) == ([("w", {"f", "g"})], [b"0"], False)
    server.advance(1.0)
    assert requests.new() == [GRAB_JOB_ALL, PRE_SLEEP]


@pytest.mark.guarantee(number=5)
def test_pause_unregisters_each_function_after_its_last_job(server: MemoryJobServer) -> None:
    """gearmand would take away the jobs of a function that is unregistered."""
    worker, slow = registered(server, "f", "g", "idle")
    submit_bg(server, "f", 2)
    server.result_of(server.client().add_task_bg("g", b"g"))
    worker.pause()
    found = []
    for workload in (b"0", b"g", b"1"):
        server.advance()
        found += offers(server)
        slow.end(workload)
    server.advance()
    assert (found, offers(server)) == ([("w", {"f", "g"}), ("w", {"f", "g"}), ("w", {"f"})], [])
    assert slow.started == [b"0", b"1", b"g"]


@pytest.mark.guarantee(number=5)
def test_pause_ends_sleep_of_connection_with_jobs(server: MemoryJobServer) -> None:
    """By one request, since gearmand might wake it and nobody else for a job of a function that runs (H14)."""
    worker, slow = registered(server, "f", "g")
    submit_bg(server, "f")
    (connection,) = group_of(worker).states
    requests = Requests(server)
    worker.pause()
    assert (connection.asleep, slots_held(worker)) == (False, 2)
    assert requests.new() == [GRAB_JOB_ALL, CANT_DO]
    queued = server.client().add_task_bg("f", b"queued")
    assert (requests.new(), slots_held(worker), len(slow.started)) == ([], 1, 1)
    worker.resume()
    assert server.result_of(queued)
    assert (requests.new()[:2], len(slow.started), slots_held(worker)) == ([CAN_DO, GRAB_JOB_ALL], 2, 2)


def test_pause_without_free_slot_requests_nothing(server: MemoryJobServer, second: MemoryJobServer) -> None:
    """The only slot was free when the connection fell asleep, and then was taken by a job of another server."""
    worker, slow = registered(server, "f", max_jobs=2)
    worker.job_servers = [*worker.job_servers, second.endpoint()]
    submit_bg(server, "f")
    server.result_of(second.client().add_task_bg("f", b"second"))
    requests = Requests(server)
    worker.pause()
    assert (requests.new(), slots_held(worker), offers(server)) == ([], 2, [("w", {"f"})])
    slow.end_all()
    assert requests.new()[-1] == CANT_DO
    server.result_of(second.close())


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize(("max_jobs", "started_later"), [(1, [b"1"]), (10, [b"1", b"2"])])
def test_function_may_pause_its_worker_while_it_runs(
    server: MemoryJobServer, max_jobs: int, started_later: list[bytes]
) -> None:
    """A job that was requested before still runs."""
    worker = server.worker(client_id="w", max_jobs=max_jobs)
    started: list[bytes] = []

    def pause(job: Job) -> None:
        started.append(job.workload)
        worker.pause()

    worker.register_function("f", pause)
    submit_bg(server, "f", 3)
    server.advance()
    assert (started, offers(server)) == ([b"0"], [])
    worker.resume()
    server.advance()
    assert (started, offers(server)) == ([b"0", *started_later], [])


def test_pause_outlasts_reconnect_restart_and_registrations(server: MemoryJobServer) -> None:
    worker, _ = registered(server, "f", "g")
    worker.pause()
    worker.register_function("unlimited", do_nothing)
    worker.register_function("limited", do_nothing, max_jobs=1)
    worker.unregister_function("g")
    server.advance()
    server.drop_connections()
    server.advance(60.0)
    assert (len(server.connections), offers(server)) == (2, [])
    server.result_of(worker.stopService())
    worker.startService()
    server.advance()
    assert (offers(server), server.result_of(worker.when_ready())) == ([], None)
    worker.resume()
    server.advance()
    assert offers(server) == [("w", {"f", "unlimited"}), ("w", {"limited"})]


@pytest.mark.guarantee(number=5)
def test_resume_leaves_connection_of_removed_server(server: MemoryJobServer, second: MemoryJobServer) -> None:
    worker, slow = registered(server, "f", "g")
    submit_bg(server, "f")
    server.advance()
    worker.job_servers = [second.endpoint()]
    server.advance()
    found = offers(server)
    worker.pause()
    worker.resume()
    server.advance()
    assert (found, offers(server), offers(second)) == ([("w", {"f"})], [("w", {"f"})], [("w", {"f", "g"})])
    slow.end()
    server.advance()
    assert (offers(server), function_status(server)["f"]) == ([], (0, 0, 0))
    server.result_of(second.close())


def test_worker_without_functions_resumes_without_request(server: MemoryJobServer) -> None:
    worker, _ = registered(server)
    requests = Requests(server)
    worker.pause()
    worker.resume()
    assert requests.new() == []


# The number of jobs.


@pytest.mark.guarantee(number=18)
def test_max_jobs_can_be_raised_and_lowered_at_any_time(server: MemoryJobServer) -> None:
    worker, slow = registered(server, "slow", max_jobs=2)
    submit_bg(server, "slow", 9)
    running = []
    for max_jobs in (5, 1):
        worker.max_jobs = max_jobs
        server.advance()
        running.append((worker.max_jobs, running_jobs(server)))
    for _ in range(5):
        slow.end()
        server.advance()
        running.append((slots_held(worker), running_jobs(server)))
    assert running == [(5, 5), (1, 5), (4, 4), (3, 3), (2, 2), (1, 1), (1, 1)]


@pytest.mark.parametrize("max_jobs", [0, True, 2.0, None])
def test_invalid_max_jobs_changes_nothing(server: MemoryJobServer, max_jobs: Any) -> None:
    worker = server.worker(max_jobs=3)
    with pytest.raises((TypeError, ValueError), match="max_jobs must be"):
        worker.max_jobs = max_jobs
    assert worker.max_jobs == 3


# What it has and runs.


def test_functions_are_registered_names_in_their_order(server: MemoryJobServer) -> None:
    worker = server.worker(prefix="p")
    for name in ("b", b"a", "c"):
        worker.register_function(name, do_nothing)
    worker.unregister_function("c")
    assert worker.functions == ("b", b"a")


def test_running_jobs_are_those_whose_functions_run(server: MemoryJobServer) -> None:
    """Also while their jobs start, and after their jobs have ended."""
    worker, slow = registered(server, "slow")
    found: list[tuple[bytes, str]] = []

    def look(job: Job) -> None:
        found.extend((each.workload, each.ended) for each in worker.running_jobs)

    worker.register_function("look", look)
    submit_bg(server, "slow", 2)
    server.advance()
    slow.jobs[0].complete()
    server.result_of(server.client().add_task_bg("look", b"look"))
    server.advance()
    assert found == [(b"0", COMPLETED), (b"1", ""), (b"look", "")]
    slow.end_all()
    assert worker.running_jobs == []
