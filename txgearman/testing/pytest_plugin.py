"""The test kit for pytest. One line in ``conftest.py`` enables it::

    pytest_plugins = ["txgearman.testing.pytest_plugin"]

It defines the fixture ``job_server``: a `MemoryJobServer` on a `Clock`, which is closed and verified after the test.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .server import MemoryJobServer


@pytest.fixture
def job_server() -> Iterator[MemoryJobServer]:
    """An in-memory job server on a `Clock`, which is closed and verified after the test."""
    server = MemoryJobServer()
    yield server
    server.result_of(server.close())
