"""A posterior whose variances are kept from collapsing, without a prior (VE: Li et al., 2026)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import LatentSpec, Noise, Regularizer, Step
from ..bench.nn.blocks import single
from ..bench.nn.normal_posterior import drawn, posterior
from ..bench.registry import register

STEEPEST = 20.0  # exponent from which the magnitude's penalty goes on along its tangent


def bounded_exp(x: Tensor) -> Tensor:
    """exp(x) up to x = 20, and its tangent from there on, so that its gradient is exp(20) at most."""
    below = x.clamp_max(STEEPEST).exp()
    return torch.where(x > STEEPEST, below * (1 + x - STEEPEST), below)


def terms(logvar: Tensor, z: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """The means over elements of 1 / (sigma^2 + delta) and of exp(|z| - 1), unweighted.

    logvar and z (B, T, C) -> () and (). Where |z| > 21, the second goes on along its tangent.
    """
    return (logvar.exp() + delta).reciprocal().mean(), bounded_exp(z.abs() - 1).mean()


@register("variance_expansion")
class VarianceExpansion(Regularizer):
    """A penalty on small posterior variances, and one on large latents, in place of the KL divergence.

    A reconstruction loss shrinks the posterior's variance sigma^2: near the mean it grows by sigma^2 T, where
    T is the squared norm of the decoder's Jacobian. With lambda / sigma^2 added, the minimum is at
    sigma = (lambda / T)^(1/4). The means stay bounded by the term exp(|z| - 1) of the latents.

    Our choices: both terms are means over elements, so lambda is per element, and T that of a reconstruction
    loss which is a mean, too; the second term is of the posterior's draw; delta = 1e-6 is small against the
    variances that the term is to hold, and bounds it by 1e6. Where |z| > 21, exp(|z| - 1) goes on along its
    tangent, as it would overflow in single precision at |z| = 90.

    Paper: Li et al., "Taming Sampling Perturbations with Variance Expansion Loss", 2026 (arXiv 2603.21085).
    """

    expansion = 2

    def __init__(
        self,
        spec: LatentSpec,
        variance_weight: Annotated[float, Field(ge=0)] = 0.1,
        magnitude_weight: Annotated[float, Field(ge=0)] = 1e-6,
        delta: Annotated[float, Field(gt=0)] = 1e-6,
    ) -> None:
        """
        Args:
            variance_weight: factor of the mean of 1 / (sigma^2 + delta); lambda_1 of the paper.
            magnitude_weight: factor of the mean of exp(|z| - 1); lambda_2 of the paper.
            delta: variance that bounds the first term as sigma goes to 0.
        """
        super().__init__(spec)
        self.variance_weight, self.magnitude_weight, self.delta = variance_weight, magnitude_weight, delta

    def latent(self, h: Tensor, noise: Noise | None, labels: Tensor | None = None) -> Tensor:
        return drawn(h, noise)

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        inverse_variance, magnitude = terms(single(posterior(h)[1]), single(z), self.delta)
        return {
            "inverse_variance": self.variance_weight * inverse_variance,
            "magnitude": self.magnitude_weight * magnitude,
        }
