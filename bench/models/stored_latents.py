"""Latents that another program has stored: LightningDiT's shards, MAR's moments, and arrays of numpy.

FOLDER/SPLIT/*.safetensors   `latents` (n, C, h, w) or `moments` (n, 2 C, h, w), with `labels` (n,)
FOLDER/SPLIT/CLASS/*.npz     `moments` (2 C, h, w) of one image, in a folder for each class
FOLDER/SPLIT.npy             latents (n, C, h, w), with SPLIT_labels.npy (n,) where there are labels
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from ..api import LatentSpec, Unfit
from ..options.words import listed

RANK = re.compile(r"rank(\d+)_shard(\d+)")

Labels = Mapping[str, int]  # by the name of a class's folder


class LatentsError(ValueError):
    """Files that hold no latents, or others than are needed; the message names the file."""


@dataclass(frozen=True)
class Shape:
    """The layout of an image in a file: K x h x w values, K = 2 C if they are moments."""

    values: int
    height: int
    width: int
    moments: bool

    @property
    def channels(self) -> int:
        return self.values // (1 + self.moments)

    def __str__(self) -> str:
        return f"{self.channels} x {self.height} x {self.width}"

    def patch(self, spec: LatentSpec, folder: Path) -> int:
        """The side of the squares of positions that are one token of a tokenizer.

        Raises:
            Unfit: the tokenizer has other latents.
        """
        grid = spec.grid
        side = self.height // grid[0] if grid else 0
        folded = (self.channels * side**2, (self.height // max(1, side), self.width // max(1, side)))
        if folded != (spec.channels, grid):
            wanted = f"{spec.channels} x {grid[0]} x {grid[1]}" if grid else f"{spec.tokens} tokens"
            raise Unfit(f"{folder} holds latents of {self}, the decoder takes {wanted}")
        return side


@dataclass(frozen=True)
class Shard:
    """A file with the number of its latents, their shape and their labels (n,)."""

    file: Path
    count: int
    shape: Shape
    labels: Tensor | None


class StoredLatents:
    """The latents of some files in the order of their images, read by rows.

    Shards of several processes are put into the order of the images, which the processes took in turn.
    """

    def __init__(self, files: Sequence[Path], of_folders: Labels | None = None) -> None:
        """
        Args:
            files: of one layout, in the order of their names.
            of_folders: the labels of folders of classes; None: of those that the files are in.

        Raises:
            LatentsError: a file holds no latents, or others than the first one, or no labels where others do.
        """
        if files[0].suffix == ".npz":  # of one image each: only the first is opened
            labels_of, shape = folder_labels(files) if of_folders is None else of_folders, _shape_of(files[0])
            shards = [Shard(file, 1, shape, _folder_label(file, labels_of)) for file in files]
        else:
            shards = [_shard(file) for file in files]
        first = shards[0]
        for shard in shards:
            if shard.shape != first.shape:
                raise LatentsError(f"{shard.file} has latents of another shape or kind than {first.file}")
            if (shard.labels is None) != (first.labels is None):
                without, other = (shard, first) if shard.labels is None else (first, shard)
                raise LatentsError(f"{without.file} has no labels, and {other.file} has")
        self.shards, self.shape = shards, first.shape
        counts = [shard.count for shard in shards]
        self._order = _order(files, counts)
        self._ends = torch.tensor(counts).cumsum(0)
        labels = [shard.labels for shard in shards if shard.labels is not None]
        self.labels = torch.cat(labels)[self._order] if labels else None

    def __len__(self) -> int:
        return len(self._order)

    def rows(self, index: Tensor) -> Tensor:
        """Latents by the index of their images: (B,) int64 -> (B, K, h, w) float32."""
        shape = (len(index), self.shape.values, self.shape.height, self.shape.width)
        places, found = self._order[index], torch.empty(shape)
        numbers = torch.searchsorted(self._ends, places, right=True)
        for number in numbers.unique().tolist():
            shard, of_shard = self.shards[number], numbers == number
            own = places[of_shard] - (self._ends[number] - shard.count)
            values = _read(shard.file, own)
            if values.shape[1:] != shape[1:]:
                raise LatentsError(
                    f"{shard.file} has latents of another shape or kind than {self.shards[0].file}"
                )
            found[of_shard] = values.float()
        return found

    def chosen(self, rows: Tensor) -> Self:
        """Some of the latents, by the rows (n,) of their images."""
        other = copy.copy(self)
        other._order = self._order[rows]
        other.labels = None if self.labels is None else self.labels[rows]
        return other

    def means(self, index: Tensor) -> Tensor:
        """The latents that stand for images: means of moments (B, C, h, w), or the draw that was stored."""
        values = self.rows(index)
        return values.chunk(2, 1)[0] if self.shape.moments else values


def as_tokens(values: Tensor, patch: int) -> Tensor:
    """Maps (B, C, h, w) as tokens (B, T, C), each of a square of `patch` x `patch` positions."""
    return F.pixel_unshuffle(values, patch).flatten(2).transpose(1, 2).contiguous()


def files_in(folder: Path) -> list[Path]:
    """The shards in a folder, or the moments in its folders of classes; [] without any.

    Raises:
        LatentsError: there are both.
    """
    shards, moments = sorted(folder.glob("*.safetensors")), sorted(folder.glob("*/*.npz"))
    if shards and moments:
        raise LatentsError(f"{folder} has both shards (*.safetensors) and moments (CLASS/*.npz)")
    return shards or moments


def folder_labels(files: Sequence[Path]) -> dict[str, int]:
    """The labels of the folders of classes that files of one image each are in.

    latentbench calls folders by labels of six digits; labels of others are their places among the folders.
    """
    names = sorted({file.parent.name for file in files if file.suffix == ".npz"})
    if all(re.fullmatch(r"\d{6}", name) for name in names):
        return {name: int(name) for name in names}
    return {name: label for label, name in enumerate(names)}


def labels_file(file: Path) -> Path:
    """The file with the labels of an array."""
    return file.with_name(f"{file.stem}_labels.npy")


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


def _shard(file: Path) -> Shard:
    """The header of a file of several latents, and its labels."""
    known, labels = labels_file(file), None
    if file.suffix == ".npy":
        if known.is_file():
            labels = torch.from_numpy(np.array(_array(known))).long()
        count, shape = len(_array(file)), _shape_of(file)
    else:
        with _opened(file) as opened:
            names = list(opened.keys())
            name = _name(file, names)
            count, *sides = opened.get_slice(name).get_shape()
            known, shape = file, _shape(file, sides, name == "moments")
            labels = opened.get_tensor("labels").long().flatten() if "labels" in names else None
    if labels is not None and len(labels) != count:
        raise LatentsError(f"{known} has {len(labels):,} labels for {count:,} latents")
    return Shard(file, count, shape, labels)


def _shape_of(file: Path) -> Shape:
    """The layout of an image in a file of numpy."""
    array = _array(file)
    return _shape(file, array.shape[file.suffix == ".npy" :], moments=file.suffix == ".npz")


def _shape(file: Path, shape: Sequence[int], moments: bool) -> Shape:
    if len(shape) != 3:
        raise LatentsError(f"{file} holds latents of {len(shape)} dimensions: C x h x w is needed")
    values, height, width = shape
    return Shape(values, height, width, moments)


def _read(file: Path, rows: Tensor) -> Tensor:
    """The latents (B, K, h, w) in these rows (B,) of a file."""
    if file.suffix == ".npz":
        return torch.from_numpy(_array(file))[None]
    if file.suffix == ".npy":
        return torch.from_numpy(_array(file)[rows.numpy()])
    with _opened(file) as opened:
        latents = opened.get_slice(_name(file, list(opened.keys())))
        return torch.cat([latents[row : row + 1] for row in rows.tolist()])


def _folder_label(file: Path, of_folders: Labels) -> Tensor:
    """The label (1,) of an image from the folder of its class."""
    name = file.parent.name
    if name not in of_folders:
        known = listed(list(of_folders), 3)
        raise LatentsError(f"{file} is of no known class: the folders of classes are {known}")
    return torch.tensor([of_folders[name]])


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
        return np.array(found["moments"]) if file.suffix == ".npz" else found
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise LatentsError(f"{file} cannot be read: {error}") from None
