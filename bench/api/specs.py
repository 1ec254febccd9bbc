"""The shapes of images and of latents."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageSpec:
    """The shape of a dataset's images."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class LatentSpec:
    """A latent's shape: T tokens of C channels; `grid` = (h, w) if tokens lie on a raster in row order."""

    tokens: int
    channels: int
    grid: tuple[int, int] | None = None
