"""The pictures, as SVG. What stands in them is looked up in the code, so that a name that is gone fails the build."""

from __future__ import annotations

import ast
from collections.abc import Callable
from html import escape
from itertools import pairwise
from math import hypot
from pathlib import Path
from typing import Final, NamedTuple

import tables

from txgearman import ServerState
from txgearman.connection.states import ConnectionState

PACKAGE: Final = Path(__file__).parent.parent / "txgearman"

STYLE: Final = """
.frame { fill: var(--color-background-secondary, #f4f4f6); stroke: var(--color-background-border, #bbb); }
.end { fill: none; stroke: var(--color-foreground-muted, #777); stroke-dasharray: 4 3; }
.name { font: 600 14px var(--font-stack--monospace, monospace); fill: var(--color-foreground-primary, #111); }
.note { font: 13px var(--font-stack, sans-serif); fill: var(--color-foreground-secondary, #444); }
.line { stroke: var(--color-brand-primary, #2a5adf); stroke-width: 1.6; fill: none; }
.number { font: 600 11px var(--font-stack, sans-serif); fill: var(--color-background-primary, #fff); }
.tip { fill: var(--color-brand-primary, #2a5adf); }
.bar { fill: var(--color-foreground-border, #888); fill-opacity: 0.5; }
"""

LINE: Final = 17


class Box(NamedTuple):
    """A frame with a name, and lines of text under it."""

    left: float
    top: float
    width: float
    height: float
    name: str
    notes: tuple[str, ...] = ()
    kind: str = "frame"

    def svg(self) -> str:
        first = self.top + self.height / 2 + 5 - LINE * len(self.notes) / 2
        middle = self.left + self.width / 2
        frame = (
            f'<rect class="{self.kind}" x="{self.left}" y="{self.top}" width="{self.width}" height="{self.height}" '
            'rx="8"/>'
        )
        texts = [text(middle, first, self.name, "name")]
        texts += [text(middle, first + LINE * (place + 1), note, "note") for place, note in enumerate(self.notes)]
        return frame + "".join(texts)


