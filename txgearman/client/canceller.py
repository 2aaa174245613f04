"""Has servers drop jobs for a client: in the text protocol, which has connections of its own.

A connection is made when the first job is to be dropped, and closed when the answer to the last one has come.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, succeed

from ..admin.commands import cancel_job
from ..admin.protocol import AdminFactory, AdminProtocol
from ..connection.factory import GearmanFactory
from ..connection.options import ConnectionOptions
from ..connection.pool import JobServer
from ..connection.reactor import Reactor
from ..connection.waiters import Waiters
from ..errors import ClientStopped
from .protocol import GearmanClientProtocol

__all__ = ["JobCanceller"]


class _SharedConnection:
    """A connection, and how many wait for answers on it."""

    def __init__(self, server: JobServer[AdminProtocol]) -> None:
        self.server = server
        self.count = 0


class JobCanceller:
    """Has servers drop jobs."""

    def __init__(self, reactor: Reactor, connection_options: ConnectionOptions) -> None:
        self._make_factory = partial(AdminFactory, reactor, connection_options=connection_options)
        self._uses: dict[JobServer[GearmanClientProtocol], _SharedConnection] = {}
        self._closing: dict[GearmanFactory[AdminProtocol], None] = {}
        self._closed: Waiters[None] = Waiters()

    def cancel(self, server: JobServer[GearmanClientProtocol], handle: bytes) -> Deferred[None]:
        """Ask a server to drop a job.

        :return: as `GearmanAdmin.cancel_job`.
        :raises ValueError: the handle can't be sent.
        """
        command = cancel_job(handle)
        use = self._uses.get(server)
        if use is None:
            use = self._uses[server] = _SharedConnection(server.clone_for(self._make_factory))
            use.server.start()
        use.count += 1
        asked = use.server.use(lambda connection: connection.ask(command.line))
        return asked.addBoth(self._answered, server, use).addCallback(command.parse)

    def _answered(self, outcome: Any, server: JobServer[GearmanClientProtocol], use: _SharedConnection) -> Any:
        use.count -= 1
        if not use.count:
            if self._uses.get(server) is use:
                del self._uses[server]
            self._close(use)
        return outcome

    def _close(self, use: _SharedConnection) -> None:
        factory = use.server.release_factory()
        if factory is not None:
            self._closing[factory] = None
            factory.stop(ClientStopped()).addCallback(self._factory_closed, factory)

    def _factory_closed(self, _: None, factory: GearmanFactory[AdminProtocol]) -> None:
        del self._closing[factory]
        if not self._closing:
            self._closed.fire(None)

    def stop(self) -> Deferred[None]:
        """Fail what is not answered with `ClientStopped`.

        :return: fires when no socket and no timer is left.
        """
        uses, self._uses = self._uses, {}
        for use in uses.values():
            self._close(use)
        return self._closed.wait() if self._closing else succeed(None)
