"""Functions whose jobs nobody takes: a warning for each, since a misspelt name or a missing worker is else silent.

The sweep for forgotten jobs sees all jobs of a connection, the oldest first, and asks for those that have long been
silent. A queue may be long though workers take jobs from it. So only the oldest job of a function counts, where it was
the oldest one for the whole time: then none of them has ended meanwhile.
"""

from __future__ import annotations

from typing import Final

from twisted.logger import Logger

from ..connection.timers import PROBES_PER_PERIOD
from ..validation import MAX_NAME, short_text

__all__ = ["UntakenJobs"]

_log = Logger()

MAX_WARNED: Final = 1000
"""Functions to remember for each connection, so that each has one warning."""


class UntakenJobs:
    """The functions of a connection's jobs, and those that had a warning.

    :param seconds: how long a job waits before there is a warning.
    """

    __slots__ = ("_oldest", "_oldest_before", "_seconds", "_warned")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._warned: dict[bytes, None] = {}
        self.forget()

    def forget(self) -> None:
        """Forget the jobs: there are none, or the connection is lost."""
        # By function, the handle of its oldest job, and the number of sweeps for which it was that.
        self._oldest: dict[bytes, tuple[bytes, int]] = {}
        self._oldest_before: dict[bytes, tuple[bytes, int]] = {}

    def sweep_began(self) -> None:
        """Note that the jobs will be seen again, the oldest first."""
        self._oldest_before, self._oldest = self._oldest, {}

    def see(self, function: bytes, handle: bytes) -> None:
        """Note a job of the sweep.

        :param function: its name on the wire.
        """
        if function not in self._oldest:
            handle_before, sweeps = self._oldest_before.get(function, (b"", 0))
            self._oldest[function] = handle, sweeps + 1 if handle_before == handle else 1

    def job_waits(self, function: bytes, handle: bytes, server: str) -> None:
        """Handle that a silent job is in the queue of its server."""
        oldest, sweeps = self._oldest.get(function, (b"", 0))
        if oldest != handle or sweeps < PROBES_PER_PERIOD or function in self._warned:
            return
        self._warned[function] = None
        if len(self._warned) > MAX_WARNED:
            del self._warned[next(iter(self._warned))]
        _log.warn(
            "no worker has taken {function} on {server} for {seconds:g} s",
            function=short_text(function, MAX_NAME),
            server=server,
            seconds=self._seconds,
        )

    def job_runs(self, function: bytes) -> None:
        """Handle that a worker has a job of the function."""
        self._warned.pop(function, None)
