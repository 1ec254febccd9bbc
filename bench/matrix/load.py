"""Loads a matrix from a YAML file or a Python mapping, and turns a loaded matrix into plain data."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..options.plain_data import plain
from .checker import Checker
from .mapping import UNNAMED, mapping_document
from .matrix import SECTIONS, Matrix, MatrixRow
from .parts import JOINT
from .top_level import STEPS, read_matrix
from .yaml_text import Problem, find, parse, read


def load_matrix(
    path: str | Path | Mapping[str, Any],
    *,
    profile: str | Sequence[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    plugins: Iterable[str | Path] = (),
) -> Matrix:
    """Reads and checks a matrix.

    Args:
        path: a file, the name of a packaged matrix, or the matrix itself.
        profile: the name of one of the matrix's profiles, or several, to be laid over it in order.
        seeds: replaces the matrix's.
        plugins: files, in addition to the matrix's.

    Raises:
        MatrixError: with all problems, each with its line and column, or with its keys in a mapping.
    """
    file = Path.cwd() / UNNAMED if isinstance(path, Mapping) else find(path)
    checker = Checker(
        mapping_document(path) if isinstance(path, Mapping) else parse(read(file, str(path)), str(path))
    )
    checker.apply_profiles([profile] if isinstance(profile, str) else profile or ())
    if seeds is not None:
        checker.data["seeds"] = seeds if isinstance(seeds, int) else list(seeds)
        checker.flags["seeds"] = "--seeds"
    return read_matrix(checker, file, plugins)


def problem_at_row(row: MatrixRow, message: str) -> Problem:
    """The refusal of a part's constructor, at the position of its row."""
    return Problem(*row.where, message)


def resolved(matrix: Matrix) -> dict[str, Any]:
    """The matrix as plain data with every default filled in and one row a label."""
    settings = ("normalise", "threads", "precision", "compile", "checkpointing")
    split = any("." in seed.label for seed in matrix.seeds)
    nested = {step: list(dict.fromkeys(getattr(seed, step) for seed in matrix.seeds)) for step in STEPS}
    return {
        "name": matrix.name,
        "dataset": [_plain_row(row) | _label(row) for row in matrix.datasets],
        "seeds": nested if split else [seed.tokenizer for seed in matrix.seeds],
        "budget": asdict(matrix.budget),
        "features": [_plain_row(row) for row in matrix.features],
        "teacher": _plain_row(matrix.teacher),
        "reference": _plain_row(matrix.reference),
        "reconstruction": plain(matrix.reconstruction),
        "samples": matrix.samples,
        **{kind: {row.label: _plain_row(row) for row in getattr(matrix, kind)} for kind in SECTIONS},
        "evaluators": [{row.label: _plain_row(row)} for row in matrix.evaluators],
        "probes": plain(asdict(matrix.probes)) if matrix.probes else None,
        "skip": [asdict(skip) for skip in matrix.skip],
        "plugins": [Path(os.path.relpath(plugin)).as_posix() for plugin in matrix.plugins],
        "augment": asdict(matrix.augment) if matrix.augment else None,
        **{key: getattr(matrix, key) for key in settings},
    }


def _label(row: MatrixRow) -> dict[str, str]:
    """The `label` of a row that has no section's key, where it isn't its part's name or its part's option."""
    return {"label": row.label} if row.label != row.part and "label" not in row.options else {}


def _plain_row(row: MatrixRow) -> dict[str, Any]:
    entry: dict[str, Any] = {"use": row.part, **plain(row.options)}
    for key in ("optimizer", "sampler", "images", "weights", "start", "budget"):
        if getattr(row, key):
            entry[key] = plain(getattr(row, key))
    if row.sweep is not None:
        entry["guidance"] = {"sweep": list(row.sweep.values), "samples": row.sweep.samples}
    elif row.guidance not in ((), (1.0,)):
        entry["guidance"] = list(row.guidance)
    if row.init != "fresh" and row.part != JOINT:
        entry["init"] = row.init
    if row.autoguidance is not None:
        entry["autoguidance"] = {k: v for k, v in asdict(row.autoguidance).items() if v is not None}
    for key, part in (("reference", row.reference), ("teacher", row.teacher)):
        if part is not None:
            entry[key] = _plain_row(part)
    return entry
