"""What the pages take from elsewhere, so that each thing is said once: from CHANGES, and from the code.

The directives for it are listed at the end of this module. Names in backticks, in pages and docstrings, become links
where they are ours or Twisted's.
"""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Final

import figures
import pictures
import tables
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.logging import getLogger

logger = getLogger(__name__)

PACKAGES: Final = ("txgearman", "txgearman.testing")
"""Where users import from."""

TWISTED: Final = {
    "Clock": "twisted.internet.task.Clock",
    "Deferred": "twisted.internet.defer.Deferred",
    "Failure": "twisted.python.failure.Failure",
    "IConnector": "twisted.internet.interfaces.IConnector",
    "IService": "twisted.application.service.IService",
    "IStreamClientEndpoint": "twisted.internet.interfaces.IStreamClientEndpoint",
    "TestCase": "twisted.trial.unittest.TestCase",
}
"""Twisted's names that docstrings have without a module."""

LONG: Final = 24
"""Characters of code that a cell of a table has space for."""

API_OF_TWISTED: Final = "https://docs.twisted.org/en/stable/api/{}.html"


def public_names() -> dict[str, str]:
    """Where each name is that users may import."""
    return {name: f"{package}.{name}" for package in PACKAGES for name in import_module(package).__all__}


class Text(SphinxDirective):
    """A directive that stands for Markdown which is made from something else."""

    required_arguments = 0
    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        for path in tables.sources():
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(self.markdown(*self.arguments))

    def markdown(self, *arguments: str) -> str:
        raise NotImplementedError


class Modules(Text):
    """The modules, in the order of the layers: the library's, or those of one of its packages."""

    def markdown(self, *arguments: str) -> str:
        return tables.modules(*arguments)


class TableOf(Text):
    """The table in the docstring of a module or function."""

    def markdown(self, *arguments: str) -> str:
        name, _, heads = arguments[0].partition(" ")
        return tables.markdown([heads.split(" / "), *tables.rows_in_docstring(name)])


class States(Text):
    """The states that an enum has: those of the connection to a server, or of one connection."""

    def markdown(self, *arguments: str) -> str:
        module, of = arguments[0].split(".") if arguments else ("pool", "ServerState")
        return tables.states(f"connection.{module}", of)


class Changes(Text):
    """CHANGES."""

    def markdown(self, *arguments: str) -> str:
        return tables.in_rst(tables.changes())


class Public(Text):
    """The reference of what users may import of one or more modules."""

    def markdown(self, *arguments: str) -> str:
        names = [f"txgearman.{module_name}" for module_name in arguments[0].split()]
        return tables.in_rst("\n\n".join(entry for module_name in names for entry in self._entries(module_name)))

    @staticmethod
    def _entries(module_name: str) -> Iterator[str]:
        module = import_module(module_name)
        public = public_names()
        for name in module.__dict__:
            value = getattr(module, name)
            if name in public and getattr(value, "__module__", module_name) == module_name and not name.startswith("_"):
                yield _entry(module_name, name, value, public[name])


def _entry(module_name: str, name: str, value: Any, full_name: str) -> str:
    if not isinstance(value, type):
        text = tables.documented(module_name).get(name)
        lines = linked(text.splitlines()) if text else []
        return "\n".join([f".. py:data:: {full_name}", "", *(f"   {line}" for line in lines)]) if lines else ""
    kind = "exception" if issubclass(value, BaseException) else "class"
    foreign = [base.__name__ for base in value.__mro__ if not base.__module__.startswith("txgearman")]
    lines = [f".. auto{kind}:: {full_name}", "   :members:", f"   :inherited-members: {', '.join(foreign)}"]
    return "\n".join([*lines, "   :show-inheritance:"])


class Steps(Text):
    """What the numbers in a picture mean."""

    def markdown(self, *arguments: str) -> str:
        return pictures.table_of(pictures.STEPS[arguments[0]])


class Figures(Text):
    """What was measured of a release: one of the tables, or the plot; with its surroundings."""

    def run(self) -> list[nodes.Node]:
        for path in figures.RECORDS.glob("*.json"):
            self.env.note_dependency(str(path))
        return super().run()

    def markdown(self, *arguments: str) -> str:
        return "\n\n".join(
            f"{figures.surroundings(arguments[0], release)}\n\n{figures.FIGURES[arguments[0]](release)}"
            for release in figures.releases()
        )


class Plot(SphinxDirective):
    """The plot of each release."""

    def run(self) -> list[nodes.Node]:
        plots = "".join(f'<div class="picture">{figures.plot(release)}</div>' for release in figures.releases())
        return [nodes.raw("", plots, format="html")]


