"""Pages of ``txgearman work --http``: metrics and health of a worker, or of a parent and its children."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import click
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Site

from ..testing.ports import host_and_port
from ..worker.worker import GearmanWorker
from .server import listen_errors, parse_listen
from .terminal import Terminal

try:
    from prometheus_client import REGISTRY, CollectorRegistry, ProcessCollector

    from ..http_pages import MetricsPage, StatusPage
    from ..metrics import HealthResource, PrometheusObserver
    from .shared_metrics import SharedMetrics
except ImportError as missing:
    raise click.UsageError("--http needs the extra 'metrics': python -m pip install 'txgearman[metrics]'") from missing

__all__ = ["HealthServer", "ParentHealthServer"]

_log = Logger()


class HealthServer:
    """A site with ``/metrics``, ``/healthz`` and ``/readyz``.

    :ivar observers: those of the worker whose metrics it has.
    :param listen: ``[HOST:]PORT``.
    :raises click.UsageError: it is invalid.
    """

    def __init__(self, listen: str) -> None:
        self._host, self._port = parse_listen(listen, "--http")
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._observer = PrometheusObserver(registry=self._registry)
        self.observers: list[object] = [self._observer]

    @asynccontextmanager
    async def serving(self, terminal: Terminal, worker: GearmanWorker, *, own: bool) -> AsyncIterator[None]:
        """Serve the pages while the block runs.

        :param own: whether the worker has been made with `observers`; if not, the metrics are those that its program
            has registered.
        :raises click.ClickException: the port can't be listened on.
        """
        if own:
            self._observer.watch(worker)
        resource = HealthResource([worker], registry=self._registry if own else REGISTRY)
        async with _serving(terminal, self._host, self._port, resource):
            yield


class ParentHealthServer:
    """A site with the same pages, for a parent of child processes whose metrics are added up.

    :ivar registry: for collectors of metrics of the parent itself. It has those of its process.
    :param listen: ``[HOST:]PORT``.
    :raises click.UsageError: it is invalid.
    """

    def __init__(self, listen: str) -> None:
        self._host, self._port = parse_listen(listen, "--http")
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

    @asynccontextmanager
    async def serving(
        self, terminal: Terminal, problems: Callable[[], Iterable[str]], missing: Callable[[], Iterable[str]]
    ) -> AsyncIterator[SharedMetrics]:
        """Serve the pages while the block runs.

        :param problems: returns lines that say what is wrong with the parent, for ``/healthz``; none if it is well.
        :param missing: returns lines that say why no jobs are taken, for ``/readyz``; none if some child is ready.
        :return: the metrics of the children: they need its `directory`, and it must know of their ends.
        :raises click.ClickException: the port can't be listened on.
        """
        metrics = SharedMetrics()
        try:
            self.registry.register(metrics)
            root = Resource()
            root.putChild(b"metrics", MetricsPage(self.registry))
            root.putChild(b"healthz", StatusPage(problems))
            root.putChild(b"readyz", StatusPage(missing))
            async with _serving(terminal, self._host, self._port, root):
                yield metrics
        finally:
            metrics.close()


@asynccontextmanager
async def _serving(terminal: Terminal, host: str, port: int, resource: Resource) -> AsyncIterator[None]:
    """Serve a resource while the block runs."""
    with listen_errors("--http"):
        listening = terminal.reactor.listenTCP(port, Site(resource), interface=host)
    _log.info("serving http://{address}/metrics", address=host_and_port(host, listening.getHost().port))
    try:
        yield
    finally:
        await listening.stopListening()
