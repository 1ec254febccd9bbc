"""The classes that samples are asked for: those of the training images, in their proportions."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_labels(train: Tensor | None, count: int) -> Tensor:
    """Labels (count,) in the proportions of the training labels (n,); -1 without training labels.

    Where classes have unequal sizes, samples in other proportions would be far from the training images even
    if each class were generated perfectly. Counts are rounded by largest remainders. Classes are interleaved,
    so that the first m samples have the proportions, too; classes of equal size come in turn. Training labels
    below 0 are unknown and don't count.
    """
    known = torch.zeros(0, dtype=torch.long) if train is None else train[train >= 0].long().cpu()
    if not len(known):
        return torch.full((count,), -1)
    exact = known.bincount().double() * count / len(known)
    counts = exact.floor().long()
    counts[(counts - exact).argsort(stable=True)[: count - int(counts.sum())]] += 1
    labels = torch.arange(len(counts)).repeat_interleave(counts)
    number = torch.cat([torch.arange(int(size)) for size in counts])  # of a sample within its class
    return labels[((number + 0.5) / counts[labels]).argsort(stable=True)]
