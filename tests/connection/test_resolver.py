"""Look-ups of names: in threads of their own, unless the application has installed a resolver."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet._resolver import GAIResolver
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import DNSLookupError
from twisted.internet.task import Clock

from txgearman.connection.resolver import MAX_LOOKUPS, ThreadedLookups, look_up

from ..wire import outcome

reactor: Any = global_reactor


class Names:
    """A getaddrinfo that the test plays: it hangs for the names in `hanging`, until they are taken out.

    :ivar asked: the names that it was asked for, in order.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.most = 0
        self._running = 0
        self._hanging: dict[str, threading.Event] = {}

    def hang(self, *names: str) -> None:
        self._hanging.update({name: threading.Event() for name in names})

    def answer(self, *names: str) -> None:
        for name in names or tuple(self._hanging):
            self._hanging[name].set()

    def __call__(self, host: str, port: int, **options: Any) -> list[Any]:
        assert options == {"type": socket.SOCK_STREAM}
        self.asked.append(host)
        self._running += 1
        self.most = max(self.most, self._running)
        if host in self._hanging:
            self._hanging[host].wait(20)
        self._running -= 1
        if host == "unknown":
            raise socket.gaierror(-2, "Name or service not known")
        rows = [(socket.AF_INET6, "::1"), (socket.AF_INET, "10.0.0.1"), (socket.AF_INET, "10.0.0.1")]
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in rows]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    played = Names()
    monkeypatch.setattr(socket, "getaddrinfo", played)
    yield played
    played.answer()


async def test_addresses_are_in_order_of_resolver_and_each_there_once(names: Names) -> None:
    assert await look_up(reactor, "jobs", 4731) == [
        IPv6Address("TCP", "::1", 4731),
        IPv4Address("TCP", "10.0.0.1", 4731),
    ]
    assert names.asked == ["jobs"]


async def test_unknown_name_fails_with_reason(names: Names) -> None:
    with pytest.raises(DNSLookupError, match=r"no results for hostname lookup: unknown \(.*Name or service not known"):
        await look_up(reactor, "unknown", 4730)


async def test_name_that_resolver_can_not_encode_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(*_: object, **__: object) -> None:
        raise UnicodeError("label too long")

    monkeypatch.setattr(socket, "getaddrinfo", encode)
    with pytest.raises(DNSLookupError, match="label too long"):
        await look_up(reactor, "jobs", 4730)


# The limits.


