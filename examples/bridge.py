"""Calls of a GearmanClient from threads: the reactor runs in a thread of its own, from the first call on.

::

    result = call(client.add_task, "reverse", b"abc")
    futures = [submit(client.add_task, "reverse", text) for text in texts]
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, maybeDeferred

P = ParamSpec("P")
T = TypeVar("T")

reactor: Any = global_reactor

_lock = threading.Lock()
_thread = threading.Thread(target=reactor.run, args=(False,), name="reactor", daemon=True)
_process = 0  # in which the reactor runs


def submit(method: Callable[P, Deferred[T]], *arguments: P.args, **options: P.kwargs) -> Future[T]:
    """Call a method in the reactor's thread. The Future has the outcome of its Deferred."""
    _start()
    future: Future[T] = Future()

    def begin() -> None:
        if future.set_running_or_notify_cancel():
            deferred = maybeDeferred(method, *arguments, **options)
            deferred.addCallbacks(future.set_result, lambda failure: future.set_exception(failure.value))

    reactor.callFromThread(begin)
    return future


def call(method: Callable[P, Deferred[T]], *arguments: P.args, **options: P.kwargs) -> T:
    """Call a method in the reactor's thread, and wait for the outcome of its Deferred."""
    if threading.current_thread() is _thread:
        raise RuntimeError("the reactor's thread must not wait for itself: use the Deferred")
    return submit(method, *arguments, **options).result()


def _start() -> None:
    """Start the reactor, unless it runs: at the first call, so that a server that forks its workers has done so."""
    global _process
    if not _process:
        with _lock:
            if not _process:
                _process = os.getpid()
                _thread.start()
    if _process != os.getpid():
        raise RuntimeError("the reactor has ended, or runs in the process that this one was forked from")


@atexit.register
def _stop() -> None:
    """Stop the reactor at the end of the program, when all threads but daemons have ended."""
    global _process
    running, _process = _process == os.getpid(), -1
    if running:
        reactor.callFromThread(reactor.stop)
        _thread.join()
