"""Whether a file is what was written: by its hash, once per process; and where a broken one is put aside."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from ..user_error import UserError

CORRUPT = "corrupt"  # the folder of what was set aside, beside the artifacts
HEAD = b'{\n "sha256": "%s",\n'

_whole: set[tuple[Any, ...]] = set()  # files that this process has found to be what was written


class Corrupt(UserError):
    """An artifact or a checkpoint that isn't what was written; says why."""

    exit_code = 1


def described(file: Path) -> dict[str, Any]:
    """The hash and size of a file that has just been written."""
    said = {"sha256": sha256(file), "bytes": file.stat().st_size}
    _whole.add((*identity(file), said["sha256"]))
    return said


def sha256(file: Path) -> str:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def identity(file: Path) -> tuple[int, ...]:
    """What changes when a file does, unless its disk fails while it is being worked on."""
    stat = file.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def check(file: Path, said: Mapping[str, Any] | None, contents: bool = True) -> None:
    """Raises Corrupt unless the file has the size and, if `contents` are looked at, the hash that are said.

    Of a safetensors file that nothing is said of, the header and the size must fit.
    """
    try:
        if said is None:
            _check_header(file)
            return
        found = identity(file)
        if found[2] != said["bytes"]:
            raise Corrupt(f"{file.name} has {found[2]} of {said['bytes']} bytes")
        known = (*found, said["sha256"])
        if contents and known not in _whole:
            if sha256(file) != said["sha256"]:
                raise Corrupt(f"{file.name} has another hash than when it was written")
            _whole.add(known)
    except OSError as error:
        raise Corrupt(f"{file.name} cannot be read: {error.strerror}") from error


def headed(text: str) -> str:
    """An object's text, of `json.dumps(…, indent=1)`, with the hash of what follows as its first item."""
    body = text.encode()[len("{\n") :]
    return (HEAD % hashlib.sha256(body).hexdigest().encode() + body).decode()


def check_headed(raw: bytes) -> bool:
    """Whether a text has its hash as its first item; raises Corrupt if that is another text's."""
    length = len(HEAD % (b"0" * 64))
    head, body = raw[:length], raw[length:]
    if b'"sha256"' not in head:
        return False
    if head != HEAD % hashlib.sha256(body).hexdigest().encode():
        raise Corrupt("stage.json has another hash than when it was written")
    return True


def quarantine(path: Path, root: Path, name: str) -> Path:
    """Moves a broken artifact or checkpoint to `root`/corrupt/NAME.N, to be looked at."""
    folder = root / CORRUPT
    folder.mkdir(parents=True, exist_ok=True)
    target = next(one for n in count(1) if not (one := folder / f"{name}.{n}").exists())
    path.rename(target)
    return target


def _check_header(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt"):
            pass
    except SafetensorError as error:
        raise Corrupt(f"{file.name} is broken: {error}") from error
