"""The trained parts of a cell."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from ..api import Dataset, Generator, Noise, Regularizer, Split, Tokenizer
from ..models import build
from ..models.latents import IDENTITY, Normalisation, draw
from ..store.artifacts import Artifact
from .inputs import Config


class TrainedCell:
    """The trained parts of a cell, rebuilt from the configs and weights in a stage's inputs."""

    def __init__(
        self,
        inputs: dict[str, Artifact],
        device: str,
        snapshot: int | None = None,
        scratch: Callable[[str], Path | None] = lambda name: None,
    ) -> None:
        """
        Args:
            snapshot: the update of the generator whose weights are loaded; None: the last.
            scratch: files by name, for tensors that are too large for memory.
        """
        self.inputs, self.device, self.snapshot, self.scratch = inputs, device, snapshot, scratch

    @cached_property
    def config(self) -> dict[str, Any]:
        return dict(self.inputs["tokenizer"].config)

    @cached_property
    def dataset(self) -> Dataset:
        return build.dataset(self.config["dataset"], self.device)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        method = build.base_class(self.config["regularizer"])
        tokenizer = build.tokenizer(self.config["tokenizer"], self.dataset, method)
        tokenizer.load_state_dict(self.inputs["tokenizer"].group("tokenizer"))
        return tokenizer.to(self.device).eval()

    @cached_property
    def regularizer(self) -> Regularizer:
        facts = build.facts_from(self.config["facts"])
        regularizer = build.regularizer(self.config["regularizer"], self.tokenizer.spec, facts)
        regularizer.load_state_dict(self.inputs["tokenizer"].group("regularizer"))
        for prior in regularizer.priors().values():
            prior.requires_grad_(False)
        return regularizer.to(self.device).eval()

    @cached_property
    def generator(self) -> Generator:
        """The trained generator, at the snapshot if there is one; if none was trained, the regularizer's."""
        if "generator" not in self.inputs:
            return self.joint().to(self.device).eval()
        return self.trained_generator("generator", self.snapshot)

    def trained_generator(self, role: str, snapshot: int | None = None) -> Generator:
        """The generator that a parent has trained, as it was after `snapshot` updates or, with None, all."""
        trained = self.inputs[role]
        config = trained.meta["config"]
        generator = self.joint() if config["init"] == "joint" else self.fresh(config)
        weights = "generator" if snapshot is None else f"snapshot/{snapshot}"
        generator.load_state_dict(trained.group(weights))
        return generator.to(self.device).eval()

    def sampler(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The options of `sample` in a samples stage's config, with the `weak` model that guides samples."""
        options = dict(config["sampler"])
        if "autoguidance" in config:
            weak = config["autoguidance"]
            options["weak"] = self.trained_generator(weak["role"], weak["snapshot"])
        return options

    @cached_property
    def normalisation(self) -> Normalisation:
        tensors = self.inputs["latents"].tensors
        return Normalisation(tensors["mean"], tensors["std"])

    def fresh(self, config: Config) -> Generator:
        """The generator with new weights of a generator stage's config."""
        teacher = build.spec_from(config["teacher_spec"]) if "teacher_spec" in config else None
        return build.generator(config["generator"], self.tokenizer.spec, self.dataset.classes, teacher)

    def joint(self) -> Generator:
        """A copy of the regularizer's own generator, with its weights."""
        own = self.regularizer.generator()
        assert own is not None
        return copy.deepcopy(own)

    @property
    def sampled_normalisation(self) -> Normalisation:
        """The normalisation of the generator's latents; a regularizer's own generator has none."""
        trained = self.inputs.get("generator")
        joint = trained is None or trained.meta["config"]["init"] == "joint"
        return IDENTITY if joint else self.normalisation

    def latents(self, split: Split, noise: Noise | None) -> Tensor:
        """z (n, T, C) of a split, not normalised."""
        h = self.inputs["latents"].tensors[f"h/{split}"]
        batch = self.config["batch"]
        stream = None if noise is None else noise.fork(split)
        file = self.scratch(f"{'mean' if noise is None else 'z'}/{split}")
        labels = self.dataset.labels(split)
        return draw(self.regularizer, h, labels, stream, batch, self.device, file=file)
