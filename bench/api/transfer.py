"""Copies of tensors to the device that computes, for which the program doesn't wait."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device, with its values and its type; one that is there already is returned as it is.

    A GPU works behind the program. A plain `tensor.to(gpu)` from main memory makes the program wait until the
    GPU has done all that was asked of it before. From pinned memory (pages that the operating system doesn't
    move) the copy takes its turn on the GPU, and the program goes on.
    """
    if torch.device(device).type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return pinned(tensor).to(device, non_blocking=True)


def numbers(values: Sequence[float], like: Tensor) -> Tensor:
    """Constants (n,) with the type and on the device of `like`: `like.new_tensor(values)` without waiting."""
    return sent(torch.tensor(values, dtype=like.dtype, device="cpu"), like.device)


def pinned(tensor: Tensor) -> Tensor:
    """A copy of a tensor on the CPU in pinned memory, which torch keeps until the GPU has read it."""
    return tensor.pin_memory()
