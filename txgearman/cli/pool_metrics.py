"""Metrics of ``txgearman work --processes`` itself: how its children are, and how they have ended.

It needs the extra ``metrics``.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .child import ChildState
from .supervisor import Supervisor

__all__ = ["ChildrenCollector"]


class ChildrenCollector(Collector):
    """Reads the state of the children when it is asked for.

    ==========================================  ==========================================================
    ``txgearman_work_children``                 child processes, by ``state``
    ``txgearman_work_children_blocked``         of them, those that a job blocks for half a minute or more
    ``txgearman_work_children_wanted``          as many as there are to be; 0 at the end
    ``txgearman_work_children_ended_total``     those that have ended, by ``reason``: ``exited`` unasked,
                                                ``killed`` by a signal of others, ``drained``, ``failed``
                                                (ended by force)
    ==========================================  ==========================================================
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def collect(self) -> Iterator[Metric]:
        supervisor = self._supervisor
        children = supervisor.children
        states = GaugeMetricFamily("txgearman_work_children", "Child processes, by their state.", labels=["state"])
        for state in ChildState:
            if state is not ChildState.ENDED:
                states.add_metric([state.value], sum(child.state is state for child in children))
        yield states
        blocked = sum(child.blocked for child in children)
        yield GaugeMetricFamily("txgearman_work_children_blocked", "Child processes that a job blocks.", blocked)
        wanted = supervisor.wanted
        yield GaugeMetricFamily("txgearman_work_children_wanted", "Child processes that are wanted.", wanted)
        documentation = "Child processes that have ended."
        ends = CounterMetricFamily("txgearman_work_children_ended", documentation, labels=["reason"])
        for reason, count in supervisor.ends.items():
            ends.add_metric([reason], count)
        yield ends
