"""A plan: stages in an order that respects their parents, and the cells that need them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..api import Dataset, FeatureExtractor, Generator, ReferenceSource, Regularizer, Tokenizer
from ..leaderboard.numbers import plural
from ..options.words import listed
from ..records.labels import without_name
from ..store.stage import Stage, digest

PROBE = "step="  # before the step, in the name of a snapshot's scores
TRAINED = ("prior", "tokenizer", "generator")  # kinds of stages


@dataclass(frozen=True)
class Cell:
    """A combination of dataset, tokenizer, regularizer, generator and seed, with the stages that score it."""

    dataset: str
    tokenizer: str
    regularizer: str
    generator: str
    seed: str
    # Ids of scores stages by "" (tokenizer scope), the guidance as text or CHOSEN, or PROBE and a generator's
    # step.
    scores: dict[str, str]
    skipped: str | None = None

    @property
    def identity(self) -> dict[str, str]:
        names = ("dataset", "tokenizer", "regularizer", "generator", "seed")
        return {name: getattr(self, name) for name in names}

    @property
    def real(self) -> bool:
        """Whether the cell scores held-out images of its dataset, which no tokenizer has seen."""
        return self.tokenizer == "real"

    @property
    def key(self) -> str:
        return digest({"cell": self.identity, "scores": self.scores, "skipped": self.skipped})

    @property
    def name(self) -> str:
        """The cell's name in progress lines."""
        return " · ".join([*list(self.identity.values())[:4], f"seed {self.seed}"])


@dataclass(frozen=True)
class Built:
    """The parts that a stage works on, for estimates; equal rows share modules, on the meta device."""

    dataset: Dataset
    tokenizer: Tokenizer | None = None
    regularizer: Regularizer | None = None
    generator: Generator | None = None
    weak: Generator | None = None  # by which the generator's samples are guided
    facts: Mapping[str, Any] = field(default_factory=dict)  # for the regularizer's constructor
    extractor: FeatureExtractor | None = None
    source: ReferenceSource | None = None


@dataclass
class Plan:
    """Stages by id in an order that respects their parents, and the cells that need them."""

    stages: dict[str, Stage] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    uses: dict[str, int] = field(default_factory=dict)  # number of cells that need a stage
    parameters: dict[str, int] = field(default_factory=dict)  # trainable ones
    built: dict[str, Built] = field(default_factory=dict)
    descriptions: dict[str, list[str]] = field(default_factory=dict)  # what datasets hold, by their labels
    notes: dict[str, list[str]] = field(default_factory=dict)  # what tokenizers have to say, by their labels
    _positions: dict[str, int] = field(default_factory=dict, repr=False, compare=False)  # of stages

    def ancestors(self, ids: list[str]) -> list[str]:
        """Ids of these stages and of all stages that they depend on, in plan order."""
        needed: set[str] = set()
        waiting = list(ids)
        while waiting:
            stage = waiting.pop()
            if stage not in needed:
                needed.add(stage)
                waiting += self.stages[stage].parents.values()
        if len(self._positions) != len(self.stages):
            self._positions = {stage: position for position, stage in enumerate(self.stages)}
        return sorted(needed, key=self._positions.__getitem__)

    def tokenizer(self, cell: Cell) -> Tokenizer | None:
        """The cell's tokenizer, on the meta device; None of cells without one, as those of real images."""
        trained = (self.stages[stage].parents.get("tokenizer", "") for stage in cell.scores.values())
        return next((self.built[id].tokenizer for id in trained if id), None)

    def needed(self, cells: Iterable[Cell]) -> list[Stage]:
        """The stages behind these cells, in plan order."""
        scores = [stage for cell in cells for stage in cell.scores.values()]
        return [self.stages[stage] for stage in self.ancestors(scores)]


def skipped_lines(cells: Iterable[Cell]) -> list[str]:
    """A line for each reason, whatever regularizer it names.

    `skipped: vit · none, kl, eq and 23 more · joint, 78 cells: the regularizer has no generator of its own`
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.skipped is not None:
            groups.setdefault(without_name(cell.skipped, cell.regularizer), []).append(cell)
    lines = []
    for reason, group in groups.items():
        axes = ([getattr(cell, axis) for cell in group] for axis in ("tokenizer", "regularizer", "generator"))
        rows = " · ".join(listed(list(dict.fromkeys(labels)), 3) for labels in axes)
        reasons = {cell.skipped for cell in group}
        shown = group[0].skipped if len(reasons) == 1 else reason
        lines.append(f"skipped: {rows}, {plural(len(group), 'cell')}: {shown}")
    return lines
