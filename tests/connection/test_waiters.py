"""Deferreds that wait for the same event: `GearmanFactory.when_ready` shows them."""

from __future__ import annotations

import weakref

import pytest
from twisted.internet.defer import CancelledError

from ..garbage import is_freed
from ..wire import outcome
from .harness import (
    unready,
)


def test_when_ready_can_be_cancelled() -> None:
    net = unready()
    deferred = net.factory.when_ready()
    cancelled, other = outcome(deferred), outcome(net.factory.when_ready())
    deferred.cancel()
    net.server.send_opening()
    assert [type(error) for error in cancelled] == [CancelledError]
    assert other == [net.connection]


@pytest.mark.guarantee(number=12)
@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("cancelled", [True, False])
def test_fired_waiter_is_not_retained(cancelled: bool) -> None:
    net = unready()
    deferred = net.factory.when_ready()
    reported = outcome(deferred)
    if cancelled:
        deferred.cancel()
    else:
        net.server.send_opening()
    assert len(reported) == 1
    gone = weakref.ref(deferred)
    del deferred
    assert is_freed(gone)


def test_waiter_can_cancel_another() -> None:
    net = unready()
    first, second = net.factory.when_ready(), net.factory.when_ready()
    first.addCallback(lambda _: second.cancel())
    reported = outcome(second)
    net.server.send_opening()
    assert [type(error) for error in reported] == [CancelledError]
