"""What is freed, and when: on CPython at once, with the last reference; on PyPy by a later collection.

Guarantee 12 does not say when, only that nothing refers to what has ended. On CPython the tests hold more: it is in no
reference cycle, so that it is freed without the collector.
"""

from __future__ import annotations

import gc
import sys
from typing import Any, Final
from weakref import ref

__all__ = ["COUNTS_REFERENCES", "finalize", "is_freed"]

COUNTS_REFERENCES: Final = sys.implementation.name == "cpython"
"""Whether an object is freed with its last reference."""

COLLECTIONS: Final = 3
"""How many PyPy takes: an object is freed one later than the finalizer of what referred to it has run."""


def finalize() -> None:
    """Run the finalizers of what nothing refers to, where reference counts have not done so."""
    if not COUNTS_REFERENCES:
        for _ in range(COLLECTIONS):
            gc.collect()


def is_freed(reference: ref[Any]) -> bool:
    """Whether the object is freed: without a collection, where references are counted."""
    finalize()
    return reference() is None
