"""Command line of ``txgearman work``."""

from __future__ import annotations

import os
from typing import Any

import click

from ..options import DURATION, Servers, server_options
from .run import run_command

__all__ = ["work"]

OPTIONS_FIRST = {"ignore_unknown_options": False, "allow_interspersed_args": False}


@click.command(context_settings=OPTIONS_FIRST)
@server_options
@click.argument("function")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "-j", "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Maximum number of jobs at a time."
)
@click.option("-c", "--count", type=click.IntRange(1), help="Exit after this many jobs.")
@click.option("-t", "--timeout", type=DURATION, help="How long a job may run; then it is stopped and fails.")
@click.option("--lines", is_flag=True, help="Send each line of COMMAND's output as data, as soon as it is written.")
@click.option("--exceptions", is_flag=True, help="If COMMAND fails, send its standard error as the job's exception.")
@click.option("--threaded", is_flag=True, help="Call Python functions in threads, so that they may block.")
@click.option("--client-id", default="", metavar="ID", help='Worker ID, as "workers" shows it.')
@click.option(
    "--drain",
    type=DURATION,
    default=30.0,
    show_default=True,
    help="How long running jobs have to finish on exit.",
)
@click.option("-q", "--quiet", is_flag=True, help="Log errors only.")
def work(function: str, command: tuple[str, ...], servers: Servers, *, quiet: bool, **options: Any) -> None:
    """Run a worker that executes a command or Python functions.

    With FUNCTION -- COMMAND..., each job runs COMMAND, without a shell. The workload is its standard input, and its
    standard output is the result. Its standard error is sent to the client as a warning. A non-zero exit code fails
    the job. The environment variables GEARMAN_FUNCTION, GEARMAN_HANDLE and GEARMAN_UNIQUE describe the job.

    With FUNCTION=package.module:callable, which may be repeated, each job calls a Python function with a Job. The
    function returns bytes. See GearmanWorker.register_function.

    On Ctrl-C or SIGTERM, the worker takes no more jobs and waits for the running ones. After --drain seconds it exits,
    and the servers give unfinished jobs to other workers.

    \b
    Examples:
      txgearman work --jobs 4 resize -- convert - -resize 200x200 -
      txgearman work reverse=mypackage.text:reverse upper=mypackage.text:upper
    """
    from ..work import WorkerSettings, work

    functions = _parse_functions(function, command, lines=options.pop("lines"), exceptions=options.pop("exceptions"))
    client_id = os.fsencode(options.pop("client_id"))
    settings = WorkerSettings(functions, servers, client_id=client_id, drain_timeout=options.pop("drain"), **options)
    run_command(work, settings, verbosity=-1 if quiet else 1)


def _parse_functions(function: str, command: tuple[str, ...], *, lines: bool, exceptions: bool) -> dict[bytes, Any]:
    """Return the callable for each function name on the command line of ``work``."""
    from ..work import ProgramRunner, import_function

    if command[:1] == ("--",):
        command = command[1:]
    if "=" not in function:
        if not command:
            raise click.UsageError("missing COMMAND: use FUNCTION -- COMMAND..., or FUNCTION=package.module:callable")
        return {os.fsencode(function): ProgramRunner(command, lines=lines, exceptions=exceptions)}
    if lines or exceptions:
        raise click.UsageError("--lines and --exceptions require a COMMAND")
    functions = {}
    for argument in (function, *command):
        name, equals, path = argument.partition("=")
        if not (name and equals):
            raise click.UsageError(f"argument must be FUNCTION=package.module:callable, not {argument!r}")
        functions[os.fsencode(name)] = import_function(path)
    return functions
