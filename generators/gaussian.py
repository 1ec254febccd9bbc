"""A baseline at no cost: one Gaussian over all values of a latent, independent of the class."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ..bench.api import LatentSpec, Likelihood, Noise
from ..bench.registry import register

JOINT = 4096  # latents with more values than this get one covariance per token instead of a full one


def cholesky(covariance: Tensor) -> Tensor:
    """Lower Cholesky factor of (..., D, D), even if it is singular (fewer samples than dimensions).

    One millionth of the mean variance is added to the diagonal: the least that keeps float64 factors of
    rank-deficient covariances finite, and too little to change a metric.
    """
    variance = covariance.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-12)
    jitter = 1e-6 * variance[..., None, None] * torch.eye(covariance.shape[-1]).to(covariance)
    return torch.linalg.cholesky(covariance + jitter)


@register("gaussian")
class Gaussian(Likelihood):
    """A single full-covariance Gaussian, fitted in one pass; labels and guidance are ignored."""

    guided = False
    mean: Tensor
    factor: Tensor

    def __init__(self, spec: LatentSpec, classes: int) -> None:
        super().__init__(spec, classes)
        # (G groups, D values): one group of all values, or one group per token.
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
        whitened = torch.linalg.solve_triangular(self.factor, centred, upper=False)
        logdet = self.factor.diagonal(dim1=-2, dim2=-1).log().sum()
        return -0.5 * (whitened.square() + math.log(2 * math.pi)).sum((0, 1)) - logdet

    def sample(self, labels: Tensor, guidance: float, noise: Noise) -> Tensor:
        whitened = noise.normal(self.mean.new_empty(len(labels), *self.shape), "z")
        z = self.mean + torch.einsum("gij,bgj->bgi", self.factor, whitened)
        return z.reshape(len(labels), self.spec.tokens, self.spec.channels)
