"""The records that a statement is about: those of one results folder and one dataset."""

from __future__ import annotations

from pathlib import Path

from ...matrix.yaml_text import MatrixError, Problem
from ...records.files import read_records
from ...records.labels import selects
from ...records.record import Record


def records_of(folder: Path, labels: dict[str, str], where: str) -> list[Record]:
    """The records that patterns of labels such as `a|b` select, without held-out images.

    Raises:
        MatrixError: the records are of several datasets, which have no ranks in common; `where` is the place
            of the statement in its file.
        RecordError: the folder can't be read.
    """
    patterns = {axis: pattern.split("|") for axis, pattern in labels.items()}
    records = [r for r in read_records(folder / "records") if not r.real and selects(patterns, r.cell)]
    names = sorted({record.cell["dataset"] for record in records})
    if len(names) > 1:
        message = f"{folder.name} has the datasets {', '.join(names)}: name one, `dataset: {names[0]}`"
        raise MatrixError([Problem(where, 0, 0, message)])
    return records
