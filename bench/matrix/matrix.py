"""The checked matrix: rows of parts with all their options, seeds, settings, and cells that are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..data.augment import Augmentation
from .settings import Autoguidance, Budget, Probes
from .yaml_text import Problem

SECTIONS = ("tokenizers", "regularizers", "generators")
PATTERNS = ("dataset", "tokenizer", "regularizer", "generator")
Position = tuple[str, int, int]  # file, line, column


@dataclass(frozen=True)
class Sweep:
    """Guidances that each cell chooses among for itself, by samples that aren't ranked."""

    values: tuple[float, ...]  # in ascending order
    samples: int  # at each of them


@dataclass(frozen=True)
class MatrixRow:
    """A part with every option that its constructor takes, defaults included."""

    label: str
    part: str
    options: Mapping[str, Any]
    optimizer: Mapping[str, Any] = field(default_factory=dict)  # as written; the loops have the defaults
    guidance: tuple[float, ...] = (1.0,)  # each is scored in full; of a row with a sweep the one without it
    sweep: Sweep | None = None
    autoguidance: Autoguidance | None = None  # of a generator
    sampler: Mapping[str, Any] = field(default_factory=dict)
    init: str = "fresh"  # of a generator; "joint": it starts as the regularizer's own
    reference: MatrixRow | None = None  # of a regularizer, in place of the matrix's
    teacher: MatrixRow | None = None  # of a regularizer or generator, in place of the matrix's
    images: int | None = None  # number that a reference is made of; None: all
    weights: str | None = None  # of a tokenizer: a file that its training starts from, or "random"
    start: str | None = None  # of a tokenizer: the label of another, trained with `none`, to start from
    budget: Mapping[str, int] = field(default_factory=dict)  # the keys that replace the matrix's
    where: Position = field(default=("", 0, 0), compare=False)

    @property
    def training(self) -> MatrixRow:
        """The row without its label and what concerns samples alone: generators trained alike are equal."""
        return replace(self, label="", guidance=(), sweep=None, autoguidance=None, sampler={})

    def fits(self, pattern: str) -> bool:
        """Whether a pattern matches the label, the label without axes, or the part; `a|b` is either.

        Brackets in a pattern are literal, as in labels.
        """
        names = (self.label, self.label.partition("[")[0], self.part)
        globs = [glob.strip().replace("[", "[[]") for glob in pattern.split("|")]
        return pattern in names or any(fnmatchcase(name, glob) for name in names for glob in globs)


@dataclass(frozen=True)
class Seed:
    """One seed for each step; cells that differ only in the sampling seed share their generator."""

    tokenizer: int
    generator: int
    sampling: int
    label: str

    @property
    def of_samples(self) -> str:
        """The seeds of all steps that samples come from: `0.0.1`."""
        return f"{self.tokenizer}.{self.generator}.{self.sampling}"


@dataclass(frozen=True)
class Skip:
    """Cells that are not run, by patterns on the labels or the parts of their rows.

    Args:
        why: the reason, which tables show.
        dataset: pattern of datasets.
        tokenizer: pattern of tokenizers.
        regularizer: pattern of regularizers.
        generator: pattern of generators.
    """

    why: str
    dataset: str = "*"
    tokenizer: str = "*"
    regularizer: str = "*"
    generator: str = "*"

    def matches(
        self, dataset: MatrixRow, tokenizer: MatrixRow, regularizer: MatrixRow, generator: MatrixRow
    ) -> bool:
        """Whether the cell of these rows is left out."""
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
    reconstruction: Mapping[str, Any]  # weights of l1 and l2, all options of the other losses
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
    losses: Position = field(default=("", 0, 0), compare=False)  # of `reconstruction` in the file

    def budget_of(self, row: MatrixRow) -> Budget:
        """The matrix's budget with the row's own keys."""
        return replace(self.budget, **row.budget)

    def budget_of_cell(self, labels: Mapping[str, str]) -> dict[str, int]:
        """The budget of a cell's rows, with a prior's or generator's batch if it isn't the tokenizer's."""
        budgets = []
        for name, rows in zip(
            PATTERNS[1:], (self.tokenizers, self.regularizers, self.generators), strict=True
        ):
            own = (self.budget_of(row) for row in rows if row.label == labels[name])
            budgets.append(next(own, self.budget))
        tokenizer, prior, generator = budgets
        others = {"prior_batch": prior.batch, "generator_batch": generator.batch}
        steps = {"prior_steps": prior.prior_steps, "generator_steps": generator.generator_steps}
        return vars(tokenizer) | steps | {k: size for k, size in others.items() if size != tokenizer.batch}

    def unnamed_parts(self, labels: Mapping[str, str]) -> dict[str, str]:
        """The parts of a cell's rows whose labels don't name them."""
        rows = (self.datasets, self.tokenizers, self.regularizers, self.generators)
        return {
            name: row.part
            for name, section in zip(PATTERNS, rows, strict=True)
            for row in section
            if row.label == labels[name] and row.part != row.label.partition("[")[0]
        }
