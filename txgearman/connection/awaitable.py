"""A Deferred that tasks of asyncio can await, too."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TypeVar

from twisted.internet.defer import Deferred

__all__ = ["AwaitableDeferred"]

T = TypeVar("T")

_BAD_YIELD = "Task got bad yield"  # the text of the error that asyncio raises where a task awaits a Deferred


class AwaitableDeferred(Deferred[T]):
    """Deferred that a coroutine may await whether Twisted runs it or, on the asyncio reactor, a task of asyncio.

    Nothing says beforehand which of them runs a coroutine. But asyncio raises an error in a coroutine that awaits a
    Deferred. Then a future takes the place of the Deferred. If the task is cancelled, so is the Deferred.
    """

    def __await__(self) -> Generator[Deferred[T], None, T]:
        try:
            return (yield from super().__await__())
        except RuntimeError as error:
            if not str(error).startswith(_BAD_YIELD):
                raise
        yield from self._future()  # type: ignore[misc]  # for asyncio
        return (yield from super().__await__())

    def _future(self) -> Generator[object, None, None]:
        """Wait in a task of asyncio until the Deferred has fired."""
        fired = asyncio.get_running_loop().create_future()

        def pass_on(result: T) -> T:
            if not fired.done():
                fired.set_result(None)
            return result

        self.addBoth(pass_on)
        try:
            yield from fired.__await__()
        except asyncio.CancelledError:
            self.addErrback(lambda _: None)
            self.cancel()
            raise
