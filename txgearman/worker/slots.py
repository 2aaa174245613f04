"""`Slots`: how many jobs a worker may run, and who holds a slot.

Nothing else counts jobs against a limit.
"""

from __future__ import annotations

from typing import TypeVar

from .groups import FunctionGroup

__all__ = ["Slots"]

K = TypeVar("K")


class Slots:
    """A worker's slots: each is held by a request for a job, and then by the job that answers it (guarantee 18).

    :ivar max_jobs: how many there are.
    :ivar held: how many are held.
    """

    __slots__ = ("_by_function", "_by_group", "held", "max_jobs")

    def __init__(self, max_jobs: int) -> None:
        self.max_jobs = max_jobs
        self.held = 0
        self._by_group: dict[FunctionGroup, int] = {}
        # Only of functions with a limit. By name, since jobs of one that is registered again may run still.
        self._by_function: dict[bytes, int] = {}

    def held_by(self, group: FunctionGroup) -> int:
        """Return how many slots this group holds."""
        return self._by_group.get(group, 0)

    def free_for(self, group: FunctionGroup) -> int:
        """Return how many more slots this group may acquire."""
        free = self.max_jobs - self.held
        limit = group.limit
        if limit is None:
            return free
        return min(free, limit.max_jobs - self._by_function.get(limit.function, 0))

    def limit_reached(self, group: FunctionGroup) -> bool:
        """Return whether as many jobs of the group's function run or are requested as its limit allows."""
        limit = group.limit
        return limit is not None and self._by_function.get(limit.function, 0) >= limit.max_jobs

    def acquire(self, group: FunctionGroup, count: int = 1) -> None:
        """Have a group hold so many slots more, which must be free for it."""
        self.held += count
        self._by_group[group] = self._by_group.get(group, 0) + count
        limit = group.limit
        if limit is not None:
            self._by_function[limit.function] = self._by_function.get(limit.function, 0) + count

    def release(self, group: FunctionGroup, count: int = 1) -> None:
        """Free so many of the slots that a group holds."""
        self.held -= count
        by_group = self._by_group
        left = by_group[group] - count
        if left:  # as _subtract() does, with a call less
            by_group[group] = left
        else:
            del by_group[group]
        if group.limit is not None:
            _subtract(self._by_function, group.limit.function, count)


def _subtract(counts: dict[K, int], key: K, count: int) -> None:
    """Subtract from a count, and forget one that becomes 0."""
    left = counts[key] - count
    if left:
        counts[key] = left
    else:
        del counts[key]
