"""`lb.preview`: what a run would make, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import registry
from ..engine.open_plan import OpenPlan
from ..leaderboard.numbers import plural
from ..plan.cost import ACCELERATORS
from ..plan.forecast import HEADER, Forecast, forecast, span
from ..plan.plan import Cell, skipped_lines
from .opening import ArgumentError, MatrixLike, opened
from .tables import html_table

if TYPE_CHECKING:
    import pandas as pd


class Preview:
    """The cells and stages of a run with their costs; nothing of it has been made."""

    def __init__(self, plan: OpenPlan, costs: Forecast) -> None:
        self._plan, self._costs = plan, costs

    @property
    def cells(self) -> list[Cell]:
        """The chosen cells; those that cannot work have the reason in `skipped`."""
        return [cell for cell in self._plan.cells if not cell.real]

    @property
    def hours(self) -> float:
        """Estimated hours of what isn't in the cache, on one accelerator or core."""
        return float(self._costs.totals()["to_do"]["accelerator_hours"])

    def frame(self) -> pd.DataFrame:
        """A row for each stage: kind, label, cells that need it, cached, parameters, FLOPs, memory, hours."""
        import pandas as pd

        costs = self._costs
        rows = [
            {
                "kind": stage.kind,
                "label": stage.label,
                "cells": costs.uses[stage.id],
                "cached": stage.id in costs.cached,
                "parameters": costs.costs[stage.id].parameters,
                "flops": costs.costs[stage.id].flops,
                "memory_bytes": costs.memory(stage),
                "hours": costs.hours(stage),
            }
            for stage in costs.stages
        ]
        return pd.DataFrame(rows)

    @property
    def _headline(self) -> str:
        matrix, cells, costs = self._plan.matrix, self.cells, self._costs
        skipped = sum(cell.skipped is not None for cell in cells)
        text = f"{matrix.name}: {plural(len(cells), 'cell')}" + (f" ({skipped} skipped)" if skipped else "")
        text += f", {plural(len(costs.stages), 'stage')}, {len(costs.cached)} cached"
        return f"{text}; {span(self.hours)} to do on one {costs.accelerator.name}"

    @property
    def _notes(self) -> list[str]:
        return [*self._costs.sentences(), *skipped_lines(self.cells), *self._plan.notes]

    def __repr__(self) -> str:
        from tabulate import tabulate

        table = tabulate(self._costs.by_kind(), HEADER, tablefmt="plain", disable_numparse=True)
        return "\n".join([self._headline, table, *self._notes])

    def _repr_html_(self) -> str:
        table = [list(HEADER), *map(list, self._costs.by_kind())]
        return html_table(table, self._headline, self._notes)


def preview(
    matrix: MatrixLike,
    *,
    profile: str | Sequence[str] = (),
    filter: str | None = None,
    seeds: int | Sequence[int] | None = None,
    output: str | Path | None = None,
    jobs: int = 0,
    device: str = "cpu",
    parts: Sequence[type] | type = (),
    offline: bool = False,
    progress: bool = True,
    accelerator: str | None = None,
    utilisation: float = 0.35,
) -> Preview:
    """The plan of a run with its estimated cost; the arguments are `run`'s, and nothing is downloaded.

    Args:
        output, jobs, progress: taken, so that the arguments of a run can be passed on; they change nothing.
        accelerator: "h100", "a100", "rtx4090" or "cpu", which hours are estimated for; by the device unless
            given.
        utilisation: the share of its peak that is used.

    Raises:
        MatrixError: with all problems of the matrix.
    """
    accelerator = accelerator or ("h100" if device == "cuda" else "cpu")
    if accelerator not in ACCELERATORS:
        raise ArgumentError(registry.unknown("accelerator", accelerator, list(ACCELERATORS)))
    choice = {"profile": profile, "filter": filter, "seeds": seeds, "device": device, "parts": parts}
    with opened(matrix, **choice, offline=offline) as plan:  # type: ignore[arg-type]
        cached = [stage.id for stage in plan.needed if plan.store.has(stage)]
        precision = plan.matrix.precision
        costs = forecast(plan.plan, plan.cells, cached, accelerator, precision, utilisation)
        return Preview(plan, costs)
