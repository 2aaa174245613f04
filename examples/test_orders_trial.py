"""The same for trial."""

from typing import Any

from orders_scenarios import SCENARIOS
from twisted.trial.unittest import SynchronousTestCase, TestCase
from txgearman.testing import JobServerMixin, JobServerOnGearmandMixin, JobServerOnPortMixin


class OnClockTests(JobServerMixin, SynchronousTestCase):
    """Time passes only as the scenarios wait for it."""


class OnPortTests(JobServerOnPortMixin, TestCase):
    """On the reactor."""


class OnGearmandTests(JobServerOnGearmandMixin, TestCase):
    """On the reactor and a real server."""


for scenario in SCENARIOS:

    def on_clock(self: Any, scenario: Any = scenario) -> None:
        self.job_server.run(scenario(self.job_server))

    async def on_reactor(self: Any, scenario: Any = scenario) -> None:
        await scenario(self.job_server)

    setattr(OnClockTests, f"test_{scenario.__name__}", on_clock)
    setattr(OnPortTests, f"test_{scenario.__name__}", on_reactor)
    setattr(OnGearmandTests, f"test_{scenario.__name__}", on_reactor)
