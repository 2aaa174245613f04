"""Options of a connection."""

from __future__ import annotations

import math
from typing import Any

import pytest

from txgearman.connection.options import DEFAULT_CONNECTION_OPTIONS, ConnectionOptions
from txgearman.packets import MAX_PACKET_SIZE
from txgearman.validation import MAX_PAYLOAD


def test_defaults() -> None:
    """The defaults that the guide names."""
    assert (
        ConnectionOptions(10.0, 30.0, None, 60.0, MAX_PACKET_SIZE) == DEFAULT_CONNECTION_OPTIONS == ConnectionOptions()
    )


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("name", ["connect_timeout", "server_timeout", "heartbeat", "job_check_interval"])
@pytest.mark.parametrize(
    ("value", "kind"), [(0, ValueError), (-1.0, ValueError), (math.nan, ValueError), ("5", TypeError)]
)
def test_invalid_seconds_are_refused(name: str, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=name):
        ConnectionOptions(**{name: value})


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("name", ["connect_timeout", "server_timeout", "job_check_interval"])
def test_only_heartbeat_can_be_none(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        ConnectionOptions(**{name: None})  # type: ignore[arg-type]  # that is what is wrong
    assert ConnectionOptions(heartbeat=None).heartbeat is None


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("size", [0, MAX_PAYLOAD + 1, 1.0, True, None])
def test_invalid_sizes_are_refused(size: Any) -> None:
    with pytest.raises(ValueError, match=f"max_packet_size must be from 1 to {MAX_PAYLOAD} bytes, not {size!r}"):
        ConnectionOptions(max_packet_size=size)


@pytest.mark.parametrize("size", [1, MAX_PAYLOAD])
def test_packet_size_can_be_one_byte_up_to_limit_of_header(size: int) -> None:
    assert ConnectionOptions(max_packet_size=size).max_packet_size == size
