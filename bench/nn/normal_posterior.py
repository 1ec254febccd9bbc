"""The diagonal normal posterior of a variational encoder: its parameters, and draws of it."""

from __future__ import annotations

from torch import Tensor

from ..api import Noise


def posterior(h: Tensor) -> tuple[Tensor, Tensor]:
    """Splits h (B, T, 2 C) into mean and log-variance, each (B, T, C)."""
    mean, logvar = h.chunk(2, dim=-1)
    return mean, logvar.clamp(-30, 20)  # the bounds of latent diffusion's code


def drawn(h: Tensor, noise: Noise | None) -> Tensor:
    """A draw of the posterior of h (B, T, 2 C) -> (B, T, C); without noise, its mean."""
    mean, logvar = posterior(h)
    return mean if noise is None else mean + (0.5 * logvar).exp() * noise.normal(mean, "posterior")
