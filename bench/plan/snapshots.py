"""The updates of a generator after which its averaged weights are kept."""

from __future__ import annotations

from ..matrix.matrix import Matrix, MatrixRow
from .autoguidance import weak_row


def probed(matrix: Matrix, row: MatrixRow) -> list[int]:
    """The updates after which samples are scored; the last one is always among them, if there are any."""
    chosen = matrix.probes.generator if matrix.probes else ()
    steps = matrix.budget_of(row).generator_steps
    return [*sorted(step for step in set(chosen) if step < steps), steps] if chosen else []


def kept(matrix: Matrix, row: MatrixRow) -> list[int]:
    """The updates after which weights are kept, to be scored or to guide samples.

    Rows that are trained alike keep the same, so that one training serves them all.
    """
    guiding = {
        other.autoguidance.snapshot
        for other in matrix.generators
        if other.autoguidance is not None
        and other.autoguidance.snapshot is not None
        and (weak := weak_row(matrix, other)) is not None
        and weak.training == row.training
    }
    return sorted(guiding.union(probed(matrix, row)))
