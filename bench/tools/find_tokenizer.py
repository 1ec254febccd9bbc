"""Trained tokenizers of results folders: their artifacts in a cache, and the parts built from them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..matrix.load import load_matrix
from ..matrix.matrix import Matrix
from ..matrix.yaml_text import MatrixError
from ..options.words import listed
from ..plan.make import make_plan
from ..plan.plan import Cell, Plan
from ..records.files import read_records
from ..records.labels import selects
from ..stages.trained_cell import TrainedCell
from ..store import mirror
from ..store.artifacts import Artifact, Store
from ..store.hashes import Corrupt
from ..store.stage import Stage
from ..store.user_paths import user_path
from ..user_error import UserError
from .cleaning import DEVICES
from .merge import LOCK

CHOOSE = ("dataset", "tokenizer", "regularizer")  # the axes that tell tokenizers apart, besides the seed
NAMED = 6  # rows in a message


class NotTrained(UserError, LookupError):
    """No trained tokenizer, or no single one, is what was asked for; or its weights aren't here."""


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
    plugins: Sequence[Path] = ()  # files that parts of the matrix come from
    device: str = "cpu"  # where its parts are

    @cached_property
    def artifacts(self) -> dict[str, Artifact]:
        """The artifacts by their role in later stages."""
        return {stage.kind: self.store.get(stage) for stage in self.stages}

    @cached_property
    def cell(self) -> TrainedCell:
        return TrainedCell(self.artifacts, self.device)

    def check(self) -> FoundTokenizer:
        """This tokenizer, whose artifacts are then on this machine and as they were written.

        Raises:
            NotTrained: one isn't.
        """
        for stage in self.stages:
            with _explained(stage):
                self.artifacts[stage.kind].check()
        return self


@dataclass(frozen=True)
class PlannedResults:
    """The plan of a results folder's matrix, and the caches that may have what was made by it."""

    folder: Path
    lock: Path
    plan: Plan
    stores: Sequence[Store]
    plugins: Sequence[Path] = ()

    def find(self, cell: Cell, device: str = "cpu") -> FoundTokenizer:
        """The trained tokenizer of a cell, for use on a device.

        Raises:
            NotTrained: no cache has its weights, or its training has ended without any.
        """
        labels = labels_of(cell)
        stages = _stages(self.plan, cell)
        for store in self.stores:
            made = [stage for stage in stages if store.has(stage)]
            for stage in made:
                with _explained(stage):
                    error = store.get(stage).error
                if error:
                    raise NotTrained(f"{stage.kind} {stage.label} has no weights: {error}")
            if len(made) == len(stages):
                return FoundTokenizer(self.folder, self.lock, labels, stages, store, self.plugins, device)
        where = ", ".join(str(store.root) for store in self.stores)
        raise NotTrained(
            f"no trained weights in {where}: run again, or set $LATENTBENCH_HOME to the folder of the run's "
            f"artifacts ({labels['tokenizer']} · {labels['regularizer']} is needed)"
        )


@dataclass(frozen=True)
class ResultsMatrix:
    """A matrix of a results folder, for a device that it was run on; its plugins are loaded."""

    folder: Path
    lock: Path
    matrix: Matrix
    device: str

    def planned(self) -> PlannedResults:
        """The plan, which takes a while.

        Raises:
            NotTrained: a part cannot be built, or data is missing.
        """
        try:
            plan = make_plan(self.matrix, device=self.device)
        except MatrixError as error:
            raise _unreadable(self.lock, error) from error
        stores = stores_of(self.folder)
        return PlannedResults(self.folder, self.lock, plan, stores, self.matrix.plugins)


def matrices_of(folder: Path, devices: Sequence[str] = ()) -> Iterator[ResultsMatrix]:
    """The matrices of a results folder, each for one device after the other.

    `registry.plugins_of_this_block` forgets their plugins afterwards.

    Args:
        devices: those that its records were made on unless given.

    Raises:
        NotTrained: there is no matrix, or one cannot be read.
    """
    locks = sorted(folder.glob(LOCK))
    if not locks:
        raise NotTrained(f"no {LOCK} in {folder}: a results folder as `bench run` writes it is needed")
    devices = devices or _devices(folder)
    for lock in locks:
        try:
            matrix = load_matrix(lock)
        except MatrixError as error:
            raise _unreadable(lock, error) from error
        for device in devices:
            yield ResultsMatrix(folder, lock, matrix, device)


def find_trained(folder: Path, accept: Mapping[str, Sequence[str]]) -> FoundTokenizer:
    """The only tokenizer of a results folder that a filter leaves; of several seeds, the first.

    Raises:
        NotTrained: there is none or more than one, or the cache has no weights of it.
    """
    outcomes = _search(folder, accept)
    rows = list(dict.fromkeys(labels[: len(CHOOSE)] for labels in outcomes))
    if len(rows) != 1:
        which = f"{len(rows)} tokenizers in {folder} fit: {_rows(rows)}" if rows else f"none in {folder} fits"
        raise NotTrained(f"{which}; choose one by --filter 'tokenizer=…,regularizer=…'")
    return next(iter(_trained(outcomes))).check()


