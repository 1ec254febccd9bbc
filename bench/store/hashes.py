"""Checks files by their hashes, once per process, and quarantines corrupt ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from ..user_error import UserError

CORRUPT = "corrupt"  # the folder of quarantined files, beside the artifacts
HEAD = b'{\n "sha256": "%s",\n'

_checked: set[tuple[Any, ...]] = set()  # files whose hash this process has checked


class Corrupt(UserError):
    """An artifact or a checkpoint that isn't what was written."""

    exit_code = 1


def described(file: Path) -> dict[str, Any]:
    """The hash and size of a file that has just been written."""
    description = {"sha256": sha256(file), "bytes": file.stat().st_size}
    _checked.add((*identity(file), description["sha256"]))
    return description


def sha256(file: Path) -> str:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def identity(file: Path) -> tuple[int, ...]:
    """Device, inode, size and mtime of a file: they detect replaced files, not bit rot."""
    stat = file.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def check(file: Path, written: Mapping[str, Any] | None, contents: bool = True) -> None:
    """Raises Corrupt unless the file has the size and, with `contents`, the hash that it was written with.

    With `written` None, only the header and the size of a safetensors file are checked.
    """
    try:
        if written is None:
            _check_header(file)
            return
        current = identity(file)
        size, sha = current[2], written["sha256"]
        if size != written["bytes"]:
            raise Corrupt(f"{file.name} has {size} of {written['bytes']} bytes")
        if contents and (*current, sha) not in _checked:
            if sha256(file) != sha:
                raise Corrupt(f"{file.name} has another hash than when it was written")
            _checked.add((*current, sha))
    except OSError as error:
        raise Corrupt(f"{file.name} cannot be read: {error.strerror}") from error


def headed(text: str) -> str:
    """Adds to the JSON text of an object, as of `json.dumps(…, indent=1)`, its hash as the first item."""
    body = text.encode()[len("{\n") :]
    return (HEAD % hashlib.sha256(body).hexdigest().encode() + body).decode()


def check_headed(raw: bytes) -> bool:
    """Whether a JSON text has a hash as its first item; raises Corrupt if it is that of another text."""
    length = len(HEAD % (b"0" * 64))
    head, body = raw[:length], raw[length:]
    if b'"sha256"' not in head:
        return False
    if head != HEAD % hashlib.sha256(body).hexdigest().encode():
        raise Corrupt("stage.json has another hash than when it was written")
    return True


def quarantine(path: Path, root: Path, name: str) -> Path:
    """Moves a corrupt artifact or checkpoint to `root`/corrupt/NAME.N for inspection."""
    folder = root / CORRUPT
    folder.mkdir(parents=True, exist_ok=True)
    numbered = (folder / f"{name}.{number}" for number in count(1))
    target = next(file for file in numbered if not file.exists())
    path.rename(target)
    return target


def _check_header(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt"):
            pass
    except SafetensorError as error:
        raise Corrupt(f"{file.name} is broken: {error}") from error
