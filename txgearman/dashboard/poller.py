"""Polls the servers: one poll for all viewers, and a slow one for the history while nobody looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..admin import commands as text
from ..admin.admin import GearmanAdmin
from ..admin.reports import query_reports, query_within
from ..connection.reactor import Reactor
from ..connection.waiters import Waiters
from ..errors import ClientStopped
from .document import Document, Poll, Recorder

__all__ = ["Poller"]

_log = Logger()

MARGIN: Final = 1.0
"""Seconds by which a document may be late, beyond the interval and the servers' time."""

ATTENTION: Final = 30.0
"""Seconds that a single request counts as a viewer, so that a page which reloads itself is current."""


class Poller:
    """Polls all servers, and makes a document of each poll.

    :ivar running: whether it polls.
    :ivar newest: the newest document; None before the first poll has ended.
    :param interval: seconds from the start of a poll to the next one while there are viewers.
    :param idle_interval: the same while there are none.
    :param timeout: seconds until a server that has not answered is reported as down.
    :param publish: called with each document.
    """

    def __init__(
        self,
        admin: GearmanAdmin,
        reactor: Reactor,
        *,
        interval: float,
        idle_interval: float,
        timeout: float,
        publish: Callable[[Document], object],
    ) -> None:
        self._admin = admin
        self._reactor = reactor
        self._interval = interval
        self._idle_interval = max(interval, idle_interval)
        self._timeout = timeout
        self._publish = publish
        self._recorder = Recorder()
        self.history = self._recorder.history
        self.newest: Document | None = None
        self._fresh: Waiters[Document] = Waiters()
        self._viewers = 0
        self._watched_until = 0.0
        self._started = 0.0
        self.running = False
        self._timer: IDelayedCall | None = None
        self._poll: Deferred[Document] | None = None

    def start(self) -> None:
        """Poll now, and go on until `stop`."""
        self.running = True
        self._start_poll()

    def stop(self) -> None:
        """Stop polling. What waits for a document fails with `ClientStopped`."""
        self.running = False
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        if self._poll is not None:
            self._poll.cancel()
        self._fresh.fire(Failure(ClientStopped()))

    def viewer_came(self) -> None:
        """Poll at the interval of viewers until as many have gone as have come."""
        self._viewers += 1
        self._hurry()

    def viewer_gone(self) -> None:
        """See `viewer_came`."""
        self._viewers -= 1

    def fresh(self) -> Deferred[Document]:
        """Return a document that is not older than the interval, if need be that of the next poll.

        :return: fires with the document. Fails with `ClientStopped`. Cancelling it only ignores the document.
        """
        now = self._reactor.seconds()
        self._watched_until = now + max(ATTENTION, self._interval)
        waiting = self._fresh.wait()
        if not self.running:
            self._fresh.fire(Failure(ClientStopped()))
        elif self.newest is not None and now - self.newest.time <= self._interval:
            self._fresh.fire(self.newest)
        else:
            self._hurry()
        return waiting

    def _hurry(self) -> None:
        """Bring the next poll forward to the interval of viewers."""
        if self._timer is not None:
            self._timer.cancel()
            self._schedule()

    def _schedule(self) -> None:
        now = self._reactor.seconds()
        watched = self._viewers > 0 or now < self._watched_until
        due = self._started + (self._interval if watched else self._idle_interval)
        self._timer = self._reactor.callLater(max(0.0, due - now), self._start_poll)

    def _start_poll(self) -> None:
        self._timer = None
        self._started = self._reactor.seconds()
        self._poll = ensureDeferred(self._query())
        self._poll.addCallback(self._polled).addErrback(self._failed).addBoth(self._ended)

    async def _query(self) -> Document:
        """Query all servers at the same time."""
        workers = query_within(self._admin, text.WORKERS, self._timeout)
        try:
            reports = await query_reports(self._admin, self._timeout)
            answers = await workers
        finally:
            workers.addErrback(lambda _: None)  # of two that have failed, one is reported
            workers.cancel()
        expected = self._interval + self._timeout + MARGIN
        return self._recorder.record(Poll(reports, answers, self._started, self._reactor.seconds(), expected))

    def _polled(self, document: Document) -> None:
        self.newest = document
        self._publish(document)
        self._fresh.fire(document)

    def _failed(self, failure: Failure) -> None:
        if self.running:
            _log.failure("A poll failed", failure)
            self._fresh.fire(failure)

    def _ended(self, _: None) -> None:
        self._poll = None
        if self.running:
            self._schedule()
