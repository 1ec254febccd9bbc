"""Pictures in the rows of parquet files, as Hugging Face's hub keeps them; read by pyarrow alone."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa  # noqa: F401  # here, so that its absence hides this part and no other
from numpy.typing import NDArray
from pydantic import Field

from ..data.encoded import EncodedPicture
from ..data.encoded_set import EncodedPictures, FoundPictures, joined
from ..data.image_folders import ImagesError
from ..data.parquet_columns import Columns, columns_of, common_classes
from ..data.parquet_rows import KEPT, FileIndex, RowReader, index_of, open_parquet
from ..data.split_files import SplitFiles, split_files
from ..options.words import listed
from ..registry import register

THREADS = 8
NAMED = 10  # unreadable rows in a message


@register("parquet")
class Parquet(EncodedPictures):
    """Images of any size and type in parquet files (`pip install -e ".[parquet]"`), cropped to a square.

    A column holds their bytes, or structs `{bytes, path}` as Hugging Face writes them; another, if there is
    one, their labels: whole numbers, which have the names in the file's metadata, or text. Files are splits
    by their names, such as `data/train-00000-of-00004.parquet`, or by `splits`. `bench plan` and `bench run`
    say what was found and what was left out.

    Every row is read once, for the fingerprint and for rows without a picture or label, which are named
    before anything runs; what was found is kept in the user's cache. After that row groups are read as they
    are needed, and a process keeps half a gigabyte of them: random reading of a larger set is slow if its row
    groups are large.
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
        columns: Mapping[str, str | None] | None = None,
    ) -> None:
        """
        Args:
            columns: {image: COLUMN, label: COLUMN}; `label: null` reads none. null: by the files' metadata
                and the columns' types, if they leave no doubt.
        """
        super().__init__(root, size, count, classes, held_out, mirror, upright, verify, splits)
        if columns is not None and not set(columns) <= {"image", "label"}:
            raise ValueError(f"columns must be {{image: COLUMN, label: COLUMN}}, not {dict(columns)}")
        self.columns = columns

    def _read(self) -> FoundPictures:
        files, columns, indexes = self._files, self._columns, self._indexes
        problems = [problem for index in indexes for problem in index.problems]
        if problems:
            rows = sum(len(index.digests) for index in indexes)
            raise ImagesError(
                f"{len(problems)} of {rows:,} rows (counted from 0) cannot be read: {listed(problems, NAMED)}"
            )
        labels = [index.labels for index in indexes if index.labels is not None]
        return FoundPictures(
            np.concatenate([index.digests for index in indexes]),
            np.concatenate(labels) if labels else None,
            sum(len(index.digests) for index in indexes[: len(files.train)]),
            files.names,
            common_classes(files.all, columns),
            joined([index.held for index in indexes]),
            sum(index.several_frames for index in indexes),
            tuple(self._remarks(files, columns[0], indexes)),
        )

    def _pictures(self, rows: NDArray[np.int64]) -> list[EncodedPicture]:
        return self._reader.pictures(rows)

    def _remarks(self, files: SplitFiles, columns: Columns, indexes: list[FileIndex]) -> list[str]:
        count = len(files.all)
        read = f"images from the column `{columns.image}`"
        read += f", labels from `{columns.label}`" if columns.label else ", no labels"
        lines = [f"{count:,} file{'s' if count > 1 else ''}; {read}"]
        if columns.others:
            lines.append(f"columns left out: {listed(columns.others, 6)}")
        if files.left_out:
            left = [f"{n:,} of {name or 'the root'}" for name, n in files.left_out.items()]
            lines.append(f"files left out: {listed(left)}")
        total = sum(index.changed[0] for index in indexes)
        groups = sum(len(index.groups) for index in indexes)
        if total > KEPT:
            mean = total / groups / 2**20
            lines.append(f"{groups:,} row groups of {mean:,.0f} MiB, one of which is read for a random image")
        return lines

    @cached_property
    def _files(self) -> SplitFiles:
        return split_files(self.root, ".parquet", self.splits)

    @cached_property
    def _columns(self) -> list[Columns]:
        """The columns of each file."""
        return [columns_of(open_parquet(one).schema_arrow, one, self.columns) for one in self._files.all]

    @cached_property
    def _indexes(self) -> list[FileIndex]:
        with ThreadPoolExecutor(THREADS) as pool:
            count = len(self._files.all)
            return list(pool.map(index_of, self._files.all, self._columns, [self.verify] * count))

    @cached_property
    def _reader(self) -> RowReader:
        return RowReader(self._indexes, self._columns[0].image)
