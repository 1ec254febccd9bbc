"""MIND: the sliced Wasserstein distance of two equally large sets of features, with replicates."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..api import Estimate
from .bootstrap import counts
from .bootstrap import memory_bytes as bootstrap_bytes
from .proxies import BLOCK, sliced_distance

DIRECTIONS, DIRECTIONS_SEED = 1000, 2020
VALUES = 2**21  # projections of a set that are sorted at a time


def random_directions(width: int) -> Tensor:
    """Fixed random unit vectors, (DIRECTIONS, width) float64."""
    generator = torch.Generator().manual_seed(DIRECTIONS_SEED)
    drawn = torch.randn(DIRECTIONS, width, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=1)


def sliced_estimate(name: str, a: Tensor, b: Tensor) -> Estimate:
    """`proxies.sliced_distance` of features (n, F) twice along random directions, in double precision.

    Replicates are to the first order in the weights of a's images. Of Gaussian samples they spread 0.9 to
    1.2 times as wide as values of new samples (n = 100, 360, 1437), of like sets as of distant ones.

    Paper: https://arxiv.org/abs/2605.06797 (MIND)
    """
    a, b, axes = a.detach().cpu(), b.detach().cpu(), random_directions(a.shape[1])
    value = sliced_distance(a, b, axes).item()
    return Estimate(value, value + (counts(name, len(a)) - 1) @ weight_changes(a, b, axes))


def memory_bytes(n: int, width: int) -> int:
    """Bytes that the distance of n features to as many takes at its peak, beside the features."""
    copies, axes, projections = 2 * 8 * n * width, 2 * 8 * DIRECTIONS * width, n * DIRECTIONS
    distance, changes = 4 * 8 * min(BLOCK // 4, projections), 8 * 8 * min(max(VALUES, n), projections)
    return copies + axes + max(distance, changes) + bootstrap_bytes(n)


def weight_changes(a: Tensor, b: Tensor, axes: Tensor) -> Tensor:
    """The derivatives (n,) of the sliced distance by the weights of a's images, up to a constant.

    Along a direction they are the optimal transport's potential at the projections, whose slope between two
    neighbours is twice the distance that the mass there is moved.
    """
    changes = torch.zeros(len(a), dtype=torch.float64)
    for x, y in zip(_projections(a, axes), _projections(b, axes), strict=True):
        ordered, rows = x.sort(0)
        gap = ordered - y.sort(0).values
        steps = ordered.diff(dim=0) * (gap[1:] + gap[:-1])
        potential = torch.cat([steps.new_zeros(1, steps.shape[1]), steps.cumsum(0)])
        changes += torch.zeros_like(potential).scatter_(0, rows, potential - potential.mean(0)).sum(1)
    return 3 * a.shape[1] * changes / len(axes) / len(a)


def _projections(features: Tensor, axes: Tensor) -> Iterator[Tensor]:
    """Blocks (n, K) of the features' projections on K directions at a time."""
    features = features.double()
    for block in axes.split(max(1, VALUES // max(1, len(features)))):
        yield features @ block.T
