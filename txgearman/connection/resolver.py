"""Look-ups of host names, in daemon threads of their own.

A call of getaddrinfo can't be interrupted, and may take a minute if no DNS server answers. Twisted makes it in the
reactor's thread pool: then the application's own calls wait for a thread, and the interpreter waits for the pool at its
end. A resolver that the application has installed (``reactor.installNameResolver``) is used as it is.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import MutableMapping
from threading import Thread
from typing import Final, TypeAlias, cast
from weakref import WeakKeyDictionary

from twisted.internet._resolver import GAIResolver  # for its type: the default resolver has no other name
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IReactorThreads,
    IResolutionReceiver,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from .reactor import Reactor, ThreadedReactor
from .waiters import Waiters

__all__ = ["MAX_LOOKUPS", "HostAddress", "ThreadedLookups", "look_up"]

MAX_LOOKUPS: Final = 8
"""Look-ups that may be in progress at a time, each in a thread. Others are queued."""

HostAddress: TypeAlias = "IPv4Address | IPv6Address"


def look_up(reactor: Reactor, host: str, port: int) -> Deferred[list[HostAddress]]:
    """Look up the addresses of a host.

    :return: fires with the addresses, in the resolver's order. Fails with `DNSLookupError` if there are none.
        Cancelling it only ignores the result.
    """
    return _resolve(reactor, host, port).addCallback(_addresses, host, port)


def _resolve(reactor: Reactor, host: str, port: int) -> Deferred[list[str]]:
    resolver: IHostnameResolver | None = getattr(reactor, "nameResolver", None)
    if resolver is None:
        return fail(DNSLookupError(f"the reactor has no resolver for {host}"))
    if isinstance(reactor, ThreadedReactor) and _is_default(resolver, reactor):
        return _lookups_of(reactor).look_up(host)
    receiver = _Receiver()
    resolver.resolveHostName(receiver, host, port)
    return receiver.found


def _is_default(resolver: object, reactor: ThreadedReactor) -> bool:
    """Check whether a reactor's resolver is the one that it was made with."""
    return type(resolver) is GAIResolver and vars(resolver) == vars(_default_of(reactor))


def _default_of(reactor: ThreadedReactor) -> GAIResolver:
    return GAIResolver(cast("IReactorThreads", reactor), reactor.getThreadPool)


def _addresses(hosts: list[str], name: str, port: int) -> list[HostAddress]:
    if not hosts:
        raise DNSLookupError(f"no results for hostname lookup: {name}")
    # A name may have an address twice, such as one of a hosts file.
    return [(IPv6Address if ":" in host else IPv4Address)("TCP", host, port) for host in dict.fromkeys(hosts)]


@implementer(IResolutionReceiver)
class _Receiver:
    """Collects what a resolver of the application finds."""

    def __init__(self) -> None:
        self.found: Deferred[list[str]] = Deferred()
        self._hosts: list[str] = []

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """Do nothing: few resolvers can be cancelled."""

    def addressResolved(self, address: IAddress) -> None:
        if isinstance(address, (IPv4Address, IPv6Address)):
            self._hosts.append(address.host)

    def resolutionComplete(self) -> None:
        self.found.callback(self._hosts)


class ThreadedLookups:
    """Look-ups by getaddrinfo in daemon threads, of a limited number.

    Those of the same host are made once for all that wait for it, so that a resolver that hangs takes one thread for
    each host, however often it is asked.
    """

    def __init__(self, reactor: ThreadedReactor) -> None:
        self._reactor = reactor
        self._waiting: dict[str, Waiters[list[str]]] = {}
        self._queue: deque[str] = deque()
        self._running = 0

    def look_up(self, host: str) -> Deferred[list[str]]:
        """Look up a host.

        :return: fires with the addresses as text; fails with `DNSLookupError`, or with `RuntimeError` if no thread
            can be started. Cancelling it only ignores the result; if nobody waits for it and it has not begun, it is
            not made.
        """
        waiters = self._waiting.get(host)
        if waiters is None:
            waiters = self._waiting[host] = Waiters()
            self._queue.append(host)
        found = waiters.wait()
        self._begin()
        return found

    def _begin(self) -> None:
        """Begin the look-ups in the queue, as far as the limit allows."""
        while self._queue and self._running < MAX_LOOKUPS:
            host = self._queue.popleft()
            if not self._waiting[host]:
                del self._waiting[host]
                continue
            self._running += 1
            try:
                Thread(target=self._run, args=(host,), name=f"look-up of {host}", daemon=True).start()
            except RuntimeError:  # the system has no more threads
                self._ended(host, Failure())

    def _run(self, host: str) -> None:
        """Look up a host, in a thread."""
        outcome: list[str] | Failure
        try:
            outcome = [str(found[4][0]) for found in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)]
        except (OSError, UnicodeError) as error:
            outcome = Failure(DNSLookupError(f"no results for hostname lookup: {host} ({error})"))
        try:
            self._reactor.callFromThread(self._ended, host, outcome)
        except RuntimeError:  # the event loop of an asyncio reactor was closed meanwhile, so nobody waits
            return

    def _ended(self, host: str, outcome: list[str] | Failure) -> None:
        self._running -= 1
        self._waiting.pop(host).fire(outcome)
        self._begin()


_lookups: Final[MutableMapping[Reactor, ThreadedLookups]] = WeakKeyDictionary()


def _lookups_of(reactor: ThreadedReactor) -> ThreadedLookups:
    """Return the look-ups of a reactor, which all of its connections share."""
    return _lookups.setdefault(reactor, ThreadedLookups(reactor))
