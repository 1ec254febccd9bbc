"""Paths as people write them: in a matrix, on the command line and in environment variables.

A relative path begins in the folder where the command runs; `~` is the home and `$X` an environment variable.
"""

from __future__ import annotations

import os
from pathlib import Path


def user_path(text: str | Path) -> Path:
    """The path that a text means; `~` and `$X` stay as they are where nobody knows what they stand for."""
    return Path(os.path.expanduser(os.path.expandvars(text)))


def cache_folder() -> Path | None:
    """The folder of the user's caches; None for a user without a home, as in a container with any user id."""
    folder = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return None if folder.startswith("~") else Path(folder)
