"""Bootstrap resamples that all rows of all matrices share, so that their differences are paired."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from .seeds import seed_for

REPLICATES = 100


@lru_cache(maxsize=32)
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


def means(metric: str, values: Tensor) -> Tensor:
    """(n,) values of single items -> (REPLICATES,) their means over the resamples."""
    return counts(metric, len(values)) @ values.double().cpu() / len(values)
