"""TLS: how it is spoken at ``tls:`` addresses, and what is told where it fails.

pyOpenSSL is imported only where TLS is used: the library does without it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast
from typing import Protocol as Interface

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.error import TimeoutError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from zope.interface import implementer

from ..errors import TLSError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from OpenSSL.crypto import X509
    from OpenSSL.SSL import Connection
    from twisted.internet._sslverify import IOpenSSLTrustRoot
    from twisted.protocols.tls import TLSMemoryBIOProtocol

__all__ = ["TLSOptions", "explain_error"]

PathName: TypeAlias = "str | os.PathLike[str]"

_Options: TypeAlias = "dict[str, Any]"  # type: ignore[explicit-any]  # CertificateOptions has a type for each argument

_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_PRIVATE_KEY: Final = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)

MISSING: Final = "TLS needs txgearman[tls], which is not installed"

_VERSIONS: Final = {"method", "raiseMinimumTo", "insecurelyLowerMinimumTo", "lowerMaximumSecurityTo"}
"""The certificate options that choose versions of TLS."""

_FAULTS: Final = {
    9: "it is not valid yet",
    10: "it has expired",
    18: "it is self-signed, and none of the trust roots",
    19: "its CA is none of the trust roots",
    20: "its CA is none of the trust roots, or an intermediate certificate is missing",
    21: "its CA is none of the trust roots, or an intermediate certificate is missing",
}
"""What OpenSSL may find wrong with a certificate, by its numbers."""

_PLAIN_TEXT: Final = "the server may speak plain text"

_HINTS: Final = (
    ("alert certificate required", "the server wants a client certificate"),
    ("alert unknown ca", "the server does not trust who issued the client certificate"),
    ("alert handshake failure", "the server may want a client certificate, or other ciphers"),
    ("alert protocol version", "the server speaks other versions of TLS"),
    ("alert .*certificate", "the server does not take the client certificate"),
    ("wrong version number", _PLAIN_TEXT),
    ("packet length too long", _PLAIN_TEXT),
)
"""What OpenSSL's words mean here, by patterns of a part of them. The first that fits is it."""


