"""Images in folders, a folder for each class, as ImageNet (Deng et al., 2009) is distributed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ..api import Dataset, ImageSpec, Split, from_uint8
from ..data.image_index import Listing, list_images
from ..data.images import adm_centre_crop
from ..registry import register
from ..store.user_paths import user_path

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Files:
    """A split's files: names relative to the root, sizes in bytes, and classes (n,) or None."""

    names: NDArray[np.bytes_]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64] | None


@register("imagefolder")
class ImageFolder(Dataset):
    """Images of any size and file type, cropped to a square; folders are classes.

    Files are ROOT/train/CLASS/… and ROOT/val/CLASS/…, or ROOT/CLASS/…, or ROOT/… without classes. Without a
    folder `val`, images are held out by a hash of their name, so that adding or removing files moves no other
    image to another split.

    Two copies of a set have the same fingerprint: sha256 of names, sizes in bytes and options. It depends
    neither on the files' contents, which aren't read for it, nor on dates or the folder's path.
    """

    decodes: ClassVar[bool] = True

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
                JPEG or PNG; "all": all files.
        """
        if count is not None and set(count) != {"train", "val"}:
            raise ValueError(f"count must be {{train: N, val: N}}, not {dict(count)}")
        self.root = user_path(root)
        self.image = ImageSpec(channels=3, height=size, width=size)
        self.count, self.held_out, self.mirror, self.upright = count, held_out, mirror, upright
        self.expected, self.verify = classes, verify

    @cached_property
    def classes(self) -> int:  # type: ignore[override]
        if self.expected is not None:
            return self.expected
        return classes_in(self._splits)

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

    def _cropped(self, files: Files, position: int) -> NDArray[np.uint8]:
        """The image at a position of a split, uint8 (size, size, 3)."""
        mirrored, row = divmod(position, len(files.names))
        file = self.root / os.fsdecode(files.names[row])
        size = file.stat().st_size
        if size != files.sizes[row]:
            raise ValueError(f"{file} has {size} bytes; it had {files.sizes[row]} when it was listed")
        levels = adm_centre_crop(opened(file, self.upright), (self.image.height, self.image.width))
        return levels[:, ::-1] if mirrored else levels

    @cached_property
    def _splits(self) -> dict[Split, Files]:
        self.fetch()
        splits = divided(list_images(self.root, self.verify), self.held_out)
        for split, files in splits.items():
            count = len(files.names)
            if not count:
                raise ValueError(f"no images for {split} in {self.root}")
            if self.count is not None and count != self.count[split]:
                expected = self.count[split]
                raise ValueError(f"{self.root} holds {count} images for {split}, `count` says {expected}")
        classes = classes_in(splits)
        if self.expected not in (None, classes):
            raise ValueError(f"{self.root} holds {classes} classes, `classes` says {self.expected}")
        return splits


def divided(listing: Listing, held_out: float) -> dict[Split, Files]:
    """Divides files into splits, with classes numbered in the order of their names' bytes."""
    names: list[bytes] = listing.names.tolist()
    split_folders = names[0].startswith((b"train/", b"val/"))
    parts = [name.partition(b"/")[2] if split_folders else name for name in names]
    folders = [part.partition(b"/")[0] if b"/" in part else b"" for part in parts]
    if split_folders and names[-1].startswith(b"val/"):
        val = np.array([name.startswith(b"val/") for name in names])
    else:
        val = np.array([hash_fraction(part) < held_out for part in parts])
    classes = sorted(set(folders))
    if split_folders:  # a class must have training images
        classes = sorted({folder for folder, in_val in zip(folders, val, strict=True) if not in_val})
    unknown = sorted(set(folders) - set(classes))
    if unknown or b"" in classes and len(classes) > 1:
        problem = "some do not"
        if unknown:
            problem = f"only in val: {os.fsdecode(unknown[0]) or 'images without one'}"
        raise ValueError(f"images of a class must lie in its folder, in train and in val alike; {problem}")
    labels = None
    if classes != [b""]:
        number = {folder: index for index, folder in enumerate(classes)}
        labels = np.array([number[folder] for folder in folders], dtype=np.int64)
    masks: dict[Split, NDArray[np.bool_]] = {"train": ~val, "val": val}
    return {
        split: Files(listing.names[mask], listing.sizes[mask], None if labels is None else labels[mask])
        for split, mask in masks.items()
    }


def classes_in(splits: Mapping[Split, Files]) -> int:
    """The number of classes, 0 without labels."""
    return max(0 if files.labels is None else int(files.labels.max()) + 1 for files in splits.values())


def hash_fraction(name: bytes) -> float:
    """A pseudo-random number in [0, 1) from the hash of a name."""
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") / 2**64


def opened(file: Path, upright: bool) -> NDArray[np.uint8]:
    """The pixels of an image file of any mode, uint8 (H, W, 3)."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            return np.asarray(rgb(picture, upright))
    except (OSError, SyntaxError) as error:  # what PIL's decoders raise
        raise ValueError(f"{file} cannot be decoded: {error}") from error


def rgb(picture: Image, upright: bool) -> Image:
    """Converts to RGB with 8 bits: 16-bit grey is scaled, not clipped; transparency becomes white."""
    from PIL import Image, ImageOps

    if upright:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        levels = np.asarray(picture).astype(np.float64)
        picture = Image.fromarray((levels / 257).round().clip(0, 255).astype(np.uint8))
    elif picture.has_transparency_data:
        over = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return picture.convert("RGB")
