"""The interface of datasets, and the conversion between 8-bit images and floats."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from .specs import ImageSpec

Split = Literal["train", "val"]  # "val" is held out
Of = Literal["train", "val", "reconstructions", "samples"]  # an image set of a cell


class Dataset:
    """Images, with or without labels, in the two disjoint splits "train" and "val"."""

    version: ClassVar[int] = 1  # part of the cache key: raise it when numbers change
    image: ImageSpec
    classes: int  # 0 without labels
    # Whether images are decoded from 8-bit files one by one: then processes decode batches ahead by `levels`.
    decodes: ClassVar[bool] = False
    # Whether images are decoded from stored latents: metrics then never have the names of those of images.
    decoded: ClassVar[bool] = False
    device: str = "cpu"  # on which a set computes its images, if it does

    def fetch(self) -> None:
        """Gets the data if it is missing; the frame calls this before a run.

        Raises:
            FileNotFoundError: naming the folders that were searched, and how to get the data.
        """

    def fingerprint(self) -> str | None:
        """sha256 of the data on disk and of the options that select from it; None if the data is missing."""
        raise NotImplementedError

    def size(self, split: Split) -> int:
        """The number of images; known without the data if an option states it."""
        raise NotImplementedError

    def mirrored(self, split: Split) -> int:
        """The number of images at the end of a split that are mirrored copies of others, if the set decodes.

        Methods learn from mirrored copies and metrics leave them out, as published statistics do.
        """
        return 0

    def picture_sizes(self, most: int) -> list[tuple[int, int]]:
        """Widths and heights of some training images as their files have them; [] if all are as `image`."""
        return []

    def memory_bytes(self) -> int:
        """Bytes of main memory that images take once some are read; 0 if they are read one by one."""
        return 0

    def images(self, split: Split, index: Tensor) -> Tensor:
        """Images by index: (B,) int64 -> (B, c, H, W) float32 in [-1, 1]."""
        raise NotImplementedError

    def levels(self, split: Split, index: Tensor) -> Tensor:
        """The images in uint8: (B,) int64 -> (B, c, H, W); sets of 8-bit files override it to skip floats."""
        return to_uint8(self.images(split, index))

    def labels(self, split: Split) -> Tensor | None:
        """The labels of a split: (size,) int64, or None without labels."""
        raise NotImplementedError

    def description(self) -> list[str]:
        """The set in words, a line or a few, which `bench plan` and `bench run` print."""
        image, classes = self.image, f"{self.classes:,} class{'es' if self.classes != 1 else ''}"
        sizes = f"{self.size('train'):,} train + {self.size('val'):,} val"
        shape = f"{image.channels} x {image.height} x {image.width}"
        return [f"{sizes} images of {shape}; {classes if self.classes else 'no classes'}"]


def to_uint8(images: Tensor) -> Tensor:
    """Images (..., H, W) in [-1, 1] -> uint8 in 0..255, rounded to the nearest level and clamped."""
    # In place, because sets of 256-pixel images are large.
    return (images.float() * 127.5).add_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def from_uint8(levels: Tensor) -> Tensor:
    """Images in uint8, 0..255 -> float32 in [-1, 1]."""
    return (levels.float() / 127.5).sub_(1)
