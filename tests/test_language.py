"""The language of README, the pages, docstrings, comments, help texts and messages: phrases that readers stumble over.

Code is exempt: literals and blocks in the pages, names in backticks, strings without a space. So are words in capitals,
such as HTTP methods.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from .processes import EXAMPLES, ROOT

PHRASES: Final = {
    # Metaphors from households and people.
    "room": ("rooms?", "There is room for ten jobs.", "space, capacity"),
    "house": ("houses?", "The worker's house has two floors.", "the word of the code"),
    "post": ("post(s|ed|ing)?", "A worker's posts share a connection.", "function group"),
    "hungry": ("hungry", "A hungry connection requests jobs.", "may have a job"),
    "deaf": ("deaf", "A deaf connection reads nothing.", "reading is paused"),
    "patient": ("patient(ly)?", "A patient task waits for a server.", "awaiting"),
    "vain": ("vain", "The server was asked in vain.", "the server answers NO_JOB"),
    "up with": ("puts? up with", "The client puts up with lost answers.", "tolerates"),
    "front door": ("front doors?", "The client is the front door of the library.", "API"),
    "secret": ("(?:in secret|secretly)", "Nothing is done twice in secret.", "no hidden retries"),
    "nonsense": ("nonsense", "A server that sends nonsense is disconnected.", "invalid data"),
    "at your service": ("at your service", "It prints that it is at your service.", "ready"),
    # Verbs for which the field has others.
    "told": ("told", "The task is told what the worker sends.", "reported"),
    "tell": ("tell(s|ing)?", "The log tells why a task failed.", "says, reports, raises, returns"),
    "hear": ("hear([sd]|ing)?", "Nothing is heard of the job.", "receives, is received"),
    "be meant": ("can('t|not) be meant", "A negative limit can't be meant.", "is invalid"),
    "sense": ("makes? (no )?sense", "The command line makes no sense.", "is invalid"),
    "through": ("go(es|ing)? through (all|each|every|its|their)", "A loop goes through all results.", "iterates over"),
    " out": ("(?:jobs?|tasks?|requests?|that) (?:are|is) out(?! of)", "At most ten jobs are out.", "in flight"),
    " go": ("let(s|ting)? go", "A cancel lets go of the task.", "cancel, discard"),
    # Words of another time.
    "who": ("who(?:m|so)?ever", "Whoever submits a task gets a Deferred.", "a caller who"),
    "anybody": ("anybody('s)?", "A callback is anybody's code.", "user code, any client"),
    "anew": ("anew", "The client connects anew.", "again"),
    "in the place": ("in the place of", "A proxy stands in the place of the server.", "instead of"),
    "to and fro": ("to and fro", "Packets go to and fro.", "in both directions"),
    "heed": ("heed(s|ed)?", "The limit is heeded.", "applies"),
}
"""Phrases: for each a part that all its forms have, its pattern, a sentence that has it, and what to write instead."""

PATTERNS: Final = {phrase: re.compile(rf"\b{pattern}\b", re.IGNORECASE) for phrase, (pattern, _, _) in PHRASES.items()}

PAGES: Final = [
    *(ROOT / name for name in ("README.md", "CHANGES", "CONTRIBUTING.md", "SECURITY.md")),
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent.name != "speed"),
]
SOURCES: Final = [
    ROOT / "pytest_txgearman.py",
    *sorted((ROOT / "txgearman").rglob("*.py")),
    *sorted(EXAMPLES.rglob("*.py")),
]

BLOCK: Final = re.compile(r"^( *)(```+)[^\n]*\n.*?^\1\2$", re.DOTALL | re.MULTILINE)
LITERAL: Final = re.compile(r"(`+)[^`]+\1|\]\([^)\s]*\)")
PROSE: Final = re.compile(r'"""(.*?)"""|"([^"\\\n]*(?:\\.[^"\\\n]*)*)"|# (.*)$', re.DOTALL | re.MULTILINE)


def blank(found: re.Match[str]) -> str:
    """Return what keeps the number of lines."""
    return "…" + "\n" * found[0].count("\n")


def without_code(text: str) -> str:
    return LITERAL.sub(blank, BLOCK.sub(blank, text))


def prose_of(source: str) -> str:
    """Return the docstrings, comments and messages of a module, each in its lines."""
    lines, end = [], 0
    for found in PROSE.finditer(source):
        group = found.lastindex or 0
        text = found[group]
        if " " in text:
            prose = LITERAL.sub(blank, text) if "`" in text else text
            lines += ["\n" * source.count("\n", end, found.start(group)), prose]
            end = found.end(group)
    return "".join(lines)


def phrases(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line of each phrase, and the phrase."""
    lower = text.lower()
    for phrase, pattern in PATTERNS.items():
        if phrase in lower:
            for match in pattern.finditer(lower):
                start, end = match.span()
                if not text[start:end].isupper() and not lower[start - 1 : start].isalnum():
                    yield text.count("\n", 0, start) + 1, phrase


def test_each_phrase_is_found_in_its_sentence() -> None:
    assert {phrase: [found for _, found in phrases(sentence)] for phrase, (_, sentence, _) in PHRASES.items()} == {
        phrase: [phrase] for phrase in PHRASES
    }


def test_code_and_http_methods_are_no_phrases() -> None:
    page = "Send a POST to `tell(anew)`.\n\n```python\nanybody = told\n```\nAnew `vain`: anew\n"
    assert list(phrases(without_code(page))) == [(6, "anew"), (6, "anew")]


def test_docstrings_comments_and_messages_are_prose() -> None:
    source = '"""Post it.\n\nAnew: `anew`.\n"""\npost = "anew"\nlog("told {x}")  # in vain\n'
    assert sorted(phrases(prose_of(source))) == [(1, "post"), (3, "anew"), (6, "told"), (6, "vain")]


def test_pages_and_sources_have_none_of_the_phrases() -> None:
    found = []
    for path in [*PAGES, *SOURCES]:
        text = path.read_text("utf-8")
        prose = prose_of(text) if path.suffix == ".py" else without_code(text)
        found += [f"{path.relative_to(ROOT)}:{line}: {phrase}: {PHRASES[phrase][2]}" for line, phrase in phrases(prose)]
    assert found == []
