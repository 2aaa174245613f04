"""The end of a test: what `MemoryJobServer.close` verifies, and in which order it stops everything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ..connection.pool import ServerState
from ..connection.protocol import GearmanProtocol
from ..errors import ClientStopped
from ..service import GearmanService
from .calls import describe_timer
from .clock import EndlessLoop, MemoryClock
from .core import ManualWorker
from .description import describe_jobs, describe_submit, describe_unended
from .group import GroupedServer, ServerGroup
from .logged_errors import describe_failure, trial_observer
from .memory_transport import MemoryTransport
from .submits import Submit

LAST_PACKETS: Final = 12
"""Lines of each server's log in the message of a failing test."""


class Closing:
    """Closes some servers of a group, and fails for what is wrong at the end of a test.

    :param verify: False to close them only.
    :param watched: False to verify their faults only.
    :param keep: a server that is used further, and keeps its ports.
    """

    def __init__(
        self,
        servers: list[GroupedServer],
        group: ServerGroup,
        verify: bool,
        watched: bool,
        keep: GroupedServer | None = None,
    ) -> None:
        self._keep = keep
        self._servers = servers
        self._group = group
        self._verify = verify and watched
        self._faults_only = verify and not watched
        self._clock = servers[0].clock
        self._loop_is_known = isinstance(self._clock, MemoryClock) and self._clock.looped
        self._problems: list[str] = []
        self._raised: list[BaseException] = []
        self._unfinished = False
        self._others_left = any(server._verified and server not in servers for server in group.servers)

    def run(self) -> Deferred[None]:
        """Close them.

        :return: fires when nothing is left. Fails with what a timer has raised, or with `AssertionError` for what is
            wrong.
        """
        for server in self._servers:
            server._closed = True
        self._advance(0)
        if self._verify or self._faults_only:
            self._problems += [problem for server in self._servers for problem in server._faults.problems()]
        submits = [submit for submit in self._group.submits if self._is_ours(submit.client)]
        forgotten = self._forgotten_services() if self._verify or self._keep is not None else []
        if self._verify:
            self._check(submits, forgotten)
        self._forgive_unfinished(submits)
        observer = trial_observer() if self._unfinished else None
        if observer is not None:  # they are complained of already
            observer._ignoreErrors(ClientStopped, CancelledError)
        stopped = self._stop(forgotten)
        self._advance(0)
        if isinstance(self._clock, Clock) and not stopped.called:
            self._advance(max(server._drain_timeout for server in self._servers))
            if not stopped.called:  # a worker without a limit waits for its jobs, or a function ignores its cancel
                self._drop_connections()
        return stopped.addCallback(self._stopped, observer)

    def _advance(self, seconds: float) -> None:
        """Let happen what is due, whatever it raises."""
        if isinstance(self._clock, Clock):
            for error in self._servers[0]._advance(seconds):
                if not (self._loop_is_known and isinstance(error, EndlessLoop)):  # which the test's own call has raised
                    self._raised.append(error)

    # What is wrong.

    def _check(self, submits: list[Submit], forgotten: list[GearmanService]) -> None:
        for submit in submits:
            self._check_submit(submit)
        for server in self._servers:
            self._check_jobs(server)
        for service in forgotten:
            self._problems.append(f"{type(service).__name__} made at {self._group.services[service]} was not stopped")

    def _is_ours(self, service: GearmanService | None) -> bool:
        """Return whether a service ends now: with its server, or with the last one if it is the test's own."""
        if any(service in server._services for server in self._servers):
            return True
        return not (self._others_left or any(service in server._services for server in self._group.servers))

    def _check_submit(self, submit: Submit) -> None:
        if not submit.ended:
            self._problems.append(describe_unended(submit, self._group))
            return
        failure = submit.unhandled_failure()
        if failure is not None:
            text = describe_submit(submit)
            self._problems.append(f"{text} has failed, and nobody has handled it: {describe_failure(failure)}")

    def _check_jobs(self, server: GroupedServer) -> None:
        # A foreground job has a task or batch, which is complained of unless it has its outcome.
        left = [job for job in server._core.jobs if job.background and not job.dropped]
        taken = [job for job in left if isinstance(job.worker, ManualWorker)]
        self._problems += describe_jobs(server, taken, self._group)
        unseen = [job for job in left if not (isinstance(job.worker, ManualWorker) or server._core.jobs.has_seen(job))]
        self._problems += describe_jobs(server, unseen, self._group, ", and nobody has looked at it")

    def _forgive_unfinished(self, submits: list[Submit]) -> None:
        """Let the failures count as handled with which tasks end that are stopped now."""
        for submit in submits:
            if not submit.ended:
                self._unfinished = True
                submit.forgive()

    def _forgotten_services(self) -> list[GearmanService]:
        """Return the services of the test itself that are in use."""
        if self._others_left:
            return []
        made = {service for server in self._servers for service in server._services}
        return [service for service in list(self._group.services) if service not in made and _is_active(service)]

    # The stop.

    def _stop(self, forgotten: list[GearmanService]) -> Deferred[Any]:
        for server in self._servers:
            self._unfinished |= server._stop_awaiters()
            for fault in list(server._faults.active):
                server._faults.deactivate(fault)
        services: list[Any] = [service for server in self._servers for service in server._services]
        services += forgotten
        if not isinstance(self._clock, Clock):
            self._drop_connections()  # else a worker on a reactor would wait for its jobs
        stopping = [maybeDeferred(service.stopService) for service in services]
        closed = [server for server in self._servers if server is not self._keep]
        stopping += [maybeDeferred(port.stopListening) for server in closed for port in server._all_ports()]
        return _when_all(stopping).addCallback(lambda _: self._drop_connections())

    def _drop_connections(self) -> Deferred[Any]:
        connections = [connection for server in self._servers for connection in server._protocols]
        if self._verify and not self._others_left:
            self._problems += [
                f"a client or worker on another reactor was not stopped: it needs reactor=server.clock ({connection!r})"
                for connection in connections
                if _is_of_library(connection.transport) and isinstance(self._clock, Clock)
            ]
        for connection in connections:
            connection.drop()
        return _when_all([connection.lost for connection in connections])

    def _stopped(self, _: object, observer: Any) -> None:
        for server in self._servers:
            server._forget_services()
            if server is not self._keep:
                self._group.remove(server)
        if self._verify or self._unfinished:
            self._group.collect()
        if self._verify:
            self._check_rest()
        if observer is not None:
            observer._clearIgnores()
        if not self._others_left:
            self._group.end_errors()
            if self._keep is not None:
                self._group.begin_anew()
        if not any(server._verified for server in self._group.servers):
            self._group.unwatch()
        if self._raised:
            raise self._raised[0]
        if self._problems:
            raise AssertionError(_message(self._problems, self._servers))

    def _check_rest(self) -> None:
        if isinstance(self._clock, Clock) and not self._others_left:
            calls = self._clock.getDelayedCalls()
            self._problems += [f"a timer is left on the clock: {describe_timer(call)}" for call in calls]
        if trial_observer() is None:  # else trial fails the test for them
            self._problems += [
                self._describe_logged(text, failure)
                for text, failure in self._group.logged.pop_all()
                if not (self._unfinished and failure.check(ClientStopped, CancelledError))
            ]

    def _describe_logged(self, text: str, failure: Failure) -> str:
        origin = self._group.origin_of(failure.value, text)
        # The event of a Deferred that was collected has no text: it follows one that has, and no failure.
        what = text.strip() or "nobody has handled the error of a Deferred"
        return f"{what}{f' ({origin})' if origin else ''}: {describe_failure(failure)}"


