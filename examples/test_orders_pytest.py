"""The shop's tests: each scenario on a clock, on the reactor and a port, and on gearmand, with the same results."""

import pytest
import pytest_twisted
from orders_scenarios import SCENARIOS, Scenario
from txgearman.testing import Gearmand, MemoryJobServer

each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)


@each_scenario
def test_on_clock(job_server: MemoryJobServer, scenario: Scenario) -> None:
    job_server.run(scenario(job_server))


@each_scenario
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]  # it has no annotations
async def test_on_port(job_server_on_port: MemoryJobServer, scenario: Scenario) -> None:
    await scenario(job_server_on_port)


@each_scenario
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]  # it has no annotations
async def test_on_gearmand(job_server_on_gearmand: Gearmand, scenario: Scenario) -> None:
    await scenario(job_server_on_gearmand)
