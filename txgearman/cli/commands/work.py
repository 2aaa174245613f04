"""Command line of ``txgearman work``."""

from __future__ import annotations

import os
from typing import Any, Final

import click
from click.core import ParameterSource

from ...validation import MAX_PAYLOAD
from ..child_status import ChildOptions
from ..options import DURATION, Servers, server_options
from .run import run_command

__all__ = ["work"]

MAX_OUTPUT: Final = 64 * 1024 * 1024
"""Default limit of the output of a command in bytes: it is kept in memory until the command has ended."""

OPTIONS_FIRST: Final = {"ignore_unknown_options": False, "allow_interspersed_args": False}


@click.command(context_settings=OPTIONS_FIRST)
@server_options
@click.argument("function", required=False)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "-j", "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Maximum number of jobs at a time."
)
@click.option("-c", "--count", type=click.IntRange(1), help="Exit after this many jobs.")
@click.option("-t", "--timeout", type=DURATION, help="How long a job may run; then it is stopped and fails.")
@click.option("--lines", is_flag=True, help="Send each line of COMMAND's output as data, as soon as it is written.")
@click.option("--exceptions", is_flag=True, help="If COMMAND fails, send its standard error as the job's exception.")
@click.option(
    "--max-output",
    type=click.IntRange(1, MAX_PAYLOAD),
    metavar="BYTES",
    help=f"Fail a job whose COMMAND writes more to its standard output, without --lines.  [default: {MAX_OUTPUT}]",
)
@click.option("--threaded", is_flag=True, help="Call Python functions in threads, so that they may block.")
@click.option("--client-id", default="", metavar="ID", help='Worker ID, as "workers" shows it.')
@click.option(
    "--drain",
    type=DURATION,
    default=30.0,
    show_default=True,
    help="How long running jobs have to finish on exit.",
)
@click.option("--app", metavar="MODULE:WORKER", help="Run the GearmanWorker of a Python module, instead of FUNCTION.")
@click.option("--http", metavar="[HOST:]PORT", help="Serve /metrics, /healthz and /readyz of the worker over HTTP.")
@click.option(
    "--processes",
    type=click.IntRange(1),
    metavar="N",
    help="Run N child processes, each with a worker, and replace those that die.",
)
@click.option(
    "--jobs-per-process",
    type=click.IntRange(1),
    metavar="N",
    help="Replace a child after N jobs or more, one at a time. It goes on until the new one is ready, so that there is "
    "one child more for a while.",
)
@click.option(
    "--ready-timeout",
    type=DURATION,
    help="How long a child may take until its functions are registered, if a server can be reached; then it is "
    "replaced.  [default: 30s]",
)
@click.option(
    "--stall-timeout",
    type=DURATION,
    help="How long a job may block its child, such as by a long computation; then the child is replaced. [default: no "
    "limit, or with --timeout 30s more than that]",
)
@click.option("-q", "--quiet", is_flag=True, help="Log errors only.")
def work(
    function: str | None, command: tuple[str, ...], servers: Servers, *, quiet: bool, app: str | None, **options: Any
) -> None:
    """Run a worker that executes a command or Python functions.

    With FUNCTION -- COMMAND..., each job runs COMMAND, without a shell. The workload is its standard input, and its
    standard output is the result. The end of its standard error (64 KiB) is sent to the client as a warning. A non-zero
    exit code fails the job. The environment variables GEARMAN_FUNCTION, GEARMAN_HANDLE and GEARMAN_UNIQUE describe the
    job. COMMAND has a process group of its own, whose processes are ended with the job.

    Options precede FUNCTION. If COMMAND begins with "-", or has a long option that is also one of "work", it must
    follow "--". It must exist at the start. If it can't be started later, the worker stops with exit code 7, and the
    server gives the job to another worker.

    With FUNCTION=package.module:callable, which may be repeated, each job calls a Python function with a Job. The
    function returns bytes. See GearmanWorker.register_function.

    On Ctrl-C, SIGTERM or SIGHUP, the worker takes no more jobs and waits for the running ones. After --drain seconds it
    exits whatever still runs, with exit code 1 and a line for each job that was cut off; the servers give those jobs to
    other workers. A second Ctrl-C or SIGTERM exits at once.

    With --app package.module:worker, it runs a GearmanWorker that a program has made, or makes by a callable without
    arguments. The worker has its own servers, functions and options.

    With --processes, child processes run the workers, each with --jobs at a time. Their logs are on standard error,
    each line after the child's number and process ID. A child that dies is replaced, with a growing delay if that
    happens again and again; so is one that is not ready in time or that hangs, its stacks in the log. SIGUSR2 replaces
    all children, one after the other, such as after a change of the code. SIGUSR1 logs the stacks of all children.
    --count is the number of jobs of all children together.

    With -v, it logs a line for each job: function, handle, outcome, seconds, bytes of the workload, bytes sent.

    \b
    Examples:
      txgearman work --jobs 4 resize -- convert - -resize 200x200 -
      txgearman work reverse=mypackage.text:reverse upper=mypackage.text:upper
      txgearman work --http 8080 --app mypackage.workers:worker
      txgearman work --processes 4 --jobs-per-process 10000 up=mypackage.text:up
    """
    child = ChildOptions.take(os.environ)
    if child is not None:
        from ..child_worker import follow_parent

        follow_parent(child, options["drain"])  # before the code of others is imported
    pool = {name: options.pop(name) for name in _POOL_OPTIONS}
    _check_pool_options(pool, options["count"])
    if app is not None:
        _check_app_options()
    elif function is None:
        raise click.UsageError("Missing argument 'FUNCTION'.")
    verbose = click.get_current_context().ensure_object(dict)["verbose"] > 0
    verbosity = -1 if quiet else 0 if verbose else 1
    if child is None and pool["processes"] is not None:
        _run_pool(pool, options, verbosity)
    elif app is not None:
        _run_app(app, options, child, verbosity)
    else:
        assert function is not None
        _run_functions(function, command, servers, options, child, verbosity)


