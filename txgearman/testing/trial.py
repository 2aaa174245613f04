"""The test kit for trial."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from .server import MemoryJobServer


class JobServerMixin:
    """Mixin that gives each test of a trial `TestCase` its own job server, which is closed and verified after the test.

    ::

        class ReverserTests(JobServerMixin, SynchronousTestCase):
            def test_reverse(self):
                deferred = self.job_server.client().add_task("reverse", b"abc")
                self.job_server.take("reverse").complete(b"cba")
                self.assertEqual(self.successResultOf(deferred), b"cba")
    """

    @cached_property
    def job_server(self) -> MemoryJobServer:
        """A `MemoryJobServer` on a `Clock`, created when a test first uses it."""
        server = MemoryJobServer()
        test: Any = self
        test.addCleanup(self._close_job_server)
        return server

    def _close_job_server(self) -> None:
        # The same test object may be run again, and then needs a new server.
        server = self.__dict__.pop("job_server")
        server.result_of(server.close())
