"""The test kit in trial."""

from __future__ import annotations

from typing import Any

from .server import MemoryJobServer


class JobServerMixin:
    """Gives each test of a trial `TestCase` a job server of its own, on a `Clock`, and verifies it at the end::

        class ReverserTests(JobServerMixin, SynchronousTestCase):
            def test_reverse(self):
                deferred = self.job_server.client().add_task("reverse", b"abc")
                self.job_server.take("reverse").complete(b"cba")
                self.assertEqual(self.successResultOf(deferred), b"cba")

    :ivar job_server: the server.
    """

    job_server: MemoryJobServer

    def setUp(self) -> None:
        """For trial."""
        case: Any = super()
        case.setUp()
        self.job_server = MemoryJobServer()
        test: Any = self
        test.addCleanup(lambda: test.successResultOf(self.job_server.close()))
