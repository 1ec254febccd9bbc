"""Noise on the latents that the decoder learns from: l-DeTok's, RAE's and GAE's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from ..bench.api import LatentSpec, Shown, Step
from ..bench.nn.corruption import Corruption
from ..bench.registry import register


def noised(z: Tensor, level: Tensor, noise: Tensor, gamma: float, interpolate: bool) -> Tensor:
    """Latents with noise: (1 - level) z + level gamma noise, or z + level gamma noise.

    Args:
        z: latents (B, T, C).
        level: of each image, (B, 1, 1).
        noise: standard normal, (B, T, C).
        gamma: standard deviation of the noise at level 1.
        interpolate: whether the latent fades as the noise grows.
    """
    return ((1 - level) * z if interpolate else z) + level * gamma * noise


@register("denoising")
class Denoising(Corruption):
    """The decoder learns from noisy latents, of one random level for each image.

    The defaults are l-DeTok's: z' = (1 - u) z + u gamma e with u uniform in [0, 1). Its models stand on a
    posterior of weight 1e-6 (`on: {kl: {weight: 1.0e-6}}`); its second stage, which tunes the decoder on
    clean latents, is the matrix's `refine_steps`. RAE's noise is `{interpolate: false, gamma: 0.8}`. GAE's
    has `law: normal` and `interpolate: false` on latents of norm sqrt(C), `on: rms`, with gamma 0.25 in its
    released configuration of inference; that of its training isn't known.

    l-DeTok may also drop patches of what the encoder sees; the option `mask` of `vit` and `softvq` puts a
    learned token in their place.

    Papers: Yang et al., "Latent Denoising Makes Good Visual Tokenizers" (l-DeTok), 2025 (arXiv 2507.15856);
    Zheng et al., "Diffusion Transformers with Representation Autoencoders" (RAE), 2025 (arXiv 2510.11690);
    Liu et al., "Geometric Autoencoder for Diffusion Models" (GAE), 2026 (arXiv 2603.10365).
    """

    def __init__(
        self,
        spec: LatentSpec,
        gamma: Annotated[float, Field(ge=0)] = 3.0,
        interpolate: bool = True,
        law: Literal["uniform", "normal"] = "uniform",
        **options: object,
    ) -> None:
        """
        Args:
            gamma: standard deviation of the noise at level 1, in the units of the latents.
            interpolate: whether the latent fades by 1 - level, or stays and gets noise added.
            law: distribution of the level: uniform in [0, 1), or normal with mean 0 and variance 1, of which
                the sign makes no difference unless the latent fades.
        """
        super().__init__(spec, **options)  # type: ignore[arg-type]
        if law == "normal" and interpolate:
            raise ValueError("law 'normal' draws levels beyond 1: it needs interpolate false")
        self.gamma, self.interpolate, self.law = gamma, interpolate, law

    def shown(self, z: Tensor, step: Step) -> Sequence[Shown]:
        if not self.gamma:
            return super().shown(z, step)
        draw = step.noise.uniform if self.law == "uniform" else step.noise.normal
        level = draw(z[:, :1, :1], "level")
        noise = step.noise.normal(z, "noise")
        return [Shown(noised(z, level, noise, self.gamma, self.interpolate), step.images)]
