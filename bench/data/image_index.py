"""An index of the image files below a folder, kept in the user's cache: folders may have a million images."""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ..options.words import listed, visible_name
from ..store.user_paths import cache_folder
from .deep_pixels import Held, Scales
from .image_folders import (
    Folders,
    ImagesError,
    entries,
    folders_below,
    is_folder,
    is_hidden,
    is_image_file,
)
from .left_out import LeftOut, left_out_of
from .picture import Inspection, inspect, pixel_size
from .picture_ends import HEAD, TAIL, ends_of
from .picture_size import check_size
from .split_folders import WHOLE, SplitFolders, split_folders

RULE = 2  # raise it when other files are listed, or more is known of them
THREADS = 16  # a network file system answers many requests at once
# Nanoseconds: a folder that changed so recently may change again within its clock's tick, so it isn't cached.
RECENT = 2 * 10**9
NAMED = 10  # unreadable files in a message
OTHERS = {".parquet": "parquet", ".tar": "webdataset", ".safetensors": "latents"}  # datasets by suffix

Verify = Literal["ends", "all"]


@dataclass(frozen=True)
class Listing:
    """Paths relative to the root, in the order of their bytes, and sizes in bytes: (n,) each."""

    names: NDArray[np.bytes_]
    sizes: NDArray[np.int64]
    splits: SplitFolders = WHOLE
    held: Mapping[str, Held] = field(
        default_factory=dict
    )  # what files of more than 8 bits hold, by their kind
    several_frames: int = 0  # files of which only the first picture is read
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def scales(self) -> Scales:
        return {kind: held.scale for kind, held in self.held.items()}


SOUND = Inspection()  # of a file that needs no decoding


class _Found(NamedTuple):
    """An image file of a folder, and what is known of it."""

    path: bytes
    size: int
    inspection: Inspection


def list_images(root: Path, verify: Verify = "ends", splits: Mapping[str, str] | None = None) -> Listing:
    """The images in the folders of a root's splits or, if it has none, in all of the root.

    The listing is cached until a folder changes. A file that is overwritten in place doesn't change its
    folder: whoever reads the file must compare its size.

    Args:
        verify: "ends" decodes only files that don't begin and end as a JPEG or PNG of 8 bits does, "all" all
            files.
        splits: see `split_folders`.

    Raises:
        ImagesError: naming the files that cannot be decoded, or the folders that leave a doubt.
    """
    cached = cache(root, f"{verify}\0{splits and sorted(splits.items())}\0{RULE}")
    kept = _kept(cached) if cached else None
    if kept is not None:
        return kept
    began = time.time_ns()
    chosen, folders = split_folders(root, splits), [os.fsencode(root)]
    if splits is None and not chosen.val:  # then what is in other folders of the root has a say
        folders += [one.path for one in entries(folders[0]) if is_folder(one) and not is_hidden(one.name)]
    found = found_folders(root, chosen)
    folders += found.entered.values()
    times = [_changed(folder) for folder in folders]
    listing = index(root, chosen, found, verify)
    if not len(listing.names):
        other = [f"`use: {OTHERS[s]}` reads {s}" for s in listing.left_out.suffixes if s in OTHERS]
        raise ImagesError("; ".join([f"no images in {root}", *listing.left_out.lines, *other]))
    if cached and max(times) < began - RECENT:
        notes = json.dumps(_plain_notes(listing))
        stored = {"folders": folders, "times": times, "notes": notes}
        with suppress(OSError):  # a home that cannot be written, or a full disk: the listing isn't kept
            keep(cached, names=listing.names, sizes=listing.sizes, **stored)
    return listing


def found_folders(root: Path, splits: SplitFolders = WHOLE) -> Folders:
    """The folders that are read: those of splits or, without, all of the root.

    Raises:
        ImagesError: a split's folder is that of the other split, or lies above the root.
    """
    top = os.fsencode(root)
    tops = {os.path.join(top, name): name for name in splits.tops}
    found = folders_below(top, list(tops) or [top])
    for path, same in found.repeated:
        if path in tops:
            raise ImagesError(
                f"{root}: {visible_name(tops[path])} is the same folder as {visible_name(same)}"
            )
    return found


