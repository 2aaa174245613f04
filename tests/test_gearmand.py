"""The client against a real gearmand: what it promises there, by the numbers of the promises.

Each promise is shown once. What else a server may do to a client is shown in `test_client`, with the job server in
memory, which the contract suite holds against gearmand.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.interfaces import IHostnameResolver, IHostResolution, IResolutionReceiver
from twisted.internet.task import deferLater
from twisted.protocols.portforward import ProxyFactory
from zope.interface import implementer

from txgearman import (
    ClientStopped,
    GearmanClient,
    GearmanClientFactory,
    GearmanError,
    JobHandle,
    NoServersAvailable,
    ServerState,
    Task,
    TaskException,
    TaskFailed,
)

from .daemons import Gearmand
from .raw_worker import Job, connect_worker

pytestmark = pytest.mark.daemon("gearmand")

reactor: Any = global_reactor


def reverse(job: Job) -> None:
    job.complete(job.workload[::-1])


class Events:
    """Notes what each callback of a task is told, and makes the options of a task that notes it."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self._waiting: list[tuple[str, Deferred[None]]] = []

    def _note(self, name: str) -> Callable[..., None]:
        def note(task: Task, *told: Any) -> None:
            self.seen.append((name, *told))
            due = [waiting for waiting in self._waiting if waiting[0] == name]
            self._waiting = [waiting for waiting in self._waiting if waiting[0] != name]
            for _, waiting in due:
                waiting.callback(None)

        return note

    def next(self, name: str) -> Deferred[None]:
        """Fires when this callback comes the next time."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append((name, waiting))
        return waiting

    @property
    def options(self) -> dict[str, Any]:
        names = ("created", "data", "warning", "status", "exception", "complete", "fail")
        return {f"on_{name}": self._note(name) for name in names}


async def outcome(deferred: Awaitable[Any]) -> Any:
    """The result, or the library's error."""
    try:
        return await deferred
    except GearmanError as error:
        return error


async def until(condition: Callable[[], object]) -> None:
    """Await a condition of which nothing tells; the test's deadline bounds it."""
    while not condition():
        await deferLater(reactor, 0.005)


def state(client: GearmanClient, place: int = 0) -> ServerState:
    return client.servers[place].state


# The plain way.


async def test_every_way_to_ask(gearmand: Gearmand) -> None:
    worker = await connect_worker(gearmand.port, b"reverse", do=reverse)
    async with GearmanClient([gearmand.address]) as client:
        events = Events()
        assert await client.add_task("reverse", b"abc", **events.options) == b"cba"
        assert events.seen == [("created",), ("complete", b"cba")]
        assert await client.submit(Task("reverse", b"abc")) == b"cba"
        handle = await client.add_task_bg(b"reverse", b"abc")
        assert handle.server == gearmand.address
        assert JobHandle.from_string(str(handle)) == handle
    await worker.close()


async def test_a_job_at_a_time_waits_for_it(gearmand: Gearmand) -> None:
    """gearmand counts whole seconds, and 1.1 wakes nobody (H7): so the worker comes when it is time."""
    at = time.time() + 1.0
    async with GearmanClient([gearmand.address]) as client:
        handle = await client.add_task_bg("work", b"x", at=at)
        early = await connect_worker(gearmand.port, b"work")
        assert (await client.get_status(handle)).running is False
        await early.close()
        await until(lambda: time.time() > at + 1.0)
        worker = await connect_worker(gearmand.port, b"work")
        job = await worker.job()
        assert (job.workload, time.time() >= at) == (b"x", True)
        job.complete(b"")
    await worker.close()


# Guarantee 2.


@pytest.mark.guarantee(number=2)
async def test_events_come_in_order(gearmand: Gearmand) -> None:
    def work(job: Job) -> None:
        job.status(1, 2)
        job.data(b"a")
        job.warning(b"w")
        job.data(b"b")
        job.status(2, 2)
        job.complete(b"c")

    worker = await connect_worker(gearmand.port, b"work", do=work)
    async with GearmanClient([gearmand.address]) as client:
        events = Events()
        deferred = client.add_task("work", **events.options)
        deferred.addCallback(lambda result: events.seen.append(("deferred", result)))
        await deferred
    await worker.close()
    assert events.seen == [
        ("created",),
        ("status", 1, 2),
        ("data", b"a"),
        ("warning", b"w"),
        ("data", b"b"),
        ("status", 2, 2),
        ("complete", b"c"),
        ("deferred", b"c"),
    ]


