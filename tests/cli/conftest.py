"""Fixtures of all tests of the command."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred

from txgearman.cli.options import TLS_VARIABLES

from .harness import RunningCommand


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset the variables that may name real servers, and files for them. Terminals have a screen."""
    for variable in ("GEARMAN_SERVERS", *TLS_VARIABLES.values()):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture(autouse=True)
def no_command_goes_on() -> Iterator[None]:
    """A test that fails may leave commands, with their files and log observers, which later tests would suffer from."""
    yield
    for command in [*RunningCommand.unfinished]:
        pytest_twisted.blockon(ensureDeferred(command.abandon()))