_POOL_OPTIONS: Final = ("processes", "jobs_per_process", "ready_timeout", "stall_timeout")
"""Names of the options for child processes."""

_APP_OPTIONS: Final = ("app", "http", "drain", "quiet", "verbose", *_POOL_OPTIONS)
"""Names of the options that do not concern the worker itself."""

STALL_MARGIN: Final = 30.0
"""Seconds after ``--timeout`` at which a child is replaced by default that a job blocks."""


def _check_pool_options(pool: dict[str, Any], count: int | None) -> None:
    if pool["processes"] is None:
        for name in _POOL_OPTIONS:
            if pool[name] is not None:
                raise click.UsageError(f"--{name.replace('_', '-')} requires --processes")
    elif not hasattr(os, "fork"):
        raise click.UsageError("--processes requires a POSIX system")
    if count is not None and pool["jobs_per_process"] is not None:
        raise click.UsageError("--count excludes --jobs-per-process")


def _run_pool(pool: dict[str, Any], options: dict[str, Any], verbosity: int) -> None:
    from ..child import READY_TIMEOUT, SupervisionSettings
    from ..worker_pool import PoolSettings, work_processes

    stall_timeout = pool["stall_timeout"]
    if stall_timeout is None and options["timeout"] is not None:
        stall_timeout = options["timeout"] + STALL_MARGIN
    supervision = SupervisionSettings(
        pool["processes"],
        options["drain"],
        pool["ready_timeout"] or READY_TIMEOUT,
        stall_timeout,
        options["count"],
    )
    arguments = click.get_current_context().ensure_object(dict)["arguments"]
    settings = PoolSettings(arguments, supervision, pool["jobs_per_process"], options["http"])
    run_command(work_processes, settings, verbosity=verbosity)


def _run_functions(
    function: str,
    command: tuple[str, ...],
    servers: Servers,
    options: dict[str, Any],
    child: ChildOptions | None,
    verbosity: int,
) -> None:
    from ..work import WorkerSettings, work

    functions = _parse_functions(
        function, command, {name: options.pop(name) for name in ("lines", "exceptions", "max_output")}
    )
    client_id = os.fsencode(options.pop("client_id"))
    if child is not None:
        options |= {"http": None, "count": child.count}
    settings = WorkerSettings(
        functions,
        servers,
        client_id=client_id,
        drain_timeout=options.pop("drain"),
        verbose=click.get_current_context().ensure_object(dict)["verbose"] > 0,
        child=child,
        **options,
    )
    run_command(work, settings, verbosity=verbosity)


def _run_app(app: str, options: dict[str, Any], child: ChildOptions | None, verbosity: int) -> None:
    from ..worker_app import work_app

    http = None if child is not None else options["http"]
    run_command(work_app, app, options["drain"], http, child, verbosity=verbosity)


def _check_app_options() -> None:
    """Refuse options that the worker of ``--app`` has itself, if they are on the command line."""
    context = click.get_current_context()
    for name, parameter in ((parameter.name, parameter) for parameter in context.command.params):
        given = name is not None and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        empty = name is None or context.params.get(name) == ()  # which older click takes for given
        if given and not empty and name not in _APP_OPTIONS:
            raise click.UsageError(f"--app excludes {parameter.get_error_hint(context)}: the worker has its own")


def _parse_functions(function: str, command: tuple[str, ...], options: dict[str, Any]) -> dict[bytes, Any]:
    """Return what runs the jobs of each function name on the command line of ``work``.

    :param options: those that a command alone takes.
    """
    if "=" in function:
        return _parse_imports((function, *command), options)
    from ..work import Command

    if command[:1] == ("--",):
        command = command[1:]
    elif command and command[0].startswith("-"):
        raise click.UsageError(
            f"options must precede FUNCTION, such as {command[0]} here; a COMMAND that begins with - must follow --: "
            "txgearman work [OPTIONS] FUNCTION -- COMMAND..."
        )
    else:
        _check_command(command)
    if not command:
        raise click.UsageError("missing COMMAND: use FUNCTION -- COMMAND..., or FUNCTION=package.module:callable")
    max_output = options.pop("max_output") or MAX_OUTPUT
    return {os.fsencode(function): Command(command, max_output=max_output, **options)}


def _check_command(command: tuple[str, ...]) -> None:
    """Refuse long options of ``work`` in a COMMAND that does not follow ``--``: it would fail, job after job."""
    known = {option for parameter in click.get_current_context().command.params for option in parameter.opts}
    for word in command:
        option = word.partition("=")[0]
        if option.startswith("--") and option in known:
            raise click.UsageError(
                f"options must precede FUNCTION, such as {option} here; a COMMAND that has it must follow --"
            )


def _parse_imports(arguments: tuple[str, ...], options: dict[str, Any]) -> dict[bytes, Any]:
    """Return the callables for arguments such as FUNCTION=package.module:callable."""
    from ..work import import_function

    if any(options.values()):
        raise click.UsageError("--lines, --exceptions and --max-output require a COMMAND")
    functions = {}
    for argument in arguments:
        if argument.startswith("-"):
            raise click.UsageError(f"options must precede FUNCTION, such as {argument} here")
        name, equals, path = argument.partition("=")
        if not (name and equals):
            raise click.UsageError(f"argument must be FUNCTION=package.module:callable, not {argument!r}")
        functions[os.fsencode(name)] = import_function(path)
    return functions
