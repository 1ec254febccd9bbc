"""Linear paths between noise (t = 0) and data (t = 1) (Lipman et al., 2023; Liu et al., 2023)."""

from __future__ import annotations

import math
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


def dimension_shift(numbers: int) -> float:
    """The factor sqrt(numbers / 4096), at least 1, by which RAE shifts times of latents with T C numbers.

    The same noise hides less of a latent of more numbers, which therefore needs more steps near noise. RAE's
    code refuses factors below 1 (Zheng et al., 2025, arXiv 2510.11690; Esser et al., 2024, equation 23).
    `shift_time(t, 1 / factor)` applies the factor.
    """
    return max(1.0, math.sqrt(numbers / 4096))


def velocity_to(data: Tensor, x: Tensor, t: Tensor, t_eps: float = 0.05) -> Tensor:
    """The velocity from x (B, T, C) at t (B,) straight to the data: (data - x) / max(1 - t, t_eps)."""
    return (data - x) / expand_time((1 - t).clamp(min=t_eps), x)


def x_prediction_loss(prediction: Tensor, z: Tensor, noise: Tensor, t: Tensor, t_eps: float = 0.05) -> Tensor:
    """The mean squared error of the velocity of a network that predicts the data (JiT, arXiv 2511.13720).

    The velocities of prediction and data from x_t = (1 - t) noise + t z differ by their difference over
    max(1 - t, t_eps).

    Args:
        prediction: the network's data, (B, T, C).
        z: the data, (B, T, C).
        noise: the path's start, (B, T, C).
        t: times (B,).
        t_eps: smallest divisor, which bounds velocities at times beyond 1 - t_eps.
    """
    x = interpolate(z, noise, t)
    return (velocity_to(prediction, x, t, t_eps) - velocity_to(z, x, t, t_eps)).square().mean()


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


def logit_normal(uniform: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """The sigmoid of a normal of this mean and deviation, from uniform draws (Esser et al., 2024)."""
    # A draw of exactly 0 would give t = 0 through -inf, which is fine; float32 uniforms never reach 1.
    return (mean + std * torch.special.ndtri(uniform)).sigmoid()


def with_unconditional(labels: Tensor) -> Tensor:
    """Labels (B,) followed by as many -1, (2B,), to run both branches of guidance in one pass."""
    return torch.cat([labels, torch.full_like(labels, -1)])
