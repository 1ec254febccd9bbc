"""Pictures in tar files, as the library webdataset writes them; read by Python's tarfile alone."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..data.encoded import EncodedPicture
from ..data.encoded_set import EncodedPictures, FoundPictures, joined
from ..data.image_folders import ImagesError
from ..data.split_files import SplitFiles, split_files
from ..data.tar_samples import LABEL, TarIndex, index_of, picture_at, samples_in
from ..options.words import listed
from ..registry import register

THREADS = 8
NAMED = 10  # unreadable samples in a message


@register("webdataset")
class WebDataset(EncodedPictures):
    """Images of any size and type in tar files, cropped to a square; files of a sample share a name.

    `0001.jpg` and `0001.cls`, a whole number, are a sample with its label. Tar files are splits by their
    names, or by `splits`, as of `parquet`. They must not be packed: images are read where they lie. Every
    file is read once, for the fingerprint and for samples without an image or label.
    """

    def __init__(
        self,
        root: str = "data",
        size: Annotated[int, Field(ge=1)] = 256,
        count: Mapping[str, Annotated[int, Field(ge=1)]] | None = None,
        classes: Annotated[int, Field(ge=0)] | None = None,
        held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1,
        mirror: bool = False,
        upright: bool = True,
        verify: Literal["ends", "all"] = "ends",
        splits: Mapping[str, str] | None = None,
        fields: Mapping[str, str | None] | None = None,
    ) -> None:
        """
        Args:
            fields: {image: EXTENSION, label: EXTENSION}, such as {image: jpg, label: cls}; `label: null`
                reads none. null: the only picture of each sample, and `cls` where the first one has it.
        """
        super().__init__(root, size, count, classes, held_out, mirror, upright, verify, splits)
        if fields is not None and not set(fields) <= {"image", "label"}:
            raise ValueError(f"fields must be {{image: EXTENSION, label: EXTENSION}}, not {dict(fields)}")
        self.fields = fields or {}

    def _read(self) -> FoundPictures:
        indexes = self._indexes
        problems = [problem for index in indexes for problem in index.problems]
        total = sum(len(index.keys) for index in indexes)
        if problems:
            raise ImagesError(
                f"{len(problems)} of {total:,} samples cannot be read: {listed(problems, NAMED)}"
            )
        labels = [index.labels for index in indexes if index.labels is not None]
        return FoundPictures(
            np.concatenate([index.digests for index in indexes]),
            np.concatenate(labels) if labels else None,
            sum(len(index.keys) for index in indexes[: len(self._files.train)]),
            self._files.names,
            None,
            joined([index.held for index in indexes]),
            sum(index.several_frames for index in indexes),
            tuple(self._remarks(indexes)),
        )

    def _pictures(self, rows: NDArray[np.int64]) -> list[EncodedPicture]:
        ends = np.cumsum([len(index.keys) for index in self._indexes])
        files = np.searchsorted(ends, rows, "right")
        starts = ends[files] - [len(self._indexes[file].keys) for file in files]
        pairs = zip(files.tolist(), (rows - starts).tolist(), strict=True)
        return [picture_at(self._indexes[file], number) for file, number in pairs]

    def _remarks(self, indexes: list[TarIndex]) -> list[str]:
        count = len(indexes)
        labels = f"labels from .{self._label}" if self._label else "no labels"
        lines = [f"{count:,} file{'s' if count > 1 else ''}; {labels}"]
        if others := list(dict.fromkeys(other for index in indexes for other in index.others)):
            lines.append(f"files of samples left out: {listed([f'.{other}' for other in others], 6)}")
        if self._files.left_out:
            left = [f"{n:,} of {name or 'the root'}" for name, n in self._files.left_out.items()]
            lines.append(f"files left out: {listed(left)}")
        return lines

    @cached_property
    def _files(self) -> SplitFiles:
        return split_files(self.root, ".tar", self.splits)

    @cached_property
    def _label(self) -> str | None:
        if "label" in self.fields:
            return self.fields["label"]
        first = next(samples_in(self._files.all[0]), None)
        return LABEL if first is not None and LABEL in first.files else None

    @cached_property
    def _indexes(self) -> list[TarIndex]:
        image, label, count = self.fields.get("image"), self._label, len(self._files.all)
        with ThreadPoolExecutor(THREADS) as pool:
            told = [image] * count, [label] * count, [self.verify] * count
            return list(pool.map(index_of, self._files.all, *told))
