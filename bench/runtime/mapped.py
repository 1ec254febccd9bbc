"""Tensors that may not fit into memory: their rows are computed by chunks and written to a mapped file.

The kernel can drop a mapped file's pages, as it can those of an artifact that is read: only the rows in use
take memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .processes import ALONE, Group

LARGE = 2**28  # bytes; smaller tensors stay in memory
ROUND = 8  # chunks that each process computes before all processes exchange theirs


def allocated(shape: Sequence[int], dtype: torch.dtype, file: Path | None, group: Group = ALONE) -> Tensor:
    """An uninitialised tensor; one of LARGE bytes or more with a file is mapped there, for all processes."""
    if not _mapped(shape, dtype, file):
        return torch.empty(*shape, dtype=dtype)
    assert file is not None
    if group.rank == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        # Allocates all blocks now: the other processes need the full length, and a process that writes to a
        # sparse file on a full disk is killed (SIGBUS).
        with open(file, "wb") as handle:
            os.posix_fallocate(handle.fileno(), 0, math.prod(shape) * dtype.itemsize)
    group.wait()
    return torch.from_file(str(file), shared=True, size=math.prod(shape), dtype=dtype).view(*shape)


def rows(
    make: Callable[[Tensor, int], Mapping[str, Tensor]],
    indices: Sequence[Tensor],
    outputs: Sequence[str],
    files: Callable[[str], Path | None] = lambda name: None,
    group: Group = ALONE,
    into: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Calls `make(indices, number)` for every chunk; returns each output's rows at their index, on the CPU.

    Each process of a group computes its share of the chunks; all get all rows. `make` may return more rows
    than it got indices, such as a padded batch's: those at the end are dropped.

    Args:
        indices: chunks of a permutation of the output's rows.
        files: the file of an output, used if the output is large; None keeps the output in memory.
        into: tensors made by `allocated` that are filled, in place of new ones.
    """
    tensors = dict(into or {})
    count = sum(map(len, indices))
    for first in range(0, len(indices), ROUND * group.world):
        numbers = range(first, min(first + ROUND * group.world, len(indices)))
        chunks = [make(indices[i], i) if group.takes(i) else {} for i in numbers]
        for name in outputs:
            parts = group.assemble([chunk.get(name) for chunk in chunks])
            for number, part in zip(numbers, parts, strict=True):
                if name not in tensors:
                    shape = (count, *part.shape[1:])
                    tensors[name] = allocated(shape, part.dtype, files(name), group)
                if group.rank == 0 or not _mapped(tensors[name].shape, part.dtype, files(name)):
                    tensors[name][indices[number]] = part[: len(indices[number])]
    _synchronise([file for name in outputs if (file := files(name)) and file.exists()], group)
    return tensors


def _mapped(shape: Sequence[int], dtype: torch.dtype, file: Path | None) -> bool:
    return file is not None and math.prod(shape) * dtype.itemsize >= LARGE


def _synchronise(files: Sequence[Path], group: Group) -> None:
    """Flushes files to disk, so that processes on other machines read what was written."""
    if group.world > 1 and group.rank == 0:
        for file in files:
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
    group.wait()
