"""Whoever is told of something may do anything from within (guarantee 13): each callback, each action, each event."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from ..client_harness import ClientHarness, Told, outcome
from ..conftest import Failures

CALLBACKS = ["created", "data", "warning", "status", "exception", "retry", "complete", "fail", "the Deferred"]


class Scene:
    """A client of two servers. Of its tasks, the first meddles; the second shares its job; some are at the gate.

    :ivar calls: how often the first one has meddled.
    """

    def __init__(self, callback: str, action: Callable[[Scene], object]) -> None:
        self.harness = ClientHarness(2, max_in_flight=4, server_wait=60.0, job_check_interval=10.0).start()
        self.client = self.harness.client
        self.tasks: list[Told] = []
        self.calls = 0
        self._callback = callback
        self._action = action
        self.stops: list[Any] = []
        self.first = self.add(b"u", retries=1, timeout=500.0, meddles=True)
        self.add(b"u")
        self.add(b"")
        self.add(b"", background=True)
        self.add(b"", retries=2)
        self.add(b"v", background=True)

    def add(
        self,
        unique: bytes,
        background: bool = False,
        retries: int = 0,
        timeout: float | None = None,
        meddles: bool = False,
    ) -> Told:
        told = Told(len(self.tasks), background, unique, retries, timeout)
        told.stopped = not self.client.running
        self.tasks.append(told)
        if meddles:
            told.react = self.meddle
        deferred = self.client.submit(told.task)
        told.watch(deferred)
        if meddles:
            deferred.addCallback(lambda _: self.meddle("the Deferred")).addErrback(lambda _: None)
        return told

    def meddle(self, callback: str) -> None:
        if callback == self._callback and self.calls < 3:
            self.calls += 1
            self._action(self)

    def stop(self) -> None:
        for told in self.tasks:
            told.stopped = True
        self.stops.append(self.client.stopService())

    def cancel(self, told: Told) -> None:
        told.cancelled = True
        told.deferred.cancel()

    def work(self, end: str) -> None:
        """Do the first task's job; all that is said of it is read at once."""
        self.harness.advance()
        server = next((server for server in self.harness.servers if b"0" in server.queued("work")), None)
        if server is None:
            return
        jobs = [server.take("work") for _ in server.queued("work")]
        job = next(job for job in jobs if job.workload == b"0")
        for other in jobs:
            if other is not job:
                other.abandon()
        with server.hold_answers():
            job.send_data(b"d")
            job.send_warning(b"w")
            job.send_status(1, 2)
            if end == "loss":
                pass
            elif end == "exception":
                job.send_exception(b"x")
            else:
                getattr(job, end)()
        if end == "loss":
            if server.connections:
                server.drop_connections()
            job.abandon()

    def finish(self) -> None:
        """All is done that is there; then nothing may be left."""
        for _ in range(8):
            self.work("complete")
            for server in self.harness.servers:
                with suppress(AssertionError):  # a worker that asks in vain frees jobs that nobody waits for (H1)
                    while True:
                        server.take("work").complete(b"done")
            self.harness.advance(10)
        assert outcome(self.client.drain()) is None
        self.harness.stop()
        assert all(stop.called for stop in self.stops)
        for told in self.tasks:
            told.check_outcome()


def complete(scene: Scene) -> None:
    scene.work("complete")


def fail(scene: Scene) -> None:
    scene.work("fail")


def raise_exception(scene: Scene) -> None:
    scene.work("exception")


def fail_twice(scene: Scene) -> None:
    for _ in range(2):
        scene.work("fail")
        scene.harness.advance(0.5)


def lose(scene: Scene) -> None:
    scene.work("loss")


def go_down(scene: Scene) -> None:
    """For longer than patience lasts."""
    scene.harness.advance()
    for server in scene.harness.servers:
        server.go_down()
    scene.harness.advance(200)
    for server in scene.harness.servers:
        for fault in list(server._faults.active):
            fault.end()
    scene.harness.advance(40)


def time_out(scene: Scene) -> None:
    scene.harness.advance(501)


def stop_the_client(scene: Scene) -> None:
    scene.harness.advance()
    scene.stop()


def cancel_it(scene: Scene) -> None:
    scene.harness.advance()
    scene.cancel(scene.first)


def leave_a_server(scene: Scene) -> None:
    scene.harness.advance()
    scene.client.job_servers = scene.client.job_servers[:1]
    scene.work("fail")


EVENTS = [
    complete,
    fail,
    raise_exception,
    fail_twice,
    lose,
    go_down,
    time_out,
    stop_the_client,
    cancel_it,
    leave_a_server,
]


def adds_tasks(scene: Scene) -> None:
    scene.add(b"")
    scene.add(b"u", retries=1)
    scene.add(b"", background=True)


def cancels_itself(scene: Scene) -> None:
    scene.cancel(scene.first)


def cancels_all_others(scene: Scene) -> None:
    for told in scene.tasks[1:]:
        scene.cancel(told)


def stops_the_client(scene: Scene) -> None:
    scene.stop()


def stops_and_starts_the_client(scene: Scene) -> None:
    scene.stop()
    scene.client.startService()


def stops_and_adds_tasks(scene: Scene) -> None:
    scene.stop()
    scene.add(b"u")
    scene.add(b"", background=True)


def changes_the_servers(scene: Scene) -> None:
    scene.client.job_servers = scene.client.job_servers[::-1][:1]


def raises(scene: Scene) -> None:
    raise ZeroDivisionError("of the caller's own")


ACTIONS = [
    adds_tasks,
    cancels_itself,
    cancels_all_others,
    stops_the_client,
    stops_and_starts_the_client,
    stops_and_adds_tasks,
    changes_the_servers,
    raises,
]


@pytest.mark.guarantee(number=13)
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("callback", CALLBACKS)
def test_callback_may_do_anything(
    callback: str, action: Callable[[Scene], object], logged_failures: Failures
) -> None:
    calls = 0
    for event in EVENTS:
        scene = Scene(callback, action)
        event(scene)
        scene.finish()
        calls += scene.calls
    assert calls > 0
    logged = len(logged_failures.flush(ZeroDivisionError))
    assert logged == (calls if action is raises and callback != "the Deferred" else 0)
