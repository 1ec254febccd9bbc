"""A dataset limited to some of its images, without mirrored copies."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from ..api import Dataset, Split, seed_for
from .fixed_order import random_rows


class Subset(Dataset):
    """At most `images` images of each split (None: all), in their order, without mirrored copies."""

    def __init__(self, whole: Dataset, images: int | None = None) -> None:
        self.whole, self.image, self.classes = whole, whole.image, whole.classes
        self.decodes, self.decoded = whole.decodes, whole.decoded  # type: ignore[misc]
        self.index = {split: chosen(whole, split, images) for split in cast(list[Split], ["train", "val"])}

    def size(self, split: Split) -> int:
        return len(self.index[split])

    def images(self, split: Split, index: Tensor) -> Tensor:
        return self.whole.images(split, self.index[split][index])

    def levels(self, split: Split, index: Tensor) -> Tensor:
        return self.whole.levels(split, self.index[split][index])

    def labels(self, split: Split) -> Tensor | None:
        labels = self.whole.labels(split)
        return None if labels is None else labels[self.index[split]]


def chosen(dataset: Dataset, split: Split, images: int | None) -> Tensor:
    """The indices (n,) of at most `images` images of a split: a fixed random choice."""
    return random_rows(originals(dataset, split), images, seed_for("images", split))


def originals(dataset: Dataset, split: Split) -> int:
    """The number of images that aren't mirrored copies of others."""
    return dataset.size(split) - dataset.mirrored(split)
