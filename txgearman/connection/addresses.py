"""Addresses of job servers, as users write them."""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint

from .names import NameEndpoint, Wrap, tcp_endpoint
from .reactor import Reactor
from .tls import MISSING, TLSOptions

__all__ = [
    "DEFAULT_PORT",
    "Address",
    "is_plain",
    "parse_address",
    "takes_tls_options",
]

DEFAULT_PORT: Final = 4730


Address: TypeAlias = "str | IStreamClientEndpoint | tuple[str, IStreamClientEndpoint]"
"""Address of a job server: ``host``, ``host:port``, ``[v6]:port``, or ``tls:`` and one of these; the description of a
Twisted client endpoint; an endpoint; or a name for the server and an endpoint."""


_HOST: Final = re.compile(
    r"(?:(?P<tls>tls:(?!\d*$))|tcp:(?=.*:))?(?:\[(?P<v6>[^]]*)\]|(?P<host>[^][:\\=/\s]+))(?::(?P<port>\d{1,9}))?",
    re.ASCII,
)


_DESCRIPTION: Final = re.compile(r"[a-z][a-z0-9]*:.", re.ASCII | re.DOTALL)

_DESCRIBED_HOST: Final = re.compile(r"(?:tcp|tls|ssl):(?:(?:.*:)?host=)?((?:\\.|[^:=\\])*)(?::|$)", re.DOTALL)
"""The host in a description of Twisted."""

_ENCODED_NAME: Final = re.compile(r"(?!-)[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?", re.ASCII | re.IGNORECASE)
"""A host name, as resolvers get it. RFC 1123 knows no underscore, but compose files and hosts files do."""

_NUMBERS: Final = re.compile(r"[0-9.]+")
"""What is an IPv4 address or nothing: resolvers take ``4730`` for 0.0.18.122."""

_ZONED: Final = re.compile(r"[^%]+(?:%[\w.-]+)?")
"""An IPv6 address, with the zone of a link-local one."""

_NAME: Final = re.compile(r"[!-~]+")
"""The name of a server that is reached over an endpoint."""

_MAX_NAME: Final = 254  # bytes, with the dot at the end: RFC 1035

_FORMS: Final = (
    "'host', 'host:port', '[v6]:port', 'tls:' and one of these, or the description of a Twisted client endpoint"
)

_HINTS: Final = tuple(
    (re.compile(pattern, re.DOTALL), hint)
    for pattern, hint in (
        (r"\s+(\S*)\s*|(\S+)\s+", r"write '\1\2', without spaces around it"),
        (r".*[,;\s].*", "write each server as an item of its own"),
        (r"(?i:tls|ssl|https|gearmans)://(?:[^/@]*@)?([^/?#]+).*", r"write 'tls:\1', since it is not a URL"),
        (r"(?:tls:)?[\w+.-]+://(?:[^/@]*@)?([^/?#]+).*", r"write '\1', since it is not a URL"),
        (r"(tls:|tcp:)?\*(:\d+)?", r"write the name of one host, such as '\1localhost\2'"),
        (r":?(\d+)", r"write the host, too, such as 'localhost:\1'"),
        (
            r"(?:tls:|tcp:)?[0-9][0-9.]*(?::\d*)?",
            "write an IPv4 address as four numbers from 0 to 255, such as '10.0.0.1'",
        ),
        (r"(tls:|tcp:)?[^@]*@([^@]+)", r"write '\1\2', since servers have no users"),
        (r"([^#]+)#(\d+)", r"write '\1:\2'"),
        (r"((?:tls:)?[\w.-]+):", r"write '\1' or '\1:4730'"),
        (
            r"(?:tls:|tcp:)?(?=.*::|(?:[^:]+:){7})[0-9a-fA-F.:]+(?:%.*)?",
            "write an IPv6 address in brackets, such as '[::1]:4730'",
        ),
        (r"(?!tls|tcp|unix|ssl)(?i:tls|tcp|unix|ssl):.+", "write its prefix in lower case"),
        (r"((?:tls:)?[^/:]+)(?::\d+)?/.*", r"write '\1' or '\1:4730', since servers have no path"),
        (r"tcp:([\w.-]+)", r"write '\1'"),
        (r"(?:tls:|tcp:)?[^][:=]+(?::[0-9]+)?", "write a host of letters, digits, '-' and '_', with dots between them"),
        (
            r"(?!(?:tcp|tls):[^:]*$)((?:tls:)?[\w.-]+):[^:]*",
            r"write '\1:' and a port from 1 to 65535, such as '\1:4730'",
        ),
    )
)
"""What to write instead, by patterns of what people write. The first match applies."""


def parse_address(
    address: Address,
    reactor: Reactor,
    index: int = 0,
    tls: TLSOptions | None = None,
) -> tuple[str, IStreamClientEndpoint]:
    """Parse one of ``job_servers``.

    :param index: position in the list, which names the server if the address is an endpoint that has no
        ``server_name``.
    :param tls: options for ``tls:host``, ``tls:host:port`` and ``tls:[v6]:port``; None for the defaults.
    :return: name of the server, which is the same for all clients with the same list, and its endpoint. The name of a
        host is resolved at each connect, over IPv4 and IPv6.
    :raises TypeError, ValueError: the address is invalid.
    """
    if not isinstance(address, str):
        return _named(address, index)
    match = _HOST.fullmatch(address)
    if match:
        name, host, port = _host_and_port(address, match)
        if not match["tls"]:
            return name, _endpoint(reactor, host, port, lambda endpoint: endpoint)
        return f"tls:{name}", _endpoint(reactor, host, port, (tls or TLSOptions()).wrapper(host.rstrip(".")))
    if _DESCRIPTION.match(address) and not isIPv6Address(address):
        return address, _described(address, reactor)
    raise _invalid(address)


