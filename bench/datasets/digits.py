"""1,797 handwritten digits of 8 x 8 pixels, from scikit-learn (Alpaydin & Kaynak, 1998)."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ..api import Dataset, ImageSpec, Split
from ..data.packages import package_file
from ..registry import register

SIZES = {"train": 1437, "val": 360}


@register("digits")
class Digits(Dataset):
    """1,797 grey scans of handwritten digits, 8 x 8, ten classes; split 4 : 1, stratified by class."""

    image = ImageSpec(channels=1, height=8, width=8)
    classes = 10

    def __init__(self, split_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0) -> None:
        """
        Args:
            split_seed: seed of the split; each gives other held-out images.
        """
        self.split_seed = split_seed

    def fingerprint(self) -> str | None:
        file = package_file("sklearn", "datasets/data/digits.csv.gz")
        if file is None:
            return None
        options = f"\0split_seed={self.split_seed}"
        return hashlib.sha256(file.read_bytes() + options.encode()).hexdigest()

    def size(self, split: Split) -> int:
        return SIZES[split]

    def images(self, split: Split, index: Tensor) -> Tensor:
        return self._splits[split][0][index]

    def labels(self, split: Split) -> Tensor:
        return self._splits[split][1]

    @cached_property
    def _splits(self) -> dict[str, tuple[Tensor, Tensor]]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        values, classes = load_digits(return_X_y=True)
        images = torch.from_numpy(values).float().reshape(-1, 1, 8, 8) / 8 - 1  # levels 0..16
        labels = torch.from_numpy(classes).long()
        train, val = train_test_split(
            range(len(labels)), test_size=SIZES["val"], random_state=self.split_seed, stratify=classes
        )
        return {"train": (images[train], labels[train]), "val": (images[val], labels[val])}
