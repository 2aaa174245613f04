"""The handles of many background jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from ..models import JobHandle, job_handle

__all__ = ["JobHandles"]


class JobHandles(Sequence[JobHandle]):
    """The handles of a batch of background jobs, in the order of the workloads. Each is made when it is accessed.

    :param servers: address of each job's server.
    :param handles: the handle that this server assigned.
    """

    __slots__ = ("_handles", "_servers")

    def __init__(self, servers: Sequence[str], handles: Sequence[bytes]) -> None:
        self._servers = servers
        self._handles = handles

    def __repr__(self) -> str:
        return f"<JobHandles of {len(self)} jobs>"

    def __len__(self) -> int:
        return len(self._handles)

    @overload
    def __getitem__(self, index: int) -> JobHandle: ...
    @overload
    def __getitem__(self, index: slice) -> JobHandles: ...  # type: ignore[explicit-any]  # that is what slice means
    def __getitem__(self, index: int | slice) -> JobHandle | JobHandles:  # type: ignore[explicit-any]  # the same
        if isinstance(index, slice):
            return JobHandles(self._servers[index], self._handles[index])
        return JobHandle(self._servers[index], self._handles[index])

    def __iter__(self) -> Iterator[JobHandle]:
        return map(job_handle, zip(self._servers, self._handles, strict=True))
