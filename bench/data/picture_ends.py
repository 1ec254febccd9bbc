"""Whether a picture file is whole, by its first and last bytes: a million files can't all be decoded."""

from __future__ import annotations

from typing import NamedTuple

from .picture_size import LARGEST

HEAD, TAIL = 25, 12  # bytes: a PNG's width, height and bits are in the first, its end is in the last
LARGE_JPEG = 2**20  # bytes: a JPEG has at most 512 pixels a byte, so a smaller one has less than LARGEST


class Ends(NamedTuple):
    """The answers of a file's ends."""

    complete: bool  # it begins and ends as a JPEG or a PNG of 8 bits
    may_be_large: bool  # it may have more than LARGEST pixels


def ends_of(head: bytes, tail: bytes, size: int) -> Ends:
    """
    Args:
        head, tail: the first HEAD and the last TAIL bytes of a file of `size` bytes.
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) == HEAD:
        pixels = int.from_bytes(head[16:20]) * int.from_bytes(head[20:24])
        return Ends(tail[4:8] == b"IEND" and head[24] <= 8, pixels > LARGEST)
    complete = head.startswith(b"\xff\xd8\xff") and tail.endswith(b"\xff\xd9")
    return Ends(complete, complete and size >= LARGE_JPEG)
