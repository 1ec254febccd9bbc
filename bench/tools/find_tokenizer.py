"""A trained tokenizer of a results folder: its artifacts in the cache, and the parts built from them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..matrix.load import load_matrix
from ..matrix.yaml_text import MatrixError
from ..options.words import listed
from ..plan.make import make_plan
from ..plan.plan import Cell, Plan
from ..records.labels import selects
from ..stages.trained_cell import TrainedCell
from ..store.artifacts import Artifact, Store, home
from ..store.stage import Stage
from ..user_error import UserError
from .cleaning import DEVICES
from .merge import LOCK

CHOOSE = ("dataset", "tokenizer", "regularizer")  # the axes that tell tokenizers apart, besides the seed
NAMED = 6  # rows in a message


class NotTrained(UserError, ValueError):
    """No trained tokenizer, or no single one, is what was asked for."""


@dataclass(frozen=True)
class FoundTokenizer:
    """A trained tokenizer with its regularizer.

    `labels` are those of its cell without the generator; `stages` are its tokenizer's and its latents'.
    """

    folder: Path  # of results
    lock: Path  # its matrix
    labels: Mapping[str, str]
    stages: tuple[Stage, Stage]
    store: Store

    @cached_property
    def artifacts(self) -> dict[str, Artifact]:
        """The artifacts by their role in later stages."""
        return {stage.kind: self.store.get(stage) for stage in self.stages}

    @cached_property
    def cell(self) -> TrainedCell:
        return TrainedCell(self.artifacts, "cpu")


def find_trained(folder: Path, accept: Mapping[str, Sequence[str]]) -> FoundTokenizer:
    """The only tokenizer of a results folder that a filter leaves; of several seeds, the first.

    Raises:
        NotTrained: there is none or more than one, or the cache has no weights of it.
    """
    locks = sorted(folder.glob(LOCK))
    if not locks:
        raise NotTrained(f"no {LOCK} in {folder}: a results folder as `bench run` writes it is needed")
    store = Store(cache_of(folder))
    chosen = [
        (lock, plan, cell) for lock in locks for plan in _plans(lock) for cell in _tokenizers(plan, accept)
    ]
    rows = list(dict.fromkeys(tuple(cell.identity[axis] for axis in CHOOSE) for *_, cell in chosen))
    if len(rows) != 1:
        names = listed(
            [",".join(f"{a}={v}" for a, v in zip(CHOOSE, row, strict=True)) for row in rows], NAMED
        )
        which = f"{len(rows)} tokenizers in {folder} fit: {names}" if rows else f"none in {folder} fits"
        raise NotTrained(f"{which}; choose one by --filter 'tokenizer=…,regularizer=…'")
    for lock, plan, cell in chosen:
        stages = _stages(plan, cell)
        if stages and all(store.has(stage) for stage in stages):
            labels = {axis: value for axis, value in cell.identity.items() if axis != "generator"}
            found = FoundTokenizer(folder, lock, labels, stages, store)
            for stage in stages:
                if error := store.get(stage).error:
                    raise NotTrained(f"{stage.kind} {stage.label} has no weights: {error}")
                store.get(stage).check()
            return found
    raise NotTrained(
        f"the weights of {' '.join(rows[0][1:])} aren't in {store.root}: run its matrix again, or set "
        "LATENTBENCH_HOME to the folder of the run's artifacts"
    )


def cache_of(folder: Path) -> Path:
    """The artifacts of a results folder: $LATENTBENCH_HOME, or the nearest `.bench` in a folder above."""
    above = [parent / ".bench" for parent in folder.resolve().parents]
    nearest = next((path for path in above if path.is_dir()), Path(".bench"))
    return home(nearest.parent / "matrix.yaml") if os.environ.get("LATENTBENCH_HOME") else nearest


def _plans(lock: Path) -> Iterable[Plan]:
    try:
        return [make_plan(load_matrix(lock), device=device) for device in DEVICES]
    except MatrixError as error:
        raise NotTrained(f"{lock} cannot be read: {error.problems[0]}") from error


def _tokenizers(plan: Plan, accept: Mapping[str, Sequence[str]]) -> list[Cell]:
    """The chosen cells that have latents; generators that weren't named don't tell tokenizers apart."""
    return [
        cell
        for cell in plan.cells
        if cell.tokenizer != "real" and selects(accept, cell.identity) and _stages(plan, cell)
    ]


def _stages(plan: Plan, cell: Cell) -> tuple[Stage, Stage] | None:
    """The stages of a cell's tokenizer and latents."""
    if not cell.scores:
        return None
    for stage in map(plan.stages.__getitem__, cell.scores.values()):
        if "latents" in stage.parents:
            latents = plan.stages[stage.parents["latents"]]
            return plan.stages[latents.parents["tokenizer"]], latents
    return None
