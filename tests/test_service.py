"""What client, worker and admin client share as services."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import pytest
from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python import threadable

from txgearman import GearmanAdmin, GearmanClient, GearmanWorker, Task
from txgearman.admin.protocol import AdminFactory, AdminProtocol
from txgearman.connection.options import ConnectionOptions
from txgearman.connection.pool import ServerState
from txgearman.connection.reactor import random_source
from txgearman.errors import ClientStopped
from txgearman.service import GearmanService, PoolService
from txgearman.testing import MemoryJobServer
from txgearman.validation import MAX_FUNCTION

from .wire import outcome


class Service(GearmanService):
    """A service that has stopped once the test says so.

    :ivar stopping: the Deferred of its stop.
    """

    def __init__(self, **changes: Any) -> None:
        arguments: dict[str, Any] = {
            "prefix": "",
            "reactor": Clock(),
            "connection_options": ConnectionOptions(),
        }
        super().__init__(**{**arguments, **changes})
        self.stopping: Deferred[Any] = succeed(None)

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        return self.stopping


# The context manager.


async def test_service_runs_during_its_block() -> None:
    service = Service()
    async with service as entered:
        assert (entered is service, bool(service.running)) == (True, True)
    assert not service.running


@pytest.mark.guarantee(number=11)
def test_block_ends_when_service_has_stopped() -> None:
    service = Service()
    stopping = service.stopping = Deferred()

    async def block() -> str:
        async with service:
            pass
        return "over"

    ended = outcome(Deferred.fromCoroutine(block()))
    assert (bool(service.running), ended) == (False, [])
    stopping.callback(None)
    assert ended == ["over"]


async def test_error_of_block_is_raised_after_stop() -> None:
    service = Service()
    with pytest.raises(ZeroDivisionError):
        async with service:
            raise ZeroDivisionError
    assert not service.running


async def test_failure_to_stop_is_raised() -> None:
    service = Service()
    service.stopping = fail(OSError("stuck"))
    with pytest.raises(OSError, match="stuck"):
        async with service:
            pass


def test_service_can_have_a_parent() -> None:
    service, parent = Service(), MultiService()
    stopping = service.stopping = Deferred()
    assert IService.providedBy(service)
    service.setServiceParent(parent)
    parent.startService()
    assert service.running
    stopped = outcome(parent.stopService())
    assert (bool(service.running), stopped) == (False, [])
    stopping.callback(None)
    assert len(stopped) == 1


# Arguments.


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("", b""), (b"", b""), ("sandbox", b"sandbox\t"), (b"\xff", b"\xff\t"), ("ü", b"\xc3\xbc\t")],
)
def test_prefix_is_joined_by_a_tab(prefix: str | bytes, expected: bytes) -> None:
    assert Service(prefix=prefix)._prefix == expected


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"prefix": None}, TypeError, "prefix must be str or bytes, not NoneType"),
        ({"prefix": "a\0b"}, ValueError, "prefix must not have a NUL"),
        ({"prefix": "\ud800"}, ValueError, "prefix must be encodable as UTF-8"),
        ({"prefix": b"x" * (MAX_FUNCTION + 1)}, ValueError, f"prefix must have {MAX_FUNCTION} bytes at most, not 8051"),
    ],
)
def test_invalid_argument_is_refused(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    """The error names the argument and its limit."""
    with pytest.raises(error, match=text):
        Service(**changes)


def test_global_reactor_is_the_default() -> None:
    from twisted.internet import reactor

    assert Service(reactor=None)._reactor is reactor


def test_random_numbers_are_the_same_each_time_on_clock_alone() -> None:
    from twisted.internet import reactor

    assert len({random_source(Clock()).random() for _ in range(3)}) == 1
    assert len({random_source(cast("Any", reactor)).random() for _ in range(3)}) == 3


def seconds_to_attempts(service_type: type[GearmanClient | GearmanWorker | GearmanAdmin]) -> list[float | None]:
    """Return how long a new service waits for its next attempt at each of two servers that refuse connections."""
    first = MemoryJobServer()
    servers = [first, MemoryJobServer(first.clock)]
    for server in servers:
        server.refuse_connections()
    service = service_type([server.endpoint() for server in servers], reactor=first.clock)
    service.startService()
    first.advance()
    return [server.next_attempt for server in service.servers]


@pytest.mark.parametrize("service_type", [GearmanClient, GearmanWorker, GearmanAdmin])
def test_service_on_clock_has_one_source_of_the_same_random_numbers(
    service_type: type[GearmanClient | GearmanWorker | GearmanAdmin],
) -> None:
    first, second = seconds_to_attempts(service_type)
    assert first != second  # two sources would have given the same number
    assert seconds_to_attempts(service_type) == [first, second]


# Threads.

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "add_tasks": ("work", [b""]),
    "add_tasks_bg": ("work", [b""]),
    "map": ("work", [b""]),
    "as_completed": ("work", [b""]),
    "submit": (Task("work"),),
    "set_max_queue": ("work", 1),
    "register_function": ("work", lambda job: b""),
}
"""Arguments of the methods that take others than one name, if any."""

THREAD_SAFE = {"function"}
"""Public methods that can be called in any thread. That of a worker returns a decorator, which can not."""


def public_calls(service: GearmanService) -> Iterator[tuple[str, Callable[[], object]]]:
    """The public methods and the setters of a service, each as a call."""
    own = [kind for kind in type(service).__mro__ if kind.__module__.startswith("txgearman.")]
    for name in sorted({name for kind in own for name in vars(kind) if not name.startswith("_")} - THREAD_SAFE):
        member = getattr(type(service), name)
        if isinstance(member, property):
            if member.fset is not None:
                yield name, partial(setattr, service, name, getattr(service, name))
        elif callable(member):
            needed = member.__code__.co_argcount - 1 - len(member.__defaults__ or ())
            yield name, partial(member, service, *ARGUMENTS.get(name, ("name",) * needed))


@pytest.mark.parametrize("service_type", [GearmanClient, GearmanWorker, GearmanAdmin])
def test_public_method_raises_in_other_thread_than_reactors(
    service_type: type[GearmanClient | GearmanWorker | GearmanAdmin], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent, and the error says what to write."""
    service = service_type(["127.0.0.1:1"])
    over = threading.Event()
    reactor_thread = threading.Thread(target=over.wait, daemon=True)  # a failing test leaves it waiting
    reactor_thread.start()
    monkeypatch.setattr(threadable, "ioThread", reactor_thread.ident)
    text = f"^{service_type.__name__} must be used in the reactor's thread: write blockingCallFromThread.*crochet$"
    calls = dict(public_calls(service))
    assert calls.keys() >= {"startService", "stopService", "job_servers"}
    for call in calls.values():
        with pytest.raises(RuntimeError, match=text):
            call()
    over.set()
    reactor_thread.join()
    with pytest.raises(RuntimeError, match="it has ended, or was not forked with this process"):
        service.startService()
    assert service.servers[0].state is ServerState.STOPPED


