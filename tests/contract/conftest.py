"""Fixtures that run each test of the contract suite against three kinds of job server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from .harness import MemoryServer, MemoryServerOnTCP, MemoryServers, RealServer, Server

Start: TypeAlias = Callable[..., Server]
"""Starts a server: ``start(job_retries=2, exceptions=True)``. The options are those of `MemoryJobServer`, and of
gearmand under the same names."""

StartGearmand: TypeAlias = Callable[..., RealServer]
"""Starts gearmand, with options as on its command line."""


@pytest.fixture(scope="session")
def memory_servers() -> Iterator[MemoryServers]:
    servers = MemoryServers()
    yield servers
    servers.close()


def command_line(options: dict[str, object]) -> list[str]:
    return [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in options.items()]


@pytest.fixture(
    params=[
        pytest.param("gearmand", marks=pytest.mark.daemon),
        pytest.param("memory-tcp", marks=pytest.mark.daemon),
        "memory",
    ]
)
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Start job servers of one kind."""
    started: list[Server] = []

    def start_one(**options: object) -> Server:
        server: Server
        if request.param == "gearmand":
            server = RealServer(*command_line(options))
        elif request.param == "memory":
            server = MemoryServer(**options)
        else:
            server = MemoryServerOnTCP(request.getfixturevalue("memory_servers"), *command_line(options))
        started.append(server)
        return server

    yield start_one
    for server in started:
        server.close()


@pytest.fixture
def server(start: Start) -> Server:
    """A job server with no options."""
    return start()


@pytest.fixture
def start_gearmand() -> Iterator[StartGearmand]:
    """Start gearmand, for what the other kinds of job servers don't do."""
    started: list[RealServer] = []

    def start_one(*options: str) -> RealServer:
        started.append(RealServer(*options))
        return started[-1]

    yield start_one
    for server in started:
        server.close()
