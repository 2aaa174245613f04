"""A client, and a job server in memory, that speak TLS to each other."""

from pathlib import Path
from typing import Any

import trustme
from twisted.internet import reactor as global_reactor
from twisted.internet.ssl import PrivateCertificate
from twisted.trial.unittest import TestCase
from txgearman import GearmanClient, NoServersAvailable, TLSOptions
from txgearman.testing import JobServerOnPortMixin

reactor: Any = global_reactor


class TLSTests(JobServerOnPortMixin, TestCase):
    def setUp(self) -> None:
        authority = trustme.CA()
        self.roots = Path(self.mktemp())
        authority.cert_pem.write_to_path(self.roots)
        issued = authority.issue_cert("localhost")
        certificate = PrivateCertificate.loadPEM(issued.private_key_and_cert_chain_pem.bytes())
        # The fixture's server closes this port with its own.
        port = reactor.listenSSL(0, self.job_server, certificate.options(), interface="127.0.0.1")
        self.address = f"tls:localhost:{port.getHost().port}"

    async def test_result(self) -> None:
        async with GearmanClient([self.address], tls=TLSOptions(self.roots)) as client:
            outcome = client.add_task("reverse", b"abc")
            (await self.job_server.next_job("reverse")).complete(b"cba")
            self.assertEqual(await outcome, b"cba")

    async def test_unknown_authority(self) -> None:
        async with GearmanClient([self.address]) as client:  # which trusts the authorities of the platform
            with self.assertRaises(NoServersAvailable) as caught:
                await client.add_task("reverse", b"abc")
        self.assertIn("certificate verify failed", str(caught.exception))
