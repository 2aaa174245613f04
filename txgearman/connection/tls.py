"""TLS: the options for ``tls:`` addresses, and the errors of connections over TLS.

pyOpenSSL is imported only if TLS is used, since the library does not require it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
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
"""Certificate options that select versions of TLS."""

_FAULTS: Final = {
    9: "it is not valid yet",
    10: "it has expired",
    18: "it is self-signed, and not one of the trust roots",
    19: "its CA is not one of the trust roots",
    20: "its CA is not one of the trust roots, or an intermediate certificate is missing",
    21: "its CA is not one of the trust roots, or an intermediate certificate is missing",
}
"""Explanations of OpenSSL's verification errors, by number."""

_PLAIN_TEXT: Final = "the server may speak plain text"

_HINTS: Final = (
    ("alert certificate required", "the server requires a client certificate"),
    ("alert unknown ca", "the server does not trust who issued the client certificate"),
    ("alert handshake failure", "the server may require a client certificate, or other ciphers"),
    ("alert protocol version", "the server supports other versions of TLS"),
    ("alert .*certificate", "the server does not accept the client certificate"),
    ("wrong version number", _PLAIN_TEXT),
    ("packet length too long", _PLAIN_TEXT),
)
"""Explanations of OpenSSL's messages, by patterns that are searched in them. The first match applies."""


@dataclass(frozen=True)
class TLSOptions:
    """Options for TLS with the job servers at ``tls:`` addresses.

    A server must present a valid certificate for the host in its address, issued by a trusted CA. The minimum version
    is TLS 1.2. The files are read once, when this object is created: a renewed certificate needs a new object.

    :raises TypeError, ValueError: an argument is invalid, such as a file that does not exist or has no PEM of the
        required kind; or txgearman was installed without its extra ``tls``.
    """

    trust_roots: PathName | None = None
    """A PEM file with the certificates of the trusted CAs, or a directory of such files, named ``*.pem`` or ``*.crt``.
    None for the CAs that the platform trusts."""

    certificate: PathName | None = None
    """A PEM file with the client certificate, for servers that require one. Intermediate certificates may follow it."""

    private_key: PathName | None = None
    """A PEM file with the unencrypted private key of that certificate. None if it is in the same file."""

    server_name: str | None = None
    """Host name or IP address for which the server's certificate must be valid. None for the host in the address."""

    certificate_options: Mapping[str, object] | None = field(default=None, hash=False)
    """Further arguments for `twisted.internet.ssl.CertificateOptions`, such as ``acceptableCiphers``."""

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
                raise ValueError("private_key must be None if certificate is None")
            return {}
        certificates = list(_certificates("certificate", _path("certificate", self.certificate)))
        if not certificates:
            raise ValueError(f"certificate must be a file with a certificate, not {os.fspath(self.certificate)!r}")
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
            raise ValueError("certificate_options must not have trustRoot: use trust_roots")
        if not _VERSIONS & set(options):
            options["raiseMinimumTo"] = TLSVersion.TLSv1_2  # by default, Twisted 22.4 accepts 1.0
        return options

    def _try_out(self) -> None:
        """Raise now the errors that each connect would raise."""
        from OpenSSL import SSL
        from twisted.internet.ssl import CertificateOptions

        try:
            CertificateOptions(trustRoot=self._trust, **self._extra).getContext()
        except (TypeError, ValueError) as error:
            raise type(error)(f"certificate_options must be valid for CertificateOptions: {error}") from error
        except SSL.Error as error:
            raise ValueError(f"private_key must be the key of certificate: {_reasons(error)}") from error
        if self.server_name is not None:
            if not isinstance(self.server_name, str):
                raise TypeError(f"server_name must be str, not {type(self.server_name).__name__}")
            self._creator(self.server_name, "server_name")

    def wrapper(self, host: str) -> Callable[[IStreamClientEndpoint], IStreamClientEndpoint]:
        """Return a function that adds TLS to an endpoint.

        :param host: the host in the address.
        :raises ValueError: no certificate can be valid for such a host.
        """
        return partial(wrapClientTLS, self._creator(self.server_name or host, "job_servers"))

    def _creator(self, name: str, argument: str) -> IOpenSSLClientConnectionCreator:
        from twisted.internet.ssl import optionsForClientTLS

        try:
            creator = optionsForClientTLS(name, trustRoot=self._trust, extraCertificateOptions=self._extra)
            return _Verifier(creator, name)
        except ValueError as error:  # UnicodeError among them
            other = "" if argument == "server_name" else "; TLSOptions(server_name=...) sets another name"
            raise ValueError(
                f"{argument}: the host must be valid in a certificate, not {name!r}: {error}{other}"
            ) from error


class ServerConnection(Interface):
    """A connection to a job server over TLS.

    :ivar _certificate_fault: what is wrong with the server's certificate; empty if nothing is.
    """

    _certificate_fault: str

    @property
    def _tls_established(self) -> bool:
        """Whether the TLS handshake is complete."""

    @property
    def ready(self) -> bool:
        """Whether the server has sent a good answer."""


