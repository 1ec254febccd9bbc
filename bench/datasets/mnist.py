"""Handwritten digits (LeCun, Cortes & Burges, 1998)."""

from __future__ import annotations

from ..data.idx import IdxDataset
from ..registry import register


@register("mnist")
class MNIST(IdxDataset):
    """70,000 grey scans of handwritten digits, 28 x 28, ten classes; the 10,000 of the test split are val."""

    title = "MNIST"
    folders = ("data", "~/data", "~/.cache/torchvision")
    hint = "torchvision.datasets.MNIST('data', download=True) gets it"
