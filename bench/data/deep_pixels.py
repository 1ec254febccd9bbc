"""Pixels of more than 8 bits: how they are decoded, and which of their values are black and white.

A file of 16 bits may hold 12, and one of floats anything. So values are scaled by what a set of files holds:
the smallest usual range that covers all of them, or their own where none is near.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .encoded import PictureFile, as_input, content
from .picture_size import check_size

if TYPE_CHECKING:
    from PIL.Image import Image

Scales = Mapping[str, tuple[float, float]]  # kind of pixels -> the values that become black and white

# The largest values of 8, 10, 12, 14 and 16 bits, and those that floats usually reach.
WHOLE_TOPS, FLOAT_TOPS = (255, 1023, 4095, 16383, 65535), (1, 255, 65535)
REACHED = 1 / 4  # of a usual range must be reached, or all would come out nearly black
BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, SAMPLE_FORMAT = 258, 259, 262, 274, 339  # TIFF's tags
UNCOMPRESSED, WHITE_AT_ZERO, ON_ITS_SIDE, UNSIGNED = 1, 0, (5, 6, 7, 8), 1  # values of the last four
PLAIN_TIFFS = ("MINISWHITE", "MINISBLACK", "RGB")
PNG_BITS = 24  # the place of the byte with the bits of a sample
MOST_SAMPLES = 4  # of a pixel: grey or colour, with or without alpha


class Held(NamedTuple):
    """The values that files of one kind hold: the least, the largest, and whether all are whole."""

    files: int
    low: float
    high: float
    whole: bool

    def joined(self, other: Held) -> Held:
        low, high = min(self.low, other.low), max(self.high, other.high)
        return Held(self.files + other.files, low, high, self.whole and other.whole)

    def in_words(self, kind: str) -> str:
        """`10 of uint16 grey hold 3 to 4,090: 0 is black, 4,095 is white`"""
        low, high, black, white = (f"{value:,.6g}" for value in (self.low, self.high, *self.scale))
        return f"{self.files:,} of {kind} hold {low} to {high}: {black} is black, {white} is white"

    @property
    def scale(self) -> tuple[float, float]:
        """The values that become black and white."""
        if self.low < 0:
            if not self.whole and self.low >= -1 and self.high <= 1:
                return -1.0, 1.0
            return self.low, max(self.high, self.low + 1)
        for top in WHOLE_TOPS if self.whole else FLOAT_TOPS:
            if REACHED * top <= self.high <= top:
                return 0.0, float(top)
        return 0.0, self.high or 1.0


class Deep(NamedTuple):
    """A picture's values (H, W, 1 or 3) and opacity (H, W) in [0, 1], and the kind of its pixels in words."""

    values: NDArray[Any]
    opacity: NDArray[np.float64] | None
    kind: str
    inverted: bool  # the least value is white
    orientation: int | None = None  # EXIF's, where Pillow hasn't read it

    @property
    def held(self) -> Held | None:
        """The picture's own values; None if it has 8 bits, which are never scaled.

        Raises:
            ValueError: a value isn't finite.
        """
        return None if self.values.dtype == np.uint8 else _held(self.values)

    def levels(self, scales: Scales) -> NDArray[np.uint8]:
        """The picture in 8 bits (H, W, 1 to 4), by the scale of its kind, or by what it holds itself."""
        held = self.held
        low, high = (0, 255) if held is None else scales.get(self.kind) or held.scale
        levels = (self.values.astype(np.float64) - low) / (high - low)
        levels = 1 - levels if self.inverted else levels
        if self.opacity is not None:
            levels = np.concatenate([levels, self.opacity[..., None]], axis=2)
        return (levels * 255).round().clip(0, 255).astype(np.uint8)


