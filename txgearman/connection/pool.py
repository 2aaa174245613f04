"""The pool of connections to job servers: which of them are up, and which one a task goes to."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final, Generic, TypeVar
from typing import Protocol as Interface

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..errors import ClientStopped, NoServersAvailable, ServerError, merge_unavailable
from ..packets import PacketType
from ..validation import MAX_REASON, short_text
from .addresses import Address, is_plain, parse_address, takes_tls_options
from .connector import EndpointConnector
from .factory import ConnectionListener, ConnectionT, GearmanFactory
from .protocol import CLOSE_TIMEOUT, GearmanProtocol
from .reactor import Reactor, random_source, reseed
from .ring import Ring
from .tls import TLSOptions
from .waiters import Waiters

__all__ = [
    "JobServer",
    "ServerPool",
    "ServerInfo",
    "ServerState",
]

_log = Logger()

MAX_WRITABLE_TRIES: Final = 8
"""How many more servers are looked at if writing to both that were chosen is paused."""

T = TypeVar("T")
_OtherT = TypeVar("_OtherT", bound=GearmanProtocol)


class ServerState(enum.Enum):
    """State of the connection to a server."""

    STOPPED = "stopped"
    """Not connected: the service was not started, or was stopped."""
    CONNECTING = "connecting"
    """An attempt is in progress, up to the first good answer."""
    READY = "ready"
    """Tasks can be sent."""
    WAITING = "waiting"
    """The last attempt or connection failed; the next attempt follows after a delay."""


@dataclass(frozen=True)
class ServerInfo:
    """State of one job server at the time of the call.

    :ivar address: the address, as in `JobHandle.server`.
    :ivar state: see `ServerState`.
    :ivar in_flight: number of a client's tasks that were written to the server and have no outcome yet, or of a
        worker's jobs that run; 0 for an admin client.
    :ivar next_attempt: seconds until the next attempt to connect; None unless one is scheduled.
    :ivar last_error: the error of the last attempt or connection; None once a good answer was received.
    """

    address: str
    state: ServerState
    in_flight: int
    next_attempt: float | None
    last_error: Exception | None


class MakeFactory(Interface[ConnectionT]):
    """Callable that makes the factory of the connection to one server; `name` is its address."""

    def __call__(self, *, name: str, listener: ConnectionListener[ConnectionT]) -> GearmanFactory[ConnectionT]: ...


class JobServer(Generic[ConnectionT]):
    """A job server, and the connection to it.

    :ivar address: the address, which identifies the server.
    :ivar connection: the connection while it is ready, else None.
    :ivar unreachable: whether the last attempt or connection failed, so that no task should wait for this server.
    :ivar background: number of background tasks that were given to this server since the ready servers changed.
    :ivar last_error: the error of that attempt or connection; None once a good answer was received.
    :ivar streams: number of a client's streams to this server, each of which has another connection.
    :param changed: called whenever the server became ready or unreachable, with whether it became ready after it
        had been unreachable.
    """

    def __init__(
        self,
        address: str,
        endpoint: IStreamClientEndpoint,
        make_factory: MakeFactory[ConnectionT],
        changed: Callable[[JobServer[ConnectionT], bool], object],
    ) -> None:
        self.address = address
        self.connection: ConnectionT | None = None
        self.unreachable = False
        self.background = 0
        self._expected = False
        self.last_error: Exception | None = None
        self._failed_at = 0.0
        self.streams = 0
        self._endpoint = endpoint
        self._make_factory = make_factory
        self._changed = changed
        self._factory: GearmanFactory[ConnectionT] | None = None

    def clone_for(
        self,
        make_factory: MakeFactory[_OtherT],
        changed: Callable[[JobServer[_OtherT], bool], None] = lambda *_: None,
    ) -> JobServer[_OtherT]:
        """Return the same server with another connection, made by `make_factory`.

        :param changed: called when that connection is ready, is lost, or could not be made; as that of the class.
        """
        return JobServer(self.address, self._endpoint, make_factory, changed)

    def start(self) -> None:
        """Connect, and reconnect after each failure."""
        self.unreachable = self._expected = False
        self._factory = self._make_factory(name=self.address, listener=self)
        EndpointConnector(self._endpoint, self._factory).connect()

    @property
    def reachable(self) -> bool:
        """Whether the server is ready, or connecting so that tasks should wait for it."""
        return self.connection is not None or not self.unreachable

    def expect(self) -> None:
        """Try to connect now if the server is unreachable. Tasks should wait for the outcome."""
        if self.unreachable and self._factory is not None:
            self.unreachable = False
            self._expected = True
            self._factory._attempt_now()

    def expect_no_longer(self) -> None:
        """Count the server as unreachable again if it was expected, and is not ready yet."""
        self.unreachable = self.unreachable or (self._expected and self.connection is None)
        self._expected = False

    @property
    def started(self) -> bool:
        """Whether the server was started, and not stopped since."""
        return self._factory is not None

    @property
    def identity(self) -> object:
        """The address; of a caller's endpoint, whose address depends on its place in the list, the endpoint itself."""
        return self._endpoint if self.address.startswith("endpoint:") else self.address

    def leads_to(self, endpoint: IStreamClientEndpoint) -> bool:
        """Check whether the server is connected through this very endpoint."""
        return self._endpoint is endpoint

    def release_factory(self) -> GearmanFactory[ConnectionT] | None:
        """Give up the connection, and return its factory, which the caller has to stop. None if it was not started."""
        factory, self._factory = self._factory, None
        self.connection = None
        return factory

    def info(self) -> ServerInfo:
        """Return the state of the server."""
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
        """Wait for the current attempt to connect.

        :return: fires with the connection; at once if it is ready. Fails with `NoServersAvailable` if the attempt
            fails or the last one has failed, in which case the next one is brought forward; and with `ClientStopped`.
            Cancelling it only stops waiting.
        """
        if self._factory is None:
            return fail(ClientStopped())
        if self.unreachable:
            self.bring_forward()
            return fail(self.unavailable())
        return self._factory.when_ready().addErrback(self._as_unavailable)

    def ask(
        self, packet_type: PacketType, argument: bytes, *, answer: PacketType, subject: bytes | None = None
    ) -> Deferred[list[bytes]]:
        """Send a request once the server is ready.

        :return: fires and fails as with `GearmanProtocol.request`, except that it fails with `NoServersAvailable` if
            the server can't be reached or the connection is lost.
        """
        return self.use(lambda connection: connection.request(packet_type, argument, answer=answer, subject=subject))

    def use(self, call: Callable[[ConnectionT], Deferred[T]]) -> Deferred[T]:
        """Call `call` with the connection once it is ready.

        :return: fires with the outcome of the call. Fails with `NoServersAvailable` if the server can't be reached or
            the connection is lost.
        """
        return self.when_ready().addCallback(call).addErrback(self._as_unavailable)

    def bring_forward(self) -> None:
        """Have the next attempt to connect start soon, since something waits for this server."""
        if self._factory is not None:
            self._factory._bring_forward()

    def _as_unavailable(self, failure: Failure) -> Failure:
        if failure.check(NoServersAvailable, ServerError, ClientStopped, CancelledError):
            return failure
        assert failure.value is not None
        raise self._unavailable(failure.value, 0.0) from failure.value

    def connection_ready(self, connection: ConnectionT) -> None:
        if connection.factory is self._factory:
            _log.info("connected to {server}", server=self.address)
            recovered = self.unreachable
            self.connection = connection
            self.unreachable = False
            self.last_error = None
            self._changed(self, recovered)

    def connection_down(self, factory: GearmanFactory[ConnectionT], error: Exception) -> None:
        if factory is self._factory:
            fields = {"reason": short_text(str(error), MAX_REASON), "error": type(error).__name__}
            if self.connection is not None:
                _log.warn("lost the connection to {server}: {reason}", server=self.address, **fields)
            else:
                _log.info("could not connect to {server}: {reason}", server=self.address, **fields)
            self.connection = None
            self.unreachable = True
            self._expected = False
            self.last_error = error
            self._failed_at = factory.reactor.seconds()
            self._changed(self, False)

    def unavailable(self) -> NoServersAvailable:
        """Return the error for the case that the server can't be reached."""
        assert self._factory is not None
        assert self.last_error is not None
        # A clock may have been stepped back.
        return self._unavailable(self.last_error, max(0.0, self._factory.reactor.seconds() - self._failed_at))

    def _unavailable(self, reason: BaseException, age: float) -> NoServersAvailable:
        next_attempt = self.info().next_attempt
        next_attempts = {} if next_attempt is None else {self.address: next_attempt}
        return NoServersAvailable({self.address: reason}, ages={self.address: age}, next_attempts=next_attempts)

    @property
    def writing_paused(self) -> bool:
        """Whether the connection takes no data for now, or there is none."""
        return self.connection is None or self.connection.writing_paused

    def load(self, last: str, background: bool) -> tuple[bool, bool, int]:
        """Return the sort key for the choice of a ready server: the least one is the best.

        :param last: address of the server to choose last.
        :param background: whether to count the background tasks that were given to it.
        """
        assert self.connection is not None
        tasks = self.connection._load + self.streams + (self.background if background else 0)
        return self.address == last, self.connection.writing_paused, tasks


