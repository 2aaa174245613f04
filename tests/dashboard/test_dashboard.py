"""Polls: one for all viewers, seldom while nobody looks, and what is shown of servers that are down, hung and back."""

from __future__ import annotations

from typing import Any

import pytest

from txgearman.dashboard import Dashboard
from txgearman.dashboard.poller import Poller
from txgearman.packets import GET_STATUS
from txgearman.testing import MemoryJobServer

from ..conftest import Failures
from ..wire import outcome
from .harness import Viewed, viewed


@pytest.fixture
def server() -> MemoryJobServer:
    """A server with a job of the function f."""
    server = MemoryJobServer()
    server.client().add_task_bg("f")
    return server


def count_polls(view: Viewed, seconds: float) -> int:
    """Return how many polls end in these seconds."""
    before = len(points(view))
    view.server.advance(seconds)
    return len(points(view)) - before


def points(view: Viewed) -> list[Any]:
    """Return the history of the server: one point per poll. It does not count as looking."""
    found: list[Any] = view.get(f"/history.json?server={view.server.name}").json()["points"]
    return found


def test_fifty_viewers_share_one_poll(server: MemoryJobServer) -> None:
    with viewed(server) as view:
        viewers = [view.watch() for _ in range(50)]
        assert [len(each.events()) for each in viewers] == [1] * 50
        assert count_polls(view, 10) == 5
        assert [len(each.events()) for each in viewers] == [5] * 50
        for each in viewers:
            each.close()


def test_polls_are_rare_while_nobody_looks(server: MemoryJobServer) -> None:
    with viewed(server, interval=1, idle_interval=60) as view:
        assert count_polls(view, 600) == 10


def test_viewer_who_comes_gets_a_poll_at_once(server: MemoryJobServer) -> None:
    with viewed(server) as view:
        server.advance(20)
        viewer = view.watch()
        assert [each["time"] for each in viewer.events()] == [0, 20]
        assert count_polls(view, 10) == 5
        viewer.close()
        assert count_polls(view, 120) == 4  # the one that was due, and one each 30 s


def test_viewer_during_a_poll_starts_no_second_one(server: MemoryJobServer) -> None:
    with viewed(server) as view:
        with server.fall_silent():
            server.advance(31)
            viewer = view.watch()
            server.advance(0.5)
            assert [each["time"] for each in viewer.events()] == [0]
        server.advance()
        assert [(each["time"], each["took"]) for each in viewer.events()] == [(31.5, 1.5)]
        viewer.close()


def test_document_is_not_older_than_the_interval(server: MemoryJobServer) -> None:
    with viewed(server) as view:
        server.advance(2)
        assert view.document()["time"] == 0
        server.advance(10)
        assert view.document()["time"] == 12
        assert count_polls(view, 28) == 14  # one who loads a page again and again is a viewer


def test_server_that_goes_down_is_shown_and_back(server: MemoryJobServer) -> None:
    other = MemoryJobServer(server.clock)
    with viewed(server, other) as view:
        viewer = view.watch()
        with other.go_down():
            server.advance(2)
            down = viewer.events()[-1]["servers"][1]
        assert (down["up"], down["answered"], down["version"]) == (False, 0, "1.1.20-txgearman")
        assert down["error"] is not None
        server.advance(6)
        assert viewer.events()[-1]["servers"][1]["up"] is True
        viewer.close()


def test_server_that_hangs_is_down_and_delays_others_by_its_time_out_alone(server: MemoryJobServer) -> None:
    other = MemoryJobServer(server.clock)
    with viewed(server, other, server_timeout=3) as view:
        viewer = view.watch()
        viewer.events()
        with other.fall_silent():
            server.advance(2 + 2.9)
            assert viewer.events() == []
            server.advance(0.1)
            document = viewer.events()[0]
            assert [each["up"] for each in document["servers"]] == [True, False]
            assert document["servers"][1]["error"] == "no answer within 3 s"
            assert document["expected"] == 2 + 3 + 1
        server.advance(20)
        assert viewer.events()[-1]["servers"][1]["up"] is True
        viewer.close()


