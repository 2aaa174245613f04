"""The pages, and that no other site reads or forges them."""

from __future__ import annotations

import sys

import pytest
from twisted.web.resource import Resource

from txgearman.dashboard import Dashboard
from txgearman.dashboard.resource import STATIC
from txgearman.testing import MemoryJobServer

from ..conftest import Failures
from .harness import Viewed, viewed

PATHS = [
    "/",
    "/events",
    "/document.json",
    "/history.json?function=f",
    "/jobs.json?server=memory:1",
    "/job.json?handle=x",
    "/table",
    "/metrics",
    "/healthz",
    "/page.js",
    "/none",
]

POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"


def test_files_are_served_once_to_a_browser_that_keeps_them() -> None:
    server = MemoryJobServer()
    with viewed(server) as view:
        for path, (_, content_type) in STATIC.items():
            first = view.get(f"/{path.decode()}")
            assert (first.status, first.headers["content-type"]) == (200, content_type)
            again = view.get(f"/{path.decode()}", If_None_Match=first.headers["etag"])
            assert (again.status, again.body) == (304, b"")


def test_every_answer_has_the_headers_of_security() -> None:
    server = MemoryJobServer()
    with viewed(server) as view:
        for path in PATHS:
            for host in ("localhost", "evil.example"):
                headers = view.get(path, Host=host).headers
                assert headers["content-security-policy"] == POLICY
                assert headers["x-content-type-options"] == "nosniff"
                assert headers["cross-origin-resource-policy"] == "same-origin"
                assert headers["referrer-policy"] == "no-referrer"
                assert "set-cookie" not in headers
                assert "access-control-allow-origin" not in headers


def test_page_under_a_rebound_name_is_refused() -> None:
    server = MemoryJobServer()
    with viewed(server, hosts=["gearman.example.com"]) as view:
        for path in PATHS:
            answer = view.get(path, Host="evil.example:4780")
            assert (answer.status, answer.text.partition(" must")[0]) == (403, "The header Host")
        assert view.get("/healthz", Host="gearman.example.com").status == 200
        no_host = view.connect()
        no_host.send(b"GET / HTTP/1.0\r\n\r\n")
        assert no_host.answer().status == 403
        absolute = view.connect()
        absolute.send(b"GET http://localhost/ HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        assert absolute.answer().status in (403, 404)  # by the version of Twisted
        absolute.close()


def test_other_site_can_link_to_the_page_and_nothing_more() -> None:
    server = MemoryJobServer()
    with viewed(server) as view:
        for path in PATHS:
            assert view.get(path, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors").status == 403
        assert view.get("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate").status == 200
        assert view.get("/healthz", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors").status == 200


def test_other_methods_are_refused() -> None:
    server = MemoryJobServer()
    with viewed(server) as view:
        answers = [view.get(path, "POST") for path in PATHS]
        answers += [view.get("/", method) for method in ("PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "x")]
    assert {(answer.status, answer.headers["allow"]) for answer in answers} == {(405, "get, head")}


def test_head_has_no_body() -> None:
    server = MemoryJobServer()
    with viewed(server) as view:
        for path in PATHS[:-1]:
            answer = view.get(path, "HEAD")
            assert (answer.status, answer.body) == (200, b"")


def test_paths_below_a_page_are_not_found() -> None:
    server = MemoryJobServer()
    with viewed(server) as view:
        for path in ("/none", "/events/x", "/healthz/", "/page.js/..", "/%00", "/../../etc/passwd", "//"):
            assert (view.get(path).status, view.get(path).text) == (404, "not found\n")


def test_resource_is_mounted_anywhere() -> None:
    """Without the slash at its end, relative URLs would lead elsewhere."""
    server = MemoryJobServer()
    dashboard = Dashboard([server.endpoint()], reactor=server.clock)
    root, below = Resource(), Resource()
    root.putChild(b"a", below)
    below.putChild(b"b c\r\nX: y", dashboard.resource)
    view = Viewed(server, dashboard, root)
    path = "/a/b%20c%0d%0aX:%20y"
    answer = view.get(path)
    assert (answer.status, answer.headers["location"]) == (302, "b%20c%0d%0ax%3a%20y/")
    assert "x" not in answer.headers
    assert view.get(f"{path}/").status == 200
    assert view.get(f"{path}/healthz").text == "ok\n"
    assert view.get(path, Host="evil.example").status == 403
    server.close()


def test_request_can_not_inject_headers() -> None:
    server = MemoryJobServer()
    with viewed(server) as view:
        for path in (
            "/none%0d%0aX-Injected:%20y",
            "/jobs.json?server=a%0d%0aX-Injected:%20y",
            "/job.json?handle=a//%0d%0a%0d%0aX-Injected:%20y",
            "/history.json?function=%0d%0aX-Injected:%20y",
        ):
            assert "x-injected" not in view.get(path).headers


def test_bytes_that_are_no_text_in_headers_are_no_error(logged_failures: Failures) -> None:
    server = MemoryJobServer()
    with viewed(server) as view:
        assert view.get("/healthz", Host="\xff\xfe").status == 403
        answer = view.get("/metrics", Accept="\xff", X_Prometheus_Scrape_Timeout_Seconds="\xff")
        assert answer.status == 200
        assert logged_failures.texts() == []


def test_metrics_need_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "txgearman.dashboard.scrape", None)
    server = MemoryJobServer()
    with viewed(server) as view:
        answer = view.get("/metrics")
        assert (answer.status, "needs the extra 'metrics'" in answer.text) == (404, True)


def test_error_of_a_page_is_logged_and_not_shown(monkeypatch: pytest.MonkeyPatch, logged_failures: Failures) -> None:
    def broken(*_: object) -> bytes:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("txgearman.dashboard.resource.render_tables", broken)
    server = MemoryJobServer()
    with viewed(server) as view:
        answer = view.get("/table")
        assert (answer.status, answer.text) == (500, "internal error\n")
        assert len(logged_failures.flush(ZeroDivisionError)) == 1


def test_browser_that_leaves_early_is_not_logged(logged_failures: Failures) -> None:
    server = MemoryJobServer()
    with viewed(server) as view:
        server.advance(10)
        with server.fall_silent():
            leaving = view.connect()
            leaving.request("/document.json")
            leaving.close()
        server.advance(10)
    assert logged_failures.texts() == []
