"""A span of OpenTelemetry for each job of a worker, which the function's own spans are children of.

It needs ``opentelemetry-api``; what becomes of the spans is the program's choice of an SDK.
"""

from opentelemetry import context, trace
from opentelemetry.trace import StatusCode
from txgearman import Observer
from txgearman.observers import ObservedJob


class JobSpans(Observer):
    """Opens a span when the function of a job starts, and ends it with the job."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def job_started(self, job: ObservedJob) -> None:
        name = job.function if isinstance(job.function, str) else repr(job.function)
        span = self._tracer.start_span(name, attributes={"messaging.message.id": str(job.handle)})
        context.attach(trace.set_span_in_context(span))  # the context is the job's alone, and ends with it

    def job_finished(self, job: ObservedJob, outcome: str, seconds: float) -> None:
        span = trace.get_current_span()
        if outcome != "done":
            span.set_status(StatusCode.ERROR, outcome)
        span.end()
