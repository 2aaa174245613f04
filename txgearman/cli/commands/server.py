"""Command line of ``txgearman server``."""

from __future__ import annotations

from typing import Any

import click

from ... import __version__
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
@click.option("-l", "--log-file", metavar="FILE", help="Log to this file, which SIGHUP reopens.")
@click.version_option(__version__, "-V", "--version", prog_name="txgearman")
def server(*, log_file: str | None, **options: Any) -> None:
    """Run an in-memory job server.

    The server behaves like gearmand. It is meant for development: its jobs are lost when it exits.

    A request that it refuses without an answer, as gearmand does, is logged with the reason. With -v, it also logs
    connections, all requests, and errors in answers; with -v twice, all other answers, too.

    \b
    Example:
      txgearman server --port 4730
    """
    from ..server import server

    verbosity = click.get_current_context().ensure_object(dict)["verbose"]
    # With a log file, standard error gets only what is critical.
    quieter = 0 if log_file is None else -9
    run_command(server, log_file=log_file, log_verbosity=verbosity, verbosity=quieter, **options)
