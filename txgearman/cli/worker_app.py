"""``txgearman work --app``: runs a worker that a program has made."""

from __future__ import annotations

from contextlib import AsyncExitStack

import click

from ..worker.worker import GearmanWorker
from .child_status import ChildOptions
from .child_worker import status_reports
from .exit_codes import ExitCode
from .job_tracker import JobTracker
from .terminal import Terminal
from .work import import_object
from .worker_run import WorkerRun

__all__ = ["load_worker", "work_app"]


def load_worker(name: str) -> GearmanWorker:
    """Return the worker of a name such as ``package.module:worker``, which is a worker or a callable that makes one.

    :raises click.UsageError: the name is invalid, or there is no worker.
    """
    found = import_object("--app", name)
    made = found() if callable(found) and not isinstance(found, GearmanWorker) else found
    if not isinstance(made, GearmanWorker):
        raise click.UsageError(f"--app must name a GearmanWorker, or a callable that makes one, not {made!r:.80}")
    return made


async def work_app(
    terminal: Terminal, name: str, drain_timeout: float, http: str | None, child: ChildOptions | None = None
) -> ExitCode:
    """Run a worker until a signal. Running jobs may finish.

    :param name: see `load_worker`.
    :param drain_timeout: seconds that running jobs have to finish.
    :param http: ``[HOST:]PORT`` of the pages with metrics and health; None for no pages.
    :param child: options of a child of ``--processes``, which has no pages of its own; None if it is none.
    """
    async with AsyncExitStack() as stack:
        start_reports = stack.enter_context(status_reports(terminal.reactor, child))
        worker = load_worker(name)
        tracker = JobTracker(terminal.reactor, threaded=False, verbose=False)  # the functions are the program's
        if http is not None:
            from .health import HealthServer  # it needs an extra

            await stack.enter_async_context(HealthServer(http).serving(terminal, worker, own=False))
        start_reports(worker)
        is_child = child is not None
        return await WorkerRun(terminal, worker, tracker, drain_timeout=drain_timeout, is_child=is_child).run()
