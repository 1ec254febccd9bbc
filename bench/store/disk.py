"""Errors of a full disk that name the folder and the bytes that are free and needed."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..user_error import UserError

FULL = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would be larger than is allowed here (ulimit -f)",
}


class DiskFull(UserError):
    """Results that could not be written because the disk, the quota or the file size limit is exhausted."""

    exit_code = 1


@contextmanager
def explain_disk_full(folder: Path, needed: int | None = None) -> Iterator[None]:
    """Raises DiskFull if the block finds the disk full; `needed` is the number of bytes that it writes."""
    try:
        yield
    except Exception as error:
        number = _number(error)
        if number not in FULL:
            raise
        existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
        free = f"{size_text(shutil.disk_usage(existing).free)} free"
        more = f", {size_text(needed)} needed" if needed is not None else ""
        raise DiskFull(f"{FULL[number]} in {folder} ({free}{more})") from error


def size_text(count: float) -> str:
    """Formats a number of bytes: `1.5 GiB`."""
    if count < 1024:
        return f"{count:.0f} bytes"
    power = min(3, int(math.log(count, 1024)))
    return f"{count / 1024**power:.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"


def _number(error: Exception) -> int | None:
    """The operating system's error number, which safetensors has only in its message."""
    if isinstance(error, OSError):
        return error.errno
    match = re.search(r"\(os error (\d+)\)", str(error))
    return int(match[1]) if match else None


def replace_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8 by one rename, so that it is never half-written; raises DiskFull."""
    replace_bytes(path, text.encode("utf-8", errors="replace"))


def replace_bytes(path: Path, content: bytes) -> None:
    """Writes a file by one rename, so that it is never half-written; raises DiskFull."""
    temporary = path.with_name(
        f".{path.name}.{uuid.uuid4().hex}.tmp"
    )  # process ids of other machines may be the same
    try:
        with explain_disk_full(path.parent, len(content)):
            temporary.write_bytes(content)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
