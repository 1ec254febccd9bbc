"""The sketched isotropic Gaussian regularizer of LeJEPA: projections of latents become standard normal."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from ..bench.api import LatentSpec, Regularizer, Step
from ..bench.nn.blocks import single, without_autocast
from ..bench.registry import register
from ..bench.runtime.processes import gathered, of_all

SPACING, KNOTS = 3 / 16, 16  # of the integral over [0, 3]; a 17th knot, t = 0, has always a term of 0


def knots(like: Tensor) -> Tensor:
    """The knots t > 0 of the integral, (16,), on the device and in the precision of `like`."""
    return SPACING * torch.arange(1, KNOTS + 1, device=like.device, dtype=like.dtype)


def characteristic(x: Tensor, directions: Tensor) -> Tensor:
    """Empirical characteristic functions of projections: x (..., N, D), directions (D, K) -> (2, ..., K, 16).

    They are means over N of cos(t y) and sin(t y), y = x @ directions, at the knots t.
    """
    with without_autocast(x):
        y = single(x) @ directions
    angles = y[..., None] * knots(y)
    return torch.stack([angles.cos().mean(-3), angles.sin().mean(-3)])


def epps_pulley(functions: Tensor, count: int) -> Tensor:
    """The mean Epps-Pulley statistic of characteristic functions (2, ..., 16) of `count` values: -> ().

    It is N times the integral of |phi_N(t) - phi(t)|^2 phi(t) over [-3, 3], phi(t) = exp(-t^2 / 2), by the
    trapezoidal rule; the negative half is the mirror image of the positive one.
    """
    t = knots(functions)
    phi = (-t.square() / 2).exp()
    weights = 2 * SPACING * phi
    weights[-1] /= 2  # the end of the trapezoidal rule
    cos, sin = functions
    return count * (((cos - phi).square() + sin.square()) * weights).sum(-1).mean()


def sigreg(x: Tensor, directions: Tensor) -> Tensor:
    """SIGReg, the mean statistic over directions (columns) and leading axes: (..., N, D), (D, K) -> ().

    Its expectation over N(0, I) is 1.0524642 for unit directions, whatever N; elsewhere it grows as N does.
    """
    return epps_pulley(characteristic(x, directions), x.shape[-2])


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
