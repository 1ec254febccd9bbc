"""Coloured shapes on a textured ground, drawn from an image's number alone: without files, at any size."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ..api import Dataset, ImageSpec, Split, from_uint8, seed_for
from ..registry import register

Array = NDArray[Any]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
WAVES = 3  # waves in the ground's texture
DRAWS = 12 + 4 * WAVES  # random numbers of an image beside its grain

# Distances to a shape's edge at u (right) and v (down), roughly in units of its size; negative inside.
SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": lambda u, v: np.hypot(u, v) - 0.8,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) - 0.7,
    "triangle": lambda u, v: np.maximum(v, 0.866 * abs(u) - 0.5 * v) - 0.45,
    "ring": lambda u, v: abs(np.hypot(u, v) - 0.6) - 0.2,
    "cross": lambda u, v: np.minimum(
        np.maximum(abs(u) - 0.85, abs(v) - 0.25), np.maximum(abs(v) - 0.85, abs(u) - 0.25)
    ),
    "star": lambda u, v: np.hypot(u, v) - 0.55 - 0.3 * np.cos(5 * np.arctan2(v, u)),
    "bar": lambda u, v: np.maximum(abs(u) - 0.9, abs(v) - 0.3),
    "crescent": lambda u, v: np.maximum(np.hypot(u, v) - 0.8, 0.6 - np.hypot(u - 0.45, v)),
}


@register("shapes")
class Shapes(Dataset):
    """Coloured shapes on a textured ground: a class is one of eight shapes in one of its hues.

    Position, size, rotation, shade, ground and grain vary. Images of the two splits are different draws; an
    image has the same shape and ground at every size.
    """

    def __init__(
        self,
        size: Annotated[int, Field(ge=4)] = 32,
        classes: Annotated[int, Field(ge=1)] = 10,
        count: Mapping[str, Annotated[int, Field(ge=1)]] | None = None,
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        """
        Args:
            size: side of the square in pixels.
            classes: number of classes; image i has class i modulo `classes`.
            count: {"train": n, "val": n} images; null is 4,096 and 1,024.
            seed: each seed gives another set of images of the same classes.
        """
        self.count = {"train": 4096, "val": 1024} if count is None else count
        if set(self.count) != {"train", "val"}:
            raise ValueError(f"count must be {{train: N, val: N}}, not {dict(self.count)}")
        self.image = ImageSpec(channels=3, height=size, width=size)
        self.classes, self.seed = classes, seed

    def fingerprint(self) -> str:
        count = "-".join(str(self.count[split]) for split in ("train", "val"))
        text = f"size={self.image.height} classes={self.classes} count={count} seed={self.seed}"
        return hashlib.sha256(text.encode()).hexdigest()

    def size(self, split: Split) -> int:
        return self.count[split]

    def labels(self, split: Split) -> Tensor:
        return torch.arange(self.size(split)) % self.classes

    def images(self, split: Split, index: Tensor) -> Tensor:
        return from_uint8(self.levels(split, index))

    def levels(self, split: Split, index: Tensor) -> Tensor:
        first = np.uint64(seed_for("shapes", self.seed, split) % 2**64)
        keys = mixed(first + index.numpy().astype(np.uint64) * GOLDEN)
        return torch.from_numpy(render(keys, index.numpy() % self.classes, self.image.height))


def mixed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scrambles 64 bits as SplitMix64 does (Steele et al., 2014)."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def uniform(keys: NDArray[np.uint64], count: int) -> Array:
    """(B,) keys -> (count, B) numbers in [0, 1); a larger count only adds numbers."""
    steps = np.arange(1, count + 1, dtype=np.uint64)[:, None] * GOLDEN
    return (mixed(keys + steps) >> np.uint64(40)).astype(np.float32) / np.float32(2**24)


def hued(hue: Array) -> Array:
    """(B,) hues in turns of the colour circle -> (3, B) bright colours in [0, 1]."""
    return np.clip(abs((hue + np.array([[0], [2 / 3], [1 / 3]])) % 1 * 6 - 3) - 1, 0, 1).astype(np.float32)


def render(keys: NDArray[np.uint64], labels: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """Draws the images with these keys and classes, uint8 (B, 3, size, size)."""
    draws = uniform(keys, DRAWS)[..., None, None]  # (DRAWS, B, 1, 1)
    across, down, scale, turn, tint, light, shade, *grey = draws[:12]
    line = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    x, y = line[None, None, :], line[None, :, None]

    # The ground is a dull colour with a slope and waves, and has grain.
    ground = 0.25 + 0.35 * np.stack(grey[:3]) + 0.1 * (x * (grey[3] - 0.5) + y * (grey[4] - 0.5))
    for number in range(WAVES):
        angle, period, phase, depth = draws[12 + 4 * number : 16 + 4 * number]
        distance = x * np.cos(2 * np.pi * angle) + y * np.sin(2 * np.pi * angle)
        ground = ground + 0.1 * depth * np.sin(2 * np.pi * (distance * (1 + 4 * period) + phase))
    grain = uniform(keys ^ GOLDEN, size * size).T.reshape(-1, size, size)

    # The shape is drawn in its own coordinates u, v.
    kinds, hue = labels % len(SHAPES), labels // len(SHAPES) * 0.618 + labels % len(SHAPES) / len(SHAPES)
    extent, rotation = 0.4 + 0.25 * scale, 0.5 * (turn - 0.5)
    dx, dy = (x - 0.6 * (across - 0.5)) / extent, (y - 0.6 * (down - 0.5)) / extent
    u = dx * np.cos(rotation) + dy * np.sin(rotation)
    v = dy * np.cos(rotation) - dx * np.sin(rotation)
    edge = np.empty_like(u)
    for number, edge_distance in enumerate(SHAPES.values()):
        edge[kinds == number] = edge_distance(u[kinds == number], v[kinds == number])
    cover = np.clip(0.5 - edge * extent * size / 2, 0, 1)  # edges are a pixel wide, so that they are smooth
    colour = 0.1 + 0.8 * hued(hue + 0.06 * (tint[:, 0, 0] - 0.5))[..., None, None]
    colour = colour * (0.75 + 0.25 * light) * (1 + 0.3 * (shade - 0.5) * (u + v))

    picture = ground + cover * (colour - ground) + 0.06 * (grain - 0.5)  # (3, B, size, size)
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8).transpose(1, 0, 2, 3).copy()
