"""A plan's costs as people and machines read them: by stage, by kind, and in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..store.stage import Stage
from .cost import ACCELERATORS, Accelerator, Cost
from .estimate import costs
from .plan import Cell, Plan

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")
MUCH = 2e11  # bytes of features
HEADER = ("kind", "stages", "cached", "parameters", "FLOPs", "memory", "disk", "hours")
STAGE_HEADER = ("stage", "cells", "parameters", "FLOPs/image", "memory", "hours", "state")


@dataclass(frozen=True)
class Forecast:
    """The stages of some cells of a plan, and what they cost on an accelerator of which a share is used."""

    stages: Sequence[Stage]
    costs: dict[str, Cost]  # by stage id
    uses: Counter[str]  # how many of the cells need a stage
    cached: frozenset[str]
    accelerator: Accelerator
    precision: str
    utilisation: float

    def hours(self, stage: Stage) -> float | None:
        return self.costs[stage.id].hours(self.accelerator, self.precision, self.utilisation)

    def plain(self, stage: Stage) -> dict[str, Any]:
        """Of one stage; null is what isn't known."""
        return self.costs[stage.id].plain() | {"accelerator_hours": self.hours(stage)}

    def totals(self) -> dict[str, Any]:
        """Sums of what is known: with stages shared and, as if each cell were run alone, without."""
        found: dict[str, Any] = {}
        for name, times in (("shared", Counter({s.id: 1 for s in self.stages})), ("unshared", self.uses)):
            found[name] = {
                "flops": sum((self.costs[s.id].flops or 0) * times[s.id] for s in self.stages),
                "disk_bytes": sum((self.costs[s.id].disk_bytes or 0) * times[s.id] for s in self.stages),
                "accelerator_hours": sum((self.hours(s) or 0) * times[s.id] for s in self.stages),
            }
        todo = [s for s in self.stages if s.id not in self.cached]
        found["to_do"] = {"accelerator_hours": sum(self.hours(s) or 0 for s in todo)}
        known = [self.costs[s.id].memory_bytes or 0 for s in self.stages]
        scratch = max((self.costs[s.id].scratch_disk_bytes for s in self.stages), default=0)
        return found | {"largest_memory_bytes": max(known, default=0), "largest_scratch_disk_bytes": scratch}

    def by_kind(self) -> list[tuple[str, ...]]:
        """A row for each kind, as `HEADER` has it: the largest of parameters and memory, sums of others."""
        rows = []
        for kind in dict.fromkeys(s.kind for s in self.stages):
            mine = [s for s in self.stages if s.kind == kind]
            found = [self.costs[s.id] for s in mine]
            rows.append(
                (
                    kind,
                    str(len(mine)),
                    str(sum(s.id in self.cached for s in mine)),
                    scaled(max(c.parameters or c.parameters_total for c in found)),
                    _sum(c.flops for c in found),
                    scaled(max(c.memory_bytes or 0 for c in found), "B"),
                    _sum((c.disk_bytes for c in found), "B"),
                    _sum(map(self.hours, mine), hours=True),
                )
            )
        total = self.totals()["shared"]
        flops, disk = scaled(total["flops"]), scaled(total["disk_bytes"], "B")
        hours = span(total["accelerator_hours"])
        return [*rows, ("total", str(len(self.stages)), str(len(self.cached)), "", flops, "", disk, hours)]

    def by_stage(self) -> list[tuple[str, ...]]:
        """A row for each stage, as `STAGE_HEADER` names it."""
        rows: list[tuple[str, ...]] = []
        for s in self.stages:
            cost, hours = self.costs[s.id], self.hours(s)
            state = "cached" if s.id in self.cached else "to do" if s.known else "data missing"
            per_image = "?" if cost.flops_per_image is None else scaled(cost.flops_per_image)
            memory = "?" if cost.memory_bytes is None else scaled(cost.memory_bytes, "B")
            took = "?" if hours is None else span(hours)
            parameters = scaled(cost.parameters or cost.parameters_total)
            rows.append(
                (f"{s.kind} {s.label}", str(self.uses[s.id]), parameters, per_image, memory, took, state)
            )
        return rows

    def sentences(self) -> list[str]:
        """What the hours mean, what isn't in them, and what doesn't fit."""
        one, total = self.accelerator, self.totals()
        peak = one.peak[self.precision]
        said = [
            f"estimate: {span(total['shared']['accelerator_hours'])} on one {one.name} at"
            f" {self.utilisation:.0%} of its {scaled(peak)}FLOP/s in {self.precision},"
            f" {span(total['to_do']['accelerator_hours'])} of them to do;"
            f" {span(total['unshared']['accelerator_hours'])} without sharing"
        ]
        reasons = Counter((s.kind, self.costs[s.id].note) for s in self.stages if self.costs[s.id].note)
        said += [f"{count} {kind}: {note}" for (kind, note), count in reasons.items()]
        if scratch := total["largest_scratch_disk_bytes"]:
            said.append(f"disk: up to {scaled(scratch, 'B')} more while a stage writes, for each worker")
        for s in self.stages:
            if s.kind in ("features", "reference") and (self.costs[s.id].disk_bytes or 0) > MUCH:
                size = scaled(self.costs[s.id].disk_bytes or 0, "B")
                said.append(f"warning: {s.kind} {s.label}: {size} on disk; a reference takes `images: N`")
        large: dict[str, list[Stage]] = {}
        for s in self.stages:
            if (self.costs[s.id].memory_bytes or 0) > one.memory:
                large.setdefault(scaled(self.costs[s.id].memory_bytes or 0, "B"), []).append(s)
        for size, (first, *others) in large.items():
            more = f" and {len(others)} more" if others else ""
            said.append(
                f"warning: {first.kind} {first.label}{more}: {size} do not fit {one.name}'s"
                f" {scaled(one.memory, 'B')}"
            )
        return said


def forecast(
    plan: Plan,
    cells: Iterable[Cell],
    cached: Iterable[str],
    accelerator: str,
    precision: str,
    utilisation: float,
) -> Forecast:
    """Of some cells; `accelerator` is a name in `estimate.ACCELERATORS`, `cached` are ids of stages."""
    cells = list(cells)
    stages = plan.needed(cells)
    uses = Counter(s.id for cell in cells for s in plan.needed([cell]))
    mine = frozenset(cached) & {s.id for s in stages}
    found = costs(plan, stages)
    return Forecast(stages, found, uses, mine, ACCELERATORS[accelerator], precision, utilisation)


def scaled(value: float, unit: str = "") -> str:
    """Three digits with a decimal prefix, 0 as nothing: 1234567 -> `1.23 M`."""
    if not value:
        return ""
    place = 0
    while place + 1 < len(PREFIXES) and value >= 999.5 * 1000**place:
        place += 1
    return f"{value / 1000**place:.3g} {PREFIXES[place]}{unit}".rstrip()


def span(hours: float) -> str:
    """Hours, or minutes or seconds if there are few: `3.2 h`."""
    for unit, size in (("h", 1), ("min", 60), ("s", 3600)):
        if hours * size >= 1:
            return f"{hours * size:,.0f} {unit}" if hours * size >= 1000 else f"{hours * size:.3g} {unit}"
    return f"{hours * 3600:.2g} s"


def _sum(values: Iterable[float | None], unit: str = "", hours: bool = False) -> str:
    """The sum of what is known; `?` if nothing is."""
    known = [value for value in values if value is not None]
    if not known:
        return "?"
    total = sum(known, 0.0)
    return span(total) if hours and total else scaled(total, unit)
