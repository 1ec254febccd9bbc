"""Rows of a matrix from what people name on a command line: folders, ids at Hugging Face, parts, datasets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import registry
from ..matrix.parts import label_problem
from ..store.user_paths import user_path
from ..user_error import UserError

SIZE = 256  # pixels, of images in folders
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w./-]+)?")  # OWNER/NAME:SUBFOLDER
LONGEST = 80  # characters of a label that is made of a path


class MeaninglessName(UserError, ValueError):
    """A name that means nothing, or the same as another one."""


def tokenizer_row(given: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer's row: a folder in diffusers' format, an id OWNER/NAME[:SUBFOLDER], or a part's name.

    Raises:
        MeaninglessName: the folder has an exported tokenizer that cannot be one again.
    """
    if isinstance(given, Mapping):
        return dict(given)
    text, folder = str(given), user_path(given)
    if folder.is_dir():
        _refuse_own_class(folder)
        return {"use": "diffusers", "path": text}
    if text in registry.names("tokenizers") or not HUB_ID.fullmatch(text):
        return {"use": text}
    path, _, subfolder = text.partition(":")
    return {"use": "diffusers", "path": path} | ({"subfolder": subfolder} if subfolder else {})


def _refuse_own_class(folder: Path) -> None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # what is wrong is said at the tokenizer's row
    if isinstance(config, dict) and config.get("_class_name") == "LatentbenchTokenizer":
        raise MeaninglessName(
            f"{folder} was exported in a class of latentbench's own, whose weights alone don't say how its "
            "latents are made: its numbers are in its README.md and in its results folder"
        )


def tokenizer_labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Short labels that tell tokenizers' rows apart: the last parts of paths, as few as possible.

    Raises:
        MeaninglessName: two rows are the same.
    """
    full = [_full_name(row) for row in rows]
    for count in range(1, 1 + max(len(name.split("/")) for name in full)):
        labels = [usable_label("-".join(name.split("/")[-count:])) for name in full]
        if len(set(labels)) == len(labels):
            return labels
    for name in full:
        if full.count(name) > 1:
            raise MeaninglessName(f"the tokenizer {name!r} is named twice")
    return [
        f"{number}-{label}" for number, label in enumerate(labels, 1)
    ]  # they differ in unusable characters


def _full_name(row: Mapping[str, Any]) -> str:
    parts = [str(row[key]) for key in ("path", "subfolder", "weights") if row.get(key)]
    return "/".join(parts).rstrip("/") or str(row.get("use"))


def usable_label(text: str) -> str:
    """The text itself if it can be a label; otherwise one that a matrix takes."""
    if label_problem(text) is None:
        return text
    printable = "".join(c if c.isprintable() else "_" for c in text)
    label = re.sub(r"\.\.+|[/\\]", "_", printable)[-LONGEST:].strip()
    return label if label_problem(label) is None else f"_{label}"


def dataset_row(data: str | Path | Mapping[str, Any], size: int | None) -> dict[str, Any]:
    """A dataset's row: a folder of images or of parquet files, one parquet file, or a dataset's name.

    Args:
        size: side of the images in pixels; of folders 256 unless given.

    Raises:
        MeaninglessName: there is neither such a folder nor such a dataset.
    """
    if isinstance(data, Mapping):
        return dict(data)
    place = user_path(data)
    if place.is_dir():
        part = "parquet" if any(place.rglob("*.parquet")) else "imagefolder"
        return {"use": part, "root": str(data), "size": size or SIZE}
    if place.is_file() and place.suffix == ".parquet":
        return {"use": "parquet", "root": str(data), "size": size or SIZE}
    if place.is_file():
        raise MeaninglessName(
            f"{data} is a file; data are a folder of images or of parquet files, a parquet file, or a "
            "dataset's name"
        )
    if str(data) not in registry.names("datasets"):
        message = registry.unknown("dataset", str(data), registry.names("datasets"))
        raise MeaninglessName(f"{message}; and there is no such folder")
    return {"use": str(data)} | ({"size": size} if size else {})
