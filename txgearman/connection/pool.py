"""Many job servers: their addresses, whether they are there, and which of them a task goes to."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Generic, TypeVar
from typing import Protocol as Interface

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..errors import ClientStopped, NoServersAvailable, ServerError
from ..packets import PacketType
from .addresses import Address, parse_address, takes_tls_options
from .connector import EndpointConnector
from .factory import ConnectionListener, ConnectionT, GearmanFactory
from .options import CONNECT_TIMEOUT
from .protocol import CLOSE_TIMEOUT, GearmanProtocol
from .reactor import Reactor
from .tls import TLSOptions
from .waiters import Waiters

__all__ = [
    "JobServer",
    "ServerPool",
    "ServerInfo",
    "ServerState",
]

_log = Logger()

T = TypeVar("T")
_OtherT = TypeVar("_OtherT", bound=GearmanProtocol)


class ServerState(enum.Enum):
    """How the connection to a server is."""

    STOPPED = "stopped"
    """No connection is wanted: the client was not started, or was stopped."""
    CONNECTING = "connecting"
    """An attempt is under way, up to the first good answer."""
    READY = "ready"
    """Tasks can be sent."""
    WAITING = "waiting"
    """The last attempt or connection failed; the next attempt comes after a delay."""


@dataclass(frozen=True)
class ServerInfo:
    """One of a client's job servers at the time of asking.

    :ivar address: as `JobHandle.server` names it.
    :ivar state: see `ServerState`.
    :ivar in_flight: tasks that were written to it and have no outcome yet.
    :ivar next_attempt: seconds to the next attempt to connect; None unless one is planned.
    :ivar last_error: what ended the last attempt or connection; None since the last good answer.
    """

    address: str
    state: ServerState
    in_flight: int
    next_attempt: float | None
    last_error: Exception | None


class MakeFactory(Interface[ConnectionT]):
    """Makes the factory for the connection to one server."""

    def __call__(self, *, name: str, listener: ConnectionListener[ConnectionT]) -> GearmanFactory[ConnectionT]: ...


class JobServer(Generic[ConnectionT]):
    """One job server, and the connection to it.

    :ivar address: its name.
    :ivar connection: the connection, while it is ready; else None.
    :ivar unreachable: whether the last attempt or connection failed, so that nothing should wait for this server.
    """

    def __init__(
        self,
        address: str,
        endpoint: IStreamClientEndpoint,
        make_factory: MakeFactory[ConnectionT],
        changed: Callable[[], None],
    ) -> None:
        self.address = address
        self.connection: ConnectionT | None = None
        self.unreachable = False
        self.last_error: Exception | None = None
        self._endpoint = endpoint
        self._make_factory = make_factory
        self._changed = changed
        self._factory: GearmanFactory[ConnectionT] | None = None
        self._key = blake2b(address.encode()).digest()

    def clone_for(self, make_factory: MakeFactory[_OtherT]) -> JobServer[_OtherT]:
        """The same server, for another connection."""
        return JobServer(self.address, self._endpoint, make_factory, lambda: None)

    def start(self) -> None:
        """Connect, and keep connected."""
        self.unreachable = False
        self._factory = self._make_factory(name=self.address, listener=self)
        EndpointConnector(self._endpoint, self._factory).connect()

    @property
    def started(self) -> bool:
        """Whether a connection is wanted."""
        return self._factory is not None

    def leads_to(self, endpoint: IStreamClientEndpoint) -> bool:
        """Whether this very endpoint is its own."""
        return self._endpoint is endpoint

    def release_factory(self) -> GearmanFactory[ConnectionT] | None:
        """Be stopped, and hand out the factory that is to be stopped, if there is one."""
        factory, self._factory = self._factory, None
        self.connection = None
        return factory

    def info(self) -> ServerInfo:
        """What is to be told of it."""
        factory = self._factory
        if factory is None:
            return ServerInfo(self.address, ServerState.STOPPED, 0, None, self.last_error)
        if self.connection is not None:
            return ServerInfo(self.address, ServerState.READY, self.connection.in_flight, None, None)
        if factory.connecting:
            return ServerInfo(self.address, ServerState.CONNECTING, 0, None, self.last_error)
        next_attempt = factory.next_attempt
        seconds = None if next_attempt is None else max(0.0, next_attempt - factory.reactor.seconds())
        return ServerInfo(self.address, ServerState.WAITING, 0, seconds, self.last_error)

    def when_ready(self) -> Deferred[ConnectionT]:
        """Await the attempt to connect that is under way.

        :return: fires with the connection. Fails with `NoServersAvailable` if the attempt fails, or did just before.
        """
        if self._factory is None:
            return fail(ClientStopped())
        if self.unreachable:
            return fail(NoServersAvailable({self.address: self.reason()}))
        return self._factory.when_ready().addErrback(self._as_unavailable)

    def ask(
        self, packet_type: PacketType, argument: bytes, *, answer: PacketType, subject: bytes | None = None
    ) -> Deferred[list[bytes]]:
        """Ask this server something, when it is ready.

        See `GearmanProtocol.request`; but fails with `NoServersAvailable` where the server can't be reached.
        """
        return self.use(lambda connection: connection.request(packet_type, argument, answer=answer, subject=subject))

    def use(self, call: Callable[[ConnectionT], Deferred[T]]) -> Deferred[T]:
        """Call with the connection, when it is ready.

        :return: fires as what was called does; but fails with `NoServersAvailable` where the server can't be reached,
            or the connection goes.
        """
        return self.when_ready().addCallback(call).addErrback(self._as_unavailable)

    def _as_unavailable(self, failure: Failure) -> Failure:
        if failure.check(NoServersAvailable, ServerError, ClientStopped, CancelledError):
            return failure
        assert failure.value is not None
        raise NoServersAvailable({self.address: failure.value}) from failure.value

    def connection_ready(self, connection: ConnectionT) -> None:
        """For the factory."""
        if connection.factory is self._factory:
            _log.info("{address}: ready", address=self.address)
            self.connection = connection
            self.unreachable = False
            self.last_error = None
            self._changed()

    def connection_down(self, factory: GearmanFactory[ConnectionT], error: Exception) -> None:
        """For the factory."""
        if factory is self._factory:
            _log.info("{address}: {error}", address=self.address, error=error)
            self.connection = None
            self.unreachable = True
            self.last_error = error
            self._changed()

    def reason(self) -> Exception:
        """Why it can't be reached."""
        assert self.last_error is not None
        return self.last_error

    def load(self, avoided: str = "") -> tuple[int, bool, bool, int]:
        """The smaller, the better is it to send it something.

        :param avoided: the address of a server that is to be the last choice of those that are alike.
        """
        avoid = self.address == avoided
        if self.connection is not None:
            return 0, avoid, self.connection.writing_paused, self.connection.load
        return 2 if self.unreachable else 1, avoid, False, 0

    def score(self, unique: bytes) -> bytes:
        """Its rank for a unique: the highest wins. (Rendezvous hashing: a server that comes or goes moves only the
        uniques that it wins or loses.)"""
        return blake2b(unique, digest_size=8, key=self._key).digest()


