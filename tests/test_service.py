"""What a client and a worker have in common: the service that starts and stops, and its prefix."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from txgearman.connection.options import ConnectionOptions
from txgearman.service import GearmanService
from txgearman.validation import MAX_FUNCTION

from .wire import outcome


class Service(GearmanService):
    """One that stops when the test says so.

    :ivar stopping: what its stop waits for.
    """

    def __init__(self, **changes: Any) -> None:
        arguments: dict[str, Any] = {
            "prefix": "",
            "reactor": Clock(),
            "connection_options": ConnectionOptions(),
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


@pytest.mark.guarantee(number=11)
def test_the_block_ends_when_the_stop_does() -> None:
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


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"prefix": None}, TypeError, "prefix must be str or bytes, not NoneType"),
        ({"prefix": "a\0b"}, ValueError, "prefix must not have a NUL"),
        ({"prefix": "\ud800"}, ValueError, "prefix must be encodable as UTF-8"),
        ({"prefix": b"x" * (MAX_FUNCTION + 1)}, ValueError, f"prefix must have {MAX_FUNCTION} bytes at most, not 8051"),
    ],
)
def test_an_argument_that_cannot_be_meant_is_refused(
    changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    """Its name and its limit are told."""
    with pytest.raises(error, match=text):
        Service(**changes)


def test_the_global_reactor_is_the_default() -> None:
    from twisted.internet import reactor

    assert Service(reactor=None)._reactor is reactor
