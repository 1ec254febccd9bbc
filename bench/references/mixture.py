"""A mixture of Gaussians as a reference (DMVAE, section 4; Flow Priors, section 5.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ..api import Dataset, LatentSpec, Reference, ReferenceSource, Split, seed_for
from ..registry import register


def mixture_means(components: int, size: int, std: float, seed: int) -> Tensor:
    """Random centred means (components, size), scaled so that mean^2 + std^2 averages 1 over entries."""
    generator = torch.Generator().manual_seed(seed_for("reference", "mixture", "means", seed))
    means = torch.randn(components, size, generator=generator)
    means = means - means.mean(0)
    return means * ((1 - std**2) / means.square().mean()).sqrt()


@register("mixture")
class Mixture(ReferenceSource):
    """Equally likely isotropic components of standard deviation `std`, around means that `seed` draws.

    The mixture has mean 0 and mean variance 1. DMVAE only says that it has 10 components. A sample has one
    component, in which each token has its own mean. `channels` should be the latent's, or the random
    projection stretches the components.
    """

    uses_features = False

    def __init__(
        self,
        components: Annotated[int, Field(ge=2)] = 10,
        std: Annotated[float, Field(gt=0, lt=1)] = 0.3,
        tokens: Annotated[int, Field(ge=1)] = 1,
        channels: Annotated[int, Field(ge=1)] = 8,
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        """
        Args:
            components: number of components.
            std: standard deviation of each component.
            tokens: tokens in each sample.
            channels: numbers in each token.
            seed: seed of the components' means.
        """
        self.components, self.std, self.seed = components, std, seed
        self.spec = LatentSpec(tokens, channels)

    def memory_bytes(self, images: Mapping[Split, int], classes: int) -> int:
        # A split's means, noise and its product are there with their sum.
        return 3 * super().memory_bytes(images, classes)

    def draw(self, split: Split, dataset: Dataset, tokens: Tensor, pooled: Tensor) -> Reference:
        generator = torch.Generator().manual_seed(seed_for("reference", "mixture", split, self.seed))
        size = self.spec.tokens * self.spec.channels
        means = mixture_means(self.components, size, self.std, self.seed)
        component = torch.randint(self.components, (dataset.size(split),), generator=generator)
        samples = means[component] + self.std * torch.randn(len(component), size, generator=generator)
        return Reference(samples.unflatten(1, (self.spec.tokens, self.spec.channels)))
