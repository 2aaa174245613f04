"""Keeps one connection to one job server: the ReconnectingClientFactory."""

from __future__ import annotations

from functools import partial
from typing import Generic, TypeVar
from typing import Protocol as Interface

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import (
    ConnectionDone,
    TimeoutError,
)
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IDelayedCall,
)
from twisted.internet.protocol import ReconnectingClientFactory
from twisted.python.failure import Failure

from .options import DEFAULT_CONNECTION_OPTIONS, ConnectionOptions
from .protocol import CLOSE_TIMEOUT, GearmanProtocol
from .reactor import Reactor, reactor_or_default
from .waiters import Waiters

__all__ = [
    "ConnectionListener",
    "ConnectionT",
    "GearmanFactory",
]

ConnectionT = TypeVar("ConnectionT", bound=GearmanProtocol)
"""The class of a factory's connections."""


class ConnectionListener(Interface[ConnectionT]):
    """Who wants to know how the connection to a server is."""

    def connection_ready(self, connection: ConnectionT) -> None:
        """The server has given a first good answer on this connection."""

    def connection_down(self, factory: GearmanFactory[ConnectionT], error: Exception) -> None:
        """An attempt to connect failed, or the connection is of no more use, because of `error`."""


class GearmanFactory(ReconnectingClientFactory, Generic[ConnectionT]):
    """Keeps one connection to one job server, with back-off.

    It may be given to an `EndpointConnector`, or to ``reactor.connectTCP``. The delays grow from `initialDelay` to
    `maxDelay` seconds, and start anew at the first good answer, not at the connect: a server that accepts and then
    closes, or whose TLS handshake fails, is not tried again in a hot loop.

    :ivar option_requests: sent as OPTION_REQ on each new connection.
    :ivar connection: the live connection, ready or not; or None.
    :ivar next_attempt: the reactor's time of the next attempt; None unless it waits for one.
    """

    protocol: type[ConnectionT] = GearmanProtocol  # type: ignore[assignment]  # a subclass that has another sets it
    noisy = False
    initialDelay = delay = 0.5
    factor = 2.0
    maxDelay = 30

    def __init__(
        self,
        reactor: Reactor | None,
        *,
        option_requests: tuple[bytes, ...] = (),
        listener: ConnectionListener[ConnectionT] | None = None,
        connection_options: ConnectionOptions = DEFAULT_CONNECTION_OPTIONS,
    ) -> None:
        """
        :param reactor: its clock times the attempts; None for the global one.
        :param observer: is told how the connection is.
        """
        self.reactor = reactor_or_default(reactor)
        self.clock = self.reactor  # type: ignore[assignment]  # Twisted declares more than it uses
        self.option_requests = option_requests
        self.connection: ConnectionT | None = None
        self.next_attempt: float | None = None
        self._listener = listener
        self._connection_options = connection_options
        self._deadline: IDelayedCall | None = None
        self._timed_out = False
        self._active = False
        self._stopped_by: Exception | None = None
        self._awaiting: Waiters[ConnectionT] = Waiters()
        self._stopping: Waiters[None] = Waiters()

    @property
    def connecting(self) -> bool:
        """Whether an attempt is under way or a connection is up."""
        return self._active and (self.connection is None or self.connection.error is None)

    def when_ready(self) -> Deferred[ConnectionT]:
        """Await the outcome of the attempt under way, or else of the next one.

        :return: fires with the connection, once it is ready; at once if it is. Fails with what the attempt failed with,
            or with the error that `stop()` was given.
        """
        if self.connection is not None and self.connection.ready and self.connection.error is None:
            return succeed(self.connection)
        if self._stopped_by is not None:
            return fail(self._stopped_by)
        return self._awaiting.wait()

    def stop(self, error: Exception, timeout: float = CLOSE_TIMEOUT) -> Deferred[None]:
        """Close the connection and try no more. What waits for an answer fails with `error`, or because of it.

        :param timeout: seconds that what was written may take to go out.
        :return: fires when no socket and no timer is left; soon, whatever the peer does.
        """
        self._stopped_by = error
        self.stopTrying()
        self.next_attempt = None
        if self.connection is not None and self.connection.error is None:
            self.connection.close(error, timeout)
        self._awaiting.fire(Failure(error))
        return self._stopping.wait() if self._active else succeed(None)

    def retire(self, connection: ConnectionT | None, timeout: float = CLOSE_TIMEOUT) -> Deferred[None]:
        """Connect no more; finish what is out, if there is a `connection` that is ready, and close it then.

        :return: as `stop`. A `stop` may be called all the same, to hurry it.
        """
        over = ConnectionDone("this job server is used no more")
        if connection is None:
            return self.stop(over)
        self.stopTrying()
        stopped = self._stopping.wait()
        connection.retire(partial(self.stop, over, timeout))
        return stopped

    # What the connector tells.

    def startedConnecting(self, connector: IConnector) -> None:
        self.connector = connector
        self.next_attempt = None
        self._active = True
        self._timed_out = False
        self._deadline = self.reactor.callLater(self._connection_options.connect_timeout, self._give_up)

    def buildProtocol(  # type: ignore[override]  # Twisted's own type wants a factory that is no Protocol
        self, addr: IAddress | None
    ) -> ConnectionT:
        connection = self.connection = self.protocol(self.reactor, self._connection_options)
        connection.factory = self
        return connection

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self._attempt_over()
        super().clientConnectionFailed(connector, reason)
        assert isinstance(reason.value, Exception)
        self._tell_down(self._timeout_error() if self._timed_out else reason.value)
        self._tell_stopped()

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        self._attempt_over()
        super().clientConnectionLost(connector, reason)
        self._tell_stopped()

    def retry(self, connector: IConnector | None = None) -> None:
        super().retry(connector)
        # Twisted keeps the delay with its jitter nowhere else.
        if self._callID is not None:
            self.next_attempt = self._callID.getTime()

    # What the connection tells.

    def connection_ready(self, connection: ConnectionT) -> None:
        """The server gave the first good answer on this connection."""
        if connection.error is None:
            self._clear_deadline()
            self.resetDelay()
            if self._listener is not None:
                self._listener.connection_ready(connection)
            self._awaiting.fire(connection)

    def connection_down(self, connection: ConnectionT, error: Exception) -> None:
        """The connection is of no more use."""
        if connection is self.connection:
            self._clear_deadline()
            self._tell_down(error)

    def _tell_down(self, error: Exception) -> None:
        if self._listener is not None:
            self._listener.connection_down(self, error)
        self._awaiting.fire(Failure(self._stopped_by or error))

    def _tell_stopped(self) -> None:
        if not self.continueTrying:
            self._stopping.fire(None)

    def _give_up(self) -> None:
        self._deadline = None
        self._timed_out = True
        if self.connection is not None:
            self.connection.abort(self.connection.explain_error(self._timeout_error()))
        else:
            assert self.connector is not None  # there is a deadline only where there is an attempt
            self.connector.stopConnecting()

    def _timeout_error(self) -> TimeoutError:
        return TimeoutError(string=f"no good answer within {self._connection_options.connect_timeout} seconds")

    def _attempt_over(self) -> None:
        self._active = False
        self.connection = None
        self._clear_deadline()

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
