"""Check of the header Host: what makes DNS rebinding useless."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Final

__all__ = ["AllowedHosts"]

_NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*", re.IGNORECASE)
_HEADER: Final = re.compile(r"(?:\[([^\]]*)\]|([^:]*))(?::[0-9]*)?")
_MAX_HEADER: Final = 300  # characters: a name of DNS has up to 253


class AllowedHosts:
    """Names by which a browser may call the dashboard.

    A page of a hostile site can have its own name resolve to 127.0.0.1, and read what is served there as if it were its
    own (DNS rebinding). The browser then sends that name. It can't do so with an address.

    :param names: names beside ``localhost``, without a port.
    :raises TypeError, ValueError: one is not a name.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        if isinstance(names, str):
            raise TypeError("hosts must be a list of names, not str")
        self._names = {"localhost", *map(_check_name, names)}

    def allow(self, headers: Sequence[bytes]) -> bool:
        """Return whether a request with these headers Host may be answered."""
        if len(headers) != 1 or len(headers[0]) > _MAX_HEADER:
            return False
        match = _HEADER.fullmatch(headers[0].decode("latin-1"))
        if match is None:
            return False
        address, name = match.groups()
        return _is_address(address) if name is None else name.lower().rstrip(".") in self._names or _is_address(name)


def _check_name(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"host must be str, not {type(name).__name__}")
    if not _NAME.fullmatch(name.rstrip(".")):
        raise ValueError(f"host must be a name without a port, such as gearman.example.com, not {name!r}")
    return name.lower().rstrip(".")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
