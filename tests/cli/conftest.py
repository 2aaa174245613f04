"""What every test of the command is held to."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_servers_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have real ones."""
    monkeypatch.delenv("GEARMAN_SERVERS", raising=False)
