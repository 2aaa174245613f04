"""Names of functions, workers and jobs as text. On the wire they are bytes, of any encoding."""

from __future__ import annotations

from ..validation import printable_name as display_name

__all__ = ["display_name"]
