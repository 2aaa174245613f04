"""Consistent hashing: the owner of a key, which all clients with the same names agree on.

Each name has `POINTS` points on a ring, and a key belongs to the name whose point follows the key's own. A name that is
added or removed moves only the keys that it wins or leaves. The keys that it leaves go to different names, since
different points follow its own.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from hashlib import blake2b, shake_256
from struct import Struct
from typing import Final, Generic, TypeVar

__all__ = ["POINTS", "Ring"]

T = TypeVar("T")

POINTS: Final = 256
"""Points for each name. With more of them the shares are more even (they deviate by 1 / sqrt(POINTS)), and the ring
takes longer to build: 20 ms for 200 names."""

_SECTIONS: Final = 32  # at least so many for each name: 4 to 8 points in each

_POSITIONS: Final = Struct(f"<{POINTS}L")
_POSITION: Final = Struct("<L")
_KEY_HASH: Final = blake2b(digest_size=_POSITION.size)  # a copy of it costs a third of a new one


class Ring(Generic[T]):
    """The owners of keys, each with a name of its own."""

    __slots__ = ("_owners", "_points", "_shift", "_starts")

    def __init__(self, owners: Mapping[str, T]) -> None:
        names = sorted(owners)
        self._owners = [owners[name] for name in names]
        # Position times number of names, plus index of the name: floats, which are exact here, are sorted fastest.
        count = float(len(names))
        points = [position * count + index for index, name in enumerate(names) for position in _positions(name)]
        points.sort()
        self._points = array("d", points)
        # The ring in equal sections, and the index of the first point of each: a search looks at one section only. They
        # are a power of two, so that a shift of a position is the number of its section.
        bits = (len(names) * _SECTIONS).bit_length()
        self._shift = 8 * _POSITION.size - bits
        width = count * (1 << self._shift)
        self._starts = array("I", (bisect_left(self._points, number * width) for number in range((1 << bits) + 1)))

    def owner(self, key: bytes) -> T:
        """Return the owner of a key."""
        points, owners, starts = self._points, self._owners, self._starts
        # The same as in _start(), which is another call for each task.
        key_hash = _KEY_HASH.copy()
        key_hash.update(key)
        (position,) = _POSITION.unpack(key_hash.digest())
        section = position >> self._shift
        count = len(owners)
        start = bisect_left(points, position * count, starts[section], starts[section + 1])
        # An index from -len(points) to 0: after the last point comes the first.
        return owners[int(points[start - len(points)] % count)]

    def ranked(self, key: bytes) -> Iterator[T]:
        """Iterate over all owners: first the key's own, and then each time the one that it would have without those."""
        points, owners = self._points, self._owners
        number = self._start(key) - len(points)
        seen: set[int] = set()
        while len(seen) < len(owners):
            index = int(points[number] % len(owners))
            number += 1
            if index not in seen:
                seen.add(index)
                yield owners[index]

    def _start(self, key: bytes) -> int:
        """Return the index of the first point that is not before the key; the number of points if there is none."""
        key_hash = _KEY_HASH.copy()
        key_hash.update(key)
        (position,) = _POSITION.unpack(key_hash.digest())
        return bisect_left(self._points, position * len(self._owners))


def _positions(name: str) -> tuple[int, ...]:
    return _POSITIONS.unpack(shake_256(name.encode()).digest(_POSITIONS.size))
