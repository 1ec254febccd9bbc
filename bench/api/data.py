"""The interface of datasets, and the conversion between 8-bit images and floats."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from .specs import ImageSpec

Split = Literal["train", "val"]


class Dataset:
    """Labelled images in two disjoint splits."""

    version: ClassVar[int] = 1
    image: ImageSpec
    classes: int  # 0 without labels
    # Images come from 8-bit files, one by one: processes decode them ahead and hand over 8 bits.
    decodes: ClassVar[bool] = False

    def fetch(self) -> None:
        """Called before a run where the data isn't there.

        Raises:
            FileNotFoundError: saying where it was looked for, and how to get it.
        """

    def fingerprint(self) -> str | None:
        """sha256 of the data on disk and of the options that select from it; None if it isn't there yet."""
        raise NotImplementedError

    def size(self, split: Split) -> int:
        """Number of images; known without the data where an option says it."""
        raise NotImplementedError

    def mirrored(self, split: Split) -> int:
        """How many images are others mirrored: the last ones, of a set that decodes.

        Methods learn from them and metrics don't: published statistics are of images as they are.
        """
        return 0

    def images(self, split: Split, index: Tensor) -> Tensor:
        """index (B,) int64 -> (B, c, H, W) float32 in [-1, 1]."""
        raise NotImplementedError

    def levels(self, split: Split, index: Tensor) -> Tensor:
        """The images in uint8, of a set that decodes; one that has them so saves the way through floats."""
        return to_uint8(self.images(split, index))

    def labels(self, split: Split) -> Tensor | None:
        """(size,) int64, or None without labels."""
        raise NotImplementedError


def to_uint8(images: Tensor) -> Tensor:
    """(..., H, W) in [-1, 1] -> uint8 in 0..255, rounded to the nearest level and clamped."""
    # In place where it can be: sets of 256-pixel images are large.
    return (images.float() * 127.5).add_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def from_uint8(levels: Tensor) -> Tensor:
    """uint8 in 0..255 -> float32 in [-1, 1]."""
    return (levels.float() / 127.5).sub_(1)
