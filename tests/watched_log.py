"""A log that keeps its events, as Twisted does before a program begins to log."""

from __future__ import annotations

from twisted.logger import LogEvent, formatEvent, globalLogPublisher


class WatchedLog:
    """Observer that keeps the events of the library.

    :ivar events: all of them, as an observer gets them.
    """

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_namespace", "").startswith("txgearman"):
            self.events.append(event)

    def __enter__(self) -> WatchedLog:
        globalLogPublisher.addObserver(self)  # type: ignore[arg-type]  # any callable serves
        return self

    def __exit__(self, *_: object) -> None:
        globalLogPublisher.removeObserver(self)  # type: ignore[arg-type]  # as above

    def texts(self) -> list[str]:
        """Return the events as text."""
        return [formatEvent(event) or "" for event in self.events]
