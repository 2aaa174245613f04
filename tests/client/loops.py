"""``async for`` loops over `map` and `stream`, for tests."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred

from ..client_harness import ClientHarness, outcome


class Loop:
    """An ``async for`` loop, and its results.

    :ivar over: fires when the loop has ended.
    """

    def __init__(
        self, harness: ClientHarness, source: Any, most: int | None = None, each: Callable[[bytes], Any] | None = None
    ):
        """
        :param most: leave the loop after so many results.
        :param each: awaited after each result.
        """
        self.results: list[bytes] = []
        self._most = most
        self._each = each
        self.over = ensureDeferred(self._go(source))
        self._harness = harness
        harness.advance()

    async def _go(self, source: Any) -> str:
        async with aclosing(source) as results:
            async for result in results:
                self.results.append(result)
                if self._each is not None:
                    await self._each(result)
                if len(self.results) == self._most:
                    return "left"
        return "exhausted"

    @property
    def outcome(self) -> Any:
        self._harness.advance()
        return outcome(self.over)


class ManualLoop:
    """A loop over a stream that takes one chunk for each step of the test."""

    def __init__(self, harness: ClientHarness, **options: Any) -> None:
        self.harness = harness
        self._next_step: Deferred[None] = Deferred()
        self.loop = Loop(harness, harness.client.stream("work", b"slow", **options), each=lambda _: self._next_step)

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            step, self._next_step = self._next_step, Deferred()
            step.callback(None)
            self.harness.advance()

    def finish(self) -> None:
        while not self.loop.over.called:
            self.step()
