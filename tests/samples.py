"""The samples in what Prometheus scrapes."""

from __future__ import annotations

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

LABELS = ("server", "function", "priority", "version")

Samples = dict[tuple[str, ...], float]


def samples(text: str) -> Samples:
    """Return the values, by name and labels."""
    parse = parse_openmetrics if text.endswith("# EOF\n") else parse_text
    return {
        (sample.name, *(sample.labels[label] for label in LABELS if label in sample.labels)): sample.value
        for family in parse(text)
        for sample in family.samples
    }
