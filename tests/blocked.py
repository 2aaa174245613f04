"""A test that never comes back to the reactor. `test_conftest` runs it; under its own name nobody does."""

from __future__ import annotations

import threading


def test_blocks_for_ever() -> None:
    threading.Event().wait()
