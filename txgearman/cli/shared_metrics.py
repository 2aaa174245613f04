"""Metrics of child processes, added up by their parent: `ChildMetrics` in a child, `SharedMetrics` in the parent.

It is prometheus_client's multiprocess mode: each process keeps its values in files, one for each kind of metric, which
the parent reads when it is asked. Three things are other than usual:

- The files are named by the place of a child, and not by its process ID: else some would stay for each child that has
  ever lived, since counters must not fall when a child ends. A place has two names, which its children use in turn,
  because a child and its successor run at the same time. A process that gets a name counts on from where
  the one before it has ended.
- They are in a directory of the parent's own, which it removes at its end. If it was killed, each child removes its
  files when it exits, and the last one the directory. TMPDIR says where; memory is better than a disk.
- Files of other processes that happen to be there, such as those of a pool that a child has started, are not read.

Gauges are read from living children only: `SharedMetrics.child_ended` removes those of a dead one.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from prometheus_client import values
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from .child_status import METRICS_VARIABLE

__all__ = ["ChildMetrics", "SharedMetrics"]

_FILE: Final = re.compile(r"[a-z]+(_[a-z]+)?_\d+-[01]\.db")
"""Names of the files of children: kind, mode (of gauges), place and name."""


def _identifier(place: int, name: int) -> str:
    """Return what stands for a child in the names of its files. It must not contain ``_``."""
    return f"{place}-{name}"


class ChildMetrics:
    """Has prometheus_client keep all metrics of this process in the directory of its parent.

    It must be made before the modules of the program are imported. Programs that the child starts must not inherit the
    variable `METRICS_VARIABLE`, which it sets: their files would not be read.

    :ivar identifier: stands for this child in the names of its files.
    :param directory: `SharedMetrics.directory`, which the child must get by a way of its own: the variable of
        prometheus_client is set here, and must not be set before, as for the parent.
    :param place: number of the child's place.
    :param name: 0 or 1; no other living child of the place may have it.
    :param parent: process ID of the parent.
    """

    def __init__(self, directory: str, place: int, name: int, parent: int) -> None:
        self.identifier = _identifier(place, name)
        self._directory = directory
        self._place = place
        self._parent = parent
        self._pid = os.getpid()
        atexit.register(self._remove_orphans)
        os.environ[METRICS_VARIABLE] = directory
        values.ValueClass = values.MultiProcessValue(self._identify_process)

    def _identify_process(self) -> str:
        """Return the identifier; in a process that this one has forked, another one, so that it writes other files."""
        pid = os.getpid()
        return self.identifier if pid == self._pid else f"{self.identifier}-{pid}"

    def _remove_orphans(self) -> None:
        """Remove the files of this place, and the directory if it was the last one, if the parent can no more."""
        if os.getpid() == self._pid and os.getppid() != self._parent:
            for path in Path(self._directory).glob(f"*_{self._place}-[01].db"):
                path.unlink(missing_ok=True)
            with suppress(OSError):  # another child has files, or has removed it
                os.rmdir(self._directory)


class SharedMetrics(Collector):
    """The metrics of all children, added up: a collector for a registry of the parent.

    Metrics of the parent itself should be another collector, whose values need no files.

    :ivar directory: where the files are, for `ChildMetrics`.
    """

    def __init__(self) -> None:
        """Make the directory. Raises OSError."""
        self.directory = tempfile.mkdtemp(prefix="txgearman-metrics-")

    def collect(self) -> Iterable[Metric]:
        files = [path for path in Path(self.directory).iterdir() if _FILE.fullmatch(path.name)]
        # A child that opens a file creates it empty, and makes it longer then.
        metrics: Iterable[Metric] = MultiProcessCollector.merge([str(path) for path in files if path.stat().st_size])
        return metrics

    def child_ended(self, place: int, name: int) -> None:
        """Remove the gauges of a child that has ended. Its counters and histograms stay.

        To be called before another child gets its name.
        """
        for path in Path(self.directory).glob(f"gauge_live*_{_identifier(place, name)}.db"):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.directory, ignore_errors=True)
