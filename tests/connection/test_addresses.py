"""Addresses of job servers, as users write them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as global_reactor
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint

from txgearman.connection.addresses import parse_address

reactor: Any = global_reactor


@pytest.mark.parametrize(
    ("address", "name", "kind"),
    [
        ("10.0.0.1", "10.0.0.1:4730", TCP4ClientEndpoint),
        ("10.0.0.1:4731", "10.0.0.1:4731", TCP4ClientEndpoint),
        ("tcp:10.0.0.1:4731", "10.0.0.1:4731", TCP4ClientEndpoint),
        ("[::1]", "[::1]:4730", TCP6ClientEndpoint),
        ("[::1]:4731", "[::1]:4731", TCP6ClientEndpoint),
        ("tcp:[::1]:4731", "[::1]:4731", TCP6ClientEndpoint),
        ("jobs", "jobs:4730", HostnameEndpoint),
        ("Jobs.Example.com:4731", "jobs.example.com:4731", HostnameEndpoint),
        ("tcp:jobs.example.com:4731", "jobs.example.com:4731", HostnameEndpoint),
        ("tcp:4731", "tcp:4731", HostnameEndpoint),
        ("tcp", "tcp:4730", HostnameEndpoint),
        ("unix:/run/gearmand.sock", "unix:/run/gearmand.sock", UNIXClientEndpoint),
        ("tcp:host=10.0.0.1:port=4731", "tcp:host=10.0.0.1:port=4731", TCP4ClientEndpoint),
    ],
)
def test_address_has_a_name_and_an_endpoint(address: str, name: str, kind: type) -> None:
    told, endpoint = parse_address(address, reactor)
    assert (told, type(endpoint)) == (name, kind)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("tls:jobs", "tls:jobs:4730"),
        ("tls:Jobs:4731", "tls:jobs:4731"),
        ("tls:10.0.0.1", "tls:10.0.0.1:4730"),
        ("tls:[::1]", "tls:[::1]:4730"),
        ("tls:[::1]:4731", "tls:[::1]:4731"),
        ("tls:4730:4730", "tls:4730:4730"),
        ("tls:4730", "tls:4730"),  # a host of that name, as with tcp
    ],
)
def test_tls_by_an_address_alone(address: str, name: str) -> None:
    told, endpoint = parse_address(address, reactor)
    assert told == name
    assert IStreamClientEndpoint.providedBy(endpoint)


def test_tls_by_description() -> None:
    """That of an address without options is shown in `test_tls`."""
    name, endpoint = parse_address("tls:jobs.example.com:4730:timeout=3", reactor)
    assert name == "tls:jobs.example.com:4730:timeout=3"
    assert IStreamClientEndpoint.providedBy(endpoint)


def test_tls_without_its_library_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(reactor: object, description: str) -> None:
        raise NameError("name 'optionsForClientTLS' is not defined")

    monkeypatch.setattr("txgearman.connection.addresses.clientFromString", missing)
    with pytest.raises(ValueError, match=r"'tls:jobs:4730:timeout=3': TLS needs txgearman\[tls\], which is not"):
        parse_address("tls:jobs:4730:timeout=3", reactor)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("", "an address must be .* endpoint, not ''"),
        ("host:", "an address must be"),
        ("::1", "an address must be"),
        ("fe80::1:4730", "an address must be"),
        ("[::1", "an address must be"),
        ("a host", "an address must be"),
        ("host\n", "an address must be"),
        ("http://host:4730", "an endpoint description must be valid"),
        ("nonsense:host:1", "an endpoint description must be valid"),
        ("[jobs]:4730", "the host in brackets must be an IPv6 address, not 'jobs'"),
        ("host:0", "must be from 1 to 65535"),
        ("host:65536", "must be from 1 to 65535"),
    ],
)
def test_invalid_address_is_refused(address: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=f"^job_servers: .*{complaint}"):
        parse_address(address, reactor)


@pytest.mark.guarantee(number=8)
@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        name, endpoint = parse_address(text, reactor)
        assert name
        assert IStreamClientEndpoint.providedBy(endpoint)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("address", [None, 4730, b"host", ("host", 4730)])
def test_address_of_wrong_type_is_refused(address: Any) -> None:
    with pytest.raises(TypeError, match="job_servers: an address must be str or an IStreamClientEndpoint"):
        parse_address(address, reactor)
