"""Tests that are bad on purpose, each in one way. `test_conftest` runs them; under their own name nobody does."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger

reactor: Any = global_reactor


def test_leaves_a_timer() -> None:
    reactor.callLater(60, lambda: None)


def test_leaves_a_socket() -> None:
    reactor.listenTCP(0, ServerFactory(), interface="127.0.0.1")


def test_logs_a_failure() -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        Logger().failure("on purpose")


def test_leaves_an_error_in_a_deferred() -> None:
    fail(ZeroDivisionError())


def test_leaves_an_error_in_a_cycle() -> None:
    deferred: Any = fail(ZeroDivisionError())
    deferred.itself = deferred


async def test_never_ends() -> None:
    await Deferred()


def test_is_good() -> None:
    assert reactor.running
