"""Equivariance of the decoder under scaling and quarter turns of latents (EQ-VAE: Kouzelis et al., 2025)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor

from ..bench.api import LatentSpec, Shown, ShownSizes, Step, Unfit
from ..bench.nn.corruption import Corruption
from ..bench.nn.grid_transforms import Grid, transformed
from ..bench.registry import register


def scales(grid: Grid, least: float) -> list[float]:
    """The factors from `least` up that map a grid (h, w) to smaller grids: m / h where m w / h is whole.

    At h = w = 32 and `least` 1/4 they are {8, ..., 31} / 32, those of the released code.
    """
    height, width = grid
    return [m / height for m in range(math.ceil(least * height), height) if m * width % height == 0]


@register("eq")
class EQ(Corruption):
    """The decoder learns to make scaled and turned images of scaled and turned latents, in some updates.

    With `probability`, an update scales latents and images by one factor, drawn from the grids between
    `least` and the whole, and gives them one, two or three quarter turns; otherwise it is an ordinary one.
    All images of a batch are treated alike, and all reconstruction losses compare the transformed pair, a
    discriminator's too. The encoder is not asked whether it commutes with the transformation, and gets
    gradients through the decoder alone. The paper's models have a posterior: `on: {kl: {weight: 1.0e-6}}`.

    The released code also encodes scaled images in an eighth of the updates, which is left out here, and
    draws anew for the discriminator's update, which here sees what the tokenizer's saw.

    Paper: Kouzelis et al., "EQ-VAE", 2025 (arXiv 2502.09509).
    """

    def __init__(
        self,
        spec: LatentSpec,
        probability: Annotated[float, Field(ge=0, le=1)] = 0.5,
        least: Annotated[float, Field(gt=0, le=1)] = 0.25,
        turns: bool = True,
        **options: object,
    ) -> None:
        """
        Args:
            probability: share of updates that transform latents and images.
            least: smallest factor of the sides; 1 leaves the size as it is, so that quarter turns remain.
            turns: whether quarter turns follow.
        """
        super().__init__(spec, **options)  # type: ignore[arg-type]
        if spec.grid is None:
            raise Unfit("latents without a grid cannot be scaled or turned: take a tokenizer with a grid")
        self.probability, self.grid = probability, spec.grid
        self.scales = scales(spec.grid, least) or [1.0]
        self.turns = (1, 2, 3) if turns else (0,)
        if self.scales == [1.0] and not turns:
            raise ValueError(f"with least {least:g} and without turns nothing is transformed")
        self.regrids = self.scales != [1.0] or (turns and spec.grid[0] != spec.grid[1])
        squares = [scale**2 for scale in self.scales]
        pixels = 1 - probability + probability * sum(squares) / len(squares)
        self.shown_sizes = ShownSizes(pixels=pixels, side=min(self.scales))

    def shown(self, z: Tensor, step: Step) -> Sequence[Shown]:
        noise = step.noise
        if noise.shared("whether") >= self.probability:
            return super().shown(z, step)
        scale = self.scales[int(noise.shared("scale") * len(self.scales))]
        turns = self.turns[int(noise.shared("turns") * len(self.turns))]
        z, grid, images = transformed(z, step.images, self.grid, scale, turns)
        return [Shown(z, images, grid if grid != self.grid else None)]


@register("scale_eq")
class ScaleEQ(Corruption):
    """The decoder also learns to make smaller images of smaller latents (Skorokhodov et al., 2025).

    Every update adds, `weight` times, the reconstruction losses of latents and images that are bilinearly
    made smaller by one of `factors`, drawn anew for each update. A discriminator judges the whole images
    alone. The weight, how factors are drawn and which losses are added are our choice: no code was at hand.

    Paper: Skorokhodov et al., "Improving the Diffusability of Autoencoders", 2025 (arXiv 2502.14831).
    """

    regrids = True

    def __init__(
        self,
        spec: LatentSpec,
        weight: Annotated[float, Field(ge=0)] = 0.25,
        factors: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = (2, 4),
        **options: object,
    ) -> None:
        """
        Args:
            weight: factor of the losses of smaller pairs; 0 leaves them out.
            factors: the factors by which sides shrink; those that don't divide the grid are left out.
        """
        super().__init__(spec, **options)  # type: ignore[arg-type]
        if spec.grid is None:
            raise Unfit("latents without a grid cannot be made smaller: take a tokenizer with a grid")
        height, width = spec.grid
        self.weight, self.grid = weight, spec.grid
        self.factors = [factor for factor in factors if height % factor == 0 == width % factor]
        if not self.factors:
            raise Unfit(f"no factor of {', '.join(map(str, factors))} divides the grid {height} x {width}")
        shares = [1 / factor**2 for factor in self.factors] if weight else [0.0]
        self.shown_sizes = ShownSizes(pixels=1 + sum(shares) / len(shares), most=1 + max(shares))

    def shown(self, z: Tensor, step: Step) -> Sequence[Shown]:
        plain = super().shown(z, step)
        if not self.weight:
            return plain
        factor = self.factors[int(step.noise.shared("factor") * len(self.factors))]
        z, grid, images = transformed(z, step.images, self.grid, 1 / factor, 0)
        return [*plain, Shown(z, images, grid, self.weight)]
