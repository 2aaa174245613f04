"""The page without JavaScript."""

from __future__ import annotations

import re

import pytest

from txgearman.dashboard import document
from txgearman.testing import MemoryJobServer

from .harness import viewed


def rows(page: str) -> list[list[str]]:
    """The cells of all rows, as they stand in the page."""
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", page)]


def test_tables_have_servers_functions_and_workers() -> None:
    server = MemoryJobServer()
    other = MemoryJobServer(server.clock)
    server.client().add_tasks_bg("f", [b""] * 1200)
    worker = server.worker(client_id="w")
    worker.register_function("g", lambda job: b"")
    server.advance()
    with other.go_down(), viewed(server, other) as view:
        page = view.get("/table").text
    heads, down, up, functions, f, g, workers, w = rows(page)
    assert (heads[0], functions[0], workers[0]) == ("Server", "Function", "Worker")
    assert down[0] == "memory:2"
    assert down[1].startswith("DOWN: ")
    assert down[2:] == ["-"] * 4
    assert up == ["memory:1", "up", "1,200", "0", "1", "1.1.20-txgearman"]
    assert f == ["f", "NO WORKER", "1,200", "0", "0"]
    assert g == ["g", "", "0", "0", "1"]
    assert (w[0], w[1], w[4]) == ("w", "memory:1", "g")
    assert "<title>1 down - Gearman</title>" in page
    assert re.findall(r'<tr class="wrong"><th scope="row">(.*?)</th>', page) == ["memory:2", "f"]
    assert "<script" not in page


def test_names_of_others_are_text() -> None:
    name = "<script>alert(1)</script>&\"'"
    server = MemoryJobServer()
    worker = server.worker(client_id=name)
    worker.register_function(name, lambda job: b"")
    server.advance()
    with viewed(server) as view:
        page = view.get("/table").text
    escaped = "&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#x27;"
    assert page.count(escaped) == 3
    assert "<script" not in page
    assert "<title>Gearman</title>" in page


def test_omitted_rows_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_FUNCTIONS", "MAX_WORKERS", "MAX_OFFERED"):
        monkeypatch.setattr(document, name, 1)
    server = MemoryJobServer()
    for _ in range(2):
        worker = server.worker()
        for function in ("f", "g", "h"):
            worker.register_function(function, lambda job: b"")
    server.advance()
    with viewed(server) as view:
        page = view.get("/table").text
    assert "<p>2 more are not shown.</p>" in page
    assert "<p>1 more are not shown.</p>" in page
    assert rows(page)[-1][-1].endswith(" and 2 more")
