"""Adversarial matching of latents to a prior (AAE: Makhzani et al., 2016)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu, softplus
from torch.nn.utils.parametrizations import spectral_norm

from ..bench.api import LatentSpec, Regularizer, Step
from ..bench.registry import register

Objective = Literal["logistic", "hinge"]


def discriminator_loss(real: Tensor, fake: Tensor, objective: Objective) -> Tensor:
    """The discriminator's loss from its logits of prior draws and of latents, any shapes -> ().

    Where all logits are 0 it is 2 log 2 (logistic) or 2 (hinge).
    """
    if objective == "hinge":
        return relu(1 - real).mean() + relu(1 + fake).mean()
    return softplus(-real).mean() + softplus(fake).mean()


def encoder_loss(fake: Tensor, objective: Objective) -> Tensor:
    """The encoder's loss from the discriminator's logits of latents, any shape -> ().

    It does not saturate: -log D(z) in place of the minimax game's log(1 - D(z)).
    """
    return -fake.mean() if objective == "hinge" else softplus(-fake).mean()


def gradient_penalty(discriminator: nn.Module, z: Tensor) -> Tensor:
    """R1 (Mescheder et al., 2018): half the mean squared norm of each token's gradient, z (..., C) -> ()."""
    z = z.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(z).sum(), z, create_graph=True)
    return 0.5 * gradient.square().sum(-1).mean()


@register("aae")
class AAE(Regularizer):
    """A discriminator pulls single latent tokens to the distribution of the reference's, or to N(0, I).

    It sees one token at a time without position or image: three linear layers with leaky ReLU and spectral
    norm; `r1` weighs the gradient penalty on the prior's draws. The encoder's term grows linearly over the
    first `warmup` updates. No code was released; the norms, the penalty and the weight come from later work.

    The discriminator must keep up with the encoder. On digits, in 300 steps at the loop's learning rate, its
    accuracy falls to chance far from the reference without `r1`, with the hinge loss, or at weight 1; at
    weight 1 it keeps up with `optimizer: {critics: {discriminator: {lr: 5.0e-3, betas: [0.0, 0.99]}}}`.

    Paper: Makhzani et al., "Adversarial Autoencoders", 2016 (arXiv 1511.05644).
    """

    version = 2  # since the reference's tokens are chosen, not pooled

    def __init__(
        self,
        spec: LatentSpec,
        reference_spec: LatentSpec,
        target: Literal["reference", "gaussian"] = "reference",
        weight: Annotated[float, Field(ge=0)] = 0.1,
        warmup: Annotated[int, Field(ge=0)] = 100,
        objective: Objective = "logistic",
        r1: Annotated[float, Field(ge=0)] = 1.0,
        width: Annotated[int, Field(ge=1)] = 512,
    ) -> None:
        """
        Args:
            target: `reference` is the reference of the matrix or of the row; `gaussian` is N(0, I).
            weight: factor of the encoder's term.
            warmup: updates over which the encoder's term grows linearly to its full weight.
            objective: the loss of the discriminator and of the encoder.
            r1: factor of the gradient penalty on the prior's draws; 0 is none.
            width: hidden width of the discriminator.
        """
        super().__init__(spec)
        self.target, self.weight, self.warmup, self.objective, self.r1 = target, weight, warmup, objective, r1
        self.discriminator = nn.Sequential(
            spectral_norm(nn.Linear(spec.channels, width)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Linear(width, width)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Linear(width, 1)),
        )

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        # In eval mode spectral norm keeps its estimates; only the discriminator's own updates change them.
        self.discriminator.eval()
        ramp = min(1.0, (step.index + 1) / max(1, self.warmup))
        return {"aae": self.weight * ramp * encoder_loss(self.discriminator(z), self.objective)}

    def critics(self) -> dict[str, nn.Module]:
        return {"discriminator": self.discriminator}

    def critic_loss(self, name: str, z: Tensor, step: Step) -> Tensor:
        self.discriminator.train()
        prior = step.noise.normal(z, "prior") if self.target == "gaussian" else step.reference
        assert prior is not None
        loss = discriminator_loss(self.discriminator(prior), self.discriminator(z), self.objective)
        if self.r1:
            loss = loss + self.r1 * gradient_penalty(self.discriminator, prior)
        return loss
