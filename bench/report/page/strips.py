"""Strips of images for the top of a page, cut from the first row of a results folder's grids of images.

Grids are those of `image_grids.py`: images of one size with grey lines between them, and in the picture of
reconstructions the names of the rows at the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...leaderboard.rows import Row
from ..image_grids import BACKGROUND, GAP
from .embed import Picture, address
from .webp import webp

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGES = 10  # of a strip, at most
THUMBNAILS = 3
WIDE = 340  # pixels of the page that a strip takes at most
GREY = 14  # levels from the background that a line's mean may be away: pictures may have been compressed
RECONSTRUCTIONS = "--reconstructions"


@dataclass(frozen=True)
class Strip:
    """Images in a row, as WebP."""

    caption: str
    source: str
    size: tuple[int, int]


def strip(picture: Picture, caption: str, images: int = IMAGES) -> Strip | None:
    """The first images of a grid's first row; None if the picture is no such grid."""
    from PIL import Image

    with Image.open(picture.path) as stored:
        row = first_row(stored.convert("RGB"), images)
    if row is None:
        return None
    data, size = webp(row, WIDE)
    return Strip(caption, address(data), size)


def held_out(pictures: Sequence[Picture], images: int = IMAGES) -> Strip | None:
    """The dataset's own images: the first row of the picture of reconstructions."""
    found = (one for one in pictures if one.name == RECONSTRUCTIONS and not one.labels["tokenizer"])
    return next((made for one in found if (made := strip(one, "held-out images", images))), None)


def samples(pictures: Sequence[Picture], row: Row, name: str) -> Strip | None:
    """Samples of a row at its guidance."""
    labels = [row.dataset, row.tokenizer, row.regularizer, row.generator]
    at = "@chosen" if row.sweeps else f"@{row.guidance:g}" if row.guidance is not None else ""
    found = (one for one in pictures if one.name == at and list(one.labels.values()) == labels)
    return next((made for one in found if (made := strip(one, f"{row.generator} on {name}"))), None)


def first_row(grid: Image, images: int = IMAGES) -> Image | None:
    """The first images of the first row of a grid, with the lines between them; None if it isn't one."""
    pixels = np.asarray(grid, dtype=np.int16)
    away = np.abs(pixels - BACKGROUND).mean(axis=2)  # (height, width)
    rows = _cells(away.mean(axis=1) > GREY)
    if not rows or rows[0][0] != GAP:
        return None
    top, bottom = rows[0]
    columns = _cells(away[top:bottom].mean(axis=0) > GREY)
    if not columns or columns[-1][1] + GAP != grid.width:
        return None
    columns = _equal_from_the_right(columns)[:images]
    if len(columns) < THUMBNAILS:
        return None
    return grid.crop((columns[0][0], top, columns[-1][1], bottom))


def _cells(filled: np.ndarray) -> list[tuple[int, int]]:
    """Begin and end of each run of True."""
    steps = np.flatnonzero(np.diff(np.concatenate([[False], filled, [False]]).astype(np.int8)))
    return list(zip(steps[::2].tolist(), steps[1::2].tolist(), strict=True))


def _equal_from_the_right(cells: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The last cells that have one size and one distance: names at the left of a grid have others."""
    size = cells[-1][1] - cells[-1][0]
    first = len(cells) - 1
    while first > 0:
        begin, end = cells[first - 1]
        if end - begin != size or cells[first][0] - end != GAP:
            break
        first -= 1
    return cells[first:]
