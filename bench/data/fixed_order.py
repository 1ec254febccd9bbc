"""A fixed random order of a set's rows, because a set may be sorted by class, as image folders are."""

from __future__ import annotations

import torch
from torch import Tensor

from ..api import seed_for


def fixed_order(count: int, seed: int | None = None) -> Tensor:
    """A permutation (count,) of a set's rows, the same in every run; its first n rows are a random choice."""
    seed = seed_for("order", count) if seed is None else seed
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def random_rows(count: int, most: int | None, seed: int | None = None) -> Tensor:
    """The rows, in ascending order, of a fixed random choice of `most` of `count` rows (None: all)."""
    if most is None or most >= count:
        return torch.arange(count)
    return fixed_order(count, seed)[:most].sort().values
