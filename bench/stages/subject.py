"""A cell as evaluators see it, loaded from its artifacts when asked and kept for the next evaluator."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..api import (
    Dataset,
    FeatureExtractor,
    Generator,
    Noise,
    Of,
    Reference,
    Regularizer,
    Split,
    Tokenizer,
    from_uint8,
    to_uint8,
)
from ..api import Subject as SubjectInterface
from ..data.subset import originals
from ..models import build
from ..models.latents import CHUNK, IDENTITY, Normalisation, chunked, decoder, draw
from ..runtime.mapped import allocated
from ..runtime.prefetch import prefetch
from ..store.artifacts import Artifact
from .inputs import SPLITS, facts_from, features_role, spec_from


class Cell:
    """The trained parts behind an artifact chain, rebuilt from the stored configs and weights."""

    def __init__(
        self,
        inputs: dict[str, Artifact],
        device: str,
        snapshot: int | None = None,
        scratch: Callable[[str], Path | None] = lambda name: None,
    ) -> None:
        """
        Args:
            snapshot: of the generator.
            scratch: files for what is too large for memory.
        """
        self.inputs, self.device, self.snapshot, self.scratch = inputs, device, snapshot, scratch

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
        facts = facts_from(self.config["facts"])
        regularizer = build.regularizer(self.config["regularizer"], self.tokenizer.spec, facts)
        regularizer.load_state_dict(self.inputs["tokenizer"].group("regularizer"))
        for prior in regularizer.priors().values():
            prior.requires_grad_(False)
        return regularizer.to(self.device).eval()

    @cached_property
    def generator(self) -> Generator:
        """The trained one, at a snapshot if one is given, or, where none was, the regularizer's own."""
        if "generator" not in self.inputs:
            return self.joint().to(self.device).eval()
        config = self.inputs["generator"].meta["config"]
        generator = self.joint() if config["init"] == "joint" else self.fresh(config["generator"])
        kept = "generator" if self.snapshot is None else f"snapshot/{self.snapshot}"
        generator.load_state_dict(self.inputs["generator"].group(kept))
        return generator.to(self.device).eval()

    @cached_property
    def normalisation(self) -> Normalisation:
        tensors = self.inputs["latents"].tensors
        return Normalisation(tensors["mean"], tensors["std"])

    def fresh(self, config: dict[str, Any]) -> Generator:
        return build.generator(config, self.tokenizer.spec, self.dataset.classes)

    def joint(self) -> Generator:
        """A copy of the regularizer's own generator, as it is."""
        own = self.regularizer.generator()
        assert own is not None
        return copy.deepcopy(own)

    @property
    def sampled_normalisation(self) -> Normalisation:
        """The rule under which the generator models latents: a regularizer's own one knows no other."""
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


