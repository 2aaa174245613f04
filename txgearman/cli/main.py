"""The command line: the group of all commands, by what they are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import click
from click.core import ParameterSource

from .. import __version__
from .commands import admin, check, dashboard, job, metrics, proxy, server, submit, top, work
from .options import SHARED_OPTIONS, log_option, shared_server_options, timeout_option

__all__ = ["cli"]

SECTIONS: Final[Mapping[str, Sequence[click.Command]]] = {
    "Jobs": (submit.submit, work.work, admin.jobs, job.job, admin.cancel),
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
    "Monitoring": (top.top, dashboard.dashboard, admin.ping, check.check, metrics.metrics),
    "Development": (server.server, proxy.proxy),
}
"""The commands, by the headings of ``txgearman --help``."""

EXIT_CODES = """\b
Exit codes:
    0  success
    1  the job failed; work: running jobs were cut off
    2  usage error; nothing was sent
    3  a server refused: its queue is full, it does not know the job ...
    4  timed out
    5  lost: the job may or may not have run
    6  no server could be reached, or one of several
    7  work: COMMAND can't be started any more
    8  can't listen on the address of --http, --listen or --port
   70  internal error
   74  standard input can't be read, or standard output can't be written
  130  Ctrl-C (128 plus the number of the signal)
  141  standard output was closed
"""


class _SectionedGroup(click.Group):
    """A group whose help lists its commands in sections. Each command has the options of the log.

    The help of a command lists its own options before those that it shares with others.
    """

    def __init__(self, sections: Mapping[str, Sequence[click.Command]] | None = None, **attributes: Any) -> None:
        super().__init__(**attributes)
        self._sections = sections or {}
        for commands in self._sections.values():
            for command in commands:
                self.add_command(log_option(command))
                command.params.sort(key=lambda parameter: parameter.name in SHARED_OPTIONS)  # its own come first

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.ensure_object(dict)["arguments"] = [*args]  # click keeps none
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        limit = formatter.width - 6 - width
        for title, commands in self._sections.items():
            with formatter.section(title):
                rows = [(str(command.name).ljust(width), command.get_short_help_str(limit)) for command in commands]
                formatter.write_dl(rows)


@click.group(
    cls=_SectionedGroup,
    sections=SECTIONS,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="txgearman")
@log_option
@shared_server_options
@timeout_option
@click.option("-q", "--quiet", is_flag=True, help="submit, work: print or log errors only.")
@click.pass_context
def cli(context: click.Context, /, **options: Any) -> None:
    """Submit Gearman jobs, run workers, and administer job servers.

    Run "txgearman COMMAND --help" for the options of a command and an example. The options below may precede the
    command or follow it.
    """
    command = context.invoked_subcommand
    assert isinstance(context.command, click.Group)
    assert command is not None
    given = {name for name in options if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    accepted = {option for parameter in context.command.commands[command].params for option in parameter.opts}
    for parameter in context.command.params:
        if parameter.name in given and not accepted.intersection(parameter.opts):
            raise click.UsageError(f"{command} has no option {parameter.opts[-1]}")
    context.default_map = {command: {name: options[name] for name in given}}
