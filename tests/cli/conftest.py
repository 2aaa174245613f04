"""Fixtures of all tests of the command."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _unset_gearman_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset the variable, which may name real servers."""
    monkeypatch.delenv("GEARMAN_SERVERS", raising=False)
