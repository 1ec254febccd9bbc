"""`--shard I/N`: a plan's cells are dealt to N runs, so that few stages are needed by several runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .plan import Cell, Plan

Work = tuple[float, int]  # known FLOPs, and number of cells


def parse(text: str) -> tuple[int, int]:
    """`2/8` -> (2, 8), the second of eight shards.

    Raises:
        ValueError: if the text is no I/N with I from 1 to N.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--shard takes I/N with I from 1 to N, such as 1/8, not {text!r}")
    return int(match[1]), int(match[2])


def deal(
    plan: Plan, cells: Sequence[Cell], count: int, flops: Mapping[str, float | None]
) -> list[list[Cell]]:
    """The cells of each of `count` shards, in the plan's order; cached stages don't change them.

    Cells of one trained tokenizer stay together unless there are fewer tokenizers than shards. The largest
    groups are dealt first, each to the shard with the least work; `flops` are by stage id.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_tokenizer(plan, cell), []).append(cell)
    untrained = groups.pop("", [])
    units = [(_work(plan, group, flops), group) for group in groups.values()]
    while len(units) < count:
        units.sort(key=lambda unit: unit[0], reverse=True)
        largest = next((i for i, (_, group) in enumerate(units) if len(group) > 1), None)
        if largest is None:  # every group is a single cell
            break
        _, group = units.pop(largest)
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
    """The stage that trains a cell's tokenizer; "" for held-out images and skipped cells."""
    stages = [plan.stages[stage] for stage in cell.scores.values()]
    return next((stage.parents["tokenizer"] for stage in stages if "tokenizer" in stage.parents), "")


def _work(plan: Plan, cells: Sequence[Cell], flops: Mapping[str, float | None]) -> Work:
    return sum(flops.get(stage.id) or 0.0 for stage in plan.needed(cells)), len(cells)
