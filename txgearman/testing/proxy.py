"""`FaultProxy`: stands between a client or a worker and a real job server, and simulates network faults."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorTCP
from twisted.internet.protocol import ServerFactory
from twisted.python.failure import Failure

from ..connection.addresses import is_plain, parse_address
from ..connection.waiters import Waiters
from .faults import Fault
from .network_faults import NetworkFaults
from .ports import check_port, host_and_port
from .relay import Direction, Relay, RelayEnd

if TYPE_CHECKING:
    from typing_extensions import Self


class FaultProxy:
    """A TCP proxy that simulates network faults, for tests against a real job server, on real sockets.

    ::

        async with FaultProxy("127.0.0.1:4730") as proxy, GearmanClient([proxy.address]) as client:
            with proxy.go_down():
                ...                               # there is no server
            proxy.drop_after(100, Direction.TO_CLIENT)
            ...                                   # the connection is lost within an answer

    Each fault is active until it has happened as often as was requested, or until `Fault.end`; in a ``with`` statement,
    until the end of the block. Several faults may be active at once. Where a method takes directions, none means both.

    The proxy behaves as a network does. Bytes keep their order. A sender that sends more than the receiver, or a fault,
    lets pass has to wait: the proxy reads a mebibyte ahead at most. A clean close and a reset are passed on after what
    was sent before; while nothing passes, neither do they. While the job server can't be reached, a connection is
    accepted and then reset.
    """

    def __init__(self, job_server: str, reactor: Any = None, *, port: int = 0, interface: str = "127.0.0.1") -> None:
        """Listen at once.

        :param job_server: the server's address: ``"host"``, ``"host:port"`` or ``"[v6]:port"``. TLS passes through
            unchanged.
        :param reactor: None for the global reactor.
        :param port: the port to listen on; 0 for any free port.
        :raises TypeError, ValueError: for an invalid argument.
        :raises twisted.internet.error.CannotListenError: the port is in use, or not allowed.
        """
        if reactor is None:
            from twisted.internet import reactor
        sockets: Any = reactor
        if not IReactorTCP.providedBy(reactor):
            raise ValueError(f"reactor must provide IReactorTCP, not {reactor!r}: for a Clock, see MemoryJobServer")
        check_port(port)
        self._reactor = sockets
        _, self._endpoint = parse_address(job_server, sockets)
        if not is_plain(job_server):
            raise ValueError(f"job_server must be 'host', 'host:port' or '[v6]:port', not {job_server!r}")
        self._relays: dict[Relay, None] = {}
        self._faults = NetworkFaults(self._reactor, self._relays, self._accept)
        self._all_gone: Waiters[None] = Waiters()
        self._closed = False
        self._port = _Port(self._reactor, _RelayFactory(self._new_relay), interface, port)

    @property
    def address(self) -> str:
        """The address of the proxy, as `GearmanClient` and `GearmanWorker` take it."""
        return host_and_port(*self._port.address)

    @property
    def connections(self) -> int:
        """The number of open connections to the proxy."""
        return len(self._relays)

    # Faults of connections.

    def refuse_connections(self) -> Fault:
        """Refuse new connections; open ones stay open.

        `Fault.happened` is 1 at once: how many connections the kernel refuses is not known.
        """
        fault = self._faults.refuse_connections()
        self._port.close()
        return fault

    def go_down(self, *, reset: bool = False) -> Fault:
        """Drop every connection and refuse new ones, until the `Fault` ends.

        :param reset: as for `drop_connections`.
        """
        fault = self.refuse_connections()
        self._drop_all(reset)
        return fault

    def black_hole_connections(self) -> Fault:
        """Accept new connections and never read from them, as a gearmand that has no file descriptor left (H12).

        Such a connection stays so after the fault has ended.
        """
        return self._faults.black_hole_connections()

    def drop_connections(self, *, reset: bool = False) -> None:
        """Drop every connection now, on both sides. What is in transit in the proxy is lost.

        :param reset: whether by a reset (RST). By default, they are closed cleanly (FIN), as by a process that exits.
        :raises AssertionError: nothing is connected.
        """
        if not self._relays:
            raise AssertionError("drop_connections() needs a connection, but no client or worker is connected")
        self._drop_all(reset)

    def drop_after(self, size: int, direction: Direction, *, reset: bool = False, times: int | None = 1) -> Fault:
        """Drop the connection on which this many bytes have passed in one direction. They still arrive.

        On Linux, the receiver's connection is closed or reset after the receiver's kernel has acknowledged them: within
        some hundredths of a second, or, if its receive buffer is full, once its program has read enough. Until then,
        what the receiver sends is read and discarded. `close` and `drop_connections` do not wait for that. On other
        systems, the acknowledgement is not known: the proxy waits until its own kernel has taken everything, and what
        the receiver has not read may be lost. The same applies to a reset that is passed on.

        :param size: bytes, counted on each connection from now on or from its first byte.
        :param reset: as for `drop_connections`.
        :param times: how many connections are dropped; None for each, including new ones.
        :raises TypeError, ValueError: for an invalid argument.
        """
        return self._faults.drop_after(size, direction, reset=reset, times=times)

    # Faults of what passes.

    def fall_silent(self, *directions: Direction) -> Fault:
        """Let nothing pass, and read nothing. What was sent meanwhile passes when the `Fault` ends."""
        return self._faults.fall_silent(*directions)

    def delay(self, seconds: float, *directions: Direction) -> Fault:
        """Let everything pass late.

        :param seconds: from when it was received.
        :raises TypeError, ValueError: for an invalid argument.
        """
        return self._faults.delay(seconds, *directions)

    def split(self, size: int, *directions: Direction) -> Fault:
        """Let everything pass in pieces.

        :param size: bytes in a piece, each of which is sent, and received if the receiver keeps up, by itself.
        :raises TypeError, ValueError: for an invalid argument.
        """
        return self._faults.split(size, *directions)

    def corrupt_byte(self, offset: int, direction: Direction, *, times: int | None = 1) -> Fault:
        """Invert all bits of one byte.

        :param offset: how many bytes pass before it, on each connection from now on or from its first byte.
        :param times: on how many connections; None for each, including new ones.
        :raises TypeError, ValueError: for an invalid argument.
        """
        return self._faults.corrupt_byte(offset, direction, times=times)

    def corrupt(self, rate: float, *directions: Direction, seed: int = 0) -> Fault:
        """Alter bytes at random.

        :param rate: the share of bytes that are altered: 0.001 for about one in a thousand.
        :param seed: of the random numbers that choose the bytes and what they become.
        :raises TypeError, ValueError: for an invalid argument.
        """
        return self._faults.corrupt(rate, *directions, seed=seed)

    def verify(self) -> None:
        """Check that every fault has happened.

        `close` does so, too.

        :raises AssertionError: naming each fault that has not happened, and why.
        """
        self._faults.verify()

    # The end.

    def close(self, *, verify: bool = True) -> Deferred[None]:
        """Drop every connection, stop listening, and `verify`.

        :param verify: False for faults that need not have happened, such as those injected at random.
        :return: fires when nothing is left in the reactor. Fails with `AssertionError` for a fault that has not
            happened.
        """
        self._closed = True
        verified = maybeDeferred(self.verify) if verify else succeed(None)
        self._port.close()
        self._port.release()
        self._drop_all(reset=True)
        gone = self._all_gone.wait() if self._relays else succeed(None)
        return gone.addCallback(lambda _: verified)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # An exception of the test is more important than faults that it did not reach.
        await self.close(verify=error is None)

    # Connections.

    def _new_relay(self) -> Relay:
        black_hole = self._faults.connection_made()
        relay = Relay(self._reactor, self._faults, None if black_hole else self._endpoint, self._relay_gone)
        self._relays[relay] = None
        return relay

    def _relay_gone(self, relay: Relay) -> None:
        del self._relays[relay]
        if not self._relays:
            self._all_gone.fire(None)

    def _drop_all(self, reset: bool) -> None:
        for relay in list(self._relays):
            relay.drop(reset)

    def _accept(self) -> None:
        """Listen again, unless another fault still refuses connections."""
        if not (self._closed or self._faults.refusing):
            self._port.open()


class _RelayFactory(ServerFactory):
    """Accepts the connections of clients and workers."""

    noisy = False

    def __init__(self, new_relay: Callable[[], Relay]) -> None:
        self._new_relay = new_relay

    def buildProtocol(self, addr: IAddress | None) -> RelayEnd:
        return self._new_relay().client


class _Port:
    """A listening port that can be closed and opened again at the same address.

    :ivar address: its host and port.
    """

    def __init__(self, reactor: Any, factory: ServerFactory, interface: str, port: int) -> None:
        self._reactor = reactor
        self._factory = factory
        self._reservation: socket.socket | None = None
        self._listening: Any = None
        self.address: tuple[str, int] = (interface, port)
        host: Any = self.open().getHost()
        self.address = (host.host, host.port)

    def open(self) -> IListeningPort:
        """Accept connections."""
        self.release()
        host, port = self.address
        listening: IListeningPort = self._reactor.listenTCP(port, self._factory, interface=host)
        self._listening = listening
        return listening

    def close(self) -> None:
        """Refuse connections from now on, not only from the reactor's next turn. The port is kept from others."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.stopReading()
            listening.connectionLost(Failure(ConnectionDone()))
            self._reserve(listening.addressFamily)

    def release(self) -> None:
        """Let others have the port, if it is closed."""
        reservation, self._reservation = self._reservation, None
        if reservation is not None:
            reservation.close()

    def _reserve(self, family: int) -> None:
        self._reservation = socket.socket(family)
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reservation.bind(self.address)
