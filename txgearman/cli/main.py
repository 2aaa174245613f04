"""What there is to say on the command line. What a command needs is imported when it is run."""

from __future__ import annotations

import os
from typing import Any

import click

from .. import __version__
from .options import SECONDS, TIME, Servers, output_options, server_options

__all__ = ["cli"]

EXIT_CODES = """\b
Exit codes:
    0  done
    1  the job failed
    2  the command line makes no sense; nothing was sent
    3  a server refused: its queue is full, it does not know the job ...
    4  timed out
    5  lost: the job may have been done, or not
    6  no server could be reached, or one of several
   70  an error in this program
  130  Ctrl-C (128 and the signal's number)
  141  nobody read the output any more
"""

WITH_OPTIONS_FIRST = {"ignore_unknown_options": False, "allow_interspersed_args": False}


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="txgearman")
@click.option("-v", "--verbose", count=True, help="Tell what happens with connections; twice for more.")
@click.pass_context
def cli(context: click.Context, verbose: int) -> None:
    """Have jobs done by Gearman job servers, do them, and look after the servers.

    "txgearman COMMAND --help" has more on each command, with an example.
    """
    context.ensure_object(dict)["verbose"] = verbose


def _run(main: Any, *arguments: Any, loudness: int = 0, **options: Any) -> None:
    """Run a command's coroutine, and exit with its code."""
    from .reactor_loop import run

    context = click.get_current_context()
    settings = context.ensure_object(dict)
    runner = settings.get("run", run)
    context.exit(runner(lambda terminal: main(terminal, *arguments, **options), settings["verbose"] + loudness))


# Jobs.


@cli.command()
@server_options
@click.argument("function")
@click.argument("workload", required=False)
@click.option("-b", "--background", is_flag=True, help="Don't wait for the result; print the job's handle.")
@click.option("--at", type=TIME, help="Not before: POSIX seconds, 2030-01-31T12:00, or +90s, +5m, +2h, +1d. With -b.")
@click.option(
    "-u", "--unique", default="", metavar="KEY", help='Jobs with the same one are one job. "-": the workload.'
)
@click.option("--high", "priority", flag_value="HIGH", help="Before other jobs of the function.")
@click.option("--low", "priority", flag_value="LOW", help="After other jobs of the function.")
@click.option("-t", "--timeout", type=SECONDS, help="Give up after so many seconds. The job may still run.")
@click.option("--retries", type=click.IntRange(0), default=0, help="Submit a job that failed so many times more.")
@click.option("--wait", type=SECONDS, help="Wait so long for a server to come back while none can be reached.")
@click.option("-n", "--lines", is_flag=True, help="One job for each line of the standard input; a line per result.")
@click.option("-0", "--null", is_flag=True, help="As --lines, but a NUL ends each workload and each result.")
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="With --lines: how many jobs are out at a time.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress and no warnings; errors only.")
def submit(function: str, workload: str | None, servers: Servers, **options: Any) -> None:
    """Have a job done, and write its result.

    It goes to the standard output. WORKLOAD is what the worker gets; "-" takes it from the standard input, and without
    one it is empty. Data that the worker sends is written as it comes, its warnings go to the standard error output,
    and so does its progress: as a bar on a terminal, as lines elsewhere. Nothing is added to the result (but an end of
    line, on a terminal).

    With --lines, each line of the standard input is a workload, without its end, and each result gets a line, in the
    same order. A job that fails leaves an empty line; what has become of it is told on the standard error output, and
    in the end by the exit code, which is that of the first that failed. If no server can be reached, it stops.

    \b
    Examples:
      txgearman submit resize - <photo.jpg >small.jpg
      txgearman submit -b --at +1h cleanup
      cut -f1 users | txgearman submit --lines lookup
    """
    from .submit import Request, submit

    _run(submit, _request(Request, function, workload, servers, **options))


