"""``txgearman work --processes``: runs child processes of one worker each, under a `Supervisor`."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from .child import Child, SupervisionSettings
from .child_process import WorkerProcess, child_command
from .child_status import ChildStatus
from .exit_codes import ExitCode
from .supervisor import Supervisor
from .systemd import SystemdNotifier
from .terminal import Terminal

if TYPE_CHECKING:
    from .shared_metrics import SharedMetrics

__all__ = ["PoolSettings", "WorkerPool", "work_processes"]

_log = Logger()

EXIT_TIMEOUT: Final = 1.0
"""Seconds that children have to exit after a second signal, before they are killed."""

STATUS_INTERVAL: Final = 5.0
"""Seconds between two reports of the status to systemd, unless what is ready changes."""


@dataclass(frozen=True)
class PoolSettings:
    """What ``work --processes`` runs.

    :ivar arguments: of this command line, which the children get, too.
    :ivar job_limit: number of jobs after which a child is replaced; None for no limit.
    :ivar http: ``[HOST:]PORT`` of the pages with metrics and health; None for no pages.
    """

    arguments: Sequence[str]
    supervision: SupervisionSettings
    job_limit: int | None = None
    http: str | None = None


async def work_processes(terminal: Terminal, settings: PoolSettings) -> ExitCode:
    """Run child processes until a signal, or until they have run as many jobs as they should."""
    return await WorkerPool(terminal, settings).run()


class WorkerPool:
    """The child processes, and what their parent does for them: their logs, signals, and reports to systemd.

    :ivar supervisor: decides which of them are started and ended.
    """

    def __init__(self, terminal: Terminal, settings: PoolSettings) -> None:
        self._terminal = terminal
        self._settings = settings
        self._processes: set[WorkerProcess] = set()
        self.supervisor = Supervisor(terminal.reactor, self._start_process, settings.supervision)
        self._reports = _PoolReports(terminal.reactor, self.supervisor)
        self._metrics: SharedMetrics | None = None

    async def run(self) -> ExitCode:
        """Run them until a signal, or until none is left.

        :return: 0, or `ExitCode.FAILED` if jobs were cut off, or `ExitCode.USAGE` if no child could be started.
        """
        async with AsyncExitStack() as stack:
            if self._settings.http is not None:
                await stack.enter_async_context(self._serving(self._settings.http))
            stack.enter_context(self._signals_handled())
            stack.enter_context(self._reports.reporting())
            return await self._supervise()

    @asynccontextmanager
    async def _serving(self, listen: str) -> AsyncIterator[None]:
        """Serve the pages with metrics and health while the block runs."""
        from .health import ParentHealthServer  # it needs an extra, and so does the other
        from .pool_metrics import ChildrenCollector

        server = ParentHealthServer(listen)
        server.registry.register(ChildrenCollector(self.supervisor))
        async with server.serving(self._terminal, self._problems, self._missing) as self._metrics:
            self._terminal.before_exit.append(self._metrics.close)
            yield

    def _problems(self) -> list[str]:
        return [] if self.supervisor.is_well else ["children are not supervised"]

    def _missing(self) -> list[str]:
        if self.supervisor.ready:
            return []
        return ["no child is ready", *(f"{child}: {child.state.value}" for child in self.supervisor.children)]

    async def _supervise(self) -> ExitCode:
        self._terminal.before_exit.append(self._end_at_once)
        finished = self.supervisor.finished
        self.supervisor.start()
        while not finished.called:
            try:
                await _wait_for(finished)
            except CancelledError:  # by a signal
                _log.info("draining all children; a second signal ends them at once")
                self.supervisor.stop()
        return await finished

    def _start_process(self, child: Child) -> WorkerProcess:
        listener = _ChildListener(self, child)
        process = listener.process = WorkerProcess(
            self._terminal.reactor,
            child_command(self._settings.arguments),
            listener,
            child,
            job_limit=self._settings.job_limit,
            metrics="" if self._metrics is None else self._metrics.directory,
        )
        self._processes.add(process)
        return process

    # What a child does.

    def line_received(self, child: Child, line: bytes) -> None:
        """Write a line of its log, after its number and process ID: each line is one record, and one write."""
        self._terminal.write_error(f"[{child.place}:{child.pid}] {line.decode('utf-8', 'backslashreplace')}")

    def process_ended(self, child: Child, process: WorkerProcess, code: int) -> None:
        """Record that it has ended."""
        self._processes.discard(process)
        if self._metrics is not None:
            self._metrics.child_ended(child.place, child.name)
        self.supervisor.process_ended(child, code)

    # Signals.

    @contextmanager
    def _signals_handled(self) -> Iterator[None]:
        """SIGUSR1 asks for stacks, and SIGUSR2 for a reload, while the block runs."""
        reactor = self._terminal.reactor
        calls: dict[int, Callable[[], None]] = {
            signal.SIGUSR1: self.supervisor.dump_stacks,
            signal.SIGUSR2: self.supervisor.reload,
        }
        before = {
            number: signal.signal(number, lambda *_, call=call: reactor.callFromThread(call))
            for number, call in calls.items()
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end_at_once(self) -> None:
        """End all children, and pass on what they log about that. After a second signal, in its handler."""
        processes = [*self._processes]
        for process in processes:
            process.drain()
            process.terminate()
        end = time.monotonic() + EXIT_TIMEOUT
        while time.monotonic() < end and not all(process.has_exited for process in processes):
            for process in processes:
                process.read_rest()
            time.sleep(0.01)
        for process in processes:
            process.kill()
            process.read_rest()


class _ChildListener:
    """Passes on what happens to one child."""

    process: WorkerProcess

    def __init__(self, pool: WorkerPool, child: Child) -> None:
        self._pool = pool
        self._child = child

    def line_received(self, line: bytes) -> None:
        self._pool.line_received(self._child, line)

    def status_received(self, status: ChildStatus) -> None:
        self._pool.supervisor.status_received(self._child, status)

    def process_ended(self, code: int) -> None:
        self._pool.process_ended(self._child, self.process, code)


class _PoolReports:
    """Reports the children to systemd: READY with the first that is ready, reloads, the end, and what they do."""

    def __init__(self, reactor: Any, supervisor: Supervisor) -> None:
        self._reactor = reactor
        self._supervisor = supervisor
        self._notifier = SystemdNotifier(reactor)  # before any child is started
        self._started = False
        self._reloading = False
        self._stopping = False

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Report while the block runs."""
        if not self._notifier.enabled:
            yield
            return
        status = LoopingCall(lambda: self._notifier.status(self._describe()))
        status.clock = self._reactor
        status.start(STATUS_INTERVAL, now=False)
        self._supervisor.on_change = self._changed
        try:
            yield
        finally:
            self._supervisor.on_change = lambda: None
            status.stop()

    def _changed(self) -> None:
        supervisor, notifier = self._supervisor, self._notifier
        if not (self._stopping or supervisor.wanted):
            self._stopping = True
            notifier.stopping(self._describe())
        elif not self._started and supervisor.ready:
            self._started = True
            notifier.ready(self._describe())
        elif self._started and self._reloading is not supervisor.reloading:
            self._reloading = supervisor.reloading
            (notifier.reloading if self._reloading else notifier.ready)(self._describe())

    def _describe(self) -> str:
        supervisor = self._supervisor
        reports = [child.status for child in supervisor.children]
        running = sum(report.running for report in reports)
        connected, servers = max(((report.servers_ready, report.servers) for report in reports), default=(0, 0))
        return (
            f"children ready: {supervisor.ready} of {supervisor.wanted}; jobs running: {running}; "
            f"servers connected: {connected} of {servers}"
        )


def _wait_for(deferred: Deferred[ExitCode]) -> Deferred[None]:
    """Return a Deferred that fires with another one, and whose cancellation leaves that as it is."""
    waiting: Deferred[None] = Deferred()

    def fire(result: ExitCode) -> ExitCode:
        if not waiting.called:
            waiting.callback(None)
        return result

    deferred.addCallback(fire)
    return waiting
