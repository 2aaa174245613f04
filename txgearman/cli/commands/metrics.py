"""Command line of ``txgearman metrics``."""

from __future__ import annotations

import click

from ..options import Servers, server_options, timeout_option
from .run import run_command

__all__ = ["metrics"]


@click.command()
@server_options
@timeout_option
@click.option("--listen", metavar="[HOST:]PORT", help="Serve the metrics at http://HOST:PORT/metrics instead.")
def metrics(servers: Servers, timeout: float, listen: str | None) -> None:
    """Print metrics of the servers in the Prometheus text format.

    This command requires the extra "metrics".

    \b
    gearman_up{server}                                        1 if the server answers, else 0
    gearman_queued_jobs{server,function}                      queued jobs
    gearman_running_jobs{server,function}                     running jobs
    gearman_workers{server,function}                          workers
    gearman_queued_jobs_by_priority{server,function,priority} queued jobs; gearmand only

    \b
    Example:
      txgearman metrics --listen 9430
    """
    from ..metrics import metrics

    run_command(metrics, servers, timeout, listen)