# Guarantee 4.


@pytest.mark.guarantee(number=4)
async def test_three_tasks_of_one_job_get_each_event_once(gearmand: Gearmand) -> None:
    """One joins between two DATA; a background one is among them; another connection has one too."""
    worker = await connect_worker(gearmand.port, b"work")
    address = gearmand.address
    async with GearmanClient([address]) as client, GearmanClient([address]) as other:
        seen = [Events() for _ in range(4)]
        tasks = [client.add_task("work", b"1", unique="u", **seen[0].options)]
        handle = await client.add_task_bg("work", b"2", unique="u")
        tasks.append(client.add_task("work", b"3", unique="u", **seen[1].options))
        job = await worker.job()
        await client.echo()
        job.status(1, 4)
        job.data(b"d1")
        await seen[1].next("data")
        tasks.append(client.add_task("work", b"4", unique="u", **seen[2].options))
        tasks.append(other.add_task("work", b"5", unique="u", **seen[3].options))
        await gatherResults([client.echo(), other.echo()])
        job.warning(b"w")
        job.data(b"d2")
        job.complete(b"done")
        assert await gatherResults(tasks) == [b"done"] * 4
        assert job.handle == handle.handle
    await worker.close()
    late = [("warning", b"w"), ("data", b"d2"), ("complete", b"done")]
    early = [("created",), ("status", 1, 4), ("data", b"d1"), *late]
    assert [events.seen for events in seen] == [early, early, [("created",), *late], [("created",), *late]]


@pytest.mark.guarantee(number=4)
@pytest.mark.parametrize("joining", [1, 2])
async def test_who_joins_a_running_job_that_an_administrator_cancelled(gearmand: Gearmand, joining: int) -> None:
    """gearmand sends copies for the task that it told of the failure, too (D2): nobody gets those."""
    worker = await connect_worker(gearmand.port, b"work")
    async with GearmanClient([gearmand.address]) as client:
        first = client.add_task("work", unique="u")
        job = await worker.job()
        assert gearmand.admin(f"cancel job {job.handle.decode()}") == ["OK"]
        assert type(await outcome(first)) is TaskFailed
        seen = [Events() for _ in range(joining)]
        tasks = [client.add_task("work", unique="u", **events.options) for events in seen]
        await client.echo()
        job.data(b"1")
        job.data(b"2")
        job.complete(b"done")
        assert await gatherResults(tasks) == [b"done"] * joining
        await client.echo()
        expected = [("created",), ("data", b"1"), ("data", b"2"), ("complete", b"done")]
        assert [events.seen for events in seen] == [expected] * joining
    await worker.close()


# Guarantees 5 and 6: quirks, and what comes late.


@pytest.mark.guarantee(number=5)
async def test_an_exception_with_the_option_and_without(gearmand: Gearmand) -> None:
    """Without it, gearmand makes a WORK_FAIL of it, with a NUL behind the handle (M1)."""
    worker = await connect_worker(gearmand.port, b"work", do=lambda job: job.exception(b"bo\0om"))
    async with GearmanClient([gearmand.address]) as client:
        events = Events()
        error = await outcome(client.add_task("work", **events.options))
        assert (type(error), error.data) == (TaskException, b"bo\0om")
        assert events.seen == [("created",), ("exception", b"bo\0om"), ("fail", error)]
    async with GearmanClient([gearmand.address], exceptions=False) as client:
        events = Events()
        error = await outcome(client.add_task("work", **events.options))
        assert type(error) is TaskFailed
        assert events.seen == [("created",), ("fail", error)]
    await worker.close()


@pytest.mark.guarantee(number=6)
async def test_packets_after_an_administrator_cancelled_the_running_job(gearmand: Gearmand) -> None:
    worker = await connect_worker(gearmand.port, b"work")
    async with GearmanClient([gearmand.address]) as client:
        events = Events()
        task = client.add_task("work", **events.options)
        job = await worker.job()
        job.data(b"before")
        await events.next("data")
        gearmand.admin(f"cancel job {job.handle.decode()}")
        error = await outcome(task)
        job.data(b"after")
        job.status(1, 1)
        job.complete(b"late")
        next_task = client.add_task("work", b"next")
        (await worker.job()).complete(b"right")
        assert await next_task == b"right"
        assert events.seen == [("created",), ("data", b"before"), ("fail", error)]
        assert state(client) is ServerState.READY
    await worker.close()