def find_all_trained(
    folder: Path, accept: Mapping[str, Sequence[str]]
) -> tuple[list[FoundTokenizer], list[str]]:
    """Every tokenizer of a results folder that a filter leaves, and why others of them have no weights.

    Raises:
        NotTrained: there is none, or the cache has the weights of none.
    """
    outcomes = _search(folder, accept)
    if not outcomes:
        known = dict.fromkeys(labels[: len(CHOOSE)] for labels in _search(folder, {}))
        raise NotTrained(f"none in {folder} fits; there are {_rows([*known])}")
    found = [one.check() for one in _trained(outcomes)]
    return found, [str(reason) for reason in outcomes.values() if isinstance(reason, NotTrained)]


Labels = tuple[str, ...]  # of a tokenizer: dataset, tokenizer, regularizer, seed


def _search(folder: Path, accept: Mapping[str, Sequence[str]]) -> dict[Labels, FoundTokenizer | NotTrained]:
    """The tokenizers of a results folder that a filter leaves, or why they cannot be had.

    Other devices are planned only for those that the first has not. Generators that the filter doesn't name
    don't tell tokenizers apart.
    """
    outcomes: dict[Labels, FoundTokenizer | NotTrained] = {}
    waiting: dict[Path, set[Labels]] = {}  # by matrix, for another device
    for matrix in matrices_of(folder):
        if not waiting.get(matrix.lock, {()}):
            continue
        planned, waiting[matrix.lock] = matrix.planned(), set()
        for cell in planned.plan.cells:
            labels = tuple(labels_of(cell).values())
            if cell.real or not selects(accept, cell.identity) or not cell.scores:
                continue
            if isinstance(outcomes.get(labels), FoundTokenizer):
                continue
            try:
                outcomes[labels] = planned.find(cell)
                waiting[matrix.lock].discard(labels)
            except NotTrained as reason:
                outcomes[labels] = reason
                waiting[matrix.lock].add(labels)
    return outcomes


def _trained(outcomes: Mapping[Labels, FoundTokenizer | NotTrained]) -> list[FoundTokenizer]:
    """The tokenizers that there are; raises the first reason if there is none."""
    found = [one for one in outcomes.values() if isinstance(one, FoundTokenizer)]
    if not found:
        raise next(one for one in outcomes.values() if isinstance(one, NotTrained))
    return found


@contextmanager
def _explained(stage: Stage) -> Iterator[None]:
    """Names the stage of an artifact that turns out corrupt, and the way out."""
    try:
        yield
    except Corrupt as error:
        reason = f"{stage.kind} {stage.label} is broken in the cache: {error}"
        raise NotTrained(f"{reason}; another run makes it again") from error


def _unreadable(lock: Path, error: MatrixError) -> NotTrained:
    return NotTrained(f"{lock} cannot be read: {error.problems[0]}")


def _rows(rows: Sequence[Labels]) -> str:
    """Rows in a message, as filters that choose them."""
    return listed([",".join(f"{a}={v}" for a, v in zip(CHOOSE, row, strict=True)) for row in rows], NAMED)


def stores_of(folder: Path) -> list[Store]:
    """The caches that may have the artifacts of a results folder.

    They are in $LATENTBENCH_HOME, or else in `.bench` in the folders above, the nearest first, and here. A
    URL in the variable is a place beside these.
    """
    home = os.environ.get("LATENTBENCH_HOME", "")
    if home and "://" not in home:
        return [Store(user_path(home))]
    above = [parent / ".bench" for parent in folder.resolve().parents]
    roots = [*filter(Path.is_dir, above), Path.cwd() / ".bench"]
    return [mirror.at(root, home) for root in dict.fromkeys(roots)]


def labels_of(cell: Cell) -> dict[str, str]:
    """The labels of a cell's tokenizer: all but the generator's, and the tokenizer's own seed."""
    labels = {axis: value for axis, value in cell.identity.items() if axis != "generator"}
    return labels | {"seed": labels["seed"].split(".")[0]}


def _stages(plan: Plan, cell: Cell) -> tuple[Stage, Stage]:
    """The stages of the tokenizer and of the latents of a cell that is scored."""
    scores = map(plan.stages.__getitem__, cell.scores.values())
    latents = next(plan.stages[stage.parents["latents"]] for stage in scores if "latents" in stage.parents)
    return plan.stages[latents.parents["tokenizer"]], latents


def _devices(folder: Path) -> Sequence[str]:
    """The devices that a results folder's records were made on."""
    records = read_records(folder / "records")
    return list(dict.fromkeys(str(record.provenance.get("device", "cpu")) for record in records)) or DEVICES
