"""The test kit in pytest. One line in ``conftest.py`` switches it on::

    pytest_plugins = ["txgearman.testing.pytest_plugin"]

Then each test may take a ``job_server`` as an argument: a `MemoryJobServer` on a `Clock`, verified at the end.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .server import MemoryJobServer


@pytest.fixture
def job_server() -> Iterator[MemoryJobServer]:
    """A job server in memory, on a `Clock`, verified at the end of the test."""
    server = MemoryJobServer()
    yield server
    server.result_of(server.close())
