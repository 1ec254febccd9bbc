"""Data files of installed packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def package_file(package: str, path: str) -> Path | None:
    """A file in an installed package, found without importing it, which can be slow; None if missing."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / path
    return file if file.exists() else None
