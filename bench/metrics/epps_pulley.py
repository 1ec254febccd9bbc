"""The Epps-Pulley test of normality on projections (LeJEPA: Balestriero & LeCun, 2025, arXiv 2511.08544)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..nn.blocks import single, without_autocast

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


def integrals(functions: Tensor) -> Tensor:
    """The integrals of |phi_N(t) - phi(t)|^2 phi(t) over [-3, 3]: (2, ..., 16) -> (...).

    phi(t) = exp(-t^2 / 2). By the trapezoidal rule; the negative half is the mirror image of the positive
    one.
    """
    t = knots(functions)
    phi = (-t.square() / 2).exp()
    weights = 2 * SPACING * phi
    weights[-1] /= 2  # the end of the trapezoidal rule
    cos, sin = functions
    return (((cos - phi).square() + sin.square()) * weights).sum(-1)


def epps_pulley(functions: Tensor, count: int) -> Tensor:
    """The mean Epps-Pulley statistic of characteristic functions (2, ..., 16) of `count` values: -> ().

    It is N times the integral of |phi_N(t) - phi(t)|^2 phi(t), see `integrals`.
    """
    return count * integrals(functions).mean()


def sigreg(x: Tensor, directions: Tensor) -> Tensor:
    """SIGReg, the mean statistic over directions (columns) and leading axes: (..., N, D), (D, K) -> ().

    Its expectation over N(0, I) is 1.0524642 for unit directions, whatever N; elsewhere it grows as N does.
    """
    return epps_pulley(characteristic(x, directions), x.shape[-2])