class Subject(SubjectInterface):
    """What an evaluator may ask of a cell; see `api.Subject`."""

    def __init__(
        self,
        scope: str,
        inputs: dict[str, Artifact],
        dataset: Dataset,
        extractors: Sequence[FeatureExtractor],
        noise: Noise,
        device: str,
        guidance: float | None = None,
        scratch: Callable[[str], Path | None] = lambda name: None,
        loaders: int = 0,
        heldout: int | None = None,
    ) -> None:
        """
        Args:
            scratch: files for what is too large for memory.
            loaders: processes that decode images ahead.
            heldout: of the `real` row, how many images are its samples, evenly spaced; None: all.
        """
        self.scope = scope  # type: ignore[assignment]
        self.real = "tokenizer" not in inputs
        self.dataset, self.extractors, self.noise, self.guidance = dataset, tuple(extractors), noise, guidance
        self.costs = {role: artifact.cost for role, artifact in inputs.items()}
        self._inputs, self._device, self._scratch, self._loaders = inputs, device, scratch, loaders
        # Kept per subject: an instance must not be held by a cache of its class.
        for name in ("images", "labels", "reconstructions", "latents", "_described", "_mapped"):
            setattr(self, name, cache(getattr(self, name)))
        self.samples = self.sample_labels = None
        if self.real:
            there, labels = dataset.size("val"), self.labels("val")
            count = min(heldout or there, there)
            self._heldout = torch.arange(count) * there // count
            whole = count == there
            self.samples = self.images("val") if whole else self._levels("val", self._heldout, "heldout")
            self.sample_labels = None if labels is None else labels[self._heldout]
        else:
            self._cell = Cell(inputs, device, scratch=scratch)
            self.tokenizer, self.regularizer = self._cell.tokenizer, self._cell.regularizer
            self.facts = facts_from(self._cell.config["facts"])
            coupled = self.regularizer.couples == "latent"
            self.latent_batch = self._cell.config["batch"] if coupled else None
            self.generator = self._cell.generator if scope == "generator" else None
        if "samples" in inputs:
            self.samples = inputs["samples"].tensors["images"]
            self.sample_labels = inputs["samples"].tensors["labels"]

    def images(self, split: Split) -> Tensor:
        return self._levels(split, torch.arange(self.dataset.size(split)))

    def _levels(self, split: Split, index: Tensor, name: str = "images") -> Tensor:
        images = self._read(split, index)
        file = self._scratch(f"{name}/{split}")
        return chunked(lambda rows, _: to_uint8(next(images)), len(index), file=file)

    def _read(self, split: Split, index: Tensor) -> Iterator[Tensor]:
        """These images as they are, by chunks."""
        return prefetch(self.dataset, split, index.split(CHUNK), self._loaders)

    def labels(self, split: Split) -> Tensor | None:
        return self.dataset.labels(split)

    def reconstructions(self, deterministic: bool = False) -> Tensor:
        if deterministic and torch.equal(self.latents("val", True), self.latents("val")):
            return self.reconstructions()  # of a latent without noise: decoded once
        decode = self._decoder(deterministic)
        file = self._scratch(f"reconstructions/{deterministic}")
        count = self.dataset.size("val")
        return chunked(lambda index, chunk: to_uint8(decode(index, chunk)), count, file=file)

    def _decoder(self, deterministic: bool = False) -> Callable[[Tensor, int], Tensor]:
        """Of a chunk of held-out images' latents."""
        z, noise = self.latents("val", deterministic), self.noise.fork("decoder")
        return decoder(self.tokenizer, z, self._device, self.labels("val"), noise)

    def latents(self, split: Split, deterministic: bool = False) -> Tensor:
        return self._cell.latents(split, None if deterministic else self.noise.fork("latents"))

    def features(self, of: Of, output: str = "pooled", extractor: FeatureExtractor | None = None) -> Tensor:
        place = 0 if extractor is None else self.extractors.index(extractor)
        if of == "samples":  # whose every output is asked for: in one pass
            outputs = tuple(name for name in self.extractors[place].outputs if name != "tokens")
            return self._described(place, of, outputs)[output]
        stored = {}
        if of != "reconstructions":
            stored = self._inputs[features_role(place, output)].tensors
        name = f"{output}/{of}"
        return stored[name] if name in stored else self._described(place, of, (output,))[output]

    def _described(self, place: int, of: Of, wanted: tuple[str, ...]) -> dict[str, Tensor]:
        """Outputs of images that no stage has described."""
        extractor = self.extractors[place]
        chunks = self._images_of(of, extractor.rounds)
        parts = [extractor.describe(chunk.to(self._device), wanted) for chunk in chunks]
        return {name: torch.cat([part[name].cpu() for part in parts]) for name in wanted}

    def _images_of(self, of: Of, rounded: bool) -> Iterator[Tensor]:
        """(B, c, H, W) in [-1, 1], by chunks: as they are, or of 8 bits."""
        if of == "train" or of == "val":
            return self._read(of, torch.arange(originals(self.dataset, of)))
        if not rounded and of == "reconstructions":
            indices = torch.arange(self.dataset.size("val")).split(CHUNK)
            return map(self._decoder(), indices, range(len(indices)))
        if not rounded and self.real:
            return self._read("val", self._heldout)
        levels = self.samples if of == "samples" else self.reconstructions()
        assert levels is not None
        return map(from_uint8, levels.split(CHUNK))

    def trajectory(self) -> tuple[Tensor, Tensor]:
        tensors = self._inputs["tokenizer"].tensors
        if "probes/z" not in tensors:
            spec = self.tokenizer.spec
            return torch.zeros(0, dtype=torch.int64), torch.zeros(0, 0, spec.tokens, spec.channels)
        return tensors["probes/step"], tensors["probes/z"]

    @property
    def own_reference(self) -> bool:
        return self._may_differ and not torch.equal(self._mapped(True).samples, self._mapped(False).samples)

    @property
    def _may_differ(self) -> bool:
        """Whether the row names a reference of its own, or maps it otherwise than the frame does."""
        maps = type(self.regularizer).reference is not Regularizer.reference
        return maps or "own_reference" in self._inputs

    def reference(self, split: Split, own: bool = False) -> Reference:
        return rows_of(self._mapped(own), split)

    def reference_protocol(self, own: bool = False) -> dict[str, Any]:
        return self._reference_stage(own).info["protocol"]

    def _mapped(self, own: bool) -> Reference:
        if own and not self._may_differ:
            return self._mapped(False)
        drawn = reference_of(self._reference_stage(own), self._scratch(f"reference/{own}"))
        return in_its_space(self.regularizer, drawn) if own else drawn.projected(self.tokenizer.spec)

    def _reference_stage(self, own: bool) -> Artifact:
        return self._inputs["own_reference" if own and "own_reference" in self._inputs else "reference"]


def reference_of(drawn: Artifact, file: Path | None = None) -> Reference:
    """The samples of a reference stage, train before val; statistics are to be train's.

    Large ones are put together in the file.
    """
    samples, labels = (
        [drawn.tensors[f"{what}/{split}"] for split in SPLITS if f"{what}/{split}" in drawn.tensors]
        for what in ("samples", "labels")
    )
    grid = spec_from(drawn.info["spec"]).grid
    fit, dtype = len(samples[0]), samples[0].dtype
    whole = allocated((sum(map(len, samples)), *samples[0].shape[1:]), dtype, file)
    whole[:fit], whole[fit:] = samples
    return Reference(whole, torch.cat(labels) if labels else None, grid, fit)


def in_its_space(regularizer: Regularizer, reference: Reference) -> Reference:
    """A reference as the regularizer has it, with the splits as they were."""
    made = regularizer.reference(reference)
    if len(made.samples) != len(reference.samples):
        name = type(regularizer).__name__
        raise ValueError(f"{name}.reference() makes {len(made.samples)} of {len(reference.samples)} samples")
    return replace(made, fit=reference.fit)


def rows_of(reference: Reference, split: Split) -> Reference:
    """The rows of one split of a reference whose first `fit` samples are train's."""
    rows = slice(0, reference.fit) if split == "train" else slice(reference.fit, None)
    labels = None if reference.labels is None else reference.labels[rows]
    return replace(reference, samples=reference.samples[rows], labels=labels)
