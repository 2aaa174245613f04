"""Asks servers to drop jobs: in the text protocol, over connections of its own.

The connection to a server is made for the first job to drop, and closed when no answer is outstanding.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TypeVar

from twisted.internet.defer import Deferred, succeed

from ..admin.commands import cancel_job
from ..admin.protocol import AdminFactory, AdminProtocol
from ..connection.factory import ConnectionListener, GearmanFactory
from ..connection.options import ConnectionOptions
from ..connection.pool import JobServer
from ..connection.reactor import Reactor
from ..connection.waiters import Waiters
from ..errors import ClientStopped
from .protocol import GearmanClientProtocol

__all__ = ["JobCanceller"]

T = TypeVar("T")


class _SharedConnection:
    """A connection to one server.

    :ivar outstanding: number of commands that wait for their answer on it.
    """

    def __init__(self, server: JobServer[AdminProtocol]) -> None:
        self.server = server
        self.outstanding = 0


class JobCanceller:
    """Asks servers to drop jobs."""

    def __init__(self, reactor: Reactor, connection_options: ConnectionOptions, source: random.Random) -> None:
        self._reactor = reactor
        self._connection_options = connection_options
        self._random = source
        self._connections: dict[JobServer[GearmanClientProtocol], _SharedConnection] = {}
        self._closing: dict[GearmanFactory[AdminProtocol], None] = {}
        self._closed: Waiters[None] = Waiters()

    def cancel(self, server: JobServer[GearmanClientProtocol], handle: bytes) -> Deferred[None]:
        """Ask a server to drop a job.

        :return: as for `GearmanAdmin.cancel_job`.
        :raises ValueError: the handle can't be sent.
        """
        command = cancel_job(handle)
        connection = self._connections.get(server)
        if connection is None:
            connection = self._connections[server] = _SharedConnection(server.clone_for(self._make_factory))
            connection.server.start()
        connection.outstanding += 1
        answered = connection.server.use(lambda protocol: protocol.ask(command.line))
        answered.addBoth(self._release, server, connection)
        return answered.addCallback(command.parse)

    def _make_factory(self, *, name: str, listener: ConnectionListener[AdminProtocol]) -> AdminFactory:
        # A command is answered within server_timeout, and no connection stays for longer than its commands.
        options = replace(self._connection_options, heartbeat=None)
        return AdminFactory(
            self._reactor, name=name, listener=listener, connection_options=options, source=self._random
        )

    def _release(self, outcome: T, server: JobServer[GearmanClientProtocol], connection: _SharedConnection) -> T:
        """Close the connection if no answer is outstanding on it."""
        connection.outstanding -= 1
        if not connection.outstanding:
            if self._connections.get(server) is connection:
                del self._connections[server]
            self._close(connection)
        return outcome

    def _close(self, connection: _SharedConnection) -> None:
        factory = connection.server.release_factory()
        if factory is not None:
            self._closing[factory] = None
            factory.stop(ClientStopped()).addCallback(self._factory_closed, factory)

    def _factory_closed(self, _: None, factory: GearmanFactory[AdminProtocol]) -> None:
        del self._closing[factory]
        if not self._closing:
            self._closed.fire(None)

    def stop(self) -> Deferred[None]:
        """Fail outstanding commands with `ClientStopped`, and disconnect.

        :return: fires when no socket and no timer is left.
        """
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            self._close(connection)
        return self._closed.wait() if self._closing else succeed(None)
