"""What client, worker, admin client and dashboard share as services."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Generic
from typing import Protocol as Interface

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python import threadable

from .connection.addresses import Address
from .connection.factory import ConnectionListener, ConnectionT, GearmanFactory
from .connection.options import ConnectionOptions
from .connection.pool import JobServer, ServerInfo, ServerPool
from .connection.reactor import Reactor, random_source, reactor_or_default
from .connection.tls import TLSOptions
from .errors import ClientStopped
from .validation import MAX_FUNCTION, name_bytes

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ContextService", "GearmanService", "PoolService", "service_repr"]


def service_repr(service: Service, servers: Iterable[ServerInfo]) -> str:
    """Return the repr of a service: its class, and the state of each of its servers."""
    states = ", ".join(f"{info.address} {info.state.value}" for info in servers)
    return f"<{type(service).__name__} of {states}>"


class ContextService(Service):
    """A service that is also an async context manager, which starts and stops it."""

    async def __aenter__(self) -> Self:
        self.startService()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stopService()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return succeed(None)


class GearmanService(ContextService):
    """What client, worker and admin client share.

    :ivar _random: the source of all random numbers of the service.
    :raises TypeError, ValueError: for an invalid argument.
    """

    def __init__(self, prefix: str | bytes, reactor: Reactor | None, connection_options: ConnectionOptions) -> None:
        prefix_bytes = name_bytes("prefix", prefix, MAX_FUNCTION)
        self._prefix = prefix_bytes + b"\t" if prefix_bytes else b""
        self._reactor = reactor_or_default(reactor)
        self._random = random_source(self._reactor)
        self._connection_options = connection_options
        # The clock of a test that uses `txgearman.testing` keeps a record of the services on it.
        self._record = getattr(self._reactor, "txgearman_services", None)
        if self._record is not None:
            self._record.service_made(self)

    def _check_thread(self) -> None:
        """Refuse a call in another thread than that of the reactor, which would tear the data that is being written.

        Each public method calls it that is not documented as thread-safe. No thread is refused before a reactor has
        been run, and none where a test drives a `Clock`.

        :raises RuntimeError: it is another thread.
        """
        reactor_thread = threadable.ioThread
        if reactor_thread not in (None, threading.get_ident()) and not isinstance(self._reactor, Clock):
            raise RuntimeError(f"{type(self).__name__} must be used in the reactor's thread: {_remedy(reactor_thread)}")


def _remedy(reactor_thread: int) -> str:
    """Return what to write instead of a call in another thread than that of the reactor."""
    if any(thread.ident == reactor_thread for thread in threading.enumerate()):
        return "write blockingCallFromThread(reactor, method, ...), of twisted.internet.threads, or use crochet"
    return "it has ended, or was not forked with this process; run the reactor after a fork, not before"


class _MakeFactory(Interface[ConnectionT]):
    """Callable that makes the factory of the connection to one server; `name` is its address."""

    def __call__(
        self, *, name: str, listener: ConnectionListener[ConnectionT], source: random.Random
    ) -> GearmanFactory[ConnectionT]: ...


class PoolService(GearmanService, Generic[ConnectionT]):
    """A service with one pool of connections, which it opens at its start or first use.

    :param changed: called when the servers changed, as by `ServerPool`.
    :raises TypeError, ValueError: for an invalid argument.
    """

    def __init__(
        self,
        job_servers: Iterable[Address],
        prefix: str | bytes,
        reactor: Reactor | None,
        connection_options: ConnectionOptions,
        tls: TLSOptions | None,
        make_factory: _MakeFactory[ConnectionT],
        changed: Callable[[JobServer[ConnectionT] | None], object] = lambda _: None,
    ) -> None:
        super().__init__(prefix, reactor, connection_options)
        self._servers = ServerPool(
            job_servers,
            self._reactor,
            partial(make_factory, source=self._random),
            changed,
            tls,
            self._random,
        )
        self._stopped = False

    def __repr__(self) -> str:
        return service_repr(self, self.servers)

    @property
    def job_servers(self) -> list[Address]:
        """Addresses of the job servers. Can be set at any time.

        New servers are connected. Those that are no longer in the list get nothing more, finish what they have, and are
        disconnected. Uniques stay with their servers, except those that a new server wins or a removed one leaves.

        :raises TypeError, ValueError: when set to an invalid list; then nothing changes.
        """
        return list(self._servers.addresses)

    @job_servers.setter
    def job_servers(self, job_servers: Iterable[Address]) -> None:
        self._check_thread()
        self._servers.change(job_servers)

    @property
    def servers(self) -> list[ServerInfo]:
        """State of each job server, in the order of ``job_servers``."""
        return [server.info() for server in self._servers]

    def startService(self) -> None:
        """Connect to all servers. A stopped service can be started again."""
        self._check_thread()
        super().startService()
        self._stopped = False
        self._use()

    def stopService(self) -> Deferred[None]:
        """Fail everything unfinished with `ClientStopped`, and disconnect. Can be called at any time, and repeatedly.

        What was written, such as background jobs, is still transmitted. Use `GearmanClient.drain` before to let tasks
        finish.

        :return: fires when no socket, timer or reader is left: within three seconds, even if a server does not read.
            Cancelling it does not undo the stop.
        """
        self._check_thread()
        super().stopService()
        self._stopped = True
        return self._disconnect()

    def _disconnect(self) -> Deferred[None]:
        return self._servers.stop(ClientStopped())

    def _use(self) -> bool:
        """Connect at the first use.

        :return: False if the service was stopped.
        """
        if not (self._servers.started or self._stopped):
            self._servers.start()
        return self._servers.started