class ServerPool(Generic[ConnectionT]):
    """The job servers of a client, a worker's function group or an admin client.

    :ivar started: whether the pool was started, and not stopped since.
    :ivar only_server: the server, if there is only one; else None.
    :ivar addresses: the addresses, as they were passed.
    :ivar connecting: number of servers that are not ready, but connecting so that tasks should wait for them.
    :ivar observe: called with the state of a server that has changed, after everybody else has handled it; None for
        nobody.
    :ivar expecting: whether unreachable servers count as connecting for now, since an outage seems to be over.
    :param changed: called with a server that was connecting or ready, and is now ready or unreachable; with None if
        an unreachable one became ready, or the servers were replaced, so that any unique may have another server.
    :param tls: options for those addresses that begin with ``tls:`` and have no options of their own.
    :param source: of the random numbers; None for one of its own.
    :raises TypeError, ValueError: ``job_servers`` is empty, or has an invalid address or the same one twice; or
        ``tls`` applies to none of them.
    """

    def __init__(
        self,
        job_servers: Iterable[Address],
        reactor: Reactor,
        make_factory: MakeFactory[ConnectionT],
        changed: Callable[[JobServer[ConnectionT] | None], object],
        tls: TLSOptions | None = None,
        source: random.Random | None = None,
    ) -> None:
        self._reactor = reactor
        self._random = source or random_source(reactor)
        self._make_factory = make_factory
        self._changed = changed
        if not isinstance(tls, (TLSOptions, type(None))):
            raise TypeError(f"tls must be TLSOptions, not {type(tls).__name__}")
        self._tls = tls
        self.started = False
        # Factories of servers that were removed or stopped, and whose connections are not closed yet.
        self._leaving: dict[GearmanFactory[ConnectionT], None] = {}
        self._stopping: dict[GearmanFactory[ConnectionT], None] = {}
        self._stopped: Waiters[None] = Waiters()
        self._awaiting_ready: Waiters[None] = Waiters()
        self._by_address: dict[str, JobServer[ConnectionT]] = {}
        self._servers: list[JobServer[ConnectionT]] = []
        self._ready: list[JobServer[ConnectionT]] = []
        self._ring: Ring[JobServer[ConnectionT]] | None = None
        self.connecting = 0
        self.expecting = False
        self.observe: Callable[[ServerInfo], object] | None = None
        self.only_server: JobServer[ConnectionT] | None = None
        self.addresses: list[Address] = []
        self._set(job_servers)
        self._turn = 0

    def __len__(self) -> int:
        return len(self._servers)

    def __iter__(self) -> Iterator[JobServer[ConnectionT]]:
        return iter(self._servers)

    def connections(self) -> list[ConnectionT]:
        """Return the connections that are ready, and those to removed servers that are not closed yet."""
        ready = [server.connection for server in self._servers]
        leaving = [factory.connection for factory in self._leaving]
        return [connection for connection in (*ready, *leaving) if connection is not None]

    def _set(self, job_servers: Iterable[Address]) -> None:
        """Replace the servers. Those that are in the new list, too, keep their connection."""
        if isinstance(job_servers, (str, bytes)):
            raise TypeError(f"job_servers must be a list of addresses, not the one address {job_servers!r}")
        addresses = list(job_servers)
        servers: dict[str, JobServer[ConnectionT]] = {}
        for index, address in enumerate(addresses):
            server = self._server(address, index, servers)
            if server.address in servers:
                raise ValueError(f"job_servers: each address must be different, not {server.address!r} twice")
            servers[server.address] = server
        if not servers:
            raise ValueError("job_servers must have at least one address")
        if self._tls is not None and not any(map(takes_tls_options, addresses)):
            # A caller who passes TLS options does not want plain text.
            raise ValueError("tls must be None if job_servers has no address such as 'tls:host:port'")
        self._warn_of_plain(addresses)
        self._by_address = servers
        self._servers = list(servers.values())
        self.only_server = self._servers[0] if len(servers) == 1 else None
        self.addresses = addresses
        self._ring = None
        self._count_states()

    def _warn_of_plain(self, addresses: list[Address]) -> None:
        """Log new addresses without TLS beside others with it.

        They are not refused: servers get TLS one after the other, and some are reached through a tunnel.
        """
        plain = [address for address in addresses if is_plain(address) and address not in self.addresses]
        if plain and any(map(takes_tls_options, addresses)):
            _log.warn(
                "job_servers has addresses without TLS beside others with TLS: {plain}; "
                "write 'tls:' before them, unless plain text is meant",
                plain=", ".join(map(str, plain)),
            )

    def _server(
        self, address: Address, index: int, others: Mapping[str, JobServer[ConnectionT]]
    ) -> JobServer[ConnectionT]:
        """Return the server of an address: the present one, or a new one.

        :param index: of the address in the new list.
        :param others: the servers of the new list before it.
        """
        name, endpoint = parse_address(address, self._reactor, index, self._tls)
        if endpoint is address and not hasattr(endpoint, "server_name"):
            for server in self._servers:
                if server.leads_to(endpoint):
                    return server
            while name in self._by_address or name in others:
                index += 1
                name = f"endpoint:{index}"
        return self._by_address.get(name) or JobServer(name, endpoint, self._make_factory, self._server_changed)

    def start(self) -> None:
        """Connect to all servers, in random order: a client that has one task sends it to the first that is ready."""
        self.started = True
        reseed(self._random, self._reactor)
        self._turn = self._random.randrange(len(self._servers))
        self._connect_new()

    def _connect_new(self) -> None:
        """Connect to those servers that were not started, or were stopped since."""
        new = [server for server in self._servers if not server.started]
        for server in new:
            server.unreachable = False
        self._count_states()
        self._random.shuffle(new)
        for server in new:
            # Whatever the failure of one runs may replace the servers, or stop the pool, and start it again.
            if self.started and not server.started and self._by_address.get(server.address) is server:
                server.start()

    def change(self, job_servers: Iterable[Address], timeout: float = CLOSE_TIMEOUT) -> None:
        """Replace the servers. New ones are connected; removed ones finish what is in flight, and are disconnected.

        :param timeout: seconds until the connection of a removed server is aborted if data is still unsent at its end.
        :raises TypeError, ValueError: as for the arguments of the class; then nothing changes.
        """
        before = self._servers
        self._set(job_servers)
        if not self.started:
            return
        removed = [
            (server.connection, server.release_factory())
            for server in before
            if self._by_address.get(server.address) is not server
        ]
        self._leaving.update({factory: None for _, factory in removed if factory is not None})
        # Whatever is called from here on may replace the servers again, or stop the pool.
        for connection, factory in removed:
            if factory is not None:
                self._retire(factory, connection, timeout)
        self._observe_stopped(server for server in before if self._by_address.get(server.address) is not server)
        self._connect_new()
        self._changed(None)

    def _retire(self, factory: GearmanFactory[ConnectionT], connection: ConnectionT | None, timeout: float) -> None:
        factory._retire(connection, timeout).addCallback(lambda _: self._leaving.pop(factory, None))

    def close(self, factory: GearmanFactory[ConnectionT], error: Exception) -> None:
        """Close a connection that was made beside those of the servers. A stop waits until it is closed."""
        self._leaving[factory] = None
        factory.stop(error).addCallback(lambda _: self._leaving.pop(factory, None))

    def stop(
        self,
        error: Exception,
        timeout: float = CLOSE_TIMEOUT,
        others: Iterable[GearmanFactory[ConnectionT]] = (),
    ) -> Deferred[None]:
        """Disconnect from all servers.

        :param error: the reason, with which all outstanding requests fail.
        :param timeout: seconds until a connection is aborted if data is still unsent.
        :param others: factories of connections that were made beside those of the servers.
        :return: fires when no socket and no timer is left, of this stop or an earlier one.
        """
        self.started = self.expecting = False
        known = [server for server in self._servers if server.started]
        # All factories are detached before the first is stopped, which may run the user's code, which may start again.
        detached = [factory for server in self._servers if (factory := server.release_factory())]
        detached += [*self._leaving, *others]
        self._count_states()
        self._leaving.clear()
        self._stopping.update(dict.fromkeys(detached))
        for factory in detached:
            factory.stop(error, timeout).addCallback(self._factory_stopped, factory)
        stopped = self._stopped.wait() if self._stopping else succeed(None)
        self._observe_stopped(known)
        if self._awaiting_ready:
            self._awaiting_ready.fire(Failure(error))
        return stopped

    def _factory_stopped(self, _: None, factory: GearmanFactory[ConnectionT]) -> None:
        del self._stopping[factory]
        if not self._stopping:
            self._stopped.fire(None)

    def when_ready(self) -> Deferred[None]:
        """Wait until a server is ready.

        :return: fires once one is; at once if one is already. Fails with `NoServersAvailable` once the latest attempt
            to connect to each of them has failed, and with `ClientStopped`. Cancelling it only stops waiting.
        """
        if not self.started:
            return fail(ClientStopped())
        if not self._ready and not self.any_reachable():
            self.bring_forward()
            return fail(self.none_available())
        return succeed(None) if self._ready else self._awaiting_ready.wait()

    def _report_ready(self) -> None:
        if not self._awaiting_ready:
            return
        if self._ready:
            self._awaiting_ready.fire(None)
        elif self.started and not self.any_reachable():
            self._awaiting_ready.fire(Failure(self.none_available()))

    def by_address(self, address: str) -> JobServer[ConnectionT]:
        """Return the server of an address.

        :raises ValueError: there is none.
        """
        server = self._by_address.get(address)
        if server is None:
            raise ValueError(f"server must be one of {', '.join(self._by_address)}, not {address!r}")
        return server

    def _server_changed(self, server: JobServer[ConnectionT], recovered: bool) -> None:
        self._count_states()
        info = None if self.observe is None else server.info()
        self._changed(None if recovered else server)
        if self.observe is not None and info is not None:
            self.observe(info)
        self._report_ready()

    def _observe_stopped(self, servers: Iterable[JobServer[ConnectionT]]) -> None:
        if self.observe is not None:
            for server in servers:
                self.observe(server.info())

    def _count_states(self) -> None:
        self._ready = []
        self.connecting = 0
        for server in self._servers:
            if server.connection is not None:
                self._ready.append(server)
                server.background = 0  # else one that is new would get all until it has as many as the others
            elif server.reachable:
                self.connecting += 1
        self._brought_forward = False

    @property
    def ready(self) -> Sequence[JobServer[ConnectionT]]:
        """The servers that are ready."""
        return self._ready

    def any_reachable(self) -> bool:
        """Check whether a server is ready, or connecting so that tasks should wait for it."""
        return bool(self._ready) or self.connecting > 0

    def bring_forward(self) -> None:
        """Have the next attempts to connect start soon, since something waits for a server."""
        if not self._brought_forward:  # since an attempt has failed: many tasks may come meanwhile
            self._brought_forward = True
            for server in self._servers:
                server.bring_forward()

    def expect_all(self) -> None:
        """Try to connect to all unreachable servers now, and count them as connecting: an outage seems to be over.

        Otherwise the first one that can be reached would get all tasks that wait.
        """
        self.expecting = True
        for server in self._servers:
            server.expect()
        self._count_states()

    def expect_no_longer(self) -> None:
        """End what `expect_all` began: servers that are not ready yet are unreachable again."""
        if self.expecting:
            self.expecting = False
            for server in self._servers:
                server.expect_no_longer()
            self._count_states()
            self._changed(None)

    def none_available(self) -> NoServersAvailable:
        """Return the error for the case that no server can be reached."""
        return merge_unavailable(server.unavailable() for server in self._servers)

    # The choice of a server. It takes the same time whether there are few servers or many.

    def choose(
        self, unique: bytes, attempt: int = 0, last: str = "", background: bool = False
    ) -> JobServer[ConnectionT] | None:
        """Choose the server for a task.

        :param unique: unique of the task; empty if it has none. Tasks with the same unique go to the same server: the
            first one in rank that is reachable.
        :param attempt: how often the task was submitted before. Each attempt begins at the next server in rank.
        :param last: address of the server that the task was sent to last. Without a unique, it goes to another one.
        :param background: whether it is a background task. Of these, those without a unique count as long as the ready
            servers are the same, since nobody reports the end of their jobs.
        :return: a server that is ready, or for which the task should wait; None if any will do, but none is ready, or
            if none is reachable.
        """
        if unique and self.only_server is None:
            ring = self._ring or self._make_ring()
            if not attempt:
                owner = ring.owner(unique)
                if owner.connection is not None or not owner.unreachable:
                    return owner
            return self._next_in_rank(ring, unique, attempt)
        # The less busy one of two ready servers: the next in turn, and a random one.
        ready = self._ready
        count = len(ready)
        if count < 2:
            return ready[0] if ready else None
        turn = self._turn = (self._turn + 1) % count
        first = ready[turn]
        second = ready[turn - 1 - int(self._random.random() * (count - 1))]  # any other one
        one, two = first.connection, second.connection
        assert one is not None
        assert two is not None
        if last or one.writing_paused or two.writing_paused:
            chosen = self._best_of(first, second, last, background)
        elif background:
            busy = one.in_flight + first.background + first.streams
            chosen = second if two.in_flight + second.background + second.streams < busy else first
        else:
            chosen = second if two.in_flight + second.streams < one.in_flight + first.streams else first
        if background:
            chosen.background += 1
        return chosen

    def ranked(self, unique: bytes) -> list[JobServer[ConnectionT]]:
        """Return the servers in the order in which they are tried for a unique."""
        return self._servers if self.only_server is not None else list((self._ring or self._make_ring()).ranked(unique))

    def candidates(self, unique: bytes) -> list[JobServer[ConnectionT]]:
        """Return all servers: by rank for a unique, else beginning at a random one."""
        if unique:
            return self.ranked(unique)
        first = int(self._random.random() * len(self._servers))
        return self._servers[first:] + self._servers[:first]

    def _next_in_rank(
        self, ring: Ring[JobServer[ConnectionT]], unique: bytes, attempt: int
    ) -> JobServer[ConnectionT] | None:
        if not self.any_reachable():
            return None
        rank = ring.ranked(unique)
        passed = list(islice(rank, attempt % len(self._servers)))
        return next((server for server in chain(rank, passed) if server.reachable), None)

    def _make_ring(self) -> Ring[JobServer[ConnectionT]]:
        self._ring = Ring(self._by_address)
        return self._ring

    def _best_of(
        self, first: JobServer[ConnectionT], second: JobServer[ConnectionT], last: str, background: bool
    ) -> JobServer[ConnectionT]:
        """Return the best one of two ready servers, or else a later one to which writing is not paused."""
        best = min(first, second, key=lambda server: server.load(last, background))
        if not best.writing_paused:
            return best
        later = islice(chain(self._ready[self._turn + 1 :], self._ready), MAX_WRITABLE_TRIES)
        return next((server for server in later if not (server.writing_paused or server.address == last)), best)
