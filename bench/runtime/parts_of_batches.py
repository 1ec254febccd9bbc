"""Batches in parts whose activations a CPU's caches hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

TOKENS = 2**11  # at a time: enough for fast matrix products, few enough for the caches
_PLANNED_ON_CPU: ContextVar[bool] = ContextVar(
    "tensors without values stand for those of a CPU", default=False
)


@contextmanager
def planned_on_cpu(is_cpu: bool) -> Iterator[None]:
    """In this block tensors on the meta device are split as those of a CPU are, if they stand for them."""
    token = _PLANNED_ON_CPU.set(is_cpu)
    try:
        yield
    finally:
        _PLANNED_ON_CPU.reset(token)


def rows_at_a_time(tokens: int) -> int:
    """The number of rows of a part, if a row stands for so many tokens."""
    return max(1, TOKENS // tokens)


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
    count, size = len(rows[0]), rows_at_a_time(tokens)
    on_cpu = rows[0].device.type == "cpu" or (rows[0].is_meta and _PLANNED_ON_CPU.get())
    if not on_cpu or count <= size:
        return function(*rows)
    return torch.cat(
        [
            function(*(None if tensor is None else tensor[start : start + size] for tensor in rows))
            for start in range(0, count, size)
        ]
    )
