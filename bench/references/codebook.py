"""A codebook of image patches as a reference, like that of a VQ tokenizer (Flow Priors)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ..api import Dataset, ImageSpec, LatentSpec, Reference, ReferenceSource, Split, seed_for
from ..data.vectors import split_rows, split_sizes
from ..registry import register

PATCHES = 100_000  # at most so many patches are clustered


def patches(images: Tensor, size: int) -> Tensor:
    """Cuts images into the patches of a grid: (B, c, H, W) -> (B * H W / size^2, c * size^2)."""
    return torch.nn.functional.unfold(images, size, stride=size).transpose(1, 2).flatten(0, 1)


def cluster(points: Tensor, codes: int) -> Tensor:
    """The centres of a k-means: (n, F) -> (codes, F)."""
    from sklearn.cluster import MiniBatchKMeans

    kmeans = MiniBatchKMeans(codes, random_state=0, n_init=3, batch_size=4096).fit(points.numpy())
    return torch.from_numpy(kmeans.cluster_centers_).float()


@register("codebook")
class Codebook(ReferenceSource):
    """The centres of a k-means over patches of training images, each equally likely, one token a sample.

    It stands in for LlamaGen's codebook, which the paper takes: every row once, however often images use it.
    A fifth of the codes are held out from training, as fresh samples to compare with.
    """

    uses_features = False

    def __init__(
        self,
        image: ImageSpec,
        patch: Annotated[int, Field(ge=1)] = 4,
        codes: Annotated[int, Field(ge=5)] = 512,
    ) -> None:
        """
        Args:
            patch: side of a patch in pixels.
            codes: number of centres.
        """
        if image.height % patch or image.width % patch:
            raise ValueError(f"patch = {patch} doesn't divide images of {image.height} x {image.width}")
        self.patch, self.codes = patch, codes
        self.per_image = image.height * image.width // patch**2  # patches
        self.spec = LatentSpec(1, image.channels * patch**2)

    def counts(self, images: Mapping[Split, int], classes: int) -> dict[Split, int]:
        return split_sizes(self.codes)

    def memory_bytes(self, images: Mapping[Split, int], classes: int) -> int:
        # Images and their patches, `unique`'s sorted copies, and k-means' copies of batches.
        points = min(PATCHES, images["train"] * self.per_image) * self.spec.channels
        return 4 * (5 * points + 8192 * self.codes)

    def draw(self, split: Split, dataset: Dataset, tokens: Tensor, pooled: Tensor) -> Reference:
        codes = cluster(self._training_patches(dataset), self.codes)
        return Reference(split_rows(codes, split, "codebook")[:, None])

    def _training_patches(self, dataset: Dataset) -> Tensor:
        generator = torch.Generator().manual_seed(seed_for("reference", "codebook", "images"))
        order = torch.randperm(dataset.size("train"), generator=generator)
        points = patches(dataset.images("train", order[: -(-PATCHES // self.per_image)]), self.patch)[
            :PATCHES
        ]
        distinct = len(points.unique(dim=0))
        if distinct < self.codes:
            raise ValueError(
                f"codes = {self.codes}, but the training images have {distinct} distinct patches"
            )
        return points
