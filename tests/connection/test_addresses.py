"""Addresses of job servers, as users write them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

import pytest
from hypothesis import given
from twisted.internet import reactor as global_reactor
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    clientFromString,
)
from twisted.internet.interfaces import IHostnameResolver, IReactorPluggableNameResolver, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from zope.interface import implementer

from txgearman import TLSOptions
from txgearman.connection.addresses import parse_address
from txgearman.connection.names import NameEndpoint

from ..examples import ANY_TEXT

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
        ("jobs", "jobs:4730", NameEndpoint),
        ("Jobs.Example.com:4731", "jobs.example.com:4731", NameEndpoint),
        ("tcp:jobs.example.com:4731", "jobs.example.com:4731", NameEndpoint),
        ("gearman_server", "gearman_server:4730", NameEndpoint),
        ("Gearman_Server:4731", "gearman_server:4731", NameEndpoint),
        ("jobs.example.com.", "jobs.example.com.:4730", NameEndpoint),
        ("r1---sn-5.example.com", "r1---sn-5.example.com:4730", NameEndpoint),
        ("münchen.example", "münchen.example:4730", NameEndpoint),
        ("mün_chen", "mün_chen:4730", NameEndpoint),
        ("[FE80::1%Eth0]:4730", "[fe80::1%Eth0]:4730", TCP6ClientEndpoint),
        ("tcp:4731", "tcp:4731", NameEndpoint),
        ("tcp", "tcp:4730", NameEndpoint),
        ("unix:/run/gearmand.sock", "unix:/run/gearmand.sock", UNIXClientEndpoint),
        ("unix:/run/a,b c.sock", "unix:/run/a,b c.sock", UNIXClientEndpoint),
        ("tcp:host=10.0.0.1:port=4731", "tcp:host=10.0.0.1:port=4731", TCP4ClientEndpoint),
        ("tcp:gearman_server:4731:timeout=3", "tcp:gearman_server:4731:timeout=3", TCP4ClientEndpoint),
    ],
)
def test_address_has_a_name_and_an_endpoint(address: str, name: str, kind: type) -> None:
    reported, endpoint = parse_address(address, reactor)
    assert reported == name
    assert isinstance(endpoint, kind)


@implementer(IHostnameResolver)
class Resolver:
    """The resolver of an application: knows every name."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def resolveHostName(
        self, resolutionReceiver: Any, hostName: str, portNumber: int = 0, addressTypes: Any = None, *_: Any, **__: Any
    ) -> Any:
        self.asked.append(hostName)
        resolutionReceiver.resolutionBegan(None)
        resolutionReceiver.addressResolved(IPv4Address("TCP", "10.0.0.1", portNumber))
        resolutionReceiver.resolutionComplete()


@implementer(IReactorPluggableNameResolver)
class ResolvingReactor(MemoryReactorClock):
    """A reactor in memory, with a resolver."""

    def __init__(self) -> None:
        super().__init__()
        self.resolver = self.nameResolver = Resolver()

    def installNameResolver(self, resolver: Any) -> Any:  # noqa: N802  # Twisted's name of it
        raise NotImplementedError


@pytest.mark.parametrize(
    "name", ["gearman_server", "_jobs", "jobs-", "r1---sn-5.example.com", "jobs", "münchen.example", "mün_chen"]
)
def test_name_with_underscore_is_looked_up_by_resolver_of_reactor(name: str) -> None:
    memory = ResolvingReactor()
    _, endpoint = parse_address(name, cast(Any, memory))
    endpoint.connect(Factory())
    assert memory.resolver.asked == [name]
    assert [(client[0], client[1]) for client in memory.tcpClients] == [("10.0.0.1", 4730)]


@pytest.mark.parametrize("address", ["tls:gearman_server", "tls:mün_chen:4731"])
def test_certificate_for_name_with_underscore_needs_server_name(address: str) -> None:
    with pytest.raises(ValueError, match=r"the host must be valid in a certificate, .*TLSOptions\(server_name"):
        parse_address(address, reactor)
    assert parse_address(address, reactor, tls=TLSOptions(server_name="jobs.example.com"))


def test_certificate_is_for_host_without_dot_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(TLSOptions, "wrapper", lambda self, host: names.append(host))
    parse_address("tls:jobs.example.com.", reactor)
    assert names == ["jobs.example.com"]


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("address", "way"),
    [
        ("ssl:jobs:4730", "write 'tls:jobs:4730'"),
        ("ssl:jobs:4730:caCertsDir=/etc/ssl/certs", "write 'tls:host:port'"),
        ("ssl:host=jobs:port=4730", "write 'tls:host:port'"),
        ("ssl:jobs:4730:hostname=", "write 'tls:host:port'"),
        (r"ssl:jobs:4730:certKey=a\:hostname=b", "write 'tls:host:port'"),
        ("ssl:[::1]:4730", "write 'tls:[::1]:4730'"),
        ("ssl:jobs", "write 'tls:jobs'"),
        ("ssl://jobs:4730", "write 'tls:jobs:4730'"),
    ],
)
def test_description_with_ssl_that_verifies_nothing_is_refused(address: str, way: str) -> None:
    with pytest.raises(ValueError, match=r"^job_servers: .* would not verify the server: ") as raised:
        parse_address(address, reactor)
    assert f"{way}, or add ':hostname='" in str(raised.value)


