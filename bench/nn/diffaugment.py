"""DiffAugment: differentiable augmentation of what a discriminator sees (Zhao et al., 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..api import Noise

SHIFT = 0.125  # of a side: the largest translation


def augmented(images: Tensor, noise: Noise, probability: float = 1.0, cutout: float = 0.2) -> Tensor:
    """(B, c, H, W) in [-1, 1] -> translated, recoloured and with a rectangle cut out, each image its own way.

    Each of the three is done to the whole batch or, with 1 - probability, to none of it, as in StyleGAN-T,
    VAR and, after them, SoftVQ and DMVAE. `cutout` is the rectangle's share of a side.
    """
    if probability == 0:
        return images
    # Numbers of a batch that all processes share; on the CPU, where a decision waits for no device.
    one = torch.empty((), device="cpu")
    move, recolour, cut = (
        bool(noise.uniform(one, what) < probability) for what in ("translation", "colour", "cutout")
    )
    drawn = noise.uniform(images.new_empty(len(images), 7, dtype=torch.float32), "amounts").unbind(1)
    if move:
        images = translated(images, drawn[0], drawn[1])
    if recolour:
        images = recoloured(images, drawn[2], drawn[3], drawn[4])
    return without_rectangle(images, drawn[5], drawn[6], cutout) if cut else images


def translated(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Moved by whole pixels, up to an eighth of a side; what comes in is grey (0).

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
    """Shifted by up to 0.5, chroma times 0 to 2, contrast times 0.5 to 1.5; amounts are (B,) in [0, 1)."""
    brightness, saturation, contrast = (
        amount.view(-1, 1, 1, 1).to(images.dtype) for amount in (brightness, saturation, contrast)
    )
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (saturation * 2) + grey
    level = images.mean((1, 2, 3), keepdim=True)
    return (images - level) * (contrast + 0.5) + level


def without_rectangle(images: Tensor, down: Tensor, right: Tensor, share: float) -> Tensor:
    """A rectangle of this share of each side is grey (0), its centre anywhere: it may reach over the edge.

    down, right: (B,) in [0, 1), of the centre.
    """
    hidden = []
    for side, centre in zip(images.shape[2:], (down, right), strict=True):
        size = round(side * share)
        first = (centre * (side + 1 - size % 2)).floor().long() - size // 2  # (B,)
        place = torch.arange(side, device=images.device) - first[:, None]  # (B, side)
        hidden.append((place >= 0) & (place < size))
    return images * ~(hidden[0][:, None, :, None] & hidden[1][:, None, None, :])


def resized(images: Tensor, side: int, noise: Noise) -> Tensor:
    """(B, c, H, W) -> (B, c, side, side): a random crop every other time, if there is more, or the whole.

    The crop is the same for the whole batch, as SoftVQ and DMVAE have it.
    """
    height, width = images.shape[2:]
    if (height, width) == (side, side):
        return images
    one = torch.empty((), device="cpu")
    if min(height, width) > side and noise.uniform(one, "crop") < 0.5:
        top, left = (
            int(noise.uniform(one, name) * (most - side + 1))
            for name, most in (("top", height), ("left", width))
        )
        return images[:, :, top : top + side, left : left + side]
    larger = min(height, width) > side
    return F.interpolate(images, (side, side), mode="area" if larger else "bicubic")
