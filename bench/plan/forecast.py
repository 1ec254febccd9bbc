"""The cost of a plan as tables, sentences and plain data: by stage, by kind of stage and in total."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..options.words import listed
from ..runtime.machine_memory import main_memory
from ..store.stage import Stage
from .cost import ACCELERATORS, Accelerator, Cost
from .estimate import costs
from .fit import Memory, Shortage, shortages
from .plan import Cell, Plan

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")
MUCH_DISK = 2e11  # bytes of a stage's features or references that `bench plan` warns of
HEADER = ("kind", "stages", "cached", "parameters", "FLOPs", "memory", "disk", "time")
STAGE_HEADER = ("stage", "cells", "parameters", "FLOPs/image", "memory", "time", "state")


@dataclass(frozen=True)
class Forecast:
    """The stages of some cells of a plan and their cost on an accelerator at a share of its peak speed."""

    stages: Sequence[Stage]
    costs: dict[str, Cost]  # by stage id
    uses: Counter[str]  # number of these cells that need a stage
    cached: frozenset[str]  # ids of stages
    accelerator: Accelerator
    precision: str
    utilisation: float

    @property
    def in_main_memory(self) -> bool:
        """Whether networks are computed in main memory, as on a CPU."""
        return self.accelerator.memory is None

    def memory(self, stage: Stage) -> int | None:
        """Bytes of the memory where networks are computed, which on a CPU also holds the sets."""
        cost = self.costs[stage.id]
        return cost.cpu_memory_bytes if self.in_main_memory else cost.memory_bytes

    def hours(self, stage: Stage) -> float | None:
        return self.costs[stage.id].hours(self.accelerator, self.precision, self.utilisation)

    def plain(self, stage: Stage) -> dict[str, Any]:
        """The cost of one stage; null stands for unknown numbers."""
        plain = self.costs[stage.id].plain()
        return plain | {"memory_bytes": self.memory(stage), "accelerator_hours": self.hours(stage)}

    def totals(self) -> dict[str, Any]:
        """Sums and maxima of known numbers; `unshared` counts a stage once for each cell that needs it."""

        def sums(times: Counter[str]) -> dict[str, float]:
            return {
                "flops": sum((self.costs[s.id].flops or 0) * times[s.id] for s in self.stages),
                "disk_bytes": sum((self.costs[s.id].disk_bytes or 0) * times[s.id] for s in self.stages),
                "accelerator_hours": sum((self.hours(s) or 0) * times[s.id] for s in self.stages),
            }

        to_do = [self.hours(s) or 0 for s in self.stages if s.id not in self.cached]
        memory = [self.memory(s) or 0 for s in self.stages]
        scratch = [self.costs[s.id].scratch_disk_bytes for s in self.stages]
        return {
            "shared": sums(Counter(s.id for s in self.stages)),
            "unshared": sums(self.uses),
            "to_do": {"accelerator_hours": sum(to_do)},
            "largest_memory_bytes": max(memory, default=0),
            "largest_scratch_disk_bytes": max(scratch, default=0),
        }

    def by_kind(self) -> list[tuple[str, ...]]:
        """A row for each kind with the columns of `HEADER`: maxima of parameters and memory, else sums."""
        rows = []
        for kind in dict.fromkeys(s.kind for s in self.stages):
            stages = [s for s in self.stages if s.kind == kind]
            costs = [self.costs[s.id] for s in stages]
            rows.append(
                (
                    kind,
                    str(len(stages)),
                    str(sum(s.id in self.cached for s in stages)),
                    scaled(max(c.parameters or c.parameters_total for c in costs)),
                    _sum_text([c.flops for c in costs], scaled),
                    scaled(max(self.memory(s) or 0 for s in stages), "B"),
                    _sum_text([c.disk_bytes for c in costs], _scaled_bytes),
                    _sum_text([self.hours(s) for s in stages], _span_or_nothing),
                )
            )
        total = self.totals()["shared"]
        flops, disk = scaled(total["flops"]), scaled(total["disk_bytes"], "B")
        hours = span(total["accelerator_hours"])
        return [*rows, ("total", str(len(self.stages)), str(len(self.cached)), "", flops, "", disk, hours)]

    def by_stage(self) -> list[tuple[str, ...]]:
        """A row for each stage with the columns of `STAGE_HEADER`."""
        rows: list[tuple[str, ...]] = []
        for s in self.stages:
            cost = self.costs[s.id]
            rows.append(
                (
                    f"{s.kind} {s.label}",
                    str(self.uses[s.id]),
                    scaled(cost.parameters or cost.parameters_total),
                    _sum_text([cost.flops_per_image], scaled),
                    _sum_text([self.memory(s)], _scaled_bytes),
                    _sum_text([self.hours(s)], span),
                    self._state(s),
                )
            )
        return rows

    def _state(self, stage: Stage) -> str:
        if stage.id in self.cached:
            return "cached"
        return "to do" if stage.known else "data missing"

    def sentences(self, jobs: int = 1) -> list[str]:
        """Sentences about the hours, about stages that are not in them, and warnings of sizes.

        Args:
            jobs: number of workers at the same time, each on a core or an accelerator of its own.
        """
        accelerator, total = self.accelerator, self.totals()
        peak = accelerator.peak[self.precision]
        unknown = any(self.hours(s) is None or self.costs[s.id].partial for s in self.stages)
        least = "at least " if unknown else ""
        lines = [
            f"estimate: {least}{span(total['shared']['accelerator_hours'])} on one idle {accelerator.name} at"
            f" {self.utilisation:.0%} of its {scaled(peak)}FLOP/s in {self.precision},"
            f" {span(total['to_do']['accelerator_hours'])} of them to do;"
            f" {span(total['unshared']['accelerator_hours'])} without sharing"
        ]
        if jobs > 1:
            to_do = span(total["to_do"]["accelerator_hours"] / jobs)
            lines.append(f"with {jobs} workers that never wait: {least}{to_do}")
        reasons = Counter((s.kind, self.costs[s.id].note) for s in self.stages if self.costs[s.id].note)
        lines += [f"{count} {kind}: {note}" for (kind, note), count in reasons.items()]
        if scratch := total["largest_scratch_disk_bytes"]:
            lines.append(f"disk: up to {scaled(scratch, 'B')} more while a stage writes, for each worker")
        for s in self.stages:
            if s.kind in ("features", "reference") and (self.costs[s.id].disk_bytes or 0) > MUCH_DISK:
                size = scaled(self.costs[s.id].disk_bytes or 0, "B")
                lines.append(f"warning: {s.kind} {s.label}: {size} on disk; a reference takes `images: N`")
        return lines + self._shortages()

    def _shortages(self) -> list[str]:
        """Warnings of stages that don't fit into the memory where networks are computed."""
        if self.in_main_memory:
            found = shortages(self.stages, self.costs, None, Memory("this machine", main_memory()))
        else:
            device = Memory(self.accelerator.name, self.accelerator.memory or 0)
            found = shortages(self.stages, self.costs, device, None)
        alike: dict[str, list[Shortage]] = {}  # by the text of their memory
        for shortage in found:
            alike.setdefault(scaled(shortage.needed, "B"), []).append(shortage)
        lines = []
        for size, these in alike.items():
            names = listed([f"{one.stage.kind} {one.stage.label}" for one in these], 1)
            memory = these[0].memory
            lines.append(
                f"warning: {names}: {size} do not fit {memory.owner}'s {scaled(memory.bytes, 'B')};"
                f" {these[0].advice}"
            )
        return lines


