"""Reports the state of a service to systemd, where its unit has ``Type=notify``: `SystemdNotifier`, `WorkerReports`.

systemd sets the environment variable NOTIFY_SOCKET for such a unit. Without it, nothing is sent.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import MutableMapping
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..connection.pool import ServerState
from ..errors import NoServersAvailable
from ..validation import short_text
from ..worker.worker import GearmanWorker

__all__ = ["SystemdNotifier", "WorkerReports"]

_log = Logger()

NOTIFY_SOCKET: Final = "NOTIFY_SOCKET"
"""Environment variable: the address of systemd's socket, a path or, after ``@``, an abstract name."""

RETRY_DELAY: Final = 0.5
"""Seconds until messages are sent again that did not fit into the socket's queue, as while systemd reloads itself."""

MAX_PENDING: Final = 16
"""Messages that wait for that. Each change of state is one, and all changes of the status between two are one."""

MAX_STATUS: Final = 200
"""Characters of a status."""

READY_INTERVAL: Final = 1.0
"""Seconds between two looks whether a worker is ready, while no server can be reached."""

STATUS_INTERVAL: Final = 5.0
"""Seconds between two looks at what a worker does. Each status is an event of systemd."""


class SystemdNotifier:
    """Sends states to the socket that NOTIFY_SOCKET names.

    No method blocks or raises. What can't be sent is logged, once for each error. Messages reach systemd in the order
    of the calls.

    The variable is removed from the environment, so that no child process reports instead of this one: make the
    notifier before any is started, and only once.

    :ivar enabled: whether there is a socket. If not, all methods do nothing.
    :param reactor: for calls at a time.
    :param environment: where the variable is; None for that of this process.
    """

    def __init__(self, reactor: Any, environment: MutableMapping[str, str] | None = None) -> None:
        name = (os.environ if environment is None else environment).pop(NOTIFY_SOCKET, "")
        self._reactor = reactor
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self._pending: deque[dict[str, object]] = deque(maxlen=MAX_PENDING)
        self._retry: IDelayedCall | None = None
        self._status = ""
        self._error = ""
        self.enabled = name.startswith(("/", "@"))
        if name and not self.enabled:
            _log.warn(
                "systemd is not notified: {name} must begin with / or @, not be {value!r}",
                name=NOTIFY_SOCKET,
                value=name,
            )

    def ready(self, status: str) -> None:
        """Report that the service has started, or that its reload has ended.

        :param status: see `status`.
        """
        self._send({"READY": 1}, status)

    def reloading(self, status: str) -> None:
        """Report that a reload has begun. `ready` ends it, whether it has succeeded or not."""
        self._send({"RELOADING": 1, "MONOTONIC_USEC": time.monotonic_ns() // 1000}, status)

    def stopping(self, status: str) -> None:
        """Report that the service ends, and only waits for what still runs."""
        self._send({"STOPPING": 1}, status)

    def status(self, status: str) -> None:
        """Report what the service does, for people: one line, which ``systemctl status`` shows.

        Nothing is sent if it is the last one.
        """
        if status != self._status:
            self._send({}, status)

    def _send(self, state: dict[str, object], status: str) -> None:
        if not self.enabled:
            return
        self._status = status
        message = state | {"STATUS": short_text(status, MAX_STATUS)}
        if self._pending and not state and len(self._pending[-1]) == 1:
            self._pending[-1] = message  # only the last status counts
        else:
            self._pending.append(message)
        if self._retry is None:
            self._flush()

    def _flush(self) -> None:
        """Send what is pending. If the queue of the socket is full, try again later."""
        self._retry = None
        while self._pending:
            try:
                self._write(self._pending[0])
                self._error = ""
            except BlockingIOError:
                self._retry = self._reactor.callLater(RETRY_DELAY, self._flush)
                return
            except OSError as error:
                self._report(str(error))
            self._pending.popleft()

    def _write(self, message: dict[str, object]) -> None:
        lines = "\n".join(f"{name}={value}" for name, value in message.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.setblocking(False)
            connection.sendto(lines.encode(), self._address)

    def _report(self, error: str) -> None:
        if error != self._error:
            _log.warn("systemd was not notified: {error}", error=error)
        self._error = error


class WorkerReports:
    """Reports a worker to systemd: READY once its functions are registered with a server, and what it does since.

    :param reactor: the worker's.
    """

    def __init__(self, reactor: Any, worker: GearmanWorker) -> None:
        self._reactor = reactor
        self._worker = worker
        self._notifier = SystemdNotifier(reactor)
        self._wait: Deferred[None] | None = None
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Begin to report. The worker must have been started."""
        if self._notifier.enabled:
            self._await_ready()

    def stop(self, status: str) -> None:
        """Report that the worker ends; nothing is reported later.

        :param status: what it waits for.
        """
        if self._wait is not None:
            self._wait.cancel()
        if self._call is not None:
            self._call.cancel()
        self._notifier.stopping(status)

    def _await_ready(self) -> None:
        self._call = None
        self._wait = self._worker.when_ready()
        self._wait.addCallbacks(self._ready, self._not_ready)

    def _ready(self, _: object) -> None:
        self._notifier.ready(self._describe())
        self._call = self._reactor.callLater(STATUS_INTERVAL, self._report_status)

    def _not_ready(self, failure: Failure) -> None:
        if failure.check(NoServersAvailable):  # else the worker is stopped, or the wait was cancelled
            self._notifier.status(self._describe())
            self._call = self._reactor.callLater(READY_INTERVAL, self._look_for_server)

    def _look_for_server(self) -> None:
        """Wait again once there is a server, and not before: each `when_ready` brings an attempt to connect forward."""
        if self._connected():
            self._await_ready()
        else:
            self._call = self._reactor.callLater(READY_INTERVAL, self._look_for_server)

    def _report_status(self) -> None:
        self._notifier.status(self._describe())
        self._call = self._reactor.callLater(STATUS_INTERVAL, self._report_status)

    def _connected(self) -> int:
        """Return the number of servers that the worker is connected to."""
        return sum(info.state is ServerState.READY for info in self._worker.servers)

    def _describe(self) -> str:
        servers = self._worker.servers
        running = sum(info.in_flight for info in servers)
        return f"jobs running: {running}; servers connected: {self._connected()} of {len(servers)}"