def _request(make: Any, function: str, workload: str | None, servers: Servers, **options: Any) -> Any:
    """Read the options of `submit`."""
    from ..models import Priority

    lines = b"\0" if options.pop("null") else b"\n" if options.pop("lines") else None
    options.pop("lines", None)
    if lines is not None and workload not in (None, "-"):
        raise click.UsageError("with --lines, workloads come from the standard input")
    if options["at"] is not None and not options["background"]:
        raise click.UsageError("--at goes with --background: the protocol has no other job that waits for a time")
    if options["background"] and options["retries"]:
        raise click.UsageError("--retries does not go with --background: such a job is never submitted twice")
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


@cli.command(context_settings=WITH_OPTIONS_FIRST)
@server_options
@click.argument("function")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("-j", "--jobs", type=click.IntRange(1), default=1, show_default=True, help="How many run at a time.")
@click.option("-c", "--count", type=click.IntRange(1), help="End after so many jobs.")
@click.option("-t", "--timeout", type=SECONDS, help="A job that takes longer is ended, and fails.")
@click.option("-n", "--lines", is_flag=True, help="Send each line of COMMAND's output as it comes.")
@click.option("--exceptions", is_flag=True, help="Where COMMAND fails, send its error output as the job's exception.")
@click.option("--threaded", is_flag=True, help="Call Python functions in threads: they block.")
@click.option("--client-id", default="", metavar="ID", help="Names this worker in what administrators see.")
@click.option(
    "--drain", type=SECONDS, default=30.0, show_default=True, help="How long jobs that run may go on at the end."
)
@click.option("-q", "--quiet", is_flag=True, help="Tell nothing but errors.")
def work(function: str, command: tuple[str, ...], servers: Servers, quiet: bool, **options: Any) -> None:
    """Do jobs: by a program, or by Python functions.

    With FUNCTION -- COMMAND..., each job runs COMMAND (without a shell): the workload is its standard input, its
    standard output is the result, and its standard error output goes to the client as a warning. If it exits with
    another code than 0, the job fails. It finds GEARMAN_FUNCTION, GEARMAN_HANDLE and GEARMAN_UNIQUE in its environment.

    With FUNCTION=package.module:callable, once or several times, Python functions do the jobs: each gets a Job, and
    returns bytes, as GearmanWorker.register_function says.

    Ctrl-C or SIGTERM ends it once the jobs that run have ended; what has not after --drain seconds goes to another
    worker.

    \b
    Examples:
      txgearman work --jobs 4 resize -- convert - -resize 200x200 -
      txgearman work reverse=mypackage.text:reverse upper=mypackage.text:upper
    """
    from .work import Offer, work

    functions = _functions(function, command, options.pop("lines"), options.pop("exceptions"))
    client_id = os.fsencode(options.pop("client_id"))
    offer = Offer(functions, servers, client_id=client_id, drain_timeout=options.pop("drain"), **options)
    _run(work, offer, loudness=-1 if quiet else 1)


def _functions(function: str, command: tuple[str, ...], lines: bool, exceptions: bool) -> dict[bytes, Any]:
    """What to call for the jobs of each name."""
    from .work import Command, find

    if command[:1] == ("--",):
        command = command[1:]
    if "=" not in function:
        if not command:
            raise click.UsageError(
                "say what does the jobs: FUNCTION -- COMMAND..., or FUNCTION=package.module:callable"
            )
        return {os.fsencode(function): Command(command, lines, exceptions)}
    if lines or exceptions:
        raise click.UsageError("--lines and --exceptions are for a COMMAND")
    functions = {}
    for each in (function, *command):
        name, equals, path = each.partition("=")
        if not (name and equals):
            raise click.UsageError(f"{each!r} does not read like FUNCTION=package.module:callable")
        functions[os.fsencode(name)] = find(path)
    return functions


# Servers.

_timeout = click.option(
    "-t",
    "--timeout",
    type=SECONDS,
    default=10.0,
    show_default=True,
    help="A server that is silent for so many seconds when it owes an answer is taken for dead.",
)


