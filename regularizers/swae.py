"""The sliced Wasserstein distance between latents and draws of a prior (SWAE: Kolouri et al., 2018)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from ..bench.api import LatentSpec, Step
from ..bench.nn.blocks import single, without_autocast
from ..bench.nn.two_samples import Samples, Target, TwoSamples
from ..bench.registry import register


def squared_wasserstein(a: Tensor, b: Tensor) -> Tensor:
    """Squared 2-Wasserstein distances of columns of sorted values: (N, K), (M, K) -> (K,).

    They are integrals over u in [0, 1] of the squared difference of quantiles, exact for N and M that differ.
    """
    n, m = len(a), len(b)
    if n == m:
        return (a - b).square().mean(0)
    # Both step functions are constant between neighbouring edges; edges are in units of 1 / (n m).
    steps = [torch.arange(0, n * m, size, device=a.device) for size in (m, n)]
    edges = torch.cat(steps).sort().values
    widths = edges.diff(append=edges.new_full((1,), n * m)).to(a) / (n * m)
    return (widths[:, None] * (a[edges // m] - b[edges // n]).square()).sum(0)


def sliced_wasserstein(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    """The mean squared 2-Wasserstein distance over projections: x (N, D), y (M, D), directions (K, D) -> ().

    No root is taken. Directions are used as they are: callers give unit vectors.
    """
    with without_autocast(x):
        a, b = (single(values) @ directions.T for values in (x, y))
    return squared_wasserstein(a.sort(0).values, b.sort(0).values).mean()


@register("swae")
class SWAE(TwoSamples):
    """The sliced Wasserstein distance pulls latents to the distribution of the reference, or to N(0, I).

    Latents and draws are projected on random directions, drawn anew at each step, and sorted; the loss is the
    mean squared difference. `samples: token` compares single tokens without their positions, `image` all
    tokens of an image as one vector. A reference may have fewer tokens than the latent: the distance between
    samples of different sizes is exact.

    Its estimate is above 0 by chance: by 0.006 on average between two samples of 1,024 standard normal
    tokens, by 0.08 between samples of 64, as images in a minibatch may be. Weight and number of directions
    are our choices.

    Paper: Kolouri et al., "Sliced-Wasserstein Autoencoder", 2018 (arXiv 1804.01947).
    """

    def __init__(
        self,
        spec: LatentSpec,
        reference_spec: LatentSpec,
        target: Target = "reference",
        weight: Annotated[float, Field(ge=0)] = 0.1,
        samples: Samples = "token",
        directions: Annotated[int, Field(ge=1)] = 64,
    ) -> None:
        """
        Args:
            target: `reference` is the reference of the matrix or of the row; `gaussian` is N(0, I).
            weight: factor of the loss.
            samples: whether single tokens are compared, or whole images.
            directions: random directions that latents are projected on at each step.
        """
        super().__init__(spec, reference_spec, target, samples)
        self.weight, self.directions = weight, directions

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        z, prior, noise = self.both(single(z), step)
        x, y = (v.flatten(1) if self.samples == "image" else v.flatten(0, 1) for v in (z, prior))
        drawn = noise.normal(x.new_empty(self.directions, x.shape[1]), "directions")
        return {"swae": self.weight * sliced_wasserstein(x, y, normalize(drawn, dim=1))}
