"""The command line: every command with its arguments, options and help. A command's code is imported when it is run."""

from __future__ import annotations

import os
from typing import Any

import click

from .. import __version__
from .options import SECONDS, TIME, Servers, output_options, server_options

__all__ = ["cli"]

EXIT_CODES = """\b
Exit codes:
    0  success
    1  the job failed
    2  usage error; nothing was sent
    3  a server refused: its queue is full, it does not know the job ...
    4  timed out
    5  lost: the job may or may not have run
    6  no server could be reached, or one of several
   70  internal error
  130  Ctrl-C (128 plus the number of the signal)
  141  standard output was closed
"""

OPTIONS_FIRST = {"ignore_unknown_options": False, "allow_interspersed_args": False}


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="txgearman")
@click.option("-v", "--verbose", count=True, help="Log connection events; twice for debug messages.")
@click.pass_context
def cli(context: click.Context, verbose: int) -> None:
    """Submit Gearman jobs, run workers, and administer job servers.

    Run "txgearman COMMAND --help" for the options of a command and an example.
    """
    context.ensure_object(dict)["verbose"] = verbose


def _run(main: Any, *arguments: Any, verbosity: int = 0, **options: Any) -> None:
    """Run the coroutine function of a command, and exit with the code that it returns."""
    from .reactor_loop import run

    context = click.get_current_context()
    settings = context.ensure_object(dict)
    runner = settings.get("run", run)
    context.exit(runner(lambda terminal: main(terminal, *arguments, **options), settings["verbose"] + verbosity))


# Jobs.


@cli.command()
@server_options
@click.argument("function")
@click.argument("workload", required=False)
@click.option("-b", "--background", is_flag=True, help="Don't wait for the result; print the job handle.")
@click.option(
    "--at",
    type=TIME,
    help="With -b: earliest start, as POSIX seconds, 2030-01-31T12:00, or +90s, +5m, +2h, +1d from now.",
)
@click.option(
    "-u",
    "--unique",
    default="",
    metavar="KEY",
    help='Unique key: jobs of one function with the same key are one job. "-" uses the workload as the key.',
)
@click.option("--high", "priority", flag_value="HIGH", help="Submit with high priority.")
@click.option("--low", "priority", flag_value="LOW", help="Submit with low priority.")
@click.option("-t", "--timeout", type=SECONDS, help="Seconds until submit stops waiting. The job may still run.")
@click.option("--retries", type=click.IntRange(0), default=0, help="Times to resubmit a job that failed or was lost.")
@click.option("--wait", type=SECONDS, help="Seconds to wait for a server while none can be reached.")
@click.option(
    "-n", "--lines", is_flag=True, help="Submit a job for each line of standard input; print a line for each."
)
@click.option("-0", "--null", is_flag=True, help="Like --lines, but NUL ends each workload and each result.")
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="With --lines: maximum number of jobs in flight.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print errors only: no progress, no warnings.")
def submit(function: str, workload: str | None, servers: Servers, **options: Any) -> None:
    """Submit a job and print its result.

    WORKLOAD is the payload of the job. "-" reads it from standard input. The default is an empty workload.

    Data packets and the result are written to standard output, unchanged and as soon as they arrive. If standard output
    is a terminal, a missing end of line is added. Warnings and progress are written to standard error. Progress is a
    bar on a terminal, and lines of text otherwise.

    With --lines, each line of standard input is a workload, without its end of line. Results are printed one per line,
    in the order of the input. A failed job leaves an empty line, and its error is written to standard error. The exit
    code is that of the first job that failed. If no server can be reached, submit stops.

    \b
    Examples:
      txgearman submit resize - <photo.jpg >small.jpg
      txgearman submit -b --at +1h cleanup
      cut -f1 users | txgearman submit --lines lookup
    """
    from .submit import Request, submit

    _run(submit, _submit_request(Request, function, workload, servers, **options))


def _submit_request(make: Any, function: str, workload: str | None, servers: Servers, **options: Any) -> Any:
    """Check the options of ``submit``, and make a request of them."""
    from ..models import Priority

    lines = b"\0" if options.pop("null") else b"\n" if options.pop("lines") else None
    options.pop("lines", None)
    if lines is not None and workload not in (None, "-"):
        raise click.UsageError("WORKLOAD must be - or omitted with --lines, which reads workloads from standard input")
    if options["at"] is not None and not options["background"]:
        raise click.UsageError("--at requires --background: the protocol can delay background jobs only")
    if options["background"] and options["retries"]:
        raise click.UsageError("--retries can't be used with --background: a background job is never resubmitted")
    return make(
        os.fsencode(function),
        None if workload == "-" else os.fsencode(workload or ""),
        servers,
        lines=lines,
        unique=os.fsencode(options.pop("unique")),
        priority=Priority[options.pop("priority") or "NORMAL"],
        server_wait=options.pop("wait") or 0.0,
        **options,
    )


