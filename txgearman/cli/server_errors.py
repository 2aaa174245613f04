"""Errors of servers, as commands report them."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import GearmanError, NoServersAvailable
from .exit_codes import ExitCode, exit_code_for
from .reactor_loop import first_failure
from .terminal import Terminal

__all__ = ["describe_error", "exit_code_of", "report_errors"]


def describe_error(address: str, error: GearmanError) -> str:
    """Return the error of a server as a line of text, with the address of the server."""
    if isinstance(error, NoServersAvailable):  # its own text has the next attempt, which a command does not wait for
        return "; ".join(f"{server}: {reason}" for server, reason in error.reasons.items())
    return f"{address}: {error}"


def exit_code_of(errors: Mapping[str, GearmanError]) -> ExitCode:
    """Return the exit code for the errors of servers: that of the first one."""
    return first_failure(exit_code_for(error) or ExitCode.REFUSED for error in errors.values())


def report_errors(terminal: Terminal, errors: Mapping[str, GearmanError]) -> ExitCode:
    """Write the error of each server to standard error; return the exit code of the first one."""
    for address, error in errors.items():
        terminal.write_error(f"txgearman: {describe_error(address, error)}")
    return exit_code_of(errors)
