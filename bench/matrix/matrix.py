"""What a matrix chooses, checked: parts with all their options, seeds, and cells that are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..data.augment import Augmentation
from .settings import Budget, Probes
from .yaml_text import Problem

SECTIONS = ("tokenizers", "regularizers", "generators")
PATTERNS = ("dataset", "tokenizer", "regularizer", "generator")
Position = tuple[str, int, int]  # file, line, column


@dataclass(frozen=True)
class MatrixRow:
    """A part with every option that its constructor takes, defaults included."""

    label: str
    part: str
    options: Mapping[str, Any]
    optimizer: Mapping[str, Any] = field(default_factory=dict)  # as given; the loops have the defaults
    guidance: tuple[float, ...] = (1.0,)
    sampler: Mapping[str, Any] = field(default_factory=dict)
    init: str = "fresh"  # of a generator; "joint": from the regularizer's own
    reference: MatrixRow | None = None  # of a regularizer, in place of the matrix's
    teacher: MatrixRow | None = None
    images: int | None = None  # that a reference is made of; None: all
    weights: str | None = None  # of a tokenizer: a file that its training starts from
    start: str | None = None  # of a tokenizer: the label of another, trained with `none`, to start from
    budget: Mapping[str, int] = field(default_factory=dict)  # in place of the matrix's, as far as given
    where: Position = field(default=("", 0, 0), compare=False)

    def fits(self, pattern: str) -> bool:
        """On the label, the label without axes, or the part; `a|b` is either.

        A label's brackets are no character class.
        """
        names = (self.label, self.label.partition("[")[0], self.part)
        patterns = [each.strip().replace("[", "[[]") for each in pattern.split("|")]
        return pattern in names or any(fnmatchcase(name, each) for name in names for each in patterns)


@dataclass(frozen=True)
class Seed:
    """One seed for each step; a sampling seed's cells share its generator's, and so on."""

    tokenizer: int
    generator: int
    sampling: int
    label: str


@dataclass(frozen=True)
class Skip:
    """Cells that are not run, by patterns on the labels or the parts of their rows."""

    why: str
    dataset: str = "*"
    tokenizer: str = "*"
    regularizer: str = "*"
    generator: str = "*"

    def matches(
        self, dataset: MatrixRow, tokenizer: MatrixRow, regularizer: MatrixRow, generator: MatrixRow
    ) -> bool:
        rows = zip(PATTERNS, (dataset, tokenizer, regularizer, generator), strict=True)
        return all(row.fits(getattr(self, name)) for name, row in rows)


@dataclass(frozen=True)
class Matrix:
    """Everything that a run depends on."""

    name: str
    file: Path
    datasets: tuple[MatrixRow, ...]
    seeds: tuple[Seed, ...]
    budget: Budget
    features: tuple[MatrixRow, ...]  # the first is the teacher, unless another is named
    teacher: MatrixRow
    reference: MatrixRow
    reconstruction: Mapping[str, Any]  # of l1 and l2 weights, of the others all options
    samples: int
    tokenizers: tuple[MatrixRow, ...]
    regularizers: tuple[MatrixRow, ...]
    generators: tuple[MatrixRow, ...]
    evaluators: tuple[MatrixRow, ...]
    skip: tuple[Skip, ...]
    probes: Probes | None
    augment: Augmentation | None  # of training images
    normalise: str
    threads: int
    precision: str
    compile: bool
    checkpointing: bool
    plugins: tuple[Path, ...]
    warnings: tuple[Problem, ...] = field(compare=False)
    losses: Position = field(default=("", 0, 0), compare=False)  # where `reconstruction` is

    def budget_of(self, row: MatrixRow) -> Budget:
        """The matrix's, but for what the row says itself."""
        return replace(self.budget, **row.budget)

    def budget_of_cell(self, labels: Mapping[str, str]) -> dict[str, int]:
        """What its rows take together, with batches of priors and generators that aren't the tokenizer's."""
        rows = (self.tokenizers, self.regularizers, self.generators)
        own = {}
        for name, found in zip(PATTERNS[1:], rows, strict=True):
            own[name] = next((self.budget_of(row) for row in found if row.label == labels[name]), self.budget)
        first, prior, last = own.values()
        others = {"prior_batch": prior.batch, "generator_batch": last.batch}
        steps = {"prior_steps": prior.prior_steps, "generator_steps": last.generator_steps}
        return vars(first) | steps | {k: batch for k, batch in others.items() if batch != first.batch}

    def unnamed_parts(self, labels: Mapping[str, str]) -> dict[str, str]:
        """The parts of a cell's rows that their labels don't name."""
        rows = (self.datasets, self.tokenizers, self.regularizers, self.generators)
        return {
            name: row.part
            for name, found in zip(PATTERNS, rows, strict=True)
            for row in found
            if row.label == labels[name] and row.part != row.label.partition("[")[0]
        }
