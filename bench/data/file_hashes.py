"""The hash of all files below a folder, by their names and contents; a file is read once until it changes."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ..store.hashes import sha256
from .image_folders import entries, folders_below, is_folder
from .image_index import RECENT, cache, keep

Known = dict[bytes, tuple[int, int, str]]  # by a file's name: size, time of the last change, hash


def hash_of_files(root: Path) -> str:
    """sha256 of the names and contents of all files below a folder that aren't hidden; of its path, nothing.

    Raises:
        ImagesError: a folder cannot be opened.
    """
    cached = cache(root, "file hashes")
    known = _kept(cached) if cached else {}
    began, found = time.time_ns(), _hashed(root, known)
    if cached and found != known:
        settled = {name: one for name, one in found.items() if one[1] < began - RECENT}
        with suppress(OSError):  # a home that cannot be written, or a full disk: they aren't kept
            _keep(cached, settled)
    digest = hashlib.sha256()
    for name, (_, _, content) in sorted(found.items()):
        digest.update(b"\0%s\0%s" % (name, content.encode()))
    return digest.hexdigest()


def _hashed(root: Path, known: Known) -> Known:
    top, found = os.fsencode(root), Known()
    for folder in folders_below(top, [top]).entered.values():
        for one in entries(folder):
            if one.name.startswith(b".") or is_folder(one) or not os.path.isfile(one.path):
                continue
            name, stat = one.path[len(top) + 1 :], os.stat(one.path)
            size, changed = stat.st_size, stat.st_mtime_ns
            before = known.get(name, (0, 0, ""))
            same = before[:2] == (size, changed)
            content = before[2] if same else sha256(Path(os.fsdecode(one.path)))
            found[name] = size, changed, content
    return found


def _kept(cached: Path) -> Known:
    try:
        with np.load(cached) as stored:
            names, numbers, hashes = (stored[key].tolist() for key in ("names", "numbers", "hashes"))
        rows = zip(names, numbers, hashes, strict=True)
        return {name: (size, changed, content) for name, (size, changed), content in rows}
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):  # it isn't what was written, or not ours
        return {}


def _keep(cached: Path, known: Known) -> None:
    keep(
        cached,
        names=np.array(list(known), np.bytes_),
        numbers=np.array([one[:2] for one in known.values()], np.int64).reshape(-1, 2),
        hashes=np.array([one[2] for one in known.values()], np.str_),
    )
