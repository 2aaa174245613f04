"""Command line of ``txgearman top``."""

from __future__ import annotations

import click

from ..options import DURATION, Servers, server_options, timeout_option
from .run import run_command

__all__ = ["top"]


@click.command()
@server_options
@timeout_option
@click.option("-i", "--interval", type=DURATION, default=2.0, show_default=True, help="Time between updates.")
@click.option("-c", "--count", type=click.IntRange(1), help="Exit after this many updates.")
def top(servers: Servers, timeout: float, interval: float, count: int | None) -> None:
    """Show servers and functions, and keep the display up to date.

    What is wrong comes first: servers that do not answer, and functions whose jobs have no worker. Functions are added
    up over all servers, and sorted by their number of jobs. "change/s" is how many more jobs, queued and running, a
    function has per second since the last update, or fewer.

    Keys: q quits, s sorts by the next column, r reverses the order, arrows and Page Up and Down scroll, space pauses.

    \b
    Example:
      txgearman top -s a.example.com -s b.example.com
    """
    from ..top import top

    run_command(top, servers, timeout, interval, count)
