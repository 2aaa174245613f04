"""Observers: which objects may be one, and that what they raise changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from txgearman import GearmanClient, GearmanWorker, Observer
from txgearman.observers import HOOKS, Observers, as_observers

from .conftest import Failures
from .observing import Recorder


class Started:
    """An observer of task starts alone, which is no `Observer`."""

    def __init__(self) -> None:
        self.count = 0

    def task_started(self, task: object) -> None:
        self.count += 1


class Raising(Observer):
    def task_started(self, task: object) -> None:
        raise SystemExit


class Async:
    async def job_started(self, job: object) -> None:
        """It would never be awaited."""


class NotCallable:
    server_changed = "down"


def test_each_observer_gets_each_call_that_it_has_a_method_for(logged_failures: Failures) -> None:
    """In their order, and whatever another one raises."""
    first, last = Started(), Recorder()
    observers = Observers([first, Raising(), last])
    for name in ("task_started", "task_started", "server_changed"):
        if name == "task_started":
            observers.notify(name, "a task")
    assert (first.count, last.calls) == (2, [("task_started",)] * 2)
    assert len(logged_failures.flush(SystemExit)) == 2


def test_methods_of_the_base_class_do_nothing() -> None:
    observers = Observers([Observer()])
    arguments: dict[str, tuple[Any, ...]] = {
        "task_started": (None,),
        "task_retried": (None, 1, None),
        "task_finished": (None, "lost", 0.0),
        "batch_started": ("f", 1),
        "batch_finished": ("f", {}, 0.0),
        "job_started": (None,),
        "job_finished": (None, "lost", 0.0),
        "server_changed": (None,),
    }
    assert set(arguments) == set(HOOKS)
    for name, values in arguments.items():
        observers.notify(name, *values)


def test_no_observers_are_none() -> None:
    assert as_observers([]) is None
    assert as_observers(iter([Started()])) is not None


@pytest.mark.guarantee(number=8)
@pytest.mark.parametrize("service", [GearmanClient, GearmanWorker])
@pytest.mark.parametrize(
    ("observers", "text"),
    [
        (Recorder(), "observers must be an iterable of observers, not Recorder"),
        ("task_started", "observers must be an iterable of observers, not str"),
        ([Recorder(), object()], r"observers\[1\] must have a method of Observer, not be <object"),
        ([Async()], r"observers\[0\].job_started must be a method that is not async"),
        ([NotCallable()], r"observers\[0\].server_changed must be a method that is not async, not 'down'"),
    ],
)
def test_invalid_observers_are_refused(service: type[Any], observers: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        service(["h"], observers=observers)
