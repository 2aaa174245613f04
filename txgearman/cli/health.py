"""Pages of ``txgearman work --http``: metrics and health of a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click
from twisted.logger import Logger
from twisted.web.server import Site

from ..testing.ports import host_and_port
from ..worker.worker import GearmanWorker
from .server import listen_errors, parse_listen
from .terminal import Terminal

try:
    from prometheus_client import REGISTRY, CollectorRegistry, ProcessCollector

    from ..metrics import HealthResource, PrometheusObserver
except ImportError as missing:
    raise click.UsageError("--http needs the extra 'metrics': python -m pip install 'txgearman[metrics]'") from missing

__all__ = ["HealthServer"]

_log = Logger()


class HealthServer:
    """A site with ``/metrics``, ``/healthz`` and ``/readyz``.

    :ivar observers: those of the worker whose metrics it has.
    """

    def __init__(self, listen: str) -> None:
        """
        :param listen: ``[HOST:]PORT``.
        :raises click.UsageError: it is invalid.
        """
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
        :raises click.UsageError: the port can't be listened on.
        """
        if own:
            self._observer.watch(worker)
        resource = HealthResource([worker], registry=self._registry if own else REGISTRY)
        with listen_errors():
            port = terminal.reactor.listenTCP(self._port, Site(resource), interface=self._host)
        _log.info("serving http://{address}/metrics", address=host_and_port(self._host, port.getHost().port))
        try:
            yield
        finally:
            await port.stopListening()