def forecast(
    plan: Plan,
    cells: Iterable[Cell],
    cached: Iterable[str],
    accelerator: str,
    precision: str,
    utilisation: float,
) -> Forecast:
    """The forecast for some cells; `accelerator` is a key of `ACCELERATORS`, `cached` are ids of stages."""
    cells = list(cells)
    stages = plan.needed(cells)
    uses = Counter(s.id for cell in cells for s in plan.needed([cell]))
    needed = frozenset(cached) & {s.id for s in stages}
    return Forecast(
        stages, costs(plan, stages), uses, needed, ACCELERATORS[accelerator], precision, utilisation
    )


def scaled(value: float, unit: str = "") -> str:
    """Three digits with a decimal prefix: 1234567 -> `1.23 M`; an empty text for 0."""
    if not value:
        return ""
    power = 0
    while power + 1 < len(PREFIXES) and value >= 999.5 * 1000**power:
        power += 1
    return f"{value / 1000**power:.3g} {PREFIXES[power]}{unit}".rstrip()


def span(hours: float) -> str:
    """A duration in hours, minutes or seconds: `3.2 h`."""
    for unit, size in (("h", 1), ("min", 60), ("s", 3600)):
        if hours * size >= 1:
            return f"{hours * size:,.0f} {unit}" if hours * size >= 1000 else f"{hours * size:.3g} {unit}"
    return f"{hours * 3600:.2g} s"


def _sum_text(values: Iterable[float | None], text: Callable[[float], str]) -> str:
    """The sum of known values as text; `?` if none is known."""
    known = [value for value in values if value is not None]
    return text(sum(known, 0.0)) if known else "?"


def _scaled_bytes(size: float) -> str:
    return scaled(size, "B")


def _span_or_nothing(hours: float) -> str:
    return span(hours) if hours else ""
