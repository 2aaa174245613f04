"""How the documentation is built: ``python -m sphinx -W -n docs build/docs``."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import txgearman  # noqa: E402  # it is the one of this tree

project = "txgearman"
project_copyright = "the authors of txgearman"
release = version = txgearman.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "extension"]
nitpicky = True
# What the decorator of a worker takes and returns.
nitpick_ignore_regex = [("py:class", r"txgearman\.worker\.worker\._Decorator.*")]
# Names in docstrings stand in single backticks. extension.py makes links of those that are ours.
default_role = "py:obj"

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 4

autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
# What overrides a hook of Twisted and says nothing of it is for Twisted alone.
autodoc_inherit_docstrings = False

html_theme = "furo"
html_title = f"txgearman {release}"
html_static_path = ["_static"]
html_css_files = ["txgearman.css"]
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
