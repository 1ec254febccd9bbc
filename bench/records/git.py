"""Answers of git about a folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def git(folder: Path, *arguments: str) -> str | None:
    """The output of a git command in a folder; None if there is no git or no repository, or it fails."""
    try:
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True)
    except OSError:
        return None
    return os.fsdecode(result.stdout).strip() if result.returncode == 0 else None


def tracked_records(folder: Path) -> list[Path]:
    """The record files of a results folder that git tracks, also those that were removed without it."""
    records = folder.resolve() / "records"
    near = next(path for path in records.parents if path.is_dir())
    listed = git(near, "--literal-pathspecs", "ls-files", "-z", "--", str(records)) or ""
    files = (near / name for name in listed.split("\0") if name.endswith(".json"))
    return [file for file in files if file.parent == records]


def tracks(file: Path) -> bool:
    """Whether git tracks a file that is there."""
    listed = (
        git(file.resolve().parent, "--literal-pathspecs", "ls-files", "--", file.name)
        if file.is_file()
        else ""
    )
    return bool(listed)
