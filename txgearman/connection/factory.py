"""The factory of the connection to one job server: a `ReconnectingClientFactory`."""

from __future__ import annotations

import random
from functools import partial
from typing import Final, Generic, TypeVar
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
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..failures import for_log
from ..validation import not_negative_seconds
from .options import DEFAULT_CONNECTION_OPTIONS, ConnectionOptions
from .protocol import CLOSE_TIMEOUT, GearmanProtocol
from .reactor import Reactor, random_source, reactor_or_default
from .waiters import Waiters

__all__ = [
    "ConnectionListener",
    "ConnectionT",
    "GearmanFactory",
]

_log = Logger()

FIRST_DELAY_SPREAD: Final = 4
"""Multiple of the initial delay over which the first attempts of many clients are spread."""

GROWTH: Final = 2.0
"""How many times as long as the delay before it each one may be."""

USUAL_LATENESS: Final = 0.005
"""Seconds by which a timer may be late though no code has blocked the reactor."""

BLOCKED: Final = 0.1
"""Part of the connect timeout by which its end must be late for the attempt to get all of its time once more."""

MIN_ATTEMPT_INTERVAL: Final = 1.0
"""Seconds from the start of one attempt to that of the next at the least, where something waits for the server."""

HASTE_SPREAD: Final = 1.0
"""Seconds over which such attempts of many clients are spread."""

ConnectionT = TypeVar("ConnectionT", bound=GearmanProtocol)
"""The class of a factory's connections."""


class ConnectionListener(Interface[ConnectionT]):
    """Receiver of changes in the state of a connection."""

    def connection_ready(self, connection: ConnectionT) -> None:
        """Handle the first good answer on this connection."""

    def connection_down(self, factory: GearmanFactory[ConnectionT], error: Exception) -> None:
        """Handle a failed attempt to connect, or a connection that can't be used any longer, because of `error`."""


