"""Images in folders, a folder for each class, as ImageNet (Deng et al., 2009) is distributed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ..api import Dataset, ImageSpec, Split, from_uint8
from ..data.class_folders import ClassFolders, Files, divided, in_words
from ..data.fixed_order import random_rows
from ..data.image_folders import ImagesError
from ..data.image_index import list_images
from ..data.images import adm_centre_crop
from ..data.picture import opened
from ..registry import register
from ..store.user_paths import user_path

# Grey of 16 bits was scaled in the same way before scales were known: keys of such sets stay.
EARLIER = [(kind, (0.0, 65535.0)) for kind in ("uint16 grey", "int32 grey")]


@register("imagefolder")
class ImageFolder(Dataset):
    """Images of any size and file type, cropped to a square; folders are classes.

    Files are ROOT/train/CLASS/… and ROOT/val/CLASS/…, or ROOT/CLASS/…, or ROOT/… without classes. Without a
    folder `val`, images are held out by a hash of their name, so that adding or removing files moves no other
    image to another split. Folders of splits may have other names, such as `Train` and `validation`; names
    that leave a doubt, such as `test` beside `train` alone, are a problem that `splits` solves.

    Hidden files and folders, `__MACOSX` and `@eaDir` are left out. Pixels of more than 8 bits are scaled by
    what the set holds. `bench plan` and `bench run` say what was found and what was left out.

    Two copies of a set have the same fingerprint: sha256 of names, sizes in bytes and options. It depends
    neither on the files' contents, which aren't read for it, nor on dates or the folder's path.
    """

    decodes: ClassVar[bool] = True
    later: ClassVar[frozenset[str]] = frozenset({"splits"})

    def __init__(
        self,
        root: str = "$IMAGENET",
        size: Annotated[int, Field(ge=1)] = 256,
        count: Mapping[str, Annotated[int, Field(ge=1)]] | None = None,
        classes: Annotated[int, Field(ge=0)] | None = None,
        held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1,
        mirror: bool = False,
        upright: bool = True,
        verify: Literal["ends", "all"] = "ends",
        splits: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            root: a path; with an environment variable in it, cache keys are the same on machines that keep
                the data in different places.
            size: side of the square in pixels, cut by ADM's centre crop.
            count: the expected numbers of files, {"train": n, "val": n}.
            classes: the expected number of classes. With `count` and `classes`, a plan needs no data.
            held_out: fraction of the images that are `val` where there is no folder `val`.
            mirror: `train` also has every image mirrored, after all others: batches draw from both, and
                latents of both are stored. Distances are to the images as they are.
            upright: whether images are turned by their EXIF tag, which ADM and the papers ignore.
            verify: which files are decoded before anything runs: "ends": those that don't begin and end as
                JPEG or PNG of 8 bits; "all": all files.
            splits: the folders of the splits, {train: FOLDER, val: FOLDER} or {train: FOLDER}; other folders
                aren't read. {}: all folders are classes, whatever their names. null: by their names.
        """
        if splits is not None and not _are_splits(splits):
            raise ValueError(
                f"splits must be {{train: FOLDER, val: FOLDER}} or {{train: FOLDER}}, with two folders below "
                f"the root, or {{}}, not {dict(splits)}"
            )
        if count is not None and set(count) != {"train", "val"}:
            raise ValueError(f"count must be {{train: N, val: N}}, not {dict(count)}")
        self.root = user_path(root)
        self.image = ImageSpec(channels=3, height=size, width=size)
        self.count, self.held_out, self.mirror, self.upright = count, held_out, mirror, upright
        self.expected, self.verify, self.splits = classes, verify, splits

    @cached_property
    def classes(self) -> int:  # type: ignore[override]
        if self.expected is not None:
            return self.expected
        return len(self._found.classes)

    def fetch(self) -> None:
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"there is no folder {self.root}; with `count` and `classes`, which say what it will hold, "
                "`bench plan` can do without"
            )

    def fingerprint(self) -> str | None:
        if not self.root.is_dir():
            return None
        text = f"size={self.image.height} mirror={self.mirror} upright={self.upright}"
        for kind, held in sorted(self._found.listing.held.items()):
            if (kind, held.scale) not in EARLIER:  # black and white depend on what the files hold
                text += f" {kind}={held.scale}"
        if self.splits is not None:
            text += f" splits={sorted(self.splits.items())}"
        digest = hashlib.sha256(text.encode())
        for split, files in self._splits.items():
            digest.update(f"\0{split}".encode())
            for name, size in zip(files.names.tolist(), files.sizes.tolist(), strict=True):
                digest.update(b"\0%s\0%d" % (name, size))
        return digest.hexdigest()

    def size(self, split: Split) -> int:
        known = self.count is not None and self.expected is not None
        files = self.count[split] if known and self.count else len(self._splits[split].names)
        return files * self._copies(split)

    def _copies(self, split: Split) -> int:
        return 2 if self.mirror and split == "train" else 1

    def mirrored(self, split: Split) -> int:
        return self.size(split) // 2 if self.mirror and split == "train" else 0

    def labels(self, split: Split) -> Tensor | None:
        labels = self._splits[split].labels
        if labels is None:
            return None
        return torch.from_numpy(labels).repeat(self._copies(split))

    def images(self, split: Split, index: Tensor) -> Tensor:
        return from_uint8(self.levels(split, index))

    def levels(self, split: Split, index: Tensor) -> Tensor:
        levels = np.empty((len(index), 3, self.image.height, self.image.width), np.uint8)
        for row, position in enumerate(index.tolist()):
            levels[row] = self._cropped(self._splits[split], position).transpose(2, 0, 1)
        return torch.from_numpy(levels)

    def picture_sizes(self, most: int) -> list[tuple[int, int]]:
        names = self._splits["train"].names
        files = [self.root / os.fsdecode(names[row]) for row in random_rows(len(names), most).tolist()]
        shapes = [opened(file, self.upright, self._found.listing.scales).shape for file in files]
        return [(shape[1], shape[0]) for shape in shapes]

    def _cropped(self, files: Files, position: int) -> NDArray[np.uint8]:
        """The image at a position of a split, uint8 (size, size, 3)."""
        mirrored, row = divmod(position, len(files.names))
        file = self.root / os.fsdecode(files.names[row])
        size = file.stat().st_size
        if size != files.sizes[row]:
            raise ValueError(f"{file} has {size} bytes; it had {files.sizes[row]} when it was listed")
        pixels = opened(file, self.upright, self._found.listing.scales)
        levels = adm_centre_crop(pixels, (self.image.height, self.image.width))
        return levels[:, ::-1] if mirrored else levels

    def description(self) -> list[str]:
        return in_words(self._found) if self.root.is_dir() else super().description()

    @property
    def _splits(self) -> Mapping[Split, Files]:
        return self._found.splits

    @cached_property
    def _found(self) -> ClassFolders:
        self.fetch()
        listing = list_images(self.root, self.verify, self.splits)
        found = divided(listing, self.held_out)
        for split, files in found.splits.items():
            count = len(files.names)
            if not count:
                why = f"; {self.held_out:g} of {len(listing.names)} is none" if not listing.splits.val else ""
                raise ImagesError(f"no images for {split} in {self.root}{why}")
            if self.count is not None and count != self.count[split]:
                expected = self.count[split]
                raise ImagesError(f"{self.root} holds {count} images for {split}, `count` says {expected}")
        classes = len(found.classes)
        if self.expected not in (None, classes):
            raise ImagesError(f"{self.root} holds {classes} classes, `classes` says {self.expected}")
        return found


def _are_splits(splits: Mapping[str, str]) -> bool:
    """Whether it names a folder for train and perhaps another one for val, below the root."""
    paths = [os.path.normpath(name) for name in splits.values()]
    below = not any(path.split(os.sep)[0] in ("", ".", "..") for path in paths)
    return below and len(set(paths)) == len(paths) and set(splits) in (set(), {"train"}, {"train", "val"})
