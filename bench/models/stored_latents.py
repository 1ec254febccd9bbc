"""Latents that another program has stored: LightningDiT's shards, MAR's moments, and arrays of numpy.

FOLDER/SPLIT/*.safetensors   `latents` (n, C, h, w) or `moments` (n, 2 C, h, w), with `labels` (n,)
FOLDER/SPLIT/CLASS/*.npz     `moments` (2 C, h, w) of one image, in a folder for each class
FOLDER/SPLIT.npy             latents (n, C, h, w), with SPLIT_labels.npy (n,) where there are labels
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..api import Split
from ..store import hashes

RANK = re.compile(r"rank(\d+)_shard(\d+)")
SPLITS: tuple[Split, ...] = ("train", "val")


class LatentsError(ValueError):
    """Files that hold no latents, or others than are needed; the message names the file."""


@dataclass(frozen=True)
class StoredLatents:
    """Latents of a split in the order of its images: (n, K, h, w), K = 2 C if they are moments."""

    values: Tensor
    labels: Tensor | None
    moments: bool


def files_of(folder: Path, split: Split) -> list[Path]:
    """The files of a split's latents, in the order of their names.

    Raises:
        LatentsError: there are none.
    """
    array = folder / f"{split}.npy"
    if array.is_file():
        return [array]
    inside = folder / split
    shards, moments = sorted(inside.glob("*.safetensors")), sorted(inside.glob("*/*.npz"))
    if shards and moments:
        raise LatentsError(f"{inside} has both shards (*.safetensors) and moments (CLASS/*.npz)")
    if not shards and not moments:
        raise LatentsError(
            f"no latents in {folder}: neither {split}.npy, {split}/*.safetensors nor {split}/*/*.npz"
        )
    return shards or moments


def fingerprint(folder: Path) -> str | None:
    """sha256 of the files of both splits, with their names; None if one of the splits is missing."""
    digest = hashlib.sha256()
    try:
        files = [file for split in SPLITS for file in files_of(folder, split)]
    except LatentsError:
        return None
    for file in [*files, *filter(Path.is_file, (folder / f"{split}_labels.npy" for split in SPLITS))]:
        digest.update(f"{file.relative_to(folder)}\0{hashes.sha256(file)}\n".encode())
    return digest.hexdigest()


def shape_of(folder: Path) -> tuple[int, int, int, bool]:
    """K, h and w of the first training latent, and whether K counts means and log-variances."""
    first = files_of(folder, "train")[0]
    values, _, moments = _read(first) if first.suffix != ".safetensors" else _header(first)
    shape = values if isinstance(values, tuple) else tuple(values.shape[1:])
    if len(shape) != 3:
        raise LatentsError(f"{first} holds latents of {len(shape)} dimensions: C x h x w is needed")
    return (*shape, moments)


def read_split(folder: Path, split: Split) -> StoredLatents:
    """All latents of a split.

    Shards of several processes are put into the order of the images, which the processes took in turn.
    """
    files = files_of(folder, split)
    read = [_read(file) for file in files]
    moments = {one[2] for one in read}
    shapes = {tuple(one[0].shape[1:]) for one in read}
    if len(moments) > 1 or len(shapes) > 1:
        raise LatentsError(f"{files[0].parent} has latents of several shapes or kinds")
    order = _order(files, [len(one[0]) for one in read])
    values = torch.cat([one[0] for one in read])[order]
    labels = [one[1] for one in read]
    known = None if any(label is None for label in labels) else torch.cat(labels)[order]  # type: ignore[arg-type]
    return StoredLatents(values, known, moments.pop())


def _order(files: Sequence[Path], counts: Sequence[int]) -> Tensor:
    """The places of the images' latents in the files' order."""
    if files[0].suffix == ".npz":
        # latentbench numbers its files through all classes; others' order is that of class and name.
        names = [file.stem for file in files]
        numbered = all(re.fullmatch(r"\d{8}", name) for name in names) and len(set(names)) == len(names)
        return torch.tensor([int(name) for name in names]).argsort() if numbered else torch.arange(len(files))
    ranks: dict[int, list[Tensor]] = {}
    start = 0
    for file, count in zip(files, counts, strict=True):
        match = RANK.search(file.name)
        ranks.setdefault(int(match[1]) if match else 0, []).append(torch.arange(start, start + count))
        start += count
    columns = [torch.cat(ranks[rank]) for rank in sorted(ranks)]
    longest = max(map(len, columns))
    turns = [column[turn] for turn in range(longest) for column in columns if turn < len(column)]
    return torch.stack(turns) if len(columns) > 1 else columns[0]


def _header(file: Path) -> tuple[tuple[int, ...], None, bool]:
    with _opened(file) as shard:
        name = _name(file, list(shard.keys()))
        return tuple(shard.get_slice(name).get_shape()[1:]), None, name == "moments"


def _read(file: Path) -> tuple[Tensor, Tensor | None, bool]:
    """The latents (n, K, h, w) of a file, their labels (n,), and whether they are moments."""
    if file.suffix == ".npy":
        labels = file.with_name(f"{file.stem}_labels.npy")
        known = torch.from_numpy(_array(labels)).long() if labels.is_file() else None
        return torch.from_numpy(_array(file)).float(), known, False
    if file.suffix == ".npz":
        return torch.from_numpy(_array(file))[None].float(), torch.tensor([_class_number(file)]), True
    with _opened(file) as shard:
        names = list(shard.keys())
        name = _name(file, names)
        known = shard.get_tensor("labels").long().flatten() if "labels" in names else None
        return shard.get_tensor(name).float(), known, name == "moments"


def _class_number(file: Path) -> int:
    """The place of an image's class among the folders beside its own."""
    return _classes(file.parent.parent).index(file.parent.name)


@cache
def _classes(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def _name(file: Path, names: Sequence[str]) -> str:
    for name in ("moments", "latents"):
        if name in names:
            return name
    raise LatentsError(
        f"{file} has neither `latents` nor `moments`, but {', '.join(sorted(names)) or 'nothing'}"
    )


def _opened(file: Path) -> safe_open:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise LatentsError(f"{file} cannot be read: {error}") from None


def _array(file: Path) -> np.ndarray:
    try:
        found = np.load(file, mmap_mode="r" if file.suffix == ".npy" else None)
        return np.array(found["moments"] if file.suffix == ".npz" else found)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise LatentsError(f"{file} cannot be read: {error}") from None
