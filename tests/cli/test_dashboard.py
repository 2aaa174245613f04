"""``txgearman dashboard``: what is served, where, and its end."""

from __future__ import annotations

import json
import signal
import socket
from typing import Any

import pytest
from twisted.internet.task import deferLater

from txgearman import GearmanClient, Priority
from txgearman.cli.exit_codes import ExitCode
from txgearman.testing import MemoryJobServer

from ..daemons import Geard, Gearmand, free_port
from .harness import RunningCommand, parse_command, reactor, run_command, start_process
from .test_metrics import address, get, server

__all__ = ["server"]


async def test_page_and_data_are_served(server: MemoryJobServer) -> None:
    started = RunningCommand("dashboard", "--listen", "0", "-s", server.address, "--host", "gearman.example.com")
    url = await address(started)
    assert url.startswith("http://127.0.0.1:")
    code, content_type, page = await get(url)
    assert (code, content_type) == (200, "text/html")
    assert "<title>" in page
    code, content_type, data = await get(f"{url}document.json", Host="gearman.example.com")
    assert (code, content_type) == (200, "application/json")
    assert f'"address":"{server.address}","up":true' in data
    assert (await get(f"{url}metrics"))[:2] == (200, "text/plain")
    assert await get(f"{url}healthz") == (200, "text/plain", "ok\n")
    assert (await get(url, Host="evil.example"))[0] == 403
    await started.finish(signal.SIGINT)


async def test_page_is_served_while_the_server_is_down() -> None:
    started = RunningCommand("dashboard", "--listen", "[::1]:0", "-s", f"127.0.0.1:{free_port()}")
    url = await address(started)
    assert url.startswith("http://[::1]:")
    assert '"up":false' in (await get(f"{url}document.json"))[2]
    assert (await started.finish(signal.SIGTERM)).code == 0


async def test_invalid_options_are_usage_errors() -> None:
    for arguments, message in (
        (("--listen", "x"), "--listen must be PORT or HOST:PORT"),
        (("--host", "a:1"), "--host must be a name without a port, such as gearman.example.com, not 'a:1'"),
    ):
        result = await run_command("dashboard", *arguments, "-s", "127.0.0.1:1")
        assert (result.code, message in result.err) == (ExitCode.USAGE, True)


def test_port_is_local_unless_another_is_given() -> None:
    for arguments, expected in (
        ([], (5, "4780", 2, ())),
        (["--listen", "[::]:1", "-i", "1m", "--host", "a", "--host", "b"], (5, "[::]:1", 60, ("a", "b"))),
    ):
        main, _ = parse_command("dashboard", *arguments)
        (found,) = [cell.cell_contents for cell in main.__closure__ or () if type(cell.cell_contents) is tuple]
        assert found[1:] == expected


@pytest.mark.process
def test_sigterm_ends_it_with_status_0_while_somebody_looks() -> None:
    with start_process("dashboard", "--listen", "0", "-s", f"127.0.0.1:{free_port()}") as started:
        port = int(started.stdout.readline().rsplit(b":", 1)[1].strip(b"/\n"))
        with socket.create_connection(("127.0.0.1", port), timeout=10) as viewer:
            viewer.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert viewer.recv(15) == b"HTTP/1.1 200 OK"
            started.terminate()
            assert started.wait(10) == 0


async def test_real_servers_are_shown(gearmand: Gearmand, geard: Geard) -> None:
    """geard reports neither a version nor queues by priority, and does not list jobs."""
    async with GearmanClient([gearmand.address]) as client:
        handle = await client.add_task_bg("pre\tf", priority=Priority.HIGH)
    started = RunningCommand("dashboard", "--listen", "0", "-s", gearmand.address, "-s", geard.address)
    url = await address(started)
    data = await get_json(f"{url}document.json")
    while not all(server["up"] for server in data["servers"]):
        await deferLater(reactor, 0.1)  # geard on a busy machine may close a connection that it has just accepted
        data = await get_json(f"{url}document.json")
    assert [server["version"] for server in data["servers"]] == [gearmand.admin("version")[0].split()[1], None]
    (function,) = data["functions"]
    assert (function["name"], function["priorities"], function["abandoned"]) == ("pre\\tf", [1, 0, 0], True)
    assert (await get_json(f"{url}jobs.json?server={gearmand.address}"))["jobs"][0]["id"] == str(handle)
    assert "error" in await get_json(f"{url}jobs.json?server={geard.address}")
    (state,) = (await get_json(f"{url}job.json?handle={handle}"))["answers"]
    assert (state["known"], state["running"]) == (True, False)
    await started.finish(signal.SIGINT)


async def get_json(url: str) -> Any:
    return json.loads((await get(url))[2])
