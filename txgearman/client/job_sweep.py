"""The sweep for forgotten jobs: finds the jobs of a connection that have long been silent (guarantee 16).

A connection may have 100,000 jobs. So a sweep looks at a thousand of them in one turn of the reactor, the oldest first,
and goes on once the server has answered for those that were silent. What else the client asks meanwhile waits behind
the answers for a thousand jobs, not for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall

from ..connection.reactor import Reactor
from ..connection.timers import PROBES_PER_PERIOD, PeriodicProbe
from ..validation import MAX_HANDLE
from .untaken_jobs import UntakenJobs

__all__ = ["JobSweep", "SweptConnection"]

MAX_SWEPT: Final = 1000
"""Jobs that a sweep looks at in one turn of the reactor, and that it asks for before it waits for the answers."""

MAX_SKIPPED: Final = 100_000
"""Jobs of the sweep before, ended by now, that a sweep passes over in one turn of the reactor."""


class SweptConnection(Protocol):
    """What a sweep needs of its connection."""

    @property
    def _jobs(self) -> Mapping[bytes, object]:
        """The jobs by handle, the oldest first."""

    @property
    def _reading_paused(self) -> bool:
        """Whether the connection has stopped reading, so that no packet about any job is read."""

    def _wire_function_of(self, handle: bytes) -> bytes:
        """Return the name of the function of a job on the wire."""

    def _query_jobs(self, handles: Collection[bytes], answered: Callable[[], object]) -> None:
        """Ask the server whether it still has these jobs, of which there is one at least.

        :param answered: called once it has answered for all of them.
        """


class JobSweep:
    """Sweeps that are repeated while a connection has jobs.

    What it keeps of a job are a place in a list and a byte, since a connection may have a million jobs. A new sweep
    finds the byte by the order of the jobs: those that the last one has seen come first, and in the same order.

    :ivar on: whether there will be another one.
    :ivar heard_of: handles of the jobs about which a packet has arrived since the last sweep began.
    :ivar untaken: finds functions whose jobs nobody takes.
    :param seconds: silence of a job after which the server is asked. Detection takes up to one and a half times as
        long.
    """

    __slots__ = (
        "_call",
        "_connection",
        "_handles",
        "_handles_before",
        "_heard_before",
        "_position",
        "_position_before",
        "_probe",
        "_reactor",
        "_silent_probes",
        "_silent_probes_before",
        "heard_of",
        "on",
        "untaken",
    )

    def __init__(self, reactor: Reactor, seconds: float, connection: SweptConnection) -> None:
        self._reactor = reactor
        self._connection = connection
        self._probe = PeriodicProbe(reactor, seconds, self._begin)
        self._call: IDelayedCall | None = None
        self.on = False
        self.heard_of: set[bytes] = set()
        self.untaken = UntakenJobs(seconds)
        self._heard_before: set[bytes] = set()
        # The jobs of the sweep that is in progress, if there is one, and how many it has looked at. For each of these,
        # how many probes it has been silent for.
        self._handles: list[bytes] = []
        self._position = 0
        self._silent_probes = bytearray()
        # The same of the sweep before. The jobs from the position on are those that this sweep has still to see.
        self._handles_before: list[bytes] = []
        self._position_before = 0
        self._silent_probes_before = bytearray()

    def start(self, handle: bytes) -> None:
        """Start sweeping.

        :param handle: of the first job, whose silence begins now.
        """
        self.on = True
        self._handles_before = [handle]
        self._silent_probes_before = bytearray(1)
        self._probe.start()

    def stop(self) -> None:
        """Stop sweeping: there are no jobs, or the connection is lost."""
        self.on = False
        self.heard_of = set()
        self.untaken.forget()
        self._probe.stop()
        self._handles = []
        self._silent_probes = bytearray()
        self._end_sweep()

    def _end_sweep(self) -> None:
        """Keep of this sweep what the next one needs."""
        self._handles_before, self._handles = self._handles, []
        self._silent_probes_before, self._silent_probes = self._silent_probes, bytearray()
        self._position = self._position_before = 0
        self._heard_before = set()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _begin(self) -> bool:
        """Begin a sweep, unless the last one is still in progress: its jobs are silent for one probe, not for two.

        :return: whether there will be another one.
        """
        if not self._connection._jobs:
            self.stop()
        elif not self._handles:
            self._handles = list(self._connection._jobs)
            self._heard_before, self.heard_of = self.heard_of, set()
            self.untaken.sweep_began()
            self._go_on()
        return self.on

    def _go_on(self) -> None:
        """Look at the next jobs, and ask for those that have been silent for long."""
        self._call = None
        suspects = self._suspects()
        if self._position == len(self._handles):
            self._end_sweep()
        if suspects:
            self._connection._query_jobs(suspects, self._schedule)
        else:
            self._schedule()

    def _schedule(self) -> None:
        """Go on in the next turn of the reactor, if the sweep is still in progress."""
        if self._handles and self._call is None:
            self._call = self._reactor.callLater(0, self._go_on)

    def _suspects(self) -> list[bytes]:
        """Count another probe for the next jobs, and return those that the server is to be asked for."""
        jobs, active, silent_probes = self._connection._jobs, self._heard_before, self._silent_probes
        reading_paused = self._connection._reading_paused
        last_before = self._position_before + MAX_SKIPPED
        see, function_of = self.untaken.see, self._connection._wire_function_of
        suspects = []
        for handle in self._handles[self._position : self._position + MAX_SWEPT]:
            before = self._probes_before(handle, last_before)
            if before is None:
                break
            count = 0 if reading_paused or handle in active else before + 1
            asked = count == PROBES_PER_PERIOD
            if asked:
                count = 0
            silent_probes.append(count)
            if handle in jobs:  # else it has ended since the sweep began
                see(function_of(handle), handle)
                if asked:
                    suspects.append(handle)
        self._position = len(silent_probes)
        return [handle for handle in suspects if _is_answerable(handle)]

    def _probes_before(self, handle: bytes, last: int) -> int | None:
        """Return for how many probes the next job was silent in the sweep before, or -1 if it was not there.

        The jobs of that sweep that are not found before it have ended.

        :param last: where to stop searching; None is returned if there are more.
        """
        handles = self._handles_before
        try:
            position = handles.index(handle, self._position_before, last)
        except ValueError:
            self._position_before = min(last, len(handles))
            return None if last < len(handles) else -1
        self._position_before = position + 1
        return self._silent_probes_before[position]


def _is_answerable(handle: bytes) -> bool:
    """Check whether all servers answer a GET_STATUS for this handle (H6)."""
    return len(handle) <= MAX_HANDLE and b"\0" not in handle