@cli.command(context_settings=OPTIONS_FIRST)
@server_options
@click.argument("function")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "-j", "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Maximum number of running jobs."
)
@click.option("-c", "--count", type=click.IntRange(1), help="Exit after this many jobs.")
@click.option("-t", "--timeout", type=SECONDS, help="Seconds until a running job is stopped and fails.")
@click.option(
    "-n", "--lines", is_flag=True, help="Send each line of COMMAND's output as data, as soon as it is written."
)
@click.option("--exceptions", is_flag=True, help="If COMMAND fails, send its standard error as the job's exception.")
@click.option("--threaded", is_flag=True, help="Call Python functions in threads, so that they may block.")
@click.option("--client-id", default="", metavar="ID", help='Worker ID, as "workers" shows it.')
@click.option(
    "--drain",
    type=SECONDS,
    default=30.0,
    show_default=True,
    help="Seconds that running jobs have to finish on exit.",
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
    from .work import WorkerSettings, work

    functions = _parse_functions(function, command, lines=options.pop("lines"), exceptions=options.pop("exceptions"))
    client_id = os.fsencode(options.pop("client_id"))
    settings = WorkerSettings(functions, servers, client_id=client_id, drain_timeout=options.pop("drain"), **options)
    _run(work, settings, verbosity=-1 if quiet else 1)


def _parse_functions(function: str, command: tuple[str, ...], *, lines: bool, exceptions: bool) -> dict[bytes, Any]:
    """Return the callable for each function name on the command line of ``work``."""
    from .work import ProgramRunner, import_function

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


# Servers.

_timeout_option = click.option(
    "-t",
    "--timeout",
    type=SECONDS,
    default=10.0,
    show_default=True,
    help="Seconds that a server may take to send its answer, or the next part of it.",
)


@cli.command()
@server_options
@output_options
@_timeout_option
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


@cli.command()
@server_options
@output_options
@_timeout_option
@click.option("--all", "all_connections", is_flag=True, help="Include connections that offer no functions.")
def workers(*, all_connections: bool, **options: Any) -> None:
    """Show workers.

    The columns are the number of the connection, its address, its client ID, and the functions it offers.

    \b
    Example:
      txgearman workers --json
    """
    _show("connections" if all_connections else "workers", **options)


@cli.command()
@server_options
@output_options
@_timeout_option
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


@cli.command()
@server_options
@output_options
@_timeout_option
def version(**options: Any) -> None:
    """Show the version of each server.

    For the version of this program, use "txgearman --version".

    \b
    Example:
      txgearman version
    """
    _show("version", **options)


@cli.command()
@server_options
@output_options
@_timeout_option
def pid(**options: Any) -> None:
    """Show the process ID of each server.

    Only gearmand supports this command.

    \b
    Example:
      kill -USR1 $(txgearman pid)
    """
    _show("pid", **options)


@cli.command()
@server_options
@output_options
@_timeout_option
def verbosity(**options: Any) -> None:
    """Show the log level of each server.

    Only gearmand supports this command.

    \b
    Example:
      txgearman verbosity
    """
    _show("verbosity", **options)


def _show(name: str, servers: Servers, timeout: float, *, json: bool, watch: float | None) -> None:
    from .admin import show

    _run(show, name, servers, timeout, json=json, watch=watch)


@cli.command()
@server_options
@_timeout_option
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
    from .admin import cancel

    _run(cancel, servers, timeout, handles)


@cli.command()
@server_options
@_timeout_option
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
    from .admin import execute

    _run(execute, servers, timeout, "set_max_queue", os.fsencode(function), limit, high=high, low=low)


@cli.command()
@server_options
@_timeout_option
@click.argument("function")
def create(function: str, servers: Servers, timeout: float) -> None:
    """Create a function.

    The function then exists on each server before it has a worker or a job. Only gearmand supports this command.

    \b
    Example:
      txgearman create resize && txgearman maxqueue resize 1000
    """
    from .admin import execute

    _run(execute, servers, timeout, "create_function", os.fsencode(function))


@cli.command()
@server_options
@_timeout_option
@click.argument("function")
def drop(function: str, servers: Servers, timeout: float) -> None:
    """Remove a function and its jobs.

    The function must have no workers. Servers do not notify the clients of the removed jobs. Only gearmand supports
    this command.

    \b
    Example:
      txgearman drop resize
    """
    from .admin import execute

    _run(execute, servers, timeout, "drop_function", os.fsencode(function))


@cli.command()
@server_options
@_timeout_option
@click.option("--graceful", is_flag=True, help="Let running jobs finish first.")
def shutdown(*, graceful: bool, servers: Servers, timeout: float) -> None:
    """Shut down the servers.

    Only Perl's Gearman::Server supports this command. gearmand refuses it: send it SIGTERM, or SIGUSR1 for a graceful
    shutdown.

    \b
    Example:
      txgearman shutdown --graceful
    """
    from .admin import execute

    _run(execute, servers, timeout, "shutdown", graceful=graceful)


@cli.command()
@server_options
@click.option("-c", "--count", type=click.IntRange(1), default=1, show_default=True, help="Number of round trips.")
@click.option("-i", "--interval", type=SECONDS, default=1.0, show_default=True, help="Seconds between round trips.")
def ping(servers: Servers, count: int, interval: float) -> None:
    """Measure the round-trip time to each server.

    A server that can't be reached is reported on standard error and by the exit code.

    \b
    Example:
      txgearman ping -s a.example.com -s b.example.com
    """
    from .admin import ping

    _run(ping, servers, count, interval)


@cli.command()
@server_options
@_timeout_option
@click.option("-i", "--interval", type=SECONDS, default=2.0, show_default=True, help="Seconds between updates.")
@click.option("-c", "--count", type=click.IntRange(1), help="Exit after this many updates.")
def top(servers: Servers, timeout: float, interval: float, count: int | None) -> None:
    """Show servers and functions, and keep the display up to date.

    Functions are added up over all servers, and sorted by their number of jobs. "change/s" is the change of that number
    per second since the last update. Press Ctrl-C to exit.

    \b
    Example:
      txgearman top -s a.example.com -s b.example.com
    """
    from .top import top

    _run(top, servers, timeout, interval, count)


# Services.


@cli.command()
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
    "-j",
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
    from .server import server

    _run(server, **options)


@cli.command()
@server_options
@_timeout_option
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
    from .metrics import metrics

    _run(metrics, servers, timeout, listen)