class ServerPool(Generic[ConnectionT]):
    """All the job servers of one client or worker."""

    def __init__(
        self,
        job_servers: Iterable[Address],
        reactor: Reactor,
        make_factory: MakeFactory[ConnectionT],
        changed: Callable[[], None],
        connect_timeout: float = CONNECT_TIMEOUT,
        tls: TLSOptions | None = None,
    ) -> None:
        """
        :param changed: called whenever a server has become ready, or refused.
        :param connect_timeout: seconds that a connection to a host may take.
        :param tls: for those of the addresses that begin with ``tls:`` and have no options of their own.
        :raises TypeError, ValueError: ``job_servers`` is empty, has an address twice, or one that can't be read; or
            ``tls`` is for none of them.
        """
        self._reactor = reactor
        self._make_factory = make_factory
        self._changed = changed
        self._connect_timeout = connect_timeout
        if not isinstance(tls, (TLSOptions, type(None))):
            raise TypeError(f"tls must be TLSOptions, not {type(tls).__name__}")
        self._tls = tls
        self.started = False
        """Whether connections are wanted."""
        self._turn = 0
        # Factories of servers that are left or stopped, with connections that are not gone yet.
        self._leaving: dict[GearmanFactory[ConnectionT], None] = {}
        self._stopping: dict[GearmanFactory[ConnectionT], None] = {}
        self._stopped: Waiters[None] = Waiters()
        self._by_address: dict[str, JobServer[ConnectionT]] = {}
        self._servers: list[JobServer[ConnectionT]] = []
        self.only_server: JobServer[ConnectionT] | None = None
        self.addresses: list[Address] = []
        """As they were given."""
        self._set(job_servers)

    def __len__(self) -> int:
        return len(self._servers)

    def __iter__(self) -> Iterator[JobServer[ConnectionT]]:
        return iter(self._servers)

    def _set(self, job_servers: Iterable[Address]) -> None:
        """Take these for the servers; those that were there before stay what they are."""
        if isinstance(job_servers, (str, bytes)):
            raise TypeError(f"job_servers must be a list of addresses, not the one address {job_servers!r}")
        addresses = list(job_servers)
        servers: dict[str, JobServer[ConnectionT]] = {}
        for place, address in enumerate(addresses):
            server = self._server(address, place, servers)
            if server.address in servers:
                raise ValueError(f"job_servers: {server.address} is there twice")
            servers[server.address] = server
        if not servers:
            raise ValueError("job_servers must have at least one address")
        if self._tls is not None and not any(map(takes_tls_options, addresses)):
            # Whoever gives them does not mean plain text.
            raise ValueError("tls is for addresses such as 'tls:host:port', and job_servers has none")
        self._by_address = servers
        self._servers = list(servers.values())
        self.only_server = self._servers[0] if len(servers) == 1 else None
        """The server, if there is but one."""
        self.addresses = addresses

    def _server(
        self, address: Address, place: int, others: Mapping[str, JobServer[ConnectionT]]
    ) -> JobServer[ConnectionT]:
        """The server of this address: the one that is here, or else a new one.

        :param others: those that it will be beside.
        """
        name, endpoint = parse_address(address, self._reactor, place, self._connect_timeout, self._tls)
        if endpoint is address:
            for server in self._servers:
                if server.leads_to(endpoint):
                    return server
            while name in self._by_address or name in others:
                place += 1
                name = f"endpoint:{place}"
        return self._by_address.get(name) or JobServer(name, endpoint, self._make_factory, self._changed)

    def start(self) -> None:
        """Connect to all of them."""
        self.started = True
        for server in self._servers:
            server.start()

    def change(self, job_servers: Iterable[Address], timeout: float = CLOSE_TIMEOUT) -> None:
        """Have these servers from now on. New ones are connected; those that are no longer there finish what they have.

        :param timeout: seconds that what was written to those may take to go out at the end.
        :raises TypeError, ValueError: as at the beginning; then nothing is changed.
        """
        before = self._servers
        self._set(job_servers)
        if not self.started:
            return
        left = [(server.connection, server.release_factory()) for server in before if server not in self._servers]
        self._leaving.update({factory: None for _, factory in left if factory is not None})
        # Those who are told of what comes now may change the servers again, or stop.
        for connection, factory in left:
            if factory is not None:
                self._retire(factory, connection, timeout)
        for server in self._servers:
            if self.started and server in self._servers and not server.started:
                server.start()
        self._changed()

    def _retire(self, factory: GearmanFactory[ConnectionT], connection: ConnectionT | None, timeout: float) -> None:
        factory.retire(connection, timeout).addCallback(lambda _: self._leaving.pop(factory, None))

    def stop(self, error: Exception, timeout: float = CLOSE_TIMEOUT) -> Deferred[None]:
        """Disconnect from all of them.

        :param timeout: seconds that what was written may take to go out.

        :return: fires when no socket and no timer is left, of this stop or an earlier one.
        """
        self.started = False
        # All are detached before the first is stopped: what a stop fails may run anybody's code, which may start anew.
        detached = [factory for server in self._servers if (factory := server.release_factory())]
        detached += self._leaving
        self._leaving.clear()
        self._stopping.update(dict.fromkeys(detached))
        for factory in detached:
            factory.stop(error, timeout).addCallback(self._factory_stopped, factory)
        return self._stopped.wait() if self._stopping else succeed(None)

    def _factory_stopped(self, _: None, factory: GearmanFactory[ConnectionT]) -> None:
        del self._stopping[factory]
        if not self._stopping:
            self._stopped.fire(None)

    def by_address(self, address: str) -> JobServer[ConnectionT]:
        """
        :raises ValueError: it is none of them.
        """
        server = self._by_address.get(address)
        if server is None:
            raise ValueError(f"{address!r} is none of the job servers here: {', '.join(self._by_address)}")
        return server

    def choose(self, unique: bytes, attempt: int = 0, last: str = "") -> ConnectionT | None:
        """Choose the connection for a task.

        :param unique: what coalesces; empty for nothing. Tasks with the same one go to the same server: the first
            in rank that is not down.
        :param attempt: how often the task was submitted before. Each time it goes to the next in rank.
        :param last: the address of the server that it was sent to last. Without a unique it goes to another one.
        :return: a connection that is ready; or None, if a server that the task should wait for is just connecting.
        :raises NoServersAvailable: there is none of either.
        """
        by_rank = unique and len(self._servers) > 1
        for server in self.ranked(unique, attempt) if by_rank else [self._least_loaded(last)]:
            if server.connection is not None:
                return server.connection
            if not server.unreachable:
                return None
        raise self.none_available()

    def none_available(self) -> NoServersAvailable:
        """Why no server can be reached, if none can."""
        return NoServersAvailable({server.address: server.reason() for server in self._servers})

    def any_reachable(self) -> bool:
        """Whether there is a server that tasks can be sent to, or should wait for."""
        return any(server.connection is not None or not server.unreachable for server in self._servers)

    def ranked(self, unique: bytes, attempt: int = 0) -> list[JobServer[ConnectionT]]:
        """The servers in the order in which they are tried for a unique."""
        if len(self._servers) == 1:
            return self._servers
        ranked = sorted(self._servers, key=lambda server: server.score(unique), reverse=True)
        first = attempt % len(ranked)
        return ranked[first:] + ranked[:first]

    def _least_loaded(self, last: str) -> JobServer[ConnectionT]:
        """Of the ready servers, or else of those that connect, the least busy one. Equal ones take turns."""
        if len(self._servers) == 1:
            return self._servers[0]
        self._turn = (self._turn + 1) % len(self._servers)
        turn = self._servers[self._turn :] + self._servers[: self._turn]
        return min(turn, key=lambda server: server.load(last))
