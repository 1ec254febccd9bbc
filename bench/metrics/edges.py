"""The PSNR of images at their edges, where thin structures are."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

SMALLEST = 3  # pixels of a side, which Sobel's filters need


def edge_strength(images: Tensor) -> Tensor:
    """Squared Sobel gradients, summed over channels: uint8 (B, c, H, W) -> (B, H, W) int64.

    Border pixels are repeated outwards, so that the border itself is no edge.
    """
    x = pad(images.float(), (1, 1, 1, 1), mode="replicate").int()
    down = x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]
    across = x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]
    slopes = (down[..., 2:] - down[..., :-2], across[:, :, 2:] - across[:, :, :-2])
    return sum((slope.square().sum(1) for slope in slopes), torch.zeros((), dtype=torch.int64))


def edges(images: Tensor, share: float) -> Tensor:
    """The pixels of each image with the largest gradients: (B, c, H, W) -> (B, H, W) bool.

    At least `share` of the pixels, rounded up, and all that are as strong as the weakest of them; never a
    pixel without a gradient, so that a constant image has none.
    """
    strength = edge_strength(images).flatten(1)
    least = strength.topk(math.ceil(share * strength.shape[1]), dim=1).values[:, -1:]
    return ((strength >= least) & (strength > 0)).view(len(images), *images.shape[-2:])


def psnr_at(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
    """The PSNR (B,) of uint8 images (B, c, H, W) twice over the pixels `where` (B, H, W), for a peak of 255.

    Pixels that are all exact count as one level off in one value. NaN where there is no pixel.
    """
    values = where.sum((1, 2)) * a.shape[1]
    squares = ((a.double() - b.double()).square() * where[:, None]).sum((1, 2, 3))
    ratios = torch.where(values > 0, 255**2 * values / squares.clamp(min=1), math.nan)
    return 10 * torch.log10(ratios)
