"""The content of a first matrix for somebody's images and tokenizers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import registry
from .first_rows import DRAWS, MEAN, SECTIONS, Row

FEATURES, TEACHER = "effnet_lite2", "effnet_lite0"
GENERATOR = 1.5  # generator updates for each of the tokenizer's
SMOKE_STEPS, SMOKE_BATCH, SMOKE_SAMPLES = 8, 32, 64
UNTRAINED = "a loss changes nothing of a tokenizer that is not trained"


@dataclass(frozen=True)
class FirstMatrix:
    """A matrix with rows that are chosen and spare ones, which are written as comments."""

    name: str
    dataset: Mapping[str, Any]
    description: Sequence[str]  # of the dataset, in words
    train_images: int
    val_images: int
    classes: int
    side: int  # of images, in pixels
    picture_side: float | None  # the median of the smaller sides in files; None: images have one size
    batch: int
    samples: int
    smoke_count: Mapping[str, int] | None  # images of the profile `smoke`, if the dataset can have fewer
    rows: Mapping[str, Sequence[Row]]  # by section
    untrained: Sequence[str] = ()  # labels of tokenizers that are scored as they are
    plugins: Sequence[str] = ()
    steps: int = 1000  # of a tokenizer
    hours: float = 0.0  # estimated
    skipped: Sequence[tuple[str, str]] = ()  # cells and reasons

    def chosen(self, section: str) -> list[Row]:
        return [row for row in self.rows[section] if not row.spare]

    @property
    def cells(self) -> int:
        """The number of cells that run."""
        return math.prod(len(self.chosen(section)) for section in SECTIONS) - len(self.skipped)

    @property
    def trains(self) -> bool:
        """Whether any tokenizer is trained."""
        return len(self.untrained) < len(self.chosen("tokenizers"))

    @property
    def budget(self) -> dict[str, int]:
        others = round(self.steps * GENERATOR)
        if not self.trains:
            return {"generator_steps": others, "batch": self.batch}
        steps = {"tokenizer_steps": self.steps, "generator_steps": others, "prior_steps": others}
        return steps | {"batch": self.batch}

    @property
    def evaluators(self) -> list[str]:
        probe = ["linear_probe"] if self.classes > 1 else []
        return ["reconstruction", "generation", "latents", *probe, "cost"]

    @property
    def spare_evaluators(self) -> list[str]:
        return [*(["class_accuracy"] if self.classes > 1 else []), "density", "robustness"]

    def skips(self, spares: bool = False) -> list[dict[str, str]]:
        """For each tokenizer that isn't trained the regularizers, of all there are, that need training.

        None where no row is one of them, as a skip that matches nothing is a warning.
        """
        rows = [row for row in self.rows["regularizers"] if spares or not row.spare]
        if all(row.part in (MEAN, DRAWS) for row in rows):
            return []
        losses = "|".join(name for name in registry.names("regularizers") if name not in (MEAN, DRAWS))
        return [{"tokenizer": one, "regularizer": losses, "why": UNTRAINED} for one in self.untrained]

    @property
    def smoke(self) -> dict[str, Any]:
        """The profile that takes the same path with few updates and images."""
        steps = {key: SMOKE_STEPS for key in self.budget if key != "batch"}
        profile: dict[str, Any] = {"budget": steps | {"batch": min(SMOKE_BATCH, self.batch)}}
        if self.smoke_count:
            profile["dataset"] = {**self.dataset, "count": dict(self.smoke_count)}
        return profile | {"samples": min(SMOKE_SAMPLES, self.samples)}

    @property
    def spare_profiles(self) -> dict[str, Any]:
        longer = {key: 4 * steps for key, steps in self.budget.items() if key != "batch"}
        return {"three-seeds": {"seeds": [0, 1, 2]}, "longer": {"budget": longer}}

    def data(self, spares: bool = False) -> dict[str, Any]:
        """The matrix as plain data, with `spares` also what is written as comments."""
        sections = {
            section: {row.label: dict(row.options) for row in self.rows[section] if spares or not row.spare}
            for section in SECTIONS
        }
        return {
            "name": self.name,
            "dataset": dict(self.dataset),
            **({"plugins": list(self.plugins)} if self.plugins else {}),
            **sections,
            **({"skip": skips} if (skips := self.skips(spares)) else {}),
            "seeds": [0],
            "budget": self.budget,
            **({"reconstruction": {"l1": 1.0}} if self.trains else {}),
            "features": FEATURES,
            "teacher": TEACHER,
            "samples": self.samples,
            "evaluators": self.evaluators + (self.spare_evaluators if spares else []),
            "profiles": {"smoke": self.smoke} | (self.spare_profiles if spares else {}),
        }