def _when_all(deferreds: list[Deferred[Any]]) -> Deferred[None]:
    """Return a Deferred that fires once all of these have, whatever they have failed with.

    Each test waits twice; Twisted's `DeferredList` takes several times as long.
    """
    if len(deferreds) == 1:
        return deferreds[0].addBoth(lambda _: None)
    done: Deferred[None] = Deferred()
    pending = len(deferreds)

    def fired(_: object) -> None:
        nonlocal pending
        pending -= 1
        if not pending:
            done.callback(None)

    for deferred in deferreds:
        deferred.addBoth(fired)
    if not deferreds:
        done.callback(None)
    return done


def _is_active(service: GearmanService) -> bool:
    infos: Iterable[Any] = getattr(service, "servers", ())
    return bool(service.running) or any(info.state is not ServerState.STOPPED for info in infos)


def _is_of_library(transport: object) -> bool:
    return isinstance(transport, MemoryTransport) and isinstance(transport.other.protocol, GearmanProtocol)


def _message(problems: list[str], servers: list[GroupedServer]) -> str:
    if len(problems) == 1:
        lines = problems
    else:
        lines = [f"{len(problems)} problems at the end of the test:", *(f"  - {problem}" for problem in problems)]
    for server in servers:
        packets = server.log(LAST_PACKETS)
        if packets:
            lines = [*lines, "", f"the last packets of {server.name}:", packets]
    return "\n".join(lines)