class Reactor(Clock):
    """A reactor whose calls from threads are made when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self._called = threading.Condition()
        self._calls: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self.closed = False

    def callFromThread(self, function: Callable[..., object], *arguments: Any) -> None:
        if self.closed:
            raise RuntimeError("Event loop is closed")
        with self._called:
            self._calls.append((function, arguments))
            self._called.notify()

    def getThreadPool(self) -> Any:
        raise AssertionError("the thread pool of the reactor is the application's")

    suggestThreadPoolSize = getThreadPool

    def run_next(self) -> None:
        """Wait for a call from a thread, and make it."""
        with self._called:
            assert self._called.wait_for(lambda: self._calls, 10)
            function, arguments = self._calls.pop(0)
        function(*arguments)


def look_up_all(lookups: ThreadedLookups, names: list[str]) -> list[list[Any]]:
    return [outcome(lookups.look_up(name)) for name in names]


def test_look_ups_of_same_name_are_made_once(names: Names) -> None:
    memory: Any = Reactor()
    lookups = ThreadedLookups(memory)
    names.hang("jobs")
    results = look_up_all(lookups, ["jobs"] * 100)
    cancelled: Deferred[list[str]] = lookups.look_up("jobs")
    cancelled.addErrback(lambda _: None).cancel()
    names.answer("jobs")
    memory.run_next()
    assert results == [[["::1", "10.0.0.1", "10.0.0.1"]]] * 100
    assert names.asked == ["jobs"]


def test_threads_are_limited_and_further_look_ups_are_queued(names: Names) -> None:
    memory: Any = Reactor()
    lookups = ThreadedLookups(memory)
    wanted = [f"jobs-{number}" for number in range(3 * MAX_LOOKUPS)]
    names.hang(*wanted)
    results = look_up_all(lookups, wanted)
    names.answer()
    for _ in wanted:
        memory.run_next()
    assert all(len(result) == 1 for result in results)
    assert sorted(names.asked) == sorted(wanted)
    assert names.most == MAX_LOOKUPS


def test_queued_look_up_that_nobody_waits_for_is_not_made(names: Names) -> None:
    memory: Any = Reactor()
    lookups = ThreadedLookups(memory)
    hanging = [f"jobs-{number}" for number in range(MAX_LOOKUPS)]
    names.hang(*hanging)
    look_up_all(lookups, hanging)
    abandoned = lookups.look_up("abandoned")
    abandoned.addErrback(lambda _: None)
    abandoned.cancel()
    names.answer()
    for _ in hanging:
        memory.run_next()
    again = outcome(lookups.look_up("abandoned"))
    memory.run_next()
    assert len(again[0]) == 3
    assert names.asked[-1] == "abandoned"
    assert sorted(names.asked) == sorted([*hanging, "abandoned"])


def test_name_is_looked_up_again_after_its_answer(names: Names) -> None:
    memory: Any = Reactor()
    lookups = ThreadedLookups(memory)
    for _ in range(2):
        lookups.look_up("jobs")
        memory.run_next()
    assert names.asked == ["jobs", "jobs"]


def test_look_up_fails_if_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch, names: Names) -> None:
    memory: Any = Reactor()
    lookups = ThreadedLookups(memory)

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        (error,) = outcome(lookups.look_up("jobs"))
    assert isinstance(error, RuntimeError)
    look_up_all(lookups, ["jobs"])
    memory.run_next()
    assert names.asked == ["jobs"]


def test_look_up_that_ends_after_event_loop_of_reactor_was_closed_raises_nothing(
    monkeypatch: pytest.MonkeyPatch, names: Names
) -> None:
    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    memory: Any = Reactor()
    memory.closed = True
    names.hang("jobs")
    ThreadedLookups(memory).look_up("jobs").addErrback(lambda _: None)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "look-up of jobs")
    names.answer()
    thread.join(10)
    assert (thread.is_alive(), thread.daemon, raised) == (False, True, [])


# Resolvers of the application.


class Resolver:
    """A resolver of the application: knows every name."""

    def __init__(self, *addresses: Any) -> None:
        self._addresses = addresses

    def resolveHostName(self, resolutionReceiver: Any, hostName: str, portNumber: int = 0) -> None:
        resolutionReceiver.resolutionBegan(None)
        for address in self._addresses:
            resolutionReceiver.addressResolved(address)
        resolutionReceiver.resolutionComplete()


class ResolvingReactor(Reactor):
    def __init__(self, resolver: Any) -> None:
        super().__init__()
        self.nameResolver = resolver

    def getThreadPool(self) -> Any:
        return None

    suggestThreadPoolSize = getThreadPool


def resolving_reactor(*addresses: Any) -> Any:
    return ResolvingReactor(Resolver(*addresses))


def test_resolver_of_application_is_used(names: Names) -> None:
    found = [IPv4Address("TCP", "10.0.0.2", 1), HostnameAddress(b"jobs", 1), IPv6Address("TCP", "fe80::2", 1)]
    assert outcome(look_up(resolving_reactor(*found), "jobs", 4730)) == [
        [IPv4Address("TCP", "10.0.0.2", 4730), IPv6Address("TCP", "fe80::2", 4730)]
    ]
    assert names.asked == []


def test_twisted_resolver_with_thread_pool_of_application_is_used(names: Names) -> None:
    asked: list[object] = []

    class Pool:
        def callInThreadWithCallback(self, result: object, function: Any, *arguments: Any) -> None:
            asked.append(function)

    pool: Any = Pool
    memory: Any = ResolvingReactor(None)
    memory.nameResolver = GAIResolver(memory, pool)
    assert outcome(look_up(memory, "jobs", 4730)) == []
    assert len(asked) == 1
    assert names.asked == []


def test_resolver_without_result_fails() -> None:
    (error,) = outcome(look_up(resolving_reactor(), "jobs", 4730))
    assert isinstance(error, DNSLookupError)
    assert "no results for hostname lookup: jobs" in str(error)


def test_reactor_without_resolver_fails() -> None:
    (error,) = outcome(look_up(Clock(), "jobs", 4730))
    assert isinstance(error, DNSLookupError)
    assert "the reactor has no resolver for jobs" in str(error)
