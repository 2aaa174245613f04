"""Runs the code of the command that the command line selects."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["run_command"]


def run_command(main: Any, *arguments: Any, verbosity: int = 0, **options: Any) -> None:
    """Run the coroutine function of a command, and exit with the code that it returns."""
    from ..reactor_loop import run

    context = click.get_current_context()
    settings = context.ensure_object(dict)
    runner = settings.get("run", run)  # tests have another
    context.exit(runner(lambda terminal: main(terminal, *arguments, **options), settings["verbose"] + verbosity))
