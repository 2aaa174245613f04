"""Metrics of prometheus_client that are kept in files, as in its multiprocess mode, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

__all__ = ["restored_values"]


@contextmanager
def restored_values() -> Iterator[pytest.MonkeyPatch]:
    """At the end, close the files that prometheus_client has opened, and have it keep values in memory again.

    :return: for changes that are undone, too.
    """
    made: list[MmapedDict] = []

    class Recorded(MmapedDict):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "MmapedDict", Recorded)
        patch.setattr(values, "ValueClass", values.ValueClass)
        patch.setenv("PROMETHEUS_MULTIPROC_DIR", "")  # so that it is deleted at the end even if it is not set now
        patch.delenv("PROMETHEUS_MULTIPROC_DIR")
        yield patch
    for file in made:
        file.close()
