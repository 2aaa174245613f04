"""Tasks that wait for a server that is connecting, and how they are shared out once servers are ready.

Parts of batches wait here as tasks do, and are shared out by the number of their jobs.

A task with a unique waits for its own server. The others go to whichever servers are ready; but the first of them does
not get all that have gathered, as long as others are still connecting: each server that becomes ready gets its share.
What is left after `SHARE_TIME` seconds goes to those that are ready.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall

from ..connection.pool import JobServer, ServerPool
from ..connection.reactor import Reactor
from .batches import Part, Work
from .protocol import GearmanClientProtocol
from .task_queue import TaskQueue

__all__ = ["SHARE_TIME", "AwaitingConnection"]

SHARE_TIME: Final = 1.0
"""Seconds from the first server that is ready until tasks no longer wait for a second one."""


class AwaitingConnection:
    """Queues of tasks: one for each server that tasks with uniques wait for, and one for the tasks without.

    :ivar by_server: the queues of the tasks with uniques.
    :ivar unbound: the queue of the tasks that wait for any server.
    :param route: sends a task, adds it here again, or fails it, which may call user code.
    """

    def __init__(
        self, reactor: Reactor, servers: ServerPool[GearmanClientProtocol], route: Callable[[Work], object]
    ) -> None:
        self._reactor = reactor
        self._servers = servers
        self._route = route
        self.by_server: defaultdict[JobServer[GearmanClientProtocol], TaskQueue] = defaultdict(TaskQueue)
        self.unbound = TaskQueue()
        self._shared_out = 0  # tasks without a unique that have left the queue since it was empty
        self._served: set[JobServer[GearmanClientProtocol]] = set()  # servers that have got their share of them
        self._share_timer: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self.unbound) + sum(map(len, self.by_server.values()))

    def add(self, task: Work, server: JobServer[GearmanClientProtocol] | None) -> None:
        """Add a task, and become its holder.

        :param server: the one that the task has to wait for; None for any.
        """
        if server is not None:
            self.by_server[server].append(task)
            return
        if not self.unbound:
            self._shared_out = 0
            self._served.clear()
        self.unbound.append(task)

    def pop_all(self) -> list[Work]:
        """Remove and return all tasks."""
        self._stop_timer()
        queues = [self.unbound, *self.by_server.values()]
        self.by_server.clear()
        return [task for queue in queues for task in queue.pop_all()]

    def servers_changed(self, server: JobServer[GearmanClientProtocol] | None) -> None:
        """Route the tasks that need no longer wait.

        :param server: the one that has become ready or unreachable; None if any task may have another server now.
        """
        for each in list(self.by_server) if server is None else [server]:
            self._serve(each)
        self._share_out()

    def _serve(self, server: JobServer[GearmanClientProtocol]) -> None:
        """Send the tasks that wait for a server if it is ready, or else route them again."""
        queue = self.by_server.get(server)
        if queue is None:
            return
        self._send(queue, len(queue), server)
        self._route_all(queue)
        if not queue and self.by_server.get(server) is queue:
            del self.by_server[server]

    @staticmethod
    def _send(queue: TaskQueue, count: int, server: JobServer[GearmanClientProtocol]) -> None:
        """Send the first `count` jobs of a queue to a server, unless it is not ready."""
        if server.connection is None:
            return
        while count > 0:
            task = queue.pop()
            assert task is not None
            if task._job_count > count:
                assert isinstance(task, Part)
                rest, task = task, task.split(count)
                queue.prepend(rest)
            count -= task._job_count
            server.connection._send_work(task)

    def _route_all(self, queue: TaskQueue) -> None:
        """Route the tasks of a queue one by one.

        What the failure of one of them runs may cancel those that are still queued, or stop the client.
        """
        for _ in range(queue.entries):
            task = queue.pop()
            if task is not None:  # else the outcome of another task has removed the remaining ones
                self._route(task)

    def _share_out(self) -> None:
        """Send the tasks without a unique, as far as no server gets more than its share."""
        for server in self._servers.ready if self.unbound else ():
            self._send_share(server)
        if not self._servers.connecting:
            self._route_all(self.unbound)
        if not (self.unbound or self._servers.expecting):
            self._stop_timer()
        elif self._servers.ready and self._share_timer is None:
            self._share_timer = self._reactor.callLater(SHARE_TIME, self._share_time_over)

    def _send_share(self, server: JobServer[GearmanClientProtocol]) -> None:
        if server in self._served:
            return
        self._served.add(server)
        left = len(self.unbound)
        share = -(-(left + self._shared_out) // (len(self._servers.ready) + self._servers.connecting))
        count = min(left, share)
        self._shared_out += count
        self._send(self.unbound, count, server)

    def _share_time_over(self) -> None:
        self._share_timer = None
        self._servers.expect_no_longer()
        self._route_all(self.unbound)

    def _stop_timer(self) -> None:
        if self._share_timer is not None:
            self._share_timer.cancel()
            self._share_timer = None