# Guarantee 17.


@pytest.mark.guarantee(number=17)
async def test_a_thousand_mixed_requests_in_one_turn_each_get_their_own_answer(gearmand: Gearmand) -> None:
    worker = await connect_worker(gearmand.port, b"work", do=lambda job: job.complete(job.workload))
    async with GearmanClient([gearmand.address]) as client:
        await client.add_task_bg("full", b"")
        gearmand.admin("maxqueue full 1")
        known = await client.add_task_bg("queued", b"", unique="known")
        unknown = JobHandle(gearmand.address, b"H:nobody:1")
        asked: list[Awaitable[Any]] = []
        for number in range(125):
            load = b"%d" % number
            asked += [
                client.add_task("work", load),
                client.add_task("full", load),
                client.get_status(known),
                client.add_task_bg("queued", load),
                client.get_status(unknown),
                client.get_status_unique("known"),
                client.echo(load),
                client.get_status_unique("unknown"),
            ]
        answers = [await outcome(deferred) for deferred in asked]
    await worker.close()
    assert len(answers) == 1000
    assert answers[0::8] == [b"%d" % number for number in range(125)]
    assert {error.code for error in answers[1::8]} == {"QUEUE_ERROR"}
    assert len({handle.handle for handle in answers[3::8]}) == 125
    for place, is_known, clients in ((2, True, None), (4, False, None), (5, True, 0), (7, False, 0)):
        assert {(status.known, status.waiting_clients) for status in answers[place::8]} == {(is_known, clients)}
    assert all(set(seconds) == {gearmand.address} for seconds in answers[6::8])


# Guarantee 7: servers that go.


@pytest.mark.guarantee(number=7)
async def test_a_client_outlives_its_server(gearmand: Gearmand) -> None:
    """It was restarted: new tasks succeed with the same client, and exceptions are asked for anew."""
    async with GearmanClient([gearmand.address]) as client:
        await client.echo()
        gearmand.stop()
        await until(lambda: state(client) is not ServerState.READY)
        error = await outcome(client.add_task("work"))
        assert (type(error), list(error.reasons)) == (NoServersAvailable, [gearmand.address])
        gearmand.start()
        await until(lambda: state(client) is ServerState.READY)
        worker = await connect_worker(gearmand.port, b"work", do=lambda job: job.exception(b"asked for"))
        assert (await outcome(client.add_task("work"))).data == b"asked for"
        await worker.close()


# Guarantee 15.


@pytest.mark.guarantee(number=15)
@pytest.mark.parametrize(
    "load",
    [b"", b"0", b"\0", b"\0" * 1000, bytes(range(256)), b"\0REQ" * 9, bytes(range(256)) * (64 * 4096)],
    ids=["empty", "0", "NUL", "NULs", "every byte", "magic", "64 MiB"],
)
async def test_payloads_come_out_as_they_went_in(gearmand: Gearmand, load: bytes) -> None:
    def work(job: Job) -> None:
        job.data(job.workload)
        job.warning(job.workload)
        job.complete(job.workload)

    worker = await connect_worker(gearmand.port, b"work", do=work)
    async with GearmanClient([gearmand.address]) as client:
        events = Events()
        result = await client.add_task("work", load, **events.options)
        assert result == load
        assert [(name, *(data == load for data in told)) for name, *told in events.seen] == [
            ("created",),
            ("data", True),
            ("warning", True),
            ("complete", True),
        ]
    await worker.close()


# Addresses.


@implementer(IHostnameResolver)
class TwoAddresses:
    """Finds every name on both loopback addresses, as many machines do with localhost."""

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: object = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        resolution = HostResolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        resolutionReceiver.addressResolved(IPv6Address("TCP", "::1", portNumber))
        resolutionReceiver.addressResolved(IPv4Address("TCP", "127.0.0.1", portNumber))
        resolutionReceiver.resolutionComplete()
        return resolution


@implementer(IHostResolution)
class HostResolution:
    """A resolution that is over at once."""

    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        raise AssertionError(f"{self.name} was found already")


