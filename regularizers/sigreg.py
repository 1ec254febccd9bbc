"""The sketched isotropic Gaussian regularizer of LeJEPA: projections of latents become standard normal."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from ..bench.api import LatentSpec, Regularizer, Step
from ..bench.metrics.epps_pulley import characteristic, epps_pulley
from ..bench.metrics.epps_pulley import sigreg as sigreg
from ..bench.nn.blocks import single
from ..bench.registry import register
from ..bench.runtime.processes import gathered, of_all


@register("sigreg")
class SIGReg(Regularizer):
    """The Epps-Pulley test of normality, on random projections, pulls latents to N(0, I).

    Directions are drawn anew at each step. All tokens of the minibatch are one sample, N = B T, or, with
    `per_position`, those of each position, N = B, whose statistics are averaged. Samples of fewer than about
    64 tell little. Tokens of one image depend on each other, so that N = B T overstates what is known.

    LeJEPA trains an encoder without a decoder, by 0.02 times this and 0.98 times a prediction loss. Its use
    on a tokenizer, on tokens, and the default weight, beside a mean L1, are our choices. As there, the
    statistic is multiplied by N: halve the weight where the batch is doubled, to keep its strength. The
    released code has 1024 directions, its minimal example 256, which are the default here, as tokens have
    fewer channels than embeddings. Memory grows as N K, with 16 numbers for each value.

    Paper: Balestriero & LeCun, "LeJEPA", 2025 (arXiv 2511.08544).
    """

    couples = "loss"
    gathers = True

    def __init__(
        self,
        spec: LatentSpec,
        weight: Annotated[float, Field(ge=0)] = 1e-3,
        directions: Annotated[int, Field(ge=1)] = 256,
        per_position: bool = False,
    ) -> None:
        """
        Args:
            weight: factor of the statistic, which grows as the number of tokens in the minibatch does.
            directions: random directions K that latents are projected on at each step.
            per_position: whether each token position is a sample of its own.
        """
        super().__init__(spec)
        self.weight, self.directions, self.per_position = weight, directions, per_position

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        x = single(z).transpose(0, 1) if self.per_position else single(z).flatten(0, 1)
        drawn = of_all(step.noise).normal(x.new_empty(x.shape[-1], self.directions), "directions")
        # Processes exchange means, not latents: each has the same number of rows.
        functions = gathered(characteristic(x, normalize(drawn, dim=0))[None], step.noise).mean(0)
        return {"sigreg": self.weight * epps_pulley(functions, x.shape[-2] * step.noise.world)}
