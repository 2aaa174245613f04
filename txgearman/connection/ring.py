"""Consistent hashing: the owner of a key, which all clients with the same names agree on.

Each name has `POINTS` points on a ring, and a key belongs to the name whose point follows the key's own. A name that is
added or removed moves only the keys that it wins or leaves. The keys that it leaves go to different names, since
different points follow its own.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import shake_256
from operator import mul, sub
from struct import Struct
from typing import Final, Generic, TypeVar
from zlib import crc32

__all__ = ["POINTS", "Ring"]

T = TypeVar("T")

POINTS: Final = 256
"""Points for each name. With more of them the shares are more even (they deviate by 1 / sqrt(POINTS)), and the ring
takes longer to build: 40 ms for 200 names."""

_CELL_BITS: Final = 16
"""The ring has 2**16 cells, however many names there are, so that a cell's owner changes with its next points alone. So
few points share a cell that the shares of 200 names are as even as with more cells."""

_SHIFT: Final = 32 - _CELL_BITS

_MIX: Final = 0x9E3779B1
"""2**32 by the golden ratio. A checksum costs a quarter of a hash, but the checksums of similar keys are similar. Their
products with this number are not."""

_POSITIONS: Final = Struct(f"<{POINTS}L")
_CELL: Final = Struct("=H")


class Ring(Generic[T]):
    """The owners of keys, each with a name of its own."""

    __slots__ = ("_cells", "_owners", "_points")

    def __init__(self, owners: Mapping[str, T]) -> None:
        names = tuple(sorted(owners))
        self._owners = [owners[name] for name in names]
        self._points, self._cells = _tables(names)

    def owner(self, key: bytes) -> T:
        """Return the owner of a key."""
        return self._owners[self._cells[(crc32(key) * _MIX & 0xFFFFFFFF) >> _SHIFT]]

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
        """Return the index of the first point that is not before the key's cell: len(points) if there is none."""
        cell = (crc32(key) * _MIX & 0xFFFFFFFF) >> _SHIFT
        return bisect_left(self._points, (cell << _SHIFT) * len(self._owners))


@lru_cache(maxsize=8)
def _tables(names: tuple[str, ...]) -> tuple[array[float], array[int]]:
    """Return the points, and for each cell the index of its name. Clients of the same servers share them."""
    # Position times number of names, plus index of the name: floats, which are exact here, are sorted fastest.
    count = float(len(names))
    points = [position * count + index for index, name in enumerate(names) for position in _positions(name)]
    points.sort()
    # A cell belongs to the name whose point is the first one not before the cell.
    width = count * (1 << _SHIFT)
    ends = [int(point // width) + 1 for point in points]
    lengths = map(sub, [*ends, 1 << _CELL_BITS], [0, *ends])
    cells = [_CELL.pack(index) for index in range(len(names))]
    runs = [cells[int(point % count)] for point in points]
    return array("d", points), array("H", b"".join(map(mul, [*runs, runs[0]], lengths)))


def _positions(name: str) -> tuple[int, ...]:
    return _POSITIONS.unpack(shake_256(name.encode()).digest(_POSITIONS.size))