def test_history_is_served_by_function_and_server(server: MemoryJobServer) -> None:
    with viewed(server) as view:
        viewer = view.watch()
        job = server.take("f")
        server.advance(2)
        assert view.get("/history.json?function=f").json() == {"points": [[0, 1, 0, 0], [2, 0, 1, 1]]}
        assert points(view) == [[0, 1, 0, 0], [2, 0, 1, 0]]  # who took the job has no connection
        for absent in ("function=none", "server=none"):
            assert view.get(f"/history.json?{absent}").json() == {"points": []}
        viewer.close()
        job.complete(b"")


def test_history_before_the_first_document_is_empty() -> None:
    server = MemoryJobServer()
    silence = server.fall_silent()
    with viewed(server) as view:
        assert view.get("/history.json?function=f").json() == {"points": []}
        silence.end()


@pytest.mark.guarantee(number=11)
def test_stop_closes_streams_and_leaves_no_timer(server: MemoryJobServer) -> None:
    dashboard = Dashboard([server.endpoint()], reactor=server.clock)
    view = Viewed(server, dashboard)
    dashboard.startService()
    server.advance()
    viewer = view.watch()
    paused = view.watch()
    paused.pause()
    with server.fall_silent():
        server.advance(3)  # a poll is in progress
        loading = view.connect()
        loading.request("/document.json")
        asking = view.connect()
        asking.request("/jobs.json?server=memory:1")
        stopped = outcome(dashboard.stopService())
    assert (viewer.is_open, paused.is_open) == (False, False)
    assert [each.answer().status for each in (loading, asking)] == [503, 503]
    loading.close()
    asking.close()
    server.advance(3)
    assert stopped == [None]
    for path in ("document.json", "events", "table", "jobs.json?server=memory:1", "job.json?handle=x"):
        assert view.get(f"/{path}").status == 503
    server.close()
    assert server.clock.getDelayedCalls() == []


def test_dashboard_starts_again(server: MemoryJobServer) -> None:
    with viewed(server) as view:
        view.dashboard.stopService()
        server.advance(3)
        view.dashboard.startService()
        server.advance()
        assert view.document()["time"] == 3
        assert view.get("/jobs.json?server=memory:1").json()["total"] == 1


async def test_dashboard_is_an_async_context_manager() -> None:
    from twisted.internet import reactor

    server = MemoryJobServer(reactor)
    dashboard = Dashboard([server.endpoint()], reactor=reactor)
    async with dashboard:
        assert dashboard.running
    assert not dashboard.running
    await server.close(verify=False)


def test_poll_that_fails_is_logged_and_followed_by_the_next(
    server: MemoryJobServer, monkeypatch: pytest.MonkeyPatch, logged_failures: Failures
) -> None:
    with viewed(server) as view:
        with monkeypatch.context() as patch:
            patch.setattr(Poller, "_polled", lambda *_: 1 / 0)
            server.advance(10)
            assert view.get("/document.json").status == 500
        assert len(logged_failures.flush(ZeroDivisionError)) == 2
        server.advance(2)
        assert view.document()["time"] == 12


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 0}, "interval must be a positive number of seconds, not 0"),
        ({"idle_interval": -1}, "idle_interval must be a positive number of seconds, not -1"),
        ({"server_timeout": 0}, "server_timeout must be a positive number of seconds, not 0"),
        ({"hosts": ["a:1"]}, "host must be a name without a port, such as gearman.example.com, not 'a:1'"),
    ],
)
def test_invalid_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dashboard(["h"], **options)


def test_only_handles_take_a_connection_of_their_own(server: MemoryJobServer) -> None:
    """There is one connection for the text protocol, and one for the state of jobs, once somebody asks."""
    with viewed(server) as view:
        before = len(server.connections)
        assert view.get("/job.json?handle=H:memory:1").json()["answers"][0]["known"] is True
        assert len(server.connections) == before + 1
        assert GET_STATUS in server.connections[-1].requests
