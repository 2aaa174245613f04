"""Metric families of what servers report."""

from __future__ import annotations

from txgearman.admin.commands import FunctionStatus, PriorityStatus
from txgearman.admin.exporter import encode_reports
from txgearman.admin.reports import ServerReport
from txgearman.errors import NoServersAvailable

from ..samples import Samples, samples


def exported(*reports: ServerReport, accept: str = "") -> Samples:
    content, _ = encode_reports(reports, accept)
    return samples(content.decode())


def report(*functions: FunctionStatus, **options: str) -> ServerReport:
    return ServerReport("a:4730", {status.function: status for status in functions}, **options)  # type: ignore[arg-type]  # each test passes what it has


BUSY = ServerReport("a:4730", {b"f": FunctionStatus(b"f", 7, 2, 3)}, {b"f": PriorityStatus(b"f", 1, 4, 0, 3)}, "1.1.20")

EXPECTED: Samples = {
    ("gearman_up", "a:4730"): 1,
    ("gearman_version_info", "a:4730", "1.1.20"): 1,
    ("gearman_jobs", "a:4730", "f"): 7,
    ("gearman_jobs_running", "a:4730", "f"): 2,
    ("gearman_jobs_waiting", "a:4730", "f"): 5,
    ("gearman_workers", "a:4730", "f"): 3,
    ("gearman_jobs_waiting_by_priority", "a:4730", "f", "high"): 1,
    ("gearman_jobs_waiting_by_priority", "a:4730", "f", "normal"): 4,
    ("gearman_jobs_waiting_by_priority", "a:4730", "f", "low"): 0,
}


def test_each_number_has_the_name_that_gearman_exporter_gives_it() -> None:
    assert exported(BUSY) == EXPECTED


def test_server_that_has_not_answered_is_down() -> None:
    down = ServerReport("b:4730", error=NoServersAvailable({}))
    assert exported(BUSY, down) == EXPECTED | {("gearman_up", "b:4730"): 0}


def test_server_without_version_and_queues_has_the_other_series() -> None:
    assert exported(report(FunctionStatus(b"g", 1, 0, 0))) == {
        ("gearman_up", "a:4730"): 1,
        ("gearman_jobs", "a:4730", "g"): 1,
        ("gearman_jobs_running", "a:4730", "g"): 0,
        ("gearman_jobs_waiting", "a:4730", "g"): 1,
        ("gearman_workers", "a:4730", "g"): 0,
    }


def test_different_functions_are_different_series() -> None:
    """Prometheus would refuse everything for a series that occurs twice."""
    names = [b"\xff", b"\\xff", b"pre\tf", b"pre\\tf", b'"', b"\xe2\x80\xae", b"\n", "gr\xfcn".encode()]
    labels = [
        sample[2]
        for sample in exported(report(*(FunctionStatus(name, 1, 0, 0) for name in names)))
        if sample[0] == "gearman_jobs"
    ]
    assert labels == ["\\xff", "\\\\xff", "pre\\tf", "pre\\\\tf", '"', "\\u202e", "\\n", "gr\xfcn"]


def test_version_of_others_is_printable() -> None:
    assert ("gearman_version_info", "a:4730", "1\\n\\x1b[") in exported(report(version="1\n\x1b["))


def test_format_is_the_one_that_is_accepted() -> None:
    content, content_type = encode_reports([BUSY], "application/openmetrics-text; version=1.0.0")
    assert content.endswith(b"# EOF\n")
    assert content_type.startswith("application/openmetrics-text")
    assert samples(content.decode()) == EXPECTED
    assert encode_reports([BUSY])[1].startswith("text/plain")
