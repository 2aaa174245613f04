"""What a child process of ``txgearman work --processes`` and its parent send each other.

The parent passes a `ChildOptions` in an environment variable, and holds a pipe whose end of file makes the child drain.
The child writes a line for each `ChildStatus` to another pipe. Each line is complete: if one is lost, the next one has
all that it said.
"""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass
from typing import Final

__all__ = ["CHILD_VARIABLE", "METRICS_VARIABLE", "ChildOptions", "ChildStatus"]

CHILD_VARIABLE: Final = "TXGEARMAN_CHILD"
"""Environment variable that makes ``txgearman work`` a child, and has its options."""

METRICS_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable by which prometheus_client finds the directory of the files with metrics. A child sets it."""

_FIELDS: Final = 6


@dataclass(frozen=True)
class ChildStatus:
    """The state of a child's worker.

    :ivar ready: whether its functions are registered with a server.
    :ivar running: jobs whose functions run.
    :ivar ended: jobs that have ended since the start, without those whose server gives them to another worker.
    :ivar servers_ready, servers: servers that it is connected to, of how many.
    :ivar wants_successor: whether it has run as many jobs as it should, and goes on until another child is ready.
    """

    ready: bool = False
    running: int = 0
    ended: int = 0
    servers_ready: int = 0
    servers: int = 0
    wants_successor: bool = False

    def encode(self) -> bytes:
        """Return the line of this status, with its end."""
        return b"%d %d %d %d %d %d\n" % (
            self.ready,
            self.running,
            self.ended,
            self.servers_ready,
            self.servers,
            self.wants_successor,
        )

    @classmethod
    def parse(cls, line: bytes) -> ChildStatus | None:
        """Return the status of a line without its end; None if it is invalid."""
        words = line.split(b" ")
        if len(words) != _FIELDS or not all(word.isdigit() and len(word) <= 18 for word in words):
            return None
        ready, running, ended, servers_ready, servers, wants_successor = map(int, words)
        return cls(bool(ready), running, ended, servers_ready, servers, bool(wants_successor))


@dataclass(frozen=True)
class ChildOptions:
    """What a child learns from its parent.

    :ivar place, name: see `Child`.
    :ivar parent: process ID of the parent.
    :ivar control: file descriptor of the pipe that the parent holds open.
    :ivar status: file descriptor of the pipe that the child writes its status to.
    :ivar count: number of jobs after which it exits; None for no limit.
    :ivar job_limit: number of jobs after which it wants a successor; None for no limit.
    :ivar metrics: directory for its metrics; empty for none.
    """

    place: int
    name: int
    parent: int
    control: int
    status: int
    count: int | None = None
    job_limit: int | None = None
    metrics: str = ""

    def encode(self) -> str:
        """Return the value of `CHILD_VARIABLE`."""
        return json.dumps(asdict(self))

    @classmethod
    def take(cls, environment: MutableMapping[str, str]) -> ChildOptions | None:
        """Remove the options from the environment, so that no program that the child runs has them, and return them.

        :return: None if this is no child.
        """
        text = environment.pop(CHILD_VARIABLE, "")
        return cls(**json.loads(text)) if text else None
