"""How rows guide samples otherwise than by one weight at all times, for the records of their cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .matrix import Matrix, MatrixRow

INTERVAL = {"guidance_start": 0.0, "guidance_end": 1.0}  # the samplers' options, of no interval


def guided_otherwise(matrix: Matrix, labels: Mapping[str, str]) -> dict[str, Any]:
    """How a cell's samples are guided: empty where that is classifier-free guidance at all times.

    Else {"interval": [start, end], "by": label, "snapshot": updates, "like": label}, as far as they apply:
    `by` is the model of autoguidance, and `like` a generator of the matrix that is trained and sampled alike
    but guided plainly, "" if there is none.
    """
    row = next((row for row in matrix.generators if row.label == labels["generator"]), None)
    found = {} if row is None else _kind(row)
    if row is None or not found:
        return {}
    plain = (other for other in matrix.generators if not _kind(other) and _alike(other, row))
    return found | {"like": next((other.label for other in plain), "")}


def _kind(row: MatrixRow) -> dict[str, Any]:
    interval = [row.sampler.get(name, usual) for name, usual in INTERVAL.items()]
    found: dict[str, Any] = {} if interval == [*INTERVAL.values()] else {"interval": interval}
    if row.autoguidance is not None:
        found["by"] = row.autoguidance.row or row.label
        if row.autoguidance.snapshot is not None:
            found["snapshot"] = row.autoguidance.snapshot
    return found


def _alike(one: MatrixRow, other: MatrixRow) -> bool:
    """Whether two rows are trained alike, and sampled alike but for their guidance."""
    samplers = [{k: v for k, v in row.sampler.items() if k not in INTERVAL} for row in (one, other)]
    return one.training == other.training and samplers[0] == samplers[1]