def index(root: Path, splits: SplitFolders, found: Folders, verify: Verify = "ends") -> Listing:
    """The images in folders that were found, and what is left out; without the cache.

    Raises:
        ImagesError: naming the files that cannot be decoded.
    """
    top = os.fsencode(root)
    with ThreadPoolExecutor(THREADS) as pool:
        inspected = pool.map(partial(_inspected, verify=verify), found.entered.values())
        images = sorted(chain.from_iterable(inspected))
    bad = [f"{visible_name(one.path)} ({one.inspection.problem})" for one in images if one.inspection.problem]
    if bad:
        raise ImagesError(f"{len(bad)} of {len(images)} images cannot be read: {listed(bad, NAMED)}")
    held: dict[str, Held] = {}
    for one in images:
        kind, new = one.inspection.kind, one.inspection.held
        if new is not None:
            held[kind] = held[kind].joined(new) if kind in held else new
    tops = [os.path.join(top, name) for name in splits.tops] or [top]
    return Listing(
        np.array([one.path[len(top) + 1 :] for one in images], np.bytes_),
        np.array([one.size for one in images], np.int64),
        splits,
        held,
        sum(one.inspection.frames for one in images),
        left_out_of(top, tops, found, [one.path for one in images]),
    )


def cache(root: Path, variant: str) -> Path | None:
    """The cache file of a listing; None for a user without a home."""
    home = cache_folder()
    name = hashlib.sha256(os.fsencode(root.resolve()) + b"\0" + variant.encode()).hexdigest()[:16]
    return home / "latentbench" / "listings" / f"{name}.npz" if home else None


def _kept(cached: Path) -> Listing | None:
    """The listing in a cache file; None if there is none that can be read, or a folder has changed since."""
    try:
        with np.load(cached) as stored:
            folders, times = stored["folders"].tolist(), stored["times"].tolist()
            if [_changed(folder) for folder in folders] == times:
                return _from_plain(stored["names"], stored["sizes"], json.loads(str(stored["notes"])))
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):  # it isn't what was written, or not ours
        pass
    return None


def keep(cached: Path, **arrays: Any) -> None:
    """Writes a cache file by one rename."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    temporary = cached.with_suffix(f".{uuid.uuid4().hex}")  # machines that share a home share process ids
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)
        temporary.rename(cached)
    finally:
        temporary.unlink(missing_ok=True)


def _changed(folder: bytes) -> int:
    """The time of a folder's last change in nanoseconds, or -1 if it is missing."""
    return os.stat(folder).st_mtime_ns if os.path.isdir(folder) else -1


def _inspected(folder: bytes, verify: str) -> list[_Found]:
    """Every image in a folder, with what is known of it."""
    images = [one for one in entries(folder) if not is_folder(one) and is_image_file(one)]
    return [_inspected_file(image, verify) for image in images]


def _inspected_file(entry: os.DirEntry[bytes], verify: str) -> _Found:
    size, inspection = 0, SOUND
    try:
        size, complete, may_be_large = _ends(entry.path)
        if may_be_large:
            check_size(*pixel_size(Path(os.fsdecode(entry.path))))
        if not complete or verify == "all":
            inspection = inspect(Path(os.fsdecode(entry.path)))
    except Exception as error:  # a header of any content
        why = str(getattr(error, "strerror", None) or error)
        if entry.is_symlink() and not os.path.exists(entry.path):
            why = f"a link to {visible_name(os.readlink(entry.path))}, which is missing"
        return _Found(entry.path, size, Inspection(why))
    return _Found(entry.path, size, inspection if size else Inspection("an empty file"))


def _ends(path: bytes) -> tuple[int, bool, bool]:
    """A file's size; whether it begins and ends as a JPEG or an 8-bit PNG; whether it may be too large."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(HEAD)
        file.seek(max(0, size - TAIL))
        tail = file.read()
    return size, *ends_of(head, tail, size)


def _plain_notes(listing: Listing) -> dict[str, Any]:
    """A listing without names and sizes, as JSON has it."""
    return {
        "splits": [os.fsdecode(listing.splits.train), os.fsdecode(listing.splits.val)],
        "held": listing.held,
        "several_frames": listing.several_frames,
        "left_out": listing.left_out.plain(),
    }


def _from_plain(names: NDArray[np.bytes_], sizes: NDArray[np.int64], notes: dict[str, Any]) -> Listing:
    held = {kind: Held(*values) for kind, values in notes["held"].items()}
    splits = SplitFolders(*map(os.fsencode, notes["splits"]))
    left_out = LeftOut.from_plain(notes["left_out"])
    return Listing(names, sizes, splits, held, notes["several_frames"], left_out)