def test_method_is_called_in_any_thread_on_clock_and_before_reactor_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test of an application whose reactor has a thread of its own, as with crochet, drives a clock in another."""
    monkeypatch.setattr(threadable, "ioThread", -1)
    server = MemoryJobServer()
    client = server.client()
    assert server.result_of(client.echo()) == {"memory:1": 0.0}
    server.close()
    monkeypatch.setattr(threadable, "ioThread", None)
    assert outcome(GearmanWorker(["127.0.0.1:1"]).stopService()) == [None]


# The pool of client and admin client.


class Pooled(PoolService[AdminProtocol]):
    """A service with a pool of connections to job servers in memory."""

    def __init__(self, *servers: MemoryJobServer) -> None:
        clock, options = servers[0].clock, ConnectionOptions()
        endpoints = [server.endpoint() for server in servers]
        make_factory = partial(AdminFactory, clock, connection_options=options)
        super().__init__(endpoints, "", clock, options, None, make_factory)

    def states(self) -> list[ServerState]:
        return [server.state for server in self.servers]


def test_pool_connects_at_start_and_reconnects_after_restart() -> None:
    server = MemoryJobServer()
    service = Pooled(server)
    assert service.states() == [ServerState.STOPPED]
    for _ in range(2):
        service.startService()
        server.advance()
        assert service.states() == [ServerState.READY]
        stopped = outcome(service.stopService())
        server.advance()
        assert (stopped, service.states(), bool(service.running)) == ([None], [ServerState.STOPPED], False)
    assert server.clock.getDelayedCalls() == []


def test_pool_connects_at_first_use_unless_stopped() -> None:
    server = MemoryJobServer()
    service = Pooled(server)
    assert service._use()
    assert service._use()
    server.advance()
    assert len(server.connections) == 1
    service.stopService()
    assert not service._use()
    server.advance()
    assert server.connections == []


@pytest.mark.guarantee(number=1)
def test_stop_of_pool_fails_pending_requests() -> None:
    server = MemoryJobServer()
    server.fall_silent()
    service = Pooled(server)
    service.startService()
    pending = outcome(next(iter(service._servers)).when_ready())
    service.stopService()
    assert [type(error) for error in pending] == [ClientStopped]
    server.advance(60)
    assert server.clock.getDelayedCalls() == []


def test_repr_has_class_and_states_of_servers() -> None:
    server = MemoryJobServer()
    assert repr(server.client()) == "<GearmanClient of memory:1 ready>"
    server.close()


def test_job_servers_can_be_replaced() -> None:
    first = MemoryJobServer()
    second = MemoryJobServer(first.clock)
    service = Pooled(first)
    service.startService()
    first.advance()
    service.job_servers = [second.endpoint(), *service.job_servers]
    first.advance()
    assert service.states() == [ServerState.READY] * 2
    service.job_servers = service.job_servers[:1]
    first.advance()
    assert (len(first.connections), len(second.connections), len(service.job_servers)) == (0, 1, 1)
    with pytest.raises(ValueError, match="job_servers"):
        service.job_servers = []
    service.stopService()
    first.advance()
