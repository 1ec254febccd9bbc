"""The teacher's features of the images themselves (Flow Priors; DMVAE): the default reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from ..api import Dataset, LatentSpec, Reference, ReferenceSource, Split
from ..registry import register


@register("teacher")
class Teacher(ReferenceSource):
    """Teacher features of the split's images: each image's `tokens` on the grid, or their mean, `pooled`."""

    labelled = True

    def __init__(self, teacher_spec: LatentSpec, features: Literal["tokens", "pooled"] = "tokens") -> None:
        """
        Args:
            features: whether a sample is an image's tokens, or the mean over them.
        """
        self.features = features
        self.spec = teacher_spec if features == "tokens" else LatentSpec(1, teacher_spec.channels)

    def memory_bytes(self, images: Mapping[Split, int], classes: int) -> int:
        # All tokens are those of a mapped file.
        return 0 if self.features == "tokens" else super().memory_bytes(images, classes)

    def draw(self, split: Split, dataset: Dataset, tokens: Tensor, pooled: Tensor) -> Reference:
        labels = dataset.labels(split)
        if self.features == "tokens":
            return Reference(tokens, labels, self.spec.grid)
        return Reference(tokens.mean(1, keepdim=True), labels)
