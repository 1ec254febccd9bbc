"""`bench plan`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import registry
from .console import UsageError, out, plain_table, print_json
from .open_plan import contents, headline, open_plan
from .safe_text import Text
from .shared_options import (
    DeviceOption,
    FilterOption,
    JsonOption,
    MatrixOption,
    PluginOption,
    ProfileOption,
    SeedsOption,
    ShardOption,
    StoreOption,
)

if TYPE_CHECKING:
    from ..engine.open_plan import OpenPlan
    from ..plan.forecast import Forecast


def plan(
    matrix: MatrixOption = Path("matrix.yaml"),
    profile: ProfileOption = None,
    filter: FilterOption = None,
    seeds: SeedsOption = None,
    plugin: PluginOption = None,
    device: DeviceOption = "cpu",
    accelerator: Annotated[
        str | None,
        typer.Option(
            "--accelerator", metavar="A", help="h100, a100, rtx4090 or cpu.  [default: cpu; h100 with cuda]"
        ),
    ] = None,
    utilisation: Annotated[
        float, typer.Option("--utilisation", min=0.001, max=1, help="The share of its peak that is used.")
    ] = 0.35,
    jobs: Annotated[
        int,
        typer.Option("-j", "--jobs", metavar="N", min=1, help="Also say how long N workers take at least."),
    ] = 1,
    by_stage: Annotated[bool, typer.Option("--stages", help="A line for each stage.")] = False,
    shard: ShardOption = None,
    store_url: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a run would make and what that costs; runs nothing. Marks shared and cached stages."""
    from ..plan.cost import ACCELERATORS
    from ..plan.forecast import forecast

    accelerator = accelerator or ("h100" if device == "cuda" else "cpu")
    if accelerator not in ACCELERATORS:
        raise UsageError(registry.unknown("accelerator", accelerator, list(ACCELERATORS)))
    opened = open_plan(matrix, profile, filter, seeds, plugin, device, shard, store_url)
    cached = [stage.id for stage in opened.needed if opened.store.has(stage)]
    precision = opened.matrix.precision
    costs = forecast(opened.plan, opened.cells, cached, accelerator, precision, utilisation)
    if as_json:
        hardware = {"name": accelerator, "utilisation": utilisation, "precision": precision}
        print_json(_plan_json(opened, costs, hardware))
    else:
        _print_plan(opened, costs, len(cached), by_stage, jobs)


def _plan_json(opened: OpenPlan, costs: Forecast, accelerator: dict[str, Any]) -> dict[str, Any]:
    used = dict.fromkeys(cell.dataset for cell in opened.cells)
    return {
        "name": opened.matrix.name,
        "home": str(opened.store.root),
        "accelerator": accelerator,
        "datasets": {label: opened.plan.descriptions[label] for label in used},
        "notes": opened.notes,
        "totals": costs.totals(),
        "cells": [
            {
                "cell": cell.identity,
                "key": cell.key,
                "skipped": cell.skipped,
                "scores": list(cell.scores.values()),
            }
            for cell in opened.cells
        ],
        "stages": [
            {
                "kind": stage.kind,
                "key": stage.key,
                "label": stage.label,
                "cached": stage.id in costs.cached,
                "cells": opened.plan.uses[stage.id],
                "parents": stage.parents,
                **costs.plain(stage),
            }
            for stage in opened.needed
        ],
    }


def _print_plan(opened: OpenPlan, costs: Forecast, cached: int, by_stage: bool, jobs: int) -> None:
    from ..plan.forecast import HEADER, STAGE_HEADER

    tables: list[tuple[Sequence[str], list[tuple[str, ...]]]] = [(HEADER, costs.by_kind())]
    if by_stage:
        tables.insert(0, (STAGE_HEADER, costs.by_stage()))
    for header, rows in tables:
        table = plain_table(header, left=("kind", "stage", "state"))
        for row in rows:
            table.add_row(*map(Text, row))
        out.print(table)
    for sentence in costs.sentences(jobs):
        out.print(Text(sentence), soft_wrap=True)
    for line in (*contents(opened), headline(opened, cached)):
        out.print(line, soft_wrap=True)
    saved = sum(costs.uses[stage.id] - 1 for stage in opened.needed)
    store = opened.store
    folders = f"{store.root} and {store.url}" if store.url else store.root
    out.print(f"sharing saves {saved} stages; artifacts are kept in {folders}", soft_wrap=True)
