"""States of a connection to a job server, and the transitions between them.

They exclude each other. Whether reading or writing is paused is not among them: either may be so in several states.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

__all__ = [
    "TRANSITIONS",
    "ConnectionState",
]


class ConnectionState(enum.Enum):
    """State of a connection. `TRANSITIONS` has what may follow each."""

    NEW = "new"
    """It has no transport yet."""
    HANDSHAKE = "handshake"
    """The TLS handshake is in progress, so that nothing can be sent."""
    OPENING = "opening"
    """The server has not sent a good answer yet."""
    READY = "ready"
    """The server has sent a good answer, so that new work may be sent."""
    RETIRING = "retiring"
    """No new work is sent; the connection closes once nothing is in flight."""
    DOWN = "down"
    """It can't be used any longer; its transport closes, or has closed."""


TRANSITIONS: Final[Mapping[ConnectionState, frozenset[ConnectionState]]] = {
    ConnectionState.NEW: frozenset({ConnectionState.HANDSHAKE, ConnectionState.OPENING}),
    # Straight to READY where the endpoint wraps the connection in a protocol that does not report the handshake.
    ConnectionState.HANDSHAKE: frozenset({ConnectionState.OPENING, ConnectionState.READY, ConnectionState.DOWN}),
    ConnectionState.OPENING: frozenset({ConnectionState.READY, ConnectionState.DOWN}),
    ConnectionState.READY: frozenset({ConnectionState.RETIRING, ConnectionState.DOWN}),
    ConnectionState.RETIRING: frozenset({ConnectionState.DOWN}),
    ConnectionState.DOWN: frozenset(),
}
"""The states that may follow each state. A connection takes no other transition; the tests take each of these."""
