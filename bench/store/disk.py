"""A full disk, in words: which folder has no room, what is free and what was needed."""

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
    """What could not be written, and why."""

    exit_code = 1


@contextmanager
def explain_disk_full(folder: Path, needed: int | None = None) -> Iterator[None]:
    """Raises NoRoom where the block finds the disk full; `needed` are the bytes that it writes."""
    try:
        yield
    except Exception as error:
        number = _number(error)
        if number not in FULL:
            raise
        there = next(one for one in (folder, *folder.resolve().parents) if one.exists())
        free = f"{size_text(shutil.disk_usage(there).free)} free"
        more = f", {size_text(needed)} needed" if needed is not None else ""
        raise DiskFull(f"{FULL[number]} in {folder} ({free}{more})") from error


def size_text(count: float) -> str:
    """`1.5 GiB`."""
    if count < 1024:
        return f"{count:.0f} bytes"
    power = min(3, int(math.log(count, 1024)))
    return f"{count / 1024**power:.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"


def _number(error: Exception) -> int | None:
    """An operating system's error number; safetensors has it in its message alone."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def replace_text(path: Path, text: str) -> None:
    """Writes a file that a reader, or a kill, finds either old or new; NoRoom if the disk is full."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # other machines have our number
    content = text.encode("utf-8", errors="replace")
    try:
        with explain_disk_full(path.parent, len(content)):
            temporary.write_bytes(content)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
