"""How many examples the tests of properties try: the profiles of hypothesis.

``short`` is the default, and made for the 60 s that the tier memory may take. A run before a release takes
``--hypothesis-profile=long``.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

__all__ = ["of_histories", "of_scenarios", "register_profiles"]


def register_profiles() -> None:
    settings.register_profile("short", max_examples=30, deadline=None)
    settings.register_profile("long", max_examples=2000, deadline=None)
    settings.load_profile("short")


def of_scenarios() -> settings:
    """Return the settings of a test whose examples take as long as two others."""
    return settings(max_examples=settings().max_examples // 2)


def of_histories() -> settings:
    """Return the settings of a state machine, each example of which is a long history."""
    examples = settings().max_examples // 3
    return settings(max_examples=examples, stateful_step_count=40, suppress_health_check=list(HealthCheck))
