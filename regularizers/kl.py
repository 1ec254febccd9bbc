"""The KL term of a variational autoencoder (Kingma & Welling, 2014), also with noise added after training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from ..bench.api import LatentSpec, Noise, Regularizer, Step
from ..bench.nn.normal_posterior import drawn, posterior
from ..bench.registry import register


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, I)): (B, T, C), (B, T, C) -> (B,) in nats, summed over T and C."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)


@register("kl")
class KL(Regularizer):
    """The KL divergence of a diagonal Gaussian posterior from N(0, I).

    The term is `weight` times the batch mean of each sample's divergence, summed over tokens and channels as
    in latent diffusion and SoftVQ, so the effect of a weight grows with the size of the latent. SoftVQ's
    1e-6, beside a reconstruction loss that is a mean over pixels, is 2e-3 per element of its 64 x 32 latent;
    the default, 1e-4, is 1.3e-2 per element of the 16 x 8 latent of an 8 x 8 image. Divide the weight as the
    latent grows.

    Paper: Kingma & Welling, "Auto-Encoding Variational Bayes", 2014 (arXiv 1312.6114).
    """

    expansion = 2

    def __init__(self, spec: LatentSpec, weight: Annotated[float, Field(ge=0)] = 1e-4) -> None:
        """
        Args:
            weight: factor of the divergence, which is summed over tokens and channels.
        """
        super().__init__(spec)
        self.weight = weight

    def latent(self, h: Tensor, noise: Noise | None, labels: Tensor | None = None) -> Tensor:
        return drawn(h, noise)

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        return {"kl": self.weight * kl_divergence(*posterior(h)).mean()}


@register("noised_kl")
class NoisedKL(KL):
    """`kl` whose latents get further noise once the encoder is trained (STARFlow: Gu et al., 2025).

    The decoder's refinement, generators and metrics get the posterior's draw + noise_std * noise.

    Paper: Gu et al., "STARFlow", 2025 (arXiv 2506.06276).
    """

    def __init__(
        self,
        spec: LatentSpec,
        weight: Annotated[float, Field(ge=0)] = 1e-4,
        noise_std: Annotated[float, Field(ge=0)] = 0.3,
    ) -> None:
        """
        Args:
            noise_std: standard deviation of the noise that latents get once the encoder is trained.
        """
        super().__init__(spec, weight)
        self.noise_std = noise_std

    def latent(self, h: Tensor, noise: Noise | None, labels: Tensor | None = None) -> Tensor:
        z = super().latent(h, noise, labels)
        if noise is None or self.training:
            return z
        return z + self.noise_std * noise.normal(z, "augmentation")
