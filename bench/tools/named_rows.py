"""Rows of a matrix from what people name on a command line: folders, ids at Hugging Face, parts, datasets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import registry
from ..matrix.parts import label_problem
from ..matrix.yaml_text import parse
from ..models.trained_folder import STAGE
from ..nn.model_folder import CONFIG, OWN_CLASS
from ..store.user_paths import user_path
from ..user_error import UserError

SIZE = 256  # pixels, of images in folders
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w./-]+)?")  # OWNER/NAME:SUBFOLDER
LONGEST = 80  # characters of a label that is made of a path


class MeaninglessName(UserError, ValueError):
    """A name that means nothing, or the same as another one."""


def tokenizer_row(given: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer's row: a folder with a model, an id OWNER/NAME[:SUBFOLDER], or a part's name.

    Raises:
        MeaninglessName: a path of no folder.
    """
    if isinstance(given, Mapping):
        return dict(given)
    text, folder = str(given), user_path(given)
    if folder.is_dir():
        return {"use": part_of(folder), "path": text}
    if "/" in text and not HUB_ID.fullmatch(text):
        raise MeaninglessName(f"there is no folder {text.partition(':')[0]}")
    if text in registry.names("tokenizers") or not HUB_ID.fullmatch(text):
        return {"use": text}
    path, _, subfolder = text.partition(":")
    return {"use": "diffusers", "path": path} | ({"subfolder": subfolder} if subfolder else {})


def part_of(folder: Path) -> str:
    """The part that takes a folder with a model: `trained` for what latentbench has trained."""
    if (folder / STAGE).is_file():
        return "trained"
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return "diffusers"  # says what is wrong with the folder
    own = isinstance(config, dict) and config.get("_class_name") == OWN_CLASS
    return "trained" if own else "diffusers"


def tokenizer_labels(full: Sequence[str]) -> list[str]:
    """Short labels that tell rows apart: the last parts of their full names, as few as possible.

    Raises:
        MeaninglessName: two names are the same.
    """
    for count in range(1, 1 + max(len(name.split("/")) for name in full)):
        labels = [usable_label("-".join(name.split("/")[-count:])) for name in full]
        if len(set(labels)) == len(labels):
            return labels
    for name in full:
        if full.count(name) > 1:
            raise MeaninglessName(f"the tokenizer {name!r} is named twice")
    # They differ in characters that a label cannot have.
    return [f"{number}-{label}" for number, label in enumerate(labels, 1)]


def check_named_once(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises MeaninglessName if two rows are the same, however their folder is written."""
    places = [_place(row) for row in rows]
    for name, place in zip(names, places, strict=True):
        if places.count(place) > 1:
            raise MeaninglessName(f"the tokenizer {name!r} is named twice")


def _place(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row whose folder has one name."""
    folder = user_path(row.get("path") or "")
    return {**row, "path": folder.resolve()} if folder.is_dir() else row


def full_name(row: Mapping[str, Any]) -> str:
    """The full name of a tokenizer's row: its folder or id, its weights, or the part."""
    parts = [str(row[key]) for key in ("path", "subfolder", "weights") if row.get(key)]
    return "/".join(parts).rstrip("/") or str(row.get("use"))


def usable_label(text: str) -> str:
    """The text itself if it can be a label; otherwise one that a matrix takes."""
    if label_problem(text) is None:
        return text
    printable = "".join(c if c.isprintable() else "_" for c in text)
    label = re.sub(r"\.\.+|[/\\]", "_", printable)[-LONGEST:].strip()
    return label if label_problem(label) is None else f"_{label}"


def dataset_row(
    data: str | Path | Mapping[str, Any], size: int | None, held_out: float | None = None
) -> dict[str, Any]:
    """A dataset's row: a folder of images or of parquet files, one parquet file, or a dataset's name.

    Or a row as a matrix has it, `{use: parquet, root: …, splits: …}`, also as text; the options given here
    are laid over it.

    Args:
        size: side of the images in pixels; of folders 256 unless given.
        held_out: fraction that is `val` where the data have no such split; the part's own unless given.

    Raises:
        MeaninglessName: there is neither such a folder nor such a dataset.
    """
    options = {"size": size, "held_out": held_out}
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(data, Mapping):
        return dict(data) | given
    if is_row(data):
        return dict(parse(str(data), "the data").data) | given
    place = user_path(data)
    if place.is_dir():
        part = "parquet" if any(place.rglob("*.parquet")) else "imagefolder"
        return {"use": part, "root": str(data), "size": SIZE} | given
    if place.is_file() and place.suffix == ".parquet":
        return {"use": "parquet", "root": str(data), "size": SIZE} | given
    if place.is_file():
        raise MeaninglessName(
            f"{data} is a file; data are a folder of images or of parquet files, a parquet file, or a "
            "dataset's name"
        )
    if str(data) not in registry.names("datasets"):
        message = registry.unknown("dataset", str(data), registry.names("datasets"))
        raise MeaninglessName(f"{message}; and there is no such folder")
    return {"use": str(data)} | given


def is_row(data: str | Path) -> bool:
    """Whether a text is a row as a matrix has it."""
    return str(data).lstrip().startswith("{")
