"""Configuration of Sphinx: ``python -m sphinx -W -n docs build/docs``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform

sys.path.insert(0, str(Path(__file__).parent.parent))

import txgearman  # the package of this tree
import txgearman.testing

project = "txgearman"
project_copyright = "the authors of txgearman"
release = version = txgearman.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.intersphinx"]

# Both inventories are files of this tree, so that a build needs no network. python.inv is that of Debian's package
# python3.11-doc. twisted.inv lists the names of Twisted that the docstrings mention.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", "inventories/python.inv"),
    "twisted": ("https://docs.twisted.org/en/stable/api", "inventories/twisted.inv"),
}

# Names in docstrings stand in single backticks. A parameter, an attribute or a function is a link where there is one
# of that name in the reference, and code where there is none.
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", r"[\w.]*\b[a-z_]\w*"),
    # Types that are internal: of arguments, and of base classes.
    ("py:(class|obj)", r"txgearman\.\w+\.\w+\.(\w*T|_Decorator.*)"),
    ("py:class", r"txgearman\.service\.(Pool|Gearman)Service|txgearman\.\w+\.(protocol|factory|commands)\.\w+"),
    ("py:class", r"txgearman\.testing\.\w+_methods\.\w+"),
    # Python 3.13 names the bases of a TypedDict.
    ("py:class", r"txgearman\.client\.task\._\w+Options"),
    ("py:class", r"Address|ConnectionListener|JobConnection|PathName|Reactor|[\w.]+\.ServerConnection"),
    # Types of others that have no page of their own.
    ("py:class", r"CollectorRegistry|EllipsisType|typing_extensions\.Unpack"),
]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 4
# Tables that the page Measurements includes.
exclude_patterns = ["speed/*"]

autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# A method that overrides a hook of Twisted and has no docstring is for Twisted alone.
autodoc_inherit_docstrings = False

html_theme = "furo"
html_title = f"txgearman {release}"
html_static_path = ["_static"]
html_css_files = ["txgearman.css"]
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"


PUBLIC = {name: f"{module.__name__}.{name}" for module in (txgearman, txgearman.testing) for name in module.__all__}
"""What users import, and from where."""


class NamesToLinks(SphinxTransform):
    """Makes links of the public names that stand as code in the pages."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        for literal in list(self.document.findall(nodes.literal)):
            target = PUBLIC.get(literal.astext().removesuffix("()"))
            if target and not isinstance(literal.parent, (nodes.title, nodes.reference, addnodes.pending_xref)):
                link = addnodes.pending_xref("", refdomain="py", reftype="obj", reftarget=target, refexplicit=True)
                link["refdoc"] = self.env.docname
                literal.replace_self(link)
                link += literal


def find_public_name(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, contnode: nodes.TextElement
) -> nodes.Node | None:
    """Look up a name that a docstring has without the package, or with the module that defines it."""
    name = PUBLIC.get(node["reftarget"].rpartition(".")[2])
    domain = env.domains.python_domain
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, contnode) if name else None


def setup(app: Sphinx) -> None:
    """Register both with Sphinx."""
    app.add_transform(NamesToLinks)
    app.connect("missing-reference", find_public_name)