class Picture(SphinxDirective):
    """One of the pictures."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        svg = pictures.PICTURES[self.arguments[0]]()
        return [nodes.raw("", f'<div class="picture">{svg}</div>', format="html")]


# Names.


class NamesToLinks(SphinxTransform):
    """Makes links of literals that are public names."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        public = public_names()
        for literal in list(self.document.findall(nodes.literal)):
            target = public.get(literal.astext().removesuffix("()"))
            if target and not _within(literal, nodes.title, nodes.reference, addnodes.pending_xref):
                link = addnodes.pending_xref(
                    "", refdomain="py", reftype="obj", reftarget=target, refexplicit=True, refwarn=True
                )
                link["refdoc"] = self.env.docname
                literal.replace_self(link)
                link += literal


class LongNamesInTables(SphinxTransform):
    """Lets long code in a cell go on in the next line, between its words: else it takes the space of other columns."""

    default_priority = 410

    def apply(self, **kwargs: Any) -> None:
        for literal in list(self.document.findall(nodes.literal)):
            code = literal.astext()
            if re.match(r"--?\w", code) and len(code) <= LONG:
                literal["classes"].append("option")  # which is not broken at its hyphens
            elif len(code) > LONG and _within(literal, nodes.entry):
                words = re.split(r"(?<=[_.(])|(?<=::)|(?<=->)", code)
                literal.clear()
                for word in words:
                    literal += nodes.Text(word)
                    literal += nodes.raw("", "<wbr>", format="html")


def _within(node: nodes.Node, *kinds: type[nodes.Node]) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def find_name(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, contnode: nodes.TextElement
) -> nodes.Node | None:
    """A name that is not in the reference under just this name. None: it is a mistake, and a warning."""
    target = node["reftarget"]
    known = TWISTED.get(target, target)
    if known.startswith("twisted."):
        return nodes.reference("", "", contnode, internal=False, refuri=API_OF_TWISTED.format(known))
    ours = public_names().get(known.rpartition(".")[2])
    if ours is not None and ours != target:
        domain = env.domains["py"]
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", ours, node, contnode)
    return contnode if is_of_python(known) or is_internal(known) or is_no_class(node) else None


def is_of_python(name: str) -> bool:
    """Whether it is a name of Python's own: those are known, or easily found."""
    return hasattr(builtins, name) or name.partition(".")[0] in sys.stdlib_module_names


def is_internal(name: str) -> bool:
    """Whether it is ours, but not for users: a base class, say, or the type of an argument."""
    return any(
        hasattr(import_module(f"txgearman.{module_name}"), name.rpartition(".")[2])
        for module_name in tables.importable_modules()
    )


def is_no_class(node: addnodes.pending_xref) -> bool:
    """Whether it is a parameter, an attribute or a value: these look no different from a function, and need no link."""
    return node["reftype"] == "obj" and re.fullmatch(r"[\w.]*\b[a-z_]\w*(\(\))?", node["reftarget"]) is not None


def linked(lines: list[str]) -> list[str]:
    """A docstring, in which numbers such as H1 lead to what explains them."""
    lines = [re.sub(r"docs/(gearman|what-servers-do)\.md", r":doc:`\g<0> </\1>`", line) for line in lines]
    # Sphinx would take the first of several names for a type.
    return [re.sub(r"^:(ivar|param) ([\w, ]+):", lambda match: match[0].replace(", ", ","), line) for line in lines]


def on_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = linked(lines)


def show_defaults(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Values that have a name: the reader wants the value."""
    named = getattr(import_module(obj.__module__), "__dict__", {}) if hasattr(obj, "__module__") else {}

    def value(match: re.Match[str]) -> str:
        found = named.get(match[1])
        return f"={found!r}" if isinstance(found, (int, float, bytes)) else match[0]

    return signature and re.sub(r"=(_?[A-Z][A-Z_]+)\b", value, signature), returned


def check_reference(app: Sphinx, env: BuildEnvironment) -> None:
    """Everything that users may import must be in it."""
    missing = set(public_names().values()) - set(env.domains.python_domain.objects)
    if missing:
        logger.warning("not in the reference: %s", ", ".join(sorted(missing)))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("modules", Modules)
    app.add_directive("table-of", TableOf)
    app.add_directive("server-states", States)
    app.add_directive("changes", Changes)
    app.add_directive("public", Public)
    app.add_directive("picture", Picture)
    app.add_directive("steps", Steps)
    app.add_directive("figures", Figures)
    app.add_directive("plot", Plot)
    app.add_transform(NamesToLinks)
    app.add_transform(LongNamesInTables)
    app.connect("env-check-consistency", check_reference)
    app.connect("missing-reference", find_name)
    app.connect("autodoc-process-docstring", on_docstring)
    app.connect("autodoc-process-signature", show_defaults)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
