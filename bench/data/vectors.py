"""Sets of vectors, such as codebooks, split into training and held-out samples."""

from __future__ import annotations

import torch
from torch import Tensor

from ..api import Split
from ..api.noise import seed_for


def split_sizes(rows: int) -> dict[Split, int]:
    """The numbers of rows of a table that `split_rows` gives to each split."""
    return {"train": rows - rows // 5, "val": rows // 5}


def split_rows(table: Tensor, split: Split, name: str) -> Tensor:
    """The split's rows of a table (n, F) in a random order fixed by `name`: a fifth is held out as "val"."""
    generator = torch.Generator().manual_seed(seed_for("reference", name))
    order, held_out = torch.randperm(len(table), generator=generator), len(table) // 5
    return table[order[held_out:] if split == "train" else order[:held_out]]
