"""An index of the image files below a folder, kept in the user's cache: folders may have a million images."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ..options.words import listed
from ..store.user_paths import cache_folder

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
THREADS = 16  # a network file system answers many requests at once
# Nanoseconds: a folder that changed so recently may change again within its clock's tick, so it isn't cached.
RECENT = 2 * 10**9
NAMED = 10  # unreadable files in a message


@dataclass(frozen=True)
class Listing:
    """Paths relative to the root, in the order of their bytes, and sizes in bytes: (n,) each."""

    names: NDArray[np.bytes_]
    sizes: NDArray[np.int64]


def list_images(root: Path, verify: Literal["ends", "all"] = "ends") -> Listing:
    """The images in root/train and root/val or, without root/train, in all of root.

    The listing is cached until a folder changes. A file that is overwritten in place doesn't change its
    folder: whoever reads the file must compare its size.

    Args:
        verify: "ends" decodes only files that don't begin and end as a JPEG or PNG does, "all" all files.

    Raises:
        ValueError: naming the files that cannot be decoded.
    """
    cached = cache(root, verify)
    kept = _kept(cached) if cached else None
    if kept is not None:
        return kept
    began = time.time_ns()
    tops = [root / name for name in ("train", "val") if (root / name).is_dir()]
    if not (root / "train").is_dir():
        tops = [root]
    folders = [os.fsencode(root), *chain.from_iterable(map(_folders_below, tops))]
    times = [_changed(folder) for folder in folders]
    with ThreadPoolExecutor(THREADS) as pool:
        inspect = partial(_inspected, verify=verify)
        files = sorted(chain.from_iterable(pool.map(inspect, sorted(set(folders[1:])))))
    if not files:
        raise ValueError(f"no images in {root}")
    bad = [f"{os.fsdecode(name)} ({why})" for name, _, why in files if why]
    if bad:
        raise ValueError(f"{len(bad)} of {len(files)} images cannot be read: {listed(bad, NAMED)}")
    start = len(os.fsencode(root)) + 1
    names, sizes = [name[start:] for name, _, _ in files], [size for _, size, _ in files]
    listing = Listing(np.array(names), np.array(sizes, np.int64))
    if cached and max(times) < began - RECENT:
        with suppress(OSError):  # a home that cannot be written, or a full disk: the listing isn't kept
            _keep(cached, names=listing.names, sizes=listing.sizes, folders=folders, times=times)
    return listing


def cache(root: Path, verify: str) -> Path | None:
    """The cache file of a listing; None for a user without a home."""
    home = cache_folder()
    name = hashlib.sha256(os.fsencode(root.resolve()) + b"\0" + verify.encode()).hexdigest()[:16]
    return home / "latentbench" / "listings" / f"{name}.npz" if home else None


def _kept(cached: Path) -> Listing | None:
    """The listing in a cache file; None if there is none that can be read, or a folder has changed since."""
    try:
        with np.load(cached) as stored:
            folders, times = stored["folders"].tolist(), stored["times"].tolist()
            if [_changed(folder) for folder in folders] == times:
                return Listing(stored["names"], stored["sizes"])
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):  # it isn't what was written, or not ours
        pass
    return None


def _keep(cached: Path, **arrays: Any) -> None:
    """Writes a cache file by one rename."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    temporary = cached.with_suffix(f".{uuid.uuid4().hex}")  # machines that share a home share process ids
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)
        temporary.rename(cached)
    finally:
        temporary.unlink(missing_ok=True)


def _folders_below(top: Path) -> Iterable[bytes]:
    """A folder and all folders below it, with links to folders followed."""
    return (folder for folder, _, _ in os.walk(os.fsencode(top), followlinks=True))


def _changed(folder: bytes) -> int:
    """The time of a folder's last change in nanoseconds, or -1 if it is missing."""
    return os.stat(folder).st_mtime_ns if os.path.isdir(folder) else -1


def _inspected(folder: bytes, verify: str) -> list[tuple[bytes, int, str]]:
    """The path, the size and the problem ("" if there is none) of every image in a folder."""
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.lower().endswith(tuple(map(str.encode, SUFFIXES))) and entry.name[:1] != b".":
                size, complete = _ends(entry.path)
                why = "" if complete and verify == "ends" else _problem(entry.path)
                files.append((entry.path, size, why))
    return files


def _ends(path: bytes) -> tuple[int, bool]:
    """A file's size, and whether it begins and ends as a JPEG or a PNG."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(8)
        file.seek(max(0, size - 12))
        tail = file.read()
    jpeg = head.startswith(b"\xff\xd8\xff") and tail.endswith(b"\xff\xd9")
    return size, jpeg or head == b"\x89PNG\r\n\x1a\n" and tail[4:8] == b"IEND"


def _problem(path: bytes) -> str:
    """The reason why a file cannot be decoded, or ""."""
    from PIL import Image

    try:
        with Image.open(os.fsdecode(path)) as picture:
            picture.load()
    except Exception as error:  # decoders may fail in any way
        return "no image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
    return ""
