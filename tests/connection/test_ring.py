"""Consistent hashing: the shares of names, and what moves when one is added or removed."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txgearman.connection.ring import Ring

NAMES = [f"10.0.0.{number}:4730" for number in range(50)]
KEYS = [b"%d" % number for number in range(20_000)]


def ring(names: list[str]) -> Ring[str]:
    return Ring({name: name for name in names})


def owners(names: list[str]) -> list[str]:
    return list(map(ring(names).owner, KEYS))


@pytest.mark.parametrize("size", [2, 5, 10, 50])
def test_names_have_equal_shares(size: int) -> None:
    shares = Counter(owners(NAMES[:size]))
    mean = len(KEYS) / size
    assert len(shares) == size
    assert 0.7 * mean < min(shares.values()) <= max(shares.values()) < 1.3 * mean


@pytest.mark.parametrize(("size", "removed"), [(2, 0), (5, 4), (10, 3), (11, 10), (50, 7)])
def test_keys_of_removed_name_alone_move(size: int, removed: int) -> None:
    """They go to many others."""
    names = NAMES[:size]
    left = [name for name in names if name != NAMES[removed]]
    moved = [(before, after) for before, after in zip(owners(names), owners(left), strict=True) if before != after]
    assert {before for before, _ in moved} == {NAMES[removed]}
    assert len({after for _, after in moved}) > 0.9 * len(left)
    assert len(moved) < 1.3 * len(KEYS) / size


@given(st.binary(max_size=100), st.lists(st.text("ab:."), min_size=2, max_size=6, unique=True))
def test_rank_depends_on_names_and_not_on_their_order(key: bytes, names: list[str]) -> None:
    """The first in rank is the owner. Without it, the second one is."""
    rank = list(ring(names).ranked(key))
    assert rank == list(ring(names[::-1]).ranked(key))
    assert sorted(rank) == sorted(names)
    assert ring(names).owner(key) == rank[0]
    assert list(ring(rank[1:]).ranked(key)) == rank[1:]


def test_owners_of_some_keys_are_those_of_all_releases() -> None:
    """So that clients of different releases agree, on machines of any kind."""
    assert [NAMES.index(ring(NAMES[:5]).owner(key)) for key in KEYS[:8]] == [0, 4, 3, 4, 3, 0, 1, 0]


def test_only_name_owns_all_keys() -> None:
    """Also those after the last point, of which there are some among so many."""
    only = ring(["a"])
    assert {only.owner(key) for key in KEYS} == {"a"}
    assert all(list(only.ranked(key)) == ["a"] for key in KEYS[:1000])
