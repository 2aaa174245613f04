"""Sends the tasks of streams, each on a connection that it has to itself.

A caller that is slower than its stream pauses the reading from the server, which must stop nobody else. So a stream
does not share the client's connection to the server. Its own one is made when no idle one is left, and is reused once
no answer is due on it, though a job whose task was cancelled may still run there. Idle connections without such jobs
are closed after `IDLE_SECONDS`, or at once where there are `MAX_IDLE` others. One with a job is not closed: the server
might then drop the job together with tasks that have joined it (H1, L1).

A stream goes to the server that the pool would choose for it. If the server can be reached but accepts no further
connection, the next one gets the stream. The connection that failed is retried with back-off, and its server gets no
streams until then.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.error import ConnectionDone

from ..connection.factory import GearmanFactory
from ..connection.pool import JobServer, MakeFactory, ServerPool
from ..connection.reactor import Reactor
from ..connection.timers import DeadlineQueue
from ..errors import ClientStopped, NoServersAvailable, merge_unavailable
from .fresh_attempt import AwaitingAttempt
from .protocol import GearmanClientProtocol
from .task import Task, TaskHolder
from .task_queue import release_all, report_all

__all__ = ["IDLE_SECONDS", "MAX_IDLE", "StreamRouter"]

IDLE_SECONDS: Final = 30.0
"""Seconds after which an idle connection is closed."""

MAX_IDLE: Final = 8
"""Number of idle connections to keep for each server."""

_Server = JobServer[GearmanClientProtocol]
_Factory = GearmanFactory[GearmanClientProtocol]


class _StreamConnection(TaskHolder):
    """A connection on which one stream at a time is in flight. It holds the stream's task until it is ready.

    :ivar server: the server, as the pool knows it.
    :ivar proven: whether the connection has been ready.
    :ivar in_use: whether it was given to a stream, and has not been idle since.
    """

    def __init__(self, server: _Server, make_factory: MakeFactory[GearmanClientProtocol], router: StreamRouter) -> None:
        self.server = server
        self.proven = False
        self.in_use = False
        self._router = router
        self._waiting: Task | None = None
        self._end = server.clone_for(make_factory, self._changed)

    @property
    def protocol(self) -> GearmanClientProtocol | None:
        """The connection once it is ready, else None."""
        return self._end.connection

    def unavailable(self) -> NoServersAvailable:
        """Return why the last attempt to connect failed."""
        return self._end.unavailable()

    def bring_forward(self) -> None:
        """Have the next attempt to connect start soon."""
        self._end.bring_forward()

    @property
    def is_free(self) -> bool:
        """Whether the next stream may have it. It may be in use still while the outcome of a stream is reported."""
        return self._waiting is None and not (self.protocol is not None and self.protocol._busy)

    @property
    def has_jobs(self) -> bool:
        """Whether the server may still send packets about a job."""
        return self.protocol is not None and bool(self.protocol._jobs)

    def release_factory(self) -> _Factory:
        """Give up the connection, and return its factory, which the caller has to stop."""
        self._free()
        factory = self._end.release_factory()
        assert factory is not None  # it was started with its first task
        return factory

    def pop_waiting(self) -> list[Task]:
        """Return the task that waits for the connection, if there is one."""
        waiting, self._waiting = self._waiting, None
        return [waiting] if waiting is not None else []

    def send(self, task: Task) -> None:
        """Send a task, now or once the connection is ready."""
        if not self.in_use:
            self.in_use = True
            self.server.streams += 1
        if self.protocol is not None:
            self.protocol._send_alone(task, self._became_idle)
        else:
            self._waiting = task
            task._holder = self
            if not self._end.started:
                self._end.start()

    def discard(self, task: Task) -> None:
        self._waiting = None
        self._free()

    def _free(self) -> None:
        if self.in_use:
            self.in_use = False
            self.server.streams -= 1

    def _became_idle(self) -> None:
        if self._end.started:
            self._free()
            self._router.connection_idle(self)

    def _changed(self, *_: object) -> None:
        if self.protocol is None:
            self._router.connection_down(self)
            return
        self.proven = True
        waiting = self.pop_waiting()
        if waiting:
            self.send(waiting[0])
        else:
            self._became_idle()
        self._router.connection_ready(self)


class StreamRouter:
    """Chooses a server for the task of each stream, and sends it on a connection of its own.

    :param server_wait: seconds that a stream may wait while no server accepts a connection for it.
    """

    def __init__(
        self,
        reactor: Reactor,
        servers: ServerPool[GearmanClientProtocol],
        make_factory: MakeFactory[GearmanClientProtocol],
        server_wait: float,
    ) -> None:
        self._servers = servers
        self._make_factory = make_factory
        self._server_wait = server_wait
        self._connections: dict[_Server, dict[_StreamConnection, None]] = {}
        self._idle: DeadlineQueue[_StreamConnection] = DeadlineQueue(reactor, self._idle_for_long)
        # By server, the connection that failed, with the client's own connection at that time.
        self._failing: dict[_Server, tuple[_StreamConnection, GearmanClientProtocol | None]] = {}
        self._awaiting_server: DeadlineQueue[Task] = DeadlineQueue(reactor, self._server_wait_over)
        self._awaiting_attempt = AwaitingAttempt(reactor, servers, self._route_after_attempt)

    def route(self, task: Task, has_waited: bool = False) -> None:
        """Send the task, have it wait for a connection, or fail it.

        :param has_waited: whether it has waited for an attempt to connect.
        """
        server = self._choose(task)
        if server is not None:
            self._connection(server).send(task)
        elif self._server_wait or has_waited or not task.retries:
            self._await_server(task)
        else:
            self._bring_forward()
            self._awaiting_attempt.add(task)

    def _route_after_attempt(self, task: Task) -> None:
        """Fail a task that has waited for an attempt to connect, unless a server can be used meanwhile."""
        if self._servers.started:
            self.route(task, has_waited=True)
        else:
            task._attempt_failed(ClientStopped())

    def _await_server(self, task: Task) -> None:
        """Have the task wait for a server, or fail it: none accepts a connection for it."""
        self._bring_forward()
        if self._server_wait:
            self._awaiting_server.add(task, self._server_wait)
            task._holder = self._awaiting_server
        else:
            task._attempt_failed(self._none_available())

    def _bring_forward(self) -> None:
        """Have the next attempts to connect start soon, since a stream waits for one of them."""
        if not self._servers.any_reachable():
            self._servers.bring_forward()
        for connection, _ in self._failing.values():
            connection.bring_forward()

    def in_flight(self, server: _Server) -> int:
        """Return the number of streams that were sent to this server and have no outcome."""
        protocols = [connection.protocol for connection in self._connections.get(server, ())]
        return sum(protocol.in_flight for protocol in protocols if protocol is not None)

    def all_in_flight(self) -> int:
        """Return the number of streams that were sent to any server, a removed one included, and have no outcome."""
        return sum(map(self.in_flight, self._connections))

    def pop_unsent(self) -> list[Task]:
        """Remove and return all tasks that were not sent."""
        tasks = [*self._awaiting_server.pop_all(), *self._awaiting_attempt.pop_all()]
        for connections in self._connections.values():
            for connection in connections:
                tasks += connection.pop_waiting()
        return tasks

    def report_all(self) -> None:
        """Report all tasks now for which an attempt to connect to each server has failed."""
        self._awaiting_attempt.report_all()

    def release_factories(self) -> list[_Factory]:
        """Give up all connections, and return their factories, which the caller has to stop."""
        released = [connection for connections in self._connections.values() for connection in connections]
        self._connections.clear()
        self._failing.clear()
        self._idle.pop_all()
        return [connection.release_factory() for connection in released]

    def servers_changed(self, changed: _Server | None = None) -> None:
        """Leave removed servers, and reroute waiting streams to those that have become reachable.

        :param changed: the one that has become ready or unreachable; None if any may have.
        """
        rerouted: list[Task] = []
        for server in [server for server in self._connections if not server.started]:
            rerouted += self._leave(server)
        for server, (connection, main) in list(self._failing.items()):
            if server.unreachable or server.connection not in (None, main):
                self._close(connection)  # a new attempt is made if the client itself can connect
        if self._awaiting_server or self._awaiting_attempt:
            if any(map(self._is_usable, self._servers)):
                rerouted += [*self._awaiting_server.pop_all(), *self._awaiting_attempt.pop_all()]
            else:
                self._bring_forward()
        release_all(rerouted)
        if changed is not None and changed.unreachable:
            self._awaiting_attempt.attempt_failed(changed)
        report_all(rerouted, Task._return_unsent)

    def _leave(self, server: _Server) -> list[Task]:
        """Close the connections to a removed server, except those in use; return the tasks that waited for one."""
        waiting: list[Task] = []
        for connection in list(self._connections[server]):
            waiting += connection.pop_waiting()
            if connection.protocol is None or not connection.in_use:
                self._close(connection)
        return waiting

    # The choice of a server and a connection.

    def _choose(self, task: Task) -> _Server | None:
        unique = task._routing_key
        chosen = self._servers.choose(unique, task._attempt, task._server)
        if chosen is not None and self._is_usable(chosen):
            return chosen
        usable = filter(self._is_usable, self._servers.candidates(unique))
        return next(usable, None) if unique else min(usable, key=lambda server: server.streams, default=None)

    def _is_usable(self, server: _Server) -> bool:
        return server.reachable and server not in self._failing

    def _none_available(self) -> NoServersAvailable:
        unusable = [server for server in self._servers if not self._is_usable(server)]
        return merge_unavailable(map(self._unavailable, unusable))

    def _unavailable(self, server: _Server) -> NoServersAvailable:
        return self._failing[server][0].unavailable() if server.reachable else server.unavailable()

    def _server_wait_over(self, task: Task) -> None:
        task._holder = None
        task._attempt_failed(self._none_available())

    def _connection(self, server: _Server) -> _StreamConnection:
        """Return a free connection: an idle one, one that connects for nobody any longer, or a new one."""
        connections = self._connections.setdefault(server, {})
        free = [connection for connection in connections if connection.is_free]
        if free:
            connection = min(free, key=lambda connection: (connection.protocol is None, connection.has_jobs))
            self._idle.discard(connection)
            return connection
        connection = _StreamConnection(server, self._make_factory, self)
        connections[connection] = None
        return connection

    # Calls of the connections.

    def connection_ready(self, connection: _StreamConnection) -> None:
        """Handle a connection that can be used."""
        if self._fails(connection):
            del self._failing[connection.server]
            self.servers_changed()

    def connection_idle(self, connection: _StreamConnection) -> None:
        """No stream and no answer is due on a connection."""
        idle = sum(not other.in_use for other in self._connections[connection.server])
        if connection.server.started and (idle <= MAX_IDLE or connection.has_jobs):
            self._idle.add(connection, IDLE_SECONDS)
        else:
            self._close(connection)

    def connection_down(self, connection: _StreamConnection) -> None:
        """Handle a lost connection or a failed attempt to connect."""
        server = connection.server
        if self._fails(connection):
            self._awaiting_attempt.attempt_failed(server)
            return  # it is retried
        waiting = connection.pop_waiting()
        if connection.proven or not self._is_usable(server):
            self._close(connection)
        else:
            connection._free()
            self._failing[server] = connection, server.connection
        release_all(waiting)
        report_all(waiting, self._route_after_attempt)

    def _fails(self, connection: _StreamConnection) -> bool:
        return connection.server in self._failing and self._failing[connection.server][0] is connection

    def _idle_for_long(self, connection: _StreamConnection) -> None:
        if connection.has_jobs:
            self._idle.add(connection, IDLE_SECONDS)
        else:
            self._close(connection)

    def _close(self, connection: _StreamConnection) -> None:
        server = connection.server
        if self._fails(connection):
            del self._failing[server]
        self._idle.discard(connection)
        del self._connections[server][connection]
        if not self._connections[server]:
            del self._connections[server]
        self._servers.close(connection.release_factory(), ConnectionDone("no stream needs this connection"))
