"""A cell as evaluators see it: loaded from its artifacts on demand and cached for the next evaluator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..api import (
    Dataset,
    FeatureExtractor,
    Noise,
    Of,
    Reference,
    Regularizer,
    Split,
    Unfit,
    from_uint8,
    to_uint8,
)
from ..api import Subject as SubjectInterface
from ..data.fixed_order import random_rows
from ..data.subset import originals
from ..models.build import facts_from
from ..models.latents import CHUNK, chunk_decoder, chunked
from ..runtime.prefetch import prefetch
from ..store.artifacts import Artifact
from .inputs import features_role
from .reference_samples import in_space_of, reference_samples, split_of
from .trained_cell import TrainedCell


class Subject(SubjectInterface):
    """A cell's data for evaluators; see `api.Subject`."""

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
            scratch: files by name, for tensors that are too large for memory.
            loaders: processes that decode images ahead.
            heldout: how many held-out images, a fixed random choice, are the `real` row's samples; None: all.
        """
        self.scope = scope  # type: ignore[assignment]
        self.real = "tokenizer" not in inputs
        self.dataset, self.extractors, self.noise, self.guidance = dataset, tuple(extractors), noise, guidance
        # Whether what is asked of this subject depends on decoded latents that stand for images.
        self.compares_decoded = False
        self.costs = {role: artifact.cost for role, artifact in inputs.items()}
        self._inputs, self._device, self._scratch, self._loaders = inputs, device, scratch, loaders
        # Caches results in the instance; a cache in the class would keep every subject alive.
        for name in ("images", "labels", "reconstructions", "latents", "_described", "_mapped"):
            setattr(self, name, cache(getattr(self, name)))
        self.samples = self.sample_labels = None
        self.left_out = {}
        if self.real:
            size, labels = dataset.size("val"), self.labels("val")
            count = min(heldout or size, size)
            self._heldout = random_rows(size, count)
            if count == size:
                self.samples = self.images("val")
            else:
                self.samples = self._images_uint8("val", self._heldout, "heldout")
            self.sample_labels = None if labels is None else labels[self._heldout]
        else:
            self._cell = TrainedCell(inputs, device, scratch=scratch)
            self.tokenizer, self.regularizer = self._cell.tokenizer, self._cell.regularizer
            self.facts = facts_from(self._cell.config["facts"])
            coupled = self.regularizer.couples == "latent"
            self.latent_batch = self._cell.config["batch"] if coupled else None
            self.generator = self._cell.generator if scope == "generator" else None
        if "samples" in inputs:
            self.samples = inputs["samples"].tensors["images"]
            self.sample_labels = inputs["samples"].tensors["labels"]

    def images(self, split: Split) -> Tensor:
        self._need_images()
        return self._images_uint8(split, torch.arange(self.dataset.size(split)))

    def _images_uint8(self, split: Split, index: Tensor, name: str = "images") -> Tensor:
        images = self._read(split, index)
        file = self._scratch(f"{name}/{split}")
        return chunked(lambda rows, _: to_uint8(next(images)), len(index), file=file)

    def _read(self, split: Split, index: Tensor) -> Iterator[Tensor]:
        """The images of an index as floats, by chunks."""
        return prefetch(self.dataset, split, index.split(CHUNK), self._loaders)

    def labels(self, split: Split) -> Tensor | None:
        return self.dataset.labels(split)

    def sampler(self) -> dict[str, Any]:
        return self._cell.sampler(self._inputs["samples"].config)

    def reconstructions(self, deterministic: bool = False) -> Tensor:
        self._need_images()
        if deterministic and torch.equal(self.latents("val", True), self.latents("val")):
            return self.reconstructions()  # the latent has no noise: decode once
        decode, count = self._decoder(deterministic), self.dataset.size("val")
        file = self._scratch(f"reconstructions/{deterministic}")
        return chunked(lambda index, chunk: to_uint8(decode(index, chunk)), count, file=file)

    def _decoder(self, deterministic: bool = False) -> Callable[[Tensor, int], Tensor]:
        """Decodes a chunk of held-out images' latents, by index and number of the chunk."""
        z, noise = self.latents("val", deterministic), self.noise.fork("decoder")
        return chunk_decoder(self.tokenizer, z, self._device, self.labels("val"), noise)

    def latents(self, split: Split, deterministic: bool = False) -> Tensor:
        return self._cell.latents(split, None if deterministic else self.noise.fork("latents"))

    def generator_latents(self, split: Split) -> Tensor:
        z, rule = self.latents(split), self._cell.sampled_normalisation
        return chunked(lambda index, _: rule(z[index]), len(z), file=self._scratch(f"normalised/{split}"))

    def features(self, of: Of, output: str = "pooled", extractor: FeatureExtractor | None = None) -> Tensor:
        place = 0 if extractor is None else self.extractors.index(extractor)
        if of == "samples":  # metrics need all outputs but tokens: computed in one pass
            outputs = tuple(name for name in self.extractors[place].outputs if name != "tokens")
            return self._described(place, of, outputs)[output]
        self._need_images()
        stored = {}
        if of != "reconstructions":
            stored = self._inputs[features_role(place, output)].tensors
        name = f"{output}/{of}"
        return stored[name] if name in stored else self._described(place, of, (output,))[output]

    def _need_images(self) -> None:
        """Raises Unfit in the scope of tokenizers where decoded latents stand for images.

        A reconstruction would be compared with itself. Samples are compared, under other names.
        """
        if self.dataset.decoded and self.scope == "tokenizer":
            raise Unfit(
                "the dataset has stored latents and no images: reconstructions would be compared with "
                "themselves"
            )

    def _described(self, place: int, of: Of, outputs: tuple[str, ...]) -> dict[str, Tensor]:
        """Outputs of an extractor that no stage has stored."""
        extractor = self.extractors[place]
        chunks = self._images_of(of, extractor.rounds)
        parts = [extractor.describe(chunk.to(self._device), outputs) for chunk in chunks]
        return {name: torch.cat([part[name].cpu() for part in parts]) for name in outputs}

    def _images_of(self, of: Of, rounded: bool) -> Iterator[Tensor]:
        """Images (B, c, H, W) in [-1, 1] by chunks.

        `rounded` rounds reconstructions and held-out samples to 8 bits; generated samples always are.
        """
        if of == "train" or of == "val":
            return self._read(of, torch.arange(originals(self.dataset, of)))
        if not rounded and of == "reconstructions":
            indices = torch.arange(self.dataset.size("val")).split(CHUNK)
            return map(self._decoder(), indices, range(len(indices)))
        if not rounded and self.real:
            return self._read("val", self._heldout)
        images = self.samples if of == "samples" else self.reconstructions()
        assert images is not None
        return map(from_uint8, images.split(CHUNK))

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
        """Whether the row names a reference of its own or has its own map into the latent's space."""
        maps = type(self.regularizer.underlying).reference is not Regularizer.reference
        return maps or "own_reference" in self._inputs

    def reference(self, split: Split, own: bool = False) -> Reference:
        if "features" in self._reference_stage(own).meta["parents"]:
            self.compares_decoded = self.dataset.decoded
        return split_of(self._mapped(own), split)

    def reference_protocol(self, own: bool = False) -> dict[str, Any]:
        return self._reference_stage(own).info["protocol"]

    def _mapped(self, own: bool) -> Reference:
        if own and not self._may_differ:
            return self._mapped(False)
        samples = reference_samples(self._reference_stage(own), self._scratch(f"reference/{own}"))
        return in_space_of(self.regularizer, samples) if own else samples.projected(self.tokenizer.spec)

    def _reference_stage(self, own: bool) -> Artifact:
        return self._inputs["own_reference" if own and "own_reference" in self._inputs else "reference"]
