"""Tables and texts for the pages, in Markdown: read from CHANGES, and from the code."""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent
CHANGES: Final = ROOT / "CHANGES"
LAYERS: Final = ROOT / "tests" / "test_layers.py"


def sources() -> list[Path]:
    """The files whose changes change a page."""
    return [CHANGES, LAYERS, *(ROOT / "txgearman").rglob("*.py")]


def in_rst(text: str) -> str:
    """reStructuredText, in a page of Markdown."""
    return f"````{{eval-rst}}\n{text}\n````"


def markdown(rows: list[list[str]]) -> str:
    """A table. Its first row is the head."""
    head, *body = rows
    lines = ["| " + " | ".join(cells) + " |" for cells in ([*head], ["---"] * len(head), *body)]
    return "\n".join(lines)


# CHANGES.


def changes() -> str:
    """CHANGES, but for the line that says what it is; its headings are the lowest that a page has."""
    text = CHANGES.read_text("utf-8").partition("\n\n")[2]
    return re.sub(r"^(.+)\n=+$", r".. rubric:: \1", text, flags=re.MULTILINE)


# The code.


def docstring_of(name: str) -> str:
    """Of a module, which is not imported: some take what the documentation does not need; or of something in one."""
    path = ROOT.joinpath(*name.split("."))
    for source in (path.with_suffix(".py"), path / "__init__.py"):
        if source.exists():
            return ast.get_docstring(ast.parse(source.read_text("utf-8"))) or ""
    module, _, within = name.rpartition(".")
    found: Any = getattr(import_module(module), within)
    return inspect.getdoc(found) or ""


def rows_in_docstring(name: str) -> list[list[str]]:
    """The table in a docstring, which has two columns between lines of equals signs."""
    table = re.search(r"^(=+)  =+\n(.*?)^=+  =+$", docstring_of(name), re.DOTALL | re.MULTILINE)
    if table is None:
        raise ValueError(f"the docstring of {name} has no table")
    width = len(table[1])
    return [
        [line[:width].strip(), line[width:].strip().replace("``", "`")]
        for line in table[2].splitlines()
        if line.strip()
    ]


def documented(module: str, of: str = "") -> dict[str, str]:
    """The docstrings behind the values that a module, or a class in it, gives names to."""
    body: list[ast.stmt] = ast.parse(inspect.getsource(import_module(module))).body
    if of:
        body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == of)
    found = {}
    for node, text in pairwise(body):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(text, ast.Expr):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            found[ast.unparse(target)] = inspect.cleandoc(ast.literal_eval(text.value))
    return found


def states(module: str, of: str) -> str:
    """Each value of an enum of states, and what its docstring says."""
    rows = [[f"`{name}`", " ".join(text.split())] for name, text in documented(f"txgearman.{module}", of).items()]
    return markdown([["state", ""], *rows])


def module_names() -> list[str]:
    """The list that the tests hold the modules to."""
    for node in ast.parse(LAYERS.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODULES":
            names: list[str] = ast.literal_eval(node.value)
            return names
    raise ValueError("tests/test_layers.py has no MODULES")


def importable_modules() -> list[str]:
    """Those that need nothing but the library's own requirements."""
    return [module for module in module_names() if module != "__main__" and module.split(".")[0] != "cli"]


def modules(package: str = "") -> str:
    """The modules of the library, or of one of its packages, and the first sentence of each."""
    packages = {name.partition(".")[0] for name in module_names() if "." in name}
    chosen = [name for name in module_names() if _package_of(name, packages) == package]
    return markdown([["module", "what it has"], *([f"`{name}`", _first_sentence(name)] for name in chosen)])


def _package_of(module: str, packages: set[str]) -> str:
    first = module.partition(".")[0]
    return first if first in packages else ""


def _first_sentence(module: str) -> str:
    first, *_ = docstring_of(f"txgearman.{module}").split("\n\n")
    sentence, *_ = re.split(r"(?<=\.) (?=[A-Z`])", " ".join(first.split()))
    sentence = re.sub(r"docs/gearman\.md §\w+", r"[\g<0>](gearman.md)", sentence)
    return sentence.replace("``", "`").removesuffix("::")
