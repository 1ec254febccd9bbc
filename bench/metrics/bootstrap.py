"""Bootstrap resamples that all rows of all matrices share, so that their differences are paired."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..api import Estimate, seed_for

REPLICATES = 100


@lru_cache(maxsize=8)
def counts(metric: str, n: int) -> Tensor:
    """(REPLICATES, n) float64: how often each of n items is drawn when n are drawn with replacement.

    The draws depend on the metric's full name (without guidance), the replicate and n alone: two rows
    that are scored on n items each are resampled alike.
    """
    drawn = []
    for replicate in range(REPLICATES):
        generator = torch.Generator().manual_seed(seed_for("bootstrap", metric, replicate))
        drawn.append(torch.randint(n, (n,), generator=generator).bincount(minlength=n))
    return torch.stack(drawn).double()


def memory_bytes(n: int, metrics: int = 1) -> int:
    """Bytes of `counts` of n items for so many metrics, of which the last eight are kept."""
    return 8 * REPLICATES * n * (min(metrics, 8) + 2)  # as they are drawn, and as numbers


def means(metric: str, values: Tensor) -> Tensor:
    """The means of (n,) values of single items over the resamples, (REPLICATES,)."""
    return counts(metric, len(values)) @ values.double().cpu() / len(values)


def rounded(replicates: Sequence[float]) -> list[float]:
    """Replicates rounded to a hundredth of their standard deviation or finer: a record holds thousands."""
    spread = torch.tensor(list(replicates), dtype=torch.float64).std().item()
    if not 0 < spread < math.inf:
        return list(replicates)
    decimals = 2 - math.floor(math.log10(spread))
    return [round(value, decimals) for value in replicates]


def mean_estimate(metric: str, values: Tensor, labels: Tensor | None = None) -> Estimate:
    """The mean of (n,) values of single items, with its replicates and, given labels (n,), its classes."""
    return Estimate(values.double().mean().item(), means(metric, values), class_means(values, labels))


def class_means(values: Tensor, labels: Tensor | None) -> dict[str, float] | None:
    """The mean of (n,) values by class; None without labels (n,), of which -1 is "no class"."""
    if labels is None:
        return None
    classes = labels[labels >= 0].unique().tolist()
    return {str(label): values[labels == label].double().mean().item() for label in classes}


def narrowed(change: Tensor, second: float, beside: float = 0.0) -> Tensor:
    """A value's first-order changes by each item's weight, (n,), scaled to the spread over new samples.

    Changes that are estimated from the sample hold the variance of the second order twice instead of once,
    as a jackknife does (Efron & Stein, 1981). In a distance between two like sets, that is most of it.

    Args:
        second: the variance of the second order.
        beside: variance from other sources than the items.
    """
    change = change - change.mean()
    first = change.square().sum().item()
    if first == 0:
        return change
    return change * math.sqrt((max(first - second, min(first, second)) + beside) / first)
