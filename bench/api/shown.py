"""Pairs of latents and images that a decoder learns from in training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Shown:
    """Latents that the decoder is given in training, and the images that it is to make of them."""

    z: Tensor  # (B, T', C)
    images: Tensor  # (B, c, H', W') in [-1, 1]
    grid: tuple[int, int] | None = None  # (h', w') with T' = h' w'; None: that of the tokenizer's spec
    weight: float = 1.0  # factor of the pair's reconstruction losses


@dataclass(frozen=True)
class ShownSizes:
    """The sizes of the images that a regularizer shows, as fractions of the training images' sizes."""

    pixels: float = 1.0  # expected number of pixels, of all pairs of an update together
    most: float = 1.0  # the largest number of pixels in an update
    side: float = 1.0  # the shortest side of a pair that a discriminator judges
