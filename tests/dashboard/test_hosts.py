"""The header Host: which browsers are answered."""

from __future__ import annotations

from typing import Any

import pytest

from txgearman.dashboard.hosts import AllowedHosts

HOSTS = AllowedHosts(["Gearman.example.com."])


ALLOWED = [
    "localhost",
    "LOCALHOST:4780",
    "127.0.0.1:4780",
    "10.0.0.1",
    "[::1]:4780",
    "[fe80::1]",
    "gearman.example.com",
    "GEARMAN.example.com.:80",
    "localhost:",
]


def test_address_and_known_name_are_allowed() -> None:
    assert [header for header in ALLOWED if not HOSTS.allow([header.encode()])] == []


REFUSED = [
    "",
    "evil.example",
    "localhost.evil.example",
    "gearman.example.com.evil.example",
    "127.0.0.1.evil.example",
    "127.0.0.1@evil.example",
    "evil.example:127.0.0.1",
    "[::1",
    "[localhost]",
    "::1",
    "localhost:80:80",
    "localhost\x00",
    "\xff",
    "1" * 10**6,
]


def test_any_other_host_is_refused() -> None:
    assert [header[:80] for header in REFUSED if HOSTS.allow([header.encode("latin-1")])] == []


def test_request_with_no_or_two_hosts_is_refused() -> None:
    assert not HOSTS.allow([])
    assert not HOSTS.allow([b"localhost", b"evil.example"])


@pytest.mark.guarantee(number=8)
def test_invalid_names_are_refused() -> None:
    for name in ("a:80", "", "a b", "http://a", "*", "-a", "a..b"):
        with pytest.raises(ValueError, match="host must be a name without a port, such as "):
            AllowedHosts([name])
    number: Any = 1
    with pytest.raises(TypeError, match="host must be str, not int"):
        AllowedHosts([number])
    with pytest.raises(TypeError, match="hosts must be a list of names, not str"):
        AllowedHosts("localhost")
