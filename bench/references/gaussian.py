"""The standard normal as a reference (Kingma & Welling, 2014; DMVAE, section 4)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ..api import Dataset, LatentSpec, Reference, ReferenceSource, Split, seed_for
from ..registry import register


@register("gaussian")
class Gaussian(ReferenceSource):
    """Draws from N(0, I), as many as the split has images.

    `channels` should be the latent's: otherwise a random projection W of the samples turns N(0, I) into
    N(0, W'W), whose variances differ by a factor of 3 for 112 -> 8 channels.
    """

    uses_features = False

    def __init__(
        self, tokens: Annotated[int, Field(ge=1)] = 1, channels: Annotated[int, Field(ge=1)] = 8
    ) -> None:
        """
        Args:
            tokens: tokens in each sample.
            channels: numbers in each token.
        """
        self.spec = LatentSpec(tokens, channels)

    def draw(self, split: Split, dataset: Dataset, tokens: Tensor, pooled: Tensor) -> Reference:
        generator = torch.Generator().manual_seed(seed_for("reference", "gaussian", split))
        shape = (dataset.size(split), self.spec.tokens, self.spec.channels)
        return Reference(torch.randn(shape, generator=generator))
