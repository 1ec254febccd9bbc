"""Scaling and quarter turns of latents on a grid, together with their images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

Grid = tuple[int, int]


def scaled(x: Tensor, scale: float) -> Tensor:
    """Maps (B, C, H, W) at `scale` times their size: bilinear, not antialiased, as in the released code."""
    size = (round(scale * x.shape[2]), round(scale * x.shape[3]))
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def turned(x: Tensor, turns: int) -> Tensor:
    """Maps (B, C, H, W) after clockwise quarter turns: [[0, 1], [2, 3]] becomes [[2, 0], [3, 1]] by one."""
    return torch.rot90(x, turns, (-1, -2))


def transformed(
    z: Tensor, images: Tensor, grid: Grid, scale: float, turns: int
) -> tuple[Tensor, Grid, Tensor]:
    """Latents, their grid and images after scaling and then turning both alike.

    Args:
        z: latents (B, h w, C) in row order.
        images: (B, c, H, W).
        grid: (h, w).
        scale: factor of both sides; `scale` h, `scale` w, `scale` H and `scale` W are rounded to integers.
        turns: clockwise quarter turns.

    Returns:
        Latents (B, h' w', C), the grid (h', w') and images (B, c, H', W').
    """
    maps = z.mT.unflatten(2, grid)
    if scale != 1:
        maps, images = scaled(maps, scale), scaled(images, scale)
    maps, images = turned(maps, turns), turned(images, turns)
    return maps.flatten(2).mT, (maps.shape[2], maps.shape[3]), images
