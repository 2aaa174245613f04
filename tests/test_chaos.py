"""Whatever goes wrong: each Deferred fires once, each outcome is right or a typed error, and nothing is left.

By hand, many seeds: ``CHAOS_SEEDS=200 python -m pytest tests/test_chaos.py -s``; one again: ``CHAOS_SEED=17``; shorter
ones or longer: ``CHAOS_JOBS=1000``.
"""

from __future__ import annotations

import os
import time

import pytest

from txgearman.connection.factory import GearmanFactory

from .chaos import PAUSES, Chaos

SEED = int(os.environ.get("CHAOS_SEED", "0"))
SEEDS = [SEED] if SEED else range(1, 1 + int(os.environ.get("CHAOS_SEEDS", "2")))
JOBS = int(os.environ.get("CHAOS_JOBS", "20000"))


@pytest.fixture
def short_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a run has connections for most of its time."""
    for name, seconds in (("initialDelay", 0.05), ("delay", 0.05), ("maxDelay", 0.5)):
        monkeypatch.setattr(GearmanFactory, name, seconds)


@pytest.mark.soak
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.usefixtures("short_back_off")
async def test_chaos(seed: int) -> None:
    chaos = Chaos(seed, JOBS)
    start = time.monotonic()
    await chaos.run()
    print(f"\nseed {seed}: {time.monotonic() - start:.1f} s, {dict(chaos.seen)}")
    assert not chaos.problems, f"seed {seed}: " + "\n".join(chaos.problems[:20])
    assert chaos.seen["recoveries"] == PAUSES
    assert chaos.seen["faults that happened"] > JOBS / 1000
