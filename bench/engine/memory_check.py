"""Refuses a run whose stages cannot fit into memory, before anything trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from ..plan.cost import Cost
from ..plan.fit import Memory, Shortage, shortages
from ..plan.forecast import scaled
from ..plan.plan import Plan
from ..runtime.machine_memory import main_memory
from .run_options import RunError, RunOptions


def check_memory(plan: Plan, estimates: Mapping[str, Cost], options: RunOptions) -> None:
    """Raises RunError if a stage that is to be made needs more memory than there is, unless forced.

    A cluster's memory isn't known here, and is not checked. Processes that share a stage on several GPUs
    divide its batch: each is taken to need its share of a step alone.

    Args:
        estimates: costs by the ids of the stages that are to be made.
    """
    if options.force_memory or options.ray_address is not None:
        return
    device = None
    if options.device == "cuda":
        sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
        device = Memory("a GPU", min(sizes))
        estimates = {stage: _share(cost, options.processes) for stage, cost in estimates.items()}
    stages = [plan.stages[id] for id in estimates]
    found = shortages(stages, estimates, device, Memory("this machine", main_memory()))
    if found:
        raise RunError(_refusal(found))


def _share(cost: Cost, processes: int) -> Cost:
    """The cost for one of the processes that share a stage's batches."""
    kept = cost.activation_memory_bytes
    return replace(
        cost,
        activation_memory_bytes=None if kept is None else kept // processes,
        temporary_memory_bytes=cost.temporary_memory_bytes // processes,
    )


def _refusal(found: list[Shortage]) -> str:
    """One sentence on the stage that lacks most, and how to run it nevertheless."""
    worst = max(found, key=lambda shortage: shortage.needed)
    others = len({shortage.stage.id for shortage in found}) - 1
    names = f"{worst.stage.kind} {worst.stage.label}" + (f" (and {others} more)" if others else "")
    return (
        f"{names} needs {scaled(worst.needed, 'B')} of memory ({worst.needed:,} bytes), and"
        f" {worst.memory.owner} has {scaled(worst.memory.bytes, 'B')} ({worst.memory.bytes:,.0f} bytes):"
        f" {worst.advice}; --force-memory runs it nevertheless"
    )
