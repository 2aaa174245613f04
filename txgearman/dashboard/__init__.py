"""A web page that shows job servers, functions and workers: `Dashboard`.

Import it by its name: ``from txgearman.dashboard import Dashboard``. The modules, from the bottom up: `history` keeps
numbers in memory; `document` makes one JSON document of each poll; `poller` polls; `events` sends documents to all
viewers; `lookups` asks servers about jobs; `hosts`, `pages`, `table`, `scrape` and `resource` are the pages of
``twisted.web``; `dashboard` puts all together. The page in the browser is ``page.html``, ``page.js`` and ``page.css``.
"""

from .dashboard import Dashboard

__all__ = ["Dashboard"]
