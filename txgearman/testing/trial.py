"""The test kit for trial."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, ClassVar, Final
from unittest import SkipTest

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from .gearmand import Gearmand, GearmandMissing, gearmand_options
from .server import MemoryJobServer
from .waiting import RunningTest, StandstillWatch

SHOWN_LINES: Final = 30
"""Lines of the server's log that a failing test prints."""


class _NotingFailure:
    """Mixin that notes whether the test has failed before its cleanups.

    :cvar job_server_options: options of `MemoryJobServer`.
    :cvar job_server_verify: whether the end of each test is verified.
    """

    job_server_options: ClassVar[dict[str, Any]] = {}
    job_server_verify: ClassVar[bool] = True
    _test_failed = False
    _running: RunningTest | None = None

    def run(self, result: Any = None) -> Any:
        """Run the test, and note whether it has failed before its cleanups."""
        test: Any = super()
        own: Any = self
        # Attributes of the object, as long as it runs. pytest sets the test method in the same way.
        before = dict(vars(self))
        self._test_failed = False
        self._running = running = RunningTest()
        for name in ("setUp", own._testMethodName):
            setattr(self, name, partial(self._note_failure, partial(running.run, getattr(self, name))))
        try:
            return test.run(result)
        finally:
            for name in ("setUp", own._testMethodName):
                if name in before:
                    setattr(self, name, before[name])
                else:
                    delattr(self, name)

    def _note_failure(self, method: Callable[[], Any]) -> Any:
        try:
            outcome = method()
        except BaseException:  # whatever it is, trial knows what to do with it
            self._test_failed = True
            raise
        return outcome.addErrback(self._failed_later) if isinstance(outcome, Deferred) else outcome

    def _failed_later(self, failure: Failure) -> Failure:
        self._test_failed = True
        return failure

    def _take_server(self) -> MemoryJobServer:
        """Return the server of the test that ends. The same test object may be run again, and then needs a new one."""
        server: MemoryJobServer = self.__dict__.pop("job_server")
        if self._test_failed:
            print(f"the last packets of {server.name}:\n{server.log(SHOWN_LINES)}")
        return server

    @property
    def _verifies(self) -> bool:
        return self.job_server_verify and not self._test_failed


class JobServerMixin(_NotingFailure):
    """Mixin that gives each test of a trial `TestCase` its own job server, which is closed and verified after the test.

    ::

        class ReverserTests(JobServerMixin, SynchronousTestCase):
            def test_reverse(self):
                deferred = self.job_server.client().add_task("reverse", b"abc")
                self.job_server.take("reverse").complete(b"cba")
                self.assertEqual(self.successResultOf(deferred), b"cba")

    A test that fails by itself is not verified; it prints the last packets.

    """

    @cached_property
    def job_server(self) -> MemoryJobServer:
        """A `MemoryJobServer` on a `Clock`, created when a test first uses it."""
        server = MemoryJobServer(**self.job_server_options)
        watch = StandstillWatch(server, server._group, self._running)
        watch.start()
        test: Any = self
        test.addCleanup(self._close_job_server, watch)
        return server

    def _close_job_server(self, watch: StandstillWatch) -> None:
        watch.stop()
        self._take_server().close(verify=self._verifies)


class JobServerOnPortMixin(_NotingFailure):
    """Mixin that gives each test of a trial `TestCase` its own job server on the reactor and on a port.

    It is for tests that wait on the reactor. It is closed and verified as that of `JobServerMixin` is::

        class ReverserTests(JobServerOnPortMixin, TestCase):
            async def test_reverse(self):
                async with GearmanClient([self.job_server.address]) as client:
                    deferred = client.add_task("reverse", b"abc")
                    (await self.job_server.next_job("reverse")).complete(b"cba")
                    self.assertEqual(await deferred, b"cba")
    """

    @cached_property
    def job_server(self) -> MemoryJobServer:
        """A `MemoryJobServer` on the reactor, created when a test first uses it. It listens at its ``address``."""
        from twisted.internet import reactor

        server = MemoryJobServer(reactor, **self.job_server_options)
        server._watch()
        server.listen()
        test: Any = self
        test.addCleanup(self._close_job_server)
        return server

    def _close_job_server(self) -> Deferred[None]:
        return self._take_server().close(verify=self._verifies)


class JobServerOnGearmandMixin(_NotingFailure):
    """Mixin that gives each test of a trial `TestCase` a gearmand of its own, so that one suite runs on it as well.

    ::

        class ReverserTests(Scenarios, JobServerOnPortMixin, TestCase): ...

        class ReverserOnGearmandTests(Scenarios, JobServerOnGearmandMixin, TestCase): ...

    Its `job_server` has what `AnyJobServer` names. Where gearmand is not installed, the test is skipped. A test that
    fails prints the last lines of gearmand's log. Nothing is verified.

    :cvar gearmand_required: whether a test fails, instead of being skipped, where gearmand is not installed.
    """

    gearmand_required: ClassVar[bool] = False

    @cached_property
    def job_server(self) -> Gearmand:
        """A `Gearmand`, started when a test first uses it, and gone once the test has ended."""
        test: Any = self
        try:
            server = Gearmand(**gearmand_options(self.job_server_options))
        except GearmandMissing as error:
            if self.gearmand_required:
                raise
            raise SkipTest(str(error)) from None
        test.addCleanup(self._close_gearmand)
        return server

    def _close_gearmand(self) -> Deferred[None]:
        server: Gearmand = self.__dict__.pop("job_server")
        if self._test_failed:
            print(f"the last lines of the log of gearmand:\n{server.log(SHOWN_LINES)}")
        return server.close()
