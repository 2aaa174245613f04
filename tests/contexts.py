"""With ``-p tests.contexts``, coverage notes the module whose test it is that runs a line.

One run then tells for each package what its own tests cover: ``coverage report --contexts='^$,^tests/client/'``. What
runs as modules are imported belongs to no test.
"""

from __future__ import annotations

from coverage import Coverage


def pytest_runtest_logstart(nodeid: str) -> None:
    running = Coverage.current()
    assert running is not None, "this is for `coverage run`"
    running.switch_context(nodeid.split("::")[0])
