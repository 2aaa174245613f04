"""A callback that stops the client and starts it again while an event is reported to several tasks.

The stop ends those tasks that have no outcome yet, too, though nobody holds them at that moment: none of them is
retried or sent after the start.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from txgearman import ClientStopped, TaskLost
from txgearman.client.protocol import GearmanClientProtocol

from ..client_harness import ClientHarness, Events, outcome, recording
from .forgetting import forget_queued_jobs

pytestmark = [pytest.mark.guarantee(number=1), pytest.mark.guarantee(number=13)]


class Restart:
    """A client whose first task to end stops it, and starts it again.

    :ivar events: those of the other tasks.
    """

    def __init__(self) -> None:
        self.harness = ClientHarness(job_check_interval=8.0).start()
        self.client = self.harness.client
        self.events: Events = []
        first = self.client.add_task("work", unique="u")
        first.addErrback(lambda _: self._restart())
        self.harness.advance()

    def _restart(self) -> None:
        self.client.stopService()
        self.client.startService()

    def connection(self) -> GearmanClientProtocol:
        connection = next(iter(self.client._servers)).connection
        assert connection is not None
        return connection

    def finish(self) -> None:
        """Check that nothing has been submitted since the start, and that the client works."""
        self.harness.advance(100.0)
        self.harness.check_that_it_works()
        self.harness.stop()


def lose_connection(restart: Restart) -> None:
    restart.harness.server.drop_connections()
    restart.harness.advance()


def forget_job(restart: Restart) -> None:
    forget_queued_jobs(restart.harness.server)
    for _ in range(4):
        restart.harness.advance(4.0)


@pytest.mark.parametrize("end", [lose_connection, forget_job])
def test_written_task_is_not_retried(end: Callable[[Restart], None]) -> None:
    restart = Restart()
    other = restart.client.add_task("work", unique="u", retries=3, **recording(restart.events))
    restart.harness.advance()
    end(restart)
    assert type(outcome(other)) is TaskLost
    assert [name for name, *_ in restart.events] == ["created", "fail"]
    restart.finish()


@pytest.mark.guarantee(number=7)
def test_unwritten_task_is_not_sent_though_its_connection_was_lost() -> None:
    restart = Restart()
    restart.connection().pauseProducing()
    other = restart.client.add_task("work", retries=3, **recording(restart.events))
    lose_connection(restart)
    assert type(outcome(other)) is ClientStopped
    assert [name for name, *_ in restart.events] == ["fail"]
    restart.finish()
