"""Datasets of small images in the idx files of MNIST (LeCun et al., 1998), packed or unpacked."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad as padded

from ..api import Dataset, ImageSpec, Split, from_uint8
from ..store.user_paths import user_path
from .fixed_order import random_rows

PREFIX: dict[Split, str] = {"train": "train", "val": "t10k"}
KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")


def parse(raw: bytes) -> Tensor:
    """The uint8 tensor of an idx file: two zeros, type 8, the number of dimensions, sizes, values."""
    if raw[:3] != b"\0\0\x08":
        raise ValueError("not an idx file of bytes")
    sizes = np.frombuffer(raw, ">u4", count=raw[3], offset=4).tolist()
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * len(sizes))
    if len(values) != np.prod(sizes):
        raise ValueError(f"{len(values)} values of {int(np.prod(sizes))}: the file is truncated")
    return torch.from_numpy(values.copy().reshape(sizes))


@lru_cache(maxsize=4)  # a dataset has four files, which a worker reads for hundreds of stages
def unpacked(file: Path, changed: int) -> bytes:
    """The content of a file, packed or not; the time of its last change is part of the cache's key."""
    return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()


class IdxDataset(Dataset):
    """60,000 grey images of 28 x 28 in ten classes, 10,000 held out: their test split is `val`."""

    classes = 10
    title: ClassVar[str]
    folders: ClassVar[tuple[str, ...]]  # folders that are searched
    hint: ClassVar[str]  # how to get the files

    def __init__(
        self,
        root: str | None = None,
        pad: Annotated[int, Field(ge=0)] = 0,
        count: Mapping[str, Annotated[int, Field(ge=1)]] | None = None,
    ) -> None:
        """
        Args:
            root: the folder with the four files, packed or not, or torchvision's root; null: the usual
                folders.
            pad: black pixels on each side; 2 make it 32 x 32, which halves five times.
            count: {"train": n, "val": n}, the first images of each; null is all.
        """
        if count is not None and set(count) != set(PREFIX):
            raise ValueError(f"count must be {{train: N, val: N}}, not {dict(count)}")
        self.roots = [user_path(name) for name in ([root] if root is not None else self.folders)]
        self.pad, self.count = pad, count
        self.image = ImageSpec(channels=1, height=28 + 2 * pad, width=28 + 2 * pad)

    def fetch(self) -> None:
        if not self._files:
            searched = ", ".join(map(str, self.roots))
            raise FileNotFoundError(
                f"{self.title} is not in {searched}: {self.hint}, or name its folder by `root`"
            )

    def fingerprint(self) -> str | None:
        """sha256 of the options and the unpacked files, equal for Debian's packed and torchvision's files."""
        if not self._files:
            return None
        chosen = f"pad={self.pad} random={self.count and sorted(self.count.items())}"
        digest = hashlib.sha256(chosen.encode() if self.pad or self.count else b"")
        for split in PREFIX:
            for kind in KINDS:
                digest.update(self._raw(split, kind))
        return digest.hexdigest()

    def size(self, split: Split) -> int:
        if self._files:
            return len(self._splits[split][1])
        size = {"train": 60_000, "val": 10_000}[split]
        return size if self.count is None else min(size, self.count[split])

    def memory_bytes(self) -> int:
        # The unpacked files, the parsed images and the chosen ones.
        return sum(3 * size for size in (60_000, 10_000)) * 28 * 28

    def images(self, split: Split, index: Tensor) -> Tensor:
        return from_uint8(padded(self._splits[split][0][index], [self.pad] * 4))[:, None]

    def labels(self, split: Split) -> Tensor:
        return self._splits[split][1]

    @cached_property
    def _files(self) -> dict[str, Path]:
        """The four files by name, from the first folder that has all of them."""
        names = [f"{prefix}-{kind}" for prefix in PREFIX.values() for kind in KINDS]
        for root in self.roots:
            for folder in (root, root / type(self).__name__ / "raw"):
                files = {
                    name: file
                    for name in names
                    for file in (folder / f"{name}.gz", folder / name)
                    if file.is_file()
                }
                if len(files) == len(names):
                    return files
        return {}

    def _raw(self, split: Split, kind: str) -> bytes:
        file = self._files[f"{PREFIX[split]}-{kind}"].resolve()
        return unpacked(file, file.stat().st_mtime_ns)

    @cached_property
    def _splits(self) -> dict[Split, tuple[Tensor, Tensor]]:
        self.fetch()
        splits: dict[Split, tuple[Tensor, Tensor]] = {}
        for split in PREFIX:
            images, labels = (parse(self._raw(split, kind)) for kind in KINDS)
            chosen = random_rows(len(labels), None if self.count is None else self.count[split])
            splits[split] = images[chosen], labels[chosen].long()
        return splits
