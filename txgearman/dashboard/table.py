"""The page for browsers without JavaScript: tables that are made here, and loaded again by the browser."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from .document import Data, Document, FunctionEntry, ServerEntry, WorkerEntry

__all__ = ["render_tables"]

RELOAD: Final = 10
"""Seconds after which the browser loads the page again."""

_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="refresh" content="{reload}">
<title>{title}</title>
<link rel="icon" href="icon.svg">
<link rel="stylesheet" href="page.css">
</head>
<body>
<header><h1>Gearman</h1></header>
<main>
<p>As of {time} UTC. The browser loads this page again every {reload} seconds. <a href="./">The page with JavaScript</a>
has the history, and the jobs.</p>
{sections}
</main>
</body>
</html>
"""

NUMBERS: Final = ("Waiting", "Running", "Workers")
"""Columns of numbers."""

_NUMBER: Final = ' class="number"'

_UNKNOWN: Final = "-"


def render_tables(document: Document) -> bytes:
    """Return the page of a document."""
    data = document.data
    down = sum(not server["up"] for server in data["servers"])
    sections = [
        _table(
            "Servers",
            ("Server", "State", "Waiting", "Running", "Workers", "Version"),
            map(_server, sorted(data["servers"], key=lambda server: server["up"])),
        ),
        _table(
            "Functions",
            ("Function", "State", "Waiting", "Running", "Workers"),
            map(_function, data["functions"]),
            data["functions_omitted"],
        ),
        _table(
            "Workers",
            ("Worker", "Server", "Connection", "Address", "Functions"),
            (_worker(worker, data) for worker in data["workers"]),
            data["workers_omitted"],
        ),
    ]
    page = _PAGE.format(
        reload=RELOAD,
        title=f"{down} down - Gearman" if down else "Gearman",
        time=time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(document.time)),
        sections="\n".join(sections),
    )
    return page.encode()


def _server(server: ServerEntry) -> str:
    state = "up" if server["up"] else f"DOWN: {server['error']}"
    numbers = server["waiting"], server["running"], server["workers"]
    return _row(server["address"], state, *numbers, server["version"], is_wrong=not server["up"])


def _function(function: FunctionEntry) -> str:
    state = "NO WORKER" if function["abandoned"] else ""
    numbers = function["waiting"], function["running"], function["workers"]
    return _row(function["name"], state, *numbers, is_wrong=function["abandoned"])


def _worker(worker: WorkerEntry, data: Data) -> str:
    server, number, address, client_id, offered, count = worker
    names = [data["functions"][each]["name"] if isinstance(each, int) else each for each in offered]
    more = f" and {count - len(names):,} more" if count > len(names) else ""
    return _row(client_id, data["servers"][server]["address"], str(number), address, ", ".join(names) + more)


def _table(title: str, columns: Sequence[str], rows: Iterable[str], omitted: int = 0) -> str:
    body = "\n".join(rows)
    heads = "".join(f'<th scope="col"{_NUMBER if column in NUMBERS else ""}>{column}</th>' for column in columns)
    note = f"<p>{omitted:,} more are not shown.</p>" if omitted else ""
    return f"<h2>{title}</h2>\n<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>{note}"


def _row(name: str, *values: object, is_wrong: bool = False) -> str:
    kind = ' class="wrong"' if is_wrong else ""
    return f'<tr{kind}><th scope="row">{escape(name)}</th>{"".join(map(_cell, values))}</tr>'


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f"<td{_NUMBER}>{value:,}</td>"
    text = _UNKNOWN if value is None else escape(str(value))
    return f"<td>{text}</td>"
