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


class SweptConnection(Protocol):
    """What a sweep needs of its connection."""

    @property
    def _jobs(self) -> Mapping[bytes, object]:
        """The jobs by handle, the oldest first."""

    @property
    def _reading_paused(self) -> bool:
        """Whether the connection has stopped reading, so that nothing is heard of any job."""

    def _wire_function_of(self, handle: bytes) -> bytes:
        """Return the name of the function of a job on the wire."""

    def _query_jobs(self, handles: Collection[bytes], answered: Callable[[], object]) -> None:
        """Ask the server whether it still has these jobs, of which there is one at least.

        :param answered: called once it has answered for all of them.
        """


class JobSweep:
    """Sweeps that are repeated while a connection has jobs.

    :ivar on: whether there will be another one.
    :ivar heard_of: handles of the jobs about which a packet has arrived since the last sweep began.
    :ivar untaken: finds functions whose jobs nobody takes.
    """

    __slots__ = (
        "_call",
        "_connection",
        "_handles",
        "_heard_before",
        "_position",
        "_probe",
        "_reactor",
        "_silent_probes",
        "_silent_probes_before",
        "heard_of",
        "on",
        "untaken",
    )

    def __init__(self, reactor: Reactor, seconds: float, connection: SweptConnection) -> None:
        """
        :param seconds: silence of a job after which the server is asked. Detection takes up to one and a half times as
            long.
        """
        self._reactor = reactor
        self._connection = connection
        self._probe = PeriodicProbe(reactor, seconds, self._begin)
        self._call: IDelayedCall | None = None
        self.on = False
        self.heard_of: set[bytes] = set()
        self.untaken = UntakenJobs(seconds)
        # How many probes each job has been silent for. Those before are of the jobs that this sweep has still to see.
        self._silent_probes: dict[bytes, int] = {}
        self._silent_probes_before: dict[bytes, int] = {}
        self._forget_sweep()

    def start(self, handle: bytes) -> None:
        """Start sweeping.

        :param handle: of the first job, whose silence begins now.
        """
        self.on = True
        self._silent_probes = {handle: 0}
        self._probe.start()

    def stop(self) -> None:
        """Stop sweeping: there are no jobs, or the connection is lost."""
        self.on = False
        self.heard_of = set()
        self._silent_probes = {}
        self.untaken.forget()
        self._probe.stop()
        self._forget_sweep()

    def _forget_sweep(self) -> None:
        """Forget the sweep that is in progress, if there is one."""
        self._handles: list[bytes] = []
        self._position = 0
        self._heard_before: set[bytes] = set()
        self._silent_probes_before = {}
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _begin(self) -> bool:
        """Begin a sweep, unless the last one is still in progress: its jobs are silent for one probe, not for two.

        :return: whether there will be another one.
        """
        if not self._handles:
            self._handles = list(self._connection._jobs)
            self._heard_before, self.heard_of = self.heard_of, set()
            self._silent_probes_before, self._silent_probes = self._silent_probes, {}
            self.untaken.sweep_began()
            self._go_on()
        if not self._connection._jobs:
            self.stop()
        return self.on

    def _go_on(self) -> None:
        """Look at the next jobs, and ask for those that have been silent for long."""
        self._call = None
        end = self._position + MAX_SWEPT
        suspects = self._suspects(self._handles[self._position : end])
        self._position = end
        if end >= len(self._handles):
            self._forget_sweep()
        if suspects:
            self._connection._query_jobs(suspects, self._schedule)
        else:
            self._schedule()

    def _schedule(self) -> None:
        """Go on in the next turn of the reactor, if the sweep is still in progress."""
        if self._handles and self._call is None:
            self._call = self._reactor.callLater(0, self._go_on)

    def _suspects(self, handles: list[bytes]) -> list[bytes]:
        """Count another probe for these jobs, and return those that the server is to be asked for."""
        jobs, heard, before, silent_probes = (
            self._connection._jobs,
            self._heard_before,
            self._silent_probes_before,
            self._silent_probes,
        )
        if self._connection._reading_paused:
            before, heard = {}, set()
        see, function_of = self.untaken.see, self._connection._wire_function_of
        suspects = []
        for handle in handles:
            if handle not in jobs:
                continue  # it has ended since the sweep began
            see(function_of(handle), handle)
            count = 0 if handle in heard else before.get(handle, -1) + 1
            if count == PROBES_PER_PERIOD:
                count = 0
                suspects.append(handle)
            silent_probes[handle] = count
        return [handle for handle in suspects if _is_answerable(handle)]


def _is_answerable(handle: bytes) -> bool:
    """Check whether all servers answer a GET_STATUS for this handle (H6)."""
    return len(handle) <= MAX_HANDLE and b"\0" not in handle
