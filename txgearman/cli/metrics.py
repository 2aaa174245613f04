"""``txgearman metrics``: what job servers report, for Prometheus."""

from __future__ import annotations

import click
from twisted.web.server import Site

from ..admin.admin import GearmanAdmin
from ..admin.reports import query_reports
from ..dashboard.pages import TextPage
from ..testing.ports import host_and_port
from .admin import make_admin, report_errors
from .exit_codes import ExitCode
from .options import Servers
from .reactor_loop import wait_for_signal
from .server import listen_errors, parse_listen
from .terminal import Terminal

try:
    from ..admin.exporter import encode_reports
    from ..dashboard.scrape import MetricsPage
except ImportError as missing:
    raise click.UsageError(
        "this command needs the extra 'metrics': python -m pip install 'txgearman[metrics]'"
    ) from missing

__all__ = ["metrics"]


async def metrics(terminal: Terminal, servers: Servers, timeout: float, listen: str | None) -> ExitCode:
    """Print the metrics once, or serve them over HTTP until a signal."""
    async with make_admin(terminal, servers, timeout) as admin:
        if listen is None:
            reports = await query_reports(admin, timeout)
            await terminal.write(encode_reports(reports)[0])
            return report_errors(terminal, {each.address: each.error for each in reports if each.error is not None})
        return await _serve(terminal, _site(admin, timeout), listen)


async def _serve(terminal: Terminal, site: Site, listen: str) -> ExitCode:
    host, port = parse_listen(listen)
    with listen_errors():
        listening = terminal.reactor.listenTCP(port, site, interface=host)
    try:
        address = host_and_port(host, listening.getHost().port)
        await terminal.write(f"http://{address}/metrics\n".encode())
        return await wait_for_signal()
    finally:
        await listening.stopListening()


def _site(admin: GearmanAdmin, timeout: float) -> Site:
    root = TextPage("/metrics\n/healthz\n")
    root.putChild(b"", root)
    root.putChild(b"healthz", TextPage("ok\n"))
    root.putChild(b"metrics", MetricsPage(admin, timeout))
    return Site(root)
