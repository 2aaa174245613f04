"""How a test with trial uses a client: stop it at the end, and trial finds a clean reactor.

    GEARMAN_SERVER=127.0.0.1:4730 trial examples/test_with_trial.py

Needs a gearmand there, and examples/worker.py.
"""

from __future__ import annotations

import json
import os

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase
from txgearman import ClientStopped, GearmanClient, TaskException

SERVER = os.environ.get("GEARMAN_SERVER", "127.0.0.1:4730")


class ClientTests(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.client = GearmanClient([SERVER])
        self.addCleanup(self.client.stopService)

    def test_result(self) -> Deferred[None]:
        def check(result: bytes) -> None:
            self.assertEqual(json.loads(result), {"to": 2, "be": 2, "or": 1, "not": 1})

        return self.client.add_task("wordcount", b"To be, or not to be").addCallback(check)

    async def test_exception(self) -> None:
        with self.assertRaises(TaskException) as caught:
            await self.client.add_task("wordcount", b"\xff")
        self.assertIn(b"invalid start byte", caught.exception.data)

    async def test_stop_with_a_task_out(self) -> None:
        """What the code under test left unfinished ends here, and does not hang."""
        outcome = self.client.add_task("reverse", b"abc")
        await self.client.stopService()
        with self.assertRaises(ClientStopped):
            await outcome
