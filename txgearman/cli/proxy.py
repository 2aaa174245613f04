"""``txgearman proxy``: network faults between a job server and programs in any language."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import click
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from ..testing import Direction, Fault, FaultProxy
from .exit_codes import ExitCode
from .fault_options import FaultSettings
from .reactor_loop import wait_for_signal
from .server import listen_errors, parse_listen
from .terminal import Terminal

__all__ = ["proxy"]

_log = Logger()


async def proxy(terminal: Terminal, server: str, listen: str, faults: Sequence[FaultSettings]) -> ExitCode:
    """Run the proxy until a signal."""
    host, port = parse_listen(listen)
    with listen_errors():
        fault_proxy = _make_proxy(terminal, server, host, port)
    scheduled = [_ScheduledFault(terminal, fault_proxy, settings) for settings in faults]
    try:
        await terminal.write(f"a proxy on {fault_proxy.address} for {server}\n".encode())
        await wait_for_signal()
        problems = list(filter(None, [fault.problem() for fault in scheduled]))
        for problem in problems:
            terminal.write_error(f"txgearman: {problem}")
        return ExitCode.FAILED if problems else ExitCode.DONE
    finally:
        for fault in scheduled:
            fault.stop()
        await fault_proxy.close(verify=False)


def _make_proxy(terminal: Terminal, server: str, host: str, port: int) -> FaultProxy:
    try:
        return FaultProxy(server, terminal.reactor, port=port, interface=host)
    except ValueError as error:
        raise click.UsageError(f"HOST:PORT must be 'host', 'host:port' or '[v6]:port', not {server!r}") from error


class _ScheduledFault:
    """A fault, which begins and ends at its times."""

    def __init__(self, terminal: Terminal, fault_proxy: FaultProxy, settings: FaultSettings) -> None:
        self._reactor = terminal.reactor
        self._proxy = fault_proxy
        self._settings = settings
        self._fault: Fault | None = None
        self._dropped = False
        self._timer: IDelayedCall | None = None
        if settings.start:
            self._timer = self._reactor.callLater(settings.start, self._begin)
        else:
            self._begin()

    def stop(self) -> None:
        """Neither begin nor end it any more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def problem(self) -> str | None:
        """Return that it has not happened, or not as often as was requested; None if it has."""
        happened = int(self._dropped) if self._fault is None else self._fault.happened
        if not happened:
            return f"{self._settings} has not happened"
        wanted = self._settings.times if self._settings.name in COUNTED else None
        if wanted is not None and happened < wanted:
            return f"{self._settings} has happened {happened} of {wanted} times"
        return None

    def _begin(self) -> None:
        if self._settings.name == "drop":
            self._drop()
            return
        self._fault = CALLS[self._settings.name](self._proxy, self._settings)
        _log.info("Fault begins: {fault}", fault=str(self._settings))
        if self._settings.duration is not None:
            self._timer = self._reactor.callLater(self._settings.duration, self._end, self._fault)

    def _drop(self) -> None:
        if self._proxy.connections:
            self._proxy.drop_connections(reset=self._settings.reset)
            self._dropped = True
            _log.info("Connections dropped: {fault}", fault=str(self._settings))
        else:
            _log.warn("No connection dropped: {fault}: there is none", fault=str(self._settings))

    def _end(self, fault: Fault) -> None:
        fault.end()
        _log.info("Fault ends: {fault}", fault=str(self._settings))


def _directions(settings: FaultSettings) -> list[Direction]:
    return [Direction[name] for name in settings.directions]


COUNTED: Final = ("drop-after", "corrupt-byte")
"""Faults that happen a number of times."""

CALLS: Final[Mapping[str, Callable[[FaultProxy, FaultSettings], Fault]]] = {
    "go-down": lambda proxy, fault: proxy.go_down(reset=fault.reset),
    "refuse": lambda proxy, fault: proxy.refuse_connections(),
    "black-hole": lambda proxy, fault: proxy.black_hole_connections(),
    "silent": lambda proxy, fault: proxy.fall_silent(*_directions(fault)),
    "drop-after": lambda proxy, fault: proxy.drop_after(
        int(fault.value), *_directions(fault), reset=fault.reset, times=fault.times
    ),
    "delay": lambda proxy, fault: proxy.delay(fault.value, *_directions(fault)),
    "split": lambda proxy, fault: proxy.split(int(fault.value), *_directions(fault)),
    "corrupt": lambda proxy, fault: proxy.corrupt(fault.value, *_directions(fault), seed=fault.seed),
    "corrupt-byte": lambda proxy, fault: proxy.corrupt_byte(int(fault.value), *_directions(fault), times=fault.times),
}
"""The calls that inject the faults, by their options. ``drop`` happens at once, and is no `Fault`."""