def test_ssl_with_hostname_or_as_endpoint_of_caller_is_accepted() -> None:
    assert parse_address("ssl:jobs:4730:hostname=jobs.example.com", reactor)
    unverified = clientFromString(reactor, "ssl:jobs:4730")
    assert parse_address(unverified, reactor) == ("endpoint:0", unverified)


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("tcp://10.0.0.1:4730", "write '10.0.0.1:4730', since it is not a URL"),
        ("gearman://jobs", "write 'jobs', since"),
        ("tcp://user:secret@jobs:4730/path", "write 'jobs:4730', since"),
        ("tls://jobs:4730", "write 'tls:jobs:4730', since"),
        ("tls:https://jobs", "write 'jobs', since"),
        ("10.0.0.1,10.0.0.2:4730", "write each server as an item of its own"),
        ("a;b", "write each server as an item of its own"),
        ("a b", "write each server as an item of its own"),
        ("tcp:a,b:4730:timeout=3", "write each server as an item of its own"),
        (" jobs", "write 'jobs', without spaces"),
        ("jobs\n", "write 'jobs', without spaces"),
        ("*:4730", "write the name of one host, such as 'localhost:4730'"),
        ("tls:*", "write the name of one host, such as 'tls:localhost'"),
        ("4730", "write the host, too, such as 'localhost:4730'"),
        (":4730", "write the host, too, such as 'localhost:4730'"),
        ("4730:4730", "write an IPv4 address as four numbers"),
        ("tls:4730:4730", "write an IPv4 address as four numbers"),
        ("10.0.0.256", "write an IPv4 address as four numbers"),
        ("10.0.0:4730", "write an IPv4 address as four numbers"),
        ("10.0.0.1.", "write an IPv4 address as four numbers"),
        ("user@gearmand:4730", "write 'gearmand:4730', since servers have no users"),
        ("tls:user@gearmand", "write 'tls:gearmand', since servers have no users"),
        ("gearmand#4730", "write 'gearmand:4730'"),
        ("jobs:", "write 'jobs' or 'jobs:4730'"),
        ("tls:jobs:", "write 'tls:jobs' or 'tls:jobs:4730'"),
        ("jobs:+4730", "write 'jobs:' and a port from 1 to 65535, such as 'jobs:4730'"),
        ("jobs:-1", "write 'jobs:' and a port from 1 to 65535"),
        ("jobs:http", "write 'jobs:' and a port from 1 to 65535"),
        ("jobs:\uff14\uff17", "write 'jobs:' and a port from 1 to 65535"),
        ("jobs:" + "9" * 5000, "write"),
        ("tcp:jobs", "write 'jobs'"),
        ("::1", "write an IPv6 address in brackets, such as"),
        ("fe80::1:4730", "write an IPv6 address in brackets"),
        ("1:2:3:4:5:6:7:8", "write an IPv6 address in brackets"),
        ("fe80::1%eth0", "write an IPv6 address in brackets"),
        ("TLS:jobs:4730", "write its prefix in lower case"),
        ("jobs/path", "write 'jobs' or 'jobs:4730', since servers have no path"),
        ("jobs:4730/path", "write 'jobs' or 'jobs:4730', since servers have no path"),
        *(
            (host, "write a host of letters, digits")
            for host in ["a..b", ".a", ".", "-p", "a*b", "<host>", "$HOST:4730"]
        ),
        *(
            (host, "write a host of letters, digits")
            for host in ["x" * 64, "x." * 200, "'jobs'", "a\uff0fb", "\uff11\uff10.0.0.1"]
        ),
        ("tcp:port=4730:host=*", ""),
        ("[::1]4730", ""),
        ("", ""),
    ],
)
def test_text_that_is_no_address_is_refused_with_what_to_write_instead(address: str, hint: str) -> None:
    with pytest.raises(ValueError, match=r"^job_servers: an address must be 'host', 'host:port'") as raised:
        parse_address(address, reactor)
    assert f"client endpoint, not {address!r}" in str(raised.value)
    assert hint in str(raised.value).removeprefix("job_servers").partition(repr(address))[2]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("tls:jobs", "tls:jobs:4730"),
        ("tls:Jobs:4731", "tls:jobs:4731"),
        ("tls:10.0.0.1", "tls:10.0.0.1:4730"),
        ("tls:[::1]", "tls:[::1]:4730"),
        ("tls:[::1]:4731", "tls:[::1]:4731"),
        ("tls:jobs.example.com.:4730", "tls:jobs.example.com.:4730"),
        ("tls:4730", "tls:4730"),  # a host of that name, as with tcp
    ],
)
def test_tls_by_an_address_alone(address: str, name: str) -> None:
    reported, endpoint = parse_address(address, reactor)
    assert reported == name
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
        ("http://host:4730", "an address must be .* write 'host:4730'"),
        ("nonsense:host:1", "an endpoint description must be valid"),
        ("[::1%]:4730", "the host in brackets must be an IPv6 address"),
        ("[10.0.0.1]:4730", "the host in brackets must be an IPv6 address"),
        ("[jobs]:4730", "the host in brackets must be an IPv6 address, not 'jobs'"),
        ("host:0", "must be from 1 to 65535"),
        ("10.0.0.1:655360", "must be from 1 to 65535"),
    ],
)
def test_invalid_address_is_refused(address: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=f"^job_servers: .*{complaint}"):
        parse_address(address, reactor)


@pytest.mark.guarantee(number=8)
@given(ANY_TEXT)
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
