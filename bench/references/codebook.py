"""A codebook of image patches as a reference: a set of vectors, as of a VQ tokenizer (Flow Priors)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ..api import Dataset, ImageSpec, LatentSpec, Reference, ReferenceSource, Split, seed_for
from ..registry import register

PATCHES = 100_000  # the codes are learned from no more


def patches(images: Tensor, size: int) -> Tensor:
    """(B, c, H, W) -> (B * H W / size^2, c * size^2): the patches of a grid, without overlap."""
    return torch.nn.functional.unfold(images, size, stride=size).transpose(1, 2).flatten(0, 1)


def cluster(points: Tensor, codes: int) -> Tensor:
    """(n, F) -> (codes, F): the centres of a k-means, in random order."""
    from sklearn.cluster import MiniBatchKMeans

    found = MiniBatchKMeans(codes, random_state=0, n_init=3, batch_size=4096).fit(points.numpy())
    order = torch.randperm(codes, generator=torch.Generator().manual_seed(seed_for("reference", "codebook")))
    return torch.from_numpy(found.cluster_centers_).float()[order]


@register("codebook")
class Codebook(ReferenceSource):
    """The centres of a k-means over the patches of training images, each equally likely, one token a sample.

    A stand-in for LlamaGen's codebook, which the paper takes: every row once, however often images use it.
    A fifth of the codes are kept from training, so that there are fresh ones to compare with.
    """

    uses_features = False

    def __init__(
        self,
        image: ImageSpec,
        patch: Annotated[int, Field(ge=1)] = 4,
        codes: Annotated[int, Field(ge=5)] = 512,
    ) -> None:
        if image.height % patch or image.width % patch:
            raise ValueError(f"patch = {patch} doesn't divide images of {image.height} x {image.width}")
        self.patch, self.codes = patch, codes
        self.spec = LatentSpec(1, image.channels * patch**2)

    def draw(self, split: Split, dataset: Dataset, tokens: Tensor, pooled: Tensor) -> Reference:
        found = cluster(self._training_patches(dataset), self.codes)
        held_out = self.codes // 5
        return Reference((found[held_out:] if split == "train" else found[:held_out])[:, None])

    def _training_patches(self, dataset: Dataset) -> Tensor:
        each = dataset.image.height * dataset.image.width // self.patch**2
        generator = torch.Generator().manual_seed(seed_for("reference", "codebook", "images"))
        order = torch.randperm(dataset.size("train"), generator=generator)
        points = patches(dataset.images("train", order[: -(-PATCHES // each)]), self.patch)[:PATCHES]
        distinct = len(points.unique(dim=0))
        if distinct < self.codes:
            raise ValueError(
                f"codes = {self.codes}, but the training images have {distinct} distinct patches"
            )
        return points
