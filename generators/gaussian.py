"""The zero-cost baseline: one Gaussian over all values of a latent, whatever its class."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ..bench.api import LatentSpec, Likelihood, Noise
from ..bench.registry import register

JOINT = 4096  # largest number of values whose full covariance is kept; above, one covariance per token


def cholesky(covariance: Tensor) -> Tensor:
    """Lower factor of (..., D, D), also when fewer samples than dimensions left it singular.

    One millionth of the mean variance is added to the diagonal: the least that keeps float64 factors of
    rank-deficient covariances finite, and far below what a metric could see.
    """
    variance = covariance.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-12)
    jitter = 1e-6 * variance[..., None, None] * torch.eye(covariance.shape[-1]).to(covariance)
    return torch.linalg.cholesky(covariance + jitter)


@register("gaussian")
class Gaussian(Likelihood):
    """A single full-covariance Gaussian, fitted in one pass; labels and guidance are ignored."""

    mean: Tensor
    factor: Tensor

    def __init__(self, spec: LatentSpec, classes: int) -> None:
        super().__init__(spec, classes)
        # (groups, values): all values together, or each token on its own.
        joint = spec.tokens * spec.channels <= JOINT
        self.shape = (1, spec.tokens * spec.channels) if joint else (spec.tokens, spec.channels)
        self.register_buffer("mean", torch.zeros(self.shape))
        self.register_buffer("factor", torch.eye(self.shape[1]).expand(self.shape[0], -1, -1).clone())

    def fit(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        count = 0
        total = torch.zeros_like(self.mean, dtype=torch.float64)
        product = torch.zeros_like(self.factor, dtype=torch.float64)
        for z, _ in batches:
            values = z.to(total).reshape(len(z), *self.shape).transpose(0, 1)  # (G, B, D)
            count += len(z)
            total += values.sum(1)
            product += values.mT @ values
        mean = total / count
        self.mean.copy_(mean)
        self.factor.copy_(cholesky(product / count - mean[:, :, None] * mean[:, None, :]))

    def log_prob(self, z: Tensor, labels: Tensor | None) -> Tensor:
        centred = (z.reshape(len(z), *self.shape) - self.mean).permute(1, 2, 0)  # (G, D, B)
        white = torch.linalg.solve_triangular(self.factor, centred, upper=False)
        logdet = self.factor.diagonal(dim1=-2, dim2=-1).log().sum()
        return -0.5 * (white.square() + math.log(2 * math.pi)).sum((0, 1)) - logdet

    def sample(self, labels: Tensor, guidance: float, noise: Noise) -> Tensor:
        white = noise.normal(self.mean.new_empty(len(labels), *self.shape), "z")
        drawn = self.mean + torch.einsum("gij,bgj->bgi", self.factor, white)
        return drawn.reshape(len(labels), self.spec.tokens, self.spec.channels)
