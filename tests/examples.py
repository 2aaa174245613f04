"""How many examples the tests of properties try: the profiles of hypothesis.

``short`` is the default, and made for the 60 s that the tier memory may take. A run before a release takes
``--hypothesis-profile=long``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

__all__ = ["ANY_TEXT", "of_histories", "of_scenarios", "register_profiles", "some_of"]

T = TypeVar("T")

SHORT, LONG = 30, 2000
"""How many examples the profiles try."""


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
"""What ``st.text()`` is, which in a fresh checkout takes seconds to look at each code point."""


def register_profiles() -> None:
    settings.register_profile("short", max_examples=SHORT, deadline=None)
    settings.register_profile("long", max_examples=LONG, deadline=None)
    settings.load_profile("short")


def of_scenarios() -> settings:
    """Return the settings of a test whose examples take as long as two others."""
    return settings(max_examples=settings().max_examples // 2)


def of_histories() -> settings:
    """Return the settings of a state machine, each example of which is a long history."""
    examples = settings().max_examples // 3
    return settings(max_examples=examples, stateful_step_count=40, suppress_health_check=list(HealthCheck))


def some_of(items: Sequence[T], first: int, step: int) -> Sequence[T]:
    """Return one of each `step` items, from the index `first` on; with the profile ``long``, all of them.

    A test of all combinations takes the third argument by turns from its first two, so that each pair is tried.
    """
    return items if settings().max_examples >= LONG else items[first % step :: step]
