"""Command line of ``txgearman check``."""

from __future__ import annotations

import os
from typing import Any

import click

from ..nagios import RANGE, NagiosCommand
from ..options import DURATION, Servers, server_options
from .run import run_command

__all__ = ["check"]


@click.command(cls=NagiosCommand)
@server_options
@click.argument("functions", nargs=-1, metavar="[FUNCTION]...")
@click.option("-w", "--warning", type=RANGE, metavar="RANGE", help="Warning unless so many jobs wait.")
@click.option("-c", "--critical", type=RANGE, metavar="RANGE", help="Critical unless so many jobs wait.")
@click.option(
    "--workers",
    type=click.IntRange(0),
    metavar="MIN",
    help="Critical if a function has fewer workers. By default, if jobs wait and there is none; 0 for never.",
)
@click.option("--client-id", metavar="ID", help="Critical unless a worker of this ID offers the functions.")
@click.option(
    "-t", "--timeout", type=DURATION, default=10.0, help="How long a server may take to answer. [default: 10s]"
)
def check(functions: tuple[str, ...], servers: Servers, timeout: float, client_id: str | None, **limits: Any) -> None:
    """Check servers, functions or a worker, as a Nagios plugin.

    Each FUNCTION is checked on each server; without any, all functions are. A server that does not answer is critical,
    and so are jobs that wait for a function without a worker. It prints one line with performance data.

    With --client-id, only the worker of this ID is checked: it must be connected to a server and offer each FUNCTION
    there. Servers that do not answer do not count, unless none does, which is unknown. This is a probe for containers.

    \b
    RANGE is 10 (0 to 10), 10: (10 or more), ~:10 (10 or less), 10:20, or @10:20
    (not 10 to 20).
    Exit codes:
        0  OK
        1  WARNING
        2  CRITICAL
        3  UNKNOWN: usage error, or there is no such function

    \b
    Examples:
      txgearman check resize -w 100 -c 1000 --workers 2
      txgearman check --client-id "$HOSTNAME"
    """
    from ..check import Limits, check, check_worker

    names = tuple(map(os.fsencode, functions))
    if client_id is None:
        run_command(check, names, servers, timeout, Limits(**limits))
    elif any(limit is not None for limit in limits.values()):
        raise click.UsageError("--client-id can't be used with --warning, --critical or --workers")
    else:
        run_command(check_worker, os.fsencode(client_id), names, servers, timeout)
