"""What is sent to systemd's socket, and what is not: states, the status of a worker, and errors."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from txgearman.cli.systemd import RETRY_DELAY, STATUS_INTERVAL, SystemdNotifier, WorkerReports
from txgearman.testing import MemoryJobServer

from ..watched_log import WatchedLog


class Manager:
    """systemd's socket.

    :ivar name: its address, as in NOTIFY_SOCKET.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = name.replace("@", "\0", 1)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(self.address)

    def received(self) -> list[list[str]]:
        """Return the lines of each message since the last call."""
        messages = []
        with suppress(BlockingIOError):
            while True:
                messages.append(self._socket.recv(4096).decode().split("\n"))
        return messages

    def fill(self) -> None:
        """Send to the socket until its queue is full."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, suppress(BlockingIOError):
            sender.setblocking(False)
            while True:
                sender.sendto(b"", self.address)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def log() -> Iterator[WatchedLog]:
    with WatchedLog() as log:
        yield log


ABSTRACT = pytest.param("@txgearman-{}", marks=pytest.mark.skipif(sys.platform != "linux", reason="needs Linux"))


@pytest.fixture(params=["{}/notify", ABSTRACT])
def manager(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Manager]:
    """At a path, and at an abstract name."""
    manager = Manager(request.param.format(tmp_path if "/" in request.param else os.getpid()))
    yield manager
    manager.close()


def notifier_of(manager: Manager, clock: Clock | None = None) -> SystemdNotifier:
    return SystemdNotifier(clock or Clock(), {"NOTIFY_SOCKET": manager.name})


def test_states_are_sent_in_order(manager: Manager) -> None:
    notifier = notifier_of(manager)
    notifier.ready("a")
    notifier.status("b")
    notifier.status("b")
    notifier.status("two\nlines" + "!" * 1000)
    before = time.monotonic_ns() // 1000
    notifier.reloading("c")
    after = time.monotonic_ns() // 1000
    notifier.stopping("d")
    ready, status, long_status, reloading, stopping = manager.received()
    assert (ready, status) == (["READY=1", "STATUS=a"], ["STATUS=b"])
    assert long_status[0].startswith("STATUS=two\\nlines!!!")
    assert len(long_status[0]) <= 210
    assert before <= int(reloading[1].removeprefix("MONOTONIC_USEC=")) <= after
    assert (reloading[0], reloading[2]) == ("RELOADING=1", "STATUS=c")
    assert stopping == ["STOPPING=1", "STATUS=d"]


def test_variable_is_removed_from_environment(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    assert SystemdNotifier(Clock()).enabled
    assert "NOTIFY_SOCKET" not in os.environ


def test_nothing_is_sent_without_variable() -> None:
    notifier = SystemdNotifier(Clock(), {})
    notifier.ready("a")
    assert not notifier.enabled


def test_messages_wait_while_queue_is_full(manager: Manager) -> None:
    """Of the changes of the status between two states, the last one is sent."""
    clock = Clock()
    notifier = notifier_of(manager, clock)
    manager.fill()
    notifier.ready("a")
    notifier.status("b")
    notifier.status("c")
    notifier.stopping("d")
    clock.advance(RETRY_DELAY)
    assert set(map(tuple, manager.received())) == {("",)}
    clock.advance(RETRY_DELAY)
    assert manager.received() == [["READY=1", "STATUS=a"], ["STATUS=c"], ["STOPPING=1", "STATUS=d"]]
    assert clock.getDelayedCalls() == []


def test_error_is_logged_once(tmp_path: Path, log: WatchedLog) -> None:
    notifier = SystemdNotifier(Clock(), {"NOTIFY_SOCKET": str(tmp_path / "nowhere")})
    notifier.ready("a")
    notifier.status("b")
    assert log.texts() == ["systemd was not notified: [Errno 2] No such file or directory"]


def test_invalid_address_is_logged(log: WatchedLog) -> None:
    assert not SystemdNotifier(Clock(), {"NOTIFY_SOCKET": "vsock:2:1234"}).enabled
    assert log.texts() == ["systemd is not notified: NOTIFY_SOCKET must begin with / or @, not be 'vsock:2:1234'"]


# A worker.


@pytest.fixture
def environment(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)


@pytest.mark.usefixtures("environment")
def test_worker_is_ready_once_its_functions_are_registered(manager: Manager) -> None:
    server = MemoryJobServer()
    worker = server.worker()
    outage = server.go_down()
    ended: Deferred[bytes] = Deferred()
    worker.register_function("f", lambda job: ended)
    reports = WorkerReports(server.clock, worker)
    reports.start()
    server.advance(3)
    assert manager.received() == [["STATUS=jobs running: 0; servers connected: 0 of 1"]]
    outage.end()
    server.advance(10)
    assert manager.received() == [["READY=1", "STATUS=jobs running: 0; servers connected: 1 of 1"]]
    result = server.client().add_task("f")
    server.advance(STATUS_INTERVAL)
    assert manager.received() == [["STATUS=jobs running: 1; servers connected: 1 of 1"]]
    reports.stop("waiting")
    server.advance(STATUS_INTERVAL)
    ended.callback(b"done")
    assert server.result_of(result) == b"done"
    assert manager.received() == [["STOPPING=1", "STATUS=waiting"]]
    server.close()


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("down", [False, True])
def test_worker_that_stops_before_it_is_ready_is_never_ready(manager: Manager, down: bool) -> None:
    server = MemoryJobServer()
    fault = server.go_down() if down else server.black_hole_connections()
    worker = server.worker()
    worker.register_function("f", lambda job: None)
    reports = WorkerReports(server.clock, worker)
    reports.start()
    reports.stop("waiting")
    fault.end()
    server.advance(30)
    waited = [["STATUS=jobs running: 0; servers connected: 0 of 1"]] if down else []
    assert manager.received() == [*waited, ["STOPPING=1", "STATUS=waiting"]]
    server.close()
