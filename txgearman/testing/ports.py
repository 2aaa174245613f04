"""Port numbers and addresses of what the test kit listens on."""

from __future__ import annotations

from typing import Final

MAX_PORT: Final = 65535


def check_port(port: int) -> int:
    """Check the number of a port to listen on, and return it.

    :raises ValueError: it is out of range.
    """
    if not 0 <= port <= MAX_PORT:
        raise ValueError(f"port must be from 0 to {MAX_PORT}, not {port}")
    return port


def host_and_port(host: str, port: int) -> str:
    """Return an address, as `GearmanClient` takes it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
