"""Tensors that may not fit into memory: rows are made chunk by chunk and written to a mapped file.

A mapped file's pages can be dropped by the kernel, as those of a read artifact can: only what is being worked
on takes memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .processes import ALONE, Group

LARGE = 2**28  # bytes: what is smaller stays in memory
ROUND = 8  # chunks that each process makes before all exchange theirs


def allocated(shape: Sequence[int], dtype: torch.dtype, file: Path | None, group: Group = ALONE) -> Tensor:
    """An empty tensor, in a mapped file if it is large and a file is given: one for all processes."""
    if not _mapped(shape, dtype, file):
        return torch.empty(*shape, dtype=dtype)
    assert file is not None
    if group.rank == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        # Not by from_file, for the others need its whole length; and no hole, for a process that finds the
        # disk full as it fills one is killed.
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
    """The rows of `make(index, number of the chunk)` by output, in order, on the CPU.

    Each process of a group makes its own chunks, and all get the whole. Rows of a chunk beyond its index are
    dropped.

    Args:
        files: the file of an output that turns out to be large; None keeps it in memory.
        into: tensors to be filled, of `allocated`, in place of new ones.
    """
    whole, done = dict(into or {}), 0
    count = sum(map(len, indices))
    for first in range(0, len(indices), ROUND * group.world):
        numbers = range(first, min(first + ROUND * group.world, len(indices)))
        made = [make(indices[i], i) if group.takes(i) else {} for i in numbers]
        for name in outputs:
            parts = group.assemble([one.get(name) for one in made])
            start = done
            for number, part in zip(numbers, parts, strict=True):
                if name not in whole:
                    shape = (count, *part.shape[1:])
                    whole[name] = allocated(shape, part.dtype, files(name), group)
                size = len(indices[number])
                if group.rank == 0 or not _mapped(whole[name].shape, part.dtype, files(name)):
                    whole[name][start : start + size] = part[:size]
                start += size
        done += sum(len(indices[i]) for i in numbers)
    _written([file for name in outputs if (file := files(name)) and file.exists()], group)
    return whole


def _mapped(shape: Sequence[int], dtype: torch.dtype, file: Path | None) -> bool:
    return file is not None and math.prod(shape) * dtype.itemsize >= LARGE


def _written(files: Sequence[Path], group: Group) -> None:
    """On other machines a file has what was written once that is on disk."""
    if group.world > 1 and group.rank == 0:
        for file in files:
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
    group.wait()
