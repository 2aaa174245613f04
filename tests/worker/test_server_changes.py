"""Changes of a worker's servers while groups drain, and while the user's code changes them again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from txgearman import GearmanWorker
from txgearman.testing import MemoryJobServer

from .harness import ReactingEndpoint, Slow, do_nothing, submit_bg


def in_flight(worker: GearmanWorker) -> list[int]:
    return [info.in_flight for info in worker.servers]


def test_servers_count_jobs_of_group_that_drains_after_a_change(
    server: MemoryJobServer, second: MemoryJobServer
) -> None:
    """The group that was left has the old servers, in their old order."""
    slow, worker = Slow(), server.worker(second)
    first, other = worker.job_servers
    worker.register_function("slow", slow)
    submit_bg(server, "slow", 2)
    server.advance()
    worker.unregister_function("slow")
    worker.job_servers = [other]
    assert in_flight(worker) == [0]
    worker.job_servers = [other, first]
    assert in_flight(worker) == [0, 2]
    slow.end_all()
    server.advance()
    assert in_flight(worker) == [0, 0]


def test_servers_count_jobs_of_server_that_was_removed_and_added_again(server: MemoryJobServer) -> None:
    slow, worker, other = Slow(), server.worker(), MemoryJobServer(server.clock)
    addresses = worker.job_servers
    worker.register_function("slow", slow)
    submit_bg(server, "slow", 2)
    server.advance()
    worker.job_servers = [other.endpoint()]
    worker.job_servers = addresses
    server.advance()
    assert in_flight(worker) == [2]
    slow.end_all()
    server.result_of(other.close())


def restart(worker: GearmanWorker) -> None:
    worker.stopService()
    worker.startService()


REACTIONS: dict[str, Callable[[GearmanWorker, ReactingEndpoint], object]] = {
    "changes": lambda worker, endpoint: setattr(worker, "job_servers", worker.job_servers[:1]),
    "restarts": lambda worker, endpoint: restart(worker),
    "replaces": lambda worker, endpoint: worker.unregister_function("limited"),
}


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("reaction", REACTIONS)
@pytest.mark.parametrize("at", ["start", "change"])
def test_code_of_endpoint_may_change_worker_while_it_connects(
    server: MemoryJobServer, second: MemoryJobServer, at: str, reaction: str
) -> None:
    """Each group that is left has one connection to each server that is left."""
    worker = server.worker()
    worker.register_function("unlimited", do_nothing)
    worker.register_function("limited", do_nothing, max_jobs=1)
    server.advance()
    reactions = [REACTIONS[reaction]]

    def react() -> None:
        if reactions:
            reactions.pop()(worker, endpoint)

    endpoint = ReactingEndpoint(second.endpoint(), react)
    if at == "start":
        server.result_of(worker.stopService())
    worker.job_servers = [*worker.job_servers, endpoint]
    worker.startService()
    server.advance()
    groups = 1 if reaction == "replaces" else 2
    expected = [groups, 0 if reaction == "changes" else groups]
    assert [len(each.connections) for each in (server, second)] == expected
    assert reactions == []
