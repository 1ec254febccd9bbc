"""Rows whose samples another generator of the matrix guides, or their own earlier weights."""

from __future__ import annotations

import inspect

from ..api import Flow, Generator, Unfit
from ..matrix.matrix import Matrix, MatrixRow

WEAK = "generator/weak"  # the role of the worse model's stage, where that isn't the row's own


def weak_row(matrix: Matrix, row: MatrixRow) -> MatrixRow | None:
    """The generator by which a row's samples are guided in place of the absence of a label, if by any."""
    if row.autoguidance is None:
        return None
    label = row.autoguidance.row or row.label
    return next(other for other in matrix.generators if other.label == label)


def check_weak(matrix: Matrix, row: MatrixRow, model: Generator | None, weak: Generator | None) -> None:
    """Checks that a row's model can be guided by the worse one.

    Raises:
        Unfit: it cannot.
    """
    other = weak_row(matrix, row)
    assert row.autoguidance is not None and other is not None and model is not None
    name, snapshot, steps = other.label, row.autoguidance.snapshot, matrix.budget_of(other).generator_steps
    if "weak" not in inspect.signature(type(model).sample).parameters:
        raise Unfit(
            f"{row.part} cannot be guided by another model: `autoguidance` is for flows by transformers"
        )
    if not isinstance(weak, Flow):
        raise Unfit(f"{name} has no velocity by which {row.label} could be guided")
    if other.training == row.training and snapshot in (None, steps):
        raise Unfit(
            f"{name} is trained like {row.label}, so that guidance by it changes nothing; "
            "an earlier `snapshot` is a worse model"
        )
    if snapshot is not None and snapshot > steps:
        raise Unfit(f"{name} has {steps:,} updates: there is no snapshot after {snapshot:,}")
