"""Certificates for tests, made when they are asked for."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any, Final

import trustme

FUTURE: Final = datetime.datetime(2120, 1, 1, tzinfo=datetime.timezone.utc)
PAST: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)


class Authority:
    """A CA, and a directory with the PEM files of what it issues.

    :ivar roots: the file with its own certificate.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self._ca = trustme.CA()
        self._issued = 0
        self.roots = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(self.roots)

    def issue(self, *identities: str, **options: Any) -> Path:
        """Issue a certificate; return the file that has it and its key.

        :param identities: host names, IP addresses, and addresses of e-mail.
        """
        return self._write(self._ca.issue_cert(*identities, **options))

    def issue_through_intermediate(self, *identities: str) -> Path:
        """The same, from an intermediate CA, whose certificate follows."""
        return self._write(self._ca.create_child_ca().issue_cert(*identities))

    def _write(self, certificate: trustme.LeafCert) -> Path:
        self._issued += 1
        path = self._directory / f"{self._issued}.pem"
        certificate.private_key_and_cert_chain_pem.write_to_path(path)
        return path
