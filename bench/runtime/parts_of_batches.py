"""Batches in parts whose activations a CPU's caches hold."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TOKENS = 2**11  # at a time: enough for fast matrix products, few enough for the caches


def in_parts(function: Callable[..., Tensor], tokens: int, *rows: Tensor | None) -> Tensor:
    """function(*rows), on a CPU for part after part of the rows; its rows must not depend on each other.

    A layer's activations of a whole batch lie in main memory, those of a part in a cache. Other devices are
    fast with whole batches alone.

    Args:
        function: takes tensors of b rows each and returns one.
        tokens: number of tokens that a row stands for.
        rows: tensors (B, ...), the first of which isn't None.
    """
    assert rows[0] is not None
    count, size = len(rows[0]), max(1, TOKENS // tokens)
    if rows[0].device.type != "cpu" or count <= size:
        return function(*rows)
    return torch.cat(
        [
            function(*(None if tensor is None else tensor[start : start + size] for tensor in rows))
            for start in range(0, count, size)
        ]
    )
