"""The document of a poll: numbers over all servers, and text of others that is harmless and limited."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from txgearman.admin.admin import Answers
from txgearman.admin.commands import FunctionStatus, PriorityStatus, WorkerInfo
from txgearman.admin.reports import ServerReport
from txgearman.dashboard import document
from txgearman.dashboard.document import Document, Poll, Recorder
from txgearman.errors import NoServersAvailable, ProtocolError

HOSTILE = b'<script>alert(1)</script>\x1b[2J"\\\xff\xe2\x80\xae\n'
HOSTILE_TEXT = '<script>alert(1)</script>\\x1b[2J"\\\\\\xff\\u202e\\n'


def status(name: bytes, waiting: int = 0, running: int = 0, workers: int = 0) -> FunctionStatus:
    return FunctionStatus(name, waiting + running, running, workers)


def report(address: str, *functions: FunctionStatus, version: str | None = None, **queues: Any) -> ServerReport:
    by_name = {each.function: each for each in functions}
    return ServerReport(address, by_name, queues.get("queues", {}), version)


def poll(
    reports: Iterable[ServerReport], workers: dict[str, tuple[WorkerInfo, ...]] | None = None, now: float = 100
) -> Poll:
    return Poll(list(reports), Answers(workers or {}, {}), now - 0.25, now, 8.0)


def record(*reports: ServerReport, **options: Any) -> Document:
    return Recorder().record(poll(reports, **options))


def test_json_is_the_data_on_one_line() -> None:
    made = record(report("a", status(HOSTILE, 1)), workers={"a": (WorkerInfo(1, "x", b"y", (HOSTILE, b"z")),)})
    assert json.loads(made.json) == json.loads(json.dumps(made.data))
    assert b"\n" not in made.json
    assert made.json.isascii()
    assert (made.time, made.data["time"], made.data["took"], made.data["expected"]) == (100, 100, 0.25, 8)


def test_functions_are_added_up_over_servers() -> None:
    queues = {b"f": PriorityStatus(b"f", 1, 2, 0, 0)}
    data = record(
        report("a", status(b"f", 3, 1, 2), queues=queues), report("b", status(b"f", 4, 0, 1), status(b"g"))
    ).data
    f, g = data["functions"]
    assert (f["name"], f["waiting"], f["running"], f["workers"]) == ("f", 7, 1, 3)
    assert f["priorities"] == [1, 2, 0]
    assert f["servers"] == [(0, 3, 1, 2), (1, 4, 0, 1)]
    assert (g["priorities"], g["servers"], g["history"]) == (None, [(1, 0, 0, 0)], [])
    assert f["history"] == [7]


def test_function_without_worker_on_one_server_is_abandoned_and_comes_first() -> None:
    functions = record(
        report("a", status(b"busy", 99, 1, 1), status(b"f", 1, 0, 0)), report("b", status(b"f", 0, 0, 5))
    ).data["functions"]
    assert [(each["name"], each["abandoned"]) for each in functions] == [("f", True), ("busy", False)]


def test_server_that_is_down_keeps_its_version_and_the_time_of_its_answer() -> None:
    recorder = Recorder()
    recorder.record(poll([report("a", status(b"f", 2, 1), version="1.1.20")], now=100))
    error = NoServersAvailable({"a": ConnectionRefusedError("refused")}, next_attempts={"a": 5})
    down, new = recorder.record(
        poll([ServerReport("a", error=error), ServerReport("b", error=ProtocolError(""))], now=160)
    ).data["servers"]
    assert (down["up"], down["error"], down["version"], down["answered"]) == (False, "refused", "1.1.20", 100)
    assert [down[key] for key in ("waiting", "running", "workers", "functions")] == [None] * 4
    assert down["history"] == [2, None]
    assert (new["error"], new["version"], new["answered"], new["history"]) == ("ProtocolError", None, None, [])


def test_workers_of_a_server_count_once_each() -> None:
    workers = (
        WorkerInfo(1, "10.0.0.1", b"id", (b"f", b"g", b"other name")),
        WorkerInfo(2, "10.0.0.2", b"-", ()),
        WorkerInfo(3, "10.0.0.3", b"-", (b"g",)),
    )
    down = ServerReport("a", error=ProtocolError("x"))
    data = record(down, report("b", status(b"f"), status(b"g"), version="2"), workers={"b": workers}).data
    assert data["workers"] == [
        (1, 1, "10.0.0.1", "id", [0, 1, "other name"], 3),
        (1, 3, "10.0.0.3", "-", [1], 1),
    ]
    assert data["servers"][1]["workers"] == 2


def test_server_that_does_not_list_its_workers_has_an_unknown_number_of_them() -> None:
    server = record(report("a", status(b"f", 0, 0, 3))).data["servers"][0]
    assert (server["up"], server["workers"]) == (True, None)


def test_text_of_others_is_printable() -> None:
    text = HOSTILE.decode("utf-8", "replace")
    error = ProtocolError(text)
    made = record(
        report("a", status(HOSTILE), version=text),
        ServerReport("b", error=error),
        workers={"a": (WorkerInfo(1, text, HOSTILE, (HOSTILE, HOSTILE + b"2")),)},
    )
    ((_, _, address, client_id, offered, _),) = made.data["workers"]
    assert [made.data["functions"][0]["name"], client_id, offered] == [
        HOSTILE_TEXT,
        HOSTILE_TEXT,
        [0, HOSTILE_TEXT + "2"],
    ]
    texts = [address, made.data["servers"][0]["version"], made.data["servers"][1]["error"]]
    assert all(each and each.isprintable() for each in texts)
    assert made.names == {HOSTILE_TEXT: HOSTILE}


def test_long_texts_are_cut_and_stay_different() -> None:
    names = [b"x" * 8000 + b"%d" % number for number in range(3)]
    made = record(
        report("a", *map(status, names)), workers={"a": (WorkerInfo(1, "1" * 9999, b"2" * 9999, (b"z" * 9999,)),)}
    )
    shown = [each["name"] for each in made.data["functions"]]
    cut = "x" * 120 + "... (7,881 more bytes)"
    assert shown == [cut, f"{cut} #2", f"{cut} #3"]
    assert [made.names[each] for each in shown] == names
    assert len(made.json) < 2000


def test_document_has_limited_functions_and_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "MAX_FUNCTIONS", 2)
    monkeypatch.setattr(document, "MAX_WORKERS", 1)
    monkeypatch.setattr(document, "MAX_OFFERED", 1)
    workers = (WorkerInfo(1, "x", b"-", (b"f", b"g")), WorkerInfo(2, "x", b"-", (b"f",)))
    data = record(report("a", status(b"f"), status(b"g"), status(b"busy", 5, 0, 1)), workers={"a": workers}).data
    assert [each["name"] for each in data["functions"]] == ["busy", "f"]
    assert data["functions_omitted"] == 1
    assert data["workers"] == [(0, 1, "x", "-", [1], 2)]
    assert data["workers_omitted"] == 1


def test_server_with_more_running_than_jobs_has_none_waiting() -> None:
    made = record(report("a", FunctionStatus(b"f", 1, 5, 0)))
    assert made.data["functions"][0]["waiting"] == 0
    assert made.data["servers"][0]["waiting"] == 0
