"""The job servers on one clock or reactor, and what they share."""

from __future__ import annotations

import re
from itertools import count
from typing import Any, Final
from typing import Protocol as Interface
from weakref import WeakValueDictionary

from twisted.internet.task import Clock

_ATTRIBUTE: Final = "txgearman_group"
"""Attribute of a clock or reactor, which has its `ServerGroup`."""


_NAME: Final = re.compile(r"[!-~]+")


class GroupedServer(Interface):
    """A `MemoryJobServer`, as far as this module needs it."""

    name: str


class ServerGroup:
    """The job servers on one clock or reactor."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._by_name: WeakValueDictionary[str, GroupedServer] = WeakValueDictionary()
        self._numbers = count(1)

    @property
    def servers(self) -> list[GroupedServer]:
        """Those that are not closed, the oldest first."""
        return list(self._by_name.values())

    def add(self, server: GroupedServer, name: str | None) -> str:
        """Add a server.

        :param name: None for ``memory:1``, ``memory:2`` and so on.
        :return: its name.
        :raises TypeError, ValueError: the name is not one, or is another server's.
        """
        if name is None:
            name = self._next_name()
        elif not isinstance(name, str):
            raise TypeError(f"name must be a str, not {name!r}")
        elif not _NAME.fullmatch(name):
            raise ValueError(f"name must be printable ASCII without spaces, not {name!r}")
        elif name in self._by_name:
            raise ValueError(f"name must be different from those of other servers on this clock, not {name!r}")
        self._by_name[name] = server
        return name

    def remove(self, server: GroupedServer) -> None:
        """Remove a server that is closed."""
        if self._by_name.get(server.name) is server:
            del self._by_name[server.name]

    def _next_name(self) -> str:
        # A clock is that of one test. A reactor has servers of all tests, whose names must not depend on their order.
        numbers = self._numbers if isinstance(self._reactor, Clock) else count(1)
        return next(name for number in numbers if (name := f"memory:{number}") not in self._by_name)


def group_of(reactor: Any) -> ServerGroup:
    """Return the group of a clock or reactor, which is made at its first server."""
    group = getattr(reactor, _ATTRIBUTE, None)
    if not isinstance(group, ServerGroup):
        group = ServerGroup(reactor)
        setattr(reactor, _ATTRIBUTE, group)
    return group
