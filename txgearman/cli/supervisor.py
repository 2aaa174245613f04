"""The policy of ``txgearman work --processes``: which child process is started, drained or ended, and when.

It knows no reactor: `Supervisor` takes a clock, and a callable that starts a process. Its maker reports what
a child has sent (`Supervisor.status_received`) and that it has ended (`Supervisor.process_ended`).

**Places.** There are as many places as processes are wanted. A place has a current child, and while that is replaced,
one more: at first the successor, which starts, and then the old child, which drains. One place at a time replaces its
child. So there is one child more than wanted at most, and an old child drains only after its successor is ready.

**Failures.** A child that ends unasked is followed by another: at once if it was ready for some time, or else after a
delay, which doubles with each failure of the place. A successor that fails leaves the current child as it is.

**Silence.** Each child reports every second. One whose reports stop is blocked, by the code of an import or of a
function. Its stacks are logged, and it is replaced, unless a job runs, which may take its time.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from .child import Child, ChildProcess, ChildState, SupervisionSettings
from .child_status import ChildStatus
from .exit_codes import ExitCode

__all__ = ["Supervisor"]

_log = Logger()

TICK: Final = 1.0
"""Seconds between two looks at all children."""

MAX_TICK: Final = 3.0
"""Seconds between two looks after which this process itself was stopped or blocked."""

STABLE_TIME: Final = 10.0
"""Seconds that a child must have been ready for its end not to be a failure of its place."""

MIN_BACKOFF: Final = 0.5
"""Seconds from the first failure of a place to its next child. Each further failure doubles them."""

MAX_BACKOFF: Final = 30.0
"""Most of these seconds."""

BACKOFF_MEMORY: Final = 120.0
"""Seconds after a failure at which the next one counts as the first again."""


class _Place:
    """A place of the supervisor.

    :ivar number: its number, from 1.
    :ivar current: the child that takes jobs, or is to take them; None between its end and the start of the next one.
    :ivar successor: the child that starts and is to replace it.
    :ivar old: the child that was replaced, and drains.
    :ivar timer: until the next start.
    :ivar count: jobs that are left for it; None for no limit.
    :ivar generation: how many reloads were requested before the start of its latest child.
    """

    def __init__(self, number: int, count: int | None) -> None:
        self.number = number
        self.current: Child | None = None
        self.successor: Child | None = None
        self.old: Child | None = None
        self.timer: IDelayedCall | None = None
        self.count = count
        self.generation = 0
        self._failures = 0
        self._failed_at = 0.0
        self._name = 1

    @property
    def children(self) -> list[Child]:
        """Its living children: two at most."""
        return [child for child in (self.current, self.successor, self.old) if child is not None]

    @property
    def is_finished(self) -> bool:
        """Whether it has run as many jobs as it should."""
        return self.count is not None and self.count <= 0

    def next_name(self) -> int:
        """Return the name of the next child. The two are used in turn, unless one is in use."""
        in_use = [child.name for child in self.children]
        self._name = 1 - in_use[0] if in_use else 1 - self._name
        return self._name

    def record_failure(self, now: float) -> float:
        """Count a failure; return the seconds until the next start."""
        if now - self._failed_at > BACKOFF_MEMORY:
            self._failures = 0
        self._failures += 1
        self._failed_at = now
        return min(MAX_BACKOFF, MIN_BACKOFF * 2.0 ** min(self._failures - 1, 16))

    def cancel_timer(self) -> None:
        """Start no child at a later time."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Supervisor:
    """Keeps as many children as wanted.

    :ivar finished: fires with the exit code once no child is left, and none will be started.
    :ivar ends: how many children have ended: ``exited`` unasked, ``killed`` by a signal that was not from here,
        ``failed`` (ended by force), ``drained``.
    :ivar on_change: called when a child or a reload has changed.
    :param start_process: starts the process of a child. It may raise OSError.
    """

    def __init__(
        self, clock: IReactorTime, start_process: Callable[[Child], ChildProcess], settings: SupervisionSettings
    ) -> None:
        self.finished: Deferred[ExitCode] = Deferred()
        self.ends: Counter[str] = Counter(exited=0, killed=0, failed=0, drained=0)
        self.on_change: Callable[[], object] = lambda: None
        self._clock = clock
        self._start_process = start_process
        self._settings = settings
        self._places = [_Place(number, count) for number, count in _deal(settings)]
        self._generation = 0
        self._reloading = False
        self._replacing: _Place | None = None
        self._was_ready = False
        self._stopping = False
        self._code = ExitCode.DONE
        self._ticked_at = clock.seconds()
        self._tick_call: IDelayedCall | None = None

    # Its state.

    @property
    def children(self) -> list[Child]:
        """All living children."""
        return [child for place in self._places for child in place.children]

    @property
    def ready(self) -> int:
        """How many children take jobs."""
        return sum(child.is_ready for child in self.children)

    @property
    def wanted(self) -> int:
        """How many children are wanted."""
        return 0 if self._stopping else sum(not place.is_finished for place in self._places)

    @property
    def reloading(self) -> bool:
        """Whether children are being replaced after `reload`."""
        return self._reloading

    @property
    def is_well(self) -> bool:
        """Whether it looks after its children."""
        return self._tick_call is not None and self._clock.seconds() - self._ticked_at <= MAX_TICK

    # What the operator wants.

    def start(self) -> None:
        """Start all children."""
        self._ticked_at = self._clock.seconds()
        self._tick()
        for place in self._places:
            self._start_current(place)
        self._changed()

    def stop(self, code: ExitCode = ExitCode.DONE) -> None:
        """Drain all children, and start no more.

        :param code: what `finished` fires with, unless jobs are cut off.
        """
        if self._stopping:
            return
        self._stopping = True
        self._reloading = False
        self._code = code
        for place in self._places:
            place.cancel_timer()
        for child in self.children:
            child.drain(self._settings.drain_timeout)
        self._changed()

    def reload(self) -> None:
        """Replace all children, one after the other. If one of the new children can't start, the others remain."""
        if self._stopping:
            return
        if self._settings.count is not None:
            _log.warn("no child is replaced: --count has dealt the jobs out among them")
            return
        _log.info("replacing all children, one after the other")
        self._generation += 1
        self._reloading = True
        self._changed()

    def dump_stacks(self) -> None:
        """Have all children log their stacks."""
        for child in self.children:
            child.dump_stacks()

    # What happens to children.

    def status_received(self, child: Child, status: ChildStatus) -> None:
        """Record what a child has reported."""
        if child.state is ChildState.ENDED:
            return
        before = child.state
        child.status_received(status)
        place = self._places[child.place - 1]
        if child.state is ChildState.READY:
            self._was_ready = True
            if child is place.successor:
                self._succeed(place, child)
            elif place is self._replacing and len(place.children) == 1:
                self._replacing = None  # it was without a child, or its old one has ended before
        if child.state is ChildState.READY and child.state is not before:
            _log.info("{child} is ready", child=str(child))
        self._changed()

    def process_ended(self, child: Child, code: int) -> None:
        """Record that a child's process has ended.

        :param code: its exit code, or the negative number of the signal that has ended it.
        """
        if child.state is ChildState.ENDED:
            return
        self.ends[_reason(child, code)] += 1
        child.process_ended()
        place = self._places[child.place - 1]
        how = _describe_end(code)
        if self._stopping and child.was_ready and code != ExitCode.DONE:
            self._code = self._code or ExitCode.FAILED
        if child is place.old:
            place.old = None
            self._replacing = None
            _log.info("{child} has ended: {how}", child=str(child), how=how)
        elif child is place.successor:
            place.successor = None
            self._successor_failed(place, str(child), how)
        else:
            place.current = None
            self._current_ended(place, child, code, how)
        self._changed()

    def _current_ended(self, place: _Place, child: Child, code: int, how: str) -> None:
        if place.count is not None:
            place.count = 0 if code == ExitCode.DONE else place.count - child.status.ended
            if place.is_finished and code != ExitCode.DONE:
                self._code = ExitCode.FAILED
        if self._stopping or place.is_finished:
            _log.info("{child} has ended: {how}", child=str(child), how=how)
        elif code == ExitCode.USAGE and not self._was_ready:
            _log.error("{child} can't run: {how}", child=str(child), how=how)
            self.stop(ExitCode.USAGE)
        elif place.successor is not None:
            _log.warn("{child} has ended: {how}; its successor starts already", child=str(child), how=how)
            place.current, place.successor = place.successor, None
        else:
            self._start_again(place, child, how)

    def _start_again(self, place: _Place, child: Child, how: str) -> None:
        stable = child.ready_for(STABLE_TIME)
        delay = 0.0 if stable else place.record_failure(self._clock.seconds())
        when = "" if stable else f" in {delay:g} s"
        _log.warn("{child} has ended: {how}; starting another{when}", child=str(child), how=how, when=when)
        if place is self._replacing and place.old is None:
            self._replacing = None
        if not child.was_ready:
            self._stop_reload(child.generation)
        self._start_later(place, delay)

    def _successor_failed(self, place: _Place, child: str, how: str) -> None:
        """Leave the current child as it is. If it asks for a successor, it gets another one after a delay."""
        self._replacing = None
        if self._stopping:
            return
        delay = place.record_failure(self._clock.seconds())
        _log.warn("{child} has ended before it was ready: {how}; the one before it goes on", child=child, how=how)
        self._stop_reload(self._generation)
        self._start_later(place, delay)

    def _stop_reload(self, generation: int) -> None:
        if self._reloading and generation == self._generation:
            self._reloading = False
            _log.error("no more children are replaced: a new one could not start")

    # Starting and replacing.

    def _start_later(self, place: _Place, delay: float) -> None:
        """Start a child after a delay: the current one if there is none, or else a successor once it is asked for."""

        def start() -> None:
            place.timer = None
            if place.current is None:
                self._start_current(place)
            self._changed()

        place.cancel_timer()
        place.timer = self._clock.callLater(delay, start)

    def _start_current(self, place: _Place) -> None:
        try:
            place.current = self._start(place)
        except OSError as error:
            delay = place.record_failure(self._clock.seconds())
            _log.error("a child can't be started: {error}; trying again in {delay:g} s", error=str(error), delay=delay)
            self._start_later(place, delay)

    def _start(self, place: _Place) -> Child:
        """Start a child.

        :raises OSError: it can't be started.
        """
        place.generation = self._generation
        child = Child(self._clock, place.number, place.next_name(), self._generation, place.count)
        child.process_started(self._start_process(child))
        _log.info("started {child}", child=str(child))
        return child

    def _replace_next(self) -> None:
        """Replace the child of the next place, unless one is being replaced."""
        if self._stopping or self._replacing is not None:
            return
        place = self._next_place()
        if place is None:
            if self._reloading:
                self._reloading = False
                _log.info("all children were replaced")
            return
        place.cancel_timer()
        self._replacing = place
        if place.current is None:
            self._start_current(place)
            if place.current is None:
                self._replacing = None
                self._stop_reload(self._generation)
            return
        try:
            place.successor = self._start(place)
        except OSError as error:
            self._successor_failed(place, "a child", str(error))

    def _next_place(self) -> _Place | None:
        """Return the place whose child is to be replaced next: for a reload, or since it has asked for a successor."""
        if self._reloading:
            for place in self._places:
                if place.generation != self._generation:
                    return place
        waiting = [
            (place.current.waits_since, place.number, place)
            for place in self._places
            if place.current is not None and place.current.waits_since is not None and place.timer is None
        ]
        return min(waiting)[-1] if waiting else None

    def _succeed(self, place: _Place, successor: Child) -> None:
        """Drain the current child of a place, whose successor is ready."""
        place.old, place.current, place.successor = place.current, successor, None
        assert place.old is not None
        place.old.drain(self._settings.drain_timeout)

    # Time.

    def _tick(self) -> None:
        """Look at all children."""
        now = self._clock.seconds()
        gap, self._ticked_at = now - self._ticked_at, now
        ready = self.ready > 0
        for child in self.children:
            if gap > MAX_TICK:
                child.postpone(gap)
            elif reason := child.check(self._settings, others_ready=ready):
                child.end_by_force(reason)
        self._tick_call = self._clock.callLater(TICK, self._tick)
        self._changed()

    def _changed(self) -> None:
        self._replace_next()
        if not self.children and (self._stopping or not self.wanted) and not self.finished.called:
            assert self._tick_call is not None
            self._tick_call.cancel()
            self._tick_call = None
            self.finished.callback(self._code)
        self.on_change()


def _deal(settings: SupervisionSettings) -> list[tuple[int, int | None]]:
    """Return the numbers of the places, and how many jobs each is to run: all of the same number, or one more."""
    numbers = range(1, settings.processes + 1)
    if settings.count is None:
        return [(number, None) for number in numbers]
    share, rest = divmod(settings.count, settings.processes)
    dealt = [(number, share + (number <= rest)) for number in numbers]
    return [(number, count) for number, count in dealt if count]


def _reason(child: Child, code: int) -> str:
    """Return why a child has ended: a key of `Supervisor.ends`."""
    if child.failure:
        return "failed"
    if child.state is ChildState.DRAINING and (code >= 0 or code == -signal.SIGHUP):
        return "drained"  # SIGHUP is what drains it: it may have had no handler yet
    return "killed" if code < 0 else "exited"


def _describe_end(code: int) -> str:
    """Return how a process ended, for people."""
    if code >= 0:
        return f"exit code {code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"killed by {names.get(-code, f'signal {-code}')}"
