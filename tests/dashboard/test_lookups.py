"""Jobs on demand: the first ones of a server, and one by its handle."""

from __future__ import annotations

import pytest

from txgearman.dashboard import lookups
from txgearman.testing import MemoryJobServer

from .harness import viewed


@pytest.fixture
def server() -> MemoryJobServer:
    server = MemoryJobServer()
    server.client().add_tasks_bg("f", [b""] * 3)
    return server


def test_list_has_the_first_jobs(server: MemoryJobServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "MAX_JOBS", 2)
    with viewed(server) as view:
        answer = view.get("/jobs.json?server=memory:1").json()
    first = {
        "handle": "H:memory:1",
        "id": "memory:1//H:memory:1",
        "retries": 0,
        "ignored": False,
        "stored": True,
    }
    assert answer["jobs"][0] == first
    assert (answer["server"], answer["total"], len(answer["jobs"]), answer["time"]) == ("memory:1", 3, 2, 0)


def test_viewers_share_one_list_for_five_seconds(server: MemoryJobServer) -> None:
    """So that whoever loads it again and again does not hold up the server."""
    with viewed(server) as view:
        silence = server.fall_silent()
        waiting = [view.connect() for _ in range(3)]
        for each in waiting:
            each.request("/jobs.json?server=memory:1")
        waiting.pop().close()
        silence.end()
        server.advance()
        assert [each.answer().json()["total"] for each in waiting] == [3, 3]
        server.advance(4.9)
        assert view.get("/jobs.json?server=memory:1").json()["time"] == 0
        server.advance(0.1)
        assert view.get("/jobs.json?server=memory:1").json()["time"] == 5
        for each in waiting:
            each.close()


def test_list_of_server_that_is_down_has_its_error(server: MemoryJobServer) -> None:
    with viewed(server) as view, server.go_down():
        server.advance(31)
        answer = view.get("/jobs.json?server=memory:1").json()
    assert answer.keys() == {"server", "error", "time"}
    assert answer["server"] == "memory:1"
    assert "memory:1:" not in answer["error"]


def test_invalid_requests_are_answered_with_the_reason(server: MemoryJobServer) -> None:
    with viewed(server) as view:
        answers = {
            path: view.get(path)
            for path in (
                "/jobs.json",
                "/jobs.json?server=a&server=b",
                "/jobs.json?server=%ff",
                "/jobs.json?server=memory:9",
                "/job.json?handle=",
                "/job.json?handle=memory:9//H:x",
                "/job.json?handle=//",
            )
        }
    assert {each.status for each in answers.values()} == {400}
    assert {each.headers["content-type"] for each in answers.values()} == {"text/plain; charset=utf-8"}
    assert {each.headers["cache-control"] for each in answers.values()} == {"no-store"}
    assert [each.text.strip() for each in answers.values()] == [
        "there must be one argument server",
        "there must be one argument server",
        "server must be UTF-8",
        "server must be one of memory:1, not 'memory:9'",
        "handle must not be empty",
        "server must be one of memory:1, not 'memory:9'",
        "text must be a job handle such as '10.0.0.1:4730//H:host:12', not '//'",
    ]


def test_state_is_asked_of_all_servers(server: MemoryJobServer) -> None:
    other = MemoryJobServer(server.clock)
    job = server.take("f")
    job.send_status(3, 4)
    with viewed(server, other) as view:
        bare = view.get("/job.json?handle=H:memory:1").json()
        known = {"known": True, "running": True, "numerator": 3, "denominator": 4}
        unknown = {"known": False, "running": False, "numerator": 0, "denominator": 0}
        assert bare == {
            "handle": "H:memory:1",
            "answers": [{"server": "memory:1", **known}, {"server": "memory:2", **unknown}],
        }
        one = view.get("/job.json?handle=memory:1//H:memory:1").json()
        assert one["answers"] == [{"server": "memory:1", **known}]
        with other.go_down():
            server.advance(1)
            error = view.get("/job.json?handle=memory:2//H:memory:1").json()["answers"][0]
            assert error.keys() == {"server", "error"}
        job.complete(b"")
