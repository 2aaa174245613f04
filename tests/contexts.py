"""With ``-p tests.contexts``, coverage notes the module whose test it is that runs a line.

One run then tells for each package what its own tests cover: ``coverage report --contexts='^$,^tests/client/'``. What
runs as modules are imported belongs to no test. Under ``coverage run`` tests run in one process; those of pytest-xdist
measure themselves, each into a file of its own.
"""

from __future__ import annotations

import os

from coverage import Coverage

IN_XDIST = "PYTEST_XDIST_WORKER" in os.environ

if IN_XDIST:
    # Here, as conftest.py, which is imported next, imports the package.
    Coverage(data_suffix=True).start()


module = ""


def pytest_runtest_logstart(nodeid: str) -> None:
    global module
    running = Coverage.current()
    before, module = module, nodeid.split("::")[0]
    # Each switch writes down what was measured. There is no measurement in the process that distributes the tests.
    if module != before and running is not None:
        running.switch_context(module)


def pytest_unconfigure() -> None:
    running = Coverage.current()
    if IN_XDIST and running is not None:
        running.stop()
        running.save()
