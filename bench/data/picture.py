"""Picture files of any type and mode as 8-bit pixels: one reading for whatever opens pictures."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .deep_pixels import Deep, Held, Scales, deep_pixels, tiff_pixels
from .encoded import PictureFile, as_input, content
from .picture_size import check_size

if TYPE_CHECKING:
    from PIL.Image import Image

GREY = ("1", "L", "LA", "La")
TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how TIFF and BigTIFF files begin
ORIENTATION = 0x0112  # EXIF's tag


class Inspection(NamedTuple):
    """The result of decoding a file, with what its pixels hold if they have more than 8 bits."""

    problem: str = ""  # "" if it can be read
    kind: str = ""
    held: Held | None = None
    frames: bool = False  # whether it holds further pictures after the first, which is the one that is read


def opened(file: PictureFile, upright: bool = True, scales: Scales | None = None) -> NDArray[np.uint8]:
    """The pixels of a picture file in colour, uint8 (H, W, 3). See `read_picture`."""
    return np.asarray(read_picture(file, upright, scales).convert("RGB"))


def read_picture(file: PictureFile, upright: bool = True, scales: Scales | None = None) -> Image:
    """A picture file in 8 bits, in mode L if it is grey, otherwise RGB. Transparency becomes white.

    Args:
        upright: whether it is turned by its EXIF tag; Pillow turns a TIFF always.
        scales: black and white of pixels of more than 8 bits, by their kind; without, by what it holds.

    Raises:
        ValueError: naming the file and why it cannot be decoded.
    """
    try:
        picture, deep, orientation = _decoded(file)
        if deep is not None:
            picture = _picture_of(deep.levels(scales or {}))
        return flat(_turned(picture, orientation) if upright else picture)
    except Exception as error:  # decoders may fail in any way
        raise ValueError(f"{file} cannot be decoded: {_reason(file, error)}") from error


def inspect(file: PictureFile) -> Inspection:
    """Decodes a file as `read_picture` does, and says what it has found."""
    try:
        picture, deep, orientation = _decoded(file)
        if deep is not None:
            return Inspection(kind=deep.kind, held=deep.held, frames=_has_more_frames(file))
        flat(_turned(picture, orientation))
    except Exception as error:  # decoders may fail in any way
        return Inspection(_reason(file, error))
    return Inspection(frames=_has_more_frames(file))


def pixel_size(file: PictureFile) -> tuple[int, int]:
    """The width and height of a picture, from its header."""
    with _pillow_open(file) as picture:
        return picture.size


def _pillow_open(file: PictureFile) -> Image:
    from PIL import Image

    # Pillow warns of pictures beyond 89 million pixels and refuses those beyond 179 million, for servers that
    # open strangers' files. Those here are the user's own, and `check_size` has its own limit.
    Image.MAX_IMAGE_PIXELS = None
    return Image.open(as_input(file))


def _decoded(file: PictureFile) -> tuple[Image, Deep | None, int]:
    """The loaded picture, its pixels if they have more than 8 bits, and its EXIF orientation."""
    from PIL import Image, UnidentifiedImageError

    try:
        picture = _pillow_open(file)
    except UnidentifiedImageError:
        if content(file)[:4] not in TIFFS:
            raise
        unknown_to_pillow = tiff_pixels(file)
        return Image.new("L", (1, 1)), unknown_to_pillow, unknown_to_pillow.orientation or 1
    with picture:
        check_size(*picture.size)
        deep = deep_pixels(file, picture)
        if deep is None:
            picture.load()
        elif deep.orientation is not None:
            return picture, deep, deep.orientation
        return picture, deep, _orientation(picture)  # of a TIFF, which Pillow turns as it loads it, 1


def _has_more_frames(file: PictureFile) -> bool:
    with suppress(Exception), _pillow_open(file) as picture:  # the second may be broken: it isn't read
        return getattr(picture, "is_animated", False)
    return False


def _orientation(picture: Image) -> int:
    """EXIF's orientation; 1, upright, where there is none or its tags are broken."""
    with suppress(Exception):
        orientation = picture.getexif().get(ORIENTATION, 1)
        return orientation if isinstance(orientation, int) else 1
    return 1


def _turned(picture: Image, orientation: int) -> Image:
    """A picture as EXIF's orientation says that it was taken."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return picture.transpose(turns[orientation]) if orientation in turns else picture


def _picture_of(levels: NDArray[np.uint8]) -> Image:
    """Levels (H, W, 1 to 4) as a picture in grey or colour, with or without alpha."""
    from PIL import Image

    return Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)


def flat(picture: Image) -> Image:
    """An 8-bit picture of any mode in mode L or RGB, on white where it is transparent."""
    from PIL import Image

    mode = "L" if picture.mode in GREY else "RGB"
    if picture.has_transparency_data:
        over = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return picture.convert(mode)


def _reason(file: PictureFile, error: Exception) -> str:
    """Why a file cannot be decoded."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        suffix = file.suffix.lower() if isinstance(file, Path) else ""
        known = not suffix or suffix in Image.registered_extensions()
        return "no image" if known else f"this Pillow reads no {suffix}: pip install --upgrade pillow"
    return str(error) or type(error).__name__
