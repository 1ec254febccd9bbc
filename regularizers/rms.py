"""Latents normalised to unit root mean square (RMSNorm), as in GAE (Liu et al., 2026)."""

from __future__ import annotations

from torch import Tensor

from ..bench.api import LatentSpec, Noise, Regularizer, Unfit
from ..bench.registry import register

EPSILON = 1e-6  # added to the mean square, as in GAE's code


def normalised(h: Tensor) -> Tensor:
    """h / sqrt(mean of h^2 over channels + 1e-6): (..., C) -> (..., C), of norm sqrt(C)."""
    return h * (h.square().mean(-1, keepdim=True) + EPSILON).rsqrt()


@register("rms")
class RMS(Regularizer):
    """Each token is divided by the root mean square of its channels, so that it has the norm sqrt(C).

    There is no loss and no gain: the tokens' directions alone carry the image. The noise that GAE's decoder
    learns from is that of `denoising` with `on: rms`; its alignment with a teacher is left out.

    Paper: Liu et al., "Geometric Autoencoder for Diffusion Models", 2026 (arXiv 2603.10365).
    """

    def __init__(self, spec: LatentSpec) -> None:
        super().__init__(spec)
        if spec.channels < 2:
            raise Unfit(
                f"a root mean square over {spec.channels} channel leaves nothing but a sign: take 2 or more"
            )

    def latent(self, h: Tensor, noise: Noise | None, labels: Tensor | None = None) -> Tensor:
        return normalised(h)
