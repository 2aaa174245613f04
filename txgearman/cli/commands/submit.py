"""Command line of ``txgearman submit``."""

from __future__ import annotations

import os
from typing import Any

import click

from ..options import DURATION, TIME, Servers, server_options
from .run import run_command

__all__ = ["submit"]


@click.command()
@server_options
@click.argument("function")
@click.argument("workload", required=False)
@click.option("-b", "--background", is_flag=True, help="Don't wait for the result; print the job handle.")
@click.option(
    "--at",
    type=TIME,
    help="With -b: earliest start: 90s, 5m, 2h or 1d from now, also written +2h; 2030-01-31T12:00; or POSIX seconds.",
)
@click.option(
    "-u",
    "--unique",
    default="",
    metavar="KEY",
    help='Unique key: jobs of one function with the same key are one job. "-" uses the workload as the key.',
)
@click.option("--high", is_flag=True, help="Submit with high priority.")
@click.option("--low", is_flag=True, help="Submit with low priority.")
@click.option("-t", "--timeout", type=DURATION, help="How long to wait for the job, which may still run.")
@click.option("--retries", type=click.IntRange(0), default=0, help="Times to resubmit a job that failed or was lost.")
@click.option("--wait", type=DURATION, help="How long to wait for a server while none can be reached.")
@click.option(
    "-n", "--lines", is_flag=True, help="Submit a job for each line of standard input; print a line for each."
)
@click.option("-0", "--null", is_flag=True, help="Like --lines, but NUL ends each workload and each result.")
@click.option(
    "-j",
    "--jobs",
    "concurrency",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="With --lines: maximum number of jobs at a time.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print errors only: no progress, no warnings.")
def submit(function: str, workload: str | None, servers: Servers, **options: Any) -> None:
    """Submit a job and print its result.

    WORKLOAD is the payload of the job. "-" reads it from standard input; so does no WORKLOAD, unless standard input is
    a terminal. '' is an empty workload. In a loop such as "while read", append </dev/null: else submit reads what the
    loop is to read.

    Data packets and the result are written to standard output, unchanged and as soon as they arrive. If standard output
    is a terminal, a missing end of line is added. Warnings and progress are written to standard error. Progress is a
    bar on a terminal, and lines of text otherwise.

    With --lines, each line of standard input is a workload, without its newline. A carriage return before it, as in
    CRLF files, is a part of the workload; dos2unix removes it. Results are printed one per line,
    in the order of the input. A failed job leaves an empty line, and its error is written to standard error. The exit
    code is that of the first job that failed. If no server can be reached, submit stops.

    \b
    Examples:
      txgearman submit resize <photo.jpg >small.jpg
      txgearman submit -b --at +1h cleanup
      cut -f1 users | txgearman submit --lines lookup
    """
    from ..submit import Request, submit

    run_command(submit, _submit_request(Request, function, workload, servers, **options))


def _submit_request(make: Any, function: str, workload: str | None, servers: Servers, **options: Any) -> Any:
    """Check the options of ``submit``, and make a request of them."""
    from ...models import Priority

    lines = b"\0" if options.pop("null") else b"\n" if options.pop("lines") else None
    options.pop("lines", None)
    if lines is not None and workload not in (None, "-"):
        raise click.UsageError("WORKLOAD must be - or omitted with --lines, which reads workloads from standard input")
    if lines is not None and options["unique"] not in ("", "-"):
        raise click.UsageError(
            f"--unique must be - with --lines, not {options['unique']!r}: all lines would be one job"
        )
    high, low = options.pop("high"), options.pop("low")
    if high and low:
        raise click.UsageError("--high and --low can't be used together")
    priority = Priority.HIGH if high else Priority.LOW if low else Priority.NORMAL
    if options["at"] is not None and not options["background"]:
        raise click.UsageError("--at requires --background: the protocol can delay background jobs only")
    if options["background"] and options["retries"]:
        raise click.UsageError("--retries can't be used with --background: a background job is never resubmitted")
    return make(
        os.fsencode(function),
        None if workload in (None, "-") else os.fsencode(workload),
        servers,
        implicit=workload is None,
        lines=lines,
        unique=os.fsencode(options.pop("unique")),
        priority=priority,
        server_wait=options.pop("wait") or 0.0,
        **options,
    )
