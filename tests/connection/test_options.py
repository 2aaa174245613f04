"""What a connection puts up with, and the looks by which it finds out."""

from __future__ import annotations

import math
from typing import Any

import pytest
from twisted.internet.task import Clock

from txgearman.connection.options import DEFAULT_CONNECTION_OPTIONS, ConnectionOptions
from txgearman.connection.timers import PROBES_PER_PERIOD, PeriodicProbe
from txgearman.packets import MAX_PACKET_SIZE
from txgearman.validation import MAX_PAYLOAD


def test_the_defaults() -> None:
    """The defaults that the guide names."""
    assert (
        ConnectionOptions(10.0, 30.0, None, 60.0, MAX_PACKET_SIZE) == DEFAULT_CONNECTION_OPTIONS == ConnectionOptions()
    )


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("name", ["connect_timeout", "server_timeout", "heartbeat", "job_check_interval"])
@pytest.mark.parametrize(
    ("value", "kind"), [(0, ValueError), (-1.0, ValueError), (math.nan, ValueError), ("5", TypeError)]
)
def test_seconds_that_cannot_be_meant(name: str, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=name):
        ConnectionOptions(**{name: value})


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("name", ["connect_timeout", "server_timeout", "job_check_interval"])
def test_only_the_heartbeat_may_be_left_out(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        ConnectionOptions(**{name: None})  # type: ignore[arg-type]  # that is what is wrong
    assert ConnectionOptions(heartbeat=None).heartbeat is None


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("size", [0, MAX_PAYLOAD + 1, 1.0, True, None])
def test_sizes_that_cannot_be_meant(size: Any) -> None:
    with pytest.raises(ValueError, match=f"max_packet_size must be from 1 to {MAX_PAYLOAD} bytes, not {size!r}"):
        ConnectionOptions(max_packet_size=size)


@pytest.mark.parametrize("size", [1, MAX_PAYLOAD])
def test_a_packet_may_have_from_one_byte_to_what_a_header_can_tell(size: int) -> None:
    assert ConnectionOptions(max_packet_size=size).max_packet_size == size


class Watched:
    """Notes the times of the looks, and ends them after so many."""

    def __init__(self, most: int) -> None:
        self.clock = Clock()
        self.times: list[float] = []
        self._most = most
        self.watch = PeriodicProbe(self.clock, 10.0, self._look)

    def _look(self) -> bool:
        self.times.append(self.clock.seconds())
        return len(self.times) < self._most


def test_it_looks_several_times_in_a_period_until_there_is_nothing_to_look_at() -> None:
    watched = Watched(3)
    assert not watched.watch.on
    watched.watch.start()
    watched.watch.start()  # it does already
    assert watched.watch.on
    watched.clock.pump([1.0] * 60)
    each = 10.0 / PROBES_PER_PERIOD
    assert watched.times == [each, 2 * each, 3 * each]
    assert (watched.watch.on, watched.clock.getDelayedCalls()) == (False, [])


@pytest.mark.guarantee(number=10)
def test_a_watch_that_is_stopped_leaves_no_timer() -> None:
    watched = Watched(3)
    watched.watch.stop()
    watched.watch.start()
    watched.watch.stop()
    assert (watched.watch.on, watched.clock.getDelayedCalls()) == (False, [])
    watched.watch.start()
    watched.clock.advance(10.0 / PROBES_PER_PERIOD)
    assert len(watched.times) == 1


def test_a_look_may_stop_the_watch() -> None:
    clock = Clock()

    def look() -> bool:
        watch.stop()
        return False

    watch = PeriodicProbe(clock, 10.0, look)
    watch.start()
    clock.advance(10.0)
    assert clock.getDelayedCalls() == []


@pytest.mark.guarantee(number=17)
def test_after_a_late_look_the_next_one_leaves_time_to_read() -> None:
    """Where somebody's code has blocked the reactor, what was answered long ago is read only after the timers."""
    watched = Watched(5)
    watched.watch.start()
    watched.clock.advance(100.0)
    assert watched.times == [100.0]
    assert watched.clock.getDelayedCalls()[0].getTime() == 100.0 + 10.0 / PROBES_PER_PERIOD
