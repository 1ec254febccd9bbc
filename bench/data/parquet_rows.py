"""Parquet files with a picture in each row: an index of all rows, and row groups read as they are needed."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .deep_pixels import Held
from .encoded import EncodedPicture
from .encoded_set import DIGEST, digest_of, inspected, joined
from .image_folders import ImagesError
from .image_index import RECENT, Verify, cache, keep
from .parquet_columns import Columns, pictures_in

RULE = 1  # raise it when more or other things are known of a file
MAGIC = b"PAR1"
POINTER = b"version https://git-lfs"
BATCH = 64  # rows that are read at a time for the index
KEPT = 2**29  # bytes of row groups that a process keeps
LARGEST_GROUP = 2**30  # bytes of pictures in a row group, which is read as a whole


@dataclass(frozen=True)
class FileIndex:
    """The pictures and labels in the rows of a file, and what is wrong with them."""

    file: Path
    changed: tuple[int, int]  # size in bytes and time of the last change
    digests: NDArray[np.uint8]  # (n, DIGEST)
    labels: NDArray[Any] | None
    groups: NDArray[np.int64]  # numbers of rows
    held: dict[str, Held] = field(default_factory=dict)
    several_frames: int = 0
    problems: list[str] = field(default_factory=list)


def open_parquet(file: Path) -> pq.ParquetFile:
    """
    Raises:
        ImagesError: it is cut, a pointer to a file, or something else.
    """
    with open(file, "rb") as stream:
        head = stream.read(len(POINTER))
        size = stream.seek(0, 2)
        stream.seek(max(0, size - len(MAGIC)))
        tail = stream.read()
    if head == POINTER:
        raise ImagesError(f"{file} is a pointer of Git LFS, not the file itself: `git lfs pull` gets it")
    if not head.startswith(MAGIC):
        raise ImagesError(f"{file} is no parquet file: it begins with {head[:8]!r}")
    if tail != MAGIC or size < 12:
        raise ImagesError(f"{file} is cut: its {size:,} bytes don't end as a parquet file; get it anew")
    try:
        return pq.ParquetFile(file, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise ImagesError(f"{file} cannot be read: {_first_line(error)}") from error


def index_of(file: Path, columns: Columns, verify: Verify) -> FileIndex:
    """The index of a file, from the user's cache unless the file has changed."""
    variant = f"parquet\0{columns.image}\0{columns.label}\0{columns.classes}\0{verify}\0{RULE}"
    cached, changed = cache(file, variant), _changed(file)
    kept = _kept(cached, file, changed) if cached else None
    if kept is not None:
        return kept
    began = time.time_ns()
    index = _indexed(file, changed, columns, verify)
    if cached and not index.problems and changed[1] < began - RECENT:
        notes = json.dumps({"held": index.held, "several_frames": index.several_frames})
        labels = {} if index.labels is None else {"labels": index.labels}
        with suppress(OSError):  # a home that cannot be written, or a full disk: the index isn't kept
            keep(cached, changed=changed, digests=index.digests, groups=index.groups, notes=notes, **labels)
    return index


def _kept(cached: Path, file: Path, changed: tuple[int, int]) -> FileIndex | None:
    try:
        with np.load(cached) as stored:
            if tuple(stored["changed"].tolist()) != changed:
                return None
            notes = json.loads(str(stored["notes"]))
            labels = stored["labels"] if "labels" in stored else None
            held = {kind: Held(*values) for kind, values in notes["held"].items()}
            return FileIndex(
                file, changed, stored["digests"], labels, stored["groups"], held, notes["several_frames"]
            )
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):  # it isn't what was written, or not ours
        return None


def _indexed(file: Path, changed: tuple[int, int], columns: Columns, verify: Verify) -> FileIndex:
    opened = open_parquet(file)
    groups = [opened.metadata.row_group(i) for i in range(opened.num_row_groups)]
    for number, group in enumerate(groups):
        _check_group(file, number, group, columns.image)
    count = opened.metadata.num_rows
    digests = np.zeros((count, DIGEST), np.uint8)
    labels: list[Any] = []
    held: list[dict[str, Held]] = []
    problems, frames = [], 0
    for row, picture, label in _rows(file, opened, columns):
        place = f"{file.name} row {row}"
        problem = _label_problem(label, columns)
        labels.append(label)
        if picture is None:
            problem = "no picture"
        else:
            digests[row] = np.frombuffer(digest_of(picture), np.uint8)
            inspection = inspected(EncodedPicture(place, picture), verify)
            problem = inspection.problem or problem
            frames += inspection.frames
            if inspection.held is not None:
                held.append(joined([*held[-1:], {inspection.kind: inspection.held}]))
                held = held[-1:]
        if problem:
            problems.append(f"{place} ({problem})")
    return FileIndex(
        file,
        changed,
        digests,
        None if columns.label is None or problems else _as_array(labels),
        np.array([group.num_rows for group in groups], np.int64),
        joined(held),
        frames,
        problems,
    )


