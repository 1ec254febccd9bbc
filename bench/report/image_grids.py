"""PNGs of sample grids and of every row's reconstructions of the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..records.labels import AXES, slug
from ..store.disk import replace_bytes
from .png import SOURCE, png

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

SIDE = 32  # pixels: smaller images are enlarged by a whole factor
GAP = 2  # pixels between images
BACKGROUND = 128  # grey


def grid(images: Tensor, columns: int) -> Image:
    """uint8 images (n, 1 or 3, H, W) in rows of `columns`, on grey."""
    import numpy as np
    from PIL import Image

    array = images.permute(0, 2, 3, 1).numpy()
    factor = max(1, SIDE // max(array.shape[1:3]))
    array = array.repeat(factor, 1).repeat(factor, 2).repeat(3 // array.shape[3], 3)
    height, width = array.shape[1] + GAP, array.shape[2] + GAP
    rows = -(-len(array) // columns)
    canvas = np.full((rows * height + GAP, columns * width + GAP, 3), BACKGROUND, dtype=np.uint8)
    for i, image in enumerate(array):
        top, left = GAP + i // columns * height, GAP + i % columns * width
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return Image.fromarray(canvas)


def write_samples(folder: Path, name: str, images: Tensor, labels: Tensor, rows: int = 8) -> Path:
    """Writes a PNG of samples; with 2 to 16 classes a column has one class, and ends where its samples do."""
    import torch

    classes = labels.unique().tolist()
    if not 1 < len(classes) <= 16:
        return _save(grid(images[: 16 * rows], 16), folder, name)
    shown = torch.full((rows, len(classes), *images.shape[1:]), BACKGROUND, dtype=torch.uint8)
    for column, label in enumerate(classes):
        of_class = images[labels == label][:rows]
        shown[: len(of_class), column] = of_class
    return _save(grid(shown.flatten(0, 1), len(classes)), folder, name)


def picture_name(cell: Mapping[str, str], suffix: str) -> str:
    """`digits--vit--kl--mar@1.5`: a cell's labels but its seed and empty ones, and a suffix."""
    return "--".join(filter(None, (cell[axis] for axis in AXES[:-1]))) + suffix


def file_name(name: str) -> str:
    """The file name of the picture of this name."""
    return f"{slug(name, keep='._=@+-')}.png"


def write_pixels(folder: Path, name: str, pixels: Tensor) -> Path:
    """Writes a PNG of uint8 pixels (H, W, 3)."""
    from PIL import Image

    return _save(Image.fromarray(pixels.numpy()), folder, name)


def write_reconstructions(
    folder: Path, rows: Sequence[tuple[str, Tensor]], name: str, source: str, columns: int = 16
) -> Path:
    """Writes a PNG with the originals in the first row and each tokenizer's reconstructions below.

    Args:
        source: what the picture is made from, which `source_of` reads in the file.
    """
    import torch
    from PIL import Image, ImageDraw

    pictures = grid(torch.cat([images[:columns] for _, images in rows]), columns)
    margin = 8 + 6 * max(len(label) for label, _ in rows)
    canvas = Image.new("RGB", (pictures.width + margin, pictures.height), (128, 128, 128))
    canvas.paste(pictures, (margin, 0))
    pen = ImageDraw.Draw(canvas)
    height = (pictures.height - GAP) / len(rows)
    for i, (label, _) in enumerate(rows):
        pen.text((4, GAP + (i + 0.5) * height - 6), label, fill=(255, 255, 255))
    return _save(canvas, folder, name, source)


def source_of(file: Path) -> str | None:
    """The source that a PNG names; None without a file, or if it names none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as picture:
            return picture.info.get(SOURCE)
    except (OSError, UnidentifiedImageError):
        return None


def _save(picture: Image, folder: Path, name: str, source: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / file_name(name)
    replace_bytes(file, png(picture, source))
    return file