@implementer(IOpenSSLClientConnectionCreator)
class _Verifier:
    """Creator of TLS connections that verify the server's certificate and report to the protocol what is wrong with it.

    Twisted verifies the name as well. But 26.10 accepts a certificate without any host name, and only logs an error:
    a peer that has a client certificate of the same CA could impersonate a server.
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
        """Verify a certificate. OpenSSL calls this for each one of the chain, with the server's own (depth 0) last."""
        if not fine:
            connection._certificate_fault = _FAULTS.get(code, f"OpenSSL's verify error {code}")
        elif depth == 0:
            connection._certificate_fault = self._wrong_name(certificate)
        return not connection._certificate_fault

    def _wrong_name(self, certificate: X509) -> str:
        from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address

        name = self._name
        literal = isIPAddress(name) or isIPv6Address(name)
        verify = verify_certificate_ip_address if literal else verify_certificate_hostname
        try:
            verify(certificate.to_cryptography(), name)
        except Exception as error:  # of any kind: the name could not be verified
            return f"it is not for {name}: {error}"
        return ""


def explain_error(error: Exception, connection: ServerConnection) -> Exception:
    """Return the error that ended a connection over TLS, with a helpful text.

    :return: a `TLSError` with `error` as its cause; or `error` itself if it does not concern TLS.
    """
    explanation = _explanation(error, connection)
    if not explanation:
        return error
    explained = TLSError(f"TLS: {explanation}")
    explained.__cause__ = error.with_traceback(None)  # the error is kept, and its frames would keep the connection
    return explained


def _explanation(error: Exception, connection: ServerConnection) -> str:
    from OpenSSL.SSL import Error

    if connection._certificate_fault:
        return f"certificate verify failed: {connection._certificate_fault}"
    if isinstance(error, Error):
        return _reasons(error)
    if type(error).__module__.startswith("service_identity"):  # Twisted's own verification, of other endpoints
        return f"certificate verify failed: {error}"
    if not connection._tls_established:
        return f"no handshake ({_PLAIN_TEXT}): {error}"
    if not connection.ready and not isinstance(error, TimeoutError):
        return f"no answer after the handshake (the server may require another client certificate): {error}"
    return ""


def _reasons(error: Exception) -> str:
    """Return the messages of an OpenSSL error, with an explanation if there is one."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    reasons = "; ".join(reason for _, _, reason in queue) or repr(error)
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, reasons)), "")
    return f"{reasons} ({hint})" if hint else reasons


def _need_openssl() -> None:
    """Check that pyOpenSSL is installed.

    :raises ValueError: it is not.
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
    """Return the file, or the PEM files in the directory."""
    file_or_directory = _path(argument, path)
    if not file_or_directory.is_dir():
        return [file_or_directory]
    return sorted(file for file in file_or_directory.iterdir() if file.suffix in (".pem", ".crt"))


def _read(argument: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError if the path has a NUL
        raise ValueError(f"{argument} must be a readable file, not {str(path)!r}: {error}") from error


def _certificates(argument: str, path: Path) -> Iterator[X509]:
    from OpenSSL import crypto

    for text in _CERTIFICATE.findall(_read(argument, path)):
        try:
            yield crypto.load_certificate(crypto.FILETYPE_PEM, text)
        except crypto.Error as error:
            raise ValueError(f"{argument} must be valid certificates, not {str(path)!r}: {_reasons(error)}") from error


def _trusted_certificates(trust_roots: PathName) -> list[X509]:
    files = _files("trust_roots", trust_roots)
    certificates = [certificate for file in files for certificate in _certificates("trust_roots", file)]
    if not certificates:
        raise ValueError(f"trust_roots must be a file or directory with a certificate, not {os.fspath(trust_roots)!r}")
    return certificates


def _private_key(path: Path) -> PrivateKeyTypes:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    match = _PRIVATE_KEY.search(_read("private_key", path))
    if match is None:
        raise ValueError(f"private_key must be a file with a private key, not {str(path)!r}")
    try:
        return load_pem_private_key(match[0], None)
    except (TypeError, ValueError) as error:  # TypeError if the key is encrypted
        raise ValueError(f"private_key must be a valid, unencrypted key, not {str(path)!r}: {error}") from error


def _for_contexts(client: _Options) -> _Options:
    """Convert cryptography's objects to pyOpenSSL's for versions before 24.3, which accept only their own."""
    import OpenSSL
    from OpenSSL.crypto import X509, PKey

    if tuple(int(number) for number in OpenSSL.__version__.split(".")[:2]) >= (24, 3):
        return client
    return {
        "certificate": X509.from_cryptography(client["certificate"]),
        "extraCertChain": [X509.from_cryptography(certificate) for certificate in client["extraCertChain"]],
        "privateKey": PKey.from_cryptography_key(client["privateKey"]),
    }
