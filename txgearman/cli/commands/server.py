"""Command line of ``txgearman server``."""

from __future__ import annotations

from typing import Any

import click

from .run import run_command

__all__ = ["server"]


@click.command()
@click.option(
    "-p",
    "--port",
    type=click.IntRange(0, 65535),
    default=4730,
    show_default=True,
    help="Port to listen on; 0 chooses a free one.",
)
@click.option(
    "-L",
    "--listen",
    "host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Address to listen on.",
)
@click.option(
    "--job-retries",
    type=click.IntRange(0),
    default=0,
    help="Maximum number of workers that a job is assigned to; 0 for no limit.",
)
@click.option(
    "--job-handle-prefix",
    default="",
    metavar="PREFIX",
    help="Prefix of job handles.  [default: H: and the name of the host]",
)
@click.option("--exceptions", is_flag=True, help="Send exceptions also to clients that did not ask for them.")
def server(**options: Any) -> None:
    """Run an in-memory job server.

    The server behaves like gearmand. It is meant for development: its jobs are lost when it exits.

    \b
    Example:
      txgearman server --port 4730
    """
    from ..server import server

    run_command(server, **options)
