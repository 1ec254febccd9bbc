"""Datasets of pictures that lie as bytes in larger files, read by the rule for folders of pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ..api import Dataset, ImageSpec, Split, from_uint8
from ..store.user_paths import user_path
from .class_folders import class_text, split_text
from .deep_pixels import Held
from .encoded import EncodedPicture
from .image_folders import ImagesError
from .image_index import Verify
from .images import adm_centre_crop
from .picture import Inspection, inspect, opened, pixel_size
from .picture_ends import HEAD, TAIL, ends_of
from .picture_size import check_size
from .split_folders import SplitFolders

DIGEST = 16  # bytes of a picture's sha256 that are kept
HELD_OUT = "held out by a hash of the pictures"


@dataclass(frozen=True)
class FoundPictures:
    """The pictures of a set's files in their order: those of train, then those of val if it has files."""

    digests: NDArray[np.uint8]  # (n, DIGEST)
    labels: NDArray[np.int64] | NDArray[np.bytes_] | None  # as the files have them
    in_train_files: int
    names: SplitFolders
    classes: tuple[bytes, ...] | None = None  # names of the labels, if the files have them
    held: Mapping[str, Held] = field(default_factory=dict)
    several_frames: int = 0
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class SplitRows:
    """The pictures of a split, by their rows, and their classes."""

    rows: NDArray[np.int64]
    labels: NDArray[np.int64] | None


