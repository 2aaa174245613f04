"""Failures for the log: class, text and traceback stay; frames, causes and other objects do not."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from twisted.python.failure import Failure

from txgearman.failures import MAX_FIELD, for_log


class Payload:
    """Stands for a workload, or what holds one."""

    def __repr__(self) -> str:
        return "payload"


class Odd(Exception):
    """An exception whose class makes no other from its arguments, and that refers to an object."""

    def __init__(self, payload: Payload, number: int) -> None:
        super().__init__(f"odd {number}")
        self.payload = payload
        self.number = number


class Singleton(Exception):
    """An exception whose class makes no second one."""

    made = False

    def __new__(cls) -> Singleton:
        if cls.made:
            raise LookupError("there is one already")
        cls.made = True
        return super().__new__(cls)


class Stateful(Exception):
    """An exception whose text is not made of its plain fields."""

    def __init__(self, parts: list[str]) -> None:
        super().__init__()
        self.parts = parts

    def __str__(self) -> str:
        return "+".join(self.parts)


def failure_of(error: Callable[[Payload], BaseException], payload: Payload) -> Failure:
    try:
        try:
            raise LookupError("a cause")
        except LookupError as cause:
            raise error(payload) from cause
    except BaseException:  # whatever the test asks for
        return Failure()


@pytest.mark.parametrize(
    ("error", "kept", "text"),
    [
        (lambda payload: ValueError("bad", 3), ValueError, "('bad', 3)"),
        (lambda payload: FileNotFoundError(2, "no such file"), FileNotFoundError, "[Errno 2] no such file"),
        (lambda payload: Odd(payload, 7), Odd, "odd 7"),
        (lambda payload: SystemExit(3), SystemExit, "3"),
        (lambda payload: KeyError(payload), Exception, "payload"),
        (lambda payload: Stateful(["a", "b"]), Exception, "a+b"),
        (lambda payload: Singleton(), Exception, ""),
        (lambda payload: ValueError(b"x" * 5000), Exception, repr(b"x" * 5000)[:MAX_FIELD]),
        (lambda payload: ValueError("x" * 5000), Exception, "x" * MAX_FIELD),
    ],
)
def test_copy_has_class_text_and_traceback(
    error: Callable[[Payload], BaseException], kept: type[BaseException], text: str
) -> None:
    failure = failure_of(error, Payload())
    traceback = failure.value.__traceback__  # type: ignore[union-attr]  # there is one
    copied = for_log(failure)
    value: Any = copied.value
    assert type(value) is kept
    assert (copied.getErrorMessage(), copied.type) == (text, failure.type)
    assert (value.__traceback__, value.__cause__, value.__context__) == (None, None, None)
    assert "in failure_of" in copied.getTraceback()
    assert failure.value.__traceback__ is traceback is not None  # type: ignore[union-attr]  # as above


def test_copy_has_plain_attributes_of_exception() -> None:
    value: Any = for_log(failure_of(lambda payload: Odd(payload, 7), Payload())).value
    assert vars(value) == {"number": 7}


@pytest.mark.parametrize("error", [lambda payload: Odd(payload, 1), lambda payload: ValueError(payload)])
def test_copy_keeps_no_object_alive(error: Callable[[Payload], BaseException]) -> None:
    payload = Payload()
    watched = weakref.ref(payload)
    copied = for_log(failure_of(error, payload))
    del payload
    gc.collect()
    assert watched() is None
    assert copied.getTraceback()
