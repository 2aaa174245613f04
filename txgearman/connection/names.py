"""The endpoint of a host name, each of whose addresses gets its turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from .reactor import Reactor
from .resolver import HostAddress, look_up

__all__ = ["NEXT_ADDRESS_DELAY", "NameEndpoint", "Wrap", "tcp_endpoint"]

NEXT_ADDRESS_DELAY: Final = 0.3
"""Seconds after which the next address of a name is tried while the one before has neither accepted nor refused."""

Wrap: TypeAlias = "Callable[[IStreamClientEndpoint], IStreamClientEndpoint]"
"""What is done to the endpoint of each address, such as adding TLS."""


def tcp_endpoint(reactor: Reactor, host: str, port: int) -> IStreamClientEndpoint:
    """Return the endpoint of an IP address.

    It has no time-out of its own, which would end an attempt before what has arrived was read: the factory has one.
    """
    endpoint = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
    return endpoint(reactor, host, port, timeout=None)  # type: ignore[arg-type]  # which connectTCP takes


@implementer(IStreamClientEndpoint)
class NameEndpoint:
    """Endpoint of a host name, which connects to the first of its addresses that accepts.

    The addresses are tried in the resolver's order, each once the one before has failed, or after
    `NEXT_ADDRESS_DELAY` (RFC 8305). Those that accepted, and then did not answer as a job server, come last.
    """

    def __init__(self, reactor: Reactor, host: str, port: int, wrap: Wrap) -> None:
        self._reactor = reactor
        self._host = host
        self._port = port
        self._wrap = wrap
        self._last: list[str] = []  # addresses to try last, and of these the last one at the very end

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return look_up(self._reactor, self._host, self._port).addCallback(self._connect_to_one, protocolFactory)

    def put_last(self, address: IAddress | None) -> None:
        """Try an address last from now on, since it accepted, but did not answer as a job server."""
        host: str = getattr(address, "host", "")
        self._last = [other for other in self._last if other != host]
        self._last.append(host)

    def _connect_to_one(self, addresses: list[HostAddress], protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        hosts = [address.host for address in addresses]
        self._last = [host for host in self._last if host in hosts]
        ranks = {host: rank for rank, host in enumerate(self._last)}
        hosts.sort(key=lambda host: ranks.get(host, -1))
        endpoints = [self._wrap(tcp_endpoint(self._reactor, host, self._port)) for host in hosts]
        return _Race(self._reactor, endpoints, protocol_factory).run()


class _Race:
    """Attempts to connect to one endpoint after the other, until one accepts.

    :param endpoints: one or more.
    """

    def __init__(
        self, reactor: Reactor, endpoints: list[IStreamClientEndpoint], protocol_factory: IProtocolFactory
    ) -> None:
        self._reactor = reactor
        self._endpoints: Iterator[IStreamClientEndpoint] = iter(endpoints)
        self._untried = len(endpoints)
        self._protocol_factory = protocol_factory
        self._pending: dict[Deferred[IProtocol], None] = {}
        self._timer: IDelayedCall | None = None
        self._winner: Deferred[IProtocol] = Deferred(lambda _: self._stop())

    def run(self) -> Deferred[IProtocol]:
        """Begin.

        :return: fires with the protocol that the first endpoint to accept was connected with; fails with the error of
            the last one to fail. Cancelling it gives up all attempts.
        """
        self._try_next()
        return self._winner

    def _try_next(self) -> None:
        self._stop_timer()
        self._untried -= 1
        if self._untried:
            self._timer = self._reactor.callLater(NEXT_ADDRESS_DELAY, self._time_for_next)
        attempt = maybeDeferred(next(self._endpoints).connect, self._protocol_factory)
        self._pending[attempt] = None
        attempt.addCallbacks(self._accepted, self._failed, callbackArgs=(attempt,), errbackArgs=(attempt,))

    def _time_for_next(self) -> None:
        self._timer = None
        self._try_next()

    def _accepted(self, protocol: IProtocol, attempt: Deferred[IProtocol]) -> None:
        del self._pending[attempt]
        self._stop()
        self._winner.callback(protocol)

    def _failed(self, reason: Failure, attempt: Deferred[IProtocol]) -> None:
        if attempt not in self._pending:  # it was given up
            return
        del self._pending[attempt]
        if self._untried:
            self._try_next()
        elif not self._pending:
            self._winner.errback(reason)

    def _stop(self) -> None:
        """Give up all attempts."""
        self._stop_timer()
        pending, self._pending = self._pending, {}
        for attempt in pending:
            attempt.cancel()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