@cli.command()
@server_options
@output_options
@_timeout
@click.option("--priority", is_flag=True, help="The queues of each priority instead. gearmand alone tells them.")
def status(priority: bool, **options: Any) -> None:
    """Show functions with their jobs and workers.

    Its columns are the function, its jobs in all, those that run, and its workers; with --priority, the jobs that wait
    with high, normal and low priority, and the workers. Where there are several servers, the first column is the
    server. A server that does not answer is told on the standard error output and by the exit code.

    \b
    Examples:
      txgearman status --watch
      txgearman status -s a.example.com -s b.example.com --json
    """
    _ask("priority-status" if priority else "status", **options)


@cli.command()
@server_options
@output_options
@_timeout
@click.option("--all", "everything", is_flag=True, help="All connections; else those that offer something.")
def workers(everything: bool, **options: Any) -> None:
    """Show workers.

    Its columns are the number of the connection, its address, its id, and the functions that it offers.

    \b
    Example:
      txgearman workers --json
    """
    _ask("connections" if everything else "workers", **options)


@cli.command()
@server_options
@output_options
@_timeout
@click.option("--unique", is_flag=True, help="The jobs' uniques instead.")
def jobs(unique: bool, **options: Any) -> None:
    """Show jobs.

    Its columns are the handle, how often a worker was lost with the job, whether it will be dropped because nobody
    waits for it, and whether it is in the queue store, as background jobs are. gearmand alone tells this.

    \b
    Example:
      txgearman jobs --unique | sort | uniq -c
    """
    _ask("unique-jobs" if unique else "jobs", **options)


@cli.command()
@server_options
@output_options
@_timeout
def version(**options: Any) -> None:
    """Show the servers' version. (That of this program: txgearman --version.)

    \b
    Example:
      txgearman version
    """
    _ask("version", **options)


@cli.command()
@server_options
@output_options
@_timeout
def pid(**options: Any) -> None:
    """Show the number of the servers' process.

    gearmand alone tells this.

    \b
    Example:
      kill -USR1 $(txgearman pid)
    """
    _ask("pid", **options)


@cli.command()
@server_options
@output_options
@_timeout
def verbosity(**options: Any) -> None:
    """Show what the servers write to their log.

    gearmand alone tells this.

    \b
    Example:
      txgearman verbosity
    """
    _ask("verbosity", **options)


def _ask(name: str, servers: Servers, timeout: float, json: bool, watch: float | None) -> None:
    from .admin import ask

    _run(ask, name, servers, timeout, json, watch)


@cli.command()
@server_options
@_timeout
@click.argument("handles", nargs=-1, required=True, metavar="HANDLE...")
def cancel(handles: tuple[str, ...], servers: Servers, timeout: float) -> None:
    """Drop jobs that wait in a queue.

    HANDLE is what "submit -b" prints, such as 10.0.0.1:4730//H:host:12, or as the server has it, H:host:12; all
    servers are then asked. On gearmand, whoever waits for the job is told that it failed; one that runs already goes
    on, but its result goes nowhere.

    \b
    Example:
      txgearman cancel 10.0.0.1:4730//H:host:12
    """
    from .admin import cancel

    _run(cancel, servers, timeout, handles)


@cli.command()
@server_options
@_timeout
@click.argument("function")
@click.argument("limit", type=click.IntRange(0, 2**31 - 1))
@click.option("--high", type=click.IntRange(0, 2**31 - 1), help="Another limit for jobs of high priority.")
@click.option("--low", type=click.IntRange(0, 2**31 - 1), help="Another limit for jobs of low priority.")
def maxqueue(function: str, limit: int, high: int | None, low: int | None, servers: Servers, timeout: float) -> None:
    """Limit the jobs that a function may have; 0 for no limit. Over it, the server refuses new ones.

    A function that a server does not have is told (exit code 3); "create" it first.

    \b
    Example:
      txgearman maxqueue resize 1000 --high 0
    """
    from .admin import do

    _run(do, servers, timeout, "set_max_queue", os.fsencode(function), limit, high=high, low=low)


