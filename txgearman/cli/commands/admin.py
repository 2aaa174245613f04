"""Command lines of the administration commands and of ``txgearman ping``."""

from __future__ import annotations

import os
from typing import Any

import click

from ..options import DURATION, Servers, output_options, server_options, timeout_option
from .run import run_command

__all__ = [
    "cancel",
    "create",
    "drop",
    "jobs",
    "maxqueue",
    "pid",
    "ping",
    "shutdown",
    "status",
    "verbosity",
    "version",
    "workers",
]


@click.command()
@server_options
@output_options
@timeout_option
@click.option("--priority", is_flag=True, help="Show the number of queued jobs by priority. gearmand only.")
def status(*, priority: bool, **options: Any) -> None:
    """Show functions with their jobs and workers.

    The columns are the function, its jobs (queued and running), its running jobs, and its workers. With --priority,
    they are the function, its queued jobs of high, normal and low priority, and its workers.

    With several servers, the first column is the server. A server that does not answer is reported on standard error
    and by the exit code.

    \b
    Examples:
      txgearman status --watch
      txgearman status -s a.example.com -s b.example.com --json
    """
    _show("priority-status" if priority else "status", **options)


@click.command()
@server_options
@output_options
@timeout_option
@click.option("--all", "all_connections", is_flag=True, help="Include connections that offer no functions.")
def workers(*, all_connections: bool, **options: Any) -> None:
    """Show workers.

    The columns are the number of the connection, its address, its client ID, and the functions it offers.

    \b
    Example:
      txgearman workers --json
    """
    _show("connections" if all_connections else "workers", **options)


@click.command()
@server_options
@output_options
@timeout_option
@click.option("--unique", is_flag=True, help="Show the unique keys of the jobs instead.")
def jobs(*, unique: bool, **options: Any) -> None:
    """Show jobs.

    The columns are the job handle, the number of workers that were lost while running it, whether it is ignored (no
    client waits for it, and it will be dropped), and whether it is in the queue store, as background jobs are.

    Only gearmand supports this command.

    \b
    Example:
      txgearman jobs --unique | sort | uniq -c
    """
    _show("unique-jobs" if unique else "jobs", **options)


@click.command()
@server_options
@output_options
@timeout_option
def version(**options: Any) -> None:
    """Show the version of each server.

    For the version of this program, use "txgearman --version".

    \b
    Example:
      txgearman version
    """
    _show("version", **options)


@click.command()
@server_options
@output_options
@timeout_option
def pid(**options: Any) -> None:
    """Show the process ID of each server.

    Only gearmand supports this command.

    \b
    Example:
      kill -USR1 $(txgearman pid)
    """
    _show("pid", **options)


@click.command()
@server_options
@output_options
@timeout_option
def verbosity(**options: Any) -> None:
    """Show the log level of each server.

    Only gearmand supports this command.

    \b
    Example:
      txgearman verbosity
    """
    _show("verbosity", **options)


def _show(name: str, servers: Servers, timeout: float, *, json: bool, watch: float | None) -> None:
    from ..admin import show

    run_command(show, name, servers, timeout, json=json, watch_interval=watch)


@click.command()
@server_options
@timeout_option
@click.argument("handles", nargs=-1, required=True, metavar="HANDLE...")
def cancel(handles: tuple[str, ...], servers: Servers, timeout: float) -> None:
    """Cancel queued jobs.

    HANDLE is a job handle as "submit -b" prints it, such as 10.0.0.1:4730//H:host:12. It may also be the server's part
    alone, H:host:12; the command is then sent to all servers.

    gearmand reports a cancelled job as failed to its clients. It does not stop a job that is running, but discards its
    result.

    \b
    Example:
      txgearman cancel 10.0.0.1:4730//H:host:12
    """
    from ..admin import cancel

    run_command(cancel, servers, timeout, handles)


@click.command()
@server_options
@timeout_option
@click.argument("function")
@click.argument("limit", type=click.IntRange(0, 2**31 - 1))
@click.option("--high", type=click.IntRange(0, 2**31 - 1), help="Limit for jobs of high priority.")
@click.option("--low", type=click.IntRange(0, 2**31 - 1), help="Limit for jobs of low priority.")
def maxqueue(function: str, limit: int, high: int | None, low: int | None, servers: Servers, timeout: float) -> None:
    """Limit the number of jobs of a function.

    LIMIT is the maximum for each priority; 0 removes the limit. A server refuses jobs beyond it.

    The function must exist on each server, or the exit code is 3. Use "create" first.

    \b
    Example:
      txgearman maxqueue resize 1000 --high 0
    """
    from ..admin import execute

    run_command(execute, servers, timeout, "set_max_queue", os.fsencode(function), limit, high=high, low=low)


@click.command()
@server_options
@timeout_option
@click.argument("function")
def create(function: str, servers: Servers, timeout: float) -> None:
    """Create a function.

    The function then exists on each server before it has a worker or a job. Only gearmand supports this command.

    \b
    Example:
      txgearman create resize && txgearman maxqueue resize 1000
    """
    from ..admin import execute

    run_command(execute, servers, timeout, "create_function", os.fsencode(function))


@click.command()
@server_options
@timeout_option
@click.argument("function")
@click.option("--with-jobs", is_flag=True, help="Remove the function's queued jobs, too. They are lost.")
def drop(function: str, servers: Servers, timeout: float, *, with_jobs: bool) -> None:
    """Remove a function.

    The function must have no workers. Without --with-jobs, nothing is removed if a server has jobs of the function, or
    does not say whether it has. Servers do not notify the clients of removed jobs.

    For each server that has removed the function, it prints the function and how many jobs it had just before.

    Only gearmand supports this command.

    \b
    Example:
      txgearman drop --with-jobs resize
    """
    from ..admin import drop

    run_command(drop, servers, timeout, os.fsencode(function), with_jobs=with_jobs)


@click.command()
@server_options
@timeout_option
@click.option("--graceful", is_flag=True, help="Let running jobs finish first.")
def shutdown(*, graceful: bool, servers: Servers, timeout: float) -> None:
    """Shut down the servers.

    Only Perl's Gearman::Server supports this command. gearmand refuses it: send it SIGTERM, or SIGUSR1 for a graceful
    shutdown.

    \b
    Example:
      txgearman shutdown --graceful
    """
    from ..admin import execute

    run_command(execute, servers, timeout, "shutdown", graceful=graceful)


@click.command()
@server_options
@click.option("-c", "--count", type=click.IntRange(1), default=1, show_default=True, help="Number of round trips.")
@click.option("-i", "--interval", type=DURATION, default=1.0, show_default=True, help="Time between round trips.")
def ping(servers: Servers, count: int, interval: float) -> None:
    """Measure the round-trip time to each server.

    A server that can't be reached is reported on standard error and by the exit code.

    \b
    Example:
      txgearman ping -s a.example.com -s b.example.com
    """
    from ..admin import ping

    run_command(ping, servers, count, interval)
