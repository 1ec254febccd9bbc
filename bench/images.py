"""Image sets: 8-bit rounding, PSNR, grey to colour, clean-fid's anti-aliased resizing (Parmar et al., 2022)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """(..., H, W) in [-1, 1] -> uint8 in 0..255, rounded to the nearest level and clamped."""
    return (images.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(levels: Tensor) -> Tensor:
    """uint8 in 0..255 -> float32 in [-1, 1]."""
    return levels.float() / 127.5 - 1


def round_to_8_bits(images: Tensor) -> Tensor:
    """What is left of images (..., H, W) in [-1, 1] once they are written to an 8-bit file and read back."""
    return from_uint8(to_uint8(images))


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """uint8 (B, c, H, W) twice -> (B,) decibels of a peak of 255.

    An exact image counts as one level off in one value, the smallest error that 8 bits can show, so that it
    doesn't make the mean infinite.
    """
    error = (a.double() - b.double()).square().flatten(1)
    return 10 * torch.log10(255**2 / error.mean(1).clamp(min=1 / error.shape[1]))


def to_rgb(images: Tensor) -> Tensor:
    """(B, 1 or 3, H, W) -> (B, 3, H, W); a grey image is repeated."""
    if images.shape[1] not in (1, 3):
        raise ValueError(
            f"images have {images.shape[1]} channels; feature networks take 1 (grey) or 3 (colour)"
        )
    return images.expand(-1, 3, -1, -1)


def resize(levels: Tensor, resolution: int) -> Tensor:
    """uint8 (B, 3, H, W) -> float32 (B, 3, resolution, resolution) in [0, 255], not rounded again.

    clean-fid's "clean" mode: PIL's bicubic filter on floats, which widens when it shrinks an image. A
    rectangle becomes a square, as there.
    """
    from cleanfid.resize import make_resizer

    resizer = make_resizer("PIL", False, "bicubic", (resolution, resolution))
    resized = np.stack([resizer(image) for image in levels.permute(0, 2, 3, 1).cpu().numpy()])
    return torch.from_numpy(resized).permute(0, 3, 1, 2).contiguous().to(levels.device)