def _rows(file: Path, opened: pq.ParquetFile, columns: Columns) -> Iterator[tuple[int, bytes | None, Any]]:
    """Every row's number, picture and label, of which few are in memory at a time.

    Raises:
        ImagesError: the file is damaged inside.
    """
    row = 0
    try:
        for batch in opened.iter_batches(BATCH, columns=columns.read, use_threads=False):
            pictures = pictures_in(batch.column(columns.image))
            labels = batch.column(columns.label).to_pylist() if columns.label else [None] * len(batch)
            for picture, label in zip(pictures, labels, strict=True):
                yield row, picture.as_py(), label
                row += 1
    except (pa.ArrowException, OSError) as error:
        raise ImagesError(f"{file} is damaged after row {row}: {_first_line(error)}") from error


def _check_group(file: Path, number: int, group: Any, image: str) -> None:
    columns = [group.column(i) for i in range(group.num_columns)]
    size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema in (image, f"{image}.bytes"))
    if size > LARGEST_GROUP:
        raise ImagesError(
            f"row group {number} of {file} has {size / 2**30:.1f} GiB of pictures, which are read together: "
            "write the file with smaller ones, as `pyarrow.parquet.write_table(table, file, "
            "row_group_size=100)` does"
        )


def _label_problem(label: Any, columns: Columns) -> str:
    if columns.label is None:
        return ""
    if label is None:
        return "no label"
    if columns.classes is not None and not 0 <= label < len(columns.classes):
        return f"the label {label} is none of the {len(columns.classes)} classes"
    return ""


def _as_array(labels: list[Any]) -> NDArray[Any]:
    if labels and isinstance(labels[0], str):
        return np.array([label.encode() for label in labels], np.bytes_)
    return np.array(labels, np.int64)


class RowReader:
    """Reads pictures by their rows in all files, and keeps the row groups that were used last."""

    def __init__(self, indexes: Sequence[FileIndex], image: str) -> None:
        self.indexes, self.image = indexes, image
        sizes = np.concatenate([index.groups for index in indexes])
        self._ends = sizes.cumsum()
        self._starts = self._ends - sizes
        self._places = [(n, group) for n, index in enumerate(indexes) for group in range(len(index.groups))]
        self._firsts = np.concatenate([index.groups.cumsum() - index.groups for index in indexes])
        self._kept: OrderedDict[int, pa.Array] = OrderedDict()
        self._bytes = 0

    def pictures(self, rows: NDArray[np.int64]) -> list[EncodedPicture]:
        found: dict[int, EncodedPicture] = {}
        for row in np.unique(rows).tolist():  # in order, so that a row group is read once
            group = int(np.searchsorted(self._ends, row, "right"))
            offset = row - int(self._starts[group])
            file = self.indexes[self._places[group][0]].file
            place = f"{file} row {int(self._firsts[group]) + offset}"
            found[row] = EncodedPicture(place, self._group(group)[offset].as_py())
        return [found[row] for row in rows.tolist()]

    def _group(self, group: int) -> pa.Array:
        """The pictures of a row group, counted through all files."""
        if group in self._kept:
            self._kept.move_to_end(group)
            return self._kept[group]
        pictures = self._read(*self._places[group])
        self._kept[group] = pictures
        self._bytes += pictures.nbytes
        while self._bytes > KEPT and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return pictures

    def _read(self, number: int, group: int) -> pa.Array:
        index = self.indexes[number]
        if _changed(index.file) != index.changed:
            raise ValueError(f"{index.file} has changed since its rows were listed")
        # Neither threads nor open files are kept: a forked process could use neither.
        table = open_parquet(index.file).read_row_group(group, [self.image], use_threads=False)
        chunks = [pictures_in(chunk) for chunk in table.column(self.image).chunks]
        return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)


def _changed(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).split("\n")[0]
