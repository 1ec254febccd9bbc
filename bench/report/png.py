"""PNGs in few bytes: the same pixels in the smallest mode, or in fewer colours."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

GREYS, COLOURS, DRAWN = 16, 64, 256  # of pictures with fewer colours, and of drawings by the report
SOURCE = "Source"  # a keyword of PNG's text: what a picture was made from


def png(picture: Image, source: str | None = None) -> bytes:
    """The smallest PNG with the same pixels as an RGB picture: in colours, in grey or with a palette."""
    from PIL.PngImagePlugin import PngInfo

    notes = PngInfo()
    if source is not None:
        notes.add_text(SOURCE, source)
    encoded = []
    for one in _same_pixels(picture):
        drawn = io.BytesIO()
        one.save(drawn, format="PNG", pnginfo=notes, optimize=True)
        encoded.append(drawn.getvalue())
    return min(encoded, key=len)


def fewer_colours(picture: Image, colours: int = COLOURS) -> Image:
    """The picture with 16 greys if it is grey, else with so many colours; with fewer, it stays as it is."""
    from PIL.Image import Dither, Quantize

    if is_grey(picture):
        step = 255 / (GREYS - 1)
        return picture.convert("L").point([round(round(i / step) * step) for i in range(256)]).convert("RGB")
    if picture.getcolors(colours) is not None:
        return picture
    return picture.quantize(colours, method=Quantize.MEDIANCUT, dither=Dither.NONE).convert("RGB")


def is_grey(picture: Image) -> bool:
    """Whether red, green and blue are equal in every pixel."""
    return picture.convert("L").convert("RGB").tobytes() == picture.tobytes()


def _same_pixels(picture: Image) -> list[Image]:
    """The picture in every mode that loses nothing."""
    from PIL.Image import Dither, Quantize

    modes = [picture.convert("L") if is_grey(picture) else picture]
    colours = picture.getcolors(256)
    if colours is not None:
        palette = picture.quantize(len(colours), method=Quantize.MEDIANCUT, dither=Dither.NONE)
        if palette.convert("RGB").tobytes() == picture.tobytes():
            modes.append(palette)
    return modes
