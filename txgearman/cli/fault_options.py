"""The faults of ``txgearman proxy`` as they are written on the command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import click

from .options import parse_duration

__all__ = ["FAULTS", "FaultSettings", "fault_options"]

if TYPE_CHECKING:
    _FaultType = click.ParamType["FaultSettings"]
else:
    _FaultType = click.ParamType  # not generic at run time in older versions of click


@dataclass(frozen=True)
class FaultSettings:
    """One fault, as it was requested.

    :ivar name: the option, without its dashes.
    :ivar text: its value, as it was written.
    :ivar value: seconds after the start, bytes, an offset, seconds of delay or a rate, by the option.
    :ivar directions: names of members of `Direction`; none for both.
    :ivar times: how often it happens; None for each time.
    :ivar start: seconds after the start of the proxy.
    :ivar duration: seconds until it ends; None if it does not end by itself.
    """

    name: str
    text: str
    value: float
    directions: tuple[str, ...] = ()
    reset: bool = False
    times: int | None = 1
    seed: int = 0
    start: float = 0.0
    duration: float | None = None

    def __str__(self) -> str:
        return f"--{self.name} {self.text}"


@dataclass(frozen=True)
class _Value:
    """What a text may be.

    :ivar name: what the help calls it.
    :ivar rule: what it must be, for errors.
    :ivar parse: returns the value of a text; None if the text is invalid.
    """

    name: str
    rule: str
    parse: Callable[[str], float | None]


def _parse_seconds(text: str) -> float | None:
    seconds = parse_duration(text)
    return None if seconds == math.inf else seconds


def _parse_size(text: str) -> int | None:
    return _parse_offset(text) or None


def _parse_offset(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() else None


def _parse_rate(text: str) -> float | None:
    try:
        rate = float(text)
    except ValueError:
        return None
    return rate if 0 < rate <= 1 else None


_AT: Final = _Value("AT", "a time from the start of the proxy, such as 0, 10 or 500ms", _parse_seconds)
_DURATION: Final = _Value(
    "DURATION", "a duration above 0, such as 10, 10s or 500ms", lambda text: _parse_seconds(text) or None
)
_SIZE: Final = _Value("BYTES", "a number of bytes above 0", _parse_size)
_OFFSET: Final = _Value("OFFSET", "a number of bytes", _parse_offset)
_RATE: Final = _Value("RATE", "a rate above 0 and up to 1", _parse_rate)
_COUNT: Final = _Value("N", "a number above 0", _parse_size)
_SEED: Final = _Value("N", "a number", _parse_offset)

DIRECTIONS: Final = {"to-server": "TO_SERVER", "to-client": "TO_CLIENT"}

_SETTINGS: Final[Mapping[str, tuple[str, _Value]]] = {
    "at": ("start", _AT),
    "for": ("duration", _DURATION),
    "times": ("times", _COUNT),
    "seed": ("seed", _SEED),
}
"""Settings with a value: the attribute that they set, and what the value may be."""


@dataclass(frozen=True)
class _Kind:
    """An option: what its value may be, and which settings may follow it."""

    value: _Value
    settings: tuple[str, ...]
    needs_direction: bool = False

    def usage(self) -> str:
        """Return what may follow the option."""
        parts = [self.value.name]
        for name in self.settings:
            if name == "direction":
                parts.append(",DIRECTION" if self.needs_direction else "[,DIRECTION]")
            else:
                parts.append(f"[,{name}={_SETTINGS[name][1].name}]" if name in _SETTINGS else f"[,{name}]")
        return "".join(parts)


FAULTS: Final[Mapping[str, _Kind]] = {
    "go-down": _Kind(_AT, ("for", "reset")),
    "refuse": _Kind(_AT, ("for",)),
    "black-hole": _Kind(_AT, ("for",)),
    "silent": _Kind(_AT, ("direction", "for")),
    "drop": _Kind(_AT, ("reset",)),
    "drop-after": _Kind(_SIZE, ("direction", "times", "reset", "at", "for"), needs_direction=True),
    "delay": _Kind(_DURATION, ("direction", "at", "for")),
    "split": _Kind(_SIZE, ("direction", "at", "for")),
    "corrupt": _Kind(_RATE, ("direction", "seed", "at", "for")),
    "corrupt-byte": _Kind(_OFFSET, ("direction", "times", "at", "for"), needs_direction=True),
}
"""The options of faults. Each is a call of `FaultProxy`."""

HELP: Final[Mapping[str, str]] = {
    "go-down": "Drop all connections and refuse new ones, from AT on.",
    "refuse": "Refuse new connections, from AT on.",
    "black-hole": "Accept new connections and never answer on them, from AT on.",
    "silent": "Let nothing pass, from AT on. What was sent passes when it ends.",
    "drop": "Drop all connections, at AT.",
    "drop-after": "Drop the connection on which BYTES have passed.",
    "delay": "Let everything pass late.",
    "split": "Let everything pass in pieces of BYTES.",
    "corrupt": "Alter bytes at random: RATE of them, such as 0.001.",
    "corrupt-byte": "Alter the byte before which OFFSET bytes pass.",
}


class _Fault(_FaultType):
    """Parameter type of a fault: its value, and settings behind commas."""

    def __init__(self, option: str) -> None:
        self.name = "fault"
        self._option = option
        self._kind = FAULTS[option]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> FaultSettings:
        first, *settings = value.split(",")
        number = self._kind.value.parse(first)
        if number is None:
            self.fail(f"must begin with {self._kind.value.rule}, not {first!r}", param, ctx)
        fault = FaultSettings(self._option, value, number, start=number if self._kind.value is _AT else 0.0)
        for setting in settings:
            changed = self._with_setting(fault, setting)
            if changed is None:
                self.fail(f"must be {self._kind.usage()}, not {value!r}: {setting!r} is invalid", param, ctx)
            fault = changed
        if self._kind.needs_direction and not fault.directions:
            self.fail(f"must have a direction, to-server or to-client, such as {first},to-client", param, ctx)
        return fault

    def _with_setting(self, fault: FaultSettings, setting: str) -> FaultSettings | None:
        """Return the fault with a setting; None if the setting is invalid."""
        if setting in DIRECTIONS:
            allowed = "direction" in self._kind.settings and not fault.directions
            return replace(fault, directions=(DIRECTIONS[setting],)) if allowed else None
        name, equals, text = setting.partition("=")
        if name not in self._kind.settings or (name == "reset") == bool(equals):
            return None
        if name == "reset":
            return replace(fault, reset=True)
        if (name, text) == ("times", "all"):
            return replace(fault, times=None)
        attribute, allowed_value = _SETTINGS[name]
        number = allowed_value.parse(text)
        changes: dict[str, Any] = {attribute: number}
        return None if number is None else replace(fault, **changes)


def fault_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of faults to a command, which receives ``faults``, a list of `FaultSettings`."""

    def with_faults(**options: Any) -> Any:
        given = [fault for name in FAULTS for fault in options.pop(name.replace("-", "_"))]
        return function(faults=given, **options)

    with_faults.__name__ = function.__name__
    with_faults.__doc__ = function.__doc__
    with_faults.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]  # click's own attribute
    for name in reversed(list(FAULTS)):
        option = click.option(
            f"--{name}", type=_Fault(name), multiple=True, metavar=FAULTS[name].usage(), help=HELP[name]
        )
        option(with_faults)
    return with_faults