class GearmanFactory(ReconnectingClientFactory, Generic[ConnectionT]):
    """Factory that keeps one connection to one job server, with back-off.

    Pass it to an `EndpointConnector`, or to ``reactor.connectTCP``. After a loss, the first attempt follows within four
    times `initialDelay` seconds, at a random moment, so that the clients of a server that restarts do not all come back
    at once. The delays after it grow up to `maxDelay` seconds, of which a random part is left out, up to half. The
    first good answer resets them, not the connect: otherwise a server that accepts and then closes, or whose TLS
    handshake fails, would be retried in a hot loop. Where something waits for the server, the next attempt is brought
    forward, but not to less than a second after the start of the last one.

    :ivar reactor: the clock of the timers.
    :ivar _option_requests: options to send as OPTION_REQ on each new connection.
    :ivar connection: the current connection, ready or not; None if there is none.
    :ivar next_attempt: time of the reactor at which the next attempt starts; None unless one is scheduled.
    :param reactor: None for the global one.
    :param listener: receives the changes in the state of the connection.
    :param source: of the random numbers, for the jitter of delays; None for one of its own.
    """

    protocol: type[ConnectionT] = GearmanProtocol  # type: ignore[assignment]  # a subclass that has another sets it
    noisy = False
    initialDelay = delay = 0.5
    factor = 1.0  # Twisted 22.4 multiplies before an attempt is scheduled, later ones afterwards: GROWTH instead
    maxDelay = 30
    jitter = 0.0  # Twisted's would draw from the global random numbers

    def __init__(
        self,
        reactor: Reactor | None,
        *,
        option_requests: tuple[bytes, ...] = (),
        listener: ConnectionListener[ConnectionT] | None = None,
        connection_options: ConnectionOptions = DEFAULT_CONNECTION_OPTIONS,
        source: random.Random | None = None,
    ) -> None:
        self.reactor = reactor_or_default(reactor)
        self.clock = self.reactor  # type: ignore[assignment]  # Twisted declares more than it uses
        self._option_requests = option_requests
        self.connection: ConnectionT | None = None
        self.next_attempt: float | None = None
        self._listener = listener
        self._random = source or random_source(self.reactor)
        self._connection_options = connection_options
        self._deadline: IDelayedCall | None = None
        self._due = 0.0
        self._answered = False  # whether the server has sent a good answer since the start of the attempt
        self._extended = False  # whether the attempt got its time twice
        self._timed_out = False
        self._active = False
        self._attempt_began = 0.0
        self._wanted = False  # whether something has asked for the next attempt, since the last one
        self._stopped_by: Exception | None = None
        self._awaiting: Waiters[ConnectionT] = Waiters()
        self._stopping: Waiters[None] = Waiters()

    @property
    def connecting(self) -> bool:
        """Whether an attempt is in progress or a connection is up."""
        return self._active and (self.connection is None or self.connection.error is None)

    def when_ready(self) -> Deferred[ConnectionT]:
        """Wait for the outcome of the current attempt, or else of the next one.

        :return: fires with the connection once it is ready; at once if it is. Fails with the error of the attempt, or
            with the one given to `stop()`. Cancelling it only stops waiting.
        """
        if self.connection is not None and self.connection.ready and self.connection.error is None:
            return succeed(self.connection)
        if self._stopped_by is not None:
            return fail(self._stopped_by)
        return self._awaiting.wait()

    def _bring_forward(self) -> None:
        """Have the next attempt start soon, since something waits for this server.

        It starts up to `HASTE_SPREAD` seconds after the first moment at which it may, however often this is called.
        """
        if not self._wanted:
            self._wanted = True
            if self._callID is not None:
                sooner = self._haste()
                if self.reactor.seconds() + sooner < self._callID.getTime():
                    self._callID.reset(sooner)
                    self.next_attempt = self._callID.getTime()

    def _attempt_now(self) -> None:
        """Have the next attempt start now, if it is scheduled."""
        if self._callID is not None:
            self._callID.reset(0.0)
            self.next_attempt = self._callID.getTime()

    def stop(self, error: Exception, timeout: float = CLOSE_TIMEOUT) -> Deferred[None]:
        """Close the connection, and do not reconnect.

        :param error: the reason, with which all outstanding requests fail.
        :param timeout: seconds until the connection is aborted if data is still unsent.
        :return: fires when no socket and no timer is left, whether the peer reads or not.
        """
        self._stopped_by = error
        self.stopTrying()
        self.next_attempt = None
        if self.connection is not None and self.connection.error is None:
            self.connection.close(error, timeout)
        if self._awaiting:
            self._awaiting.fire(Failure(error))
        return self._stopping.wait() if self._active else succeed(None)

    def _retire(self, connection: ConnectionT | None, timeout: float = CLOSE_TIMEOUT) -> Deferred[None]:
        """Do not reconnect, and close the connection once nothing is in flight on it.

        :param connection: the connection, if it is ready.
        :param timeout: as with `stop`, for that close.
        :return: fires as with `stop`, which may still be called to close the connection sooner.
        """
        over = ConnectionDone("this job server was removed from the list")
        if connection is None:
            return self.stop(over)
        self.stopTrying()
        stopped = self._stopping.wait()
        connection._retire(partial(self.stop, over, timeout))
        return stopped

    # Calls of the connector.

    def startedConnecting(self, connector: IConnector) -> None:
        self.connector = connector
        self.next_attempt = None
        self._active = True
        self._attempt_began = self.reactor.seconds()
        self._wanted = False
        self._answered = False
        self._timed_out = False
        self._extended = False
        self._set_deadline(self._connection_options.connect_timeout)

    def buildProtocol(  # type: ignore[override]  # Twisted's own type wants a factory that is no Protocol
        self, addr: IAddress | None
    ) -> ConnectionT:
        connection = self.connection = self.protocol(self.reactor, self._connection_options)
        connection.factory = self
        return connection

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self._attempt_ended()
        super().clientConnectionFailed(connector, reason)
        assert isinstance(reason.value, Exception)
        self._report_down(self._timeout_error() if self._timed_out else reason.value)
        self._report_stopped()

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        self._attempt_ended()
        super().clientConnectionLost(connector, reason)
        self._report_stopped()

    def retry(self, connector: IConnector | None = None) -> None:
        longest, most = self.delay, self.maxDelay  # which does not hold for `reconnect_delay`
        delay = self._next_delay(longest)
        self.delay = min(delay, self._haste()) if self._wanted else delay
        self.maxDelay = max(most, self.delay)  # type: ignore[assignment]  # Twisted's own is an int, but may be a float
        super().retry(connector)
        self.maxDelay = most
        self.delay = min(longest * GROWTH, most)
        # The delay that includes the jitter is not kept elsewhere.
        if self._callID is not None:
            self.next_attempt = self._callID.getTime()

    def _next_delay(self, longest: float) -> float:
        """Return the seconds to the next attempt if nothing waits for it."""
        policy = self._connection_options.reconnect_delay
        if policy is not None:
            try:
                return not_negative_seconds("seconds returned by reconnect_delay", policy(self.retries + 1))
            except BaseException:  # it is the caller's code, and the connection must be made again
                _log.failure("reconnect_delay failed", for_log(Failure()))
        return self._jittered(longest)

    def _jittered(self, longest: float) -> float:
        """Return the seconds to the next attempt, which may be `longest` after any but the first failure."""
        if not self.retries:
            return self._random.uniform(0.0, FIRST_DELAY_SPREAD * longest)
        return self._random.uniform(longest / 2, longest)

    def _haste(self) -> float:
        """Return the seconds to the next attempt if something waits for it."""
        allowed = self._attempt_began + MIN_ATTEMPT_INTERVAL - self.reactor.seconds()
        # A clock that was stepped back must not put off the attempt.
        return min(max(allowed, 0.0), MIN_ATTEMPT_INTERVAL) + self._random.uniform(0.0, HASTE_SPREAD)

    # Calls of the connection.

    def _connection_ready(self, connection: ConnectionT) -> None:
        """Handle the first good answer on this connection."""
        self._clear_deadline()
        self._wanted = False
        self._answered = True
        self.resetDelay()
        if self._listener is not None:
            self._listener.connection_ready(connection)
        self._awaiting.fire(connection)

    def _connection_down(self, connection: ConnectionT, error: Exception) -> None:
        """Handle a connection that can't be used any longer, because of `error`."""
        if connection is self.connection:
            self._clear_deadline()
            self._report_down(error)

    def _report_down(self, error: Exception) -> None:
        if self._listener is not None:
            self._listener.connection_down(self, error)
        if self._awaiting:
            self._awaiting.fire(Failure(self._stopped_by or error))

    def _report_stopped(self) -> None:
        if not self.continueTrying:
            self._stopping.fire(None)

    def _set_deadline(self, seconds: float) -> None:
        self._due = self.reactor.seconds() + seconds
        self._deadline = self.reactor.callLater(seconds, self._deadline_passed)

    def _deadline_passed(self) -> None:
        """End the attempt, unless code has blocked the reactor, which calls its timers before it reads.

        Then it may not even have noticed that the socket is connected. So the attempt gets the time once more that the
        reactor was late; all of its time, if that was long.
        """
        late = self.reactor.seconds() - self._due
        timeout = self._connection_options.connect_timeout
        if late > USUAL_LATENESS and not self._extended:
            self._extended = True
            self._set_deadline(late if late < BLOCKED * timeout else timeout)
        else:
            self._deadline = self.reactor.callLater(0, self._connect_timed_out)  # after what has arrived is read

    def _connect_timed_out(self) -> None:
        self._deadline = None
        self._timed_out = True
        if self.connection is not None:
            self.connection.abort(self.connection._explain_error(self._timeout_error()))
        else:
            assert self.connector is not None  # startedConnecting sets both
            self.connector.stopConnecting()

    def _timeout_error(self) -> TimeoutError:
        return TimeoutError(string=f"no good answer within {self._connection_options.connect_timeout} seconds")

    def _attempt_ended(self) -> None:
        self._active = False
        self.connection = None
        self._clear_deadline()

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