@dataclass(frozen=True)
class TLSOptions:
    """How TLS is spoken with the job servers at ``tls:`` addresses.

    A server must show a certificate that is valid, comes from a CA that is trusted, and is for the host that the
    address names. TLS 1.2 is the least. The files are read here, once; a certificate that was renewed takes a new
    object.

    :raises TypeError, ValueError: for an argument that can't be meant, such as a file that is not there, or has no PEM
        of its kind in it; or where txgearman was installed without its extra ``tls``.
    """

    trust_roots: PathName | None = None
    """A PEM file with the certificates of the CAs that are trusted, or a directory of such files, which are called
    ``*.pem`` or ``*.crt``. None for those that the platform trusts."""

    certificate: PathName | None = None
    """A PEM file with the client's certificate, for servers that want one. Those of intermediate CAs may follow it."""

    private_key: PathName | None = None
    """A PEM file with the key of that certificate, not encrypted. None if it is in the same file."""

    server_name: str | None = None
    """The host name or IP address that a server's certificate must be for. None for the host in the address."""

    certificate_options: Mapping[str, object] | None = field(default=None, hash=False)
    """More arguments for `twisted.internet.ssl.CertificateOptions`, such as ``acceptableCiphers``."""

    _trust: IOpenSSLTrustRoot = field(init=False, repr=False, compare=False)
    _extra: _Options = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _need_openssl()
        object.__setattr__(self, "_trust", self._load_trust())
        object.__setattr__(self, "_extra", {**self._load_client(), **self._more_options()})
        self._try_out()

    def _load_trust(self) -> IOpenSSLTrustRoot:
        from twisted.internet.ssl import Certificate, platformTrust, trustRootFromCertificates

        trust: IOpenSSLTrustRoot  # which Twisted does not declare
        if self.trust_roots is None:
            trust = platformTrust()
        else:
            certificates = _trusted_certificates(self.trust_roots)
            trust = trustRootFromCertificates([Certificate(certificate) for certificate in certificates])
        return trust

    def _load_client(self) -> _Options:
        if self.certificate is None:
            if self.private_key is not None:
                raise ValueError("private_key is of no use without certificate")
            return {}
        certificates = list(_certificates("certificate", _path("certificate", self.certificate)))
        if not certificates:
            raise ValueError(f"certificate: there is no certificate in {os.fspath(self.certificate)!r}")
        key_file = self.certificate if self.private_key is None else self.private_key
        own, *chain = (certificate.to_cryptography() for certificate in certificates)
        key = _private_key(_path("private_key", key_file))
        return _for_contexts({"certificate": own, "extraCertChain": chain, "privateKey": key})

    def _more_options(self) -> _Options:
        from twisted.internet.ssl import TLSVersion

        if not isinstance(self.certificate_options, (Mapping, type(None))):
            raise TypeError(f"certificate_options must be a mapping, not {type(self.certificate_options).__name__}")
        options = dict(self.certificate_options or {})
        if "trustRoot" in options:
            raise ValueError("certificate_options: trustRoot is what trust_roots is for")
        if not _VERSIONS & set(options):
            options["raiseMinimumTo"] = TLSVersion.TLSv1_2  # the least of Twisted 22.4 is 1.0
        return options

    def _try_out(self) -> None:
        """Tell now what would fail at each connect."""
        from OpenSSL import SSL
        from twisted.internet.ssl import CertificateOptions

        try:
            CertificateOptions(trustRoot=self._trust, **self._extra).getContext()
        except (TypeError, ValueError) as error:
            raise type(error)(f"certificate_options: {error}") from error
        except SSL.Error as error:
            raise ValueError(f"private_key does not belong to certificate: {_reasons(error)}") from error
        if self.server_name is not None:
            if not isinstance(self.server_name, str):
                raise TypeError(f"server_name must be str, not {type(self.server_name).__name__}")
            self._creator(self.server_name, "server_name")

    def wrap(self, endpoint: IStreamClientEndpoint, host: str) -> IStreamClientEndpoint:
        """Make the endpoint that speaks TLS over another one.

        :param host: that of the address.
        :raises ValueError: there can't be a certificate for such a host.
        """
        wrapped: IStreamClientEndpoint = wrapClientTLS(self._creator(self.server_name or host, "job_servers"), endpoint)
        return wrapped

    def _creator(self, name: str, argument: str) -> IOpenSSLClientConnectionCreator:
        from twisted.internet.ssl import optionsForClientTLS

        try:
            creator = optionsForClientTLS(name, trustRoot=self._trust, extraCertificateOptions=self._extra)
            return _Verifier(creator, name)
        except ValueError as error:  # UnicodeError among them
            raise ValueError(f"{argument}: no certificate can be for {name!r}: {error}") from error


class ServerConnection(Interface):
    """A connection, as it is known here.

    :ivar shaken: whether the handshake of TLS is done.
    :ivar ready: whether the server has answered well.
    :ivar certificate_fault: what was found wrong with the server's certificate; empty for nothing.
    """

    tls_established: bool
    ready: bool
    certificate_fault: str


@implementer(IOpenSSLClientConnectionCreator)
class _Verifier:
    """Makes connections that verify what the server shows, and tell the connection what is wrong with it.

    Twisted verifies the name as well. But where a certificate has no host's name in it at all, 26.10 logs an error and
    takes it for good: whoever has a client certificate of the same CA could stand in for a server.
    """

    def __init__(self, creator: IOpenSSLClientConnectionCreator, name: str) -> None:
        self._creator = creator
        self._name = name

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> Connection:
        from OpenSSL.SSL import VERIFY_FAIL_IF_NO_PEER_CERT, VERIFY_PEER

        connection: Connection = self._creator.clientConnectionForTLS(tlsProtocol)
        verify = partial(self._verify, cast(ServerConnection, tlsProtocol.wrappedProtocol))
        connection.set_verify(VERIFY_PEER | VERIFY_FAIL_IF_NO_PEER_CERT, verify)
        return connection

    def _verify(
        self, connection: ServerConnection, _: Connection, certificate: X509, code: int, depth: int, fine: int
    ) -> bool:
        """For OpenSSL: called for each certificate of the chain, the server's own (`depth` 0) the last."""
        if not fine:
            connection.certificate_fault = _FAULTS.get(code, f"OpenSSL's verify error {code}")
        elif depth == 0:
            connection.certificate_fault = self._wrong_name(certificate)
        return not connection.certificate_fault

    def _wrong_name(self, certificate: X509) -> str:
        from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address

        name = self._name
        literal = isIPAddress(name) or isIPv6Address(name)
        verify = verify_certificate_ip_address if literal else verify_certificate_hostname
        try:
            verify(certificate.to_cryptography(), name)
        except Exception as error:  # of whatever kind: the name could not be verified
            return f"it is not for {name}: {error}"
        return ""


