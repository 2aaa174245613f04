"""Command line of ``txgearman proxy``."""

from __future__ import annotations

import click

from ..fault_options import FaultSettings, fault_options
from .run import run_command

__all__ = ["proxy"]


@click.command()
@click.argument("server", metavar="HOST:PORT")
@click.option(
    "-L",
    "--listen",
    default="127.0.0.1:0",
    metavar="[HOST:]PORT",
    help="Address to listen on; port 0 chooses a free one. [default: 127.0.0.1:0]",
)
@fault_options
@click.option("-q", "--quiet", is_flag=True, help="Log errors only.")
def proxy(server: str, listen: str, *, quiet: bool, faults: list[FaultSettings]) -> None:
    """Run a TCP proxy that simulates network faults.

    The proxy stands between a job server at HOST:PORT and clients or workers in any language, which connect to the
    address that it prints. TLS passes through. It runs until Ctrl-C or SIGTERM, and then reports each fault that has
    not happened; the exit code is 1 if there is one.

    \b
    Faults are options, and each may be repeated:
      AT, DURATION  a number of seconds, or with a unit: 10, 10s, 500ms, 5m.
                    AT counts from the start of the proxy.
      DIRECTION     to-server or to-client; both if it is omitted
      at=AT         the fault begins then, not at once
      for=DURATION  the fault ends after that time
      times=N       on how many connections it happens (1); times=all for each
      reset         connections are reset (RST), not closed cleanly (FIN)
      seed=N        of the random numbers that choose the bytes (0)

    \b
    Examples:
      txgearman proxy 127.0.0.1:4730 --delay 200ms --split 1,to-client
      txgearman proxy 127.0.0.1:4730 --drop-after 100,to-client,times=3
      txgearman proxy 127.0.0.1:4730 --listen 4731 --go-down 5,for=10s
    """
    from ..proxy import proxy

    run_command(proxy, server, listen, faults, verbosity=-1 if quiet else 1)
