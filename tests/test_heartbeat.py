"""The heartbeat of clients and workers: on by default, while jobs run, too; off in those of a `MemoryJobServer`."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from txgearman import GearmanClient, GearmanWorker
from txgearman.packets import ECHO_REQ, GET_STATUS, PacketType
from txgearman.testing import MemoryJobServer
from txgearman.worker.protocol import GearmanWorkerProtocol

from .daemons import Daemon
from .wire import outcome

reactor: Any = global_reactor

ASKED = [ECHO_REQ, GET_STATUS]


def requests(server: MemoryJobServer) -> list[list[PacketType]]:
    """Return the types of the packets of each connection."""
    return [list(connection.requests) for connection in server.connections]


def busy_services(server: MemoryJobServer, **options: Any) -> tuple[GearmanClient, GearmanWorker]:
    """Return a client that waits for a job, and the worker that runs it for ever."""
    client = GearmanClient([server.endpoint()], reactor=server.clock, job_check_interval=1e6, **options)
    worker = GearmanWorker([server.endpoint()], reactor=server.clock, poll_interval=1e6, drain_timeout=0, **options)
    worker.register_function("work", lambda job: Deferred())
    worker.startService()
    client.add_task("work").addErrback(lambda _: None)
    server.advance()
    return client, worker


@pytest.mark.guarantee(number=10)
@pytest.mark.parametrize(("options", "period"), [({}, 30.0), ({"heartbeat": 8.0}, 8.0)])
def test_client_that_waits_and_worker_that_is_busy_ask_in_each_period(options: dict[str, float], period: float) -> None:
    server = MemoryJobServer()
    services = busy_services(server, **options)
    server.advance(period - 0.5)
    before = requests(server)
    server.advance(0.5)
    assert requests(server) == [[*each, *ASKED] for each in before]
    server.advance(period)
    assert requests(server) == [[*each, *ASKED, *ASKED] for each in before]
    for service in services:
        outcome(service.stopService())
    server.advance()
    assert server.clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=10)
def test_hour_that_passes_at_once_drops_no_connection() -> None:
    """As in tests of users who advance a `Clock`: a server that answers is not taken for a silent one."""
    server = MemoryJobServer()
    services = busy_services(server)
    for _ in range(3):
        server.clock.advance(3600)
    assert [service.servers[0].last_error for service in services] == [None, None]
    assert len(server.connections) == 2
    for service in services:
        outcome(service.stopService())
    server.advance()


@pytest.mark.parametrize(("options", "asks"), [({}, False), ({"heartbeat": 8.0}, True)])
def test_services_of_memory_server_have_heartbeat_only_if_it_is_given(options: dict[str, float], asks: bool) -> None:
    server = MemoryJobServer()
    server.client(**options)
    server.worker(poll_interval=1e6, **options).register_function("work", lambda job: b"")
    server.advance(3600)
    assert [ECHO_REQ in each for each in requests(server)] == [asks, asks]
    server.close()


async def woken_after_heartbeats(address: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that a worker sleeps on while it asks whether its server is there, and is woken by a job."""
    grabs: list[int] = []
    grab = GearmanWorkerProtocol.grab

    def counted(connection: GearmanWorkerProtocol, count: int = 1) -> None:
        grabs.append(count)
        grab(connection, count)

    monkeypatch.setattr(GearmanWorkerProtocol, "grab", counted)
    worker = GearmanWorker([address], heartbeat=0.05, poll_interval=1e6)
    worker.register_function("work", lambda job: b"done")
    async with worker, GearmanClient([address]) as client:
        assert await client.add_task("work") == b"done"
        await deferLater(reactor, 0.1)
        slept = len(grabs)
        await deferLater(reactor, 0.5)  # ten heartbeats, of which nothing else tells
        assert len(grabs) == slept
        assert await client.add_task("work") == b"done"


@pytest.mark.daemon("gearmand", "gear")
@pytest.mark.parametrize("kind", ["gearmand", "geard"])
async def test_sleeping_worker_sleeps_on_at(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon: Daemon = request.getfixturevalue(kind)
    await woken_after_heartbeats(daemon.address, monkeypatch)


@pytest.mark.soak
async def test_sleeping_worker_sleeps_on_at_memory_server(monkeypatch: pytest.MonkeyPatch) -> None:
    server = MemoryJobServer(reactor)
    await woken_after_heartbeats(server.endpoint(), monkeypatch)
    await server.close()
