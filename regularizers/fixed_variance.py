"""A posterior of fixed variance: SimFlow's (2025), here without the flow that it trains jointly."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..bench.api import LatentSpec, Noise, Regularizer, Unfit
from ..bench.registry import register


@register("fixed_variance")
class FixedVariance(Regularizer):
    """Latents z = mu + sigma * noise; `layer_norm` gives each token of mu zero mean and unit variance.

    sigma is a standard deviation: the variance "0.5" of the abstract is 0.5 squared in section 5.3. SimFlow's
    flow keeps mu from outgrowing the noise; without it only the layer norm does, so it is on. The norm has no
    affine parameters (the paper doesn't say): with them mu could grow again.
    """

    def __init__(
        self, spec: LatentSpec, sigma: Annotated[float, Field(ge=0)] = 0.5, layer_norm: bool = True
    ) -> None:
        super().__init__(spec)
        if layer_norm and spec.channels < 3:
            raise Unfit(
                f"layer_norm over {spec.channels} channels leaves nothing but a sign; 3 or more are needed"
            )
        self.sigma, self.layer_norm = sigma, layer_norm

    def latent(self, h: Tensor, noise: Noise | None, labels: Tensor | None = None) -> Tensor:
        mean = F.layer_norm(h, h.shape[-1:]) if self.layer_norm else h
        return mean if noise is None else mean + self.sigma * noise.normal(mean, "posterior")
