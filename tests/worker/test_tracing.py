"""Spans of OpenTelemetry: one covers the whole run of a job's function, and is the parent of those that it opens."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import deferLater

from txgearman import Job, JobFailed
from txgearman.testing import MemoryJobServer

from ..wire import outcome

trace: Any = pytest.importorskip("opentelemetry.trace")

EXAMPLE = Path(__file__).parents[2] / "examples" / "tracing.py"


@pytest.fixture
def spans_type() -> Any:
    """The class of the example."""
    spec = importlib.util.spec_from_file_location("tracing", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["tracing"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module.JobSpans
    del sys.modules["tracing"]


class Tracer(trace.Tracer):  # type: ignore[misc]  # its class is unknown where the package is not installed
    """A tracer that records when spans start and end, on the test's clock."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.seconds = seconds
        self.spans: list[Any] = []

    def start_span(self, name: str, **options: Any) -> Any:
        span = Span(self, name, trace.get_current_span())
        self.spans.append(span)
        return span

    def start_as_current_span(self, name: str, **options: Any) -> Any:
        return trace.use_span(self.start_span(name), end_on_exit=True)


class Span(trace.NonRecordingSpan):  # type: ignore[misc]  # as above
    def __init__(self, tracer: Tracer, name: str, parent: Any) -> None:
        super().__init__(trace.SpanContext(1, len(tracer.spans) + 1, False))
        self.name = name
        self.parent = parent
        self.start = tracer.seconds()
        self.ends: list[float] = []
        self.status: list[Any] = []
        self._seconds = tracer.seconds

    def set_status(self, status: Any, description: str | None = None) -> None:
        self.status.append(description)

    def end(self, end_time: int | None = None) -> None:
        self.ends.append(self._seconds())


def test_span_covers_the_whole_run_of_a_coroutine(server: MemoryJobServer, spans_type: Any) -> None:
    clock: Any = server.clock
    tracer = Tracer(clock.seconds)
    seen: list[Any] = []

    async def resize(job: Job) -> bytes:
        for _ in range(3):
            await deferLater(clock, 1.0)
            seen.append(trace.get_current_span())
        with tracer.start_as_current_span("inner"):
            await deferLater(clock, 1.0)
        return b"done"

    server.worker(observers=[spans_type(tracer)]).register_function("resize", resize)
    client = server.client()
    results = [outcome(client.add_task("resize")) for _ in range(2)]
    server.advance(10)
    assert results == [[b"done"]] * 2
    outer = [span for span in tracer.spans if span.name == "resize"]
    inner = [span for span in tracer.spans if span.name == "inner"]
    assert [(span.start, span.ends, span.status) for span in outer] == [(0.0, [4.0], [])] * 2
    assert seen == outer * 3
    assert [span.parent for span in inner] == outer
    assert not trace.get_current_span().get_span_context().is_valid


def test_span_of_a_failed_job_says_so(server: MemoryJobServer, spans_type: Any) -> None:
    tracer = Tracer(server.clock.seconds)

    def resize(job: Job) -> bytes:
        raise JobFailed("no colour")

    server.worker(observers=[spans_type(tracer)]).register_function("resize", resize)
    outcome(server.client().add_task("resize"))
    server.advance()
    assert [(span.ends, span.status) for span in tracer.spans] == [([0.0], ["failed"])]
