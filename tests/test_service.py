"""What a client and a worker have in common: the service that starts and stops, and the checks of arguments."""

from __future__ import annotations

import math
from typing import Any

import pytest
from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from txgearman.packets import MAX_PACKET_SIZE
from txgearman.service import MOST_BYTES, GearmanService, check_count, positive_seconds
from txgearman.tasks import MAX_FUNCTION

from .wire import outcome


class Service(GearmanService):
    """One that stops when the test says so.

    :ivar stopping: what its stop waits for.
    """

    def __init__(self, **changes: Any) -> None:
        arguments: dict[str, Any] = {
            "prefix": "",
            "reactor": Clock(),
            "connect_timeout": 1.0,
            "max_packet_size": MAX_PACKET_SIZE,
        }
        super().__init__(**{**arguments, **changes})
        self.stopping: Deferred[Any] = succeed(None)

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        return self.stopping


# The context manager.


async def test_it_runs_as_long_as_its_block() -> None:
    service = Service()
    async with service as entered:
        assert (entered is service, bool(service.running)) == (True, True)
    assert not service.running


def test_p11_the_block_ends_when_the_stop_does() -> None:
    service = Service()
    stopping = service.stopping = Deferred()

    async def block() -> str:
        async with service:
            pass
        return "over"

    ended = outcome(Deferred.fromCoroutine(block()))
    assert (bool(service.running), ended) == (False, [])
    stopping.callback(None)
    assert ended == ["over"]


async def test_what_the_block_raises_comes_out_after_the_stop() -> None:
    service = Service()
    with pytest.raises(ZeroDivisionError):
        async with service:
            raise ZeroDivisionError
    assert not service.running


async def test_a_failure_to_stop_is_told() -> None:
    service = Service()
    service.stopping = fail(OSError("stuck"))
    with pytest.raises(OSError, match="stuck"):
        async with service:
            pass


def test_it_is_a_service_among_others() -> None:
    service, parent = Service(), MultiService()
    stopping = service.stopping = Deferred()
    assert IService.providedBy(service)
    service.setServiceParent(parent)
    parent.startService()
    assert service.running
    stopped = outcome(parent.stopService())
    assert (bool(service.running), stopped) == (False, [])
    stopping.callback(None)
    assert len(stopped) == 1


# Arguments.


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("", b""), (b"", b""), ("sandbox", b"sandbox\t"), (b"\xff", b"\xff\t"), ("ü", b"\xc3\xbc\t")],
)
def test_a_prefix_is_joined_by_a_tab(prefix: str | bytes, expected: bytes) -> None:
    assert Service(prefix=prefix)._prefix == expected


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"prefix": None}, TypeError, "prefix must be str or bytes, not NoneType"),
        ({"prefix": "a\0b"}, ValueError, "prefix must not have a NUL"),
        ({"prefix": "\ud800"}, ValueError, "prefix can't be encoded as UTF-8"),
        ({"prefix": b"x" * (MAX_FUNCTION + 1)}, ValueError, f"prefix must have {MAX_FUNCTION} bytes at most, not 8051"),
        ({"connect_timeout": 0}, ValueError, "connect_timeout must be a positive number of seconds, not 0"),
        ({"max_packet_size": 0}, ValueError, f"max_packet_size must be from 1 to {MOST_BYTES} bytes, not 0"),
        ({"max_packet_size": MOST_BYTES + 1}, ValueError, f"from 1 to {MOST_BYTES} bytes, not {MOST_BYTES + 1}"),
        ({"max_packet_size": 1.0}, ValueError, "max_packet_size must be .* not 1.0"),
        ({"max_packet_size": True}, ValueError, "max_packet_size must be .* not True"),
        ({"max_packet_size": None}, ValueError, "max_packet_size must be .* not None"),
    ],
)
def test_p8_an_argument_that_cannot_be_meant_is_refused(
    changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    """Its name and its limit are told."""
    with pytest.raises(error, match=text):
        Service(**changes)


@pytest.mark.parametrize("size", [1, MOST_BYTES])
def test_a_packet_may_have_from_one_byte_to_what_a_header_can_tell(size: int) -> None:
    assert Service(max_packet_size=size)._max_packet_size == size


def test_the_global_reactor_is_the_default() -> None:
    from twisted.internet import reactor

    assert Service(reactor=None)._reactor is reactor


@pytest.mark.parametrize("value", [1e-9, 1, 0.5, 1e300])
def test_seconds(value: float) -> None:
    assert positive_seconds("timeout", value) == value


@pytest.mark.parametrize("value", [0, -1, -0.0, math.nan, math.inf, -math.inf])
def test_p8_seconds_that_are_none(value: float) -> None:
    with pytest.raises(ValueError, match=f"timeout must be a positive number of seconds, not {value!r}"):
        positive_seconds("timeout", value)


@pytest.mark.parametrize("value", ["5", b"5", None, [5], 5j])
def test_p8_seconds_that_are_no_number(value: Any) -> None:
    """The argument is named."""
    with pytest.raises(TypeError, match="timeout must be"):
        positive_seconds("timeout", value)


@pytest.mark.parametrize("value", [1, 2**63])
def test_a_count(value: int) -> None:
    """There is no upper limit."""
    check_count("max_jobs", value)
    with pytest.raises(ValueError, match="max_jobs"):
        check_count("max_jobs", -value)


@pytest.mark.parametrize("value", [0, -1])
def test_p8_a_count_that_is_too_small(value: int) -> None:
    with pytest.raises(ValueError, match=f"max_jobs must be at least 1, not {value}"):
        check_count("max_jobs", value)


@pytest.mark.parametrize(("value", "kind"), [(1.0, "float"), ("1", "str"), (True, "bool"), (None, "NoneType")])
def test_p8_a_count_that_is_no_whole_number(value: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=f"max_jobs must be int, not {kind}"):
        check_count("max_jobs", value)
