"""Checks of the arguments of a batch that are there for each job."""

from __future__ import annotations

from collections.abc import Iterable

from ..validation import MAX_UNIQUE, name_bytes, payload_bytes

__all__ = ["checked_uniques", "checked_workloads", "too_large"]


def checked_workloads(workloads: Iterable[bytes]) -> list[bytes]:
    """Return the workloads as bytes."""
    if isinstance(workloads, (bytes, str)) or not isinstance(workloads, Iterable):
        raise TypeError(f"workloads must be an iterable of bytes, not {type(workloads).__name__}")
    checked = list(workloads)
    if not set(map(type, checked)) <= {bytes}:
        checked = [payload_bytes(f"workloads[{index}]", workload) for index, workload in enumerate(checked)]
    return checked


def too_large(workloads: list[bytes], max_size: int) -> ValueError:
    """Return the error of the first workload that is longer than `max_size`."""
    index = next(index for index, workload in enumerate(workloads) if len(workload) > max_size)
    return ValueError(
        f"workloads[{index}] must have max_packet_size={max_size} bytes at most, not {len(workloads[index])}"
    )


def checked_uniques(uniques: Iterable[str | bytes] | None, count: int) -> list[bytes] | None:
    """Return the unique of each job; None if they have none, or all have "-"."""
    if uniques is None or uniques in ("-", b"-"):
        return None
    if isinstance(uniques, (bytes, str)) or not isinstance(uniques, Iterable):
        raise TypeError(f"uniques must be None, '-' or an iterable of str or bytes, not {uniques!r:.80}")
    checked = [name_bytes(f"uniques[{index}]", unique, MAX_UNIQUE) for index, unique in enumerate(uniques)]
    if len(checked) != count:
        raise ValueError(f"uniques must be as many as workloads, {count}, not {len(checked)}")
    return checked
