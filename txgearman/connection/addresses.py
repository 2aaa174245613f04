"""Addresses of job servers, as users write them."""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint

from .options import CONNECT_TIMEOUT
from .reactor import Reactor
from .tls import MISSING, TLSOptions

__all__ = [
    "DEFAULT_PORT",
    "Address",
    "parse_address",
]

DEFAULT_PORT: Final = 4730


Address: TypeAlias = "str | IStreamClientEndpoint"
"""Address of a job server: ``host``, ``host:port``, ``[v6]:port``, or ``tls:`` and one of these; the description of a
Twisted client endpoint; or an endpoint."""


_HOST: Final = re.compile(
    r"(?:(?P<tls>tls:(?!\d*$))|tcp:(?=.*:))?(?:\[(?P<v6>[^]]*)\]|(?P<host>[^][:\\=/\s]+))(?::(?P<port>\d+))?",
    re.ASCII,
)


_DESCRIPTION: Final = re.compile(r"[a-z][a-z0-9]*:.", re.ASCII | re.DOTALL)


def parse_address(
    address: Address,
    reactor: Reactor,
    index: int = 0,
    timeout: float = CONNECT_TIMEOUT,
    tls: TLSOptions | None = None,
) -> tuple[str, IStreamClientEndpoint]:
    """Parse one of ``job_servers``.

    :param index: position in the list, which names the server if the address is an endpoint.
    :param timeout: seconds that a connection to a host may take. Descriptions and endpoints have their own.
    :param tls: options for ``tls:host``, ``tls:host:port`` and ``tls:[v6]:port``; None for the defaults.
    :return: name of the server, which is the same for all clients with the same list, and its endpoint. The name of a
        host is resolved at each connect, over IPv4 and IPv6.
    :raises TypeError, ValueError: the address is invalid.
    """
    if IStreamClientEndpoint.providedBy(address):
        return f"endpoint:{index}", address
    if not isinstance(address, str):
        raise TypeError(f"job_servers: an address must be str or an IStreamClientEndpoint, not {address!r}")
    match = _HOST.fullmatch(address)
    if match:
        name, host, endpoint = _host_and_port(address, match, reactor, timeout)
        return (f"tls:{name}", (tls or TLSOptions()).wrap(endpoint, host)) if match["tls"] else (name, endpoint)
    if _DESCRIPTION.match(address) and not isIPv6Address(address):
        return address, _described(address, reactor)
    raise ValueError(
        "job_servers: an address must be 'host', 'host:port', '[v6]:port' or the description of a Twisted client "
        f"endpoint, not {address!r}"
    )


def takes_tls_options(address: Address) -> bool:
    """Check whether an address requires TLS without having options of its own for it."""
    match = _HOST.fullmatch(address) if isinstance(address, str) else None
    return match is not None and match["tls"] is not None


def _host_and_port(
    address: str, match: re.Match[str], reactor: Reactor, timeout: float
) -> tuple[str, str, IStreamClientEndpoint]:
    """Return the name of the server, its host and its endpoint."""
    port = int(match["port"] or DEFAULT_PORT)
    if not 0 < port < 65536:
        raise ValueError(f"job_servers: the port must be from 1 to 65535, not {port}, in {address!r}")
    if match["v6"] is not None:
        if not isIPv6Address(match["v6"]):
            raise ValueError(f"job_servers: the host in brackets must be an IPv6 address, not {match['v6']!r}")
        return f"[{match['v6']}]:{port}", match["v6"], TCP6ClientEndpoint(reactor, match["v6"], port, timeout=timeout)
    host = match["host"].lower()
    # Literal addresses need no resolver, and therefore no thread.
    endpoint = TCP4ClientEndpoint if isIPAddress(host) else HostnameEndpoint
    return f"{host}:{port}", host, endpoint(reactor, host, port, timeout=timeout)


def _described(description: str, reactor: Reactor) -> IStreamClientEndpoint:
    try:
        endpoint: IStreamClientEndpoint = clientFromString(reactor, description)
    except (ImportError, NameError) as error:  # which Twisted raises if TLS is not installed
        raise ValueError(f"job_servers: {description!r}: {MISSING}") from error
    except Exception as error:  # whatever the parser of this kind of endpoint raises
        raise ValueError(f"job_servers: an endpoint description must be valid, not {description!r}: {error}") from error
    return endpoint
