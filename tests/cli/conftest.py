"""Fixtures of all tests of the command."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred

from .harness import RunningCommand


@pytest.fixture(autouse=True)
def _unset_gearman_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset the variable, which may name real servers."""
    monkeypatch.delenv("GEARMAN_SERVERS", raising=False)


@pytest.fixture(autouse=True)
def no_command_goes_on() -> Iterator[None]:
    """A test that fails may leave commands, with their files and log observers, which later tests would suffer from."""
    yield
    for command in [*RunningCommand.unfinished]:
        pytest_twisted.blockon(ensureDeferred(command.abandon()))
