"""What tests look at inside a `GearmanWorker`; its own attributes they leave alone."""

from __future__ import annotations

from txgearman import GearmanWorker
from txgearman.worker.groups import FunctionGroup
from txgearman.worker.scheduler import WorkerScheduler


def scheduler_of(worker: GearmanWorker) -> WorkerScheduler:
    return worker._scheduler


def slots_held(worker: GearmanWorker) -> int:
    """How many jobs run or are requested."""
    return scheduler_of(worker).slots.held


def group_of(worker: GearmanWorker) -> FunctionGroup:
    """The group of the functions without a limit."""
    return scheduler_of(worker).unlimited


def slots_of_group(worker: GearmanWorker) -> int:
    """How many slots that group holds."""
    return scheduler_of(worker).slots.held_by(group_of(worker))
