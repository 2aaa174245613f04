"""``txgearman dashboard``: a web page that shows servers, functions and workers."""

from __future__ import annotations

from ..dashboard.dashboard import Dashboard
from ..dashboard.site import DashboardSite
from ..testing.ports import host_and_port
from .exit_codes import ExitCode
from .options import Servers
from .reactor_loop import usage_errors, wait_for_signal
from .server import listen_errors, parse_listen
from .terminal import Terminal

__all__ = ["dashboard"]


async def dashboard(
    terminal: Terminal, servers: Servers, timeout: float, listen: str, interval: float, hosts: tuple[str, ...]
) -> ExitCode:
    """Serve the page until a signal."""
    host, port = parse_listen(listen)
    with usage_errors():
        page = Dashboard(
            servers.addresses,
            hosts=hosts,
            interval=interval,
            reactor=terminal.reactor,
            server_timeout=timeout,
            connect_timeout=servers.connect_timeout,
            tls=servers.tls_options(),
        )
    with listen_errors():
        listening = terminal.reactor.listenTCP(port, DashboardSite(page.resource, terminal.reactor), interface=host)
    try:
        async with page:
            await terminal.write(f"http://{host_and_port(host, listening.getHost().port)}/\n".encode())
            return await wait_for_signal()
    finally:
        await listening.stopListening()
