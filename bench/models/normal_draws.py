"""The mean and the variance of latents that a regularizer draws from independent normal distributions."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..api import Noise, Regularizer, Unfit

LOUD = 1024.0  # a power of two: noise so large that adding it to a mean rounds little of it away
LEAST = 1e-13  # variance, of which the logarithm is taken


@dataclass(frozen=True)
class _Constant(Noise):
    """Noise whose draw number `loud` is constant and whose other normal draws are zero."""

    loud: int = -1
    level: float = 0.0
    uniforms: float = 0.5
    drawn: list[str] = field(default_factory=list)  # names of the normal draws until now

    def normal(self, like: Tensor, tag: str = "") -> Tensor:
        self.drawn.append(tag)
        return torch.full_like(like, self.level if len(self.drawn) - 1 == self.loud else 0.0)

    def uniform(self, like: Tensor, tag: str = "") -> Tensor:
        return torch.full_like(like, self.uniforms)


def normal_moments(regularizer: Regularizer, h: Tensor) -> tuple[Tensor, Tensor]:
    """Means and log-variances (B, T, C) of the latents that a regularizer draws of h (B, T, C * expansion).

    Draws are means plus multiples of normal noise, as those of `kl` and `fixed_variance`. Each normal draw
    that `latent` makes is replaced by a constant in turn, and the squares of what they add are summed.

    Raises:
        Unfit: draws aren't such sums.
    """
    mean, silent = regularizer.latent(h, None), _Constant(0)
    same = [(regularizer.latent(h, one), mean) for one in (silent, _Constant(0, uniforms=0.25))]
    variance = torch.zeros_like(mean)
    for loud in range(len(silent.drawn)):
        noises = (_Constant(0, loud=loud, level=level) for level in (LOUD, 2 * LOUD))
        added, twice = (regularizer.latent(h, noise) - mean for noise in noises)
        same.append((twice, 2 * added))
        variance = variance + (added / LOUD).square()
    if not h.is_meta and not all(torch.allclose(*pair, rtol=1e-3, atol=1e-2) for pair in same):
        name = type(regularizer).__name__
        raise Unfit(f"draws of {name} aren't a mean and normal noise: its latents can be had as means alone")
    return mean, variance.clamp_min(LEAST).log()
