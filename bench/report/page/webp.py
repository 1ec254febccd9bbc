"""Pictures as WebP, no wider than a page shows them on a dense screen."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

DENSE = 2  # pixels of a picture for each pixel of the page
WIDEST = 480  # pixels of the page that a picture of a gallery takes at most
QUALITY = 75  # of photographs and samples
COLOURS = 64  # of drawings: enough for a colour map and smooth text
MANY = 1 << 14  # colours from which a picture is no drawing


def webp(picture: Image, widest: int = WIDEST, drawing: bool = False) -> tuple[bytes, tuple[int, int]]:
    """A picture as WebP, and its width and height in pixels.

    Pictures of few colours, such as enlarged digits, keep every pixel. Drawings are reduced to 64 colours,
    and all others are compressed with a loss that isn't visible at this size.

    Args:
        widest: the width on the page; a wider picture is reduced to twice of it.
        drawing: whether the picture is one of lines, areas and text.
    """
    from PIL.Image import Dither

    shown = _reduced(picture.convert("RGB"), DENSE * widest)
    few = shown.getcolors(COLOURS) is not None
    file = io.BytesIO()
    if few or (drawing and shown.getcolors(MANY) is not None):
        sharp = shown if few else shown.quantize(COLOURS, dither=Dither.NONE).convert("RGB")
        sharp.save(file, "WEBP", lossless=True, method=4)
    else:
        shown.save(file, "WEBP", quality=QUALITY, method=4)
    return file.getvalue(), shown.size


def _reduced(picture: Image, width: int) -> Image:
    if picture.width <= width:
        return picture
    return picture.resize((width, max(1, round(picture.height * width / picture.width))), reducing_gap=3.0)
