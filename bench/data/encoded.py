"""Pictures as files or as bytes in memory, for decoders that take either."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path


@dataclass(frozen=True)
class EncodedPicture:
    """The content of a picture file that lies in a larger file, and where it lies, for messages."""

    place: str
    data: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.place


PictureFile = Path | EncodedPicture


def content(file: PictureFile) -> bytes:
    return file.data if isinstance(file, EncodedPicture) else file.read_bytes()


def as_input(file: PictureFile) -> Path | BytesIO:
    """The path or the stream that Pillow and tifffile open."""
    return BytesIO(file.data) if isinstance(file, EncodedPicture) else file
