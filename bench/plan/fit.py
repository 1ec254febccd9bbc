"""Whether stages fit into memory, and what to change where one doesn't."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..store.stage import Stage
from .cost import Cost


@dataclass(frozen=True)
class Memory:
    """Bytes of memory, and whose they are: `this machine`, `h100`."""

    owner: str
    bytes: float


@dataclass(frozen=True)
class Shortage:
    """A stage that needs more memory than there is."""

    stage: Stage
    cost: Cost
    needed: int  # bytes
    memory: Memory

    @property
    def advice(self) -> str:
        """A change that takes less memory, by what takes most of it now."""
        cost, config = self.cost, self.stage.config
        step = (cost.activation_memory_bytes or 0) + cost.temporary_memory_bytes
        networks = cost.weights_memory_bytes + cost.optimizer_memory_bytes
        if max(step, networks) < cost.set_memory_bytes + cost.passing_memory_bytes:
            return cost.memory_advice or "fewer images take less"
        if step < networks:
            return "smaller networks take less"
        if "batch" not in config:
            return cost.memory_advice or "a smaller latent or image takes less"
        batch = f"a smaller batch takes less (`budget: {{batch: {config['batch']}}}` now)"
        kept = (cost.activation_memory_bytes or 0) > step / 2
        return (
            f"{batch}, and so does `checkpointing: true`" if kept and "checkpointing" not in config else batch
        )


def shortages(
    stages: Iterable[Stage], costs: Mapping[str, Cost], device: Memory | None, main: Memory | None
) -> list[Shortage]:
    """The stages that cannot fit, in order; what isn't known of a cost doesn't count.

    Args:
        costs: by stage id.
        device: an accelerator's memory; None where networks are computed in main memory.
        main: main memory; None where it isn't known.
    """
    found = []
    for stage in stages:
        cost = costs[stage.id]
        needs = [(cost.known_memory(of_cpu=True), main)]
        if device is not None:
            needs = [(cost.known_memory(of_cpu=False), device), (cost.host_memory_bytes, main)]
        found += [
            Shortage(stage, cost, needed, memory)
            for needed, memory in needs
            if memory is not None and needed > memory.bytes
        ]
    return found
