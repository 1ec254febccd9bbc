"""The image files below a folder: listed, looked at and remembered, for folders with a million of them."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
THREADS = 16  # a network's file system answers many questions at once
RECENT = (
    2 * 10**9
)  # nanoseconds: a folder that changed so shortly before may change unseen within its clock's tick
NAMED = 10  # of the bad files, in a message


@dataclass(frozen=True)
class Listing:
    """Paths relative to the root, in the order of their bytes, and sizes in bytes: (n,) each."""

    names: NDArray[np.bytes_]
    sizes: NDArray[np.int64]


def listed(root: Path, verify: Literal["ends", "all"] = "ends") -> Listing:
    """The images in root/train and root/val, or, without the former, in the whole of root.

    They are looked at once: what they hold is kept in the user's cache until a folder changes. A file that
    is overwritten in place doesn't change its folder; who reads it must compare its size.

    Args:
        verify: "ends" decodes the files that don't begin and end as a JPEG or PNG does, "all" all of them.

    Raises:
        ValueError: naming the files that cannot be decoded.
    """
    kept = cache(root, verify)
    if kept.is_file():
        with np.load(kept) as held:
            folders, times = held["folders"].tolist(), held["times"].tolist()
            if [_changed(folder) for folder in folders] == times:
                return Listing(held["names"], held["sizes"])
    began = time.time_ns()
    tops = [root / name for name in ("train", "val") if (root / name).is_dir()]
    if not (root / "train").is_dir():
        tops = [root]
    folders = [os.fsencode(root), *chain.from_iterable(map(_below, tops))]
    times = [_changed(folder) for folder in folders]
    with ThreadPoolExecutor(THREADS) as pool:
        look = partial(_inspected, verify=verify)
        found = sorted(chain.from_iterable(pool.map(look, sorted(set(folders[1:])))))
    if not found:
        raise ValueError(f"no images in {root}")
    bad = [f"{os.fsdecode(name)} ({why})" for name, _, why in found if why]
    if bad:
        more = f", and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise ValueError(f"{len(bad)} of {len(found)} images cannot be read: {', '.join(bad[:NAMED])}{more}")
    start = len(os.fsencode(root)) + 1
    listing = Listing(
        np.array([name[start:] for name, _, _ in found]), np.array([size for _, size, _ in found], np.int64)
    )
    if max(times) < began - RECENT:
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_suffix(f".{os.getpid()}")
        with open(temporary, "wb") as file:
            np.savez(file, names=listing.names, sizes=listing.sizes, folders=folders, times=times)
        temporary.rename(kept)
    return listing


def cache(root: Path, verify: str) -> Path:
    """Where a listing is kept."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    name = hashlib.sha256(f"{root.resolve()}\0{verify}".encode()).hexdigest()[:16]
    return home / "latentbench" / "listings" / f"{name}.npz"


def _below(top: Path) -> Iterable[bytes]:
    """A folder and all in it; of links those to folders are followed."""
    return (folder for folder, _, _ in os.walk(os.fsencode(top), followlinks=True))


def _changed(folder: bytes) -> int:
    return os.stat(folder).st_mtime_ns if os.path.isdir(folder) else -1


def _inspected(folder: bytes, verify: str) -> list[tuple[bytes, int, str]]:
    """Path, size and what is wrong with it ("": nothing) of every image of a folder."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.lower().endswith(tuple(map(str.encode, SUFFIXES))) and entry.name[:1] != b".":
                size, whole = _ends(entry.path)
                why = "" if whole and verify == "ends" else _problem(entry.path)
                found.append((entry.path, size, why))
    return found


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
    """What keeps a file from being decoded."""
    from PIL import Image

    try:
        with Image.open(os.fsdecode(path)) as picture:
            picture.load()
    except Exception as error:  # of a decoder, which may fail in any way
        return "no image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
    return ""
