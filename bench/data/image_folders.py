"""The folders below a folder of images, each entered once, and which files in them are images."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..options.words import visible_name

SUFFIXES = (
    *(".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".jp2", ".j2k", ".bmp", ".gif", ".tga"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
)
_SUFFIXES = tuple(map(str.encode, SUFFIXES))
# Folders that unpackers, network drives and file systems add; those of editors begin with a dot.
SYSTEM_FOLDERS = frozenset(
    (b"__macosx", b"@eadir", b"#recycle", b"@recycle", b"$recycle.bin", b"system volume information")
)
Identity = tuple[int, int] | bytes


class ImagesError(ValueError):
    """A folder of images that cannot be read as it is."""


class Repeated(NamedTuple):
    """A folder that isn't entered, because it is another one by another path."""

    path: bytes
    same_as: bytes  # the path by which it is entered, or that of a folder above the root


@dataclass
class Folders:
    """Folders that are entered, in order, and those that are not."""

    entered: dict[Identity, bytes] = field(default_factory=dict)
    hidden: list[bytes] = field(default_factory=list)
    repeated: list[Repeated] = field(default_factory=list)


def is_hidden(name: bytes) -> bool:
    return name.startswith(b".") or name.lower() in SYSTEM_FOLDERS


def is_image(name: bytes) -> bool:
    """Whether a file's name is that of an image, whatever is in it."""
    return name.lower().endswith(_SUFFIXES) and not name.startswith(b".")


def identity(folder: bytes) -> Identity:
    """A value that all paths of a folder share: device and inode, or the real path where there are none."""
    status = os.stat(folder)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)


def folders_below(root: bytes, tops: Sequence[bytes]) -> Folders:
    """Folders at `tops`, which lie in the root or are the root, and all folders below them.

    Each is entered once, by device and inode; links to folders are followed after all real folders, so that a
    folder keeps its own name. A link to a folder above the root leads nowhere.

    Raises:
        ImagesError: a folder cannot be opened.
    """
    found, above = Folders(), _above(root)
    waiting = deque(tops)
    links: deque[bytes] = deque()
    while waiting or links:
        folder = waiting.popleft() if waiting else links.popleft()
        own = identity(folder)
        same = found.entered.get(own) or (above.get(own) if folder != root else None)
        if same is not None:
            found.repeated.append(Repeated(folder, same))
            continue
        found.entered[own] = folder
        for entry in sorted(entries(folder), key=lambda entry: entry.name):
            if is_folder(entry):
                if is_hidden(entry.name):
                    found.hidden.append(entry.path)
                else:
                    (links if entry.is_symlink() else waiting).append(entry.path)
    return found


def entries(folder: bytes) -> list[os.DirEntry[bytes]]:
    """
    Raises:
        ImagesError: the folder cannot be opened.
    """
    try:
        with os.scandir(folder) as listed:
            return list(listed)
    except OSError as error:
        raise ImagesError(f"{visible_name(folder)} cannot be opened: {error.strerror}") from error


def is_folder(entry: os.DirEntry[bytes]) -> bool:
    """Whether it is a folder or leads to one; a link to itself leads to none."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def is_image_file(entry: os.DirEntry[bytes]) -> bool:
    """Whether a file has an image's name; a pipe, a socket or a device, whose opening might wait, is none."""
    if not is_image(entry.name):
        return False
    regular = os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()
    return regular or not os.path.exists(entry.path)  # a link to nothing is a problem, and not left out


def files_in(folder: bytes, entered: Container[Identity] = ()) -> int:
    """The number of files below a folder that isn't read, without those in folders that are entered."""
    count, waiting = 0, [folder]
    while waiting:
        place = waiting.pop()
        try:
            if identity(place) in entered:
                continue
            inner = entries(place)
        except (OSError, ImagesError):  # no image is missed: nothing of it is read
            continue
        count += sum(not is_folder(entry) for entry in inner)
        waiting += [entry.path for entry in inner if is_folder(entry) and not entry.is_symlink()]
    return count


def _above(root: bytes) -> dict[Identity, bytes]:
    """The root and the folders above it."""
    real = os.path.realpath(root)
    found = {identity(real): root}
    while (parent := os.path.dirname(real)) != real:
        found[identity(parent)] = parent
        real = parent
    return found
