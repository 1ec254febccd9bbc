"""What stands below the tables: unfinished cells, protocols and provenance."""

from __future__ import annotations

import re
from typing import Any


def compact(value: Any) -> str:
    """A protocol or a budget as one line; a checksum by its first twelve digits."""
    if isinstance(value, dict):
        return ", ".join(
            f"{k} ({compact(v)})" if isinstance(v, dict) else f"{k} {compact(v)}" for k, v in value.items()
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(compact, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28,}\b", r"\1", str(value))
