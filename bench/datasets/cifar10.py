"""CIFAR-10: tiny colour photographs (Krizhevsky, 2009), read by torchvision."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..api import Dataset, ImageSpec, Split, from_uint8
from ..registry import register
from ..store.user_paths import user_path

SIZES: dict[Split, int] = {"train": 50_000, "val": 10_000}
FOLDERS = ("data", "~/data", "~/.cache/torchvision")
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


@register("cifar10")
class CIFAR10(Dataset):
    """60,000 colour photographs, 32 x 32, ten classes; the 10,000 of the test split are val."""

    image = ImageSpec(channels=3, height=32, width=32)
    classes = 10

    def __init__(self, root: str | None = None, mirror: bool = False) -> None:
        """
        Args:
            root: torchvision's root, the folder with `cifar-10-batches-py`; null: the usual ones.
            mirror: `train` also has every image mirrored, after all others.
        """
        self.roots = [user_path(folder) for folder in (FOLDERS if root is None else [root])]
        self.mirror = mirror

    def fetch(self) -> None:
        if self._root is None:
            looked = ", ".join(map(str, self.roots))
            raise FileNotFoundError(
                f"CIFAR-10 is not in {looked}: torchvision.datasets.CIFAR10('data', download=True) gets it, "
                "or name its folder by `root`"
            )

    def fingerprint(self) -> str | None:
        if self._root is None:
            return None
        digest = hashlib.sha256(f"mirror={self.mirror}".encode())
        for name in BATCHES:
            digest.update((self._root / "cifar-10-batches-py" / name).read_bytes())
        return digest.hexdigest()

    def size(self, split: Split) -> int:
        return SIZES[split] * (2 if self.mirror and split == "train" else 1)

    def memory_bytes(self) -> int:
        # While a split is read there are also torchvision's arrays of it.
        return (sum(SIZES.values()) + SIZES["train"]) * 3 * 32 * 32

    def images(self, split: Split, index: Tensor) -> Tensor:
        levels, count = self._splits[split][0], SIZES[split]
        images = levels[index % count]
        return from_uint8(torch.where((index >= count)[:, None, None, None], images.flip(3), images))

    def labels(self, split: Split) -> Tensor:
        return self._splits[split][1].repeat(self.size(split) // SIZES[split])

    @cached_property
    def _root(self) -> Path | None:
        for root in self.roots:
            if all((root / "cifar-10-batches-py" / name).is_file() for name in BATCHES):
                return root
        return None

    @cached_property
    def _splits(self) -> dict[Split, tuple[Tensor, Tensor]]:
        from torchvision.datasets import CIFAR10 as Reader

        self.fetch()
        splits: dict[Split, tuple[Tensor, Tensor]] = {}
        for split in SIZES:
            reader = Reader(self._root, train=split == "train")
            levels = torch.from_numpy(reader.data).permute(0, 3, 1, 2).contiguous()  # (n, 3, 32, 32)
            splits[split] = levels, torch.tensor(reader.targets)
        return splits