@pytest.fixture
def two_addresses() -> Iterator[None]:
    before = reactor.installNameResolver(TwoAddresses())
    yield
    reactor.installNameResolver(before)


@pytest.mark.usefixtures("two_addresses")
@pytest.mark.parametrize("listen", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("form", ["localhost:{port}", "tcp:localhost:{port}", "LocalHost:{port}"])
async def test_names_are_resolved_over_both_families(listen: str, form: str) -> None:
    """Debian's gearmand listens on one of the two addresses of localhost only (docs/gearman.md §15)."""
    with Gearmand(listen=listen) as gearmand:
        async with GearmanClient([form.format(port=gearmand.port)]) as client:
            assert len(await client.echo()) == 1


@pytest.mark.parametrize(
    ("listen", "form"),
    [("127.0.0.1", "127.0.0.1:{port}"), ("::1", "[::1]:{port}"), ("127.0.0.1", "tcp:host=127.0.0.1:port={port}")],
)
async def test_literal_addresses_and_descriptions(listen: str, form: str) -> None:
    with Gearmand(listen=listen) as gearmand:
        async with GearmanClient([form.format(port=gearmand.port)]) as client:
            assert len(await client.echo()) == 1


async def test_a_unix_socket(gearmand: Gearmand, tmp_path: Path) -> None:
    """gearmand listens on none, so one is led to it."""
    path = tmp_path / "gearmand.sock"
    listening = reactor.listenUNIX(str(path), ProxyFactory("127.0.0.1", gearmand.port))
    async with GearmanClient([f"unix:{path}"]) as client:
        handle = await client.add_task_bg("work")
        assert (handle.server, (await client.get_status(handle)).known) == (f"unix:{path}", True)
    await listening.stopListening()


async def test_one_connection_without_a_client(gearmand: Gearmand) -> None:
    worker = await connect_worker(gearmand.port, b"reverse", do=reverse)
    factory = GearmanClientFactory(name="the only one")
    reactor.connectTCP("127.0.0.1", gearmand.port, factory)
    connection = await factory.when_ready()
    task = Task("reverse", b"abc")
    assert await connection.submit(task) == b"cba"
    assert (task.handle or JobHandle("", b"")).server == "the only one"
    gearmand.stop()
    await until(lambda: connection.error is not None)
    gearmand.start()
    assert await (await factory.when_ready()).submit(Task("work", background=True))
    await factory.stop(ClientStopped())
    await worker.close()


# Guarantees 1, 11, 12.


@pytest.mark.guarantee(number=11)
async def test_background_jobs_that_were_written_go_out_before_the_socket_closes(gearmand: Gearmand) -> None:
    async with GearmanClient([gearmand.address]) as client:
        await client.echo()
        lost = DeferredList([client.add_task_bg("work") for _ in range(1000)], consumeErrors=True)
    await lost
    await until(lambda: "work\t1000\t" in "".join(gearmand.admin("status")))
    assert "work\t1000\t0\t0" in gearmand.admin("status")


def resident_kib() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def living_tasks() -> int:
    gc.collect()
    return sum(1 for thing in gc.get_objects() if isinstance(thing, Task))


@pytest.mark.guarantee(number=12)
@pytest.mark.soak
@pytest.mark.parametrize("background", [True, False], ids=["background", "foreground"])
async def test_two_hundred_thousand_jobs_leave_nothing(gearmand: Gearmand, background: bool) -> None:
    """In two halves: what the first one leaves in the allocator's pools, the second one must find enough."""
    worker = await connect_worker(gearmand.port, b"work", do=lambda job: job.complete(job.workload), grabs=100)
    done = 0

    def count(_: object) -> None:
        nonlocal done
        done += 1

    async with GearmanClient([gearmand.address]) as client:
        submit: Callable[..., Deferred[Any]] = client.add_task_bg if background else client.add_task
        resident = []
        for _ in range(2):
            for _ in range(20):
                for number in range(5000):
                    submit("work", b"%016d" % number).addCallback(count)
                await client.drain()
                await deferLater(reactor, 0)  # the last task is still on the stack that fired it
            assert living_tasks() == 0
            resident.append(resident_kib())
        assert done == 200_000
        assert resident[1] - resident[0] < 4 * 1024
        assert client.servers[0].in_flight == 0
    await worker.close()