def deep_pixels(file: PictureFile, picture: Image) -> Deep | None:
    """The pixels of an opened picture, or None if they have 8 bits, which Pillow reads without loss."""
    tags = getattr(picture, "tag_v2", None) or {}
    bits, formats = tags.get(BITS, (1,)), set(tags.get(SAMPLE_FORMAT, (UNSIGNED,)))
    transparent = picture.info.get("transparency")
    on_its_side = tags.get(ORIENTATION) in ON_ITS_SIDE
    if on_its_side and tags.get(COMPRESSION, UNCOMPRESSED) == UNCOMPRESSED:
        return tiff_pixels(file)  # Pillow 12 and 13 take its rows for columns
    if picture.mode.startswith("I") or picture.mode == "F":
        picture.load()  # before its shape is known, as a TIFF may be turned
        values = np.asarray(picture)[..., None]
        if values.dtype == np.int32 and bits == (32,) and formats == {UNSIGNED}:
            values = values.view(np.uint32)  # Pillow has no such mode
        return _deep(values, transparent, inverted=tags.get(PHOTOMETRIC) == WHITE_AT_ZERO)
    if picture.format == "PNG" and _png_bits(picture) == 16:
        return _deep(_decoded_png(file), transparent)
    if max(bits) > 8 or formats != {UNSIGNED}:
        return tiff_pixels(file)
    return None


def _png_bits(picture: Image) -> int:
    """The bits of a sample, from an opened PNG's header: Pillow's modes don't tell 16 from 8 in colour."""
    stream = picture.fp  # type: ignore[attr-defined]
    place = stream.tell()
    stream.seek(PNG_BITS)
    bits: int = stream.read(1)[0]
    stream.seek(place)
    return bits


def tiff_pixels(file: PictureFile) -> Deep:
    """The first page of a TIFF whose samples Pillow would cut to 8 bits, or does not know.

    Raises:
        ValueError: the page is no picture in grey or colour.
    """
    import tifffile

    with tifffile.TiffFile(as_input(file)) as tiff:
        page = tiff.pages.first
        colours = getattr(page.photometric, "name", "unknown")
        if colours not in PLAIN_TIFFS or page.imagedepth != 1:
            raise ValueError(f"a TIFF of {page.dtype} with the colours {colours}, which isn't read")
        check_size(page.imagewidth, page.imagelength)
        values = page.asarray()
        orientation = page.tags[ORIENTATION].value if ORIENTATION in page.tags else 1
    if values.ndim == 3 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
        values = np.moveaxis(values, 0, 2)
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[2] > MOST_SAMPLES or values.dtype.kind not in "iuf":
        raise ValueError(f"a TIFF of {values.dtype}, {values.shape}, which isn't read")
    return _deep(values, inverted=colours == "MINISWHITE")._replace(orientation=orientation)


def _decoded_png(file: PictureFile) -> NDArray[Any]:
    """The samples (H, W, 1 to 4) of a PNG of 16 bits, of which Pillow would keep the upper 8.

    Raises:
        ValueError: nothing that is installed decodes it.
    """
    data = content(file)
    with suppress(ImportError):
        from imagecodecs import png_decode

        return np.atleast_3d(png_decode(data))
    try:  # newer releases of torchvision have it no more
        from torchvision.io import ImageReadMode, decode_png
    except ImportError:
        raise ValueError("16 bits a colour: `pip install imagecodecs` reads them") from None
    import torch

    levels = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return decode_png(levels, ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()


def _deep(samples: NDArray[Any], transparent: Any = None, inverted: bool = False) -> Deep:
    """A picture of samples (H, W, 1 to 4), the last alpha if there are 2 or 4.

    Args:
        transparent: the one colour that is transparent, a number or a tuple; what else Pillow has is ignored.
    """
    opacity = None
    if samples.shape[2] % 2 == 0:
        alpha = samples[..., -1].astype(np.float64)
        samples, opacity = samples[..., :-1], (alpha / _held(alpha).scale[1]).clip(0, 1)
    elif samples.dtype != np.uint8 and isinstance(transparent, int | tuple):
        key = np.array(transparent, dtype=samples.dtype)
        opacity = 1.0 - (samples == key).all(2)
    kind = f"{samples.dtype} {'grey' if samples.shape[2] == 1 else 'colour'}"
    kind += ", with alpha" * (opacity is not None) + ", white at 0" * inverted
    return Deep(samples, opacity, kind, inverted)


def _held(values: NDArray[Any]) -> Held:
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    whole = values.dtype.kind in "iu" or bool((values == np.round(values)).all())
    return Held(1, float(values.min()), float(values.max()), whole)
