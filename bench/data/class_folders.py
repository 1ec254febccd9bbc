"""Listed images as splits with classes, a folder for each class, and the result in words."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..api import Split
from ..options.words import listed, visible_name
from .image_folders import ImagesError
from .image_index import Listing
from .split_folders import SplitFolders, role_of

CLASSES_NAMED = 6


@dataclass(frozen=True)
class Files:
    """A split's files: names relative to the root, sizes in bytes, and classes (n,) or None."""

    names: NDArray[np.bytes_]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64] | None


@dataclass(frozen=True)
class ClassFolders:
    """The splits of a listing, and the names of its classes in the order of labels; () without."""

    listing: Listing
    splits: Mapping[Split, Files]
    classes: tuple[bytes, ...]


def divided(listing: Listing, held_out: float) -> ClassFolders:
    """Divides files into splits, with classes numbered in the order of their names' bytes.

    Raises:
        ImagesError: some images lie in a class's folder and some do not, or only in `val`.
    """
    names: list[bytes] = listing.names.tolist()
    train, val = listing.splits.train, listing.splits.val
    in_val = [bool(val) and name.startswith(val + b"/") for name in names]
    prefixes = [len(val) + 1 if own else len(train) + bool(train) for own in in_val]
    parts = [name[start:] for name, start in zip(names, prefixes, strict=True)]
    folders = [part.partition(b"/")[0] if b"/" in part else b"" for part in parts]
    if val:
        mask = np.array(in_val)
    else:
        mask = np.array([hash_fraction(part) < held_out for part in parts])
    classes = sorted(set(folders))
    if train:  # a class must have training images
        classes = sorted({folder for folder, own in zip(folders, mask, strict=True) if not own})
    unknown = sorted(set(folders) - set(classes))
    if unknown or b"" in classes and len(classes) > 1:
        problem = "some do not"
        if unknown:
            problem = f"only in val: {visible_name(unknown[0]) or 'images without one'}"
        raise ImagesError(f"images of a class must lie in its folder, in train and in val alike; {problem}")
    if train and len(classes) == 1 and role_of(classes[0]):
        where = visible_name(train + b"/" + classes[0])
        raise ImagesError(f"{where} would be the only class; if it is a split, name it by `splits`")
    labels = None
    if classes != [b""]:
        number = {folder: index for index, folder in enumerate(classes)}
        labels = np.array([number[folder] for folder in folders], dtype=np.int64)
    masks: dict[Split, NDArray[np.bool_]] = {"train": ~mask, "val": mask}
    splits = {
        split: Files(listing.names[own], listing.sizes[own], None if labels is None else labels[own])
        for split, own in masks.items()
    }
    return ClassFolders(listing, splits, () if labels is None else tuple(classes))


def hash_fraction(name: bytes) -> float:
    """A pseudo-random number in [0, 1) from the hash of a name."""
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") / 2**64


def in_words(found: ClassFolders) -> list[str]:
    """A folder in words: a line on splits and classes, and those of `remarks`."""
    counts = {split: len(files.names) for split, files in found.splits.items()}
    labels = {split: files.labels for split, files in found.splits.items()}
    sizes = split_text(counts, found.listing.splits, "held out by a hash of their names")
    return [f"{sizes}; {class_text(found.classes, labels)}", *remarks(found.listing)]


def remarks(listing: Listing) -> list[str]:
    """How pixels of more than 8 bits are scaled, and what is left out and why."""
    lines = [held.in_words(kind) for kind, held in listing.held.items()]
    if listing.several_frames:
        lines.append(f"of {listing.several_frames:,} files with several pictures the first is read")
    return lines + listing.left_out.lines


def split_text(counts: Mapping[Split, int], names: SplitFolders, held_out: str) -> str:
    """`48 train (Train) + 16 val (validation) images`; `held_out` says how val is made if it has no name."""
    texts = [f"{counts['train']:,} train", f"{counts['val']:,} val"]
    if names.train not in (b"", b"train"):
        texts[0] += f" ({visible_name(names.train)})"
    if names.val != b"val":
        texts[1] += f" ({visible_name(names.val) if names.val else held_out})"
    return " + ".join(texts) + " images"


def class_text(classes: Sequence[bytes], labels: Mapping[Split, NDArray[np.int64] | None]) -> str:
    """`2 classes: cat 50 %, dog 50 %`, by the training images."""
    if not classes:
        return "no classes"
    counts = {
        split: np.bincount(own, minlength=len(classes)) for split, own in labels.items() if own is not None
    }
    train = counts["train"]
    names = [visible_name(name) for name in classes]
    shares = [f"{name} {share:.3g} %" for name, share in zip(names, 100 * train / train.sum(), strict=True)]
    text = f"{len(names):,} class{'es' if len(names) > 1 else ''}"
    if len(names) > CLASSES_NAMED:
        text += f" of {train.min():,} to {train.max():,}"
    text += f": {listed(shares, CLASSES_NAMED)}"
    for split, count in counts.items():
        without = [name for name, n in zip(names, count, strict=True) if not n]
        if without:
            text += f"; none in {split} of {listed(without, CLASSES_NAMED)}"
    return text
