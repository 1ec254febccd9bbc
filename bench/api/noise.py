"""Seeds from names: what a draw depends on is written where the draw is made."""

from __future__ import annotations

import hashlib


def seed_for(*names: str | int) -> int:
    """A 64-bit seed that is a function of the names alone, in order."""
    text = "\0".join(str(name) for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)
