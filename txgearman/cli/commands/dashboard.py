"""Command line of ``txgearman dashboard``."""

from __future__ import annotations

import click

from ..options import DURATION, Servers, server_options
from .run import run_command

__all__ = ["dashboard"]


@click.command()
@server_options
@click.option(
    "--server-timeout",
    "timeout",
    type=DURATION,
    default=5.0,
    help="How long a server may take for its answer before it is shown as down. [default: 5s]",
)
@click.option(
    "--listen",
    default="4780",
    metavar="[HOST:]PORT",
    show_default=True,
    help="Where to serve the page. The default host is 127.0.0.1.",
)
@click.option(
    "-i", "--interval", type=DURATION, default=2.0, show_default=True, help="Time between updates while somebody looks."
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name under which browsers reach the page, beside localhost and addresses. May be repeated.",
)
def dashboard(servers: Servers, timeout: float, listen: str, interval: float, hosts: tuple[str, ...]) -> None:
    """Serve a web page that shows servers, functions and workers, until Ctrl-C.

    The page changes nothing on the servers. What is wrong comes first: servers that do not answer, and functions whose
    jobs have no worker. The history of the last hour is in memory, and lost when the command ends. /healthz answers as
    long as the command runs; with the extra "metrics", /metrics has what "txgearman metrics" prints.

    There are neither users nor passwords: on other hosts than 127.0.0.1, have a reverse proxy authenticate users. Any
    prefix of it will do, since all links are relative.

    \b
    Example:
      txgearman dashboard -s a.example.com -s b.example.com
      txgearman dashboard --listen 0.0.0.0:4780 --host gearman.example.com
    """
    from ..dashboard import dashboard

    run_command(dashboard, servers, timeout, listen, interval, hosts)
