"""How many pixels a picture may have."""

from __future__ import annotations

LARGEST = 2**30  # 3 GB in 8 bits


def check_size(width: int, height: int) -> None:
    """
    Raises:
        ValueError: a picture of this size would fill the memory.
    """
    if width * height > LARGEST:
        raise ValueError(
            f"{width} x {height} pixels are more than {LARGEST / 1e6:,.0f} million: shrink it or cut it"
        )
