"""MNIST (LeCun, Cortes & Burges, 1998) and Fashion-MNIST (Xiao, Rasul & Vollgraf, 2017)."""

from __future__ import annotations

from ..data.idx import IdxDataset
from ..registry import register


@register("mnist")
class MNIST(IdxDataset):
    """70,000 grey scans of handwritten digits, 28 x 28, ten classes; the 10,000 of the test split are val."""

    title = "MNIST"
    folders = ("data", "~/data", "~/.cache/torchvision")
    hint = "torchvision.datasets.MNIST('data', download=True) gets it"


@register("fashion_mnist")
class FashionMNIST(IdxDataset):
    """70,000 grey pictures of clothing, 28 x 28, ten classes; the 10,000 of the test split are val."""

    title = "Fashion-MNIST"
    folders = ("/usr/share/datasets/fashion-mnist", "data", "~/data", "~/.cache/torchvision")
    hint = "on Debian `apt-get install dataset-fashion-mnist` puts it into the first"
