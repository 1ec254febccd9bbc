"""The teacher's features of some classes alone: simpler than all, and multi-modal (DMVAE, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..api import Dataset, LatentSpec, Reference, ReferenceSource, Split
from ..registry import register

Label = Annotated[int, Field(ge=0)]


@register("subset")
class Subset(ReferenceSource):
    """Teacher features of the split's images of `classes`: all `tokens` on the grid, or their mean, `pooled`.

    It has no labels, because most of the dataset's classes would have no sample. DMVAE takes 10 classes of
    1,000.
    """

    def __init__(
        self,
        teacher_spec: LatentSpec,
        classes: Annotated[tuple[Label, ...], Field(min_length=1)] = (0, 1),
        features: Literal["tokens", "pooled"] = "tokens",
    ) -> None:
        """
        Args:
            classes: numbers of the classes whose images are taken.
            features: whether a sample is an image's tokens, or the mean over them.
        """
        self.classes, self.features = classes, features
        self.spec = teacher_spec if features == "tokens" else LatentSpec(1, teacher_spec.channels)

    def counts(self, images: Mapping[Split, int], classes: int) -> dict[Split, int]:
        # As many as classes of equal size would have.
        share = min(1.0, len(set(self.classes)) / max(1, classes))
        return {split: round(share * count) for split, count in images.items()}

    def draw(self, split: Split, dataset: Dataset, tokens: Tensor, pooled: Tensor) -> Reference:
        labels = dataset.labels(split)
        if labels is None:
            raise ValueError("the reference 'subset' needs classes, and the dataset has no labels")
        absent = sorted(set(self.classes) - set(labels.tolist()))
        if absent:
            raise ValueError(
                f"the reference 'subset' finds no {split} image of class {absent[0]}; "
                f"the dataset's classes are 0 to {dataset.classes - 1}"
            )
        chosen = tokens[torch.isin(labels, torch.tensor(self.classes))]
        if self.features == "pooled":
            return Reference(chosen.mean(1, keepdim=True))
        return Reference(chosen, grid=self.spec.grid)
