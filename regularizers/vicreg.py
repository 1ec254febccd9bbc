"""The variance and covariance terms of VICReg (Bardes et al., 2022) on latent tokens."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn.functional import relu

from ..bench.api import LatentSpec, Regularizer, Step
from ..bench.nn.blocks import single, without_autocast
from ..bench.registry import register
from ..bench.runtime.processes import gathered


def variance_covariance(x: Tensor) -> tuple[Tensor, Tensor]:
    """VICReg's unweighted variance and covariance terms of a sample: x (N, D), N >= 2 -> (), ().

    The first is the mean over channels of max(0, 1 - sqrt(variance + 1e-4)), the second the sum of squared
    covariances of different channels over D. Variances and covariances are unbiased.
    """
    centred = single(x) - single(x).mean(0)
    with without_autocast(centred):
        covariance = centred.T @ centred / (len(x) - 1)
    variances = covariance.diagonal()
    others = covariance - variances.diag()
    return relu(1 - (variances + 1e-4).sqrt()).mean(), others.square().sum() / x.shape[1]


@register("vicreg")
class VICReg(Regularizer):
    """The variance of each latent channel is kept above 1, and its covariance with others at 0.

    Nothing bounds the variance from above but the covariance term, which is 0 for uncorrelated channels of
    any size. All tokens of the minibatch are one sample, whatever their positions.

    VICReg compares embeddings of two views of an image; here the reconstruction loss takes the place of that
    invariance term. Its weights are 25 for invariance, 25 for variance and 1 for covariance. The default
    keeps these ratios beside a reconstruction loss of weight 1: our choice. The released code averages the
    variance term over both views but adds the covariance terms, which makes them 25 to 2.

    Paper: Bardes et al., "VICReg", 2022 (arXiv 2105.04906).
    """

    couples = "loss"
    gathers = True

    def __init__(
        self,
        spec: LatentSpec,
        variance_weight: Annotated[float, Field(ge=0)] = 1.0,
        covariance_weight: Annotated[float, Field(ge=0)] = 0.04,
    ) -> None:
        """
        Args:
            variance_weight: factor of the mean shortfall of channels' standard deviations from 1.
            covariance_weight: factor of the squared covariances between channels.
        """
        super().__init__(spec)
        self.variance_weight, self.covariance_weight = variance_weight, covariance_weight

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        variance, covariance = variance_covariance(gathered(z, step.noise).flatten(0, 1))
        return {
            "variance": self.variance_weight * variance,
            "covariance": self.covariance_weight * covariance,
        }
