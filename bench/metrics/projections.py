"""Projections of latents on random directions, and distances of distributions along them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

KS_PROJECTIONS = 20
PROJECTIONS = 64  # directions of the sliced Wasserstein distance


def directions(channels: int, count: int) -> Tensor:
    """Fixed unit vectors, (count, channels) float64: evenly spread in the plane, else random."""
    if channels == 2:
        angles = math.pi * (torch.arange(count, dtype=torch.float64) + 0.5) / count
        return torch.stack([angles.cos(), angles.sin()], dim=1)
    drawn = torch.randn(count, channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=1)


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int = PROJECTIONS) -> float:
    """The 1-Wasserstein distance of projections of (n, C) and (m, C), averaged over directions."""
    from scipy.stats import wasserstein_distance

    axes = directions(a.shape[1], projections).T
    pairs = zip((a.double() @ axes).T, (b.double() @ axes).T, strict=True)
    return sum(float(wasserstein_distance(*pair)) for pair in pairs) / projections


def distance_to_normal(z: Tensor) -> float:
    """The largest Kolmogorov-Smirnov distance of points (n, C) to N(0, 1) over 20 directions."""
    from scipy.stats import kstest

    projected = (z.double().cpu() @ directions(z.shape[1], KS_PROJECTIONS).T).T.numpy()
    return max(float(kstest(values, "norm").statistic) for values in projected)
