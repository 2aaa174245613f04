"""Command line of ``txgearman metrics``."""

from __future__ import annotations

import click

from ..options import Servers, server_options, timeout_option
from .run import run_command

__all__ = ["metrics"]


@click.command()
@server_options
@timeout_option
@click.option(
    "--listen",
    is_flag=False,
    flag_value="9418",
    metavar="[[HOST:]PORT]",
    help="Serve the metrics at http://HOST:PORT/metrics (127.0.0.1:9418) until Ctrl-C.",
)
def metrics(servers: Servers, timeout: float, listen: str | None) -> None:
    """Print metrics of the servers in the Prometheus text format, or serve them.

    Names and port are those of gearman-exporter. The servers are queried at each request. Those that have not answered
    before the scraper's time-out are down. /healthz does not query them. This command requires the extra "metrics".

    \b
    gearman_up{server}                                          1 if up, else 0
    gearman_version_info{server,version}                        1
    gearman_jobs{server,function}                               all jobs
    gearman_jobs_running{server,function}                       running jobs
    gearman_jobs_waiting{server,function}                       waiting jobs
    gearman_workers{server,function}                            workers
    gearman_jobs_waiting_by_priority{server,function,priority}  gearmand only

    \b
    Example:
      txgearman metrics --listen 0.0.0.0:9418 -s a.example.com -s b.example.com
    """
    from ..metrics import metrics

    run_command(metrics, servers, timeout, listen)