def explain_error(error: Exception, connection: ServerConnection) -> Exception:
    """Tell what has ended a connection over TLS so that it can be read.

    :return: a `TLSError` that has `error` as its cause; or `error` itself, where it is not about TLS.
    """
    words = _words(error, connection)
    if not words:
        return error
    told = TLSError(f"TLS: {words}")
    told.__cause__ = error.with_traceback(None)  # it is kept, and its frames would keep the connection
    return told


def _words(error: Exception, connection: ServerConnection) -> str:
    from OpenSSL.SSL import Error

    if connection.certificate_fault:
        return f"certificate verify failed: {connection.certificate_fault}"
    if isinstance(error, Error):
        return _reasons(error)
    if type(error).__module__.startswith("service_identity"):  # Twisted's verification, at others' endpoints
        return f"certificate verify failed: {error}"
    if not connection.tls_established:
        return f"no handshake ({_PLAIN_TEXT}): {error}"
    if not connection.ready and not isinstance(error, TimeoutError):
        return f"no answer after the handshake (the server may want another client certificate): {error}"
    return ""


def _reasons(error: Exception) -> str:
    """OpenSSL's words for an error of its own, and what they mean here."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    reasons = "; ".join(reason for _, _, reason in queue) or repr(error)
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, reasons)), "")
    return f"{reasons} ({hint})" if hint else reasons


def _need_openssl() -> None:
    """
    :raises ValueError: it is not there.
    """
    try:
        for module in ("OpenSSL", "service_identity"):
            import_module(module)
    except ImportError as error:
        raise ValueError(f"{MISSING}: {error}") from error


def _path(argument: str, path: PathName) -> Path:
    try:
        return Path(path)
    except TypeError:
        raise TypeError(f"{argument} must be a path, not {type(path).__name__}") from None


def _files(argument: str, path: PathName) -> list[Path]:
    """The file, or those in the directory that may have PEM in them."""
    place = _path(argument, path)
    if not place.is_dir():
        return [place]
    return sorted(file for file in place.iterdir() if file.suffix in (".pem", ".crt"))


def _read(argument: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError for a NUL in it
        raise ValueError(f"{argument}: can't read {str(path)!r}: {error}") from error


def _certificates(argument: str, path: Path) -> Iterator[X509]:
    from OpenSSL import crypto

    for text in _CERTIFICATE.findall(_read(argument, path)):
        try:
            yield crypto.load_certificate(crypto.FILETYPE_PEM, text)
        except crypto.Error as error:
            raise ValueError(f"{argument}: can't read a certificate in {str(path)!r}: {_reasons(error)}") from error


def _trusted_certificates(trust_roots: PathName) -> list[X509]:
    files = _files("trust_roots", trust_roots)
    certificates = [certificate for file in files for certificate in _certificates("trust_roots", file)]
    if not certificates:
        raise ValueError(f"trust_roots: there is no certificate in {os.fspath(trust_roots)!r}")
    return certificates


def _private_key(path: Path) -> PrivateKeyTypes:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    match = _PRIVATE_KEY.search(_read("private_key", path))
    if match is None:
        raise ValueError(f"private_key: there is no private key in {str(path)!r}")
    try:
        return load_pem_private_key(match[0], None)
    except (TypeError, ValueError) as error:  # TypeError for one that is encrypted
        raise ValueError(f"private_key: can't read the key in {str(path)!r}: {error}") from error


def _for_contexts(client: _Options) -> _Options:
    """Make of cryptography's objects what this pyOpenSSL wants: since 24.3 these, before that only its own."""
    import OpenSSL
    from OpenSSL.crypto import X509, PKey

    if tuple(int(number) for number in OpenSSL.__version__.split(".")[:2]) >= (24, 3):
        return client
    return {
        "certificate": X509.from_cryptography(client["certificate"]),
        "extraCertChain": [X509.from_cryptography(certificate) for certificate in client["extraCertChain"]],
        "privateKey": PKey.from_cryptography_key(client["privateKey"]),
    }
