"""The page, as a browser shows it: Chromium loads it from the site of a dashboard in this process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.task import deferLater

from txgearman.dashboard import Dashboard, events
from txgearman.dashboard.pages import Page as Root
from txgearman.dashboard.site import DashboardSite
from txgearman.testing import MemoryJobServer

from .chromium import Chromium, Page, chromium

pytestmark = pytest.mark.process("chromium")

reactor: Any = global_reactor

HOSTILE = '<script>alert(1)</script><img src=x onerror="document.title=1">'


@pytest_twisted.async_yield_fixture(scope="module")  # type: ignore[untyped-decorator]  # it has no annotations
async def browser() -> AsyncIterator[Chromium]:
    """One browser for all tests: it takes a second to start."""
    async with chromium() as started:
        yield started


@asynccontextmanager
async def served(*servers: MemoryJobServer, server_timeout: float = 5.0) -> AsyncIterator[tuple[Dashboard, str]]:
    """A dashboard of these servers, below a prefix, and its URL."""
    endpoints = [server.endpoint() for server in servers]
    dashboard = Dashboard(endpoints, reactor=reactor, interval=0.1, server_timeout=server_timeout)
    root = Root()
    root.putChild(b"pre fix", dashboard.resource)
    site = DashboardSite(root, reactor)
    port = reactor.listenTCP(0, site, interface="127.0.0.1")
    try:
        async with dashboard:
            yield dashboard, f"http://127.0.0.1:{port.getHost().port}/pre%20fix"
    finally:
        await port.stopListening()
        for connection in list(site.protocols):
            connection.transport.abortConnection()
        for server in servers:
            await server.close(verify=False)


@asynccontextmanager
async def shown(browser: Chromium, *servers: MemoryJobServer) -> AsyncIterator[Page]:
    """The page of a dashboard of these servers, in the browser."""
    async with served(*servers) as (_, url), browser.page(url) as page:
        yield page


def cell(table: str, name: str, column: int) -> str:
    """JavaScript for the text of a cell in the row that begins with a name."""
    return (
        f"[...document.querySelectorAll('#{table} tbody tr')].find("
        f"(row) => row.cells[0].textContent.startsWith({name!r}))?.cells[{column}].innerText"
    )


async def names(page: Page) -> list[str]:
    """Return the functions that are shown, in their order."""
    found: list[str] = await page.evaluate(
        "[...document.querySelectorAll('#functions-table > tbody > tr > th > .name')].map((each) => each.textContent)"
    )
    return found


async def test_row_appears_with_a_job_and_changes_with_a_worker(browser: Chromium) -> None:
    server = MemoryJobServer(reactor)
    async with shown(browser, server) as page:
        await page.wait_for("document.body.innerText.includes('No server has a function yet')")
        await page.wait_for("document.body.innerText.includes('No worker is connected')")
        await server.client().add_task_bg("resize")
        await page.wait_for(f"{cell('functions-table', 'resize', 1)} === '1'")
        await page.wait_for(f"{cell('functions-table', 'resize', 0)}.includes('NO WORKER')")
        await page.wait_for("document.title === '1 without worker - Gearman'")
        assert await page.evaluate("document.getElementById('summary').textContent") == (
            "The server is up. 1 function has waiting jobs and no worker: resize."
        )
        worker = server.worker(client_id="w1")
        worker.register_function("resize", lambda job: b"")
        await page.wait_for(f"{cell('functions-table', 'resize', 1)} === '0'")
        await page.wait_for(f"{cell('functions-table', 'resize', 3)} === '1'")
        await page.wait_for(f"{cell('workers', 'w1', 2)} === 'resize'")
        await page.wait_for("document.title === 'Gearman' && !document.querySelector('.badge')")


async def test_server_turns_red_and_back(browser: Chromium) -> None:
    first, second = MemoryJobServer(reactor), MemoryJobServer(reactor)
    async with shown(browser, first, second) as page:
        await page.wait_for(f"{cell('servers', second.name, 0)}.includes('up, version 1.1.20')")
        with second.go_down():
            await page.wait_for(f"{cell('servers', second.name, 0)}.includes('DOWN')")
            row = "document.querySelector('#servers tbody tr')"
            assert await page.evaluate(f"{row}.className") == "wrong"
            assert second.name in await page.evaluate(f"{row}.cells[0].textContent")
            assert "last answer" in await page.evaluate(f"{row}.cells[0].textContent")
            assert await page.evaluate(f"{row}.querySelector('small.wrong').textContent !== ''")
            assert "1 server is down of 2" in await page.evaluate("document.getElementById('summary').textContent")
        await page.wait_for(f"{cell('servers', second.name, 0)}.includes('up, version 1.1.20')")
        await page.wait_for("document.title === 'Gearman'")


async def test_page_without_any_server_says_what_to_do(browser: Chromium) -> None:
    server = MemoryJobServer(reactor)
    with server.go_down():
        async with shown(browser, server) as page:
            await page.wait_for("document.body.innerText.includes('No server answers. Start one: gearmand')")
            assert "No worker is connected" not in await page.evaluate("document.body.innerText")


async def test_text_of_others_is_text(browser: Chromium) -> None:
    server = MemoryJobServer(reactor, job_handle_prefix="H:<img src=x onerror=alert(1)>")
    client = server.client()
    for function in (HOSTILE, b"caf\xe9\x1b[2J\n", "__proto__"):
        await client.add_task_bg(function)
    worker = server.worker(client_id=HOSTILE)
    worker.register_function(HOSTILE + "2", lambda job: b"")
    async with shown(browser, server) as page:
        await page.wait_for("document.querySelectorAll('#functions-table .name').length === 4")
        await page.wait_for("document.querySelectorAll('#workers tbody tr').length === 1")
        found = await names(page)
        assert set(found) == {HOSTILE, HOSTILE + "2", "caf\\xe9\\x1b[2J\\n", "__proto__"}
        await page.evaluate("for (const each of document.querySelectorAll('.name')) each.click()")
        await page.wait_for("document.querySelectorAll('tr.details').length === 5")
        await page.evaluate("document.getElementById('jobs-form').requestSubmit()")
        await page.wait_for("document.querySelectorAll('#jobs tbody tr').length === 3")
        assert "H:<img src=x onerror=alert(1)>:1" in await page.evaluate("document.getElementById('jobs').innerText")
        assert await page.evaluate("document.querySelectorAll('script, img, iframe').length") == 1
        assert await page.evaluate("document.title") == "3 without worker - Gearman"
        await page.evaluate("document.getElementById('job-handle').value = 'x//<img src=x onerror=alert(1)>'")
        await page.evaluate("document.getElementById('job-form').requestSubmit()")
        await page.wait_for("document.getElementById('job-state').innerText.includes('<img src=x onerror=alert(1)>')")


async def test_each_text_of_a_document_is_shown_as_text(browser: Chromium) -> None:
    """Also those that no server in memory sends: of a version, an error, an address."""
    numbers = {"waiting": 1, "running": 0, "workers": 0, "history": []}
    server = {"address": HOSTILE, "up": False, "error": HOSTILE, "version": HOSTILE, "answered": None, **numbers}
    function = {"name": HOSTILE, "abandoned": True, "priorities": None, "servers": [[0, 1, 0, 0]], **numbers}
    data = {
        "format": 1,
        **dict.fromkeys(("time", "took", "expected", "since"), 1),
        "servers": [server],
        "functions": [function],
        "workers": [[0, 1, HOSTILE, HOSTILE, [0, HOSTILE], 2]],
        **dict.fromkeys(("functions_omitted", "workers_omitted"), 0),
    }
    job_server = MemoryJobServer(reactor)
    async with shown(browser, job_server) as page:
        await page.wait_for("document.readyState === 'complete'")
        open_it = "document.querySelector('#functions-table .name').click(); "
        text = await page.evaluate(f"update({json.dumps(data)}); {open_it}document.body.innerText")
        # In the summary, of the server, of the function that is open, of the worker, in the choice of servers.
        assert text.count(HOSTILE) == 2 + 3 + 5 + 5 + 1
        assert await page.evaluate("document.querySelectorAll('script, img, iframe').length") == 1


async def test_tab_in_the_background_pauses(browser: Chromium) -> None:
    """A browser has six connections to a site, which six forgotten tabs would take from the seventh."""
    server = MemoryJobServer(reactor)
    async with shown(browser, server) as page:
        await page.wait_for("document.getElementById('updated').innerText.startsWith('As of ')")
        set_hidden = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true}); "
        changed = "document.dispatchEvent(new Event('visibilitychange'))"
        at_once = "const later = setTimeout; window.setTimeout = (call) => later(call, 0); "
        await page.evaluate(at_once + set_hidden % "true" + changed)
        await page.wait_for("document.title === 'Paused - Gearman'")
        await server.client().add_task_bg("f")
        await page.evaluate(set_hidden % "false" + changed)
        await page.wait_for("document.title === '1 without worker - Gearman'")


async def test_filter_and_sort_are_for_the_keyboard(browser: Chromium) -> None:
    server = MemoryJobServer(reactor)
    client = server.client()
    for function, jobs in (("mail", 1), ("resize", 3), ("resample", 2)):
        await client.add_tasks_bg(function, [b""] * jobs)
    async with shown(browser, server) as page:
        await page.wait_for("document.querySelectorAll('#functions-table .name').length === 3")
        assert await names(page) == ["resize", "resample", "mail"]
        await page.evaluate("document.querySelector('[data-sort=name]').focus()")
        await page.press("Enter", "\r")
        assert await names(page) == ["mail", "resample", "resize"]
        head = "document.querySelector('[data-sort=name]').closest('th').getAttribute('aria-sort')"
        assert await page.evaluate(head) == "ascending"
        await page.press("Enter", "\r")
        assert (await names(page), await page.evaluate(head)) == (["resize", "resample", "mail"], "descending")
        await page.press("Tab")
        await page.press(" ", " ")
        assert await names(page) == ["resize", "resample", "mail"]
        await page.press(" ", " ")
        assert await names(page) == ["mail", "resample", "resize"]
        assert await page.evaluate(head) is None
        await page.evaluate("document.getElementById('functions-filter').focus()")
        await page.type_text("RES")
        assert await names(page) == ["resample", "resize"]
        assert await page.evaluate("document.getElementById('functions-count').textContent") == "2 of 3 functions"


async def test_opened_function_shows_servers_history_and_workers(browser: Chromium) -> None:
    first, second = MemoryJobServer(reactor), MemoryJobServer(reactor)
    await first.client().add_task_bg("resize")
    worker = second.worker(client_id="w1")
    worker.register_function("resize", lambda job: b"")
    async with shown(browser, first, second) as page:
        await page.wait_for("document.querySelector('#functions-table .name')")
        await page.wait_for("document.querySelector('#workers tbody tr')")
        await page.evaluate("document.querySelector('#functions-table .name').focus()")
        await page.press("Enter", "\r")
        await page.wait_for("document.querySelector('.details .chart') && document.querySelector('.details li')")
        details = await page.evaluate("document.querySelector('.details').innerText")
        assert f"w1, memory, on {second.name}" in details
        assert [line.split("\t") for line in details.splitlines() if line.startswith("memory:")] == [
            [first.name, "1", "0", "0"],
            [second.name, "0", "0", "1"],
        ]
        assert await page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
        label = await page.evaluate("document.querySelector('.details .chart').getAttribute('aria-label')")
        assert label == "waiting: at most 1, running: at most 0, workers: at most 1"
        await page.press("Enter", "\r")
        await page.wait_for("!document.querySelector('.details')")


async def test_job_is_found_by_its_handle(browser: Chromium) -> None:
    server = MemoryJobServer(reactor)
    await server.client().add_tasks_bg("f", [b""] * 201)
    job = server.take("f")
    async with shown(browser, server) as page:
        await page.wait_for("document.querySelector('#jobs-server option')")
        await page.evaluate("document.getElementById('job-handle').focus()")
        await page.type_text("H:memory:1")
        await page.press("Enter", "\r")
        await page.wait_for(f"document.getElementById('job-state').innerText === 'H:memory:1: {server.name}: running'")
        job.send_status(1, 4)
        await page.evaluate("document.getElementById('jobs-form').requestSubmit()")
        await page.wait_for("document.querySelectorAll('#jobs tbody tr').length === 200")
        await page.evaluate("document.querySelector('#jobs .name').click()")
        await page.wait_for("document.getElementById('job-state').innerText.includes('running, 1 of 4 (25 %)')")
        job.complete(b"")


async def test_page_that_gets_no_updates_says_so(browser: Chromium) -> None:
    server = MemoryJobServer(reactor)
    async with served(server, server_timeout=0.5) as (dashboard, url), browser.page(url) as page:
        await page.wait_for("document.getElementById('updated').innerText.startsWith('As of ')")
        await dashboard.stopService()
        await page.wait_for("document.getElementById('updated').innerText.startsWith('Stale: no update for ')")
        assert await page.evaluate("document.body.className") == "stale"


async def test_page_beyond_the_limit_of_streams_loads_documents(
    browser: Chromium, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MAX_STREAMS", 0)
    server = MemoryJobServer(reactor)
    async with shown(browser, server) as page:
        await page.wait_for("document.getElementById('updated').innerText.startsWith('As of ')")


async def test_page_fits_a_telephone_in_both_schemes(browser: Chromium) -> None:
    first, second = MemoryJobServer(reactor), MemoryJobServer(reactor)
    await first.client().add_tasks_bg("a_function_with_a_rather_long_name." * 3, [b""] * 1234)
    async with shown(browser, first, second) as page:
        await page.wait_for("document.querySelector('#functions-table .name')")
        for dark in (False, True):
            await page.resize(400, dark=dark)
            await page.evaluate("document.querySelector('#functions-table .name').click()")
            assert await page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        colour = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert colour == "rgb(20, 24, 29)"


async def test_screen_reader_finds_tables_and_names(browser: Chromium) -> None:
    server = MemoryJobServer(reactor)
    await server.client().add_task_bg("resize")
    async with shown(browser, server) as page:
        await page.wait_for("document.querySelector('#functions-table .name')")
        nodes = (await page.call("Accessibility.getFullAXTree"))["nodes"]
        found = {
            (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]
        }
    tables = {("table", name) for name in ("Servers", "Functions", "Workers")}
    fields = {("searchbox", "Filter"), ("textbox", "Job handle"), ("button", "resize"), ("columnheader", "Waiting")}
    assert tables | fields <= found


async def test_page_without_javascript_leads_to_tables(browser: Chromium) -> None:
    server = MemoryJobServer(reactor)
    await server.client().add_task_bg(HOSTILE)
    async with served(server) as (_, url), browser.page(f"{url}/healthz") as page:
        await page.call("Emulation.setScriptExecutionDisabled", value=True)
        await page.evaluate("location.href = './'")
        while not await page.evaluate("location.pathname === '/pre%20fix/table' && document.readyState === 'complete'"):
            await deferLater(reactor, 0.05)
        assert await page.evaluate("document.querySelectorAll('table').length") == 3
        assert HOSTILE in await page.evaluate("document.body.innerText")
