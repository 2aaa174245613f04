"""The reactor, as far as this library uses it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import ParamSpec, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock
from twisted.python.threadpool import ThreadPool

__all__ = [
    "Reactor",
    "ThreadedReactor",
    "random_source",
    "reactor_or_default",
    "reseed",
]

P = ParamSpec("P")


class Reactor(Protocol):
    """A reactor's clock: what every reactor has, and `twisted.internet.task.Clock`."""

    def seconds(self) -> float:
        """Return the current time."""

    def callLater(
        self,
        delay: float,
        callable: Callable[P, object],  # noqa: A002  # Twisted's name of it
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> IDelayedCall:
        """Call `callable` in `delay` seconds."""


_sources_on: WeakKeyDictionary[Clock, int] = WeakKeyDictionary()
"""How many sources of random numbers each clock has."""


@runtime_checkable
class ThreadedReactor(Reactor, Protocol):
    """A reactor with threads, as every reactor of Twisted has them."""

    def callFromThread(
        self,
        callable: Callable[P, object],  # noqa: A002  # Twisted's name of it
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Call `callable` in the reactor's thread. May be called in any thread."""

    def getThreadPool(self) -> ThreadPool:
        """Return the pool in which threaded functions run."""

    def suggestThreadPoolSize(self, size: int) -> None:
        """Set how many threads the pool may have."""


def reactor_or_default(reactor: Reactor | None) -> Reactor:
    """Return `reactor`, or the global one if it is None."""
    if reactor is not None:
        return reactor
    from twisted.internet import reactor as global_reactor

    return global_reactor


def random_source(reactor: Reactor) -> random.Random:
    """Return a new source of the random numbers of one client, worker or admin client.

    On a `Clock`, which only tests have, the numbers of its first source are the same each time, and so are those of the
    second, which are different.
    """
    if not isinstance(reactor, Clock):
        return random.Random()  # noqa: S311  # for jitter and the choice of servers
    number = _sources_on[reactor] = _sources_on.get(reactor, 0) + 1
    return random.Random(number)  # noqa: S311  # as above


def reseed(source: random.Random, reactor: Reactor) -> None:
    """Begin a new sequence of random numbers, except on a `Clock`.

    Processes that were forked after the source was made have the same sequence.
    """
    if not isinstance(reactor, Clock):
        source.seed()
