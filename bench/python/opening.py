"""Opens a matrix for a call from Python: its plan, the chosen cells and the store of their artifacts."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .. import registry
from ..engine.open_plan import OpenPlan
from ..matrix.load import load_matrix
from ..matrix.mapping import UNNAMED
from ..matrix.yaml_text import find
from ..plan.make import make_plan
from ..records.labels import parse_filter, selects
from ..runtime.standard_settings import standard_settings
from ..store import mirror
from ..store.artifacts import home
from ..user_error import UserError
from .cell_parts import write_parts
from .words import in_python_words, reworded

MatrixLike = Mapping[str, Any] | str | Path


class ArgumentError(UserError, ValueError):
    """An argument of a call that has no meaning."""


@contextmanager
def opened(
    matrix: MatrixLike,
    *,
    profile: str | Sequence[str] = (),
    filter: str | None = None,
    seeds: int | Sequence[int] | None = None,
    device: str = "cpu",
    parts: Sequence[type] | type = (),
    offline: bool = False,
    fetch: bool = False,
) -> Iterator[OpenPlan]:
    """A matrix that is ready to run within the block, where its plugins and `parts` are known.

    Whatever a run changes in this process is as it was before when the block ends.

    Raises:
        MatrixError: with all problems of the matrix.
        ArgumentError: no cell fits the filter, or there is no such device.
    """
    with in_python_words(), standard_settings(), registry.plugins_of_this_block():
        if not isinstance(matrix, Mapping | str | Path):
            raise ArgumentError(f"a matrix is a dict, a path or the name of a preset, not {matrix!r}")
        _check_device(device)
        if offline:
            os.environ["HF_HUB_OFFLINE"] = "1"  # until the settings are given back
        try:
            accept = parse_filter(filter, "filter")
        except ValueError as error:
            raise ArgumentError(str(error)) from None
        file = Path.cwd() / UNNAMED if isinstance(matrix, Mapping) else find(matrix)
        plugins = write_parts([parts] if isinstance(parts, type) else parts, home(file))
        loaded = load_matrix(matrix, profile=names(profile), seeds=seeds, plugins=plugins)
        plan = make_plan(loaded, device=device, fetch=fetch)
        for warning in loaded.warnings:
            warnings.warn(reworded(str(warning)), stacklevel=4)
        cells = [cell for cell in plan.cells if selects(accept, cell.identity)]
        if all(cell.real for cell in cells):
            raise ArgumentError(f"no cell fits filter={filter!r}")
        yield OpenPlan(loaded, plan, cells, mirror.store(file))


def names(profile: str | Sequence[str]) -> tuple[str, ...]:
    """The names of profiles, given as one or as several."""
    return (profile,) if isinstance(profile, str) else tuple(profile)


def _check_device(device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise ArgumentError(f"device takes 'cpu' or 'cuda', not {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ArgumentError("device='cuda': torch finds no CUDA device here")
