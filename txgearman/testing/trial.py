"""The test kit in trial."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from .server import MemoryJobServer


class JobServerMixin:
    """Gives each test of a trial `TestCase` a job server of its own, and verifies it at the end.

    ::

        class ReverserTests(JobServerMixin, SynchronousTestCase):
            def test_reverse(self):
                deferred = self.job_server.client().add_task("reverse", b"abc")
                self.job_server.take("reverse").complete(b"cba")
                self.assertEqual(self.successResultOf(deferred), b"cba")
    """

    @cached_property
    def job_server(self) -> MemoryJobServer:
        """A `MemoryJobServer` on a `Clock`, made when a test first asks for it."""
        server = MemoryJobServer()
        test: Any = self
        test.addCleanup(self._close_job_server)
        return server

    def _close_job_server(self) -> None:
        # The same object may be run again, and is to have another one then.
        server = self.__dict__.pop("job_server")
        server.result_of(server.close())
