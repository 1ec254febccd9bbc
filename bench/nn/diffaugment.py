"""DiffAugment: differentiable augmentation of a discriminator's inputs (Zhao et al., 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..api import Noise

SHIFT = 0.125  # the largest translation, as a share of a side


def augmented(images: Tensor, noise: Noise, probability: float = 1.0, cutout: float = 0.2) -> Tensor:
    """Images (B, c, H, W) in [-1, 1], each translated, recoloured and with a rectangle cut out at random.

    Each of the three augmentations applies to the whole batch with this probability, and otherwise to no
    image, as in StyleGAN-T, VAR and, after them, SoftVQ and DMVAE. `cutout` is the rectangle's share of a
    side.
    """
    if probability == 0:
        return images
    move, recolour, cut = (noise.shared(name) < probability for name in ("translation", "colour", "cutout"))
    amounts = noise.uniform(images.new_empty(len(images), 7, dtype=torch.float32), "amounts").unbind(1)
    if move:
        images = translated(images, amounts[0], amounts[1])
    if recolour:
        images = recoloured(images, *amounts[2:5])
    if cut:
        images = without_rectangle(images, amounts[5], amounts[6], cutout)
    return images


def translated(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Images moved by whole pixels, up to an eighth of a side; pixels from outside are grey (0).

    down, right: (B,) in [0, 1), 0 and 1 being the largest moves.
    """
    for axis, share in ((2, down), (3, right)):
        side = images.shape[axis]
        most = round(side * SHIFT)
        moves = (share * (2 * most + 1)).floor().long() - most  # (B,)
        source = torch.arange(side, device=images.device) + moves[:, None]  # (B, side)
        shape = [len(images), 1, 1, 1]
        shape[axis] = side
        inside = ((source >= 0) & (source < side)).view(shape)
        index = source.clamp(0, side - 1).view(shape).expand_as(images)
        images = images.gather(axis, index) * inside
    return images


def recoloured(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Images shifted by up to 0.5, chroma times 0 to 2, contrast times 0.5 to 1.5; amounts (B,) in [0, 1)."""
    brightness, saturation, contrast = (
        amount.view(-1, 1, 1, 1).to(images.dtype) for amount in (brightness, saturation, contrast)
    )
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (saturation * 2) + grey
    level = images.mean((1, 2, 3), keepdim=True)
    return (images - level) * (contrast + 0.5) + level


def without_rectangle(images: Tensor, down: Tensor, right: Tensor, share: float) -> Tensor:
    """Images with a grey (0) rectangle of this share of each side, which may reach over the edge.

    down, right: (B,) in [0, 1), the position of the rectangle's centre.
    """
    hidden = []
    for side, centre in zip(images.shape[2:], (down, right), strict=True):
        size = round(side * share)
        first = (centre * (side + 1 - size % 2)).floor().long() - size // 2  # (B,)
        offset = torch.arange(side, device=images.device) - first[:, None]  # (B, side)
        hidden.append((offset >= 0) & (offset < size))
    return images * ~(hidden[0][:, None, :, None] & hidden[1][:, None, None, :])


def resized(images: Tensor, side: int, noise: Noise) -> Tensor:
    """Images (B, c, H, W) -> (B, c, side, side): resized or, if larger, with probability 1/2 cropped.

    The crop is the same for the whole batch, as in SoftVQ and DMVAE.
    """
    height, width = images.shape[2:]
    if (height, width) == (side, side):
        return images
    larger = min(height, width) > side
    if larger and noise.shared("crop") < 0.5:
        top, left = (
            int(noise.shared(name) * (most - side + 1)) for name, most in (("top", height), ("left", width))
        )
        return images[:, :, top : top + side, left : left + side]
    return F.interpolate(images, (side, side), mode="area" if larger else "bicubic")