@cli.command()
@server_options
@_timeout
@click.argument("function")
def create(function: str, servers: Servers, timeout: float) -> None:
    """Make a function known.

    A server has it before there is a worker or a job then. gearmand alone can do this.

    \b
    Example:
      txgearman create resize && txgearman maxqueue resize 1000
    """
    from .admin import do

    _run(do, servers, timeout, "create_function", os.fsencode(function))


@cli.command()
@server_options
@_timeout
@click.argument("function")
def drop(function: str, servers: Servers, timeout: float) -> None:
    """Make the servers forget a function and its jobs.

    It must have no workers. Whoever waits for these jobs is not told by the server. gearmand alone can do this.

    \b
    Example:
      txgearman drop resize
    """
    from .admin import do

    _run(do, servers, timeout, "drop_function", os.fsencode(function))


@cli.command()
@server_options
@_timeout
@click.option("--graceful", is_flag=True, help="Let jobs that run come to their end.")
def shutdown(graceful: bool, servers: Servers, timeout: float) -> None:
    """Have the servers end.

    Perl's server does so; gearmand refuses (send it SIGTERM, or SIGUSR1 to be graceful).

    \b
    Example:
      txgearman shutdown --graceful
    """
    from .admin import do

    _run(do, servers, timeout, "shutdown", graceful=graceful)


@cli.command()
@server_options
@click.option("-c", "--count", type=click.IntRange(1), default=1, show_default=True, help="How many times.")
@click.option("-i", "--interval", type=SECONDS, default=1.0, show_default=True, help="Seconds between them.")
def ping(servers: Servers, count: int, interval: float) -> None:
    """Make a round trip to each server.

    What it took is shown; a server that can't be reached is told on the standard error output.

    \b
    Example:
      txgearman ping -s a.example.com -s b.example.com
    """
    from .admin import ping

    _run(ping, servers, count, interval)


@cli.command()
@server_options
@_timeout
@click.option("-i", "--interval", type=SECONDS, default=2.0, show_default=True, help="Seconds between two looks.")
@click.option("-c", "--count", type=click.IntRange(1), help="End after so many looks.")
def top(servers: Servers, timeout: float, interval: float, count: int | None) -> None:
    """Watch all servers, live.

    What each has to do is told, and the functions of all servers together, the busiest first.
    "change/s" is by how much a function's jobs, queued and running, have become more since the look before, or fewer.
    Ctrl-C ends it.

    \b
    Example:
      txgearman top -s a.example.com -s b.example.com
    """
    from .top import top

    _run(top, servers, timeout, interval, count)


# Services.


@cli.command()
@click.option(
    "-p", "--port", type=click.IntRange(0, 65535), default=4730, show_default=True, help="0: any that is free."
)
@click.option("-L", "--listen", "host", default="127.0.0.1", show_default=True, metavar="ADDRESS")
@click.option(
    "-j", "--job-retries", type=click.IntRange(0), default=0, help="Workers that a job is given to; 0: no limit."
)
@click.option("--job-handle-prefix", default="H:memory", show_default=True, metavar="PREFIX")
@click.option("--exceptions", is_flag=True, help="Send exceptions to clients that have not asked for them, too.")
def server(**options: Any) -> None:
    """Be a job server in memory, for development. It does what gearmand does, and keeps nothing when it ends.

    \b
    Example:
      txgearman server --port 4730
    """
    from .server import server

    _run(server, **options)


@cli.command()
@server_options
@_timeout
@click.option("--listen", metavar="[HOST:]PORT", help="Serve them at http://HOST:PORT/metrics, rather than print them.")
def metrics(servers: Servers, timeout: float, listen: str | None) -> None:
    """Tell what the servers have to do, in Prometheus' text. This takes the extra "metrics".

    \b
    gearman_up{server}                                        1 if it answers
    gearman_queued_jobs{server,function}                      jobs that wait
    gearman_running_jobs{server,function}                     jobs that run
    gearman_workers{server,function}                          workers
    gearman_queued_jobs_by_priority{server,function,priority} only of gearmand

    \b
    Example:
      txgearman metrics --listen 9430
    """
    from .metrics import metrics

    _run(metrics, servers, timeout, listen)
