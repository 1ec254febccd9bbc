"""The contract of the pairs of latents and images that a regularizer shows to the decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..api import Regularizer, Shown, Step
from . import common
from .common import BATCH, require


def require_fit(pairs: Sequence[Shown], z: Tensor, images: Tensor, regularizer: Regularizer) -> None:
    """Requires pairs of the shapes and types of z (B, T, C) and images (B, c, H, W), or of their patches."""
    require(pairs, "shown() gives no pair")
    spec = regularizer.spec
    for pair in pairs:
        grid = pair.grid or spec.grid
        tokens = grid[0] * grid[1] if grid else spec.tokens
        shape = (BATCH, tokens, spec.channels)
        require(pair.z.shape == shape, f"shown() gives latents {tuple(pair.z.shape)}, not {shape}")
        require(pair.z.dtype == z.dtype and pair.images.dtype == images.dtype, "shown() changes a dtype")
        require(pair.z.isfinite().all() and pair.images.isfinite().all(), "shown() isn't finite")
        require(
            pair.grid in (None, spec.grid) or regularizer.regrids, f"regrids is False, but a grid is {grid}"
        )
        sides = tuple(images.shape[2:])
        if grid and spec.grid:
            sides = (grid[0] * sides[0] // spec.grid[0], grid[1] * sides[1] // spec.grid[1])
        given = tuple(pair.images.shape[2:])
        require(given == sides, f"latents on a grid {grid} go with images of {sides} pixels, not {given}")


def require_repeatable(regularizer: Regularizer, z: Tensor, step: Step) -> None:
    """Requires that pairs depend on `step.noise` alone."""

    def shown() -> list[tuple[Tensor, Tensor]]:
        return [(pair.z, pair.images) for pair in regularizer.shown(z, step)]

    require(common.whatever_the_seed(shown), f"shown(): {common.GLOBAL}")


def require_rows_apart(regularizer: Regularizer, together: Sequence[Shown], z: Tensor, step: Step) -> None:
    """Requires that each of several processes shows its row as one process shows all of them."""
    with torch.no_grad():
        for i in range(BATCH):
            alone = regularizer.shown(z[i : i + 1], common.row(step, i))
            same = len(alone) == len(together) and all(
                one.grid == pair.grid and common.close(one.z, pair.z[i : i + 1])
                for one, pair in zip(alone, together, strict=True)
            )
            why = "draw what images share by noise.shared, and the rest for each row"
            require(same, f"a process that has row {i} alone shows it in another way: {why}")
