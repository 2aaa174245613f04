"""Command line of ``txgearman job``."""

from __future__ import annotations

import os

import click

from ..options import Servers, output_options, server_options
from .run import run_command

__all__ = ["job"]


@click.command()
@server_options
@output_options
@click.option("-u", "--unique", metavar="KEY", help="The job with this unique key, instead of a handle. gearmand only.")
@click.argument("handles", nargs=-1, metavar="[HANDLE...]")
def job(handles: tuple[str, ...], servers: Servers, unique: str | None, *, json: bool, watch: float | None) -> None:
    """Show the status of jobs.

    HANDLE is a job handle as "submit -b" prints it, such as 10.0.0.1:4730//H:host:12. It may also be the server's part
    alone, H:host:12; all servers are then asked.

    The columns are the job, its server, whether the server has it, whether a worker is running it, the progress that
    the worker has reported, and the number of clients that wait for the result, which only --unique reports.

    Servers forget jobs that have ended, so that a job without a server may have succeeded, have failed, or be unknown.
    The exit code is then 3, unless --watch has seen the job before. With --watch, the command ends when the jobs have.

    \b
    Examples:
      txgearman job 10.0.0.1:4730//H:host:12
      txgearman job --unique user-17 --watch && echo ended
    """
    from ..job import job

    if bool(handles) == (unique is not None):
        raise click.UsageError("use one or more HANDLEs, or --unique KEY")
    key = None if unique is None else os.fsencode(unique)
    run_command(job, servers, handles, key, json=json, watch_interval=watch)
