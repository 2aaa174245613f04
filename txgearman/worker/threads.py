"""Threads of a worker: how many it adds to the reactor's pool, and how those that send wait for a slow server."""

from __future__ import annotations

from threading import Event
from typing import Final, cast
from weakref import WeakKeyDictionary

from twisted.python.threadpool import ThreadPool

from ..connection.reactor import Reactor, ThreadedReactor

__all__ = ["AddedThreads", "ThreadSends"]

MAX_UNSENT: Final = 64 * 1024
"""Bytes that the threads of a job may send until they wait for the server."""

CALL_SIZE: Final = 256
"""Bytes that a call from a thread takes beside its data, about: many small packets fill the memory, too."""


class ThreadSends:
    """What the threads of one job have sent since they last waited, and which of them wait. It needs a lock.

    :ivar waiting: is set once the server has taken what was sent, or the job has ended.
    """

    __slots__ = ("_unsent", "waiting")

    def __init__(self) -> None:
        self._unsent = 0
        self.waiting: set[Event] = set()

    def add(self, size: int) -> Event | None:
        """Count what was sent.

        :return: for what the thread has to wait now, if for anything.
        """
        self._unsent += size + CALL_SIZE
        if self._unsent < MAX_UNSENT:
            return None
        self._unsent = 0
        taken = Event()
        self.waiting.add(taken)
        return taken

    def wake_all(self) -> None:
        """Have no thread wait any longer."""
        for taken in self.waiting:
            taken.set()


class _PoolShares:
    """The workers that have added threads to a pool, and the maximum that they have left it with."""

    def __init__(self, pool: ThreadPool) -> None:
        self.maximum = pool.max
        self.holders: set[AddedThreads] = set()


_shares: WeakKeyDictionary[ThreadPool, _PoolShares] = WeakKeyDictionary()


class AddedThreads:
    """The threads that one worker adds to the maximum of the reactor's pool while it runs.

    Others, such as the resolver of names, need the threads that there were. If other code sets the maximum meanwhile,
    it stays as it was set: of the threads that had been added before, none is taken away.

    :param count: how many are added.
    """

    def __init__(self, reactor: Reactor, count: int) -> None:
        self._reactor = reactor
        self._count = count
        self._pool: ThreadPool | None = None

    def add(self) -> None:
        """Add the threads, if they are not added already. The reactor must be a `ThreadedReactor`."""
        if self._pool is None:
            self._pool = cast(ThreadedReactor, self._reactor).getThreadPool()
            self._shares(self._pool).holders.add(self)
            self._resize(self._pool, self._count)

    def remove(self) -> None:
        """Take the threads away again, if they were added. Those that are busy end later."""
        pool, self._pool = self._pool, None
        if pool is not None and self in self._shares(pool).holders:
            self._shares(pool).holders.remove(self)
            self._resize(pool, -self._count)

    def change(self, count: int) -> None:
        """Change how many are added, now if they are added already."""
        added = self._pool is not None
        self.remove()
        self._count = count
        if added:
            self.add()

    @staticmethod
    def _shares(pool: ThreadPool) -> _PoolShares:
        """Return who has added threads to a pool: nobody, if its maximum was set by others since."""
        shares = _shares.get(pool)
        if shares is None or shares.maximum != pool.max:
            shares = _shares[pool] = _PoolShares(pool)
        return shares

    @staticmethod
    def _resize(pool: ThreadPool, change: int) -> None:
        pool.adjustPoolsize(maxthreads=max(pool.min, pool.max + change))
        _shares[pool].maximum = pool.max
