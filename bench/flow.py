"""Linear paths between noise (t = 0) and data (t = 1) (Lipman et al., 2023; Liu et al., 2023)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def expand_time(t: Tensor, like: Tensor) -> Tensor:
    """Times (B,) or (B, T) with trailing dimensions of size 1, which multiply `like` (B, T, C)."""
    return t.reshape(*t.shape, *(1,) * (like.dim() - t.dim()))


def interpolate(z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The point on the path at time t: x_t = (1 - t) * noise + t * z."""
    t = expand_time(t, z)
    return (1 - t) * noise + t * z


def shift_time(t: Tensor, s: float) -> Tensor:
    """Time s t / (1 + (s - 1) t), which keeps 0 and 1; s < 1 puts more steps near noise (LightningDiT)."""
    return s * t / (1 + (s - 1) * t)


def euler(velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, times: Tensor) -> Tensor:
    """Integrates dx/dt = velocity(x, t) over `times` (K + 1,) with K explicit Euler steps; t is (B,)."""
    for start, stop in zip(times[:-1], times[1:], strict=True):
        x = x + (stop - start) * velocity(x, start.expand(x.shape[0]))
    return x


def guide(conditional: Tensor, unconditional: Tensor, guidance: float | Tensor) -> Tensor:
    """Classifier-free guidance (Ho & Salimans, 2022): u + w (c - u); w = 1 is no guidance."""
    return unconditional + guidance * (conditional - unconditional)


def guided(
    velocity: Callable[[Tensor, Tensor, Tensor], Tensor],
    x: Tensor,
    t: Tensor,
    labels: Tensor,
    guidance: float,
) -> Tensor:
    """The guided velocity of x (B, T, C) at t (B,) for labels (B,), with both branches in one pass."""
    both = velocity(x.repeat(2, 1, 1), t.repeat(2), with_unconditional(labels))
    conditional, unconditional = both.chunk(2)
    return guide(conditional, unconditional, guidance)


def logit_normal(uniform: Tensor) -> Tensor:
    """The sigmoid of a standard normal, from uniform draws (Esser et al., 2024)."""
    # A draw of exactly 0 would give t = 0 through -inf, which is fine; float32 uniforms never reach 1.
    return torch.special.ndtri(uniform).sigmoid()


def with_unconditional(labels: Tensor) -> Tensor:
    """Labels (B,) followed by as many -1, (2B,), to run both branches of guidance in one pass."""
    return torch.cat([labels, torch.full_like(labels, -1)])
