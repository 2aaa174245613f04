"""The command line: the group of all commands, by what they are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import click

from .. import __version__
from .commands import admin, metrics, server, submit, top, work

__all__ = ["cli"]

SECTIONS: Final[Mapping[str, Sequence[click.Command]]] = {
    "Jobs": (submit.submit, work.work, admin.jobs, admin.cancel),
    "Servers": (
        admin.status,
        admin.workers,
        admin.version,
        admin.pid,
        admin.verbosity,
        admin.maxqueue,
        admin.create,
        admin.drop,
        admin.shutdown,
    ),
    "Monitoring": (top.top, admin.ping, metrics.metrics),
    "Development": (server.server,),
}
"""The commands, by the headings of ``txgearman --help``."""

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


class _SectionedGroup(click.Group):
    """A group whose help lists its commands in sections."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                limit = formatter.width - 6 - width
                formatter.write_dl(
                    [(str(command.name).ljust(width), command.get_short_help_str(limit)) for command in commands]
                )


@click.group(
    cls=_SectionedGroup,
    commands=[command for commands in SECTIONS.values() for command in commands],
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="txgearman")
@click.option("-v", "--verbose", count=True, help="Log connection events; twice for debug messages.")
@click.pass_context
def cli(context: click.Context, verbose: int) -> None:
    """Submit Gearman jobs, run workers, and administer job servers.

    Run "txgearman COMMAND --help" for the options of a command and an example.
    """
    context.ensure_object(dict)["verbose"] = verbose
