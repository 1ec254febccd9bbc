"""A fixed random order of a set's rows, because a set may be sorted by class, as image folders are."""

from __future__ import annotations

import torch
from torch import Tensor

from ..api import seed_for


def fixed_order(count: int) -> Tensor:
    """A permutation (count,) of a set's rows, the same in every run; its first n rows are a random choice."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed_for("order", count)))


def random_rows(count: int, most: int) -> Tensor:
    """The rows, in ascending order, of a fixed random choice of at most `most` of `count` rows."""
    return torch.arange(count) if most >= count else fixed_order(count)[:most].sort().values
