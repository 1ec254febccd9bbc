"""A cell as evaluators see it, loaded from its artifacts when asked and kept for the next evaluator."""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from . import build
from .api import (
    Dataset,
    FeatureExtractor,
    Generator,
    LatentSpec,
    Noise,
    Of,
    Reference,
    Regularizer,
    Split,
    Tokenizer,
)
from .api import Subject as SubjectInterface
from .images import from_uint8
from .latents import Normalisation, decode, draw
from .store import Artifact


class Cell:
    """The trained parts behind an artifact chain, rebuilt from the stored configs and weights."""

    def __init__(self, inputs: dict[str, Artifact], device: str) -> None:
        self.inputs, self.device = inputs, device

    @cached_property
    def config(self) -> dict[str, Any]:
        return self.inputs["tokenizer"].meta["config"]

    @cached_property
    def dataset(self) -> Dataset:
        return build.dataset(self.config["dataset"])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        expansion = build.regularizer_class(self.config["regularizer"]).expansion
        tokenizer = build.tokenizer(self.config["tokenizer"], self.dataset, expansion)
        tokenizer.load_state_dict(self.inputs["tokenizer"].group("tokenizer"))
        return tokenizer.to(self.device).eval()

    @cached_property
    def regularizer(self) -> Regularizer:
        facts = facts_for(self.dataset, self.config.get("teacher"))
        regularizer = build.regularizer(self.config["regularizer"], self.tokenizer.spec, facts)
        regularizer.load_state_dict(self.inputs["tokenizer"].group("regularizer"))
        return regularizer.to(self.device).eval()

    @cached_property
    def generator(self) -> Generator:
        config = self.inputs["generator"].meta["config"]["generator"]
        generator = build.generator(config, self.tokenizer.spec, self.dataset.classes)
        generator.load_state_dict(self.inputs["generator"].group("generator"))
        return generator.to(self.device).eval()

    @cached_property
    def normalisation(self) -> Normalisation:
        tensors = self.inputs["latents"].tensors
        return Normalisation(tensors["mean"], tensors["std"])

    def latents(self, split: Split, noise: Noise | None) -> Tensor:
        """z (n, T, C) of a split, not normalised."""
        h = self.inputs["latents"].tensors[f"h/{split}"]
        batch = self.config["batch"]
        stream = None if noise is None else noise.fork(split)
        return draw(self.regularizer, h, self.dataset.labels(split), stream, batch, self.device)


def facts_for(dataset: Dataset, teacher: dict[str, Any] | None) -> dict[str, Any]:
    """What a regularizer's constructor may ask for by name."""
    spec: LatentSpec | None = None if teacher is None else build.extractor(teacher).spec
    return {"classes": dataset.classes, "teacher_spec": spec, "reference_spec": spec}


class Subject(SubjectInterface):
    """What an evaluator may ask of a cell; see `api.Subject`."""

    def __init__(
        self,
        scope: str,
        inputs: dict[str, Artifact],
        dataset: Dataset,
        extractor: FeatureExtractor,
        noise: Noise,
        device: str,
        guidance: float | None = None,
    ) -> None:
        self.scope = scope  # type: ignore[assignment]
        self.real = "tokenizer" not in inputs
        self.dataset, self.extractor, self.noise, self.guidance = dataset, extractor, noise, guidance
        self.costs = {role: artifact.cost for role, artifact in inputs.items()}
        self.reference_protocol = inputs["teacher"].info["protocol"] if "teacher" in inputs else {}
        self.samples = self.sample_labels = None
        if self.real:
            self.samples, self.sample_labels = self.images("val"), self.labels("val")
        else:
            self._cell = Cell(inputs, device)
            self.tokenizer, self.regularizer = self._cell.tokenizer, self._cell.regularizer
            self.generator = self._cell.generator if "generator" in inputs else None
        if "samples" in inputs:
            self.samples = from_uint8(inputs["samples"].tensors["images"])
            self.sample_labels = inputs["samples"].tensors["labels"]
        self._inputs, self._device = inputs, device
        # Kept per subject: an instance must not be held by a cache of its class.
        for name in ("images", "labels", "reconstructions", "latents", "features", "reference"):
            setattr(self, name, cache(getattr(self, name)))

    def images(self, split: Split) -> Tensor:
        return self.dataset.images(split, torch.arange(self.dataset.size(split)))

    def labels(self, split: Split) -> Tensor | None:
        return self.dataset.labels(split)

    def reconstructions(self, deterministic: bool = False) -> Tensor:
        z = self._cell.latents("val", None) if deterministic else self.latents("val")
        return decode(self.tokenizer, z, self._device)

    def latents(self, split: Split) -> Tensor:
        return self._cell.latents(split, self.noise.fork("latents"))

    def features(self, of: Of) -> Tensor:
        if of in ("train", "val"):
            return self._inputs["features"].tensors[f"pooled/{of}"]
        images = self.samples if of == "samples" else self.reconstructions()
        assert images is not None
        return self.extractor(images)[0]

    def reference(self, split: Split, own: bool = False) -> Reference:
        teacher = self._inputs["teacher"]
        # Both splits are projected as one set, so that centre and scale are the same.
        both = reference_of(teacher, self.dataset)
        both = self.regularizer.reference(both) if own else both.projected(self.tokenizer.spec)
        train = self.dataset.size("train")
        rows = slice(0, train) if split == "train" else slice(train, None)
        return Reference(both.samples[rows], None if both.labels is None else both.labels[rows], both.grid)


def reference_of(features: Artifact, dataset: Dataset, split: Split | None = None) -> Reference:
    """Teacher features as the matrix's reference, of one split or of both in order."""
    splits: tuple[Split, ...] = ("train", "val") if split is None else (split,)
    samples = torch.cat([features.tensors[f"tokens/{name}"] for name in splits])
    labels = [dataset.labels(name) for name in splits]
    joined = None if labels[0] is None else torch.cat([part for part in labels if part is not None])
    grid = features.info["spec"]["grid"]
    return Reference(samples, joined, tuple(grid) if grid else None)