def _named(address: object, index: int) -> tuple[str, IStreamClientEndpoint]:
    """Return the name of a server that is reached over an endpoint, and the endpoint."""
    if IStreamClientEndpoint.providedBy(address):
        name, endpoint = getattr(address, "server_name", f"endpoint:{index}"), address
    elif isinstance(address, tuple) and len(address) == 2 and IStreamClientEndpoint.providedBy(address[1]):
        name, endpoint = address
    else:
        raise TypeError(
            "job_servers: an address must be str or an IStreamClientEndpoint, or a pair of a name and such an "
            f"endpoint, not {address!r}"
        )
    if not isinstance(name, str):
        raise TypeError(f"job_servers: the name of an endpoint must be str, not {type(name).__name__}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"job_servers: the name of an endpoint must be printable ASCII without spaces, not {name!r}")
    return name, endpoint


def takes_tls_options(address: Address) -> bool:
    """Check whether an address requires TLS without having options of its own for it."""
    match = _HOST.fullmatch(address) if isinstance(address, str) else None
    return match is not None and match["tls"] is not None


def is_plain(address: Address) -> bool:
    """Check whether an address is that of a host without TLS, as far as its text says."""
    if not isinstance(address, str):
        return False
    return address.startswith("tcp:") or (_HOST.fullmatch(address) is not None and not takes_tls_options(address))


def _endpoint(reactor: Reactor, host: str, port: int, wrap: Wrap) -> IStreamClientEndpoint:
    """Return the endpoint of a host, over IPv4 and IPv6 if it is a name."""
    if isIPAddress(host) or ":" in host:
        return wrap(tcp_endpoint(reactor, host, port))
    return NameEndpoint(reactor, host, port, wrap)


def _host_and_port(address: str, match: re.Match[str]) -> tuple[str, str, int]:
    """Return the name of the server, its host and its port."""
    port = int(match["port"] or DEFAULT_PORT)
    if not 0 < port < 65536:
        raise ValueError(f"job_servers: the port must be from 1 to 65535, not {port}, in {address!r}")
    if match["v6"] is not None:
        if not (isIPv6Address(match["v6"]) and _ZONED.fullmatch(match["v6"])):
            raise ValueError(f"job_servers: the host in brackets must be an IPv6 address, not {match['v6']!r}")
        number, *zone = match["v6"].partition("%")
        v6 = "".join([number.lower(), *zone])
        return f"[{v6}]:{port}", v6, port
    host = match["host"].lower()
    if not _is_host(host):
        raise _invalid(address)
    return f"{host}:{port}", host, port


def _is_host(host: str) -> bool:
    """Check whether `host` is an IPv4 address, or a name that can be looked up."""
    if _NUMBERS.fullmatch(host):
        return isIPAddress(host)
    try:
        name = host.encode("idna").decode("ascii") if len(host) <= _MAX_NAME else ""
    except UnicodeError:  # such as an empty label
        return False
    return _ENCODED_NAME.fullmatch(name) is not None and not _NUMBERS.fullmatch(name)


def _described(description: str, reactor: Reactor) -> IStreamClientEndpoint:
    _check_description(description)
    try:
        endpoint: IStreamClientEndpoint = clientFromString(reactor, description)
    except (ImportError, NameError) as error:  # which Twisted raises if TLS is not installed
        raise ValueError(f"job_servers: {description!r}: {MISSING}") from error
    except Exception as error:  # whatever the parser of this kind of endpoint raises
        hint = _hint(description)
        if hint:
            raise _invalid(description) from error
        raise ValueError(f"job_servers: an endpoint description must be valid, not {description!r}: {error}") from error
    return endpoint


def _check_description(description: str) -> None:
    """Refuse a description that Twisted accepts, but that has no host, or does not verify the server."""
    if description.startswith("ssl:") and not re.search(r"(?<!\\):hostname=[^:]", description):
        raise ValueError(
            f"job_servers: {description!r} would not verify the server: write {_as_tls(description)!r}, or add "
            "':hostname=' and the name in its certificate"
        )
    host = _DESCRIBED_HOST.match(description)
    if host:
        name = re.sub(r"\\(.)", r"\1", host[1])
        if not (_is_host(name) or isIPv6Address(name)):
            raise _invalid(description)


def _as_tls(description: str) -> str:
    address = f"tls:{description.partition(':')[2].strip('/')}"
    return address if _HOST.fullmatch(address) else "tls:host:port"


def _hint(address: str) -> str:
    """Return what to write instead of an invalid address; empty if that is unknown."""
    matches = ((pattern.fullmatch(address), hint) for pattern, hint in _HINTS)
    return next((match.expand(hint) for match, hint in matches if match), "")


def _invalid(address: str) -> ValueError:
    hint = _hint(address)
    return ValueError(f"job_servers: an address must be {_FORMS}, not {address!r}" + (f": {hint}" if hint else ""))
