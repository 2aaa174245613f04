"""One child process of ``txgearman work --processes``, as its parent's supervisor knows it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from typing import Protocol as Interface

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from .child_status import ChildStatus
from .worker_run import EXIT_DELAY

__all__ = ["Child", "ChildProcess", "ChildState", "SupervisionSettings"]

_log = Logger()

READY_TIMEOUT: Final = 30.0
"""Default of the seconds within which a child must be ready."""

MAX_SILENCE: Final = 30.0
"""Seconds without a report after which a child counts as blocked."""

DRAIN_MARGIN: Final = EXIT_DELAY + 2.0
"""Seconds after the end of the drain at which a child is killed that should have exited by itself."""

KILL_DELAY: Final = 1.0
"""Seconds between the steps that end a child by force: its stacks, SIGTERM twice, SIGKILL."""


class ChildState(enum.Enum):
    """State of a child."""

    STARTING = "starting"
    """It has reported nothing."""
    CONNECTING = "connecting"
    """Its worker runs, and its functions are not registered with any server."""
    READY = "ready"
    """Its functions are registered with a server."""
    DRAINING = "draining"
    """It takes no more jobs, and ends after those that run."""
    ENDED = "ended"
    """Its process has ended."""


class ChildProcess(Interface):
    """What the supervisor needs of a process. No method raises, also after its end."""

    @property
    def pid(self) -> int:
        """The process ID."""

    def drain(self) -> None:
        """Have it take no more jobs, and exit after those that run."""

    def dump_stacks(self) -> None:
        """Have it log the stacks of its threads."""

    def terminate(self) -> None:
        """Have it exit: at once if it drains, or if its program has not started yet."""

    def kill(self) -> None:
        """End it at once."""


@dataclass(frozen=True)
class SupervisionSettings:
    """What a supervisor holds its children to.

    :ivar processes: how many children there are.
    :ivar drain_timeout: seconds that the running jobs of a child have to end, by its own timer.
    :ivar ready_timeout: seconds within which a child must be ready.
    :ivar stall_timeout: seconds that a job may block a child; None if such a child is only reported.
    :ivar count: number of jobs of all children together, after which they end; None for no limit.
    """

    processes: int
    drain_timeout: float
    ready_timeout: float = READY_TIMEOUT
    stall_timeout: float | None = None
    count: int | None = None


class Child:
    """A child process.

    :ivar place: number of its place, from 1.
    :ivar name: 0 or 1: no other living child of the place has it.
    :ivar generation: how many reloads were requested before its start.
    :ivar count: number of jobs after which it exits by itself; None for no limit.
    :ivar status: what it has reported last.
    :ivar waits_since: the time at which it first asked for a successor; None if it has not.
    :ivar blocked: whether it has been silent for too long.
    :ivar failure: why it is ended by force; empty if it is not.
    """

    def __init__(self, clock: IReactorTime, place: int, name: int, generation: int, count: int | None) -> None:
        self.place = place
        self.name = name
        self.generation = generation
        self.count = count
        self.state = ChildState.STARTING
        self.status = ChildStatus()
        self.waits_since: float | None = None
        self.blocked = False
        self.failure = ""
        self._clock = clock
        self._process: ChildProcess
        self._heard_at = self._unready_since = clock.seconds()
        self._ready_since: float | None = None  # for the first time
        self._drain_by: float | None = None
        self._timer: IDelayedCall | None = None

    def __str__(self) -> str:
        return f"child {self.place} (process {self.pid})"

    @property
    def pid(self) -> int:
        """Its process ID."""
        return self._process.pid

    @property
    def is_ready(self) -> bool:
        """Whether it takes jobs, as far as its parent knows."""
        return self.state is ChildState.READY and not self.blocked

    @property
    def was_ready(self) -> bool:
        """Whether it has been ready once."""
        return self._ready_since is not None

    def ready_for(self, seconds: float) -> bool:
        """Return whether it became ready so many seconds ago, or more."""
        return self._ready_since is not None and self._clock.seconds() - self._ready_since >= seconds

    def process_started(self, process: ChildProcess) -> None:
        """Record its process. To be called before anything else is."""
        self._process = process

    # What it reports.

    def status_received(self, status: ChildStatus) -> None:
        """Record a report."""
        now = self._heard_at = self._clock.seconds()
        self.status = status
        if status.wants_successor and self.waits_since is None:
            self.waits_since = now
        if self.blocked:
            self.blocked = False
            _log.info("{child} goes on", child=str(self))
        if self.state is ChildState.DRAINING:
            return
        if status.ready:
            self.state = ChildState.READY
            if self._ready_since is None:
                self._ready_since = now
        else:
            if self.state is ChildState.READY:
                self._unready_since = now
            self.state = ChildState.CONNECTING

    def check(self, settings: SupervisionSettings, *, others_ready: bool) -> str:
        """Look at the times of this child.

        :param others_ready: whether another child is ready, which shows that a server can be reached.
        :return: why it must be ended by force; empty if it need not.
        """
        now = self._clock.seconds()
        if self.failure:
            return ""  # it is being ended
        if self._drain_by is not None:
            return "it still runs after its drain" if now >= self._drain_by else ""
        unready = now - self._unready_since >= settings.ready_timeout
        if self.state is ChildState.STARTING:
            return f"its program has not started a worker within {settings.ready_timeout:g} s" if unready else ""
        if self.state is ChildState.CONNECTING and unready and (others_ready or self.status.servers_ready):
            return f"it is not ready for {settings.ready_timeout:g} s, though a server can be reached"
        return self._check_silence(now - self._heard_at, settings.stall_timeout)

    def _check_silence(self, silence: float, stall_timeout: float | None) -> str:
        limit = stall_timeout if self.status.running else MAX_SILENCE
        if limit is not None and silence >= limit:
            what = "a job blocks its reactor" if self.status.running else "its reactor is blocked, though no job runs,"
            return f"{what} for {limit:g} s"
        if silence >= MAX_SILENCE and not self.blocked:
            self.blocked = True
            _log.warn("{child}: a job blocks its reactor for {seconds:g} s", child=str(self), seconds=MAX_SILENCE)
            self.dump_stacks()
        return ""

    def postpone(self, seconds: float) -> None:
        """Give it more time, since this process itself was stopped or blocked for some."""
        self._heard_at += seconds
        self._unready_since += seconds
        if self._drain_by is not None:
            self._drain_by += seconds

    # What is done to it.

    def drain(self, timeout: float) -> None:
        """Have it take no more jobs, and end after those that run.

        :param timeout: seconds that those have.
        """
        if self.state in (ChildState.DRAINING, ChildState.ENDED):
            return
        self.state = ChildState.DRAINING
        self._drain_by = self._clock.seconds() + timeout + DRAIN_MARGIN
        self._process.drain()

    def dump_stacks(self) -> None:
        """Have it log its stacks."""
        self._process.dump_stacks()

    def end_by_force(self, reason: str) -> None:
        """Log its stacks, and then end it: by SIGTERM, so that it can report its jobs, or else by SIGKILL."""
        if self.failure or self.state is ChildState.ENDED:
            return
        process = self._process
        self.failure = reason
        _log.warn("{child} is ended, its stacks first: {reason}", child=str(self), reason=reason)
        process.dump_stacks()
        self._schedule([process.terminate, process.terminate, process.kill])

    def _schedule(self, steps: list[Callable[[], None]]) -> None:
        """Take each step after a time."""

        def take_step() -> None:
            self._timer = None
            steps[0]()
            if steps[1:]:
                self._schedule(steps[1:])

        self._timer = self._clock.callLater(KILL_DELAY, take_step)

    def process_ended(self) -> None:
        """Record its end."""
        self.state = ChildState.ENDED
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
