"""A test of the command that fails leaves nothing to the tests after it."""

from __future__ import annotations

import pytest
from twisted.logger import Logger

from ..conftest import Failures
from .harness import RunningCommand


@pytest.mark.parametrize("terminal", [False, True])
async def test_abandoned_command_observes_no_log(terminal: bool, logged_failures: Failures) -> None:
    command = RunningCommand("server", "-p", "0", terminal=terminal)
    await command.abandon()
    assert RunningCommand.unfinished == []
    Logger(namespace="txgearman.test").error("an observer that raises is logged as a failure")
    assert logged_failures.texts() == []