def text(x: float, y: float, words: str, kind: str, anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def arrow(*points: tuple[float, float]) -> str:
    """A line through these points, with a tip at its end."""
    path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path class="line" d="{path}" marker-end="url(#tip)"/>'


def picture(title: str, width: float, height: float, parts: list[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}</title><style>{STYLE}</style>'
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path class="tip" d="M0 0 L10 5 L0 10 z"/></marker></defs>'
        f"{''.join(parts)}</svg>"
    )


# The way from add_task to its Deferred.

WAY: Final = [
    ("", ["add_task(...)"], ["on_data(task, data), ...", "the Deferred fires"]),
    ("client.client", ["add_task() makes a Task", "submit() checks its size"], []),
    ("client.dispatcher", ["submit() starts its time-out", "_route() sends it, or lets it wait"],
     ["retry(), or task_ended()"]),
    ("connection.pool", ["choose(): by the unique's rank,", "or the less busy of two"], []),
    ("client.task", ["_begin() makes the Deferred"],
     ["_data_received(), ...", "_job_completed(), _attempt_failed()"]),
    ("client.protocol", ["_send_task() writes SUBMIT_JOB,", "if the server takes more"],
     ["JOB_CREATED: the handle gets a task", "WORK_...: _next_copy(), _next_end()"]),
    ("connection.protocol", ["_send() notes what answer is due", "_send_fence() follows some"],
     ["dataReceived() gives each answer", "to the oldest request"]),
    ("packets", ["request() makes bytes"], ["packets() makes one after the other"]),
    ("", ["the job server, and a worker"], []),
]  # fmt: skip
"""Each module on the way, from the top down: what happens there on the way out, and on the way back."""

_ROW: Final = 70.0
_BAND: Final = 56.0
_OUT, _BACK, _WIDTH = 265.0, 555.0, 720.0


def defined_in(module: str) -> set[str]:
    """The names of all functions in a module."""
    tree = ast.parse(PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def check_names(module: str, notes: list[str]) -> None:
    """
    :raises ValueError: a function in these notes is not in this module.
    """
    words = [word.rstrip(",:") for note in notes for word in note.split()]
    named = {word.removesuffix("()") for word in words if word.endswith("()")}
    missing = named - defined_in(module)
    if missing:
        raise ValueError(f"the picture has functions that {module} has not: {', '.join(sorted(missing))}")


def way() -> str:
    """The picture of it."""
    parts = []
    for place, (module, out, back) in enumerate(WAY):
        top = 10 + _ROW * place
        if module:
            check_names(module, out + back)
            parts.append(f'<rect class="frame" x="10" y="{top:g}" width="{_WIDTH - 20:g}" height="{_BAND:g}" rx="8"/>')
            parts.append(text(24, top + _BAND / 2 + 5, module, "name", "start"))
        parts += _notes(_OUT, top, out) + _notes(_BACK, top, back)
    last = len(WAY) - 1
    for place in range(last):
        top = 10 + _ROW * place + _BAND - 3
        parts.append(arrow((_OUT, top), (_OUT, top + 19)))
        if place < last - 1:
            parts.append(arrow((_BACK, top + 19), (_BACK, top)))
    bottom = 10 + _ROW * last + _BAND / 2
    parts.append(arrow((_OUT + 105, bottom), (_BACK, bottom), (_BACK, bottom - 45)))
    return picture("The way from add_task to its Deferred, through the modules", _WIDTH, 20 + _ROW * len(WAY), parts)


def _notes(x: float, top: float, notes: list[str]) -> list[str]:
    first = top + _BAND / 2 + 5 - LINE * (len(notes) - 1) / 2
    return [text(x, first + LINE * place, note, "note") for place, note in enumerate(notes)]


# States, and what leads from one to the other.


class Step(NamedTuple):
    """An arrow between two boxes, with a number, whose meaning a table tells."""

    start: str
    end: str
    why: str
    points: tuple[tuple[float, float], ...]

    def svg(self, number: int) -> str:
        x, y = self._place_of_number()
        return (
            arrow(*self.points)
            + f'<circle class="tip" cx="{x:g}" cy="{y:g}" r="9"/>'
            + text(x, y + 4, str(number), "number")
        )

    def _place_of_number(self) -> tuple[float, float]:
        """On the longest piece of its line, and nearer to its start: apart from that of an arrow back."""
        pieces = list(pairwise(self.points))
        (a, b), (c, d) = max(pieces, key=lambda piece: hypot(piece[1][0] - piece[0][0], piece[1][1] - piece[0][1]))
        return a + (c - a) * 0.4, b + (d - b) * 0.4


def states(title: str, width: float, height: float, boxes: list[Box], steps: list[Step]) -> str:
    """A picture of them."""
    parts = [box.svg() for box in boxes]
    parts += [step.svg(number) for number, step in enumerate(steps, 1)]
    return picture(title, width, height, parts)


def table_of(steps: list[Step]) -> str:
    """What the numbers mean."""
    rows = [[str(number), f"{step.start} → {step.end}", step.why] for number, step in enumerate(steps, 1)]
    return tables.markdown([["", "from → to", "when"], *rows])


# Of the connection to a server.

_STOPPED, _CONNECTING, _READY, _WAITING = (state.name for state in ServerState)

CONNECTION: Final = [
    Step(_STOPPED, _CONNECTING, "`startService()`, or the first use", ((160, 140), (270, 140))),
    Step(_CONNECTING, _READY, "the first good answer; a connection alone is not enough", ((410, 136), (500, 60))),
    Step(_CONNECTING, _WAITING, "refused, or no good answer within `connect_timeout`", ((410, 156), (500, 212))),
    Step(_READY, _WAITING, "the connection went, or was dropped for nonsense or silence", ((570, 72), (570, 200))),
    Step(
        _WAITING,
        _CONNECTING,
        "the delay is over: two seconds at most, later half a minute",
        ((500, 240), (370, 240), (370, 172)),
    ),
    Step(_CONNECTING, _STOPPED, "`stopService()`", ((270, 160), (160, 160))),
    Step(_READY, _STOPPED, "`stopService()`", ((500, 40), (90, 40), (90, 120))),
    Step(_WAITING, _STOPPED, "`stopService()`", ((540, 252), (540, 290), (90, 290), (90, 172))),
]
"""What leads from one state of a connection to another. The tests drive a client through all of it."""


def connection() -> str:
    """The picture of it."""
    places = {_STOPPED: (20, 120), _CONNECTING: (270, 120), _READY: (500, 20), _WAITING: (500, 200)}
    boxes = [Box(*places[state.name], 140, 52, state.name) for state in ServerState]
    return states("The states of the connection to a job server", 660, 310, boxes, CONNECTION)


# Of one connection, as the library has it.

ONE_CONNECTION: Final = [
    Step("NEW", "OPENING", "the transport is connected", ((160, 46), (270, 46))),
    Step("NEW", "HANDSHAKE", "the transport is connected, and it is TLS", ((90, 72), (90, 130))),
    Step("HANDSHAKE", "OPENING", "the handshake is complete", ((130, 130), (300, 72))),
    Step(
        "HANDSHAKE",
        "READY",
        "the first good answer, where the endpoint has not reported the end of the handshake",
        ((160, 146), (560, 72)),
    ),
    Step("OPENING", "READY", "the first good answer", ((410, 46), (520, 46))),
    Step("READY", "RETIRING", "the server was removed from the list", ((590, 72), (590, 130))),
    Step("HANDSHAKE", "DOWN", "`connect_timeout`, a loss or a close", ((90, 182), (90, 266), (270, 266))),
    Step("OPENING", "DOWN", "as before, or an answer that is not Gearman", ((340, 72), (340, 240))),
    Step("READY", "DOWN", "a close, a loss, nonsense or silence", ((530, 72), (380, 240))),
    Step("RETIRING", "DOWN", "as before, or nothing is in flight any more", ((590, 182), (590, 266), (410, 266))),
]
"""The transitions of `ConnectionState`. A test compares them with the table in the code."""


def one_connection() -> str:
    """The picture of it."""
    places = {"NEW": (20, 20), "OPENING": (270, 20), "READY": (520, 20), "HANDSHAKE": (20, 130), "RETIRING": (520, 130)}
    places["DOWN"] = (270, 240)
    boxes = [Box(*places[state.name], 140, 52, state.name) for state in ConnectionState]
    return states("The states of one connection", 680, 310, boxes, ONE_CONNECTION)


# Of a task.

_ADMISSION, _CONNECTING_SERVER, _SERVER_WAIT, _BACKOFF, _CONNECTION = (
    row[0] for row in tables.rows_in_docstring("txgearman.client.dispatcher")
)
_SUBMITTED, _PLACED, _OUTCOME = "submitted", "placed", "its outcome"

TASK: Final = [
    Step(_SUBMITTED, _ADMISSION, "as many tasks as may be are out (`max_in_flight`)", ((160, 43), (250, 43))),
    Step(_SUBMITTED, _PLACED, "else", ((90, 66), (90, 96), (275, 96), (275, 130))),
    Step(_ADMISSION, _PLACED, "another task has had its outcome", ((340, 66), (340, 130))),
    Step(_PLACED, _CONNECTING_SERVER, "its server is just connecting", ((250, 142), (160, 142))),
    Step(_CONNECTING_SERVER, _PLACED, "that is decided", ((160, 166), (250, 166))),
    Step(_PLACED, _SERVER_WAIT, "no server can be reached; `server_wait`, or `retries`", ((252, 176), (130, 250))),
    Step(_SERVER_WAIT, _PLACED, "a server can be reached again", ((160, 258), (286, 176))),
    Step(_SERVER_WAIT, _BACKOFF, "no attempt to connect succeeds, and it has `retries` left", ((160, 288), (520, 288))),
    Step(_SERVER_WAIT, _OUTCOME, "`server_wait` is over: `NoServersAvailable`", ((110, 296), (250, 352))),
    Step(_PLACED, _CONNECTION, "its server is there", ((390, 142), (520, 142))),
    Step(_CONNECTION, _PLACED, "the connection went before the task was written", ((520, 166), (390, 166))),
    Step(_CONNECTION, _BACKOFF, "it failed, and has `retries` left", ((590, 176), (590, 250))),
    Step(_PLACED, _BACKOFF, "no server could be reached; `retries` left", ((350, 176), (520, 280))),
    Step(_BACKOFF, _PLACED, "the rest is over", ((520, 258), (386, 176))),
    Step(_CONNECTION, _OUTCOME, "a result, or an error", ((660, 153), (690, 153), (690, 363), (390, 363))),
    Step(_PLACED, _OUTCOME, "no server can be reached: `NoServersAvailable`", ((320, 176), (320, 340))),
]
"""What leads from one place of a task to another. From each it comes to its outcome by a cancel, by its time-out, and
by the stop of its client. The tests walk a task along each arrow."""


def task() -> str:
    """The picture of it."""
    boxes = [
        Box(20, 20, 140, 46, _SUBMITTED, kind="end"),
        Box(250, 20, 140, 46, _ADMISSION),
        Box(20, 130, 140, 46, _CONNECTING_SERVER),
        Box(250, 130, 140, 46, _PLACED, kind="end"),
        Box(520, 130, 140, 46, _CONNECTION),
        Box(20, 250, 140, 46, _SERVER_WAIT),
        Box(520, 250, 140, 46, _BACKOFF),
        Box(250, 340, 140, 46, _OUTCOME, kind="end"),
    ]
    return states("Where a task is, from its submit to its outcome", 710, 400, boxes, TASK)


PICTURES: Final[dict[str, Callable[[], str]]] = {
    "way": way,
    "connection": connection,
    "one-connection": one_connection,
    "task": task,
}
STEPS: Final = {"connection": CONNECTION, "one-connection": ONE_CONNECTION, "task": TASK}
