"""The page of metrics: what a scraper gets, and when."""

from __future__ import annotations

import pytest

from txgearman.dashboard import Dashboard, scrape
from txgearman.dashboard.scrape import scrape_timeout
from txgearman.testing import MemoryJobServer

from ..conftest import Failures
from ..samples import samples
from .harness import Viewed, viewed


def test_metrics_are_current() -> None:
    server = MemoryJobServer()
    with viewed(server) as view:
        server.client().add_task_bg("f")
        answer = view.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        assert samples(answer.text)["gearman_jobs", "memory:1", "f"] == 1
        answer = view.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert (answer.headers["content-type"][:28], answer.text[-6:]) == ("application/openmetrics-text", "# EOF\n")


def test_server_that_hangs_has_less_time_than_the_scraper() -> None:
    server = MemoryJobServer()
    with viewed(server) as view:
        scraper = view.connect()
        with server.fall_silent():
            scraper.request("/metrics", X_Prometheus_Scrape_Timeout_Seconds="3")
            server.advance(2.4)
            assert scraper.read() == b""
            server.advance(0.1)
            assert samples(scraper.answer().text) == {("gearman_up", "memory:1"): 0}
        scraper.close()


TIMES = [
    (None, 8),
    (b"", 8),
    (b"x", 8),
    (b"nan", 8),
    (b"inf", 8),
    (b"-1", 8),
    (b"0", 8),
    (b"60", 8),
    (b"5", 4.5),
    (b"0.2", 0.1),
]
"""Headers, and the seconds that servers have if the limit is 8."""


def test_time_of_servers_is_shorter_than_that_of_the_scraper() -> None:
    assert [(header, scrape_timeout(header, 8)) for header, _ in TIMES] == TIMES


def test_error_is_logged_and_answered(monkeypatch: pytest.MonkeyPatch, logged_failures: Failures) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(scrape, "encode_reports", broken)
    server = MemoryJobServer()
    with viewed(server) as view:
        answer = view.get("/metrics")
        assert (answer.status, answer.text) == (500, "internal error\n")
        assert len(logged_failures.flush(ZeroDivisionError)) == 1


def test_scraper_that_leaves_early_is_not_logged(logged_failures: Failures) -> None:
    server = MemoryJobServer()
    with viewed(server) as view:
        with server.fall_silent():
            scraper = view.connect()
            scraper.request("/metrics")
            scraper.close()
        server.advance(10)
    assert logged_failures.texts() == []


def test_scrape_of_a_stopped_dashboard_fails(logged_failures: Failures) -> None:
    server = MemoryJobServer()
    dashboard = Dashboard([server.endpoint()], reactor=server.clock)
    dashboard.startService()
    dashboard.stopService()
    assert Viewed(server, dashboard).get("/metrics").status == 500
    assert logged_failures.texts() == []
    server.close()
