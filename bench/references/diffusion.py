"""Another reference at an intermediate time of a diffusion path (DMVAE, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ..api import Dataset, ImageSpec, LatentSpec, Reference, ReferenceSource, Split, seed_for
from ..flow import interpolate
from ..registry import Use, register, use


@register("diffusion")
class Diffusion(ReferenceSource):
    """Noised samples x_t = (1 - t) noise + t x of another reference's samples x, at t = `time`.

    x is first divided by one scalar, as latent diffusion does: the standard deviation of the split itself,
    because a draw sees no other split. DMVAE's text has lost the time at which it stops.
    """

    def __init__(
        self,
        image: ImageSpec,
        teacher_spec: LatentSpec,
        of: Annotated[Use, ReferenceSource] = "teacher",
        time: Annotated[float, Field(gt=0, lt=1)] = 0.5,
    ) -> None:
        """
        Args:
            of: the reference whose samples are noised.
            time: time at which noising stops; 0 is noise, 1 is data.
        """
        self.of, self.time = use(ReferenceSource, of, image=image, teacher_spec=teacher_spec), time
        self.spec, self.uses_features = self.of.spec, self.of.uses_features
        self.labelled = self.of.labelled

    def fingerprint(self) -> str | None:
        return self.of.fingerprint()

    def fetch(self) -> None:
        self.of.fetch()

    def counts(self, images: Mapping[Split, int], classes: int) -> dict[Split, int]:
        return self.of.counts(images, classes)

    def memory_bytes(self, images: Mapping[Split, int], classes: int) -> int:
        # Of the larger split also the scaled samples, noise and their products.
        drawn = self.counts(images, classes)
        largest = 4 * max(drawn.values()) * self.spec.tokens * self.spec.channels
        return self.of.memory_bytes(images, classes) + super().memory_bytes(images, classes) + 3 * largest

    def draw(self, split: Split, dataset: Dataset, tokens: Tensor, pooled: Tensor) -> Reference:
        clean = self.of.draw(split, dataset, tokens, pooled)
        x = clean.samples / (clean.samples - clean.samples.mean((0, 1))).square().mean().sqrt()
        generator = torch.Generator().manual_seed(seed_for("reference", "diffusion", split))
        noise = torch.randn(x.shape, generator=generator).to(x)
        return Reference(interpolate(x, noise, x.new_full((len(x),), self.time)), clean.labels, clean.grid)
