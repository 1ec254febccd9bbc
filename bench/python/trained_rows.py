"""The trained tokenizers of a results folder, as rows of a matrix that scores them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import registry
from ..nn.model_folder import CONFIG
from ..records.labels import folder_and_filter, parse_filter
from ..records.packed_folder import has_records
from ..runtime.standard_settings import standard_settings
from ..tools.find_tokenizer import CHOOSE, FoundTokenizer, find_all_trained
from ..tools.merge import LOCK
from .opening import ArgumentError

AXES = (*CHOOSE, "seed")
ALWAYS = ("tokenizer", "regularizer")  # axes that names have, also if all have the same label


@dataclass(frozen=True)
class TrainedRows:
    """Rows by their full names, such as `results/mine/conv · kl`, and the plugins that they need."""

    rows: dict[str, dict[str, Any]]
    plugins: list[str]


def trained_rows(given: str | Path | Mapping[str, Any]) -> TrainedRows | None:
    """The tokenizers of a results folder, `results/mine` or `results/mine:tokenizer=conv,seed=1`.

    None if it isn't one.

    Raises:
        ArgumentError: a filter without a results folder, or one that cannot be read.
        NotTrained: no tokenizer fits, or the cache has the weights of none.
    """
    split = None if isinstance(given, Mapping) else folder_and_filter(str(given))
    if split is None:
        return None
    folder, text = split
    results = any(folder.glob(LOCK)) or (folder / "records").is_dir() or has_records(folder)
    if not results or (folder / CONFIG).is_file():  # an exported tokenizer has its matrix beside it
        if not text:
            return None
        raise ArgumentError(
            f"{given}: a filter chooses among the tokenizers of a results folder, and {folder} is none"
        )
    try:
        accept = parse_filter(text, "a filter of results")
    except ValueError as error:
        raise ArgumentError(f"{given}: {error}") from error
    with standard_settings(), registry.plugins_of_this_block():
        found, left_out = find_all_trained(folder, accept)
    for reason in left_out:
        warnings.warn(f"{folder}: left out: {reason}", stacklevel=5)
    plugins = dict.fromkeys(str(plugin.absolute()) for one in found for plugin in one.plugins)
    return TrainedRows({name: _row(one) for name, one in _named(folder, found).items()}, [*plugins])


def _named(folder: Path, found: Sequence[FoundTokenizer]) -> dict[str, FoundTokenizer]:
    """Tokenizers by names of the labels that tell them apart."""
    several = {axis for axis in AXES if len({one.labels[axis] for one in found}) > 1}
    axes = [axis for axis in AXES if axis in several or axis in ALWAYS]

    def label(axis: str, one: FoundTokenizer) -> str:
        return f"seed {one.labels[axis]}" if axis == "seed" else one.labels[axis]

    return {f"{folder.as_posix()}/{' · '.join(label(axis, one) for axis in axes)}": one for one in found}


def _row(one: FoundTokenizer) -> dict[str, Any]:
    """A row that takes the artifact as it is; its path is short where it is below the working directory."""
    path = one.store.path(one.stages[0])
    absolute, here = path.absolute(), Path.cwd()
    return {
        "use": "trained",
        "path": str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute),
    }
