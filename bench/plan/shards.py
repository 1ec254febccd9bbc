"""`--shard I/N`: the cells of a plan dealt to N runs, which share as few stages as possible."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .plan import Cell, Plan

Work = tuple[float, int]  # FLOPs as far as they are known, and cells


def parse(text: str) -> tuple[int, int]:
    """`2/8` -> (2, 8): the second of eight; ValueError says what is wrong."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"--shard takes I/N with I from 1 to N, such as 1/8, not {text!r}")
    return int(found[1]), int(found[2])


def deal(
    plan: Plan, cells: Sequence[Cell], count: int, flops: Mapping[str, float | None]
) -> list[list[Cell]]:
    """The cells of each of `count` shards, in the plan's order; the same on every machine, cached or not.

    Cells of one trained tokenizer stay together unless there are fewer tokenizers than shards. `flops` are
    by stage id; the largest groups are dealt first, each to the shard that has least to do.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_tokenizer(plan, cell), []).append(cell)
    untrained = groups.pop("", [])
    units = [(_work(plan, group, flops), group) for group in groups.values()]
    while len(units) < count:
        units.sort(key=lambda unit: unit[0], reverse=True)
        place = next((i for i, (_, group) in enumerate(units) if len(group) > 1), None)
        if place is None:
            break
        _, group = units.pop(place)
        half = len(group) // 2
        units += [(_work(plan, part, flops), part) for part in (group[:half], group[half:])]
    if untrained:
        units.append((_work(plan, untrained, flops), untrained))
    shards: list[set[str]] = [set() for _ in range(count)]
    loads: list[Work] = [(0.0, 0)] * count
    for work, group in sorted(units, key=lambda unit: unit[0], reverse=True):
        least = loads.index(min(loads))
        loads[least] = (loads[least][0] + work[0], loads[least][1] + work[1])
        shards[least] |= {cell.key for cell in group}
    return [[cell for cell in cells if cell.key in shard] for shard in shards]


def _tokenizer(plan: Plan, cell: Cell) -> str:
    """The stage that trains its tokenizer; none for held-out images and for cells that are skipped."""
    stages = [plan.stages[one] for one in cell.scores.values()]
    return next((stage.parents["tokenizer"] for stage in stages if "tokenizer" in stage.parents), "")


def _work(plan: Plan, cells: Sequence[Cell], flops: Mapping[str, float | None]) -> Work:
    return sum(flops.get(stage.id) or 0.0 for stage in plan.needed(cells)), len(cells)
