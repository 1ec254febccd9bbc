"""A plan: stages in an order that respects their parents, and the cells that need them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..api import Dataset, FeatureExtractor, Generator, ReferenceSource, Regularizer, Tokenizer
from ..store.stage import Stage, digest

PROBE = "step="


@dataclass(frozen=True)
class Cell:
    """One (dataset, tokenizer, regularizer, generator, seed), by labels, with the stages that score it."""

    dataset: str
    tokenizer: str
    regularizer: str
    generator: str
    seed: str
    # "" (tokenizer scope), the guidance as text, or PROBE and a generator's step -> a scores stage's id
    scores: dict[str, str]
    skipped: str | None = None

    @property
    def identity(self) -> dict[str, str]:
        names = ("dataset", "tokenizer", "regularizer", "generator", "seed")
        return {name: getattr(self, name) for name in names}

    @property
    def key(self) -> str:
        return digest({"cell": self.identity, "scores": self.scores, "skipped": self.skipped})

    @property
    def name(self) -> str:
        """As progress lines say it."""
        return " · ".join([*list(self.identity.values())[:4], f"seed {self.seed}"])


@dataclass(frozen=True)
class Built:
    """What a stage works on, with modules on the meta device that equal rows share: for estimates."""

    dataset: Dataset
    tokenizer: Tokenizer | None = None
    regularizer: Regularizer | None = None
    generator: Generator | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)  # what the regularizer's constructor was given
    extractor: FeatureExtractor | None = None
    source: ReferenceSource | None = None


@dataclass
class Plan:
    """Stages by id in an order that respects their parents, and the cells that need them."""

    stages: dict[str, Stage] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    uses: dict[str, int] = field(default_factory=dict)  # how many cells need a stage
    parameters: dict[str, int] = field(default_factory=dict)  # of the modules that a stage trains
    built: dict[str, Built] = field(default_factory=dict)
    _places: dict[str, int] = field(default_factory=dict, repr=False, compare=False)  # of stages

    def ancestors(self, ids: list[str]) -> list[str]:
        """These stages and all that they depend on, in plan order."""
        needed: set[str] = set()
        waiting = list(ids)
        while waiting:
            one = waiting.pop()
            if one not in needed:
                needed.add(one)
                waiting += self.stages[one].parents.values()
        if len(self._places) != len(self.stages):
            self._places = {one: place for place, one in enumerate(self.stages)}
        return sorted(needed, key=self._places.__getitem__)

    def needed(self, cells: Iterable[Cell]) -> list[Stage]:
        """The stages behind these cells, in plan order."""
        ends = [one for cell in cells for one in cell.scores.values()]
        return [self.stages[one] for one in self.ancestors(ends)]