class EncodedPictures(Dataset):
    """Pictures of any size and type in larger files, cropped to a square.

    The fingerprint is the sha256 of pictures, labels and options: it depends neither on the files' names nor
    on their number, order of columns or compression. Without files of `val`, pictures are held out by the
    hash of their content, so that equal pictures are in one split.
    """

    decodes: ClassVar[bool] = True

    def __init__(
        self,
        root: str,
        size: Annotated[int, Field(ge=1)] = 256,
        count: Mapping[str, Annotated[int, Field(ge=1)]] | None = None,
        classes: Annotated[int, Field(ge=0)] | None = None,
        held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1,
        mirror: bool = False,
        upright: bool = True,
        verify: Verify = "ends",
        splits: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            root: a folder with the files, or one file; with an environment variable in it, cache keys are the
                same on machines that keep the data in different places.
            size: side of the square in pixels, cut by ADM's centre crop.
            count: the expected numbers of images, {"train": n, "val": n}.
            classes: the expected number of classes. With `count` and `classes`, a plan needs no data.
            held_out: fraction of the images that are `val` where no file is: by a hash of their content, so
                that equal images are in one split.
            mirror: `train` also has every image mirrored, after all others: batches draw from both, and
                latents of both are stored. Distances are to the images as they are.
            upright: whether images are turned by their EXIF tag, which ADM and the papers ignore.
            verify: which images are decoded before anything runs: "ends": those that don't begin and end as
                JPEG or PNG of 8 bits; "all": all images.
            splits: {train: NAME, val: NAME} or {train: NAME}; a name is that of a file, a folder, or files
                without their numbers (`data/train`), or a pattern such as `data/train-*`. null: by their
                names.
        """
        if splits is not None and set(splits) not in ({"train"}, {"train", "val"}):
            raise ValueError(
                f"splits must be {{train: NAME, val: NAME}} or {{train: NAME}}, not {dict(splits)}"
            )
        if count is not None and set(count) != {"train", "val"}:
            raise ValueError(f"count must be {{train: N, val: N}}, not {dict(count)}")
        self.root = user_path(root)
        self.image = ImageSpec(channels=3, height=size, width=size)
        self.count, self.held_out, self.mirror, self.upright = count, held_out, mirror, upright
        self.expected, self.verify, self.splits = classes, verify, splits

    def _read(self) -> FoundPictures:
        """The content of the files.

        Raises:
            ImagesError: naming files, or pictures that cannot be decoded.
        """
        raise NotImplementedError

    def _pictures(self, rows: NDArray[np.int64]) -> list[EncodedPicture]:
        """The pictures at rows of `FoundPictures`, in the order of the rows."""
        raise NotImplementedError

    @cached_property
    def classes(self) -> int:  # type: ignore[override]
        return len(self._classes) if self.expected is None else self.expected

    def fetch(self) -> None:
        if not self.root.exists():
            raise FileNotFoundError(
                f"there is no folder {self.root}; with `count` and `classes`, which say what it will hold, "
                "`bench plan` can do without"
            )

    def fingerprint(self) -> str | None:
        if not self.root.exists():
            return None
        text = f"size={self.image.height} mirror={self.mirror} upright={self.upright} classes={self.classes}"
        text += "".join(f" {kind}={held.scale}" for kind, held in sorted(self._found.held.items()))
        digest = hashlib.sha256(text.encode())
        for split, own in self._splits.items():
            digest.update(f"\0{split}\0".encode())
            digest.update(self._found.digests[own.rows].tobytes())
            digest.update(b"" if own.labels is None else own.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def size(self, split: Split) -> int:
        known = self.count is not None and self.expected is not None
        pictures = self.count[split] if known and self.count else len(self._splits[split].rows)
        return pictures * self._copies(split)

    def mirrored(self, split: Split) -> int:
        return self.size(split) // 2 if self._copies(split) == 2 else 0

    def labels(self, split: Split) -> Tensor | None:
        labels = self._splits[split].labels
        return None if labels is None else torch.from_numpy(labels).repeat(self._copies(split))

    def images(self, split: Split, index: Tensor) -> Tensor:
        return from_uint8(self.levels(split, index))

    def levels(self, split: Split, index: Tensor) -> Tensor:
        rows = self._splits[split].rows
        scales = {kind: held.scale for kind, held in self._found.held.items()}
        side = (self.image.height, self.image.width)
        levels = np.empty((len(index), 3, *side), np.uint8)
        mirrored, places = np.divmod(index.numpy(), len(rows))
        for number, picture in enumerate(self._pictures(rows[places])):
            cropped = adm_centre_crop(opened(picture, self.upright, scales), side)
            levels[number] = (cropped[:, ::-1] if mirrored[number] else cropped).transpose(2, 0, 1)
        return torch.from_numpy(levels)

    def picture_sizes(self, most: int) -> list[tuple[int, int]]:
        # The first, because random ones of a file with large row groups are slow to read.
        pictures = self._pictures(self._splits["train"].rows[:most])
        shapes = [opened(picture, self.upright).shape for picture in pictures]
        return [(shape[1], shape[0]) for shape in shapes]

    def description(self) -> list[str]:
        if not self.root.exists():
            return super().description()
        found, splits = self._found, self._splits
        counts = {split: len(own.rows) for split, own in splits.items()}
        labels = {split: own.labels for split, own in splits.items()}
        lines = [f"{split_text(counts, found.names, HELD_OUT)}; {class_text(self._classes, labels)}"]
        lines += [held.in_words(kind) for kind, held in found.held.items()]
        if found.several_frames:
            lines.append(f"of {found.several_frames:,} pictures with several frames the first is read")
        return [*lines, *found.remarks]

    def _copies(self, split: Split) -> int:
        return 2 if self.mirror and split == "train" else 1

    @cached_property
    def _found(self) -> FoundPictures:
        self.fetch()
        return self._read()

    @cached_property
    def _classes(self) -> tuple[bytes, ...]:
        """The classes' names in the order of labels; () without labels."""
        found = self._found
        if found.labels is None:
            return ()
        if found.classes is not None:
            return found.classes
        own = found.labels[: found.in_train_files]
        return tuple(one if isinstance(one, bytes) else str(one).encode() for one in np.unique(own).tolist())

    @cached_property
    def _splits(self) -> dict[Split, SplitRows]:
        found, count = self._found, len(self._found.digests)
        val = np.arange(count) >= found.in_train_files
        if not found.names.val:
            val = fractions(found.digests) < self.held_out
        labels = self._numbered(found)
        splits: dict[Split, SplitRows] = {}
        for split, mask in (("train", ~val), ("val", val)):
            rows = np.flatnonzero(mask)
            splits[cast(Split, split)] = SplitRows(rows, None if labels is None else labels[rows])
            self._check_count(cast(Split, split), len(rows))
        if self.expected not in (None, len(self._classes)):
            raise ImagesError(
                f"{self.root} holds {len(self._classes)} classes, `classes` says {self.expected}"
            )
        return splits

    def _check_count(self, split: Split, count: int) -> None:
        if not count:
            why = (
                "" if self._found.names.val else f"; {self.held_out:g} of {len(self._found.digests)} is none"
            )
            raise ImagesError(f"no images for {split} in {self.root}{why}")
        if self.count is not None and count != self.count[split]:
            raise ImagesError(
                f"{self.root} holds {count} images for {split}, `count` says {self.count[split]}"
            )

    def _numbered(self, found: FoundPictures) -> NDArray[np.int64] | None:
        """The classes (n,) of all pictures: as the files have them where they name them, else in order.

        Raises:
            ImagesError: a picture of val has a label that no picture of train has.
        """
        if found.labels is None:
            return None
        if found.classes is not None:
            return found.labels.astype(np.int64)
        known = np.unique(found.labels[: found.in_train_files])
        strange = np.flatnonzero(~np.isin(found.labels, known))
        if len(strange):
            place = self._pictures(strange[:1])[0].place
            raise ImagesError(
                f"{place} has the label {found.labels[strange[0]]!r}, which no image of train has"
            )
        return np.searchsorted(known, found.labels).astype(np.int64)


def digest_of(data: bytes | memoryview) -> bytes:
    return hashlib.sha256(data).digest()[:DIGEST]


def fractions(digests: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A pseudo-random number in [0, 1) of each picture."""
    return digests[:, :8].copy().view(">u8")[:, 0] / 2.0**64


def inspected(picture: EncodedPicture, verify: Verify) -> Inspection:
    """The inspection of a picture, which isn't decoded if it begins and ends as it should."""
    data = picture.data
    if not data:
        return Inspection("an empty picture")
    ends = ends_of(data[:HEAD], data[-TAIL:], len(data))
    try:
        if ends.may_be_large:
            check_size(*pixel_size(picture))
    except Exception as error:  # a header of any content
        return Inspection(str(error) or type(error).__name__)
    return Inspection() if ends.complete and verify == "ends" else inspect(picture)


def joined(held: Sequence[Mapping[str, Held]]) -> dict[str, Held]:
    """The values that several files hold, by the kind of pixels."""
    together: dict[str, Held] = {}
    for one in held:
        for kind, new in one.items():
            together[kind] = together[kind].joined(new) if kind in together else new
    return together
